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
