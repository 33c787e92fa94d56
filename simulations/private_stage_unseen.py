"""What private training changes, and how, on real patients whom none of the runs has read.

    stages, patients = read_unseen(folders)      # unit losses of each patient, before and after
    figures = compared_unseen(stages, patients)  # of a measured file of kind private-stage-unseen

As `simulations.private_stage`, but patients are real, and so few that they decide what can be told
as much as seeds do. A fall is the mean over seeds and patients. Its interval, 95 %, reaches
sqrt(a^2 + b^2) either way, where a and b are those of Student's t for the mean over patients and
for the mean over seeds (two crossed random effects; what is between them is in both, so that it is
wide rather than narrow; with Satterthwaite's degrees of freedom two seeds would give too short
ones). Differences between points are taken patient by patient and seed by seed first; of a share r
of a reference's fall f, the interval is that of (o - r f) / f.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from shared_model import weights as weights_io
from shared_model.errors import OurMistake
from simulations.gain import name_of, refuse_twice, words
from simulations.lab import recorded
from simulations.lab.experiment import Experiment
from simulations.lab.frontiers import CONFIDENCE
from simulations.lab.result import Result
from simulations.private_stage import (
    Stage,
    about_costs,
    about_point,
    about_the_points,
    cost_of,
    plotted,
    points_by_seed,
    reference_of,
    row_of,
)
from simulations.site_mapping import refuse_other_mappings
from simulations.unseen_losses import OnProgress, Unseen, losses, unseen_by

F64 = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
LEAST_PATIENTS = 20
"""Of fewer no figure is told."""


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
class Measured:
    """The patients of the losses.

    both: (patient,), who has both sensors in a window. sites: name, patients, patients with both.
    read_elsewhere, same_person: see `Unseen`.
    """

    both: Bools = field(repr=False)
    sites: tuple[tuple[str, int, int], ...]
    lots: tuple[float, float]
    read_elsewhere: int = 0
    same_person: int = 0

    @classmethod
    def of(cls, unseen: Unseen, known: Bools) -> Measured:
        """Those whose loss is known."""
        both, site = unseen.both[known], unseen.site[known]
        rows = [
            (name, int((site == k).sum()), int(both[site == k].sum()))
            for k, name in enumerate(unseen.sites)
        ]
        return cls(both, tuple(rows), unseen.lots, unseen.read_elsewhere, unseen.same_person)


def read_unseen(
    folders: Sequence[Path],
    *,
    on_done: Callable[[str], None] | None = None,
    on_progress: OnProgress | None = None,
) -> tuple[list[Stage[UnseenRun]], Measured]:
    """Unit losses of finished runs on patients whom none of them read, and what they cost.

    Raises:
        OurMistake: a folder holds no run, or one that has not ended, or is named twice; the runs
            do not compare (see `compared_unseen`); they read different patients, or folders that
            are called otherwise now, or left too few; or a model has no finite loss.
    """
    from simulations.lab.beginning import starting_model

    refuse_twice(folders)
    results = [Result.open(folder) for folder in folders]
    stages, nothing = [], np.zeros(0)
    for result in results:
        told = result.experiment
        start = weights_io.digest(starting_model(told)[1])
        run = UnseenRun(name_of(told), told, start, result.digest, nothing, nothing)
        stages.append(Stage(run, *cost_of(result)))
    points_by_seed(stages)
    for result in results:
        _refuse_renamed(result)
        read = map(Path, result.experiment.federation.folders)
        refuse_other_mappings(result.folder.name, result.mappings, read, spelling=result.spelling)
    unseen = unseen_by([one.experiment for one in stages], on_progress)
    known = np.asarray(np.any(unseen.valid, axis=(1, 2, 3)))
    _refuse_few(int(known.sum()))
    config, first = starting_model(stages[0].experiment)
    before = _finite(losses(config, first, unseen)[known], "the starting model")
    scored = []
    for result, stage in zip(results, stages, strict=True):
        after = losses(config, result.weights(), unseen)[known]
        after = _finite(after, f"the last model of {result.folder}")
        scored.append(replace(stage, run=replace(stage.run, before=before, after=after)))
        if on_done is not None:
            on_done(result.folder.name)
    return scored, Measured.of(unseen, known)


def _refuse_renamed(result: Result) -> None:
    """A lot follows from the folder's name: called otherwise, its patients have other lots."""
    federation = result.experiment.federation
    if federation.source != "folders" or federation.partition.kind != "natural":
        return
    there = set(recorded.site_names(federation.folders))
    gone = sorted(set(result.sites().column("site").to_pylist()) - there)
    if gone:
        raise OurMistake(
            f"The run read folders that are not called so any more: {', '.join(gone)}.",
            do="Call the folders of recordings as they were: who is unread follows from the name.",
        )


def _refuse_few(patients: int) -> None:
    if patients < LEAST_PATIENTS:
        raise OurMistake(
            f"{patients} patients are unread and have a usable window; {LEAST_PATIENTS} are "
            "needed.",
            do="Let runs read fewer lots, or leave out --unseen to measure on pretend patients.",
        )


def _finite(lost: F64, whose: str) -> F64:
    if not np.isfinite(lost).all():
        raise OurMistake(
            f"The unit loss of {whose} is not finite for {int((~np.isfinite(lost)).sum())} "
            "patients.",
            do="Leave the run out: its training has diverged.",
        )
    return lost


