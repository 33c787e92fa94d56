"""The issue's bars, read off a document of probes: on how many tasks a row is above the baselines.

The document is what `fedprint-lab probe` writes. The command and the results page both ask here, so
that a verdict which an older file holds is never shown: figures are the file's, rules are today's.

The issue counts eight tasks: heart rate, atrial fibrillation, hypertension, age, sex, true
ventricular tachycardia, recording quality, identity. One that is measured on several collections
("heart rate (ECG)", "heart rate (PPG)" ...) is one task, above where more than half of them are;
each counts by its first choice of sensors (both, where both can serve it). "Above" is said twice:
by the interval of the paired difference, which must lie above zero as a whole, and by the point
estimate, which with few patients says little. A task with too few patients of a class has no
interval (`simulations.probes.few`): it stays among the tasks, and cannot be above by interval.

What one sensor loses counts on tasks that the row itself can serve with both: where their AUROC is
above chance by its whole interval. A loss against a coin is noise; it is named, and not counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from shared_model import intervals
from simulations.probes.few import no_interval_words, not_said_words, todays
from simulations.probes.rows import HAND_MADE, RANDOM
from simulations.probes.table import METRICS

RATE_TASKS = "heart rate"
"""Tasks whose names begin so: hand-made features hold the answer itself."""
RANDOM_BAR, RANDOM_OF = 6, 8
HAND_MADE_BAR, HAND_MADE_OF = 4, 7
LOSS_BAR = 0.05
Figure = Mapping[str, float | None]
"""{"value", "low", "high"}; None where there is none."""


def summary(document: Mapping[str, Any]) -> dict[str, Any]:
    """For each row that is no baseline: counts over tasks, single-sensor loss, and the bars.

    Args:
        document: `cells` and `single_sensor` as `ProbeTable.as_dict` has them; of older ones
            `release`, too, which says how few patients a class has.
    """
    document = todays(document)
    cells = document["cells"]
    first: dict[str, str] = {}
    for cell in cells:
        first.setdefault(cell["task"], cell["sensors"])
    counted = [cell for cell in cells if first[cell["task"]] == cell["sensors"]]
    return {
        name: _row(
            [cell for cell in counted if cell["row"] == name],
            [one for one in document["single_sensor"] if one["row"] == name],
        )
        for name in dict.fromkeys(cell["row"] for cell in cells)
        if name not in {RANDOM, HAND_MADE}
    }


def _row(cells: list[dict[str, Any]], losses: list[dict[str, Any]]) -> dict[str, Any]:
    over_random = _counts(cells, "gain_over_random_init")
    over_hand_made = _counts(
        [cell for cell in cells if not cell["task"].startswith(RATE_TASKS)], "gain_over_hand_made"
    )
    no_interval = {cell["task"]: cell["no_interval"] for cell in cells if cell["no_interval"]}
    served = {cell["task"] for cell in cells if _above(cell["skill"], "low")}
    losses = [one for one in losses if one["metric"] == METRICS["auroc"]]
    counted = [
        one for one in losses if one["task"] in served and one["relative_loss"]["value"] is not None
    ]
    worst = max(counted, key=lambda one: one["relative_loss"]["value"], default=None)
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
            "task": worst["task"],
            "sensors": worst["sensors"],
            "largest_relative_loss": worst["relative_loss"]["value"],
            "low": worst["relative_loss"]["low"],
            "high": worst["relative_loss"]["high"],
            "bar": LOSS_BAR,
            "reached": worst["relative_loss"]["value"] <= LOSS_BAR,
            "not_above_chance": sorted({one["task"] for one in losses} - served - set(no_interval)),
            "no_interval": {
                one["task"]: no_interval[one["task"]]
                for one in losses if one["task"] in no_interval
            },
        },
    }  # fmt: skip


def _above(one: Figure, end: str) -> bool:
    """Whether a value, or an end of its interval, is known and above zero."""
    number = one[end]
    return number is not None and number > 0


def _counts(cells: Sequence[Mapping[str, Any]], key: str) -> dict[str, Any]:
    """Tasks that are above by a difference, those that have no interval, and those of whose classes
    the file does not say how many patients they have, although their interval counts."""
    cells = [cell for cell in cells if cell[key] is not None]
    tasks: dict[str, dict[str, Figure]] = {}
    for cell in cells:
        tasks.setdefault(cell["task"].partition(" (")[0], {})[cell["task"]] = cell[key]
    return {
        "tasks": len(tasks),
        "by_interval": sum(
            _most(_above(one, "low") for one in of.values()) for of in tasks.values()
        ),
        "by_point_estimate": sum(
            _most(_above(one, "value") for one in of.values()) for of in tasks.values()
        ),
        "not_by_interval": [
            name for of in tasks.values() for name, one in of.items() if not _above(one, "low")
        ],
        "no_interval": {cell["task"]: cell["no_interval"] for cell in cells if cell["no_interval"]},
        "class_not_said": [
            cell["task"] for cell in cells if _above(cell[key], "low") and not cell["class_said"]
        ],
    }


def _most(above: Iterable[bool]) -> bool:
    """More than half."""
    found = list(above)
    return 2 * sum(found) > len(found)


def _reached(counts: dict[str, Any], wanted: int, of: int) -> bool:
    """By intervals; with more or fewer tasks than the bar names, the same share of them."""
    return bool(counts["tasks"]) and counts["by_interval"] * of >= wanted * counts["tasks"]


def sentences(document: Mapping[str, Any]) -> list[str]:
    """The summary in words, one line a fact."""
    lines = []
    for name, row in summary(document).items():
        for key, words in (("above_random_init", "above random-init"),
                           ("above_hand_made", "above hand-made features")):  # fmt: skip
            one = row[key]
            reached = "reached" if one["reached"] else "not reached"
            lines.append(
                f"{name}: {words} on {one['by_interval']} of {one['tasks']} tasks by interval, "
                f"{one['by_point_estimate']} by point estimate{uncounted(one)}; bar {one['bar']}: "
                f"{reached}"
            )
        single = row["single_sensor"]
        if single is not None:
            reached = "reached" if single["reached"] else "not reached"
            lines.append(
                f"{name}: largest loss of AUROC with one sensor {loss_words(single)}; "
                f"bar {100 * LOSS_BAR:g} %: {reached}{not_counted(single)}"
            )
    return lines


def loss_words(single: Mapping[str, Any]) -> str:
    """Of `single_sensor`: the largest loss with its interval, and where."""
    ends = single["low"], single["high"]
    low, high = (None if end is None else 100 * end for end in ends)
    form = intervals.form(low, high, 1)
    told = f"{100 * single['largest_relative_loss']:{form}} %"
    if low is not None and high is not None:
        told += f" [{low:{form}}, {high:{form}}]"
    return f"{told} ({single['task']}, {single['sensors']} only)"


def not_counted(single: Mapping[str, Any]) -> str:
    """Of `single_sensor`, in words: tasks that both sensors cannot serve, "" if there are none."""
    chance = ", ".join(single["not_above_chance"])
    told = (
        f"both sensors no better than chance: {chance}" if chance else "",
        no_interval_words(single["no_interval"]),
    )
    return "".join(f"; not counted, {words}" for words in told if words)


def uncounted(one: Mapping[str, Any]) -> str:
    """Of a count, in words: tasks that have no interval, and those whose interval counts without
    the file's word for it."""
    told = (no_interval_words(one["no_interval"]), not_said_words(one["class_not_said"]))
    return "".join(f"; {words}" for words in told if words)
