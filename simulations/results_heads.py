"""Markdown of a head on the results page, from the figures of its measured file."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import Any

from simulations.results_rows import NOT_MEASURED
from simulations.results_tables import SENSORS, interval, table


def head(figures: dict[str, Any]) -> list[str]:
    """What the head is, its figures, of a federated one the rows beside it; what they are of."""
    federated = figures["federated"]
    declared = "" if federated is None else "declared "
    whose = ", ".join(f"{one['name']} ({one['patients']})" for one in figures["collections"])
    lines = [
        f"`{figures['task']}`, {SENSORS[figures['sensors']]}; one answer is of a {figures['item']};"
        f" {figures['patients']} {declared}patients of {whose}; {_trained(figures['privacy'])}.",
        "",
        *_own(figures["figures"], figures["privacy"]["mode"]),
    ]
    if federated is not None and federated["rows"]:
        lines += ["", f"On {federated['measured_on']}:", "", *_rows(federated["rows"])]
    words = [
        f"figures of: {figures['figures_of']}",
        *_classes(figures["class_counts"]),
        *_calibration(figures),
        *_groups(figures["groups"]),
        *_spent(figures["privacy"]["spent"]),
        *(f"{_why_hidden(figures)}: {one}" for one in figures["hidden"]),
        *figures["notes"],
        figures["public"],
    ]
    return [*lines, "", *(f"- {escape(one, quote=False)}" for one in words)]


def _why_hidden(figures: dict[str, Any]) -> str:
    """As the card has it."""
    private = figures["privacy"]["mode"] != "without"
    return "hidden by the noise" if private else "not there, for there are too few patients"


def _trained(privacy: dict[str, Any]) -> str:
    if privacy["mode"] == "without":
        return "trained NOT PRIVATE"
    seeded = "" if privacy["noise"] == "system" else ", SEEDED NOISE: NO PRIVACY"
    return f"trained with differential privacy, {privacy['mode']}{seeded}"


def _own(found: list[dict[str, Any]], mode: str) -> list[str]:
    if not found:
        hidden = "" if mode == "without" else ", or hidden by the noise"
        return [f"The head itself has no figure: {NOT_MEASURED}{hidden}."]
    return table(["figure", "value"], [[one["name"], interval(one, 3)] for one in found])


def _rows(rows: list[dict[str, Any]]) -> list[str]:
    names = list(dict.fromkeys(name for row in rows for name in row if name != "row"))
    cells = [[row["row"], *(_cell(row.get(name)) for name in names)] for row in rows]
    return table(["row", *names], cells)


def _cell(one: dict[str, Any] | None) -> str:
    """A figure, or why there is none."""
    return one["why"] if one is not None and one["value"] is None else interval(one, 3)


def _classes(counts: list[dict[str, Any]]) -> Iterable[str]:
    if counts:
        told = ", ".join(f"{one['name']} {one['patients']}" for one in counts)
        yield f"patients of each class: {told}"


def _calibration(figures: dict[str, Any]) -> Iterable[str]:
    """Temperature and its calibration errors, sets, band."""
    heat, sets, band = figures["temperature"], figures["sets"], figures["band"]
    if heat is not None and heat["ece_before"] is not None:
        yield (
            f"expected calibration error {heat['ece_before']:.3f}, after the temperature "
            f"{heat['temperature']:.3g}: {heat['ece_after']:.3f}"
        )
    if sets is not None:
        yield f"sets promise {sets['level']:.0%} of {_promised(sets['promise'])}"
    if band is not None and "interval" not in figures["hidden"]:
        yield f"band: {band['level']:.0%} within +- {band['half_width']:.3g} {figures['unit']}"


def _promised(promise: str) -> str:
    return "the patients of each class" if promise == "each class" else "all patients together"


def _groups(groups: list[dict[str, Any]]) -> Iterable[str]:
    for one in groups:
        told = ", ".join(f"{each['name']} {interval(each, 3)}" for each in one["figures"])
        yield f"{one['name']}: {told or one['why_none']}"


def _spent(spent: list[dict[str, Any]]) -> Iterable[str]:
    """Of each hospital; one line where all have spent the same."""
    equal = {(one["epsilon"], one["delta"]) for one in spent}
    for epsilon, delta in sorted(equal):
        who = [
            one["hospital"] for one in spent if (one["epsilon"], one["delta"]) == (epsilon, delta)
        ]
        yield f"epsilon {epsilon:.4g}, delta {delta:.3g}: {', '.join(who)}"
