"""The parts of a hospital's node, put together from its folder for `client.round.answer`."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client import keys
from client.approvals import approvals_of
from client.epochs import EpochKeys
from client.home import NodeHome
from client.ledger_file import RECOVER, refuse
from client.ledger_peers import Countersigned
from client.ledger_store import Budget, LedgerStore
from client.outbox import Outbox
from client.policy import Policy, check_request, installed_code
from client.progress import step_writer
from client.rest import check_awake
from client.rosters import RosterBook, today_utc
from client.round import Node, PretendNode, log_to
from shared_model import signing
from shared_model import weights as weights_io
from shared_model.config import Trainable
from shared_model.errors import OurMistake, Refused
from shared_model.ledger import MAX_LINE_BYTES, Booked, Chain, LedgerHead, Spent
from shared_model.noise import NoiseSource, SystemNoise
from shared_model.protocol import (
    MAX_NOTE_CHARACTERS,
    MAX_NOTE_ENTRIES,
    LedgerNote,
    PrivacyStatement,
    TrainRequest,
)
from shared_model.roster import Roster
from shared_model.weights import Weights

if TYPE_CHECKING:
    from client.steps import StepKeeper
    from client.training import PatientBatches
    from shared_model.secure_sum.transcript import Transcript

ENTRIES_OF_A_ROUND = 8
"""Room in a `LedgerNote` for the first entry, `booked`, `answered`, and what comes between."""


def node_from_home(home: NodeHome, pretend: PretendNode | None = None) -> Node:
    """The node of this folder. Read anew for each message, so that an edited policy holds at once.

    Raises:
        OurMistake: the folder is not set up, or node.toml and policy.toml declare different
            numbers of patients.
    """
    config = keys.load_config(home)
    policy = Policy.from_file(home.policy)
    if policy.declared_patients != config.declared_patients:
        raise OurMistake(
            "node.toml and policy.toml declare different numbers of patients.",
            do="Make declared_patients in policy.toml the number that was enrolled.",
        )
    pretend = pretend or PretendNode()
    budget = policy.budget
    if pretend.unlimited_budget:
        budget = Budget.unlimited_non_private_for_tests(policy.delta)

    def allowed(request: TrainRequest) -> None:
        check_request(
            policy,
            site=config.site,
            purpose=request.purpose,
            plan=request.privacy,
            training=request.training,
            participants=request.sites,
            minimum_contributors=request.minimum_contributors,
            code=installed_code(),
        )

    def ready() -> None:
        # The manifest, not the folder: an interrupted first add leaves a folder without one, and
        # each round would be booked before it is found out that there is nothing to open.
        if pretend.data is None and not (home.store / "manifest.json").is_file():
            raise Refused(
                "This node has no store of recordings yet.",
                reason="not-ready",
                do="Run: fedprint-node data add PATH",
            )
        if pretend.data is None:
            from client.store import check_openable

            check_openable(home)

    def data() -> PatientBatches:
        if pretend.data is not None:
            return pretend.data
        from client.store import open_store

        return open_store(home)

    def able(request: TrainRequest) -> None:
        from client.kernels import check_kernels
        from client.replicas import devices_of
        from client.training import chunk_of

        chunk = chunk_of(request.privacy, config.declared_patients)
        devices = devices_of(config.training.gpus)
        check_kernels(request.preset, request.training, chunk, devices)

    def noise(request: TrainRequest) -> NoiseSource:
        if pretend.noise is not None:
            return pretend.noise(request, config.site)
        return SystemNoise()

    identity_key = signing.load_key_file(home.identity_key)
    pinned = keys.pinned(home)
    ledger = HospitalLedger(home, config.site, identity_key)
    return Node(
        site=config.site,
        declared_patients=config.declared_patients,
        identity_key=identity_key,
        run_key=pinned.run,
        policy=allowed,
        minimum_contributors=policy.minimum_contributors,
        rosters=HospitalRosters(RosterBook(home), pinned.root, policy),
        epochs=epoch_keys(home),
        books=HospitalBooks(ledger, budget, config.declared_patients),
        witness=HospitalWitness(ledger),
        approvals=approvals_of(home, policy, budget),
        outbox=outbox_of(home),
        ready=ready,
        data=data,
        noise=noise,
        check_model=check_model,
        dimension=dimension,
        train=functools.partial(train, home, gpus=config.training.gpus),
        log=log_to(home.logs / "rounds.log"),
        allow_unmasked=pretend.allow_unmasked,
        awake=functools.partial(check_awake, home),
        able=able,
    )


def outbox_of(home: NodeHome) -> Outbox:
    """Where the node of this folder keeps what it has answered."""
    return Outbox(home.outbox, home.never_back_up / "writes")


def epoch_keys(home: NodeHome) -> EpochKeys:
    """Where the node of this folder keeps its epoch key."""
    return EpochKeys(home.never_back_up, home.epochs)


@dataclass(frozen=True)
class HospitalLedger:
    """The ledger in this node's folder, opened anew for each message."""

    home: NodeHome
    site: str
    identity_key: Ed25519PrivateKey = field(repr=False)

    def open(self) -> LedgerStore:
        """Raises `LedgerFault`."""
        return LedgerStore.open(self.home, self.site, self.identity_key)


