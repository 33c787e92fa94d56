"""The reference of the drift check on the disk: what earlier patients measured, by pseudonym.

HOME/drift/baseline.json, sealed like the window store. Patients that have left the store since
(withdrawn, data set removed) are erased from it whenever it is read.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from client.drift import FIGURES, Measures
from client.fingerprints import SENSORS
from client.home import NodeHome
from client.sealed_files import AGAIN, read_own, write_own
from client.store import WindowStore
from client.store_format import Hex32, Hex64
from shared_model import canonical
from shared_model.config import FINGERPRINT_SIZE
from shared_model.errors import OurMistake, Refused
from shared_model.warm_start import if_packaged, preset_of

KIND = "drift baseline"
LARGEST_BYTES = 512 * 1024 * 1024
_FORMER_FORMAT = re.compile(rb'"format": ?"drift-[12]"')
Finite = Annotated[float, Field(allow_inf_nan=False)]
Mean = Annotated[
    tuple[Finite, ...], Field(min_length=FINGERPRINT_SIZE, max_length=FINGERPRINT_SIZE)
]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class _Patient(_Strict):
    pseudonym: Hex32
    means: dict[str, Mean]
    figures: dict[str, Finite]

    @model_validator(mode="after")
    def _known(self) -> _Patient:
        if not set(self.means) <= set(SENSORS) or not set(self.figures) <= set(FIGURES):
            raise ValueError("unknown sensors or figures")
        return self


class Baseline(_Strict):
    """made: day (UTC). What a patient lacks is not there. former: its patients are named by the
    rule of an earlier version, as those of a store of it."""

    format: Literal["drift-3"] = "drift-3"
    former: bool = False
    made: Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\d$")]
    model_digest: Hex64
    patients: tuple[_Patient, ...]

    @classmethod
    def of(cls, found: Measures, model_digest: str, made: str, *, former: bool = False) -> Baseline:
        """Of what was measured now. former: as the store has it."""
        patients = []
        for row, name in enumerate(found.pseudonyms):
            means = {
                sensors: tuple(float(one) for one in value[row])
                for sensors, value in found.means.items()
                if np.isfinite(value[row]).all()
            }
            figures = {
                figure: float(value[row])
                for figure, value in found.figures.items()
                if np.isfinite(value[row])
            }
            patients.append(_Patient(pseudonym=name, means=means, figures=figures))
        return cls(
            former=former,
            made=made,
            model_digest=model_digest,
            patients=tuple(patients),
        )

    @property
    def measures(self) -> Measures:
        missing = (float("nan"),) * FINGERPRINT_SIZE
        return Measures(
            tuple(one.pseudonym for one in self.patients),
            {
                name: np.array([one.means.get(name, missing) for one in self.patients]).reshape(
                    -1, FINGERPRINT_SIZE
                )
                for name in SENSORS
            },
            {
                name: np.array([one.figures.get(name, np.nan) for one in self.patients])
                for name in FIGURES
            },
        )


def save(home: NodeHome, baseline: Baseline) -> bool:
    """Write it over an earlier one; whether it is sealed."""
    data = canonical.encode(baseline.model_dump(mode="json"))
    return write_own(home, _path(home), KIND, data)


def load(home: NodeHome, store: WindowStore, model_digest: str) -> Baseline:
    """The reference, without patients that have left the store; they are erased from the file.

    Raises:
        OurMistake: there is none. Refused: damaged, of another store key, of another model; of an
            earlier version, or its patients are named by another rule than the store's: it is
            erased then.
    """
    path = _path(home)
    if not path.exists():
        raise OurMistake(
            "There is no reference to compare with yet.",
            do="Run: fedprint-node drift --baseline. Later patients are compared with it.",
        )
    data = read_own(home, path, KIND, LARGEST_BYTES)
    if _FORMER_FORMAT.search(data):
        _erase(
            home,
            "The reference is of an earlier version, and holds not all patients nor all figures "
            "that are compared now.",
            "files",
        )
    try:
        found = Baseline.model_validate_json(data)
    except (ValidationError, ValueError) as error:
        raise Refused(f"{path.name} is no drift reference.", reason="files", do=AGAIN) from error
    if found.former != store.former:
        _erase(
            home,
            "The reference is of an earlier version than the store: its patients may be in there "
            "under other names.",
            "names",
        )
    here = {row.pseudonym for row in store.catalogue()}
    kept = tuple(one for one in found.patients if one.pseudonym in here)
    if len(kept) < len(found.patients):
        found = found.model_copy(update={"patients": kept})
        save(home, found)
    if found.model_digest != model_digest:
        raise Refused(
            f"The reference is of another model ({found.model_digest[:12]}) than the one in use "
            f"({model_digest[:12]}): their fingerprints cannot be compared.",
            reason="model",
            do=f"Make it again with this model: {_again(home, model_digest)}."
            + if_packaged(found.model_digest, f"{home.command('drift')} --warm-start --preset "),
        )
    return found


def _erase(home: NodeHome, why: str, reason: str) -> NoReturn:
    """A reference that can never be compared with again."""
    _path(home).unlink()
    raise Refused(
        f"{why} It is erased.",
        reason=reason,
        do=f"Make it again: {home.command('drift', '--baseline')}",
    )


def _path(home: NodeHome) -> Path:
    return home.drift / "baseline.json"


def _again(home: NodeHome, model_digest: str) -> str:
    """The command that makes the reference with the model in use."""
    preset = preset_of(model_digest)
    model = ("--warm-start", "--preset", preset) if preset else ()
    return home.command("drift", "--baseline", *model)
