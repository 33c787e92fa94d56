"""Plots about sites: fairness, and what was sent."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from simulations.lab.evaluate_rows import UNIT_LOSS
from simulations.lab.figures import F64, MEGABYTE, Row, RunData
from simulations.lab.plots_style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    VERMILION,
    CannotDraw,
    blank,
    panels,
    round_axis,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_BARS = 40
MOST_PANELS = 5
_LOWER_IS_BETTER = {"loss", "mae"}
NAMES = {"auroc": "AUROC", "mae": "MAE", "loss": "loss"}


def fairness(run: RunData) -> tuple[Figure, str]:
    """Each site's own figures at the last evaluation, and their spread over rounds."""
    if not run.evaluated:
        raise CannotDraw("Nothing was measured yet: the first evaluation has not been written.")
    last = run.evaluated[-1]
    shown = [(UNIT_LOSS, "loss")] if run.at_sites(UNIT_LOSS, "loss", last) else []
    kinds = {"auroc": "auroc", "r": "mae"}
    labels = [(task, kinds[kind]) for task, kind in run.labels]
    shown += [one for one in labels if run.at_sites(*one, last)][: MOST_PANELS - 1]
    if not shown:
        raise CannotDraw(
            "No site has enough held-out patients for a figure of its own (8 are needed): raise "
            "federation.patients, federation.held_out or evaluation.most_patients."
        )
    figure, axes = panels(len(shown) + 1, height_in=1.2)
    _spread(axes[0], run, *shown[0])
    for one, (task, kind) in zip(axes[1:], shown, strict=True):
        _dots(one, run.at_sites(task, kind, last), task, kind)
    axes[-1].set_xlabel("sites from best to worst, each panel in its own order")
    figure.align_ylabels(axes)
    counts = {task: len(run.at_sites(task, kind, last)) for task, kind in shown}
    every = len(set(run.sites["site"].to_pylist())) if "site" in run.sites.column_names else 0
    patients = [row["patients"] for row in run.at_sites(*shown[0], last)]
    of = f" of {every:,}" if every else ""
    return figure, (
        f"Figures of single sites, on their own held-out patients ({min(patients)} to "
        f"{max(patients)} a site). Above: {shown[0][0]} of the worst, the median and the best site "
        f"over rounds. Below: round {last}, one dot a site, best on the left; bars are 95 % "
        "intervals over the site's patients. Measured: "
        + ", ".join(f"{task} at {counts[task]:,}{of} sites" for task, _ in shown)
        + ". Part of the spread is that so few patients are a sample; AUROCs are over the classes "
        "that a site has."
    )


def communication(run: RunData) -> tuple[Figure, str]:
    """Loss against what was sent and against virtual time."""
    if not run.rounds:
        raise CannotDraw("No round has been written yet.")
    number = run.column("round")
    up, down = (np.cumsum(run.column(f"bytes_{way}")) / MEGABYTE for way in ("up", "down"))
    sites = _per_site(run)
    count = max(1, len(sites))
    figure, (total, against, timed) = panels(3, height_in=1.25)
    total.plot(number, up / count, "-", color=BLUE, label="up, mean site")
    total.plot(number, down / count, "--", color=VERMILION, label="down, mean site")
    total.set_ylabel("MB so far")
    total.legend(loc="upper left")
    round_axis(total, number)
    series = run.series(UNIT_LOSS, "loss")
    both = np.concatenate([[0.0], (up + down) / count])
    clock_s = np.concatenate([[0.0], run.column("virtual_s")])
    where = np.searchsorted(np.concatenate([[0.0], number]), series.round)
    for axes, x, label, colour in (
        (against, both, "MB up and down so far, mean site", GREEN),
        (timed, clock_s, "virtual time so far, s", ORANGE),
    ):
        if not len(series) or where.max() >= len(x):
            blank(axes, "No held-out loss was measured.")
            continue
        axes.plot(x[where], series.value, "-o", color=colour)
        axes.fill_between(x[where], series.low, series.high, color=colour, alpha=0.18, lw=0)
        axes.set_ylabel("unit loss")
        axes.set_xlabel(label)
    spread = ""
    if len(sites):
        spread = (
            f" By site, up and down in all rounds: {sites.min():.3g} MB (least) to "
            f"{sites.max():.3g} MB (most), median {np.median(sites):.3g} MB."
        )
    return figure, (
        "Communication: bytes of the sum's integers up and of the model down, with messages that "
        "were lost and sent again; signatures, key agreement and ledgers of a deployed run are not "
        "in it. Middle and below: held-out unit loss against them and against virtual time (a site "
        f"takes step_s for a step; nothing was waited for).{spread}"
    )


def _per_site(run: RunData) -> F64:
    """MB up and down of every site in all rounds so far."""
    table = run.sites
    if not table.num_rows:
        return np.zeros(0)
    added = table.group_by("site").aggregate([("bytes_up", "sum"), ("bytes_down", "sum")])
    both = added["bytes_up_sum"].to_numpy() + added["bytes_down_sum"].to_numpy()
    return np.asarray(both / MEGABYTE, dtype=np.float64)


def _spread(axes: Axes, run: RunData, task: str, kind: str) -> None:
    rounds, worst, middle, best = [], [], [], []
    sign = -1.0 if kind in _LOWER_IS_BETTER else 1.0
    for number in run.evaluated:
        values = np.array([row["value"] for row in run.at_sites(task, kind, number)])
        if len(values):
            rounds.append(number)
            worst.append(sign * (sign * values).min())
            middle.append(np.median(values))
            best.append(sign * (sign * values).max())
    one = len(rounds) == 1
    axes.fill_between(rounds, worst, best, color=GREY, alpha=0.12, lw=0)
    for line, colour, dashes, mark, words in (
        (worst, VERMILION, "--", "s", "worst"),
        (middle, GREY, "-", "o", "median"),
        (best, BLUE, ":", "^", "best"),
    ):
        axes.plot(rounds, line, color=colour, ls=dashes, marker=mark if one else "", label=words)
    axes.set_ylabel(task)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
    round_axis(axes, rounds)


def _dots(axes: Axes, rows: list[Row], task: str, kind: str) -> None:
    """Sites sorted from best to worst; intervals while they can be told apart."""
    sign = 1.0 if kind in _LOWER_IS_BETTER else -1.0
    rows = sorted(rows, key=lambda row: (sign * row["value"], row["site"]))
    values = np.array([row["value"] for row in rows])
    place = np.arange(1, len(rows) + 1)
    few = len(rows) <= MOST_BARS
    if few:
        low = np.array([np.nan if row["low"] is None else row["low"] for row in rows])
        high = np.array([np.nan if row["high"] is None else row["high"] for row in rows])
        bars = np.clip(np.nan_to_num([values - low, high - values]), 0, None)
        axes.errorbar(place, values, yerr=bars, fmt="none", ecolor=GREY, elinewidth=0.7)
    axes.plot(place, values, "o", color=GREY, ms=3 if few else 1.5)
    marked = ((0, BLUE, "^"), (len(rows) // 2, GREY, "o"), (len(rows) - 1, VERMILION, "s"))
    for at, colour, marker in marked:
        axes.plot(place[at], values[at], marker, color=colour, ms=4)
    axes.axhline(float(np.median(values)), color=GREY, lw=0.7, ls=(0, (4, 2)))
    axes.set_ylabel(task if kind == "loss" else f"{task}\n{NAMES[kind]}")
    if len(rows) <= 12:
        axes.set_xticks(place)
