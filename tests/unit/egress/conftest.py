"""Lets these tests import their own helpers and the stand-ins of `tests/unit/rounds`."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "rounds")]

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Flower and Typer about themselves
    import client.app  # noqa: F401
