"""Probes: metrics equal their definition, folds part patients, intervals resample them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from shared_model.errors import OurMistake
from simulations.probes import evaluate as ev


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_weighted_auroc_equals_scikit_learn_also_with_ties(seed: int) -> None:
    """The fast AUROC is the AUROC."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 2, 50).astype(float)
    truth[:2] = (0.0, 1.0)
    score = np.round(rng.normal(size=50), 1)
    weight = rng.integers(1, 4, 50).astype(float)
    expected = roc_auc_score(truth, score, sample_weight=weight)
    assert ev.metric("auroc", truth, score, weight) == pytest.approx(expected, abs=1e-12)


def test_auroc_of_one_class_is_not_a_number() -> None:
    """A bootstrap sample without positives says nothing."""
    assert np.isnan(ev.metric("auroc", np.zeros(4), np.arange(4.0), np.ones(4)))


def test_bootstrap_draws_whole_patients() -> None:
    """Every sample has as many patients as there are."""
    counts = ev.bootstrap_counts(7, 100, np.random.default_rng(1))
    assert counts.shape == (100, 7)
    assert (counts.sum(axis=1) == 7).all()
    assert counts.std() > 0


def _leaky(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features that name the patient; the label belongs to the patient at random."""
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(40), 10)
    label = rng.permutation(np.repeat([0.0, 1.0], 20))[group]
    identity = rng.normal(size=(40, 30))[group] + 0.01 * rng.normal(size=(400, 30))
    return identity, label, group


def test_features_that_only_identify_the_patient_score_chance() -> None:
    """If folds shared patients, these features would score near 1."""
    features, label, group = _leaky(3)
    prediction = ev.out_of_fold(features, label, group, kind="auroc", folds=5, seed=0)
    assert ev.metric("auroc", prediction.truth, prediction.score, np.ones(400)) < 0.75


def test_a_real_signal_is_found_and_its_interval_excludes_chance() -> None:
    """Signal in, AUROC out, with an interval that holds the value."""
    features, label, group = _leaky(4)
    features = np.concatenate(
        [features, (label + np.random.default_rng(0).normal(size=400))[:, None]], axis=1
    )
    prediction = ev.out_of_fold(features, label, group, kind="auroc", folds=5, seed=0)
    found = ev.estimate(prediction, ev.bootstrap_counts(40, 200, np.random.default_rng(0)))
    assert found.low <= found.value <= found.high
    assert found.value > 0.6


def test_missing_features_do_not_stop_a_probe() -> None:
    """Hand-made features are NaN where no beat was found."""
    rng = np.random.default_rng(5)
    group = np.arange(60)
    truth = rng.normal(70, 10, 60)
    features = np.stack([truth + rng.normal(size=60), rng.normal(size=60)], axis=1)
    features[::7, 1] = np.nan
    prediction = ev.out_of_fold(features, truth, group, kind="mae", folds=5, seed=0)
    assert ev.metric("mae", prediction.truth, prediction.score, np.ones(60)) < 4.0


def test_fewer_patients_than_folds_is_refused() -> None:
    """Two patients cannot make five folds."""
    with pytest.raises(OurMistake):
        ev.out_of_fold(
            np.zeros((4, 2)), np.ones(4), np.array([0, 0, 1, 1]), kind="mae", folds=5, seed=0
        )


def test_verification_tells_distinct_people_apart_and_ignores_pairs_of_one_recording() -> None:
    """Features that are the person give 1; random features give about one half."""
    rng = np.random.default_rng(6)
    group = np.repeat(np.arange(20), 2)
    session = np.tile([0, 1], 20)
    people = rng.normal(size=(20, 16))[group] + 0.01 * rng.normal(size=(40, 16))
    perfect = ev.verification(people, group, session)
    assert (
        ev.metric("verification", perfect.truth, perfect.score, np.ones(len(perfect.truth))) > 0.999
    )
    same = ev.verification(people, group, np.zeros(40, dtype=int))
    assert same.truth.sum() == 0
    noise = ev.verification(rng.normal(size=(40, 16)), group, session)
    assert (
        abs(ev.metric("verification", noise.truth, noise.score, np.ones(len(noise.truth))) - 0.5)
        < 0.2
    )


def test_skill_is_zero_for_knowing_nothing_and_one_for_perfection() -> None:
    """One scale for all tasks."""
    assert ev.skill("auroc", 0.5, 0.0) == 0.0
    assert ev.skill("auroc", 1.0, 0.0) == 1.0
    assert ev.skill("mae", 8.0, 8.0) == 0.0
    assert ev.skill("mae", 0.0, 8.0) == 1.0
