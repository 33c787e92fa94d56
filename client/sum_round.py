"""Trips 2 and 3 and the closing exchange at the node. Called under the outbox's lock.

    agree     sign **one** set of survivors per (run, round), and the heads of their ledgers, which
              this node keeps; all stored before it leaves
    open_     shares and pair seeds for that set, if t members have signed it on the same transcript
    close     the subset sums of the submitted vector, if the statement is true about this site
    verify    a receipt, if the published sum is the sum of what the survivors say they submitted

Each refuses what does not fit the round that this node has stored when it submitted; what a
coordinator says about the round now counts for nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from client import egress
from client.planned_round import SumRound
from shared_model import canonical, protocol, protocol_open, signing
from shared_model import weights as weights_io
from shared_model.errors import FedprintError, OurMistake, PeerFault, Refused
from shared_model.ledger_links import read_links_body
from shared_model.protocol import COORDINATOR, TrainReply
from shared_model.protocol_base import RoundMessage
from shared_model.protocol_open import open_signed
from shared_model.protocol_sum import (
    Agreement,
    AgreeRequest,
    CloseReply,
    CloseRequest,
    OpenRequest,
    Statement,
    VerifyRequest,
    agreed_digest,
)
from shared_model.secure_sum.numbers import unpack
from shared_model.secure_sum.opening import open_rows
from shared_model.secure_sum.primitives import Words
from shared_model.secure_sum.submission import Submission
from shared_model.secure_sum.verification import (
    challenge,
    check_equation,
    check_own,
    read_statement,
    subset_sums,
)
from shared_model.server_step import model_after
from shared_model.verify_body import read_verify_body

if TYPE_CHECKING:
    from client.node_interfaces import Node

_DAMAGED = "The model of a round that waits for its sum is damaged in this node's outbox."
_LEFT_OUT = "Check the disk. The other hospitals verify the sum; this one signs no receipt for it."


@dataclass(frozen=True)
class OwnRound:
    """A round in which this node submitted, as it has stored it. header: of its submission."""

    sum_round: SumRound
    header: bytes

    @property
    def header_digest(self) -> str:
        return protocol.header_digest(self.header)

    def reply(self, node: Node) -> TrainReply:
        """What this node submitted."""
        own_key = signing.public_bytes(node.identity_key)
        return open_signed(self.header, own_key, TrainReply, site=node.site)


def agree(node: Node, request: AgreeRequest, asked: bytes, body: bytes) -> tuple[bytes, bytes]:
    """Sign the survivors and the heads of their ledgers; the same again gets the same bytes.

    Args:
        asked: header of the request. body: the links that lead to its heads.

    Raises:
        Refused: another set was signed ("conflict"), a later round was begun ("late"), the epoch's
            key is gone ("epoch"), too few survivors ("contributors", "threshold"), not this
            round as it is stored here ("secure-sum"), or a ledger is not the one that was seen
            before ("ledger").
    """
    own = _own_round(node, request, request.transcript)
    transcript = own.sum_round.transcript
    survivors = request.survivors
    stored = _agreement(node, request)
    if stored is not None:
        if stored[1].agreed != agreed_digest(survivors, request.submissions, request.heads):
            raise Refused(
                "This node has signed another set of survivors, or other ledgers, of this round.",
                reason="conflict",
                do="A coordinator that asks for two is wrong or hostile: call its operator.",
            )
        return stored[0], b""
    if node.outbox.later_begun(request.run, request.round):
        raise Refused("A later round of this run was begun.", reason="late")
    if node.site not in survivors or not set(survivors) <= set(transcript.participants):
        raise Refused("The survivors are not participants, or not this site.", reason="secure-sum")
    if request.submissions[survivors.index(node.site)] != own.header_digest:
        raise Refused("The request names another submission of this site.", reason="secure-sum")
    if len(survivors) < transcript.threshold:
        raise Refused(
            f"{len(survivors)} survivors are fewer than the threshold.", reason="threshold"
        )
    wanted = max(own.sum_round.request.minimum_contributors, node.minimum_contributors)
    if len(survivors) < wanted:
        raise Refused(
            f"{len(survivors)} survivors; this hospital is in sums of at least {wanted}.",
            reason="contributors",
        )
    own.sum_round.member(node)
    _see_ledgers(node, own, request, body)
    header, empty = egress.agreement(node.identity_key, request, site=node.site)
    node.outbox.keep_agreement(request.run, request.round, asked, header)
    return header, empty


def _see_ledgers(node: Node, own: OwnRound, request: AgreeRequest, body: bytes) -> None:
    """Keep the heads of the other survivors' ledgers; this agreement then countersigns them.

    Raises:
        Refused: this site's head is not the one that it sent, or another's does not continue the
            ledger that this node has seen ("ledger").
    """
    heads = dict(zip(request.survivors, request.heads, strict=True))
    if heads.pop(node.site) != own.reply(node).ledger.plain:
        raise Refused("The request names another head of this site's ledger.", reason="ledger")
    try:
        protocol_open.check_body(request.body_digest, body, site=COORDINATOR)
    except PeerFault as error:
        raise Refused(error.message, reason="ledger") from error
    links = read_links_body(body)
    others = {site: found for site, found in links.items() if site in heads}
    node.witness.see(heads, others, own.sum_round.identity_keys)


def open_(
    node: Node, request: OpenRequest, request_digest: str, body: bytes
) -> tuple[bytes, bytes]:
    """Open what strips the masks of the one set of survivors that this node has signed.

    Raises:
        Refused: not that set, or other sealed rows than before ("conflict"), fewer than t true
            agreements ("secure-sum"), or the epoch's key is gone ("epoch").
    """
    own = _own_round(node, request, request.transcript)
    stored = _agreement(node, request)
    if stored is None:
        raise Refused("This node has signed no survivors of this round.", reason="secure-sum")
    asked = _asked(node, request)
    agreed = agreed_digest(request.survivors, request.submissions, asked[1].heads)
    if stored[1].agreed != agreed:
        raise Refused(
            "This node has signed another set of survivors of this round.", reason="conflict"
        )
    for site, header in zip(request.signers, request.agreements, strict=True):
        _check_agreement(own, site, bytes.fromhex(header), agreed)
    if len(request.signers) < own.sum_round.transcript.threshold:
        raise Refused(
            f"{len(request.signers)} agreements are fewer than the threshold.", reason="secure-sum"
        )
    agreements = map(bytes.fromhex, request.agreements)
    node.witness.countersigned(
        request.run,
        request.round,
        asked[0],
        dict(zip(request.signers, agreements, strict=True)),
    )
    member = own.sum_round.member(node)
    try:
        protocol_open.check_body(request.body_digest, body, site=COORDINATOR)
        opened = open_rows(
            member, own.sum_round.transcript, request.survivors, request.missing, body
        )
    except (PeerFault, OurMistake) as error:
        raise Refused(error.message, reason="secure-sum") from error
    node.outbox.open_only(request.run, request.round, request.body_digest)
    if opened.unreadable or opened.accused:
        node.log(
            {
                "run": request.run,
                "round": request.round,
                "alarm": "secure-sum",
                "outcome": "rows not opened",
                "unreadable": list(opened.unreadable),
                "accused": list(opened.accused),
            }
        )
    return egress.shares_reply(
        node.identity_key, request, request_digest, site=node.site, opened=opened
    )


def close(node: Node, request: CloseRequest, body: bytes) -> tuple[bytes, bytes]:
    """Answer the challenge that follows from a statement which is true about this site.

    A survivor that has signed no set (it did not hear of trip 2) answers as well: its answer
    follows from bytes that the coordinator has.

    Raises:
        Refused: the statement is wrong ("secure-sum"), the submission was removed ("late").
    """
    own = _own_round(node, request, request.transcript)
    statement, submission = _checked_statement(node, own, request, body)
    transcript = own.sum_round.transcript
    asked = challenge(
        transcript.digest, bytes.fromhex(request.statement_digest), transcript.numbers.padded
    )
    vector = unpack(submission.packed, statement.modulus_bits, statement.padded)
    sums = subset_sums(asked, vector, statement.modulus_bits)
    return egress.close_reply(node.identity_key, request, site=node.site, sums=sums)


def verify(node: Node, request: VerifyRequest, body: bytes) -> tuple[bytes, bytes]:
    """Check the published sum against all survivors' answers; a receipt if it is right.

    The receipt names the model that the sum makes, computed here: from the model that this node
    was sent in trip 1, what it trained of it, and the server step of the signed request. So a
    coordinator cannot go on with, or release, another one.

    Raises:
        Refused: it is not, or an answer is missing or not signed ("secure-sum"); another sum was
            found right before ("conflict"); the submission was removed ("late").
    """
    own = _own_round(node, request, request.transcript)
    earlier = node.outbox.signed(request.run, request.round, "receipt")
    if earlier is not None:
        if protocol_open.readable(earlier)["statement_digest"] != request.statement_digest:
            raise Refused("Another sum of this round was found right.", reason="conflict")
        return earlier, b""
    try:
        protocol_open.check_body(request.body_digest, body, site=COORDINATOR)
        statement_bytes, packed, headers = read_verify_body(body)
        statement, _ = _checked_statement(node, own, request, statement_bytes)
        answers = _answers(own, request, statement, headers)
        total = _unpacked(packed, statement)
        check_equation(statement, answers, total)
    except PeerFault as error:
        raise Refused(error.message, reason="secure-sum") from error
    model_out = _model_out(node, own, statement, total)
    header, empty = egress.sum_receipt(
        node.identity_key, request, site=node.site, model_out=model_out
    )
    node.outbox.keep_signed(request.run, request.round, "receipt", header)
    return header, empty


def _own_round(node: Node, message: RoundMessage, transcript: str) -> OwnRound:
    """The stored round, if the message is about it.

    Raises:
        Refused: nothing was submitted, or on another transcript ("secure-sum").
    """
    stored, header = node.outbox.submitted(message.run, message.round)
    sum_round = SumRound.from_bytes(stored, node.run_key)
    if sum_round.transcript.digest.hex() != transcript:
        raise Refused(
            "The message is about another transcript of this round.",
            reason="secure-sum",
            do="Sites that were told different things make no sum; the round has to be closed.",
        )
    return OwnRound(sum_round, header)


def _agreement(node: Node, message: RoundMessage) -> tuple[bytes, Agreement] | None:
    """What this node has signed about the survivors of the round."""
    header = node.outbox.signed(message.run, message.round, "agreement")
    if header is None:
        return None
    own_key = signing.public_bytes(node.identity_key)
    return header, open_signed(header, own_key, Agreement, site=node.site)


def _asked(node: Node, message: RoundMessage) -> tuple[bytes, AgreeRequest]:
    """The request whose survivors and heads this node has signed."""
    header = node.outbox.signed(message.run, message.round, "asked")
    if header is None:
        raise OurMistake("The request of a signed agreement is not stored.")
    return header, open_signed(header, node.run_key, AgreeRequest, site=COORDINATOR)


def _check_agreement(own: OwnRound, site: str, header: bytes, agreed: str) -> None:
    """One site's agreement to the same survivors, on this node's transcript.

    Raises:
        Refused: reason "secure-sum"; names the site.
    """
    transcript = own.sum_round.transcript
    try:
        found = open_signed(header, own.sum_round.identity_keys[site], Agreement, site=site)
    except (PeerFault, KeyError) as error:
        raise Refused(f"{site} has not signed its agreement.", reason="secure-sum") from error
    wanted = (site, transcript.run, transcript.round, transcript.digest.hex(), agreed)
    if (found.site, found.run, found.round, found.transcript, found.agreed) != wanted:
        raise Refused(f"{site} has agreed to something else.", reason="secure-sum")


def _checked_statement(
    node: Node, own: OwnRound, request: CloseRequest | VerifyRequest, data: bytes
) -> tuple[Statement, Submission]:
    """The statement, found true about this site, and what this site submitted."""
    if canonical.digest(data) != request.statement_digest:
        raise Refused("The statement is not the one that the request names.", reason="secure-sum")
    body = node.outbox.body(request.run, request.round)
    submission = Submission.parse(body, own.sum_round.transcript, node.site)
    try:
        statement = read_statement(data)
    except PeerFault as error:
        raise Refused(error.message, reason="secure-sum") from error
    signed = _agreement(node, request)
    if signed is not None:
        heads = _asked(node, request)[1].heads
        found = agreed_digest(statement.survivors, statement.submissions, heads)
        if found != signed[1].agreed:
            raise Refused(
                "The statement names other survivors or submissions than this site has signed.",
                reason="secure-sum",
            )
    check_own(statement, submission, own.header_digest, statement.survivors)
    return statement, submission


def _answers(
    own: OwnRound, request: VerifyRequest, statement: Statement, headers: tuple[bytes, ...]
) -> Mapping[str, tuple[int, ...]]:
    """Subset sums of every survivor, signatures checked.

    Raises:
        PeerFault: an answer that its site did not sign, or that is about something else.
        Refused: another number of answers than survivors.
    """
    if len(headers) != len(statement.survivors):
        raise Refused("Answers of survivors are missing.", reason="secure-sum")
    found: dict[str, tuple[int, ...]] = {}
    for site, header in zip(statement.survivors, headers, strict=True):
        answer = open_signed(header, own.sum_round.identity_keys[site], CloseReply, site=site)
        about = (answer.site, answer.run, answer.round, answer.transcript, answer.statement_digest)
        wanted = (site, request.run, request.round, request.transcript, request.statement_digest)
        if about != wanted:
            raise PeerFault(f"The answer of {site} is to another challenge.", site=site)
        found[site] = answer.sums
    return found


def _model_out(node: Node, own: OwnRound, statement: Statement, total: Words) -> str:
    """Digest of the model after the round.

    Raises:
        Refused: the model of trip 1 was removed ("late").
        OurMistake: it is not the one that was trained: this node's own folder is damaged, and it
            signs nothing.
    """
    sum_round = own.sum_round
    request = sum_round.request
    kept = node.outbox.trained(request.run, request.round)
    try:
        before = weights_io.from_bytes(kept.model)
    except Refused as error:
        raise OurMistake(_DAMAGED, do=_LEFT_OUT) from error
    if weights_io.digest(before) != request.model_digest:
        raise OurMistake(_DAMAGED, do=_LEFT_OUT)
    after = model_after(
        request, sum_round.transcript, statement.survivors, total, before, kept.names
    )
    return weights_io.digest(after)


def _unpacked(packed: bytes, statement: Statement) -> Words:
    try:
        return unpack(packed, statement.modulus_bits, statement.padded)
    except FedprintError as error:
        raise Refused("The published sum has a wrong length.", reason="secure-sum") from error
