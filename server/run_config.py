"""What the operator decides about a run. Checked when made.

The sites, their declared patients and the threshold are not decided here: the signed roster says
them (`shared_model.roster`).
"""

from __future__ import annotations

import math
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from shared_model import canonical
from shared_model.config import (
    MINIMUM_CONTRIBUTORS,
    LocalTraining,
    PrivacyPlan,
    ServerMoments,
    StepName,
)
from shared_model.errors import OurMistake
from shared_model.protocol import MAX_PARTICIPANTS, PresetName
from shared_model.protocol_base import RunId
from shared_model.server_optimisers import named, rate_of

Seconds = Annotated[float, Field(gt=0.0, le=30 * 86_400.0)]


class RunConfig(BaseModel):
    """One training run. Nothing here changes after the run has begun.

    minimum_contributors: nodes refuse fewer than their policy asks for, which is 3 by default.
    begin_with: the packaged warm start of the preset, or weights drawn with seed 0.
    aggregation: "UnmaskedForSimulation" adds the same integers without masks; nodes of hospitals
        refuse it, and so does a release.
    bits: b of the quantisation. update_norm_bound: L2 bound on an update, from which the scale
        of the quantisation follows; by default `default_norm_bound`.
    gather_s: how long a site that is not there, or does not answer, is waited for once enough
        others are or have.
    patience_s: how long the run waits for enough sites before it pauses.
    server_step: what makes the next model of the mean update; server_moments: beta1, beta2 and tau
        of fedadam and fedyogi, whose server_learning_rate has to be said: it is about how far every
        trained parameter moves in a round (in mode distributed times the training's).
    deadline_s: how long a round waits for submissions; the closing exchange at the end of a run
        waits as long.
    trip_s: how long a round waits for agreements, and again for what the sites open, while fewer
        than the threshold have answered.
    rekey_s: an epoch in which a site has no key is not replaced before it is this old.
    epoch_rounds: the sites make new keys after at most so many rounds.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    run: RunId
    preset: PresetName
    rounds: Annotated[int, Field(ge=1, le=100_000)]
    privacy: PrivacyPlan
    training: LocalTraining = LocalTraining()
    begin_with: Literal["warm-start", "random-weights"] = "warm-start"
    aggregation: Literal["secure-sum", "UnmaskedForSimulation"] = "secure-sum"
    bits: Annotated[int, Field(ge=8, le=24)] = 20
    update_norm_bound: Annotated[float, Field(gt=1e-12, lt=1e12)] | None = None
    minimum_contributors: Annotated[int, Field(ge=MINIMUM_CONTRIBUTORS, le=MAX_PARTICIPANTS)] = 3
    server_step: StepName = "fedavg"
    server_learning_rate: Annotated[float, Field(gt=0.0, le=10.0)] = 1.0
    server_moments: ServerMoments | None = None
    deadline_s: Seconds = 3600.0
    gather_s: Seconds = 30.0
    patience_s: Seconds = 3600.0
    trip_s: Seconds = 1800.0
    rekey_s: Seconds = 60.0
    epoch_rounds: Annotated[int, Field(ge=1, le=100_000)] = 20
    poll_s: Annotated[float, Field(gt=0.0, le=600.0)] = 1.0
    max_failed_rounds: Annotated[int, Field(ge=1, le=1000)] = 3

    @model_validator(mode="after")
    def _rounds_fit(self) -> RunConfig:
        if self.rounds * self.max_failed_rounds > 1_000_000:
            raise ValueError("rounds x max_failed_rounds must be at most a million")
        if self.server_step == "fedavg" and self.server_moments is not None:
            raise ValueError("fedavg has no server_moments")
        rate = rate_of(self.privacy.mode, self.server_learning_rate, self.training.learning_rate)
        try:
            named(self.server_step, rate, self.moments)
        except OurMistake as error:
            raise ValueError(f"{error.message} {error.do}".rstrip(".")) from error
        return self

    @property
    def moments(self) -> ServerMoments | None:
        """Of a server step that has any; the paper's where the operator says none."""
        if self.server_step == "fedavg":
            return None
        return self.server_moments or ServerMoments()

    @property
    def step_words(self) -> str:
        """What is not plain about training and server step, for after the privacy plan; or ""."""
        trainable = self.training.trainable
        words = "" if trainable == "head" else f", trains {trainable}"
        if self.training.proximal_weight:
            words += f", FedProx mu {self.training.proximal_weight:g}"
        if self.moments is not None:
            words += (
                f"; server step {self.server_step}, rate {self.server_learning_rate:g}, "
                f"beta1 {self.moments.beta1:g}, beta2 {self.moments.beta2:g}, "
                f"tau {self.moments.tau:g}"
            )
        return words

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
    "insecure_aggregation": "Remove it: updates are always masked. Simulations may say "
    'aggregation = "UnmaskedForSimulation".',
    **{
        place + name: "Remove it: it is in the lab only (fedprint-lab run)."
        for place in ("", "training.")
        for name in ("local_norms", "control_variates")
    },
    "training.proximal_weight": "It is in [0, 100]; 0 is no FedProx.",
    "minimum_contributors": f"At least {MINIMUM_CONTRIBUTORS} hospitals make an aggregate.",
}


def default_norm_bound(config: RunConfig, smallest_declared: int, dimension: int) -> float:
    """L2 bound on one hospital's update, from public numbers alone.

    Adam moves every parameter by about the learning rate lr in a step, and no further than
    steps x lr in a round; its moves follow noise, so that they add up like a random walk, for
    which 6 sqrt(steps) leaves room:  1.05 lr sqrt(d) min(steps, 6 sqrt(steps)).
    With one step every parameter moves by lr, rounded to float32, which for half of all lr (1e-3
    among them) is more than lr: without the 1.05 every update would be just above the bound, be
    scaled down and be logged as such, in every round.
    SGD adds, in each step, a clipped mean (norm about C) and noise of norm sigma C sqrt(d) / (q N);
    noise of different steps is independent:
    lr steps C + 3 lr sqrt(steps) sigma C sqrt(d) / (q N), N the smallest declared number.

    A larger update is scaled down to the bound by its own hospital, before it is masked; a bound
    that is too large only makes the quantisation coarser. `update_norm_bound` overrides it.
    """
    training, plan = config.training, config.privacy
    steps, rate = plan.steps, training.learning_rate
    if training.optimiser == "adam":
        return 1.05 * rate * math.sqrt(dimension) * min(float(steps), 6.0 * math.sqrt(steps))
    noise = plan.noise_multiplier * plan.clipping_norm * math.sqrt(dimension)
    mean = rate * steps * plan.clipping_norm
    return mean + 3.0 * rate * math.sqrt(steps) * noise / (plan.sample_rate * smallest_declared)


def norm_bound(config: RunConfig, smallest_declared: int, dimension: int) -> float:
    """What the requests of a run say: the operator's bound, else the default."""
    if config.update_norm_bound is not None:
        return config.update_norm_bound
    return default_norm_bound(config, smallest_declared, dimension)
