"""The spend table of versions before the ledger, read once and booked in the ledger."""

from __future__ import annotations

import json
import math
import sqlite3
import stat
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client import ledger_file
from client.home import NodeHome
from client.ledger_store import LedgerStore
from shared_model import ledger_cost
from shared_model.errors import Refused
from shared_model.files import read_regular
from shared_model.ledger import NOTHING, Answered, Booked, Chain, Entry
from shared_model.ledger_spent import Tally

_LARGEST_MARKER = 4096
_LARGEST_TABLE = 64 * 2**20
_MOST_ROWS = 10_000
_MOST_PLANS = 64
"""Different prices of a step: each is composed with all others, for every row."""
_STEPS_AT_ONCE, _MOST_STEPS = 100_000, 200_000_000
"""Of SQLite's machine; reading 10,000 rows takes less than a million."""
_SCHEMA = """
CREATE TABLE identity (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
    schema_version INTEGER NOT NULL,
    table_id TEXT NOT NULL,
    delta REAL
);
CREATE TABLE rounds (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    run TEXT NOT NULL,
    round INTEGER NOT NULL,
    site TEXT NOT NULL,
    mode TEXT NOT NULL,
    unit TEXT NOT NULL,
    sample_rate REAL NOT NULL,
    noise_multiplier REAL NOT NULL,
    clipping_norm REAL NOT NULL,
    steps INTEGER NOT NULL,
    declared_patients INTEGER NOT NULL,
    delta REAL NOT NULL,
    noise TEXT NOT NULL,
    private INTEGER NOT NULL CHECK (private IN (0, 1)),
    model_digest TEXT NOT NULL,
    epsilon_lifetime_after REAL,
    epsilon_run_after REAL,
    reserved_at_s INTEGER NOT NULL,
    update_digest TEXT,
    settled_at_s INTEGER,
    UNIQUE (run, round)
);
CREATE TRIGGER rounds_are_never_deleted BEFORE DELETE ON rounds
BEGIN SELECT RAISE(ABORT, 'rows of the spend table are never deleted'); END;
CREATE TRIGGER rounds_are_settled_once BEFORE UPDATE ON rounds
WHEN OLD.update_digest IS NOT NULL OR NEW.update_digest IS NULL
    OR (OLD.sequence, OLD.run, OLD.round, OLD.site, OLD.mode, OLD.unit, OLD.sample_rate,
        OLD.noise_multiplier, OLD.clipping_norm, OLD.steps, OLD.declared_patients, OLD.delta,
        OLD.noise, OLD.private, OLD.model_digest, OLD.reserved_at_s)
    IS NOT (NEW.sequence, NEW.run, NEW.round, NEW.site, NEW.mode, NEW.unit, NEW.sample_rate,
        NEW.noise_multiplier, NEW.clipping_norm, NEW.steps, NEW.declared_patients, NEW.delta,
        NEW.noise, NEW.private, NEW.model_digest, NEW.reserved_at_s)
BEGIN SELECT RAISE(ABORT, 'rows of the spend table are settled once and never changed'); END;
CREATE TRIGGER delta_is_fixed_for_life BEFORE UPDATE ON identity
WHEN OLD.delta IS NOT NULL OR NEW.table_id IS NOT OLD.table_id
BEGIN SELECT RAISE(ABORT, 'delta is fixed for life'); END;
CREATE TRIGGER identity_is_never_deleted BEFORE DELETE ON identity
BEGIN SELECT RAISE(ABORT, 'the identity of the spend table is never deleted'); END;
"""
"""As version 0.1.0 made it, to the letter: a file whose schema is another one is not read."""
_ROUNDS = """
SELECT sequence, run, round, mode, sample_rate, noise_multiplier, clipping_norm, steps,
    declared_patients, delta, noise, private, model_digest, reserved_at_s, update_digest
FROM rounds ORDER BY sequence
"""
_LONGEST_CELL = 4096
_APPLICATION_ID = 0x66705370  # "fpSp"
_PRICE = ("sample_rate", "noise_multiplier")
_NOWHERE = (
    "Put the newest copy of spend.sqlite and spend.marker back. Do not train on these patients "
    "with an empty ledger."
)


