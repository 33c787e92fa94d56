"""The probe table as one figure: skill of every row on every task, with intervals."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from simulations.probes.rows import HAND_MADE, RANDOM
from simulations.probes.table import ProbeTable

# Okabe-Ito, safe for colour-blind readers.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
FIXED = {RANDOM: "#999999", HAND_MADE: "#000000"}


def plot_table(table: ProbeTable, path: Path, pretend: int | None = None) -> None:
    """Write the figure (format by the file's ending). pretend: how many patients were simulated."""
    lines = list(dict.fromkeys((cell.task, cell.sensors) for cell in table.cells))
    names = list(dict.fromkeys(cell.row for cell in table.cells))
    free = iter(COLOURS)
    colour = {name: FIXED.get(name) or next(free, "#444444") for name in names}
    at = {line: len(lines) - 1 - k for k, line in enumerate(lines)}
    figure, axes = plt.subplots(figsize=(8.5, 1.2 + 0.5 * len(lines)), constrained_layout=True)
    for k, name in enumerate(names):
        cells = [cell for cell in table.cells if cell.row == name]
        y = np.array([at[cell.task, cell.sensors] for cell in cells], dtype=float)
        y += 0.3 - 0.6 * k / max(1, len(names) - 1)
        x = np.array([cell.skill.value for cell in cells])
        low = x - np.array([cell.skill.low for cell in cells])
        high = np.array([cell.skill.high for cell in cells]) - x
        axes.errorbar(
            x,
            y,
            xerr=np.clip(np.nan_to_num([low, high]), 0, None),
            fmt="o",
            ms=4,
            lw=1.2,
            color=colour[name],
            label=name,
        )
    axes.set_yticks(
        [at[line] for line in lines],
        [task if sensors == "both" else f"{task} · {sensors} only" for task, sensors in lines],
    )
    for k in range(len(lines) - 1):
        axes.axhline(k + 0.5, color="#dddddd", lw=0.6)
    axes.axvline(0, color="#999999", lw=0.8)
    measured = max((cell.patients for cell in table.cells), default=0)
    whose = "patients" if pretend is None else f"{pretend} SIMULATED patients, {measured} measured"
    axes.set_xlabel(f"skill (0: knows nothing, 1: perfect), 95 % interval over {whose}")
    axes.set_xlim(left=max(-1.0, axes.get_xlim()[0]), right=1.0)
    figure.legend(loc="outside upper center", ncols=2, fontsize=8, frameon=False)
    figure.savefig(path, dpi=150)
    plt.close(figure)
