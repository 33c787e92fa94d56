"""The rounds of a run as a release tells them, out of the messages as they were signed.

Every signature is verified again, and every published sum is held against the hospitals' answers
once more: a sum that they have not verified is not released.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from server.checkpoints import (
    AbsentRecord,
    ClosingRecord,
    ContributorRecord,
    RoundRecord,
    RunFolder,
    RunRecord,
)
from server.run_records import from_base64
from shared_model import canonical, protocol, sum_evidence
from shared_model import release as contract
from shared_model import weights as weights_io
from shared_model.errors import FedprintError, Refused
from shared_model.noise import SystemNoise
from shared_model.protocol import TrainReply
from shared_model.protocol_sum import Statement
from shared_model.release_price import shared_noise_of
from shared_model.roster import Roster
from shared_model.secure_sum.numbers import unpack
from shared_model.secure_sum.primitives import Words
from shared_model.secure_sum.verification import check_equation
from shared_model.server_step import model_after
from shared_model.sum_evidence import Asked


@dataclass(frozen=True)
class Road:
    """The lineage as far as it is collected."""

    runs: tuple[str, ...]
    rounds: tuple[contract.Round, ...]
    keys: Mapping[str, str]
    lifetime: Mapping[str, float]
    start: str
    origin: str
    minimum: int


def collect(
    run: RunFolder, record: RunRecord, keys: Mapping[str, str]
) -> tuple[Road, contract.Evidence]:
    """The rounds of a run, from the headers as they were signed.

    Raises:
        Refused: a reply is not private ("not-private"), masks were off ("secure-sum"), a sum is
            not verified ("unverified"), or a header is not what the record says it is.
    """
    root_key = bytes.fromhex(record.root_key)
    documents = [from_base64(text) for text in record.rosters]
    rosters = sum_evidence.opened_rosters(documents, root_key)
    rounds: list[contract.Round] = []
    evidence: list[contract.SignedRound] = []
    lifetime: dict[str, float] = {}
    for item in record.rounds:
        try:
            made, signed = _round(run, record, item, rosters, lifetime)
        except FedprintError as error:
            if isinstance(error, Refused):
                raise
            raise Refused(
                f"Round {item.round} cannot be released: {error.message}", reason="lineage"
            ) from error
        rounds.append(made)
        evidence.append(signed)
    road = Road(
        runs=(record.run,),
        rounds=tuple(rounds),
        keys=dict(keys),
        lifetime=lifetime,
        start=record.initial_model,
        origin="",
        minimum=record.config.minimum_contributors,
    )
    told = tuple(document.hex() for document in documents)
    return road, contract.Evidence(rosters=told, rounds=tuple(evidence))


def _round(
    run: RunFolder,
    record: RunRecord,
    item: RoundRecord,
    rosters: Mapping[str, Roster],
    lifetime: dict[str, float],
) -> tuple[contract.Round, contract.SignedRound]:
    asked = sum_evidence.ask(item.request_bytes, bytes.fromhex(record.run_key), rosters)
    answers = _replies(item)
    replies = {one.site: sum_evidence.replied(asked, one.site, one.header_bytes) for one in answers}
    contributors = tuple(_contribution(one, replies[one.site], lifetime) for one in answers)
    closing, statement, told = None, b"", None
    if item.outcome == "aggregated":
        closing, statement = run.closing(item.round), run.statement(item.round)
        told = _verified_sum(asked, item, replies, closing, statement, run, record)
    request = asked.request
    made = contract.Round(
        run=request.run,
        number=request.round,
        outcome=item.outcome,
        plan=contract.Plan(**request.privacy.as_dict()),
        shared_noise=shared_noise_of(asked),
        request_digest=asked.digest,
        model_in=item.model_in,
        model_out=item.model_out,
        contributors=contributors,
        sum=told,
    )
    signed = contract.SignedRound(
        request=item.request_bytes.hex(),
        replies=tuple(one.header_bytes.hex() for one in answers),
        agreements=_headers(item.agreements if closing else {}),
        statement=statement.hex(),
        answers=_headers(closing.answers if closing else {}),
        receipts=_headers(closing.receipts if closing else {}),
    )
    return made, signed


def _replies(item: RoundRecord) -> list[ContributorRecord | AbsentRecord]:
    """Every submission that came, by site. Those of a closed round were not opened, and yet were
    paid for."""
    found: list[ContributorRecord | AbsentRecord] = [*item.contributors]
    if item.outcome == "closed":
        found += [one for one in item.absent if one.ending == "unused"]
    return sorted(found, key=lambda one: one.site)


def _contribution(
    one: ContributorRecord | AbsentRecord, reply: TrainReply, lifetime: dict[str, float]
) -> contract.Contribution:
    epsilon = reply.privacy.epsilon
    if not reply.private or epsilon is None or reply.noise != SystemNoise.name:
        raise Refused(
            f"Round {reply.round} of {one.site} was trained without private noise "
            f"({reply.noise}): epsilon is infinite.",
            reason="not-private",
            do="There is no override. Repeat the run with the noise of the operating system.",
        )
    if isinstance(one, ContributorRecord) and (
        (reply.body_digest, reply.weight) != (one.body_digest, one.weight)
    ):
        raise Refused(f"The record of {one.site} is not what it signed.", reason="lineage")
    lifetime[one.site] = max(epsilon, lifetime.get(one.site, 0.0))
    return contract.Contribution(
        site=one.site,
        declared_patients=reply.declared_patients,
        weight=reply.weight,
        noise=reply.noise,
        delta=reply.privacy.delta,
        body_digest=reply.body_digest,
        reply_digest=protocol.header_digest(one.header_bytes),
    )


def _verified_sum(
    asked: Asked,
    item: RoundRecord,
    replies: Mapping[str, TrainReply],
    closing: ClosingRecord,
    data: bytes,
    run: RunFolder,
    record: RunRecord,
) -> contract.RoundSum:
    """The sum of a round, if its hospitals have verified it, it still is what they verified, and
    the model after the round is made of it.

    Raises:
        Refused: reasons "unverified", "lineage" (another model).
        FedprintError: the record does not hang together.
    """
    submissions = {one.site: protocol.header_digest(one.header_bytes) for one in item.contributors}
    statement = sum_evidence.stated(asked, data, submissions)
    sum_evidence.agreed(asked, statement, _bytes_of(item.agreements), replies)
    receipts = _bytes_of(closing.receipts)
    try:
        answers = sum_evidence.answered(asked, statement, data, _bytes_of(closing.answers))
        total = unpack(run.summed(item.round), statement.modulus_bits, statement.padded)
        check_equation(statement, answers, total)
        _check_model(asked, statement, total, item, run, record)
        sum_evidence.received(asked, statement, data, receipts, item.model_out)
    except FedprintError as error:
        if isinstance(error, Refused) and error.reason == "lineage":
            raise
        raise Refused(
            f"The sum of round {item.round} is UNVERIFIED: {error.message}",
            reason="unverified",
            do=error.do or sum_evidence.START_AGAIN,
        ) from error
    return contract.RoundSum(
        transcript=asked.transcript_digest,
        survivors=statement.survivors,
        dropped=statement.dropped,
        sum_digest=statement.sum_digest,
        statement_digest=canonical.digest(data),
        parts=item.parts,
    )


def _check_model(
    asked: Asked,
    statement: Statement,
    total: Words,
    item: RoundRecord,
    run: RunFolder,
    record: RunRecord,
) -> None:
    """The model after the round is made of the model before and this sum, to the bit.

    Raises:
        Refused: reason "lineage".
        OurMistake: the model before is not there any more.
    """
    earlier = [one.round for one in record.rounds if one.outcome == "aggregated"]
    before = run.standing(record, max((n for n in earlier if n < item.round), default=0))
    survivors, trained = statement.survivors, record.trainable
    after = model_after(asked.request, asked.transcript, survivors, total, before, trained)
    if weights_io.digest(after) != item.model_out:
        raise Refused(
            f"The model after round {item.round} is not made of the sum that its hospitals "
            "verified.",
            reason="lineage",
            do="There is no override. Restore the run's folder from a backup, or begin a new run.",
        )


def _bytes_of(headers: Mapping[str, str]) -> dict[str, bytes]:
    return {site: from_base64(text) for site, text in headers.items()}


def _headers(headers: Mapping[str, str]) -> tuple[contract.SiteHeader, ...]:
    return tuple(
        contract.SiteHeader(site=site, header=data.hex())
        for site, data in sorted(_bytes_of(headers).items())
    )
