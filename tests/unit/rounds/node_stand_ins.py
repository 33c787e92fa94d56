"""Nodes with a cheap trainer and real cryptography, and an honest coordinator to talk to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from ledger_stand_ins import CODE, FakeApprovals, FakeBooks, FakeWitness, key_of

from client.epochs import EpochKeys
from client.node_interfaces import Node
from client.outbox import Outbox
from client.round import answer
from client.steps import StepKeeper, StepState
from shared_model import canonical, protocol, protocol_open, protocol_sum, roster, signing
from shared_model import weights as weights_io
from shared_model.config import LocalTraining, ModelConfig, PrivacyPlan
from shared_model.errors import Refused
from shared_model.ledger import LedgerHead
from shared_model.ledger_links import links_body
from shared_model.noise import NonPrivateForTests
from shared_model.protocol import (
    EpochKeyEntry,
    Participant,
    SumPlan,
    TrainReply,
    TrainRequest,
)
from shared_model.roster import Roster, SignedRoster
from shared_model.secure_sum.numbers import modulus_bits_for
from shared_model.secure_sum.opening import check_shares, read_shares, rebuild_seeds, rows_body
from shared_model.secure_sum.submission import Submission
from shared_model.secure_sum.transcript import Transcript, of_request
from shared_model.secure_sum.unmask import sum_of
from shared_model.secure_sum.verification import make_statement, statement_bytes
from shared_model.verify_body import verify_body
from shared_model.weights import Weights

MODEL = ModelConfig("tiny", 8, 2, 1, 1, 8, 1)
PLAN = PrivacyPlan(0.1, 1.5, 1.0, 4)
SITES = ("alpha", "beta", "gamma")
DECLARED = {"alpha": 1000, "beta": 260, "gamma": 500, "delta": 900, "epsilon": 100}
TRAINABLE = ("head", "norm")
TODAY = "2026-11-21"
NORM_BOUND = 2.0
FIRST_EPOCH = 7


RUN_KEY = key_of("coordinator")
ROOT_KEY = key_of("root")


def start_weights() -> Weights:
    """A model of three small arrays, of which two are trained."""
    rng = np.random.default_rng(5)
    return {
        "trunk": rng.standard_normal((4, 3)).astype(np.float32),
        "head": rng.standard_normal((3, 2)).astype(np.float32),
        "norm": rng.standard_normal(2).astype(np.float32),
    }


@dataclass(frozen=True)
class Card:
    """What a roster takes from an enrolment card."""

    site: str
    identity_key: str
    declared_patients: int


def signed_roster(
    sites: Sequence[str] = SITES, *, version: int = 1, threshold: int | None = None
) -> SignedRoster:
    """A roster of these sites, signed by `ROOT_KEY`, valid for years."""
    cards = [Card(s, signing.public_bytes(key_of(s)).hex(), DECLARED[s]) for s in sites]
    drafted = roster.draft(
        cards, version, threshold, valid_from="2026-01-01", valid_until="2036-01-01"
    )
    return roster.sign(drafted, ROOT_KEY)


@dataclass
class FakeRosters:
    """A roster book in memory: `signed` is what the operator approved."""

    site: str
    signed: SignedRoster | None = field(default_factory=signed_roster)
    today: str = TODAY
    colluding_sites: int = 1

    def approved(self) -> Roster:
        if self.signed is None:
            raise Refused("None yet.", reason="roster-approval")
        roster.check(
            self.signed.roster,
            colluding_sites=self.colluding_sites,
            allow_two=False,
            today=self.today,
            own=(self.site, signing.public_bytes(key_of(self.site)).hex(), DECLARED[self.site]),
        )
        return self.signed.roster

    def offer(self, data: bytes) -> Roster:
        offered = roster.open_signed(data, signing.public_bytes(ROOT_KEY))
        if self.signed is None or offered.roster.digest != self.signed.roster.digest:
            raise Refused("It waits.", reason="roster-approval")
        return self.approved()


def allow_all(request: TrainRequest) -> None:
    """A policy without limits."""


def no_training(request: TrainRequest) -> None:
    """A policy that allows nothing."""
    raise Refused("Not here.", reason="policy")


@dataclass
class FakeData:
    patient_count: int = 7
    opened: int = 0


def cheap_train(
    request: TrainRequest,
    weights: Weights,
    data: object,
    noise: object,
    declared_patients: int,
    steps: StepKeeper | None = None,
) -> Weights:
    """Seeded steps towards zero, kept one by one: no model, no torch."""
    assert isinstance(noise, NonPrivateForTests)
    last = None if steps is None else steps.last
    now = {name: weights[name].copy() for name in TRAINABLE} if last is None else last.weights
    if last is not None:
        noise.go_to(last.noise)
    for step in range(0 if last is None else last.step, request.privacy.steps):
        for name in TRAINABLE:
            drawn = noise.normal(now[name].size, 0.01).reshape(now[name].shape)
            now[name] = (0.97 * now[name] + drawn).astype(np.float32)
        if steps is not None:
            steps.keep(StepState(step + 1, now, {}, noise.place()))
    return {name: now[name] - weights[name] for name in TRAINABLE}


def check_any_model(request: TrainRequest, body: bytes) -> Weights:
    return weights_io.from_bytes(body)


def dimension(request: TrainRequest, weights: Weights) -> int:
    """Of the trainable names."""
    return sum(weights[name].size for name in TRAINABLE)


def make_node(site: str, root: Path, **changes: object) -> Node:
    """A node with a cheap trainer, seeded noise, books in memory, outbox and epoch key on disk."""
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
        minimum_contributors=2,
        rosters=FakeRosters(site),
        epochs=EpochKeys(root / f"{site}-never-back-up", root / f"{site}-epochs.json"),
        books=FakeBooks(),
        witness=FakeWitness(),
        approvals=FakeApprovals(),
        outbox=Outbox(root / site),
        ready=lambda: None,
        data=open_data,  # type: ignore[arg-type]
        noise=lambda request: NonPrivateForTests(request.run, site, request.round, 7),
        check_model=check_any_model,
        dimension=dimension,
        train=cheap_train,  # type: ignore[arg-type]
        log=lambda entry: None,
    )
    node = replace(node, **changes)  # type: ignore[arg-type]
    if isinstance(node.books, FakeBooks):
        node.books.site = site
    return node


@dataclass
class Consortium:
    """Some nodes, and a coordinator that keeps to the protocol unless a test changes a message.

    keys: epoch keys as the sites signed them. Answers are opened with the sites' identity keys.
    bodies: links of ledgers by digest; sent where a message names them and no other body is given.
    """

    nodes: dict[str, Node]
    signed: SignedRoster
    epoch: int = 0
    keys: dict[str, EpochKeyEntry] = field(default_factory=dict)
    bodies: dict[str, bytes] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        root: Path,
        sites: Sequence[str] = SITES,
        *,
        keyed: bool = True,
        threshold: int | None = None,
        **changes: object,
    ) -> Consortium:
        """Nodes of these sites, a roster of them, and (if keyed) keys of a first epoch."""
        signed = signed_roster(sites, threshold=threshold)
        nodes = {
            site: make_node(site, root, **{"rosters": FakeRosters(site, signed), **changes})
            for site in sites
        }
        made = cls(nodes, signed)
        if keyed:
            made.begin_epoch(FIRST_EPOCH)
        return made

    @property
    def roster(self) -> Roster:
        return self.signed.roster

    def ask(self, site: str, message: Any, body: bytes = b"") -> tuple[bytes, bytes]:
        """One message to one node, its answer as bytes."""
        if not body:
            body = self.bodies.get(getattr(message, "body_digest", ""), b"")
        return answer(self.nodes[site], protocol.seal(message, RUN_KEY), body)

    def told(self, site: str, message: Any, body: bytes = b"", *, kind: Any = TrainReply) -> Any:
        """As `ask`, the answer opened: of this kind, or a refusal."""
        header, reply_body = self.ask(site, message, body)
        found = protocol_open.open_answer_of(
            header, signing.public_bytes(key_of(site)), kind, site=site
        )
        if hasattr(found, "body_digest"):
            protocol_open.check_body(found.body_digest, reply_body, site=site)
        return found

    def epoch_request(self, epoch: int) -> tuple[protocol_sum.EpochRequest, bytes]:
        body = self.signed.to_bytes()
        return (
            protocol_sum.EpochRequest(
                epoch=epoch,
                roster_digest=self.roster.digest,
                body_digest=canonical.digest(body),
                plan=self.request()[0].plan,
                software="test",
            ),
            body,
        )

    def begin_epoch(self, epoch: int) -> None:
        """Ask all sites for a key of this epoch."""
        self.epoch = epoch
        message, body = self.epoch_request(epoch)
        for site in self.nodes:
            header, _ = self.ask(site, message, body)
            found = protocol_open.open_signed(
                header, signing.public_bytes(key_of(site)), protocol_sum.EpochKey, site=site
            )
            self.keys[site] = EpochKeyEntry(
                site=site,
                public_key=found.public_key,
                signature=header[: protocol.SIGNATURE_BYTES].hex(),
            )

    def request(
        self, sites: Sequence[str] | None = None, **changes: Any
    ) -> tuple[TrainRequest, bytes]:
        """Trip 1's request for these sites; `sum` may be a mapping of changes to the plan."""
        weights = start_weights()
        body = weights_io.to_bytes(weights)
        asked = tuple(sorted(sites or self.nodes))
        plan = {
            "aggregation": "secure-sum",
            "roster_digest": self.roster.digest,
            "threshold": self.roster.threshold,
            "epoch": self.epoch,
            "epoch_keys": tuple(self.keys[site] for site in sorted(self.keys)),
            "dimension": 8,
            "bits": 20,
            "modulus_bits": modulus_bits_for(
                20, sum(self.roster.weights.get(site, 1) for site in asked)
            ),
            "norm_bound": NORM_BOUND,
        }
        values: dict[str, Any] = {
            "run": "spring",
            "round": 1,
            "start": 1,
            "preset": "tiny",
            "config_digest": MODEL.digest,
            "model_digest": weights_io.digest(weights),
            "body_digest": canonical.digest(body),
            "privacy": PLAN,
            "training": LocalTraining(),
            "server_learning_rate": 1.0,
            "rounds": 3,
            "bookings": 6,
            "code_digest": CODE,
            "ledger_heads": (),
            "participants": tuple(
                Participant(site=site, declared_patients=DECLARED[site]) for site in asked
            ),
            "minimum_contributors": 2,
            "deadline_s": 60.0,
            "software": "test",
        }
        plan |= changes.pop("sum", {})
        return TrainRequest(**{**values, "sum": SumPlan(**plan), **changes}), body

    def submit(self, sites: Sequence[str] | None = None, **changes: Any) -> PlayedRound:
        """Trip 1 at these sites (all participants if None)."""
        request, body = self.request(**changes)
        played = PlayedRound(self, request, of_request(request, self.roster.weights))
        for site in sites or request.sites:
            header, reply_body = self.ask(site, request, body)
            reply = protocol_open.open_answer(header, signing.public_bytes(key_of(site)), site=site)
            assert isinstance(reply, TrainReply), reply
            protocol_open.check_body(reply.body_digest, reply_body, site=site)
            played.headers[site] = header
            played.submissions[site] = Submission.parse(reply_body, played.transcript, site)
        return played


