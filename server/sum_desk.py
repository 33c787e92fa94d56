"""Trips 2 and 3 of one round, and its sum: what is asked, what comes back, what it adds up to.

Everything that a next step rests on is in the round's folder before that step: the survivors,
their agreements, what they opened. Requests are not stored: they follow from what is, to the bit
(Ed25519 signatures repeat themselves).

Submissions are mapped from their files, so that the sum needs three vectors of memory for any
number of sites.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from server.ledgers import LedgerArchive
from server.post import Letter
from server.round_folder import Chosen, OpeningAsked, RoundFolder, StoredReply
from server.run_records import RESTORE, IncidentRecord
from shared_model import canonical, protocol, protocol_open
from shared_model.errors import OurMistake, PeerFault
from shared_model.ledger import LedgerHead
from shared_model.ledger_links import links_body
from shared_model.protocol import Refusal, TrainReply, TrainRequest
from shared_model.protocol_base import RoundMessage
from shared_model.protocol_sum import Agreement, AgreeRequest, OpenRequest, SharesReply
from shared_model.roster import Roster
from shared_model.secure_sum.opening import (
    Seeds,
    SharesOf,
    check_shares,
    read_shares,
    rebuild_seeds,
    rows_body,
)
from shared_model.secure_sum.primitives import Words
from shared_model.secure_sum.submission import Submission
from shared_model.secure_sum.transcript import Transcript, of_request
from shared_model.secure_sum.unmask import sum_of


@dataclass(frozen=True)
class Shares:
    """What one site opened, checked against the commitments. missing: of the asking."""

    reply: SharesReply
    missing: tuple[str, ...]
    values: SharesOf = field(repr=False)
    attempt: int
    stored: StoredReply = field(repr=False)


class SumDesk:
    """The letters of trips 2 and 3 of one round.

    Args:
        request: of trip 1. roster: the one that it names. key: the run key. ledgers: what is held
            of the sites' privacy ledgers.
    """

    def __init__(
        self,
        files: RoundFolder,
        request: TrainRequest,
        roster: Roster,
        key: Ed25519PrivateKey,
        ledgers: LedgerArchive,
    ) -> None:
        self.files = files
        self.request = request
        self.roster = roster
        self._key = key
        self._ledgers = ledgers
        self.transcript: Transcript = of_request(request, roster.weights)
        self.masked = request.sum.aggregation == "secure-sum"
        self.chosen = files.chosen
        self.agreements: dict[str, bytes] = dict(files.agreements)
        self._openings: list[OpeningAsked] = list(files.openings)
        self._asked: dict[str, tuple[int, str]] = {}  # digest of a request -> attempt, site
        self._came: dict[str, bytes] = {}
        self._opened: dict[str, Shares] = {}
        self._kept: dict[str, Shares] = {}

    # ------------------------------------------------------------ ledgers

    def check_ledger(self, reply: TrainReply) -> None:
        """The site has booked what it submits, in the ledger that was seen before.

        Raises:
            LedgerMismatch: names the site.
        """
        self._ledgers.check(reply, self.request, self.roster.entry(reply.site).identity)

    def keep_ledger(self, reply: TrainReply) -> None:
        """The reply counts: what it shows of its ledger is kept."""
        self._ledgers.accept(reply, self.request, self.roster.entry(reply.site).identity)

    @cached_property
    def heads(self) -> Mapping[str, LedgerHead]:
        """Heads of the survivors' ledgers, as their replies have them."""
        found = {}
        for site in self.survivors:
            header, key = self.files.submission_header(site), self.roster.entry(site).identity
            found[site] = protocol_open.open_signed(header, key, TrainReply, site=site).ledger.plain
        return found

    # ------------------------------------------------------------ trip 2

    @property
    def survivors(self) -> tuple[str, ...]:
        """U, empty before it is chosen."""
        return () if self.chosen is None else self.chosen.survivors

    def choose(self, chosen: Chosen) -> None:
        """Fix U, durably, before any site is told.

        Raises:
            OurMistake: another U was chosen for this round.
        """
        if self.chosen is not None and self.chosen.survivors != chosen.survivors:
            raise OurMistake("The survivors of a round are chosen once.")
        self.files.store_chosen(chosen)
        self.chosen = chosen

    def agree_letters(self, sites: Sequence[str]) -> list[Letter]:
        """The request of trip 2: the same for all but for the links, of which a site gets those
        that it is thought not to have."""
        chosen, number = self._chosen, self.request.round
        keys = {site: self.roster.entry(site).identity for site in chosen.survivors}
        letters = []
        for site in sites:
            body = links_body(self._ledgers.links_for(site, self.heads, keys))
            message = AgreeRequest(
                run=self.request.run,
                round=number,
                transcript=self.transcript.digest.hex(),
                survivors=chosen.survivors,
                submissions=chosen.submissions,
                heads=tuple(self.heads[one] for one in chosen.survivors),
                body_digest=canonical.digest(body),
            )
            letters.append(Letter(site, "agree", number, protocol.seal(message, self._key), body))
        return letters

    def read_agreement(self, site: str, header: bytes, body: bytes) -> Agreement | Refusal:
        """A site's answer of trip 2. Which survivors it signs is for the round's machine to judge.

        Raises:
            PeerFault: of the site; not its signature, a body, or another transcript.
        """
        identity = self.roster.entry(site).identity
        answer = protocol_open.open_answer_of(header, identity, Agreement, site=site)
        _no_body(body, site)
        if isinstance(answer, Agreement) and self._is_ours(answer):
            self._same_transcript(answer.transcript, site)
            self._came[site] = header
        return answer

    def doubted_by(self, site: str) -> None:
        """This site does not agree to the ledgers that it was shown."""
        self._ledgers.doubts(site)

    def keep_agreement(self, site: str) -> None:
        """It counts: store it."""
        header = self._came.pop(site)
        self.files.store_agreement(site, header)
        self.agreements[site] = header
        self._ledgers.witnessed(site, self.heads)

    # ------------------------------------------------------------ trip 3

    def open_letters(
        self, signers: Sequence[str], missing: Sequence[str], sites: Sequence[str]
    ) -> list[Letter]:
        """The requests of trip 3, one for each site; who is asked for is stored first.

        The agreements of t signers are enough for every node, and fit a header for any number of
        sites.
        """
        self._ledgers.save()
        chosen = tuple(sorted(signers))[: self.transcript.threshold]
        opening = OpeningAsked(chosen, tuple(sorted(missing)))
        if opening not in self._openings:
            self.files.store_opening(len(self._openings), opening)
            self._openings.append(opening)
        attempt = self._openings.index(opening)
        return [self._open_letter(attempt, site) for site in sites]

    def _open_letter(self, attempt: int, site: str) -> Letter:
        opening, chosen = self._openings[attempt], self._chosen
        body = rows_body(self.submissions, site)
        message = OpenRequest(
            run=self.request.run,
            round=self.request.round,
            transcript=self.transcript.digest.hex(),
            survivors=chosen.survivors,
            submissions=chosen.submissions,
            missing=opening.missing,
            signers=opening.signers,
            agreements=tuple(self.agreements[signer].hex() for signer in opening.signers),
            body_digest=canonical.digest(body),
        )
        header = protocol.seal(message, self._key)
        self._asked[protocol.header_digest(header)] = (attempt, site)
        return Letter(site, "open", self.request.round, header, body, attempt)

    def read_shares(self, site: str, header: bytes, body: bytes) -> Shares | SharesReply | Refusal:
        """What a site opened, each value held against its commitment.

        An answer that names another round comes back unchecked: the round's machine refuses it.

        Raises:
            PeerFault: of the site; not its signature, another transcript or request, a wrong
                length, or a value that is not the committed one.
        """
        identity = self.roster.entry(site).identity
        answer = protocol_open.open_answer_of(header, identity, SharesReply, site=site)
        if isinstance(answer, Refusal):
            _no_body(body, site)
            return answer
        if not self._is_ours(answer):
            return answer
        self._same_transcript(answer.transcript, site)
        asked = self._asked.get(answer.request_digest)
        if asked is None or asked[1] != site:
            raise PeerFault(f"{site} opened for a request that it was not sent.", site=site)
        protocol_open.check_body(answer.body_digest, body, site=site)
        missing = self._openings[asked[0]].missing
        values = read_shares(
            body,
            self.transcript,
            self.survivors,
            missing,
            site,
            answer.unreadable,
            answer.accused,
        )
        check_shares(values, site, self.submissions)
        found = Shares(answer, missing, values, asked[0], StoredReply(site, header, body))
        self._opened[site] = found
        return found

    def keep_shares(self, site: str) -> list[IncidentRecord]:
        """They count: store them. What they say about dealers counts against nobody."""
        found = self._opened.pop(site)
        self.files.store_shares(found.attempt, found.stored)
        earlier = self._kept.get(site)
        self._kept[site] = found
        said = _said(found)
        return [item for item in said if earlier is None or item not in _said(earlier)]

    @property
    def opened(self) -> tuple[str, ...]:
        """Sites whose shares are kept."""
        return tuple(sorted(self._kept))

    def stored_shares(self) -> Iterator[tuple[int, StoredReply]]:
        """What had been opened before the coordinator stopped, the last of each site, and to the
        which asking."""
        last = {}
        for attempt, reply in self.files.shares:
            if attempt < len(self._openings) and reply.site in self.survivors:
                self._open_letter(attempt, reply.site)  # so that its digest is known again
                last[reply.site] = (attempt, reply)
        yield from last.values()

    # ------------------------------------------------------------ the sum

    @cached_property
    def submissions(self) -> Mapping[str, Submission]:
        """The survivors' submissions, mapped from their files."""
        return {
            site: Submission.parse(memoryview(self.files.mapped(site)), self.transcript, site)
            for site in self.survivors
        }

    def seeds(self, openers: Sequence[str]) -> Seeds:
        """The seeds that were opened.

        Raises:
            PeerFault: of a dealer whose shares do not fit together.
            Refused: fewer than t shares of a seed (reason "secure-sum").
        """
        shares = {site: self._kept[site].values for site in openers}
        return rebuild_seeds(self.transcript, self.survivors, shares, self.submissions)

    def total(self, bodies: Mapping[str, str], seeds: Seeds | None) -> Words:
        """The sum, uint32 (padded,); submissions are read one after the other.

        Args:
            bodies: survivor -> digest of its body, as its header signs it.

        Raises:
            OurMistake: a stored submission has changed.
        """
        return sum_of(self._packed(bodies), self.transcript, seeds)

    def _packed(self, bodies: Mapping[str, str]) -> Iterator[tuple[str, memoryview]]:
        size = self.transcript.numbers.packed_bytes
        for site in sorted(bodies):
            body = memoryview(self.files.mapped(site))
            if hashlib.sha256(body).hexdigest() != bodies[site]:
                raise OurMistake(f"The stored submission of {site} has changed.", do=RESTORE)
            yield site, body[:size]

    # ------------------------------------------------------------ parts

    @property
    def _chosen(self) -> Chosen:
        if self.chosen is None:
            raise OurMistake("The survivors of this round are not chosen yet.")
        return self.chosen

    def _is_ours(self, message: RoundMessage) -> bool:
        return (message.run, message.round) == (self.request.run, self.request.round)

    def _same_transcript(self, named: str, site: str) -> None:
        if named != self.transcript.digest.hex():
            raise PeerFault(f"{site} has another transcript of this round.", site=site)


def _no_body(body: bytes, site: str) -> None:
    if body:
        raise PeerFault(f"An answer of {site} has a body that it should not have.", site=site)


def _said(found: Shares) -> list[IncidentRecord]:
    """What an opener says about dealers; whether it or the dealer is wrong, only they know."""
    opener = found.reply.site
    return [
        IncidentRecord(
            site=opener, about=dealer, reason=f"it says: the share of {dealer} is not the committed"
        )
        for dealer in found.reply.accused
    ] + [
        IncidentRecord(
            site=opener, about=dealer, reason=f"it says: the sealed row of {dealer} does not open"
        )
        for dealer in found.reply.unreadable
    ]
