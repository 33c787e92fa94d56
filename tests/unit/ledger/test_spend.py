"""The spend table never understates: budgets, replays, delta, and what makes a table refused."""

from __future__ import annotations

import math
import shutil
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from client.spend import Budget, Reservation, SpendTable

from shared_model.accounting import epsilon_pld
from shared_model.config import PrivacyPlan
from shared_model.errors import BudgetExhausted, OurMistake, Refused

PLAN = PrivacyPlan(sample_rate=0.1, noise_multiplier=2.0, clipping_norm=1.0, steps=20)
BUDGET = Budget(epsilon_lifetime=2.5, epsilon_per_run=2.0, delta=1e-5)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "spend.sqlite"


@pytest.fixture
def table(path: Path) -> Iterator[SpendTable]:
    with SpendTable.open(path, clock=lambda: 1_700_000_000.5) as opened:
        yield opened


def book(table: SpendTable, run: str, number: int, budget: Budget = BUDGET) -> Reservation:
    return table.reserve(run, number, PLAN, 100, budget.delta, budget, site="a", model_digest="m")


def book_all(table: SpendTable, run: str, first: int = 0) -> int:
    """Book rounds until the budget refuses; how many went in."""
    for number in range(first, first + 100):
        try:
            book(table, run, number)
        except BudgetExhausted:
            return number - first
    raise AssertionError("the budget never refused")


def test_a_round_is_on_the_disk_when_reserve_returns(table: SpendTable, path: Path) -> None:
    """Another connection sees it, whatever becomes of this process."""
    row = book(table, "run", 3)
    with sqlite3.connect(path) as other:
        found = other.execute("SELECT run, round, steps, update_digest FROM rounds").fetchall()
    assert found == [("run", 3, 20, None)]
    assert row.epsilon_lifetime_after == epsilon_pld([PLAN], 1e-5)
    assert row.reserved_at_s == 1_700_000_000
    assert table.find("run", 3) == row
    assert table.find("run", 4) is None


def test_epsilon_is_the_composition_of_all_rounds(table: SpendTable) -> None:
    """Two rounds of one run and one of another: lifetime over all, per run over each."""
    book(table, "one", 0)
    book(table, "one", 1)
    last = book(table, "two", 0)
    assert table.epsilon() == epsilon_pld([PLAN] * 3, 1e-5) == last.epsilon_lifetime_after
    assert table.epsilon(run="two") == epsilon_pld([PLAN], 1e-5) == last.epsilon_run_after
    assert table.epsilon(1e-6) > table.epsilon()
    assert table.epsilon(run="three") == 0.0


def test_the_run_budget_refuses_first_and_the_lifetime_budget_at_last(table: SpendTable) -> None:
    """Both hold; a refused round leaves no row."""
    first = book_all(table, "one")
    assert table.epsilon(run="one") <= 2.0 < epsilon_pld([PLAN] * (first + 1), 1e-5)
    second = book_all(table, "two")
    assert table.epsilon() <= 2.5 < epsilon_pld([PLAN] * (first + second + 1), 1e-5)
    assert book_all(table, "three") == 0
    assert len(table.rows()) == first + second


def test_a_refusal_says_what_would_have_been_spent(table: SpendTable) -> None:
    """Which limit, how much, and who can change it."""
    with pytest.raises(BudgetExhausted, match=r"run's epsilon to .* allows 0\.1.*policy\.toml"):
        book(table, "run", 0, Budget(3.0, 0.1, 1e-5))
    assert table.rows() == ()


def test_a_round_is_booked_once(table: SpendTable) -> None:
    """A second fresh update for one round would be a second look at the data."""
    book(table, "run", 0)
    with pytest.raises(Refused) as caught:
        book(table, "run", 0)
    assert caught.value.reason == "replay"
    assert len(table.rows()) == 1


def test_a_round_that_was_never_answered_counts(table: SpendTable) -> None:
    """Closed rounds and crashes stay in the sum."""
    book(table, "run", 0)
    before = table.epsilon()
    table.settle(book(table, "run", 1), "ab" * 32)
    assert table.epsilon() > before
    assert [row.update_digest for row in table.rows()] == [None, "ab" * 32]


