"""Too few patients of a class, or no draw that changes anything: a figure and no interval."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from client import cli_personal, personal
from shared_model import intervals, linear_heads
from simulations import cli_head_federate, cli_probe, cli_sweep, results_tables
from simulations.demo_report import _three
from simulations.heads import figures as heads
from simulations.lots import Lots
from simulations.probes import bars
from simulations.probes.evaluate import Estimate, interval
from simulations.probes.few import FIGURES, cells_of, mean_words, todays
from simulations.probes.ratios import mean_of
from simulations.probes.rows import HAND_MADE, RANDOM, Row
from simulations.probes.suitable import suitable
from simulations.probes.table import ProbeTable, run_table, sensor_losses
from simulations.probes.task import People, Task
from simulations.probes.unseen import Seen, without
from simulations.results_tables import probe

PATIENTS = 40
AF, NOTED = "atrial fibrillation", "only 3 patients of the smaller class"
NOBODY, NINE = (f"{one} of 26 patients were read by a run" for one in (0, 9))


def task(few: int, kind: str = "auroc") -> Task:
    """40 patients, two units of a window each; so many are of the class, or have both units."""
    patient = np.arange(PATIENTS)
    group = np.repeat(patient, 2)
    if kind == "verification":
        group = np.sort(np.r_[patient, patient[:few]])
    rng = np.random.default_rng(0)
    truth = (group < few).astype(float)
    signal = rng.normal(size=(len(group), 2, 1250)).astype(np.float32)
    signal[:, 0, 0] += 1.5 * truth
    return Task(
        name=AF,
        kind=kind,
        sensors=("both", "ecg"),
        signal=signal,
        valid=np.ones((len(group), 2, 50), dtype=bool),
        unit=np.arange(len(group)),
        truth=truth,
        group=group,
        session=np.arange(len(group)),
        folds=min(3, few),
    )


def knows(signal: np.ndarray, valid: np.ndarray) -> np.ndarray:
    return signal[:, 0, :1] + 0.2 * signal[:, 1, 5:6]


def perfect(signal: np.ndarray, valid: np.ndarray) -> np.ndarray:
    return (signal[:, 0, :1] > 50.0).astype(float)


def guesses(signal: np.ndarray, valid: np.ndarray) -> np.ndarray:
    return signal[:, 0, 5:6]


ROWS = [Row(RANDOM, (guesses,)), Row(HAND_MADE, (guesses,)), Row("ours", (knows,))]


def measured(one: Task, rows: list[Row] = ROWS) -> ProbeTable:
    return run_table([one], rows, seed=0, draws=40, repeats=1)


@pytest.mark.parametrize("kind", ["auroc", "verification"])
def test_fewer_than_five_patients_of_a_class_give_figures_without_interval(kind: str) -> None:
    """Neither of a figure, nor of a difference, nor of one sensor's loss; five give all."""
    for few in (4, 5):
        table = measured(task(few, kind))
        assert few == 5 or {one["interval"] for one in table.not_above()} == {False}
        document = table.as_dict()
        for cell in document["cells"]:
            assert cell["smaller_class"] == few
            known = [cell[key] for key in FIGURES if cell[key] is not None]
            assert all(one["value"] is not None for one in known)
            if few < 5:
                assert {one["low"] for one in known} | {one["high"] for one in known} == {None}
            else:
                assert cell["estimate"]["low"] is not None
        ends = {one["relative_loss"]["low"] for one in document["single_sensor"]}
        assert (ends == {None}) == (few < 5)


def test_a_task_of_few_is_counted_by_point_estimate_and_named() -> None:
    """The denominator stays; a bar that needs the interval is not reached."""
    for few in (4, 12):
        document = measured(task(few)).as_dict()
        one = bars.summary(document)["ours"]["above_random_init"]
        assert (one["tasks"], one["by_point_estimate"]) == (1, 1)
        assert (one["by_interval"], one["reached"]) == (int(few > 4), few > 4)
        words = f"no interval: {AF} (4 patients of the smaller class; 5 are needed)"
        assert (words in bars.sentences(document)[0]) == (few < 5)
        text = "\n".join(probe(document))
        assert ("(no interval: 4 patients of the smaller class)" in text) == (few < 5)
        assert (" *" in text.split("Paired")[0]) == (few > 4)


