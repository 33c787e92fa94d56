"""What is stored of one round before the coordinator takes its next step.

    runs/<run>/open/NNNN/request.header             the request, as sent
    runs/<run>/open/NNNN/refusal-<site>.header      who refused trip 1
    runs/<run>/open/NNNN/agreed.json                U: the survivors that are to be signed
    runs/<run>/open/NNNN/agreement-<site>.header    who agreed
    runs/<run>/open/NNNN/opening-KK.json            who was asked to open, for whom (K-th time)
    runs/<run>/open/NNNN/shares-KK-<site>.{body,header}   what they opened (body first)
    runs/<run>/submissions/NNNN/<site>.{body,header}      submissions, as received (body first)

A file counts once it is there; a message counts once its header is there. `open/NNNN` is removed
after the record that ends the round; the submissions stay until the operator forgets them, for an
auditor can add them again.
"""

from __future__ import annotations

import json
import mmap
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from server.round_values import Endings
from shared_model import canonical
from shared_model.errors import OurMistake
from shared_model.files import sync_folder, write_atomic


@dataclass(frozen=True)
class StoredReply:
    """A message of a site as received."""

    site: str
    header: bytes = field(repr=False)
    body: bytes = field(repr=False)

    @property
    def parts(self) -> tuple[bytes, bytes]:
        """Header and body."""
        return self.header, self.body


@dataclass(frozen=True)
class Chosen:
    """U, chosen once for the round. submissions: digests of the headers of its replies, in order;
    ended: why the others are not in it."""

    survivors: tuple[str, ...]
    submissions: tuple[str, ...]
    ended: Endings


@dataclass(frozen=True)
class OpeningAsked:
    """One asking of trip 3: with the agreements of these signers, for these missing survivors."""

    signers: tuple[str, ...]
    missing: tuple[str, ...]


