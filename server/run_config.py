"""What the operator decides about a run, and the roster that it goes over. Checked when made."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from shared_model import canonical
from shared_model.config import MINIMUM_CONTRIBUTORS, LocalTraining, PrivacyPlan
from shared_model.enrolment import SiteCard, SiteName
from shared_model.errors import OurMistake
from shared_model.protocol import (
    MAX_PARTICIPANTS,
    Participant,
    Patients,
    PresetName,
    RunId,
)

Seconds = Annotated[float, Field(gt=0.0, le=30 * 86_400.0)]


class RosterSite(BaseModel):
    """One enrolled hospital: its identity key (32 raw bytes in hexadecimal) and declared N."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    site: SiteName
    identity_key: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    declared_patients: Patients

    @classmethod
    def of(cls, card: SiteCard) -> RosterSite:
        return cls(
            site=card.site,
            identity_key=card.identity_key,
            declared_patients=card.declared_patients,
        )

    @property
    def key(self) -> bytes:
        return bytes.fromhex(self.identity_key)

    @property
    def participant(self) -> Participant:
        return Participant(site=self.site, declared_patients=self.declared_patients)


class RunConfig(BaseModel):
    """One training run. Nothing here changes after the run has begun.

    minimum_contributors: nodes refuse fewer than their policy asks for, which is 3 by default.
    begin_with: the packaged warm start of the preset, or weights drawn with seed 0.
    insecure_aggregation: has no default; True says that updates reach the coordinator in clear.
    gather_s: how long an enrolled site that is not there is waited for once enough others are.
    patience_s: how long the run waits for enough sites before it pauses.
    deadline_s: how long a round stays open.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    run: RunId
    preset: PresetName
    rounds: Annotated[int, Field(ge=1, le=100_000)]
    privacy: PrivacyPlan
    training: LocalTraining = LocalTraining()
    begin_with: Literal["warm-start", "random-weights"] = "warm-start"
    insecure_aggregation: bool
    minimum_contributors: Annotated[int, Field(ge=MINIMUM_CONTRIBUTORS, le=MAX_PARTICIPANTS)] = 3
    server_step: Literal["fedavg"] = "fedavg"
    server_learning_rate: Annotated[float, Field(gt=0.0, le=10.0)] = 1.0
    deadline_s: Seconds = 3600.0
    gather_s: Seconds = 30.0
    patience_s: Seconds = 3600.0
    poll_s: Annotated[float, Field(gt=0.0, le=600.0)] = 1.0
    max_failed_rounds: Annotated[int, Field(ge=1, le=1000)] = 3

    @model_validator(mode="after")
    def _rounds_fit(self) -> RunConfig:
        if self.rounds * self.max_failed_rounds > 1_000_000:
            raise ValueError("rounds x max_failed_rounds must be at most a million")
        return self

    @classmethod
    def from_dict(cls, value: Any) -> RunConfig:
        """Read a configuration of plain values (JSON or TOML).

        Raises:
            OurMistake: says which field is wrong.
        """
        try:
            return cls.model_validate_json(canonical.encode(value))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "the whole"
            raise OurMistake(
                f"The run configuration is wrong at {where!r}: {first['msg']}.",
                do=_HINTS.get(where, "Correct it and start again."),
            ) from error

    @classmethod
    def from_toml(cls, path: Path) -> RunConfig:
        """Read run.toml.

        Raises:
            OurMistake: the file cannot be read, is not TOML, or a field is wrong.
        """
        try:
            value = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise OurMistake(f"The run configuration {path} cannot be read as TOML.") from error
        return cls.from_dict(value)

    def as_dict(self) -> dict[str, Any]:
        value: dict[str, Any] = self.model_dump(mode="json")
        return value


_HINTS = {
    "insecure_aggregation": "Write insecure_aggregation = true to say that updates reach the "
    "coordinator in clear; this version has no other way.",
    "minimum_contributors": f"At least {MINIMUM_CONTRIBUTORS} hospitals make an aggregate.",
}
