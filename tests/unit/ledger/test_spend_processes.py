"""Real processes: killed around the commit, and racing each other for the last of the budget."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from client.spend import Budget, SpendTable

from shared_model.config import PrivacyPlan

SPENDER = Path(__file__).with_name("spender.py")
PLAN = PrivacyPlan(sample_rate=0.1, noise_multiplier=2.0, clipping_norm=1.0, steps=20)
BUDGET = Budget(epsilon_lifetime=3.0, epsilon_per_run=3.0, delta=1e-5)


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(SPENDER), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def end(process: subprocess.Popen[str]) -> list[str]:
    output, _ = process.communicate(timeout=120)
    return output.splitlines()


@pytest.mark.parametrize(("when", "rows"), [("die-before-commit", 0), ("die-after-commit", 1)])
def test_a_killed_process_never_understates(tmp_path: Path, when: str, rows: int) -> None:
    """Before the commit nothing could have left; after it the row stays, answered or not."""
    path = tmp_path / "spend.sqlite"
    process = start(str(path), "run", "0", "5", when)
    assert end(process) == []
    assert process.returncode == -signal.SIGKILL
    with SpendTable.open(path) as table:
        assert len(table.rows()) == rows
        assert (table.epsilon() > 0.0) == (rows == 1)
        assert table.reserve("run", 1, PLAN, 100, 1e-5, BUDGET).sequence == rows + 1


def test_a_process_killed_while_booking_keeps_every_round_it_announced(tmp_path: Path) -> None:
    """kill -9 at some instant between rounds: rows >= announced, and the table opens."""
    path = tmp_path / "spend.sqlite"
    process = start(str(path), "run", "0", "100")
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("go\n")
    process.stdin.flush()
    announced = []
    for line in process.stdout:
        announced.append(line.strip())
        if announced[-1] == "booked 2":
            process.kill()
            break
    announced += end(process)
    booked = sum(line.startswith("booked") for line in announced)
    with SpendTable.open(path) as table:
        assert len(table.rows()) >= booked >= 3


def test_two_processes_do_not_both_get_the_last_of_the_budget(tmp_path: Path) -> None:
    """Two runs at once on one table: together they stay within the lifetime budget."""
    path = tmp_path / "spend.sqlite"
    SpendTable.open(path).close()
    processes = [start(str(path), run, "0", "100") for run in ("one", "two")]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    lines = [end(process) for process in processes]
    assert [answer[-1] for answer in lines] == ["refused", "refused"]
    booked = sum(line.startswith("booked") for answer in lines for line in answer)
    with SpendTable.open(path) as table:
        assert len(table.rows()) == booked
        assert table.epsilon() <= 3.0
    with SpendTable.open(tmp_path / "alone.sqlite") as alone:
        for number in range(booked):
            alone.reserve("run", number, PLAN, 100, 1e-5, BUDGET)
        with pytest.raises(Exception, match="allows 3"):
            alone.reserve("run", booked, PLAN, 100, 1e-5, BUDGET)


def test_two_processes_may_make_the_table_at_once(tmp_path: Path) -> None:
    """One table, one identity, both rounds in it."""
    path = tmp_path / "spend.sqlite"
    processes = [start(str(path), run, "0", "1") for run in ("one", "two")]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    assert [end(process)[-1] for process in processes] == ["booked 0", "booked 0"]
    with SpendTable.open(path) as table:
        assert {row.run for row in table.rows()} == {"one", "two"}
