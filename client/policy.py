"""What the hospital allows: policy.toml, which the coordinator cannot reach."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from client.ledger_store import Budget
from shared_model.config import MINIMUM_CONTRIBUTORS, LocalTraining, PrivacyPlan
from shared_model.errors import OurMistake, Refused
from shared_model.files import write_atomic
from shared_model.protocol import MAX_PARTICIPANTS

SMALLEST_CLIPPING_NORM = 1e-6
SMALLEST_SAMPLE_RATE = 1e-6
_LARGEST_FILE = 64 * 1024


class Policy(BaseModel):
    """One hospital's limits. Frozen, checked once; unknown keys are refused.

    colluding_sites: how many other hospitals may work together with the coordinator without
        learning anything of this one's update; rosters that hold against fewer are refused.
    allow_two_hospitals_who_can_each_compute_the_others_update: a sum of two hides nothing from
        either of them; needs colluding_sites = 0.

    There is no key that allows noise that repeats: a node's noise is always the operating system's.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    epsilon_lifetime: float = Field(gt=0.0, le=1000.0)
    epsilon_per_run: float = Field(gt=0.0, le=1000.0)
    delta: float = Field(gt=0.0, le=1e-3)
    declared_patients: int = Field(ge=1, le=100_000_000)
    minimum_contributors: int = Field(default=3, ge=MINIMUM_CONTRIBUTORS, le=10_000)
    maximum_steps_per_round: int = Field(default=1000, ge=1, le=100_000)
    maximum_windows_per_patient: int = Field(default=64, ge=1, le=1024)
    colluding_sites: int = Field(default=1, ge=0, le=MAX_PARTICIPANTS)
    allow_two_hospitals_who_can_each_compute_the_others_update: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.epsilon_per_run > self.epsilon_lifetime:
            raise ValueError("epsilon_per_run is above epsilon_lifetime")
        if self.delta > 1.0 / self.declared_patients:
            raise ValueError("delta is above 1 / declared_patients: that would promise nothing")
        if self.declared_patients != rounded_patients(self.declared_patients):
            raise ValueError(
                "declared_patients is seen by others and must be rounded to two digits: "
                f"{rounded_patients(self.declared_patients)}"
            )
        two = self.allow_two_hospitals_who_can_each_compute_the_others_update
        if self.minimum_contributors < 3 and not two:
            raise ValueError(
                "minimum_contributors below 3 lets each of two hospitals compute the other's "
                "update; that needs allow_two_hospitals_who_can_each_compute_the_others_update"
            )
        if two and self.colluding_sites != 0:
            raise ValueError("a sum of two hides nothing: colluding_sites must be 0")
        return self

    @classmethod
    def from_file(cls, path: Path) -> Policy:
        """Read policy.toml.

        Raises:
            OurMistake: absent, not TOML, an unknown key, or a value out of its bounds; says which.
        """
        try:
            data = path.read_bytes()
        except FileNotFoundError as error:
            raise OurMistake(
                f"There is no policy file {path.name}.",
                do="Run `fedprint-node init`, which writes one, and review its limits.",
            ) from error
        if len(data) > _LARGEST_FILE:
            raise OurMistake(f"{path.name} is too large for a policy.")
        try:
            content = tomllib.loads(data.decode())
        except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise OurMistake(
                f"{path.name} is not valid TOML: {error}.", do="Correct the line."
            ) from error
        _refuse_removed(content, path.name)
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            raise OurMistake(
                f"{path.name} is not a valid policy: {_explain(error)}.",
                do="Correct the file; nothing is trained or sent until it is valid.",
            ) from error

    @classmethod
    def write_default(
        cls,
        path: Path,
        *,
        declared_patients: int,
        epsilon_lifetime: float = 8.0,
        epsilon_per_run: float = 3.0,
        minimum_contributors: int = 3,
        colluding_sites: int = 1,
        allow_two_hospitals_who_can_each_compute_the_others_update: bool = False,
    ) -> Policy:
        """Write a commented policy.toml, the declared number rounded, and return what it says.

        Raises:
            OurMistake: the file is there already (a policy is never overwritten), or a bad value.
        """
        if path.exists():
            raise OurMistake(f"{path.name} exists already.", do="Edit it by hand.")
        from shared_model.accounting import default_delta

        declared = rounded_patients(declared_patients)
        try:
            policy = cls(
                epsilon_lifetime=float(epsilon_lifetime),
                epsilon_per_run=float(epsilon_per_run),
                delta=default_delta(declared),
                declared_patients=declared,
                minimum_contributors=minimum_contributors,
                colluding_sites=colluding_sites,
                allow_two_hospitals_who_can_each_compute_the_others_update=(
                    allow_two_hospitals_who_can_each_compute_the_others_update
                ),
            )
        except ValidationError as error:
            raise OurMistake(f"These limits make no policy: {_explain(error)}.") from error
        write_atomic(path, _as_toml(policy).encode(), mode=0o600)
        return policy

    @property
    def budget(self) -> Budget:
        """The two limits on epsilon, and delta, as the ledger takes them."""
        return Budget(
            epsilon_lifetime=self.epsilon_lifetime,
            epsilon_per_run=self.epsilon_per_run,
            delta=self.delta,
        )

    def declared_fits(self, catalogued: int) -> str:
        """Advice for the operator's own screen, empty if none; never a reason to refuse a round.

        Refusing a round because of the number of patients would tell the coordinator that number.
        """
        if catalogued > 2 * self.declared_patients:
            return (
                "The store holds more than twice the declared number of patients: delta is then "
                "larger than meant for so many. Declare the new number at the next enrolment."
            )
        if 2 * catalogued < self.declared_patients:
            return "The store holds less than half of the declared patients: training will be slow."
        return ""


