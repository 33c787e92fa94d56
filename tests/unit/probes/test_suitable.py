"""Whom a task can ask: windows with all of its sensors, patients enough for its folds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulations.probes.rows import RANDOM, Row
from simulations.probes.suitable import enough, suitable, with_its_sensors
from simulations.probes.table import run_table
from simulations.probes.task import Task

PATIENTS = 12


def task(kind: str = "auroc", sensors: tuple[str, ...] = ("both", "ecg", "ppg")) -> Task:
    """12 patients, a unit each of three windows, marked by their number; half are of a class."""
    unit = np.repeat(np.arange(PATIENTS), 3)
    return Task(
        name="marked",
        kind=kind,
        sensors=sensors,
        signal=np.arange(len(unit), dtype=np.float32)[:, None, None] * np.ones((1, 2, 3)),
        valid=np.ones((len(unit), 2, 50), dtype=bool),
        unit=unit,
        truth=(np.arange(PATIENTS) % 2).astype(float),
        group=np.arange(PATIENTS),
        session=np.zeros(PATIENTS, dtype=np.int64),
    )


def lacking(whole: Task, windows: set[int], channel: int) -> Task:
    """The task with one channel of these windows gone."""
    valid = whole.valid.copy()
    valid[list(windows), channel] = False
    return replace(whole, valid=valid)


@given(st.sets(st.integers(0, 3 * PATIENTS - 1)), st.sets(st.integers(0, 3 * PATIENTS - 1)))
def test_one_sensor_against_both_is_asked_of_windows_that_have_both(
    no_ecg: set[int], no_ppg: set[int]
) -> None:
    """Every window that stays keeps its unit's truth, and nothing else stays."""
    whole = lacking(lacking(task(), no_ecg, 0), no_ppg, 1)
    kept = sorted(set(range(3 * PATIENTS)) - no_ecg - no_ppg)
    left, words = with_its_sensors(whole)
    assert bool(words) == bool(no_ecg | no_ppg)
    if left is None:
        assert kept == []
        return
    assert left.signal[:, 0, 0].tolist() == kept
    assert left.truth[left.unit].tolist() == [float(one // 3 % 2) for one in kept]
    assert sorted(set(left.unit.tolist())) == list(range(len(left.truth)))
    assert left.patients == len({one // 3 for one in kept})


def test_what_is_left_out_is_counted_in_the_note() -> None:
    """Windows, and the items of which no window is left."""
    left, why = suitable(replace(lacking(task(), {0, 1, 2, 4}, 1), note="said before"))
    assert why == ""
    assert left is not None
    assert left.note == (
        "said before; only 5 patients of the smaller class; "
        "4 of 36 windows lack a sensor and are left out, 1 items with them"
    )
    whole, _ = suitable(task("mae"))
    assert whole is not None
    assert whole.note == ""


def test_a_task_of_one_sensor_does_not_miss_the_other() -> None:
    """ECG only: a window without PPG is as good as any."""
    whole = lacking(task(sensors=("ecg",)), {0, 1, 2}, 1)
    assert with_its_sensors(whole) == (whole, "")
    left, _ = with_its_sensors(lacking(whole, {3}, 0))
    assert left is not None
    assert len(left.signal) == 35


def test_where_quality_is_the_question_a_missing_sensor_is_part_of_it() -> None:
    """Nothing is left out."""
    whole = lacking(replace(task(sensors=("ecg",)), gated=False), {0, 1, 2}, 0)
    assert with_its_sensors(whole) == (whole, "")


def test_no_window_with_both_is_no_task() -> None:
    """In words."""
    assert suitable(lacking(task(), set(range(36)), 0)) == (
        None,
        "36 of 36 windows lack a sensor",
    )


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (task().of_patients(np.arange(PATIENTS) < 7), "7 patients; 8 are needed"),
        (
            replace(task(), truth=(np.arange(PATIENTS) < 2).astype(float)),
            "2 patients of the smaller class; 3 are needed",
        ),
        (
            replace(task("mae"), truth=np.full(PATIENTS, 50.0)),
            "the truth is the same of everybody",
        ),
        (
            replace(task(), kind="verification"),
            "0 patients have two recordings; 3 are needed",
        ),
    ],
)
def test_too_few_patients_are_no_task(made: Task, why: str) -> None:
    """With the number that there is."""
    assert enough(made) == (None, why)


def test_folds_are_as_many_as_the_smaller_class_has_patients() -> None:
    """Of a number: as many as there are patients, at most."""
    few, _ = enough(replace(task(), truth=(np.arange(PATIENTS) < 4).astype(float)))
    assert few is not None
    assert few.folds == 4
    number, _ = enough(task("mae"))
    assert number is not None
    assert number.folds == 5


def guesses(signal: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Features that hold nothing."""
    return np.random.default_rng(1).normal(size=(len(signal), 3))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_who_is_enough_can_be_probed_or_is_said_not_to_be(seed: int) -> None:
    """Windows of mixed truth, patients of very many and of one: a figure, or a reason, no error."""
    rng = np.random.default_rng(seed)
    patients = int(rng.integers(8, 13))
    group = np.repeat(np.arange(patients), rng.choice([1, 2, 5, 20], patients))
    often = np.where(np.arange(patients) < rng.integers(3, 5), rng.choice([0.1, 0.5, 0.9]), 0.0)
    index = np.arange(len(group))
    made = replace(
        task(sensors=("ecg",)),
        signal=np.zeros((len(group), 2, 3)),
        valid=np.ones((len(group), 2, 50), dtype=bool),
        unit=index,
        truth=(rng.random(len(group)) < often[group]).astype(float),
        group=group,
        session=np.zeros(len(group), dtype=np.int64),
    )
    found, why = enough(made)
    if found is None:
        assert why
        return
    rows = [Row(RANDOM, (guesses,))]
    table = run_table([found], rows, seed=seed % 7, draws=20, repeats=1)
    assert len(table.cells) + len(table.skipped) == 1
    for cell in table.cells:
        assert 0 <= cell.estimate.value <= 1
