"""Run every row on every task; intervals, paired differences to random-init, and what they say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from simulations.probes.evaluate import (
    Estimate,
    Prediction,
    bootstrap,
    bootstrap_counts,
    interval,
    metric,
    out_of_fold,
    skill,
    verification,
)
from simulations.probes.rows import RANDOM, Row
from simulations.probes.tasks import Task

DRAWS = 500


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


@dataclass(frozen=True)
class ProbeTable:
    """All cells, the mean gain of every row over all tasks, and the tasks that were skipped."""

    cells: tuple[Cell, ...]
    overall: dict[str, Estimate]
    skipped: dict[str, str]

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "cells": [_cell_dict(cell) for cell in self.cells],
            "mean_gain_over_random_init": {
                name: _estimate_dict(value) for name, value in self.overall.items()
            },
            "not_above_random_init": self.not_above(),
            "skipped": self.skipped,
        }

    def not_above(self) -> list[dict[str, str]]:
        """Cells whose paired interval to random-init is not wholly above zero."""
        return [
            {"task": cell.task, "sensors": cell.sensors, "row": cell.row}
            for cell in self.cells
            if cell.gain is not None and not cell.gain.low > 0
        ]


def run_table(
    tasks: Sequence[Task],
    rows: Sequence[Row],
    *,
    seed: int,
    draws: int = DRAWS,
    skipped: dict[str, str] | None = None,
    on_done: Callable[[str], None] | None = None,
) -> ProbeTable:
    """Measure every row on every task; `rows` must hold random-init for the differences."""
    cells: list[Cell] = []
    gains: dict[str, list[np.ndarray]] = {row.name: [] for row in rows if row.name != RANDOM}
    gain_values: dict[str, list[float]] = {name: [] for name in gains}
    for task in tasks:
        counts = bootstrap_counts(task.patients, draws, np.random.default_rng(seed))
        for sensors in task.sensors:
            measured: dict[str, tuple[float, np.ndarray]] = {}
            for row in rows:
                predictions = [_predict(task, member, sensors, seed=seed) for member in row.members]
                values = [_value(p) for p in predictions]
                samples = np.mean([bootstrap(p, counts) for p in predictions], axis=0)
                measured[row.name] = (float(np.mean(values)), samples)
                cells.append(_cell(task, sensors, row.name, predictions[0], measured, counts))
                if on_done is not None:
                    on_done(f"{task.name} · {sensors} · {row.name}")
                if row.name in gains and RANDOM in measured:
                    value, sampled = _gain(predictions[0], measured, row.name, counts)
                    gains[row.name].append(sampled)
                    gain_values[row.name].append(value)
    overall = {
        name: interval(float(np.mean(gain_values[name])), np.nanmean(gains[name], axis=0))
        for name in gains
        if gains[name]
    }
    return ProbeTable(tuple(cells), overall, dict(skipped or {}))


def _predict(
    task: Task, encode: Callable[[np.ndarray, np.ndarray], np.ndarray], sensors: str, *, seed: int
) -> Prediction:
    features = task.pool(encode(*task.windows(sensors)))
    if task.kind == "verification":
        return verification(features, task.group, task.session)
    return out_of_fold(
        features, task.truth, task.group, kind=task.kind, folds=task.folds, seed=seed
    )


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
    measured: dict[str, tuple[float, np.ndarray]],
    row: str,
    counts: np.ndarray,
) -> tuple[float, np.ndarray]:
    ours, our_samples = _skills(prediction, *measured[row], counts)
    theirs, their_samples = _skills(prediction, *measured[RANDOM], counts)
    return ours - theirs, our_samples - their_samples


def _cell(
    task: Task,
    sensors: str,
    row: str,
    prediction: Prediction,
    measured: dict[str, tuple[float, np.ndarray]],
    counts: np.ndarray,
) -> Cell:
    value, samples = measured[row]
    gain = None
    if row != RANDOM and RANDOM in measured:
        gain = interval(*_gain(prediction, measured, row, counts))
    return Cell(
        task=task.name,
        sensors=sensors,
        row=row,
        kind=task.kind,
        patients=task.patients,
        items=len(prediction.truth),
        estimate=interval(value, samples),
        skill=interval(*_skills(prediction, value, samples, counts)),
        gain=gain,
    )


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
        "metric": {"mae": "mean absolute error", "auroc": "AUROC"}.get(
            cell.kind, "AUROC of same person"
        ),
        "patients": cell.patients,
        "items": cell.items,
        "estimate": _estimate_dict(cell.estimate),
        "skill": _estimate_dict(cell.skill),
        "gain_over_random_init": None if cell.gain is None else _estimate_dict(cell.gain),
    }