@dataclass(frozen=True)
class HospitalBooks:
    """The ledger of this node under the budget of its policy; see `client.round.Books`."""

    ledger: HospitalLedger
    budget: Budget
    declared_patients: int

    def check_own(self, head: LedgerHead | None) -> None:
        """See `client.round.Books`."""
        with self.ledger.open() as store:
            if head is not None:
                _check_contained(store.chain, head)
            count, size = store.chain.size_after(0 if head is None else head.length)
        room = MAX_NOTE_CHARACTERS - ENTRIES_OF_A_ROUND * MAX_LINE_BYTES
        if count > MAX_NOTE_ENTRIES - ENTRIES_OF_A_ROUND or size > room:
            raise Refused(
                f"The coordinator lacks {count} entries of this ledger, more than one answer "
                "carries.",
                reason="ledger",
                do="Run: fedprint-node ledger export -o ledger.json, and send it to the operator.",
            )

    def reserve(
        self,
        request: TrainRequest,
        noise: NoiseSource,
        *,
        request_digest: str,
        roster: Roster,
        transcript: Transcript,
    ) -> PrivacyStatement:
        """See `client.round.Books`; raises also what `LedgerStore.reserve` raises."""
        plan = request.privacy
        shared = plan.mode != "local"
        draft = Booked(
            site=self.ledger.site,
            sequence=1,
            run=request.run,
            round=request.round,
            purpose=request.purpose,
            mode=plan.mode,
            sample_rate=float(plan.sample_rate),
            noise_multiplier=float(plan.noise_multiplier),
            clipping_norm=float(plan.clipping_norm),
            steps=plan.steps,
            declared_patients=self.declared_patients,
            delta=self.budget.delta,
            noise=noise.name,
            private=noise.private,
            model_in=request.model_digest,
            request_digest=request_digest,
            code_digest=installed_code(),
            roster_digest=roster.digest,
            transcript=transcript.digest.hex(),
            participants=len(request.participants),
            threshold=roster.threshold,
            colluding_sites=roster.collusion_bound if shared else 0,
            minimum_contributors=request.minimum_contributors,
            dimension=transcript.numbers.padded if shared else 0,
            limit_lifetime=None,
            limit_run=None,
            epsilon_lifetime=None,
            epsilon_run=None,
            outsider_epsilon_lifetime=None,
            time_s=0,
        )
        with self.ledger.open() as store:
            if store.chain.booking(request.run, request.round) is None:
                check_awake(self.ledger.home)  # what was booked before is finished
            booked = store.reserve(draft, self.budget)
            spent = store.chain.spent(until=booked.sequence)
        return statement(spent, booked)

    def booked(self, run: str, round: int) -> bool:
        """See `client.round.Books`."""
        with self.ledger.open() as store:
            return store.chain.booking(run, round) is not None

    def answer(self, run: str, round: int) -> str | None:
        """See `client.round.Books`."""
        with self.ledger.open() as store:
            found = store.chain.answer(run, round)
        return None if found is None else found.update_digest

    def settle(self, run: str, round: int, body_digest: str) -> None:
        """See `client.round.Books`."""
        with self.ledger.open() as store:
            store.answered(run, round, body_digest)

    def note(self, since: int) -> LedgerNote:
        """See `client.round.Books`."""
        with self.ledger.open() as store:
            head = store.signed_head()
            lines = tuple(link.line.decode("ascii") for link in store.chain.after(since))
        return LedgerNote(
            length=head.length, head=head.head, signature=head.signature, entries=lines
        )

    def incident(self, run: str, round: int, reason: str) -> None:
        """See `client.round.Books`."""
        with self.ledger.open() as store:
            store.incident(run, round, reason, self.budget.delta)


@dataclass(frozen=True)
class HospitalWitness:
    """What this node keeps of the others' ledgers; see `client.round.Witness`."""

    ledger: HospitalLedger

    def see(
        self,
        heads: Mapping[str, LedgerHead],
        links: Mapping[str, Sequence[str]],
        identity_keys: Mapping[str, bytes],
    ) -> None:
        """See `client.round.Witness`."""
        with self.ledger.open() as store:
            store.see(heads, links, identity_keys)

    def countersigned(
        self, run: str, round: int, agree_request: bytes, agreements: Mapping[str, bytes]
    ) -> None:
        """See `client.round.Witness`."""
        with self.ledger.open() as store:
            store.keep_countersigned(Countersigned(run, round, agree_request, agreements))


