"""One round at the node: `handle(home, header, body) -> (header, body)`, bytes in, bytes out.

What happens, in this order; each step refuses before the next one begins:

1. the header is signed by the pinned run key and is a legal request of this version;
2. policy: this site is asked, enough participants and a high enough minimum, insecure aggregation
   allowed, plan within the policy's limits, model and weights known. No data has been touched;
3. outbox: the same request again gets the stored reply, byte for byte; another request for the
   same round, or an older round, is refused;
4. the request is claimed on disk, the spend is reserved on disk (or the budget refuses);
5. recordings are read, the private training runs;
6. the reply is stored on disk, the spend is settled with the update's digest, the reply leaves.

Killed after 4: the spend stays booked and the request is never begun again ("interrupted").
Killed after 6: the stored reply is sent again. A fault inside becomes `Refusal("internal")`; why,
without identifiers, is in the node's own `logs/rounds.log`.

    header, body = handle(home, header, body)                       # deployed
    header, body = handle(home, header, body, pretend=PretendNode(...))   # simulations and tests
    header, body = answer(node, header, body)                       # a `Node` put together by hand
"""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client import egress
from client.home import NodeHome
from client.outbox import Outbox
from shared_model import protocol
from shared_model import weights as weights_io
from shared_model.config import MINIMUM_CONTRIBUTORS
from shared_model.errors import (
    BudgetExhausted,
    DataFault,
    FedprintError,
    OurMistake,
    PeerFault,
    Refused,
)
from shared_model.protocol import PrivacyStatement, RefusalReason, TrainRequest
from shared_model.weights import Weights

if TYPE_CHECKING:
    from client.training import PatientBatches
    from shared_model.noise import NoiseSource


class Books(Protocol):
    """Where a node books what it spends; `client.node_parts.HospitalBooks` in a deployed node."""

    def reserve(self, request: TrainRequest, noise: NoiseSource) -> PrivacyStatement:
        """Book the round, durably, before data is read; what is then spent for life.

        Raises:
            Refused: the budget would be crossed, or the round is booked already.
        """

    def settle(self, run: str, round: int, update_digest: str) -> None:
        """Complete the entry with the digest of the update that leaves; again changes nothing."""


class Policy(Protocol):
    """What the hospital allows, asked before anything is read."""

    def __call__(self, request: TrainRequest) -> None:
        """Raises Refused: "roster", "contributors", "insecure-aggregation", "policy"."""


class Trainer(Protocol):
    """Private training of one round: received weights in, update of the trainable names out."""

    def __call__(
        self,
        request: TrainRequest,
        weights: Weights,
        data: PatientBatches,
        noise: NoiseSource,
        declared_patients: int,
    ) -> Weights: ...


@dataclass(frozen=True)
class Node:
    """Everything that answering takes. `from_home` makes the deployed one.

    ready: raises Refused("not-ready") if the operator has set up no store; it reads nothing in it.
    data: called only after the spend is booked, once for each round.
    """

    site: str
    declared_patients: int
    identity_key: Ed25519PrivateKey = field(repr=False)
    run_key: bytes = field(repr=False)
    policy: Policy
    books: Books
    outbox: Outbox
    ready: Callable[[], None]
    data: Callable[[], PatientBatches]
    noise: Callable[[TrainRequest], NoiseSource]
    check_model: Callable[[TrainRequest, bytes], Weights]
    train: Trainer
    log: Callable[[dict[str, object]], None]


@dataclass(frozen=True)
class PretendNode:
    """What a simulated hospital has instead of its own: patients, noise that may repeat itself.

    Reachable from `simulations` and `tests` only (a test checks the imports). Replies made with
    noise that is not private say so and promise no epsilon; a release refuses them, and the
    hospital's budget does too unless `unlimited_budget` (needed with `NonPrivateForTests`).
    noise: called with (request, site).
    """

    data: PatientBatches | None = None
    noise: Callable[[TrainRequest, str], NoiseSource] | None = None
    unlimited_budget: bool = False


def handle(
    home: NodeHome, header: bytes, body: bytes, *, pretend: PretendNode | None = None
) -> tuple[bytes, bytes]:
    """Answer one request of the coordinator: a reply or a refusal, signed.

    Raises:
        OurMistake: the node's own folder is not set up; nothing can be signed.
    """
    from client.node_parts import node_from_home

    return answer(node_from_home(home, pretend), header, body)


