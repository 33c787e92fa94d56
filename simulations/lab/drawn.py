"""Patients out of a formula: pretend patients of the cohort simulator, and noisy sines.

They are drawn in chunks of fixed size, each with a generator keyed by seed, site and place: the
same patients for any number of processes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from shared_model.config import FS_HZ, TOKENS, WINDOW_SAMPLES
from shared_model.errors import OurMistake
from simulations.cohort_sites import SiteEffects
from simulations.lab import effects
from simulations.lab.effects import PlacedEffect
from simulations.lab.keyed import generator

NUMBERS = ("hr_bpm", "sdnn_ms", "age", "sbp", "dbp", "stiffness")
"""Labels of pretend patients that are numbers; rates and variability are means of their windows."""
RATES_BPM = (45.0, 140.0)
"""Waves have frequencies of hearts."""
POOL = "pool"
"""Stands for the site of patients who are shared out later."""
_CHUNK_WINDOWS = {"simulated": 256, "waves": 2048}
_MOST_TRIES = 20


@dataclass(frozen=True)
class Patients:
    """Some patients, in a row.

    signal: float16 (window, 2, 1250). valid: bool (window, 2, 50). windows: of each patient.
    labels: one value a patient.
    """

    signal: npt.NDArray[np.float16] = field(repr=False)
    valid: npt.NDArray[np.bool_] = field(repr=False)
    windows: npt.NDArray[np.int64]
    labels: Mapping[str, npt.NDArray[Any]] = field(repr=False)

    def __len__(self) -> int:
        return len(self.windows)


@dataclass(frozen=True)
class Chunk:
    """An order for patients `first` ... `first + patients - 1` of a site.

    hospital: devices and case mix of the simulator; None: the wide mix, a device each.
    """

    source: Literal["simulated", "waves"]
    site: str
    hospital: SiteEffects | None
    first: int
    patients: int
    windows: int
    seed: int
    effects: tuple[PlacedEffect, ...] = ()


def chunks(whole: Chunk) -> Iterator[Chunk]:
    """The same patients in chunks; their size follows from the windows of a patient alone."""
    size = max(1, min(256, _CHUNK_WINDOWS[whole.source] // whole.windows))
    for first in range(whole.first, whole.first + whole.patients, size):
        left = whole.first + whole.patients - first
        yield replace(whole, first=first, patients=min(size, left))


def draw(chunk: Chunk) -> Patients:
    """The chunk's patients, after the effects of their site."""
    rng = generator("patients", chunk.source, chunk.seed, chunk.site, chunk.first)
    if chunk.source == "waves":
        signal, valid, labels = _waves(rng, chunk)
        windows = np.full(chunk.patients, chunk.windows, dtype=np.int64)
    else:
        signal, valid, windows, labels = _simulated(rng, chunk)
    if chunk.effects:
        number = chunk.first + np.repeat(np.arange(chunk.patients), windows)
        key = (chunk.seed, chunk.site)
        signal, valid = effects.apply(chunk.effects, signal, valid, number, key)
    return Patients(signal.astype("<f2"), valid, windows, labels)


_Signal = npt.NDArray[np.float32]
_Valid = npt.NDArray[np.bool_]
_Labels = dict[str, npt.NDArray[Any]]


