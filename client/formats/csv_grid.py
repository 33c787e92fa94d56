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
_FEWEST_LONG, _LEAST_SHARE, _PART = 8, 0.01, 0.75
_GAP, _LOSS = 1.45, 2.55
"""In middle steps: a longer one is a gap of the times, and one of rounded times, too."""

Grid = tuple[float, NDArray[np.int64] | None]


def grid(times_s: Samples | None, given_hz: float | None) -> Grid:
    """Rate in Hz and, if samples are missing, the place of each sample on the regular grid.

    Times rounded to about the step itself (80 Hz in hundredths of a second: steps of 10 and 20 ms)
    look like those of a higher rate with samples missing at regular places. Of the two rates the
    given one decides.

    Args:
        times_s: of each sample; None or fewer than two: the rate is the given one.
        given_hz: by mapping or table; NaN: what the table gives is no number above 0.

    Raises:
        DataFault: no rate, or one that is not read; times that do not increase or have too long
            gaps; two rates fit and none is given; the given rate is another than that of the times.
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
    found = _placed(steps, _GAP * middle)
    tick = _rounded_to(steps, middle)
    if tick > 0.0:
        other = _placed(steps, _LOSS * middle)
        if tick < _PART * middle:  # half a sample cannot be missing
            found = other
        elif given_hz is None:
            fail(
                "sampling-rate",
                "The times are rounded, or samples are missing at regular places: about "
                f"{round(other[0], 1):g} Hz fits, and {round(found[0], 1):g} Hz.",
                do="Give the rate as fs_hz in the table of recordings or in the mapping.",
            )
        else:
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


def _rounded_to(steps: Samples, middle: float) -> float:
    """By how much steps with a gap are longer, if they may be those of rounded times, else 0: in
    the longest part without a longer gap times stay as near to a line as rounding leaves them."""
    breaks = np.flatnonzero(steps >= _LOSS * middle)
    edges = np.concatenate(([-1], breaks, [steps.size]))
    widest = int(np.argmax(np.diff(edges)))
    part = steps[edges[widest] + 1 : edges[widest + 1]]
    long = part >= _GAP * middle
    if np.all(long) or np.sum(long) < max(_FEWEST_LONG, _LEAST_SHARE * part.size):
        return 0.0
    tick = float(np.median(part[long]) - np.median(part[~long]))
    times = np.concatenate(([0.0], np.cumsum(part)))
    number = np.arange(times.size, dtype=np.float64)
    beside = times - np.polyval(np.polyfit(number, times, 1), number)
    return tick if np.ptp(beside) <= 1.25 * tick else 0.0
