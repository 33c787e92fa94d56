"""Fixtures of the exported ledger."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

with warnings.catch_warnings():
    # Typer imports names that Click 8.3 deprecates; nothing of ours does.
    warnings.simplefilter("ignore", DeprecationWarning)
    import typer.testing  # noqa: F401

from export_stand_ins import Consortium


@pytest.fixture(scope="session")
def three() -> Consortium:
    """Three hospitals after four rounds of one run; not to be changed."""
    return Consortium.after(rounds=4)
