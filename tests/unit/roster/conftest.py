"""A small consortium in folders: a root key, hospitals, a coordinator."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

sys.path.insert(0, str(Path(__file__).parent))

from roster_stand_ins import Hospital, hospitals_of


@pytest.fixture(scope="session")
def root_key() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


@pytest.fixture(scope="session")
def other_root() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))


@pytest.fixture(scope="session")
def hospitals() -> tuple[Hospital, ...]:
    """Five of them: alpha declares 100 patients, beta 200, ... epsilon 500."""
    return hospitals_of("alpha", "beta", "delta", "epsilon", "gamma")
