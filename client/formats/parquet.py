"""Parquet by `pyarrow`: one row a recording, list columns are channels or series."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from client.formats.base import (
    MAXIMUM_CHANNELS,
    MAXIMUM_FILE_BYTES,
    MAXIMUM_SAMPLES,
    RATE_AS,
    Outline,
    Parsed,
    Samples,
    Signal,
    Text,
    checked_rate,
    checked_samples,
    decode,
    fail,
    guarded,
    size_of,
)
from client.formats.parquet_footer import read_footer
from client.labels import as_number, plain_spaces
from client.mapping import Mapping
from client.pseudonyms import id_text
from shared_model.errors import DataFault

_MAXIMUM_ROWS = 1_000_000
_BATCH_BYTES = 32 << 20
_MAXIMUM_TEXT_BYTES = 64 << 20
_MAXIMUM_VALUE_BYTES = 4096
_MAXIMUM_SPELLED_BYTES = 256 << 20
_OWN_METADATA = frozenset({b"ARROW:schema", b"pandas"})


def looks_like(head: bytes) -> bool:
    """True for the Parquet mark (also of an encrypted footer)."""
    return head[:4] in {b"PAR1", b"PARE"}


def _open(path: Path, texts: Sequence[str] = ()) -> Any:
    """`texts`: columns kept as the dictionary that they are in the file. A few bytes can name one
    long text for a million rows; spelled out row by row it would not fit in memory."""
    import pyarrow.parquet as pq

    return pq.ParquetFile(
        path,
        memory_map=False,
        buffer_size=1 << 20,
        pre_buffer=False,
        thrift_string_size_limit=16 << 20,
        thrift_container_size_limit=1_000_000,
        arrow_extensions_enabled=False,
        read_dictionary=list(texts),
    )


def outline(path: Path) -> Outline:
    """Schema and metadata, sizes checked before a page is read. Raises DataFault."""
    chunks = read_footer(path, size_of(path, MAXIMUM_FILE_BYTES))
    with guarded("file"), _open(path) as file:
        if file.metadata.num_columns > MAXIMUM_CHANNELS:
            fail("too-large", f"The file has more than {MAXIMUM_CHANNELS} columns.")
        if not 0 <= file.metadata.num_rows <= _MAXIMUM_ROWS:
            fail("too-large", f"The file has more than {_MAXIMUM_ROWS} rows.")
        if file.metadata.num_rows == 0:
            fail("no-samples", "The file has no rows.")
        schema = file.schema_arrow
        if len(set(schema.names)) != len(schema.names):
            fail("bad-header", "Two columns have the same name.")
        lists = [name for name in schema.names if _is_samples(schema.field(name).type)]
        scalars = [name for name in schema.names if _is_scalar(schema.field(name).type)]
        texts = [Text("column name", name) for name in schema.names]
        for key, value in (file.metadata.metadata or {}).items():
            if key not in _OWN_METADATA:
                texts.append(Text("file metadata", f"{decode(key)}: {decode(value)}"))
        texts += _field_metadata(schema)
    return Outline(
        format="parquet",
        channels=tuple(lists),
        columns=tuple(scalars),
        series=tuple(lists),
        unread=tuple(name for name in schema.names if name not in {*lists, *scalars}),
        texts=tuple(texts),
        handle=chunks,
    )


def row_count(path: Path) -> int:
    """Rows by the metadata. Raises DataFault."""
    read_footer(path, size_of(path, MAXIMUM_FILE_BYTES))
    with guarded("file"), _open(path) as file:
        return int(np.clip(file.metadata.num_rows, 0, _MAXIMUM_ROWS))


def scalar_rows(path: Path, seen: Outline) -> list[dict[str, Any]]:
    """All scalar columns (used to guess labels). Raises DataFault."""
    small = (chunk.unpacked_bytes for chunk in seen.handle if chunk.column in seen.columns)
    if sum(small) > _MAXIMUM_TEXT_BYTES:
        fail("too-large", "The columns beside the signals are too large.")
    with guarded("file"), _open(path, seen.columns) as file:
        table = file.read(columns=list(seen.columns), use_threads=False)
        _check_texts(table, _MAXIMUM_SPELLED_BYTES)
        rows: list[dict[str, Any]] = table.to_pylist()
        return rows


def _check_texts(table: Any, most_bytes: int) -> None:
    """Refuse long texts, and texts that are too much once spelled out. Raises DataFault."""
    import pyarrow.compute as pc
    import pyarrow.types as pt

    for column in table.columns:
        if not pt.is_dictionary(column.type):
            continue
        for chunk in getattr(column, "chunks", [column]):
            longest = pc.max(pc.binary_length(chunk.dictionary)).as_py() or 0
            if longest > _MAXIMUM_VALUE_BYTES or longest * len(chunk) > most_bytes:
                fail("too-large", "A column beside the signals holds texts that are too long.")


def read(path: Path, seen: Outline, mapping: Mapping, chosen: dict[str, str]) -> Iterator[Parsed]:
    """One Parsed for each row, a few rows in memory at a time. A faulty row carries its fault.

    Raises DataFault when the file as a whole cannot be read further.
    """
    series = tuple(
        name for name in mapping.series if name in seen.series and name not in chosen.values()
    )
    wanted = [*dict.fromkeys((*seen.columns, *chosen.values(), *series))]
    with guarded("file"):
        file = _open(path, seen.columns)
    with file:
        rows = max(1, int(file.metadata.num_rows))
        # a run-length page of a flat line is small, its values are not
        unpacked = sum(max(chunk.unpacked_bytes, 8 * chunk.values) for chunk in seen.handle)
        batch_rows = int(np.clip(_BATCH_BYTES * rows // max(1, unpacked), 1, 1024))
        batches = file.iter_batches(batch_size=batch_rows, columns=wanted, use_threads=False)
        while True:
            with guarded("file"):
                batch = next(batches, None)
            if batch is None:
                return
            with guarded("file"):
                _check_texts(batch, _MAXIMUM_SPELLED_BYTES)
            for index in range(batch.num_rows):
                yield _row(batch, index, seen, mapping, chosen, series)


def _row(
    batch: Any,
    index: int,
    seen: Outline,
    mapping: Mapping,
    chosen: dict[str, str],
    series: tuple[str, ...],
) -> Parsed:
    digest = hashlib.sha256()
    row: dict[str, Any] = {}
    texts: list[Text] = []
    signals: dict[str, Signal] = {}
    others: dict[str, Samples] = {}
    fault = None
    try:
        with guarded("row"):
            for name in seen.columns:
                value = batch.column(name)[index].as_py()
                if isinstance(value, bytes):
                    value = decode(value)
                if name == mapping.recording_column and value is not None:
                    value = value if isinstance(value, str) else id_text(value) or str(value)
                elif name == mapping.patient_column and value is not None:
                    value = id_text(value) if _is_exact(value, batch.column(name).type) else ""
                row[name] = value
                if name == mapping.recording_column:
                    texts.append(Text("recording name", str(value)))
                elif (
                    value is not None
                    and name != mapping.patient_column
                    and not isinstance(value, float | bool)
                ):
                    texts.append(Text(f"column {name}", str(value)))
            fs_hz = _rate(row, mapping)
            named = row.get(mapping.recording_column)
            _feed(digest, f"{id_text(named) or named} at {fs_hz!r} Hz".encode())
            for role, name in chosen.items():
                samples = _samples(batch, name, index)
                _feed(digest, name.encode())
                _feed(digest, samples.tobytes())
                if samples.size:
                    signals[role] = Signal(name, checked_samples(samples), fs_hz, "")
            for name in series:
                others[name] = _samples(batch, name, index)
    except DataFault as error:
        fault = error
    return Parsed(signals, digest.hexdigest(), row, (), others, tuple(texts), fault)


def _feed(digest: Any, part: bytes) -> None:
    digest.update(len(part).to_bytes(8, "big"))
    digest.update(part)


def _rate(row: dict[str, Any], mapping: Mapping) -> float:
    value = row.get(mapping.fs_column)
    if mapping.fs_hz is not None:
        value = mapping.fs_hz
    if value is None or isinstance(value, bool):
        fail("sampling-rate", "A row has no sampling rate.", do="Give fs_hz in the mapping.")
    rate = as_number(plain_spaces(str(value)))
    if math.isnan(rate):
        fail("sampling-rate", "A row's sampling rate is no number.", do=RATE_AS)
    return checked_rate(rate)


def _samples(batch: Any, name: str, index: int) -> Samples:
    """Samples of one cell; an absent list is an empty array, a null inside is NaN."""
    cell = batch.column(name)[index]
    if not cell.is_valid:
        return np.empty(0)
    values = cell.values
    if len(values) > MAXIMUM_SAMPLES:
        fail("too-large", f"A channel has more than {MAXIMUM_SAMPLES} samples.")
    import pyarrow as pa
    import pyarrow.compute as pc

    as_float = pc.cast(values, pa.float64(), safe=False)
    return np.asarray(as_float.to_numpy(zero_copy_only=False), dtype=np.float64)


def _is_samples(kind: Any) -> bool:
    import pyarrow.types as pt

    if not (pt.is_list(kind) or pt.is_large_list(kind) or pt.is_fixed_size_list(kind)):
        return False
    return bool(pt.is_floating(kind.value_type) or pt.is_integer(kind.value_type))


def _is_scalar(kind: Any) -> bool:
    import pyarrow.types as pt

    return not pt.is_nested(kind)


def _is_exact(value: Any, kind: Any) -> bool:
    """False for a number from which on several whole ones are one float of the column's width."""
    import pyarrow.types as pt

    most = 2**11 if pt.is_float16(kind) else 2**24 if pt.is_float32(kind) else math.inf
    return not isinstance(value, float) or abs(value) < most


def _field_metadata(schema: Any) -> list[Text]:
    texts = []
    for column in schema:
        for key, value in (column.metadata or {}).items():
            if not key.startswith(b"PARQUET:"):
                texts.append(Text("column metadata", f"{decode(key)}: {decode(value)}"))
    return texts
