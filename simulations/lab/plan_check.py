"""A prediction held against a finished run: each figure, and how far off it was, in percent.

    rows = check(Path("out"))                # a folder of `fedprint-lab run`

What the run declares as each hospital's patients is taken from its federation, as a coordinator
knows it from its roster; everything else is predicted from the experiment alone. Bytes are those
that a lab run counts (the model down, the packed vector up: no headers, shares or closing
exchange), and its seconds are of rounds only, over its workers.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared_model.errors import OurMistake
from simulations.lab.calibrate import Speed, speed_of
from simulations.lab.data import FederationData
from simulations.lab.experiment import Experiment
from simulations.lab.planner import Plan, plan
from simulations.lab.result import Result


@dataclass(frozen=True)
class Checked:
    """One figure. error_percent: (predicted - seen) / seen; None where seen is 0 or nothing."""

    figure: str
    predicted: float | None
    seen: float | None
    error_percent: float | None


def check(folder: Path, *, speed: Speed | None = None, timed: bool = True) -> list[Checked]:
    """Predict the run's figures and compare.

    Args:
        speed: of training; timed here by default, unless `timed` is false.

    Raises:
        OurMistake: no finished run of the lab.
    """
    result = Result.open(folder)
    about, experiment = result.about, result.experiment
    declared = [site.declared for site in _federation(folder).sites]
    if speed is None and timed:
        training = experiment.algorithm.training(experiment.model.trainable)
        speed = speed_of(experiment.model.preset, training)
    predicted = plan(experiment, declared=declared, speed=speed)
    rounds = result.rounds().to_pylist()
    return compare(predicted, experiment, about, rounds)


def compare(
    predicted: Plan,
    experiment: Experiment,
    about: Mapping[str, Any],
    rounds: Sequence[Mapping[str, Any]],
) -> list[Checked]:
    """The comparison itself. about: result.json. rounds: of rounds.parquet."""
    privacy, noise = predicted.privacy, predicted.noise
    summed = [one for one in rounds if one["outcome"] == "aggregated"]
    ratios = [one["noise_to_signal"] for one in summed if one["noise_to_signal"] is not None]
    rows = [
        _row("noise multiplier", privacy.noise_multiplier, about["noise_multiplier"]),
        _row("epsilon", privacy.epsilon, about["epsilon"]),
        _row("delta", privacy.delta if privacy.epsilon is not None else None, about["delta"]),
        _row("steps", privacy.steps, len(rounds) * experiment.algorithm.steps),
        _row("noise-to-signal of a step, mean", noise.mean, _mean(ratios)),
    ]
    norms = [one["update_norm"] for one in summed if one["update_norm"] is not None]
    rows += _noise_alone(predicted, experiment, norms)
    asked = sum(one["participants"] for one in rounds)
    if predicted.traffic is not None and asked:
        sent = predicted.traffic
        body = sent.model - sent.state / experiment.rounds
        rows += [
            _row("bytes up, masked vector", sent.packed_vector, about["bytes_up"] / asked),
            _row("bytes down, model", body, about["bytes_down"] / asked),
        ]
    if predicted.simulation_s is not None:
        workers = experiment.engine.workers or os.cpu_count() or 1
        seen = sum(one["wall_s"] for one in rounds)
        rows.append(_row("seconds of training", predicted.simulation_s / workers, seen))
    return rows


def _noise_alone(predicted: Plan, experiment: Experiment, norms: Sequence[float]) -> list[Checked]:
    """Plain steps show the noise itself: the mean update is as long as the noise of its steps, and
    longer by what was learned. Not so Adam's, which divides by it."""
    told, ratio = experiment.algorithm, predicted.noise.mean
    if told.optimiser != "sgd" or not ratio or not norms:
        return []
    length = ratio * experiment.privacy.clipping_norm
    if predicted.privacy.mode == "local":
        length *= told.learning_rate * math.sqrt(told.steps)
    return [_row("norm of the mean update, noise alone", length, _mean(norms))]


def _row(figure: str, predicted: float | None, seen: float | None) -> Checked:
    error = None
    if predicted is not None and seen:
        error = round(100.0 * (predicted - seen) / seen, 6)
    return Checked(figure, predicted, seen, error)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _federation(folder: Path) -> FederationData:
    """The run's patients, in its folder or where federation.txt says.

    Raises:
        OurMistake: they are not there any more.
    """
    named = folder / "federation.txt"
    place = Path(named.read_text().strip()) if named.is_file() else folder / "federation"
    if not (place / "federation.json").is_file():
        raise OurMistake(
            f"The patients of the run in {folder} are not in {place} any more.",
            do="Run the experiment again, with --resume.",
        )
    return FederationData(place)
