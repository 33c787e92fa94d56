"""The chain of entries in the ledger's file: opened, verified, and appended to; nothing else.

What its entries say is `client.ledger_store`'s. Looking at all that was there and appending what
follows from it are one SQLite transaction that locks out other processes; the notes beside the file
(`client.ledger_file`) say how long it was and where it ended.

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
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client import ledger_file
from client.home import NodeHome
from client.ledger_file import MOVE_ASIDE, refuse
from client.ledger_rows import MAX_ROW, PAGE, OpenRows, Rows, rows
from shared_model import ledger, protocol, signing
from shared_model.errors import Refused
from shared_model.ledger import Chain, Entry, LedgerFault, Link, Opened

_verified: dict[tuple[str, str, bytes], Chain] = {}
"""What this process has verified, by file, site and key; no entry of it is held in memory."""


class ChainInFile:
    """Opened by `ChainInFile.open`; usable by several processes at once."""

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

    @property
    def now_s(self) -> int:
        return int(self._clock())

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
