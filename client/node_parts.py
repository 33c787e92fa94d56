"""The parts of a hospital's node, put together from its folder for `client.round.answer`."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from client import keys
from client.epochs import EpochKeys
from client.home import NodeHome
from client.outbox import Outbox
from client.policy import Policy, check_request, installed_code
from client.rosters import RosterBook, today_utc
from client.round import Node, PretendNode, log_to
from client.spend import Budget, SpendTable
from shared_model import canonical, signing
from shared_model import weights as weights_io
from shared_model.errors import OurMistake, Refused
from shared_model.noise import NoiseSource, SystemNoise
from shared_model.protocol import PrivacyStatement, TrainRequest
from shared_model.roster import Roster
from shared_model.weights import Weights

if TYPE_CHECKING:
    from client.training import PatientBatches


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

    def data() -> PatientBatches:
        if pretend.data is not None:
            return pretend.data
        from client.store import WindowStore

        return WindowStore.open(home.store)

    def noise(request: TrainRequest) -> NoiseSource:
        if pretend.noise is not None:
            return pretend.noise(request, config.site)
        return SystemNoise()

    identity_key = signing.load_key_file(home.identity_key)
    pinned = keys.pinned(home)
    return Node(
        site=config.site,
        declared_patients=config.declared_patients,
        identity_key=identity_key,
        run_key=pinned.run,
        policy=allowed,
        minimum_contributors=policy.minimum_contributors,
        rosters=HospitalRosters(RosterBook(home), pinned.root, policy),
        epochs=epoch_keys(home),
        books=HospitalBooks(home.spend, budget, config.site, config.declared_patients),
        outbox=outbox_of(home),
        ready=ready,
        data=data,
        noise=noise,
        check_model=check_model,
        dimension=dimension,
        train=train,
        log=log_to(home.logs / "rounds.log"),
        allow_unmasked=pretend.allow_unmasked,
    )


def outbox_of(home: NodeHome) -> Outbox:
    """Where the node of this folder keeps what it has answered."""
    return Outbox(home.outbox, home.never_back_up / "writes")


def epoch_keys(home: NodeHome) -> EpochKeys:
    """Where the node of this folder keeps its epoch key."""
    return EpochKeys(home.never_back_up, home.epochs)


@dataclass(frozen=True)
class HospitalBooks:
    """The spend table of this node under the budget of its policy."""

    path: Path
    budget: Budget
    site: str
    declared_patients: int

    def reserve(self, request: TrainRequest, noise: NoiseSource) -> PrivacyStatement:
        """See `client.round.Books`; raises also what `SpendTable.reserve` raises."""
        with SpendTable.open(self.path) as table:
            row = table.reserve(
                request.run,
                request.round,
                request.privacy,
                self.declared_patients,
                self.budget.delta,
                self.budget,
                site=self.site,
                model_digest=request.model_digest,
                noise=noise.name,
                private=noise.private,
            )
        epsilon = row.epsilon_lifetime_after
        return PrivacyStatement(
            epsilon=epsilon if math.isfinite(epsilon) else None, delta=row.delta
        )

    def settle(self, run: str, round: int, body_digest: str) -> None:
        """See `client.round.Books`."""
        with SpendTable.open(self.path) as table:
            row = table.find(run, round)
            if row is None:
                raise Refused("A round that was answered is not booked.", reason="spend_table")
            if row.update_digest is None:
                table.settle(row, body_digest)
            elif row.update_digest != body_digest:
                raise Refused("A round is booked with another update.", reason="spend_table")

    def ledger_head(self) -> str:
        """See `client.round.Books`: digest of all rows in the order in which they were booked.

        Without their times, which are all that others could not guess: they would be run times.
        """
        with SpendTable.open(self.path) as table:
            rows = [row.as_dict() for row in table.rows()]
        for row in rows:
            del row["reserved_at_s"], row["settled_at_s"]
        return canonical.digest_of(rows)


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
    """The weights in a request's body, if they fit the preset that it names and are finite.

    Raises:
        Refused: unknown preset, another configuration, or weights that do not fit ("model").
    """
    from shared_model import mae

    config = mae.PRESETS.get(request.preset)
    if config is None or config.digest != request.config_digest:
        raise Refused(
            "The request names a model that this version does not have.",
            reason="model",
            do="Install the version of fedprint that the coordinator runs.",
        )
    weights = weights_io.from_bytes(body, like=mae.weights_of(mae.build(config, 0)))
    if not all(bool(np.isfinite(value).all()) for value in weights.values()):
        raise Refused("The weights are not finite.", reason="model")
    return weights


@functools.cache
def _trainable_size(preset: str, trainable: Literal["head", "all"]) -> int:
    from shared_model import mae

    model = mae.build(mae.PRESETS[preset], 0)
    weights = mae.weights_of(model)
    return sum(int(weights[name].size) for name in mae.trainable_names(model, trainable))


def dimension(request: TrainRequest, weights: Weights) -> int:
    """Number of parameters that the request trains; its preset was checked."""
    return _trainable_size(request.preset, request.training.trainable)


def train(
    request: TrainRequest,
    weights: Weights,
    data: PatientBatches,
    noise: NoiseSource,
    declared_patients: int,
) -> Weights:
    """Private training of the round from these weights; the update of the trainable names."""
    from client.training import train_round
    from shared_model import mae

    model = mae.build(mae.PRESETS[request.preset], 0)
    mae.load_weights(model, weights)
    outcome = train_round(model, data, request.privacy, request.training, declared_patients, noise)
    return outcome.update
