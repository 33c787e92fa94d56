"""What left this building: logs/sent.log, a JSON line when a message is handed over, and one when
the coordinator has it. Sizes and digests, never a body.

    log = SentLog(home)
    log.handed_over(message_id, header, body)      # the training process
    log.delivered(message_id, "delivered")         # the SuperNode's process
    log.entries(100)                               # for the console: the newest first
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from client.egress import ALLOWED
from client.home import NodeHome
from shared_model import canonical, protocol_open
from shared_model.errors import OurMistake
from shared_model.files import append_line
from shared_model.locks import locked

Outcome = Literal["delivered", "not-taken", "run-over", "expired", "lost"]
"""delivered: the coordinator's SuperLink has all of it. not-taken: it does not want it (any more).
run-over: its Flower run has ended; a new one asks again. expired: its time is over.
lost: the training process ended before it had handed all of it over; it leaves when asked again."""

SIZE_BYTES = 10 * 1024 * 1024
KEPT = 5
"""Older files: sent.log.1 ... sent.log.5."""
_TAIL_BYTES = 4 * 1024 * 1024


class SentEntry(BaseModel):
    """One message that was handed over to leave. Times are seconds since 1970.

    id: Flower's, of the message. outcome: "" while it waits; then delivered_s says since when.
    why: the marks of `client.egress` on what it holds. bytes and digests (SHA-256): of the signed
    header and of the body, as the coordinator gets them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    id: str
    handed_over_s: float
    kind: str
    run: str
    round: int
    why: tuple[str, ...]
    header_bytes: int
    header_digest: str
    body_bytes: int
    body_digest: str
    outcome: Outcome | Literal[""] = ""
    delivered_s: float | None = None


class SentLog:
    """The log of one node; several processes may write to it.

    now: seconds since 1970. size_bytes: the file is put aside at this size.
    """

    def __init__(
        self,
        home: NodeHome,
        now: Callable[[], float] = time.time,
        size_bytes: int = SIZE_BYTES,
    ) -> None:
        self.path = home.logs / "sent.log"
        self._now = now
        self._size_bytes = size_bytes

    def handed_over(self, identifier: str, header: bytes, body: bytes) -> None:
        """A signed message is about to leave; an empty header: a word that there is none."""
        kind, run, number = _about(header)
        entry = SentEntry(
            id=identifier,
            handed_over_s=self._now(),
            kind=kind,
            run=run,
            round=number,
            why=reasons(kind),
            header_bytes=len(header),
            header_digest=canonical.digest(header),
            body_bytes=len(body),
            body_digest=canonical.digest(body),
        )
        self._append(entry.model_dump(mode="json", exclude={"outcome", "delivered_s"}))

    def delivered(self, identifier: str, outcome: Outcome) -> None:
        """How the message ended."""
        self._append({"id": identifier, "outcome": outcome, "delivered_s": self._now()})

    def entries(self, limit: int = 100) -> list[SentEntry]:
        """The last messages, the newest first. Lines that cannot be read are left out."""
        ends: dict[str, dict[str, Any]] = {}
        found: list[SentEntry] = []
        for line in self._backwards():
            identifier = line.get("id")
            if not isinstance(identifier, str):
                continue
            if "handed_over_s" not in line:
                ends.setdefault(identifier, line)
                continue
            end = ends.pop(identifier, {})
            try:
                found.append(SentEntry.model_validate_json(json.dumps({**line, **end})))
            except ValidationError:
                continue
            if len(found) >= limit:
                break
        return found

    # ------------------------------------------------------------ the file

    def _append(self, line: dict[str, Any]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        data = json.dumps(line, sort_keys=True).encode() + b"\n"
        with locked(self.path.with_suffix(".lock")):
            if self.path.exists() and self.path.stat().st_size + len(data) > self._size_bytes:
                for number in range(KEPT, 0, -1):
                    older = self._file(number - 1)
                    if older.exists():
                        older.replace(self._file(number))
            append_line(self.path, data)

    def _file(self, number: int) -> Path:
        return self.path if number == 0 else self.path.with_name(f"sent.log.{number}")

    def _backwards(self) -> Iterator[dict[str, Any]]:
        """Lines as objects, the last one first, through all files."""
        for number in range(KEPT + 1):
            try:
                with self._file(number).open("rb") as stream:
                    size = stream.seek(0, os.SEEK_END)
                    stream.seek(max(0, size - max(_TAIL_BYTES, self._size_bytes)))
                    lines = stream.read().splitlines()
            except FileNotFoundError:
                return
            for line in reversed(lines):
                try:
                    value = json.loads(line)
                except ValueError:
                    continue
                if isinstance(value, dict):
                    yield value


def reasons(kind: str) -> tuple[str, ...]:
    """Why a message of this kind may leave: the marks on its fields and its body."""
    return tuple(sorted({mark.value for mark in ALLOWED.get(kind, {}).values()}))


def _about(header: bytes) -> tuple[str, str, int]:
    """Kind, run and round that the node's own message says; "error": it is a bare word."""
    if not header:
        return "error", "", 0
    try:
        said = protocol_open.readable(header)
    except OurMistake:
        return "error", "", 0
    kind, run, number = said.get("kind"), said.get("run"), said.get("round")
    return (
        kind if isinstance(kind, str) and kind in ALLOWED else "error",
        run if isinstance(run, str) else "",
        number if isinstance(number, int) else 0,
    )
