"""Heads of made-up fingerprints: what they know, what they say of it, and when they abstain."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from head_stand_ins import MODEL, asked, made_head, made_up
from hypothesis import given, settings
from hypothesis import strategies as st

from client import personal
from shared_model.errors import DataFault
from shared_model.heads.answers import (
    FAR,
    UNSURE,
    answer,
    logits,
    same_person,
    softmax,
    standardised,
)
from shared_model.heads.card import card
from shared_model.heads.manifest import Figure
from shared_model.heads.stated import ERROR_OF_SAME
from simulations.heads import calibrate, figures, fit
from simulations.heads import train as train_module
from simulations.heads.compare import _measured
from simulations.heads.data import checked
from simulations.heads.train import train


def figure(figures: tuple[Figure, ...], name: str) -> Figure:
    """By name."""
    return next(one for one in figures if one.name == name)


def test_head_finds_what_is_there_and_nothing_where_nothing_is() -> None:
    """AUROC of patients left out: high with a truth in the fingerprints, no better than chance
    without one (pooling folds of equal classes puts it a little below)."""
    knows = figure(train(made_up(), MODEL, asked()).manifest.figures, "AUROC")
    guesses = figure(train(made_up(strength=0.0), MODEL, asked()).manifest.figures, "AUROC")
    assert knows.value > 0.9
    assert knows.low is not None
    assert knows.low > 0.8
    assert guesses.value < 0.6


def test_head_worse_than_always_the_same_answer_is_said_to_be() -> None:
    """Numbers that follow from nothing: it was said of federated heads alone."""
    noise = made_up("number", patients=40, strength=0.0, seed=3)
    head = train(noise, MODEL, asked()).manifest
    own, same = (figure(head.figures, name) for name in ("mean absolute error", ERROR_OF_SAME))
    assert own.value > same.value  # else this test says nothing
    assert f"\n- {figures.WORSE}" in card(head)
    good = train(made_up("number", patients=60), MODEL, asked()).manifest
    assert figures.WORSE not in card(good)


def test_folds_share_no_patient() -> None:
    """Outer and inner folds: a patient is on one side."""
    data = made_up(patients=20)
    for train_rows, test in fit.splits(data, 4, 0):
        assert not set(data.patient[train_rows]) & set(data.patient[test])


def test_patients_weigh_the_same_whatever_their_number_of_windows() -> None:
    """The second half of one patient's windows, doubled, changes no standardisation."""
    data = made_up(patients=10, items=2)
    twice = np.concatenate([np.arange(20), np.array([0, 1])])
    more = replace(
        data,
        fingerprints=data.fingerprints[twice],
        truth=data.truth[twice],
        patient=data.patient[twice],
        session=data.session[twice],
    )
    for one, other in zip(
        fit.standardisation(data.fingerprints, data.weight),
        fit.standardisation(more.fingerprints, more.weight),
        strict=True,
    ):
        assert np.allclose(one, other)


def test_kept_numbers_answer_as_scikit_learn_does() -> None:
    """Two classes and three: the plain arrays give the probabilities of the fitted model."""
    from sklearn.linear_model import LogisticRegression

    for classes in (("no", "yes"), ("a", "b", "c")):
        data = made_up(classes=classes)
        rows = np.arange(len(data.truth))
        fitted = fit.fit(data, rows, 0.1)
        model = LogisticRegression(C=0.1, max_iter=2000, tol=1e-5)
        model.fit(fitted.x(data.fingerprints), data.truth, sample_weight=data.weight)
        wanted = model.predict_proba(fitted.x(data.fingerprints))
        assert np.allclose(softmax(fitted.outputs(data.fingerprints)), wanted, atol=1e-9)


def test_written_head_answers_as_the_fitted_model() -> None:
    """float32 files lose nothing that matters."""
    data = made_up()
    head = train(data, MODEL, asked())
    fitted = fit.chosen(data, np.arange(len(data.truth)), 0)
    there = logits(head, standardised(head, data.fingerprints))
    assert np.allclose(softmax(there), softmax(fitted.outputs(data.fingerprints)), atol=1e-4)


