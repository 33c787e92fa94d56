"""Runs that do not compare are refused by their experiments, before any model is measured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from shared_model.errors import OurMistake
from simulations import gain, private_stage
from simulations.cli import app
from simulations.fresh_patients import Scores
from simulations.lab.experiment import Experiment

POOL = {"partition": {"kind": "iid"}}
TEN = {"federation": {"hospitals": 10, "patients": 20, **POOL}}
ONE = {"federation": {"hospitals": 1, "patients": 200, **POOL}}
LOCAL = {"privacy": {"mode": "local", "epsilon": 3.0}}
RANDOM = {"model": {"begin_with": "random-weights"}}

Finished = Callable[..., str]


@pytest.fixture
def finished(tmp_path: Path) -> Finished:
    """Makes a finished run's folder, as far as it is looked at, of an experiment."""

    def make(name: str, seed: int, **tables: Any) -> str:
        folder = tmp_path / name / f"seed-{seed}"
        folder.mkdir(parents=True)
        told = {"name": "x", "seed": seed, "privacy": {"mode": "none"}, **tables}
        (folder / "experiment.toml").write_text(Experiment.from_dict(told).to_toml())
        (folder / "result.json").write_text('{"model": "ab"}')
        return str(folder.parent)

    return make


@pytest.fixture(autouse=True)
def _nothing_is_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    def score(*_: object) -> None:
        raise AssertionError("scored")

    monkeypatch.setattr(gain, "draw", score)
    monkeypatch.setattr(gain, "score", score)
    monkeypatch.setattr(private_stage, "cost_of", lambda _: (1, 1.0, None, 0.0))


def refused(*words: str) -> str:
    fault = CliRunner().invoke(app, list(words)).exception
    assert isinstance(fault, OurMistake), fault
    return fault.message


def test_of_gain(finished: Finished) -> None:
    free, kept = finished("free", 1), finished("kept", 1, **LOCAL)
    assert "nothing to keep" in refused("gain", kept)
    assert "different models" in refused("gain", free, finished("random", 2, **RANDOM))
    assert "same experiment" in refused("gain", free, finished("again", 1))
    finished("free", 2)
    assert "Mode local has seeds [1], the reference [1, 2]." in refused("gain", free, kept)
    other = finished("other", 1, rounds=7)
    finished("other", 3, rounds=7)
    assert "has seeds" in refused("gain", free, other)  # whichever gains most


def test_of_against_pooled(finished: Finished) -> None:
    ten, one = finished("ten", 1, **TEN), finished("one", 1, **ONE)
    twice = finished("twice", 1, **TEN)
    assert "do not compare" in refused("against-pooled", ten, twice)
    finished("one", 2, **ONE)
    said = refused("against-pooled", ten, one)
    assert said == "The federated runs have seeds [1], the pooled ones [1, 2]."
    finished("ten", 2, **TEN, rounds=7)
    assert "differ in more than their seed" in refused("against-pooled", ten, one)


def test_of_private_stage(finished: Finished) -> None:
    free, kept = finished("free", 1), finished("kept", 1, **LOCAL)
    assert "All runs are one point" in refused("private-stage", free)
    assert "different models" in refused("private-stage", free, finished("random", 1, **RANDOM))
    assert "same experiment" in refused("private-stage", free, finished("again", 1))
    finished("free", 2)
    assert "is of a point with seeds [1]; there are [1, 2]" in refused("private-stage", free, kept)


def test_runs_that_compare_are_scored_as_they_were_checked(
    finished: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each starting model once; figures are of the scores, not of what was checked."""
    told: list[float] = []

    def score(*_: object) -> Scores:
        told.append(1.0 - 0.1 * len(told))
        return Scores({"a": "auroc"}, {"a": 0.7}, {"a": 0.4}, {}, {}, told[-1])

    monkeypatch.setattr(gain, "draw", lambda *_: None)
    monkeypatch.setattr(gain, "score", score)
    monkeypatch.setattr(gain.Result, "weights", lambda _: {})
    checked: list[gain.Run] = []
    folders = [
        Path(finished(name, 1, **more)) / "seed-1" for name, more in (("a", {}), ("b", LOCAL))
    ]
    runs = gain.read_runs(folders, patients=80, seed=0, check=checked.extend)
    assert [(run.before.loss, run.after.loss) for run in runs] == [
        (pytest.approx(1.0), pytest.approx(0.9)), (pytest.approx(1.0), pytest.approx(0.8))
    ]  # fmt: skip
    assert [run.name for run in checked] == [run.name for run in runs]
    assert all(run.after is gain.UNSCORED for run in checked)
