"""The tests that a self-test rests on: each gives the probability of so odd a result by chance.

Exact where a law is known (chi-square, binomial, sums of binomials); where a large-sample law is
used, the text says so, and the samples have 10^4 values or more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import fft, optimize, stats


def deviation_p(values: np.ndarray, std: float) -> float:
    """Two-sided chi-square of independent N(0, std^2); 0 if a value is not finite."""
    if not np.isfinite(values).all():
        return 0.0
    total = float(np.sum((values / std) ** 2))
    return _two_sided(stats.chi2.cdf(total, values.size), stats.chi2.sf(total, values.size))


def below_p(values: np.ndarray, std: float) -> float:
    """One-sided: that independent N(0, s^2), s >= std, are so small."""
    if not np.isfinite(values).all():
        return 0.0
    return float(stats.chi2.cdf(float(np.sum((values / std) ** 2)), values.size))


def smallest_found(count: int, level: float) -> float:
    """Relative error of a deviation that `deviation_p` < level finds in 99 of 100 runs (normal)."""
    return float((stats.norm.isf(level / 2) + stats.norm.isf(0.01)) / math.sqrt(2 * count))


def shape_p(values: np.ndarray) -> float:
    """Kolmogorov-Smirnov against a Gaussian of the values' own size; 0 if they are all zero.

    Taking the size from the values makes the test blind to it, and alarms no oftener.
    """
    size = math.sqrt(float(np.mean(values**2)))
    if not (math.isfinite(size) and size > 0.0):
        return 0.0
    return float(stats.kstest(values / size, "norm").pvalue)


def correlation_p(one: np.ndarray, other: np.ndarray | None = None) -> float:
    """Largest correlation over all cyclic shifts, of two vectors, or of one with itself.

    A stream that is used twice shows at some shift. Normal law of a correlation, times the number
    of shifts. 0 if a vector does not vary.
    """
    first = _centred(one)
    second = first if other is None else _centred(other)
    if first is None or second is None:
        return 0.0
    size = first.size
    spectrum = np.conj(fft.rfft(first)) * fft.rfft(second)
    r = np.abs(fft.irfft(spectrum, size)) / size  # (shift,)
    if other is None:
        r = r[1 : size // 2 + 1]
    one_shift = 2.0 * float(stats.norm.sf(float(r.max()) * math.sqrt(size)))
    return float(min(1.0, r.size * one_shift))


def law_found(count: int, level: float) -> float:
    """Distance of distribution functions that `shape_p` < level finds in 99 of 100 runs, about."""
    return float((stats.kstwobign.isf(level) + 0.5 * stats.norm.isf(0.01)) / math.sqrt(count))


def correlation_found(count: int, level: float) -> float:
    """Share of a stream used twice that `correlation_p` < level finds in 99 of 100 runs, about."""
    at_one_shift = stats.norm.isf(level / count / 2.0)
    return float((at_one_shift + stats.norm.isf(0.01)) / math.sqrt(count))


def _centred(values: np.ndarray) -> np.ndarray | None:
    spread = float(np.std(values))
    if not (math.isfinite(spread) and spread > 0.0):
        return None
    return np.asarray((values - values.mean()) / spread)


def binomial_p(count: int, of: int, rate: float) -> float:
    """Two-sided, exact."""
    return _two_sided(stats.binom.cdf(count, of, rate), stats.binom.sf(count - 1, of, rate))


def sizes_p(sizes: Sequence[int], patients: int, rate: float) -> float:
    """Two-sided, exact: the spread of sample sizes that are sums of independent coins.

    Sum over steps of (size - m)^2, m the whole number next to the mean; its law is the law of one
    step convolved with itself. Batches of fixed size give too little, patients who come and go
    together too much.
    """
    middle = round(patients * rate)
    possible = np.arange(patients + 1)
    law = np.zeros(max(middle, patients - middle) ** 2 + 1)
    np.add.at(law, (possible - middle) ** 2, stats.binom.pmf(possible, patients, rate))
    length = (law.size - 1) * len(sizes) + 1
    of_sum = fft.irfft(fft.rfft(law, length) ** len(sizes), length)
    seen = sum((size - middle) ** 2 for size in sizes)
    return _two_sided(float(of_sum[: seen + 1].sum()), float(of_sum[seen:].sum()))


def gaussian_delta(epsilon: float, sigma: float) -> float:
    """delta(epsilon) of one Gaussian of sensitivity 1 (1805.06530, theorem 8)."""
    left = stats.norm.cdf(0.5 / sigma - epsilon * sigma)
    return float(left - math.exp(epsilon) * stats.norm.cdf(-0.5 / sigma - epsilon * sigma))


def one_step_epsilon(rate: float, sigma: float, delta: float) -> float:
    """Epsilon of one Poisson-subsampled Gaussian step, in closed form; rate 1: of the Gaussian.

    E[(1 - q + q l - e^eps)+] = q E[(l - (1 + (e^eps - 1) / q))+], l the Gaussian's likelihood
    ratio: delta(eps) = q delta_Gaussian(log(1 + (e^eps - 1) / q)), the worse of both directions.
    """

    def too_much(epsilon: float) -> float:
        inner = math.log1p(math.expm1(epsilon) / rate)
        return rate * gaussian_delta(inner, sigma) - delta

    return float(optimize.brentq(too_much, 1e-9, 200.0, xtol=1e-10))


def _two_sided(below: float, above: float) -> float:
    return float(min(1.0, 2.0 * max(0.0, min(below, above))))
