"""Release numbers: rising, never used twice, whatever crashes.

releases/last.json   the highest number ever taken
releases/NNNN/       the releases made here
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from server.home import CoordinatorHome
from shared_model.errors import OurMistake
from shared_model.files import write_atomic


def releases_of(home: CoordinatorHome) -> list[Path]:
    """Folders of the releases made here, by number."""
    if not home.releases.is_dir():
        return []
    return sorted(path for path in home.releases.iterdir() if path.name.isdecimal())


@contextmanager
def next_number(home: CoordinatorHome) -> Iterator[int]:
    """The next release number, spent before it is used; one release at a time."""
    home.make()
    home.releases.mkdir(exist_ok=True, mode=0o700)
    record = home.releases / "last.json"
    descriptor = os.open(home.releases / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        number = max(_last(record), *(int(path.name) for path in releases_of(home)), 0) + 1
        write_atomic(record, json.dumps({"number": number}).encode(), mode=0o600)
        yield number
    finally:
        os.close(descriptor)


def _last(record: Path) -> int:
    if not record.exists():
        return 0
    try:
        number = json.loads(record.read_bytes())["number"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OurMistake(
            f"{record} cannot be read; the next release number is unknown.",
            do='Write {"number": N} into it, N the highest number ever released.',
        ) from error
    if not isinstance(number, int) or number < 0:
        raise OurMistake(f"{record} names no release number.")
    return number
