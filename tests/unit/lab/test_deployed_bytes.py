"""The predicted bytes are those of a real round: of coordinator and nodes, counted on their way."""

from __future__ import annotations

import datetime
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from server.run_config import RunConfig
from shared_model import mae, protocol_open
from shared_model import weights as weights_io
from shared_model.errors import OurMistake
from simulations import federation
from simulations.lab import algorithms, conduct
from simulations.lab.deployed_bytes import round_of
from simulations.lab.deployed_messages import MODEL, DeployedRound
from simulations.lab.experiment import Experiment
from simulations.lab.plan_check import check

TRIPS = {
    "train-request": ("submit", True),
    "train-reply": ("submit", False),
    "agree-request": ("agree", True),
    "agreement": ("agree", False),
    "open-request": ("open", True),
    "shares-reply": ("open", False),
    "close-request": ("close", True),
    "close-reply": ("close", False),
    "verify-request": ("verify", True),
    "sum-receipt": ("verify", False),
}
DIGITS = 40
"""Bytes by which a header may differ: names and numbers have other digits."""


@dataclass
class Counting:
    """Hospitals of a federation, and the sizes of all that goes to and from one of them."""

    hospitals: federation.Federation
    site: str
    seen: dict[tuple[str, int], tuple[int, int]] = field(default_factory=dict)

    def handle(self, site: str, header: bytes, body: bytes) -> tuple[bytes, bytes]:
        answer = self.hospitals.handle(site, header, body)
        for one, content in ((header, body), answer):
            told = protocol_open.readable(one)
            if site == self.site:
                self.seen[told["kind"], told.get("round", 0)] = (len(one), len(content))
        return answer


