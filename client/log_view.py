"""The node's logs read as one: files, those put aside too, merged by time.

for entry in last(home.logs, 100): print(entry.as_text())
for entry in followed(home.logs, 100): ...          # never ends
"""

from __future__ import annotations

import datetime
import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from client.node_logs import stamp

NAMES = ("node", "supernode", "training", "console", "console-audit", "rounds", "sent")
_NO_TIME = datetime.datetime.min.replace(tzinfo=datetime.UTC)
_STAMP_LENGTH = len("2026-11-28T17:40:00.123Z")


@dataclass(frozen=True)
class Entry:
    """One line. source: which log. content: what is said, without time."""

    at: datetime.datetime
    source: str
    content: dict[str, Any]

    def as_json(self) -> str:
        """One object."""
        at = "" if self.at == _NO_TIME else stamp(self.at)
        return json.dumps({"time": at, "log": self.source, **self.content})

    def as_text(self) -> str:
        """For people; nothing in it moves a terminal's cursor."""
        at = "-" if self.at == _NO_TIME else stamp(self.at)
        rest = dict(self.content)
        said = str(rest.pop("line", "") or rest.pop("message", ""))
        rest.pop("process", None)
        level = str(rest.pop("level", "")).upper()
        more = [f"{key}={value}" for key, value in rest.items() if value not in ("", None, [])]
        words = " ".join(filter(None, (level, said, *more)))
        return f"{at} {self.source:<9} " + "".join(c if c.isprintable() else " " for c in words)


def parsed(source: str, line: str) -> Entry:
    """A line of a log, of whichever form; what has no time of its own keeps none."""
    try:
        found = json.loads(line)
    except ValueError:
        found = None
    if isinstance(found, dict):
        at = _time(str(found.pop("time", "")))
        for key in ("handed_over_s", "delivered_s"):  # sent.log counts seconds
            if at == _NO_TIME and isinstance(found.get(key), int | float):
                at = _of_seconds(found.pop(key))
        return Entry(at, source, found)
    at = _time(line[:_STAMP_LENGTH])
    return Entry(at, source, {"line": line if at == _NO_TIME else line[_STAMP_LENGTH:].lstrip()})


def last(folder: Path, lines: int) -> list[Entry]:
    """The last entries of all logs together, oldest first."""
    found = [entry for name in NAMES for entry in _last_of(folder, name, lines)]
    found.sort(key=lambda entry: entry.at)
    return found[-lines:] if lines else []


def followed(
    folder: Path, lines: int, wait: Callable[[], None] = lambda: time.sleep(0.5)
) -> Iterator[Entry]:
    """The last entries, and then what comes; each line once, also over a rotation."""
    tails = [(name, _Tail(folder / f"{name}.log")) for name in NAMES]
    try:
        yield from last(folder, lines)
        while True:
            new = [_sorted_in(name, tail.new_lines()) for name, tail in tails]
            yield from sorted((entry for part in new for entry in part), key=lambda e: e.at)
            wait()
    finally:
        for _, tail in tails:
            tail.close()


def _last_of(folder: Path, name: str, lines: int) -> list[Entry]:
    """Of one log, newest file first until there are enough."""
    kept: deque[str] = deque()
    for path in _files(folder, name):
        try:
            with path.open(encoding="utf-8", errors="replace") as stream:
                found = deque((line.rstrip("\n") for line in stream), maxlen=max(1, lines))
        except OSError:
            continue
        kept.extendleft(reversed(found))
        if len(kept) >= lines:
            break
    return _sorted_in(name, kept)


def _sorted_in(name: str, lines: Iterable[str]) -> list[Entry]:
    """Entries in the order of the file: one without a time has that of the one before it."""
    entries: list[Entry] = []
    for line in lines:
        if line.strip():
            entry = parsed(name, line)
            if entry.at == _NO_TIME and entries:
                entry = Entry(entries[-1].at, name, entry.content)
            entries.append(entry)
    return entries


def _files(folder: Path, name: str) -> list[Path]:
    aside = [
        path
        for path in folder.glob(f"{name}.log.*")
        if path.suffix[1:].isdecimal() and path.is_file()
    ]
    aside.sort(key=lambda path: int(path.suffix[1:]))
    return [folder / f"{name}.log", *aside]


class _Tail:
    """Whole lines that are added to a file, which may be put aside meanwhile."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stream: IO[bytes] | None = self._open()
        self._part = b""
        if self._stream is not None:
            self._stream.seek(0, os.SEEK_END)

    def new_lines(self) -> list[str]:
        """Since the last call."""
        data = b""
        if self._stream is not None:
            data = self._stream.read()
            if self._moved():
                data += self._stream.read()
                self._stream.close()
                self._stream = None
        if self._stream is None:
            self._stream = self._open()
            data += b"" if self._stream is None else self._stream.read()
        *lines, self._part = (self._part + data).split(b"\n")
        return [line.decode("utf-8", errors="replace") for line in lines]

    def close(self) -> None:
        """Let go of the file."""
        if self._stream is not None:
            self._stream.close()

    def _open(self) -> IO[bytes] | None:
        try:
            return self._path.open("rb")
        except OSError:
            return None

    def _moved(self) -> bool:
        if self._stream is None:
            return False
        try:
            return self._path.stat().st_ino != os.fstat(self._stream.fileno()).st_ino
        except FileNotFoundError:
            return True


def _of_seconds(value: float) -> datetime.datetime:
    try:
        return datetime.datetime.fromtimestamp(value, datetime.UTC)
    except (OverflowError, OSError, ValueError):
        return _NO_TIME


def _time(text: str) -> datetime.datetime:
    try:
        at = datetime.datetime.fromisoformat(text)
    except ValueError:
        return _NO_TIME
    return at.astimezone(datetime.UTC) if at.tzinfo is not None else _NO_TIME
