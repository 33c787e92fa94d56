"""What one pass of the autoencoder says about patients: losses, and each sensor from the other."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from shared_model.config import CHANNELS, FS_HZ, PATCH_SAMPLES, LocalTraining
from shared_model.losses import terms
from shared_model.mae import MaskedAutoencoder
from shared_model.patches import draw_patch_masks, fold, unfold
from simulations.lab.evaluate_sample import WINDOWS, Index, Signals

F64 = npt.NDArray[np.float64]
MOST_RATES = 100
"""Windows, one a patient, in which a detector looks for beats."""
TrueRates = tuple[tuple[F64, Index, Index], ...]
"""For each channel: rates, places of the patients among those who are measured, windows."""
FEWEST_BEATS = 3
"""Peaks in a window below which no heart rate is taken from it."""


@dataclass(frozen=True)
class Pass:
    """One entry a patient, NaN where the patient lacks what is needed.

    unit_loss, masked, cross_modal: (patient,), see `shared_model.losses`; masked and
        cross_modal are squared errors of standardised signals: predicting the mean costs 1.
    drawn: (patient, window, channel, sample) float32, each channel drawn from the other one.
    possible: bool (patient, window, channel): the other sensor was there to draw from, and this
        one to compare with.
    """

    unit_loss: F64
    masked: F64
    cross_modal: F64
    drawn: npt.NDArray[np.float32] = field(repr=False)
    possible: npt.NDArray[np.bool_] = field(repr=False)


def run(
    model: MaskedAutoencoder,
    signals: Signals,
    places: Index,
    training: LocalTraining,
    hidden: npt.NDArray[np.bool_],
) -> Pass:
    """One forward pass over the patients at `places`.

    Args:
        hidden: bool (patient of `signals`, mask, window, channel, token), public and fixed.
    """
    valid = signals.valid[places]
    seen = np.asarray(valid.any(-1))  # (patient, window, channel)
    drawn = np.zeros((len(places), *signals.signal.shape[1:]), dtype=np.float32)
    patches = fold(torch.from_numpy(signals.signal[places].astype(np.float32)))
    known = torch.from_numpy(valid)
    with torch.inference_mode():
        # masks after windows
        views = model(patches, known, torch.from_numpy(hidden[places]).movedim(1, 2))
        found = terms(views, patches, known)
        total = found.total(training)
        cut = views.predicted[0].shape[-2] - patches.shape[-2]
        for channel in range(len(CHANNELS)):
            drawn[:, :, channel] = unfold(views.predicted[channel][..., cut:, :]).numpy()
        all_terms = (total, found.masked, found.cross_modal)
        unit_loss, masked, cross_modal = (one.double().numpy() for one in all_terms)
    possible = np.repeat(np.all(seen, axis=-1)[..., None], len(CHANNELS), axis=-1)
    nothing = np.logical_not(np.any(seen, axis=(1, 2)))
    unpaired = np.logical_not(np.any(possible, axis=(1, 2)))
    unit_loss[nothing] = masked[nothing] = cross_modal[unpaired] = np.nan
    return Pass(unit_loss, masked, cross_modal, drawn, possible)


def public_masks(signals: Signals, masks: int, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Patch masks of every patient and window: (patient, mask, window, channel, token)."""
    return draw_patch_masks(rng, (len(signals.rows), masks, WINDOWS))


def correlations(signals: Signals, done: Pass, channel: int) -> F64:
    """Pearson's r of the drawn and the recorded channel over its valid samples.

    Returns:
        (patient,): mean over the patient's windows; NaN without one. A drawn window without any
        variation counts 0: it says nothing about the recording.
    """
    result = np.full(len(signals.rows), np.nan)
    for i in range(len(result)):
        found = []
        for w in np.flatnonzero(done.possible[i, :, channel]):
            kept = np.repeat(signals.valid[i, w, channel], PATCH_SAMPLES)
            truth = signals.signal[i, w, channel][kept].astype(np.float64)
            drawn = done.drawn[i, w, channel][kept].astype(np.float64)
            spread = truth.std() * drawn.std()
            if truth.std() < 1e-6:
                continue
            covers = np.mean((truth - truth.mean()) * (drawn - drawn.mean()))
            found.append(float(covers / spread) if spread > 1e-9 else 0.0)
        if found:
            result[i] = np.mean(found)
    return result


def true_rates(signals: Signals, measured: Index) -> TrueRates:
    """Heart rates in recorded windows: whole in both sensors, one a patient, with enough beats."""
    whole = np.asarray(signals.valid.all((2, 3)))  # (patient, window)
    chosen = signals.places(measured)
    chosen = chosen[whole[chosen].any(1)][:MOST_RATES]
    window = whole[chosen].argmax(1)
    made = []
    for channel in range(len(CHANNELS)):
        signal = signals.signal[chosen, window, channel]
        found = np.array([heart_rate_bpm(one, channel) for one in signal], dtype=np.float64)
        known = np.isfinite(found)
        made.append((found[known], chosen[known], window[known]))
    return tuple(made)


def heart_rate_bpm(signal: npt.NDArray[np.floating], channel: int) -> float:
    """Heart rate of a window by NeuroKit2's detectors, from the median interval between peaks.

    Args:
        signal: (sample,) at 125 Hz, all of it valid; channel: 0 ECG, 1 PPG.

    Returns:
        Beats a minute; NaN with fewer than three peaks.
    """
    from simulations.probes.features import peaks_of

    found = peaks_of(np.asarray(signal, dtype=np.float64), CHANNELS[channel])
    if len(found) < FEWEST_BEATS:
        return float("nan")
    return float(60.0 * FS_HZ / np.median(np.diff(found)))
