"""CSV by `pyarrow`: files of samples (a row a sample), tables of recordings (a row a recording)."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from client.formats.base import (
    HEAD_BYTES,
    MAXIMUM_CHANNELS,
    MAXIMUM_IN_MEMORY_BYTES,
    Outline,
    Parsed,
    Samples,
    Signal,
    Text,
    checked_samples,
    decode,
    digest_files,
    fail,
    guarded,
    lines_of,
    read_bytes,
    read_head,
)
from client.formats.csv_grid import grid
from client.formats.csv_time import UNIT_FACTOR, time_column
from client.mapping import Mapping, is_unit, lead_of

MISSING = (
    "",
    "NaN",
    "nan",
    "NAN",
    "NA",
    "N/A",
    "n/a",
    "null",
    "NULL",
    "None",
    "-",
    "--",
    "?",
    "#N/A",
)
_DELIMITERS = (",", ";", "\t", "|")
_MAXIMUM_TABLE_BYTES = 64 << 20
_MAXIMUM_CELL = 4096
RECORDING_NAMES = (
    "recording",
    "recording_id",
    "record",
    "record_id",
    "file",
    "filename",
    "file_name",
)
"""Names of the column that ties a row to a file, best first."""
_MOST_FILES = 100_000
_COLUMN_UNIT = re.compile(r"^.*?\s*[\[(]\s*(?P<unit>[^\])]{1,16})\s*[\])]$")


@dataclass(frozen=True)
class Dialect:
    """How a CSV file is written. `skip`: lines before the header row."""

    delimiter: str
    skip: int
    header: tuple[str, ...]
    comments: tuple[str, ...]
    decimal: str


def looks_like(head: bytes, *, torn: bool = False) -> bool:
    """True for text whose first line beside comments has two names or more, or one over numbers.

    torn: also if a line below has more or fewer cells.
    """
    if b"\x00" in head:
        return False
    try:
        return _dialect(decode_head(head), torn=torn) is not None
    except csv.Error:
        return False


def decode_head(head: bytes) -> str:
    """Text of the first lines; a cut last line is left out if more than one is there."""
    text = decode(head)
    if len(head) >= HEAD_BYTES and "\n" in text:
        text = text[: text.rindex("\n") + 1]
    return text


def outline(path: Path, mapping: Mapping | None) -> Outline:
    """Header row of a CSV file. Format "table" if it has a column that names recordings, and no
    times beside few names in many rows, or beside names of no files and a channel of numbers: those
    are samples, or events."""
    text = decode_head(read_head(path))
    dialect = _dialect(text)
    if dialect is None:
        fail("not-a-recording", "The text is neither a header nor a table.")
    columns = dialect.header
    if len(columns) > MAXIMUM_CHANNELS:
        fail("too-large", f"The file has more than {MAXIMUM_CHANNELS} columns.")
    if len(set(columns)) != len(columns):
        fail("bad-header", "Two columns have the same name.")
    if any(len(name) > 200 for name in columns):
        fail("bad-header", "A column has a name of more than 200 characters.")
    ties = (mapping.recording_column,) if mapping else RECORDING_NAMES
    time = _time_of(columns, mapping)
    named = (name for one in ties for name in columns if one in (name, name.casefold()))
    tie = next(named, None)
    timed = time is not None or time_column(columns) is not None
    channel = mapping.pick(columns).values() if mapping else filter(lead_of, columns)
    is_table = tie is not None and not (
        timed and _is_of_samples(path, text, dialect, tie, [one for one in channel if one != tie])
    )
    texts = [Text("column name", name) for name in columns]
    texts += [Text("comment line", line) for line in dialect.comments]
    return Outline(
        format="table" if is_table else "csv",
        channels=()
        if is_table
        else tuple(name for name in columns if time is None or name != time[0]),
        columns=columns,
        texts=tuple(texts),
        handle=dialect,
    )


def _is_of_samples(path: Path, text: str, dialect: Dialect, tie: str, channels: list[str]) -> bool:
    """Whether the first rows have at most half as many recordings as there are rows; or numbers
    or nothing in a channel, beside names that are no files'."""
    lines = lines_of(text)[dialect.skip + 1 :]
    with guarded("table"):
        rows = list(csv.reader(lines, delimiter=dialect.delimiter))
    rows = [row for row in rows if len(row) == len(dialect.header)]

    def cells(column: str) -> list[str]:
        place = dialect.header.index(column)
        return [row[place].strip() for row in rows]

    def is_measured(column: str) -> bool:
        found = {cell for cell in cells(column) if cell not in MISSING}
        if found <= {"0", "1", "0.0", "1.0"} and found & {"1", "1.0"}:
            return False  # whether a recording has it; a sensor that is off is zeros
        return all(_is_number(cell.replace(dialect.decimal, ".")) for cell in found)

    named = cells(tie)
    return len(named) > 1 and (
        2 * len(set(named)) <= len(named)
        or (any(map(is_measured, channels)) and not _name_files(named, path))
    )


