"""Tables of recordings that lie beside one recording, so that it is read as with its folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from client.mapping import Mapping

ENDINGS = frozenset({".csv", ".tsv", ".txt"})


def tables_beside(path: Path, mapping: Mapping | None = None) -> tuple[Path, ...]:
    """Tables in the folder of a file, in order of names; () of a folder, and of a table itself.

    mapping: how the file is read, which says what a column of recordings is called.

    Hidden files and links are passed over, and what cannot be read.
    """
    if not path.is_file() or _is_table(path, mapping):
        return ()
    try:
        with os.scandir(path.parent) as entries:
            names = sorted(
                one.name
                for one in entries
                if one.is_file(follow_symlinks=False)
                and not one.name.startswith(".")
                and Path(one.name).suffix.casefold() in ENDINGS
            )
    except OSError:  # a folder that may be entered and not listed
        return ()
    found = (path.parent / name for name in names if name != path.name)
    return tuple(one for one in found if _is_table(one, mapping))


def _is_table(path: Path, mapping: Mapping | None) -> bool:
    from client.formats import csv_file
    from client.formats.base import read_head
    from shared_model.errors import DataFault

    try:
        return csv_file.looks_like(read_head(path)) and (
            csv_file.outline(path, mapping).format == "table"
        )
    except DataFault:
        return False