@dataclass
class PlayedRound:
    """One round as an honest coordinator plays it; each trip's messages can be changed."""

    consortium: Consortium
    asked: TrainRequest
    transcript: Transcript
    headers: dict[str, bytes] = field(default_factory=dict)
    submissions: dict[str, Submission] = field(default_factory=dict)
    agreements: dict[str, bytes] = field(default_factory=dict)
    total: np.ndarray | None = None

    @property
    def survivors(self) -> tuple[str, ...]:
        return tuple(sorted(self.headers))

    def _round(self) -> dict[str, Any]:
        return {
            "run": self.asked.run,
            "round": self.asked.round,
            "transcript": self.transcript.digest.hex(),
        }

    def _of_u(self, survivors: Sequence[str]) -> dict[str, Any]:
        return {
            "survivors": tuple(survivors),
            "submissions": tuple(protocol.header_digest(self.headers[s]) for s in survivors),
        }

    def head(self, site: str) -> LedgerHead:
        """Of the site's ledger, as its reply has it."""
        found = TrainReply.model_validate_json(self.headers[site][protocol.SIGNATURE_BYTES :])
        return found.ledger.plain

    @property
    def links(self) -> bytes:
        """All links of all survivors' ledgers, from the beginning."""
        found = {}
        for site in self.survivors:
            chain = self.consortium.nodes[site].books.chain
            length = self.head(site).length
            found[site] = [one.digest for one in chain.links if one.entry.sequence <= length]
        body = links_body(found)
        self.consortium.bodies[canonical.digest(body)] = body
        return body

    def agree_request(self, **changes: Any) -> protocol_sum.AgreeRequest:
        survivors = changes.pop("survivors", self.survivors)
        values = {
            **self._round(),
            **self._of_u(survivors),
            "heads": tuple(self.head(s) for s in survivors if s in self.headers),
            "body_digest": canonical.digest(self.links),
            **changes,
        }
        return protocol_sum.AgreeRequest(**values)

    def agree(self, sites: Sequence[str] | None = None) -> None:
        """Trip 2 at these sites (all survivors if None)."""
        for site in sites or self.survivors:
            header, _ = self.consortium.ask(site, self.agree_request())
            protocol_open.open_signed(
                header, signing.public_bytes(key_of(site)), protocol_sum.Agreement, site=site
            )
            self.agreements[site] = header

    def open_request(self, site: str, **changes: Any) -> tuple[protocol_sum.OpenRequest, bytes]:
        signers = tuple(sorted(self.agreements))
        body = changes.pop(
            "body", rows_body({s: self.submissions[s] for s in self.survivors}, site)
        )
        values = {
            **self._round(),
            **self._of_u(self.survivors),
            "missing": (),
            "signers": signers,
            "agreements": tuple(self.agreements[s].hex() for s in signers),
            "body_digest": canonical.digest(body),
        }
        return protocol_sum.OpenRequest(**{**values, **changes}), body

    def open(self, sites: Sequence[str] | None = None) -> np.ndarray:
        """Trip 3 at these sites; the sum, uint32 (padded,)."""
        openers = tuple(sites or self.survivors)
        missing = tuple(s for s in self.survivors if s not in openers)
        shares = {}
        for site in openers:
            message, body = self.open_request(site, missing=missing)
            header, found = self.consortium.ask(site, message, body)
            reply = protocol_open.open_signed(
                header, signing.public_bytes(key_of(site)), protocol_sum.SharesReply, site=site
            )
            protocol_open.check_body(reply.body_digest, found, site=site)
            shares[site] = read_shares(
                found,
                self.transcript,
                self.survivors,
                missing,
                site,
                reply.unreadable,
                reply.accused,
            )
            check_shares(shares[site], site, self.submissions)
        seeds = rebuild_seeds(self.transcript, self.survivors, shares, self.submissions)
        ordered = [(s, self.submissions[s].packed) for s in self.survivors]
        self.total = sum_of(ordered, self.transcript, seeds)
        self.statement = make_statement(
            self.transcript,
            self.survivors,
            self._of_u(self.survivors)["submissions"],
            self.total,
            seeds,
        )
        return self.total

    def close_request(
        self, statement: protocol_sum.Statement | None = None
    ) -> tuple[protocol_sum.CloseRequest, bytes]:
        body = statement_bytes(statement or self.statement)
        return (
            protocol_sum.CloseRequest(**self._round(), statement_digest=canonical.digest(body)),
            body,
        )

    def verify_request(
        self, statement: protocol_sum.Statement, packed: bytes, answers: Mapping[str, bytes]
    ) -> tuple[protocol_sum.VerifyRequest, bytes]:
        stated = statement_bytes(statement)
        body = verify_body(stated, packed, [answers[site] for site in sorted(answers)])
        return (
            protocol_sum.VerifyRequest(
                **self._round(),
                statement_digest=canonical.digest(stated),
                body_digest=canonical.digest(body),
            ),
            body,
        )
