"""WFDB records: a strict parser of the header, then the `wfdb` package on a header that we wrote.

`wfdb` opens any path or URL that a header names and allocates what it declares. So it only sees a
private temporary folder with a header rebuilt from checked numbers and links to checked files.
"""

from __future__ import annotations

import math
import re
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.formats import wfdb_annotations
from client.formats.base import (
    HEAD_BYTES,
    MAXIMUM_CHANNELS,
    MAXIMUM_FS_HZ,
    MAXIMUM_HEADER_BYTES,
    MAXIMUM_IN_MEMORY_BYTES,
    MAXIMUM_SAMPLES,
    Outline,
    Parsed,
    Signal,
    Text,
    checked_rate,
    checked_samples,
    decode,
    digest_files,
    fail,
    guarded,
    lines_of,
    read_bytes,
    size_of,
)

_RECORD_LINE = re.compile(
    r"^(?P<name>[^\s/]{1,255})(?:/(?P<segments>\d{1,9}))?[ \t]+(?P<signals>\d{1,9})"
    r"(?:[ \t]+(?P<fs>[0-9.eE+-]{1,32})(?:/[0-9.eE+-]{1,32}(?:\([0-9.eE+-]{1,32}\))?)?"
    r"(?:[ \t]+(?P<length>\d{1,20})"
    r"(?:[ \t]+[\d:.]{1,16}(?P<date>[ \t]+\d{1,2}/\d{1,2}/\d{1,4})?)?)?)?[ \t]*$"
)
_SIGNAL_LINE = re.compile(
    r"^(?P<file>\S{1,255})[ \t]+(?P<format>\d{1,4})(?:x(?P<per_frame>\d{1,6}))?"
    r"(?::(?P<skew>\d{1,9}))?"
    r"(?:\+(?P<offset>\d{1,12}))?"
    r"(?:[ \t]+(?P<gain>[0-9.eE+-]{1,32})(?:\((?P<baseline>[+-]?\d{1,11})\))?"
    r"(?:/(?P<unit>\S{1,64}))?"
    r"(?:[ \t]+\d{1,3}(?:[ \t]+(?P<zero>[+-]?\d{1,11})(?:[ \t]+[+-]?\d{1,11}"
    r"(?:[ \t]+(?P<checksum>[+-]?\d{1,11})(?:[ \t]+\d{1,9}"
    r"(?:[ \t]+(?P<name>.{0,255}))?)?)?)?)?)?)?"
    r"[ \t]*$"
)
_FILE_NAME = re.compile(r"^[A-Za-z0-9_][A-Za-z0-9_.\-]*$")
# bits per sample; the packed formats 310 and 311 hold three samples in four bytes
_BITS = {
    "8": 8,
    "16": 16,
    "24": 24,
    "32": 32,
    "61": 16,
    "80": 8,
    "160": 16,
    "212": 12,
    "310": 32 / 3,
    "311": 32 / 3,
}
_MISSING = {
    "8": None,
    "16": -(2**15),
    "24": -(2**23),
    "32": -(2**31),
    "61": -(2**15),
    "80": -(2**7),
    "160": -(2**15),
    "212": -(2**11),
    "310": -(2**9),
    "311": -(2**9),
}
_DEFAULT_FS_HZ = 250.0
_DEFAULT_GAIN = 200.0
_MAXIMUM_PER_FRAME = 1000


@dataclass(frozen=True)
class _Channel:
    file: str
    format: str
    per_frame: int
    skew: int
    offset: int
    gain: float
    baseline: int
    unit: str
    checksum: int | None
    name: str


@dataclass(frozen=True)
class _Header:
    fs_hz: float
    length: int | None
    channels: tuple[_Channel, ...]
    comments: tuple[Text, ...]


def looks_like(head: bytes) -> bool:
    """True if the first line that is no comment is a WFDB record line."""
    if b"\x00" in head:
        return False
    for line in lines_of(decode(head[:HEAD_BYTES])):
        if line.strip() and not line.startswith("#"):
            return _RECORD_LINE.match(line) is not None
    return False


def named_files(path: Path) -> set[str]:
    """Names that the header's signal lines give, unchecked (to know what belongs to a record)."""
    lines = [
        line
        for line in lines_of(decode(read_bytes(path, MAXIMUM_HEADER_BYTES)))
        if line and line[0] != "#"
    ]
    return {line.split()[0] for line in lines[1:] if line.split()}


