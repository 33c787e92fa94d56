"""A node of a version before the ledger: every row of its spend table is booked, or none."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import sqlite3
from pathlib import Path

import pytest
from books_stand_ins import BUDGET, KEY, SITE, D, book, open_store
from rich.console import Console
from typer.testing import CliRunner

from client import cli_node, spend_import
from client.cli import app
from client.home import NodeHome
from client.ledger_store import LedgerStore
from client.spend_import import import_spend
from shared_model import terminal
from shared_model.accounting import epsilon_pld
from shared_model.config import PrivacyPlan
from shared_model.errors import BudgetExhausted, Refused
from shared_model.ledger import Booked

PLAN = PrivacyPlan(sample_rate=0.1, noise_multiplier=2.0, clipping_norm=1.0, steps=20)
_IDENTITY = "INSERT INTO identity VALUES (1, 1, 'fedcba', 1e-06)"


def spend_table(home: NodeHome, rounds: int) -> None:
    """As version 0.1.0 wrote it; the last round was never answered."""
    home.make()
    with sqlite3.connect(home.spend) as table:
        table.execute(f"PRAGMA application_id = {spend_import._APPLICATION_ID}")
        table.executescript(spend_import._SCHEMA)
        table.execute(_IDENTITY)
        for number in range(1, rounds + 1):
            table.execute(
                "INSERT INTO rounds (run, round, site, mode, unit, sample_rate, noise_multiplier,"
                " clipping_norm, steps, declared_patients, delta, noise, private, model_digest,"
                " reserved_at_s, update_digest) VALUES ('old', ?, 'alpha', 'local', 'patient', 0.1,"
                " 2.0, 1.0, 20, 100, 1e-06, 'system entropy', 1, ?, 1700000000, ?)",
                (number, D, None if number == rounds else D),
            )
    marker = {"table_id": "fedcba", "rows": rounds}
    home.spend.with_suffix(".marker").write_text(json.dumps(marker))


def changed(home: NodeHome, statement: str) -> None:
    """A statement that the triggers of a real table forbid; they are put back afterwards."""
    with sqlite3.connect(home.spend) as table:
        found = table.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'")
        triggers = found.fetchall()
        for name, _ in triggers:
            table.execute(f"DROP TRIGGER {name}")
        table.execute("PRAGMA ignore_check_constraints = ON")
        table.execute(statement)
        there = {row[0] for row in table.execute("SELECT name FROM sqlite_master")}
        for _, words in triggers:
            if "rounds" in there or " ON rounds" not in words:
                table.execute(words)


def refused(home: NodeHome, match: str) -> None:
    """In these words, and not one row is booked."""
    with pytest.raises(Refused, match=match):
        import_spend(home, SITE, KEY, 1e-5)
    if home.ledger.exists():
        with open_store(home, perhaps_old=True) as store:
            assert store.chain.length == 0


@pytest.fixture
def home(tmp_path: Path) -> NodeHome:
    found = NodeHome(tmp_path / "node")
    spend_table(found, 3)
    return found


def test_every_row_counts_for_ever(home: NodeHome) -> None:
    """Booked with its own plan, delta and time, answered if it was; what comes adds up."""
    with pytest.raises(Refused, match="import-spend"):
        open_store(home)
    assert import_spend(home, SITE, KEY, 1e-5) == 3
    with open_store(home) as store:
        kinds = [link.entry.kind for link in store.chain.links]
        assert kinds == ["opened", "booked", "answered", "booked", "answered", "booked"]
        assert store.chain.delta == 1e-6
        assert store.epsilon() == epsilon_pld([PLAN] * 3, 1e-6)
        last = store.chain.links[-1].entry
        assert isinstance(last, Booked)
        assert (last.epsilon_lifetime, last.time_s) == (store.epsilon(), 1_700_000_000)
        with pytest.raises(Refused, match="fixed"):
            book(store)
        with pytest.raises(BudgetExhausted):
            book(store, "new", 1, BUDGET.__class__(store.epsilon() + 1e-3, 2.0, 1e-6))


def test_an_import_says_how_far_it_is(home: NodeHome) -> None:
    """Row by row, and before the first how many there are: hundreds of rows take minutes."""
    told: list[tuple[int, int]] = []
    import_spend(home, SITE, KEY, 1e-5, lambda done, of: told.append((done, of)))
    assert told == [(0, 3), (1, 3), (2, 3), (3, 3)]


def test_the_command_shows_a_bar_beside_its_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On stderr, with the rows that are done and the time left."""
    home = NodeHome(tmp_path / "made")
    cli_node.init(SITE, 100, home.root)
    home.ledger.unlink()
    home.ledger_marker.unlink()
    shutil.rmtree(home.never_back_up)
    spend_table(home, 3)
    screen = io.StringIO()
    monkeypatch.setattr(terminal, "err", Console(file=screen, force_terminal=True, width=100))
    result = CliRunner().invoke(app, ["ledger", "import-spend", "--home", str(home.root)])
    assert result.exit_code == 0, result.output
    shown = screen.getvalue()
    assert "booking rows" in shown
    assert "3/3" in shown
    assert re.search(r"\d:\d\d:\d\d", shown), shown
    assert "The ledger has 3 rounds" in result.stdout
    assert "booking rows" not in result.stdout


