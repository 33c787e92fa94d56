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

import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client import egress, submit, sum_round
from client.epochs import EpochKeys
from client.home import NodeHome
from client.outbox import Outbox
from shared_model import protocol
from shared_model.errors import BudgetExhausted, DataFault, FedprintError, PeerFault, Refused
from shared_model.files import append_line
from shared_model.ledger import LedgerHead
from shared_model.protocol import (
    COORDINATOR,
    LedgerNote,
    PrivacyStatement,
    RefusalReason,
    RoundMessage,
    RunPlan,
    SignedMessage,
    TrainRequest,
)
from shared_model.protocol_sum import (
    REQUESTS,
    AgreeRequest,
    CloseRequest,
    EpochRequest,
    OpenRequest,
    VerifyRequest,
)
from shared_model.roster import Roster
from shared_model.weights import Weights

if TYPE_CHECKING:
    from client.steps import StepKeeper
    from client.training import PatientBatches
    from shared_model.noise import NoiseSource
    from shared_model.secure_sum.transcript import Transcript


class Books(Protocol):
    """This hospital's privacy ledger; `client.node_parts.HospitalBooks` in a deployed node."""

    def check_own(self, head: LedgerHead | None) -> None:
        """The ledger contains this head, which the coordinator says this site has signed.

        Raises:
            Refused: it does not ("ledger"): it is an older copy, or another ledger; or more entries
                follow than a `LedgerNote` has room for.
        """

    def reserve(
        self,
        request: TrainRequest,
        noise: NoiseSource,
        *,
        request_digest: str,
        roster: Roster,
        transcript: Transcript,
    ) -> PrivacyStatement:
        """Write `booked`, durably, before data is read; what is then spent for life.

        The very same again (request, plan, code, roster, noise) changes nothing and costs nothing:
        what was booked is gone on with.

        Raises:
            Refused: the budget would be crossed; the round is booked for another request
                ("replay"), or for this one under other circumstances ("interrupted").
        """

    def booked(self, run: str, round: int) -> bool:
        """Whether the round is booked."""

    def answer(self, run: str, round: int) -> str | None:
        """Digest of the body that `settle` wrote for this round; None before."""

    def settle(self, run: str, round: int, body_digest: str) -> None:
        """Write `answered` with the digest of the body that leaves; again changes nothing."""

    def note(self, since: int) -> LedgerNote:
        """The signed head, and the entries beyond this length."""

    def incident(self, run: str, round: int, reason: str) -> None:
        """Write `incident`, at most once for these three; never raises for a full table."""


class Witness(Protocol):
    """The heads of the other hospitals' ledgers, as this hospital keeps them."""

    def see(
        self,
        heads: Mapping[str, LedgerHead],
        links: Mapping[str, Sequence[str]],
        identity_keys: Mapping[str, bytes],
    ) -> None:
        """Keep these heads, durably; all or none. The first head of a site is taken as it is.

        Raises:
            Refused: names the site; its head is not signed by it, shorter than the one held here,
                another at the same length, or the links do not lead to it ("ledger").
        """

    def countersigned(
        self, run: str, round: int, agree_request: bytes, agreements: Mapping[str, bytes]
    ) -> None:
        """Keep the headers of a round that prove who has countersigned the heads that it names."""


class Approvals(Protocol):
    """Which runs this hospital's operator, or its policy in advance, said yes to."""

    def check(self, plan: RunPlan, *, booked: bool = False) -> None:
        """Return if this very plan is approved, for one more round at least.

        Args:
            booked: the round is booked already: no further one has to be approved.

        Raises:
            Refused: against the policy ("policy", "contributors"), it cannot be afforded
                ("budget"), or it waits for the operator ("run-approval").
        """


class Rosters(Protocol):
    """The consortium as this hospital's operator approved it."""

    def approved(self) -> Roster:
        """The approved roster, held anew against the policy and today's date.

        Raises:
            Refused: none yet ("roster-approval"), or it fails now ("roster", "threshold").
        """

    def offer(self, data: bytes) -> Roster:
        """What the coordinator sends, once it is approved.

        Raises:
            PeerFault: not signed by the root.
            Refused: it waits for the operator ("roster-approval"), or is refused ("roster",
                "threshold").
        """


