"""Runs in the console: the words of `fedprint-node run show`, and this hospital's yes or no.

A form carries the digest of the plan that was on the page, and a box that says it was read: what
lies here by then under the same name is approved only if it is that very plan.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from client import run_words
from client.approvals import HospitalApprovals, approvals_of
from client.console_facts import Kept
from client.console_log import ConsoleLog
from client.home import NodeHome
from client.rosters import RosterBook
from shared_model.errors import FedprintError, Refused
from shared_model.web.site import Answer, Call, Done, Page, Shown


@dataclass(frozen=True)
class RunPages:
    """Of one node; policy, ledger and plans are read anew for each request."""

    home: NodeHome
    log: ConsoleLog
    _lines: Kept[list[str]] = field(default_factory=Kept, repr=False)

    def all(self) -> list[Page]:
        return [
            Page("/runs", self.list, nav="Runs"),
            Page("/runs/{run}", self.show),
            Page("/runs/{run}/approve", self.approve, method="POST"),
            Page("/runs/{run}/refuse", self.refuse, method="POST"),
        ]

    @property
    def _book(self) -> HospitalApprovals:
        return approvals_of(self.home)

    def list(self, call: Call) -> Answer:
        return Shown("runs.html", {"rows": run_words.rows(self._book)})

    def show(self, call: Call) -> Answer:
        book = self._book
        plan, state = book.shown(call.path["run"])
        with book.ledger() as ledger:
            head = ledger.chain.head
        approved = RosterBook(self.home).approved()
        roster = approved.roster.digest if approved else ""
        key = (plan.digest, head, roster, book.policy)  # all that the words follow from
        lines = self._lines.get(key, lambda: run_words.plan_in_words(self.home, book, plan))
        values = {"run": plan.run, "state": state, "lines": lines, "digest": plan.digest}
        return Shown("run.html", values)

    def approve(self, call: Call) -> Answer:
        """What `fedprint-node run approve RUN --plan DIGEST` does.

        Raises:
            Refused: "not-read", "another-plan", and as `HospitalApprovals.approve`.
        """
        book = self._book
        plan, _ = book.shown(call.path["run"])
        with _told(self.log, call, "approve run", f"{plan.run} {plan.digest}"):
            if call.form.get("read") != "yes":
                raise Refused(
                    f"Run {plan.run} was not approved: the box was not ticked.",
                    reason="not-read",
                    do="Read the plan, tick the box and try again.",
                )
            if call.form.get("plan") != plan.digest:
                raise Refused(
                    f"The plan of run {plan.run} that is here now is {plan.digest}, not the one "
                    "that you have read.",
                    reason="another-plan",
                    do="Go back and read it again.",
                )
            cost = book.approve(plan)
        said = f"This hospital takes part in run {plan.run}: at most {cost.rounds_left} rounds."
        return Done(f"/runs/{plan.run}", said)

    def refuse(self, call: Call) -> Answer:
        """What `fedprint-node run refuse RUN` does."""
        book = self._book
        plan, _ = book.shown(call.path["run"])
        with _told(self.log, call, "refuse run", plan.run):
            book.refuse(plan.run)
        said = f"This hospital takes no part in run {plan.run}. What was booked stays booked."
        return Done(f"/runs/{plan.run}", said)


@dataclass(frozen=True)
class _told:  # noqa: N801  (a context manager, used as one)
    """Writes what was done, or that it was refused and with which reason, to the console's log."""

    log: ConsoleLog
    call: Call
    what: str
    more: str

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        outcome = "done"
        if isinstance(error, Refused):
            outcome = f"refused: {error.reason}"
        elif isinstance(error, FedprintError):
            outcome = "not done"
        elif error is not None:
            outcome = "failed"
        self.log.write(self.call.session.id, self.what, f"{outcome}: {self.more}")
