"""What private training changes, and how: the points of a sweep against each other.

    folders = ordered(Path("swept"))            # the sweep's order: its first point is the base
    points = read_points(folders, patients=1000, seed=0)
    figures = compared(points)                  # of a measured file of kind private-stage

What differs between points is found in the runs' own experiments. Unit loss and probe skill are of
fresh pretend patients, as in `simulations.gain`. Intervals are over seeds: 95 %, Student's t; of a
share, a bootstrap over seeds.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from shared_model.errors import OurMistake
from simulations.gain import (
    SKILL,
    UNIT_LOSS,
    Run,
    Scored,
    finished_below,
    read_runs,
    share_of,
    words,
)
from simulations.gain_answers import NONE
from simulations.lab.experiment import Experiment
from simulations.lab.frontiers import with_ends
from simulations.lab.result import Result
from simulations.lab.varied import batch, changed, differing, fields_of, relative_cost, told

_PRIVACY = {"privacy.mode", "privacy.epsilon"}
"""Points that differ from the base in these alone are a frontier of privacy against utility."""
_ONE_SEED = "One seed: there is no interval, and no point is shown to be better than another."


R_co = TypeVar("R_co", bound=Scored, covariant=True)


@dataclass(frozen=True)
class Stage(Generic[R_co]):
    """A finished run, scored, and what it cost.

    parameters: trained. bytes_up: of a hospital in a round, as the lab counts them. epsilon: spent,
    with its delta; None without privacy.
    """

    run: R_co
    parameters: int
    bytes_up: float
    epsilon: float | None
    delta: float

    @property
    def experiment(self) -> Experiment:
        return self.run.experiment


def ordered(folder: Path, seeds: Sequence[int] | None = None) -> list[Path]:
    """Finished runs of a sweep in the sweep's own order; of another folder, `finished_below`.

    Args:
        seeds: only the runs of these.

    Raises:
        OurMistake: runs of the sweep have not finished, or none has these seeds; or no run is here.
    """
    if not (folder / "sweep.json").is_file():
        below = finished_below(folder)
        every = [(one, Result.open(one).experiment.seed) for one in below]
    else:
        from simulations.lab.sweeps import planned

        every = [
            (folder / "runs" / one.name / "run", one.experiment.seed) for one in planned(folder)[1]
        ]
    runs = [run for run, seed in every if seeds is None or seed in seeds]
    if not runs:
        raise OurMistake(f"No run in {folder} has one of the seeds {sorted(seeds or ())}.")
    missing = [run for run in runs if not (run / "result.json").is_file()]
    if missing:
        raise OurMistake(
            f"{len(missing)} of {len(runs)} runs in {folder} have not finished.",
            do="Let it go on: fedprint-lab sweep FILE -o FOLDER --resume; or name the --seeds that "
            "are complete; or name finished run folders, the base first.",
        )
    return runs


def read_points(
    folders: Sequence[Path],
    *,
    patients: int,
    seed: int,
    on_done: Callable[[str], None] | None = None,
) -> list[Stage[Run]]:
    """Score finished runs on fresh pretend patients, and read what they cost.

    Raises:
        OurMistake: a folder holds no run, or one that has not ended, or is named twice; no round
            of a run asked anybody; or the runs do not compare (see `compared`): before any is
            scored.
    """
    costs = [cost_of(Result.open(folder)) for folder in folders]

    def stages(runs: list[Run]) -> list[Stage[Run]]:
        return [Stage(run, *cost) for run, cost in zip(runs, costs, strict=True)]

    runs = read_runs(
        folders,
        patients=patients,
        seed=seed,
        check=lambda found: points_by_seed(stages(found)),
        on_done=on_done,
    )
    return stages(runs)


def cost_of(result: Result) -> tuple[int, float, float | None, float]:
    """The last four fields of a `Stage`.

    Raises:
        OurMistake: no round of the run asked anybody.
    """
    from shared_model import mae
    from simulations.lab.beginning import starting_model

    experiment, about = result.experiment, result.about
    config, _ = starting_model(experiment)
    counts = mae.parameter_counts(mae.build(config, 0))
    asked = sum(one["participants"] for one in result.rounds().to_pylist())
    if not asked:
        raise OurMistake(f"No round of the run in {result.folder} asked a hospital.")
    trained = counts[experiment.model.trainable]
    return trained, about["bytes_up"] / asked, about["epsilon"], about["delta"]


def compared(stages: Sequence[Stage[Run]]) -> dict[str, Any]:
    """One row a point, the first run's point first: it is the base.

    Raises:
        OurMistake: runs begin with different models, a run is there twice, all are one point, or
            points have different seeds.
    """
    groups, names = points_by_seed(stages)
    base = next(iter(groups.values()))
    best = reference_of(groups, lambda group: _mean(group, UNIT_LOSS))
    rows = [
        _row(number, group, base, best, names)
        for number, group in enumerate(groups.values(), start=1)
    ]
    reference = row_of(best, groups, rows)
    return {
        "rows": rows,
        "in_words": _in_words(base, reference, rows, names, stages),
        **plotted(rows, reference),
        "plotted_words": "fall of the unit loss from the starting model's"
        + (", 95 % over seeds" if len(base) > 1 else ", one seed"),
    }


def reference_of(
    groups: Mapping[str, list[Stage[R_co]]], mean: Callable[[list[Stage[R_co]]], float]
) -> list[Stage[R_co]] | None:
    """Of the points without privacy the one whose loss falls most."""
    free = [group for group in groups.values() if group[0].experiment.privacy.mode == NONE]
    return max(free, key=mean) if free else None


def row_of(
    best: list[Stage[R_co]] | None,
    groups: Mapping[str, list[Stage[R_co]]],
    rows: Sequence[dict[str, Any]],
) -> dict[str, Any] | None:
    """The reference's row."""
    found = zip(rows, groups.values(), strict=True)
    return next((row for row, group in found if group is best), None)