def waves(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Windows without meaning."""
    signal = rng.standard_normal((count, 2, 1250)).astype(np.float32)
    return signal, np.ones((count, 2, 50), dtype=bool)


@pytest.fixture(scope="module", params=["local", "distributed", "fedadam"])
def both(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Counting, DeployedRound]:
    """Two rounds of four hospitals as they were, and the prediction."""
    shared = request.param == "distributed"
    adam = {"server_step": "fedadam", "server_learning_rate": 0.01}
    declared = {f"site-{place:03d}": 4 for place in range(1, 5)}
    config = RunConfig.from_dict(
        {
            "run": "counted",
            "preset": "tiny",
            "rounds": 2,
            "begin_with": "random-weights",
            "privacy": {
                "sample_rate": 0.25,
                "noise_multiplier": 2.0,
                "clipping_norm": 1.0,
                "steps": 1,
                "mode": "distributed" if shared else "local",
            },
            **(adam if request.param == "fedadam" else {}),
            "training": {
                "optimiser": "sgd" if shared else "adam",
                "segments": 1,
                "proximal_weight": 0.5 if request.param == "fedadam" else 0.0,
            },
            "poll_s": 0.01,
        }
    )
    place: Path = tmp_path_factory.mktemp("consortium")
    made = federation.found(
        place,
        declared,
        windows_per_patient=1,
        seed=1,
        repeatable=False,
        epsilon=100.0,
        now=datetime.datetime.now(datetime.UTC),
        draw=waves,
    )
    counting = Counting(made, "site-001")
    record = federation.train(made, config, hospitals=counting)
    assert record.state == "finished"
    threshold = record.roster.threshold
    return counting, round_of(config, declared=list(declared.values()), threshold=threshold)


def test_each_message_has_the_predicted_size(both: tuple[Counting, DeployedRound]) -> None:
    """Headers but for digits; bodies to the byte where they hold no headers."""
    counting, found = both
    predicted = {(one.trip, one.to_site): one for one in found.messages}
    for kind, key in TRIPS.items():
        header, body = counting.seen[kind, 2]
        assert predicted[key].header == pytest.approx(header, abs=DIGITS), kind
        exact = kind not in ("verify-request", "close-request")
        assert predicted[key].body == pytest.approx(body, abs=0 if exact else 4 * DIGITS), kind


def test_an_epoch_has_the_predicted_size(both: tuple[Counting, DeployedRound]) -> None:
    """The request for keys with its roster, and the answer."""
    counting, found = both
    sizes = {one.to_site: one for one in found.messages if one.trip == "epoch"}
    for kind, to_site in (("epoch-request", True), ("epoch-key", False)):
        header, body = counting.seen[kind, 0]
        assert sizes[to_site].header == pytest.approx(header, abs=DIGITS)
        assert sizes[to_site].body == pytest.approx(body, abs=DIGITS)


def test_a_round_s_bytes_are_those_of_the_run(both: tuple[Counting, DeployedRound]) -> None:
    """Down and up at one site, in the second round, an epoch left out: within 0.1 %."""
    counting, found = both
    down = sum(sum(counting.seen[kind, 2]) for kind, (_, to_site) in TRIPS.items() if to_site)
    up = sum(sum(counting.seen[kind, 2]) for kind, (_, to_site) in TRIPS.items() if not to_site)
    epoch = [one for one in found.messages if one.trip == "epoch"]
    assert found.down - sum(found.share(one) for one in epoch if one.to_site) == pytest.approx(
        down, rel=1e-3
    )
    assert found.up - sum(found.share(one) for one in epoch if not one.to_site) == pytest.approx(
        up, rel=1e-3
    )


def test_a_state_is_in_every_request_but_the_first(
    both: tuple[Counting, DeployedRound],
) -> None:
    """What the planner takes off once is what the first body lacks; FedAvg has none."""
    counting, found = both
    first, second = (counting.seen["train-request", number][1] for number in (1, 2))
    assert second - first == found.state
    predicted = next(one.body for one in found.messages if one.what == MODEL)
    assert (first, second) == (predicted - found.state, predicted)


@pytest.mark.parametrize("step", ["fedavg", "fedadam", "fedyogi"])
def test_the_lab_counts_the_bodies_that_the_step_makes(tmp_path: Path, step: str) -> None:
    """Model alone until a round is aggregated, model and state after; the planner says the same."""
    adam = {} if step == "fedavg" else {"server_learning_rate": 0.01}
    experiment = Experiment.from_dict(
        {
            "name": "counted",
            "rounds": 3,
            "model": {"begin_with": "random-weights"},
            "federation": {
                "source": "waves",
                "hospitals": 3,
                "patients": 4,
                "windows_per_patient": 1,
                "held_out": 0.0,
            },
            "algorithm": {"name": step, "steps": 1, "segments": 1, **adam},
            "privacy": {"noise_multiplier": 3.0, "sample_rate": 0.3},
            "evaluation": {"every": 3},
            "engine": {"workers": 1},
        }
    )
    rows = conduct.run(experiment, tmp_path / "out").rounds().to_pylist()
    model = mae.build(mae.PRESETS["tiny"], 0)
    weights = mae.weights_of(model)
    trained = {name: weights[name] for name in mae.trainable_names(model, "head")}
    state = algorithms.server_step(experiment.algorithm, "local").begin(trained)
    assert bool(state) == (step != "fedavg")
    bodies = [len(weights_io.to_bytes(found)) for found in (weights, weights | state)]
    assert [row["bytes_down"] for row in rows] == [3 * bodies[0], 3 * bodies[1], 3 * bodies[1]]
    found = {row.figure: row for row in check(tmp_path / "out", timed=False)}
    assert found["bytes down, model"].error_percent == 0.0


def test_a_roster_has_its_limits() -> None:
    """One hospital, or 256, make no deployed round."""
    config = RunConfig.from_dict(
        {
            "run": "counted",
            "preset": "tiny",
            "rounds": 1,
            "privacy": {
                "sample_rate": 0.1,
                "noise_multiplier": 2.0,
                "clipping_norm": 1.0,
                "steps": 1,
            },
        }
    )
    for count in (1, 256):
        with pytest.raises(OurMistake, match="2 to 255 hospitals"):
            round_of(config, declared=[100] * count, threshold=2)
    assert round_of(config, declared=[100] * 255, threshold=171).up > 0.0
