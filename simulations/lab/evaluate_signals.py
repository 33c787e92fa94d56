"""What one pass of the autoencoder says about patients: losses, and each sensor from the other."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from shared_model.config import CHANNELS, FS_HZ, LocalTraining
from shared_model.losses import terms
from shared_model.mae import MaskedAutoencoder
from shared_model.patches import draw_patch_masks, fold, unfold
from simulations.lab.evaluate_sample import WINDOWS, Signals

F64 = npt.NDArray[np.float64]
_CHUNK = 32
"""Patients in the model at once: part of what is computed, so that no setting changes it."""
FEWEST_BEATS = 3
"""Peaks in a window below which no heart rate is taken from it."""


@dataclass(frozen=True)
class Pass:
    """One entry a patient, NaN where the patient lacks what is needed.

    unit_loss, masked, cross_modal, alignment: (patient,), see `shared_model.losses`; masked and
        cross_modal are squared errors of standardised signals: predicting the mean costs 1.
    drawn: (patient, window, channel, sample) float32, each channel drawn from the other one.
    possible: bool (patient, window, channel): the other sensor was there to draw from, and this
        one to compare with.
    """

    unit_loss: F64
    masked: F64
    cross_modal: F64
    alignment: F64
    drawn: npt.NDArray[np.float32] = field(repr=False)
    possible: npt.NDArray[np.bool_] = field(repr=False)


def run(
    model: MaskedAutoencoder,
    signals: Signals,
    places: npt.NDArray[np.int64],
    training: LocalTraining,
    hidden: npt.NDArray[np.bool_],
) -> Pass:
    """One forward pass over the patients at `places`.

    Args:
        hidden: bool (patient of `signals`, mask, window, channel, token), public and fixed.
    """
    count = len(places)
    values = np.full((4, count), np.nan)
    drawn = np.zeros((count, *signals.signal.shape[1:]), dtype=np.float32)
    valid = signals.valid[places]
    seen = valid.any(-1)  # (patient, window, channel)
    possible = np.stack([seen.all(-1)] * len(CHANNELS), axis=-1)
    with torch.inference_mode():
        for start in range(0, count, _CHUNK):
            part = slice(start, start + _CHUNK)
            patches = fold(torch.from_numpy(signals.signal[places[part]].astype(np.float32)))
            known = torch.from_numpy(valid[part])
            masks = torch.from_numpy(hidden[places[part]]).movedim(1, 2)  # masks after windows
            views = model(patches, known, masks)
            found = terms(views, patches, known)
            total = found.total(training)
            for k, value in enumerate((total, found.masked, found.cross_modal, found.alignment)):
                values[k, part] = value.numpy()
            cut = views.predicted[0].shape[-2] - patches.shape[-2]
            for channel in range(len(CHANNELS)):
                whole = unfold(views.predicted[channel][..., cut:, :])
                drawn[part, :, channel] = whole.numpy()
    paired = possible.any((1, 2))
    values[:, ~seen.any((1, 2))] = np.nan
    values[2:, ~paired] = np.nan
    return Pass(*values, drawn=drawn, possible=possible)


def public_masks(signals: Signals, masks: int, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Patch masks of every patient and window: (patient, mask, window, channel, token)."""
    return draw_patch_masks(rng, (len(signals.rows), masks, WINDOWS))


def correlations(signals: Signals, places: npt.NDArray[np.int64], done: Pass, channel: int) -> F64:
    """Pearson's r of the drawn and the recorded channel over its valid samples.

    Returns:
        (patient,): mean over the patient's windows; NaN without one. A drawn window without any
        variation counts 0: it says nothing about the recording.
    """
    result = np.full(len(places), np.nan)
    for i, place in enumerate(places):
        found = []
        for w in np.flatnonzero(done.possible[i, :, channel]):
            kept = np.repeat(signals.valid[place, w, channel], 25)
            truth = signals.signal[place, w, channel][kept].astype(np.float64)
            drawn = done.drawn[i, w, channel][kept].astype(np.float64)
            spread = truth.std() * drawn.std()
            if truth.std() < 1e-6:
                continue
            covers = np.mean((truth - truth.mean()) * (drawn - drawn.mean()))
            found.append(float(covers / spread) if spread > 1e-9 else 0.0)
        if found:
            result[i] = np.mean(found)
    return result


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
