"""ECG of a beat series: sums of Gaussian waves per beat, by lead, conduction and rhythm."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared_model.windows import BAND_HZ
from simulations import cohort_beats as cb
from simulations.cohort_beats import Beats
from simulations.cohort_patients import BLOCKS, Patients
from simulations.cohort_render import (
    BLOCK_S,
    Waves,
    backward,
    bursts,
    draw_waves,
    forward,
    frequencies,
    pick,
    spectral_noise,
    through_device,
    unit,
)
from simulations.cohort_sites import F32, F64, LEADS, RHYTHMS, Acquisition

P1, P2, DELTA, Q, R, S, R2, ST, T1, T2, U = range(11)
WAVES = 11

# mean amplitudes in mV by lead; drawn around widely
_LEAD_MV = {
    #        P1   P2    dlt  Q     R    S     R2   ST    T1    T2    U
    "I": (0.05, 0.04, 0.0, -0.06, 0.65, -0.12, 0.0, 0.01, 0.10, 0.14, 0.01),
    "II": (0.08, 0.08, 0.0, -0.08, 0.95, -0.20, 0.0, 0.01, 0.12, 0.20, 0.02),
    "MLII": (0.07, 0.08, 0.0, -0.08, 1.20, -0.25, 0.0, 0.00, 0.10, 0.18, 0.02),
    "V1": (0.07, -0.05, 0.0, 0.0, 0.22, -0.95, 0.03, 0.02, -0.03, -0.02, 0.01),
    "V2": (0.06, 0.02, 0.0, 0.0, 0.45, -1.30, 0.0, 0.06, 0.18, 0.30, 0.03),
    "V5": (0.05, 0.05, 0.0, -0.10, 1.30, -0.30, 0.0, 0.01, 0.14, 0.24, 0.02),
    "aVF": (0.06, 0.07, 0.0, -0.06, 0.50, -0.22, 0.0, 0.01, 0.07, 0.12, 0.01),
}
_LEAD_TABLE = np.array([_LEAD_MV[lead] for lead in LEADS])


@dataclass(frozen=True)
class EcgShape:
    """Waves of every kind of beat, arrays (series, kind, wave): mV, s after the R peak, s."""

    amplitude: F64
    centre_s: F64
    width_s: F64


def draw_shape(rng: np.random.Generator, patients: Patients, acquisition: Acquisition) -> EcgShape:
    """Each patient's normal, ventricular, paced and atrial beats in the site's lead."""
    count = len(patients.age)
    amplitude = _LEAD_TABLE[acquisition.lead] * np.exp(rng.normal(0, 0.40, (count, WAVES)))
    amplitude += rng.normal(0, 0.02, (count, WAVES))
    amplitude[:, DELTA] = 0.0
    # the axis turns R against S; small voltage, fused P waves, ischaemic T waves and ST shifts
    axis = rng.normal(0, 0.25, count)
    amplitude[:, R] = np.maximum(amplitude[:, R] + axis, 0.04)
    amplitude[:, S] = np.minimum(amplitude[:, S] + 0.7 * axis, 0.0)
    amplitude[:, Q] *= rng.random(count) < 0.65
    wave_q = rng.random(count) < 0.05
    amplitude[:, Q] = np.where(wave_q, -rng.uniform(0.1, 0.7, count), amplitude[:, Q])
    t_turn = np.where(rng.random(count) < 0.14, -rng.uniform(0.3, 1.3, count), 1.0)
    t_size = 0.85 * np.exp(rng.normal(0, 0.4, count))
    amplitude[:, T1] *= np.where(rng.random(count) < 0.05, -1.0, 1.0) * t_turn * t_size
    amplitude[:, T2] *= t_turn * t_size
    shifted = rng.random(count) < 0.15
    amplitude[:, ST] += shifted * rng.normal(0, 0.14, count)
    amplitude[:, [P1, P2]] *= np.where(rng.random(count) < 0.08, 0.2, 1.0)[:, None]
    amplitude[:, R2] += (rng.random(count) < 0.06) * rng.uniform(0.05, 0.3, count)
    amplitude[:, [Q, R, S]] *= np.where(patients.lvh, 1.6, 1.0)[:, None]
    strain = patients.lvh & (rng.random(count) < 0.5) & (amplitude[:, R] > 0.5)
    amplitude[:, [T1, T2]] *= np.where(strain, -0.6, 1.0)[:, None]
    amplitude[:, ST] -= strain * 0.08

    qrs = np.clip(np.exp(rng.normal(0, 0.18, count)), 0.65, 1.6)
    pr_s = np.clip(rng.normal(0.155, 0.025, count) + 0.0004 * (patients.age - 50), 0.1, 0.3)
    centre = np.zeros((count, WAVES))
    width = np.full((count, WAVES), 0.01)
    gap_p = rng.uniform(0.015, 0.035, count)
    centre[:, P1], centre[:, P2] = -pr_s + 0.03 - gap_p / 2, -pr_s + 0.03 + gap_p / 2
    width[:, [P1, P2]] = rng.uniform(0.013, 0.026, (count, 2))
    centre[:, Q], width[:, Q] = -0.024 * qrs, 0.0065 * qrs * rng.uniform(0.8, 1.4, count)
    width[:, R] = 0.0080 * qrs * np.exp(rng.normal(0, 0.2, count))
    centre[:, S], width[:, S] = 0.025 * qrs, 0.0075 * qrs * rng.uniform(0.8, 1.5, count)
    centre[:, R2], width[:, R2] = 0.052 * qrs, 0.011 * qrs
    centre[:, DELTA], width[:, DELTA] = -0.045, 0.018
    centre[:, ST], width[:, ST] = 0.13, 0.045
    # T peaks before its end; the first half is wider (slow rise, steep fall)
    qt_peak = patients.qtc_s - 0.04 - 0.075 * np.exp(rng.normal(0, 0.15, count))
    t_width = rng.uniform(0.028, 0.050, count)
    centre[:, T2], width[:, T2] = qt_peak, t_width
    centre[:, T1], width[:, T1] = qt_peak - rng.uniform(0.03, 0.07, count), 1.3 * t_width
    centre[:, U], width[:, U] = qt_peak + 0.16, 0.03

    pre_excited = rng.random(count) < 0.015
    amplitude[:, DELTA] = pre_excited * rng.uniform(0.2, 0.5, count) * np.sign(amplitude[:, R])
    centre[:, [P1, P2]] += pre_excited[:, None] * 0.05
    _bundle_branch(rng, patients, acquisition, amplitude, centre, width)

    shape = [np.repeat(part[:, None], cb.KINDS, axis=1) for part in (amplitude, centre, width)]
    high = np.abs(amplitude[:, [R, S]]).max(axis=1)
    for kind in (cb.VENTRICULAR, cb.VENTRICULAR_2, cb.PACED):
        _wide_beat(rng, high, shape, kind)
    a_p = rng.uniform(-1.0, 1.3, (count, 2))
    shape[0][:, cb.ATRIAL, :2] = amplitude[:, :2] * a_p
    shape[1][:, cb.ATRIAL, :2] += rng.uniform(-0.02, 0.04, count)[:, None]
    shape[0][:, cb.DROPPED, DELTA:] = 0.0
    return EcgShape(*shape)


def _bundle_branch(
    rng: np.random.Generator,
    patients: Patients,
    acquisition: Acquisition,
    amplitude: F64,
    centre: F64,
    width: F64,
) -> None:
    """Wide QRS, in place: right (late R' or slurred S) and left (broad notched R, discordant T)."""
    count = len(patients.age)
    right = patients.block == BLOCKS.index("rbbb")
    left = patients.block == BLOCKS.index("lbbb")
    septal = np.isin(acquisition.lead, [LEADS.index("V1"), LEADS.index("V2")])
    slow = rng.uniform(1.4, 2.4, count)
    size = amplitude[:, R]
    late = right & septal
    amplitude[:, R2] = np.where(late, rng.uniform(0.4, 1.2, count), amplitude[:, R2])
    centre[:, R2] = np.where(late, 0.065, centre[:, R2])
    width[:, R2] = np.where(late, 0.017, width[:, R2])
    slurred = right & ~septal
    amplitude[:, S] = np.where(slurred, -rng.uniform(0.2, 0.7, count) * size, amplitude[:, S])
    centre[:, S] = np.where(slurred, 0.062, centre[:, S])
    width[:, S] = np.where(slurred, 0.022, width[:, S])
    width[:, R] *= np.where(left & ~septal, slow, 1.0)
    amplitude[:, R2] = np.where(left & ~septal, rng.uniform(0.3, 0.9, count) * size,
                                amplitude[:, R2])  # fmt: skip
    centre[:, R2] = np.where(left, 0.055, centre[:, R2])
    width[:, R2] = np.where(left, 0.018, width[:, R2])
    amplitude[:, Q] *= ~left
    amplitude[:, S] *= np.where(left & ~septal, 0.2, 1.0)
    width[:, S] *= np.where(left & septal, slow, 1.0)
    turn = np.where(left & (rng.random(count) < 0.8), -1.0, 1.0)
    turn = np.where(left & septal, 1.0, turn)
    amplitude[:, [T1, T2]] *= turn[:, None]


def _wide_beat(
    rng: np.random.Generator, high: F64, shape: list[NDArray[np.float64]], kind: int
) -> None:
    """Ventricular or paced waves of every series, in place: wide, T against the main deflection."""
    amplitude, centre, width = (part[:, kind] for part in shape)
    count = len(high)
    sign = np.where(rng.random(count) < 0.5, 1.0, -1.0)
    main = sign * high * rng.uniform(0.5, 2.0, count)
    broad = rng.uniform(0.022, 0.048, count)
    amplitude[:] = 0.0
    amplitude[:, R] = main
    centre[:, R], width[:, R] = rng.uniform(-0.01, 0.02, count), broad
    amplitude[:, Q] = main * rng.uniform(-0.5, 0.25, count) * (rng.random(count) < 0.5)
    centre[:, Q], width[:, Q] = -1.6 * broad, 0.5 * broad
    amplitude[:, S] = -main * rng.uniform(0.0, 0.8, count)
    centre[:, S], width[:, S] = 2.4 * broad + 0.02, 0.9 * broad
    amplitude[:, R2] = main * rng.uniform(-0.3, 0.6, count) * (rng.random(count) < 0.4)
    centre[:, R2], width[:, R2] = 1.2 * broad, 0.35 * broad
    amplitude[:, T2] = -main * rng.uniform(0.1, 0.6, count)
    centre[:, T2], width[:, T2] = rng.uniform(0.27, 0.36, count), rng.uniform(0.04, 0.065, count)
    if kind == cb.PACED:
        spike = rng.random(count) < 0.7
        amplitude[:, DELTA] = spike * sign * rng.uniform(-1.0, 2.0, count) * high
        centre[:, DELTA] = -2.0 * broad - 0.02
        width[:, DELTA] = 0.003


def render(
    rng: np.random.Generator,
    beats: Beats,
    shape: EcgShape,
    fs_hz: float,
    start_s: float,
    samples: int,
) -> F32:
    """Clean ECG (series, sample) in mV from `start_s`."""
    count = len(beats.kind)
    out = np.zeros((count, samples), dtype=np.float32)
    kind = beats.kind
    amplitude, centre, width = (
        pick(part, kind) for part in (shape.amplitude, shape.centre_s, shape.width_s)
    )  # (series, beat, wave)
    swing = rng.uniform(0.0, 0.12, count)[:, None] * np.sin(beats.respiration)
    jitter = 1 + swing + rng.uniform(0.0, 0.06, count)[:, None] * rng.standard_normal(kind.shape)
    # torsade: in some runs the axis of ventricular beats turns slowly
    turning = (rng.random(count) < 0.12)[:, None] & np.isin(kind, (1, 2))
    turn_hz = rng.uniform(0.1, 0.5, count)[:, None]
    jitter = np.where(turning, 1.2 * np.sin(2 * np.pi * turn_hz * beats.time_s + swing), jitter)
    amplitude[:, :, [P1, P2]] *= beats.p_wave[:, :, None]
    amplitude[:, :, DELTA:] *= jitter[:, :, None]
    # QT follows the interval of the last beats: exponent 1/3 (Fridericia) ... 1/2 (Bazett)
    smooth = np.copy(beats.interval_s)
    for k in range(1, smooth.shape[1]):
        smooth[:, k] = 0.65 * smooth[:, k - 1] + 0.35 * smooth[:, k]
    exponent = rng.uniform(0.33, 0.5, count)[:, None]
    stretch = np.clip(smooth, 0.3, 1.6) ** exponent
    late = centre[:, :, ST:] * stretch[:, :, None]
    centre[:, :, ST:] = late
    width[:, :, ST:] *= np.sqrt(stretch)[:, :, None]
    short_pr = np.clip(0.75 + 0.3 * stretch, 0.8, 1.1)
    centre[:, :, :DELTA] *= short_pr[:, :, None]
    centre[:, :, :DELTA] -= beats.pr_extra_s[:, :, None]
    for wave in range(WAVES):
        draw_waves(
            out,
            Waves(amplitude[:, :, wave], beats.time_s + centre[:, :, wave], width[:, :, wave]),
            fs_hz,
            start_s,
        )
    out += _atrial_activity(rng, beats, shape, fs_hz, start_s, samples)
    return out


def _atrial_activity(
    rng: np.random.Generator,
    beats: Beats,
    shape: EcgShape,
    fs_hz: float,
    start_s: float,
    samples: int,
) -> F32:
    """Fibrillatory (4-9 Hz, unsteady) and flutter waves (sawtooth) where the rhythm is one."""
    count = len(beats.time_s)
    out = np.zeros((count, samples), dtype=np.float32)
    af, flutter = RHYTHMS.index("af"), RHYTHMS.index("flutter")
    rows = np.flatnonzero(((beats.rhythm == af) | (beats.rhythm == flutter)).any(axis=1))
    if not len(rows):
        return out
    time = start_s + np.arange(samples) / fs_hz
    high = np.abs(shape.amplitude[rows, cb.NORMAL]).max(axis=1)
    is_flutter = (beats.rhythm[rows] == flutter).any(axis=1)
    coarse = rng.uniform(0.0, 0.16, len(rows)) * (rng.random(len(rows)) < 0.75)
    size = high * np.where(is_flutter, rng.uniform(0.05, 0.3, len(rows)), coarse)
    centre_hz = np.where(
        is_flutter, rng.uniform(3.7, 5.7, len(rows)), rng.uniform(4.0, 8.5, len(rows))
    )
    unsteady = np.where(is_flutter, 0.0, 1.0)
    phase = 2 * np.pi * centre_hz[:, None] * time
    for part_hz, depth in ((0.11, 6.0), (0.37, 2.5), (1.1, 0.9)):
        turn = rng.uniform(0, 2 * np.pi, len(rows))[:, None]
        wobble = np.sin(
            2 * np.pi * part_hz * rng.uniform(0.6, 1.6, len(rows))[:, None] * time + turn
        )
        phase += depth * unsteady[:, None] * wobble * rng.uniform(0.3, 1.0, len(rows))[:, None]
    second = rng.uniform(0.15, 0.5, len(rows))[:, None]
    swell = 1 + 0.5 * unsteady[:, None] * np.sin(
        2 * np.pi * rng.uniform(0.2, 1.2, len(rows))[:, None] * time + phase[:, :1]
    )
    wave = (np.sin(phase) + second * np.sin(2 * phase + 0.7) + 0.15 * np.sin(3 * phase)) * swell
    now = _rhythm_at(beats, rows, time, (af, flutter))
    out[rows] = wave * size[:, None] * now
    return out


def _rhythm_at(
    beats: Beats, rows: NDArray[np.int64], time: F64, rhythms: tuple[int, int]
) -> NDArray[np.bool_]:
    """Whether one of `rhythms` is in force at each time. (row, sample)"""
    result = np.zeros((len(rows), len(time)), dtype=np.bool_)
    for place, row in enumerate(rows):
        last = np.searchsorted(beats.time_s[row], time).clip(0, beats.time_s.shape[1] - 1)
        result[place] = np.isin(beats.rhythm[row], rhythms)[last]
    return result


def record(
    rng: np.random.Generator, clean: F32, acquisition: Acquisition, patients: Patients, fs_hz: float
) -> tuple[F32, F64]:
    """What the device writes: clean ECG (mV) plus wander, muscle, mains, motion; filtered.

    Noise amplitudes are shares of the clean signal's QRS height, log-normal, most recordings quiet.

    Returns:
        ECG (series, sample) in mV; its noise level (series,), see `noise_level`.
    """
    count, samples = len(clean), int(clean.shape[1])
    frequency = frequencies(samples, fs_hz)
    height = np.maximum(np.percentile(np.abs(clean), 99.3, axis=1), 0.05)
    scale = acquisition.noise_ecg * height

    def level(median: float, spread: float) -> NDArray[np.float64]:
        return np.asarray(median * np.exp(rng.normal(0, spread, count)) * scale)

    wander = unit(
        (1 / (1 + (frequency / 0.25) ** 2))[None].astype(np.float32)
        * np.ones((count, 1), np.float32)
    )
    breath = np.exp(-0.5 * ((frequency[None] - patients.respiration_hz[:, None]) / 0.04) ** 2)
    breath = unit(breath.astype(np.float32))
    muscle = unit(
        (frequency / (frequency + 12) / (1 + (frequency / 70) ** 2))[None].astype(np.float32)
    )
    # electrode motion: 1-10 Hz, looks like beats
    motion = unit(
        (frequency**1.0 / (1 + (frequency / rng.uniform(0.8, 5.0, count)[:, None]) ** 3)).astype(
            np.float32
        )
    )
    profile = np.sqrt(
        (level(0.10, 0.9)[:, None] * wander) ** 2
        + (level(0.05, 0.9)[:, None] * breath) ** 2
        + (level(0.015, 1.0)[:, None] * muscle) ** 2
        + (level(0.012, 1.1)[:, None] * motion) ** 2
    ).astype(np.float32)
    spectrum = spectral_noise(rng, profile, samples)
    x = clean + _mains(rng, acquisition, scale, samples, fs_hz)
    # bursts of muscle and of motion
    for shape_of, strength, chance in ((muscle, 0.12, 0.14), (motion, 0.35, 0.14)):
        envelope = bursts(rng, count, samples, fs_hz,
                          chance=np.clip(chance * acquisition.noise_ecg, 0, 0.9),
                          length_s=(0.3, 8.0))  # fmt: skip
        rows = np.flatnonzero(envelope.any(axis=1))
        if len(rows):
            source = shape_of if len(shape_of) == 1 else shape_of[rows]
            source = source * np.ones((len(rows), 1), np.float32)
            noise = backward(spectral_noise(rng, source, samples), samples)
            x[rows] += noise * envelope[rows] * level(strength, 0.6)[rows, None].astype(np.float32)
    _jumps(rng, x, scale, fs_hz)
    spectrum += forward(x)
    return through_device(
        spectrum,
        clean,
        fs_hz,
        low_hz=acquisition.ecg_low_hz,
        high_hz=acquisition.ecg_high_hz,
        order=3,
        band_hz=BAND_HZ["ecg"],
    )


def _mains(
    rng: np.random.Generator, acquisition: Acquisition, scale: F64, samples: int, fs_hz: float
) -> F32:
    count = len(scale)
    strength = scale * np.where(rng.random(count) < 0.3, 10 ** rng.uniform(-2.3, -0.4, count), 0.0)
    time = (np.arange(samples) / fs_hz)[None]
    mains_hz = acquisition.mains_hz + rng.normal(0, 0.03, count)
    turn = rng.uniform(0, 2 * np.pi, (2, count, 1))
    result = np.zeros((count, samples), dtype=np.float32)
    rows = np.flatnonzero(strength > 0)
    if len(rows):
        swell = 1 + 0.3 * np.sin(2 * np.pi * 0.2 * time + turn[1, rows])
        wave = np.sin(2 * np.pi * mains_hz[rows, None] * time + turn[0, rows])
        result[rows] = strength[rows, None] * swell * wave
    return result


def _jumps(rng: np.random.Generator, x: F32, scale: F64, fs_hz: float) -> None:
    """Seldom a step of the baseline that decays, or a short spike, in place."""
    count, samples = len(x), int(x.shape[1])
    time = np.arange(samples) / fs_hz
    kinds = ((0.04, 0.6, 1.5), (0.04, 0.012, 1.5)) * max(1, round(samples / fs_hz / BLOCK_S))
    for chance, decay_s, strength in kinds:
        rows = np.flatnonzero(rng.random(count) < chance)
        if not len(rows):
            continue
        at = rng.uniform(0, time[-1], len(rows))[:, None]
        size = (strength * rng.normal(0, 1, len(rows)) * scale[rows])[:, None]
        since = time[None] - at
        x[rows] += np.where(since >= 0, size * np.exp(-np.maximum(since, 0) / decay_s), 0.0).astype(
            np.float32
        )
