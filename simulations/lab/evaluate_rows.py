"""The words and columns of probes.parquet."""

from __future__ import annotations

import math
from typing import Any

from simulations.lab.evaluate_probes import Measured
from simulations.probes.evaluate import interval

Row = dict[str, Any]

FEDERATED = "federated"
RANDOM_INIT = "random-init"
MEDIAN = "always the median"

UNIT_LOSS = "unit loss"
LOSSES = {
    UNIT_LOSS: "unit_loss",
    "masked reconstruction": "masked",
    "cross-modal reconstruction": "cross_modal",
}
"""Task -> field of `evaluate_signals.Pass`."""
DRAWN = {"ECG from PPG": ("ppg", 0), "PPG from ECG": ("ecg", 1)}
"""Task -> the sensor that is seen, the channel that is drawn."""
BACKDOOR = "backdoor"


def row_of(
    round: int, task: str, sensors: str, site: str, model: str, kind: str, measured: Measured
) -> Row:
    """One row, without gain and epsilon."""
    estimate = interval(measured.value, measured.draws)
    return {
        "round": round,
        "task": task,
        "sensors": sensors,
        "site": site,
        "model": model,
        "kind": kind,
        "value": _finite(estimate.value),
        "low": _finite(estimate.low),
        "high": _finite(estimate.high),
        "gain": None,
        "gain_low": None,
        "gain_high": None,
        "patients": measured.patients,
        "epsilon": None,
    }


def gain_of(kind: str, ours: Measured, base: Measured | None) -> Row:
    """Paired difference to random-init; positive is better. Nothing if the patients differ."""
    if base is None or base.patients != ours.patients:
        return {}
    sign = -1.0 if kind == "mae" else 1.0
    found = interval(sign * (ours.value - base.value), sign * (ours.draws - base.draws))
    return {
        "gain": _finite(found.value),
        "gain_low": _finite(found.low),
        "gain_high": _finite(found.high),
    }


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
