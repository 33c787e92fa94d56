"""How like a made signal is to the recorded one: pure functions of windows."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import fft

from shared_model.config import FS_HZ

F64 = npt.NDArray[np.float64]
LARGEST_SHIFT_S = 0.4
"""The monitor's own delay between its channels is unknown: site medians differ by 344 ms."""
LARGEST_SHIFT = round(LARGEST_SHIFT_S * FS_HZ)


def correlation(made: npt.ArrayLike, truth: npt.ArrayLike) -> F64:
    """Pearson's r of each window, (window, sample) twice -> (window,).

    A made window without variation counts 0: it says nothing of the recording.
    """
    return correlations_at_shifts(made, truth, 0)[:, 0]


def correlations_at_shifts(
    made: npt.ArrayLike, truth: npt.ArrayLike, largest: int = LARGEST_SHIFT
) -> F64:
    """Pearson's r over the samples that overlap, at every shift of the whole window.

    Args:
        made, truth: (window, sample). largest: samples either way.

    Returns:
        (window, 2 largest + 1): column k compares truth[t] with made[t - (k - largest)].
    """
    a, b = np.asarray(made, dtype=np.float64), np.asarray(truth, dtype=np.float64)
    size = a.shape[1]
    shifts = np.arange(-largest, largest + 1)
    products = _cross(a, b, shifts)  # (window, shift)
    count = (size - np.abs(shifts)).astype(np.float64)
    sums = [_overlap(x, shifts, first) for x, first in ((a, True), (b, False))]
    squares = [_overlap(x**2, shifts, first) for x, first in ((a, True), (b, False))]
    covers = products - sums[0] * sums[1] / count
    spread = [np.maximum(s - m**2 / count, 0.0) for s, m in zip(squares, sums, strict=True)]
    below = np.sqrt(spread[0] * spread[1])
    small = 1e-9 * size
    return np.where(below > small, covers / np.maximum(below, small), 0.0)


def best_shift(
    made: npt.ArrayLike, truth: npt.ArrayLike, largest: int = LARGEST_SHIFT
) -> tuple[F64, npt.NDArray[np.int64]]:
    """Highest correlation over the shifts and the shift (samples); the smallest of equal ones.

    A highest of many is above zero also for signals that have nothing to do with each other:
    compare it with that of windows of other patients.
    """
    every = correlations_at_shifts(made, truth, largest)
    shifts = np.arange(-largest, largest + 1)
    order = np.argsort(np.abs(shifts), kind="stable")
    chosen = order[every[:, order].argmax(axis=1)]
    return np.take_along_axis(every, chosen[:, None], axis=1)[:, 0], shifts[chosen]


def error_over_trivial(made: npt.ArrayLike, truth: npt.ArrayLike) -> F64:
    """Squared error over that of the window's mean, (window,); below 1 beats the mean."""
    a, b = np.asarray(made, dtype=np.float64), np.asarray(truth, dtype=np.float64)
    trivial = np.square(b - b.mean(axis=1, keepdims=True)).mean(axis=1)
    error = np.square(a - b).mean(axis=1)
    return np.where(trivial > 0, error / np.where(trivial > 0, trivial, 1.0), np.nan)


def error_at_shift(made: npt.ArrayLike, truth: npt.ArrayLike, shift: npt.NDArray[np.int64]) -> F64:
    """`error_over_trivial` over the samples that overlap when each window is moved by its shift."""
    a, b = np.asarray(made), np.asarray(truth)
    size = a.shape[1]
    result = np.empty(len(a))
    for i, by in enumerate(shift):
        here = slice(max(0, by), size + min(0, by))
        there = slice(max(0, -by), size - max(0, by))
        result[i] = error_over_trivial(a[None, i, there], b[None, i, here])[0]
    return result


def rates_bpm(signal: npt.ArrayLike, channel: int) -> F64:
    """Heart rate of each window (window, sample); NaN where fewer than three beats are found.

    NeuroKit2's detector of its own name for ECG (R peaks) and Elgendi's for PPG, median interval:
    those of the lab's evaluation, for every site and for made and recorded windows alike.
    """
    from simulations.lab.evaluate_signals import heart_rate_bpm

    every = np.asarray(signal, dtype=np.float64)
    return np.array([heart_rate_bpm(one, channel) for one in every], dtype=np.float64)


def second_rates_bpm(ecg: npt.ArrayLike) -> F64:
    """The same of recorded ECGs by another detector (Pan and Tompkins 1985, in NeuroKit2): only to
    tell windows in which the reference itself is disputed."""
    import warnings

    import neurokit2 as nk

    def rate(one: F64) -> float:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                found = nk.ecg_peaks(one, sampling_rate=int(FS_HZ), method="pantompkins1985")[1]
            except Exception:
                return float("nan")
        peaks = np.asarray(found["ECG_R_Peaks"], dtype=np.float64)
        peaks = peaks[np.isfinite(peaks)]
        return float(60.0 * FS_HZ / np.median(np.diff(peaks))) if len(peaks) >= 3 else float("nan")

    return np.array([rate(one) for one in np.asarray(ecg, dtype=np.float64)], dtype=np.float64)


def _cross(a: F64, b: F64, shifts: npt.NDArray[np.int64]) -> F64:
    """sum over t of b[t] a[t - shift]: (window, shift)."""
    length = fft.next_fast_len(2 * a.shape[1], real=True)
    product = fft.rfft(b, length, axis=1) * np.conj(fft.rfft(a, length, axis=1))
    return np.asarray(fft.irfft(product, length, axis=1)[:, shifts % length])


def _overlap(x: F64, shifts: npt.NDArray[np.int64], is_made: bool) -> F64:
    """Sum of the samples that overlap at each shift: (window, shift)."""
    size = x.shape[1]
    total = np.concatenate([np.zeros((len(x), 1)), np.cumsum(x, axis=1)], axis=1)
    first = np.maximum(-shifts if is_made else shifts, 0)
    last = size - np.maximum(shifts if is_made else -shifts, 0)
    return np.asarray(total[:, last] - total[:, first])
