"""Ends of a bootstrap interval, and when a figure has none: one rule for probes and heads.

Where drawing the patients anew changes nothing (of few patients who are all right), 1.000 to 1.000
would be taken for certainty; and with fewer than `FEWEST_OF_A_CLASS` patients of a class the
samples hold the same two or three people over and over.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

LEVEL = 0.95
FEWEST_OF_A_CLASS = 5
"""Patients of the smaller class: with fewer, a figure that tells classes apart has no interval."""
_ROUNDING = 1e-12
MOST_DIGITS = 5
"""As many as the files of probes have."""


def ends(drawn: npt.ArrayLike) -> tuple[float, float]:
    """Percentile interval of a figure's bootstrap samples (draw,).

    Samples that are not finite (a class was absent) do not count. Both ends are NaN where none is
    left, or all are the same.
    """
    finite = _finite(drawn)
    if finite.size and np.ptp(finite) < _ROUNDING * max(1.0, float(np.abs(finite).max())):
        return math.nan, math.nan
    return percentiles(finite)


def percentiles(drawn: npt.ArrayLike) -> tuple[float, float]:
    """The same of samples that may all be one number: ends that are put together otherwise."""
    finite = _finite(drawn)
    if not finite.size:
        return math.nan, math.nan
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(finite, [tail, 100 - tail])
    return float(low), float(high)


def form(low: float | None, high: float | None, usual: int = 3, *, sign: str = "") -> str:
    """The format, as `format` takes it, with which two ends do not look alike, and none below zero
    looks like zero: of `usual` digits behind the point, or as many more as that takes; `usual` too
    where `MOST_DIGITS` are not enough, or an end is not known. Zero has no minus.

    Args:
        sign: "+": of numbers above zero too.
    """
    forms = [f"{sign}z.{one}f" for one in range(usual, MOST_DIGITS + 1)]
    if low is None or high is None:
        return forms[0]
    return next((one for one in forms if _apart(low, high, one)), forms[0])


def words(
    value: float, low: float | None, high: float | None, usual: int = 3, *, sign: str = ""
) -> str:
    """ "0.85 [0.80, 0.90]" by `form`; the value alone where an end is not known."""
    as_text = form(low, high, usual, sign=sign)
    if low is None or high is None:
        return format(value, as_text)
    return f"{value:{as_text}} [{low:{as_text}}, {high:{as_text}}]"


def _apart(low: float, high: float, form: str) -> bool:
    if format(low, form) == format(high, form):
        return False
    below = [end for end in (low, high) if round(end, MOST_DIGITS) < 0]
    return all(float(format(end, form)) < 0 for end in below)


def _finite(drawn: npt.ArrayLike) -> npt.NDArray[np.float64]:
    values = np.asarray(drawn, dtype=np.float64)
    return values[np.isfinite(values)]