def answer(node: Node, header: bytes, body: bytes) -> tuple[bytes, bytes]:
    """As `handle`, with the node's parts given."""
    request_digest = protocol.header_digest(header)
    run, number = UNKNOWN_RUN, 1
    try:
        request = _opened(node, header)
        run, number = request.run, request.round
        check_addressed(request, node.site, node.declared_patients)
        node.policy(request)
        weights = _checked_weights(node, request, body)
        with node.outbox.locked():
            stored = node.outbox.answered(run, number, request_digest)
            if stored is None:
                node.ready()
                stored = _trained(node, request, request_digest, weights)
            node.books.settle(run, number, str(protocol.readable(stored[0])["update_digest"]))
        node.log({"run": run, "round": number, "outcome": "replied"})
        return stored
    except Exception as error:
        reason = refusal_reason(error)
        node.log(
            {"run": run, "round": number, "outcome": "refused", "reason": reason, **why(error)}
        )
        return egress.refusal(
            node.identity_key,
            site=node.site,
            run=run,
            round=number,
            request_digest=request_digest,
            reason=reason,
        )


UNKNOWN_RUN = "unknown"
"""Stands for the run in a refusal of something that could not be read."""


def _opened(node: Node, header: bytes) -> TrainRequest:
    try:
        return protocol.open_train_request(header, node.run_key)
    except PeerFault as error:
        signed = protocol.is_signed(header, node.run_key, "train-request")
        raise Refused(error.message, reason="version" if signed else "signature") from error


def check_addressed(request: TrainRequest, site: str, declared_patients: int) -> None:
    """The request is for this site, as it is enrolled, and asks for what this version can do.

    Raises:
        Refused: reasons "roster", "contributors", "version".
    """
    own = [item for item in request.participants if item.site == site]
    if not own:
        raise Refused("The request does not name this site.", reason="roster")
    if own[0].declared_patients != declared_patients:
        raise Refused(
            "The request names another declared number of patients for this site.",
            reason="roster",
            do="Compare node.toml with the card that the coordinator enrolled.",
        )
    if min(request.minimum_contributors, len(request.participants)) < MINIMUM_CONTRIBUTORS:
        raise Refused("No aggregate has so few contributors.", reason="contributors")
    if not request.insecure_aggregation:
        raise Refused("This version has no secure sum.", reason="version")


def _checked_weights(node: Node, request: TrainRequest, body: bytes) -> Weights:
    try:
        protocol.check_body(request.body_digest, body, site=protocol.COORDINATOR)
        weights = node.check_model(request, body)
    except (PeerFault, Refused, OurMistake) as error:
        raise Refused(error.message, reason="model") from error
    if weights_io.digest(weights) != request.model_digest:
        raise Refused("The weights are not the ones that the request names.", reason="model")
    return weights


def _trained(
    node: Node, request: TrainRequest, request_digest: str, weights: Weights
) -> tuple[bytes, bytes]:
    noise = node.noise(request)
    node.outbox.begin(request.run, request.round, request_digest)
    try:
        privacy = node.books.reserve(request, noise)
    except Refused:
        node.outbox.take_back(request.run, request.round)
        raise
    data = node.data()
    update = node.train(request, weights, data, noise, node.declared_patients)
    header, body = egress.train_reply(
        node.identity_key,
        request,
        request_digest,
        site=node.site,
        declared_patients=node.declared_patients,
        update=update,
        noise=noise.name,
        private=noise.private,
        privacy=privacy,
    )
    node.outbox.store(request.run, request.round, header, body)
    return header, body


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
    "insecure-aggregation": "insecure-aggregation",
    "policy": "policy",
    "model": "model",
    "budget": "budget",
    "conflict": "conflict",
    "interrupted": "interrupted",
    "not-ready": "not-ready",
    "replay": "conflict",  # the spend table has the round, the outbox has not
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
    """Append JSON lines to the node's own log."""

    def write(entry: dict[str, object]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        with path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"time": stamp, **entry}, sort_keys=True) + "\n")

    return write