def statement(spent: Spent, booked: Booked) -> PrivacyStatement:
    """What a reply says of the ledger after this booking.

    It is only as strong as the weakest round in it: one round in mode distributed, and the whole
    holds against as many colluding hospitals as that one.
    """
    shared = [item for item in spent.bookings if item.mode == "distributed"]
    delta = (spent.losses + 1) * booked.delta
    if not shared:
        return PrivacyStatement(epsilon=booked.epsilon_lifetime, delta=delta)
    return PrivacyStatement(
        epsilon=booked.epsilon_lifetime,
        delta=delta,
        trust_model="distributed",
        colluding_sites=min(item.colluding_sites for item in shared),
        outsider_epsilon=booked.outsider_epsilon_lifetime,
    )


def _check_contained(chain: Chain, head: LedgerHead) -> None:
    try:
        head.check(chain.site, chain.key_at(head.length))
    except Refused as error:
        raise Refused(
            "The coordinator shows a head of this hospital's ledger that it never signed.",
            reason="ledger",
            do="Show this line of the log to the coordinator's operator and the other hospitals.",
        ) from error
    if chain.head_at(head.length) != head.head:
        raise refuse(
            f"This hospital has signed a ledger of {head.length} entries that is not the one here, "
            f"which has {chain.length}: it was put back from an older copy.",
            entry=min(head.length, chain.length + 1),
            do=RECOVER,
        )


@dataclass(frozen=True)
class HospitalRosters:
    """The roster book of this node under its policy and pinned root key, today."""

    book: RosterBook
    root_key: bytes
    policy: Policy

    def approved(self) -> Roster:
        """See `client.round.Rosters`."""
        return self.book.current(self.root_key, self.policy, today_utc())

    def offer(self, data: bytes) -> Roster:
        """See `client.round.Rosters`."""
        return self.book.offer(data, self.root_key, self.policy, today_utc())


def check_model(request: TrainRequest, body: bytes) -> Weights:
    """The weights in a request's body, if they fit the preset that it names and are no larger than
    training makes them (`shared_model.weight_bounds`).

    Beside the model there may be the state of the server step that the request names, of exactly
    the trained parameters, and nothing else.

    Raises:
        Refused: unknown preset, another configuration, weights or a state that do not fit
            ("model").
    """
    from shared_model import adapters, mae
    from shared_model.server_optimisers import check_state
    from shared_model.weight_bounds import check_bounds

    config = mae.PRESETS.get(request.preset)
    if config is None or config.digest != request.config_digest:
        raise Refused(
            "The request names a model that this version does not have.",
            reason="model",
            do="Install the version of fedprint that the coordinator runs.",
        )
    weights = weights_io.from_bytes(body)
    own, state = weights_io.parts(weights)
    model = mae.build(config, 0)
    wanted = mae.weights_of(model)
    if {name: value.shape for name, value in own.items()} != {
        name: value.shape for name, value in wanted.items()
    }:
        raise Refused("The weights do not fit this model.", reason="model")
    trained = mae.trainable_names(model, request.training.trainable)
    check_state(request.plan.step, adapters.trained_part(wanted, trained), state)
    if not all(bool(np.isfinite(value).all()) for value in state.values()):
        raise Refused("The weights are not finite.", reason="model")
    check_bounds(own)
    return weights


@functools.cache
def trainable_size(preset: str, trainable: Trainable) -> int:
    """Number of parameters that a preset trains."""
    from shared_model import mae

    return mae.parameter_counts(mae.build(mae.PRESETS[preset], 0))[trainable]


def dimension(request: TrainRequest, weights: Weights) -> int:
    """Number of parameters that the request trains; its preset was checked."""
    return trainable_size(request.preset, request.training.trainable)


def train(
    home: NodeHome,
    request: TrainRequest,
    weights: Weights,
    data: PatientBatches,
    noise: NoiseSource,
    declared_patients: int,
    steps: StepKeeper,
    *,
    gpus: int = 0,
) -> Weights:
    """Private training of the round from these weights; the update of the trainable names.

    In mode distributed: minus the clipped sum, float64, to which the noise is added as integers;
    it is one step, and nothing of it is kept: it is not private.
    """
    from client.replicas import devices_of
    from client.training import clipped_step, train_round
    from shared_model import mae

    devices = devices_of(gpus)
    model = mae.build(mae.PRESETS[request.preset], 0)
    mae.load_weights(model, weights)
    plan, training = request.privacy, request.training
    on_step = step_writer(home, request.run, request.round)
    on_step(0, plan.steps)
    if plan.mode == "distributed":
        return clipped_step(model, data, plan, training, declared_patients, noise, devices)
    done = train_round(
        model, data, plan, training, declared_patients, noise, on_step, steps, devices=devices
    )
    return done.update
