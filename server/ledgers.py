"""The coordinator's archive of the hospitals' privacy ledgers, and what it thinks each peer holds.

    ledgers/<site>.jsonl       entries of a site's ledger, one a line, only ever appended to
    ledgers/<site>.head.json   the newest head that the site has signed, as its reply had it
    ledgers/held.json          peer -> site -> length of the head that this peer has agreed to

Lines are written before the head that they lead to, so that a crash leaves a head which is in the
lines. Nothing here is secret, and nothing is believed: every line is verified when it is read. What
`held.json` says only decides how many links a peer is sent; a peer that misses some refuses, and is
then sent all of them.

    archive = LedgerArchive(home.ledgers)
    known = archive.known("north", identity_key)          # goes into the next request
    archive.check(reply, request, identity_key)           # LedgerMismatch names the site
    archive.accept(reply, request, identity_key)          # durably, before the reply counts
    links = archive.links_for("south", heads, keys)       # site -> entry digests
    archive.witnessed("south", heads)
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from shared_model import canonical
from shared_model.enrolment import SiteName
from shared_model.errors import OurMistake, Refused
from shared_model.files import sync_folder, write_atomic
from shared_model.ledger import (
    MAX_ENTRIES,
    MAX_LINE_BYTES,
    Chain,
    LedgerFault,
    LedgerHead,
    Lines,
    Recovered,
)
from shared_model.ledger_lines import Marks
from shared_model.ledger_note import LedgerMismatch, check_note
from shared_model.protocol import KnownHead, TrainReply, TrainRequest

_HELD: TypeAdapter[dict[str, dict[str, int]]] = TypeAdapter(
    dict[SiteName, dict[SiteName, Annotated[int, Field(ge=0, le=MAX_ENTRIES)]]]
)
REPAIR = "Restore the folder of ledgers from a backup, or remove this site's files from it."


@dataclass(frozen=True)
class JsonLines(Lines):
    """A site's file of entries; implements `shared_model.ledger.Lines`."""

    path: Path
    site: str

    def __iter__(self) -> Iterator[bytes]:
        """All whole lines; one without its end was cut off by a crash, and counts for nothing."""
        if not self.path.is_file():
            return
        with self.path.open("rb") as stream:
            while line := stream.readline(MAX_LINE_BYTES + 2):
                if line.endswith(b"\n"):
                    yield line[:-1]
                    continue
                if len(line) > MAX_LINE_BYTES + 1:
                    yield line  # longer than any entry: it is refused
                return  # the rest of it may come meanwhile, and is no line

    def read(self, marks: Marks, first: int, last: int) -> Iterator[bytes]:
        """See `Lines`.

        Raises:
            OurMistake: the file is gone.
        """
        try:
            with self.path.open("rb") as stream:
                stream.seek(marks.start(first))
                for place in range(first, last):
                    yield stream.read(marks.end(place) - marks.start(place))[:-1]
        except OSError as error:
            raise self.changed(marks.number(first)) from error

    def changed(self, entry: int) -> OurMistake:
        return OurMistake(
            f"The archive of the ledger of {self.site} was changed by somebody else: entry {entry} "
            "is not the one that was verified.",
            do=REPAIR,
        )


