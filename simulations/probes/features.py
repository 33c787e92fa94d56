"""Hand-made features of a window: heart rate, variability, beat and pulse morphology (NeuroKit2).

The row that every learned fingerprint has to beat. Peaks and cleaning are NeuroKit2's; the features
are the usual ones (Task Force 1996 for HRV; Elgendi 2012 for pulse shape).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from itertools import pairwise

import neurokit2 as nk
import numpy as np
from scipy import signal as sps
from scipy import stats

from shared_model.config import FS_HZ

RATE_NAMES = ("hr_bpm", "sdnn_ms", "rmssd_ms", "pnn50", "rr_cv", "rr_entropy", "rr_skew", "beats")
ECG_NAMES = (
    *(f"ecg_{name}" for name in RATE_NAMES),
    "ecg_r_height",
    "ecg_r_height_cv",
    "ecg_qrs_width_ms",
    "ecg_p",
    "ecg_q",
    "ecg_s",
    "ecg_st",
    "ecg_t",
    "ecg_t_position_ms",
    "ecg_beat_spread",
    "ecg_skew",
    "ecg_kurtosis",
    "ecg_power_low",
    "ecg_power_mid",
    "ecg_power_high",
)
PPG_NAMES = (
    *(f"ppg_{name}" for name in RATE_NAMES),
    "ppg_rise_ms",
    "ppg_width_25",
    "ppg_width_50",
    "ppg_width_75",
    "ppg_area_ratio",
    "ppg_height_cv",
    "ppg_b_over_a",
    "ppg_aging_index",
    "ppg_notch",
    "ppg_skew",
    "ppg_kurtosis",
    "ppg_power_low",
    "ppg_power_mid",
    "ppg_power_high",
)
PAIR_NAMES = ("pulse_arrival_ms", "pulse_arrival_sd_ms", "beat_difference")
NAMES = (*ECG_NAMES, *PPG_NAMES, *PAIR_NAMES)


def hand_made(
    signal: np.ndarray, valid: np.ndarray, on_window: Callable[[], None] | None = None
) -> np.ndarray:
    """Features of preprocessed windows.

    Args:
        signal: (window, channel=2, sample=1250), valid: (window, channel=2, token=50).

    Returns:
        float64 (window, feature) in the order of `NAMES`; NaN where a channel or a peak is missing.
    """
    rows = np.full((len(signal), len(NAMES)), np.nan)
    for i in range(len(signal)):
        rows[i] = _window(signal[i].astype(np.float64), valid[i])
        if on_window is not None:
            on_window()
    return rows


def _window(signal: np.ndarray, valid: np.ndarray) -> np.ndarray:
    values: dict[str, float] = {}
    peaks: dict[str, np.ndarray] = {}
    for channel, name in enumerate(("ecg", "ppg")):
        if not valid[channel].any():
            continue
        kept = np.repeat(valid[channel], signal.shape[1] // valid.shape[1])
        first, last = np.flatnonzero(kept)[[0, -1]]
        part = signal[channel, first : last + 1]
        found = peaks_of(part, name)
        peaks[name] = found + first
        values |= {f"{name}_{key}": value for key, value in _rate(found).items()}
        values |= _ecg(part, found) if name == "ecg" else _ppg(part, found)
        values |= {f"{name}_{key}": value for key, value in _spectrum(part, name).items()}
    if len(peaks) == 2:
        values |= _pair(peaks["ecg"], peaks["ppg"])
    return np.array([values.get(name, np.nan) for name in NAMES])


def peaks_of(part: np.ndarray, name: str) -> np.ndarray:
    """Sample indices of R peaks (`name` "ecg") or systolic peaks; none if NeuroKit2 finds none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            if name == "ecg":
                _, info = nk.ecg_peaks(part, sampling_rate=int(FS_HZ), method="neurokit")
                found = info["ECG_R_Peaks"]
            else:
                found = nk.ppg_findpeaks(part, sampling_rate=int(FS_HZ), method="elgendi")[
                    "PPG_Peaks"
                ]
        except Exception:
            return np.zeros(0, dtype=np.int64)
    found = np.asarray(found, dtype=np.float64)
    return np.asarray(found[np.isfinite(found)], dtype=np.int64)


def _rate(peaks: np.ndarray) -> dict[str, float]:
    out = {"beats": float(len(peaks))}
    if len(peaks) < 2:
        return out
    rr_ms = np.diff(peaks) * 1000.0 / FS_HZ
    out["hr_bpm"] = 60000.0 / float(np.median(rr_ms))
    if len(rr_ms) < 3:
        return out
    steps = np.diff(rr_ms)
    share = np.histogram(rr_ms / np.median(rr_ms), bins=np.linspace(0.4, 1.8, 15))[0] / len(rr_ms)
    share = share[share > 0]
    return out | {
        "sdnn_ms": float(np.std(rr_ms)),
        "rmssd_ms": float(np.sqrt(np.mean(steps**2))),
        "pnn50": float(np.mean(np.abs(steps) > 50)),
        "rr_cv": float(np.std(rr_ms) / np.mean(rr_ms)),
        "rr_entropy": float(-(share * np.log(share)).sum()),
        "rr_skew": _finite(stats.skew, rr_ms),
    }


def _beats(part: np.ndarray, at: np.ndarray, before: int, after: int) -> np.ndarray:
    """(beat, sample) cut around each peak that has room."""
    kept = at[(at >= before) & (at + after <= len(part))]
    if len(kept) == 0:
        return np.zeros((0, before + after))
    return np.stack([part[k - before : k + after] for k in kept])


