"""The folder of a run: its record, its models, and what has come in for the open round.

    runs/<run>/run.json                          the record (`RunRecord`), replaced atomically
    runs/<run>/checkpoints/round-NNNN.safetensors   the model after round NNNN (0000: at the start)
    runs/<run>/open/NNNN/request.header          the request of the open round, as sent
    runs/<run>/open/NNNN/site-<site>.{body,header}  replies that count, as received (body first)

`run.json` is the only commit point: a checkpoint is written before the record that names it, and
`open/NNNN` is removed after the record that closes the round. So a crash at any instant leaves
either the round open, with all replies that were stored, or the round closed and the model stored.
Signed headers are kept verbatim (base64) so that the release and an auditor can verify them again
with `protocol.open_train_request` and `protocol.open_answer`.

    record = RunFolder(path).record()            # for readers: the release, the status page
    weights = RunFolder(path).weights(record)    # the model after its last aggregated round
"""

from __future__ import annotations

import base64
import binascii
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from server.run_config import RosterSite, RunConfig
from shared_model import canonical
from shared_model import weights as weights_io
from shared_model.config import ModelConfig
from shared_model.enrolment import SiteName
from shared_model.errors import OurMistake, Refused
from shared_model.files import sync_folder, write_atomic
from shared_model.protocol import Digest, PrivacyStatement, RefusalReason, RoundNumber
from shared_model.weights import Weights

Base64 = Annotated[str, Field(pattern=r"^[A-Za-z0-9+/=]*$")]
Absence = Literal["refused", "faulty", "lost", "silent", "unused"]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class ContributorRecord(_Record):
    """A reply that is in the aggregate. `header`: the signed header verbatim, base64."""

    site: SiteName
    header: Base64
    update_digest: Digest
    weight: int
    noise: str
    private: bool
    privacy: PrivacyStatement

    @property
    def header_bytes(self) -> bytes:
        return base64.b64decode(self.header, validate=True)


class AbsentRecord(_Record):
    """A participant that is not in the aggregate, and why.

    What it signed is kept: a refusal, or the reply to a round that closed ("unused").
    """

    site: SiteName
    ending: Absence
    reason: RefusalReason | None = None
    header: Base64 = ""

    @property
    def header_bytes(self) -> bytes:
        return base64.b64decode(self.header, validate=True)


class IncidentRecord(_Record):
    """A message that a correct site would not have sent."""

    site: str
    reason: str


class RoundRecord(_Record):
    """One round that has ended. Replies of a closed round are listed; they were not used."""

    round: RoundNumber
    outcome: Literal["aggregated", "closed"]
    reason: str = ""
    model_in: Digest
    model_out: Digest
    participants: tuple[SiteName, ...]
    request: Base64
    request_digest: Digest
    contributors: tuple[ContributorRecord, ...]
    absent: tuple[AbsentRecord, ...]
    incidents: tuple[IncidentRecord, ...]
    opened_at: float
    ended_at: float

    @property
    def request_bytes(self) -> bytes:
        return base64.b64decode(self.request, validate=True)


class RunRecord(_Record):
    """Everything that is kept about a run. Times: seconds since 1970, UTC."""

    format: Literal[1] = 1
    run: str
    config: RunConfig
    model: ModelConfig
    roster: tuple[RosterSite, ...]
    run_key: Digest
    insecure_aggregation: bool
    software: str
    initial_model: Digest
    trainable: tuple[str, ...]
    starts: int
    state: Literal["running", "paused", "finished"] = "running"
    pause: str = ""
    resumed_after: int = 0
    rounds: tuple[RoundRecord, ...] = ()

    @property
    def completed(self) -> int:
        return sum(item.outcome == "aggregated" for item in self.rounds)

    @property
    def model_digest(self) -> str:
        """Digest of the latest model."""
        return self.rounds[-1].model_out if self.rounds else self.initial_model

    @property
    def checkpoint_round(self) -> int:
        """Number of the last aggregated round, 0 before any."""
        return max((item.round for item in self.rounds if item.outcome == "aggregated"), default=0)


@dataclass(frozen=True)
class StoredReply:
    """A reply of the open round, as received."""

    site: str
    header: bytes = field(repr=False)
    body: bytes = field(repr=False)


