"""Runs on a folder of recordings, measured on those of its patients whom they did not read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from shared_model import mae, warm_start
from shared_model.errors import OurMistake
from simulations import private_stage_unseen
from simulations.cohort import SiteEffects, draw_cohort, write_site
from simulations.lab.conduct import run
from simulations.lab.experiment import Experiment
from simulations.lab.result import Result
from simulations.private_stage_unseen import read_unseen
from simulations.unseen_losses import losses, unseen_by

LOTS = [0.0, 0.6]


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fourteen pretend patients, as files."""
    folder = tmp_path_factory.mktemp("data") / "ward"
    cohort = draw_cohort(np.random.default_rng(1), 14, 3, SiteEffects(name="ward"))
    write_site(folder, cohort, "parquet")
    return folder


@pytest.fixture(scope="module")
def runs(ward: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs of one step without privacy, that differ in how far it goes."""
    out, made = tmp_path_factory.mktemp("out"), []
    for name, rate in (("fast", 0.5), ("slow", 0.1)):
        experiment = Experiment.from_dict(
            {
                "name": name,
                "rounds": 1,
                "privacy": {"mode": "none", "sample_rate": 1.0},
                "algorithm": {"steps": 1, "optimiser": "sgd", "learning_rate": rate},
                "participation": {"minimum_contributors": 1},
                "federation": {
                    "source": "folders", "folders": [str(ward)], "lots": LOTS, "held_out": 0.0,
                },
                "engine": {"workers": 1},
            }
        )  # fmt: skip
        made.append(out / experiment.name)
        run(experiment, made[-1])
    return made


def test_first_and_last_model_of_each_run_are_measured_on_the_unread(
    runs: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(private_stage_unseen, "LEAST_PATIENTS", 3)
    told: list[str] = []
    stages, measured = read_unseen(runs, on_done=told.append)
    assert told == ["fast", "slow"]
    unseen = unseen_by([stage.experiment for stage in stages])
    assert measured.sites == (("ward", len(unseen), int(unseen.both.sum())),)
    assert measured.lots == (0.6, 1.0)
    config, first, _ = warm_start.load("tiny")
    for stage, folder in zip(stages, runs, strict=True):
        assert np.array_equal(stage.run.before, losses(config, first, unseen))
        last = Result.open(folder).weights()
        assert np.array_equal(stage.run.after, losses(config, last, unseen))
        assert stage.parameters == mae.parameter_counts(mae.build(config, 0))["head"]
    falls = [float((stage.run.before - stage.run.after).mean()) for stage in stages]
    assert falls[0] != falls[1]
    assert all(fall != 0.0 for fall in falls)


def test_what_does_not_compare_is_refused_before_a_recording_is_read(
    runs: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(private_stage_unseen, "unseen_by", None)
    with pytest.raises(OurMistake, match="named twice"):
        read_unseen([runs[0], runs[0]])
    with pytest.raises(OurMistake, match="All runs are one point"):
        read_unseen([runs[0]])


def test_too_few_patients_are_refused_before_a_model_is_measured(
    runs: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(private_stage_unseen, "losses", None)
    with pytest.raises(OurMistake, match=r"\d patients are unread .* 20 are needed"):
        read_unseen(runs)


def test_a_model_without_a_finite_loss_is_named(
    runs: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not dropped in silence, and not a trace from the statistics."""
    monkeypatch.setattr(private_stage_unseen, "LEAST_PATIENTS", 3)
    known = Result.open(runs[1]).weights()

    def lost(config: object, weights: dict[str, np.ndarray], unseen: list[object]) -> np.ndarray:
        found = np.ones(len(unseen))
        if all(np.array_equal(weights[name], known[name]) for name in known):
            found[1] = np.inf
        return found

    monkeypatch.setattr(private_stage_unseen, "losses", lost)
    with pytest.raises(OurMistake, match=r"slow is not finite for 1 patients"):
        read_unseen(runs)


def test_a_folder_that_is_called_otherwise_now_is_refused(runs: list[Path], ward: Path) -> None:
    """Its patients have other lots under the other name: some would be measured who trained."""
    other = ward.with_name("clinic")
    ward.rename(other)
    ward.symlink_to(other)
    try:
        with pytest.raises(OurMistake, match="not called so any more: ward"):
            read_unseen(runs)
    finally:
        ward.unlink()
        other.rename(ward)