def plotted(rows: Sequence[dict[str, Any]], reference: dict[str, Any] | None) -> dict[str, Any]:
    """What pictures take of the rows: falls, and the reference's as a line."""
    line = None
    if reference is not None:
        line = {"name": f"without privacy: point {reference['number']}", **reference["fall"]}
    return {
        "plotted_line": line,
        "plotted": [{"name": f"{row['number']} {row['point']}", **row["fall"]} for row in rows],
    }


def points_by_seed(
    stages: Sequence[Stage[R_co]],
) -> tuple[dict[str, list[Stage[R_co]]], tuple[str, ...]]:
    """Runs of a point, by seed; points in the order in which they come. And the fields that differ.

    Raises:
        OurMistake: see `compared`.
    """
    if len({one.run.start for one in stages}) != 1:
        raise OurMistake("The runs begin with different models: their losses do not compare.")
    groups: dict[str, list[Stage[R_co]]] = {}
    for one in stages:
        key = json.dumps(fields_of(one.experiment), sort_keys=True)
        groups.setdefault(key, []).append(one)
    wanted = {one.experiment.seed for one in stages}
    for group in groups.values():
        seeds = [one.experiment.seed for one in group]
        if len(set(seeds)) != len(seeds):
            raise OurMistake(
                f"{group[0].run.name} and another run are the same experiment.",
                do="Name the folders of one sweep.",
            )
        if set(seeds) != wanted:
            raise OurMistake(
                f"{group[0].run.name} is of a point with seeds {sorted(seeds)}; there are "
                f"{sorted(wanted)}.",
                do="Let all runs of the sweep finish, or name the --seeds that are complete.",
            )
        group.sort(key=lambda one: one.experiment.seed)
    names = differing([group[0].experiment for group in groups.values()])
    if not names:
        raise OurMistake(
            "All runs are one point: nothing but the seed differs.",
            do="Name the folder of a sweep with [grid] or [[points]].",
        )
    return groups, names


def _mean(group: Sequence[Stage[Run]], measure: str) -> float:
    return math.fsum(one.run.gain(measure) for one in group) / len(group)


def _row(
    number: int,
    group: Sequence[Stage[Run]],
    base: Sequence[Stage[Run]],
    best: Sequence[Stage[Run]] | None,
    names: Sequence[str],
) -> dict[str, Any]:
    falls = [one.run.gain(UNIT_LOSS) for one in group]
    theirs = [one.run.gain(UNIT_LOSS) for one in base]
    share, ends = (None, None)
    if best is not None:
        share, ends = share_of(np.array(falls), np.array([s.run.gain(UNIT_LOSS) for s in best]))
    low, high = ends if ends is not None else (None, None)
    return {
        **about_point(number, group, base, names),
        "loss": with_ends([one.run.after.loss for one in group]),
        "fall": with_ends(falls),
        "more_than_base": None
        if group is base
        else with_ends([ours - other for ours, other in zip(falls, theirs, strict=True)]),
        "of_reference_percent": None
        if share is None
        else {
            "value": 100.0 * share,
            "low": None if low is None else 100.0 * low,
            "high": None if high is None else 100.0 * high,
        },
        "skill_gain": with_ends([one.run.gain(SKILL) for one in group]),
    }


