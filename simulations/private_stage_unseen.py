"""What private training changes, and how, on real patients whom no run has read.

    runs = read_unseen(folders)                  # unit losses of each patient, before and after
    figures = compared_unseen(runs)              # of a measured file of kind private-stage-unseen

As `simulations.private_stage`, but patients are real and so few that they, not seeds, decide what
can be told. A fall is the mean over seeds and patients; its interval is a bootstrap that draws both
anew: 95 %, percentile. Differences and shares are paired over patients and seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from shared_model import weights as weights_io
from shared_model.errors import OurMistake
from simulations.gain import words
from simulations.gain_answers import NONE
from simulations.lab.experiment import Experiment
from simulations.lab.result import Result
from simulations.private_stage import (
    Stage,
    about_costs,
    about_point,
    about_the_points,
    cost_of,
    points_by_seed,
)
from simulations.unseen_losses import OnProgress, losses, unseen_by

F64 = npt.NDArray[np.float64]
DRAWS = 2000
LEAST_PATIENTS = 20
"""With fewer nothing is told: a bootstrap of so few is too narrow."""


@dataclass(frozen=True)
class UnseenRun:
    """A finished run. before, after: unit loss of its first and last model, (patient,)."""

    name: str
    experiment: Experiment
    start: str
    digest: str
    before: F64 = field(repr=False)
    after: F64 = field(repr=False)

    @property
    def mode(self) -> str:
        return self.experiment.privacy.mode


@dataclass(frozen=True)
class Told:
    """Whom the losses are of."""

    folders: int
    lots: tuple[float, float]


def read_unseen(
    folders: Sequence[Path],
    *,
    on_done: Callable[[str], None] | None = None,
    on_progress: OnProgress | None = None,
) -> tuple[list[Stage[UnseenRun]], Told]:
    """Unit losses of finished runs on patients whom none of them read, and what they cost.

    Raises:
        OurMistake: a folder holds no run, or one that has not ended, or is named twice; the runs
            read different patients, or left none; or too few patients are left.
    """
    from simulations.lab.beginning import starting_model

    if len({folder.resolve() for folder in folders}) != len(folders):
        raise OurMistake("A run is named twice.")
    results = [Result.open(folder) for folder in folders]
    costs = [cost_of(result) for result in results]
    unseen = unseen_by([result.experiment for result in results], on_progress)
    starts: dict[str, F64] = {}
    stages = []
    for result, cost in zip(results, costs, strict=True):
        config, first = starting_model(result.experiment)
        start = weights_io.digest(first)
        if start not in starts:
            starts[start] = losses(config, first, unseen)
        known = np.isfinite(starts[start])
        after = losses(config, result.weights(), unseen)[known]
        told = result.experiment
        name = f"{told.privacy.mode}, seed {told.seed}, {told.identity[:12]}"
        run = UnseenRun(name, told, start, result.digest, starts[start][known], after)
        stages.append(Stage(run, *cost))
        if on_done is not None:
            on_done(result.folder.name)
    return stages, Told(unseen.folders, unseen.lots)


def compared_unseen(stages: Sequence[Stage[UnseenRun]], told: Told) -> dict[str, Any]:
    """One row a point, the first run's point first: it is the base.

    Raises:
        OurMistake: runs begin with different models, a run is there twice, all are one point,
            points have different seeds, or too few patients were measured.
    """
    groups, names = points_by_seed(stages)
    base = next(iter(groups.values()))
    patients = len(base[0].run.before)
    if patients < LEAST_PATIENTS:
        raise OurMistake(
            f"{patients} patients are unread and have a usable window; {LEAST_PATIENTS} are "
            "needed.",
            do="Let runs read fewer lots, or leave out --unseen to measure on pretend patients.",
        )
    free = [group for group in groups.values() if group[0].run.mode == NONE]
    best = max(free, key=lambda group: float(_falls(group).mean())) if free else None
    draw = _Draws(len(base), patients)
    rows = [
        _row(number, group, base, best, names, draw)
        for number, group in enumerate(groups.values(), start=1)
    ]
    reference = next((row for row, group in zip(rows, groups.values(), strict=True)
                      if group is best), None)  # fmt: skip
    return {
        "rows": rows,
        "patients": patients,
        "in_words": [
            *_whose(base, patients, told),
            *about_the_points(base, reference, rows, names, stages),
            *about_costs(),
            *words([one.run for one in stages]),
        ],
        "plotted_line": None if reference is None else {
            "name": f"without privacy: point {reference['number']}", **reference["fall"]
        },
        "plotted": [{"name": f"{row['number']} {row['point']}", **row["fall"]} for row in rows],
        "plotted_words": "fall of the unit loss of unread real patients, 95 % over them"
        + (" and seeds" if len(base) > 1 else "; one seed"),
    }  # fmt: skip


def _falls(group: Sequence[Stage[UnseenRun]]) -> F64:
    """(seed, patient): above zero is better."""
    return np.stack([one.run.before - one.run.after for one in group])


class _Draws:
    """Bootstrap of patients and seeds, the same for every figure, so that all are paired."""

    def __init__(self, seeds: int, patients: int) -> None:
        rng = np.random.default_rng(0)
        self.seeds = rng.multinomial(seeds, np.full(seeds, 1.0 / seeds), DRAWS) / seeds
        drawn = rng.multinomial(patients, np.full(patients, 1.0 / patients), DRAWS)
        self.patients = drawn / patients

    def means(self, values: F64) -> F64:
        """(draw,) of (seed, patient)."""
        found: F64 = ((self.seeds @ values) * self.patients).sum(axis=1)
        return found

    def interval(self, values: F64) -> dict[str, float]:
        return {"value": float(values.mean()), **_ends(self.means(values))}


def _ends(drawn: F64) -> dict[str, float]:
    low, high = np.percentile(drawn, [2.5, 97.5])
    return {"low": float(low), "high": float(high)}


def _row(
    number: int,
    group: Sequence[Stage[UnseenRun]],
    base: Sequence[Stage[UnseenRun]],
    best: Sequence[Stage[UnseenRun]] | None,
    names: Sequence[str],
    draw: _Draws,
) -> dict[str, Any]:
    falls = _falls(group)
    return {
        **about_point(number, group, base, names),
        "loss": draw.interval(np.stack([one.run.after for one in group])),
        "fall": draw.interval(falls),
        "more_than_base": None if group is base else draw.interval(falls - _falls(base)),
        "of_reference_percent": None if best is None else _share(falls, _falls(best), draw),
        "skill_gain": None,
    }


def _share(ours: F64, free: F64, draw: _Draws) -> dict[str, float | None] | None:
    """Ratio of mean falls in percent; None where the reference's loss does not fall. Without an
    interval where in a tenth of the samples it does not."""
    if free.mean() <= 0:
        return None
    value = 100.0 * float(ours.mean() / free.mean())
    below = draw.means(free)
    if (below <= 0).mean() > 0.1:
        return {"value": value, "low": None, "high": None}
    kept = below > 0
    return {"value": value, **_ends(100.0 * draw.means(ours)[kept] / below[kept])}


def _whose(base: Sequence[Stage[UnseenRun]], patients: int, told: Told) -> list[str]:
    start = float(base[0].run.before.mean())
    seeds = len(base)
    return [
        f"Fall of the unit loss on {patients} REAL patients of {told.folders} folders whom no run "
        f"has read (lots {told.lots[0]:g} to {told.lots[1]:g}), last model against starting model: "
        f"unit loss {start:.4f}. First and last window of each, patients of all folders alike. "
        "No label is looked at: this is not the skill of a probe.",
        "Intervals are 95 %, a bootstrap over patients"
        + (f" and {seeds} seeds." if seeds > 1 else "; one seed: what noise does is not in them."),
        "Who chooses a point by these figures has used these patients for it.",
    ]
