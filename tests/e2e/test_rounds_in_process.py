"""Three hospitals with their own homes, real private training, masked; a kill, a resume."""

from __future__ import annotations

import datetime
import random
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit" / "rounds"))

from round_stand_ins import Clock, FakeTransport

from client import keys
from client.home import NodeHome
from client.ledger_store import LedgerStore
from client.node_interfaces import PretendNode
from client.policy import AdvanceApproval, Policy
from client.rosters import RosterBook
from client.round import handle
from server import rosters, sites, tls
from server.checkpoints import RunFolder
from server.coordinate import StartingModel, begin, run
from server.epochs import EpochBook
from server.home import CoordinatorHome
from server.run_config import RunConfig
from shared_model import enrolment, mae, signing
from shared_model import weights as weights_io
from shared_model.accounting import epsilon_pld
from shared_model.enrolment import Invitation
from shared_model.noise import NonPrivateForTests
from shared_model.protocol import TrainReply
from shared_model.protocol_open import open_answer, open_train_request, readable

PATIENTS = {"north": 100, "east": 60, "south": 40}
IN_ADVANCE = AdvanceApproval(purposes=("pretrain",), modes=("local",), epsilon_per_run=3.0)
NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


class RandomPatients:
    """Patients of seeded noise, in memory."""

    def __init__(self, site: str) -> None:
        self.patient_count = PATIENTS[site]
        self.seed = sum(site.encode())

    def segments(self, patients, segments, rng):
        shape = (len(patients), segments, 2)
        generator = np.random.default_rng(self.seed)
        phase = generator.random(self.patient_count)[patients]
        time = np.arange(1250) / 125.0
        beat = np.sin(2 * np.pi * (time + phase[:, None]))[:, None, None, :]
        signal = np.broadcast_to(beat, (*shape, 1250)).astype(np.float32)
        return signal, np.ones((*shape, 50), dtype=bool)


class Consortium:
    """A coordinator's home and three hospitals' homes, enrolled as the commands do it."""

    def __init__(self, root: Path, pretend=None) -> None:
        self.coordinator = CoordinatorHome(root / "coordinator")
        self.coordinator.make()
        tls.make(self.coordinator, "localhost:9093", now=NOW)
        self.run_key = signing.create_key_file(self.coordinator.run_key)
        release_key = signing.create_key_file(self.coordinator.release_key)
        root_key = signing.create_key_file(root / "root" / "root.pem")
        self.root_public = signing.public_bytes(root_key)
        invitation = enrolment.seal(
            Invitation(
                address="localhost:9093",
                ca_certificate=self.coordinator.ca_certificate.read_text(),
                run_key=signing.public_bytes(self.run_key).hex(),
                release_key=signing.public_bytes(release_key).hex(),
                root_key=self.root_public.hex(),
            ),
            self.run_key,
        )
        self.homes = {}
        for site, patients in PATIENTS.items():
            home = NodeHome(root / site)
            keys.make(home, site, patients)
            Policy.write_default(
                home.policy, declared_patients=patients, approve_runs_in_advance=IN_ADVANCE
            )
            keys.join(home, invitation)
            sites.enrol(self.coordinator, keys.card_bytes(home))
            self.homes[site] = home
        today = rosters.today_utc()
        self.roster = rosters.sign_here(self.coordinator, root_key, today=today)
        for home in self.homes.values():
            policy = Policy.from_file(home.policy)
            RosterBook(home).approve(self.roster, self.root_public, policy, today)
        self.pretend = pretend or (lambda site: PretendNode(data=RandomPatients(site)))
        self.seeded = pretend is not None
        self.folder = RunFolder(self.coordinator.run_folder("spring"))

    def transport(self, **options) -> FakeTransport:
        def handler(site):
            home, pretend = self.homes[site], self.pretend(site)
            return lambda header, body: handle(home, header, body, pretend=pretend)

        return FakeTransport({site: handler(site) for site in PATIENTS}, **options)

    def begin(self, rounds: int = 3, **changes: object) -> None:
        config = RunConfig.from_dict(
            {
                "run": "spring",
                "preset": "tiny",
                "rounds": rounds,
                "privacy": {
                    "sample_rate": 0.05,
                    "noise_multiplier": 2.0,
                    "clipping_norm": 1.0,
                    "steps": 2,
                },
                "training": {"segments": 1},
                **changes,
                "minimum_contributors": 3,
                "deadline_s": 600.0,
            }
        )
        model = mae.build(mae.PRESETS["tiny"], 3)
        start = StartingModel(
            mae.PRESETS["tiny"], mae.weights_of(model), mae.trainable_names(model, "head")
        )
        begin(self.folder, config, self.roster, self.root_public, self.run_key, start)

    def run(self, transport, **options):
        clock = Clock()
        return run(
            transport,
            self.folder,
            self.run_key,
            EpochBook(self.coordinator.root / "epochs.json"),
            clock=clock,
            wall_clock=clock,
            wait=clock.wait,
            non_private_for_tests=self.seeded,
            **options,
        )


def repeatable(site, **options):
    return PretendNode(
        data=RandomPatients(site),
        noise=lambda request, name: NonPrivateForTests(request.run, name, request.round, 1),
        unlimited_budget=True,
        **options,
    )


