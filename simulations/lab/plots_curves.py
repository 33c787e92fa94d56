"""Curves: loss, probes against rounds and against epsilon, and how the rounds went."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from simulations.lab.evaluate_rows import LOSSES, RANDOM_INIT, UNIT_LOSS
from simulations.lab.figures import RunData, Series
from simulations.lab.plots_style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    PALE,
    SENSORS,
    SKY,
    VERMILION,
    CannotDraw,
    counted,
    panels,
    round_axis,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_TASKS = 8
_NOT_MEASURED = "Nothing was measured yet: the first evaluation has not been written."
_INTERVAL = "95 % intervals over patients (bootstrap); they do not hold what training again changes"
KINDS = {"auroc": "AUROC", "mae": "mean absolute error", "r": "correlation with the truth"}


def loss(run: RunData) -> tuple[Figure, str]:
    """Held-out unit loss and its parts over rounds."""
    whole = run.series(UNIT_LOSS, "loss")
    if not len(whole):
        raise CannotDraw(_NOT_MEASURED)
    figure, (above, below) = panels(2, height_in=1.55, sharex=True)
    _band(above, whole, BLUE, "-", "o", "unit loss")
    _level(above, run, UNIT_LOSS)
    above.set_ylabel("held-out unit loss")
    parts = [name for name in LOSSES if name != UNIT_LOSS]
    for name, colour, dashes, marker in zip(
        parts, (BLUE, VERMILION), ("-", "--"), ("o", "s"), strict=True
    ):
        _band(below, run.series(name, "loss"), colour, dashes, marker, name.split()[0])
    below.axhline(1.0, color=GREY, lw=0.8, ls=(0, (1, 2)), label="predicting the mean")
    below.set_ylabel("squared error")
    for axes in (above, below):
        axes.legend(loc="best")
    round_axis(below, whole.round, "round (0: the model that the run began with)")
    above.tick_params(labelbottom=False)
    return figure, (
        f"Held-out loss over rounds, {counted(whole.patients, 'patient')} that never trained, the "
        "same windows and patch masks each time. Above: the unit loss that hospitals minimise. "
        "Below: its reconstruction errors of standardised signals, where predicting the mean of a "
        "window costs 1: 'masked' hides half of both sensors, 'cross-modal' one whole sensor. "
        f"{_INTERVAL}."
    )


def probes_by_round(run: RunData) -> tuple[Figure, str]:
    """Every label's probe over rounds, three choices of sensors."""
    return _probes(run, "round")


def probes_by_epsilon(run: RunData) -> tuple[Figure, str]:
    """The same over epsilon."""
    if run.experiment.privacy.mode == "none":
        raise CannotDraw("Privacy mode none: there is no epsilon to plot against.")
    if run.probes and not run.has_epsilon:
        raise CannotDraw("Epsilon is infinite or not known: nothing to plot against.")
    return _probes(run, "epsilon")


def rounds(run: RunData) -> tuple[Figure, str]:
    """Who took part, and how much of each step was noise."""
    if not run.rounds:
        raise CannotDraw("No round has been written yet.")
    number = run.column("round")
    figure, (above, below) = panels(2, height_in=1.3, sharex=True)
    above.step(number, run.column("participants"), where="mid", color=PALE, label="asked")
    above.step(number, run.column("survivors"), where="mid", color=BLUE, label="in the sum")
    few = np.array([row["outcome"] != "aggregated" for row in run.rounds])
    if few.any():
        above.plot(
            number[few], run.column("survivors")[few], "x", color=VERMILION, ms=5,
            label="too few: no sum",
        )  # fmt: skip
    above.set_ylim(bottom=0)
    above.set_ylabel("sites")
    above.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
    noise = run.column("noise_to_signal")
    below.plot(number, run.column("update_norm"), "-o", color=GREEN, label="norm of mean update")
    below.set_ylabel("L2 norm", color=GREEN)
    round_axis(below, number)
    said = ""
    if np.isfinite(noise).any():
        beside = below.twinx()
        beside.grid(False)
        beside.spines["right"].set_visible(True)
        beside.plot(number, noise, "--s", color=VERMILION)
        beside.set_ylabel("noise / signal", color=VERMILION)
        beside.set_ylim(0, 1.1 * float(np.nanmax(noise)) or 1.0)
        said = (
            " Dashed: expected norm of the noise in the mean gradient of a step over the clipping "
            "norm, the largest that the gradient can have."
        )
    return figure, (
        f"{counted(len(run.rounds), 'round')}, {int(few.sum())} of them without a sum. Above: "
        f"sites that were asked and sites whose update is in the sum. Below: L2 norm of the mean "
        f"update.{said}"
    )


