"""What a site sent, held against everything the coordinator knows about it, as an event.

Signatures, transcripts, lengths and commitments are looked at here; which run, round or set of
survivors an answer is about is left to the round's machine, which tells a late answer from a wrong
one.
"""

from __future__ import annotations

from server import epochs, rounds
from server.desk import Desk, Terms
from server.epochs import Epoch
from server.post import Answer, Letter
from server.round_folder import StoredReply
from server.sum_desk import Shares
from shared_model import protocol, protocol_open
from shared_model.errors import OurMistake, PeerFault
from shared_model.noise import SystemNoise
from shared_model.protocol import EpochKeyEntry, Refusal, TrainReply
from shared_model.roster import Roster, RosterEntry
from shared_model.secure_sum.submission import Submission
from shared_model.secure_sum.transcript import Transcript


def event_of(answer: Answer, desk: Desk, *, private: bool) -> rounds.Event:
    """What the answer to a letter of trip 1, 2 or 3 means; what it brought waits on the desk.

    Args:
        private: a submission under masks must have private noise.

    Raises:
        PeerFault: names the site; no legal answer (`LedgerMismatch`: its ledger does not fit).
    """
    letter, header, body = answer.letter, answer.header, answer.body
    match letter.trip:
        case "submit":
            return _submitted(answer, desk, private=private)
        case "agree":
            said = desk.sum.read_agreement(letter.site, header, body)
            if isinstance(said, Refusal):
                event = refusal_event(letter, said)
                if (event.trip, event.reason) == ("agree", "ledger"):
                    desk.sum.doubted_by(letter.site)
                return event
            return rounds.AgreementArrived(letter.site, said.run, said.round, said.agreed)
        case "open":
            found = desk.sum.read_shares(letter.site, header, body)
            if isinstance(found, Refusal):
                return refusal_event(letter, found)
            if not isinstance(found, Shares):  # of another round
                return rounds.SharesArrived(letter.site, found.run, found.round)
            reply = found.reply
            return rounds.SharesArrived(
                letter.site,
                reply.run,
                reply.round,
                frozenset(found.missing),
                frozenset(reply.unreadable) | frozenset(reply.accused),
            )
        case _:
            raise OurMistake(f"There is no trip {letter.trip!r} in a round.")


def key_event(
    answer: Answer, epoch: Epoch, roster: Roster
) -> tuple[rounds.KeyArrived | rounds.RefusalArrived, EpochKeyEntry | None]:
    """What the answer to a request for an epoch's key means, and the key if it brought one.

    Raises:
        PeerFault: names the site; no legal answer.
    """
    letter = answer.letter
    said = epochs.read_key(answer.header, answer.body, site=letter.site, epoch=epoch, roster=roster)
    if isinstance(said, Refusal):
        return refusal_event(letter, said), None
    return rounds.KeyArrived(letter.site, letter.number), said


def refusal_event(letter: Letter, refusal: Refusal) -> rounds.RefusalArrived:
    """A refusal counts for the letter that its digest names, if run and round are the letter's."""
    ours = refusal.request_digest == protocol.header_digest(letter.header)
    if ours and letter.trip != "keying":
        asked = protocol_open.readable(letter.header)
        ours = (refusal.run, refusal.round) == (asked["run"], asked["round"])
    trip = trip_of(letter) if ours else None
    return rounds.RefusalArrived(letter.site, trip, letter.number, refusal.reason)


def trip_of(letter: Letter) -> rounds.Trip:
    """The trip of the machine that a letter belongs to.

    Raises:
        OurMistake: none; it is one of the closing exchange.
    """
    match letter.trip:
        case "keying" | "submit" | "agree" | "open" as trip:
            return trip
    raise OurMistake(f"The round's machine knows no trip {letter.trip!r}.")


def _submitted(answer: Answer, desk: Desk, *, private: bool) -> rounds.Event:
    site = answer.letter.site
    said = read_answer(
        answer.header,
        answer.body,
        enrolled=desk.sum.roster.entry(site),
        request_digest=desk.digest,
        transcript=desk.sum.transcript,
        masked=desk.sum.masked,
        private=private and desk.sum.masked,
        terms=desk.terms.get(site),
    )
    if isinstance(said, Refusal):
        event = refusal_event(answer.letter, said)
        if event.trip is not None:
            desk.refusals[site] = (said, answer.header)
            desk.sum.files.store_refusal(site, answer.header)
        return event
    if said.request_digest == desk.digest:
        desk.sum.check_ledger(said)
        desk.replies.setdefault(site, StoredReply(site, answer.header, answer.body))
        desk.answers.setdefault(site, (said, answer.header))
    return rounds.ReplyArrived(
        site,
        said.run,
        said.round,
        said.request_digest,
        protocol.header_digest(answer.header),
        said.weight,
        said.ledger.plain,
    )


def read_answer(
    header: bytes,
    body: bytes,
    *,
    enrolled: RosterEntry,
    request_digest: str,
    transcript: Transcript,
    masked: bool,
    private: bool = False,
    terms: Terms | None = None,
) -> TrainReply | Refusal:
    """A legal answer of this site, with a body that can be added if it answers this request.

    Of an answer to another request only signature and body digest are looked at; it is not used.

    Args:
        private: what no release could be made of is refused: noise that is not private.
        terms: noise and delta of the site's earlier replies in this run; a release states one of
            each for a site.

    Raises:
        PeerFault: names the site; wrong signature, message, body, transcript, declared patients or
            weight; noise or delta that no release could be made of.
    """
    site = enrolled.site
    answer = protocol_open.open_answer(header, enrolled.identity, site=site)
    if isinstance(answer, Refusal):
        if body:
            raise PeerFault(f"A refusal of {site} has a body.", site=site)
        return answer
    protocol_open.check_body(answer.body_digest, body, site=site)
    if answer.request_digest != request_digest:
        return answer
    if answer.transcript != transcript.digest.hex():
        raise PeerFault(f"{site} has another transcript of this round.", site=site)
    if answer.declared_patients != enrolled.declared_patients:
        raise PeerFault(f"{site} declares another number of patients.", site=site)
    if answer.weight != transcript.weight(site):
        raise PeerFault(f"{site} claims another aggregation weight.", site=site)
    if private and not (answer.private and answer.noise == SystemNoise.name):
        raise PeerFault(f"The update of {site} is not private; nothing is made of it.", site=site)
    if terms is not None and terms != (answer.noise, answer.privacy.delta):
        raise PeerFault(
            f"{site} states another noise or delta than for its earlier rounds of this run.",
            site=site,
            do="Ask the hospital to put its policy back, or begin a new run.",
        )
    if masked:
        Submission.parse(body, transcript, site)
    elif len(body) != transcript.numbers.packed_bytes:
        raise PeerFault(f"The submission of {site} has a wrong length.", site=site)
    return answer