@dataclass(frozen=True)
class StoredOpenRound:
    """A round that was open when the coordinator stopped."""

    number: int
    request: bytes = field(repr=False)
    replies: tuple[StoredReply, ...]


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run; see the module for its layout."""

    path: Path

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for one coordinator.

        Raises:
            Refused: another process holds it (reason "busy").
        """
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise Refused(
                    f"Another coordinator works on {self.path}.",
                    reason="busy",
                    do="Stop it first, or choose another run.",
                ) from error
            yield
        finally:
            os.close(descriptor)

    @property
    def exists(self) -> bool:
        return (self.path / "run.json").is_file()

    def record(self) -> RunRecord:
        """Read and check run.json.

        Raises:
            OurMistake: absent, not a record, or a lineage that does not hang together.
        """
        path = self.path / "run.json"
        try:
            record = RunRecord.model_validate_json(path.read_bytes())
        except OSError as error:
            raise OurMistake(f"There is no run in {self.path}.") from error
        except (ValidationError, binascii.Error) as error:
            raise OurMistake(f"{path} is not a run record.", do=_RESTORE) from error
        _check_lineage(record)
        return record

    def save(self, record: RunRecord) -> None:
        """Commit the record."""
        _check_lineage(record)
        data = canonical.encode(record.model_dump(mode="json"))
        write_atomic(self.path / "run.json", data, mode=0o600)

    # ------------------------------------------------------------ models

    def checkpoint(self, number: int) -> Path:
        """Path of the model after a round."""
        return self.path / "checkpoints" / f"round-{number:04d}.safetensors"

    def save_weights(self, number: int, weights: Weights) -> None:
        """Store the model after a round; counts only once a record names its digest."""
        write_atomic(self.checkpoint(number), weights_io.to_bytes(weights), mode=0o600)

    def weights(self, record: RunRecord, number: int | None = None) -> Weights:
        """The model after round `number` (default: the last aggregated one).

        Raises:
            OurMistake: absent, damaged, or not the model that the record names.
        """
        chosen = record.checkpoint_round if number is None else number
        path = self.checkpoint(chosen)
        outs = {item.round: item.model_out for item in record.rounds}
        expected = record.initial_model if chosen == 0 else outs.get(chosen)
        try:
            weights = weights_io.from_bytes(path.read_bytes())
        except (OSError, Refused) as error:
            raise OurMistake(f"The checkpoint {path} cannot be read.", do=_RESTORE) from error
        if weights_io.digest(weights) != expected:
            raise OurMistake(f"{path} is not the model that run.json names.", do=_RESTORE)
        return weights

    # ------------------------------------------------------------ the open round

    def _open_folder(self, number: int) -> Path:
        return self.path / "open" / f"{number:04d}"

    def open_round(self, number: int, request: bytes) -> None:
        """Store the request of a round before it is sent."""
        write_atomic(self._open_folder(number) / "request.header", request, mode=0o600)
        sync_folder(self.path / "open")
        sync_folder(self.path)

    def store_reply(self, number: int, reply: StoredReply) -> None:
        """Store a reply that counts; it is there only once its header is there."""
        folder = self._open_folder(number)
        write_atomic(folder / f"site-{reply.site}.body", reply.body, mode=0o600)
        write_atomic(folder / f"site-{reply.site}.header", reply.header, mode=0o600)

    def stored_reply(self, number: int, site: str) -> StoredReply:
        """A reply stored before.

        Raises:
            OurMistake: it cannot be read.
        """
        folder = self._open_folder(number)
        try:
            return StoredReply(
                site,
                (folder / f"site-{site}.header").read_bytes(),
                (folder / f"site-{site}.body").read_bytes(),
            )
        except OSError as error:
            raise OurMistake(f"The stored reply of {site} cannot be read.") from error

    def stored_open_round(self, record: RunRecord) -> StoredOpenRound | None:
        """The round that was open when the coordinator stopped, if there was one.

        Folders of rounds that have ended are removed, as is one whose request was never complete.
        """
        last = record.rounds[-1].round if record.rounds else 0
        root = self.path / "open"
        found: StoredOpenRound | None = None
        for folder in sorted(root.iterdir()) if root.is_dir() else []:
            request = folder / "request.header"
            number = int(folder.name) if folder.name.isdecimal() else 0
            if number != last + 1 or not request.is_file():
                shutil.rmtree(folder)
                continue
            replies = tuple(
                self.stored_reply(number, header.name.removeprefix("site-").removesuffix(".header"))
                for header in sorted(folder.glob("site-*.header"))
            )
            found = StoredOpenRound(number, request.read_bytes(), replies)
        return found

    def forget_open_round(self, number: int) -> None:
        """Remove what was stored of a round, after the record that ends it."""
        shutil.rmtree(self._open_folder(number), ignore_errors=True)


_RESTORE = "Restore the run's folder from a backup, or begin a new run from its last release."


def as_base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _check_lineage(record: RunRecord) -> None:
    model, number = record.initial_model, 0
    for item in record.rounds:
        changed = item.model_out != item.model_in
        if item.round != number + 1 or item.model_in != model:
            raise OurMistake(f"The lineage breaks at round {item.round}.", do=_RESTORE)
        if item.outcome == "closed" and changed:
            raise OurMistake(f"Round {item.round} was closed but changed the model.", do=_RESTORE)
        model, number = item.model_out, item.round
