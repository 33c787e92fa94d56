"""What the node has answered, on disk: a request is answered once, and the answer never changes.

    outbox/writes                           how often it was written to; see `was_rolled_back`
    outbox/<run>/<round>/round.json         masked rounds: the request, and the members as approved
    outbox/<run>/<round>/request            digest of the request that was begun (once)
    outbox/<run>/<round>/taken-up           how often a killed node has taken it up again
    outbox/<run>/<round>/step               state after the last private step; see `client.steps`
    outbox/<run>/<round>/reply.body         the submission as it leaves
    outbox/<run>/<round>/prepared           digest of that body: from here on it is the only one
    outbox/<run>/<round>/reply.header       from here on it is the reply
    outbox/<run>/<round>/model.safetensors  masked rounds: the model that was sent for training
    outbox/<run>/<round>/trained.json       and the names of its parameters that were trained
    outbox/<run>/<round>/asked.header       the request that named this node's one set of survivors
    outbox/<run>/<round>/agreement.header   what this node signed about it (once)
    outbox/<run>/<round>/opened             digest of the sealed rows that it opened (once)
    outbox/<run>/<round>/receipt.header     this node found the published sum right

A request that was begun and has no reply (the node was killed while it trained) is taken up where
it stood when the very same one comes again (docs/adr/0018-resume-in-mid-round.md); one body is ever
prepared for a round, and nothing leaves before it is. What cannot be taken up is "interrupted": its
spend stays booked and the coordinator goes on with another round. Records are never removed; only
states of training are, with the round's reply or when a later round begins, and bodies of
submissions, each with its round's model, when a new round begins: of masked rounds that have their
receipt or are older than the last 50, and of earlier rounds of the run whose masks were off.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from shared_model import canonical
from shared_model.errors import Refused
from shared_model.files import read_regular, sync_folder, write_atomic
from shared_model.locks import locked

BODIES_KEPT = 50
"""Submissions that wait for their receipt, at most."""
STEPS_KEPT = 4
"""Runs whose open round has a state of training here, at most."""
MOST_TAKE_UPS = 16
"""How often a round is taken up again: whoever can make the node die could choose, by when it dies,
which samples of patients its steps are made with."""
_LARGEST_STEP = 2**32

Signed = Literal["asked", "agreement", "receipt"]


@dataclass(frozen=True)
class Trained:
    """model: safetensors bytes as the request's body had them. names: of what was trained."""

    model: bytes = field(repr=False)
    names: tuple[str, ...]