def outline(path: Path) -> Outline:
    """Read and check a header and the sizes of its files. Raises DataFault."""
    header = _parse(decode(read_bytes(path, MAXIMUM_HEADER_BYTES)))
    files = _signal_files(path, header)
    annotation = path.with_suffix(".atr")
    companions = [*files.values()]
    if annotation.is_file() and annotation.resolve().parent == path.resolve().parent:
        size_of(annotation, wfdb_annotations.MAXIMUM_BYTES)
        companions.append(annotation)
    return Outline(
        format="wfdb",
        channels=tuple(channel.name for channel in header.channels),
        texts=header.comments,
        companions=tuple(companions),
        handle=header,
    )


def read(path: Path, seen: Outline, chosen: dict[str, str]) -> Parsed:
    """Read the chosen channels (role -> channel name) and the annotations. Raises DataFault.

    Every checksum that the header gives is verified, also those of channels that are not chosen.
    """
    header: _Header = seen.handle
    length = header.length if header.length is not None else _length_from_size(path, header)
    if length == 0:
        fail("no-samples", "The record has no samples.")
    files = _signal_files(path, header)
    with tempfile.TemporaryDirectory(prefix="fedprint-") as folder:
        private = Path(folder)
        _write_header(private, header, files, length)
        digital = _read_digital(private, header, length)
    marks = next((item for item in seen.companions if item.suffix == ".atr"), None)
    events = () if marks is None else wfdb_annotations.read_events(marks, header.fs_hz, length)
    for channel, values in zip(header.channels, digital, strict=True):
        total = int(values.sum(dtype=np.int64))
        if channel.checksum is not None and (total - channel.checksum) % 65536:
            fail(
                "checksum",
                "The samples do not add up to the checksum in the header.",
                do="Copy the record again from its source.",
            )
    names = [channel.name for channel in header.channels]
    signals = {}
    for role, name in chosen.items():
        index = names.index(name)
        channel, values = header.channels[index], digital[index]
        samples = (values.astype(np.float64) - channel.baseline) / channel.gain
        missing = _MISSING[channel.format]
        if missing is not None:
            samples[values == missing] = np.nan
        signals[role] = Signal(
            name,
            checked_samples(samples),
            checked_rate(header.fs_hz * channel.per_frame),
            channel.unit,
        )
    return Parsed(signals=signals, digest=digest_files((path, *seen.companions)), events=events)


def _parse(text: str) -> _Header:
    lines = lines_of(text)
    comments = tuple(
        Text(f"comment {number}", line.lstrip("#").strip())
        for number, line in enumerate((line for line in lines if line.startswith("#")), start=1)
    )
    body = [line for line in lines if line.strip() and not line.startswith("#")]
    if any(character < " " and character != "\t" for line in body for character in line):
        fail("bad-header", "The header has control characters.")
    first = _RECORD_LINE.match(body[0]) if body else None
    if first is None:
        fail("bad-header", "The record line does not parse.")
    if first["segments"] is not None:
        fail(
            "unsupported",
            "The header joins several segments.",
            do="Give the segments themselves; each is a recording.",
        )
    count = int(first["signals"])
    if count == 0:
        fail("no-channel", "The record declares no signal.")
    if count > MAXIMUM_CHANNELS:
        fail("too-large", f"The record declares more than {MAXIMUM_CHANNELS} channels.")
    fs_hz = _number(first["fs"], _DEFAULT_FS_HZ)
    if fs_hz == 0 or fs_hz > MAXIMUM_FS_HZ:
        checked_rate(fs_hz)  # frames slower than 25 Hz may hold several samples a frame
    length = int(first["length"]) if first["length"] else None
    if length == 0:
        length = None  # the format's way to say "unknown"
    if length is not None and length > MAXIMUM_SAMPLES:
        fail("too-large", f"The record declares more than {MAXIMUM_SAMPLES} samples.")
    if len(body) - 1 < count:
        fail("truncated", "The header has fewer signal lines than it declares.")
    channels = tuple(_parse_channel(line) for line in body[1 : count + 1])
    texts = comments
    if first["date"]:
        texts += (Text("record line: date", first["date"].strip(), "recording-date"),)
    texts += tuple(Text("signal description", channel.name) for channel in channels)
    return _Header(fs_hz, length, channels, texts)


