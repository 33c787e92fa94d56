"""Linear heads: what they solve, whom folds keep apart, what intervals are of."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared_model import linear_heads
from shared_model.errors import OurMistake

sklearn_linear = pytest.importorskip("sklearn.linear_model")
metrics = pytest.importorskip("sklearn.metrics")


def features(seed: int, items: int, size: int = 6) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((items, size)) * 3.0 + 1.0


def scaled(values: np.ndarray) -> np.ndarray:
    return (values - values.mean(0)) / values.std(0)


def test_ridge_and_logistic_are_those_of_scikit_learn():
    """On the same standardised features, to 1e-3 in every answer; three classes as well as two."""
    x = features(1, 60)
    rng = np.random.default_rng(2)
    number = x @ rng.standard_normal(6) + rng.standard_normal(60)
    ours = linear_heads.fitted(x, number, "number", 10.0).scores(x)[:, 0]
    theirs = sklearn_linear.Ridge(alpha=10.0).fit(scaled(x), number).predict(scaled(x))
    np.testing.assert_allclose(ours, theirs, atol=1e-8)
    truth = np.digitize(number, np.percentile(number, [33, 66])).astype(float)
    found = linear_heads.fitted(x, truth, "class", 2.0).scores(x)
    model = sklearn_linear.LogisticRegression(C=0.5, max_iter=5000, tol=1e-8)
    np.testing.assert_allclose(
        found, model.fit(scaled(x), truth).predict_proba(scaled(x)), atol=1e-3
    )
    np.testing.assert_allclose(found.sum(1), 1.0)


def test_auroc_is_that_of_scikit_learn_with_ties_too():
    rng = np.random.default_rng(3)
    truth = rng.integers(0, 2, 80).astype(float)
    score = np.round(rng.random(80) + 0.3 * truth, 1)
    answers = np.stack([1 - score, score], axis=1)
    wanted = metrics.roc_auc_score(truth, score)
    assert linear_heads.auroc(answers, truth) == pytest.approx(wanted)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.integers(20, 60), st.integers(1, 4))
def test_no_patient_is_on_both_sides_of_a_fold(seed, people, items_each):
    """Every item is tested once; every fold has patients of each class in its training part."""
    groups = np.repeat(np.random.default_rng(seed).permutation(people), items_each)
    truth = (groups % 2).astype(float)
    tested = []
    for inside, outside in linear_heads.folds(truth, "class", groups, 5):
        assert not set(groups[inside]) & set(groups[outside])
        assert len(set(truth[inside])) == 2
        tested += list(outside)
    assert sorted(tested) == list(range(len(groups)))


def test_a_signal_is_found_and_noise_is_not():
    """Cross-validated, so that 128 features of 40 patients do not fit noise to perfection."""
    rng = np.random.default_rng(4)
    truth = np.arange(40) % 2 * 1.0
    noise = rng.standard_normal((40, 128))
    groups = np.arange(40)
    nothing = linear_heads.cross_validated(noise, truth, "class", groups).figures[0]
    assert nothing.name == "AUROC"
    assert nothing.low < 0.5 < nothing.high
    told = noise.copy()
    told[:, 0] += 6.0 * truth
    told[:, 1] -= 6.0 * truth
    found = linear_heads.cross_validated(told, truth, "class", groups).figures[0]
    assert found.value > 0.8
    assert 0.5 < found.low <= found.value <= found.high
    number = linear_heads.cross_validated(told, told[:, 0], "number", groups)
    error, correlation = number.figures
    assert error.value < error.reference
    assert correlation.low > 0.0


def test_a_patient_drawn_again_comes_with_all_items():
    """The interval is over patients: ten equal items of each make it no narrower."""
    rng = np.random.default_rng(5)
    truth = rng.standard_normal(30)
    answers = (truth + rng.standard_normal(30))[:, None]
    once = linear_heads.measured(answers, truth, "number", np.arange(30))[0]
    many = linear_heads.measured(
        np.repeat(answers, 10, axis=0), np.repeat(truth, 10), "number", np.repeat(np.arange(30), 10)
    )[0]
    assert many.high - many.low == pytest.approx(once.high - once.low)


def test_figures_that_no_draw_of_patients_changes_have_no_interval():
    """20 patients, all right: 1.0 [1.0, 1.0] was shown, and would be taken for certainty."""
    truth = np.arange(20) % 2 * 1.0
    told = np.random.default_rng(7).standard_normal((20, 3)) * 0.01
    told[:, 0] += 10.0 * truth
    for one in linear_heads.cross_validated(told, truth, "class", np.arange(20)).figures:
        assert one.value == 1.0, one.name
        assert np.isnan([one.low, one.high]).all(), one.name


def test_too_few_patients_of_a_class_are_refused():
    """Not cross-validated on folds that lack it."""
    truth = np.array([1.0] * 4 + [0.0] * 30)
    for bad in (truth, np.zeros(34)):
        with pytest.raises(OurMistake):
            linear_heads.cross_validated(features(6, 34), bad, "class", np.arange(34))
    with pytest.raises(OurMistake):
        linear_heads.fitted(np.full((5, 2), np.nan), np.arange(5.0), "number", 1.0)
