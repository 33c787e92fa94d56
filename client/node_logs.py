"""The node's logs: files that are put aside by size, stamped lines, and all of them read as one.

    logs/node.log        the supervisor's own
    logs/supernode.log   what each process writes, stamped line by line by `Pump`
    logs/training.log
    logs/console.log
    logs/rounds.log      one JSON object for each message of the coordinator (`client.round`)

`X.log` is the one written to; `X.log.1` the one before it, and so on. In the form "json" a line is
one object: time, then either level, message and more (node.log), or process and line.
"""

from __future__ import annotations

import datetime
import json
import os
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO, Literal

from client.settings import LogSettings

LONGEST_LINE = 16 * 1024
_MB = 1_000_000
_READ = 64 * 1024
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")

Level = Literal["info", "warning", "error"]


def stamp(now: datetime.datetime | None = None) -> str:
    """UTC with milliseconds, 2026-11-28T17:40:00.123Z."""
    at = now or datetime.datetime.now(datetime.UTC)
    return at.astimezone(datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def put_aside(path: Path, kept: int) -> None:
    """Rename path to path.1, path.1 to path.2, ...; what would be path.(kept + 1) goes."""
    numbered = [path, *(path.with_name(f"{path.name}.{number}") for number in range(1, kept + 1))]
    for old, new in zip(reversed(numbered[:-1]), reversed(numbered[1:]), strict=True):
        if old.exists():
            os.replace(old, new)


class LogFile:
    """Appends whole lines; puts the file aside before it would grow beyond its size.

    What the disk does not take is counted and told as soon as it takes something again. Use from
    any thread.
    """

    def __init__(self, path: Path, settings: LogSettings) -> None:
        self.path = path
        self.settings = settings
        self._lock = threading.Lock()
        self._lost = 0

    def write(self, lines: bytes) -> None:
        """Append; never raises for a full disk."""
        with self._lock:
            try:
                if self._lost:
                    told = Formatter(self.settings, "logs").own(
                        "error", f"{self._lost} pieces of this log could not be written"
                    )
                    self._append(told)
                    self._lost = 0
                self._append(lines)
            except OSError:
                self._lost += 1

    def _append(self, lines: bytes) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            size_bytes = self.path.stat().st_size
        except FileNotFoundError:
            size_bytes = 0
        if size_bytes and size_bytes + len(lines) > self.settings.size_mb * _MB:
            put_aside(self.path, self.settings.kept)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        descriptor = os.open(self.path, flags, 0o600)
        with os.fdopen(descriptor, "wb", buffering=0) as stream:
            view = memoryview(lines)
            while view:
                view = view[stream.write(view) :]


class Formatter:
    """Lines as they stand in the files."""

    def __init__(self, settings: LogSettings, process: str) -> None:
        self._json = settings.form == "json"
        self._process = process

    def own(self, level: Level, message: str, **more: object) -> bytes:
        """A line of ours."""
        if self._json:
            entry = {"time": stamp(), "level": level, "message": message, **more}
            return json.dumps(entry).encode("ascii") + b"\n"
        tail = "".join(f" {key}={value}" for key, value in more.items())
        return f"{stamp()} {level.upper()} {_one_line(message + tail)}\n".encode()

    def of_child(self, line: bytes) -> bytes:
        """A line that a child has written."""
        text = _one_line(_COLOUR.sub("", line.decode("utf-8", errors="replace")))
        if self._json:
            entry = {"time": stamp(), "process": self._process, "line": text}
            return json.dumps(entry).encode("ascii") + b"\n"
        return f"{stamp()} {text}\n".encode()


class Pump:
    """Takes what a child writes, line by line, to its log; to the end, also after a crash."""

    def __init__(
        self,
        pipe: IO[bytes],
        log: LogFile,
        form: Formatter,
        on_line: Callable[[str], None] = lambda line: None,
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        self._pipe, self._log, self._form, self._on_line = pipe, log, form, on_line
        self._on_end = on_end
        self.last: list[str] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def finish(self, timeout_s: float) -> None:
        """Wait until all is written that the child wrote before it ended."""
        self._thread.join(timeout_s)

    def last_lines(self) -> str:
        """The end of what it said, for people."""
        return "\n".join(self.last)

    def _run(self) -> None:
        rest = b""
        while True:
            try:
                data = os.read(self._pipe.fileno(), _READ)
            except (OSError, ValueError):
                data = b""
            *lines, rest = (rest + data).split(b"\n")
            if rest and (not data or len(rest) >= LONGEST_LINE):
                lines, rest = [*lines, rest], b""
            pieces = [piece for line in lines for piece in _cut(line)]
            if pieces:
                self._log.write(b"".join(map(self._form.of_child, pieces)))
                for piece in pieces:
                    self._heard(piece.decode("utf-8", errors="replace").rstrip())
            if not data:
                self._pipe.close()
                self._on_end()
                return

    def _heard(self, line: str) -> None:
        if line:
            self.last = [*self.last[-14:], line]
            self._on_line(line)


def _cut(line: bytes) -> list[bytes]:
    places = range(0, max(1, len(line)), LONGEST_LINE)
    return [line[place : place + LONGEST_LINE] for place in places]


def _one_line(text: str) -> str:
    """Without what would move the cursor of who reads it."""
    return "".join(letter if letter.isprintable() else " " for letter in text.replace("\t", "  "))
