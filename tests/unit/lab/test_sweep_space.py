"""A sweep's file: what it makes, and what it refuses before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared_model.errors import OurMistake
from simulations.lab.experiment import Experiment
from simulations.lab.space import Drawn, Point, Sweep, points_of

BASE = 'name = "base"\nrounds = 2\n[privacy]\nepsilon = 1.0\n'


def read(folder: Path, text: str) -> Sweep:
    """A sweep's file beside its base."""
    (folder / "exp.toml").write_text(BASE)
    path = folder / "sweep.toml"
    path.write_text(text)
    return Sweep.from_toml(path)


def of(**tables: Any) -> Sweep:
    """A sweep of plain values."""
    base = {"name": "base", "rounds": 2, "privacy": {"epsilon": 1.0}}
    return Sweep.from_dict({"experiment": Experiment.from_dict(base).as_dict()} | tables)


def test_a_grid_is_every_combination_with_every_seed(tmp_path: Path) -> None:
    """Three epsilons, two rounds, two seeds: twelve runs, the first seed first."""
    sweep = read(
        tmp_path,
        'base = "exp.toml"\nseeds = [5, 7]\n[grid]\n"privacy.epsilon" = [1, 3, 8]\nrounds = [1, 2]',
    )
    points = points_of(sweep)
    assert sweep.count == len(points) == 12
    assert [point.experiment.seed for point in points] == [5] * 6 + [7] * 6
    assert {(p.experiment.privacy.epsilon, p.experiment.rounds) for p in points} == {
        (epsilon, rounds) for epsilon in (1.0, 3.0, 8.0) for rounds in (1, 2)
    }
    assert sweep.varied == ("privacy.epsilon", "rounds", "seed")


def test_the_base_can_stand_in_the_file(tmp_path: Path) -> None:
    """[experiment] in the place of base."""
    text = '[experiment]\nname = "in-line"\n[experiment.privacy]\nepsilon = 2.0\n'
    assert read(tmp_path, text).base.privacy.epsilon == 2.0


def test_points_change_fields_together() -> None:
    """Mode distributed needs one plain step; mode none needs no epsilon."""
    points = points_of(
        of(
            points=[
                {"privacy.mode": "none", "privacy.epsilon": "none"},
                {
                    "privacy.mode": "distributed",
                    "algorithm.steps": 1,
                    "algorithm.optimiser": "sgd",
                },
            ],
        )
    )
    told = [(one.experiment.privacy.mode, one.experiment.privacy.epsilon) for one in points]
    assert told == [("none", None), ("distributed", 1.0)]


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    low=st.floats(1e-6, 1.0),
    factor=st.floats(1.0, 100.0),
    draws=st.integers(1, 8),
)
def test_draws_stay_within_their_bounds(seed: int, low: float, factor: float, draws: int) -> None:
    """Uniform, logarithmic and whole numbers, bounds included; a choice is one of its values."""
    fields = {
        "algorithm.server_learning_rate": {"uniform": [low, low * factor]},
        "algorithm.learning_rate": {"log_uniform": [low, low * factor]},
        "algorithm.steps": {"integers": [2, 5]},
        "model.trainable": {"choice": ["head", "all"]},
    }
    sweep = of(random={"draws": draws, "seed": seed, **fields})
    for values in sweep.values():
        assert low <= values["algorithm.server_learning_rate"] <= low * factor
        assert low <= values["algorithm.learning_rate"] <= low * factor
        assert values["algorithm.steps"] in (2, 3, 4, 5)
        assert values["model.trainable"] in ("head", "all")


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), draws=st.integers(1, 10), more=st.integers(1, 10))
def test_more_draws_or_fields_leave_the_earlier_draws_alone(
    seed: int, draws: int, more: int
) -> None:
    """A draw depends on its number and field only."""
    rate = {"algorithm.learning_rate": {"log_uniform": [1e-4, 1e-2]}}
    steps = {"algorithm.steps": {"integers": [1, 1000]}}
    few = list(of(random={"draws": draws, "seed": seed, **rate}).values())
    many = list(of(random={"draws": draws + more, "seed": seed, **rate, **steps}).values())
    name = "algorithm.learning_rate"
    assert [one[name] for one in few] == [one[name] for one in many[:draws]]
    assert len({one[name] for one in many}) == draws + more


def test_two_combinations_of_the_same_experiment_are_one_run() -> None:
    """1 and 1.0 are the same epsilon."""
    assert len(points_of(of(grid={"privacy.epsilon": [1, 1.0, 2]}))) == 2


def test_a_run_is_named_by_what_its_row_depends_on() -> None:
    """Name and engine are not in it; evaluation is."""
    base = Experiment.from_dict({"name": "a", "privacy": {"epsilon": 1.0}})

    def key(**values: Any) -> str:
        named = {name.replace("__", "."): value for name, value in values.items()}
        return Point(1, {}, base.with_values(named)).key

    assert key(name="b") == key(engine__workers=7) == key()
    assert len({key(), key(seed=9), key(evaluation__every=2), key(privacy__epsilon=2.0)}) == 4


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("seeds = [1]", "A sweep has a base experiment"),
        ('base = "exp.toml"\n[experiment]\nname = "x"', "A sweep has a base experiment"),
        ('base = "gone.toml"', "gone.toml cannot be read"),
        ('base = "exp.toml"\nseed = 3', "wrong at seed: Extra inputs"),
        ('base = "exp.toml"\nseeds = [1, 1]', "a seed is given twice"),
        ('base = "exp.toml"\n[grid]\nrounds = []', "wrong at grid.rounds"),
        ('base = "exp.toml"\n[random]\ndraws = 2\nrounds = 3', "wrong at random.rounds"),
        (
            'base = "exp.toml"\n[random]\ndraws = 2\n'
            "rounds = { integers = [1, 2], uniform = [1, 2] }",
            "give one of",
        ),
        (
            'base = "exp.toml"\n[random]\ndraws = 2\nrounds = { integers = [3, 2] }',
            "the lower bound comes first",
        ),
        (
            'base = "exp.toml"\n[random]\ndraws = 2\nrounds = { log_uniform = [0, 2] }',
            "numbers above 0",
        ),
        (
            'base = "exp.toml"\n[grid]\nrounds = [1]\n[random]\ndraws = 1\n'
            "rounds = { integers = [1, 2] }",
            "both in grid and in random",
        ),
        ("base = [", "is not TOML"),
    ],
)
def test_a_wrong_file_is_refused_in_words(tmp_path: Path, text: str, said: str) -> None:
    """Each fault says where it is."""
    with pytest.raises(OurMistake, match=said):
        read(tmp_path, text)


@pytest.mark.parametrize(
    ("grid", "said"),
    [
        ({"privacy.epsilonn": [1]}, r"privacy.epsilonn = 1: An experiment has no field"),
        ({"privacy.epsilon": ["x"]}, r"privacy.epsilon = 'x': The experiment is wrong at"),
        ({"privacy.mode": ["distributed"]}, "one plain step"),
    ],
)
def test_values_that_make_no_experiment_are_refused_before_anything_runs(
    grid: dict[str, Any], said: str
) -> None:
    """The fault names the combination."""
    with pytest.raises(OurMistake, match=said):
        points_of(of(grid=grid))


def test_a_sweep_without_end_is_refused() -> None:
    """At most ten thousand runs."""
    with pytest.raises(OurMistake, match="10,001 runs"):
        points_of(of(seeds=list(range(10_001))))


def test_a_drawn_field_is_drawn_one_way() -> None:
    """None, or two ways, is refused."""
    with pytest.raises(ValueError, match="give one of"):
        Drawn()