def test_a_second_import_is_refused(home: NodeHome) -> None:
    """Also after the ledger was deleted: that would be a fresh start."""
    import_spend(home, SITE, KEY, 1e-5)
    with pytest.raises(Refused, match="has a ledger already"):
        import_spend(home, SITE, KEY, 1e-5)
    home.ledger.unlink()
    with pytest.raises(Refused, match="missing"):
        import_spend(home, SITE, KEY, 1e-5)


def test_a_node_that_never_trained_gets_an_empty_ledger(tmp_path: Path) -> None:
    """Made by an earlier version's init."""
    home = NodeHome(tmp_path / "node")
    assert import_spend(home, SITE, KEY, 1e-5) == 0
    with open_store(home) as store:
        assert store.chain.length == 0
        book(store)


def test_an_import_that_was_killed_leaves_no_ledger_to_train_with(
    home: NodeHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The empty file is there and counts for nothing; the import is done again."""

    def cut(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(LedgerStore, "_commit", cut)
        with pytest.raises(KeyboardInterrupt):
            import_spend(home, SITE, KEY, 1e-5)
    assert home.ledger.exists()
    with pytest.raises(Refused, match="nobody here knows"):
        open_store(home)
    assert import_spend(home, SITE, KEY, 1e-5) == 3
    open_store(home).close()


@pytest.mark.parametrize(
    ("statement", "match"),
    [
        ("DELETE FROM rounds WHERE sequence = 2", "missing"),
        ("DELETE FROM rounds WHERE sequence = 3", "missing"),
        ("UPDATE rounds SET steps = -5 WHERE sequence = 2", "Row 2 .* makes no sense"),
        ("UPDATE rounds SET run = 'a/b' WHERE sequence = 1", "Row 1 .* makes no sense"),
        ("UPDATE identity SET schema_version = 9", "version that nobody wrote"),
        ("UPDATE identity SET table_id = 'another'", "another one"),
        ("PRAGMA application_id = 5", "not a spend table"),
        ("UPDATE rounds SET update_digest = 'x' WHERE sequence = 1", "Row 1 .* makes no sense"),
        ("UPDATE rounds SET update_digest = 5 WHERE sequence = 2", "Row 2 .* makes no sense"),
        ("UPDATE rounds SET private = x'00' WHERE sequence = 2", "Row 2 .* makes no sense"),
        ("UPDATE rounds SET steps = 9e300 WHERE sequence = 2", "Row 2 .* makes no sense"),
        ("DELETE FROM identity", "cannot be read"),
        ("DROP TABLE rounds", "other things"),
        ("CREATE VIEW more AS SELECT 1", "other things"),
        ("CREATE TRIGGER t AFTER INSERT ON rounds BEGIN SELECT 1; END", "other things"),
        ("UPDATE identity SET schema_version = 'Mueller, Hans'", "version that nobody wrote"),
        ("ALTER TABLE rounds RENAME COLUMN run TO walk", "other things"),
        ("ALTER TABLE rounds ADD COLUMN big TEXT AS (hex(zeroblob(150000000)))", "other things"),
        ("UPDATE rounds SET noise = hex(zeroblob(3000)) WHERE sequence = 2", "cannot be read"),
        ("UPDATE sqlite_sequence SET seq = 'many'", "cannot be read"),
        ("UPDATE sqlite_sequence SET seq = 1e15", "missing"),
        ("UPDATE identity SET delta = 'none'", "delta makes no sense"),
        ("UPDATE identity SET delta = NULL", "delta makes no sense"),
        ("UPDATE identity SET delta = 7.5", "delta makes no sense"),
    ],
)
def test_a_spend_table_that_is_not_whole_is_refused_and_nothing_is_booked(
    home: NodeHome, statement: str, match: str
) -> None:
    """Not one row of it."""
    changed(home, statement)
    refused(home, match)


def test_a_lost_older_or_unreadable_spend_table_is_refused(home: NodeHome) -> None:
    """Its marker remembers."""
    spend_table(NodeHome(home.root.parent / "older"), 2)
    shutil.copy(home.root.parent / "older" / "spend.sqlite", home.spend)
    refused(home, "older than it was")
    home.spend.write_bytes(b"\xa5" * 9000)
    refused(home, "cannot be read")
    home.spend.unlink()
    refused(home, "missing")
    home.spend.with_suffix(".marker").write_bytes(b"{}")
    spend_table(NodeHome(home.root.parent / "other"), 1)
    shutil.copy(home.root.parent / "other" / "spend.sqlite", home.spend)
    refused(home, "marker is damaged")


@pytest.mark.parametrize(
    "marker",
    [b"[" * 4000, b"[]", b"{}", b'{"table_id": "fedcba", "rows": 1e999}', b" " * 5000, b"\xff"],
)
def test_a_marker_that_says_nothing_is_refused(home: NodeHome, marker: bytes) -> None:
    """In words, whatever the bytes are; nothing is booked."""
    home.spend.with_suffix(".marker").write_bytes(marker)
    refused(home, "marker is damaged")
    assert not home.ledger.exists()


def test_rounds_that_are_an_endless_view_are_refused_at_once(home: NodeHome) -> None:
    """The table is gone, and a query of its name never ends."""
    with sqlite3.connect(home.spend) as table:
        table.executescript(
            "DROP TRIGGER rounds_are_never_deleted; DROP TRIGGER rounds_are_settled_once;"
            "ALTER TABLE rounds RENAME TO kept; CREATE VIEW rounds AS WITH RECURSIVE n(x) AS"
            " (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT x AS sequence FROM n;"
        )
    refused(home, "other things")


def test_a_query_that_a_file_makes_endless_is_ended(
    home: NodeHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the file does: SQLite's machine has a number of steps."""
    monkeypatch.setattr(spend_import, "_STEPS_AT_ONCE", 1)
    monkeypatch.setattr(spend_import, "_MOST_STEPS", 20)
    refused(home, "cannot be read")


@pytest.mark.parametrize(
    ("limit", "value", "match"),
    [("_MOST_ROWS", 2, "more than 2 rows"), ("_LARGEST_TABLE", 100, "far larger")],
)
def test_a_table_beyond_all_bounds_is_refused(
    home: NodeHome, monkeypatch: pytest.MonkeyPatch, limit: str, value: int, match: str
) -> None:
    monkeypatch.setattr(spend_import, limit, value)
    refused(home, match)


def test_more_different_plans_than_can_be_composed_are_refused(
    home: NodeHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is booked."""
    monkeypatch.setattr(spend_import, "_MOST_PLANS", 1)
    changed(home, "UPDATE rounds SET noise_multiplier = 3.0 WHERE sequence = 2")
    refused(home, "different plans")
    assert home.ledger.exists()


def test_a_pipe_in_the_tables_place_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    home = NodeHome(tmp_path / "node")
    home.make()
    os.mkfifo(home.spend)
    refused(home, "regular file")


def test_many_numbers_of_steps_are_one_plan(
    home: NodeHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is bounded is what has to be composed; steps of one price only add up."""
    monkeypatch.setattr(spend_import, "_MOST_PLANS", 1)
    changed(home, "UPDATE rounds SET steps = 30 WHERE sequence = 2")
    assert import_spend(home, SITE, KEY, 1e-5) == 3
