"""Trip 1 of a round at the node: check everything, train, mask, store, leave.

What happens, in this order; each step refuses before the next one begins:

1. the request is for this site as enrolled and for the roster that its operator approved: its
   participants, their declared numbers, the threshold, weights and modulus are the ones that this
   node computes, every epoch key is signed by its site, the own one is here;
2. policy, then model and weights. No data has been touched;
3. outbox: the same request again gets the stored reply, byte for byte; another request for the
   same round, or an older round, is refused;
4. the operator has approved the run's plan; the ledger is beyond the head of it that the request
   shows, so that it is no older copy;
5. the request is claimed on disk, the round is booked in the ledger (or the budget refuses);
6. recordings are read, the private training runs, and the state after each step is kept on disk;
   the update is quantised and masked, once; the body is on disk before
7. its digest is entered in the ledger as the answer; the reply, with the ledger's new head and
   entries, is stored on disk and leaves.

Killed anywhere in 5 to 7: the same request that comes again is taken up where it stood: it is
booked once, a step whose state is not on disk is taken again with a fresh sample and fresh noise,
and of two bodies one at most is ever prepared, answered for and sent. Training that failed without
a kill is never taken up ("interrupted"). Killed after 7: the stored reply is sent again.
docs/adr/0018-resume-in-mid-round.md says why no attacker gets two results of one booking.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from client import egress
from client.integers import integers
from client.outbox import Trained
from client.planned_round import SumRound, check_addressed, planned
from client.steps import OutboxSteps
from shared_model import canonical, protocol, protocol_open
from shared_model import weights as weights_io
from shared_model.errors import FedprintError, OurMistake, PeerFault, Refused
from shared_model.protocol import TrainRequest
from shared_model.roster import Roster
from shared_model.secure_sum.keys import Member
from shared_model.secure_sum.primitives import Words
from shared_model.secure_sum.submission import seal_submission, unmasked_submission
from shared_model.secure_sum.transcript import Transcript
from shared_model.weights import Weights

if TYPE_CHECKING:
    from client.node_interfaces import Node
    from shared_model.noise import NoiseSource


def submit(node: Node, request: TrainRequest, header: bytes, body: bytes) -> tuple[bytes, bytes]:
    """The reply to a `TrainRequest`; called under the outbox's lock.

    Raises:
        Refused: see the module.
    """
    check_addressed(request, node.site, node.declared_patients)
    sum_round, member, roster = planned(node, request, header)
    node.policy(request)
    weights = _checked_weights(node, request, body)
    request_digest = protocol.header_digest(header)
    run, number = request.run, request.round
    stored = node.outbox.answered(run, number, request_digest)
    if stored is not None:
        node.books.settle(run, number, str(protocol_open.readable(stored[0])["body_digest"]))
        return stored
    node.approvals.check(request.plan, booked=node.books.booked(run, number))
    node.books.check_own(request.known_head(node.site))
    node.ready()
    node.able(request, weights)
    return _trained(node, sum_round, member, roster, request_digest, weights, body)


def _checked_weights(node: Node, request: TrainRequest, body: bytes) -> Weights:
    """The model to train from, without the server step's state: only `verify` looks at that.

    A run's rounds are counted from 1, whatever it began from and however often it was taken up, so
    that no state can stand before its first. Later ones, of which this node may have missed some,
    are for release and audit to judge.

    Raises:
        Refused: reason "model". Another number of parameters, too: software of another version may
            train another part of the model, which is no attack on the sum.
    """
    try:
        protocol_open.check_body(request.body_digest, body, site=protocol.COORDINATOR)
        weights = node.check_model(request, body)
    except (PeerFault, Refused, OurMistake) as error:
        raise Refused(error.message, reason="model", do=error.do) from error
    if weights_io.digest(weights) != request.model_digest:
        raise Refused("The weights are not the ones that the request names.", reason="model")
    weights, state = weights_io.parts(weights)
    if state and request.round == 1:
        raise Refused(
            "The first round of a run begins with a model alone, and this one has a state of the "
            "server step with it.",
            reason="model",
            do="Nobody knows where it is from: ask the coordinator's operator.",
        )
    if node.dimension(request, weights) != request.sum.dimension:
        raise Refused(
            "The request names another number of parameters than this node would train.",
            reason="model",
            do="Compare versions with the coordinator's operator: fedprint-node --version",
        )
    return weights


def _trained(
    node: Node,
    sum_round: SumRound,
    member: Member | None,
    roster: Roster,
    request_digest: str,
    weights: Weights,
    model: bytes,
) -> tuple[bytes, bytes]:
    request, transcript = sum_round.request, sum_round.transcript
    noise = node.noise(request)
    if request.privacy.mode == "distributed" and member is None and noise.private:
        raise Refused(
            "Mode distributed adds a share of the noise only, which is private under the secure "
            "sum alone.",
            reason="secure-sum",
        )
    run, number = request.run, request.round
    begun = node.outbox.begun(run, number)
    if begun:
        times = node.outbox.take_up(run, number)
        node.log({"run": run, "round": number, "outcome": "taken up", "times": times})
    elif node.books.booked(run, number):
        raise Refused(
            "This round is booked, and the outbox does not know of it: it is an older copy.",
            reason="replay",
        )
    else:
        later = b"" if member is None else sum_round.to_bytes()
        node.outbox.begin(run, number, request_digest, later)
    try:
        privacy = node.books.reserve(
            request,
            noise,
            request_digest=request_digest,
            roster=roster,
            transcript=transcript,
        )
    except Refused:
        with suppress(FedprintError):  # a ledger that cannot say now: the claim stays
            if not begun and not node.books.booked(run, number):
                node.outbox.take_back(run, number)
        raise
    body = node.outbox.prepared(run, number)
    _check_answer(node, run, number, body)
    if body is None:
        body = _body(node, sum_round, member, request_digest, weights, noise, model)
    node.books.settle(run, number, canonical.digest(body))
    known = request.known_head(node.site)
    reply = egress.train_reply(
        node.identity_key,
        request,
        request_digest,
        site=node.site,
        transcript=transcript.digest.hex(),
        declared_patients=node.declared_patients,
        weight=transcript.weight(node.site),
        body=body,
        noise=noise.name,
        private=noise.private,
        privacy=privacy,
        ledger=node.books.note(0 if known is None else known.length),
    )
    node.outbox.store(run, number, reply[0])
    return reply


def _check_answer(node: Node, run: str, number: int, body: bytes | None) -> None:
    """The ledger and the outbox know of the same body, or neither of any.

    Raises:
        Refused: the ledger has an answer that is not in the outbox: the outbox is an older copy
            ("ledger"). No second body is made.
    """
    answered = node.books.answer(run, number)
    if answered is not None and (body is None or canonical.digest(body) != answered):
        raise Refused(
            "This round was answered, and the outbox does not have the answer: it is an older copy "
            "or damaged.",
            reason="ledger",
        )


def _body(
    node: Node,
    sum_round: SumRound,
    member: Member | None,
    request_digest: str,
    weights: Weights,
    noise: NoiseSource,
    model: bytes,
) -> bytes:
    """Train, or go on with it; mask; keep the one body of this round. Nothing has left yet."""
    request, transcript = sum_round.request, sum_round.transcript
    run, number = request.run, request.round
    steps = OutboxSteps.of(node.outbox, run, number, request_digest, request.privacy.steps)
    try:
        try:
            data = node.data()
            update = node.train(request, weights, data, noise, node.declared_patients, steps)
        except FedprintError as error:
            # recordings were read: whatever went wrong, the word that leaves is "internal"
            raise OurMistake(f"The training of a round failed. {error}") from error
        vector, counts = _integers(update, transcript, node.site, noise)
    except Exception:
        node.outbox.give_up(run, number)  # a fault that hangs on a patient would tell each time
        raise
    node.log({"run": run, "round": number, "outcome": "quantised", **counts})
    if member is None:
        body, kept = unmasked_submission(vector, transcript), None
    else:
        body = seal_submission(vector, member, transcript, node.entropy)
        kept = Trained(model, tuple(sorted(update)))
    node.outbox.prepare(run, number, body, kept)
    return body


def _integers(
    update: Weights, transcript: Transcript, site: str, noise: NoiseSource
) -> tuple[Words, dict[str, object]]:
    """`integers` of a participant of this round."""
    place, weight = transcript.index(site), transcript.weight(site)
    return integers(update, transcript.numbers, transcript.rotation_seed, place, weight, noise)
