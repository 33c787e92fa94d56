"""PPG of the same beats: pulses that follow each R peak, reflected wave, notch, motion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared_model.windows import BAND_HZ
from simulations import cohort_beats as cb
from simulations.cohort_beats import Beats
from simulations.cohort_patients import Patients
from simulations.cohort_render import (
    Waves,
    backward,
    bursts,
    draw_waves,
    forward,
    frequencies,
    spectral_noise,
    through_device,
    unit,
)
from simulations.cohort_sites import F32, F64, PULSE_STYLES, Acquisition


@dataclass(frozen=True)
class Pulses:
    """Pulses of a series, arrays (series, beat): amplitude (1 = usual) and time of the foot."""

    amplitude: F64
    foot_s: F64
    arrival_s: F64
    """Foot minus R peak, device delay left out."""


def draw_pulses(
    rng: np.random.Generator, patients: Patients, beats: Beats, acquisition: Acquisition
) -> Pulses:
    """Amplitude and arrival of every pulse.

    A pulse after a short interval is small (little filling) and late; a ventricular beat throws out
    less; the beat after a pause more. Very early beats give none: the pulse deficit.
    """
    count, n_beats = len(beats.time_s), beats.time_s.shape[1]
    usual = np.median(beats.interval_s, axis=1, keepdims=True)
    ratio = beats.interval_s / usual
    ventricular = np.isin(beats.kind, (cb.VENTRICULAR, cb.VENTRICULAR_2))
    filling = rng.uniform(0.18, 0.38, count)[:, None]
    constant = rng.uniform(0.10, 0.35, count)[:, None]
    full = 1 - np.exp(-np.maximum(beats.interval_s - filling, 0) / constant)
    reference = 1 - np.exp(-np.maximum(usual - filling, 0.08) / constant)
    amplitude = full / reference
    effort = rng.uniform(0.15, 0.95, count)[:, None]
    amplitude = np.where(ventricular, amplitude * effort, amplitude)
    after = np.zeros_like(ventricular)
    after[:, 1:] = ventricular[:, :-1]
    amplitude = np.where(after & ~ventricular, amplitude * rng.uniform(1.0, 1.35, count)[:, None],
                         amplitude)  # fmt: skip
    amplitude[:, 1:] *= np.clip(1 + 0.25 * (1 - amplitude[:, :-1]), 0.8, 1.3)
    breath = rng.uniform(0.0, 0.22, count)[:, None] * np.sin(
        beats.respiration - rng.uniform(0.5, 2.5, count)[:, None]
    )
    slow_hz = rng.uniform(0.03, 0.12, count)[:, None]
    slow = rng.uniform(0.0, 0.25, count)[:, None] * np.sin(
        2 * np.pi * slow_hz * beats.time_s + rng.uniform(0, 6.28, count)[:, None]
    )
    amplitude *= (1 + breath + slow) * (1 + 0.03 * rng.standard_normal((count, n_beats)))
    amplitude = np.where(beats.kind == cb.DROPPED, 0.0, np.clip(amplitude, 0.0, 1.9))
    wrist = acquisition.style == PULSE_STYLES.index("wrist")
    arrival = patients.pat_s[:, None] - 0.02 * wrist[:, None]
    arrival = arrival - 0.045 * np.clip(ratio - 1, -0.7, 0.7) + 0.025 * ventricular
    arrival = arrival - 0.006 * breath / 0.2 + 0.003 * rng.standard_normal((count, n_beats))
    arrival = np.clip(arrival, 0.05, 0.5)
    foot = beats.time_s + arrival + acquisition.delay_s[:, None]
    return Pulses(amplitude, foot, arrival)


@dataclass(frozen=True)
class PulseShape:
    """Pulse wave of each patient, arrays (series,): delays and widths in s, heights of 1."""

    peak_s: F64
    width_s: F64
    reflected: F64
    reflected_delay_s: F64
    reflected_width_s: F64
    diastolic: F64
    diastolic_delay_s: F64
    diastolic_width_s: F64
    notch: F64
    notch_lead_s: F64
    stretch: F64
    """Exponent with which the wave lengthens with the interval."""
    runoff_s: F64
    runoff_share: F64


def draw_shape(
    rng: np.random.Generator, patients: Patients, acquisition: Acquisition
) -> PulseShape:
    """Systolic wave, reflected wave (early and high in stiff arteries), diastolic wave with a notch
    before it (late and clear in elastic ones), and a run-off that decays like a windkessel."""
    count = len(patients.age)
    stiff = patients.stiffness
    wrist = acquisition.style == PULSE_STYLES.index("wrist")
    smooth = acquisition.style != PULSE_STYLES.index("finger")

    def around(mean: Any, spread: float) -> F64:
        return np.asarray(mean * np.exp(rng.normal(0, spread, count)))

    return PulseShape(
        peak_s=around(0.112 + 0.02 * stiff + 0.02 * wrist, 0.16),
        width_s=around(0.040 + 0.006 * stiff + 0.012 * wrist, 0.18),
        reflected=around(0.32 + 0.40 * stiff, 0.35),
        reflected_delay_s=around(np.clip(0.17 - 0.075 * stiff, 0.06, 0.2), 0.15),
        reflected_width_s=around(0.065, 0.15),
        diastolic=around(np.clip(0.42 - 0.20 * stiff, 0.06, 0.5), 0.45) * np.where(smooth, 0.7, 1),
        diastolic_delay_s=around(np.clip(0.33 - 0.085 * stiff, 0.2, 0.36), 0.10),
        diastolic_width_s=around(0.075, 0.2),
        notch=np.clip(rng.normal(0.10 - 0.09 * stiff, 0.06), 0.0, 0.3) * ~smooth,
        notch_lead_s=around(0.085, 0.1),
        stretch=rng.uniform(0.2, 0.7, count),
        runoff_s=10 ** rng.uniform(-0.9, 0.1, count),
        runoff_share=rng.random(count) ** 0.6,
    )


def render(
    beats: Beats, pulses: Pulses, shape: PulseShape, fs_hz: float, start_s: float, samples: int
) -> F32:
    """Clean PPG (series, sample), usual pulse height about 1."""
    rate = np.clip(np.median(beats.interval_s, axis=1, keepdims=True), 0.3, 1.4)
    stretch = np.clip(0.5 * rate + 0.5 * beats.interval_s, 0.3, 1.5) / 0.8
    stretch = np.clip(stretch, 0.5, 1.6) ** shape.stretch[:, None]
    height = pulses.amplitude
    out = np.zeros((len(height), samples), dtype=np.float32)
    late = shape.peak_s + shape.diastolic_delay_s
    for amplitude, delay, width in (
        (np.ones(len(height)), shape.peak_s, shape.width_s),
        (shape.reflected, shape.peak_s + shape.reflected_delay_s, shape.reflected_width_s),
        (shape.diastolic, late, shape.diastolic_width_s),
        (-shape.notch, late - shape.notch_lead_s, np.full(len(height), 0.022)),
    ):
        draw_waves(
            out,
            Waves(
                amplitude[:, None] * height,
                pulses.foot_s + delay[:, None] * stretch,
                width[:, None] * stretch,
            ),
            fs_hz,
            start_s,
        )
    # run-off: part of the flow goes through one pole
    frequency = frequencies(samples, fs_hz)
    share = shape.runoff_share[:, None]
    pole = share / (1 + 2j * np.pi * frequency[None] * shape.runoff_s[:, None])
    out = backward(forward(out) * (pole + 0.4 * (1 - share)).astype(np.complex64), samples)
    usual = np.percentile(out, 97, axis=1) - np.percentile(out, 5, axis=1)
    out /= np.maximum(usual, 1e-3)[:, None].astype(np.float32)
    return out


def record(
    rng: np.random.Generator,
    clean: F32,
    acquisition: Acquisition,
    patients: Patients,
    moving: NDArray[np.bool_],
    fs_hz: float,
) -> tuple[F32, F64]:
    """What the sensor writes: clean PPG plus breathing, drift, motion; filtered.

    Moving patients (`moving`) have steps or strides: a second rhythm of 0.8-3 Hz with harmonics and
    bursts; the others seldom a burst.

    Returns:
        PPG (series, sample) in pulse heights; its noise level (series,), see `noise_level`.
    """
    count, samples = len(clean), int(clean.shape[1])
    frequency = frequencies(samples, fs_hz)
    scale = acquisition.noise_ppg
    worn = np.where(acquisition.style == PULSE_STYLES.index("finger"), 1.0, 1.4)

    def level(median: float, spread: float) -> F64:
        return np.asarray(median * np.exp(rng.normal(0, spread, count)) * scale * worn)

    ones = np.ones((count, 1), np.float32)
    wander = unit((1 / (1 + (frequency / 0.15) ** 2))[None].astype(np.float32) * ones)
    breath = np.exp(-0.5 * ((frequency[None] - patients.respiration_hz[:, None]) / 0.04) ** 2)
    breath = unit(breath.astype(np.float32))
    corner = 10 ** rng.uniform(-0.3, 0.7, count)[:, None]
    motion = unit((frequency[None] / (1 + (frequency[None] / corner) ** 3)).astype(np.float32))
    profile = np.sqrt(
        (level(0.20, 0.8)[:, None] * wander) ** 2
        + (level(0.06, 0.8)[:, None] * breath) ** 2
        + (level(0.025, 0.9)[:, None] * motion) ** 2
        + level(0.004, 1.3)[:, None] ** 2
    ).astype(np.float32)
    spectrum = spectral_noise(rng, profile, samples)
    x = clean.copy()
    envelope = bursts(rng, count, samples, fs_hz,
                      chance=np.clip(np.where(moving, 0.6, 0.16) * scale, 0, 0.95),
                      length_s=(0.5, 10.0))  # fmt: skip
    rows = np.flatnonzero(envelope.any(axis=1))
    if len(rows):
        noise = backward(spectral_noise(rng, motion[rows], samples), samples)
        x[rows] += noise * envelope[rows] * level(0.30, 0.6)[rows, None].astype(np.float32)
    rows = np.flatnonzero(moving)
    if len(rows):
        x[rows] += _strides(rng, len(rows), samples, fs_hz) * level(0.28, 0.8)[rows, None].astype(
            np.float32
        )
    _gain_steps(rng, x, fs_hz)
    spectrum += forward(x)
    return through_device(
        spectrum,
        clean,
        fs_hz,
        low_hz=acquisition.ppg_low_hz,
        high_hz=acquisition.ppg_high_hz,
        order=2,
        band_hz=BAND_HZ["ppg"],
    )


def _strides(rng: np.random.Generator, count: int, samples: int, fs_hz: float) -> F32:
    """Periodic motion of 0.8-3 Hz with harmonics, cadence slightly unsteady."""
    time = np.arange(samples) / fs_hz
    cadence = rng.uniform(0.8, 3.0, count)[:, None]
    phase = 2 * np.pi * cadence * time
    phase = phase + rng.uniform(0, 1.5, (count, 1)) * np.sin(
        2 * np.pi * rng.uniform(0.05, 0.3, (count, 1)) * time + rng.uniform(0, 6.28, (count, 1))
    )
    wave = np.zeros((count, samples))
    for harmonic in (0.5, 1.0, 2.0, 3.0):
        strength = rng.uniform(0, 1.0, (count, 1)) / max(harmonic, 0.7)
        wave += strength * np.sin(harmonic * phase + rng.uniform(0, 6.28, (count, 1)))
    return np.asarray(wave, dtype=np.float32)


def _gain_steps(rng: np.random.Generator, x: F32, fs_hz: float) -> None:
    """Seldom the device changes its gain, or a cuff takes the pulse away for a while; in place."""
    count, samples = len(x), int(x.shape[1])
    time = np.arange(samples, dtype=np.float32) / np.float32(fs_hz)
    rows = np.flatnonzero(rng.random(count) < 0.05)
    if len(rows):
        at = rng.uniform(0, time[-1], len(rows))[:, None]
        size = np.exp(rng.normal(0, 0.6, len(rows)))[:, None]
        x[rows] *= (1 + (size - 1) / (1 + np.exp(-(time[None] - at) / 0.15))).astype(np.float32)
    rows = np.flatnonzero(rng.random(count) < 0.02)
    if len(rows):
        gone = bursts(rng, len(rows), samples, fs_hz, chance=1.0, length_s=(2.0, 7.0))
        x[rows] *= 1 - gone * rng.uniform(0.6, 1.0, (len(rows), 1)).astype(np.float32)
