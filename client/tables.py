"""Tables of recordings: which row (patient, rate, labels) belongs to which file."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from client.formats.base import Outline, Text, fail
from client.identifiers import Finding, find_in_texts
from client.labels import MISSING, as_number, plain_spaces
from client.mapping import Mapping
from client.pseudonyms import id_text


@dataclass(frozen=True)
class Row:
    """One row of a table. `fs_hz`: None if it gives no rate, NaN if one that is none above 0."""

    cells: dict[str, str] = field(repr=False)
    fs_hz: float | None


class Tables:
    """All tables of a folder; a file's row is looked for beside it, then in the folders above."""

    def __init__(self, mapping: Mapping) -> None:
        self._mapping = mapping
        self._rows: dict[Path, dict[str, Row | None]] = {}
        self._spelled: dict[Path, dict[str, set[str]]] = {}
        self._asked: dict[tuple[Path, str], str] = {}

    def add(
        self, folder: Path, shown: str, seen: Outline, rows: list[dict[str, str]]
    ) -> tuple[Finding, ...]:
        """Take in a table's rows; returns what the identifier scan finds in it."""
        known = self._rows.setdefault(folder, {})
        mapping = self._mapping
        texts: dict[Text, None] = dict.fromkeys(seen.texts)
        own = {mapping.patient_column, mapping.recording_column}
        for cells in rows:
            name = cells.get(mapping.recording_column, "")
            row = Row(cells, _rate(cells.get(mapping.fs_column, "")))
            texts.setdefault(Text("recording name", name))
            if name:
                same = known.get(name, row)
                known[name] = row if same is not None and same.cells == row.cells else None
                self._spelled.setdefault(folder, {}).setdefault(id_text(name), set()).add(name)
            texts.update(
                dict.fromkeys(
                    Text(f"column {key}", cell) for key, cell in cells.items() if key not in own
                )
            )
        kept = (text for text in texts if not (text.where == "column name" and text.value in own))
        return find_in_texts(shown, kept)

    def find(self, path: Path, relative: str) -> Row | None:
        """The row of a file, by its path, its name or its name without the ending."""
        bare = PurePosixPath(relative)
        for name in (relative, str(bare.with_suffix("")), bare.name, bare.stem):
            row = self.find_name(path.parent, name)
            if row is not None:
                return row
        return None

    def find_name(self, folder: Path, name: str) -> Row | None:
        """The row of a recording's name: as the table spells it, or of a whole number (1) also the
        one that the table spells otherwise (1.0).

        Raises DataFault if two rows contradict each other, or a recording whose name is spelled
        otherwise had the row: whose it is follows from neither.
        """
        for place in (folder, *folder.parents):
            rows = self._rows.get(place, {})
            found = name if name in rows else self._otherwise(place, name)
            if found in rows:
                row = rows[found]
                if row is None:
                    fail(
                        "bad-table",
                        "Two rows of the table contradict each other about this recording.",
                    )
                if self._asked.setdefault((place, found), name) != name:
                    fail(
                        "bad-table",
                        "A row of the table names two recordings, 1 and 1.0 for example.",
                        do="Name recordings, and files, so that they differ in more than a .0.",
                    )
                return row
        return None

    def _otherwise(self, place: Path, name: str) -> str:
        """The only other spelling of a whole number in the tables there; "" if it is none."""
        spelled = self._spelled.get(place, {}).get(name, set()) if id_text(name) == name else set()
        return next(iter(spelled)) if name and len(spelled) == 1 else ""


def _rate(cell: str) -> float | None:
    text = plain_spaces(cell)
    if text.casefold() in MISSING:
        return None
    value = as_number(text)
    return value if math.isfinite(value) and value > 0 else math.nan
