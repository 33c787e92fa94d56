"""Examples of each sensor drawn from the other: truth and model, in seconds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from shared_model.config import FS_HZ
from simulations.lab.evaluate_network import Network
from simulations.lab.evaluate_sample import Signals, choose, generator
from simulations.lab.evaluate_signals import public_masks
from simulations.lab.figures import RunData
from simulations.lab.plots_style import (
    BLACK,
    VERMILION,
    CannotDraw,
    counted,
    panels,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

A_FIGURE = 4
"""Patients in a figure."""
SEARCHED = 20
"""Patients that are looked at for each that is shown, until enough have both sensors."""
_ROWS = (("PPG \u2192 ECG", 0), ("ECG \u2192 PPG", 1))


@dataclass(frozen=True)
class Examples:
    """Windows and what the model draws in them.

    truth, drawn: (example, channel, sample).
    """

    truth: npt.NDArray[np.float32] = field(repr=False)
    drawn: npt.NDArray[np.float32] = field(repr=False)


def examples(run: RunData, network: Network) -> Examples:
    """Held-out patients, drawn with the experiment's seed, who have both sensors.

    Raises:
        CannotDraw: none is asked for, or there is none.
    """
    wanted = run.experiment.evaluation.reconstructions
    if not wanted:
        raise CannotDraw("The experiment asks for none (evaluation.reconstructions = 0).")
    chosen = choose(network.data, run.experiment)
    rng = generator("examples", run.experiment.seed)
    rows = rng.permutation(np.union1d(chosen.measured, chosen.by_site))
    some = Signals.read(network.data, np.sort(rows[: SEARCHED * wanted]))
    whole = np.asarray(some.valid.all((2, 3)))  # (patient, window)
    places = np.flatnonzero(np.any(whole, axis=1))[:wanted]
    if not len(places):
        raise CannotDraw("No held-out patient was found with a whole window of both sensors.")
    shown = Signals.read(network.data, some.rows[places])
    training = run.experiment.algorithm.training(run.experiment.model.trainable)
    masks = public_masks(shown, training.patch_masks, rng)
    done = network.reconstruct(shown, training, masks)
    each, window = np.arange(len(places)), whole[places].argmax(axis=1)
    return Examples(shown.signal[each, window].astype(np.float32), done.drawn[each, window])


def reconstructions(run: RunData, shown: Examples, part: int) -> tuple[Figure, str]:
    """Figure `part` (from 0) of the examples."""
    at = range(part * A_FIGURE, min((part + 1) * A_FIGURE, len(shown.truth)))
    figure, axes = panels(2 * len(at), height_in=0.72, sharex=True)
    time_s = np.arange(shown.truth.shape[-1]) / FS_HZ
    for k, example in enumerate(at):
        for row, (words, channel) in enumerate(_ROWS):
            one = axes[2 * k + row]
            _pair(one, time_s, shown.truth[example, channel], shown.drawn[example, channel])
            one.set_ylabel(words)
            if row == 0:
                one.set_title(f"patient {example + 1}", loc="left", pad=2)
    axes[-1].set_xlabel("time, s")
    axes[-1].set_xlim(0, time_s[-1])
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2)
    figure.align_ylabels(axes)
    return figure, (
        f"{counted(len(at), 'held-out patient')}, {_whose(run)}: one sensor is wholly hidden and "
        "drawn by the model from the other one. Signals are standardised (no unit); r is Pearson's "
        "correlation in the window. Patients were drawn at random, not chosen."
    )


def _whose(run: RunData) -> str:
    return {
        "simulated": "SIMULATED (nobody's signals)",
        "waves": "WAVES (noisy sines without any meaning)",
        "folders": "REAL PEOPLE (shown because --show-signals was given)",
    }[run.experiment.federation.source]


def _pair(
    axes: Axes,
    time_s: npt.NDArray[np.float64],
    truth: npt.NDArray[np.float32],
    drawn: npt.NDArray[np.float32],
) -> None:
    axes.plot(time_s, truth, color=BLACK, lw=0.7, label="truth")
    axes.plot(time_s, drawn, color=VERMILION, lw=0.9, label="drawn by the model")
    spread = float(truth.std() * drawn.std())
    covers = float(np.mean((truth - truth.mean()) * (drawn - drawn.mean())))
    r = covers / spread if spread > 1e-9 else 0.0
    axes.text(
        0.995, 0.97, f"r = {r:.2f}", ha="right", va="top", transform=axes.transAxes, fontsize=6,
        bbox={"facecolor": "white", "alpha": 0.8, "lw": 0, "pad": 0.6},
    )  # fmt: skip
    axes.set_yticks([])
    axes.grid(False, axis="y")