def test_a_sensors_loss_on_a_task_of_few_is_no_loss_against_chance() -> None:
    """It is not counted, for the reason that it has."""
    document = measured(task(4)).as_dict()
    losses = [{**one, "task": "age"} for one in document["single_sensor"]]
    sure = {"value": 0.9, "low": 0.8, "high": 0.95}
    cells = [{**one, "task": "age", "smaller_class": 9, "skill": sure} for one in document["cells"]]
    both = {
        "cells": document["cells"] + cells,
        "single_sensor": document["single_sensor"] + losses,
    }
    single = bars.summary(both)["ours"]["single_sensor"]
    assert (single["task"], single["not_above_chance"]) == ("age", [])
    assert single["no_interval"] == {AF: "4 patients of the smaller class"}
    assert bars.not_counted(single) == (
        f"; not counted, no interval: {AF} (4 patients of the smaller class; 5 are needed)"
    )


def test_who_is_always_right_has_no_interval_and_no_star() -> None:
    """1.0 [1.0, 1.0] of a few separable patients would be taken for certainty."""
    one = task(12)
    one.signal[:, 0, 0] += 100.0 * one.truth
    table = measured(one, [*ROWS[:2], Row("ours", (perfect,))])
    (cell,) = (cell for cell in table.cells if (cell.row, cell.sensors) == ("ours", "ecg"))
    assert cell.estimate.value == 1.0
    assert np.isnan([cell.estimate.low, cell.estimate.high]).all()
    older = {"low": 1.0, "high": 1.0, "value": 1.0}
    document = table.as_dict()
    kept = [{**cell, "estimate": older, "gain_over_random_init": older}
            for cell in document["cells"]]  # fmt: skip
    for shown in cells_of({**document, "cells": kept}):
        assert shown["estimate"] == {"value": 1.0, "low": None, "high": None}
        assert shown["gain_over_random_init"]["low"] is None
        assert shown["no_interval"] == ""


def old(metric: str = "AUROC", note: str | None = "", left_out: str | None = None) -> Any:
    """A file of before cells held the number."""
    one = {"value": 0.3, "low": 0.2, "high": 0.4}
    cell = {"task": AF, "sensors": "ecg", "row": "ours", "metric": metric, "patients": 26,
            "estimate": one, "skill": one, "gain_over_random_init": one,
            "gain_over_hand_made": one}  # fmt: skip
    seen = None if left_out is None else {"runs": [], "left_out": {AF: left_out}}
    notes = None if note is None else {AF: note}
    return {
        "cells": [cell],
        "single_sensor": [],
        "release": {"notes": notes, "unseen_by": seen},
    }


@pytest.mark.parametrize(
    ("document", "why", "said"),
    [
        (old(note=f"windows in AF; {NOTED}"), "3 patients of the smaller class", True),
        (
            old(note=NOTED, left_out=NOBODY),
            "3 patients of the",
            True,
        ),
        (
            old(note=NOTED, left_out=NINE),
            "3 patients of the",
            True,
        ),
        (old(note="only 7 patients of the smaller class"), "", True),
        (old(note="only 7 patients of the smaller class", left_out=NINE), "", False),
        (old(), "", True),  # ten at least, or the note would say it
        (old(left_out=NOBODY), "", True),
        (old(left_out=NINE), "", False),
        (old(note=None), "", False),
        (old("AUROC of same person"), "", False),
        (old("mean absolute error", left_out=NINE), "", True),
    ],
)
def test_of_an_older_file_the_note_tells_or_it_is_said_that_nothing_does(
    document: Any, why: str, said: bool
) -> None:
    """Its interval is gone where the note says so few; where it may be, its task is named."""
    (cell,) = todays(document)["cells"]
    assert cell["no_interval"].startswith(why)
    assert bool(cell["no_interval"]) == bool(why)
    assert (cell["estimate"]["low"] is None) == bool(why)
    assert cell["class_said"] == said
    one = bars.summary(document)["ours"]["above_random_init"]
    assert one["by_interval"] == (0 if why else 1)
    named = f"taken to have 5 patients of a class, which the file does not say: {AF}"
    assert (named in bars.sentences(document)[0]) == (not said)
    assert (named in "\n".join(probe(document | {"skipped": {}}))) == (not said)


