"""A finished run of three hospitals, of really signed messages and sums, without training."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from ledger_stand_ins import CODE, answering, booking, head_of, note_of, opened
from sum_stand_ins import Epoch, Summed, finish, roster_of, submit

from client.home import NodeHome
from server.checkpoints import (
    AbsentRecord,
    ClosingRecord,
    ContributorRecord,
    RoundRecord,
    RunFolder,
    RunRecord,
    StoredReply,
    as_base64,
)
from server.home import CoordinatorHome
from server.run_config import RunConfig
from shared_model import accounting, canonical, ledger, protocol, roster, signing
from shared_model import weights as weights_io
from shared_model.config import LocalTraining, ModelConfig, PrivacyPlan, ServerMoments
from shared_model.ledger import Chain
from shared_model.noise import SystemNoise
from shared_model.release import ModelParts
from shared_model.secure_sum.transcript import Transcript, of_request
from shared_model.weights import Weights

PLAN = PrivacyPlan(0.1, 2.0, 1.0, 10)
DECLARED = {"alpha": 1000, "beta": 260, "gamma": 500, "delta": 300, "epsilon": 40}
DAY = "2026-11-21"


def key_of(name: str) -> Ed25519PrivateKey:
    """A fixed key for a name; tests only."""
    return Ed25519PrivateKey.from_private_bytes(name.encode().ljust(32, b"."))


def public(name: str) -> bytes:
    return signing.public_bytes(key_of(name))


@dataclass
class Story:
    """How the run went; each field bends one thing.

    silent: sites whose answer in the closing exchange is missing, by round. receipts: how many
    sites signed one, by round. wrong_sum: rounds whose published sum is not the sum. adam: the
    server step has a state.
    """

    run: str = "spring"
    rounds: int = 3
    closed: tuple[int, ...] = ()
    sites: tuple[str, ...] = ("alpha", "beta", "gamma")
    contributors: dict[int, tuple[str, ...]] = field(default_factory=dict)
    noise: str = SystemNoise.name
    private: bool = True
    minimum: int = 2
    threshold: int = 2
    signer_of: dict[str, str] = field(default_factory=dict)
    plan: PrivacyPlan = PLAN
    lifetime: float | None = None
    start: Weights | None = None
    seed: int = 3
    root: str = "root"
    unmasked: bool = False
    silent: dict[int, tuple[str, ...]] = field(default_factory=dict)
    receipts: dict[int, int] = field(default_factory=dict)
    wrong_sum: tuple[int, ...] = ()
    version: int = 1
    adam: bool = False


ADAM = {
    "version": 4,
    "server_step": "fedadam",
    "server_learning_rate": 0.05,
    "server_moments": ServerMoments(),
}


def parts_of(weights: Weights) -> ModelParts | None:
    """As a run's record has them."""
    model, state = weights_io.parts(weights)
    if not state:
        return None
    return ModelParts(weights=weights_io.digest(model), state=weights_io.state_digest(state))


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
    """Write the folder of a finished run, as the coordinator does."""
    config, weights = model or small_model()
    weights = dict(story.start or weights)
    folder = RunFolder(home.run_folder(story.run))
    made = roster_of(story.sites, DECLARED, key_of, story.threshold, story.version)
    writer = _Writer(folder, story, config, Epoch.of(made, 7, key_of), sorted(weights)[0])
    start = weights_io.digest(weights)
    folder.save_weights(0, weights)
    records = []
    for number in range(1, story.rounds + 1):
        item, weights = writer.round(number, weights)
        records.append(item)
    run_config = RunConfig.from_dict(
        {
            "run": story.run,
            "preset": config.preset,
            "rounds": story.rounds,
            "privacy": story.plan.as_dict(),
            "minimum_contributors": story.minimum,
            "aggregation": "UnmaskedForSimulation" if story.unmasked else "secure-sum",
        }
    )
    document = roster.sign(made, key_of(story.root)).to_bytes()
    folder.save(
        RunRecord(
            run=story.run,
            config=run_config,
            model=config,
            root_key=public(story.root).hex(),
            rosters=(as_base64(document),),
            run_key=public("run").hex(),
            software="test",
            initial_model=start,
            trainable=(writer.trained,),
            starts=1,
            state="finished",
            rounds=tuple(records),
        )
    )
    return folder


