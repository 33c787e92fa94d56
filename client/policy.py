"""What the hospital allows: policy.toml, which the coordinator cannot reach."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from client.approved_code import COMMAND, approved
from client.ledger_store import Budget
from client.policy_text import as_toml
from shared_model.config import MINIMUM_CONTRIBUTORS, LocalTraining, PrivacyPlan
from shared_model.errors import OurMistake, Refused
from shared_model.files import write_atomic
from shared_model.protocol import MAX_PARTICIPANTS, Digest
from shared_model.release_files import code_digest

SMALLEST_CLIPPING_NORM = 1e-6
SMALLEST_SAMPLE_RATE = 1e-6
DEFAULT_REPLY_CLOCK_S = 60.0
SHORTEST_REPLY_CLOCK_S = 0.05
_LARGEST_FILE = 64 * 1024


def _each_once(value: Any) -> Any:
    """A TOML array as a tuple; the same word twice is a slip of the pen."""
    if not isinstance(value, list | tuple):
        return value
    if any(item in value[:place] for place, item in enumerate(value)):
        raise ValueError("names something twice")
    return tuple(value)


_LIST = BeforeValidator(_each_once)
Modes = Annotated[tuple[Literal["local", "distributed"], ...], _LIST]
Purposes = Annotated[tuple[Literal["pretrain"], ...], _LIST]
CodeDigests = Annotated[tuple[Digest, ...], Field(max_length=100), _LIST]


class AdvanceApproval(BaseModel):
    """`[approve_runs_in_advance]`: which runs need no operator's yes.

    epsilon_per_run: limit of the whole run, all its bookings. code_digests: of the coordinator's
        code, as the plan names it; empty: any.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    purposes: Annotated[Purposes, Field(min_length=1)]
    modes: Annotated[Modes, Field(min_length=1)]
    epsilon_per_run: float = Field(gt=0.0, le=1000.0)
    code_digests: CodeDigests = ()


class Policy(BaseModel):
    """One hospital's limits. Frozen, checked once; unknown keys are refused.

    colluding_sites: how many other hospitals may work together with the coordinator without
        learning anything of this one's update; rosters that hold against fewer are refused.
    allow_two_hospitals_who_can_each_compute_the_others_update: a sum of two hides nothing from
        either of them; needs colluding_sites = 0.

    allowed_modes: trust models. allowed_code_digests: what may be installed **here** for a round to
        be trained; empty: whatever is. `from_file` adds those that were approved by command.
    allowed_bundle_digests: Flower bundles that are taken beside the one without code; none is ever
        executed (`client.bundles`).
    reply_clock_s: replies to requests to train leave at a whole multiple of it after the request
        came (`client.reply_clock`).
    approve_runs_in_advance: None: every run waits for the operator's yes.

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
    allowed_modes: Modes = ("local",)
    allowed_purposes: Purposes = ("pretrain",)
    allowed_code_digests: CodeDigests = ()
    allowed_bundle_digests: CodeDigests = ()
    reply_clock_s: float = Field(
        default=DEFAULT_REPLY_CLOCK_S, ge=SHORTEST_REPLY_CLOCK_S, le=3600.0
    )
    approve_runs_in_advance: AdvanceApproval | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        advance = self.approve_runs_in_advance
        if advance is not None and advance.epsilon_per_run > self.epsilon_per_run:
            raise ValueError("approve_runs_in_advance.epsilon_per_run is above epsilon_per_run")
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
        """Read policy.toml, and beside it which code was approved by command.

        Raises:
            OurMistake: absent, not TOML, an unknown key, or a value out of its bounds; says which.
                Or the list of approved code is damaged.
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
            policy = cls.model_validate(content)
        except ValidationError as error:
            raise OurMistake(
                f"{path.name} is not a valid policy: {_explain(error)}.",
                do="Correct the file; nothing is trained or sent until it is valid.",
            ) from error
        listed = (*policy.allowed_code_digests, *approved(path.parent).digests)
        return policy.model_copy(update={"allowed_code_digests": tuple(dict.fromkeys(listed))})

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
        allowed_modes: Modes = ("local",),
        reply_clock_s: float = DEFAULT_REPLY_CLOCK_S,
        approve_runs_in_advance: AdvanceApproval | None = None,
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
                allowed_modes=allowed_modes,
                reply_clock_s=float(reply_clock_s),
                approve_runs_in_advance=approve_runs_in_advance,
            )
        except ValidationError as error:
            raise OurMistake(f"These limits make no policy: {_explain(error)}.") from error
        write_atomic(path, as_toml(policy).encode(), mode=0o600)
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


