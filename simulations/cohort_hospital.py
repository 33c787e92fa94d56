"""Pretend hospitals: patients with labels and raw recordings at the site's sampling rates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared_model.config import WINDOW_S
from shared_model.errors import OurMistake
from simulations.cohort_beats import Beats, beat_labels
from simulations.cohort_patients import labels_of
from simulations.cohort_series import draw_hearts, draw_series
from simulations.cohort_sites import F32, LEADS, RHYTHMS, SiteEffects

_CHUNK_SAMPLES = 300_000


@dataclass(frozen=True)
class Cohort:
    """Recordings of one pretend hospital; row r of every array is recording r.

    ecg, ppg: (recording, sample) at `effects.fs_ecg_hz` and `fs_ppg_hz`, NaN where missing.
    patient: index of the recording's patient into `patient_ids`.
    leads: ECG lead of each recording.
    patient_labels: one array a column, one entry a patient; `recording_labels` one a recording.
    beats: times in s from the start of the recording.
    """

    effects: SiteEffects
    patient_ids: tuple[str, ...]
    patient: NDArray[np.int64]
    leads: tuple[str, ...]
    ecg: F32 = field(repr=False)
    ppg: F32 = field(repr=False)
    patient_labels: Mapping[str, NDArray[Any]] = field(repr=False)
    recording_labels: Mapping[str, NDArray[Any]] = field(repr=False)
    beats: Beats = field(repr=False)

    def __len__(self) -> int:
        return len(self.ecg)

    @property
    def duration_s(self) -> float:
        """Length of each recording."""
        return int(self.ecg.shape[1]) / self.effects.fs_ecg_hz


def draw_cohort(
    rng: np.random.Generator,
    patients: int,
    windows_per_patient: int,
    effects: SiteEffects,
    *,
    recordings_per_patient: int = 1,
    first_patient: int = 1,
    on_patients: Callable[[int], None] | None = None,
) -> Cohort:
    """`patients` pretend patients of one site, `windows_per_patient` x 10 s of signal each.

    Args:
        rng: same seed, same bytes.
        recordings_per_patient: the signal is split into so many recordings of equal length.
        first_patient: number of the first patient; ids are `sim-0001` and so on.
        on_patients: called with the number of patients done.

    Raises:
        OurMistake: fewer than one patient, window or recording, or windows that cannot be split so.
    """
    if min(patients, windows_per_patient, recordings_per_patient) < 1:
        raise OurMistake("patients, windows and recordings must be at least 1.")
    if windows_per_patient % recordings_per_patient:
        raise OurMistake("windows_per_patient must be a multiple of recordings_per_patient.")
    length_s = WINDOW_S * windows_per_patient / recordings_per_patient
    fs_hz = (effects.fs_ecg_hz, effects.fs_ppg_hz)
    samples = (round(length_s * fs_hz[0]), round(length_s * fs_hz[1]))
    hearts = draw_hearts(rng, patients, effects)
    patient = np.repeat(np.arange(patients), recordings_per_patient)
    size = max(1, _CHUNK_SAMPLES // max(samples) // recordings_per_patient) * recordings_per_patient
    ecg = np.empty((len(patient), samples[0]), dtype=np.float32)
    ppg = np.empty((len(patient), samples[1]), dtype=np.float32)
    parts: list[tuple[Beats, dict[str, NDArray[Any]]]] = []
    for start in range(0, len(patient), size):
        rows = slice(start, start + size)
        series = draw_series(
            rng, hearts.take(patient[rows]), fs_hz=fs_hz, start_s=0.0, samples=samples
        )
        ecg[rows] = series.ecg * np.float32(effects.ecg_gain)
        ppg[rows] = series.ppg * np.float32(effects.ppg_gain)
        parts.append((series.beats, beat_labels(series.beats, 0.0, length_s)))
        if on_patients:
            on_patients(min(start + size, len(patient)) // recordings_per_patient)
    beats = parts[0][0]
    if len(parts) > 1:
        everything = {
            name: np.concatenate([getattr(part[0], name) for part in parts]) for name in vars(beats)
        }
        beats = Beats(**everything)
    labels = {name: np.concatenate([part[1][name] for part in parts]) for name in parts[0][1]}
    return Cohort(
        effects=effects,
        patient_ids=tuple(f"sim-{first_patient + i:04d}" for i in range(patients)),
        patient=patient,
        leads=tuple(LEADS[lead] for lead in hearts.acquisition.lead[patient]),
        ecg=ecg,
        ppg=ppg,
        patient_labels=labels_of(hearts.patients),
        recording_labels={
            "hr": np.round(labels["hr_bpm"], 1),
            "sdnn_ms": np.round(labels["sdnn_ms"], 1),
            "ectopic_beats": labels["ectopic_count"],
            "rhythm_recorded": np.array(RHYTHMS)[labels["rhythm"]],
        },
        beats=beats,
    )
