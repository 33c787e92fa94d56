"""The laws of both kinds of noise on 10^8 draws each.

A p-value below 1e-7 is a failure, at most five are looked at: each test fails by chance less than
once in 2 million runs.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest

from shared_model.noise import SystemNoise
from simulations.noise_laws import gaussian_p_values, integer_p_value

COUNT = 100_000_000
SURE = 1e-7


@pytest.mark.long
@pytest.mark.parametrize(
    "draw",
    [
        lambda noise, count: noise.normal(count, 1.0),
        lambda noise, count: noise.discrete_gaussian(count, Fraction(1 << 56)) / 2.0**28,
    ],
    ids=["normal", "integers"],
)
def test_a_hundred_million_draws_follow_the_gaussian_law(
    draw: Callable[[SystemNoise, int], np.ndarray],
) -> None:
    """Kolmogorov-Smirnov, mean, chi-square of the variance, autocorrelation, tails."""
    noise = SystemNoise()
    found = gaussian_p_values(lambda count: draw(noise, count), COUNT)
    assert all(p > SURE for p in found.values()), found


@pytest.mark.long
def test_a_hundred_million_small_integers_have_their_exact_probabilities() -> None:
    """Chi-square at sigma 3.7."""
    variance = Fraction(37, 10) ** 2
    assert integer_p_value(SystemNoise().discrete_gaussian(COUNT, variance), variance) > SURE