def import_spend(
    home: NodeHome,
    site: str,
    key: Ed25519PrivateKey,
    delta: float,
    on_row: Callable[[int, int], None] = lambda done, of: None,
) -> int:
    """Make the ledger of a node that has none, with every row of its spend table; how many.

    All rows or none. Delta stays what it was fixed at; `delta` is for a node that never trained.

    Each row says what everything up to it costs: its time grows with the number of different plans
    and runs, and hardly with the rows before it: bookings of one price are one mechanism.

    Args:
        on_row: told after each row how many are computed, of how many; they are kept at the end.

    Raises:
        Refused: this node has, or had, a ledger, or its spend table is not whole ("ledger").
    """
    if home.ledger.exists():
        with LedgerStore.open(home, site, key, perhaps_old=True) as store:
            if store.chain.length:
                raise Refused(
                    "This node has a ledger already.",
                    reason="ledger",
                    do="See: fedprint-node ledger",
                )
    elif ledger_file.has_notes(home):
        raise ledger_file.refuse("The ledger is missing, though this node has one.")
    rows, fixed = _rows(home.spend)
    ledger_file.create(home, never_trained=not rows)
    if rows:  # killed before they are in, the ledger is not current, and this is run again
        with LedgerStore.open(home, site, key, perhaps_old=True) as store:
            store.take_over(lambda chain: _entries(chain, rows, on_row), fixed or delta)
    return len(rows)


def _rows(path: Path) -> tuple[list[dict[str, Any]], float | None]:
    marker = path.with_suffix(".marker")
    if not path.exists():
        if marker.exists():
            raise _refuse("The spend table is missing, though this node has trained before.")
        return [], None
    try:
        found = path.lstat()
        if not stat.S_ISREG(found.st_mode):
            raise _refuse("The spend table is not a regular file.")
        if found.st_size > _LARGEST_TABLE:
            raise _refuse("The spend table is far larger than any that was written.")
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as table:
            table.row_factory = sqlite3.Row
            table.execute("PRAGMA trusted_schema = OFF")
            table.execute("PRAGMA temp_store = MEMORY")
            table.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LONGEST_CELL)
            table.set_progress_handler(_patience(), _STEPS_AT_ONCE)
            if table.execute("PRAGMA application_id").fetchone()[0] != _APPLICATION_ID:
                raise _refuse("spend.sqlite is not a spend table.")
            if _schema_of(table) != _schema():  # before anything of it is computed
                raise _refuse("The spend table holds other things than it was made with.")
            if table.execute("PRAGMA integrity_check").fetchone()[0] != "ok":
                raise _refuse("The spend table is damaged.")
            one = table.execute("SELECT schema_version, table_id, delta FROM identity").fetchone()
            version, name, delta = one
            every = table.execute(_ROUNDS)
            rows = [dict(row) for row in every.fetchmany(_MOST_ROWS + 1)]
            last = table.execute("SELECT seq FROM sqlite_sequence WHERE name = 'rounds'").fetchone()
            count = int(last["seq"]) if last else 0
            numbers = [row["sequence"] for row in rows]
    except (sqlite3.Error, KeyError, TypeError, ValueError, OverflowError, OSError) as error:
        # what a file says is not repeated: type alone
        raise _refuse(f"The spend table cannot be read ({type(error).__name__}).") from error
    if len(rows) > _MOST_ROWS:
        raise _refuse(f"The spend table has more than {_MOST_ROWS} rows.")
    if version != 1:
        raise _refuse("The spend table has a version that nobody wrote.")
    if len(rows) != count or numbers != list(range(1, count + 1)):
        raise _refuse("Rows of the spend table are missing.")
    if rows and not (isinstance(delta, float) and 0.0 < delta < 1.0):
        raise _refuse("The spend table's delta makes no sense.")
    _hold_against_marker(marker, name, len(rows))
    return rows, delta


