"""Truths out of labels: what other collections write, and that an unknown word is no "no"."""

from __future__ import annotations

import math

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
        ({"sbp": 150}, 1.0),
        ({"sbp": 120}, None),
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
    assert truths.is_male(said(sex="f")) == 0.0
    assert truths.age(said(age="61")) == 61.0
    assert truths.heart_rate(said(hr=72)) == 72.0
