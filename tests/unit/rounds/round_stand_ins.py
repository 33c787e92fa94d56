"""Stand-ins for the round's neighbours: transport, nodes with a cheap trainer, clock."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client.outbox import Outbox
from client.round import Node, answer
from server.checkpoints import RunFolder
from server.coordinate import StartingModel
from server.run_config import RosterSite, RunConfig
from server.transport import Incoming, Outgoing
from shared_model import signing
from shared_model import weights as weights_io
from shared_model.config import ModelConfig, PrivacyPlan
from shared_model.errors import BudgetExhausted, Refused
from shared_model.noise import NoiseSource, NonPrivateForTests
from shared_model.protocol import PrivacyStatement, TrainRequest
from shared_model.weights import Weights

MODEL = ModelConfig("tiny", 8, 2, 1, 1, 8, 1)
PLAN = PrivacyPlan(0.1, 1.5, 1.0, 4)
SITES = ("alpha", "beta", "gamma")
DECLARED = {"alpha": 1000, "beta": 260, "gamma": 500, "delta": 900, "epsilon": 100}


def key_of(name: str) -> Ed25519PrivateKey:
    """A fixed key for a name; tests only."""
    return Ed25519PrivateKey.from_private_bytes(name.encode().ljust(32, b"."))


RUN_KEY = key_of("coordinator")


def start_model() -> StartingModel:
    rng = np.random.default_rng(5)
    weights = {
        "trunk": rng.standard_normal((4, 3)).astype(np.float32),
        "head": rng.standard_normal((3, 2)).astype(np.float32),
        "norm": rng.standard_normal(2).astype(np.float32),
    }
    return StartingModel(MODEL, weights, ("head", "norm"))


def roster(sites: Sequence[str] = SITES) -> list[RosterSite]:
    return [
        RosterSite(
            site=site,
            identity_key=signing.public_bytes(key_of(site)).hex(),
            declared_patients=DECLARED[site],
        )
        for site in sites
    ]


def run_config(**changes: object) -> RunConfig:
    values: dict[str, object] = {
        "run": "spring",
        "preset": "tiny",
        "rounds": 3,
        "privacy": PLAN.as_dict(),
        "insecure_aggregation": True,
        "minimum_contributors": 2,
        "deadline_s": 60.0,
        "gather_s": 5.0,
        "patience_s": 100.0,
        "poll_s": 1.0,
    }
    return RunConfig.from_dict({**values, **changes})


@dataclass
class FakeBooks:
    """Counts; `budget` rounds and no more."""

    budget: int = 1000
    reserved: list[tuple[str, int]] = field(default_factory=list)
    settled: dict[tuple[str, int], str] = field(default_factory=dict)

    def reserve(self, request: TrainRequest, noise: NoiseSource) -> PrivacyStatement:
        if (request.run, request.round) in self.reserved:
            raise Refused("Booked already.", reason="replay")
        if len(self.reserved) >= self.budget:
            raise BudgetExhausted("No budget.")
        self.reserved.append((request.run, request.round))
        return PrivacyStatement(
            epsilon=0.5 * len(self.reserved) if noise.private else None, delta=1e-5
        )

    def settle(self, run: str, round: int, update_digest: str) -> None:
        assert self.settled.setdefault((run, round), update_digest) == update_digest


def allow_all(request: TrainRequest) -> None:
    """A policy without limits."""


def no_clear_updates(request: TrainRequest) -> None:
    """A policy that does not allow insecure aggregation."""
    raise Refused("Not in clear.", reason="insecure-aggregation")


@dataclass
class FakeData:
    patient_count: int = 7
    opened: int = 0


def cheap_train(
    request: TrainRequest, weights: Weights, data: object, noise: object, declared_patients: int
) -> Weights:
    """A seeded step towards zero: no model, no torch."""
    assert isinstance(noise, NonPrivateForTests)
    update: Weights = {}
    for name in ("head", "norm"):
        drawn = noise.normal(weights[name].size, 0.01).reshape(weights[name].shape)
        update[name] = (-0.1 * weights[name] + drawn).astype(np.float32)
    return update


def check_any_model(request: TrainRequest, body: bytes) -> Weights:
    return weights_io.from_bytes(body)


def make_node(site: str, root: Path, **changes: object) -> Node:
    """A node with a cheap trainer, seeded noise and books in memory."""
    data = FakeData()

    def open_data() -> object:
        data.opened += 1
        return data

    node = Node(
        site=site,
        declared_patients=DECLARED[site],
        identity_key=key_of(site),
        run_key=signing.public_bytes(RUN_KEY),
        policy=allow_all,
        books=FakeBooks(),
        outbox=Outbox(root / site),
        ready=lambda: None,
        data=open_data,  # type: ignore[arg-type]
        noise=lambda request: NonPrivateForTests(request.run, site, request.round, 7),
        check_model=check_any_model,
        train=cheap_train,  # type: ignore[arg-type]
        log=lambda entry: None,
    )
    return replace(node, **changes)  # type: ignore[arg-type]


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


def three_nodes(root: Path, **changes: object) -> dict[str, Node]:
    return {site: make_node(site, root / "outboxes", **changes) for site in SITES}


def folder_at(root: Path) -> RunFolder:
    return RunFolder(root / "runs" / "spring")
