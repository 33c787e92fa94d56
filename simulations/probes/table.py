"""Run every row on every task; intervals, paired differences, and what they say.

Differences are of skill, to random-init and to hand-made features, over the same bootstrap samples
of patients; `simulations.probes.bars` counts them. With fewer than `FEWEST_OF_A_CLASS` patients of
the smaller class there are figures and no intervals, and means over tasks leave the task out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from shared_model.errors import OurMistake
from shared_model.intervals import FEWEST_OF_A_CLASS
from simulations.probes.evaluate import (
    Estimate,
    Prediction,
    around,
    bootstrap,
    bootstrap_counts,
    metric,
    out_of_fold,
    require_folds,
    skill,
    verification,
)
from simulations.probes.ratios import AgainstPooled, Sampled, mean_of
from simulations.probes.rows import HAND_MADE, POOLED, RANDOM, WARM_START, Encode, Row
from simulations.probes.suitable import smaller_class
from simulations.probes.tasks import Task

DRAWS = 500
REPEATS = 5
"""Partitions into folds; of few patients, which partition it is can decide a bar."""
METRICS = {
    "mae": "mean absolute error",
    "auroc": "AUROC",
    "verification": "AUROC of same person",
}


@dataclass(frozen=True)
class Cell:
    """One row on one task with one choice of sensors."""

    task: str
    sensors: str
    row: str
    kind: str
    patients: int
    items: int
    estimate: Estimate
    skill: Estimate
    gain: Estimate | None
    """Skill minus random-init's skill, paired over the same bootstrap samples of patients."""
    over_hand_made: Estimate | None = None
    """Skill minus that of hand-made features, paired in the same way."""
    smaller_class: int | None = None
    """Patients of the smaller class (`simulations.probes.suitable`)."""


@dataclass(frozen=True)
class SensorLoss:
    """What one sensor alone loses against both, on a task that both can serve.

    loss: relative to the figure of both: (AUROC of both - AUROC) / AUROC of both, or the rise of
    the mean absolute error; paired. Negative: alone it is better.
    """

    task: str
    sensors: str
    row: str
    kind: str
    loss: Estimate


@dataclass(frozen=True)
class ProbeTable:
    """All cells, the mean gain of every row over tasks, and the tasks that were skipped.

    overall: of tasks that are not in `not_in_means`; a row has none if no such task is there.
    against_pooled: of a federation's row and pooled training's, if both are there.
    """

    cells: tuple[Cell, ...]
    overall: dict[str, Estimate]
    skipped: dict[str, str]
    losses: tuple[SensorLoss, ...] = ()
    against_pooled: AgainstPooled = field(default_factory=AgainstPooled)

    @property
    def not_in_means(self) -> list[str]:
        """Tasks with too few patients of a class for an interval."""
        few = (cell.task for cell in self.cells if _too_few(cell.smaller_class))
        return list(dict.fromkeys(few))

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "cells": [_cell_dict(cell) for cell in self.cells],
            "mean_gain_over_random_init": {
                name: _estimate_dict(value) for name, value in self.overall.items()
            },
            "not_in_means": self.not_in_means,
            "not_above_random_init": self.not_above(),
            "single_sensor": [
                {
                    "task": one.task,
                    "sensors": one.sensors,
                    "row": one.row,
                    "metric": METRICS[one.kind],
                    "relative_loss": _estimate_dict(one.loss),
                }
                for one in self.losses
            ],
            "against_pooled": self._against_pooled(),
            "skipped": self.skipped,
        }

    def _against_pooled(self) -> dict[str, Any] | None:
        if not self.against_pooled.rows:
            return None
        rows = [
            {
                "task": one.task,
                "sensors": one.sensors,
                "metric": METRICS[one.kind],
                "ratio": _estimate_dict(one.ratio),
                "pooled_over_warm_start": None if one.moved is None else _estimate_dict(one.moved),
            }
            for one in self.against_pooled.rows
        ]
        moved = self.against_pooled.mean_moved
        return {
            "rows": rows,
            "pooled_over_warm_start": None if moved is None else _estimate_dict(moved),
        }

    def not_above(self) -> list[dict[str, Any]]:
        """Cells whose paired interval to random-init is not wholly above zero, or is not there."""
        return [
            {
                "task": cell.task,
                "sensors": cell.sensors,
                "row": cell.row,
                "interval": bool(np.isfinite(cell.gain.low)),
            }
            for cell in self.cells
            if cell.gain is not None and not cell.gain.low > 0
        ]


