"""Tables of recordings that lie beside one recording, so that it is read as with its folder."""

from __future__ import annotations

import os
from pathlib import Path

ENDINGS = frozenset({".csv", ".tsv", ".txt"})


def tables_beside(path: Path) -> tuple[Path, ...]:
    """Tables in the folder of a file, in order of names; () of a folder, and of a table itself.

    Hidden files and links are passed over, and what cannot be read.
    """
    if not path.is_file() or _is_table(path):
        return ()
    with os.scandir(path.parent) as entries:
        names = sorted(
            one.name
            for one in entries
            if one.is_file(follow_symlinks=False)
            and not one.name.startswith(".")
            and Path(one.name).suffix.casefold() in ENDINGS
        )
    found = (path.parent / name for name in names if name != path.name)
    return tuple(one for one in found if _is_table(one))


def _is_table(path: Path) -> bool:
    from client.formats import csv_file
    from client.formats.base import read_head
    from shared_model.errors import DataFault

    try:
        return csv_file.looks_like(read_head(path)) and (
            csv_file.outline(path, None).format == "table"
        )
    except DataFault:
        return False
