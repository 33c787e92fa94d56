"""The file of the spend table: its tables, its triggers, its marker, and what makes it refused."""

from __future__ import annotations

import json
import secrets
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from shared_model import files
from shared_model.errors import Refused

SCHEMA_VERSION = 1
_APPLICATION_ID = 0x66705370  # "fpSp"
LOCK_TIMEOUT_S = 60.0
_RECOVER = (
    "Put the newest copy of spend.sqlite back, or have the privacy officer decide how much of "
    "the budget to count as spent. Do not train on these patients with an empty table."
)

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


def create(connection: sqlite3.Connection, path: Path) -> None:
    """Make the tables unless another process just did; never touches a table that is there."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        count = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if count == 0:
            connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
            for statement in _statements(_SCHEMA):
                connection.execute(statement)
            connection.execute(
                "INSERT INTO identity VALUES (1, ?, ?, NULL)",
                (SCHEMA_VERSION, secrets.token_hex(16)),
            )
        connection.execute("COMMIT")
    except BaseException:
        connection.rollback()
        raise
    path.chmod(0o600)
    files.sync_folder(path.parent)


def _statements(script: str) -> Iterator[str]:
    """Split at statement ends (`executescript` would commit the open transaction first)."""
    statement = ""
    for line in script.splitlines():
        statement += line + "\n"
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def check(connection: sqlite3.Connection) -> str:
    """Integrity, kind and version; the table's id."""
    answer = connection.execute("PRAGMA integrity_check").fetchone()[0]
    if answer != "ok":
        raise refuse("The spend table is damaged.")
    if connection.execute("PRAGMA application_id").fetchone()[0] != _APPLICATION_ID:
        raise refuse("The file is not a spend table.")
    version, table_id = connection.execute(
        "SELECT schema_version, table_id FROM identity"
    ).fetchone()
    if version != SCHEMA_VERSION:
        raise refuse(f"The spend table has version {version}, this program {SCHEMA_VERSION}.")
    return str(table_id)


def _marker(path: Path) -> Path:
    return path.with_suffix(".marker")


@dataclass(frozen=True)
class Marker:
    """Says that there is a table, which, and how many rows it had at least."""

    table_id: str
    rows: int


def write_marker(path: Path, marker: Marker) -> None:
    """Only after the commit of a row, so it is never ahead of the table; lagging does no harm."""
    data = json.dumps({"table_id": marker.table_id, "rows": marker.rows}).encode()
    files.write_atomic(_marker(path), data, mode=0o600)


def read_marker(path: Path) -> Marker | None:
    """None if this node never had a table.

    Raises:
        Refused: damaged.
    """
    try:
        data = _marker(path).read_bytes()
    except FileNotFoundError:
        return None
    try:
        marker = json.loads(data)
        return Marker(table_id=str(marker["table_id"]), rows=int(marker["rows"]))
    except (ValueError, KeyError, TypeError) as error:
        raise refuse("The spend table's marker is damaged.") from error


def refuse(message: str) -> Refused:
    return Refused(message, reason="spend_table", do=_RECOVER)