@settings(max_examples=10, deadline=None)
@given(heat=st.floats(0.3, 4.0), seed=st.integers(0, 1000))
def test_temperature_finds_the_one_that_made_the_labels(heat: float, seed: int) -> None:
    """Labels drawn from softmax(logits / T) give T back, within what 6,000 of them can tell."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(scale=3.0, size=(6000, 3))
    shares = softmax(scores, heat)
    labels = (rng.random((6000, 1)) > np.cumsum(shares, axis=1)).sum(axis=1).astype(float)
    found = calibrate.temperature(scores, labels, np.ones(6000))
    assert found == pytest.approx(heat, rel=0.15)


def test_overconfident_head_is_corrected_on_others() -> None:
    """Logits three times too large: the temperature is near 3 and the error falls."""
    rng = np.random.default_rng(0)
    scores = rng.normal(scale=1.5, size=(4000, 2))
    labels = (rng.random(4000) < softmax(scores)[:, 1]).astype(float)
    weight, fold = np.ones(4000), np.arange(4000) % 4
    heats = calibrate.temperatures_by_fold(fold, 3.0 * scores, labels, weight)
    errors = [
        calibrate.calibration_error(calibrate.reliability(shares, labels, weight))
        for shares in (softmax(3.0 * scores), softmax(3.0 * scores / heats[:, None]))
    ]
    assert heats.mean() == pytest.approx(3.0, rel=0.15)
    assert errors[1] < 0.25 * errors[0]


@settings(max_examples=6, deadline=None)
@given(level=st.sampled_from([0.8, 0.9]), seed=st.integers(0, 10_000))
def test_quantile_covers_a_new_patient_as_often_as_it_says(level: float, seed: int) -> None:
    """Over many draws of 40 patients and one more; scores of a patient are alike, patients are
    not."""
    rng = np.random.default_rng(seed)
    inside = []
    for _ in range(200):
        centre = rng.normal(size=41)
        scores = np.abs(centre[:, None] + 0.2 * rng.normal(size=(41, 3)))
        limit = calibrate.quantile(scores[:40].ravel(), np.full(120, 1.0 / 3.0), level, patients=40)
        inside.append(float((scores[40] <= limit).mean()))
    assert np.mean(inside) > level - 0.08


def test_few_patients_promise_nothing() -> None:
    """With 5 of them no score bounds a sixth at 90 %."""
    assert calibrate.quantile(np.arange(5.0), np.ones(5), 0.9, patients=5) == float("inf")
    assert calibrate.quantile(np.arange(5.0), np.ones(5), 0.8, patients=5) == 4.0


def test_sets_hold_the_truth_and_unsure_answers_are_abstained_from() -> None:
    """Weak fingerprints: coverage near what was asked, fewer answers, these more often right."""
    head = train(made_up(patients=120, strength=2.5), MODEL, asked())
    found = head.manifest.figures
    assert figure(found, "truth in the set").value > 0.82
    assert figure(found, "answered").value < 0.95
    assert figure(found, "accuracy where answered").value > figure(found, "accuracy").value
    whys = {one.why_abstained for one in answer(head, made_up(seed=1, strength=0.3).fingerprints)}
    assert UNSURE in whys


def test_band_of_a_number_holds_the_truth() -> None:
    """Coverage is measured on patients left out."""
    head = train(made_up("number", patients=120), MODEL, asked())
    assert head.manifest.band is not None
    assert head.manifest.band.coverage is not None
    assert 0.8 < head.manifest.band.coverage <= 1.0
    error = figure(head.manifest.figures, "mean absolute error").value
    assert error < 0.6 * figure(head.manifest.figures, ERROR_OF_SAME).value
    first = answer(head, made_up("number", patients=120).fingerprints)[0]
    assert isinstance(first.value, float)
    assert first.low is not None
    assert first.low < first.value


def test_far_fingerprints_are_abstained_from_and_near_ones_hardly_ever() -> None:
    """Other patients of the same kind pass; a constant fingerprint does not."""
    head = made_head()
    near = [one.why_abstained for one in answer(head, made_up(seed=5).fingerprints)]
    assert sum("far" in why for why in near) < 0.1 * len(near)
    strange = np.full((1, 128), 128**-0.5, dtype=np.float32)
    strange[0, ::2] *= -1
    assert "far" in answer(head, 3.0 * strange)[0].why_abstained


def test_identity_knows_people_again_and_states_both_errors() -> None:
    """Equal error rate of people left out of the standardisation; nothing is fitted."""
    head = train(made_up("identity", patients=30, items=3), MODEL, asked())
    assert figure(head.manifest.figures, "equal error rate").value < 0.1
    assert set(head.arrays) == {"mean", "scale", "far_mean", "far_factor"}
    data = made_up("identity", patients=30, items=3)
    cosines, good = same_person(head, data.fingerprints)
    assert good.mean() > 0.9
    limit = head.manifest.verification.threshold  # type: ignore[union-attr]
    same = data.patient[:, None] == data.patient[None]
    assert (cosines[~same] >= limit).mean() < 0.03
    assert (cosines[same] >= limit).mean() > 0.8


def test_strangers_fingerprints_make_an_equal_error_rate_of_a_half() -> None:
    """Without anything that is one's own, both errors meet near one half."""
    weak = train(made_up("identity", patients=30, strength=0.0, own=0.0), MODEL, asked())
    assert figure(weak.manifest.figures, "equal error rate").value > 0.2