@dataclass(frozen=True)
class Outbox:
    """The folder of answers of one node.

    outside: file beside the epoch's key, in no backup, that counts what was written here. None:
        an older copy of this folder is not noticed (tests of other things).
    """

    root: Path
    outside: Path | None = None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One message at a time; a second process waits until the first has its answer stored."""
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        with locked(self.root / ".lock"):
            yield

    def was_rolled_back(self) -> bool:
        """Whether this folder is older than what the node has done: restored from a backup.

        The count in the folder is raised before the one outside, so a crash between the two never
        looks like a restore.
        """
        if self.outside is None:
            return False
        return _count(self.outside) > _count(self.root / "writes")

    def accept_restored(self) -> None:
        """Forget what was done since the backup; the epoch's key must be erased already."""
        if self.outside is not None:
            self.outside.unlink(missing_ok=True)

    def _counted(self) -> None:
        """Count, durably, a write that must never be undone; before it is made."""
        if self.outside is None:
            return
        number = max(_count(self.outside), _count(self.root / "writes")) + 1
        for path in (self.root / "writes", self.outside):
            write_atomic(path, str(number).encode("ascii"), mode=0o600)

    def answered(self, run: str, round: int, request_digest: str) -> tuple[bytes, bytes] | None:
        """The stored reply to this very request, None if it was never begun or not finished.

        Raises:
            Refused: another request of this round was begun, or a later round of the run, or the
                stored reply has been removed ("conflict").
        """
        folder = self._folder(run, round)
        claim = folder / "request"
        if not claim.is_file():
            if self.later_begun(run, round):
                raise Refused("A later round of this run was begun.", reason="conflict")
            return None
        if claim.read_text(encoding="ascii") != request_digest:
            raise Refused("Another request of this round was begun.", reason="conflict")
        header, body = folder / "reply.header", folder / "reply.body"
        if not header.is_file():
            return None
        if not body.is_file():
            raise Refused("This round is past; its reply was removed.", reason="conflict")
        (folder / "step").unlink(missing_ok=True)  # killed between the header and this
        return header.read_bytes(), body.read_bytes()

    def begun(self, run: str, round: int) -> bool:
        """Whether a request of this round was begun."""
        return (self._folder(run, round) / "request").is_file()

    def begin(self, run: str, round: int, request_digest: str, sum_round: bytes = b"") -> None:
        """Record, durably and before anything is booked, that this request is being answered.

        Args:
            sum_round: what the later trips of a masked round need; empty if masks are off.
        """
        self._counted()
        folder = self._folder(run, round)
        self._clean(folder)
        if sum_round:
            write_atomic(folder / "round.json", sum_round, mode=0o600)
        write_atomic(folder / "request", request_digest.encode("ascii"), mode=0o600)
        sync_folder(folder.parent)
        sync_folder(self.root)
        self._prune(run, round)

    def take_back(self, run: str, round: int) -> None:
        """The request was refused before anything was booked or read: it was not begun."""
        (self._folder(run, round) / "request").unlink(missing_ok=True)
        (self._folder(run, round) / "round.json").unlink(missing_ok=True)

    def take_up(self, run: str, round: int) -> int:
        """Count, durably and before anything else, that this round is gone on with; how often.

        What a torn write left is removed: two outcomes of one step must not lie here.

        Raises:
            Refused: it was given up, a later round of the run was begun, or it was taken up too
                often already ("interrupted").
        """
        folder = self._folder(run, round)
        times = _count(folder / "taken-up") + 1
        given_up = (folder / "step").is_file() and not (folder / "step").stat().st_size
        if given_up or times > MOST_TAKE_UPS or self.later_begun(run, round):
            raise Refused("This request was begun and not finished.", reason="interrupted")
        self._counted()
        write_atomic(folder / "taken-up", str(times).encode("ascii"), mode=0o600)
        self._clean(folder)
        return times

    def give_up(self, run: str, round: int) -> None:
        """Its training failed, and that was said: it is never taken up again."""
        self._counted()
        write_atomic(self._folder(run, round) / "step", b"", mode=0o600)

    def keep_step(self, run: str, round: int, state: bytes) -> None:
        """Keep, durably, the state after a step in the place of the one before."""
        self._counted()
        write_atomic(self._folder(run, round) / "step", state, mode=0o600)

    def step(self, run: str, round: int) -> bytes | None:
        """The state after the last step; None before the first.

        Raises:
            Refused: it is no regular file ("files").
        """
        path = self._folder(run, round) / "step"
        return read_regular(path, _LARGEST_STEP) if path.exists() else None

    def prepare(self, run: str, round: int, body: bytes, trained: Trained | None = None) -> None:
        """Keep the one submission of a round, durably, before the ledger names it; once.

        Args:
            trained: of masked rounds; needed once the sum is published.
        """
        folder = self._folder(run, round)
        self._counted()
        write_atomic(folder / "reply.body", body, mode=0o600)
        if trained is not None:
            names = canonical.encode(list(trained.names))
            write_atomic(folder / "model.safetensors", trained.model, mode=0o600)
            write_atomic(folder / "trained.json", names, mode=0o600)
        write_atomic(folder / "prepared", canonical.digest(body).encode("ascii"), mode=0o600)

    def prepared(self, run: str, round: int) -> bytes | None:
        """The body of a round's one submission, if it came so far.

        Raises:
            Refused: it is gone or damaged; no other is made ("interrupted").
        """
        folder = self._folder(run, round)
        if not (folder / "prepared").is_file():
            return None
        digest = (folder / "prepared").read_bytes()
        body = folder / "reply.body"
        data = body.read_bytes() if body.is_file() else b""
        if canonical.digest(data).encode("ascii") != digest:
            raise Refused("The submission of this round is damaged.", reason="interrupted")
        return data

    def store(self, run: str, round: int, header: bytes) -> None:
        """Make what was prepared the reply, durably: it counts once its header is there."""
        folder = self._folder(run, round)
        write_atomic(folder / "reply.header", header, mode=0o600)
        (folder / "step").unlink(missing_ok=True)

    def submitted(self, run: str, round: int) -> tuple[bytes, bytes]:
        """What `begin` kept of a masked round, and the header of its submission.

        Raises:
            Refused: this node submitted nothing, or not masked ("secure-sum"), or was killed
                before it had ("interrupted").
        """
        folder = self._folder(run, round)
        if not (folder / "request").is_file():
            raise Refused("This node submitted nothing in this round.", reason="secure-sum")
        if not (folder / "round.json").is_file():
            raise Refused("This round has no masks.", reason="secure-sum")
        if not (folder / "reply.header").is_file():
            raise Refused("This round was begun and not finished.", reason="interrupted")
        return (folder / "round.json").read_bytes(), (folder / "reply.header").read_bytes()

    def body(self, run: str, round: int) -> bytes:
        """The body of a submission that is there.

        Raises:
            Refused: removed since ("late").
        """
        try:
            return (self._folder(run, round) / "reply.body").read_bytes()
        except FileNotFoundError as error:
            raise Refused("This round's submission was removed.", reason="late") from error

    def trained(self, run: str, round: int) -> Trained:
        """The model that the round began from, and what of it was trained.

        Raises:
            Refused: removed since ("late").
        """
        folder = self._folder(run, round)
        try:
            model = (folder / "model.safetensors").read_bytes()
            names = json.loads((folder / "trained.json").read_bytes())
        except FileNotFoundError as error:
            raise Refused("This round's model was removed.", reason="late") from error
        return Trained(model, tuple(names))

    def later_begun(self, run: str, round: int) -> bool:
        """Whether a later round of this run was begun here."""
        folder = self.root / run
        return folder.is_dir() and any(
            item.name.isdecimal() and int(item.name) > round and (item / "request").is_file()
            for item in folder.iterdir()
        )

    def signed(self, run: str, round: int, what: Signed) -> bytes | None:
        """The header of this kind that was stored for this round."""
        path = self._folder(run, round) / f"{what}.header"
        return path.read_bytes() if path.is_file() else None

    def keep_signed(self, run: str, round: int, what: Signed, header: bytes) -> None:
        """Store what was signed, durably, before it leaves."""
        self._counted()
        write_atomic(self._folder(run, round) / f"{what}.header", header, mode=0o600)

    def keep_agreement(self, run: str, round: int, asked: bytes, header: bytes) -> None:
        """Store an agreement and, before it, the header of the request that asked for it."""
        write_atomic(self._folder(run, round) / "asked.header", asked, mode=0o600)
        self.keep_signed(run, round, "agreement", header)

    def open_only(self, run: str, round: int, rows_digest: str) -> None:
        """Record, durably and before anything is opened, which sealed rows are; others never are.

        A dealer whose disk was rolled back may have submitted twice on one transcript: whoever
        opened the rows of both would give away the difference of its two updates.

        Raises:
            Refused: other rows of this round were opened ("conflict").
        """
        path = self._folder(run, round) / "opened"
        if not path.is_file():
            self._counted()
            write_atomic(path, rows_digest.encode("ascii"), mode=0o600)
        elif path.read_text(encoding="ascii") != rows_digest:
            raise Refused("Other sealed rows of this round were opened here.", reason="conflict")

    def _clean(self, folder: Path) -> None:
        """Remove what torn writes left, durably."""
        torn = list(folder.glob(".*.new"))
        for path in torn:
            path.unlink()
        if torn:
            sync_folder(folder)

    def _folder(self, run: str, round: int) -> Path:
        return self.root / run / f"{round:07d}"

    def _prune(self, run: str, round: int) -> None:
        bodies = list(self.root.glob("*/*/reply.body"))
        bodies.sort(key=lambda path: path.stat().st_mtime_ns, reverse=True)
        for place, body in enumerate(bodies):
            folder = body.parent
            if (folder / "round.json").is_file():
                past = (folder / "receipt.header").is_file() or place >= BODIES_KEPT
            else:
                past = folder.parent.name == run and int(folder.name) < round
            if past:
                (folder / "model.safetensors").unlink(missing_ok=True)
                body.unlink(missing_ok=True)
        steps = [path for path in self.root.glob("*/*/step") if path.stat().st_size]
        steps.sort(key=lambda path: path.stat().st_mtime_ns, reverse=True)
        for place, step in enumerate(steps):
            folder = step.parent
            if (folder / "reply.header").is_file():
                step.unlink()
            elif place >= STEPS_KEPT or (folder.parent.name == run and int(folder.name) < round):
                write_atomic(step, b"", mode=0o600)  # and not removed: it is never taken up


def _count(path: Path) -> int:
    """What the file says; 0 if it is absent, and without end if it is damaged."""
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return 0
    return int(text) if text.isdigit() else 2**63