def _name_files(cells: list[str], path: Path) -> bool:
    """Whether at least half of them are names of files beside or below this one."""
    with guarded("folder"):
        there = _names_below(path.parent, path.parent.stat().st_mtime_ns)
    return 2 * sum(PurePosixPath(cell).name in there for cell in cells) >= len(cells)


@lru_cache(maxsize=1)
def _names_below(folder: Path, changed_ns: int) -> frozenset[str]:
    """Names of files, with and without their ending; once for all files of a folder."""
    there: set[str] = set()
    for one in islice(folder.rglob("*"), _MOST_FILES):
        there |= {one.name, one.stem}
    return frozenset(there)


def read_table(path: Path, seen: Outline) -> list[dict[str, str]]:
    """Rows of a table of recordings as text cells. Raises DataFault.

    A cell holds no line end: two stray quotes would make one cell of all rows between them.
    """
    dialect: Dialect = seen.handle
    text = decode(read_bytes(path, _MAXIMUM_TABLE_BYTES))
    rows: list[dict[str, str]] = []
    with guarded("table"):
        lines = lines_of(text)[dialect.skip :]
        reader = csv.reader(lines, delimiter=dialect.delimiter, strict=True)
        for number, cells in enumerate(reader, start=1):
            if reader.line_num != number:
                fail("bad-table", "A cell of the table holds a line end, or a quote is stray.")
            if number == 1 or not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(dialect.header) or any(
                len(cell) > _MAXIMUM_CELL for cell in cells
            ):
                fail("bad-table", "A row of the table has too many, too few or too long cells.")
            rows.append(
                {name: cell.strip() for name, cell in zip(dialect.header, cells, strict=True)}
            )
    return rows


def read(
    path: Path, seen: Outline, chosen: dict[str, str], mapping: Mapping, fs_hz: float | None
) -> Parsed:
    """Read the chosen columns (role -> column). `fs_hz`: the rate by the table of recordings.

    The rate comes from the time column where there is one (gaps become NaN), and must then agree
    with the given one, as `csv_grid.grid` has it. Raises DataFault.
    """
    import pyarrow as pa
    import pyarrow.csv as pacsv

    dialect: Dialect = seen.handle
    data = read_bytes(path, MAXIMUM_IN_MEMORY_BYTES)
    time = _time_of(seen.columns, mapping)
    numeric = [*chosen.values(), *([time[0]] if time else [])]
    rest = [name for name in seen.columns if name not in numeric]
    try:
        table = pacsv.read_csv(
            io.BytesIO(data),
            read_options=pacsv.ReadOptions(
                use_threads=False,
                skip_rows=dialect.skip + 1,
                column_names=list(seen.columns),
                encoding="utf-8" if _is_utf8(data) else "latin-1",
            ),
            parse_options=pacsv.ParseOptions(delimiter=dialect.delimiter),
            convert_options=pacsv.ConvertOptions(
                column_types={name: pa.float64() for name in numeric}
                | {name: pa.string() for name in rest},
                null_values=list(MISSING),
                strings_can_be_null=True,
                decimal_point=dialect.decimal,
            ),
        )
    except pa.ArrowInvalid as error:
        conversion = "conversion error" in str(error)
        fail(
            "bad-values" if conversion else "bad-header",
            "A cell of a channel or of the time column is no number."
            if conversion
            else "A row does not parse.",
            do="Export the file again from its source.",
        )
    except Exception as error:
        fail("bad-header", f"The file does not parse ({type(error).__name__}).")
    if table.num_rows == 0:
        fail("no-samples", "The file has a header and no rows.")
    if b'"' in data and table.num_rows != _rows_written(data, dialect):
        fail("bad-header", "A cell holds a line end, or a quote is stray.")
    columns = {name: _floats(table[name]) for name in numeric}
    given = mapping.fs_hz or fs_hz
    rate, place = grid(columns.pop(time[0]) * UNIT_FACTOR[time[1]] if time else None, given)
    signals = {}
    for role, name in chosen.items():
        samples = checked_samples(columns[name])
        if place is not None:
            spread = np.full(int(place[-1]) + 1, np.nan)
            spread[place] = samples
            samples = spread
        signals[role] = Signal(name, samples, rate, unit_in(name))
    texts, row = _constants(table, rest)
    return Parsed(signals=signals, digest=digest_files((path,)), row=row, texts=texts)


