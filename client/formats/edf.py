"""EDF and EDF+C: header arithmetic proven first, then the samples through `pyedflib`.

`pyedflib` is C code, and it refuses what hospitals write (local characters, odd dates). It only
sees a copy in memory under a header that we wrote, whose size is exactly what that header says.
"""

from __future__ import annotations

import datetime
import math
import os
import re
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from client.formats.base import (
    MAXIMUM_CHANNELS,
    MAXIMUM_IN_MEMORY_BYTES,
    MAXIMUM_SAMPLES,
    Outline,
    Parsed,
    Signal,
    Text,
    checked_rate,
    checked_samples,
    digest_files,
    fail,
    guarded,
    size_of,
)

_MAIN_BYTES = 256
_SIGNAL_BYTES = 256
_MAXIMUM_RECORD_BYTES = 10 << 20
_MAXIMUM_ANNOTATION_BYTES = 4 << 20
_ANNOTATIONS = "EDF Annotations"
_INTEGER = re.compile(r"^[+-]?\d{1,8}$")
_REAL = re.compile(r"^[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,2})?$")
_UNKNOWN = frozenset({"", "X", "x"})


@dataclass(frozen=True)
class _Channel:
    label: str
    unit: str
    physical: tuple[float, float]
    digital: tuple[int, int]
    per_record: int


@dataclass(frozen=True)
class _Header:
    records: int
    record_s: float
    channels: tuple[_Channel, ...]

    @property
    def header_bytes(self) -> int:
        return _MAIN_BYTES + _SIGNAL_BYTES * len(self.channels)

    @property
    def record_bytes(self) -> int:
        return 2 * sum(channel.per_record for channel in self.channels)


def looks_like(head: bytes) -> bool:
    """True for an EDF version field and a text header, or the BDF mark."""
    if head[:8] == b"\xffBIOSEMI":
        return True
    return head[:8] == b"0       " and len(head) >= 16 and b"\x00" not in head[:168]


def outline(path: Path) -> Outline:
    """Read and check the header against the file's size. Raises DataFault."""
    size_bytes = size_of(path, MAXIMUM_IN_MEMORY_BYTES)
    with guarded("header"), path.open("rb") as stream:
        main = stream.read(_MAIN_BYTES)
        if main[:1] == b"\xff":
            fail("unsupported", "BDF files are not read.", do="Export the recording as EDF.")
        if len(main) < _MAIN_BYTES:
            fail("truncated", "The file ends inside its header.")
        count = _integer(_ascii(main[252:256]), "number of signals")
        if count < 1:
            fail("no-channel", "The header declares no signal.")
        if count > MAXIMUM_CHANNELS:
            fail("too-large", f"The header declares more than {MAXIMUM_CHANNELS} channels.")
        rest = stream.read(_SIGNAL_BYTES * count)
    if len(rest) < _SIGNAL_BYTES * count:
        fail("truncated", "The file ends inside its header.")
    header = _parse(main, rest, count)
    wanted_bytes = header.header_bytes + header.records * header.record_bytes
    if size_bytes < wanted_bytes:
        fail(
            "truncated",
            "The file is shorter than its header declares.",
            do="Copy it again from its source.",
        )
    if size_bytes > wanted_bytes:
        fail(
            "bad-header",
            "The file is longer than its header declares.",
            do="Export it again from its source.",
        )
    plus = main[192:197] == b"EDF+C"
    patient, texts = _identities(main, plus)
    return Outline(
        format="edf",
        channels=tuple(
            channel.label for channel in header.channels if channel.label != _ANNOTATIONS
        ),
        texts=(*texts, *_signal_texts(rest, count), *_annotation_texts(path, header)),
        patient=patient,
        handle=header,
    )


def read(path: Path, seen: Outline, chosen: dict[str, str]) -> Parsed:
    """Read the chosen channels (role -> label) as physical values. Raises DataFault."""
    import pyedflib

    header: _Header = seen.handle
    labels = [channel.label for channel in header.channels]
    signals: dict[str, Signal] = {}
    with guarded("file"), _neutral_copy(path, header) as copy, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reader = pyedflib.EdfReader(
            copy,
            pyedflib.edfreader.DO_NOT_READ_ANNOTATIONS,
            pyedflib.edfreader.CHECK_FILE_SIZE,
        )
        try:
            for role, label in chosen.items():
                index = labels.index(label)
                digital = reader.readSignal(index, digital=True)
                signals[role] = _physical(header, header.channels[index], digital)
        finally:
            reader.close()
    return Parsed(signals=signals, digest=digest_files((path,)))


