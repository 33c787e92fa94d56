"""The file of the ledger: tables, triggers, and two notes of how long it was.

    ledger.sqlite            entries, heads held of peers, countersignatures
    ledger.marker            beside it: length and head after the last commit
    never-back-up/ledger     the same, where no back-up brings an old one back

A note is written after each commit, so it may lag behind the ledger and is never ahead of it. If
it is ahead, or names another head, the ledger is not the one that this node kept. If the one in
never-back-up/ is not there, nobody knows: the node trains only after `fedprint-node ledger recover`
has put one there. What a lagging note could hide is an entry whose update has not left: the note is
written before data is read.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from client.epochs import prepare
from client.home import NodeHome
from shared_model import canonical, files
from shared_model.ledger import NOTHING, Chain, LedgerFault

SCHEMA_VERSION = 1
_APPLICATION_ID = 0x66704C67  # "fpLg"
LOCK_TIMEOUT_S = 60.0
RECOVER = 'Run: fedprint-node ledger ask -o ask.json (docs/ledger.md, "Recover")'
MOVE_ASIDE = (
    "Do not train on these patients with another ledger. Put the newest copy of ledger.sqlite "
    "back, or move it aside; then " + RECOVER[0].lower() + RECOVER[1:]
)

_SCHEMA = """
CREATE TABLE identity (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
    schema_version INTEGER NOT NULL
);
CREATE TABLE entries (sequence INTEGER PRIMARY KEY, line BLOB NOT NULL);
CREATE TABLE peers (
    site TEXT PRIMARY KEY,
    length INTEGER NOT NULL,
    head TEXT NOT NULL,
    signature TEXT NOT NULL
);
CREATE TABLE countersignatures (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    run TEXT NOT NULL,
    round INTEGER NOT NULL,
    request BLOB NOT NULL,
    agreements TEXT NOT NULL,
    UNIQUE (run, round)
);
CREATE TRIGGER entries_are_never_deleted BEFORE DELETE ON entries
BEGIN SELECT RAISE(ABORT, 'entries of the ledger are never deleted'); END;
CREATE TRIGGER entries_are_never_changed BEFORE UPDATE ON entries
BEGIN SELECT RAISE(ABORT, 'entries of the ledger are never changed'); END;
CREATE TRIGGER entries_are_appended BEFORE INSERT ON entries
WHEN NEW.sequence <= (SELECT coalesce(max(sequence), 0) FROM entries)
BEGIN SELECT RAISE(ABORT, 'entries of the ledger are appended'); END;
CREATE TRIGGER peers_are_never_forgotten BEFORE DELETE ON peers
BEGIN SELECT RAISE(ABORT, 'heads of other hospitals are never forgotten'); END;
CREATE TRIGGER peers_only_grow BEFORE UPDATE ON peers
WHEN NEW.site IS NOT OLD.site OR NEW.length < OLD.length
    OR (NEW.length = OLD.length AND NEW.head IS NOT OLD.head)