def test_a_note_counts_the_smaller_class_of_the_patients_that_are_left() -> None:
    """It counted those whom the run had read, too."""
    whole = replace(
        task(8),
        note="male",
        people=People(
            ("ward",), np.zeros(PATIENTS, dtype=int), np.full(PATIENTS, ""), np.zeros(PATIENTS),
            (np.arange(PATIENTS) % 2) * 0.9,
        ),
    )  # fmt: skip
    noted, _ = suitable(whole)
    assert noted is not None
    assert noted.note == "male; only 8 patients of the smaller class"
    left, _ = without(noted, [Seen("run", frozenset({"ward"}), Lots(0.0, 0.5))])
    assert left is not None
    assert left.note == "male; only 4 patients of the smaller class"


def test_a_loss_without_width_is_none_as_every_figure() -> None:
    """Of a task of many patients; and a value that is none has no ends."""
    made = measured(task(12)).as_dict()
    sure = {"value": 0.1, "low": 0.1, "high": 0.1}
    losses = [{**one, "relative_loss": sure} for one in made["single_sensor"]]
    (shown,) = {str(one["relative_loss"]) for one in todays(made | {"single_sensor": losses})
                ["single_sensor"]}  # fmt: skip
    assert shown == str({"value": 0.1, "low": None, "high": None})
    kept = todays(made)["single_sensor"]
    assert kept == made["single_sensor"]
    nothing = {"value": None, "low": 0.1, "high": 0.2}
    losses = [{**one, "relative_loss": nothing} for one in made["single_sensor"]]
    for one in todays(made | {"single_sensor": losses})["single_sensor"]:
        assert one["relative_loss"] == {"value": None, "low": None, "high": None}


def test_a_loss_against_nothing_is_not_a_traceback() -> None:
    """Both sensors with a figure of zero: there is no relative loss."""
    by = {"both": {"ours": (0.0, np.zeros(9))}, "ecg": {"ours": (0.4, np.full(9, 0.4))}}
    (one,) = sensor_losses(task(12), by)
    assert not np.isfinite(one.loss.value)
    assert np.isnan([one.loss.low, one.loss.high]).all()


def test_a_mean_over_tasks_leaves_out_who_has_no_interval() -> None:
    """Its 0.5 of four patients made "has gained" of tasks that had not; the table says who."""
    many = replace(task(12), name="age")
    alone, both = (run_table(tasks, ROWS, seed=0, draws=40, repeats=1)
                   for tasks in ([many], [many, task(4)]))  # fmt: skip
    assert both.overall == alone.overall
    assert (alone.not_in_means, both.not_in_means) == ([], [AF])
    assert both.as_dict()["not_in_means"] == [AF]
    of_few = measured(task(4))
    assert (of_few.overall, of_few.not_in_means) == ({}, [AF])
    assert mean_words([]) == "all tasks"
    assert mean_words([AF]) == f"all tasks but {AF} (no interval)"


def test_the_command_says_whose_mean_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    table = run_table([replace(task(12), name="age"), task(4)], ROWS, seed=0, draws=40, repeats=1)
    cli_probe._print(table, {"source": "ours"}, 1)
    shown = " ".join(capsys.readouterr().out.split())
    assert f"mean gain over random-init, all tasks but {AF} (no interval): ours: " in shown


def test_a_draw_counts_in_a_mean_where_every_task_has_its_classes() -> None:
    """As of one task; it is no mean of the others."""
    draws = np.linspace(0.0, 1.0, 41)
    holed = np.where(np.arange(41) < 10, np.nan, draws)
    found = mean_of([(0.5, draws), (0.7, holed)])
    assert found.value == pytest.approx(0.6)
    assert (found.low, found.high) == pytest.approx(intervals.ends(draws[10:]))