def test_groups_of_fewer_than_20_are_not_given() -> None:
    """24 patients, 12 women: no figure by sex, and the card says why."""
    head = train(made_up(patients=24, items=2), MODEL, asked())
    assert head.manifest.groups
    assert all(not group.figures for group in head.manifest.groups if "male" in group.name)
    assert "fewer than 20 patients" in card(head.manifest)
    large = train(made_up(patients=60, items=2), MODEL, asked())
    assert {g.name for g in large.manifest.groups if g.figures} >= {"female", "male"}


def test_card_says_what_a_head_without_noise_reveals() -> None:
    """Closed data: it must not leave. Open data: the reason, and what would hold elsewhere."""
    closed, opened = card(made_head().manifest), card(made_head(open_data="CC0").manifest)
    assert "must not leave the site" in closed
    assert "CC0" in opened
    assert "must not leave" not in opened
    for text in (closed, opened):
        assert "Not a medical device" in text
        assert "personal data" in text


def test_equal_seeds_give_equal_heads() -> None:
    """To the byte."""
    first, second = made_head(), made_head()
    assert first.manifest.to_bytes() == second.manifest.to_bytes()


def test_too_few_patients_or_one_class_are_a_fault_in_words() -> None:
    """Nothing is trained; the rule is that of a personal head."""
    assert (personal.FEWEST_PATIENTS, personal.FEWEST_OF_A_CLASS) == (20, 5)
    with pytest.raises(DataFault, match=r"19 patients .* a head needs 20"):
        checked(made_up(patients=19))
    checked(made_up(patients=20))
    data = made_up()
    with pytest.raises(DataFault, match="yes 0") as none:
        checked(replace(data, truth=np.zeros_like(data.truth)))
    assert "--fewest-of-class" not in none.value.do
    four = replace(data, truth=(data.patient < 4).astype(float))
    with pytest.raises(DataFault, match="yes 4") as few:
        checked(four)
    assert "--fewest-of-class 4" in few.value.do
    checked(four, 4)
    checked(replace(data, truth=(data.patient < 5).astype(float)))


def test_figures_of_a_class_of_few_patients_have_no_interval() -> None:
    """Nor have those that no bootstrap sample can change: 1.000 to 1.000 of one patient looked like
    certainty. The card says of how many patients they are."""
    data = made_up(strength=3.0)
    few = replace(data, truth=(data.patient < 4).astype(float))
    head = train(few, MODEL, asked())
    for name in ("AUROC", "truth in the set, yes"):
        one = figure(head.manifest.figures, name)
        assert (one.low, one.high) == (None, None)
    assert figure(head.manifest.figures, "accuracy").low is not None
    text = card(head.manifest)
    assert "AUROC (4 patients of the rarest class)" in text
    assert "truth in the set, yes (4 patients)" in text
    assert all(one.name != "AUROC" for group in head.manifest.groups for one in group.figures)
    easy = train(made_up(strength=40.0, own=0.0), MODEL, asked())
    assert figure(easy.manifest.figures, "accuracy").value == 1.0
    assert figure(easy.manifest.figures, "accuracy").low is None
    assert "accuracy (60 patients)" in card(easy.manifest)
    enough = replace(data, truth=(data.patient < 5).astype(float))
    assert figure(train(enough, MODEL, asked()).manifest.figures, "AUROC").low is not None


def test_temperature_that_does_not_help_others_is_not_applied() -> None:
    """One in ten is sick and nothing tells who: what makes the fitted folds' loss smaller does not
    make the others' smaller. Temperature 1, and the card says so; one that helps is applied."""
    rng = np.random.default_rng(3)
    data = made_up(strength=2.0)
    right = np.where(rng.random((60, 1)) < 0.8, 1.0, -1.0)[data.patient]
    sign = np.where(data.truth[:, None] == 1, [[-1.0, 1.0]], [[1.0, -1.0]])
    fold = data.patient % 3
    for size, helps in ((0.7, False), (4.0, True)):
        outputs = right * sign * size
        heat = train_module._classes(data, fit.OutOfFold(outputs, np.ones(180), fold), asked())[
            "temperature"
        ]
        assert (heat.temperature != 1.0) is helps
        assert ("is not applied" in heat.fitted_on) is not helps
        assert (heat.reliability_before == heat.reliability_after) is not helps
        assert "calibration errors: no interval" in heat.fitted_on


