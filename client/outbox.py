"""What the node has answered, on disk: a request is answered once, and the answer never changes.

    outbox/<run>/<round>/request        digest of the request that was begun (written first, once)
    outbox/<run>/<round>/reply.body     the reply as it leaves: body, then header
    outbox/<run>/<round>/reply.header

A request that was begun and has no reply (the node was killed while it trained) is never begun
again: its spend stays booked and the coordinator goes on with another round. Records are never
removed; only the bodies of earlier rounds are, once a later round of the run has begun.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from shared_model.errors import Refused
from shared_model.files import sync_folder, write_atomic


@dataclass(frozen=True)
class Outbox:
    """The folder of answers of one node."""

    root: Path

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One request at a time; a second process waits until the first has its answer stored."""
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(self.root / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def answered(self, run: str, round: int, request_digest: str) -> tuple[bytes, bytes] | None:
        """The stored reply to this very request, None if the round was never begun.

        Raises:
            Refused: another request of this round was begun, or a later round of the run, or the
                stored reply has been removed ("conflict"); this one was begun and not finished
                ("interrupted").
        """
        folder = self._folder(run, round)
        claim = folder / "request"
        if not claim.is_file():
            if any(number > round for number in self._begun(run)):
                raise Refused("A later round of this run was begun.", reason="conflict")
            return None
        if claim.read_text(encoding="ascii") != request_digest:
            raise Refused("Another request of this round was begun.", reason="conflict")
        header, body = folder / "reply.header", folder / "reply.body"
        if not header.is_file():
            raise Refused("This request was begun and not finished.", reason="interrupted")
        if not body.is_file():
            raise Refused("A later round of this run was begun.", reason="conflict")
        return header.read_bytes(), body.read_bytes()

    def begin(self, run: str, round: int, request_digest: str) -> None:
        """Record, durably and before anything is booked, that this request is being answered."""
        folder = self._folder(run, round)
        write_atomic(folder / "request", request_digest.encode("ascii"), mode=0o600)
        sync_folder(folder.parent)
        sync_folder(self.root)
        for number in self._begun(run):
            if number < round:
                (self._folder(run, number) / "reply.body").unlink(missing_ok=True)

    def take_back(self, run: str, round: int) -> None:
        """The request was refused before anything was booked or read: it was not begun."""
        (self._folder(run, round) / "request").unlink(missing_ok=True)

    def store(self, run: str, round: int, header: bytes, body: bytes) -> None:
        """Store the reply, durably; it counts once its header is there."""
        folder = self._folder(run, round)
        write_atomic(folder / "reply.body", body, mode=0o600)
        write_atomic(folder / "reply.header", header, mode=0o600)

    def _folder(self, run: str, round: int) -> Path:
        return self.root / run / f"{round:07d}"

    def _begun(self, run: str) -> list[int]:
        folder = self.root / run
        if not folder.is_dir():
            return []
        return [
            int(item.name)
            for item in folder.iterdir()
            if item.name.isdecimal() and (item / "request").is_file()
        ]
