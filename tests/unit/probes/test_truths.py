"""Truths out of labels: what other collections write, and that an unknown word is no "no"."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from client.records import Recording
from simulations.cohort_patients import HYPERTENSION
from simulations.cohort_sites import RHYTHMS
from simulations.probes import truths


def said(**labels: str | float) -> Recording:
    return Recording(
        patient="p", name="r", channels={}, labels=labels, events=(), series={}, digest=""
    )


@pytest.mark.parametrize(
    ("labels", "truth"),
    [
        ({"hypertension": "Normal"}, 0.0),
        ({"hypertension": "Prehypertension"}, 0.0),
        ({"hypertension": "Stage 1 hypertension"}, 1.0),
        ({"hypertension": "Stage  2 hypertension"}, 1.0),
        ({"hypertension": "yes"}, 1.0),
        ({"hypertension": "No"}, 0.0),
        ({"hypertension": 1.0}, 1.0),
        ({"hypertension": 0}, 0.0),
        ({"hypertension": "stage 0"}, None),
        ({"hypertension": "stage 12"}, None),
        ({"hypertension": "unknown"}, None),
        ({"hypertension": "unknown", "sbp": 180, "dbp": 100}, None),
        ({"sbp": 140, "dbp": 70}, 1.0),
        ({"sbp": 120, "dbp": 90}, 1.0),
        ({"sbp": 139, "dbp": 89}, 0.0),
        ({"sbp": 150}, None),
        ({"sbp": 120}, None),
        ({"sbp": 0, "dbp": 0}, None),
        ({"sbp": 18.6, "dbp": 12}, None),
        ({"sbp": 90, "dbp": 100}, None),
        ({"Hypertension": "YES"}, 1.0),
        ({"hypertension": "Stage 1 ruled out"}, None),
        ({"hypertension": 3}, None),
        ({"dbp": "nan", "sbp": 120}, None),
        ({}, None),
    ],
)
def test_hypertension_by_stage_word_or_pressure(
    labels: dict[str, str | float], truth: float | None
) -> None:
    """A word that is not known is not known, even beside pressures."""
    found = truths.hypertension(said(**labels))
    assert math.isnan(found) if truth is None else found == truth


def test_the_simulators_own_stages_are_understood() -> None:
    """The first reader of labels looked for "Stage" and took its "stage1" for a no."""
    found = [truths.hypertension(said(hypertension=word)) for word in HYPERTENSION]
    assert found == [0.0, 0.0, 1.0, 1.0]


def test_the_simulators_rhythms_are_af_sinus_or_not_asked_about() -> None:
    """Flutter is neither."""
    found = {word: truths.atrial_fibrillation(said(rhythm=word)) for word in RHYTHMS}
    assert found["af"] == 1.0
    assert found["sinus"] == 0.0
    assert math.isnan(found["flutter"])
    assert sum(math.isfinite(one) for one in found.values()) == 2


@pytest.mark.parametrize(
    ("labels", "truth"),
    [
        ({"af": 1}, 1.0),
        ({"af": "0"}, 0.0),
        ({"af": "perhaps", "rhythm": "AFIB"}, None),
        ({"rhythm": "Atrial Fibrillation"}, 1.0),
        ({"rhythm": "NSR"}, 0.0),
        ({}, None),
    ],
)
def test_atrial_fibrillation_by_label(labels: dict[str, str | float], truth: float | None) -> None:
    """Yes and no, or the rhythm of the whole recording."""
    found = truths.atrial_fibrillation(said(**labels))
    assert math.isnan(found) if truth is None else found == truth


def test_sex_age_and_rate_are_not_known_where_nothing_is_said() -> None:
    """Never a default."""
    for read in (truths.is_male, truths.age, truths.heart_rate):
        assert math.isnan(read(said(sex="other", age="old", hr="")))
    for impossible in (-1, 121, 1e308, "inf"):
        assert math.isnan(truths.age(said(age=impossible)))
    for impossible in (0, 19, 1e300):
        assert math.isnan(truths.heart_rate(said(hr=impossible)))
    assert truths.is_male(said(sex="f")) == 0.0
    assert truths.is_male(said(Sex="Male")) == 1.0
    assert truths.age(said(age="61")) == 61.0
    assert truths.heart_rate(said(hr=72)) == 72.0


@pytest.mark.parametrize(
    ("word", "truth"),
    [
        (1, 1.0),
        ("0", 0.0),
        ("yes", 1.0),
        ("1,0", 1.0),
        ("0,0", 0.0),
        (2, None),
        (0.5, None),
        ("", None),
    ],
)
def test_experts_words_are_yes_or_no(word: str | float, truth: float | None) -> None:
    """A third class, or a half, is neither."""
    for found in (truths.acceptable(said(acceptable=word)), truths.true_alarm(said(vt_true=word))):
        assert math.isnan(found) if truth is None else found == truth


def test_patients_whose_words_are_not_understood_are_counted_once() -> None:
    """Not who says nothing; of who says it in a known word in another recording the recording."""
    heard = truths.Heard(truths.is_male)
    for patient, sex in (
        ("a", "weibl."), ("a", "weibl."), ("b", "weibl."), ("b", "F"), ("c", ""), ("d", "M"),
    ):  # fmt: skip
        heard(replace(said(sex=sex), patient=patient))
    assert heard.words.startswith("what 1 patient says of sex is not understood (docs/probes.md")
    assert "; what 1 recording of another patient says of sex is not understood" in heard.words
    heard(replace(said(sex="weibl."), patient="d", digest="another"))
    assert "; what 2 recordings of other patients say of sex is not understood" in heard.words
    heard(replace(said(Sex="?"), patient="e"))
    assert heard.words.startswith("what 2 patients say of sex")
    assert truths.Heard(truths.age).words == ""
    pressures = truths.Heard(truths.hypertension)
    assert math.isnan(pressures(said(hypertension="Grad 1", sbp=180, dbp=100)))
    assert "of hypertension, sbp, dbp is" in pressures.words
