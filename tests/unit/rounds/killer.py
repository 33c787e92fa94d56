"""Kills the process at one of its durable writes, in tests."""

from __future__ import annotations

import shutil
from pathlib import Path

from shared_model.files import write_atomic


class Killed(BaseException):
    """Stands for kill -9: nothing catches it."""


class Killer:
    """Lets `count` durable operations pass, then dies before, in the middle of, or after one."""

    def __init__(self, count, mode):
        self.left = count
        self.mode = mode
        self.fired = False

    def strikes(self):
        """Whether this operation is the one."""
        self.left -= 1
        if self.left >= 0 or self.fired:
            return False
        self.fired = True
        return True

    def write(self, path: Path, data: bytes, *, mode: int = 0o644):
        if not self.strikes():
            write_atomic(path, data, mode=mode)
            return
        if self.mode == "torn":
            path.parent.mkdir(parents=True, exist_ok=True)
            (path.parent / f".{path.name}.xyz.new").write_bytes(data[: len(data) // 2])
        if self.mode == "after":
            write_atomic(path, data, mode=mode)
        raise Killed

    def rmtree(self, path, *args, **options):
        if not self.strikes():
            real_rmtree(path, *args, **options)
            return
        if self.mode == "torn":
            for item in sorted(path.iterdir())[:2]:
                item.unlink()
        if self.mode == "after":
            real_rmtree(path, *args, **options)
        raise Killed


real_rmtree = shutil.rmtree
MODES = ("before", "torn", "after")
