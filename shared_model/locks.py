"""Locks between processes of one machine: a file that the kernel unlocks when its holder ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shared_model.errors import FedprintError

_LOOKS = 1000
"""A look takes microseconds."""


@contextmanager
def locked(path: Path, busy: FedprintError | None = None) -> Iterator[None]:
    """Hold the lock; its folder must be there.

    Args:
        busy: raised if another process holds it; None: wait until it does not.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if busy is None:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        else:
            _take(descriptor, busy)
        yield
    finally:
        os.close(descriptor)


def _take(descriptor: int, busy: FedprintError) -> None:
    """The lock, now. Who only looks (`is_locked`) holds it shared, and is not who holds it."""
    for _ in range(_LOOKS):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError as error:
            cause = error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            raise busy from error
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.sched_yield()
    raise busy from cause


def is_locked(path: Path) -> bool:
    """Whether some process holds the lock now. Looking keeps nobody from taking it."""
    if not path.exists():
        return False
    with path.open("rb") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
    return False
