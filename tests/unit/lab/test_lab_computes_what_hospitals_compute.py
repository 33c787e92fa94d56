"""The lab's rounds make the model that the deployed protocol makes, to the last bit."""

from __future__ import annotations

import datetime
import warnings
from pathlib import Path

import numpy as np
import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Flower and Typer about themselves
    import simulations.in_process_grid  # noqa: F401

from server.run_config import RunConfig
from server.run_records import RunRecord
from shared_model import canonical
from shared_model.secure_sum.primitives import tagged_hash
from simulations import federation
from simulations.federation import Federation, SimulatedPatients
from simulations.lab import conduct, hospital, sources
from simulations.lab.data import FederationData, PatientRows, SiteInfo, write_federation
from simulations.lab.experiment import Experiment

SITES = {"alpha": 12, "beta": 40, "gamma": 16}
NOW = datetime.datetime(2026, 11, 21, tzinfo=datetime.UTC)
RUN, SEED, ROUNDS = "twin", 5, 2
LOCAL = {
    "privacy": {"sample_rate": 0.25, "noise_multiplier": 1.0, "clipping_norm": 1.0},
    "algorithm": {"steps": 2, "segments": 1},
}
DISTRIBUTED = {
    "privacy": {
        "mode": "distributed",
        "sample_rate": 0.25,
        "noise_multiplier": 1.0,
        "clipping_norm": 1.0,
        "threshold": 3,
    },
    "algorithm": {"steps": 1, "segments": 1, "optimiser": "sgd", "learning_rate": 0.1},
}
ADAPTIVE = {
    "privacy": LOCAL["privacy"],
    "algorithm": {
        **LOCAL["algorithm"],
        "name": "fedyogi",
        "server_learning_rate": 0.01,
        "proximal_weight": 0.5,
    },
}
ADAPTERS = {
    "privacy": LOCAL["privacy"],
    "algorithm": {**LOCAL["algorithm"], "name": "fedadam", "server_learning_rate": 0.01},
    "model": {"trainable": "adapters"},
}
SERVER = {"name": "server_step", "server_learning_rate": "server_learning_rate"}
"""What an experiment's algorithm says of the server, and an operator's run."""


def waves(rng: np.random.Generator, windows: int) -> tuple[np.ndarray, np.ndarray]:
    """Windows of noisy sines."""
    time_s = np.arange(1250) / 125.0
    signal = np.sin(2 * np.pi * rng.uniform(0.8, 2.0, (windows, 2, 1)) * time_s)
    signal = signal + 0.2 * rng.standard_normal(signal.shape)
    return signal.astype(np.float32), np.ones((windows, 2, 50), dtype=bool)


def deployed(root: Path, settings: dict[str, dict[str, object]]) -> tuple[Federation, RunRecord]:
    """A run of the whole protocol, masks off."""
    place = federation.found(
        root,
        SITES,
        windows_per_patient=3,
        seed=SEED,
        repeatable=True,
        now=NOW,
        draw=waves,
        unmasked=True,
    )
    privacy = {name: value for name, value in settings["privacy"].items() if name != "threshold"}
    algorithm = settings["algorithm"]
    training = {name: algorithm[name] for name in algorithm if name not in ("steps", *SERVER)}
    server = {SERVER[name]: algorithm[name] for name in algorithm if name in SERVER}
    config = {
        "run": RUN,
        "preset": "tiny",
        "begin_with": "random-weights",
        "rounds": ROUNDS,
        "privacy": privacy | {"steps": settings["algorithm"]["steps"]},
        "training": training | settings.get("model", {}),
        **server,
        "aggregation": "UnmaskedForSimulation",
        "poll_s": 0.05,
    }
    return place, federation.train(place, RunConfig.from_dict(config))


def written(folder: Path) -> FederationData:
    """A federation of the same sites; its windows are not looked at."""

    def sites():
        for name, declared in SITES.items():
            rows = PatientRows(
                np.zeros((declared, 2, 1250), dtype=np.float32),
                np.ones((declared, 2, 50), dtype=bool),
                np.ones(declared, dtype=np.int64),
                np.zeros(declared, dtype=bool),
                {},
            )
            yield SiteInfo(name, declared, "twin"), rows

    return write_federation(folder, sites(), {"kind": "waves"})


@pytest.mark.parametrize(
    "settings",
    [LOCAL, DISTRIBUTED, ADAPTIVE, ADAPTERS],
    ids=["local", "distributed", "fedyogi and fedprox", "adapters and fedadam"],
)
def test_the_lab_makes_the_model_that_hospitals_make(
    settings: dict[str, dict[str, object]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same patients, seeds and declared numbers: the same SHA-256 after every round, through the
    lab's whole way (participation, ClientApp, shared memory, sum, step) and through the protocol's.
    """
    place, record = deployed(tmp_path / "deployed", settings)
    models = [record.initial_model, *(str(one.model_out) for one in record.rounds)]

    def rotation(experiment: Experiment, number: int) -> bytes:
        public = {"run": RUN, "round": number, "model_digest": models[number - 1]}
        return tagged_hash("rotation", canonical.encode(public))

    def patients(self: FederationData, site: int, *, held_out: bool = False) -> SimulatedPatients:
        return SimulatedPatients(place.home(self.sites[site].name).root / "pretend")

    data = written(tmp_path / "federation")
    monkeypatch.setattr(conduct, "rotation_seed", rotation)
    monkeypatch.setattr(hospital, "NOISE_RUN", RUN)
    monkeypatch.setattr(FederationData, "patients", patients)
    monkeypatch.setattr(sources, "prepare", lambda *_: data)
    experiment = Experiment.from_dict(
        {
            "name": "twin",
            "seed": SEED,
            "rounds": ROUNDS,
            "federation": {"source": "waves", "hospitals": 3, "patients": 2, "held_out": 0.0},
            "evaluation": {"every": 100},
            "engine": {"workers": 1},
            **settings,
            "model": {"begin_with": "random-weights", **settings.get("model", {})},
        }
    )
    monkeypatch.setattr(conduct.evaluate, "evaluate", lambda *_, **__: [])
    result = conduct.run(experiment, tmp_path / "lab")
    made = [one.model_out if one.parts is None else one.parts.weights for one in record.rounds]
    assert result.rounds()["model"].to_pylist() == made
    assert len(set(models)) == ROUNDS + 1
