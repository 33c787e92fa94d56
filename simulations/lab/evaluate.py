"""What a model of an experiment is worth, on patients that never trained: rows of probes.parquet.

    rows = evaluate(config, weights, data, experiment, round)
    left_out(data, experiment)       # labels without a figure, and why

Nothing here decides a model. The same patients, windows, patch masks and bootstrap samples at every
round, and sums in one order: the same weights give the same rows.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from shared_model.config import ModelConfig
from shared_model.mae import build, weights_of
from shared_model.weights import Weights
from simulations.lab import evaluate_backdoor, evaluate_probe_rows, evaluate_reconstruction
from simulations.lab.data import FederationData
from simulations.lab.evaluate_network import Fixed, Network, Own
from simulations.lab.evaluate_probes import labels_of
from simulations.lab.evaluate_rows import FEDERATED, RANDOM_INIT, UNIT_LOSS, Row
from simulations.lab.evaluate_sample import choose
from simulations.lab.experiment import Experiment
from simulations.torch_threads import torch_threads

__all__ = ["evaluate", "left_out", "loss_of", "one_thread"]

RANDOM_SEEDS = (1000, 1001, 1002)
"""Networks with random weights, whose probes are averaged."""


def evaluate(
    config: ModelConfig,
    weights: Weights,
    data: FederationData,
    experiment: Experiment,
    round: int,
    *,
    workers: int = 0,
    own: Own | None = None,
    epsilon: float | None = None,
) -> list[Row]:
    """Measure the model of a round; at round 0 the baselines too.

    Args:
        workers: threads; 0: as many as cores. Changes no figure.
        own: what sites keep for themselves: each site's patients are then measured with its own.
        epsilon: the largest site's so far, copied into each row.

    Returns:
        Rows with round, task, sensors, site ("all" or a name), model ("federated", "random-init",
        "always the median"), kind, value, low, high (95 % over patients), gain, gain_low, gain_high
        (over random-init, paired, positive is better; probes over all sites only), patients,
        epsilon. Kinds: "loss", "auroc", "mae", "r", "bpm" (mean absolute difference of heart
        rates), "share" (of windows in which no heart rate was found); with a backdoor in the
        experiment "shift" and "captured" (`behaviours.backdoor_success`).

    Raises:
        OurMistake: the experiment asks for a label that the patients do not have.
    """
    prepared = _prepared(config, data.folder, data.digest, experiment)
    fixed, threads = prepared.fixed, workers or os.cpu_count() or 1
    network = Network(config, weights, data, own or {}, threads)
    with one_thread():
        base = prepared.baselines(threads)
        rows = evaluate_reconstruction.rows(fixed, network, round, FEDERATED)
        rows += evaluate_probe_rows.rows(fixed, network, round, base)
        rows += evaluate_backdoor.rows(fixed, network, round, FEDERATED)
        if round == 0:
            untrained = prepared.random(threads, RANDOM_SEEDS[0])
            rows += evaluate_reconstruction.rows(fixed, untrained, 0, RANDOM_INIT)
            rows += evaluate_probe_rows.baselines(fixed, base)
            rows += evaluate_backdoor.rows(fixed, untrained, 0, RANDOM_INIT)
    return [{**row, "epsilon": epsilon} for row in rows]


def left_out(data: FederationData, experiment: Experiment) -> dict[str, str]:
    """Labels (or classes of them) that have no figure, and why."""
    return labels_of(data, experiment, choose(data, experiment))[1]


def loss_of(rows: list[Row]) -> float | None:
    """The held-out unit loss in an evaluation's rows; None if no patient was held out."""
    for row in rows:
        if (row["task"], row["site"], row["model"]) == (UNIT_LOSS, "all", FEDERATED):
            found: float | None = row["value"]
            return found
    return None


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread for each operation of torch and of linear algebra: sums in one order."""
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    with torch_threads(1), threadpool_limits(limits=1):
        yield


class _Prepared:
    """What an evaluation needs at every round; the baselines once they were asked for."""

    def __init__(self, config: ModelConfig, data: FederationData, experiment: Experiment) -> None:
        self.config = config
        self.fixed = Fixed(data, experiment)
        self._baselines: evaluate_probe_rows.Baselines | None = None

    def random(self, threads: int, seed: int) -> Network:
        """The network with random weights."""
        made = weights_of(build(self.config, seed=seed))
        return Network(self.config, made, self.fixed.data, threads=threads)

    def baselines(self, threads: int) -> evaluate_probe_rows.Baselines:
        """Random-init, computed at the first call."""
        if self._baselines is None:
            networks = [self.random(threads, seed) for seed in RANDOM_SEEDS]
            self._baselines = evaluate_probe_rows.random_init(self.fixed, networks)
        return self._baselines


@lru_cache(maxsize=2)
def _prepared(config: ModelConfig, folder: Path, digest: str, experiment: Experiment) -> _Prepared:
    """Kept for the rounds of an experiment; `digest` tells federations in one folder apart."""
    return _Prepared(config, FederationData(folder), experiment)