def _simulated(
    rng: np.random.Generator, chunk: Chunk
) -> tuple[_Signal, _Valid, npt.NDArray[np.int64], _Labels]:
    """Windows that a hospital's store would hold: those of which the gate accepted a channel.

    A patient without any is none of a store's; another is drawn in the place.
    """
    from simulations.cohort import draw_windows

    shape = (chunk.patients, chunk.windows)
    signal, valid, drawn = draw_windows(
        rng, shape[0] * shape[1], effects=chunk.hospital, windows_per_patient=chunk.windows
    )
    signal = signal.reshape(*shape, *signal.shape[1:])
    valid = valid.reshape(*shape, *valid.shape[1:])
    labels = {name: np.array(values).reshape(shape) for name, values in drawn.items()}
    for _ in range(_MOST_TRIES):
        empty = np.flatnonzero(~valid.any(axis=(1, 2, 3)))
        if not len(empty):
            break
        more = draw_windows(
            rng, len(empty) * shape[1], effects=chunk.hospital, windows_per_patient=chunk.windows
        )
        signal[empty] = more[0].reshape(len(empty), *signal.shape[1:])
        valid[empty] = more[1].reshape(len(empty), *valid.shape[1:])
        for name, values in more[2].items():
            labels[name][empty] = values.reshape(len(empty), shape[1])
    else:
        raise OurMistake("The simulator draws nothing that the quality gate accepts.")
    usable = valid.any(axis=(2, 3))  # (patient, window)
    windows = usable.sum(axis=1).astype(np.int64)
    return signal[usable], valid[usable], windows, _labels(labels)


def _labels(drawn: Mapping[str, npt.NDArray[Any]]) -> _Labels:
    """One value a patient from values (patient, window)."""
    from simulations.cohort_patients import BLOCKS, HYPERTENSION
    from simulations.cohort_sites import RHYTHMS

    made: _Labels = {}
    for name in NUMBERS:
        values = drawn[name].astype(np.float64)
        known = np.isfinite(values)
        total = np.where(known, values, 0.0).sum(axis=1)
        made[name] = np.where(known.any(axis=1), total / np.maximum(known.sum(axis=1), 1), np.nan)
    votes = np.stack(
        [(drawn["rhythm"] == index).sum(axis=1) for index in range(len(RHYTHMS))], axis=1
    )
    # as in the windows themselves: any other rhythm goes before sinus
    votes[:, 0] = np.where(votes[:, 1:].any(axis=1), 0, votes[:, 0])
    made["rhythm"] = np.array(RHYTHMS)[votes.argmax(axis=1)]
    made["sex"] = np.where(drawn["male"][:, 0], "M", "F")
    made["hypertension"] = np.array(HYPERTENSION)[drawn["hypertension"][:, 0].astype(np.int64)]
    made["block"] = np.array(BLOCKS)[drawn["block"][:, 0].astype(np.int64)]
    made["lvh"] = np.where(drawn["lvh"][:, 0], "yes", "no")
    return made


def _waves(rng: np.random.Generator, chunk: Chunk) -> tuple[_Signal, _Valid, _Labels]:
    """A sine of each patient's own frequency with noise; those of one site lie close together."""
    low, high = RATES_BPM
    if chunk.site == POOL:
        rate = rng.uniform(low, high, chunk.patients)
    else:
        centre = generator("waves", chunk.seed, chunk.site).uniform(low + 15.0, high - 15.0)
        rate = np.clip(rng.normal(centre, 15.0, chunk.patients), low, high)
    count = chunk.patients * chunk.windows
    hz = np.repeat(rate, chunk.windows).astype(np.float32) / 60.0
    phase = rng.random((count, 1), dtype=np.float32)
    time_s = np.arange(WINDOW_SAMPLES, dtype=np.float32) / np.float32(FS_HZ)
    turns = hz[:, None] * time_s + phase  # (window, sample)
    signal = np.empty((count, 2, WINDOW_SAMPLES), dtype=np.float32)
    for index, (overtone, lag) in enumerate(((3.0, 0.0), (1.0, 0.2))):
        angle = np.float32(2 * np.pi) * np.float32(overtone) * (turns - np.float32(lag))
        signal[:, index] = np.sin(angle)
    signal += 0.5 * rng.standard_normal(signal.shape, dtype=np.float32)
    signal -= signal.mean(axis=2, keepdims=True)
    signal /= signal.std(axis=2, keepdims=True)
    limits = np.quantile(np.asarray(RATES_BPM), [1 / 3, 2 / 3])
    rhythm = np.array(["slow", "middle", "fast"])[np.digitize(rate, limits)]
    return signal, np.ones((count, 2, TOKENS), dtype=np.bool_), {"hr_bpm": rate, "rhythm": rhythm}
