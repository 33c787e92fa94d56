"""The issue's bars, read off a probe table: on how many tasks a row is above the baselines.

The issue counts eight tasks: heart rate, atrial fibrillation, hypertension, age, sex, true
ventricular tachycardia, recording quality, identity. One that is measured on several collections
("heart rate (ECG)", "heart rate (PPG)" ...) is one task, above where more than half of them are;
each counts by its first choice of sensors (both, where both can serve it). "Above" is said twice:
by the interval of the paired difference, which must lie above zero as a whole, and by the point
estimate, which with few patients says little.

What one sensor loses counts on tasks that the row itself can serve with both: where their AUROC is
above chance by its whole interval. A loss against a coin is noise; it is named, and not counted.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from simulations.probes.evaluate import Estimate
from simulations.probes.rows import HAND_MADE, RANDOM
from simulations.probes.table import Cell, ProbeTable

RATE_TASKS = "heart rate"
"""Tasks whose names begin so: hand-made features hold the answer itself."""
RANDOM_BAR, RANDOM_OF = 6, 8
HAND_MADE_BAR, HAND_MADE_OF = 4, 7
LOSS_BAR = 0.05


def summary(table: ProbeTable) -> dict[str, Any]:
    """For each row that is no baseline: counts over tasks, single-sensor loss, and the bars."""
    first: dict[str, str] = {}
    for cell in table.cells:
        first.setdefault(cell.task, cell.sensors)
    counted = [cell for cell in table.cells if first[cell.task] == cell.sensors]
    names = list(dict.fromkeys(cell.row for cell in table.cells))
    return {
        name: _row(table, [cell for cell in counted if cell.row == name], name)
        for name in names
        if name not in {RANDOM, HAND_MADE}
    }


def _row(table: ProbeTable, cells: list[Cell], name: str) -> dict[str, Any]:
    over_random = _counts((cell.task, cell.gain) for cell in cells)
    over_hand_made = _counts(
        (cell.task, cell.over_hand_made) for cell in cells if not cell.task.startswith(RATE_TASKS)
    )
    served = {cell.task for cell in cells if cell.skill.low > 0}
    losses = [one for one in table.losses if one.row == name and one.kind == "auroc"]
    counted = [one for one in losses if one.task in served]
    worst = max(counted, key=lambda one: one.loss.value, default=None)
    return {
        "above_random_init": over_random | {
            "bar": f"{RANDOM_BAR} of {RANDOM_OF}",
            "reached": _reached(over_random, RANDOM_BAR, RANDOM_OF),
        },
        "above_hand_made": over_hand_made | {
            "bar": f"{HAND_MADE_BAR} of {HAND_MADE_OF} other than heart rate",
            "reached": _reached(over_hand_made, HAND_MADE_BAR, HAND_MADE_OF),
        },
        "single_sensor": None if worst is None else {
            "task": worst.task,
            "sensors": worst.sensors,
            "largest_relative_loss": round(worst.loss.value, 5),
            "low": _rounded(worst.loss.low),
            "high": _rounded(worst.loss.high),
            "bar": LOSS_BAR,
            "reached": worst.loss.value <= LOSS_BAR,
            "not_above_chance": sorted({one.task for one in losses} - served),
        },
    }  # fmt: skip


def _rounded(value: float) -> float | None:
    return round(value, 5) if math.isfinite(value) else None


def _counts(differences: Iterable[tuple[str, Estimate | None]]) -> dict[str, Any]:
    tasks: dict[str, dict[str, Estimate]] = {}
    for name, one in differences:
        if one is not None:
            tasks.setdefault(name.partition(" (")[0], {})[name] = one
    return {
        "tasks": len(tasks),
        "by_interval": sum(_most(one.low > 0 for one in of.values()) for of in tasks.values()),
        "by_point_estimate": sum(
            _most(one.value > 0 for one in of.values()) for of in tasks.values()
        ),
        "not_by_interval": [
            name for of in tasks.values() for name, one in of.items() if not one.low > 0
        ],
    }


def _most(above: Iterable[bool]) -> bool:
    """More than half."""
    found = list(above)
    return 2 * sum(found) > len(found)


def _reached(counts: dict[str, Any], wanted: int, of: int) -> bool:
    """By intervals; with more or fewer tasks than the bar names, the same share of them."""
    return bool(counts["tasks"]) and counts["by_interval"] * of >= wanted * counts["tasks"]


def sentences(table: ProbeTable) -> list[str]:
    """The summary in words, one line a fact."""
    lines = []
    for name, row in summary(table).items():
        for key, words in (("above_random_init", "above random-init"),
                           ("above_hand_made", "above hand-made features")):  # fmt: skip
            one = row[key]
            reached = "reached" if one["reached"] else "not reached"
            lines.append(
                f"{name}: {words} on {one['by_interval']} of {one['tasks']} tasks by interval, "
                f"{one['by_point_estimate']} by point estimate; bar {one['bar']}: {reached}"
            )
        single = row["single_sensor"]
        if single is not None:
            reached = "reached" if single["reached"] else "not reached"
            lines.append(
                f"{name}: largest loss of AUROC with one sensor "
                f"{100 * single['largest_relative_loss']:.1f} % ({single['task']}, "
                f"{single['sensors']} only); bar {100 * LOSS_BAR:g} %: {reached}"
                + not_counted(single)
            )
    return lines


def not_counted(single: Mapping[str, Any]) -> str:
    """Of `single_sensor`, in words: tasks that both sensors cannot serve, "" if there are none."""
    tasks = single.get("not_above_chance")
    return f"; not counted, both sensors no better than chance: {', '.join(tasks)}" if tasks else ""
