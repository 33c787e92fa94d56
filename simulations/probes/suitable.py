"""Whom a task can ask: windows that have all of its sensors, and patients enough for its folds.

"One sensor alone against both" is a question about windows that have both. A window of one sensor,
or a patient of whom one sensor was never recorded, would tell how often a sensor is missing, not
what it holds.
"""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np

from client.fingerprints import having
from simulations.probes.task import Task

FEWEST_PATIENTS = 8
FEW_OF_CLASS = 10
"""Patients of the smaller class, below which the note says how many."""
FEWEST_OF_CLASS = 3
"""Patients of the smaller class: with two, a training fold has one, and nothing can be chosen."""
FEW_NOTED = re.compile(r"only (\d+) patients of the smaller class")
"""As a note says it."""


def with_its_sensors(task: Task) -> tuple[Task | None, str]:
    """The task without windows that lack one of its sensors, and how many are left out ("" if
    none); None if nothing is left. Where quality is the question, everything stays."""
    if not task.gated:
        return task, ""
    kept = having(task.valid, "both" if len(task.sensors) > 1 else task.sensors[0])
    if kept.all():
        return task, ""
    left = task.of_windows(kept)
    words = f"{int((~kept).sum())} of {len(kept)} windows lack a sensor"
    if left is None:
        return None, words
    gone = len(task.truth) - len(left.truth)
    return left, f"{words} and are left out" + (f", {gone} items with them" if gone else "")


def folds_of(task: Task) -> int:
    """As many as the task has, or as many patients as its smaller class has."""
    if task.kind == "verification":
        return task.folds
    if task.kind != "auroc":
        return min(task.folds, task.patients)
    return min(task.folds, *of_classes(task))


def of_classes(task: Task) -> tuple[int, int]:
    """Patients with each of two classes; of some patients, items are of both."""
    first, second = (np.unique(task.group[task.truth == side]).size for side in (0.0, 1.0))
    return first, second


def smaller_class(task: Task) -> int | None:
    """Patients of the smaller of two classes; of identity, patients with two recordings. None of a
    number."""
    if task.kind == "verification":
        return int((np.bincount(task.group) > 1).sum())
    return min(of_classes(task)) if task.kind == "auroc" else None


def counted_anew(task: Task) -> Task:
    """The task whose note says of how few patients the smaller class is now, not before."""
    said = [one for one in task.note.split("; ") if one and not FEW_NOTED.fullmatch(one)]
    few = _few(task)
    return replace(task, note="; ".join([*said, few] if few else said))


def _few(task: Task) -> str:
    """How many patients the smaller class has, where they are few; else ""."""
    if task.kind != "auroc" or min(of_classes(task)) >= FEW_OF_CLASS:
        return ""
    return f"only {min(of_classes(task))} patients of the smaller class"


def enough(task: Task) -> tuple[Task | None, str]:
    """The task with as many folds as its patients allow, or None and why it cannot be measured."""
    if task.patients < FEWEST_PATIENTS:
        return None, f"{task.patients} patients; {FEWEST_PATIENTS} are needed"
    if task.kind == "verification":
        again = int((np.bincount(task.group) > 1).sum())
        if again < FEWEST_OF_CLASS:
            return None, f"{again} patients have two recordings; {FEWEST_OF_CLASS} are needed"
    if task.kind == "mae" and np.ptp(task.truth) == 0:
        return None, "the truth is the same of everybody"
    if task.kind == "auroc" and min(of_classes(task)) < FEWEST_OF_CLASS:
        return None, (
            f"{min(of_classes(task))} patients of the smaller class; {FEWEST_OF_CLASS} are needed"
        )
    return replace(task, folds=folds_of(task)), ""


def suitable(task: Task) -> tuple[Task | None, str]:
    """The task as it can be measured, what was left out being added to its note, or why not."""
    left, words = with_its_sensors(task)
    if left is None:
        return None, words
    found, why = enough(left)
    if found is None:
        return None, "; ".join(one for one in (why, words) if one)
    noted = (found.note, _few(found), words)
    return replace(found, note="; ".join(one for one in noted if one)), ""
