"""Reliability diagram, coverage against accuracy, and the errors of identity: from a manifest."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from shared_model.heads.manifest import HeadManifest
from simulations.lab.plots_style import (
    BLUE,
    GREY,
    PALE,
    VERMILION,
    CannotDraw,
    Plot,
    draw,
    panels,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_all(folder: Path, manifest: HeadManifest) -> list[Plot]:
    """Those that this kind of head has."""
    if manifest.kind == "identity":
        return [draw(folder, "identity", "Identity", lambda: _identity(manifest))]
    if manifest.kind == "number":
        return []
    return [
        draw(folder, "reliability", "Reliability", lambda: _reliability(manifest)),
        draw(folder, "coverage", "Coverage and accuracy", lambda: _coverage(manifest)),
    ]


def _reliability(manifest: HeadManifest) -> tuple[Figure, str]:
    heat = manifest.temperature
    if heat is None or heat.ece_before is None or heat.ece_after is None:
        raise CannotDraw("No patients were left out to measure the calibration on.")
    figure, axes = panels(1, 2, height_in=1.7, sharey=True)
    parts = (("before", heat.reliability_before, heat.ece_before, VERMILION),
             ("after", heat.reliability_after, heat.ece_after, BLUE))  # fmt: skip
    for axis, (name, bins, error, colour) in zip(axes, parts, strict=True):
        axis.plot([0, 1], [0, 1], color=PALE, linewidth=0.8)
        sizes = [4 + 60 * one.share for one in bins]
        places = [one.confidence for one in bins]
        axis.scatter(places, [one.accuracy for one in bins], s=sizes, color=colour, linewidths=0)
        axis.plot(places, [one.accuracy for one in bins], color=colour, linewidth=0.8)
        axis.set(xlim=(0, 1.02), ylim=(-0.02, 1.02), xlabel="confidence")
        axis.set_title(f"{name}: error {error:.3f}")
    axes[0].set_ylabel("accuracy")
    return figure, (
        f"Accuracy against confidence of {manifest.task}, before and after the temperature, which "
        "was fitted on others; size: share of the items. Expected calibration error "
        f"{heat.ece_before:.3f} before, {heat.ece_after:.3f} after. {_whose(manifest)}"
    )


def _coverage(manifest: HeadManifest) -> tuple[Figure, str]:
    sets = manifest.sets
    if sets is None or not sets.curve:
        raise CannotDraw("No patients were left out to measure the answers on.")
    figure, axes = panels(1, 1, height_in=2.0)
    x = [point.x for point in sets.curve]
    bands = [(p.low, p.high, p.x) for p in sets.curve if p.low is not None and p.high is not None]
    axes[0].fill_between(
        [one[2] for one in bands],
        [one[0] for one in bands],
        [one[1] for one in bands],
        color=BLUE,
        alpha=0.18,
        linewidth=0,
    )
    axes[0].plot(
        x, [point.y for point in sets.curve], color=BLUE, marker="o", label="by confidence"
    )
    if sets.answered is not None and sets.accuracy is not None:
        label = f"sets of one class at {sets.level:.0%}"
        axes[0].plot(sets.answered, sets.accuracy, "D", color=VERMILION, label=label)
    axes[0].axhline(sets.curve[-1].y, color=GREY, linewidth=0.6, linestyle=":")
    axes[0].set(xlim=(0, 1.02), xlabel="share of items answered", ylabel="accuracy of the answers")
    axes[0].legend(loc="lower left")
    return figure, (
        f"Accuracy of the most confident answers of {manifest.task} against the share answered; "
        f"band: 95 % over patients. {_whose(manifest)}"
    )


def _whose(manifest: HeadManifest) -> str:
    """Of whom the figures are: of a federated head not of those it was trained on."""
    return f"Of {manifest.figures_of}. The head is trained on {manifest.patients} patients."


def _identity(manifest: HeadManifest) -> tuple[Figure, str]:
    found = manifest.verification
    if found is None:
        raise CannotDraw("There is no curve.")
    figure, axes = panels(1, 1, height_in=2.0)
    points = sorted(found.curve, key=lambda point: point.x)
    axes[0].plot([p.x for p in points], [p.y for p in points], color=BLUE, marker="o")
    axes[0].plot([0, 1], [0, 1], color=PALE, linewidth=0.8)
    axes[0].set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes[0].set(xlabel="false accepts", ylabel="false rejects")
    rate = next((f for f in manifest.figures if f.name == "equal error rate"), None)
    words = "" if rate is None else f" Equal error rate {rate.value:.3f}."
    return figure, (
        f"False rejects against false accepts of pairs of recordings, {manifest.patients} people "
        f"left out of the standardisation.{words}"
    )
