"""Free memory goes back to the system."""

from __future__ import annotations

import ctypes
import gc

import psutil
import pytest

from shared_model import accounting
from shared_model.config import PrivacyPlan
from shared_model.memory import give_back

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


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    give_back()
