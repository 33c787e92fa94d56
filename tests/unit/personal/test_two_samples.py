"""Permutation tests by patient: their level, their power, their arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared_model import two_samples
from shared_model.errors import OurMistake


def groups(seed: int, shift: float, first: int = 18, second: int = 15):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((first, 8)), rng.standard_normal((second, 8)) + shift


def test_alike_groups_are_seldom_told_apart_and_others_always():
    """At level 0.05: about a twentieth of 100 alike pairs, all of the shifted ones."""
    alike = [two_samples.mmd_test(*groups(seed, 0.0)).p_value for seed in range(100)]
    assert np.mean(np.array(alike) <= 0.05) <= 0.12
    assert min(alike) < 0.2
    assert max(two_samples.mmd_test(*groups(seed, 1.0)).p_value for seed in range(10)) < 0.01


def test_a_difference_that_is_no_shift_is_found():
    """Same mean, another spread: a comparison of means alone would not see it."""
    first, second = groups(1, 0.0, 60, 60)
    assert two_samples.mmd_test(first, 2.5 * second).p_value < 0.01


def test_one_figure_is_compared_on_both_sides():
    """Up or down; the sign is the second's less the first's."""
    rng = np.random.default_rng(2)
    one = rng.standard_normal(20)
    for shift in (-2.0, 2.0):
        found = two_samples.mean_test(one, rng.standard_normal(20) + shift)
        assert found.p_value < 0.01
        assert np.sign(found.statistic) == np.sign(shift)
    assert two_samples.mean_test(one, one[::-1].copy()).p_value > 0.5


def test_groups_of_one_constant_are_alike():
    """No spread at all: p is 1, nothing is divided by zero."""
    assert two_samples.mean_test(np.ones(10), np.ones(12)).p_value == 1.0
    assert two_samples.mmd_test(np.ones((10, 3)), np.ones((12, 3))).p_value == 1.0


def test_the_statistic_is_the_kernel_sum_written_out():
    """MMD of its definition, pair by pair."""
    first, second = groups(3, 0.5, 5, 4)
    together = np.concatenate([first, second])
    apart = [np.sum((a - b) ** 2) for i, a in enumerate(together) for b in together[i + 1 :]]
    width = np.median(apart)

    def mean(one: np.ndarray, other: np.ndarray) -> float:
        return float(np.mean([[np.exp(-np.sum((a - b) ** 2) / width) for b in other] for a in one]))

    wanted = mean(first, first) + mean(second, second) - 2 * mean(first, second)
    found = two_samples.mmd_test(first, second)
    assert found.statistic == pytest.approx(np.sqrt(wanted))
    assert two_samples.mmd(first, second) == pytest.approx(found.statistic)
    assert (found.first, found.second) == (5, 4)


@settings(max_examples=40)
@given(st.lists(st.floats(0.0005, 1.0), min_size=1, max_size=8))
def test_holm_is_between_none_and_bonferroni(values):
    """Never below the value itself nor above it times their number, and in the same order."""
    found = two_samples.holm(values)
    for value, adjusted in zip(values, found, strict=True):
        assert value <= adjusted <= min(1.0, len(values) * value) + 1e-12
    order = np.argsort(values, kind="stable")
    assert all(np.diff(np.array(found)[order]) >= -1e-12)
    assert min(found) == pytest.approx(min(1.0, len(values) * min(values)))


@pytest.mark.parametrize(
    "wrong", [np.zeros((1, 3)), np.zeros(5), np.full((4, 3), np.nan), np.zeros((4, 2))]
)
def test_what_makes_no_group_is_refused(wrong):
    with pytest.raises(OurMistake):
        two_samples.mmd_test(np.random.default_rng(0).standard_normal((5, 3)), wrong)
