"""The fingerprints of this node's own patients, from its window store: one row a patient.

They stay on this machine: for personal heads and the drift check, which send nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from client.fingerprints import Fingerprinter
from client.store import WindowStore
from shared_model.config import CHANNELS

WINDOWS_PER_PATIENT = 60
"""At most, evenly over the patient's windows in the order in which they were added."""
SENSORS = ("both", *CHANNELS)


@dataclass(frozen=True)
class Patients:
    """mean: float64 (patient, 128), NaN for a patient without a window of those sensors.

    windows: (patient,) that the mean is of.
    """

    pseudonyms: tuple[str, ...] = field(repr=False)
    mean: npt.NDArray[np.float64] = field(repr=False)
    windows: npt.NDArray[np.int64] = field(repr=False)

    @property
    def known(self) -> npt.NDArray[np.bool_]:
        return np.asarray(self.windows > 0)


def seen_with(
    signal: npt.NDArray[np.float32], valid: npt.NDArray[np.bool_], sensors: str
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Windows as these sensors alone see them: those that have them all, the other one absent."""
    wanted = [place for place, name in enumerate(CHANNELS) if sensors in ("both", name)]
    here = np.asarray(valid.any(axis=2))  # (window, channel)
    has = here[:, wanted].all(axis=1)
    signal, valid = signal[has].copy(), valid[has].copy()
    for place in range(len(CHANNELS)):
        if place not in wanted:
            signal[:, place], valid[:, place] = 0.0, False
    return signal, valid


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
        sensors: one of `SENSORS`. places: indices into the store's pseudonyms; all by default.
    """
    chosen = range(store.patient_count) if places is None else places
    mean = np.full((len(chosen), 128), np.nan)
    count = np.zeros(len(chosen), dtype=np.int64)
    for row, patient in enumerate(chosen):
        signal, valid = some_windows(store, patient)
        signal, valid = seen_with(signal, valid, sensors)
        if len(signal):
            mean[row] = fingerprint(signal, valid).astype(np.float64).mean(axis=0)
            count[row] = len(signal)
        on_patient(row + 1, len(chosen))
    return Patients(tuple(store.pseudonyms[one] for one in chosen), mean, count)


def some_windows(
    store: WindowStore, patient: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Signal and valid of at most WINDOWS_PER_PATIENT windows, evenly spaced."""
    windows = store.windows_of(patient)
    count = min(len(windows), WINDOWS_PER_PATIENT)
    rows = np.linspace(0, len(windows) - 1, count).round().astype(np.int64)
    return windows.signal[rows], windows.valid[rows]