def test_a_round_is_settled_once(table: SpendTable) -> None:
    """The digest of the update that left cannot be replaced."""
    row = book(table, "run", 0)
    table.settle(row, "ab")
    with pytest.raises(OurMistake, match="not open"):
        table.settle(row, "cd")
    with pytest.raises(OurMistake, match="digest"):
        table.settle(row, "")


def test_delta_is_fixed_for_life(table: SpendTable) -> None:
    """The first reservation fixes it; a later policy cannot change it."""
    before = table.delta
    book(table, "run", 0)
    assert (before, table.delta) == (None, 1e-5)
    with pytest.raises(Refused) as caught:
        book(table, "run", 1, Budget(3.0, 2.0, 1e-4))
    assert caught.value.reason == "delta"
    with pytest.raises(OurMistake, match="differ"):
        table.reserve("run", 1, PLAN, 100, 1e-6, BUDGET)
    assert len(table.rows()) == 1


def test_a_refused_first_round_fixes_nothing(table: SpendTable) -> None:
    """Check and reservation are one transaction: undone as a whole."""
    with pytest.raises(BudgetExhausted):
        book(table, "run", 0, Budget(0.01, 0.01, 1e-4))
    assert table.delta is None


def test_non_private_rounds_cost_infinity_for_ever(table: SpendTable) -> None:
    """No policy's budget lets one through; where one went through nothing is finite again."""
    with pytest.raises(BudgetExhausted, match="inf"):
        table.reserve("run", 0, PLAN, 100, 1e-5, BUDGET, private=False, noise="NON-PRIVATE")
    free = Budget.unlimited_non_private_for_tests()
    row = table.reserve("run", 0, PLAN, 100, 1e-5, free, private=False, noise="NON-PRIVATE")
    assert math.isinf(row.epsilon_lifetime_after)
    assert math.isinf(table.epsilon())
    assert row.as_dict()["epsilon_lifetime_after"] is None
    with pytest.raises(BudgetExhausted):
        book(table, "other", 0)


@pytest.mark.parametrize(("run", "number", "declared"), [("", 0, 5), ("r", -1, 5), ("r", 0, 0)])
def test_a_nameless_reservation_is_refused(
    table: SpendTable, run: str, number: int, declared: int
) -> None:
    """Run, round and declared number are part of every row."""
    with pytest.raises(OurMistake):
        table.reserve(run, number, PLAN, declared, 1e-5, BUDGET)


@pytest.mark.parametrize("epsilon", [0.0, -1.0, float("nan")])
def test_an_impossible_budget_is_refused(epsilon: float) -> None:
    """NaN compares false with everything and must not open the gate."""
    with pytest.raises(OurMistake):
        Budget(epsilon, 1.0, 1e-5)
    with pytest.raises(OurMistake):
        Budget(1.0, epsilon, 1e-5)


def test_reopening_keeps_everything(table: SpendTable, path: Path) -> None:
    """A restart of the node forgets nothing."""
    rows = (book(table, "run", 0), book(table, "run", 1))
    with SpendTable.open(path) as again:
        assert again.rows() == rows
        assert again.epsilon() == table.epsilon()


def test_only_the_owner_reads_the_table(table: SpendTable, path: Path) -> None:
    """Mode 0600 on both files."""
    book(table, "run", 0)
    for file in (path, path.with_suffix(".marker")):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_commits_are_flushed_to_the_disk(table: SpendTable) -> None:
    """Rollback journal, synchronous EXTRA (3): a power cut after reserve keeps the row."""
    connection = table._connection
    assert connection.execute("PRAGMA journal_mode").fetchone()[0] == "delete"
    assert connection.execute("PRAGMA synchronous").fetchone()[0] == 3


def refused(path: Path, match: str) -> None:
    with pytest.raises(Refused, match=match) as caught:
        SpendTable.open(path)
    assert caught.value.reason == "spend_table"
    assert "privacy officer" in caught.value.do


def test_a_missing_table_is_not_silently_started_again(table: SpendTable, path: Path) -> None:
    """The marker says that there was one."""
    book(table, "run", 0)
    path.unlink()
    refused(path, "missing")
    assert not path.exists()


