"""The privacy ledger of this hospital on its disk: every private step of its patients.

Written ahead: an entry is on the disk before data is read, so that a crash can overstate what was
spent and never understate it. Looking up the history, composing it with the new round, comparing
with the budget and appending the entry are one SQLite transaction that locks out other processes.

    with LedgerStore.open(home, site, key) as store:
        store.reserve(draft, budget)            # `booked`, or BudgetExhausted
        store.answered(run, round, digest)      # before the update leaves
        store.chain                             # verified: `shared_model.ledger.Chain`

A process verifies each entry once: the first opening checks every signature (about 0.2 ms an
entry), later ones the entries that are new. What they add up to stays in memory, and 80 bytes of
each: an edit under a running node changes nothing of what it counts. Entries themselves stay in the
file; one that was edited meanwhile is refused when it is asked for, and by the next process.
"""

from __future__ import annotations

import secrets
import sqlite3
import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Literal, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client import ledger_file, ledger_peers
from client.budget import Budget
from client.home import NodeHome
from client.ledger_file import MOVE_ASIDE, refuse
from client.ledger_peers import Countersigned
from client.ledger_rows import MAX_ROW, PAGE, OpenRows, Rows, rows
from shared_model import ledger, ledger_cost, protocol, signing
from shared_model.errors import OurMistake, Refused
from shared_model.ledger import (
    Answered,
    Approved,
    Booked,
    Chain,
    Entry,
    HandedOver,
    Incident,
    LedgerFault,
    LedgerHead,
    Link,
    Opened,
)

__all__ = ["Budget", "LedgerStore"]

MOST_INCIDENTS = 1000
"""Whoever holds the coordinator's key could make an honest node's ledger grow without end."""

_verified: dict[tuple[str, str, bytes], Chain] = {}
"""What this process has verified, by file, site and key; no entry of it is held in memory."""


