"""The quality gate: why a window of a channel was refused. It must keep the sick.

Rules look at what a broken recording looks like (nothing there, constant, stuck at a rail, no
heart-band energy), never at whether beats are even or alike: such scores find arrhythmia, not noise.
All thresholds are fixed and apply to one window of one channel. Retention by rhythm is printed by
`fedprint-lab gate`; run it with every change.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

REASONS = (
    "accepted",
    "absent",
    "too short",
    "missing",
    "flat",
    "saturated",
    "clipped",
    "lead off",
    "noise",
    "no pulse",
    "rates disagree",
)
"""Index is the code in `Windows.refusal`; the order is part of the store's format."""
(
    ACCEPTED, ABSENT, TOO_SHORT, MISSING, FLAT, SATURATED, CLIPPED, LEAD_OFF, NOISE, NO_PULSE,
    RATES_DISAGREE,
) = range(len(REASONS))  # fmt: skip

MIN_RECORDED_S = 2.0
"""Less recorded signal than this cannot show one whole heart beat at 30 bpm."""
MIN_RECORDED_SHARE = 0.5
"""Of a full window inside a longer recording."""


def judge(name: str, raw: npt.NDArray[np.float64], fs_hz: float, plain: npt.NDArray[np.float32], filtered: npt.NDArray[np.float32], recorded: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    return np.zeros(len(raw), np.uint8)

def compare_rates(signal: npt.NDArray[np.float32], refusal: npt.NDArray[np.uint8]) -> None:
    return None

def upside_down(name: str, signal: npt.NDArray[np.float32], refusal: npt.NDArray[np.uint8]) -> bool:
    return False
