"""When a personal head abstains, and how wide its interval is: as the lab's heads have it.

    found = limits_of(features, truth, kind, answers)    # answers: by cross-validation

The distance and its limit, and the band of a number, come from patients left out of the folds
(`shared_model.heads.calibration`). One item a patient: its mean fingerprint.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from shared_model import linear_heads
from shared_model.errors import OurMistake
from shared_model.heads import calibration
from shared_model.heads.distance import away, spread
from shared_model.heads.exceedances import Expected
from shared_model.heads.manifest import Band, Distance
from shared_model.linear_heads import Array, Groups, Kind

_NARROWEST, _WIDEST = 1e-9, 1e9


@dataclass(frozen=True)
class Limits:
    """far_mean (feature,), far_factor (feature, feature): of standardised mean fingerprints."""

    far_mean: Array = field(repr=False)
    far_factor: Array = field(repr=False)
    distance: Distance
    band: Band | None


def limits_of(features: Array, truth: Array, kind: Kind, answers: Array) -> Limits:
    """From all patients, measured on patients left out.

    Args:
        features: (patient, feature). truth: (patient,). answers: (patient, output), each by a head
            that did not see that patient, in the folds of `linear_heads.cross_validated`.

    Raises:
        OurMistake: numbers so large that they have no band.
    """
    ones, groups = np.ones(len(truth)), np.arange(len(truth))
    far, fold = np.zeros(len(truth)), np.zeros(len(truth), dtype=np.int64)
    parts = linear_heads.folds(truth, kind, groups, linear_heads.FOLDS)
    for number, (inside, outside) in enumerate(parts):
        mean, scale = linear_heads.scaling(features[inside])
        centre = spread((features[inside] - mean) / scale, np.ones(len(inside)))
        far[outside] = away((features[outside] - mean) / scale, *centre)
        fold[outside] = number
    mean, scale = linear_heads.scaling(features)
    whole = spread((features - mean) / scale, ones)
    band = _band(np.abs(answers[:, 0] - truth), fold) if kind == "number" else None
    return Limits(*whole, calibration.distance_of(far, ones, fold), band)


def expected_beyond(patients: int, distance: Distance) -> Expected:
    """How many patients like those of a head it takes for far ones: one item a patient."""
    return Expected.of(patients, distance.level, one_item=True)


def _band(error: Array, fold: Groups) -> Band:
    def half(rows: calibration.Bools) -> float:
        kept = error[rows]
        ones = np.ones(len(kept))
        found = calibration.half_width(kept, ones, calibration.LEVEL, patients=len(kept))
        return max(found, _NARROWEST)

    if float(error.max()) > _WIDEST / calibration.BEYOND - 1.0:
        raise OurMistake(
            "The labels are numbers too large for an interval.", do="Give them in a larger unit."
        )
    each = calibration.by_fold(fold, half)
    return Band(
        level=calibration.LEVEL,
        half_width=half(np.ones(len(error), dtype=np.bool_)),
        coverage=float((error <= each).mean()),
    )
