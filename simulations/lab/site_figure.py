"""A federation's sites as one figure: mix of a label, and patients, site by site."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from shared_model.errors import OurMistake
from simulations.lab.site_table import SiteRow

# Okabe-Ito, safe for colour-blind readers; the last is for what is left.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#999999")
ENDINGS = (".pdf", ".svg", ".png")
_NAMED = 40
"""More sites are numbered, not named."""


def draw(
    path: Path, everybody: SiteRow, sites: Sequence[SiteRow], label: str | None, says: str
) -> None:
    """Write the figure; format by the file's ending. Without a label, patients alone.

    Raises:
        OurMistake: another ending than pdf, svg or png.
    """
    if path.suffix.lower() not in ENDINGS:
        raise OurMistake(f"A figure ends in {', '.join(ENDINGS)}.")
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    width = float(np.clip(3.0 + 0.25 * len(sites), 6.0, 14.0))
    with mpl.rc_context({"svg.hashsalt": "fedprint", "svg.fonttype": "none", "font.size": 8}):
        panels = 1 if label is None else 2
        figure, axes = plt.subplots(
            panels,
            1,
            figsize=(width, 2.5 * panels),
            sharex=True,
            constrained_layout=True,
            squeeze=False,
        )
        if label is not None:
            _mix(axes[0, 0], everybody, sites, label)
        _patients(axes[-1, 0], sites)
        figure.suptitle(says, fontsize=8)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150, metadata=_dateless(path))
        plt.close(figure)


def _mix(axes: Any, everybody: SiteRow, sites: Sequence[SiteRow], label: str) -> None:
    shown = list(everybody.mix)[: len(COLOURS) - 1]
    rest = [value for value in everybody.mix if value not in shown]
    at, below = np.arange(len(sites)), np.zeros(len(sites))
    groups = [(one, (one,)) for one in shown] + ([("others", tuple(rest))] if rest else [])
    for (name, values), colour in zip(groups, COLOURS, strict=False):
        height = np.array(
            [
                sum(row.mix.get(one, 0) for one in values) / max(1, sum(row.mix.values()))
                for row in sites
            ]
        )
        axes.bar(at, height, bottom=below, width=1.0 if len(sites) > _NAMED else 0.8,
                 color=COLOURS[-1] if name == "others" else colour, label=name)  # fmt: skip
        below += height
    axes.set_ylabel(f"share of patients by {label}")
    axes.set_ylim(0.0, 1.0)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)


def _patients(axes: Any, sites: Sequence[SiteRow]) -> None:
    at = np.arange(len(sites))
    training = np.array([row.training for row in sites])
    held_out = np.array([row.held_out for row in sites])
    width = 1.0 if len(sites) > _NAMED else 0.8
    axes.bar(at, training, width=width, color=COLOURS[0], label="training")
    axes.bar(at, held_out, bottom=training, width=width, color=COLOURS[1], label="held out")
    axes.set_ylabel("patients")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    if len(sites) <= _NAMED:
        axes.set_xticks(at, [row.site for row in sites], rotation=90)
    else:
        axes.set_xlabel("site, in the order of names")


def _dateless(path: Path) -> dict[str, Any]:
    """The same figure, the same bytes."""
    return {".pdf": {"CreationDate": None}, ".svg": {"Date": None}}.get(path.suffix.lower(), {})