@pytest.mark.parametrize(
    ("size", "wrong", "why"),
    [
        (1.0, 0.0, calibrate.TOLD_APART),
        (10.0, 0.0, calibrate.TOLD_APART),  # the search stops where the loss is zero already
        (1e-3, 0.1, calibrate.LAST_TRIED),
        (40.0, 0.1, calibrate.LAST_TRIED),
        (4.0, 0.1, ""),
    ],
)
def test_temperature_that_is_not_the_best_of_all_is_not_applied(
    size: float, wrong: float, why: str
) -> None:
    """Of patients who are all told apart a smaller one is always better: at 0.05 another
    collection's probabilities were exactly 1. Nor is the last one tried the best."""
    rng = np.random.default_rng(3)
    data = made_up(strength=2.0)
    right = np.where(rng.random((60, 1)) < wrong, -1.0, 1.0)[data.patient]
    sign = np.where(data.truth[:, None] == 1, [[-1.0, 1.0]], [[1.0, -1.0]])
    outside = fit.OutOfFold(right * sign * size, np.ones(180), data.patient % 3)
    heat = train_module._classes(data, outside, asked())["temperature"]
    tried = calibrate.temperature(outside.outputs, data.truth, data.weight)
    assert why in heat.fitted_on
    assert ("is not applied" in heat.fitted_on) is bool(why)
    assert (f"({tried:.3f})" in heat.fitted_on) is bool(why)
    assert heat.temperature == (1.0 if why else tried)
    assert not why or heat.reliability_before == heat.reliability_after


def test_scores_without_an_end_are_told_apart_wherever_the_search_stopped() -> None:
    """The loss is zero at every temperature that is tried: none is the best."""
    data = made_up()
    logits = np.where(data.truth[:, None] == 1, [[-400.0, 400.0]], [[400.0, -400.0]])
    assert calibrate.why_no_best(1.0, logits, data.truth) == calibrate.TOLD_APART
    logits[0] = 0.0  # who is in neither class more than in the other is not told apart
    assert calibrate.why_no_best(1.0, logits, data.truth) == ""


def test_identity_says_how_many_people_have_two_recordings() -> None:
    """Nobody had, and "lower --folds" was the advice."""
    once = made_up("identity", patients=30, items=1)
    with pytest.raises(DataFault, match=r"^0 people have two .* 3 folds need 6, 2 each") as refused:
        train(once, MODEL, asked())
    assert "--folds" not in refused.value.do
    assert "patient_id" in refused.value.do
    twice = made_up("identity", patients=30, items=2)
    kept = (twice.patient < 5) | (twice.session == 0)
    names = ("fingerprints", "truth", "patient", "session")
    few = replace(twice, **{name: getattr(twice, name)[kept] for name in names})
    with pytest.raises(DataFault, match=r"^5 people have two ") as refused:
        train(few, MODEL, asked())
    assert refused.value.do == "--folds 2 needs no more."
    assert train(few, MODEL, asked(folds=2)).manifest.verification is not None


def test_rare_class_is_not_given_up_for_the_many() -> None:
    """One in eight is sick: sets for each class hold their truth about as often as asked, sets for
    all together much less often. A class of 5 patients is promised nothing, and is in every set."""
    data = made_up(patients=240, items=2, strength=2.0)
    sick = (np.arange(240) % 8 == 0).astype(float)
    rare = made_up(patients=240, items=2, strength=0.0)
    x = rare.fingerprints.copy()
    x[:, 0] += 0.12 * sick[rare.patient].astype(np.float32)
    rare = replace(rare, fingerprints=x, truth=sick[data.patient])
    found = {}
    for promise in ("each class", "overall"):
        head = train(rare, MODEL, asked(promise=promise))
        found[promise] = figure(head.manifest.figures, "truth in the set, yes").value
    assert found["each class"] > 0.75
    assert found["overall"] < found["each class"] - 0.2
    few = np.where(np.arange(60) < 5, 1.0, 0.0)
    data = made_up(items=2)
    head = train(replace(data, truth=few[data.patient]), MODEL, asked())
    assert head.manifest.sets is not None
    assert head.manifest.sets.least[1] == 0.0
    assert {one.value for one in answer(head, data.fingerprints)} <= {None, "yes"}
    assert "too few patients for that promise" in card(head.manifest)


