"""Workers of an ablation: they answer, they end, and nobody outlives who asked."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from shared_model.errors import FedprintError
from simulations.ablation_workers import Ended, ended_by_signals, side_by_side

ROOT = Path(__file__).resolve().parents[3]
WAITING = """
import sys
from simulations.ablation_workers import Ended, ended_by_signals, side_by_side
try:
    with ended_by_signals():
        list(side_by_side("signal:sigwait", [{}] * 3, workers=2))
except Ended as ended:
    sys.exit(128 + ended.number)
"""
"""Each worker waits for a signal out of none."""


def wait_for(condition: Callable[[], bool], what: str, deadline_s: float = 60.0) -> None:
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.02)


def test_orders_are_answered_by_their_place() -> None:
    orders = [{"n": k} for k in range(5)]
    found = dict(side_by_side("builtins:dict", orders, workers=2))
    assert found == dict(enumerate(orders))
    assert dict(side_by_side("builtins:dict", [], workers=2)) == {}


def test_a_fault_of_a_worker_is_told_and_ends_the_others() -> None:
    before = psutil.Process().children(recursive=True)
    with pytest.raises(FedprintError, match="TypeError"):
        list(side_by_side("os:cpu_count", [{}, {}], workers=2))
    assert psutil.Process().children(recursive=True) == before


def test_a_worker_that_goes_away_is_told() -> None:
    with pytest.raises(FedprintError, match="exit status 1"):
        list(side_by_side("sys:exit", [{"n": 1}], workers=1))


def test_signals_end_the_block_and_are_what_they_were_after_it() -> None:
    before = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)}
    kept = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    seen = []
    try:
        with ended_by_signals():
            seen.append(signal.getsignal(signal.SIGHUP))
            signal.raise_signal(signal.SIGTERM)
    except Ended as ended:
        seen.append(ended.number)
    finally:
        signal.signal(signal.SIGHUP, kept)
    assert seen == [signal.SIG_IGN, signal.SIGTERM]  # nohup stays
    assert {one: signal.getsignal(one) for one in before} == before


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL])
def test_no_worker_outlives_a_parent_that_is_ended(number: signal.Signals) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", WAITING], env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    workers: list[psutil.Process] = []

    def there() -> bool:
        workers[:] = psutil.Process(parent.pid).children(recursive=True)
        return len(workers) == 2

    wait_for(there, "the workers do not begin")
    parent.send_signal(number)
    status = parent.wait(60.0)
    assert status == (-number if number == signal.SIGKILL else 128 + number)
    _, alive = psutil.wait_procs(workers, timeout=60.0)
    assert alive == []
