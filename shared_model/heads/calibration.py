"""Limit of the distance and band of a number, from what models said of patients left out. Pure.

    limit = distance_of(far, weight, fold)                     # beyond it a head abstains
    half = half_width(error, weight, level, patients=n)        # prediction +- half

Used by the lab's heads and by a hospital's personal heads. Each patient weighs the same. What is
measured is of patients who had no part in what is measured.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from shared_model.heads.distance import Numbers
from shared_model.heads.manifest import Distance

LEVEL = 0.9
"""Coverage asked of bands."""
FAR_LEVEL = 0.99
"""Share of the patients' items that are not to be called far."""
BEYOND = 10.0
"""Times the largest error seen: the band where so few patients promise no finite one."""
_LEAST_LIMIT = 1e-6

Bools = npt.NDArray[np.bool_]
Places = npt.NDArray[np.int64]


def quantile(scores: Numbers, weight: Numbers, level: float, *, patients: int | None) -> float:
    """Smallest score that at least `level` of the patients' weight lies at or below.

    Args:
        scores: (item,), large where the model was wrong. weight: (item,), 1 a patient in all.
        patients: if given, a patient more is supposed, with an infinite score: the conformal
            correction. A random item of a new patient is then at or below with probability
            `level`, if patients are exchangeable (pooled: Dunn, Wasserman and Ramdas 2022,
            1809.07441, section 4.1; exact only for one item a patient).
    """
    order = np.argsort(scores, kind="stable")
    total = float(weight.sum()) + (0.0 if patients is None else float(weight.sum()) / patients)
    reached = np.cumsum(weight[order]) / total
    place = int(np.searchsorted(reached, level - 1e-12))
    return float(scores[order[place]]) if place < len(scores) else float("inf")


def by_fold(fold: Places, fit: Callable[[Bools], npt.ArrayLike]) -> Numbers:
    """For each item what was fitted on the patients of the other folds: (item, ...)."""
    parts = {int(n): np.asarray(fit(fold != n), dtype=np.float64) for n in np.unique(fold)}
    return np.stack([parts[int(n)] for n in fold])


def half_width(error: Numbers, weight: Numbers, level: float, *, patients: int) -> float:
    """Split conformal: `level` of new patients lie within, if they are as these.

    Args:
        error: (item,), absolute, of patients left out.
    """
    found = quantile(error, weight, level, patients=patients)
    return found if np.isfinite(found) else BEYOND * float(error.max() + 1.0)


def distance_of(far: Numbers, weight: Numbers, fold: Places) -> Distance:
    """The limit, and which share of patients left out lies beyond what the others' say.

    Args:
        far: (item,), from the patients of the other folds.
    """
    limits = by_fold(fold, lambda rest: quantile(far[rest], weight[rest], FAR_LEVEL, patients=None))
    return Distance(
        limit=max(quantile(far, weight, FAR_LEVEL, patients=None), _LEAST_LIMIT),
        level=FAR_LEVEL,
        beyond=float(np.average((far > limits).astype(np.float64), weights=weight)),
        from_what="the fingerprints trained on",
    )
