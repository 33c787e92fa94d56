"""Windows of patients that took no part in training."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from client.ingest import prepare_recording
from client.records import Recording, read_folder
from simulations.site_mapping import mapping_of


def held_out_windows(folder: Path, most: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Usable windows with both sensors, evenly from all recordings of a folder.

    Returns:
        signal (window, 2, 1250), valid (window, 2, 50), number of patients.
    """
    recordings = [
        item for item in read_folder(folder, mapping_of(folder)) if isinstance(item, Recording)
    ]
    each = max(1, most // max(1, len(recordings)))
    signal, valid, patients = [], [], set()
    for recording in recordings:
        windows = prepare_recording(recording).windows()
        both = np.flatnonzero(windows.valid[:, 0].any(axis=1) & windows.valid[:, 1].any(axis=1))
        chosen = both[:: max(1, len(both) // each)][:each]
        if len(chosen):
            signal.append(windows.signal[chosen])
            valid.append(windows.valid[chosen])
            patients.add(recording.patient)
    return np.concatenate(signal), np.concatenate(valid), len(patients)
