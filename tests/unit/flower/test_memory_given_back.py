"""Free memory goes back to the system."""

from __future__ import annotations

import ctypes

import psutil
import pytest

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


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    give_back()
