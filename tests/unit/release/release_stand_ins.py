"""A finished run of three hospitals, made of really signed messages but without any training."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client.home import NodeHome
from server.checkpoints import (
    AbsentRecord,
    ContributorRecord,
    RoundRecord,
    RunFolder,
    RunRecord,
    as_base64,
)
from server.home import CoordinatorHome
from server.run_config import RosterSite, RunConfig
from shared_model import accounting, canonical, protocol, signing
from shared_model import weights as weights_io
from shared_model.config import LocalTraining, ModelConfig, PrivacyPlan
from shared_model.noise import SystemNoise
from shared_model.weights import Weights

PLAN = PrivacyPlan(0.1, 2.0, 1.0, 10)
DECLARED = {"alpha": 1000, "beta": 260, "gamma": 500}
DAY = "2026-11-21"


def key_of(name: str) -> Ed25519PrivateKey:
    """A fixed key for a name; tests only."""
    return Ed25519PrivateKey.from_private_bytes(name.encode().ljust(32, b"."))


def public(name: str) -> bytes:
    return signing.public_bytes(key_of(name))


@dataclass
class Story:
    """How the run went; each field bends one thing."""

    run: str = "spring"
    rounds: int = 3
    closed: tuple[int, ...] = ()
    sites: tuple[str, ...] = ("alpha", "beta", "gamma")
    contributors: dict[int, tuple[str, ...]] = field(default_factory=dict)
    noise: str = SystemNoise.name
    private: bool = True
    minimum: int = 2
    signer_of: dict[str, str] = field(default_factory=dict)
    plan: PrivacyPlan = PLAN
    lifetime: float | None = None
    start: Weights | None = None
    seed: int = 3


def small_model() -> tuple[ModelConfig, Weights]:
    """A model of two layers, for tests that never run it."""
    rng = np.random.default_rng(5)
    config = ModelConfig("tiny", 8, 2, 1, 1, 8, 1)
    return config, {
        "head": rng.standard_normal((3, 2)).astype(np.float32),
        "trunk": rng.standard_normal((4, 3)).astype(np.float32),
    }


def write_run(
    home: CoordinatorHome, story: Story, model: tuple[ModelConfig, Weights] | None = None
) -> RunFolder:
    """Write the folder of a finished run."""
    config, weights = model or small_model()
    weights = story.start or weights
    folder = RunFolder(home.run_folder(story.run))
    rng = np.random.default_rng(story.seed)
    participants = tuple(
        protocol.Participant(site=site, declared_patients=DECLARED[site]) for site in story.sites
    )
    start = weights_io.digest(weights)
    folder.save_weights(0, weights)
    records = []
    plans: list[PrivacyPlan] = []
    for number in range(1, story.rounds + 1):
        plans.append(story.plan)
        model_in = weights_io.digest(weights)
        request = protocol.seal(
            protocol.TrainRequest(
                run=story.run,
                round=number,
                start=1,
                preset=config.preset,
                config_digest=config.digest,
                model_digest=model_in,
                body_digest=canonical.digest(weights_io.to_bytes(weights)),
                privacy=story.plan,
                training=LocalTraining(),
                participants=participants,
                minimum_contributors=story.minimum,
                insecure_aggregation=True,
                deadline_s=60.0,
                software="test",
            ),
            key_of("run"),
        )
        contributors = []
        for site in story.contributors.get(number, story.sites):
            update = {"head": rng.standard_normal((3, 2)).astype(np.float32)}
            epsilon = story.lifetime or accounting.epsilon_pld(plans, 1e-5)
            reply = protocol.TrainReply(
                run=story.run,
                round=number,
                site=site,
                request_digest=protocol.header_digest(request),
                update_digest=weights_io.digest(update),
                body_digest=canonical.digest(weights_io.to_bytes(update)),
                declared_patients=DECLARED[site],
                weight=protocol.aggregation_weight(DECLARED[site], participants),
                noise=story.noise,
                private=story.private,
                privacy=protocol.PrivacyStatement(
                    epsilon=epsilon if story.private else None, delta=1e-5
                ),
                software="test",
            )
            header = protocol.seal(reply, key_of(story.signer_of.get(site, site)))
            contributors.append(
                ContributorRecord(
                    site=site,
                    header=as_base64(header),
                    update_digest=reply.update_digest,
                    weight=reply.weight,
                    noise=reply.noise,
                    private=reply.private,
                    privacy=reply.privacy,
                )
            )
        if number not in story.closed:
            shift = {
                name: rng.standard_normal(value.shape).astype(np.float32) * np.float32(1e-3)
                for name, value in weights.items()
            }
            weights = {name: value + shift[name] for name, value in weights.items()}
            folder.save_weights(number, weights)
        records.append(
            RoundRecord(
                round=number,
                outcome="closed" if number in story.closed else "aggregated",
                model_in=model_in,
                model_out=weights_io.digest(weights),
                participants=story.sites,
                request=as_base64(request),
                request_digest=protocol.header_digest(request),
                contributors=() if number in story.closed else tuple(contributors),
                absent=tuple(
                    AbsentRecord(site=one.site, ending="unused", header=one.header)
                    for one in (contributors if number in story.closed else ())
                ),  # as `server.desk.Desk.record` writes a round that closed
                incidents=(),
                opened_at=0.0,
                ended_at=1.0,
            )
        )
    run_config = RunConfig.from_dict(
        {
            "run": story.run,
            "preset": config.preset,
            "rounds": story.rounds,
            "privacy": story.plan.as_dict(),
            "insecure_aggregation": True,
            "minimum_contributors": story.minimum,
        }
    )
    folder.save(
        RunRecord(
            run=story.run,
            config=run_config,
            model=config,
            roster=tuple(
                RosterSite(
                    site=site, identity_key=public(site).hex(), declared_patients=DECLARED[site]
                )
                for site in story.sites
            ),
            run_key=public("run").hex(),
            insecure_aggregation=True,
            software="test",
            initial_model=start,
            trainable=("head",),
            starts=1,
            state="finished",
            rounds=tuple(records),
        )
    )
    return folder


def node_at(root: Path, scratch: Path) -> NodeHome:
    home = NodeHome.find(root)
    home.make()
    home.coordinator.write_bytes(invitation(scratch))
    return home


def invitation(scratch: Path) -> bytes:
    """coordinator.json with the keys "run" and "release"."""
    import datetime

    from server import tls
    from shared_model import enrolment

    place = CoordinatorHome.find(scratch / "tls-of-a-test")
    if not place.ca_certificate.exists():
        tls.make(place, "127.0.0.1:8443", now=datetime.datetime.now(datetime.UTC))
    card = enrolment.Invitation(
        address="127.0.0.1:8443",
        ca_certificate=place.ca_certificate.read_text(),
        run_key=public("run").hex(),
        release_key=public("release").hex(),
    )
    return enrolment.seal(card, key_of("run"))
