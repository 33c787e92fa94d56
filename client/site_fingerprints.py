"""The fingerprints of this node's own patients, from its window store: one row a patient.

They stay on this machine: for personal heads and the drift check, which send nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from client.fingerprints import Fingerprinter, having
from client.store import WindowStore
from shared_model.config import CHANNELS, FINGERPRINT_SIZE
from shared_model.heads.manifest import Item

WINDOWS_PER_PATIENT = 60
"""At most, of those with the sensors asked for; evenly, in the order in which they were added."""


@dataclass(frozen=True)
class Patients:
    """mean: float64 (patient, 128), NaN for a patient without a window of those sensors.

    windows: (patient,) that the mean is of. former: some are named by the rule of an earlier
    version (`client.store.WindowStore.former`).
    """

    pseudonyms: tuple[str, ...] = field(repr=False)
    mean: npt.NDArray[np.float64] = field(repr=False)
    windows: npt.NDArray[np.int64] = field(repr=False)
    former: bool = False

    @property
    def known(self) -> npt.NDArray[np.bool_]:
        return np.asarray(self.windows > 0)

    def only(self, keep: Callable[[str], bool]) -> Patients:
        """Of some patients, by pseudonym."""
        rows = [row for row, name in enumerate(self.pseudonyms) if keep(name)]
        names = tuple(self.pseudonyms[row] for row in rows)
        return Patients(names, self.mean[rows], self.windows[rows], self.former)


def seen_with(
    signal: npt.NDArray[np.float32], valid: npt.NDArray[np.bool_], sensors: str
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Windows as these sensors alone see them: those that have them all, the other one absent."""
    has = having(valid, sensors)
    signal, valid = signal[has].copy(), valid[has].copy()
    for place, name in enumerate(CHANNELS):
        if sensors not in ("both", name):
            signal[:, place], valid[:, place] = 0.0, False
    return signal, valid


def some_seen_with(
    signal: npt.NDArray[np.float32], valid: npt.NDArray[np.bool_], sensors: str
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """As `seen_with`, at most WINDOWS_PER_PATIENT of them: chosen among those that have them all,
    so that a sensor worn now and then is not missed between the others' windows."""
    rows = _evenly(np.flatnonzero(having(valid, sensors)))
    return seen_with(signal[rows], valid[rows], sensors)


def of_store(
    store: WindowStore,
    fingerprint: Fingerprinter,
    sensors: str,
    *,
    places: Sequence[int] | None = None,
    on_patient: Callable[[int, int], None] = lambda done, of: None,
) -> Patients:
    """Mean fingerprint of each patient.

    Args:
        sensors: one of `client.fingerprints.SENSORS`. places: indices into the store's pseudonyms;
            all by default.
    """
    chosen = range(store.patient_count) if places is None else places
    mean = np.full((len(chosen), FINGERPRINT_SIZE), np.nan)
    count = np.zeros(len(chosen), dtype=np.int64)
    for row, patient in enumerate(chosen):
        windows = store.windows_of(patient)
        signal, valid = some_seen_with(windows.signal, windows.valid, sensors)
        if len(signal):
            mean[row] = fingerprint(signal, valid).astype(np.float64).mean(axis=0)
            count[row] = len(signal)
        on_patient(row + 1, len(chosen))
    names = tuple(store.pseudonyms[one] for one in chosen)
    return Patients(names, mean, count, store.former)


def of_items(
    store: WindowStore,
    fingerprint: Fingerprinter,
    sensors: str,
    item: Item,
    *,
    on_patient: Callable[[int, int], None] = lambda done, of: None,
) -> Patients:
    """One item of each patient, as a head sees it: the mean of the patient, that of one of his
    recordings, or one window.

    Which one follows from the pseudonym, a keyed digest: as good as drawn at random, the same at
    every call, and it does not change when others come.
    """
    if item == "patient":
        return of_store(store, fingerprint, sensors, on_patient=on_patient)
    mean = np.full((store.patient_count, FINGERPRINT_SIZE), np.nan)
    count = np.zeros(store.patient_count, dtype=np.int64)
    for row, pseudonym in enumerate(store.pseudonyms):
        windows = store.windows_of(row)
        has = np.flatnonzero(having(windows.valid, sensors))
        if len(has):
            lot = int(pseudonym[:12], 16)
            chosen = has[[lot % len(has)]]
            if item == "recording":
                whose = store.recordings_of(row)[has]
                own = np.unique(whose)
                chosen = _evenly(has[whose == own[lot % len(own)]])
            seen = seen_with(windows.signal[chosen], windows.valid[chosen], sensors)
            mean[row] = fingerprint(*seen).astype(np.float64).mean(axis=0)
            count[row] = len(chosen)
        on_patient(row + 1, store.patient_count)
    return Patients(store.pseudonyms, mean, count, store.former)


def patients_having(store: WindowStore, sensors: str) -> frozenset[str]:
    """Pseudonyms of the patients of whom `of_store` has a fingerprint of these sensors."""
    return frozenset(
        name
        for row, name in enumerate(store.pseudonyms)
        if having(store.windows_of(row).valid, sensors).any()
    )


def _evenly(rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """At most WINDOWS_PER_PATIENT of them, evenly spaced."""
    count = min(len(rows), WINDOWS_PER_PATIENT)
    return rows[np.linspace(0, len(rows) - 1, count).round().astype(np.int64)]
