"""Does noise follow its law? p-values of a long sample, made piece by piece.

Each p-value is uniform if the law holds. They find a broken sampler; that a sampler is right is
shown by its construction (`shared_model.discrete_gaussian`).
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import numpy as np
import numpy.typing as npt
from scipy import special, stats

Draws = npt.NDArray[np.float64]

PIECE = 1 << 20
BINS = 4096
LAGS = (1, 2, 3, 8, 1 << 15, (1 << 15) + 1)
"""Neighbours, a block of AES and the sampler's chunk, where a keystream used twice would show."""
TAILS = (4.0, 5.0, 6.0)


def gaussian_p_values(
    draw: Callable[[int], Draws], count: int, tell: Callable[[str], None] = lambda _: None
) -> dict[str, float]:
    """p-values of `count` draws that should be independent N(0, 1).

    Returns:
        ks_p: Kolmogorov-Smirnov on 4096 bins of equal probability (conservative);
        mean_p, variance_p: normal, and chi-square of the sum of squares, two-sided;
        autocorrelation_p: of values and of squares at `LAGS`, chi-square of all together;
        tail_p: how many lie beyond 4, 5 and 6 deviations, the least of three times three.
    """
    bins = np.zeros(BINS, dtype=np.int64)
    total = squares = 0.0
    beyond = np.zeros(len(TAILS), dtype=np.int64)
    products = np.zeros((2, len(LAGS)))
    pairs = np.zeros(len(LAGS))
    for start in range(0, count, PIECE):
        if start % (32 * PIECE) == 0:
            tell(f"{start} of {count} draws looked at")
        x = draw(min(PIECE, count - start))
        places = (special.ndtr(x) * BINS).astype(np.int64)
        bins += np.bincount(np.minimum(places, BINS - 1), minlength=BINS)
        centred = np.square(x)
        total += float(x.sum())
        squares += float(centred.sum())
        beyond += [int(np.count_nonzero(centred > tail * tail)) for tail in TAILS]
        centred = (centred - 1.0) / np.sqrt(2.0)
        for place, lag in enumerate(LAGS):
            if lag < x.size:
                products[:, place] += x[:-lag] @ x[lag:], centred[:-lag] @ centred[lag:]
                pairs[place] += x.size - lag
    furthest = np.abs(np.cumsum(bins) / count - np.arange(1, BINS + 1) / BINS).max()
    seen = pairs > 0
    correlation = float((products[:, seen] ** 2 / pairs[seen]).sum())
    return {
        "ks_p": float(stats.kstwobign.sf(np.sqrt(count) * furthest)),
        "mean_p": float(2.0 * stats.norm.sf(abs(total) / np.sqrt(count))),
        "variance_p": _both_sides(stats.chi2.cdf(squares, count), stats.chi2.sf(squares, count)),
        "autocorrelation_p": float(stats.chi2.sf(correlation, 2 * int(seen.sum()))),
        "tail_p": _tail_p(beyond, count),
    }


def integer_p_value(draws: npt.NDArray[np.int64], variance: Fraction) -> float:
    """Chi-square of integers against the discrete Gaussian, one cell for each that is expected ten
    times, the rest together."""
    end = int(12.0 * float(variance) ** 0.5) + 2
    support = np.arange(-end, end + 1)
    weights = np.exp(-(support**2) / (2.0 * float(variance)))
    expected = draws.size * weights / weights.sum()
    found = np.bincount(np.clip(draws + end, 0, 2 * end), minlength=2 * end + 1)
    often = expected >= 10.0
    cells = np.append(found[often], found[~often].sum())
    wanted = np.append(expected[often], expected[~often].sum())
    statistic = float(((cells - wanted) ** 2 / wanted)[wanted >= 1.0].sum())
    return float(stats.chi2.sf(statistic, int((wanted >= 1.0).sum()) - 1))


def _tail_p(beyond: npt.NDArray[np.int64], count: int) -> float:
    each = []
    for tail, seen in zip(TAILS, beyond.tolist(), strict=True):
        law = stats.binom(count, 2.0 * stats.norm.sf(tail))
        each.append(_both_sides(law.cdf(seen), law.sf(seen - 1)))
    return min(1.0, len(each) * min(each))


def _both_sides(below: float, above: float) -> float:
    return min(1.0, 2.0 * float(min(below, above)))