def _ecg(part: np.ndarray, peaks: np.ndarray) -> dict[str, float]:
    out = {"ecg_skew": _finite(stats.skew, part), "ecg_kurtosis": _finite(stats.kurtosis, part)}
    before, after = int(0.25 * FS_HZ), int(0.45 * FS_HZ)
    beats = _beats(part, peaks, before, after)
    if len(beats) < 1:
        return out
    mean = np.median(beats, axis=0)
    heights = part[peaks]
    t_from = before + int(0.12 * FS_HZ)
    t_at = t_from + int(np.argmax(np.abs(mean[t_from:])))
    half = np.abs(mean[before - 15 : before + 16]) > np.abs(mean[before]) / 2
    return out | {
        "ecg_r_height": float(np.median(heights)),
        "ecg_r_height_cv": float(np.std(heights) / (abs(np.mean(heights)) + 1e-6)),
        "ecg_qrs_width_ms": float(half.sum() * 1000 / FS_HZ),
        "ecg_p": float(mean[: before - int(0.08 * FS_HZ)].max()),
        "ecg_q": float(mean[before - int(0.08 * FS_HZ) : before].min()),
        "ecg_s": float(mean[before : before + int(0.1 * FS_HZ)].min()),
        "ecg_st": float(mean[before + int(0.1 * FS_HZ)]),
        "ecg_t": float(mean[t_at]),
        "ecg_t_position_ms": (t_at - before) * 1000 / FS_HZ,
        "ecg_beat_spread": float(np.mean(np.std(beats, axis=0))),
    }


def _ppg(part: np.ndarray, peaks: np.ndarray) -> dict[str, float]:
    out = {"ppg_skew": _finite(stats.skew, part), "ppg_kurtosis": _finite(stats.kurtosis, part)}
    if len(peaks) < 2:
        return out
    feet = np.array([a + int(np.argmin(part[a:b])) for a, b in pairwise(peaks) if b > a + 2])
    shapes, rises, heights = [], [], []
    for foot, end in pairwise(feet):
        inside = peaks[(peaks > foot) & (peaks < end)]
        if len(inside) != 1 or end - foot < 20:
            continue
        pulse = part[foot:end] - np.linspace(part[foot], part[end], end - foot)
        height = pulse.max()
        if height <= 0:
            continue
        rises.append((inside[0] - foot) * 1000 / FS_HZ)
        heights.append(height)
        shapes.append(
            np.interp(np.linspace(0, 1, 100), np.linspace(0, 1, len(pulse)), pulse / height)
        )
    if not shapes:
        return out
    mean = np.median(np.stack(shapes), axis=0)
    top = int(np.argmax(mean))
    bend = np.gradient(np.gradient(sps.savgol_filter(mean, 9, 3)))
    a_at = int(np.argmax(bend[: max(top, 2)]))
    b_at = a_at + int(np.argmin(bend[a_at : top + 10]))
    wave_a = float(bend[a_at]) or 1e-6
    tail = bend[b_at : b_at + 40]
    late = bend[top + 5 : 80]
    return out | {
        "ppg_rise_ms": float(np.median(rises)),
        "ppg_width_25": float((mean > 0.25).mean()),
        "ppg_width_50": float((mean > 0.50).mean()),
        "ppg_width_75": float((mean > 0.75).mean()),
        "ppg_area_ratio": float(mean[top:].sum() / max(mean[: top + 1].sum(), 1e-6)),
        "ppg_height_cv": float(np.std(heights) / np.mean(heights)),
        "ppg_b_over_a": float(bend[b_at]) / wave_a,
        "ppg_aging_index": float((bend[b_at] - (tail.max() if len(tail) else 0.0)) / wave_a),
        "ppg_notch": float(late.max()) / wave_a if len(late) else float("nan"),
    }


def _spectrum(part: np.ndarray, name: str) -> dict[str, float]:
    """Shares of power in three bands."""
    if len(part) < 64:
        return {}
    f_hz, power = sps.welch(part, fs=FS_HZ, nperseg=min(512, len(part)))
    edges = (0.5, 5.0, 15.0, 40.0) if name == "ecg" else (0.3, 1.5, 3.0, 8.0)
    total = float(power.sum()) or 1e-12
    bands = zip(("low", "mid", "high"), edges[:-1], edges[1:], strict=True)
    return {
        f"power_{band}": float(power[(f_hz >= low) & (f_hz < high)].sum()) / total
        for band, low, high in bands
    }


def _pair(r_peaks: np.ndarray, pulse_peaks: np.ndarray) -> dict[str, float]:
    """Time from each R peak to the next systolic peak (contains the monitor's own delay)."""
    out = {"beat_difference": float(len(r_peaks) - len(pulse_peaks))}
    if len(r_peaks) == 0 or len(pulse_peaks) == 0:
        return out
    place = np.searchsorted(pulse_peaks, r_peaks)
    kept = place < len(pulse_peaks)
    delay_ms = (pulse_peaks[place[kept]] - r_peaks[kept]) * 1000.0 / FS_HZ
    if len(delay_ms) == 0:
        return out
    return out | {
        "pulse_arrival_ms": float(np.median(delay_ms)),
        "pulse_arrival_sd_ms": float(np.std(delay_ms)),
    }


def _finite(function: Callable[[np.ndarray], float], values: np.ndarray) -> float:
    """A statistic that is NaN for constant input, without the library's warning."""
    return float(function(values)) if np.std(values) > 1e-9 else float("nan")