def test_private_rounds_are_booked_signed_and_survive_a_kill(tmp_path):
    """DP on. The coordinator dies in round 2 with a submission on its way; the next start finishes;
    no hospital is asked to spend twice for a round, and every sum is verified."""
    consortium = Consortium(tmp_path)
    consortium.begin()

    class Killed(BaseException):
        pass

    arrived = []

    def kill(site, header, body):
        if readable(header)["kind"] == "train-reply":
            arrived.append(site)
        if len(arrived) == 5:
            raise Killed
        return header, body

    with pytest.raises(Killed):
        consortium.run(consortium.transport(tamper=kill))
    assert consortium.folder.record().completed == 1
    record = consortium.run(consortium.transport())
    assert record.state == "finished"
    assert [item.outcome for item in record.rounds] == ["aggregated"] * 3
    assert record.starts == 2
    plan = record.config.privacy
    keys_of = {item.site: item.identity for item in record.roster.sites}
    assert {consortium.folder.closing(number).state for number in (1, 2, 3)} == {"verified"}
    for site, home in consortium.homes.items():
        key = signing.load_key_file(home.identity_key)
        with LedgerStore.open(home, site, key) as store:
            chain = store.chain
        rows = chain.bookings
        assert [(row.run, row.round, row.private) for row in rows] == [
            ("spring", number, True) for number in (1, 2, 3)
        ]
        for item, row in zip(record.rounds, rows, strict=True):
            contributor = next(c for c in item.contributors if c.site == site)
            assert contributor.private
            reply = open_answer(contributor.header_bytes, keys_of[site], site=site)
            assert isinstance(reply, TrainReply)
            answered = chain.answer(row.run, row.round)
            assert answered is not None
            assert answered.update_digest == reply.body_digest
            assert row.model_in == item.model_in
            expected = epsilon_pld([plan] * item.round, row.delta)
            assert reply.privacy.epsilon == pytest.approx(expected, rel=1e-9)
    final = consortium.folder.weights(record)
    assert weights_io.digest(final) == record.model_digest
    frozen = set(final) - set(record.trainable)
    first = consortium.folder.weights(record, 0)
    assert all((final[name] == first[name]).all() for name in frozen)
    assert any((final[name] != first[name]).any() for name in record.trainable)


def test_repeatable_rounds_are_bit_identical_in_any_order_and_promise_nothing(tmp_path):
    digests = set()
    for seed in (1, 2):
        shuffle = random.Random(seed)

        def order(ids, shuffle=shuffle):
            return shuffle.sample(ids, len(ids))

        consortium = Consortium(tmp_path / str(seed), repeatable)
        consortium.begin(rounds=2)
        record = consortium.run(consortium.transport(order=order))
        assert record.state == "finished"
        for item in record.rounds:
            assert all(not c.private and c.privacy.epsilon is None for c in item.contributors)
        digests.add(record.model_digest)
    assert len(digests) == 1


def test_a_simulation_without_masks_has_the_same_model_to_the_bit(tmp_path):
    """The dangerous name switches the masks off, and nothing else."""
    masked = Consortium(tmp_path / "masked", repeatable)
    masked.begin(rounds=1)
    clear = Consortium(tmp_path / "clear", lambda site: repeatable(site, allow_unmasked=True))
    clear.begin(rounds=1, aggregation="UnmaskedForSimulation")
    digests = {one.run(one.transport()).model_digest for one in (masked, clear)}
    assert len(digests) == 1


def test_repeatable_noise_is_refused_by_a_hospitals_budget(tmp_path):
    def pretend(site):
        return PretendNode(data=RandomPatients(site), noise=repeatable(site).noise)

    consortium = Consortium(tmp_path, pretend)
    consortium.begin(rounds=1)
    record = consortium.run(consortium.transport())
    assert record.state == "paused"
    assert {item.reason for item in record.rounds[0].absent} == {"budget"}


@pytest.mark.parametrize("mode", ["local", "distributed"])
def test_a_server_step_with_a_state_is_verified_by_every_hospital(tmp_path, mode):
    """FedYogi and FedProx on updates, FedAdam on noisy gradients: the real model, masked; every sum
    has every hospital's receipt."""
    if mode == "local":
        changes = {
            "server_step": "fedyogi",
            "server_learning_rate": 0.01,
            "training": {"segments": 1, "proximal_weight": 0.5},
        }
    else:
        privacy = {"sample_rate": 0.2, "noise_multiplier": 2.0, "clipping_norm": 1.0, "steps": 1}
        changes = {
            "server_step": "fedadam",
            "privacy": {**privacy, "mode": "distributed"},
            "training": {"segments": 1, "optimiser": "sgd", "learning_rate": 0.01},
        }
    consortium = Consortium(tmp_path, repeatable)
    for site, home in consortium.homes.items():
        home.policy.unlink()
        Policy.write_default(
            home.policy,
            declared_patients=PATIENTS[site],
            allowed_modes=("local", "distributed"),
            approve_runs_in_advance=AdvanceApproval(
                purposes=("pretrain",), modes=("local", "distributed"), epsilon_per_run=3.0
            ),
        )
    consortium.begin(rounds=2, **changes)
    record = consortium.run(consortium.transport())
    assert record.state == "finished", record.pause
    for number in (1, 2):
        assert len(consortium.folder.closing(number).receipts) == 3
    first, last = (consortium.folder.standing(record, number) for number in (0, 2))
    item = record.rounds[0]
    assert item.parts is not None
    assert item.parts.joined == item.model_out
    trained = {name: first[name] for name in record.trainable}
    request = open_train_request(item.request_bytes, bytes.fromhex(record.run_key))
    moments = request.plan.step.begin(trained)
    assert set(last) == set(first) | set(moments)
    assert any((last[name] != moments[name]).any() for name in moments)
    assert all(np.isfinite(value).all() for value in last.values())
    moved = max(np.abs(last[name] - first[name]).max() for name in record.trainable)
    assert 0.0 < moved < 0.05