def test_probes_and_heads_have_one_rule() -> None:
    """So many patients of a class, and no interval where no draw changes the figure."""
    assert personal.FEWEST_OF_A_CLASS == intervals.FEWEST_OF_A_CLASS >= linear_heads.FOLDS
    assert heads.FEWEST_OF_A_CLASS == intervals.FEWEST_OF_A_CLASS
    for drawn in (np.full(9, 0.7), np.array([0.7, np.nan]), np.full(3, np.nan)):
        assert np.isnan(intervals.ends(drawn)).all()
        assert np.isnan([interval(0.7, drawn).low, interval(0.7, drawn).high]).all()
        assert heads.ends(drawn) == (None, None)
    varied = np.linspace(0.0, 1.0, 101)
    assert intervals.ends(varied) == pytest.approx((0.025, 0.975))
    assert heads.ends(varied) == pytest.approx((0.025, 0.975))
    assert np.isnan(intervals.ends(1e6 * (1.0 + 1e-15 * varied))).all()  # rounding is no change
    assert intervals.percentiles(np.full(9, 0.7)) == pytest.approx((0.7, 0.7))
    assert np.isnan(intervals.percentiles(np.full(3, np.nan))).all()


def test_rounding_alone_closes_no_interval() -> None:
    """1.000 [1.000, 1.000] stood at the terminal, where the file has 0.99996 [0.99976, 1.0]."""
    estimate = Estimate(0.99996, 0.99976, 1.0)
    figure = {"value": estimate.value, "low": estimate.low, "high": estimate.high}
    assert cli_probe._three(estimate) == "1.0000 [0.9998, 1.0000]"
    assert results_tables.interval(figure, 3) == _three(figure) == "1.0000 [0.9998, 1.0000]"
    assert results_tables.interval(figure, 2) == "1.0000 [0.9998, 1.0000]"
    assert cli_probe._three(Estimate(0.9, 0.8, 1.0)) == "0.900 [0.800, 1.000]"
    assert intervals.form(0.5, 0.5) == intervals.form(0.5, 0.500001) == "z.3f"


def test_zero_has_no_sign_and_no_end_below_zero_looks_like_zero() -> None:
    """ "-0.000" passed for another end than "0.000", and "0.000" would hide that an interval is
    wholly below zero."""
    for ends, shown in (
        ((-4e-4, 3.2e-4), "0.0000 [-0.0004, 0.0003]"),
        ((-0.019, -2e-4), "-0.0096 [-0.0190, -0.0002]"),
        ((-1e-9, 0.3), "0.150 [0.000, 0.300]"),
        ((-1e-9, 4e-4), "0.0002 [0.0000, 0.0004]"),
        ((-1e-9, 1e-9), "0.000 [0.000, 0.000]"),
        ((0.0, 0.3), "0.150 [0.000, 0.300]"),
        ((2e-4, 0.3), "0.150 [0.000, 0.300]"),
    ):
        value = round(sum(ends) / 2, 5)
        assert intervals.words(value, *ends) == shown
    assert intervals.words(-0.0004, None, None) == "0.000"
    assert intervals.words(0.00421, -0.0002, 0.01, 4, sign="+") == "+0.0042 [-0.0002, +0.0100]"
    assert results_tables.interval({"value": -4e-4, "low": None, "high": None}, 3) == (
        "0.000 (no interval)"
    )


def test_rounding_closes_no_interval_in_other_tables() -> None:
    ends = {"low": 0.99976, "high": 1.0}
    told = cli_head_federate._interval({"value": 0.99996, **ends})
    assert told == {"value": "1.0000", "95 % interval": "0.9998 to 1.0000"}
    assert cli_sweep._interval(0.99996, **ends) == "1.0000 (0.9998-1.0000)"
    own = personal.FigureSaid(name="AUROC", value=0.99996, reference=0.5, **ends)
    assert cli_personal._with_ends(own) == "1.0000 (0.9998 to 1.0000; without the signal 0.5000)"
    assert cli_sweep._interval(0.9, None, None) == "0.900"


def test_the_demos_report_says_that_there_is_no_interval() -> None:
    assert _three({"value": 0.967, "low": None, "high": None}) == "0.967 (no interval)"
    assert _three({"value": 0.967, "low": 0.9, "high": 1.0}) == "0.967 [0.900, 1.000]"
    assert _three({"value": None, "low": None, "high": None}) == "- (no interval)"