def rounded_patients(count: int) -> int:
    """`count` rounded down to its two leading digits."""
    if count < 1:
        raise OurMistake("The declared number of patients must be at least 1.")
    if count < 100:
        return count
    unit = int(10 ** (math.floor(math.log10(count)) - 1))
    return count // unit * unit


def check_request(
    policy: Policy,
    *,
    site: str,
    plan: PrivacyPlan,
    training: LocalTraining,
    participants: Sequence[str],
    minimum_contributors: int,
) -> None:
    """Hold a coordinator's request against the policy, before any recording is read.

    The answer depends on the request and the policy only: a refusal tells nothing about patients.
    The budget is not looked at here but inside `LedgerStore.reserve`, in one transaction.

    Raises:
        Refused: reason "roster", "contributors" or "policy".
    """
    if len(set(participants)) != len(participants) or site not in participants:
        raise Refused("The round names a site twice or does not name this one.", reason="roster")
    floor = max(policy.minimum_contributors, MINIMUM_CONTRIBUTORS)
    if minimum_contributors < floor or len(participants) < minimum_contributors:
        raise Refused(
            f"This hospital takes part in sums of at least {floor} sites; the round has "
            f"{len(participants)} and a minimum of {minimum_contributors}.",
            reason="contributors",
            do="The operator asks more sites, or the hospital lowers minimum_contributors.",
        )
    if plan.steps > policy.maximum_steps_per_round:
        raise Refused(
            f"The round asks for {plan.steps} steps; the policy allows "
            f"{policy.maximum_steps_per_round}.",
            reason="policy",
        )
    if (
        plan.clipping_norm < SMALLEST_CLIPPING_NORM
        or plan.sample_rate < SMALLEST_SAMPLE_RATE
        or plan.mode != "local"
    ):
        raise Refused("The privacy plan is outside the bounds of safe arithmetic.", reason="policy")
    if training.segments * training.patch_masks > policy.maximum_windows_per_patient:
        raise Refused(
            "The round asks for more segments and patch masks per patient than the policy allows.",
            reason="policy",
        )


_REMOVED = {
    "allow_insecure_aggregation": "updates always leave masked, so that nobody needs to allow it",
}
"""Keys of earlier versions, and why they are gone."""


def _refuse_removed(content: dict[str, Any], name: str) -> None:
    for key, reason in _REMOVED.items():
        if key in content:
            raise OurMistake(
                f"{name} has the key {key} of an earlier version: {reason}.",
                do=f"Remove the line that begins with {key} from {name}.",
            )


def _explain(error: ValidationError) -> str:
    parts = []
    for item in error.errors(include_url=False, include_input=False, include_context=False):
        where = ".".join(str(part) for part in item["loc"])
        text = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            text = "is not a key of a policy"
        parts.append(f"{where}: {text}" if where else text)
    return "; ".join(parts)


def _as_toml(policy: Policy) -> str:
    two = "true" if policy.allow_two_hospitals_who_can_each_compute_the_others_update else "false"
    return f"""# What this hospital allows. The hospital edits this file; the coordinator cannot.
# epsilon bounds what anyone can learn about one patient from everything this node ever sends:
# the odds of a correct guess "this patient was in" change by at most a factor exp(epsilon),
# except with probability delta. Smaller is safer; what is spent never comes back.

# Sum over every run, for as long as this node lives.
epsilon_lifetime = {policy.epsilon_lifetime!r}

# Limit of one training run.
epsilon_per_run = {policy.epsilon_per_run!r}

# Fixed for life at the first round. Default: min(1e-5, 1 / (10 x declared_patients)).
delta = {policy.delta!r}

# Number of patients as told to the others, rounded to two digits. Noised sums are divided by
# it, so it must not follow the true number from day to day.
declared_patients = {policy.declared_patients}

# Fewest hospitals in a sum that this one takes part in (never below {MINIMUM_CONTRIBUTORS}).
minimum_contributors = {policy.minimum_contributors}

# Work that one round may ask for.
maximum_steps_per_round = {policy.maximum_steps_per_round}
maximum_windows_per_patient = {policy.maximum_windows_per_patient}

# Hospitals that may work together with the coordinator and still learn nothing of this one's
# update but the sum. Rosters whose threshold does not hold against so many are refused.
colluding_sites = {policy.colluding_sites}

# A sum of two hospitals shows each of them the (noised) update of the other. true: this hospital
# takes part in such sums all the same; colluding_sites must then be 0.
allow_two_hospitals_who_can_each_compute_the_others_update = {two}
"""
