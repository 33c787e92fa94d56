"""Stand-ins for the round's neighbours: transport, clock; nodes are in `node_stand_ins`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from node_stand_ins import (
    DECLARED,
    MODEL,
    PLAN,
    ROOT_KEY,
    RUN_KEY,
    SITES,
    TRAINABLE,
    Consortium,
    FakeBooks,
    FakeData,
    FakeRosters,
    allow_all,
    cheap_train,
    check_any_model,
    key_of,
    make_node,
    no_training,
    signed_roster,
    start_weights,
)

from client.node_interfaces import Node
from client.round import answer
from server.checkpoints import RunFolder
from server.coordinate import StartingModel
from server.run_config import RunConfig
from server.run_start import begin
from server.transport import Incoming, Outgoing
from shared_model import signing

__all__ = [
    "DECLARED",
    "MODEL",
    "PLAN",
    "ROOT_KEY",
    "RUN_KEY",
    "SITES",
    "Clock",
    "Consortium",
    "FakeBooks",
    "FakeData",
    "FakeRosters",
    "FakeTransport",
    "allow_all",
    "begun",
    "cheap_train",
    "check_any_model",
    "folder_at",
    "handlers",
    "key_of",
    "make_node",
    "no_training",
    "nodes_of",
    "root_public",
    "run_config",
    "signed_roster",
    "start_model",
    "three_nodes",
]


def start_model() -> StartingModel:
    return StartingModel(MODEL, start_weights(), TRAINABLE)


def root_public() -> bytes:
    return signing.public_bytes(ROOT_KEY)


def begun(
    root: Path, sites: Sequence[str] = SITES, *, threshold: int | None = None, **changes: object
) -> RunFolder:
    """A run over these sites that has begun, in `root`."""
    folder = folder_at(root)
    document = signed_roster(sites, threshold=threshold).to_bytes()
    begin(folder, run_config(**changes), document, root_public(), RUN_KEY, start_model())
    return folder


def run_config(**changes: object) -> RunConfig:
    values: dict[str, object] = {
        "run": "spring",
        "preset": "tiny",
        "rounds": 3,
        "privacy": PLAN.as_dict(),
        "minimum_contributors": 2,
        "update_norm_bound": 2.0,
        "deadline_s": 60.0,
        "gather_s": 5.0,
        "patience_s": 100.0,
        "trip_s": 30.0,
        "rekey_s": 10.0,
        "poll_s": 1.0,
    }
    return RunConfig.from_dict({**values, **changes})


class Clock:
    """Seconds that pass only when someone waits."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += seconds


Handler = Callable[[bytes, bytes], tuple[bytes, bytes]]


class FakeTransport:
    """Answers at once, in the order that `order` gives; sites can be offline or lose messages.

    tamper: called with (site, header, body) of each answer, returns what arrives, or None for an
    error of the transport.
    """

    def __init__(
        self,
        nodes: Mapping[str, Handler],
        *,
        order: Callable[[list[str]], list[str]] = lambda ids: ids,
        tamper: Callable[[str, bytes, bytes], tuple[bytes, bytes] | None] | None = None,
    ) -> None:
        self.nodes = dict(nodes)
        self.offline: set[str] = set()
        self.order = order
        self.tamper = tamper
        self.sent: list[Outgoing] = []
        self.waiting: dict[str, Outgoing] = {}

    def sites(self) -> Mapping[str, int]:
        return {site: n for n, site in enumerate(self.nodes) if site not in self.offline}

    def push(self, messages: Sequence[Outgoing]) -> list[str]:
        ids = []
        for message in messages:
            self.sent.append(message)
            if message.site not in self.sites():
                ids.append("")
                continue
            identifier = f"m{len(self.sent)}"
            self.waiting[identifier] = message
            ids.append(identifier)
        return ids

    def pull(self, ids: Sequence[str]) -> list[Incoming]:
        arrived = []
        for identifier in self.order([item for item in ids if item in self.waiting]):
            message = self.waiting.pop(identifier)
            reply: tuple[bytes, bytes] | None = self.nodes[message.site](
                message.header, message.body
            )
            assert reply is not None
            if self.tamper is not None:
                reply = self.tamper(message.site, *reply)
            if reply is None:
                arrived.append(Incoming(identifier, message.site, error="unreachable"))
            else:
                arrived.append(Incoming(identifier, message.site, *reply))
        return arrived


def handlers(nodes: Mapping[str, Node]) -> dict[str, Handler]:
    def handler(node: Node) -> Handler:
        return lambda header, body: answer(node, header, body)

    return {site: handler(node) for site, node in nodes.items()}


def nodes_of(
    root: Path, sites: Sequence[str] = SITES, *, threshold: int | None = None, **changes: object
) -> dict[str, Node]:
    """Nodes whose operators have approved the roster of these sites."""
    signed = signed_roster(sites, threshold=threshold)
    return {
        site: make_node(
            site, root / "outboxes", **{"rosters": FakeRosters(site, signed), **changes}
        )
        for site in sites
    }


def three_nodes(root: Path, **changes: object) -> dict[str, Node]:
    return nodes_of(root, SITES, **changes)


def folder_at(root: Path) -> RunFolder:
    return RunFolder(root / "runs" / "spring")
