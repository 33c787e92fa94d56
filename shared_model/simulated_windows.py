"""Packaged windows of SIMULATED patients: a reference that is public and the same everywhere.

Made by `fedprint-lab simulated-windows`; no patient's data. What the simulator makes is not what
any hospital records: a distance from it is a number to watch, not a finding.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.resources import files

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load, save

from shared_model.config import CHANNELS, TOKENS, WINDOW_SAMPLES
from shared_model.errors import OurMistake

NAME = "simulated_windows.safetensors"
STEP = 1.0 / 16.0
"""Of the int8 samples, in standard deviations of the window: 7.9 at most."""


@dataclass(frozen=True)
class SimulatedWindows:
    """signal float32 (patient, window, 2, 1250), valid bool (patient, window, 2, 50)."""

    signal: npt.NDArray[np.float32] = field(repr=False)
    valid: npt.NDArray[np.bool_] = field(repr=False)


def packed(signal: npt.NDArray[np.float32], valid: npt.NDArray[np.bool_]) -> bytes:
    """As the file holds them; samples beyond +-127 steps are cut off."""
    steps = np.clip(np.rint(signal / STEP), -127, 127).astype(np.int8)
    return bytes(save({"signal": steps, "valid": valid.astype(np.uint8)}))


def read(data: bytes) -> SimulatedWindows:
    """What `packed` made.

    Raises:
        OurMistake: it is not.
    """
    try:
        arrays = load(data)
        signal, valid = arrays["signal"], arrays["valid"]
    except Exception as error:
        raise OurMistake("These are no packed windows.") from error
    shape = signal.shape[:2]
    if (
        signal.dtype != np.int8
        or valid.dtype != np.uint8
        or signal.shape != (*shape, len(CHANNELS), WINDOW_SAMPLES)
        or valid.shape != (*shape, len(CHANNELS), TOKENS)
    ):
        raise OurMistake("Packed windows have another shape.")
    return SimulatedWindows(signal.astype(np.float32) * np.float32(STEP), valid != 0)


def packaged() -> SimulatedWindows:
    """Those of this package.

    Raises:
        OurMistake: the package has none.
    """
    try:
        data = (files("shared_model") / "data" / NAME).read_bytes()
    except OSError as error:
        raise OurMistake(
            "No simulated windows are packaged.", do="Install fedprint again."
        ) from error
    return read(data)
