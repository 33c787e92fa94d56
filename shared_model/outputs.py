"""Where a command is to write, checked before it computes (callbacks of options and arguments),
and the one form of its JSON documents.

output: Annotated[Path, typer.Option("-o", callback=outputs.folder)]
plot: Annotated[Path | None, typer.Option(callback=outputs.file)] = None

Nothing is made by these: a command that is refused for another reason leaves nothing behind.

outputs.make(folder)                 # the last check before hours of work: it can be written
outputs.write(plot, data)            # afterwards, for this user alone
outputs.write_all(folder, files)     # all of them or none
outputs.document(figures)            # JSON, null where a figure is not known
"""

from __future__ import annotations

import errno
import json
import math
import os
import secrets
import tempfile
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from shared_model.errors import OurMistake
from shared_model.files import sync_folder, write_atomic

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})
"""Numbers of an OSError that only who writes can have."""
FREE_ROOM = "Free room or name another folder."


def cannot_be_written(place: Path | str, error: OSError, *, do: str = FREE_ROOM) -> OurMistake:
    """The fault in words: what is not written, and why."""
    return OurMistake(f"{place} cannot be written: {os.strerror(error.errno or 0)}.", do=do)


def folder(path: Path | None) -> Path | None:
    """A folder that is there and can be written, or that can be made.

    Raises:
        OurMistake: it is a file, lies below one, or may not be written.
    """
    if path is not None:
        _writable(path, path)
    return path


def file(path: Path | None) -> Path | None:
    """A file that can be written, or written again.

    Raises:
        OurMistake: it is a folder, lies below a file, or may not be written.
    """
    if path is not None:
        if path.is_dir():
            raise OurMistake(f"{path} is a folder.", do="Name a file.")
        _writable(path.parent, path)
    return path


def new_file(path: Path) -> Path:
    """A file that can be written, and is not there yet; said before the work.

    Raises:
        OurMistake: it is there, lies below a file, or may not be written.
    """
    file(path)
    if _is_there(path):
        raise OurMistake(f"{path} is there already.", do="Choose another folder, or move it.")
    return path


def make(folder: Path) -> None:
    """Make the folder and prove that a file can be written there; the file is gone again.

    Rights alone do not tell: root has all of them in /proc, and a disk may be full.

    Raises:
        OurMistake: no file can be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".", suffix=".new") as probe:
            probe.write(bytes(4096))
            probe.flush()
    except OSError as error:
        raise cannot_be_written(folder, error) from error


def write(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, mode 0600.

    Raises:
        OurMistake: it cannot be written.
    """
    try:
        write_atomic(path, data, mode=0o600)
    except OSError as error:
        raise cannot_be_written(path, error, do="Free room or name another place.") from error


def write_all(
    folder: Path, files: Mapping[str, bytes], *, private: Collection[str] = (), do: str = FREE_ROOM
) -> None:
    """Write files of a folder, all of them or none: what is there stays until all are whole.

    Args:
        files: by name. private: those for this user alone (0600).

    Raises:
        OurMistake: one cannot be written.
    """
    ours = secrets.token_hex(4)  # two may write at once
    beside = {folder / name: folder / f".{name}.{ours}" for name in files}
    try:
        for path in beside:
            if path.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        for path, whole in beside.items():
            mode = 0o600 if path.name in private else 0o644
            write_atomic(whole, files[path.name], mode=mode)
        for path, whole in beside.items():
            os.replace(whole, path)
        sync_folder(folder)
    except OSError as error:
        raise cannot_be_written(folder, error, do=do) from error
    finally:
        for whole in beside.values():
            with suppress(OSError):
                whole.unlink(missing_ok=True)


def document(value: Any, *, indent: int = 2) -> str:
    """JSON that every reader takes: it has neither NaN nor infinity, and no command is to fail at
    its end for one figure."""
    return json.dumps(finite(value), indent=indent, allow_nan=False)


def finite(value: Any) -> Any:
    """The same with None for every number that is none, or has no end."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _writable(place: Path, asked: Path) -> None:
    """Whether the nearest of `place` and what is above it that is there is a folder for us."""
    try:
        nearest = next(one for one in (place, *place.absolute().parents) if _is_there(one))
    except OSError as error:
        raise OurMistake(f"{asked} cannot be written: {error.strerror}.") from error
    if not nearest.is_dir():
        raise OurMistake(f"{nearest} is no folder.", do="Name a folder, or a new one.")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise OurMistake(f"{nearest} cannot be written by this user.", do="Name another folder.")


def _is_there(path: Path) -> bool:
    """A link that leads nowhere is there too: no folder can be made in its place."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True
