"""The privacy ledger of this hospital on its disk: every private step of its patients.

Written ahead: an entry is on the disk before data is read, so that a crash can overstate what was
spent and never understate it. Looking up the history, composing it with the new round, comparing
with the budget and appending the entry are one SQLite transaction that locks out other processes.

    with LedgerStore.open(home, site, key) as store:
        store.reserve(draft, budget)            # `booked`, or BudgetExhausted
        store.answered(run, round, digest)      # before the update leaves
        store.chain                             # verified: `shared_model.ledger.Chain`
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from client import ledger_peers
from client.budget import Budget
from client.ledger_chain import ChainInFile
from client.ledger_peers import Countersigned
from shared_model import ledger, ledger_cost
from shared_model.errors import OurMistake, Refused
from shared_model.ledger import (
    Answered,
    Approved,
    Booked,
    Chain,
    HandedOver,
    Incident,
    LedgerHead,
)

__all__ = ["Budget", "LedgerStore"]

MOST_INCIDENTS = 1000
"""Whoever holds the coordinator's key could make an honest node's ledger grow without end."""


class LedgerStore(ChainInFile):
    """Opened by `LedgerStore.open`; usable by several processes at once."""

    # The hospital's own entries

    def reserve(self, draft: Booked, budget: Budget) -> Booked:
        """Book a round before anything is trained; on the disk when this returns.

        The very same booking again (a node that was killed goes on) changes nothing: the entry that
        is there is returned, and no budget is asked, because nothing more is spent.

        Composes everything that was ever booked here (and all of the run) with the new round. A
        round with noise that is not private costs infinity, and so does everything with it.

        Args:
            draft: the round; its sequence, limits and epsilons are filled in here.

        Raises:
            BudgetExhausted: the hospital's or the run's epsilon would be crossed.
            Refused: reason "replay": this (run, round) is booked for another request: answer with
                the stored reply or not at all; reason "interrupted": it is booked for this request
                with other code, roster, plan or noise; reason "delta": not the delta that this
                ledger began with.
        """
        if draft.delta != budget.delta:
            raise OurMistake("The delta of the round and of the budget differ.")

        def made(chain: Chain) -> Booked | None:
            before = chain.booking(draft.run, draft.round)
            if before is not None:
                _refuse_another(draft, before)
                return None
            spent, delta = chain.spent(), budget.delta
            lifetime, _ = ledger_cost.epsilon(spent, delta, [draft])
            outsider, _ = ledger_cost.epsilon(spent, delta, [draft], colluding=0)
            of_run, _ = ledger_cost.epsilon(spent.of_run(draft.run), delta, [draft])
            budget.hold(lifetime, of_run)
            return draft.model_copy(
                update={
                    "sequence": chain.length + 1,
                    "limit_lifetime": _finite(budget.epsilon_lifetime),
                    "limit_run": _finite(budget.epsilon_per_run),
                    "epsilon_lifetime": _finite(lifetime),
                    "epsilon_run": _finite(of_run),
                    "outsider_epsilon_lifetime": _finite(outsider),
                    "time_s": self.now_s,
                }
            )

        self._append(made, budget.delta)
        found = self.chain.booking(draft.run, draft.round)
        if found is None:
            raise OurMistake("A booking was not written.")
        return found

    def answered(self, run: str, round: int, body_digest: str) -> None:
        """Record, once, the digest of the body that leaves.

        Raises:
            Refused: the round is not booked, or was answered with another body ("ledger").
        """

        def made(chain: Chain) -> Answered | None:
            booking = chain.booking(run, round)
            if booking is None:
                raise Refused("A round that was answered is not booked.", reason="ledger")
            before = chain.answer(run, round)
            if before is None:
                return Answered(
                    site=self._site,
                    sequence=chain.length + 1,
                    booking=booking.sequence,
                    run=run,
                    round=round,
                    update_digest=body_digest,
                )
            if before.update_digest != body_digest:
                raise Refused("A round was answered with another update.", reason="ledger")
            return None

        self._append(made)

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
        """Record the yes to a run's plan: for so many rounds from now on.

        The same yes again, before a round was booked, changes nothing.

        Args:
            delta: of the policy; fixed for life if this is the first entry.
        """

        def made(chain: Chain) -> Approved | None:
            last, since = chain.approval(run)
            same = last is not None and (
                (last.plan_digest, last.bookings) == (plan_digest, bookings)
            )
            if same and since == 0:
                return None
            return Approved(
                site=self._site,
                sequence=chain.length + 1,
                run=run,
                plan_digest=plan_digest,
                bookings=bookings,
                epsilon_run=_finite(epsilon_run),
                by=by,
                time_s=self.now_s,
            )

        self._append(made, delta)
        found, _ = self.chain.approval(run)
        if found is None:
            raise OurMistake("An approval was not written.")
        return found

    def incident(self, run: str, round: int, reason: str, delta: float) -> None:
        """Record what no honest coordinator asks: once for these three, and at most a thousand."""

        def made(chain: Chain) -> Incident | None:
            if chain.has_incident(run, round, reason) or chain.count(Incident) >= MOST_INCIDENTS:
                return None
            return Incident(
                site=self._site, sequence=chain.length + 1, run=run, round=round, reason=reason
            )

        self._append(made, delta)

    def hand_over(self, heir: bytes) -> None:
        """The last entry under this key: what follows is signed by the heir (32 raw bytes)."""

        def made(chain: Chain) -> HandedOver:
            return HandedOver(
                site=self._site,
                sequence=chain.length + 1,
                previous_key=chain.identity_key.hex(),
                identity_key=heir.hex(),
                time_s=self.now_s,
            )

        self._heir = heir
        self._append(made)

    def epsilon(self, *, run: str | None = None) -> float:
        """What was spent, over everything or over one run; infinity after a non-private round."""
        spent = self.chain.spent()
        if self.chain.delta is None:
            return 0.0
        chosen = spent if run is None else spent.of_run(run)
        return ledger_cost.epsilon(chosen, self.chain.delta)[0]

    def signed_head(self) -> LedgerHead:
        """What others keep of this ledger."""
        return ledger.sign_head(self._key, self._site, self.chain.length, self.chain.head)

    # The other hospitals'

    def see(
        self,
        heads: Mapping[str, LedgerHead],
        links: Mapping[str, Sequence[str]],
        identity_keys: Mapping[str, bytes],
    ) -> None:
        """See `client.node_interfaces.Witness`; this hospital's own head is not looked at."""
        with self._transaction() as connection:
            others = {site: head for site, head in heads.items() if site != self._site}
            ledger_peers.see(connection, others, links, identity_keys)

    def accept_peer(self, site: str, old: LedgerHead, new: LedgerHead) -> None:
        """See `ledger_peers.accept`."""
        with self._transaction() as connection:
            ledger_peers.accept(connection, site, old, new)

    def peers(self) -> dict[str, LedgerHead]:
        """The newest head held of each other hospital."""
        return ledger_peers.peers(self._connection)

    def keep_countersigned(self, new: Countersigned) -> None:
        """See `client.node_interfaces.Witness`."""
        with self._transaction() as connection:
            ledger_peers.keep_countersigned(connection, new)

    def countersigned(self) -> tuple[Countersigned, ...]:
        """Who countersigned the last rounds."""
        return ledger_peers.countersigned(self._connection)


_FILLED_IN = frozenset(
    {
        *("sequence", "time_s", "limit_lifetime", "limit_run"),
        *("epsilon_lifetime", "epsilon_run", "outsider_epsilon_lifetime"),
    }
)


def _refuse_another(draft: Booked, before: Booked) -> None:
    """Raises Refused unless the draft is the booking that is there."""
    if draft.model_dump(exclude=set(_FILLED_IN)) == before.model_dump(exclude=set(_FILLED_IN)):
        return
    if draft.request_digest != before.request_digest:
        raise Refused(
            f"Round {draft.round} of this run is booked already.",
            reason="replay",
            do="Send the stored reply again; a new attempt is a new round.",
        )
    raise Refused(
        f"Round {draft.round} of this run was booked with other code, roster, plan or noise.",
        reason="interrupted",
    )


def _finite(epsilon: float) -> float | None:
    return epsilon if epsilon < float("inf") else None