class LedgerStore:
    """Opened by `LedgerStore.open`; usable by several processes at once."""

    def __init__(
        self,
        home: NodeHome,
        site: str,
        key: Ed25519PrivateKey,
        connection: sqlite3.Connection,
        clock: Callable[[], float],
    ) -> None:
        self._home, self._site, self._key = home, site, key
        self._connection = connection
        self._clock = clock
        self._rows = OpenRows(home.ledger, connection)
        self._name = (str(home.ledger), site, signing.public_bytes(key))
        self.chain = Chain(site, signing.public_bytes(key))
        self._heir = b""
        self._notes = ledger_file.Notes(None, None)

    @classmethod
    def open(
        cls,
        home: NodeHome,
        site: str,
        key: Ed25519PrivateKey,
        *,
        clock: Callable[[], float] = time.time,
        perhaps_old: bool = False,
    ) -> Self:
        """The ledger of this node's folder, verified.

        Args:
            key: the hospital's identity key.
            perhaps_old: also a ledger of which nobody knows if it is current, or that is known to
                be older than it was: to look at, and to recover. Nothing can be appended.

        Raises:
            LedgerFault: absent, damaged, edited, truncated, exchanged or put back from an older
                copy; names the entry, and says what to do.
        """
        if not home.ledger.exists():
            raise _absent(home)
        try:
            connection = ledger_file.connect(home.ledger)
        except sqlite3.DatabaseError as error:
            raise _unreadable(error) from error
        try:
            store = cls(home, site, key, connection, clock)
            if store._name not in _verified:
                ledger_file.check(connection)
            store._read()
            if not perhaps_old:
                store.check_current()
        except sqlite3.DatabaseError as error:
            connection.close()
            raise _unreadable(error) from error
        except BaseException:
            connection.close()
            raise
        return store

    def close(self) -> None:
        """A chain that was got from here reads the file by itself from now on."""
        self._rows.close()
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def check_current(self) -> None:
        """The ledger is as new as this node knows.

        Raises:
            LedgerFault: it is older, another one, or nobody knows.
        """
        ledger_file.hold_against_notes(self._notes, self.chain)

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

    @property
    def now_s(self) -> int:
        return int(self._clock())

    # The other hospitals'

    def see(
        self,
        heads: Mapping[str, LedgerHead],
        links: Mapping[str, Sequence[str]],
        identity_keys: Mapping[str, bytes],
    ) -> None:
        """See `client.round.Witness`; this hospital's own head is not looked at."""
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
        """See `client.round.Witness`."""
        with self._transaction() as connection:
            ledger_peers.keep_countersigned(connection, new)

    def countersigned(self) -> tuple[Countersigned, ...]:
        """Who countersigned the last rounds."""
        return ledger_peers.countersigned(self._connection)

    # Appending

    def restore(
        self,
        own: Chain,
        lines: Iterable[bytes],
        last: Callable[[Chain], Entry],
        *,
        begin: float | None = None,
    ) -> Link:
        """Take back entries that were lost, then `last`; from then on the ledger is current.

        Args:
            own: this ledger as the caller saw it. begin: delta of a ledger without a first entry.

        Raises:
            LedgerFault: the lines do not continue this ledger, or it has grown meanwhile.
        """
        with self._transaction():
            self._read()
            if self.chain.head != own.head:
                raise refuse("The ledger has changed meanwhile.", do="Run the command again.")
            chain = self.chain if begin is None else self._begun(begin)
            chain = self._insert(chain, lines)
            chain = self._insert(chain, [ledger.seal(last(chain), self._key)])
        self._committed(chain)
        return chain.links[-1]

    def take_over(self, entries: Callable[[Chain], Iterable[Entry]], delta: float) -> None:
        """The first entries of a ledger that follows other books, all at once.

        Raises:
            Refused: there are entries already ("replay").
        """
        with self._transaction():
            self._read()
            if self.chain.length:
                raise Refused("The ledger has entries already.", reason="replay")
            chain = self._begun(delta)
            for entry in entries(chain):
                chain = self._insert(chain, [ledger.seal(entry, self._key)])
        self._committed(chain)

    def _append(
        self, make: Callable[[Chain], Entry | None], delta: float | None = None
    ) -> Link | None:
        """One entry, which may depend on all that was there, in one transaction; None for none."""
        with self._transaction():
            self._read()
            self.check_current()
            chain = self.chain
            if chain.length == 0 and delta is not None:
                chain = self._begun(delta)
            elif delta is not None and chain.delta != delta:
                raise Refused(
                    f"This hospital's delta was fixed at {chain.delta:g}; the policy now says "
                    f"{delta:g}.",
                    reason="delta",
                    do="Put the first delta back into policy.toml.",
                )
            entry = make(chain)
            if entry is not None:
                chain = self._insert(chain, [ledger.seal(entry, self._key)])
        if entry is None and self._is_noted(chain):
            return None
        self._committed(chain)
        return None if entry is None else chain.links[-1]

    def _begun(self, delta: float) -> Chain:
        opened = Opened(
            site=self._site,
            sequence=1,
            ledger=secrets.token_hex(16),
            identity_key=self.chain.identity_key.hex(),
            delta=delta,
            software=protocol.software(),
            time_s=self.now_s,
        )
        return self._insert(self.chain, [ledger.seal(opened, self._key)])

    def _insert(self, chain: Chain, lines: Iterable[bytes]) -> Chain:
        """Only what continues the chain is ever written."""
        longer = chain.extended(lines)
        for link in longer.links[len(chain.links) :]:
            self._connection.execute(
                "INSERT INTO entries VALUES (?, ?)", (link.entry.sequence, link.line)
            )
        return longer

    def _committed(self, chain: Chain) -> None:
        """Note it; one process at a time, else a slow one puts a shorter note over a longer."""
        self._know(chain)
        with self._transaction():
            self._read()
            if self.chain.head_at(chain.length) != chain.head:
                raise refuse("The ledger was exchanged while an entry was written.")
            ledger_file.write_notes(self._home, self.chain.length, self.chain.head)

    def _is_noted(self, chain: Chain) -> bool:
        """Whether both notes name its end; killed between a commit and its notes, they do not. What
        goes on with that entry is about to read data, or to let an update leave."""
        return all(one == (chain.length, chain.head) for one in self._notes)

    def _know(self, chain: Chain) -> None:
        """It is in the file, so none of it needs to stay in memory."""
        _verified[self._name] = chain.at(Rows(self._home.ledger))
        self.chain = chain.at(self._rows)

    def _read(self) -> None:
        """Verify what this process has not verified yet."""
        self._notes = ledger_file.Notes.of(self._home)
        chain = _verified.get(self._name, Chain(self._site, self._name[2]))
        if not self._still_holds(chain):
            chain = Chain(self._site, self._name[2])
        places = array("q")
        try:
            longer = chain.extended(self._new_lines(chain.length, places), at=self._rows)
        except LedgerFault as error:
            raise refuse(f"The ledger is not whole. {error.message}", entry=error.entry) from error
        for at, place in enumerate(places, len(chain.links)):
            if place != longer.number(at):
                raise refuse(f"Entry {place} is in another's place.", entry=place)
        if longer.identity_key != self._heir:
            self._refuse_another_key(longer)
        self._know(longer)

    def _new_lines(self, after: int, places: array[int]) -> Iterator[bytes]:
        """Lines beyond this number, page by page; where they lie is added to `places`."""
        while found := rows(self._connection, after, MAX_ROW, PAGE):
            for place, line in found:
                places.append(place)
                yield line
            after = found[-1][0]

    def _refuse_another_key(self, chain: Chain) -> None:
        try:
            chain.check_key(self._name[2])
        except LedgerFault as error:
            do = MOVE_ASIDE + '. A key that was lost: docs/ledger.md, "A lost key"'
            if len(chain.keys) > 1:
                do = "If a rotation was cut off: fedprint-node rotate-key --finish; else " + do
            raise refuse(
                f"The ledger is not whole. {error.message}", entry=error.entry, do=do
            ) from error

    def _still_holds(self, chain: Chain) -> bool:
        """Whether the file is the one that was verified, by its first and last entry."""
        ends = {chain.number(0), chain.length} if chain.length else ()
        return all(
            (found := rows(self._connection, number - 1, number)) and chain.holds(*found[0])
            for number in ends
        )

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """One writer at a time across processes; durable at the end, undone by any exception."""
        try:
            self._connection.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            raise refuse(f"The ledger cannot be written ({error}).") from error
        try:
            yield self._connection
        except sqlite3.Error as error:
            self._connection.rollback()
            raise refuse(f"The ledger cannot be read or written ({error}).") from error
        except BaseException:
            self._connection.rollback()
            raise
        self._commit()

    def _commit(self) -> None:
        try:
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._connection.rollback()
            raise refuse(f"The ledger cannot be written ({error}).") from error


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


def _unreadable(error: sqlite3.Error) -> LedgerFault:
    return refuse(f"The ledger's file cannot be read ({error}).")


def _absent(home: NodeHome) -> LedgerFault:
    if home.spend.exists() or home.spend.with_suffix(".marker").exists():
        return refuse(
            "This node has a spend table of an earlier version and no ledger.",
            do="Run: fedprint-node ledger import-spend",
        )
    if ledger_file.has_notes(home):
        return refuse("The ledger is missing, though this node has one.")
    return refuse(
        "This node has no ledger.",
        do="If it never trained, with this or an earlier version: fedprint-node ledger "
        "import-spend. If it was restored: fedprint-node ledger ask -o ask.json (docs/ledger.md)",
    )


def _finite(epsilon: float) -> float | None:
    return epsilon if epsilon < float("inf") else None
