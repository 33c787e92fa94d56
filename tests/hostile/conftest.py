"""Makes the modules of this folder importable by name, and worlds to attack."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "rounds"))  # for ledger_stand_ins

if TYPE_CHECKING:
    from consortium import Consortium


@pytest.fixture(autouse=True)
def _no_waiting_for_disks(monkeypatch: pytest.MonkeyPatch) -> None:
    """No power fails in these tests: what is written is read again without a sync."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def consortium(tmp_path: Path) -> Callable[..., Consortium]:
    """Makes a consortium of n hospitals with their first epoch begun."""
    from consortium import Consortium

    def make(n: int, name: str = "world", **options: Any) -> Consortium:
        world = Consortium(tmp_path / name, n, **options)
        world.new_epoch()
        return world

    return make
