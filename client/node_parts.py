"""The parts of a hospital's node, put together from its folder for `client.round.answer`."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from client import keys, node_training
from client.approvals import approvals_of
from client.books import HospitalBooks, HospitalLedger, HospitalWitness
from client.epochs import EpochKeys
from client.home import NodeHome
from client.ledger_store import Budget
from client.node_interfaces import Node, PretendNode
from client.outbox import Outbox
from client.policy import Policy, check_request, installed_code
from client.rest import check_awake
from client.rosters import RosterBook, today_utc
from client.round_log import log_to
from shared_model import signing
from shared_model.errors import OurMistake, Refused
from shared_model.noise import NoiseSource, SystemNoise
from shared_model.protocol import TrainRequest
from shared_model.roster import Roster

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
        missing = not (home.store / "manifest.json").is_file() or home.nothing_added.exists()
        if pretend.data is None and missing:
            raise Refused(
                "This node has no store of recordings yet.",
                reason="not-ready",
                do="Run: fedprint-node data add PATH",
            )
        if pretend.data is None:
            from client.store import check_withdrawals

            check_withdrawals(home)

    def data() -> PatientBatches:
        if pretend.data is not None:
            return pretend.data
        from client.store import open_store

        return open_store(home)

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
        check_model=node_training.check_model,
        dimension=node_training.dimension,
        train=functools.partial(node_training.train, home, gpus=config.training.gpus),
        log=log_to(home.logs / "rounds.log"),
        allow_unmasked=pretend.allow_unmasked,
        awake=functools.partial(check_awake, home),
        able=functools.partial(
            node_training.able,
            declared_patients=config.declared_patients,
            gpus=config.training.gpus,
        ),
    )


def outbox_of(home: NodeHome) -> Outbox:
    """Where the node of this folder keeps what it has answered."""
    return Outbox(home.outbox, home.never_back_up / "writes")


def epoch_keys(home: NodeHome) -> EpochKeys:
    """Where the node of this folder keeps its epoch key."""
    return EpochKeys(home.never_back_up, home.epochs)


@dataclass(frozen=True)
class HospitalRosters:
    """The roster book of this node under its policy and pinned root key, today."""

    book: RosterBook
    root_key: bytes
    policy: Policy

    def approved(self) -> Roster:
        """See `client.node_interfaces.Rosters`."""
        return self.book.current(self.root_key, self.policy, today_utc())

    def offer(self, data: bytes) -> Roster:
        """See `client.node_interfaces.Rosters`."""
        return self.book.offer(data, self.root_key, self.policy, today_utc())
