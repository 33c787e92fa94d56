"""Speed of windows and quality gate beside NeuroKit2's cleaning and quality."""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from shared_model.config import WINDOW_S
from shared_model.windows import make_windows

ECG_FS_HZ = 250.0
PPG_FS_HZ = 125.0
COMPARED_WINDOWS = 12
REPEATS = 5
THROUGHPUT_WINDOWS = 720
"""Two hours of one patient."""

Array = npt.NDArray[np.float64]

_WAVES = ((-0.2, 0.025, 0.15), (-0.03, 0.01, -0.12), (0.0, 0.011, 1.0), (0.035, 0.012, -0.25),
          (0.28, 0.05, 0.3))  # fmt: skip
"""P, Q, R, S, T: centre (s after R), width (s), height (mV)."""
_PULSE = ((0.25, 0.07, 1.0), (0.45, 0.11, 0.45))
"""Systolic and reflected wave of the pulse."""


def synthetic_recording(
    rng: np.random.Generator, windows: int, ecg_fs_hz: float, ppg_fs_hz: float
) -> tuple[Array, Array]:
    """ECG and PPG of one resting person with variable rate, drift, mains and noise.

    Returns:
        (sample,) at each rate, `windows` x 10 s long, in arbitrary units.
    """
    duration_s = windows * WINDOW_S
    beats_s = np.cumsum(0.8 + 0.04 * rng.standard_normal(int(duration_s / 0.6)))
    beats_s = beats_s[beats_s < duration_s]
    signals = []
    for fs_hz, shape in ((ecg_fs_hz, _WAVES), (ppg_fs_hz, _PULSE)):
        time_s = np.arange(int(duration_s * fs_hz)) / fs_hz
        signal = 0.3 * np.sin(2 * np.pi * 0.25 * time_s) + 0.02 * np.sin(2 * np.pi * 50 * time_s)
        signal += 0.02 * rng.standard_normal(len(time_s))
        for beat_s in beats_s:
            first, last = np.searchsorted(time_s, (beat_s - 0.4, beat_s + 1.0))
            near = time_s[first:last] - beat_s
            for centre_s, width_s, height in shape:
                signal[first:last] += height * np.exp(-0.5 * ((near - centre_s) / width_s) ** 2)
        signals.append(signal)
    return signals[0], signals[1]


def neurokit_windows(ecg: Array, ecg_fs_hz: float, ppg: Array, ppg_fs_hz: float) -> int:
    """NeuroKit2's `ecg_clean`, `ecg_quality`, `ppg_clean`, `ppg_quality` of every 10-s window.

    Returns:
        Number of windows for which NeuroKit2 gave a quality for both channels.
    """
    import neurokit2 as nk

    rated = 0
    steps = ((ecg, round(ecg_fs_hz)), (ppg, round(ppg_fs_hz)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for index in range(int(len(ecg) / ecg_fs_hz / WINDOW_S)):
            cut = []
            for signal, fs_hz in steps:
                length = int(WINDOW_S * fs_hz)
                cut.append((signal[index * length : (index + 1) * length], fs_hz))
            (ecg_window, ecg_rate), (ppg_window, ppg_rate) = cut
            clean = nk.ecg_clean(ecg_window, sampling_rate=ecg_rate)
            ecg_rated = nk.ecg_quality(clean, sampling_rate=ecg_rate)
            clean = nk.ppg_clean(ppg_window, sampling_rate=ppg_rate)
            ppg_rated = nk.ppg_quality(clean, sampling_rate=ppg_rate)
            rated += bool(len(ecg_rated)) and bool(len(ppg_rated))
    return rated


def figures(quick: bool, tell: Callable[[str], None]) -> dict[str, float]:
    """Figures of `fedprint-lab bench ingest`.

    speedup_vs_neurokit: ratio of the medians of CPU time, both sides on the same windows, by turns.
    windows_per_s_per_core: windows made (both channels, gate included) in a second of CPU time.
    """
    repeats, throughput_windows = (1, 60) if quick else (REPEATS, THROUGHPUT_WINDOWS)
    rng = np.random.default_rng(20250101)
    short = synthetic_recording(rng, COMPARED_WINDOWS, ECG_FS_HZ, PPG_FS_HZ)
    ours: list[float] = []
    theirs: list[float] = []
    rated = neurokit_windows(*_with_rates(short))  # also warms up both sides
    make_windows(*_with_rates(short))
    for turn in range(repeats):
        tell(f"both sides: turn {turn + 1} of {repeats}")
        ours.append(_cpu_s(lambda: make_windows(*_with_rates(short))))
        theirs.append(_cpu_s(lambda: neurokit_windows(*_with_rates(short))))
    long = synthetic_recording(rng, throughput_windows, ECG_FS_HZ, PPG_FS_HZ)
    windows = make_windows(*_with_rates(long))
    longest = [_cpu_s(lambda: make_windows(*_with_rates(long))) for _ in range(repeats)]
    return {
        "speedup_vs_neurokit": statistics.median(theirs) / statistics.median(ours),
        "windows_per_s_per_core": len(windows) / statistics.median(longest),
        "neurokit_windows_per_s": COMPARED_WINDOWS / statistics.median(theirs),
        "windows_compared": float(COMPARED_WINDOWS),
        "windows_rated_by_neurokit": float(rated),
        "windows_accepted": float(windows.usable.sum()) / len(windows),
    }


def _with_rates(pair: tuple[Array, Array]) -> tuple[Array, float, Array, float]:
    return pair[0], ECG_FS_HZ, pair[1], PPG_FS_HZ


def _cpu_s(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start
