"""Runs as `fedprint-node run` and the console show them: the same rows, the same words."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Any

from client.approvals import STATES, HospitalApprovals
from client.home import NodeHome
from client.rosters import RosterBook
from client.run_cost import in_words

if TYPE_CHECKING:
    from shared_model.protocol import RunPlan


def rows(book: HospitalApprovals) -> list[dict[str, Any]]:
    """One row a run that was ever shown to this node: pending, approved, refused.

    Raises:
        OurMistake: a plan's file is damaged. Refused: the ledger cannot be gone by.
    """
    with book.ledger() as ledger:
        chain = ledger.chain
    found: list[dict[str, Any]] = []
    for state in STATES:
        for kept in book.files.of(state):
            plan = kept.plan
            last, since = chain.approval(plan.run)
            approved = state == "approved" and last is not None
            found.append(
                {
                    "run": plan.run,
                    "state": state,
                    "since": day(kept.since_s),
                    "by": last.by if approved and last else None,
                    "rounds": plan.rounds,
                    "bookings left": max(0, last.bookings - since) if approved and last else None,
                    "trust model": plan.privacy.mode,
                    "plan": plan.digest,
                }
            )
    return found


def plan_in_words(home: NodeHome, book: HospitalApprovals, plan: RunPlan) -> list[str]:
    """What the run would do here, what it would cost, and what would be left."""
    cost, booked = book.cost(plan)
    return in_words(plan, cost, code=book.code, weights=weights(home), booked=booked)


def weights(home: NodeHome) -> dict[str, int]:
    """Of the approved roster's sites; empty if none is approved."""
    approved = RosterBook(home).approved()
    return {} if approved is None else dict(approved.roster.weights)


def day(seconds: int) -> str:
    """YYYY-MM-DD HH:MM, UTC."""
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return moment.strftime("%Y-%m-%d %H:%M")