@cache
def installed_code() -> str:
    """Digest of the code that runs here (`release_files.code_digest`), computed once a process."""
    return code_digest()


def check_request(
    policy: Policy,
    *,
    site: str,
    purpose: str,
    plan: PrivacyPlan,
    training: LocalTraining,
    participants: Sequence[str],
    minimum_contributors: int,
    code: str,
) -> None:
    """Hold a coordinator's request against the policy, before any recording is read.

    The answer depends on the request, the policy and what is installed only: a refusal tells
    nothing about patients. The budget is not looked at here but inside `LedgerStore.reserve`.

    Args:
        code: `installed_code()`.

    Raises:
        Refused: reason "roster", or as `check_plan`.
    """
    if len(set(participants)) != len(participants) or site not in participants:
        raise Refused("The round names a site twice or does not name this one.", reason="roster")
    if len(participants) < minimum_contributors:
        raise Refused(
            f"The round has {len(participants)} sites and a minimum of {minimum_contributors}.",
            reason="contributors",
            do="The operator asks more sites.",
        )
    check_plan(
        policy,
        purpose=purpose,
        plan=plan,
        training=training,
        minimum_contributors=minimum_contributors,
        code=code,
    )


def check_plan(
    policy: Policy,
    *,
    purpose: str,
    plan: PrivacyPlan,
    training: LocalTraining,
    minimum_contributors: int,
    code: str,
) -> None:
    """Hold what is the same in all rounds of a run against the policy.

    Raises:
        Refused: reason "contributors" or "policy".
    """
    floor = max(policy.minimum_contributors, MINIMUM_CONTRIBUTORS)
    if minimum_contributors < floor:
        raise Refused(
            f"This hospital takes part in sums of at least {floor} sites; the run allows "
            f"{minimum_contributors}.",
            reason="contributors",
            do="The operator raises it, or the hospital lowers minimum_contributors.",
        )
    if purpose not in policy.allowed_purposes:
        raise _against(f"The run's purpose is {purpose}", "allowed_purposes", purpose)
    if plan.mode not in policy.allowed_modes:
        raise _against(f"The run's trust model is {plan.mode}", "allowed_modes", plan.mode)
    if policy.allowed_code_digests and code not in policy.allowed_code_digests:
        raise Refused(
            "The code that is installed here is not approved.",
            reason="policy",
            do=f"Read what it changes, then say yes: {COMMAND} {code}",
        )
    if plan.steps > policy.maximum_steps_per_round:
        raise Refused(
            f"The round asks for {plan.steps} steps; the policy allows "
            f"{policy.maximum_steps_per_round}.",
            reason="policy",
            do="The operator plans shorter rounds, or raise maximum_steps_per_round in "
            "policy.toml.",
        )
    if plan.clipping_norm < SMALLEST_CLIPPING_NORM or plan.sample_rate < SMALLEST_SAMPLE_RATE:
        raise Refused("The privacy plan is outside the bounds of safe arithmetic.", reason="policy")
    if training.segments * training.patch_masks > policy.maximum_windows_per_patient:
        raise Refused(
            "The round asks for more segments and patch masks per patient than the policy allows.",
            reason="policy",
            do="The operator asks for fewer, or raise maximum_windows_per_patient in policy.toml.",
        )


def _against(what: str, key: str, value: str) -> Refused:
    return Refused(
        f"{what}; {key} in policy.toml does not list it.",
        reason="policy",
        do=f'To allow it, and only after reading docs/privacy.md, add "{value}" to {key}.',
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
