"""A federation's sites as one figure: mix of a label, and patients, site by site."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from shared_model.errors import OurMistake
from shared_model.files import write_atomic
from simulations.lab import plots_style
from simulations.lab.site_table import SiteRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ENDINGS = (".pdf", ".svg", ".png")
COLOURS = (*plots_style.COLOURS[:6], plots_style.YELLOW)
_NAMED = 40
"""More sites are numbered, not named."""


def check(path: Path) -> None:
    """Raises OurMistake: the name ends in none of pdf, svg and png."""
    if path.suffix.lower() not in ENDINGS:
        raise OurMistake(
            f"A figure {path.name} cannot be drawn.", do=f"Its name ends in {', '.join(ENDINGS)}."
        )


def draw(
    path: Path, everybody: SiteRow, sites: Sequence[SiteRow], label: str | None, says: str
) -> None:
    """Write the figure; format by the file's ending. Without a label, patients alone.

    Raises:
        OurMistake: as `check`.
    """
    check(path)
    with plots_style.style():
        figure, axes = plots_style.panels(1 if label is None else 2, sharex=True, height_in=1.8)
        figure.set_figwidth(float(np.clip(2.2 + 0.2 * len(sites), plots_style.COLUMN_IN, 12.0)))
        if label is not None:
            _mix(axes[0], everybody, sites, label)
        _patients(axes[-1], sites)
        letters = int(figure.get_figwidth() * 15)
        figure.suptitle("\n".join(textwrap.wrap(says, letters)), fontsize=6.5)
        write_atomic(path, plots_style.rendered(figure, path.suffix[1:].lower()))


def _mix(axes: Axes, everybody: SiteRow, sites: Sequence[SiteRow], label: str) -> None:
    shown = list(everybody.mix)[: len(COLOURS)]
    rest = tuple(value for value in everybody.mix if value not in shown)
    groups = [(one, (one,), colour) for one, colour in zip(shown, COLOURS, strict=False)]
    if rest:
        groups.append((f"{len(rest)} others", rest, plots_style.PALE))
    at, below = np.arange(len(sites)), np.zeros(len(sites))
    for name, values, colour in groups:
        height = np.array(
            [
                sum(row.mix.get(one, 0) for one in values) / max(1, sum(row.mix.values()))
                for row in sites
            ]
        )
        axes.bar(at, height, _width(sites), bottom=below, color=colour, label=name)
        below += height
    axes.set_ylabel(f"patients by {label}")
    axes.set_ylim(0.0, 1.0)
    _legend(axes)


def _patients(axes: Axes, sites: Sequence[SiteRow]) -> None:
    at = np.arange(len(sites))
    training = np.array([row.training for row in sites])
    held_out = np.array([row.held_out for row in sites])
    axes.bar(at, training, _width(sites), color=plots_style.BLUE, label="training")
    axes.bar(
        at, held_out, _width(sites), bottom=training, color=plots_style.ORANGE, label="held out"
    )
    axes.set_ylabel("patients")
    _legend(axes)
    if len(sites) <= _NAMED:
        axes.set_xticks(at, [row.site for row in sites], rotation=90)
    else:
        axes.set_xlabel("site, in the order of names")


def _width(sites: Sequence[SiteRow]) -> float:
    return 1.0 if len(sites) > _NAMED else 0.8


def _legend(axes: Axes) -> None:
    """Beside the panel, in the order in which bars lie on one another."""
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), reverse=True)
