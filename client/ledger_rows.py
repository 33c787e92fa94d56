"""Entries of this hospital's ledger, read from its file when they are asked for.

What was verified is known by its digest (`shared_model.ledger_lines`), so that an edit under a
running node is refused when the entry is asked for, and changes nothing until then.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from client import ledger_file
from shared_model.ledger import LedgerFault, Lines
from shared_model.ledger_lines import Marks

PAGE = 256
"""Rows that one query fetches. Between two of them another process can write."""
MAX_ROW = 2**63 - 1


class Rows(Lines):
    """Implements `shared_model.ledger.Lines` over `ledger.sqlite`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self, marks: Marks, first: int, last: int) -> Iterator[bytes]:
        """See `Lines`. None of its connections is open while its reader looks at a line: a reading
        that was broken off may be thrown away by another thread, which could not close one.

        Raises:
            LedgerFault: the file is no ledger any more, or cannot be read.
        """
        try:
            for begin in range(first, last, PAGE):
                with closing(self._connection()) as connection:
                    page = _page(connection, marks, begin, last)
                yield from page
        except sqlite3.Error as error:
            raise ledger_file.refuse(f"The ledger's file cannot be read ({error}).") from error

    def _connection(self) -> sqlite3.Connection:
        if not self._path.exists():  # sqlite would make an empty one
            raise self.changed(0)
        return ledger_file.connect(self._path)

    def changed(self, entry: int) -> LedgerFault:
        return ledger_file.refuse(
            f"Entry {entry} is not the one that this process has verified: the ledger's file was "
            "changed under it.",
            entry=entry,
        )


class OpenRows(Rows):
    """The same through the connection of an open store, in the thread that opened it.

    It sees what the store's own transaction has written, and waits for nobody.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        super().__init__(path)
        self._open: sqlite3.Connection | None = connection
        self._thread = threading.get_ident()

    def close(self) -> None:
        """The store is closed; chains that it gave away read by themselves from now on."""
        self._open = None

    def read(self, marks: Marks, first: int, last: int) -> Iterator[bytes]:
        """See `Rows`."""
        connection = self._open
        if connection is None or threading.get_ident() != self._thread:
            yield from super().read(marks, first, last)
            return
        try:
            for begin in range(first, last, PAGE):
                yield from _page(connection, marks, begin, last)
        except sqlite3.Error as error:
            raise ledger_file.refuse(f"The ledger's file cannot be read ({error}).") from error


def _page(connection: sqlite3.Connection, marks: Marks, begin: int, last: int) -> list[bytes]:
    """What lies at the places from `begin` on, before `last`: no more than `PAGE`."""
    end = min(begin + PAGE, last) - 1
    return [line for _, line in rows(connection, marks.number(begin) - 1, marks.number(end))]


def rows(
    connection: sqlite3.Connection, after: int, last: int, most: int = -1
) -> list[tuple[int, bytes]]:
    """(number, line) of the entries with numbers after ... last, at most so many."""
    found = connection.execute(
        "SELECT sequence, line FROM entries WHERE sequence > ? AND sequence <= ?"
        " ORDER BY sequence LIMIT ?",
        (after, last, most),
    ).fetchall()
    if not all(type(sequence) is int for sequence, _ in found):
        raise ledger_file.refuse("The ledger's file numbers its entries with something else.")
    return [(sequence, _bytes(line)) for sequence, line in found]


def _bytes(line: object) -> bytes:
    """What lies in the file; an editor may have left something else than bytes."""
    return line if isinstance(line, bytes) else str(line).encode()