@contextmanager
def _neutral_copy(path: Path, header: _Header) -> Iterator[str]:
    """Path of an unnamed copy in memory: the file's samples under a header that we wrote.

    All channels are plain signals in it; names, dates and local characters stay behind.
    """
    channels = header.channels
    many = len(channels)
    columns = [
        (["0"], 8),
        (["X"], 80),
        (["X"], 80),
        (["01.01.00"], 8),
        (["00.00.00"], 8),
        ([str(header.header_bytes)], 8),
        ([""], 44),
        ([str(header.records)], 8),
        (["1"], 8),
        ([str(many)], 4),
        ([f"channel {index}" for index in range(many)], 16),
        ([""] * many, 80 + 8),  # transducer and unit
        (["-32768"] * many, 8),
        (["32767"] * many, 8),
        (["-32768"] * many, 8),
        (["32767"] * many, 8),
        ([""] * many, 80),
        ([str(channel.per_record) for channel in channels], 8),
        ([""] * many, 32),
    ]
    text = "".join(value.ljust(width) for values, width in columns for value in values)
    with os.fdopen(os.memfd_create("recording"), "wb") as copy:
        copy.write(text.encode("ascii"))
        with path.open("rb") as source:
            source.seek(header.header_bytes)
            shutil.copyfileobj(source, copy, 1 << 20)
        copy.flush()
        yield f"/proc/self/fd/{copy.fileno()}"


def _physical(header: _Header, channel: _Channel, digital: np.ndarray) -> Signal:
    if digital.size != header.records * channel.per_record:
        fail("truncated", "The parser returns fewer samples than the header declares.")
    (low, high), (bottom, top) = channel.physical, channel.digital
    samples = (digital.astype(np.float64) - bottom) * ((high - low) / (top - bottom)) + low
    fs_hz = checked_rate(channel.per_record / header.record_s if header.record_s else math.inf)
    return Signal(channel.label, checked_samples(samples), fs_hz, channel.unit)


def _parse(main: bytes, rest: bytes, count: int) -> _Header:
    if _integer(_ascii(main[184:192]), "size of the header") != _MAIN_BYTES + _SIGNAL_BYTES * count:
        fail("bad-header", "The header's size contradicts its number of signals.")
    if main[192:197] in {b"EDF+D", b"BDF+D"}:
        fail(
            "unsupported",
            "Discontinuous EDF+ (EDF+D) is not read.",
            do="Export continuous stretches as EDF+C.",
        )
    records = _integer(_ascii(main[236:244]), "number of data records")
    if records < 1:
        fail("no-samples", "The header declares no data record.")
    record_s = _real(_ascii(main[244:252]), "duration of a data record")
    if not 0 <= record_s <= 86_400:
        fail("bad-header", "The duration of a data record is out of range.")
    widths = (16, 80, 8, 8, 8, 8, 8, 80, 8, 32)
    columns: list[list[str]] = []
    start = 0
    for width in widths:
        columns.append(
            [_ascii(rest[start + i * width : start + (i + 1) * width]) for i in range(count)]
        )
        start += width * count
    labels, _, units, lows, highs, bottoms, tops, _, sizes, _ = columns
    channels = []
    for i in range(count):
        per_record = _integer(sizes[i], "samples in a data record")
        low, high = _real(lows[i], "physical minimum"), _real(highs[i], "physical maximum")
        bottom, top = _integer(bottoms[i], "digital minimum"), _integer(tops[i], "digital maximum")
        if per_record < 1:
            fail("bad-header", "A signal has no samples in a data record.")
        if not -32768 <= bottom < top <= 32767 or (low == high and labels[i] != _ANNOTATIONS):
            fail("bad-header", "A signal's range is empty or out of 16 bits.")
        channels.append(_Channel(labels[i], units[i], (low, high), (bottom, top), per_record))
    header = _Header(records, record_s, tuple(channels))
    if header.record_bytes > _MAXIMUM_RECORD_BYTES:
        fail("too-large", "A data record is larger than EDF allows (10 MiB).")
    if records * max(channel.per_record for channel in channels) > MAXIMUM_SAMPLES:
        fail("too-large", f"The file declares more than {MAXIMUM_SAMPLES} samples in a channel.")
    return header


