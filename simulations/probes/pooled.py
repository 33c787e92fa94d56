"""A federation against pooled training by probes of real patients: ratios of every task, the bar.

    found = ratios(document)     # of `fedprint-lab probe`; None without both rows

Every task counts by its first sensors, and each collection by itself. Ratios are of the file's
figures; files of before `against_pooled` have no interval of them. A ratio to nothing, or of what
has no figure, is not measured. Where pooled training gains nothing over the warm start, both models
are the warm start still, and a ratio says nothing. The mean over tasks is of those that have enough
patients of a class; an older file's mean of all is made anew of its points, without an interval.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shared_model import intervals
from simulations.gain_answers import AUROC_BAR, MAE_BAR, moved_words
from simulations.probes.few import cells_of, mean_words, todays_figure
from simulations.probes.rows import POOLED, WARM_START, WITHOUT_DP
from simulations.probes.table import METRICS

ALIKE = "two models trained a little on from one warm start differ little"
Figure = Mapping[str, Any]
"""{"value", "low", "high"}: the ends are None without an interval; all are if not measured."""


@dataclass(frozen=True)
class Ratio:
    """A task's. moved: skill of pooled training over the warm start's; None if not measured. few:
    too few patients of a class for an interval."""

    task: str
    sensors: str
    metric: str
    ratio: Figure
    moved: Figure | None
    few: bool = False

    @property
    def ranked(self) -> bool:
        """Whether more is better."""
        return self.metric != METRICS["mae"]

    @property
    def bar(self) -> str:
        return f">= {AUROC_BAR:g}" if self.ranked else f"<= {MAE_BAR:g}"

    @property
    def held(self) -> bool:
        """By the ratio itself, as the bar is written."""
        return self._holds(self.ratio["value"])

    @property
    def measured(self) -> bool:
        return _finite(self.ratio["value"])

    @property
    def has_interval(self) -> bool:
        return self.measured and self.ratio["low"] is not None

    @property
    def within(self) -> bool:
        """With all of its interval."""
        return self.has_interval and self._holds(self.ratio["low" if self.ranked else "high"])

    @property
    def beyond(self) -> bool:
        """With all of its interval."""
        return self.has_interval and not self._holds(self.ratio["high" if self.ranked else "low"])

    @property
    def named(self) -> str:
        one = self.ratio
        return f"{self.task} {intervals.words(one['value'], one['low'], one['high'])}"

    def _holds(self, number: float | None) -> bool:
        if number is None or not _finite(number):
            return False
        return number >= AUROC_BAR if self.ranked else number <= MAE_BAR


@dataclass(frozen=True)
class Against:
    """All tasks. moved: mean skill of pooled training over the warm start's, of tasks that are not
    `few`; None if not measured."""

    rows: Sequence[Ratio]
    moved: Figure | None

    @property
    def reached(self) -> bool:
        """The bar as it is written: every task, by ratios alone; one not measured is not held."""
        return all(row.held for row in self.rows)

    @property
    def words(self) -> str:
        outside = [row.named for row in self.rows if row.measured and not row.held]
        unknown = [row.task for row in self.rows if not row.measured]
        held = len(self.rows) - len(outside) - len(unknown)
        told = [
            f"ratios within the bar on {held} of {len(self.rows)} tasks, each collection by itself",
            f"beyond: {', '.join(outside) or 'none'}",
            *([f"not measured: {', '.join(unknown)}"] if unknown else []),
            self._intervals(),
        ]
        if self.moved is not None:
            better = sum(row.moved is not None and row.moved["value"] > 0 for row in self.rows)
            few = [row.task for row in self.rows if row.few]
            told += [
                f"pooled training moved mean skill by {moved_words(self.moved)} over the warm "
                f"start and is above it on {better} of {len(self.rows)} tasks",
                *([f"the mean is of {mean_words(few)}"] if few else []),
                ALIKE,
            ]
        return "; ".join(told)

    def _intervals(self) -> str:
        known = [row for row in self.rows if row.has_interval]
        if not known:
            return "no ratio has an interval"
        return (
            f"with all of the interval {sum(row.within for row in known)} within and "
            f"{sum(row.beyond for row in known)} beyond, of {len(known)} tasks that have one"
        )

    @property
    def beside(self) -> str:
        """What must stand beside the answer of the ratios; "" where they say something."""
        if self.moved is None:
            return "the file does not say whether pooled training gained over the warm start"
        nothing = not_gained(self.moved)
        if not nothing:
            return ""
        return f"but pooled training {nothing} over the warm start, so the comparison says nothing"


def not_gained(moved: Figure) -> str:
    """Of a difference of skill to the warm start, in words; "" if all of its interval is above
    zero."""
    if moved["low"] is not None and moved["low"] > 0:
        return ""
    return "gained nothing" if moved["value"] <= 0 else "is not shown to have gained"


def ratios(document: Mapping[str, Any]) -> Against | None:
    """Ratios of a document of probes; None if it has not both rows."""
    known = document.get("against_pooled") or {"rows": [], "pooled_over_warm_start": None}
    paired = {(one["task"], one["sensors"]): one for one in known["rows"]}
    first: dict[str, str] = {}
    at: dict[tuple[str, str], Mapping[str, Any]] = {}
    for cell in cells_of(document):
        first.setdefault(cell["task"], cell["sensors"])
        if first[cell["task"]] == cell["sensors"]:
            at[cell["task"], cell["row"]] = cell
    rows = [
        _ratio(at[task, WITHOUT_DP], at[task, POOLED], at.get((task, WARM_START)),
               paired.get((task, sensors)))
        for task, sensors in first.items()
        if {(task, WITHOUT_DP), (task, POOLED)} <= set(at)
    ]  # fmt: skip
    if not rows:
        return None
    return Against(rows, _mean(rows, known["pooled_over_warm_start"], document))


def _mean(rows: Sequence[Ratio], held: Figure | None, document: Mapping[str, Any]) -> Figure | None:
    """The file's mean, if it is of tasks that have enough patients of a class; else of points."""
    without = document.get("not_in_means", [])
    of_enough = all(row.task in without for row in rows if row.few)
    if held is not None and _finite(held["value"]) and of_enough:
        return todays_figure(held, few=False)
    each = [row.moved for row in rows if not row.few]
    known = [one["value"] for one in each if one is not None]
    return _point(sum(known) / len(known)) if known and len(known) == len(each) else None


