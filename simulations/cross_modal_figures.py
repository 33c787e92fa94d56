"""Figures of one sensor made from the other: examples beside the truth, and rates against rates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from shared_model import outputs
from shared_model.config import FS_HZ
from simulations.cross_modal import DIRECTIONS, Made, examples
from simulations.cross_modal_windows import Pairs
from simulations.lab.plots_style import (
    BLACK,
    BLUE,
    FORMATS,
    GREY,
    VERMILION,
    CannotDraw,
    drawn,
    panels,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLES = {"ppg_to_ecg": "PPG \u2192 ECG", "ecg_to_ppg": "ECG \u2192 PPG"}


@dataclass(frozen=True)
class Figures:
    """What is drawn and not yet written. about: each figure's title, caption and digest by its
    name; the reason is the caption of one that cannot be drawn. files: bytes by a file's name.
    private: names of those with windows, their owner's alone."""

    about: dict[str, dict[str, str | None]]
    files: dict[str, bytes]
    private: frozenset[str]

    def write(self, folder: Path, measured: dict[str, bytes]) -> None:
        """All files and `measured`, or none; a figure of before that cannot be drawn now goes.

        Raises:
            OurMistake: they cannot be written.
        """
        outputs.write_all(folder, {**self.files, **measured}, private=self.private)
        for name in {f"{one}.{kind}" for one in self.about for kind in FORMATS} - set(self.files):
            (folder / name).unlink(missing_ok=True)


def draw_all(pairs: Pairs, done: dict[str, Made]) -> Figures:
    """The figures, in memory: what was measured is shown even where nothing can be written."""
    drawable = pairs.may_be_drawn()
    makers: dict[str, tuple[str, Callable[[], tuple[Figure, str]]]] = {
        f"cross-modal-{name.replace('_', '-')}": (
            f"{TITLES[name]} beside the truth",
            partial(_examples, name, pairs, one, drawable),
        )
        for name, one in done.items()
    }
    windows = set(makers)
    makers["cross-modal-rates"] = ("Rates", partial(_bland_altman, done))
    about: dict[str, dict[str, str | None]] = {}
    files: dict[str, bytes] = {}
    private: set[str] = set()
    for name, (title, make) in makers.items():
        caption, made = drawn(name, make)
        svg = made.get(f"{name}.svg")
        digest = None if svg is None else sha256(svg).hexdigest()
        about[name] = {"title": title, "caption": caption, "sha256": digest}
        files |= made
        private |= set(made) if name in windows else set()
    return Figures(about, files, frozenset(private))


def _examples(name: str, pairs: Pairs, one: Made, drawable: np.ndarray) -> tuple[Figure, str]:
    chosen = examples(one, drawable)
    if not chosen:
        raise CannotDraw("No site here is one of the open collections whose windows may be drawn.")
    source, target = DIRECTIONS[name]
    figure, axes = panels(2 * len(chosen), height_in=0.8, sharex=True)
    time_s = np.arange(pairs.signal.shape[-1]) / FS_HZ
    seen, made = name.upper().split("_TO_")
    for k, (rule, window) in enumerate(chosen.items()):
        above, below = axes[2 * k], axes[2 * k + 1]
        above.plot(time_s, pairs.signal[window, source], color=BLUE, lw=0.7, label=f"{seen} seen")
        r = one.figures["correlation_shifted"][window]
        by_ms = one.shift[window] * 1000.0 / FS_HZ
        site = pairs.sites[pairs.site[window]]
        above.set_title(
            f"{rule}, {site}: r {r:.2f} at {by_ms:+.0f} ms\n"
            f"rate of made {_bpm(one.made_bpm[window])}, of true {_bpm(one.true_bpm[window])}",
            loc="left", pad=2, fontsize=6.5,
        )  # fmt: skip
        below.plot(time_s, pairs.signal[window, target], color=BLACK, lw=0.7, label=f"{made} true")
        below.plot(time_s, one.made[window], color=VERMILION, lw=0.9, label=f"{made} made")
        for each, words in ((above, seen), (below, made)):
            each.set_ylabel(words)
            each.set_yticks([])
            each.grid(False, axis="y")
    axes[-1].set_xlabel("time, s")
    axes[-1].set_xlim(0, time_s[-1])
    handles = [*axes[0].get_legend_handles_labels()[0], *axes[1].get_legend_handles_labels()[0]]
    labels = [*axes[0].get_legend_handles_labels()[1], *axes[1].get_legend_handles_labels()[1]]
    figure.legend(handles, labels, loc="outside upper center", ncols=3)
    figure.align_ylabels(axes)
    return figure, (
        "Windows at the median and at the worst decile of the correlation after the best shift, "
        "chosen by that rule among openly licensed recordings. The made signal is drawn where the "
        "model put it, not shifted. Standardised, no unit."
    )


def _bpm(rate: float) -> str:
    return f"{rate:.0f} bpm" if np.isfinite(rate) else "not found"


def _bland_altman(done: dict[str, Made]) -> tuple[Figure, str]:
    """Bland and Altman 1986: difference against mean; limits are mean +- 1.96 deviations."""
    figure, axes = panels(2, 2, height_in=1.5, sharey=True)
    for row, (name, one) in enumerate(done.items()):
        made = name.upper().split("_TO_")[1]
        seen = name.upper().split("_TO_")[0]
        for place, (rate, words) in enumerate(
            ((one.made_bpm, f"{made} made"), (one.raw_bpm, f"{seen} itself"))
        ):
            plot = axes[2 * row + place]
            known = np.isfinite(rate) & np.isfinite(one.true_bpm)
            lost = int((np.isfinite(one.true_bpm) & ~np.isfinite(rate)).sum())
            plot.set_title(f"{words}\n{int(known.sum())} windows, {lost} lost", fontsize=6.5)
            if not known.any():
                continue
            apart = rate[known] - one.true_bpm[known]
            plot.plot((rate[known] + one.true_bpm[known]) / 2, apart, ".", ms=1.2, color=BLUE,
                      alpha=0.4, rasterized=True)  # fmt: skip
            middle, spread = float(apart.mean()), float(apart.std())
            for level, style in ((middle, "-"), (middle - 1.96 * spread, "--"),
                                 (middle + 1.96 * spread, "--")):  # fmt: skip
                plot.axhline(level, color=VERMILION, lw=0.8, ls=style)
            plot.axhline(0, color=GREY, lw=0.5)
            plot.set_xlabel("mean of both, bpm")
        axes[2 * row].set_ylabel(f"minus rate of true {made}, bpm")
    return figure, (
        "Heart rate of the made signal (left) and of the seen sensor itself (right) against that "
        "of the recorded signal. One dot a window; lines: mean and 1.96 standard deviations."
    )
