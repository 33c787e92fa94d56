"""Paired signals of pretend hearts: what stays with a patient, and one series after another."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from simulations import cohort_ecg, cohort_ppg
from simulations.cohort_beats import Beats, draw_beats
from simulations.cohort_patients import Patients, draw_patients
from simulations.cohort_sites import F32, F64, Acquisition, SiteEffects, draw_acquisition, take


@dataclass(frozen=True)
class Hearts:
    """Everything about patients that stays the same from one series to the next."""

    patients: Patients = field(repr=False)
    acquisition: Acquisition = field(repr=False)
    ecg_shape: cohort_ecg.EcgShape = field(repr=False)
    pulse_shape: cohort_ppg.PulseShape = field(repr=False)

    def take(self, index: NDArray[np.int64]) -> Hearts:
        """Rows `index`."""
        return Hearts(
            take(self.patients, index),
            take(self.acquisition, index),
            take(self.ecg_shape, index),
            take(self.pulse_shape, index),
        )


@dataclass(frozen=True)
class Series:
    """Raw paired signals of many series, with their beats. ECG in mV, PPG in pulse heights."""

    ecg: F32 = field(repr=False)
    ppg: F32 = field(repr=False)
    beats: Beats = field(repr=False)
    pulses: cohort_ppg.Pulses = field(repr=False)
    noise_ecg: F64 = field(repr=False)
    noise_ppg: F64 = field(repr=False)
    """Noise level of each series, see `cohort_render.noise_level`."""


def draw_hearts(rng: np.random.Generator, count: int, effects: SiteEffects | None) -> Hearts:
    """`count` patients of a site (None: of all kinds, each with a device of its own)."""
    acquisition = draw_acquisition(rng, count, effects)
    patients = draw_patients(rng, count, acquisition, effects)
    return Hearts(
        patients,
        acquisition,
        cohort_ecg.draw_shape(rng, patients, acquisition),
        cohort_ppg.draw_shape(rng, patients, acquisition),
    )


def draw_series(
    rng: np.random.Generator,
    hearts: Hearts,
    *,
    fs_hz: tuple[float, float],
    start_s: float,
    samples: tuple[int, int],
) -> Series:
    """One paired series a heart; `fs_hz` and `samples` are (ECG, PPG), both begin at `start_s`."""
    acquisition = hearts.acquisition
    count = len(acquisition.lead)
    rate = hearts.patients.heart_rate * np.exp(rng.normal(0, 0.04, count))
    patients = replace(hearts.patients, heart_rate=rate)
    length_s = start_s + max(samples[0] / fs_hz[0], samples[1] / fs_hz[1])
    beats = draw_beats(rng, patients, length_s)
    ecg = cohort_ecg.render(rng, beats, hearts.ecg_shape, fs_hz[0], start_s, samples[0])
    ecg, noise_ecg = cohort_ecg.record(rng, ecg, acquisition, patients, fs_hz[0])
    pulses = cohort_ppg.draw_pulses(rng, patients, beats, acquisition)
    ppg = cohort_ppg.render(beats, pulses, hearts.pulse_shape, fs_hz[1], start_s, samples[1])
    moving = rng.random(count) < np.where(rate > 95, 0.6, 0.06) * np.minimum(
        acquisition.exercise * 4, 1.0
    )
    ppg, noise_ppg = cohort_ppg.record(rng, ppg, acquisition, patients, moving, fs_hz[1])
    ecg = _digitise(rng, ecg, acquisition.ecg_step)
    ppg = _digitise(rng, ppg, acquisition.ppg_step)
    _lead_off(rng, ecg, acquisition.missing, fs_hz[0])
    _lead_off(rng, ppg, acquisition.missing, fs_hz[1])
    return Series(ecg, ppg, beats, pulses, noise_ecg, noise_ppg)


def _digitise(rng: np.random.Generator, signal: F32, step: NDArray[np.float64]) -> F32:
    """Steps of the converter (share of the standard deviation); seldom a clipped top or bottom."""
    size = (step * np.maximum(signal.std(axis=1), 1e-6)).astype(np.float32)[:, None]
    rows = np.flatnonzero(rng.random(len(signal)) < 0.02)
    if len(rows):
        high = np.percentile(signal[rows], rng.uniform(98.0, 99.9), axis=1)[:, None]
        low = np.percentile(signal[rows], rng.uniform(0.0, 1.5), axis=1)[:, None]
        signal[rows] = np.clip(signal[rows], low, high)
    return np.asarray(np.round(signal / size) * size, dtype=np.float32)


def _lead_off(
    rng: np.random.Generator, signal: F32, chance: NDArray[np.float64], fs_hz: float
) -> None:
    """One missing stretch (NaN) of 0.2-6 s in some series, in place."""
    for row in np.flatnonzero(rng.random(len(signal)) < chance):
        length = int(fs_hz * 10 ** rng.uniform(-0.7, 0.75))
        first = int(rng.integers(0, signal.shape[1]))
        signal[row, first : first + length] = np.nan