def _schema_of(table: sqlite3.Connection) -> list[tuple[object, ...]]:
    """Everything in it with the words that made it, as far as it can be our own."""
    found = table.execute("SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY type, name")
    return [tuple(row) for row in found.fetchmany(32)]


def _schema() -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(":memory:")) as made:
        made.executescript(_SCHEMA)
        return _schema_of(made)


def _patience() -> Callable[[], int]:
    """Ends a query that a hostile file makes endless."""
    left = _MOST_STEPS // _STEPS_AT_ONCE

    def go_on() -> int:
        nonlocal left
        left -= 1
        return int(left < 0)

    return go_on


def _hold_against_marker(marker: Path, name: str, rows: int) -> None:
    if not marker.exists():
        return
    try:
        content = json.loads(read_regular(marker, _LARGEST_MARKER))
        known, least = str(content["table_id"]), int(content["rows"])
    except (
        Refused,
        ValueError,
        KeyError,
        TypeError,
        OverflowError,
        RecursionError,
        OSError,
    ) as error:
        raise _refuse("The spend table's marker is damaged.") from error
    if known != name or least > rows:
        raise _refuse("The spend table is older than it was, or another one.")


def _entries(
    chain: Chain, rows: list[dict[str, Any]], on_row: Callable[[int, int], None]
) -> Iterator[Entry]:
    """What the table never knew (request, roster, transcript, code) is zero."""
    plans = {tuple(row[name] for name in _PRICE) for row in rows}
    if len(plans) > _MOST_PLANS:
        raise _refuse(f"The spend table has more than {_MOST_PLANS} different plans.")
    sequence, tally = chain.length, Tally()
    on_row(0, len(rows))
    for done, row in enumerate(rows, 1):
        sequence += 1
        try:
            if row["private"] not in {0, 1}:  # a blob of zero is true
                raise ValueError
            draft = Booked(
                site=chain.site,
                sequence=sequence,
                run=row["run"],
                round=row["round"],
                purpose="pretrain",
                mode=row["mode"],
                sample_rate=row["sample_rate"],
                noise_multiplier=row["noise_multiplier"],
                clipping_norm=row["clipping_norm"],
                steps=row["steps"],
                declared_patients=row["declared_patients"],
                delta=row["delta"],
                noise=row["noise"],
                private=bool(row["private"]),
                model_in=row["model_digest"],
                request_digest=NOTHING,
                code_digest=NOTHING,
                roster_digest=NOTHING,
                transcript=NOTHING,
                participants=1,
                threshold=1,
                colluding_sites=0,
                minimum_contributors=1,
                dimension=0,
                limit_lifetime=None,
                limit_run=None,
                epsilon_lifetime=None,
                epsilon_run=None,
                outsider_epsilon_lifetime=None,
                time_s=row["reserved_at_s"],
            )
            answered = None
            if row["update_digest"] is not None:
                answered = Answered(
                    site=chain.site,
                    sequence=sequence + 1,
                    booking=draft.sequence,
                    run=draft.run,
                    round=draft.round,
                    update_digest=row["update_digest"],
                )
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            raise _refuse(f"Row {row['sequence']} of the spend table makes no sense.") from error
        tally.take(draft)
        spent = tally.spent()
        lifetime = _finite(ledger_cost.epsilon(spent, draft.delta)[0])
        yield draft.model_copy(
            update={
                "epsilon_lifetime": lifetime,
                "epsilon_run": _finite(
                    ledger_cost.epsilon(spent.of_run(draft.run), draft.delta)[0]
                ),
                "outsider_epsilon_lifetime": lifetime,
            }
        )
        if answered is not None:
            sequence += 1
            yield answered
        on_row(done, len(rows))


def _finite(epsilon: float) -> float | None:
    return epsilon if math.isfinite(epsilon) else None


def _refuse(message: str) -> Refused:
    return Refused(message, reason="ledger", do=_NOWHERE)