def about_point(
    number: int, group: Sequence[Stage[Scored]], base: Sequence[Stage[Scored]], names: Sequence[str]
) -> dict[str, Any]:
    """What a point changes and what it costs, whoever's patients it is measured on.

    Args:
        group: runs of the point. base: those that it is told against. names: see `differing`.
    """
    spent = [one.epsilon for one in group if one.epsilon is not None]
    first, origin = group[0].experiment, base[0].experiment
    ours, theirs = fields_of(first), fields_of(origin)
    moved = {name for name in names if ours[name] != theirs[name]}
    return {
        "number": number,
        "point": "base" if group is base else changed(first, origin, names),
        "mode": first.privacy.mode,
        "seeds": len(group),
        "parameters": group[0].parameters,
        "bytes_up": math.fsum(one.bytes_up for one in group) / len(group),
        "epsilon": max(spent) if spent else None,
        "only_privacy": moved <= _PRIVACY,
        "relative_cost": relative_cost(first, origin),
    }


def _in_words(
    base: Sequence[Stage[Run]],
    reference: dict[str, Any] | None,
    rows: Sequence[dict[str, Any]],
    names: Sequence[str],
    stages: Sequence[Stage[Run]],
) -> list[str]:
    """What must be said beside the table."""
    start = base[0].run.before
    return [
        "Fall of the unit loss on fresh SIMULATED patients that nobody trained on, last model "
        f"against starting model: unit loss {start.loss:.4f}, skill {start.skill:.4f} (mean over "
        "probe tasks of the frozen fingerprint).",
        *about_the_points(base, reference, rows, names, stages),
        _ONE_SEED
        if len(base) == 1
        else f"Intervals are over {len(base)} seeds, 95 %: Student's t; of a share, a bootstrap.",
        *about_costs(),
        *words([one.run for one in stages]),
    ]


def about_costs() -> list[str]:
    """What gradient passes and bytes count, and what not."""
    return [
        "Cost: gradient passes, expected patients x K x A x steps x rounds, over the base's: "
        "arithmetic, not a time. What is trained changes a pass's time too, and is not in it.",
        "Bytes: a hospital's packed vector of a round; no headers, shares or closing exchange.",
    ]


def about_the_points(
    base: Sequence[Stage[Scored]],
    reference: dict[str, Any] | None,
    rows: Sequence[dict[str, Any]],
    names: Sequence[str],
    stages: Sequence[Stage[Scored]],
) -> list[str]:
    """What the base is, what epsilon is of, and which point is the reference."""
    origin = base[0].experiment
    size, fields, of = batch(origin), fields_of(origin), origin.federation
    batches = "" if size is None else f", expected batch {size:.0f} at a hospital"
    deltas = {one.delta for one in stages if one.epsilon is not None}
    natural = of.source == "folders" and of.partition.kind == "natural"
    hospitals = len(of.folders) if natural else of.hospitals
    said = [
        f"Base: {', '.join(told(name, fields[name], names) for name in names)}{batches}; "
        f"{hospitals} hospitals, {origin.rounds} rounds of "
        f"{origin.algorithm.steps} steps, preset {origin.model.preset}. Every other point is named "
        "by what it changes.",
    ]
    if deltas:
        said.append(
            "Epsilon: of one patient at one hospital with all recordings, delta "
            f"{max(deltas):.2g}, of that run alone. Who compares such runs on real patients has "
            "spent them all."
        )
    if reference is None:
        said.append("No point is without privacy (mode none): there is no share of its fall.")
    else:
        several = sum(row["mode"] == NONE for row in rows) > 1
        said.append(
            f"Reference without privacy: {reference['number']} {reference['point']}"
            + ("; of several the one that falls most, which no interval knows." if several else ".")
        )
        if reference["fall"]["value"] <= 0:
            said.append("The reference's loss does not fall: there is no share of its fall.")
    return said
