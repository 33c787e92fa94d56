"""Lets the tests of this folder import their stand-ins (importlib mode adds no path itself)."""

from __future__ import annotations

import shutil
import sys
import warnings
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "web"))

with warnings.catch_warnings():
    # Typer imports names that Click 8.3 deprecates; nothing of ours does.
    warnings.simplefilter("ignore", DeprecationWarning)
    import typer.testing  # noqa: F401

from console_stand_ins import Hospital

from client.home import NodeHome


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keys and bookings take most of a second."""
    return Hospital.made(tmp_path_factory.mktemp("hospital") / "node").home.root


@pytest.fixture
def hospital(made_once: Path, tmp_path: Path) -> Hospital:
    """A node's folder: real keys, policy and ledger; two rounds booked, one run waits."""
    shutil.copytree(made_once, tmp_path / "node")
    return Hospital(NodeHome(tmp_path / "node"))
