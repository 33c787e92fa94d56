"""Which figures of a document of probes have no interval, by the rules of today.

    document = todays(document)      # an older file's intervals of too few patients are gone

With fewer than `FEWEST_OF_A_CLASS` patients of the smaller class, or where drawing the patients
anew changes nothing, there is a figure and no interval, as of heads (`shared_model.intervals`).
Files of before hold such intervals, and say in a note alone how few patients a class had.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from shared_model.intervals import FEWEST_OF_A_CLASS
from simulations.probes.suitable import FEW_NOTED, FEW_OF_CLASS
from simulations.probes.table import METRICS

FIGURES = ("estimate", "skill", "gain_over_random_init", "gain_over_hand_made")
_LEFT_OUT = re.compile(r"(\d+) of \d+ patients")


def todays(document: Mapping[str, Any]) -> dict[str, Any]:
    """The document with `low` and `high` None where there is no interval; cells of `cells_of`."""
    cells = cells_of(document)
    few = {cell["task"] for cell in cells if cell["no_interval"]}
    losses = [
        {**one, "relative_loss": todays_figure(one["relative_loss"], few=one["task"] in few)}
        for one in document["single_sensor"]
    ]
    return {**document, "cells": cells, "single_sensor": losses}


def cells_of(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Its cells, with `low` and `high` None where there is no interval.

    A cell gets `no_interval`: how many patients a class has, in words, or ""; and `class_said`:
    whether the file says how many.
    """
    about = document.get("release") or {}
    return [_todays(cell, about) for cell in document["cells"]]


def _todays(cell: Mapping[str, Any], about: Mapping[str, Any]) -> dict[str, Any]:
    least = of_class(cell, about)
    few = least is not None and least < FEWEST_OF_A_CLASS
    shown = {key: todays_figure(cell[key], few=few) for key in FIGURES if cell.get(key) is not None}
    told = f"{least} {_whom(cell)}" if few else ""
    return {**cell, **shown, "no_interval": told, "class_said": least is not None}


def of_class(cell: Mapping[str, Any], about: Mapping[str, Any]) -> int | None:
    """Patients of the smaller class, or the fewest that it can have; of a number all patients; None
    if the file does not say.

    Files of before `smaller_class` note fewer than `FEW_OF_CLASS`, counted before the patients of a
    run were left out.

    Args:
        about: `release` of the document.
    """
    if cell.get("metric") == METRICS["mae"]:
        return int(cell["patients"])
    if cell.get("smaller_class") is not None:
        return int(cell["smaller_class"])
    if cell.get("metric") == METRICS["verification"] or about.get("notes") is None:
        return None
    noted = FEW_NOTED.search(about["notes"].get(cell["task"], ""))
    most = int(noted.group(1)) if noted else FEW_OF_CLASS
    gone = _LEFT_OUT.match(((about.get("unseen_by") or {}).get("left_out") or {})
                           .get(cell["task"], ""))  # fmt: skip
    everybody = about.get("unseen_by") is None or (gone is not None and gone.group(1) == "0")
    return most if everybody or (noted and most < FEWEST_OF_A_CLASS) else None


def todays_figure(one: Mapping[str, Any], *, few: bool) -> dict[str, Any]:
    """The figure, with its ends if it has an interval; few: too few patients of a class."""
    widthless = one["low"] is not None and one["low"] == one["high"]
    ends = {"low": None, "high": None} if few or widthless or one["value"] is None else {}
    return {**one, **ends}


def _whom(cell: Mapping[str, Any]) -> str:
    same = cell.get("metric") == METRICS["verification"]
    return "patients with two recordings" if same else "patients of the smaller class"


def no_interval_words(tasks: Mapping[str, str]) -> str:
    """Of tasks without an interval, why; "" if all have one."""
    needed = f"{FEWEST_OF_A_CLASS} are needed"
    told = ", ".join(f"{task} ({why}; {needed})" for task, why in tasks.items())
    return f"no interval: {told}" if told else ""


def mean_words(left_out: Sequence[str]) -> str:
    """Whose mean a mean over tasks is.

    Args:
        left_out: tasks without an interval.
    """
    return f"all tasks but {', '.join(left_out)} (no interval)" if left_out else "all tasks"


def not_said_words(tasks: Sequence[str]) -> str:
    """Of tasks with intervals whose smaller class the file does not count; "" if there are none."""
    if not tasks:
        return ""
    return (
        f"taken to have {FEWEST_OF_A_CLASS} patients of a class, which the file does not say: "
        f"{', '.join(tasks)}"
    )