def run_table(
    tasks: Sequence[Task],
    rows: Sequence[Row],
    *,
    seed: int,
    draws: int = DRAWS,
    repeats: int = REPEATS,
    skipped: dict[str, str] | None = None,
    on_done: Callable[[str], None] | None = None,
) -> ProbeTable:
    """Measure every row on every task; `rows` must hold random-init for the differences.

    Args:
        repeats: partitions of the patients into folds (repeated nested cross-validation:
            Krstajic et al. 2014, 10.1186/1758-2946-6-10). A figure is the mean over them, each with
            its own predictions, and so is every bootstrap sample of it. Identity needs no fold.
            Two seeds have no partition in common.
    """
    seen = _Seen(tasks)
    cells: list[Cell] = []
    losses: list[SensorLoss] = []
    gains: dict[str, list[Sampled]] = {row.name: [] for row in rows if row.name != RANDOM}
    against = AgainstPooled()
    skipped = dict(skipped or {})
    for task in tasks:
        why = _unfit(task, seed=seed, repeats=repeats)
        if why:
            skipped[task.name] = why
            continue
        counts = bootstrap_counts(task.patients, draws, np.random.default_rng(seed))
        by_sensors: dict[str, dict[str, Sampled]] = {}
        for sensors in task.sensors:
            measured: dict[str, Sampled] = {}
            for row in rows:
                predictions = [
                    prediction
                    for member in row.members
                    for prediction in _predictions(
                        task, seen.by(member, task, sensors), seed=seed, repeats=repeats
                    )
                ]
                values = [_value(p) for p in predictions]
                samples = np.mean([bootstrap(p, counts) for p in predictions], axis=0)
                measured[row.name] = (float(np.mean(values)), samples)
                if on_done is not None:
                    on_done(f"{task.name} · {sensors} · {row.name}")
            # Truths and patients are those of every row: the last one's serve for all.
            cells += [_cell(task, sensors, row.name, predictions[0], measured, counts)
                      for row in rows]  # fmt: skip
            if RANDOM in measured and not _few(task):
                for name, found in gains.items():
                    found.append(_gain(predictions[0], measured, name, RANDOM, counts))
            if sensors == task.sensors[0]:
                moved = None
                if {POOLED, WARM_START} <= set(measured):
                    moved = _gain(predictions[0], measured, POOLED, WARM_START, counts)
                against.add(task, measured, moved, few=_few(task))
            by_sensors[sensors] = measured
        losses += sensor_losses(task, by_sensors)
    overall = {name: mean_of(found) for name, found in gains.items() if found}
    return ProbeTable(tuple(cells), overall, skipped, tuple(losses), against)


def _unfit(task: Task, *, seed: int, repeats: int) -> str:
    """Why a task's patients cannot be shared out into folds; "" if they can."""
    if task.kind == "verification":
        return ""
    try:
        for one in _seeds(seed, repeats):
            require_folds(task.truth, task.group, kind=task.kind, folds=task.folds, seed=one)
    except OurMistake as fault:
        return fault.message
    return ""


def _seeds(seed: int, repeats: int) -> range:
    """Of the partitions; two seeds have none in common."""
    return range(repeats * seed, repeats * (seed + 1))


def sensor_losses(task: Task, by_sensors: dict[str, dict[str, Sampled]]) -> list[SensorLoss]:
    """Of every row on a task that both sensors can serve; empty for others."""
    if "both" not in by_sensors:
        return []
    result = []
    for sensors, measured in by_sensors.items():
        if sensors == "both":
            continue
        for row, (value, samples) in measured.items():
            whole, whole_samples = by_sensors["both"][row]
            sign = -1.0 if task.kind == "mae" else 1.0
            with np.errstate(invalid="ignore", divide="ignore"):
                sampled = sign * (1.0 - samples / whole_samples)
                loss = float(sign * (1.0 - np.float64(value) / whole))
            lost = around(loss, sampled, few=_few(task))
            result.append(SensorLoss(task.name, sensors, row, task.kind, lost))
    return result


