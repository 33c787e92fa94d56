"""The footer and the page headers of a Parquet file, read before `pyarrow` sees it.

`pyarrow` aborts the whole process on some damaged column metadata (an exception of C++ that its
accessors do not expect), and it allocates what a page header declares. So sizes are taken from the
file by these functions. Source: parquet-format's parquet.thrift, Thrift's compact protocol.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from client.formats.base import MAXIMUM_SAMPLES, fail, guarded

MAXIMUM_FOOTER_BYTES = 8 << 20
MAXIMUM_GROUP_BYTES = 1 << 30
MAXIMUM_RATIO = 1000
"""Unpacked over stored bytes of one column; flat lines pack about 100 times."""
_MAXIMUM_PAGE_HEADER_BYTES = 1 << 16
_MAXIMUM_DEPTH = 16
_STOP, _TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _STRUCT = 0, 1, 2, 3, 7, 8, 9, 10, 12


@dataclass(frozen=True)
class Chunk:
    """One column of one row group. `column`: its name at the top level."""

    group: int
    column: str
    unpacked_bytes: int
    values: int


def read_footer(path: Path, size_bytes: int) -> tuple[Chunk, ...]:
    """Column chunks of a file, every declared size checked against the file and the page headers.

    Raises DataFault: "truncated", "unsupported" (encrypted), "bad-header", "too-large" (unpacks to
    more than 1 GiB a row group or 1000 times its size), "outside-folder" (data in another file).
    """
    with guarded("file"), path.open("rb") as stream:
        stream.seek(max(0, size_bytes - 8))
        tail = stream.read(8)
        if tail[4:] == b"PARE":
            fail("unsupported", "The file is encrypted.")
        length = int.from_bytes(tail[:4], "little")
        if tail[4:] != b"PAR1" or length > size_bytes - 12:
            fail("truncated", "The file ends without a whole footer.", do="Copy it again.")
        if length > MAXIMUM_FOOTER_BYTES:
            fail("too-large", "The footer is larger than 8 MiB.")
        stream.seek(size_bytes - 8 - length)
        footer = _struct(_Reader(stream.read(length)))
        chunks: list[Chunk] = []
        for number, group in enumerate(_many(footer, 4)):
            total = 0
            for column in _many(group, 1):
                if column.get(1):
                    fail("outside-folder", "A column names another file for its data.")
                chunk, start, stored = _chunk(number, _one(column, 3), size_bytes)
                _check_pages(stream, chunk, start, stored)
                total += chunk.unpacked_bytes
                chunks.append(chunk)
            if total > MAXIMUM_GROUP_BYTES:
                fail("too-large", "A row group unpacks to more than 1 GiB.")
    return tuple(chunks)


def _chunk(group: int, meta: dict[int, Any], size_bytes: int) -> tuple[Chunk, int, int]:
    """A column chunk with the place and length of its pages in the file."""
    path = meta.get(3)
    unpacked, stored, values = _size(meta, 6), _size(meta, 7), _size(meta, 5)
    start = _size(meta, 9)
    if meta.get(11):
        start = min(start, _size(meta, 11))
    if not isinstance(path, list) or not path or not isinstance(path[0], bytes):
        fail("bad-header", "A column of the footer has no name.")
    if start < 4 or start + stored > size_bytes:
        fail("truncated", "The file is shorter than its footer declares.", do="Copy it again.")
    if values > MAXIMUM_SAMPLES:
        fail("too-large", "A column chunk declares too many values.")
    if unpacked > MAXIMUM_RATIO * max(stored, 1024):
        fail("too-large", "A column would unpack to more than 1000 times its size.")
    return Chunk(group, path[0].decode("utf-8", "replace"), unpacked, values), start, stored


def _check_pages(stream: Any, chunk: Chunk, start: int, stored: int) -> None:
    """Walk the page headers: what the pages declare must not exceed what the footer declares."""
    position, unpacked, values = start, 0, 0
    while position < start + stored:
        stream.seek(position)
        reader = _Reader(stream.read(min(_MAXIMUM_PAGE_HEADER_BYTES, start + stored - position)))
        header = _struct(reader)
        packed = _size(header, 3)
        unpacked += _size(header, 2)
        for kind in (5, 8):
            if kind in header:
                values += _size(_one(header, kind), 1)
        if 7 in header and _size(_one(header, 7), 1) > MAXIMUM_SAMPLES:
            fail("too-large", "A dictionary declares too many values.")
        position += reader.position + packed
    if position != start + stored or unpacked > chunk.unpacked_bytes or values > chunk.values:
        fail("bad-header", "The pages of a column contradict the footer.", do="Export it again.")


def _size(fields: dict[int, Any], key: int) -> int:
    value = fields.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        fail("bad-header", "A size in the footer or in a page is absent or negative.")
    return value


def _one(fields: dict[int, Any], key: int) -> dict[int, Any]:
    value = fields.get(key)
    if not isinstance(value, dict):
        fail("bad-header", "The footer lacks a part.")
    return value


def _many(fields: dict[int, Any], key: int) -> list[dict[int, Any]]:
    value = fields.get(key)
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        fail("bad-header", "The footer lacks a part.")
    return value


class _Reader:
    """Bytes with a position; every read past the end is a fault."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0

    def take(self, count: int) -> bytes:
        part = self.data[self.position : self.position + count]
        if len(part) < count:
            fail("truncated", "The footer or a page header ends too early.")
        self.position += count
        return part

    def varint(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
        fail("bad-header", "A number in the footer is too long.")

    def zigzag(self) -> int:
        value = self.varint()
        return (value >> 1) ^ -(value & 1)


def _struct(reader: _Reader, depth: int = 0) -> dict[int, Any]:
    """Fields of a Thrift compact struct by their number."""
    if depth > _MAXIMUM_DEPTH:
        fail("bad-header", "The footer nests too deep.")
    fields: dict[int, Any] = {}
    key = 0
    while (head := reader.take(1)[0]) != _STOP:
        key = key + (head >> 4) if head >> 4 else reader.zigzag()
        kind = head & 0x0F
        if key in fields:
            fail("bad-header", "The footer has a field twice.")
        fields[key] = kind == _TRUE if kind in {_TRUE, _FALSE} else _value(reader, kind, depth)
    return fields


def _value(reader: _Reader, kind: int, depth: int) -> Any:
    if kind in {_TRUE, _FALSE, _BYTE}:
        return reader.take(1)[0]
    if kind < _DOUBLE:
        return reader.zigzag()
    if kind == _DOUBLE:
        return reader.take(8)
    if kind == _BINARY:
        return reader.take(reader.varint())
    if kind in {_LIST, _SET}:
        head = reader.take(1)[0]
        count = head >> 4 if head >> 4 != 15 else reader.varint()
        if count > len(reader.data) - reader.position:
            fail("truncated", "A list in the footer is longer than the footer.")
        return [_value(reader, head & 0x0F, depth + 1) for _ in range(count)]
    if kind == _STRUCT:
        return _struct(reader, depth + 1)
    fail("bad-header", "The footer has a field of an unknown type.")