def _probes(run: RunData, over: str) -> tuple[Figure, str]:
    if not run.probes:
        raise CannotDraw(_NOT_MEASURED)
    shown = run.labels[:MOST_TASKS]
    if not shown:
        raise CannotDraw("No label could be probed: see 'What was measured' for the reasons.")
    columns = 1 if len(shown) == 1 else 2
    rows = -(-len(shown) // columns)
    figure, axes = panels(rows, columns, height_in=1.35)
    for spare in axes[len(shown) :]:
        spare.set_axis_off()
    handles: dict[str, Any] = {}
    patients = 0
    for place, (one, (task, kind)) in enumerate(zip(axes, shown, strict=False)):
        for sensors, (colour, dashes, marker, words) in SENSORS.items():
            series = run.series(task, kind, sensors=sensors)
            patients = max(patients, series.patients)
            drawn = _band(
                one, series, colour, dashes, marker, words, over=over, shade=sensors == "both"
            )
            if drawn is not None:
                handles[words] = drawn
        base = run.baseline(task, kind)
        if base is not None and base["value"] is not None:
            handles["random-init, both"] = one.axhline(
                base["value"], color=BLACK, lw=0.9, ls=(0, (4, 2))
            )
        begin = run.series(task, kind)
        if len(begin) and begin.round[0] == 0:
            handles["start, both"] = one.axhline(
                begin.value[0], color=SKY, lw=0.9, ls=(0, (1, 1.5))
            )
        one.set_title(task)
        one.set_ylabel(KINDS[kind] if kind == "auroc" else "correlation")
        if over == "round":
            round_axis(one, begin.round, "round" if place >= len(shown) - columns else "")
        else:
            one.set_xlabel("epsilon" if place >= len(shown) - columns else "")
    figure.legend(list(handles.values()), list(handles), loc="outside upper center", ncols=3)
    left = len(run.labels) - len(shown)
    return figure, _probe_words(run, over, patients, left)


def _probe_words(run: RunData, over: str, patients: int, left: int) -> str:
    start = (
        "the warm start"
        if run.experiment.model.begin_with == "warm-start" and not run.experiment.model.weights
        else "the run's first model"
    )
    axis = "rounds"
    if over == "epsilon":
        axis = f"epsilon, the largest site's, delta {_delta(run)}, one patient at one site"
        if run.experiment.privacy.noise == "NonPrivateForTests":
            axis += "; the noise repeats itself, so NOBODY IS PROTECTED: it is what would be spent"
    more = f" {counted(left, 'more label')} in the report's table." if left > 0 else ""
    return (
        f"Linear probes of frozen fingerprints against {axis}; fitted on patients that train, "
        f"measured on up to {counted(patients, 'patient')} that never do. Dashed black: "
        f"{RANDOM_INIT}, the same network untrained (mean of three), both sensors; dotted: "
        f"{start}, both sensors. Shaded: {_INTERVAL}.{more}"
    )


def _delta(run: RunData) -> str:
    found = run.column("delta")
    found = found[np.isfinite(found)]
    return f"{found[-1]:.2g}" if len(found) else "not known"


def _band(
    axes: Axes,
    series: Series,
    colour: str,
    dashes: str,
    marker: str,
    label: str,
    *,
    over: str = "round",
    shade: bool = True,
) -> Any:
    """A line with its interval; a single point gets a bar. None if there is nothing to draw."""
    x = series.round if over == "round" else np.where(series.round == 0, 0.0, series.epsilon)
    kept = np.isfinite(x)
    if not kept.any():
        return None
    x, value, low, high = (a[kept] for a in (x, series.value, series.low, series.high))
    if shade and len(x) > 1:
        axes.fill_between(x, low, high, color=colour, alpha=0.18, lw=0)
    elif shade:
        bars = np.nan_to_num([value - low, high - value])
        axes.errorbar(x, value, yerr=np.clip(bars, 0, None), color=colour, lw=1.0)
    (line,) = axes.plot(
        x, value, color=colour, ls=dashes, marker=marker if len(x) <= 30 else "", label=label
    )
    return line


def _level(axes: Axes, run: RunData, task: str) -> None:
    base = run.baseline(task, "loss")
    if base is not None and base["value"] is not None:
        axes.axhline(base["value"], color=BLACK, lw=0.9, ls=(0, (4, 2)), label=RANDOM_INIT)
