"""The frontier as a figure: a panel for each trust model and number of patients."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shared_model.errors import OurMistake
from shared_model.files import write_atomic
from simulations.lab import plots_style as look
from simulations.lab.frontiers import NONE, START, Point

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_NAMES = {"loss": "held-out loss"}
_LOWER = ("loss", "mae")
_NONE_DASHES, _START_DASHES = (0, (5, 2)), (0, (1, 1.5))
_APART = 1.05
"""Points of the same epsilon stand so far apart, as a factor: their intervals must not cover each
other."""


def draw(points: Sequence[Point], folder: Path) -> list[Path]:
    """frontier.pdf and frontier.svg.

    Raises:
        OurMistake: no private run is among the points.
    """
    modes = sorted({one.mode for one in points} - {NONE, START}, reverse=True)
    if not modes:
        raise OurMistake("No private run has finished: there is no frontier to draw.")
    sizes = sorted({one.patients for one in points})
    counts = sorted({one.hospitals for one in points})
    from matplotlib.figure import Figure

    with look.style():
        figure = Figure(
            figsize=(1.1 + 1.75 * len(sizes), 0.75 + 1.55 * len(modes)), layout="constrained"
        )
        axes = figure.subplots(len(modes), len(sizes), squeeze=False, sharex=True, sharey=True)
        for row, mode in enumerate(modes):
            for column, patients in enumerate(sizes):
                at = axes[row][column]
                mine = [one for one in points if one.patients == patients]
                _panel(at, mine, mode, counts)
                if row == 0:
                    at.set_title(f"{patients:,} patients a hospital")
            trust = f"mode {mode}\n" if len(modes) > 1 else ""
            axes[row][0].set_ylabel(trust + _named(points[0].metric))
        for at in axes[-1]:
            at.set_xlabel("epsilon")
        handles, labels = _legend(counts)
        figure.legend(handles, labels, loc="outside right center")
        figure.suptitle(_said(points, modes), fontsize=6.5, x=0.01, ha="left", color=look.GREY)
        made = []
        for kind in look.FORMATS:
            path = folder / f"frontier.{kind}"
            write_atomic(path, look.rendered(figure, kind), mode=0o644)
            made.append(path)
    return made


def _panel(at: Axes, points: Sequence[Point], mode: str, counts: Sequence[int]) -> None:
    epsilons = sorted({one.epsilon for one in points if one.epsilon is not None})
    for place, count in enumerate(counts):
        colour, marker = _style(place)
        shift = _APART ** (place - (len(counts) - 1) / 2.0)
        line = [one for one in points if (one.mode, one.hospitals) == (mode, count)]
        line.sort(key=lambda one: one.epsilon or 0.0)
        at.errorbar(
            [(one.epsilon or 0.0) * shift for one in line],
            [one.mean for one in line],
            yerr=[
                [one.mean - (one.mean if one.low is None else one.low) for one in line],
                [(one.mean if one.high is None else one.high) - one.mean for one in line],
            ],
            color=colour, marker=marker, capsize=1.8, elinewidth=0.8, capthick=0.8,
        )  # fmt: skip
        _references(at, points, count, colour)
    at.set_xscale("log")
    at.set_xticks(epsilons, [f"{one:g}" for one in epsilons])
    at.minorticks_off()
    if epsilons:
        at.set_xlim(epsilons[0] / 1.35, epsilons[-1] * 1.35)


def _references(at: Axes, points: Sequence[Point], count: int, colour: str) -> None:
    """Without privacy, with its interval; and the starting model, black where all have the same."""
    starts = {round(one.mean, 9) for one in points if one.mode == START}
    for one in points:
        if one.hospitals != count or one.mode not in (NONE, START):
            continue
        if one.mode == NONE:
            at.axhline(one.mean, color=colour, linewidth=0.9, linestyle=_NONE_DASHES)
            if one.low is not None and one.high is not None:
                at.axhspan(one.low, one.high, color=colour, alpha=0.12, linewidth=0.0)
        else:
            shown = look.BLACK if len(starts) == 1 else colour
            at.axhline(one.mean, color=shown, linewidth=0.9, linestyle=_START_DASHES)


def _style(place: int) -> tuple[str, str]:
    return look.COLOURS[place % len(look.COLOURS)], look.MARKERS[place % len(look.MARKERS)]


def _legend(counts: Sequence[int]) -> tuple[list[Any], list[str]]:
    from matplotlib.lines import Line2D

    handles, labels = [], []
    for place, count in enumerate(counts):
        colour, marker = _style(place)
        handles.append(Line2D([], [], color=colour, marker=marker))
        labels.append(look.counted(count, "hospital"))
    handles.append(Line2D([], [], color=look.BLACK, linewidth=0.9, linestyle=_NONE_DASHES))
    labels.append("no privacy")
    handles.append(Line2D([], [], color=look.BLACK, linewidth=0.9, linestyle=_START_DASHES))
    labels.append("starting model")
    return handles, labels


def _named(metric: str) -> str:
    """For people: "auroc rhythm" is "AUROC, rhythm"."""
    kind, _, task = metric.partition(" ")
    name = _NAMES.get(metric)
    if name is None:
        name = f"{kind.upper() if kind in ('auroc', 'mae') else kind}, {task}"
    return f"{name} (lower is better)" if kind in _LOWER else name


def _said(points: Sequence[Point], modes: Sequence[str]) -> str:
    seeds = {one.seeds for one in points if one.mode in modes}
    many = f"{min(seeds)}" if len(seeds) == 1 else f"{min(seeds)} to {max(seeds)}"
    deltas = sorted({one.delta for one in points if one.delta is not None})
    delta = f"delta {deltas[0]:.2g}" + (f" to {deltas[-1]:.2g}" if len(deltas) > 1 else "")
    trust = f"mode {modes[0]}, " if len(modes) == 1 else ""
    bars = "mean and 95 % interval" if min(seeds) > 1 else "one run, no interval"
    if min(seeds) > 1:
        return f"{trust}{delta}; {bars} of {many} seeds"
    return f"{trust}{delta}; {bars}" if max(seeds) == 1 else f"{trust}{delta}; {many} seeds"