BEGIN SELECT RAISE(ABORT, 'heads of other hospitals only grow'); END;
CREATE TRIGGER identity_is_never_changed BEFORE UPDATE ON identity
BEGIN SELECT RAISE(ABORT, 'the kind of the ledger is never changed'); END;
CREATE TRIGGER identity_is_never_deleted BEFORE DELETE ON identity
BEGIN SELECT RAISE(ABORT, 'the kind of the ledger is never deleted'); END;
"""


CACHE_KIB = 128
"""Of the file's pages in memory. SQLite's own 2 MB would fill with a ledger that is read once."""


def connect(path: Path) -> sqlite3.Connection:
    """A connection whose commits survive a power cut (rollback journal, synchronous EXTRA)."""
    connection = sqlite3.connect(path, timeout=LOCK_TIMEOUT_S, isolation_level=None)
    try:
        for pragma in (
            "journal_mode = DELETE",
            "synchronous = EXTRA",
            "fullfsync = ON",
            "trusted_schema = OFF",
            f"cache_size = -{CACHE_KIB}",
        ):
            connection.execute(f"PRAGMA {pragma}")
    except BaseException:
        connection.close()
        raise
    return connection


def create(home: NodeHome, *, never_trained: bool = True) -> None:
    """An empty ledger; one that is there stays as it is.

    never_trained: of a node that has booked nothing ever: with its notes, so that it is current.
        Else it is only a place for what is to come back.
    """
    path = home.ledger
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with closing(connect(path)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        try:
            count = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
            if count == 0:
                connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
                for statement in _statements(_SCHEMA):
                    connection.execute(statement)
                connection.execute("INSERT INTO identity VALUES (1, ?)", (SCHEMA_VERSION,))
            connection.execute("COMMIT")
        except BaseException:
            connection.rollback()
            raise
    path.chmod(0o600)
    files.sync_folder(path.parent)
    if never_trained and not has_notes(home):
        write_notes(home, 0, NOTHING)


def _statements(script: str) -> Iterator[str]:
    """Split at statement ends (`executescript` would commit the open transaction first)."""
    statement = ""
    for line in script.splitlines():
        statement += line + "\n"
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def check(connection: sqlite3.Connection) -> None:
    """Integrity, kind and version.

    Raises:
        LedgerFault: not a whole ledger of this version.
    """
    if connection.execute("PRAGMA application_id").fetchone()[0] != _APPLICATION_ID:
        raise refuse("The file is not a ledger.")
    if connection.execute("PRAGMA integrity_check").fetchone()[0] != "ok":
        raise refuse("The ledger's file is damaged.")
    row = connection.execute("SELECT schema_version FROM identity").fetchone()
    if row is None or row[0] != SCHEMA_VERSION:
        raise refuse(f"The ledger is not of version {SCHEMA_VERSION}, which this program reads.")


def write_notes(home: NodeHome, length: int, head: str) -> None:
    """Only after the commit of what they name."""
    prepare(home.never_back_up)
    data = canonical.encode({"length": length, "head": head})
    for path in (home.ledger_marker, home.ledger_note):
        files.write_atomic(path, data, mode=0o600)


def forget_note(home: NodeHome) -> None:
    """From now on nobody knows whether the ledger is current."""
    home.ledger_note.unlink(missing_ok=True)
    if home.never_back_up.is_dir():
        files.sync_folder(home.never_back_up)


@dataclass(frozen=True)
class Notes:
    """(length, head) as each note says; None where there is none. Read **before** the ledger, which
    another process may lengthen meanwhile."""

    marker: tuple[int, str] | None
    note: tuple[int, str] | None

    @classmethod
    def of(cls, home: NodeHome) -> Notes:
        """Raises:
        LedgerFault: one is damaged."""
        return cls(_read(home.ledger_marker), _read(home.ledger_note))

    def contained(self, chain: Chain) -> bool:
        """Whether nothing that this node knows of is missing from the chain."""
        return all(one is None or chain.head_at(one[0]) == one[1] for one in self)

    def __iter__(self) -> Iterator[tuple[int, str] | None]:
        return iter((self.marker, self.note))


def hold_against_notes(notes: Notes, chain: Chain) -> None:
    """The ledger is as new as this node knows.

    Raises:
        LedgerFault: shorter than a note says, or another ledger, or there is no note that no
            back-up brings back; names the first entry that is gone.
    """
    for note in notes:
        if note is None:
            continue
        length, head = note
        if length > chain.length:
            raise refuse(
                f"The ledger was put back from an older copy: it ends with entry {chain.length} "
                f"and had {length}; entry {chain.length + 1} is missing.",
                entry=chain.length + 1,
            )
        if chain.head_at(length) != head:
            raise refuse(
                f"The ledger is another one than this node has kept: entry {length} is not the "
                "one that it knows.",
                entry=length,
            )
    if notes.note is None:
        raise refuse(
            "This node was restored or moved: nobody here knows whether its ledger is the newest. "
            f"It ends with entry {chain.length}.",
            entry=chain.length,
            do="It trains again once other hospitals have said how far they saw it. " + RECOVER,
        )


def has_notes(home: NodeHome) -> bool:
    """Whether this node ever had a ledger."""
    return home.ledger_marker.exists() or home.ledger_note.exists()


def _read(path: Path) -> tuple[int, str] | None:
    try:
        data = path.read_bytes()
        content = json.loads(data)
        return int(content["length"]), str(content["head"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise refuse(
            f"{path.name} in {path.parent.name}/, which says how long the ledger was, is damaged.",
            do=f"Move {path} aside; then " + RECOVER[0].lower() + RECOVER[1:],
        ) from error


def refuse(message: str, *, entry: int = 0, do: str = MOVE_ASIDE) -> LedgerFault:
    return LedgerFault(message, entry=entry, do=do)
