"""Which runs this hospital takes part in: seen, pending, approved, refused.

    HospitalApprovals.check(plan)          before a key is made and before a round is booked
    HospitalApprovals.approve(run)         the operator's yes
    HospitalApprovals.refuse(run)          the operator's no; holds until approved

**What is approved stands in the ledger**: the run's last `approved` entry, for the plan with its
digest and for at most its `bookings` further rounds. So nobody can say later that it was not, and
no file that is put back or edited approves anything. The files hold what a ledger does not: the
plans to read, and refusals.

    runs/pending/<run>.json    waits for the operator; the oldest of 32 makes room for a new one
    runs/approved/<run>.json   the plan that was approved last
    runs/refused/<run>.json    no plan of this run is looked at

A policy that says yes in advance does so for at most 32 plans of which no round is booked: names of
runs, and further plans of one, cost a coordinator nothing, and each yes is an entry for ever.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from client import keys
from client.home import NodeHome
from client.ledger_store import Budget, LedgerStore
from client.policy import Policy, check_plan, installed_code
from client.rosters import APPROVE, RosterBook
from client.run_cost import Cost, booking_like, cost_of
from shared_model import canonical, signing
from shared_model.errors import BudgetExhausted, OurMistake, Refused
from shared_model.files import read_regular, write_atomic
from shared_model.ledger import Approved, Booked, Chain
from shared_model.locks import locked
from shared_model.protocol import RunPlan

MAX_PENDING = 32
MAX_UNUSED = 32
"""Plans that a policy has approved in advance and of which no round is booked."""
_LARGEST_FILE = 64 * 1024
_RUN = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,62}[a-z0-9])?")
State = Literal["pending", "approved", "refused"]
STATES: tuple[State, ...] = ("pending", "approved", "refused")
LOOK = "Read it and decide: fedprint-node run show"


class RunLedger(Protocol):
    """What is asked of the ledger's store here; `client.ledger_store.LedgerStore` is one."""

    @property
    def chain(self) -> Chain: ...

    def approved(
        self,
        run: str,
        plan_digest: str,
        *,
        bookings: int,
        epsilon_run: float,
        by: Literal["operator", "policy"],
        delta: float,
    ) -> Approved:
        """Append an `approved` entry."""


