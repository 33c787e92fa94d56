"""A coordinator and hospitals in folders; the registry's desk, and the registry on loopback."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from registry_consortium import Consortium
from registry_stand_ins import Counter, Hall, Served, coordinator_at, served

from server.home import CoordinatorHome
from server.registry_limits import RegistryLimits


@pytest.fixture
def home(tmp_path: Path) -> CoordinatorHome:
    return coordinator_at(tmp_path)


@pytest.fixture
def hall(home: CoordinatorHome, tmp_path: Path) -> Iterator[Hall]:
    """The registry without the network."""
    with Counter(home, RegistryLimits()) as counter:
        yield Hall(tmp_path, counter)


@pytest.fixture
def service(home: CoordinatorHome) -> Iterator[Served]:
    """The registry over TLS, with a rate that tests do not reach."""
    with served(home, RegistryLimits(requests_per_s=1e6, burst=10**6)) as running:
        yield running


@pytest.fixture
def consortium(service: Served, tmp_path: Path) -> Consortium:
    return Consortium(service, tmp_path)