def _ratio(
    ours: Mapping[str, Any],
    pooled: Mapping[str, Any],
    start: Mapping[str, Any] | None,
    paired: Mapping[str, Any] | None,
) -> Ratio:
    """Of three cells of a task. paired: what the file holds of it; None: an older file, of which
    there are points alone."""
    few = bool(pooled["no_interval"])
    if paired is None:
        moved = None if start is None else _point(_less(pooled["skill"], start["skill"]))
        ratio = _point(_over(ours["estimate"], pooled["estimate"]))
    else:
        ratio, moved = paired["ratio"], paired["pooled_over_warm_start"]
    moved = todays_figure(moved, few=few) if moved and _finite(moved["value"]) else None
    ratio = todays_figure(ratio, few=few)
    return Ratio(ours["task"], ours["sensors"], ours["metric"], ratio, moved, few)


def _over(one: Figure, other: Figure) -> float | None:
    """None where there is no such number."""
    known = _finite(one["value"]) and _finite(other["value"]) and other["value"] != 0
    return one["value"] / other["value"] if known else None


def _less(one: Figure, other: Figure) -> float | None:
    known = _finite(one["value"]) and _finite(other["value"])
    return one["value"] - other["value"] if known else None


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _point(value: float | None) -> dict[str, Any]:
    return {"value": value, "low": None, "high": None}
