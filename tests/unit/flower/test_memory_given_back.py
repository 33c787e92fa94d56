"""Free memory goes back to the system."""

from __future__ import annotations

import ctypes
import gc
import subprocess
import sys

import psutil
import pytest

from shared_model import accounting
from shared_model.config import PrivacyPlan
from shared_model.memory import give_back, large_blocks_apart

BLOCK, BLOCKS = 100_000, 800
"""Smaller than what the C library maps by itself, and 80 MB together."""


def test_what_was_freed_below_something_that_is_kept_goes_back() -> None:
    """The C library alone gives back only what is on top."""
    if not hasattr(ctypes.CDLL(None), "malloc_trim"):
        pytest.skip("this C library has no malloc_trim")
    process = psutil.Process()
    give_back()
    blocks = [bytes(bytearray(BLOCK)) for _ in range(BLOCKS)]
    kept = blocks[::40]
    del blocks
    held = process.memory_info().rss
    give_back()
    assert held - process.memory_info().rss > 0.5 * BLOCK * BLOCKS
    assert len(kept) == BLOCKS // 40


class Allocated(ctypes.Structure):
    """`struct mallinfo2` of glibc."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks",
            "fordblks", "keepcost",
        )
    ]  # fmt: skip


def in_use() -> int:
    """Bytes that the C library has given out."""
    ask = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if ask is None:
        pytest.skip("this C library has no mallinfo2")
    ask.restype = Allocated
    found = ask()
    return int(found.uordblks + found.hblkhd)


def test_the_accountant_keeps_no_plans_of_its_transforms() -> None:
    """Their lengths grow with the steps of a ledger: 10 MB stayed after the few that are here."""
    accounting.epsilon_pld([PrivacyPlan(0.02, 2.0, 1.0, 20)], 1e-5)
    gc.collect()
    before = in_use()
    for steps in range(60, 80):
        accounting.epsilon_pld([PrivacyPlan(0.02, 2.0, 1.0, steps)], 1e-5)
    gc.collect()
    assert in_use() - before < 2_000_000


APART = """
import numpy, psutil, sys
from shared_model.memory import large_blocks_apart
if sys.argv[1] == "apart":
    large_blocks_apart()
rss = lambda: psutil.Process().memory_info().rss
numpy.zeros(6_000_000)[:] = 1.0  # freed: from here on the C library takes such blocks from the heap
before, kept = rss(), []
for _ in range(30):
    block = numpy.ones(500_000)  # 4 MB
    kept.append(bytearray(100_000))  # small and stays, above the large one
    kept.append(numpy.ones(5_000))
    del block
print(rss() - before)
"""


def test_large_blocks_leave_no_holes_in_a_coordinator() -> None:
    """What is freed below something that stays goes back at once."""
    if not hasattr(ctypes.CDLL(None), "mallopt"):
        pytest.skip("this C library has no mallopt")
    grown = {}
    for how in ("apart", "as it is"):
        done = subprocess.run(
            [sys.executable, "-c", APART, how], capture_output=True, text=True, check=True
        )
        grown[how] = int(done.stdout)
    assert grown["apart"] < 6_000_000, grown
    assert grown["as it is"] > grown["apart"], grown


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    give_back()
    large_blocks_apart()
