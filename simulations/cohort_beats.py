"""One beat series for both channels: rhythm, variability, ectopy.

Every loop here runs over beats and is vectorised over series, so that compensatory pauses, bigeminy
or Wenckebach periods are written as they are told: beat after beat.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulations.cohort_patients import Patients
from simulations.cohort_sites import F64, I64, RHYTHMS

NORMAL, VENTRICULAR, VENTRICULAR_2, PACED, ATRIAL, DROPPED = range(6)
"""Kinds of beat; DROPPED is a P wave that no QRS follows."""
KINDS = 6
_SHORTEST_S = 0.24
_LONGEST_S = 3.2


@dataclass(frozen=True)
class Beats:
    """Beat series, arrays (series, beat), ordered in time; the last ones lie beyond the end."""

    time_s: F64
    kind: I64
    rhythm: I64
    """Rhythm in force at the beat, an index into RHYTHMS."""
    interval_s: F64
    """Time since the beat before that had a QRS."""
    p_wave: NDArray[np.bool_]
    pr_extra_s: F64
    respiration: F64
    """Phase of respiration at the beat, rad."""


def _is(rhythm: I64, *names: str) -> NDArray[np.bool_]:
    wanted = np.zeros(len(RHYTHMS), dtype=np.bool_)
    wanted[[RHYTHMS.index(name) for name in names]] = True
    return np.asarray(wanted[rhythm])


def draw_beats(rng: np.random.Generator, patients: Patients, length_s: float) -> Beats:
    """Beats from before 0 until beyond `length_s` for every patient (one series each).

    Sinus intervals are modulated by a slow (LF) and a respiratory (HF) oscillation and by noise,
    with the patient's variability. Paroxysmal rhythms come and go as a two-state chain over beats.
    """
    count = len(patients.age)
    beats = int(np.ceil((length_s + 2.5) / _SHORTEST_S)) + 6
    main = patients.rhythm
    base = 60.0 / patients.heart_rate
    n01 = rng.standard_normal((beats, 4, count))
    u01 = rng.random((beats, 6, count))

    # what this heart does in its rhythm
    af_spread = rng.uniform(0.10, 0.34, count)
    af_mean = np.clip(base * rng.uniform(0.7, 1.05, count), 0.36, 1.3)
    coupling = rng.uniform(0.45, 0.82, count)
    interpolated = rng.random(count) < 0.06
    compensation = np.where(rng.random(count) < 0.75, 1.0, rng.uniform(0.4, 1.0, count))
    pac_coupling = rng.uniform(0.5, 0.85, count)
    ectopic_share = np.where(
        _is(main, "pvc", "couplets", "pac"), rng.uniform(0.06, 0.35, count), 0.0
    )
    stray = np.where(rng.random(count) < 0.15, rng.uniform(0.0, 0.05, count), 0.0)
    atrial_bigeminy = _is(main, "pac") & (rng.random(count) < 0.2)
    vt_interval = 60.0 / rng.uniform(105.0, 230.0, count)
    vt_wobble = rng.uniform(0.005, 0.08, count)
    svt_interval = 60.0 / rng.uniform(135.0, 215.0, count)
    flutter_s = 60.0 / rng.uniform(220.0, 340.0, count)
    flutter_ratio = rng.choice([2.0, 3.0, 4.0], count, p=[0.55, 0.15, 0.30])
    flutter_varies = rng.random(count) < 0.45
    paced_interval = 60.0 / np.where(
        rng.random(count) < 0.8, rng.uniform(58, 92, count), rng.uniform(92, 125, count)
    )
    junction_interval = 60.0 / rng.uniform(36.0, 75.0, count)
    block_cycle = rng.integers(2, 7, count)
    wenckebach = rng.random(count) < 0.6
    second_focus = rng.random(count) < 0.3
    # chance a beat of entering and leaving the rhythm; permanent rhythms never leave
    lasting = _is(main, "sinus", "paced", "junctional", "bigeminy", "trigeminy", "pvc", "pac",
                  "couplets", "av_block", "pause")  # fmt: skip
    lasting |= _is(main, "af", "flutter") & (rng.random(count) < 0.8)
    enter = np.where(lasting, 1.0, rng.uniform(0.03, 0.25, count))
    leave = np.where(lasting, 0.0, 10 ** rng.uniform(-2.2, -0.5, count))
    inside = rng.random(count) < np.where(lasting, 1.0, 0.7)

    # sinus variability: two oscillations and slow noise
    lf_hz = rng.uniform(0.05, 0.14, count)
    lf_phase, hf_phase = rng.uniform(0, 2 * np.pi, (2, count))
    lf = patients.sdnn * np.sqrt(2 * patients.lf_share) * 0.85
    hf = patients.sdnn * np.sqrt(2 * (1 - patients.lf_share)) * 0.85
    slope = rng.normal(0, 0.004, count) * np.where(rng.random(count) < 0.3, 3.0, 1.0)

    time = -2.2 + rng.random(count) * base
    wander = np.zeros(count)
    phase_noise = np.zeros(count)
    pause = np.zeros(count)
    since_v = np.full(count, 9)
    since_drop = rng.integers(0, 6, count)
    carried = np.zeros(count)
    in_run = np.zeros(count)
    previous = np.zeros(count, dtype=np.int64)
    columns: list[tuple[NDArray[Any], ...]] = []
    sinus = RHYTHMS.index("sinus")
    for k in range(beats):
        g, u = n01[k], u01[k]
        inside = np.where(inside, u[0] >= leave, u[0] < enter)
        rhythm = np.where(inside, main, sinus)
        wander = 0.8 * wander + 0.6 * g[0]
        breath = 2 * np.pi * patients.respiration_hz * time + hf_phase + phase_noise
        phase_noise = phase_noise + 0.05 * g[3]
        modulation = 1 + lf * np.sin(2 * np.pi * lf_hz * time + lf_phase) + hf * np.sin(breath)
        modulation = modulation + patients.sdnn * 0.5 * wander + slope * (time - 0.5 * length_s)
        beat = base * np.clip(modulation, 0.6, 1.6)

        af = _is(rhythm, "af")
        beat = np.where(af, af_mean * np.exp(af_spread * g[1] - 0.5 * af_spread**2), beat)
        flutter = _is(rhythm, "flutter")
        ratio = np.where(flutter_varies, np.floor(2 + 3 * u[1]), flutter_ratio)
        beat = np.where(flutter, flutter_s * ratio * (1 + 0.006 * g[1]), beat)
        svt = _is(rhythm, "svt")
        beat = np.where(svt, svt_interval * (1 + 0.01 * g[1]), beat)
        paced = _is(rhythm, "paced")
        beat = np.where(paced, paced_interval, beat)
        junctional = _is(rhythm, "junctional")
        beat = np.where(junctional, junction_interval * (1 + 0.015 * g[1]), beat)
        beat = np.where(_is(rhythm, "pause") & (u[2] < 0.12), beat * (1.8 + 2.0 * u[3]), beat)

        run = _is(rhythm, "vt")
        was_v = (previous == VENTRICULAR) | (previous == VENTRICULAR_2)
        isolated = (u[2] < ectopic_share) & _is(rhythm, "pvc") & ~was_v
        isolated |= (u[2] < stray) & ~was_v & ~_is(rhythm, "paced", "svt", "pac")
        bigeminy = _is(rhythm, "bigeminy") & ~was_v & (u[3] > 0.03)
        trigeminy = _is(rhythm, "trigeminy") & (since_v >= 2) & (u[3] > 0.03)
        couplet = _is(rhythm, "couplets") & (
            (~was_v & (u[2] < ectopic_share)) | ((since_v == 0) & (in_run == 1) & (u[3] < 0.85))
        )
        premature = isolated | bigeminy | trigeminy | couplet
        ventricular = premature | run
        atrial = _is(rhythm, "pac") & (
            (u[2] < ectopic_share) | (atrial_bigeminy & (previous != ATRIAL))
        )
        dropped = _is(rhythm, "av_block") & (since_drop >= block_cycle)

        early = np.clip(coupling * (1 + 0.025 * g[2]), 0.35, 0.95) * np.minimum(beat, 1.1)
        interval = np.where(premature, early, beat + pause)
        interval = np.where(run, vt_interval * (1 + vt_wobble * g[2]), interval)
        interval = np.where(atrial, pac_coupling * beat * (1 + 0.03 * g[2]), interval)
        interval = np.clip(interval, _SHORTEST_S, _LONGEST_S)
        owed = np.where(interpolated, -0.5 * interval, compensation * (beat - early))
        pause = np.where(premature & ~af, np.maximum(owed, -0.5 * beat), 0.0)
        pause = np.where(run & (u[4] < 0.5), 0.25 * base, pause)
        time = time + interval
        in_run = np.where(ventricular, in_run + 1, 0.0)
        since_v = np.where(ventricular, 0, since_v + 1)

        kind = np.where(paced, PACED, NORMAL)
        kind = np.where(ventricular, np.where(second_focus & (u[5] < 0.4), 2, 1), kind)
        kind = np.where(atrial, ATRIAL, kind)
        kind = np.where(dropped, DROPPED, kind)
        p_wave = ~(af | flutter | svt | junctional | ventricular)
        p_wave &= ~(paced & (u[5] < 0.5))
        longer = np.where(_is(rhythm, "av_block") & wenckebach, 0.045 * since_drop, 0.0)
        since_drop = np.where(dropped, 0, since_drop + 1)
        columns.append((time, kind, rhythm, interval + carried, p_wave, longer, breath))
        carried = np.where(dropped, interval + carried, 0.0)
        previous = np.where(dropped, previous, kind)
    parts = [np.stack(part, axis=1) for part in zip(*columns, strict=True)]
    return Beats(*parts)


def beat_labels(beats: Beats, start_s: float, end_s: float) -> dict[str, NDArray[Any]]:
    """What the beats of [start_s, end_s) say, one number a series; NaN with fewer than 3 beats.

    Keys: hr_bpm (mean over the intervals), sdnn_ms, rmssd_ms, pnn50 (0 ... 1), rr_spread (SDNN
    over the mean), ectopic_count, beat_count, rhythm (index of the one with most beats; any with
    three beats goes before sinus).
    """
    held = (beats.time_s >= start_s) & (beats.time_s < end_s) & (beats.kind != DROPPED)
    count = held.sum(axis=1)
    # an interval belongs to the window when both its beats do
    first = np.argmax(held, axis=1)
    inner = held.copy()
    inner[np.arange(len(first)), first] = False
    interval = np.where(inner, beats.interval_s, 0.0)
    intervals = np.maximum(inner.sum(axis=1), 1)
    mean = interval.sum(axis=1) / intervals
    deviation = np.where(inner, beats.interval_s - mean[:, None], 0.0)
    sdnn = np.sqrt((deviation**2).sum(axis=1) / intervals)
    packed, filled = _pack(beats.interval_s, inner)
    step = np.diff(packed, axis=1)
    both = filled[:, 1:] & filled[:, :-1]
    steps = np.maximum(both.sum(axis=1), 1)
    rmssd = np.sqrt((np.where(both, step, 0.0) ** 2).sum(axis=1) / steps)
    pnn50 = (both & (np.abs(step) > 0.05)).sum(axis=1) / steps
    few = count < 3
    ectopic = held & np.isin(beats.kind, (VENTRICULAR, VENTRICULAR_2, ATRIAL))
    votes = np.stack(
        [(held & (beats.rhythm == r)).sum(axis=1) for r in range(len(RHYTHMS))], axis=1
    )
    votes[:, 0] = np.where(votes[:, 1:].max(axis=1) >= 3, 0, votes[:, 0])
    return {
        "hr_bpm": np.where(few, np.nan, 60.0 / np.maximum(mean, 1e-3)),
        "sdnn_ms": np.where(few, np.nan, 1000 * sdnn),
        "rmssd_ms": np.where(few, np.nan, 1000 * rmssd),
        "pnn50": np.where(few, np.nan, pnn50),
        "rr_spread": np.where(few, np.nan, sdnn / np.maximum(mean, 1e-3)),
        "ectopic_count": ectopic.sum(axis=1),
        "beat_count": count,
        "rhythm": votes.argmax(axis=1),
    }


def _pack(values: F64, keep: NDArray[np.bool_]) -> tuple[F64, NDArray[np.bool_]]:
    """Kept values moved to the left of each row, in order."""
    order = np.argsort(~keep, axis=1, kind="stable")
    return np.take_along_axis(values, order, axis=1), np.take_along_axis(keep, order, axis=1)