class Kept(BaseModel):
    """A plan as it lies in the node's folder. since_s: seconds since 1970, UTC."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    kind: Literal["run-plan"] = "run-plan"
    plan: RunPlan
    since_s: int = Field(ge=0, le=2**40)


@dataclass(frozen=True)
class RunFiles:
    """The plans in a node's folder."""

    home: NodeHome
    clock: Callable[[], float] = time.time

    def of(self, state: State) -> list[Kept]:
        """All plans of this state, the oldest first.

        Raises:
            OurMistake: a file is damaged; says which.
        """
        folder = self.home.runs / state
        paths = sorted(folder.glob("*.json")) if folder.is_dir() else []
        found = [self._read(path) for path in paths]
        return sorted(found, key=lambda kept: (kept.since_s, kept.plan.run))

    def find(self, state: State, run: str) -> Kept | None:
        """The run's plan of this state."""
        path = self._path(state, run)
        return self._read(path) if path.exists() else None

    def keep(self, state: State, plan: RunPlan) -> None:
        """Make this the run's plan of this state; the same again keeps its time."""
        before = self.find(state, plan.run)
        if before is not None and before.plan == plan:
            return
        if state == "pending" and before is None:
            waiting = self.of("pending")
            for oldest in waiting[: max(0, len(waiting) + 1 - MAX_PENDING)]:
                self.drop("pending", oldest.plan.run)
        kept = Kept(plan=plan, since_s=int(self.clock()))
        data = canonical.encode(kept.model_dump(mode="json"))
        write_atomic(self._path(state, plan.run), data, mode=0o600)

    def drop(self, state: State, run: str) -> None:
        self._path(state, run).unlink(missing_ok=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps the running node and the operator's command apart."""
        self.home.make()
        with locked(self.home.root / "runs.lock"):
            yield

    def _path(self, state: State, run: str) -> Path:
        if not _RUN.fullmatch(run):
            raise OurMistake(f"{run!r} is no name of a run.", do="See: fedprint-node run list")
        return self.home.runs / state / f"{run}.json"

    def _read(self, path: Path) -> Kept:
        damaged = OurMistake(
            f"{path} is damaged.",
            do="Remove it: the coordinator shows the plan again, and what was approved stands in "
            "the ledger.",
        )
        try:
            kept = Kept.model_validate_json(read_regular(path, _LARGEST_FILE))
        except (ValidationError, Refused) as error:
            raise damaged from error
        if path.stem != kept.plan.run:
            raise damaged
        return kept


def is_approved(chain: Chain, plan: RunPlan, *, more: int = 1) -> bool:
    """Whether the plan is approved, for so many more rounds at least."""
    last, booked = chain.approval(plan.run)
    return last is not None and last.plan_digest == plan.digest and booked + more <= last.bookings


@dataclass(frozen=True)
class HospitalApprovals:
    """Decides for one node, under its policy and ledger; `client.node_interfaces.Approvals`.

    budget: of the policy; infinite in simulations with noise that is not private.
    code: digest of what is installed here.
    ledger: opens the ledger's store.
    like: a booking of a plan, for accountants (`run_cost.booking_like`).
    """

    files: RunFiles
    policy: Policy
    budget: Budget
    code: str
    ledger: Callable[[], AbstractContextManager[RunLedger]]
    like: Callable[[RunPlan], Booked]

    def check(self, plan: RunPlan, *, booked: bool = False) -> None:
        """Return if this very plan is approved, for one more round at least.

        Nothing is read in recordings, and nothing is booked.

        Args:
            booked: the round is booked already: what it took of the approval, it has.

        Raises:
            Refused: against the policy ("policy", "contributors"); not one more round can be
                afforded, so that nobody is asked ("budget"); it waits for the operator or was
                refused by the operator ("run-approval").
        """
        self._hold_against_policy(plan)
        with self.files.locked():
            if self.files.find("refused", plan.run) is not None:
                raise Refused(
                    f"The operator has refused run {plan.run}.",
                    reason="run-approval",
                    do=f"To take part all the same: fedprint-node run approve {plan.run}",
                )
            with self.ledger() as ledger:
                chain = ledger.chain
                if is_approved(chain, plan, more=0 if booked else 1):
                    return
                cost = self._affordable(plan, chain)
                if self._in_advance(plan, cost, chain):
                    self._write(ledger, plan, cost, "policy")
                    self._took(plan)
                    return
            self.files.keep("pending", plan)
        raise Refused(
            f"Run {plan.run} waits for this hospital's approval.",
            reason="run-approval",
            do=f"{LOOK} {plan.run}",
        )

    def cost(self, plan: RunPlan) -> tuple[Cost, int]:
        """What the plan would cost, and how many rounds of the run are booked."""
        with self.ledger() as ledger:
            chain = ledger.chain
        return cost_of(plan, chain, self.budget, self.like(plan)), chain.rounds_of(plan.run)

    def shown(self, run: str) -> tuple[RunPlan, State]:
        """The plan that `run show` and `run approve` are about.

        Raises:
            OurMistake: no plan of this run is here.
        """
        for state in ("pending", "refused", "approved"):
            kept = self.files.find(state, run)
            if kept is not None:
                return kept.plan, state
        raise OurMistake(f"No plan of run {run} is here.", do="See: fedprint-node run list")

    def approve(self, plan: RunPlan) -> Cost:
        """The operator's yes to this very plan; what it would cost from now on.

        Raises:
            Refused: "policy", "contributors", "budget".
        """
        self._hold_against_policy(plan)
        with self.files.locked(), self.ledger() as ledger:
            cost = self._affordable(plan, ledger.chain)
            if not is_approved(ledger.chain, plan):
                self._write(ledger, plan, cost, "operator")
            self._took(plan)
        return cost

    def refuse(self, run: str) -> None:
        """The operator's no, to any plan of this run; holds at once, also for a run under way.

        Raises:
            OurMistake: no plan of this run is here.
        """
        with self.files.locked():
            plan, _ = self.shown(run)
            self.files.keep("refused", plan)
            for state in ("approved", "pending"):
                self.files.drop(state, run)

    def _write(
        self, ledger: RunLedger, plan: RunPlan, cost: Cost, by: Literal["operator", "policy"]
    ) -> None:
        ledger.approved(
            plan.run,
            plan.digest,
            bookings=plan.bookings,
            epsilon_run=cost.of_run,
            by=by,
            delta=self.budget.delta,
        )

    def _took(self, plan: RunPlan) -> None:
        self.files.keep("approved", plan)
        waiting = self.files.find("pending", plan.run)
        if waiting is not None and waiting.plan == plan:
            self.files.drop("pending", plan.run)
        self.files.drop("refused", plan.run)

    def _hold_against_policy(self, plan: RunPlan) -> None:
        check_plan(
            self.policy,
            purpose=plan.purpose,
            plan=plan.privacy,
            training=plan.training,
            minimum_contributors=plan.minimum_contributors,
            code=self.code,
        )

    def _affordable(self, plan: RunPlan, chain: Chain) -> Cost:
        try:
            cost = cost_of(plan, chain, self.budget, self.like(plan))
        except OurMistake as error:  # of a plan whose noise cannot be accounted for
            raise Refused(error.message, reason="policy", do=error.do) from error
        if not cost.affordable:
            raise BudgetExhausted(
                f"One more round would bring run {plan.run} to epsilon {cost.next_of_run:.2f} and "
                f"this hospital to {cost.next_after:.2f} for life; its limits are "
                f"{self.budget.epsilon_per_run:g} a run and {self.budget.epsilon_lifetime:g}.",
                do="Only the hospital can raise them, in policy.toml.",
            )
        return cost

    def _in_advance(self, plan: RunPlan, cost: Cost, chain: Chain) -> bool:
        """Whether the policy says yes to this plan; never to one that it cannot see to its end."""
        limits = self.policy.approve_runs_in_advance
        if limits is None:
            return False
        unlimited = math.isinf(self.budget.epsilon_per_run)  # simulations only
        return (
            cost.covers_run
            and plan.purpose in limits.purposes
            and plan.privacy.mode in limits.modes
            and (not limits.code_digests or plan.code_digest in limits.code_digests)
            and (unlimited or cost.of_run <= limits.epsilon_per_run)
            and _unused(chain) < MAX_UNUSED
        )


def _unused(chain: Chain) -> int:
    """Approvals in advance of which no round was booked; each plan of a run counts by itself."""
    unused, open_ = 0, dict[str, bool]()  # run -> by policy, and nothing booked since
    for entry in chain.entries(Approved, Booked):
        if isinstance(entry, Approved):
            unused += open_.get(entry.run, False)
            open_[entry.run] = entry.by == "policy"
        else:
            open_[entry.run] = False
    return unused + sum(open_.values())


def approvals_of(
    home: NodeHome, policy: Policy | None = None, budget: Budget | None = None
) -> HospitalApprovals:
    """The approvals of the node of this folder.

    Args:
        policy, budget: as read already; else of policy.toml.

    Raises:
        OurMistake: the folder is not set up.
    """
    site, policy = keys.load_config(home).site, policy or Policy.from_file(home.policy)
    identity_key = signing.load_key_file(home.identity_key)
    return HospitalApprovals(
        files=RunFiles(home),
        policy=policy,
        budget=budget or policy.budget,
        code=installed_code(),
        ledger=lambda: LedgerStore.open(home, site, identity_key),
        like=lambda plan: _like(home, plan),
    )


def _like(home: NodeHome, plan: RunPlan) -> Booked:
    """A booking of this plan under the approved roster; in mode local that does not matter."""
    if str(plan.privacy.mode) == "local":
        return booking_like(plan, participants=0, threshold=0, colluding_sites=0, dimension=0)
    from client.node_training import trainable_size
    from shared_model.mae import PRESETS
    from shared_model.secure_sum.numbers import padded_dimension

    if plan.preset not in PRESETS:
        raise Refused("The plan names a model that this version does not have.", reason="model")
    approved = RosterBook(home).approved()
    if approved is None:
        raise Refused("This hospital has approved no roster.", reason="roster-approval", do=APPROVE)
    roster = approved.roster
    size = trainable_size(plan.preset, plan.training.trainable)
    return booking_like(
        plan,
        participants=len(roster.sites),
        threshold=roster.threshold,
        colluding_sites=roster.collusion_bound,
        dimension=padded_dimension(size),
    )