def _ascii(field: bytes) -> str:
    return field.decode("latin-1").strip()


def _integer(text: str, what: str) -> int:
    if not _INTEGER.match(text):
        fail("bad-header", f"The {what} in the header is no integer.")
    return int(text)


def _real(text: str, what: str) -> float:
    if not _REAL.match(text):
        fail("bad-header", f"The {what} in the header is no number.")
    value = float(text)
    if not math.isfinite(value) or abs(value) > 1e9:
        fail("bad-header", f"The {what} in the header is out of range.")
    return value


def _identities(main: bytes, plus: bool) -> tuple[str, tuple[Text, ...]]:
    """Patient code (EDF+ only); texts of the patient and recording fields with their kinds."""
    patient, recording = _ascii(main[8:88]), _ascii(main[88:168])
    texts: list[Text] = []
    code = ""
    if plus:
        parts = [part.replace("_", " ").strip() for part in patient.split(" ") if part]
        kinds = ("record-number", "", "birth-date", "name")
        for index, part in enumerate(parts):
            if part in _UNKNOWN or index == 1:
                continue
            where = (
                ("patient code", "", "patient birth date", "patient name")[index]
                if index < 4
                else "patient field"
            )
            texts.append(Text(where, part, kinds[index] if index < 4 else "free-text"))
        code = parts[0] if parts and parts[0] not in _UNKNOWN else ""
        parts = [part.replace("_", " ").strip() for part in recording.split(" ") if part]
        kinds = ("", "recording-date", "record-number", "name")
        for index, part in enumerate(parts):
            if index == 0 or part in _UNKNOWN:
                continue
            where = (
                ("", "recording date", "administration code", "technician")[index]
                if index < 4
                else "equipment"
            )
            texts.append(Text(where, part, kinds[index] if index < 4 else "free-text"))
    else:
        if patient not in _UNKNOWN:
            texts.append(Text("patient field", patient, "free-text"))
        if recording not in _UNKNOWN:
            texts.append(Text("recording field", recording, "free-text"))
        if _real_date(_ascii(main[168:176])):
            texts.append(Text("start date", _ascii(main[168:176]), "recording-date"))
    return code, tuple(texts)


def _real_date(text: str) -> bool:
    """False for the anonymous 01.01.85 and for what is no date."""
    try:
        day = datetime.datetime.strptime(text, "%d.%m.%y")
    except ValueError:
        return False
    return (day.day, day.month, day.year % 100) != (1, 1, 85)


def _signal_texts(rest: bytes, count: int) -> tuple[Text, ...]:
    labels = [_ascii(rest[16 * i : 16 * i + 16]) for i in range(count)]
    transducers = [
        _ascii(rest[16 * count + 80 * i : 16 * count + 80 * i + 80]) for i in range(count)
    ]
    start = 136 * count
    filters = [_ascii(rest[start + 80 * i : start + 80 * i + 80]) for i in range(count)]
    reserved = [
        _ascii(rest[224 * count + 32 * i : 224 * count + 32 * i + 32]) for i in range(count)
    ]
    named = (
        ("label", labels),
        ("transducer", transducers),
        ("prefilter", filters),
        ("reserved", reserved),
    )
    return tuple(
        Text(f"signal {where}", value) for where, values in named for value in values if value
    )


def _annotation_texts(path: Path, header: _Header) -> tuple[Text, ...]:
    """Texts of the annotation signals, of which nothing but findings is kept."""
    texts: dict[str, None] = {}
    budget = _MAXIMUM_ANNOTATION_BYTES
    offset = 0
    with guarded("annotations"), path.open("rb") as stream:
        for channel in header.channels:
            size = 2 * channel.per_record
            if channel.label == _ANNOTATIONS:
                for record in range(header.records):
                    budget -= size
                    if budget < 0:
                        fail("too-large", "The file has more than 4 MiB of annotations.")
                    stream.seek(header.header_bytes + record * header.record_bytes + offset)
                    for block in stream.read(size).split(b"\x00"):
                        for text in block.decode("utf-8", "replace").split("\x14")[1:]:
                            if text.strip():
                                texts[text.strip()] = None
            offset += size
    return tuple(Text("annotation", text) for text in texts)
