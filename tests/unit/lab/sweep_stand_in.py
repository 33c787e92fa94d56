"""In the place of the lab's engine: leaves a run's folder in milliseconds, or fails as it is told.

The round's figures follow from the experiment, so that a table of them can be checked. What is to
go wrong is told by `participation.step_s`.
"""

from __future__ import annotations

import errno
import json
import os
import time
from pathlib import Path
from typing import Any

import pyarrow as arrow
from pyarrow import parquet

from shared_model.canonical import digest_of
from shared_model.errors import OurMistake
from simulations.lab.experiment import Experiment

FAILS, CRASHES, WAITS, BREAKS, FULL = 2.0, 3.0, 4.0, 5.0, 6.0


def conduct(experiment: Experiment, folder: Path, cache: Path) -> None:
    """Write what `lab.conduct.run` would write; `starts` counts how often it was begun."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "starts").open("a") as stream:
        stream.write("x")
    told = experiment.participation.step_s
    mended = (cache.parent / "mended").exists()
    if told == FAILS and not mended:
        raise OurMistake("It was told to fail.", do="Mend it.")
    if told == BREAKS:
        raise ZeroDivisionError
    if told == FULL:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "patient-17.csv")
    if told == CRASHES:
        os._exit(7)
    if told == WAITS and not mended:
        (cache.parent / "waiting").write_text(str(os.getpid()))
        time.sleep(600)
    write(experiment, folder)


def loss_of(experiment: Experiment) -> float:
    """Falls with epsilon and learning rate."""
    epsilon = experiment.privacy.epsilon or 100.0
    return 1.0 / epsilon + experiment.algorithm.learning_rate + 1e-3 * experiment.seed


def write(experiment: Experiment, folder: Path) -> None:
    """A finished run's folder."""
    (folder / "experiment.toml").write_text(experiment.to_toml())
    model = digest_of(experiment.as_dict())
    rounds: list[dict[str, Any]] = [
        {
            "round": number,
            "participants": 3,
            "outcome": "aggregated",
            "loss": loss_of(experiment),
            "epsilon": experiment.privacy.epsilon,
            "delta": 1e-5,
            "noise_to_signal": 4.0,
            "bytes_up": 10,
            "bytes_down": 20,
        }
        for number in range(1, experiment.rounds + 1)
    ]
    probes = [
        probe(0, "unit loss", "loss", 2.0),
        probe(0, "rhythm", "auroc", 0.6),
        probe(experiment.rounds, "rhythm", "auroc", 0.7),
        probe(experiment.rounds, "rhythm", "auroc", 0.1, model="random-init"),
        probe(experiment.rounds, "rhythm", "auroc", 0.2, sensors="ecg"),
        probe(experiment.rounds, "rhythm", "auroc", 0.3, site="site-001"),
    ]
    (folder / "metrics").mkdir(exist_ok=True)
    for name, rows in (("rounds", rounds), ("probes", probes)):
        parquet.write_table(arrow.Table.from_pylist(rows), folder / "metrics" / f"{name}.parquet")
    (folder / "result.json").write_text(json.dumps({"model": model, "in_words": []}))


def probe(
    round: int,
    task: str,
    kind: str,
    value: float,
    *,
    model: str = "federated",
    sensors: str = "both",
    site: str = "all",
) -> dict[str, Any]:
    """A row of probes.parquet."""
    return {
        "round": round,
        "task": task,
        "kind": kind,
        "value": value,
        "low": value - 0.05,
        "high": value + 0.05,
        "model": model,
        "sensors": sensors,
        "site": site,
    }
