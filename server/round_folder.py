"""What is stored of one round before the coordinator takes its next step.

    runs/<run>/open/NNNN/request.header             the request, as sent
    runs/<run>/open/NNNN/agree.header               the survivors, as they were announced
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

from shared_model import canonical
from shared_model.errors import OurMistake
from shared_model.files import sync_folder, write_atomic


@dataclass(frozen=True)
class StoredReply:
    """A message of a site as received."""

    site: str
    header: bytes = field(repr=False)
    body: bytes = field(repr=False)


@dataclass(frozen=True)
class Opening:
    """One asking of trip 3: these sites, with these agreements, for these missing ones."""

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

    # ------------------------------------------------------------ trips 2 and 3

    def store_agree(self, header: bytes) -> None:
        """Store who the survivors are before any site is told."""
        write_atomic(self.open / "agree.header", header, mode=0o600)

    @property
    def agree(self) -> bytes | None:
        """The stored announcement of the survivors, None if there is none."""
        path = self.open / "agree.header"
        return path.read_bytes() if path.is_file() else None

    def store_agreement(self, site: str, header: bytes) -> None:
        """Store a site's agreement before it is used."""
        write_atomic(self.open / f"agreement-{site}.header", header, mode=0o600)

    @property
    def agreements(self) -> dict[str, bytes]:
        """Agreements by site."""
        return {
            path.name.removeprefix("agreement-").removesuffix(".header"): path.read_bytes()
            for path in sorted(self.open.glob("agreement-*.header"))
        }

    def store_opening(self, attempt: int, opening: Opening) -> None:
        """Store who is asked to open before anyone is asked."""
        data = canonical.encode({"signers": opening.signers, "missing": opening.missing})
        write_atomic(self.open / f"opening-{attempt:02d}.json", data, mode=0o600)

    @property
    def openings(self) -> tuple[Opening, ...]:
        """All askings, in order."""
        found = []
        for path in sorted(self.open.glob("opening-*.json")):
            value = json.loads(path.read_bytes())
            found.append(Opening(tuple(value["signers"]), tuple(value["missing"])))
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
