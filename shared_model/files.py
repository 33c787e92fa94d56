"""Files that are either whole or absent: write beside, flush to disk, rename; and hostile ones."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from shared_model.errors import Refused


def write_atomic(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Replace `path` by `data` in one step that survives a crash at any instant."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".new")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fchmod(stream.fileno(), mode)
            os.fsync(stream.fileno())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def append_line(path: Path, line: bytes) -> None:
    """Append a line, which ends with a newline, to a log; made with mode 0600 if it is not there.

    What a full disk or a crash left of the line before ends there, and swallows none of this one.
    """
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags, 0o600), "r+b", buffering=0) as stream:
        size = os.fstat(stream.fileno()).st_size
        torn = size > 0 and os.pread(stream.fileno(), 1, size - 1) != b"\n"
        view = memoryview(b"\n" + line if torn else line)
        while view:
            view = view[stream.write(view) :]


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries (a rename is durable only after this)."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_regular(path: Path, limit_bytes: int, *, name: str = "") -> bytes:
    """Content of a regular file, read once; links are not followed, pipes are not waited for.

    Args:
        name: what the error calls the file; its own name by default.

    Raises:
        Refused: absent, a link or no regular file (reason "files"), or too large ("size").
    """
    name = name or path.name
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise Refused(f"{name} is absent.", reason="files") from error
    except OSError as error:
        raise Refused(f"{name} is a link or cannot be opened.", reason="files") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)  # before `fdopen`, which has an error of its own for folders
        raise Refused(f"{name} is not a regular file.", reason="files")
    with os.fdopen(descriptor, "rb") as stream:
        data = stream.read(limit_bytes + 1)
    if len(data) > limit_bytes:
        raise Refused(f"{name} is larger than {limit_bytes} bytes.", reason="size")
    return data
