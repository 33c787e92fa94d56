"""A round that was open when the coordinator stopped, taken up again from its folder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from server.desk import Desk, terms_of
from server.ledgers import LedgerArchive
from server.post import Answer, Letter
from server.round_folder import Chosen, RoundFolder
from server.rounds import Contribution, Endings
from server.run_records import RunRecord
from server.sum_desk import SumDesk
from shared_model import protocol, protocol_open, signing
from shared_model.errors import OurMistake, PeerFault, Refused
from shared_model.protocol import Refusal


@dataclass(frozen=True)
class TakenUp:
    """What is to be fed to the machine.

    agreed: the contributions of U, () if it was not chosen yet; ended: why others are not in it.
    answers: those that were stored of trip 1, or of trip 2 where U was chosen; shares: of trip 3.
    """

    desk: Desk
    agreed: tuple[Contribution, ...]
    ended: Endings
    answers: Iterator[Answer]
    shares: tuple[Answer, ...]


def taken_up(
    files: RoundFolder,
    record: RunRecord,
    key: Ed25519PrivateKey,
    header: bytes,
    body: bytes,
    now: float,
    ledgers: LedgerArchive,
) -> TakenUp | None:
    """The stored round, None if this version, model or roster cannot continue it.

    Args:
        header: the stored request. body: the model that it was sent with.
    """
    try:
        request = protocol_open.open_train_request(header, signing.public_bytes(key))
        protocol_open.check_body(request.body_digest, body, site=protocol.COORDINATOR)
        if request.sum.roster_digest != record.roster.digest:
            return None
        sums = SumDesk(files, request, record.roster, key, ledgers)
        desk = Desk(request, header, body, sums, opened_at=now, terms=terms_of(record.rounds))
        if sums.chosen is None:
            desk.skip = {"submit": frozenset(files.submitted) & set(request.sites)}
            return TakenUp(desk, (), {}, _submissions(files, desk), ())
        agreed = _agreed(files, desk, sums.chosen)
        desk.skip = {"agree": frozenset(sums.agreements)}
        shares = tuple(
            Answer(Letter(reply.site, "open", files.number, b"", b"", attempt), *reply.parts)
            for attempt, reply in sums.stored_shares()
        )
    except (PeerFault, Refused, OurMistake, ValueError, KeyError):
        return None
    return TakenUp(desk, agreed, sums.chosen.ended, _agreements(files, desk), shares)


def _submissions(files: RoundFolder, desk: Desk) -> Iterator[Answer]:
    for site in sorted(desk.skip["submit"]):
        letter = Letter(site, "submit", files.number, desk.header, b"")
        yield Answer(letter, *files.submission(site).parts)


def _agreements(files: RoundFolder, desk: Desk) -> Iterator[Answer]:
    for letter in desk.sum.agree_letters(sorted(desk.skip["agree"])):
        yield Answer(letter, files.agreements[letter.site], b"")


def _agreed(files: RoundFolder, desk: Desk, chosen: Chosen) -> tuple[Contribution, ...]:
    """U as it was chosen; its headers are verified again.

    Raises:
        OurMistake: the stored submissions are not those that were announced.
    """
    for site in files.submitted:
        header = files.submission_header(site)
        answer = protocol_open.open_answer(header, desk.sum.roster.entry(site).identity, site=site)
        if isinstance(answer, Refusal):
            raise OurMistake(f"The stored submission of {site} is a refusal.")
        desk.answers[site] = (answer, header)
    for site, header in files.refusals.items():
        said = protocol_open.open_answer(header, desk.sum.roster.entry(site).identity, site=site)
        if isinstance(said, Refusal):
            desk.refusals[site] = (said, header)
    found = []
    for site, digest in zip(chosen.survivors, chosen.submissions, strict=True):
        answer, header = desk.answers[site]
        if protocol.header_digest(header) != digest:
            raise OurMistake(f"The stored submission of {site} is not the announced one.")
        found.append(Contribution(site, digest, answer.weight, answer.ledger.plain))
    return tuple(found)
