"""A federation's probes over pooled training's, task by task, on the same draws of patients.

`simulations.probes.table` collects them where a table has both rows; `simulations.probes.pooled`
says what they answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from simulations.probes.evaluate import Estimate, around, interval
from simulations.probes.rows import POOLED, WITHOUT_DP
from simulations.probes.task import Task

Sampled = tuple[float, np.ndarray]
"""A figure and the same in every bootstrap sample of patients (draw,)."""


def mean_of(measured: Sequence[Sampled]) -> Estimate:
    """Mean over tasks. As of one task, draws in which a class is absent (of any task) do not
    count; tasks of too few patients of a class, which have no interval, do not belong here."""
    value = float(np.mean([value for value, _ in measured]))
    return interval(value, np.mean([sampled for _, sampled in measured], axis=0))


@dataclass(frozen=True)
class Ratio:
    """ratio: of the figures (AUROC, mean absolute error), paired. moved: skill of pooled training
    minus the warm start's, paired; None without such a row."""

    task: str
    sensors: str
    kind: str
    ratio: Estimate
    moved: Estimate | None


@dataclass
class AgainstPooled:
    """Every task by its first sensors."""

    rows: list[Ratio] = field(default_factory=list)
    _moved: list[Sampled] = field(default_factory=list)

    def add(
        self, task: Task, measured: Mapping[str, Sampled], moved: Sampled | None, *, few: bool
    ) -> None:
        """One task, if both rows are there.

        Args:
            few: its smaller class has too few patients for an interval; the mean leaves it out.
        """
        if not {WITHOUT_DP, POOLED} <= set(measured):
            return
        (ours, our_samples), (pooled, pooled_samples) = measured[WITHOUT_DP], measured[POOLED]
        with np.errstate(invalid="ignore", divide="ignore"):
            sampled = our_samples / pooled_samples
            ratio = float(np.float64(ours) / pooled)
        self.rows.append(
            Ratio(
                task.name,
                task.sensors[0],
                task.kind,
                around(ratio, sampled, few=few),
                None if moved is None else around(*moved, few=few),
            )
        )
        if moved is not None and not few:
            self._moved.append(moved)

    @property
    def mean_moved(self) -> Estimate | None:
        """Mean over tasks of what pooled training adds to the warm start's skill; None without a
        task that has an interval."""
        return mean_of(self._moved) if self._moved else None
