"""A PNG of good and refused windows, to see with one's own eyes what the gate did."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from client.store import WindowStore
from shared_model.config import CHANNELS, FS_HZ, WINDOW_SAMPLES
from shared_model.files import write_atomic
from shared_model.quality import ABSENT, ACCEPTED, REASONS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GOOD_SHOWN = 12
REFUSED_SHOWN = 24
_COLUMNS = 3
_COLOURS = {"ecg": "#1f4e9c", "ppg": "#b3541e"}
_REFUSED_COLOUR = "#9a9a9a"
_WORD_COLOUR = "#b00020"
_LIMIT = 4.5


@dataclass(frozen=True)
class Panel:
    """One window: signal (2, sample), reason codes of both channels."""

    signal: npt.NDArray[np.floating[Any]] = field(repr=False)
    refusal: tuple[int, int]


def choose_good(store: WindowStore, count: int = GOOD_SHOWN) -> list[Panel]:
    """Accepted windows of patients spread over the store, no two of one patient if avoidable."""
    if store.patient_count == 0:
        return []
    panels = []
    for turn in range(count):
        patient = (
            turn * store.patient_count // count
            if store.patient_count >= count
            else (turn % store.patient_count)
        )
        windows = store.windows_of(patient)
        row = (turn * 7 + len(windows) // 2) % len(windows)
        ecg, ppg = (int(code) for code in windows.refusal[row])
        panels.append(Panel(windows.signal[row], (ecg, ppg)))
    return panels


def choose_refused(store: WindowStore, count: int = REFUSED_SHOWN) -> list[Panel]:
    """Refused windows, the reasons by turns so that each is seen."""
    by_reason: dict[tuple[int, ...], list[Panel]] = {}
    for window in store.refused_examples():
        reasons = tuple(sorted({code for code in window.refusal if code > ABSENT}))
        by_reason.setdefault(reasons, []).append(Panel(window.signal, window.refusal))
    panels: list[Panel] = []
    queues = [by_reason[reason] for reason in sorted(by_reason)]
    while queues and len(panels) < count:
        panels += [queue.pop(0) for queue in queues]
        queues = [queue for queue in queues if queue]
    return sorted(panels[:count], key=lambda panel: panel.refusal)


def write_sheet(store: WindowStore, path: Path) -> tuple[int, int]:
    """Write the contact sheet of a store as PNG.

    Returns:
        Good and refused windows shown.
    """
    os.environ.setdefault("MPLBACKEND", "Agg")
    from matplotlib.figure import Figure

    good, refused = choose_good(store), choose_refused(store)
    rows_good, rows_refused = _rows(good), _rows(refused)
    figure = Figure(figsize=(5.2 * _COLUMNS, 1.55 * (rows_good + rows_refused) + 1.2), dpi=100)
    grid = figure.add_gridspec(
        rows_good + rows_refused + 2,
        _COLUMNS,
        height_ratios=[0.35, *[1.0] * rows_good, 0.35, *[1.0] * rows_refused],
        left=0.02, right=0.98, top=0.985, bottom=0.02, hspace=0.35, wspace=0.06,
    )  # fmt: skip
    for top, title, panels in (
        (
            0,
            f"Usable: {store.window_count} windows of {store.patient_count} patients",
            good,
        ),
        (rows_good + 1, "Refused (examples kept at each add), reason in red", refused),
    ):
        heading = figure.add_subplot(grid[top, :])
        heading.axis("off")
        heading.text(0.0, 0.2, title, fontsize=13, fontweight="bold", va="center")
        if not panels:
            heading.text(0.5, 0.2, "none", fontsize=12, va="center")
        for place, panel in enumerate(panels):
            cell = grid[top + 1 + place // _COLUMNS, place % _COLUMNS]
            _draw(figure.add_subplot(cell), panel)
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    write_atomic(path, stream.getvalue(), mode=0o600)  # patients' signals
    return len(good), len(refused)


def _rows(panels: Sequence[Panel]) -> int:
    return max(1, -(-len(panels) // _COLUMNS))


def _draw(axes: Axes, panel: Panel) -> None:
    """ECG above, PPG below, 10 s; refused channels grey with their reason."""
    time_s = np.arange(WINDOW_SAMPLES) / FS_HZ
    for index, name in enumerate(CHANNELS):
        base = -index * 2.2 * _LIMIT * 0.6
        code = panel.refusal[index]
        signal = np.clip(panel.signal[index].astype(np.float32), -_LIMIT, _LIMIT) * 0.6
        signal[signal == 0.0] = np.nan  # not recorded, or blanked
        colour = _COLOURS[name] if code == ACCEPTED else _REFUSED_COLOUR
        if code != ABSENT:
            axes.plot(time_s, signal + base, color=colour, linewidth=0.7)
        word = name.upper() if code == ACCEPTED else f"{name.upper()}: {REASONS[code]}"
        axes.text(
            0.0, base + _LIMIT * 0.42, word, fontsize=8, fontweight="bold",
            color=_WORD_COLOUR if code > ABSENT else colour,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.5},
        )  # fmt: skip
    axes.set_xlim(0.0, WINDOW_SAMPLES / FS_HZ)
    axes.set_ylim(-1.95 * _LIMIT, 0.8 * _LIMIT)
    axes.set_yticks([])
    axes.set_xticks(range(0, 11, 2), labels=[f"{second} s" for second in range(0, 11, 2)])
    axes.tick_params(labelsize=6, length=2, pad=1)
    for side in ("top", "left", "right"):
        axes.spines[side].set_visible(False)
