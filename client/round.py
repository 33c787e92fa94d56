"""The node's side of the protocol: `handle(home, header, body) -> (header, body)`, bytes both ways.

Of what kind a message is follows from the pinned run key's signature, which is checked before its
JSON is parsed; what has none is refused. Then, one message at a time:

    TrainRequest     `client.submit`: trip 1, the only one that reads recordings
    EpochRequest     a new epoch key, for a roster that this hospital's operator approved
    AgreeRequest, OpenRequest, CloseRequest, VerifyRequest    `client.sum_round`

A fault inside becomes a `Refusal` with one word; why, without identifiers, is in the node's own
`logs/rounds.log`. What goes wrong with a sum is marked there with "alarm": "secure-sum", and is an
incident in the ledger; what goes wrong with a ledger with "alarm": "ledger".

    header, body = handle(home, header, body)                       # deployed
    header, body = handle(home, header, body, pretend=PretendNode(...))   # simulations and tests
    header, body = answer(node, header, body)                       # a `Node` put together by hand
"""

from __future__ import annotations

import time
from contextlib import suppress

from client import egress, submit, sum_round
from client.home import NodeHome
from client.node_interfaces import Node, PretendNode
from client.round_log import why
from shared_model import protocol, protocol_open
from shared_model.errors import BudgetExhausted, DataFault, FedprintError, PeerFault, Refused
from shared_model.protocol import COORDINATOR, TrainRequest
from shared_model.protocol_base import RoundMessage, SignedMessage
from shared_model.protocol_sum import (
    REQUESTS,
    AgreeRequest,
    CloseRequest,
    EpochRequest,
    OpenRequest,
    VerifyRequest,
)
from shared_model.protocol_words import RefusalReason


def handle(
    home: NodeHome, header: bytes, body: bytes, *, pretend: PretendNode | None = None
) -> tuple[bytes, bytes]:
    """Answer one message of the coordinator: an answer of its kind or a refusal, signed.

    Raises:
        OurMistake: the node's own folder is not set up; nothing can be signed.
    """
    from client.node_parts import node_from_home

    return answer(node_from_home(home, pretend), header, body)


def answer(node: Node, header: bytes, body: bytes) -> tuple[bytes, bytes]:
    """As `handle`, with the node's parts given."""
    run, number, kind = UNKNOWN_RUN, 1, ""
    try:
        message = _opened(node, header)
        kind = message.kind
        if isinstance(message, RoundMessage):
            run, number = message.run, message.round
        with node.outbox.locked():
            if node.outbox.was_rolled_back():
                raise Refused(
                    "This node's folder was restored from a backup: it does not know all that it "
                    "has signed.",
                    reason="epoch",
                    do="Run: fedprint-node restored",
                )
            try:
                reply = _answered(node, message, header, body)
            except Refused as error:
                if error.reason in ALARMING and isinstance(message, RoundMessage):
                    with suppress(FedprintError):  # a ledger in doubt; the refusal stands
                        node.books.incident(run, number, error.reason)
                raise
        node.log({"run": run, "round": number, "kind": kind, "outcome": "replied"})
        return reply
    except Exception as error:
        reason = refusal_reason(error)
        entry = {"run": run, "round": number, "kind": kind, "outcome": "refused", "reason": reason}
        if reason in ALARMING:
            entry["alarm"] = "secure-sum"
        elif reason == "ledger":
            entry["alarm"] = "ledger"
        node.log({**entry, **why(error)})
        return egress.refusal(
            node.identity_key,
            site=node.site,
            run=run,
            round=number,
            request_digest=protocol.header_digest(header),
            reason=reason,
        )


LATEST_EPOCH_S = 366 * 86_400
"""Epochs are numbered by the coordinator's clock: how far ahead of this node's one may be."""

UNKNOWN_RUN = "unknown"
"""Stands for the run in a refusal of something that could not be read, or that has no run."""

ALARMING = {"secure-sum", "conflict"}
"""Reasons that an honest coordinator does not give cause for, short of a fault. They go into the
ledger; "ledger" does not, for nothing is appended to a ledger that is in doubt."""


def _opened(node: Node, header: bytes) -> SignedMessage:
    """The message, of whichever kind its signature says."""
    kinds: tuple[type[SignedMessage], ...] = (TrainRequest, *REQUESTS)
    for model in kinds:
        if protocol_open.is_signed(header, node.run_key, protocol.kind_of(model)):
            try:
                return protocol_open.open_signed(header, node.run_key, model, site=COORDINATOR)
            except PeerFault as error:
                raise Refused(error.message, reason="version", do=error.do) from error
    raise Refused("The message is not signed by the coordinator.", reason="signature")


def _answered(
    node: Node, message: SignedMessage, header: bytes, body: bytes
) -> tuple[bytes, bytes]:
    match message:
        case TrainRequest():
            return submit.submit(node, message, header, body)
        case EpochRequest():
            return _new_epoch(node, message, body)
        case AgreeRequest():
            return sum_round.agree(node, message, header, body)
        case OpenRequest():
            return sum_round.open_(node, message, protocol.header_digest(header), body)
        case CloseRequest():
            return sum_round.close(node, message, body)
        case VerifyRequest():
            return sum_round.verify(node, message, body)
    raise Refused("This version does not know this message.", reason="version")


def _new_epoch(node: Node, request: EpochRequest, body: bytes) -> tuple[bytes, bytes]:
    """A key of a new epoch; the same epoch again gets the same key.

    Raises:
        Refused: the roster is not approved or not the one of the request ("roster-approval",
            "roster", "threshold"), the run's plan is not ("run-approval"), the node rests
            ("not-ready"), or the epoch is not new ("epoch").
    """
    try:
        protocol_open.check_body(request.body_digest, body, site=COORDINATOR)
        roster = node.rosters.offer(body)
    except PeerFault as error:
        raise Refused(error.message, reason="roster") from error
    if roster.digest != request.roster_digest:
        raise Refused("The request names another roster than it carries.", reason="roster")
    node.approvals.check(request.plan)
    node.awake()
    if request.epoch > time.time() + LATEST_EPOCH_S:
        raise Refused(
            "The epoch's number is far in the future; no later one could follow it.",
            reason="epoch",
            do="Compare the clocks of this machine and of the coordinator.",
        )
    public_key = node.epochs.renew(request.epoch, roster.digest, node.entropy)
    return egress.epoch_key(node.identity_key, request, site=node.site, public_key=public_key)


def refusal_reason(error: Exception) -> RefusalReason:
    """The word that may leave. Anything unforeseen is "internal"."""
    if isinstance(error, BudgetExhausted):
        return "budget"
    if isinstance(error, DataFault):
        return "not-ready"
    if isinstance(error, Refused) and error.reason in REASONS:
        reason: RefusalReason = REASONS[error.reason]
        return reason
    return "internal"


REASONS: dict[str, RefusalReason] = {
    "signature": "signature",
    "version": "version",
    "roster": "roster",
    "contributors": "contributors",
    "secure-sum": "secure-sum",
    "threshold": "threshold",
    "roster-approval": "roster-approval",
    "run-approval": "run-approval",
    "ledger": "ledger",
    "epoch": "epoch",
    "late": "late",
    "policy": "policy",
    "model": "model",
    "budget": "budget",
    "conflict": "conflict",
    "interrupted": "interrupted",
    "not-ready": "not-ready",
    "replay": "conflict",  # the ledger has the round, the outbox has not
    "delta": "policy",
}
"""Reasons that a `Refused` may carry to the coordinator."""