class _Seen:
    """What encoders made of windows; kept where another task has the very same ones."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        self._tasks = Counter(self._windows_of(task) for task in tasks)
        self._kept: dict[tuple[Encode, tuple[int, int], str], np.ndarray] = {}

    @staticmethod
    def _windows_of(task: Task) -> tuple[int, int]:
        """Which arrays; the tasks keep them alive."""
        return id(task.signal), id(task.valid)

    def by(self, encode: Encode, task: Task, sensors: str) -> np.ndarray:
        """Features (window, feature) of the task's windows."""
        windows = self._windows_of(task)
        key = (encode, windows, sensors)
        made = self._kept.get(key)
        if made is None:
            made = encode(*task.windows(sensors))
            if self._tasks[windows] > 1:
                self._kept[key] = made
        return made


def _predictions(task: Task, features: np.ndarray, *, seed: int, repeats: int) -> list[Prediction]:
    """One of each partition into folds; the only one where nothing is fitted."""
    features = task.pool(features)
    if task.kind == "verification":
        return [verification(features, task.group, task.session)]
    return [
        out_of_fold(features, task.truth, task.group, kind=task.kind, folds=task.folds, seed=one)
        for one in _seeds(seed, repeats)
    ]


def _value(prediction: Prediction) -> float:
    ones = np.ones(len(prediction.truth))
    return metric(prediction.kind, prediction.truth, prediction.score, ones)


def _baseline(prediction: Prediction) -> Prediction:
    """Always predicting the median (for the mean absolute error)."""
    middle = np.full_like(prediction.score, np.median(prediction.truth))
    return Prediction(prediction.kind, prediction.truth, middle, prediction.group)


def _skills(
    prediction: Prediction, value: float, samples: np.ndarray, counts: np.ndarray
) -> tuple[float, np.ndarray]:
    if prediction.kind != "mae":
        return skill(prediction.kind, value, 0.0), 2.0 * (samples - 0.5)
    base = _baseline(prediction)
    return skill("mae", value, _value(base)), 1.0 - samples / bootstrap(base, counts)


def _gain(
    prediction: Prediction,
    measured: dict[str, Sampled],
    row: str,
    base: str,
    counts: np.ndarray,
) -> Sampled:
    ours, our_samples = _skills(prediction, *measured[row], counts)
    theirs, their_samples = _skills(prediction, *measured[base], counts)
    return ours - theirs, our_samples - their_samples


def _cell(
    task: Task,
    sensors: str,
    row: str,
    prediction: Prediction,
    measured: dict[str, Sampled],
    counts: np.ndarray,
) -> Cell:
    value, samples = measured[row]
    few = _few(task)

    def over(base: str) -> Estimate | None:
        if row == base or base not in measured:
            return None
        return around(*_gain(prediction, measured, row, base, counts), few=few)

    return Cell(
        task=task.name,
        sensors=sensors,
        row=row,
        kind=task.kind,
        patients=task.patients,
        items=len(prediction.truth),
        estimate=around(value, samples, few=few),
        skill=around(*_skills(prediction, value, samples, counts), few=few),
        gain=over(RANDOM),
        over_hand_made=over(HAND_MADE),
        smaller_class=smaller_class(task),
    )


def _few(task: Task) -> bool:
    """Whether its smaller class has too few patients for an interval."""
    return _too_few(smaller_class(task))


def _too_few(least: int | None) -> bool:
    return least is not None and least < FEWEST_OF_A_CLASS


def _estimate_dict(value: Estimate) -> dict[str, float | None]:
    return {
        name: (round(number, 5) if np.isfinite(number) else None)
        for name, number in (("value", value.value), ("low", value.low), ("high", value.high))
    }


def _cell_dict(cell: Cell) -> dict[str, Any]:
    return {
        "task": cell.task,
        "sensors": cell.sensors,
        "row": cell.row,
        "metric": METRICS[cell.kind],
        "patients": cell.patients,
        "items": cell.items,
        "smaller_class": cell.smaller_class,
        "estimate": _estimate_dict(cell.estimate),
        "skill": _estimate_dict(cell.skill),
        "gain_over_random_init": None if cell.gain is None else _estimate_dict(cell.gain),
        "gain_over_hand_made": (
            None if cell.over_hand_made is None else _estimate_dict(cell.over_hand_made)
        ),
    }