def compared_unseen(stages: Sequence[Stage[UnseenRun]], measured: Measured) -> dict[str, Any]:
    """One row a point, the first run's point first: it is the base.

    Raises:
        OurMistake: runs begin with different models, a run is there twice, all are one point, or
            points have different seeds.
    """
    groups, names = points_by_seed(stages)
    base = next(iter(groups.values()))
    best = reference_of(groups, lambda group: float(_falls(group).mean()))
    rows = [
        _row(number, group, base, best, names, measured.both)
        for number, group in enumerate(groups.values(), start=1)
    ]
    reference = row_of(best, groups, rows)
    seeds = "" if len(base) > 1 else "; one seed: what its noise does is in no interval"
    return {
        "rows": rows,
        "patients": len(measured.both),
        "patients_with_both": int(measured.both.sum()),
        "left_out_read_elsewhere": measured.read_elsewhere,
        "left_out_same_person": measured.same_person,
        "sites": [
            {"name": name, "patients": patients, "with_both": both}
            for name, patients, both in measured.sites
        ],
        "in_words": [
            *_whose(base, measured),
            *about_the_points(base, reference, rows, names, stages),
            *_of_shares(reference),
            *about_costs(),
            *words([one.run for one in stages]),
        ],
        **plotted(rows, reference),
        "plotted_words": "fall of the unit loss of unread real patients, 95 %; not paired" + seeds,
    }


def _falls(group: Sequence[Stage[UnseenRun]]) -> F64:
    """(seed, patient): above zero is better."""
    return np.stack([one.run.before - one.run.after for one in group])


def interval(values: F64) -> dict[str, float]:
    """Mean of (seed, patient) and its 95 % interval over both, see the module; over patients alone
    where there is one seed."""
    mean = float(values.mean())
    parts = [(values.mean(axis=0), values.shape[1])]
    if len(values) > 1:
        parts.append((values.mean(axis=1), len(values)))
    reaches = [
        float(stats.t.ppf(0.5 + CONFIDENCE / 2, count - 1)) * float(np.std(one, ddof=1))
        / math.sqrt(count)
        for one, count in parts
    ]  # fmt: skip
    reach = math.hypot(*reaches)
    return {"value": mean, "low": mean - reach, "high": mean + reach}


def _row(
    number: int,
    group: Sequence[Stage[UnseenRun]],
    base: Sequence[Stage[UnseenRun]],
    best: Sequence[Stage[UnseenRun]] | None,
    names: Sequence[str],
    both: Bools,
) -> dict[str, Any]:
    falls = _falls(group)
    return {
        **about_point(number, group, base, names),
        "loss": interval(np.stack([one.run.after for one in group])),
        "fall": interval(falls),
        "more_than_base": None if group is base else interval(falls - _falls(base)),
        "of_reference_percent": None if best is None else _share(falls, _falls(best)),
        "fall_with_both": interval(falls[:, both]) if both.sum() >= LEAST_PATIENTS else None,
    }


def _share(ours: F64, free: F64) -> dict[str, float] | None:
    """Mean fall over the reference's in percent; None where the reference's is not above zero by
    its interval, which would make the ratio one of noise."""
    if interval(free)["low"] <= 0:
        return None
    share = float(ours.mean() / free.mean())
    around = interval((ours - share * free) / free.mean())
    return {
        "value": 100.0 * share,
        "low": 100.0 * (share + around["low"]),
        "high": 100.0 * (share + around["high"]),
    }


def _of_shares(reference: dict[str, Any] | None) -> list[str]:
    if reference is None or reference["of_reference_percent"] or reference["fall"]["value"] <= 0:
        return []
    return ["The reference's fall is not above zero by its interval: there is no share of it."]


def _whose(base: Sequence[Stage[UnseenRun]], measured: Measured) -> list[str]:
    start, seeds = float(base[0].run.before.mean()), len(base)
    patients, both = len(measured.both), int(measured.both.sum())
    of = "; ".join(
        f"{name} {count}" + (f" ({with_both} with both sensors)" if with_both else " (one sensor)")
        for name, count, with_both in measured.sites
    )
    said = [
        f"Fall of the unit loss on {patients} REAL patients whom none of these runs has read (lots "
        f"{measured.lots[0]:g} to {measured.lots[1]:g}), last model against starting model: unit "
        f"loss {start:.4f}. At most two windows of each, the first and the last; no label is "
        "looked at: this is not the skill of a probe.",
        f"Patients by folder: {of}. All weigh alike. Of the {patients - both} without both sensors "
        "the unit loss has no cross-modal term.",
        "Intervals are 95 %, of Student's t over patients"
        + (
            f" and {seeds} seeds."
            if seeds > 1
            else ". ONE SEED: what its noise does is in no interval, and no private point is shown "
            "to be better than another."
        ),
        "Unread by these runs: other measurements may have looked at these patients, and whoever "
        "chooses a point by these figures has used them for it. One person under two identifiers "
        "may be on both sides.",
    ]
    if measured.read_elsewhere:
        said.append(
            f"{measured.read_elsewhere} more are left out: somebody of the same identifier was "
            "read in another folder, who may be the same person, or a copy of their recording was."
        )
    if measured.same_person:
        said.append(
            "Names left out because a recording of theirs is another of these patients', who is "
            f"there once: {measured.same_person}."
        )
    if any(one.experiment.model.weights is not None for one in base):
        said.append("Runs begin with weights of a file: whom that was trained on is not known.")
    return said
