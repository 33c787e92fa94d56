"""The frontier: which runs it makes, means and intervals over seeds, and its figure."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared_model.errors import OurMistake
from simulations.lab.experiment import Experiment
from simulations.lab.frontiers import NONE, START, Frontier, interval, metrics_of, points_of, write
from simulations.lab.space import points_of as runs_of

BASE = Experiment.from_dict(
    {"name": "base", "rounds": 4, "algorithm": {"steps": 3}, "privacy": {"epsilon": 1.0}}
)
METRIC = "auroc rhythm"


def row(mode: str, epsilon: float | None, seed: int, value: float, **others: Any) -> dict[str, Any]:
    """A finished run's row."""
    return {
        "state": "finished",
        "seed": seed,
        "privacy.mode": mode,
        "privacy.epsilon": epsilon,
        "federation.hospitals": 4,
        "federation.patients": 50,
        "epsilon": epsilon,
        "delta": None if epsilon is None else 1e-5,
        "noise_to_signal": 0.0 if epsilon is None else 3.0,
        METRIC: value,
        f"{METRIC} start": 0.5 + seed / 100.0,
    } | others


ROWS = [
    row("local", 1.0, 1, 0.60),
    row("local", 1.0, 2, 0.64),
    row("local", 3.0, 1, 0.70),
    row("local", 3.0, 2, 0.80),
    row("none", None, 1, 0.90),
    row("none", None, 2, 0.92),
]


def test_every_combination_is_run_and_each_without_privacy() -> None:
    """Two epsilons and none, two numbers of hospitals, of patients, two seeds: 24 runs."""
    asked = Frontier(epsilons=(1.0, 3.0), hospitals=(4, 8), patients=(50, 90), seeds=(1, 2))
    found = [point.experiment for point in runs_of(asked.sweep(BASE))]
    assert len(found) == 24
    assert sum(one.privacy.mode == "none" for one in found) == 8
    assert {one.federation.hospitals for one in found} == {4, 8}
    assert {(one.rounds, one.algorithm.steps) for one in found} == {(4, 3)}


def test_both_trust_models_take_as_many_steps() -> None:
    """Mode distributed: one plain step a round, so as many rounds as mode local has steps."""
    asked = Frontier(
        epsilons=(2.0,), hospitals=(4,), patients=(50,), seeds=(1,), modes=("local", "distributed")
    )
    found = {p.experiment.privacy.mode: p.experiment for p in runs_of(asked.sweep(BASE))}
    shared = found["distributed"]
    assert (shared.rounds, shared.algorithm.steps, shared.algorithm.optimiser) == (12, 1, "sgd")
    assert shared.algorithm.learning_rate == asked.distributed_rate
    assert found["none"].algorithm == found["local"].algorithm


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=8))
def test_an_interval_is_students(values: list[float]) -> None:
    """As SciPy computes it, and around the mean."""
    from scipy import stats

    mean, low, high = interval(values)
    assert low is not None
    assert high is not None
    error = stats.sem(values)
    assert mean == pytest.approx(sum(values) / len(values), abs=1e-9)
    if error > 1e-9:
        wanted = stats.t.interval(0.95, len(values) - 1, loc=mean, scale=error)
        assert (low, high) == pytest.approx(wanted, rel=1e-6, abs=1e-9)


def test_seeds_are_averaged_and_the_starting_model_is_counted_once_a_seed() -> None:
    """Means of two seeds; the starting model is the same in all runs of a seed."""
    points = {(one.mode, one.epsilon): one for one in points_of(ROWS, METRIC)}
    assert points["local", 1.0].mean == pytest.approx(0.62)
    assert points["local", 3.0].seeds == 2
    low = points["local", 3.0].low
    assert low is not None
    assert low == pytest.approx(0.75 - 12.7062 * 0.05, abs=1e-3)
    assert points[START, None].mean == pytest.approx(0.515)
    assert points[START, None].seeds == 2
    assert points[NONE, None].spent is None
    assert points["local", 3.0].spent == 3.0


def test_one_seed_has_no_interval() -> None:
    """Nothing is claimed of it."""
    assert interval([0.5]) == (0.5, None, None)


def test_what_failed_is_in_no_mean() -> None:
    """A failed run has no figure."""
    failed = row("local", 1.0, 3, 99.0, state="failed")
    points = {(one.mode, one.epsilon): one for one in points_of([*ROWS, failed], METRIC)}
    assert points["local", 1.0].seeds == 2


def test_a_figure_that_no_run_has_is_refused_with_those_there_are() -> None:
    """The refusal names what can be drawn."""
    assert metrics_of(ROWS) == [METRIC]
    with pytest.raises(OurMistake, match=f"Choose from: {METRIC}"):
        points_of(ROWS, "loss")


def test_a_table_that_is_no_frontier_is_refused() -> None:
    """It does not vary what a frontier varies."""
    plain = [{key: value for key, value in ROWS[0].items() if key != "federation.patients"}]
    with pytest.raises(OurMistake, match=r"does not vary federation.patients"):
        points_of(plain, METRIC)


def test_the_files_hold_every_point_and_repeat_to_the_byte(tmp_path: Path) -> None:
    """CSV with one line a point; PDF and SVG without a date."""
    points = points_of(ROWS, METRIC)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        files = write(points, tmp_path / name)
        assert [path.name for path in files] == ["frontier.csv", "frontier.pdf", "frontier.svg"]
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()
    lines = list(csv.DictReader((tmp_path / "one" / "frontier.csv").read_text().splitlines()))
    assert len(lines) == len(points)
    assert math.isclose(float(lines[0]["mean"]), points[0].mean)


def test_without_a_private_run_there_is_no_frontier(tmp_path: Path) -> None:
    """Only references: nothing is drawn."""
    points = [one for one in points_of(ROWS, METRIC) if one.mode in (NONE, START)]
    with pytest.raises(OurMistake, match="no frontier to draw"):
        write(points, tmp_path)


def test_real_folders_have_no_frontier() -> None:
    """Their number and patients cannot be varied, so nothing is pretended."""
    federation = {"source": "folders", "folders": ["a", "b", "c"]}
    base = Experiment.from_dict(
        {"name": "real", "federation": federation, "privacy": {"epsilon": 1.0}}
    )
    with pytest.raises(OurMistake, match="patients that they have"):
        Frontier().sweep(base)


def test_a_wrong_frontier_is_refused_in_words() -> None:
    """The field is named."""
    with pytest.raises(OurMistake, match=r"wrong at epsilons.0"):
        Frontier.from_dict({"epsilons": [-1.0]})
    with pytest.raises(OurMistake, match=r"wrong at modes.0"):
        Frontier.from_dict({"modes": ["none"]})
