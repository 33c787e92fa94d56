"""The loop as tests drive it: real nodes; answers lost, or changed and signed again."""

from __future__ import annotations

from round_stand_ins import (
    RUN_KEY,
    Clock,
    FakeTransport,
    begun,
    handlers,
    key_of,
    nodes_of,
)

from server.coordinate import run
from shared_model import canonical, protocol, protocol_open
from shared_model.protocol import SIGNATURE_BYTES, TrainReply
from shared_model.protocol_sum import Agreement, CloseReply, EpochKey, SharesReply, SumReceipt

FIVE = ("alpha", "beta", "delta", "epsilon", "gamma")
FOUR = ("alpha", "beta", "delta", "gamma")
MODELS = {
    protocol.kind_of(model): model
    for model in (TrainReply, Agreement, SharesReply, CloseReply, SumReceipt, EpochKey)
}


def kind_of(header):
    return protocol_open.readable(header)["kind"]


def go(transport, folder, **options):
    clock = Clock()
    seen = []
    record = run(
        transport,
        folder,
        RUN_KEY,
        clock=clock,
        wall_clock=clock,
        wait=clock.wait,
        on_progress=seen.append,
        **{"non_private_for_tests": True, **options},
    )
    return record, seen


def loses(*pairs):
    """A transport that loses every answer of these (site, kind)."""

    def tamper(site, header, body):
        return None if (site, kind_of(header)) in pairs else (header, body)

    return tamper


def changes(liar, kind, **fields):
    """This site's answers of this kind are signed with other fields, for some computed."""

    def tamper(sender, header, body):
        if sender != liar or kind_of(header) != kind:
            return header, body
        message = MODELS[kind].model_validate_json(header[SIGNATURE_BYTES:])
        made = {
            name: value(message, body) if callable(value) else value
            for name, value in fields.items()
        }
        body = made.pop("body", body)
        if "body_digest" in type(message).model_fields:
            made["body_digest"] = canonical.digest(body)
        return protocol.seal(message.model_copy(update=made), key_of(liar)), body

    return tamper


def federation(tmp_path, sites=FIVE, *, threshold=3, tamper=None, rounds=1, **config):
    """Nodes that suppose nobody to collude, so that t = 3 of n = 5 is enough for them."""
    folder = begun(tmp_path, sites, threshold=threshold, rounds=rounds, **config)
    nodes = nodes_of(tmp_path, sites, threshold=threshold)
    for node in nodes.values():
        node.rosters.colluding_sites = 0
    return folder, FakeTransport(handlers(nodes), tamper=tamper), nodes