@dataclass
class _Writer:
    folder: RunFolder
    story: Story
    config: ModelConfig
    epoch: Epoch
    trained: str
    plans: list[PrivacyPlan] = field(default_factory=list)
    ledgers: dict[str, Chain] = field(default_factory=dict)

    def round(self, number: int, weights: Weights) -> tuple[RoundRecord, Weights]:
        """One round, aggregated or closed; its record and the model after it."""
        story = self.story
        self.plans.append(story.plan)
        model_in = weights_io.digest(weights)
        request, header = self._request(number, weights)
        transcript = of_request(request, self.epoch.roster.weights)
        sites = story.contributors.get(number, story.sites)
        headers, bodies, told = {}, {}, {}
        rng = np.random.default_rng([story.seed, number])
        like = {self.trained: weights[self.trained]}
        for site in sites:
            update = rng.standard_normal(like[self.trained].shape) * 1e-3
            bodies[site] = submit(
                self.epoch, site, transcript, {self.trained: update.astype(np.float32)}
            )
            reply = self._reply(request, header, transcript, site, bodies[site])
            headers[site] = protocol.seal(reply, key_of(story.signer_of.get(site, site)))
            told[site] = ContributorRecord(
                site=site,
                header=as_base64(headers[site]),
                body_digest=reply.body_digest,
                weight=reply.weight,
                noise=reply.noise,
                private=reply.private,
                privacy=reply.privacy,
            )
        closed = number in story.closed
        summed = None
        if not closed:
            trained = [self.trained]
            summed = finish(self.epoch, request, transcript, headers, bodies, weights, trained)
            weights = summed.model
            self.folder.save_weights(number, weights)
            for site in sites:
                self.folder.round(number).store_submission(
                    StoredReply(site, headers[site], bodies[site])
                )
            self._store(number, summed)
        item = RoundRecord(
            round=number,
            outcome="closed" if closed else "aggregated",
            model_in=model_in,
            model_out=weights_io.digest(weights),
            parts=None if closed else parts_of(weights),
            participants=story.sites,
            request=as_base64(header),
            request_digest=protocol.header_digest(header),
            transcript=transcript.digest.hex(),
            survivors=() if closed else tuple(sorted(sites)),
            sum_digest="" if summed is None else canonical.digest(summed.packed),
            agreements={}
            if summed is None
            else {site: as_base64(one) for site, one in summed.agreements.items()},
            contributors=() if closed else tuple(told.values()),
            absent=tuple(
                AbsentRecord(site=one.site, ending="unused", header=one.header)
                for one in (told.values() if closed else ())
            ),  # as `server.desk.Desk.record` writes a round that closed
            incidents=(),
            opened_at=0.0,
            ended_at=1.0,
        )
        return item, weights

    def _request(self, number: int, weights: Weights) -> tuple[protocol.TrainRequest, bytes]:
        story = self.story
        changes = {"aggregation": "UnmaskedForSimulation"} if story.unmasked else {}
        step = ADAM if story.adam else {"server_learning_rate": 1.0}
        request = protocol.TrainRequest(
            run=story.run,
            round=number,
            start=1,
            preset=self.config.preset,
            config_digest=self.config.digest,
            model_digest=weights_io.digest(weights),
            body_digest=canonical.digest(weights_io.to_bytes(weights)),
            privacy=story.plan,
            training=LocalTraining(),
            **step,
            rounds=story.rounds,
            bookings=story.rounds + 3,
            code_digest=CODE,
            ledger_heads=tuple(
                protocol.KnownHead(site=site, **head_of(chain, key_of(site)).model_dump())
                for site, chain in sorted(self.ledgers.items())
            ),
            participants=tuple(
                protocol.Participant(site=site, declared_patients=DECLARED[site])
                for site in story.sites
            ),
            minimum_contributors=story.minimum,
            sum=self.epoch.plan(story.sites, weights[self.trained].size, **changes),
            deadline_s=60.0,
            software="test",
        )
        return request, protocol.seal(request, key_of("run"))

    def _reply(
        self,
        request: protocol.TrainRequest,
        header: bytes,
        transcript: Transcript,
        site: str,
        body: bytes,
    ) -> protocol.TrainReply:
        story = self.story
        epsilon = story.lifetime or accounting.epsilon_pld(self.plans, 1e-5)
        epsilon = epsilon if story.private else None
        return protocol.TrainReply(
            run=request.run,
            round=request.round,
            site=site,
            request_digest=protocol.header_digest(header),
            transcript=transcript.digest.hex(),
            body_digest=canonical.digest(body),
            declared_patients=DECLARED[site],
            weight=transcript.weight(site),
            noise=story.noise,
            private=story.private,
            privacy=protocol.PrivacyStatement(epsilon=epsilon, delta=1e-5),
            ledger=self._booked(request, header, transcript, site, epsilon, body),
            software="test",
        )

    def _booked(
        self,
        request: protocol.TrainRequest,
        header: bytes,
        transcript: Transcript,
        site: str,
        epsilon: float | None,
        body: bytes,
    ) -> protocol.LedgerNote:
        """The site's ledger goes on by what it books and answers."""
        key, known = key_of(site), request.known_head(site)
        chain = self.ledgers.get(site) or opened(site, key)
        booked = booking(
            chain,
            request,
            request_digest=protocol.header_digest(header),
            transcript=transcript.digest.hex(),
            epsilon=epsilon,
            noise=self.story.noise,
            declared_patients=DECLARED[site],
        )
        chain = chain.extended([ledger.seal(booked, key)])
        answer = answering(chain, request.run, request.round, canonical.digest(body))
        chain = self.ledgers[site] = chain.extended([ledger.seal(answer, key)])
        return note_of(chain, key, 0 if known is None else known.length)

    def _store(self, number: int, summed: Summed) -> None:
        story = self.story
        packed = summed.packed
        if number in story.wrong_sum:
            packed = bytes([packed[0] ^ 1]) + packed[1:]
        silent = story.silent.get(number, ())
        answers = {site: one for site, one in summed.answers.items() if site not in silent}
        kept = story.receipts.get(number, len(summed.receipts))
        receipts = dict(list(summed.receipts.items())[:kept])
        self.folder.save_sum(
            number,
            packed,
            summed.statement,
            ClosingRecord(
                round=number,
                state="verified",
                survivors=tuple(summed.answers),
                needed=story.threshold,
                statement_digest=canonical.digest(summed.statement),
                answers={site: as_base64(one) for site, one in answers.items()},
                receipts={site: as_base64(one) for site, one in receipts.items()},
            ),
        )


def node_at(root: Path, scratch: Path) -> NodeHome:
    """A node that has joined, and whose operator has approved the roster of a plain `Story`."""
    home = NodeHome.find(root)
    home.make()
    home.coordinator.write_bytes(invitation(scratch))
    approve(home, roster_of(Story().sites, DECLARED, key_of, Story().threshold))
    return home


def approve(home: NodeHome, approved: roster.Roster) -> None:
    """As `client.rosters` keeps what counted at this node."""
    home.rosters.mkdir(exist_ok=True)
    signed = roster.sign(approved, key_of("root")).to_bytes()
    (home.rosters / f"{approved.version:06d}-{approved.digest}.json").write_bytes(signed)


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
        root_key=public("root").hex(),
    )
    return enrolment.seal(card, key_of("run"))
