"""Epsilon against noise-to-signal, a line for each number of hospitals; for print."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from shared_model.errors import OurMistake
from shared_model.files import write_atomic
from simulations.lab import plots_style as look
from simulations.lab.advice import changed
from simulations.lab.planner import Plan, plan

FACTORS = (0.5, 0.65, 0.8, 1.0, 1.4, 2.0, 3.0, 5.0)
"""Of the asked noise multiplier, at which epsilon is computed: one question to the accountant each,
where an epsilon's noise multiplier takes a dozen."""
FORMATS = (".pdf", ".svg", ".png")


def hospital_counts(hospitals: int) -> list[int]:
    """What the lines are for: a fourth, the asked number, four and sixteen times as many."""
    wanted = (hospitals // 4, hospitals, 4 * hospitals, 16 * hospitals)
    return sorted({min(max(count, 2), 10_000) for count in wanted})


def curves(
    found: Plan, told: Callable[[str], None] = lambda _: None
) -> dict[int, list[tuple[float, float]]]:
    """Number of hospitals -> (epsilon, noise-to-signal of the mean), along the noise multiplier.
    What cannot be is left out."""
    made: dict[int, list[tuple[float, float]]] = {}
    asked = found.privacy.noise_multiplier or 0.0
    for count in hospital_counts(found.hospitals):
        points = []
        for factor in FACTORS:
            told(f"{count} hospitals")
            values: dict[str, Any] = {
                "federation.hospitals": count,
                "privacy.epsilon": None,
                "privacy.noise_multiplier": factor * asked,
            }
            try:
                at = plan(changed(found.experiment, values), messages=False)
            except OurMistake:
                continue
            if at.privacy.epsilon is not None and at.noise.mean is not None:
                points.append((at.privacy.epsilon, at.noise.mean))
        if points:
            made[count] = points
    return made


def draw(
    found: Plan, path: Path, *, told: Callable[[str], None] = lambda _: None
) -> dict[int, list[tuple[float, float]]]:
    """Write the figure; returns what it shows.

    Raises:
        OurMistake: a name that ends in none of .pdf, .svg, .png, or a plan without noise.
    """
    if path.suffix not in FORMATS:
        raise OurMistake(f"A figure's name ends in one of {', '.join(FORMATS)}.")
    if found.privacy.noise_multiplier is None:
        raise OurMistake("A plan without noise, or that cannot be met, has nothing to draw.")
    made = curves(found, told=told)
    if not made:
        raise OurMistake("None of these points can be.")
    from matplotlib.figure import Figure

    with look.style():
        figure = Figure(figsize=(4.4, 2.7), layout="constrained")
        axes = figure.subplots()
        axes.axhline(1.0, color=look.BLACK, linewidth=0.8, linestyle=(0, (4, 3)))
        axes.annotate(
            "noise = largest signal", (0.0, 1.0), xycoords=("axes fraction", "data"),
            xytext=(4, -3), textcoords="offset points", ha="left", va="top", fontsize=6.5,
        )  # fmt: skip
        for place, (count, points) in enumerate(made.items()):
            axes.plot(
                [one for one, _ in points], [two for _, two in points], label=f"{count:,}",
                color=look.COLOURS[place], marker=look.MARKERS[place],
                linewidth=1.8 if count == found.hospitals else 1.0,
            )  # fmt: skip
        epsilon = found.privacy.epsilon
        if epsilon is not None and found.noise.mean is not None:
            axes.plot(
                [epsilon], [found.noise.mean], marker="o", markersize=8, color=look.BLACK,
                fillstyle="none", linestyle="none", label="as asked",
            )  # fmt: skip
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_xlabel(f"epsilon of all {found.rounds} rounds, delta {found.privacy.delta:g}")
        axes.set_ylabel("noise-to-signal of a step")
        axes.set_title(
            f"mode {found.privacy.mode}: {found.noise.parameters:,} parameters, "
            f"{found.declared:,} patients a hospital"
        )
        axes.legend(title="hospitals", loc="upper left", bbox_to_anchor=(1.0, 1.0))
        write_atomic(path, look.rendered(figure, path.suffix[1:]), mode=0o644)
    return made
