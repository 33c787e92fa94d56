"""A coordinator's folder with something in it, its dashboard, and a browser that is logged in."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "web"))
sys.path.insert(0, str(Path(__file__).parents[1] / "rounds"))
sys.path.insert(0, str(Path(__file__).parents[1] / "release"))
sys.path.insert(0, str(Path(__file__).parent))

from dashboard_stand_ins import Visitor, empty_home, lively_home

from server.home import CoordinatorHome


@pytest.fixture
def empty(tmp_path: Path) -> CoordinatorHome:
    """Set up, and nothing more."""
    return empty_home(tmp_path / "coordinator")


@pytest.fixture(scope="module")
def lively_root(tmp_path_factory: pytest.TempPathFactory) -> CoordinatorHome:
    return lively_home(tmp_path_factory.mktemp("lively") / "coordinator")


@pytest.fixture
def visitor(lively_root: CoordinatorHome) -> Visitor:
    return Visitor(lively_root)
