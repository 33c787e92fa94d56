"""Releases as the registry hands them out: one packed archive each, named by number and digest."""

from __future__ import annotations

import re
from pathlib import Path

from server.home import CoordinatorHome
from shared_model import canonical
from shared_model.files import write_atomic
from shared_model.registry import ReleaseEntry
from shared_model.registry_reasons import refusal
from shared_model.release_files import ARCHIVE_SUFFIX, pack, read_release

_FOLDER = re.compile(r"[0-9]{4,9}")
_ARCHIVE = re.compile(r"([0-9]{4,9})-([0-9a-f]{64})" + re.escape(ARCHIVE_SUFFIX))


def prepare(home: CoordinatorHome) -> None:
    """Pack every release that is not packed yet; equal releases give equal bytes.

    Raises:
        Refused: a release folder is damaged.
    """
    if not home.releases.is_dir():
        return
    packed = {number for number, _, _ in _packed(home)}
    for folder in sorted(home.releases.iterdir()):
        if _FOLDER.fullmatch(folder.name) and int(folder.name) not in packed:
            data = pack(read_release(folder))
            name = f"{folder.name}-{canonical.digest(data)}{ARCHIVE_SUFFIX}"
            write_atomic(home.release_archives / name, data)


def archives(home: CoordinatorHome) -> list[ReleaseEntry]:
    """What can be fetched, by number."""
    return [
        ReleaseEntry(number=number, sha256=digest, size_bytes=path.stat().st_size)
        for number, digest, path in _packed(home)
        if (home.releases / f"{number:04d}").is_dir()
    ]


def archive(home: CoordinatorHome, digest: str) -> Path:
    """The archive of this digest.

    Raises:
        Refused: none (reason "no-release").
    """
    for number, found, path in _packed(home):
        if found == digest and (home.releases / f"{number:04d}").is_dir():
            return path
    raise refusal("no-release")


def _packed(home: CoordinatorHome) -> list[tuple[int, str, Path]]:
    if not home.release_archives.is_dir():
        return []
    found = []
    for path in home.release_archives.iterdir():
        match = _ARCHIVE.fullmatch(path.name)
        if match is not None:
            found.append((int(match[1]), match[2], path))
    return sorted(found)
