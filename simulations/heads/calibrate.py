"""Temperature, conformal sets and bands from out-of-fold outputs; measured on other patients.

Everything here that is fitted has one number. It is fitted on all patients for the head, and for
its figures again on the patients of the other folds, so that no patient measures a number that he
helped to choose.
"""

from __future__ import annotations

import numpy as np

from shared_model.heads import calibration
from shared_model.heads.answers import softmax
from shared_model.heads.manifest import Bin
from simulations.heads.data import Floats, Places

BINS = 10
_WIDEST = (-3.0, 3.0)
"""Natural logarithm of the temperatures that are tried: 0.05 to 20."""
_AT_AN_END = 0.01
TOLD_APART = (
    "is no better than any smaller one (patients left out are all told apart: their number says "
    "nothing about how sure to be)"
)
LAST_TRIED = "is the last of those that were tried"

Bools = calibration.Bools
quantile, by_fold = calibration.quantile, calibration.by_fold


def temperature(logits: Floats, truth: Floats, weight: Floats) -> float:
    """The temperature of the smallest log loss (Guo et al. 2017, 1706.04599, section 4.2).

    Args:
        logits: (item, class). truth: (item,). weight: (item,).
    """
    from scipy.optimize import minimize_scalar

    def loss(log_of_it: float) -> float:
        return log_loss(softmax(logits, float(np.exp(log_of_it))), truth, weight)

    found = minimize_scalar(loss, bounds=_WIDEST, method="bounded", options={"xatol": 1e-3})
    return float(np.exp(found.x))


def why_no_best(heat: float, logits: Floats, truth: Floats) -> str:
    """Why a temperature that was found is not the best one; "" if it is.

    Args:
        logits: (item, class). truth: (item,).
    """
    of_truth = np.arange(logits.shape[1]) == truth[:, None]
    others = np.where(of_truth, -np.inf, logits).max(axis=1)
    if (logits[of_truth] > others).all():
        return TOLD_APART
    return LAST_TRIED if abs(np.log(heat)) > _WIDEST[1] - _AT_AN_END else ""


def log_loss(shares: Floats, truth: Floats, weight: Floats) -> float:
    """Mean negative logarithm of the truth's probability; what the temperature is to lower.

    Args:
        shares: (item, class). truth, weight: (item,).
    """
    of_truth = shares[np.arange(len(truth)), truth.astype(int)]
    return float(np.average(-np.log(np.maximum(of_truth, 1e-12)), weights=weight))


def reliability(shares: Floats, truth: Floats, weight: Floats) -> tuple[Bin, ...]:
    """Bins of equal width over the confidence, the largest probability; empty ones are left out."""
    confidence, right = shares.max(axis=1), shares.argmax(axis=1) == truth.astype(int)
    place = np.minimum((confidence * BINS).astype(int), BINS - 1)
    made = []
    for number in range(BINS):
        inside = place == number
        if inside.any():
            made.append(
                Bin(
                    share=_share(weight[inside].sum() / weight.sum()),
                    confidence=_share(np.average(confidence[inside], weights=weight[inside])),
                    accuracy=_share(np.average(right[inside], weights=weight[inside])),
                )
            )
    return tuple(made)


def calibration_error(bins: tuple[Bin, ...]) -> float:
    """Expected calibration error (Guo et al. 2017, equation 3)."""
    return _share(sum(one.share * abs(one.confidence - one.accuracy) for one in bins))


def temperatures_by_fold(fold: Places, logits: Floats, truth: Floats, weight: Floats) -> Floats:
    """The temperature for each item, fitted without its fold: (item,)."""
    return by_fold(fold, lambda rest: temperature(logits[rest], truth[rest], weight[rest]))


def least_of(shares: Floats, truth: Floats, patient: Places, level: float, promise: str) -> Floats:
    """Least probability of each class in the sets, (class,): LAC (Sadinle, Lei and Wasserman 2019,
    1609.00451), overall or for each class by itself (Vovk, Lindsay, Nouretdinov and Gammerman
    2003, "Mondrian confidence machine"). 0 where so few patients promise nothing.

    Args:
        shares: (item, class), of patients left out. truth, patient: (item,).
    """
    labels = truth.astype(int)
    wrong = 1.0 - shares[np.arange(len(labels)), labels]
    kept = [labels == one for one in range(shares.shape[1])]
    if promise == "overall":
        kept = [np.ones(len(labels), dtype=np.bool_)] * shares.shape[1]
    return np.array([_least(wrong[rows], patient[rows], level) for rows in kept])


def _least(wrong: Floats, patient: Places, level: float) -> float:
    if not len(wrong):
        return 0.0
    weight = 1.0 / np.bincount(patient)[patient]
    patients = int(np.unique(patient).size)
    return _share(1.0 - quantile(wrong, weight, level, patients=patients))


def _share(value: float) -> float:
    return float(min(1.0, max(0.0, value)))
