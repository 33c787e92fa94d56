"""Locks between processes: who looks whether one is held does not hold it."""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import Any

import pytest

from shared_model.errors import OurMistake
from shared_model.locks import is_locked, locked

BUSY = OurMistake("It is held.")


def test_a_lock_that_is_held_is_seen_and_not_given_twice(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert not is_locked(path)
    with locked(path, BUSY):
        assert is_locked(path)
        with pytest.raises(OurMistake), locked(path, BUSY):
            pass
    assert not is_locked(path)


def test_two_that_look_do_not_see_each_other(tmp_path: Path) -> None:
    """Else a page that is asked often says that a node runs which does not."""
    path = tmp_path / "lock"
    path.touch()
    with path.open("rb") as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        assert not is_locked(path)


def test_a_look_keeps_nobody_from_taking_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anybody on the machine can ask /health, which looks, while the node is started."""
    path = tmp_path / "lock"
    path.touch()
    real, looked = fcntl.flock, []

    with path.open("rb") as looking:
        real(looking, fcntl.LOCK_SH)

        def flock(descriptor: Any, how: int) -> None:
            looked.append(how)
            if len(looked) == 6:
                real(looking, fcntl.LOCK_UN)
            real(descriptor, how)

        monkeypatch.setattr(fcntl, "flock", flock)
        with locked(path, BUSY):
            assert is_locked(path)
