"""The folder of a run: its record, its models, and what has come in for its rounds.

    runs/<run>/run.json                          the record (`RunRecord`), replaced atomically
    runs/<run>/checkpoints/round-NNNN.safetensors   the model after round NNNN (0000: at the start)
    runs/<run>/open/NNNN/...                     what the open round has received (`RoundFolder`)
    runs/<run>/submissions/NNNN/<site>.{body,header}   what the sum of round NNNN was made of
    runs/<run>/sums/NNNN.sum                     the published sum, packed
    runs/<run>/sums/NNNN.statement               what was opened and summed, as sites verify it
    runs/<run>/sums/NNNN.closing.json            answers and receipts (`ClosingRecord`)

`run.json` is the only commit point: a checkpoint and a sum are written before the record that
names them, and `open/NNNN` is removed after the record that closes the round. So a crash at any
instant leaves either the round open, with all that was stored, or the round closed and the model
stored.

    record = RunFolder(path).record()            # for readers: the release, the status page
    weights = RunFolder(path).weights(record)    # the model after its last aggregated round
    standing = RunFolder(path).standing(record)  # and the server step's state, if it has one
    closing = RunFolder(path).closing(number)    # whether its sum was verified
"""

from __future__ import annotations

import binascii
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from server.round_folder import RoundFolder, StoredReply, open_rounds
from server.run_records import (
    RESTORE,
    AbsentRecord,
    ClosingRecord,
    ContributorRecord,
    IncidentRecord,
    RoundRecord,
    RunRecord,
    as_base64,
    check_lineage,
)
from shared_model import canonical
from shared_model import weights as weights_io
from shared_model.errors import OurMistake, Refused
from shared_model.files import write_atomic
from shared_model.locks import locked
from shared_model.weights import Weights

__all__ = [
    "AbsentRecord",
    "ClosingRecord",
    "ContributorRecord",
    "IncidentRecord",
    "Journal",
    "RoundFolder",
    "RoundRecord",
    "RunFolder",
    "RunRecord",
    "StoredOpenRound",
    "StoredReply",
    "as_base64",
]


