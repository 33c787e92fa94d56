"""The regular grid of a CSV file's samples: its rate, and where samples are missing."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from client.formats.base import MAXIMUM_SAMPLES, RATE_AS, Samples, checked_rate, fail

_MAXIMUM_STRETCH = 10.0
"""A recording whose gaps make it longer than 10 times its samples is refused."""
_DISAGREEMENT = 0.01
"""Beyond what the step itself leaves open: 125 is not 128, and 250 not 256."""
_FEWEST_DOUBLE, _LEAST_SHARE = 8, 0.01
_ROUND_S, _TICKS_S = (0.001, 0.01), (0.001, 0.002, 0.005, 0.01)
"""What times are rounded to usually, and at times."""

Grid = tuple[float, NDArray[np.int64] | None]


def grid(times_s: Samples | None, given_hz: float | None) -> Grid:
    """Rate in Hz and, if samples are missing, the place of each sample on the regular grid.

    Where the middle step is one thousandth or one hundredth of a second and others are two, the
    times may be rounded (80 Hz in hundredths: steps of 10 and 20 ms) and samples may be missing
    (100 Hz). Of the two rates the given one decides.

    Args:
        times_s: of each sample; None or fewer than two: the rate is the given one.
        given_hz: by mapping or table; NaN: what the table gives is no number above 0.

    Raises:
        DataFault: no rate, or one that is not read; times that do not increase or have too long
            gaps; two rates may be meant and none is given; the given rate is not that of the times.
    """
    if given_hz is not None and not given_hz > 0:
        fail(
            "sampling-rate",
            "The table of recordings gives this one a rate that is no number above 0.",
            do=RATE_AS,
        )
    if times_s is None or times_s.size < 2:
        if given_hz is None:
            fail(
                "sampling-rate",
                "The file has no time column that the mapping names, and nobody gives its rate.",
                do="Name its time column in the mapping (time_column, time_unit), or give fs_hz "
                "there or in the table of recordings.",
            )
        return checked_rate(given_hz), None
    steps = np.diff(times_s)
    if not np.all(np.isfinite(steps)) or np.any(steps <= 0):
        fail(
            "time-column",
            "The times are missing somewhere or do not increase.",
            do="Correct them. Where they are too coarse to tell samples apart, give fs_hz and, in "
            "the mapping, a time_column that the file does not have.",
        )
    middle = float(np.median(steps))
    found = _placed(steps, _longest(steps, middle) * middle)
    if _may_be_rounded(steps, middle):
        other = _placed(steps, 2.5 * middle)
        if given_hz is None:
            fail(
                "sampling-rate",
                "Some steps of the times are twice as long as the others: the times are rounded "
                f"(about {round(other[0], 1):g} Hz), or samples are missing "
                f"({round(found[0], 1):g} Hz).",
                do="Give the rate as fs_hz in the table of recordings or in the mapping.",
            )
        found = min(found, other, key=lambda one: abs(math.log(one[0] / given_hz)))
    own_hz, place = found
    if given_hz is None:
        return checked_rate(round(own_hz, 6)), place
    if abs(given_hz / own_hz - 1.0) > _DISAGREEMENT + 1.0 / steps.size:
        fail(
            "sampling-rate",
            "The time column and the given sampling rate disagree by more than 1 %.",
            do="Correct fs_hz, or the time_unit of the mapping.",
        )
    return checked_rate(given_hz), place


def _placed(steps: Samples, longest: float) -> Grid:
    """The grid on which steps up to the longest are one step; `None` if all are."""
    ordinary = steps < longest
    own_hz = 1.0 / float(np.mean(steps[ordinary]))
    if np.all(ordinary):
        return own_hz, None
    jumps = np.where(ordinary, 1.0, np.maximum(1.0, np.rint(steps * own_hz)))
    if float(jumps.sum()) > min(_MAXIMUM_STRETCH * (steps.size + 1), MAXIMUM_SAMPLES):
        fail(
            "time-column",
            "The times have gaps longer than the recording itself.",
            do="Export the parts as files of their own.",
        )
    return own_hz, np.concatenate(([0], np.cumsum(jumps))).astype(np.int64)


def _may_be_rounded(steps: Samples, middle: float) -> bool:
    """Whether nobody can tell rounded times from missing samples: the middle step is what times are
    rounded to, and so many steps are two that it matters which."""
    if not _is_of_ticks(steps, middle, _ROUND_S):
        return False
    double = int(np.sum((steps > 1.5 * middle) & (steps < 2.5 * middle)))
    return double >= max(_FEWEST_DOUBLE, _LEAST_SHARE * steps.size)


def _longest(steps: Samples, middle: float) -> float:
    """In middle steps, up to where a step holds no missing sample. Where the middle step is two
    ticks, three is none but where many are one: then two may be too long for a sample already."""
    tick = middle / 2
    if not _is_of_ticks(steps, tick, _TICKS_S):
        return 1.5
    one, three = (int(np.sum(np.abs(steps - ticks * tick) < 0.25 * tick)) for ticks in (1, 3))
    return 1.4 if one > 2 * three else 1.75


def _is_of_ticks(steps: Samples, tick: float, known: tuple[float, ...]) -> bool:
    """Whether times are known to be rounded so, and these may be."""
    if not any(abs(tick / one - 1.0) < 0.01 for one in known):
        return False
    ticks = steps / tick
    return bool(np.mean(np.abs(ticks - np.rint(ticks)) < 0.05) > 0.99)
