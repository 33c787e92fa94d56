"""Files of a folder of recordings, before any is read: those there are, and which lead out."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from client.identifiers import Finding, safe_name
from shared_model.errors import OurMistake

_MAXIMUM_FILES = 1_000_000
MAPPING_FILE = "fedprint-mapping.toml"
"""In a folder: no recording. `fedprint-lab` reads the folder by it (`simulations.site_mapping`); a
node does only if it is told to, with --mapping."""


@dataclass(frozen=True)
class ReadFault:
    """A file, or a part of one, that did not become a recording. `file` is safe to show."""

    file: str
    cause: str
    message: str
    do: str = ""
    findings: tuple[Finding, ...] = ()
    of_many: bool = False
    """Of a whole file that holds many recordings, and not of one of them."""


@dataclass(frozen=True)
class File:
    """relative: to the folder. shown: what may be said of it."""

    path: Path
    relative: str
    shown: str


def _is_mapping(path: Path, folder: str, name: str) -> bool:
    """Of the folder itself; a link or a folder of that name is what it is."""
    if name != MAPPING_FILE or folder != str(path):
        return False
    whole = path / name
    return whole.is_file() and not whole.is_symlink()


def walk(path: Path) -> tuple[list[File], list[ReadFault]]:
    """Files below `path` in order of their names; links that leave the folder become faults."""
    if path.is_file():
        name = path.name
        return [File(path, name, safe_name(name, 1))], []
    if not path.is_dir():
        raise OurMistake("The path is neither a file nor a folder.", do="Check the path.")
    root = path.resolve()
    relatives: list[str] = []
    for folder, folders, names in os.walk(path, followlinks=False):
        linked = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        folders[:] = sorted(
            name for name in folders if not name.startswith(".") and name not in linked
        )
        relatives += [
            os.path.relpath(os.path.join(folder, name), path)
            for name in (*names, *linked)
            if not name.startswith(".") and not _is_mapping(path, folder, name)
        ]
        if len(relatives) > _MAXIMUM_FILES:
            raise OurMistake(
                f"The folder has more than {_MAXIMUM_FILES} files.", do="Add its parts one by one."
            )
    files, faults = [], []
    for number, relative in enumerate(sorted(relatives), start=1):
        item = File(path / relative, relative, safe_name(relative, number))
        real = item.path.resolve()
        if real != root and root not in real.parents:
            faults.append(
                ReadFault(item.shown, "outside-folder", "It is a link that leaves the folder.")
            )
        elif item.path.is_dir():
            faults.append(ReadFault(item.shown, "outside-folder", "It is a link to a folder."))
        else:
            files.append(item)
    return files, faults