@dataclass(frozen=True)
class RoundFolder:
    """The files of one round."""

    run: Path
    number: int

    @property
    def open(self) -> Path:
        return self.run / "open" / f"{self.number:04d}"

    @property
    def submissions(self) -> Path:
        return self.run / "submissions" / f"{self.number:04d}"

    # ------------------------------------------------------------ trip 1

    def begin(self, request: bytes) -> None:
        """Store the request of the round before it is sent."""
        write_atomic(self.open / "request.header", request, mode=0o600)
        self.submissions.mkdir(parents=True, exist_ok=True, mode=0o700)
        for folder in (self.open.parent, self.submissions.parent, self.run):
            sync_folder(folder)

    @property
    def request(self) -> bytes | None:
        """The stored request, None if there is none."""
        path = self.open / "request.header"
        return path.read_bytes() if path.is_file() else None

    def store_submission(self, reply: StoredReply) -> None:
        """Store a submission that counts."""
        write_atomic(self.submissions / f"{reply.site}.body", reply.body, mode=0o600)
        write_atomic(self.submissions / f"{reply.site}.header", reply.header, mode=0o600)

    @property
    def submitted(self) -> tuple[str, ...]:
        """Sites whose submission is stored, sorted."""
        return tuple(sorted(path.stem for path in self.submissions.glob("*.header")))

    def submission(self, site: str) -> StoredReply:
        """A submission stored before.

        Raises:
            OurMistake: it cannot be read.
        """
        return StoredReply(
            site,
            _read(self.submissions / f"{site}.header"),
            _read(self.submissions / f"{site}.body"),
        )

    def submission_header(self, site: str) -> bytes:
        """The header of a submission stored before.

        Raises:
            OurMistake: it cannot be read.
        """
        return _read(self.submissions / f"{site}.header")

    def mapped(self, site: str) -> mmap.mmap:
        """The body of a submission, mapped: only what is looked at is in memory.

        Raises:
            OurMistake: it cannot be read.
        """
        path = self.submissions / f"{site}.body"
        try:
            with path.open("rb") as stream:
                return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise OurMistake(f"The stored file {path} cannot be read.") from error

    def store_refusal(self, site: str, header: bytes) -> None:
        """Store a refusal of trip 1: the record of the round keeps it."""
        write_atomic(self.open / f"refusal-{site}.header", header, mode=0o600)

    @property
    def refusals(self) -> dict[str, bytes]:
        """Refusals of trip 1 by site."""
        return self._headers("refusal-")

    # ------------------------------------------------------------ trips 2 and 3

    def store_chosen(self, chosen: Chosen) -> None:
        """Store U before any site is told."""
        data = canonical.encode(
            {
                "survivors": chosen.survivors,
                "submissions": chosen.submissions,
                "ended": dict(chosen.ended),
            }
        )
        write_atomic(self.open / "agreed.json", data, mode=0o600)

    @property
    def chosen(self) -> Chosen | None:
        """The stored U, None if none was chosen.

        Raises:
            OurMistake: it cannot be read.
        """
        path = self.open / "agreed.json"
        if not path.is_file():
            return None
        value = json.loads(_read(path))
        return Chosen(tuple(value["survivors"]), tuple(value["submissions"]), value["ended"])

    def store_agreement(self, site: str, header: bytes) -> None:
        """Store a site's agreement before it is used."""
        write_atomic(self.open / f"agreement-{site}.header", header, mode=0o600)

    @property
    def agreements(self) -> dict[str, bytes]:
        """Agreements by site."""
        return self._headers("agreement-")

    def store_opening(self, attempt: int, opening: OpeningAsked) -> None:
        """Store who is asked to open before anyone is asked."""
        data = canonical.encode({"signers": opening.signers, "missing": opening.missing})
        write_atomic(self.open / f"opening-{attempt:02d}.json", data, mode=0o600)

    @property
    def openings(self) -> tuple[OpeningAsked, ...]:
        """All askings, in order."""
        found = []
        for path in sorted(self.open.glob("opening-*.json")):
            value = json.loads(_read(path))
            found.append(OpeningAsked(tuple(value["signers"]), tuple(value["missing"])))
        return tuple(found)

    def store_shares(self, attempt: int, reply: StoredReply) -> None:
        """Store what a site opened before it is used."""
        name = f"shares-{attempt:02d}-{reply.site}"
        write_atomic(self.open / f"{name}.body", reply.body, mode=0o600)
        write_atomic(self.open / f"{name}.header", reply.header, mode=0o600)

    @property
    def shares(self) -> tuple[tuple[int, StoredReply], ...]:
        """What was opened: (attempt, reply), in order."""
        found = []
        for path in sorted(self.open.glob("shares-*.header")):
            attempt, _, site = path.name.removesuffix(".header")[len("shares-") :].partition("-")
            reply = StoredReply(site, _read(path), _read(path.with_suffix(".body")))
            found.append((int(attempt), reply))
        return tuple(found)

    def _headers(self, prefix: str) -> dict[str, bytes]:
        return {
            path.name.removeprefix(prefix).removesuffix(".header"): _read(path)
            for path in sorted(self.open.glob(f"{prefix}*.header"))
        }

    # ------------------------------------------------------------ the end

    def forget_open(self) -> None:
        """Remove what was needed while the round was open, after the record that ends it."""
        shutil.rmtree(self.open, ignore_errors=True)

    def forget_submissions(self) -> int:
        """Remove the submissions; how many there were."""
        count = len(self.submitted)
        shutil.rmtree(self.submissions, ignore_errors=True)
        return count


def open_rounds(run: Path) -> Sequence[RoundFolder]:
    """The rounds that have something stored, by number; what is no round is left alone."""
    numbers = {
        int(path.name)
        for kind in ("open", "submissions")
        if (run / kind).is_dir()
        for path in (run / kind).iterdir()
        if path.name.isdecimal()
    }
    return [RoundFolder(run, number) for number in sorted(numbers)]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise OurMistake(f"The stored file {path} cannot be read.") from error