def _parse_channel(line: str) -> _Channel:
    found = _SIGNAL_LINE.match(line)
    if found is None:
        fail("bad-header", "A signal line does not parse.")
    name = found["file"]
    if "/" in name or "\\" in name or name.startswith((".", "~")) or ".." in name or ":" in name:
        fail("outside-folder", "A signal line names a file outside the folder.")
    if not _FILE_NAME.match(name):
        fail("bad-header", "A signal line names a file with odd characters.")
    if found["format"] not in _BITS:
        fail("unsupported", "The signal format is none of the WFDB formats that are read.")
    per_frame = int(found["per_frame"] or 1)
    if not 1 <= per_frame <= _MAXIMUM_PER_FRAME:
        fail("bad-header", "The samples per frame are out of range.")
    skew = int(found["skew"] or 0)
    if skew > 100_000:
        fail("bad-header", "A signal's skew is out of range.")
    gain = _number(found["gain"], _DEFAULT_GAIN)
    return _Channel(
        file=name,
        format=found["format"],
        per_frame=per_frame,
        skew=skew,
        offset=int(found["offset"] or 0),
        gain=gain or _DEFAULT_GAIN,
        baseline=int(found["baseline"] or found["zero"] or 0),
        unit=found["unit"] or "mV",
        checksum=None if found["checksum"] is None else int(found["checksum"]),
        name=(found["name"] or "").strip(),
    )


def _number(text: str | None, default: float) -> float:
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        fail("bad-header", "A number in the header does not parse.")
    if not math.isfinite(value) or value < 0 or (value != 0 and not 1e-12 < value < 1e15):
        fail("bad-header", "A number in the header is out of range.")
    return value


def _signal_files(path: Path, header: _Header) -> dict[str, Path]:
    """Name -> real path of every signal file, sizes checked against what is declared."""
    folder = path.parent.resolve()
    files: dict[str, Path] = {}
    for name in dict.fromkeys(channel.file for channel in header.channels):
        target = path.parent / name
        real = target.resolve()
        if real.parent != folder:
            fail("outside-folder", "A signal file is a link that leaves the folder.")
        if not target.exists():
            fail(
                "truncated", "A signal file of this record is absent.", do="Copy the whole record."
            )
        size_bytes = size_of(real, MAXIMUM_IN_MEMORY_BYTES)
        inside = [channel for channel in header.channels if channel.file == name]
        if len({(channel.format, channel.offset) for channel in inside}) != 1:
            fail("bad-header", "Signals of one file differ in format or offset.")
        if header.length is not None and size_bytes < _bytes_needed(inside, header.length):
            fail(
                "truncated",
                "The signal file is shorter than the header declares.",
                do="Copy the record again from its source.",
            )
        files[name] = real
    return files


def _bytes_needed(inside: list[_Channel], length: int) -> int:
    samples = length * sum(channel.per_frame for channel in inside)
    return inside[0].offset + math.floor(samples * _BITS[inside[0].format] / 8)


def _length_from_size(path: Path, header: _Header) -> int:
    first = header.channels[0]
    inside = [channel for channel in header.channels if channel.file == first.file]
    body_bytes = size_of(path.parent / first.file, MAXIMUM_IN_MEMORY_BYTES) - first.offset
    frame_bits = sum(channel.per_frame for channel in inside) * _BITS[first.format]
    length = int(max(body_bytes, 0) * 8 // frame_bits)
    for name in {channel.file for channel in header.channels} - {first.file}:
        other = [channel for channel in header.channels if channel.file == name]
        if size_of(path.parent / name, MAXIMUM_IN_MEMORY_BYTES) < _bytes_needed(other, length):
            fail("truncated", "The signal files differ in length.")
    if length > MAXIMUM_SAMPLES:
        fail("too-large", f"The record has more than {MAXIMUM_SAMPLES} samples.")
    return length


def _write_header(folder: Path, header: _Header, files: dict[str, Path], length: int) -> None:
    names = {name: f"signal{index}.dat" for index, name in enumerate(files)}
    for name, target in files.items():
        (folder / names[name]).symlink_to(target)
    lines = [f"record {len(header.channels)} {header.fs_hz!r} {length}"]
    for index, channel in enumerate(header.channels):
        frame = f"{channel.format}x{channel.per_frame}:{channel.skew}+{channel.offset}"
        lines.append(f"{names[channel.file]} {frame} 1(0)/NU 0 0 0 0 0 channel{index}")
    (folder / "record.hea").write_text("\n".join(lines) + "\n", encoding="ascii")


def _read_digital(folder: Path, header: _Header, length: int) -> list[NDArray[Any]]:
    import wfdb

    with guarded("signal file"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        record = wfdb.rdrecord(
            str(folder / "record"), physical=False, smooth_frames=False, return_res=32
        )
        digital = [np.asarray(values) for values in record.e_d_signal]
    wanted = [length * channel.per_frame for channel in header.channels]
    if [values.size for values in digital] != wanted:
        fail("truncated", "The signal file is shorter than the header declares.")
    return digital