class LedgerArchive:
    """The folder of ledgers. Of sites that were looked at it is known what was verified, so that
    entries are read again and not verified again; they themselves stay in the files."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._chains: dict[str, Chain] = {}
        self._held: dict[str, dict[str, int]] | None = None

    @property
    def sites(self) -> tuple[str, ...]:
        """Sites of which there are entries, sorted."""
        return tuple(sorted(path.stem for path in self.path.glob("*.jsonl")))

    def chain(self, site: str, identity_key: bytes) -> Chain:
        """What is held of this site's ledger, verified.

        It may still end with an earlier key of the site: what is to come hands it over.

        Args:
            identity_key: the site's present one, 32 raw bytes.

        Raises:
            OurMistake: the file is not what was written.
        """
        found = self._chains.get(site)
        if found is None or not found.length:  # an empty one is of whichever key comes first
            lines = JsonLines(self._file(site), site)
            try:
                found = Chain(site, identity_key).extended(lines, at=lines)
            except LedgerFault as error:
                raise OurMistake(
                    f"The archive of the ledger of {site} is damaged: {error.message}", do=REPAIR
                ) from error
            self._chains[site] = found
        return found

    def heads(self) -> dict[str, LedgerHead]:
        """The newest head of each site as it came; nothing is verified.

        Raises:
            OurMistake: a file is no head.
        """
        found = {}
        for path in sorted(self.path.glob("*.head.json")):
            try:
                head = LedgerHead.model_validate_json(path.read_bytes())
            except (OSError, ValidationError) as error:
                raise OurMistake(f"{path} is not a head of a ledger.", do=REPAIR) from error
            found[path.name.removesuffix(".head.json")] = head
        return found

    def known(self, site: str, identity_key: bytes) -> KnownHead | None:
        """The last head of this site that is held here, None if there is none.

        Raises:
            OurMistake: it is not signed by the site, or not in the entries.
        """
        path = self._head_file(site)
        if not path.is_file():
            return None
        try:
            head = LedgerHead.model_validate_json(path.read_bytes())
            chain = self.chain(site, identity_key)
            head.check(site, chain.key_at(head.length))
        except (OSError, ValidationError, Refused) as error:
            raise OurMistake(f"{path} is not a head of the ledger of {site}.", do=REPAIR) from error
        if chain.head_at(head.length) != head.head:
            raise OurMistake(f"{path} is not in the entries of {site}.", do=REPAIR)
        return KnownHead(site=site, **head.model_dump())

    def check(self, reply: TrainReply, request: TrainRequest, identity_key: bytes) -> None:
        """The reply's note books what it submits and continues what is held here.

        Raises:
            LedgerMismatch: names the site.
        """
        check_note(reply, request, identity_key)
        before = self.chain(reply.site, identity_key)
        self._refuse_gap(before, self._extended(reply, request, identity_key))

    def _refuse_gap(self, before: Chain, after: Chain) -> None:
        """Entries that are new here skip none that a peer would need to follow them.

        Peers take no head that links do not lead to. With such a site among the survivors they
        would refuse trip 2 of every round, which all have paid for by then.
        """
        gaps = [x.entry for x in after.after(before.length) if isinstance(x.entry, Recovered)]
        lost_to = max((entry.lost_to for entry in gaps), default=0)
        held = {peer: lengths.get(after.site, 0) for peer, lengths in self._holdings.items()}
        behind = [peer for peer, length in held.items() if 0 < length < lost_to]
        if behind:
            raise LedgerMismatch(
                f"The ledger of {after.site} has lost entries up to {lost_to}; {min(behind)} holds "
                "an earlier head, from which nothing leads there.",
                site=after.site,
                do="The hospital recovers with the entries that are here: fedprint-coordinator "
                "ledger entries SITE. If this archive itself is an old copy, remove held.json.",
            )

    def accept(self, reply: TrainReply, request: TrainRequest, identity_key: bytes) -> None:
        """Keep the entries and head of a reply that counts; again changes nothing.

        Raises:
            LedgerMismatch: `check` was not asked.
        """
        before = self.chain(reply.site, identity_key)
        after = self._extended(reply, request, identity_key)
        if reply.ledger.length == after.length:  # else it is an earlier one that came late
            self._write(before, after, reply.ledger.plain)

    def take_in(
        self, site: str, lines: Sequence[bytes], head: LedgerHead, identity_key: bytes
    ) -> int:
        """Entries that the hospital has sent by hand, up to a head that it has signed; how many are
        new.

        Raises:
            LedgerFault: not this hospital's ledger, or not the one that is held here.
        """
        before = self.chain(site, identity_key)
        after = Chain(site, identity_key).extended(lines)
        after.check_key(identity_key)
        if not after.continues(before):
            raise LedgerFault("It does not continue the ledger that is held here.")
        if after.head_at(head.length) != head.head:
            raise LedgerFault("The signed head is not in these entries.")
        known = self.known(site, identity_key)
        newest = head if known is None or known.length < head.length else known.plain
        self._write(before, after, newest)
        return len(after.links) - len(before.links)

    def _write(self, before: Chain, after: Chain, head: LedgerHead) -> None:
        """Append what is new, then put the head in its place."""
        site = before.site
        new = after.links[len(before.links) :]
        if before.length:
            before.links[-1]  # read again: nothing is put behind a hole
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(self._file(site), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.seek(before.size)
            stream.truncate()  # of a line that a crash has cut off
            stream.write(b"".join(link.line + b"\n" for link in new))
            stream.flush()
            os.fsync(stream.fileno())
        sync_folder(self.path)
        self._chains[site] = after.at(JsonLines(self._file(site), site))
        data = canonical.encode(head.model_dump(mode="json"))
        write_atomic(self._head_file(site), data, mode=0o600)

    # ------------------------------------------------------------ what peers hold

    def links_for(
        self, peer: str, heads: Mapping[str, LedgerHead], identity_keys: Mapping[str, bytes]
    ) -> dict[str, tuple[str, ...]]:
        """Links that lead from what this peer holds to these heads; its own is left out."""
        held = self._holdings.get(peer, {})
        return {
            site: tuple(
                self.chain(site, identity_keys[site]).digests(held.get(site, 0), head.length)
            )
            for site, head in heads.items()
            if site != peer
        }

    def witnessed(self, peer: str, heads: Mapping[str, LedgerHead]) -> None:
        """This peer has signed that it holds these heads. `save` makes it durable."""
        held = self._holdings.setdefault(peer, {})
        held.update({site: head.length for site, head in heads.items() if site != peer})

    def doubts(self, peer: str) -> None:
        """This peer has refused the ledgers that it was shown: next time it is sent all links."""
        self._holdings.pop(peer, None)
        self.save()

    def save(self) -> None:
        """Store what peers hold. Losing it costs longer messages."""
        data = canonical.encode(self._holdings)
        write_atomic(self.path / "held.json", data, mode=0o600)

    # ------------------------------------------------------------ parts

    @property
    def _holdings(self) -> dict[str, dict[str, int]]:
        if self._held is None:
            path = self.path / "held.json"
            try:
                data = path.read_bytes() if path.is_file() else b"{}"
                self._held = _HELD.validate_json(data, strict=True)
            except (OSError, ValueError) as error:
                raise OurMistake(f"{path} cannot be read.", do="Remove it.") from error
        return self._held

    def _extended(self, reply: TrainReply, request: TrainRequest, identity_key: bytes) -> Chain:
        """The chain here and what the note adds to it.

        The note begins where its request was written; the chain may have grown since.
        """
        site, chain = reply.site, self.chain(reply.site, identity_key)
        lines = [line.encode("ascii") for line in reply.ledger.entries]
        known = request.known_head(site)
        first = 0 if known is None else known.length
        have = [link.line for link in chain.after(first)]
        common = min(len(have), len(lines))
        try:
            if first > chain.length or have[:common] != lines[:common]:
                raise LedgerFault("It is not the ledger that was seen before.")
            after = chain.extended(lines[common:])
            after.check_key(identity_key)
            if after.head_at(reply.ledger.length) != reply.ledger.head:
                raise LedgerFault("Its entries do not lead to its head.")
        except LedgerFault as error:
            raise LedgerMismatch(
                f"The ledger of {site} does not continue the one in the archive: {error.message}",
                site=site,
                do="Ask the hospital; fedprint-node ledger recover is for a restored backup.",
            ) from error
        return after

    def _file(self, site: str) -> Path:
        return self.path / f"{site}.jsonl"

    def _head_file(self, site: str) -> Path:
        return self.path / f"{site}.head.json"
