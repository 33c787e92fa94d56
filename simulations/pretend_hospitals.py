"""A consortium of pretend hospitals: the same homes, keys, stores, policies and books as real ones.

What differs from a deployment: one person holds all keys, nothing travels over a network, and with
a seed the noise repeats itself and protects nobody.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from client import keys
from client.home import NodeHome
from client.policy import Policy
from client.round import PretendNode, handle
from server import sites, superlink, tls
from server.home import CoordinatorHome
from server.run_config import RosterSite
from shared_model import enrolment, signing
from shared_model.noise import NoiseSource, NonPrivateForTests
from shared_model.protocol import TrainRequest

NOWHERE = "localhost:9"
"""The address in pretend invitations; nothing ever connects to it."""


@dataclass(frozen=True)
class PretendHospitals:
    """Answers for every hospital below `root`; see `simulations.in_process_grid.Hospitals`.

    seed: None for the operating system's noise, as in a deployed node. A number makes rounds
    repeatable and **not private**, whatever the plan says.
    """

    root: Path
    seed: int | None = None

    def home(self, site: str) -> NodeHome:
        return NodeHome(self.root / site)

    def handle(self, site: str, header: bytes, body: bytes) -> tuple[bytes, bytes]:
        """What this hospital answers to a message."""
        pretend = PretendNode()
        if self.seed is not None:
            pretend = PretendNode(noise=self._repeatable, unlimited_budget=True)
        return handle(self.home(site), header, body, pretend=pretend)

    def _repeatable(self, request: TrainRequest, site: str) -> NoiseSource:
        return NonPrivateForTests(request.run, site, request.round, self.seed or 0)


def found(
    root: Path,
    patients: Mapping[str, int],
    *,
    epsilon: float,
    minimum_contributors: int,
    address: str = NOWHERE,
) -> CoordinatorHome:
    """Make the homes of a coordinator and of these hospitals, enrolled, pinned and with policies.

    Args:
        patients: site -> declared number.
        epsilon: of each hospital's policy, for life and for a run.
    """
    coordinator = CoordinatorHome(root / "coordinator")
    coordinator.make()
    tls.make(coordinator, address, now=datetime.datetime.now(datetime.UTC))
    run_key = signing.create_key_file(coordinator.run_key)
    release_key = signing.create_key_file(coordinator.release_key)
    superlink.write_config(coordinator, superlink.CoordinatorConfig(address=address))
    invitation = enrolment.seal(
        enrolment.Invitation(
            address=address,
            ca_certificate=coordinator.ca_certificate.read_text(),
            run_key=signing.public_bytes(run_key).hex(),
            release_key=signing.public_bytes(release_key).hex(),
        ),
        run_key,
    )
    for site, declared in patients.items():
        home = NodeHome(root / site)
        keys.make(home, site, declared)
        Policy.write_default(
            home.policy,
            declared_patients=declared,
            epsilon_lifetime=epsilon,
            epsilon_per_run=epsilon,
            minimum_contributors=minimum_contributors,
            allow_insecure_aggregation=True,
        )
        keys.join(home, invitation)
        sites.enrol(coordinator, keys.card_bytes(home))
    return coordinator


def roster(coordinator: CoordinatorHome) -> list[RosterSite]:
    """The enrolled hospitals as a run takes them."""
    return [RosterSite.of(card) for card in sites.roster(coordinator)]
