"""What all format readers share: the closed set of causes, the limits, the shapes they return."""

from __future__ import annotations

import hashlib
import io
import math
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args

import numpy as np
from numpy.typing import NDArray

from shared_model.errors import DataFault

Cause = Literal[
    "empty",  # 0 bytes
    "not-a-recording",  # none of the accepted formats
    "unsupported",  # a known format in a variant that is not read
    "bad-header",  # the header does not parse or contradicts itself
    "truncated",  # fewer bytes than the header declares
    "too-large",  # more samples, channels or bytes than are ever read
    "checksum",  # samples do not add up to the header's checksum
    "bad-values",  # a cell that is no number, or a number that no sensor gives
    "outside-folder",  # a header or link that leads out of the folder
    "unreadable",  # the operating system or the parser gives up
    "no-channel",  # nothing that the mapping calls ECG or PPG
    "no-samples",  # a channel without one real sample
    "units",  # a unit that the channel cannot have
    "sampling-rate",  # absent, contradictory or outside 25 ... 2000 Hz
    "time-column",  # times that do not increase
    "no-patient",  # nobody says whose recording it is
    "bad-table",  # a table of recordings that cannot be used
]
CAUSES: tuple[str, ...] = get_args(Cause)

Samples = NDArray[np.float64]

MINIMUM_FS_HZ = 25.0
MAXIMUM_FS_HZ = 2000.0
MAXIMUM_CHANNELS = 512
MAXIMUM_SAMPLES = 100_000_000
"""Per channel: 9 days at 125 Hz, 14 hours at 2000 Hz; 0.8 GB as float64."""
MAXIMUM_FILE_BYTES = 4 << 30
MAXIMUM_IN_MEMORY_BYTES = 1 << 30
"""Files of formats that are parsed as a whole (WFDB, DICOM, CSV)."""
MAXIMUM_HEADER_BYTES = 1 << 20
MAXIMUM_MAGNITUDE = 1e9
"""No sensor gives more, in any accepted unit; a larger number is damage."""
HEAD_BYTES = 1 << 16
RATE_AS = "Write it in Hz with a decimal point, like 62.5."
_AGAIN = "Export it again from its source."
_USUALLY: dict[Cause, str] = {
    "bad-table": "Correct the table: one row for each recording, and in it a cell for each column."
}
"""What to do where nobody says anything nearer."""


def fail(cause: Cause, message: str, *, do: str = "") -> NoReturn:
    """Raise a DataFault; `message` must not quote the file's content."""
    raise DataFault(message, cause=cause, do=do or _USUALLY.get(cause, "")) from None


@dataclass(frozen=True)
class Text:
    """A text in a file that the identifier scan has to see. `hint`: kind known from its place."""

    where: str
    value: str = field(repr=False)
    hint: str = ""


@dataclass(frozen=True)
class Signal:
    """One channel as the file has it: physical samples (NaN = missing), unit as written."""

    name: str
    samples: Samples = field(repr=False)
    fs_hz: float
    unit: str


@dataclass(frozen=True)
class Event:
    """What happens `time_s` after the recording's start: "beat:N", "beat:V", "rhythm:AFIB".

    A rhythm holds until the next rhythm event.
    """

    time_s: float
    kind: str


@dataclass(frozen=True)
class Outline:
    """What a file says before its samples are read."""

    format: Literal["wfdb", "edf", "dicom", "csv", "parquet", "table"]
    channels: tuple[str, ...]
    columns: tuple[str, ...] = ()
    series: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()
    """Columns with neither samples nor a value of each recording."""
    texts: tuple[Text, ...] = field(default=(), repr=False)
    patient: str = field(default="", repr=False)
    companions: tuple[Path, ...] = ()
    handle: Any = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class Parsed:
    """One recording as a format reader returns it, before patient, labels and units are settled."""

    signals: dict[str, Signal] = field(repr=False)
    digest: str
    row: dict[str, Any] = field(default_factory=dict, repr=False)
    events: tuple[Event, ...] = ()
    series: dict[str, Samples] = field(default_factory=dict, repr=False)
    texts: tuple[Text, ...] = field(default=(), repr=False)
    fault: DataFault | None = None


@contextmanager
def guarded(what: str) -> Iterator[None]:
    """Turn what a third-party parser raises into a DataFault that quotes nothing of the file."""
    try:
        yield
    except DataFault:
        raise
    except MemoryError:
        fail("too-large", f"Reading the {what} needs more memory than there is.")
    except OSError as error:
        if error.errno is None:  # a parser's own word for damage, not the operating system's
            fail("bad-header", f"The {what} does not parse.", do=_AGAIN)
        fail("unreadable", f"The {what} cannot be read.", do="Check its permissions and its disk.")
    except Exception as error:
        fail("bad-header", f"The {what} does not parse ({type(error).__name__}).", do=_AGAIN)


