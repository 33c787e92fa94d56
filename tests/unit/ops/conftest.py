"""The registry of tests/unit/registry serves here, too."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "registry"))
sys.path.insert(0, str(Path(__file__).parents[2] / "e2e"))

from registry_stand_ins import Served, coordinator_at, served

from server.home import CoordinatorHome
from server.registry_limits import RegistryLimits


@pytest.fixture(autouse=True)
def _no_proxy_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def home(tmp_path: Path) -> CoordinatorHome:
    return coordinator_at(tmp_path)


@pytest.fixture
def service(home: CoordinatorHome) -> Iterator[Served]:
    with served(home, RegistryLimits(requests_per_s=1e6, burst=10**6)) as running:
        yield running
