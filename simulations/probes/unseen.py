"""Probes of patients that a run has not read: those of other folders, or with another lot.

Unseen is meant strictly: a patient whom the run held out of training counts as seen, too, because
what was chosen by held-out figures has seen them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from client.pseudonyms import SPELLING
from simulations.lots import Lots, place_of
from simulations.probes.suitable import counted_anew, enough
from simulations.probes.task import Task


@dataclass(frozen=True)
class Seen:
    """Whom a run read. folders: by name, as the data folder has them; lots: of their patients;
    mappings: how it read them (`simulations.site_mapping.own_mappings`). spelling: by what rule
    (`client.pseudonyms.SPELLING`)."""

    run: str
    folders: frozenset[str]
    lots: Lots
    mappings: Mapping[str, str] = field(default_factory=dict)
    spelling: int = SPELLING

    @classmethod
    def by(cls, run: Path) -> Seen:
        """What a run of the lab has read.

        Raises:
            OurMistake: the folder holds no run.
        """
        from simulations.lab.result import Result

        result = Result.open(run)
        experiment = result.experiment
        federation = experiment.federation
        names = frozenset(place_of(Path(one)) for one in federation.folders)
        lots = Lots(*federation.lots)
        return cls(experiment.name, names, lots, result.mappings, result.spelling)

    def refuse_read_otherwise(self, folders: Iterable[Path]) -> None:
        """Raises OurMistake: one of these, that the run read, has another mapping now, or its
        patients other names."""
        from simulations.site_mapping import refuse_other_mappings

        read = [one for one in folders if place_of(one) in self.folders]
        refuse_other_mappings(self.run, self.mappings, read, spelling=self.spelling)

    def read_copy(self, copied: Iterable[tuple[str, float]]) -> bool:
        """Whether it read one of these patients, by folder and lot."""
        return any(name in self.folders and self.lots.hold(lot) for name, lot in copied)

    def words(self) -> dict[str, Any]:
        """For probe.json."""
        return {
            "run": self.run,
            "folders": sorted(self.folders),
            "lots": [self.lots.first, self.lots.end],
        }


def without(task: Task, seen: Sequence[Seen]) -> tuple[Task | None, str]:
    """The task without the patients of these runs, and how many are gone, or why nothing is left.

    Who has a copy of a recording under another name counts as read if that name was. Folds become
    as many as the smaller class has patients; with too few of them the task is given
    up (`simulations.probes.suitable`).
    """
    people = task.people
    if people is None:
        return None, "whose patients these are is not known"
    kept = np.ones(len(people.lot), dtype=bool)
    copied = people.copied or ((),) * len(kept)
    for one in seen:
        read = np.array([name in one.folders for name in people.folders])[people.folder]
        kept &= ~(read & one.lots.hold(people.lot))
        kept &= ~np.array([one.read_copy(each) for each in copied])
    gone = f"{int((~kept).sum())} of {len(kept)} patients were read by a run"
    left = task.of_patients(kept)
    if left is None:
        return None, gone
    found, why = enough(left)
    return (None, f"{gone}, of the others: {why}") if found is None else (counted_anew(found), gone)


def unseen_words(words: Mapping[str, Any]) -> list[str]:
    """Of a probe's `release`, for tables and pages: which patients are not among those measured."""
    about = words.get("unseen_by")
    if not about:
        return []
    lines = [
        f"left out: patients with lots {run['lots'][0]:g} to {run['lots'][1]:g} of "
        f"{', '.join(run['folders']) or 'no folder'}: read by the run {run['run']}"
        for run in about["runs"]
    ]
    return lines + [f"left out: {task}: {gone}" for task, gone in about["left_out"].items()]
