"""Federated over pooled on every task: paired over patients, silent where nothing was gained."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from simulations.probes.pooled import ALIKE, ratios
from simulations.probes.rows import POOLED, RANDOM, WARM_START, WITHOUT_DP, Row
from simulations.probes.table import run_table
from simulations.probes.task import Task
from simulations.results_bars import BARS
from simulations.results_tables import probe

(BAR,) = (one for one in BARS if one.figure == "federated without DP against pooled, real patients")


def task(kind: str, few: int = 30) -> Task:
    rng = np.random.default_rng(1)
    signal = rng.normal(size=(60, 2, 1250)).astype(np.float32)
    truth = signal[:, 0, 0].astype(float)
    if kind == "auroc":
        truth = (np.arange(60) < few).astype(float)
        signal[:, 0, 0] += 1.5 * truth
    return Task(
        name={"mae": "age", "auroc": "recording quality"}[kind],
        kind=kind,
        sensors=("both", "ecg"),
        signal=signal,
        valid=np.ones((60, 2, 50), dtype=bool),
        unit=np.arange(60),
        truth=truth,
        group=np.arange(60),
        session=np.zeros(60, dtype=int),
        folds=3,
    )


def seeing(noise: float, place: int = 7) -> Any:
    def encode(signal: np.ndarray, valid: np.ndarray) -> np.ndarray:
        return (signal[:, 0, 0] + noise * signal[:, 1, place])[:, None]

    return encode


def rows(federated: float, pooled: float, start: float | None) -> list[Row]:
    made = [Row(RANDOM, (seeing(9.0, 3),)), Row(WITHOUT_DP, (seeing(federated),))]
    made.append(Row(POOLED, (seeing(pooled),)))
    return made if start is None else [*made, Row(WARM_START, (seeing(start),))]


def document(federated: float, pooled: float, start: float | None, few: int = 30) -> dict[str, Any]:
    tasks = [task("mae"), task("auroc", few)]
    return run_table(tasks, rows(federated, pooled, start), seed=0, draws=80, repeats=1).as_dict()


def test_a_ratio_is_paired_over_patients_and_kept_in_the_file() -> None:
    """Both models err alike, so that the ratio is known better than either figure."""
    made = document(0.5, 0.7, 2.0)
    found = ratios(made)
    assert found is not None
    assert [one.task for one in found.rows] == ["age", "recording quality"]
    for one in found.rows:
        at = {cell["row"]: cell["estimate"] for cell in made["cells"]
              if (cell["task"], cell["sensors"]) == (one.task, "both")}  # fmt: skip
        ratio = at[WITHOUT_DP]["value"] / at[POOLED]["value"]
        assert one.ratio["value"] == pytest.approx(ratio, abs=1e-4)
        assert one.ratio["low"] <= one.ratio["value"] <= one.ratio["high"]
        own = (at[POOLED]["high"] - at[POOLED]["low"]) / at[POOLED]["value"]
        assert one.ratio["high"] - one.ratio["low"] < 0.7 * own
        assert one.moved is not None
    assert found.moved is not None
    assert found.moved["low"] > 0
    assert found.beside == ""
    assert "within and 0 beyond, of 2 tasks that have one" in found.words


def test_the_bar_is_of_every_task_and_names_those_beyond() -> None:
    """Errors at most 1.03 of the pooled ones; and the pair is a row of the results page."""
    found = ratios(document(0.9, 0.4, 2.0))
    assert found is not None
    assert not found.reached
    assert found.rows[0].beyond
    assert "ratios within the bar on 0 of 2 tasks" in found.words
    assert "beyond: age 1." in found.words
    near = document(0.4, 0.4, 2.0)
    (answer,) = BAR.read(near)
    assert (answer.reached, answer.beside) == (True, "")
    assert answer.value.startswith("real patients, all patients: ratios within the bar on 2 of 2")
    alone = [one for one in near["cells"] if one["row"] != POOLED]
    assert list(BAR.read({**near, "cells": alone})) == []


def test_where_pooled_training_gains_nothing_the_ratio_says_nothing() -> None:
    """Worse than the warm start, or equal to it: both models are the warm start still."""
    for start, words in ((0.2, "gained nothing"), (0.8, "gained nothing")):
        (answer,) = BAR.read(document(0.8, 0.8, start))
        assert answer.reached is True
        assert f"but pooled training {words} over the warm start" in answer.answer
        assert ALIKE in answer.value
    (answer,) = BAR.read(document(0.8, 0.8, None))
    assert "does not say whether pooled training gained" in answer.answer


def test_a_file_of_before_has_points_and_says_so() -> None:
    """Of the cells; a point above the warm start shows no gain."""
    made = document(0.5, 0.7, 2.0)
    older = {name: one for name, one in made.items() if name != "against_pooled"}
    found, known = ratios(older), ratios(made)
    assert found is not None
    assert known is not None
    for one, other in zip(found.rows, known.rows, strict=True):
        assert one.ratio["value"] == pytest.approx(other.ratio["value"], abs=1e-4)
        assert one.ratio["low"] is None
    assert "no ratio has an interval" in found.words
    assert "is not shown to have gained" in found.beside
    text = "\n".join(probe(older))
    assert "says nothing: pooled is not shown to have gained" in text
    assert "(no interval) | <= 1.03 |" in text


def test_too_few_patients_of_a_class_give_no_interval_of_a_ratio() -> None:
    found = ratios(document(0.5, 0.7, 2.0, few=4))
    assert found is not None
    assert [one.has_interval for one in found.rows] == [True, False]
    assert "of 1 tasks that have one" in found.words


def gained_by_few_alone() -> dict[str, Any]:
    """Pooled training is the warm start on a task of many, and far above it on a task of four."""

    def encode(noise: float) -> Any:
        def by_task(signal: np.ndarray, valid: np.ndarray) -> np.ndarray:
            few = signal[:, 0, 1].mean() > 50.0
            return seeing(noise if few else 0.8)(signal, valid)

        return by_task

    quality = task("auroc", few=4)
    quality.signal[:, 0, 1] += 100.0
    made = [Row(RANDOM, (seeing(9.0, 3),)), Row(WITHOUT_DP, (encode(0.1),)),
            Row(POOLED, (encode(0.1),)), Row(WARM_START, (encode(9.0),))]  # fmt: skip
    return run_table([task("mae"), quality], made, seed=0, draws=80, repeats=1).as_dict()


def test_what_has_no_interval_cannot_make_the_mean_gain() -> None:
    made = gained_by_few_alone()
    few = made["against_pooled"]["rows"][1]["pooled_over_warm_start"]
    assert (few["low"], made["not_in_means"]) == (None, ["recording quality"])
    assert few["value"] > 0.2
    assert made["against_pooled"]["pooled_over_warm_start"]["value"] == 0.0
    found = ratios(made)
    assert found is not None
    assert "pooled training gained nothing over the warm start" in found.beside
    assert "the mean is of all tasks but recording quality (no interval)" in found.words


def test_an_older_files_mean_of_all_tasks_is_made_anew_of_points() -> None:
    """Its interval held who has none; without a mean it is the same mean of points."""
    made = gained_by_few_alone()
    held = {**made["against_pooled"],
            "pooled_over_warm_start": {"value": 0.3, "low": 0.2, "high": 0.4}}  # fmt: skip
    older = {name: one for name, one in made.items() if name != "not_in_means"}
    for known in (held, None):
        found = ratios({**older, "against_pooled": known})
        assert found is not None
        assert found.moved == {"value": 0.0, "low": None, "high": None}
        assert "all tasks but recording quality (no interval)" in found.words
        assert "gained nothing" in found.beside
    found = ratios({**made, "against_pooled": held})
    assert found is not None
    assert found.moved == held["pooled_over_warm_start"]


@pytest.mark.parametrize("pooled", [0.0, None, float("nan")])
@pytest.mark.parametrize("paired", [True, False])
def test_a_ratio_to_nothing_is_not_measured(pooled: float | None, paired: bool) -> None:
    """It ended the table and the whole page in a traceback."""
    made = document(0.5, 0.7, 2.0)
    for one in made["cells"]:
        if (one["row"], one["task"]) == (POOLED, "age"):
            one["estimate"] = {"value": pooled, "low": pooled, "high": pooled}
            one["skill"] = one["estimate"]
    ratio = made["against_pooled"]["rows"][0]["ratio"]
    if paired:
        found = ratios(made)
        assert found is not None
        assert found.rows[0].ratio == ratio  # the file's
        made["against_pooled"]["rows"][0]["ratio"] = {**ratio, "value": None}
    else:
        made = {name: one for name, one in made.items() if name != "against_pooled"}
    found = ratios(made)
    assert found is not None
    (first, second) = found.rows
    assert (first.measured, first.held, first.within, first.beyond) == (False,) * 4
    assert second.measured
    assert not found.reached
    assert "; not measured: age; " in found.words
    (answer,) = BAR.read(made)
    assert answer.reached is False
    assert "| both | not measured | <= 1.03 | not measured |" in "\n".join(probe(made))


def test_a_skill_that_is_none_moves_nothing() -> None:
    """Of one task, in an older file: then the mean of all is not known."""
    made = document(0.5, 0.7, 2.0)
    made.pop("against_pooled")
    for one in made["cells"]:
        if (one["row"], one["task"]) == (WARM_START, "age"):
            one["skill"] = {"value": None, "low": None, "high": None}
    found = ratios(made)
    assert found is not None
    assert (found.rows[0].moved, found.moved) == (None, None)
    assert "cannot be judged" in "\n".join(probe(made))
