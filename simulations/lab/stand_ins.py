"""Until the other parts land: waves, everybody answers, FedAvg, no figures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from shared_model.canonical import digest_of
from shared_model.config import ModelConfig
from shared_model.errors import OurMistake
from shared_model.server_step import FedAvg
from shared_model.weights import Weights
from simulations.lab.data import FederationData, PatientRows, SiteInfo, write_federation
from simulations.lab.experiment import Experiment


def generator(purpose: str, *key: str | int) -> np.random.Generator:
    """As lab-sites."""
    return np.random.Generator(np.random.PCG64(int(digest_of([purpose, *key]), 16)))


def prepare(experiment: Experiment, folder: Path, on_progress: Any = None) -> FederationData:
    """Waves only."""
    asked = experiment.federation
    if asked.source != "waves":
        raise OurMistake("Only waves yet.")
    if (folder / "federation.json").exists():
        return FederationData(folder)

    def sites() -> Iterator[tuple[SiteInfo, PatientRows]]:
        for site in range(asked.hospitals):
            key = digest_of(["waves", experiment.seed, site])
            rng = np.random.Generator(np.random.PCG64(int(key, 16)))
            patients, windows = asked.patients, asked.windows_per_patient
            count = patients * windows
            time_s = np.arange(1250) / 125.0
            rate = rng.uniform(0.8, 2.0, (count, 1, 1))
            signal = np.sin(2 * np.pi * rate * time_s)
            signal = signal + 0.1 * rng.standard_normal((count, 2, 1250))
            held = np.zeros(patients, dtype=bool)
            held[patients - int(patients * asked.held_out) :] = True
            rows = PatientRows(
                signal.astype(np.float32),
                np.ones((count, 2, 50), dtype=bool),
                np.full(patients, windows),
                held,
                {"rate": rate.reshape(patients, windows).mean(axis=1)},
            )
            yield SiteInfo(f"site-{site:05d}", int((~held).sum()), "waves"), rows

    return write_federation(folder, sites(), {"kind": "waves"})


@dataclass(frozen=True)
class Sends:
    """As lab-sites."""

    request: int = 1
    reply: int = 1


@dataclass(frozen=True)
class Asked:
    """As lab-sites."""

    asked: tuple[str, ...]
    trained: tuple[str, ...]
    answered: tuple[str, ...]
    absent: Mapping[str, str] = field(repr=False)
    virtual_s: float
    sends: Mapping[str, Sends] = field(repr=False)


def ask(experiment: Experiment, sites: Sequence[str], round: int) -> Asked:
    """All are asked; drop-outs drop out."""
    here = tuple(sites)
    lost: dict[str, str] = {}
    for behaviour in experiment.behaviours:
        if behaviour.kind == "drop-out" and round >= behaviour.from_round:
            lost |= {site: "drop-out" for site in behaviour.sites}
    stay = tuple(site for site in here if site not in lost)
    virtual_s = experiment.participation.step_s * experiment.algorithm.steps
    return Asked(here, stay, stay, lost, virtual_s, {site: Sends() for site in here})


def acting(experiment: Experiment, sites: Sequence[str], round: int) -> dict[str, Any]:
    """Nobody does anything."""
    return {}


@dataclass(frozen=True)
class Step:
    """FedAvg with a state that is empty."""

    step: FedAvg

    def begin(self, trained: Weights) -> Weights:
        """Nothing."""
        return {}

    def apply(
        self, weights: Weights, mean: Weights, state: Weights, *, share: float = 1.0
    ) -> tuple[Weights, Weights]:
        """See FedAvg."""
        return self.step.apply(weights, mean), state


def server_step(algorithm: Any, mode: str) -> Step:
    """FedAvg."""
    rate = algorithm.server_learning_rate
    return Step(FedAvg(rate * (algorithm.learning_rate if mode == "distributed" else 1.0)))


def sent_names(model: Any, algorithm: Any, trainable: Any) -> tuple[str, ...]:
    """All that is trained."""
    from shared_model import mae

    return mae.trainable_names(model, trainable)


def evaluate(
    config: ModelConfig,
    weights: Weights,
    data: FederationData,
    experiment: Experiment,
    round: int,
    *,
    workers: int = 0,
    epsilon: float | None = None,
) -> list[dict[str, Any]]:
    """Nothing."""
    return []


def loss_of(rows: list[dict[str, Any]]) -> float | None:
    """None."""
    return None
