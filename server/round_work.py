"""Carries out what the machine asks for in an open round: letters, storage, the sum, the record."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, Protocol

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from server import rounds
from server.checkpoints import Journal
from server.closing import Closings
from server.desk import Desk, terms_of
from server.epochs import Epoch
from server.ledgers import LedgerArchive
from server.post import Answer, Letter, Post
from server.round_folder import Chosen
from server.run_records import ClosingRecord, IncidentRecord
from server.run_start import train_request
from server.sum_desk import SumDesk
from shared_model import adapters, canonical, protocol
from shared_model import weights as weights_io
from shared_model.errors import OurMistake, PeerFault, Refused
from shared_model.memory import give_back
from shared_model.protocol import KnownHead
from shared_model.release import ModelParts
from shared_model.secure_sum.numbers import pack
from shared_model.secure_sum.opening import Seeds
from shared_model.secure_sum.primitives import Words
from shared_model.secure_sum.verification import make_statement, statement_bytes
from shared_model.server_step import model_after
from shared_model.weight_bounds import within_bounds
from shared_model.weights import Weights

DIVERGED = (
    "the model has grown beyond what hospitals train from; they will refuse the next round. Go on "
    "from an earlier release, with a lower learning rate"
)
TRIPS = ("submit", "agree", "open")


def _digests(weights: Weights) -> tuple[str, ModelParts | None]:
    """Of a model, and of its parts if the server step has a state."""
    model, state = weights_io.parts(weights)
    digest = weights_io.digest(model)
    if not state:
        return digest, None
    parts = ModelParts(weights=digest, state=weights_io.state_digest(state))
    return parts.joined, parts


class Tell(Protocol):
    """Tells the operator."""

    def __call__(self, kind: str, site: str = "", detail: str = "") -> None: ...


class RoundWork:
    """The open round, if there is one, and the model between rounds.

    weights: with the state of the server step, if it has one.

    stored_shares: after a restart, what sites had opened; taken once trip 3 runs again.
    """

    def __init__(
        self,
        journal: Journal,
        key: Ed25519PrivateKey,
        post: Post,
        closings: Closings,
        wall_clock: Callable[[], float],
        tell: Tell,
        ledgers: LedgerArchive,
    ) -> None:
        self.journal = journal
        self.ledgers = ledgers
        self.key = key
        self.post = post
        self.closings = closings
        self.wall_clock = wall_clock
        self.tell = tell
        self.weights: Weights = {}
        self.stored_shares: list[Answer] = []
        self._desk: Desk | None = None

    @property
    def desk(self) -> Desk:
        """The desk of the open round.

        Raises:
            OurMistake: none is open.
        """
        if self._desk is None:
            raise OurMistake("No round is open.")
        return self._desk

    def take_up(self, desk: Desk, shares: Sequence[Answer]) -> None:
        """Go on with a stored round."""
        self._desk = desk
        self.stored_shares = list(shares)

    def note(self, site: str, reason: str, about: str = "") -> None:
        """An incident: it goes into the record of the open round, and to the operator."""
        if self._desk is not None:
            self._desk.incidents.append(IncidentRecord(site=site, reason=reason, about=about))
        self.tell("accuses" if about else "incident", site, reason)

    def bar(self, site: str) -> None:
        """The record says that this site is not asked again until the operator resumes the run."""
        self.desk.barred = tuple(sorted({*self.desk.barred, site}))

    def open(self, action: rounds.Open, epoch: Epoch | None) -> str:
        """Make and store the request of trip 1; its digest."""
        record, body = self.journal.record, weights_io.to_bytes(self.weights)
        request = train_request(
            record,
            action.number,
            action.participants,
            self._trainable,
            canonical.digest(body),
            epoch,
            self._known_heads(action.participants),
        )
        header = protocol.seal(request, self.key)
        files = self.journal.folder.round(action.number)
        files.begin(header)
        sums = SumDesk(files, request, record.roster, self.key, self.ledgers)
        self._desk = Desk(request, header, body, sums, opened_at=self.wall_clock())
        self._desk.terms = terms_of(record.rounds)
        return self._desk.digest

    def do(self, action: rounds.Action) -> list[rounds.Event]:
        """One action of the open round; what follows from it at once."""
        desk = self.desk
        match action:
            case rounds.Push():
                self._send([self._letter(desk, site) for site in action.sites])
                self.tell("sent", detail=", ".join(action.sites))
            case rounds.Accept():
                desk.keep(action.contribution.site)
                self.tell("accepted", action.contribution.site)
            case rounds.Agree():
                self.post.forget(("submit",))
                desk.sum.choose(Chosen(action.survivors, action.submissions, action.ended))
                self.tell("agreeing", detail=f"{len(action.survivors)} sites have submitted")
            case rounds.PushAgree():
                self._send(desk.sum.agree_letters(action.sites))
            case rounds.AcceptAgreement():
                desk.sum.keep_agreement(action.site)
                have, asked = len(desk.sum.agreements), len(desk.sum.survivors)
                self.tell("agreed", action.site, f"{have} of {asked} sites have agreed")
            case rounds.OpenShares():
                self._send(desk.sum.open_letters(action.signers, action.missing, action.sites))
                away = f", without {', '.join(action.missing)}" if action.missing else ""
                self.tell("opening", detail=f"{len(action.sites)} sites are asked{away}")
            case rounds.AcceptShares():
                for said in desk.sum.keep_shares(action.site):
                    self.note(said.site, said.reason, said.about)
                needed, have = desk.sum.transcript.threshold, len(desk.sum.opened)
                self.tell("unsealed", action.site, f"{have} sites have opened, {needed} are needed")
            case rounds.Aggregate():
                return [self._aggregate(action, desk)]
            case rounds.CloseRound():
                desk.barred = tuple(sorted({*desk.barred, *action.barred}))
                self._end(desk, "closed", action.contributions, action.ended, reason=action.reason)
                self.tell("closed", detail=action.reason)
            case _:
                raise OurMistake(f"{type(action).__name__} is nothing to do in a round.")
        return []

    def tell_if_diverged(self) -> None:
        """By the model that is here: when a round has made it, and when a run is taken up."""
        if not within_bounds(weights_io.parts(self.weights)[0]):
            self.tell("diverged", detail=DIVERGED)

    # ------------------------------------------------------------ letters

    @staticmethod
    def _letter(desk: Desk, site: str) -> Letter:
        return Letter(site, "submit", desk.request.round, desk.header, desk.body)

    def _send(self, letters: Sequence[Letter]) -> None:
        stored = {(item.letter.site, item.letter.attempt) for item in self.stored_shares}
        self.post.send(
            [
                letter
                for letter in letters
                if letter.site not in self.desk.skip.get(letter.trip, ())
                and not (letter.trip == "open" and (letter.site, letter.attempt) in stored)
            ]
        )

    # ------------------------------------------------------------ ends

    def _aggregate(self, action: rounds.Aggregate, desk: Desk) -> rounds.Event:
        sums = desk.sum
        bodies = {
            item.site: desk.answers[item.site][0].body_digest for item in action.contributions
        }
        seeds: Seeds | None = None
        try:
            if sums.masked:
                seeds = sums.seeds(action.openers)
        except PeerFault as fault:
            self.bar(fault.site)
            return rounds.NotOpened(action.number, fault.site)
        except Refused:
            return rounds.NotOpened(action.number)
        total = sums.total(bodies, seeds)
        survivors = tuple(sorted(bodies))
        trained = self.journal.record.trainable
        self.weights = model_after(
            desk.request, sums.transcript, survivors, total, self.weights, trained
        )
        self.journal.folder.save_weights(action.number, self.weights)
        packed = self._save_sum(action, desk, total, seeds)
        digest, parts = _digests(self.weights)
        self._end(
            desk,
            "aggregated",
            action.contributions,
            action.ended,
            model_out=digest,
            parts=parts,
            sum_digest=canonical.digest(packed),
        )
        give_back()
        self.tell("aggregated", detail=digest)
        self.tell_if_diverged()
        self.closings.begin(self.journal.record, self.journal.record.rounds[-1])
        return rounds.Aggregated(action.number, digest)

    def _save_sum(
        self, action: rounds.Aggregate, desk: Desk, total: Words, seeds: Seeds | None
    ) -> bytes:
        """Store the sum, what was opened, and that nobody has verified it yet."""
        transcript = desk.sum.transcript
        survivors = tuple(item.site for item in action.contributions)
        packed, statement = pack(total, transcript.numbers.modulus_bits), b""
        if seeds is not None:
            submissions = tuple(item.submission for item in action.contributions)
            made = make_statement(transcript, survivors, submissions, total, seeds)
            statement = statement_bytes(made)
        closing = ClosingRecord(
            round=action.number,
            survivors=survivors,
            needed=transcript.threshold,
            statement_digest=canonical.digest(statement) if statement else "",
        )
        self.journal.folder.save_sum(action.number, packed, statement, closing)
        return packed

    def _end(
        self,
        desk: Desk,
        outcome: Literal["aggregated", "closed"],
        contributions: Sequence[rounds.Contribution],
        ended: Mapping[str, rounds.Ending],
        *,
        reason: str = "",
        model_out: str | None = None,
        parts: ModelParts | None = None,
        sum_digest: str = "",
    ) -> None:
        """Commit the record of the round, then forget what was stored while it was open."""
        model_in = self.journal.record.model_digest
        done = desk.record(
            outcome,
            contributions,
            ended,
            reason=reason,
            model_in=model_in,
            model_out=model_out or model_in,
            parts=parts,
            sum_digest=sum_digest,
            ended_at=self.wall_clock(),
        )
        self.journal.save(rounds=(*self.journal.record.rounds, done))
        self.post.forget(TRIPS)
        desk.sum.files.forget_open()
        if outcome == "closed":
            desk.sum.files.forget_submissions()
            self.journal.folder.forget_sum(self.journal.record.rounds[-1].round)
        self.stored_shares = []
        self._desk = None

    def _known_heads(self, sites: Sequence[str]) -> list[KnownHead]:
        """The last head that is held of each of these sites' ledgers."""
        roster = self.journal.record.roster
        found = [self.ledgers.known(site, roster.entry(site).identity) for site in sites]
        return [head for head in found if head is not None]

    @property
    def _trainable(self) -> Mapping[str, np.ndarray]:
        return adapters.trained_part(self.weights, self.journal.record.trainable)