def test_an_older_copy_is_refused(table: SpendTable, path: Path) -> None:
    """Put back from a backup: rows that the marker counted are gone."""
    book(table, "run", 0)
    shutil.copy(path, path.with_name("backup"))
    book(table, "run", 1)
    shutil.copy(path.with_name("backup"), path)
    refused(path, "older")


def test_another_nodes_table_is_refused(table: SpendTable, path: Path, tmp_path: Path) -> None:
    """A fresh table under the old name."""
    book(table, "run", 0)
    other = tmp_path / "elsewhere" / "spend.sqlite"
    with SpendTable.open(other) as fresh:
        book(fresh, "run", 0)
    shutil.copy(other, path)
    refused(path, "not the one")


def test_a_lost_marker_is_written_again(table: SpendTable, path: Path) -> None:
    """The table itself is what counts; a crash between its making and the marker's is harmless."""
    book(table, "run", 0)
    marker = path.with_suffix(".marker")
    before = marker.read_bytes()
    marker.unlink()
    SpendTable.open(path).close()
    assert marker.read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b'{"table_id": 1, "rows": "x"}', b"\xff"])
def test_a_damaged_marker_is_refused(table: SpendTable, path: Path, content: bytes) -> None:
    """It might have said more than the table does."""
    path.with_suffix(".marker").write_bytes(content)
    refused(path, "marker is damaged")


@pytest.mark.parametrize("keep", [0, 50, 5000])
def test_a_truncated_table_is_refused(table: SpendTable, path: Path, keep: int) -> None:
    """A half-written copy is no table."""
    book(table, "run", 0)
    path.write_bytes(path.read_bytes()[:keep])
    refused(path, r"damaged|cannot be read|not a spend table")


def test_noise_over_the_file_is_refused(table: SpendTable, path: Path) -> None:
    """Pages overwritten with other bytes."""
    for number in range(3):
        book(table, "run", number)
    data = bytearray(path.read_bytes())
    data[4096:8192] = b"\xa5" * 4096
    path.write_bytes(bytes(data))
    refused(path, r"damaged|cannot be read")


def test_another_sqlite_file_is_refused(path: Path) -> None:
    """Not every database is a spend table, and none of another version is."""
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE t (a)")
    refused(path, "not a spend table")


def test_a_table_of_another_version_is_refused(table: SpendTable, path: Path) -> None:
    """A newer program's table is not guessed at."""
    table.close()
    with sqlite3.connect(path) as other:
        other.execute("UPDATE identity SET schema_version = 99")
    refused(path, "version 99")


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM rounds",
        "UPDATE rounds SET steps = 1",
        "UPDATE rounds SET noise_multiplier = 1000, update_digest = 'x'",
        "UPDATE rounds SET private = 1, round = 9, update_digest = 'x'",
        "UPDATE identity SET delta = 0.1",
        "DELETE FROM identity",
    ],
)
def test_rows_cannot_be_changed_by_accident(table: SpendTable, path: Path, statement: str) -> None:
    """Triggers stop a careless script; a determined editor is the hash chain's matter."""
    book(table, "run", 0)
    with sqlite3.connect(path) as other, pytest.raises(sqlite3.IntegrityError):
        other.execute(statement)


def test_deleted_rows_are_noticed(table: SpendTable, path: Path) -> None:
    """Sequence numbers have no gap, and the counter remembers the last one."""
    for number in range(3):
        book(table, "run", number)
    table.close()
    for victim in (3, 1):
        copy = path.with_name(f"copy{victim}.sqlite")
        shutil.copy(path, copy)
        with sqlite3.connect(copy) as other:
            other.execute("DROP TRIGGER rounds_are_never_deleted")
            other.execute("DELETE FROM rounds WHERE sequence = ?", (victim,))
        refused(copy, "Rows .* missing")


def test_a_row_that_makes_no_sense_is_refused(table: SpendTable, path: Path) -> None:
    """A negative number of steps would lower epsilon."""
    book(table, "run", 0)
    table.close()
    with sqlite3.connect(path) as other:
        other.execute("DROP TRIGGER rounds_are_settled_once")
        other.execute("UPDATE rounds SET steps = -5")
    refused(path, "makes no sense")
