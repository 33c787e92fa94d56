"""A run's folder, or the bundle made of it, as an auditor reads it: hostile, and in part only.

The coordinator's `fedprint-coordinator audit-bundle` copies what is read here and nothing else;
the run's own folder has the same layout.

    run.json                                   requests, replies and agreements as signed
    checkpoints/round-NNNN.safetensors         the models
    submissions/NNNN/SITE.body                 what the hospitals sent; may be forgotten
    sums/NNNN.sum, .statement, .closing.json   the published sums, answers and receipts
    rosters/VERSION.json                       the signed rosters (bundle only)
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from shared_model.enrolment import SiteName
from shared_model.errors import OurMistake, Refused
from shared_model.files import read_regular
from shared_model.protocol import MAX_BODY_BYTES, Digest
from shared_model.protocol_base import RoundNumber, RunId

_RECORD_LIMIT_BYTES = 512 * 2**20


def _is_base64(text: str) -> str:
    try:
        base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError("not base64") from error
    return text


Header = Annotated[str, AfterValidator(_is_base64)]


class _Read(BaseModel):
    """The fields that are read; what else the coordinator noted is not believed anyway."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, allow_inf_nan=False)


class ReadContributor(_Read):
    site: SiteName
    header: Header


class ReadAbsent(_Read):
    site: SiteName
    ending: str
    header: Header = ""


class ReadRound(_Read):
    """One ended round. Headers in base64."""

    round: RoundNumber
    outcome: Literal["aggregated", "closed"]
    request: Header
    model_in: Digest
    model_out: Digest
    agreements: dict[SiteName, Header]
    contributors: tuple[ReadContributor, ...]
    absent: tuple[ReadAbsent, ...] = ()

    @property
    def request_bytes(self) -> bytes:
        return decoded(self.request)

    @property
    def replies(self) -> dict[str, bytes]:
        return {one.site: decoded(one.header) for one in self.contributors}

    @property
    def submitted(self) -> dict[str, bytes]:
        """Headers of all submissions, those of a closed round included."""
        unused = self.absent if self.outcome == "closed" else ()
        return self.replies | {
            one.site: decoded(one.header) for one in unused if one.ending == "unused"
        }


class ReadRun(_Read):
    """run.json."""

    run: RunId
    run_key: Digest
    initial_model: Digest
    rounds: tuple[ReadRound, ...]


class ReadClosing(_Read):
    """sums/NNNN.closing.json."""

    round: RoundNumber
    answers: dict[SiteName, Header]
    receipts: dict[SiteName, Header]


def decoded(text: str) -> bytes:
    return base64.b64decode(text)


_M = TypeVar("_M", bound=_Read)


@dataclass(frozen=True)
class SumFolder:
    """Reads one file at a time; nothing is verified here."""

    path: Path

    def run(self) -> ReadRun:
        """run.json.

        Raises:
            OurMistake: there is none.
            Refused: it is not one (reason "files").
        """
        if not (self.path / "run.json").is_file():
            raise OurMistake(
                f"There is no run in {self.path}.",
                do="Give a run's folder, or what fedprint-coordinator audit-bundle wrote.",
            )
        return self._parsed(ReadRun, "run.json")

    def closing(self, number: int) -> ReadClosing | None:
        """Answers and receipts of a round, None if there are none."""
        name = f"sums/{number:04d}.closing.json"
        return self._parsed(ReadClosing, name) if (self.path / name).exists() else None

    def statement(self, number: int) -> bytes | None:
        return self._bytes(f"sums/{number:04d}.statement")

    def summed(self, number: int) -> bytes | None:
        """The published sum, packed."""
        return self._bytes(f"sums/{number:04d}.sum")

    def has_submission(self, number: int, site: str) -> bool:
        return (self.path / f"submissions/{number:04d}/{site}.body").exists()

    def submission(self, number: int, site: str) -> bytes | None:
        """Body of a hospital's submission; None if it was forgotten."""
        return self._bytes(f"submissions/{number:04d}/{site}.body")

    def model(self, number: int) -> bytes | None:
        """The model after a round, 0: at the start; safetensors."""
        return self._bytes(f"checkpoints/round-{number:04d}.safetensors")

    def _parsed(self, model: type[_M], name: str) -> _M:
        data = self._bytes(name, _RECORD_LIMIT_BYTES)
        try:
            return model.model_validate_json(data or b"")
        except (ValidationError, ValueError, RecursionError):
            raise Refused(f"{name} cannot be read.", reason="files") from None

    def _bytes(self, name: str, limit: int = MAX_BODY_BYTES) -> bytes | None:
        """Content of a regular file below the folder, None if there is none; links are refused."""
        try:
            return read_regular(self.path / name, limit, name=name)
        except Refused as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return None
            raise
