"""Pretend patients with paired ECG and PPG from one beat series: the cohort simulator.

Nothing here is a recording of anybody. It serves as warm start (`draw_windows`), as pretend
hospitals (`draw_cohort`, `write_site`) and in tests.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared_model.config import FS_HZ, TOKENS, WINDOW_S, WINDOW_SAMPLES
from shared_model.errors import OurMistake
from shared_model.windows import make_windows
from simulations.cohort_beats import beat_labels
from simulations.cohort_hospital import Cohort, draw_cohort
from simulations.cohort_series import Hearts, draw_hearts, draw_series
from simulations.cohort_sites import F32, RHYTHMS, SiteEffects, pretend_sites
from simulations.cohort_write import write_site

__all__ = [
    "RHYTHMS",
    "Cohort",
    "SiteEffects",
    "draw_cohort",
    "draw_windows",
    "pretend_sites",
    "write_site",
]

_MARGIN = 175
"""Samples drawn before and after a window, so that filters have seen something."""
_BATCH = 128
SHORT_S = 2.1
"""Length of a short recording (as in the clinic that records 2.1 s of PPG)."""


def draw_windows(
    rng: np.random.Generator,
    count: int,
    *,
    effects: SiteEffects | None = None,
    paired: bool = True,
    single_share: float = 0.0,
    short_share: float = 0.0,
    windows_per_patient: int = 1,
) -> tuple[F32, NDArray[np.bool_], dict[str, NDArray[Any]]]:
    """Preprocessed windows of pretend patients, exactly as `make_windows` would make them.

    Args:
        rng: same seed, same bytes.
        count: windows, a multiple of `windows_per_patient`.
        effects: devices and case mix of one site; None draws new devices for every patient.
        paired: False drops one channel of every window, ECG or PPG at random.
        single_share: share of windows that lose one channel all the same.
        short_share: share of windows that are `SHORT_S` long (the rest invalid).
        windows_per_patient: windows in a row of one patient: same traits, device and morphology,
            fresh beats.

    Returns:
        signal float32 (window, channel=2, sample=1250) at 125 Hz, z-scored; valid bool (window,
        channel=2, token=50); labels, arrays of `count`: patient (index), age, male, sbp, dbp,
        hypertension (0 ... 3), rhythm (index into RHYTHMS), block (0 ... 2), lvh, hr_bpm, sdnn_ms,
        rmssd_ms, pnn50, rr_spread, ectopic_count, beat_count, pat_s, respiration_hz, stiffness,
        reflected and diastolic (heights over the systolic wave's), diastolic_delay_s, noise_ecg and
        noise_ppg (log10 of the noise's power over the clean signal's, in the band that windows
        keep, over the 12.8 s drawn around a window of any length). NaN where a window cannot have
        it (heart rate of two beats, noise of an absent sensor).

    Raises:
        OurMistake: count not a positive multiple of windows_per_patient, shares outside 0 ... 1.
    """
    if count < 1 or windows_per_patient < 1 or count % windows_per_patient:
        raise OurMistake("count must be a positive multiple of windows_per_patient.")
    if not (0 <= single_share <= 1 and 0 <= short_share <= 1):
        raise OurMistake("Shares must be in 0 ... 1.")
    people = count // windows_per_patient
    hearts = draw_hearts(rng, people, effects)
    index = np.repeat(np.arange(people), windows_per_patient)
    single_share = single_share if paired else 1.0
    parts = [
        _window_batch(rng, hearts.take(index[i : i + _BATCH]), single_share, short_share)
        for i in range(0, count, _BATCH)
    ]
    signal = np.concatenate([part[0] for part in parts])
    valid = np.concatenate([part[1] for part in parts])
    labels = {name: np.concatenate([part[2][name] for part in parts]) for name in parts[0][2]}
    return signal, valid, {"patient": index, **labels}


def _window_batch(
    rng: np.random.Generator, hearts: Hearts, single_share: float, short_share: float
) -> tuple[F32, NDArray[np.bool_], dict[str, NDArray[Any]]]:
    patients, count = hearts.patients, len(hearts.patients.age)
    samples = WINDOW_SAMPLES + 2 * _MARGIN
    series = draw_series(
        rng,
        hearts,
        fs_hz=(FS_HZ, FS_HZ),
        start_s=-_MARGIN / FS_HZ,
        samples=(samples, samples),
    )
    ecg, ppg = series.ecg.astype(np.float64), series.ppg.astype(np.float64)
    length = np.where(rng.random(count) < short_share, int(SHORT_S * FS_HZ), WINDOW_SAMPLES)
    alone = (length < WINDOW_SAMPLES) | np.isnan(ecg).any(axis=1) | np.isnan(ppg).any(axis=1)
    signal = np.zeros((count, 2, WINDOW_SAMPLES), dtype=np.float32)
    valid = np.zeros((count, 2, TOKENS), dtype=np.bool_)
    # one long pretend recording: every second 10-s window is ours, joined by smooth bridges
    if not alone.all():
        made = make_windows(_chain(ecg[~alone]), FS_HZ, _chain(ppg[~alone]), FS_HZ)
        signal[~alone], valid[~alone] = made.signal[1::2], made.valid[1::2]
    for row in np.flatnonzero(alone):
        cut = slice(_MARGIN, _MARGIN + int(length[row]))
        one = make_windows(ecg[row, cut], FS_HZ, ppg[row, cut], FS_HZ)
        signal[row], valid[row] = one.signal[0], one.valid[0]
    for row in np.flatnonzero(rng.random(count) < single_share):
        channel = int(rng.integers(0, 2))
        signal[row, channel], valid[row, channel] = 0.0, False
    beats = beat_labels(series.beats, 0.0, WINDOW_S)
    labels: dict[str, NDArray[Any]] = {
        "age": patients.age,
        "male": patients.male,
        "sbp": patients.sbp,
        "dbp": patients.dbp,
        "hypertension": patients.hypertension,
        "block": patients.block,
        "lvh": patients.lvh,
        "stiffness": patients.stiffness,
        "respiration_hz": patients.respiration_hz,
        "pat_s": series.pulses.arrival_s.mean(axis=1),
        "reflected": hearts.pulse_shape.reflected,
        "diastolic": hearts.pulse_shape.diastolic,
        "diastolic_delay_s": hearts.pulse_shape.diastolic_delay_s,
        "noise_ecg": np.where(valid[:, 0].any(axis=1), series.noise_ecg, np.nan),
        "noise_ppg": np.where(valid[:, 1].any(axis=1), series.noise_ppg, np.nan),
        **beats,
    }
    return signal, valid, labels


def _chain(signal: NDArray[np.float64]) -> NDArray[np.float64]:
    """(window, margin + 1250 + margin) -> one row; the window at every odd 10-s slot.

    The empty slot between two windows holds their margins and a half-cosine from one to the other.
    """
    count = len(signal)
    chained = np.zeros((count, 2 * WINDOW_SAMPLES))
    chained[:, WINDOW_SAMPLES - _MARGIN :] = signal[:, : _MARGIN + WINDOW_SAMPLES]
    chained[1:, :_MARGIN] = signal[:-1, _MARGIN + WINDOW_SAMPLES :]
    gap = WINDOW_SAMPLES - 2 * _MARGIN
    left = np.nan_to_num(np.concatenate([[0.0], signal[:-1, -1]]))[:, None]
    right = np.nan_to_num(signal[:, 0])[:, None]
    fade = 0.5 - 0.5 * np.cos(np.pi * (np.arange(gap) + 0.5) / gap)[None]
    chained[:, _MARGIN : _MARGIN + gap] = left + (right - left) * fade
    return chained.reshape(-1)
