"""The tests that self-tests rest on: right on known cases, and no oftener odd than they say."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from auditor import selftest_statistics as statistics
from shared_model import accounting
from shared_model.config import PrivacyPlan


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(3)


def rare(p_values: list[float], level: float = 0.05) -> float:
    """Share of p-values below the level."""
    return float(np.mean(np.array(p_values) < level))


def test_sound_noise_is_no_oftener_odd_than_the_p_value_says(rng: np.random.Generator) -> None:
    """400 sound samples each, seeded: about 5 % of p-values below 0.05, and not many more."""
    noise = [rng.standard_normal(2003) for _ in range(401)]
    assert 0.02 < rare([statistics.deviation_p(x, 1.0) for x in noise]) < 0.08
    assert rare([statistics.shape_p(x) for x in noise]) < 0.08
    assert rare([statistics.correlation_p(x) for x in noise]) < 0.08
    pairs = itertools.pairwise(noise)
    assert rare([statistics.correlation_p(x, y) for x, y in pairs]) < 0.08


def test_coins_are_no_oftener_odd_than_the_p_value_says(rng: np.random.Generator) -> None:
    """The law of the spread of sample sizes is exact."""
    sizes = [statistics.sizes_p(rng.binomial(20, 0.1, 60), 20, 0.1) for _ in range(400)]
    assert 0.01 < rare(sizes) < 0.09


@pytest.mark.parametrize("shift", [0, 1, 77, 1000])
def test_a_stream_used_twice_is_found_at_any_shift(rng: np.random.Generator, shift: int) -> None:
    """A fifth of the numbers in common."""
    one, other = rng.standard_normal(20_000), rng.standard_normal(20_000)
    other[:4000] = one[shift : shift + 4000]
    assert statistics.correlation_p(one, other) < 1e-9


def test_what_does_not_vary_or_is_not_finite_is_odd() -> None:
    """No noise is not a sample of noise."""
    nothing, broken = np.zeros(1000), np.full(1000, np.nan)
    for values in (nothing, broken):
        assert statistics.deviation_p(values, 1.0) == 0.0
        assert statistics.shape_p(values) == 0.0
        assert statistics.correlation_p(values) == 0.0
        assert statistics.correlation_p(values, np.arange(1000.0)) == 0.0
    assert statistics.below_p(nothing, 1.0) == 0.0
    assert statistics.below_p(broken, 1.0) == 0.0


def test_sizes_that_never_change_are_odd_and_so_are_sizes_that_change_too_much() -> None:
    """Shuffled batches; patients who come all together."""
    assert statistics.sizes_p([2] * 60, 20, 0.1) < 1e-12
    assert statistics.sizes_p([0] * 54 + [20] * 6, 20, 0.1) < 1e-12


def test_the_smallest_fault_that_is_announced_is_found_nearly_always(
    rng: np.random.Generator,
) -> None:
    """99 of 100 runs, by its own arithmetic; seeded, with room."""
    level = 1e-7
    off = 1.0 + statistics.smallest_found(5000, level)
    hits = [
        statistics.deviation_p(off * rng.standard_normal(5000), 1.0) < level for _ in range(200)
    ]
    assert np.mean(hits) > 0.95


@pytest.mark.parametrize(("rate", "sigma"), [(0.01, 0.8), (0.1, 1.0), (0.5, 2.0), (1.0, 3.0)])
def test_the_closed_form_of_one_step_is_the_accountants_figure(rate: float, sigma: float) -> None:
    """Two derivations of one number: closed form and dp-accounting, to 1 % or 0.005."""
    known = statistics.one_step_epsilon(rate, sigma, 1e-5)
    told = accounting.epsilon_pld([PrivacyPlan(rate, sigma, 1.0, 1)], 1e-5)
    assert math.isclose(known, told, rel_tol=0.01, abs_tol=0.005)
