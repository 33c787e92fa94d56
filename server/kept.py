"""Values read from files, kept until the file changes. For readers that look again and again."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar, cast

from shared_model.errors import FedprintError, OurMistake

_T = TypeVar("_T")
MOST = 50_000
"""Values that are kept; one more and all are read anew."""


@dataclass
class Kept:
    """Not for several threads at once."""

    _values: dict[Hashable, tuple[object, object]] = field(default_factory=dict, repr=False)

    def at(self, name: Hashable, path: Path, read: Callable[[], _T]) -> _T:
        """What was read when the file had this time and size, else what is read now.

        Raises:
            FedprintError: it cannot be read.
        """
        return self.when(name, stamp(path), read)

    def when(self, name: Hashable, state: object, read: Callable[[], _T]) -> _T:
        """What was read when `state` was this, else what is read now.

        Raises:
            FedprintError: it cannot be read.
        """
        kept = self._values.get(name)
        if kept is not None and kept[0] == state:
            return cast(_T, kept[1])
        value = twice(read)
        if len(self._values) >= MOST:
            self._values.clear()
        self._values[name] = (state, value)
        return value

    def has(self, name: Hashable) -> bool:
        """Whether something of this name is kept."""
        return name in self._values


def stamp(path: Path) -> object:
    """Time, size and inode of a file or folder; None if it is not there."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def twice(read: Callable[[], _T]) -> _T:
    """Read; a file may be replaced or removed meanwhile: then once more.

    Raises:
        FedprintError: it cannot be read.
    """
    try:
        return read()
    except (FedprintError, OSError):
        pass
    try:
        return read()
    except OSError as error:
        raise OurMistake(f"A file cannot be read: {error.strerror}.") from error
