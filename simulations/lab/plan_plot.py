"""Epsilon against noise-to-signal, a line for each number of hospitals; for print."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from shared_model.errors import OurMistake
from simulations.lab.advice import changed
from simulations.lab.planner import Plan, plan

EPSILONS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito: told apart by the colour-blind; markers tell them apart without colour."""
MARKERS = ("o", "s", "^", "D", "v", "P")
FORMATS = (".pdf", ".svg", ".png")


def hospital_counts(hospitals: int) -> list[int]:
    """What the lines are for: a fourth, the asked number, four and sixteen times as many."""
    wanted = (hospitals // 4, hospitals, 4 * hospitals, 16 * hospitals)
    return sorted({min(max(count, 2), 10_000) for count in wanted})


def curves(
    found: Plan,
    epsilons: Sequence[float] = EPSILONS,
    told: Callable[[str], None] = lambda _: None,
) -> dict[int, list[tuple[float, float]]]:
    """Number of hospitals -> (epsilon, noise-to-signal of the mean); what cannot be met is left
    out."""
    made: dict[int, list[tuple[float, float]]] = {}
    for count in hospital_counts(found.hospitals):
        points = []
        for epsilon in epsilons:
            told(f"{count} hospitals, epsilon {epsilon:g}")
            values = {"federation.hospitals": count, "privacy.epsilon": epsilon}
            try:
                at = plan(
                    changed(found.experiment, {**values, "privacy.noise_multiplier": None}),
                    messages=False,
                )
            except OurMistake:
                continue
            if at.noise.mean is not None:
                points.append((epsilon, at.noise.mean))
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
    if found.privacy.mode == "none":
        raise OurMistake("Without privacy there is no noise to draw.")
    made = curves(found, told=told)
    if not made:
        raise OurMistake("None of these epsilons can be met.")
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    settings: Any = {
        "font.size": 9,
        "pdf.fonttype": 42,
        "svg.fonttype": "none",
        "svg.hashsalt": "plan",
    }
    with pyplot.rc_context(settings):
        figure, axes = pyplot.subplots(figsize=(5.2, 3.6), layout="constrained")
        axes.axhline(1.0, color="black", linewidth=0.8, linestyle=(0, (4, 3)))
        axes.annotate(
            "noise = largest signal", (0.0, 1.0), xycoords=("axes fraction", "data"),
            xytext=(4, -3), textcoords="offset points", ha="left", va="top", fontsize=8,
        )  # fmt: skip
        for place, (count, points) in enumerate(made.items()):
            axes.plot(
                [one for one, _ in points], [two for _, two in points], label=f"{count:,}",
                color=COLOURS[place % len(COLOURS)], marker=MARKERS[place % len(MARKERS)],
                markersize=4.5, linewidth=1.8 if count == found.hospitals else 1.1,
            )  # fmt: skip
        epsilon = found.privacy.epsilon
        if epsilon is not None and found.noise.mean is not None:
            axes.plot(
                [epsilon], [found.noise.mean], marker="o", markersize=11, color="black",
                fillstyle="none", linestyle="none", label="as asked",
            )  # fmt: skip
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_xlabel(f"epsilon of all {found.rounds} rounds, delta {found.privacy.delta:g}")
        axes.set_ylabel("noise-to-signal of a step")
        axes.set_title(
            f"mode {found.privacy.mode}: {found.noise.parameters:,} parameters, "
            f"{found.declared:,} patients a hospital",
            fontsize=9,
        )
        axes.grid(alpha=0.25, which="major")
        axes.legend(title="hospitals", fontsize=8, title_fontsize=8, frameon=False,
                    loc="upper left", bbox_to_anchor=(1.0, 1.0))  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=200, metadata=_undated(path))
        pyplot.close(figure)
    return made


def _undated(path: Path) -> dict[str, None]:
    """No date in the file: the same plan, the same bytes."""
    return {".pdf": {"CreationDate": None}, ".svg": {"Date": None}}.get(path.suffix, {})
