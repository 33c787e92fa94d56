"""Real processes: killed around the commit, and racing each other for the last of the budget."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from books_stand_ins import book, new_home, open_store

from client.ledger_store import Budget
from shared_model.errors import BudgetExhausted

SPENDER = Path(__file__).with_name("spender.py")
BUDGET = Budget(epsilon_lifetime=3.0, epsilon_per_run=3.0, delta=1e-5)


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(SPENDER), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def end(process: subprocess.Popen[str]) -> list[str]:
    output, _ = process.communicate(timeout=120)
    return output.splitlines()


@pytest.mark.parametrize(
    ("when", "rounds"),
    [("die-before-commit", 0), ("die-after-commit", 1), ("die-before-notes", 1)],
)
def test_a_killed_process_never_understates(tmp_path: Path, when: str, rounds: int) -> None:
    """Before the commit nothing could have left; after it the entry stays, answered or not."""
    home = new_home(tmp_path)
    process = start(str(tmp_path), "run", "1", "6", when)
    assert end(process) == []
    assert process.returncode == -signal.SIGKILL
    with open_store(home) as store:
        assert len(store.chain.bookings) == rounds
        assert (store.epsilon() > 0.0) == (rounds == 1)
        assert book(store, "run", 2, BUDGET).sequence == rounds + 2
    with open_store(home) as store:
        assert len(store.chain.bookings) == rounds + 1


def test_a_process_killed_while_booking_keeps_every_round_it_announced(tmp_path: Path) -> None:
    """kill -9 at some instant between rounds: entries >= announced, and the ledger is whole."""
    home = new_home(tmp_path)
    process = start(str(tmp_path), "run", "1", "100")
    go(process)
    assert process.stdout is not None
    announced = []
    for line in process.stdout:
        announced.append(line.strip())
        if announced[-1] == "booked 3":
            process.kill()
            break
    announced += end(process)
    booked = sum(line.startswith("booked") for line in announced)
    with open_store(home) as store:
        assert len(store.chain.bookings) >= booked >= 3


def test_two_processes_do_not_both_get_the_last_of_the_budget(tmp_path: Path) -> None:
    """Two runs at once on one ledger: together they stay within the lifetime budget."""
    home = new_home(tmp_path / "node")
    processes = [start(str(home.root), run, "1", "100") for run in ("one", "two")]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        go(process)
    lines = [end(process) for process in processes]
    assert [answer[-1] for answer in lines] == ["refused", "refused"]
    booked = sum(line.startswith("booked") for answer in lines for line in answer)
    with open_store(home) as store:
        assert len(store.chain.bookings) == booked
        assert store.epsilon() <= 3.0
    with open_store(new_home(tmp_path / "alone")) as alone:
        for number in range(1, booked + 1):
            book(alone, "run", number, BUDGET)
        with pytest.raises(BudgetExhausted, match="allows 3"):
            book(alone, "run", booked + 1, BUDGET)


def test_two_processes_may_begin_the_ledger_at_once(tmp_path: Path) -> None:
    """One first entry, both rounds after it."""
    home = new_home(tmp_path)
    processes = [start(str(tmp_path), run, "1", "2") for run in ("one", "two")]
    for process in processes:
        go(process)
    assert [end(process)[-1] for process in processes] == ["booked 1", "booked 1"]
    with open_store(home) as store:
        assert store.chain.opened.sequence == 1
        assert {item.run for item in store.chain.bookings} == {"one", "two"}
