"""The distance of a head, and how many patients may lie beyond its limit by chance."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom

from shared_model.heads.distance import _shrunk, away, spread
from shared_model.heads.exceedances import Expected

covariance = pytest.importorskip("sklearn.covariance")


@pytest.mark.parametrize("shape", [(16, 128), (300, 20), (2, 3)])
def test_the_covariance_is_that_of_scikit_learn(shape: tuple[int, int]) -> None:
    """Shrunk as much, to rounding; a node has no scikit-learn."""
    rng = np.random.default_rng(shape[0])
    x = rng.normal(size=shape) @ rng.normal(size=(shape[1], shape[1]))
    wanted, _ = covariance.ledoit_wolf(x, assume_centered=True)
    np.testing.assert_allclose(_shrunk(x), wanted, rtol=0, atol=1e-12 * np.abs(wanted).max())


def test_what_was_trained_on_lies_at_about_one() -> None:
    """Mean square of the distances per feature; far more for what is elsewhere."""
    x = np.random.default_rng(1).normal(size=(2000, 8))
    centre = spread(x, np.ones(len(x)))
    assert np.mean(away(x, *centre) ** 2) == pytest.approx(1.0, abs=0.02)
    assert away(x + 40.0, *centre).min() > 3.0


def test_the_probability_is_the_share_of_orders() -> None:
    """With 26 patients the limit is the largest of all: that one of 40 more exceeds it is the
    chance that the largest of the 66 is among them."""
    expected = Expected.of(26, 0.99, one_item=True)
    assert expected.share == pytest.approx(1 / 27)
    assert expected.p_value(0, 40) == pytest.approx(1.0)
    assert expected.p_value(1, 40) == pytest.approx(40 / 66)
    assert expected.p_value(2, 40) == pytest.approx(40 / 66 * 39 / 65)
    assert Expected.of(146, 0.99, one_item=True).share == pytest.approx(2 / 147)
    assert Expected.of(200, 0.99, one_item=True).share == pytest.approx(3 / 201)
    assert Expected.of(10**6, 0.99, one_item=False).share == pytest.approx(0.01, abs=1e-5)


def test_alike_sites_are_called_unlike_as_seldom_as_is_said() -> None:
    """One in a hundred at most; a binomial test against 1 % would call it far more often."""
    rng, patients, among, times = np.random.default_rng(2), 30, 40, 4000
    expected = Expected.of(patients, 0.99, one_item=True)
    limits = rng.random((times, patients)).max(axis=1)
    beyond = (rng.random((times, among)) > limits[:, None]).sum(axis=1)
    alarm = expected.alarm_from(among)
    assert alarm is not None
    assert 0.002 < np.mean(beyond >= alarm) < 0.014
    assert np.mean(binom.sf(beyond - 1, among, 0.01) < 0.01) > 0.08


def test_where_chance_explains_anything_there_is_no_alarm() -> None:
    """Two patients of a site against eight of a head: both beyond is no wonder."""
    assert Expected.of(8, 0.99, one_item=True).alarm_from(2) is None
    assert Expected.of(8, 0.99, one_item=True).alarm_from(10) == 7