class Policy(Protocol):
    """What the hospital allows, asked before anything is read."""

    def __call__(self, request: TrainRequest) -> None:
        """Raises Refused: "roster", "contributors", "policy"."""


class Trainer(Protocol):
    """Private training of one round: received weights in, update of the trainable names out.

    In mode distributed what comes out is minus the clipped sum, float64, and not private yet.
    steps: where private states are kept, and the one to go on from.
    """

    def __call__(
        self,
        request: TrainRequest,
        weights: Weights,
        data: PatientBatches,
        noise: NoiseSource,
        declared_patients: int,
        steps: StepKeeper,
    ) -> Weights: ...


@dataclass(frozen=True)
class Node:
    """Everything that answering takes. `from_home` makes the deployed one.

    ready: raises Refused("not-ready") if the operator has set up no store; it reads nothing in it.
    able: raises Refused("not-ready") if this machine cannot train such a round.
    data: called only after the spend is booked, once for each round.
    minimum_contributors: fewest survivors in a sum that this hospital agrees to.
    dimension: number of parameters that the request trains.
    awake: raises Refused("not-ready") if the node rests; see `client.rest`.
    allow_unmasked: simulations only; see `PretendNode`.
    """

    site: str
    declared_patients: int
    identity_key: Ed25519PrivateKey = field(repr=False)
    run_key: bytes = field(repr=False)
    policy: Policy
    minimum_contributors: int
    rosters: Rosters
    epochs: EpochKeys
    books: Books
    witness: Witness
    approvals: Approvals
    outbox: Outbox
    ready: Callable[[], None]
    data: Callable[[], PatientBatches]
    noise: Callable[[TrainRequest], NoiseSource]
    check_model: Callable[[TrainRequest, bytes], Weights]
    dimension: Callable[[TrainRequest, Weights], int]
    train: Trainer
    log: Callable[[dict[str, object]], None]
    entropy: Callable[[int], bytes] = os.urandom
    allow_unmasked: bool = False
    awake: Callable[[], None] = lambda: None
    able: Callable[[TrainRequest], None] = lambda request: None


@dataclass(frozen=True)
class PretendNode:
    """What a simulated hospital has instead of its own: patients, noise that may repeat itself.

    Reachable from `simulations` and `tests` only (a test checks the imports). Replies made with
    noise that is not private say so and promise no epsilon; a release refuses them, and the
    hospital's budget does too unless `unlimited_budget` (needed with `NonPrivateForTests`).
    noise: called with (request, site). allow_unmasked: take part in rounds whose masks are off
    (`UnmaskedForSimulation`), in which the coordinator sees every update; the sum is the same.
    """

    data: PatientBatches | None = None
    noise: Callable[[TrainRequest, str], NoiseSource] | None = None
    unlimited_budget: bool = False
    allow_unmasked: bool = False


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
        if protocol.is_signed(header, node.run_key, protocol.kind_of(model)):
            try:
                return protocol.open_signed(header, node.run_key, model, site=COORDINATOR)
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
        protocol.check_body(request.body_digest, body, site=COORDINATOR)
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


def why(error: Exception) -> dict[str, object]:
    """What the node's own log keeps of a fault: our own texts, which never name a patient; of
    foreign errors only their type and where they arose, because their texts might."""
    frames = [
        f"{Path(frame.filename).name}:{frame.lineno} {frame.name}"
        for frame in traceback.extract_tb(error.__traceback__)[-4:]
    ]
    text = str(error) if isinstance(error, FedprintError) else ""
    return {"error": type(error).__name__, "message": text, "where": frames}


def log_to(path: Path) -> Callable[[dict[str, object]], None]:
    """Append JSON lines to the node's own log.

    A line that the disk does not take is told on standard error: it keeps no answer back.
    """

    def write(entry: dict[str, object]) -> None:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        line = json.dumps({"time": stamp, **entry}, sort_keys=True).encode() + b"\n"
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            append_line(path, line)
        except OSError as error:
            sys.stderr.write(f"{path.name} could not be written: {error.strerror}\n")

    return write