def test_a_head_never_answers_what_is_less_probable_than_something_else() -> None:
    """A class with few patients is in every set; where the other class is in none, the set is that
    class alone, however improbable. It was answered: of a head for AF 81 in 100 of its answers."""
    head = made_head()
    sets = head.manifest.sets
    assert sets is not None
    rare = replace(
        head,
        manifest=head.manifest.model_copy(
            update={"sets": sets.model_copy(update={"least": (0.9, 0.0)})}
        ),
    )
    data = made_up(seed=8, strength=2.0)
    found = answer(rare, data.fingerprints)
    shares = np.array([one.probabilities for one in found])
    between = (shares[:, 0] > 0.5) & (shares[:, 0] < 0.9)
    assert between.any()
    for one, inside in zip(found, between, strict=True):
        if one.value is not None:
            assert one.value == "yes"
            assert one.probabilities[1] > 0.5
        if inside:
            assert one.possible == ("yes",)
            assert one.why_abstained in {UNSURE, FAR}
    assert any(one.value == "yes" for one in found)


def test_what_the_card_calls_answered_is_what_the_head_answers() -> None:
    """On the same items, with the same sets; but for those that are far, which figures leave in."""
    head = made_head()
    sets = head.manifest.sets
    assert sets is not None
    for least in (sets.least, (0.9, 0.0), (0.7, 0.6)):
        manifest = head.manifest.model_copy(
            update={
                "sets": sets.model_copy(update={"least": least}),
                "distance": head.manifest.distance.model_copy(update={"limit": 1e6}),
            }
        )
        data = made_up(seed=8, strength=2.0)
        measured = _measured(replace(head, manifest=manifest), data, asked())
        answers = [one.value for one in answer(replace(head, manifest=manifest), data.fingerprints)]
        names = [manifest.classes[int(truth)] for truth in data.truth]
        given = np.array([one is not None for one in answers])
        right = np.array([one == name for one, name in zip(answers, names, strict=True)])
        found = {one.name: one.value for one in figures.figures(measured)}
        assert found["answered"] == pytest.approx(given.mean())
        assert found["accuracy where answered"] == pytest.approx(right[given].mean())


def test_a_head_of_identity_is_measured_by_sex_and_by_age() -> None:
    """Pairs of two recordings of the group's own patients; too few of them are no figure."""
    head = made_head("identity")
    groups = {group.name: group for group in head.manifest.groups}
    assert {one.name for one in groups["female"].figures} >= {"AUROC", "equal error rate"}
    assert groups["male"].figures[0].value > 0.6
    few = [group for group in groups.values() if not group.figures]
    assert few
    assert all("fewer than 20" in group.why_none for group in few)


def test_class_of_very_few_patients_is_named_in_the_card_and_not_on_stderr() -> None:
    """Two patients with a window each, five folds: scikit-learn would warn, an error in tests."""
    data = made_up(patients=42, items=1, classes=("no", "yes", "rare"))
    few = np.flatnonzero(data.truth == 2)[:2]
    truth = np.where(data.truth == 2, 0.0, data.truth)
    truth[few] = 2.0
    data = replace(data, truth=truth)
    head = train(data, MODEL, asked(folds=5))
    assert "rare (2)" in head.manifest.notes[-1]
    assert "rare (2)" in card(head.manifest)
    assert not train(made_up(), MODEL, asked(folds=5)).manifest.notes


@pytest.mark.parametrize(("patients", "classes"), [(8, 2), (9, 3), (8, 8)])
def test_fewer_patients_of_every_class_than_folds_give_fewer_folds(
    patients: int, classes: int
) -> None:
    """No patient is on both sides, and everybody is left out once."""
    data = made_up(patients=patients, items=1, classes=tuple("abcdefgh"[:classes]))
    parts = fit.splits(data, 5, 0)
    assert 2 <= len(parts) <= 5
    left_out = np.concatenate([test for _, test in parts])
    assert sorted(left_out) == list(range(patients))
    for inside, test in parts:
        assert not set(data.patient[inside]) & set(data.patient[test])
    assert fit.out_of_fold(data, 5, 0).outputs.shape == (patients, classes)