@dataclass(frozen=True)
class StoredOpenRound:
    """A round that was open when the coordinator stopped. replies: sites that had submitted."""

    number: int
    request: bytes
    replies: tuple[str, ...]


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
        busy = Refused(
            f"Another coordinator works on {self.path}.",
            reason="busy",
            do="Stop it first, or choose another run.",
        )
        with locked(self.path / ".lock", busy):
            yield

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
            raise OurMistake(f"{path} is not a run record.", do=RESTORE) from error
        check_lineage(record)
        return record

    def own_record(self) -> RunRecord:
        """The same, of a folder that is to be worked on or shown by its name.

        Raises:
            OurMistake: as `record`, or the folder is the copy of a run. Two that go on with one run
                would ask the hospitals for the same rounds in different words.
        """
        record = self.record()
        if record.run != self.path.name:
            raise OurMistake(
                f"The folder {self.path.name} is a copy of run {record.run}.",
                do=f"Move {self.path} out of the folder runs/.",
            )
        return record

    def save(self, record: RunRecord) -> None:
        """Commit the record."""
        check_lineage(record)
        data = canonical.encode(record.model_dump(mode="json"))
        write_atomic(self.path / "run.json", data, mode=0o600)

    # ------------------------------------------------------------ models

    def checkpoint(self, number: int) -> Path:
        """Path of the model after a round."""
        return self.path / "checkpoints" / f"round-{number:04d}.safetensors"

    def save_weights(self, number: int, weights: Weights) -> None:
        """Store the model after a round, with the server step's state if it has one; counts only
        once a record names its digest."""
        write_atomic(self.checkpoint(number), weights_io.to_bytes(weights), mode=0o600)

    def weights(self, record: RunRecord, number: int | None = None) -> Weights:
        """The model after round `number` (default: the last aggregated one), and nothing else.

        Raises:
            OurMistake: as `standing`.
        """
        return weights_io.parts(self.standing(record, number))[0]

    def standing(self, record: RunRecord, number: int | None = None) -> Weights:
        """The same with the state of the server step, as the next round takes it up.

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
            raise OurMistake(f"The checkpoint {path} cannot be read.", do=RESTORE) from error
        if weights_io.digest(weights) != expected:
            raise OurMistake(f"{path} is not the model that run.json names.", do=RESTORE)
        return weights

    # ------------------------------------------------------------ rounds

    def round(self, number: int) -> RoundFolder:
        """The files of one round."""
        return RoundFolder(self.path, number)

    def stored_open_round(self, record: RunRecord) -> StoredOpenRound | None:
        """The round that was open when the coordinator stopped, if there was one.

        What is left of rounds that have ended is removed, but for the submissions that are in a
        sum; so is a round whose request was never complete.
        """
        last = record.rounds[-1].round if record.rounds else 0
        summed = {item.round for item in record.rounds if item.outcome == "aggregated"}
        found: StoredOpenRound | None = None
        for stored in open_rounds(self.path):
            request = stored.request
            if stored.number == last + 1 and request is not None:
                found = StoredOpenRound(stored.number, request, stored.submitted)
                continue
            stored.forget_open()
            if stored.number not in summed:
                stored.forget_submissions()
        for path in (self.path / "sums").glob("[0-9]*.sum"):
            number = int(path.stem)
            if number not in summed and (found is None or number != found.number):
                self.forget_sum(number)
        return found

    # ------------------------------------------------------------ sums

    def save_sum(
        self, number: int, packed: bytes, statement: bytes, closing: ClosingRecord
    ) -> None:
        """Store a sum and its statement before the record that ends the round. statement: b"" if
        masks were off."""
        sums = self.path / "sums"
        write_atomic(sums / f"{number:04d}.sum", packed, mode=0o600)
        if statement:
            write_atomic(sums / f"{number:04d}.statement", statement, mode=0o600)
        self.save_closing(closing)

    def forget_sum(self, number: int) -> None:
        """Remove what was stored of the sum of a round that then ended without one."""
        for kind in ("closing.json", "statement", "sum"):
            (self.path / "sums" / f"{number:04d}.{kind}").unlink(missing_ok=True)

    def save_closing(self, closing: ClosingRecord) -> None:
        """Commit how far the verification of a sum is."""
        data = canonical.encode(closing.model_dump(mode="json"))
        write_atomic(self.path / "sums" / f"{closing.round:04d}.closing.json", data, mode=0o600)

    def closing(self, number: int) -> ClosingRecord:
        """How far the verification of the sum of a round is.

        Raises:
            OurMistake: absent or damaged.
        """
        path = self.path / "sums" / f"{number:04d}.closing.json"
        try:
            record = ClosingRecord.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise OurMistake(f"{path} cannot be read.", do=RESTORE) from error
        if record.round != number:
            raise OurMistake(f"{path} is of another round.", do=RESTORE)
        return record

    def summed(self, number: int) -> bytes:
        """The published sum of a round, packed.

        Raises:
            OurMistake: it cannot be read.
        """
        return self._sum_file(number, "sum")

    def statement(self, number: int) -> bytes:
        """The statement of the sum of a round.

        Raises:
            OurMistake: it cannot be read; there is none if masks were off.
        """
        return self._sum_file(number, "statement")

    def _sum_file(self, number: int, kind: str) -> bytes:
        path = self.path / "sums" / f"{number:04d}.{kind}"
        try:
            return path.read_bytes()
        except OSError as error:
            raise OurMistake(f"{path} cannot be read.", do=RESTORE) from error

    def forget_submissions(self, record: RunRecord) -> int:
        """Remove the submissions of all rounds that have ended; how many there were.

        Their sums, statements, answers and receipts stay: what is lost is that an auditor can add
        the submissions again.
        """
        ended = {item.round for item in record.rounds}
        return sum(
            stored.forget_submissions()
            for stored in open_rounds(self.path)
            if stored.number in ended
        )


@dataclass
class Journal:
    """The record of a run that goes on, in memory and on the disk; every change is committed."""

    folder: RunFolder
    record: RunRecord

    def save(self, **changes: object) -> None:
        """Change fields of the record, durably."""
        self.record = self.record.model_copy(update=changes)
        self.folder.save(self.record)