def _rows_written(data: bytes, dialect: Dialect) -> int:
    """Lines below the header that are not empty."""
    lines = io.TextIOWrapper(io.BytesIO(data), "latin-1", newline="")
    return sum(bool(line.strip("\r\n")) for line in islice(lines, dialect.skip + 1, None))


def _constants(table: Any, names: list[str]) -> tuple[tuple[Text, ...], dict[str, str]]:
    """Texts of the other columns (each distinct value once) and the values that are constant."""
    texts: list[Text] = []
    row: dict[str, str] = {}
    for name in names:
        distinct = [str(value) for value in table[name].unique().to_pylist() if value is not None]
        if len(distinct) == 1 and table[name].null_count == 0:
            row[name] = distinct[0]
        texts += [
            Text(f"column {name}", value) for value in distinct[:10_000] if not _is_number(value)
        ]
        if (
            distinct
            and all(_is_number(value) for value in distinct[:10_000])
            and len(distinct) < 10
        ):
            texts += [Text(f"column {name}", value) for value in distinct]
    return tuple(texts), row


def _floats(column: Any) -> Samples:
    return np.asarray(column.fill_null(float("nan")).to_numpy(), dtype=np.float64)


def _time_of(columns: tuple[str, ...], mapping: Mapping | None) -> tuple[str, str] | None:
    if mapping is not None and mapping.time_column in columns:
        return mapping.time_column, mapping.time_unit
    return time_column(columns) if mapping is None else None


def unit_in(name: str) -> str:
    """The unit in brackets at the end of a column's name; "" if there is none, or other words."""
    found = _COLUMN_UNIT.match(name)
    written = found["unit"].strip() if found else ""
    return written if is_unit(written) else ""


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _dialect(text: str, *, torn: bool = False) -> Dialect | None:
    """Delimiter, header row and comment lines; None if the text is no table, or (unless `torn`) one
    with a torn row."""
    lines = lines_of(text)
    skip, comments = 0, []
    while skip < len(lines) and (not lines[skip].strip() or lines[skip].startswith("#")):
        comments.append(lines[skip].lstrip("#").strip())
        skip += 1
    if skip >= len(lines) or any(
        ord(character) < 32 and character not in "\t\r" for character in lines[skip]
    ):
        return None
    first = lines[skip].lstrip("\ufeff")
    body = [line for line in lines[skip + 1 : skip + 6] if line.strip()]
    counts = {mark: first.count(mark) for mark in _DELIMITERS}
    delimiter = max(_DELIMITERS, key=lambda mark: counts[mark])
    if counts[delimiter] == 0:
        delimiter = ","
        if not body or not all(
            _is_number(line.strip()) or line.strip() in MISSING for line in body
        ):
            return None
    header = tuple(cell.strip() for cell in next(csv.reader([first], delimiter=delimiter)))
    if all(_is_number(cell) for cell in header) or (not body and "" in header):
        return None  # numbers without names, or a sentence with a comma
    header = tuple(cell or f"unnamed {number}" for number, cell in enumerate(header, start=1))
    if not torn and any(_width(line, delimiter) != len(header) for line in body):
        return None
    decimal = "," if delimiter == ";" and body and not any("." in line for line in body) else "."
    return Dialect(delimiter, skip, header, tuple(line for line in comments if line), decimal)


def _width(line: str, delimiter: str) -> int:
    try:
        return len(next(csv.reader([line], delimiter=delimiter)))
    except (csv.Error, StopIteration):
        return -1