def size_of(path: Path, limit_bytes: int = MAXIMUM_FILE_BYTES) -> int:
    """Size of a regular file in bytes. Raises DataFault for all else, for 0, above the limit."""
    try:
        status = os.stat(path)
    except OSError:
        fail(
            "unreadable",
            "The file cannot be opened.",
            do="Check that it exists and its permissions.",
        )
    if not stat.S_ISREG(status.st_mode):
        fail("not-a-recording", "It is no regular file.")
    if status.st_size == 0:
        fail("empty", "The file has 0 bytes.", do="Copy it again from its source.")
    if status.st_size > limit_bytes:
        fail(
            "too-large",
            f"The file has more than the {limit_bytes >> 20} MiB that are read.",
            do="Split it into shorter recordings.",
        )
    return status.st_size


def read_bytes(path: Path, limit_bytes: int) -> bytes:
    """The whole file, of at most `limit_bytes`."""
    size_bytes = size_of(path, limit_bytes)
    with guarded("file"), path.open("rb") as stream:
        return stream.read(size_bytes)


def read_head(path: Path) -> bytes:
    """The first bytes of a file (at most HEAD_BYTES)."""
    size_of(path)
    with guarded("file"), path.open("rb") as stream:
        return stream.read(HEAD_BYTES)


def digest_files(paths: tuple[Path, ...]) -> str:
    """SHA-256 over the files' bytes, each preceded by its length."""
    total = hashlib.sha256()
    with guarded("file"):
        for path in paths:
            total.update(os.stat(path).st_size.to_bytes(8, "big"))
            with path.open("rb") as stream:
                while block := stream.read(1 << 20):
                    total.update(block)
    return total.hexdigest()


def lines_of(text: str) -> list[str]:
    """Its lines without their ends: CR LF, LF or CR, as in CSV. `str.splitlines` also ends them at
    characters that a cell may hold (U+0085, Windows' ellipsis read as Latin-1)."""
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


_NO_UTF8 = re.compile("[\udc80-\udcff]")
_END_OF_LINE = re.compile("[\r\n]")


def decode(data: bytes) -> str:
    """Text of a header or table: UTF-8 (with or without mark), else Latin-1, which never fails.

    Line by line, where not all of it is UTF-8: a row of a table is one recording, and how it is
    written must not change how others' are read.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return _by_line(data.decode("utf-8-sig", "surrogateescape"))


def _by_line(text: str) -> str:
    """Lines with bytes that are no UTF-8, anew as Latin-1. The text's size again in memory, however
    many lines there are."""
    made, done = io.StringIO(), 0
    for bad in _NO_UTF8.finditer(text):
        if bad.start() < done:
            continue  # of a line that was done
        start = max(done, *(text.rfind(end, done, bad.start()) + 1 for end in "\r\n"))
        found = _END_OF_LINE.search(text, bad.start())
        end = found.start() if found else len(text)
        made.write(text[done:start])
        made.write(text[start:end].encode("utf-8", "surrogateescape").decode("latin-1"))
        done = end
    made.write(text[done:])
    return made.getvalue()


def checked_rate(fs_hz: float) -> float:
    """The rate itself if it is one that is read, 25 ... 2000 Hz; else DataFault."""
    if not math.isfinite(fs_hz) or not MINIMUM_FS_HZ <= fs_hz <= MAXIMUM_FS_HZ:
        fail(
            "sampling-rate",
            f"The sampling rate is outside {MINIMUM_FS_HZ:g} ... {MAXIMUM_FS_HZ:g} Hz.",
            do="Give the right fs_hz in the mapping or in the table of recordings.",
        )
    return float(fs_hz)


def checked_samples(samples: NDArray[Any]) -> Samples:
    """float64 copy with infinities as missing; DataFault for numbers that no sensor gives."""
    if samples.ndim != 1 or samples.size > MAXIMUM_SAMPLES:
        fail("too-large", f"A channel has more than {MAXIMUM_SAMPLES} samples.")
    values = np.array(samples, dtype=np.float64)
    values[~np.isfinite(values)] = np.nan
    if (
        values.size
        and not np.all(np.isnan(values))
        and np.nanmax(np.abs(values)) > MAXIMUM_MAGNITUDE
    ):
        fail("bad-values", "A channel has values that no sensor gives (above 1e9).")
    return values
