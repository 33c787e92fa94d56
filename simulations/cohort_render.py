"""Sums of Gaussian waves placed around beats, filters and coloured noise, many series at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from simulations.cohort_sites import F32, F64

_REACH = 4.0
"""A Gaussian is drawn to this many standard deviations."""
NOISE_LEVELS = (-4.0, 2.0)
"""What is quieter or louder than that is told no further."""
BLOCK_S = 12.8
"""Chances of bursts and jumps are meant for a stretch of this length; longer series have more."""


@dataclass(frozen=True)
class Waves:
    """One wave of every beat: arrays (series, beat). `centre_s` is absolute time."""

    amplitude: F64
    centre_s: F64
    width_s: F64
    """Standard deviation."""


def draw_waves(out: F32, waves: Waves, fs_hz: float, start_s: float) -> None:
    """Add each wave to `out` (series, sample) within its reach; sample 0 is at `start_s`.

    Waves are drawn in groups of about the same width, so that each costs only its own samples.
    """
    series, samples = out.shape
    flat_out = out.reshape(-1)
    centre = (waves.centre_s - start_s) * fs_hz
    width = waves.width_s * fs_hz
    reach = np.ceil(_REACH * width)
    seen = (np.abs(waves.amplitude) > 1e-6) & (centre > -reach) & (centre < samples + reach)
    row, beat = np.nonzero(seen)
    if not len(row):
        return
    centre, width, reach = centre[row, beat], width[row, beat], reach[row, beat]
    amplitude = waves.amplitude[row, beat]
    # groups of doubling reach: at most half of what is evaluated is beyond reach
    group = np.ceil(np.log2(np.maximum(reach, 2.0))).astype(np.int64)
    for size in np.unique(group):
        part = np.flatnonzero(group == size)
        half = int(reach[part].max())
        nearest = np.round(centre[part]).astype(np.int64)
        offset = np.arange(-half, half + 1)
        index = nearest[:, None] + offset  # (wave, offset)
        distance = (offset - (centre[part] - nearest)[:, None]).astype(np.float32)
        distance /= width[part, None].astype(np.float32)
        distance *= distance
        distance *= np.float32(-0.5)
        value = np.exp(distance, out=distance)
        value *= amplitude[part, None].astype(np.float32)
        inside = (index >= 0) & (index < samples)
        place = index + row[part, None] * samples
        flat_out += np.bincount(
            place[inside], weights=value[inside], minlength=series * samples
        ).astype(np.float32)


def frequencies(samples: int, fs_hz: float) -> F64:
    """Frequencies (Hz) of the real FFT of `samples`."""
    return np.asarray(np.fft.rfftfreq(samples, 1 / fs_hz), dtype=np.float64)


def one_pole_high(frequency: F64, corner_hz: F64) -> NDArray[np.complex64]:
    """Single-pole high-pass with its phase, as in monitors. (series, frequency)"""
    ratio = 1j * frequency[None, :] / corner_hz[:, None]
    return np.asarray(ratio / (1 + ratio), dtype=np.complex64)


def butter_low(frequency: F64, corner_hz: F64, order: int) -> F32:
    """Magnitude of a Butterworth low-pass, zero phase. (series, frequency)"""
    ratio = (frequency[None, :] / corner_hz[:, None]).astype(np.float32)
    return np.asarray(1 / np.sqrt(1 + ratio ** (2 * order)), dtype=np.float32)


def spectral_noise(rng: np.random.Generator, profile: F32, samples: int) -> NDArray[np.complex64]:
    """Spectrum of Gaussian noise. `profile` (series, frequency): amplitude of unit-variance bins.

    With a profile of ones, the noise has variance 1 a sample.
    """
    shape = (2, *profile.shape)
    parts = rng.standard_normal(shape, dtype=np.float32)
    parts *= profile * np.float32(np.sqrt(samples / 2))
    return np.asarray(parts[0] + 1j * parts[1], dtype=np.complex64)


def unit(profile: F32) -> F32:
    """The profile scaled so that its noise has variance 1."""
    power = np.sqrt((profile**2).mean(axis=1, keepdims=True))
    return np.asarray(profile / np.maximum(power, 1e-9), dtype=np.float32)


def forward(signal: F32) -> NDArray[np.complex64]:
    """Real FFT along samples."""
    return np.asarray(fft.rfft(signal, axis=1), dtype=np.complex64)


def backward(spectrum: NDArray[np.complex64], samples: int) -> F32:
    """Its inverse."""
    return np.asarray(fft.irfft(spectrum, samples, axis=1), dtype=np.float32)


def noise_level(
    recorded: NDArray[np.complex64],
    clean: NDArray[np.complex64],
    frequency: F64,
    band_hz: tuple[float, float],
) -> F64:
    """Log10 of the power of what is not the clean signal over that of the clean one, in the band
    that windows keep; in -4 ... 2.

    Args:
        recorded, clean: spectra (series, frequency), both after the device's filters.

    Returns:
        (series,)
    """
    kept = (frequency >= band_hz[0]) & (frequency <= band_hz[1])
    noise = (np.abs(recorded[:, kept] - clean[:, kept]) ** 2).sum(axis=1, dtype=np.float64)
    signal = (np.abs(clean[:, kept]) ** 2).sum(axis=1, dtype=np.float64)
    share = np.maximum(noise, 1e-12) / np.maximum(signal, 1e-12)
    return np.asarray(np.clip(np.log10(share), *NOISE_LEVELS), dtype=np.float64)


def through_device(
    spectrum: NDArray[np.complex64],
    clean: F32,
    fs_hz: float,
    *,
    low_hz: F64,
    high_hz: F64,
    order: int,
    band_hz: tuple[float, float],
) -> tuple[F32, F64]:
    """What a device's filters leave of a signal with all its noise.

    Args:
        spectrum: of that signal (series, frequency); filtered in place.
        clean: the signal without noise (series, sample).
        low_hz, high_hz: corners (series,); the upper one below Nyquist's frequency at most.
        band_hz: what windows keep, see `noise_level`.

    Returns:
        The recording (series, sample), and its noise level (series,).
    """
    samples = clean.shape[1]
    frequency = frequencies(samples, fs_hz)
    device = butter_low(frequency, np.minimum(high_hz, 0.49 * fs_hz), order)
    coupling = one_pole_high(frequency, low_hz)
    spectrum *= device
    spectrum *= coupling
    level = noise_level(spectrum, forward(clean) * device * coupling, frequency, band_hz)
    return backward(spectrum, samples), level


def bursts(
    rng: np.random.Generator,
    series: int,
    samples: int,
    fs_hz: float,
    *,
    chance: float | F64,
    length_s: tuple[float, float],
) -> F32:
    """Envelopes 0 ... 1 with at most one smooth burst in every 12.8 s. (series, sample)"""
    duration_s = samples / fs_hz
    time = np.arange(samples, dtype=np.float32) / np.float32(fs_hz)
    result = np.zeros((series, samples), dtype=np.float32)
    for _ in range(max(1, round(duration_s / BLOCK_S))):
        centre = rng.uniform(0, duration_s, series).astype(np.float32)
        half = 10 ** rng.uniform(np.log10(length_s[0]), np.log10(length_s[1]), series) / 2
        rows = np.flatnonzero(rng.random(series) < chance)
        if len(rows):
            half = half[rows, None].astype(np.float32)
            ramp = (half - np.abs(time[None] - centre[rows, None])) / np.minimum(half, 0.3) + 0.5
            result[rows] = np.maximum(result[rows], np.clip(ramp, 0.0, 1.0))
    return result


def pick(table: NDArray[Any], index: NDArray[Any]) -> NDArray[Any]:
    """table (series, kind, ...), index (series, beat) -> (series, beat, ...)."""
    return np.asarray(table[np.arange(len(table))[:, None], index])
