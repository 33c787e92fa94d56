"""Points of a sweep on real patients whom no run has read: paired, honest about what is drawn."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from shared_model.errors import OurMistake
from simulations import (
    cli_gain,
    private_stage,
    private_stage_unseen,
    results_figures,
    results_page,
    results_tables,
)
from simulations.lab.experiment import Experiment
from simulations.private_stage import Stage
from simulations.private_stage_unseen import Measured, UnseenRun, compared_unseen, interval

ROOT = Path(__file__).resolve().parents[3]
BASE = Experiment.from_toml(ROOT / "docs" / "experiments" / "private-stage-real.toml")
FREE = {"privacy.mode": "none", "privacy.epsilon": None}
PATIENTS = 60
WHOSE = Measured(np.arange(PATIENTS) < 30, (("a", 40, 30), ("b", 20, 0)), (0.5, 1.0))


def a_stage(values: dict[str, Any], seed: int, falls: np.ndarray) -> Stage[UnseenRun]:
    """Falls of each patient, from losses that differ much between patients."""
    experiment = BASE.with_values({**values, "seed": seed})
    before = 1.0 + np.random.default_rng(7).random(len(falls))
    name = f"{experiment.privacy.mode}, seed {seed}"
    run = UnseenRun(name, experiment, "start", f"digest {seed}", before, before - falls)
    return Stage(run, 1000, 4000.0, None if experiment.privacy.mode == "none" else 2.99, 1e-5)


def _mine(seed: int) -> np.ndarray:
    """Falls of the base's patients."""
    patients = np.random.default_rng(1).normal(0.02, 0.2, PATIENTS)
    return patients + 0.02 - patients.mean() + 0.001 * seed


def a_sweep(seeds: tuple[int, ...] = (1, 2)) -> list[Stage[UnseenRun]]:
    """Patients differ by far more than the points; norms are 0.01 better for everybody."""
    found = []
    for seed in seeds:
        mine = _mine(seed)
        found += [
            a_stage({}, seed, mine),
            a_stage({"model.trainable": "norms"}, seed, mine + 0.01),
            a_stage(FREE, seed, mine + 0.03),
        ]
    return found


def test_a_fall_is_the_mean_of_patients_and_seeds_and_differences_are_paired() -> None:
    """What is the same for everybody has no interval, however much patients differ."""
    base, norms, free = compared_unseen(a_sweep(), WHOSE)["rows"]
    assert base["fall"]["value"] == pytest.approx(0.0215)
    assert base["fall"]["low"] < 0.0 < base["fall"]["high"]
    for end in ("value", "low", "high"):
        assert norms["more_than_base"][end] == pytest.approx(0.01)
    assert base["more_than_base"] is None
    both = np.arange(PATIENTS) < 30
    mine = np.mean([_mine(seed)[both] for seed in (1, 2)])
    assert base["fall_with_both"]["value"] == pytest.approx(mine)
    assert free["fall_with_both"]["value"] == pytest.approx(mine + 0.03)


@pytest.mark.parametrize("seed_sd", [0.0, 0.02, 0.1])
@pytest.mark.parametrize("seeds", [2, 3])
def test_intervals_cover_the_mean_of_patients_and_noise(seed_sd: float, seeds: int) -> None:
    """Of 400 intervals of 95 % at most 32 miss, whatever noise does beside patients. A bootstrap
    of two seeds missed in 150, degrees of freedom by Satterthwaite in 47."""
    rng, missed = np.random.default_rng(2), 0
    for _ in range(400):
        values = rng.normal(0.3, 0.2, (1, PATIENTS)) + rng.normal(0.0, seed_sd, (seeds, 1))
        found = interval(values)
        missed += not found["low"] <= 0.3 <= found["high"]
    assert missed <= 32
    assert seed_sd or missed >= 4


def test_a_share_is_of_the_reference_that_falls_most_and_knows_its_noise() -> None:
    """Of two references; where the reference's own fall is not sure there is no share."""
    rng = np.random.default_rng(3)
    ours, free = rng.normal(0.5, 0.1, PATIENTS), rng.normal(1.0, 0.5, PATIENTS)
    slower = {**FREE, "algorithm.server_learning_rate": 0.001}
    found = compared_unseen(
        [a_stage({}, 1, ours), a_stage(slower, 1, free - 0.5), a_stage(FREE, 1, free)], WHOSE
    )
    share = found["rows"][0]["of_reference_percent"]
    assert share["value"] == pytest.approx(100 * ours.mean() / free.mean())
    assert found["plotted_line"]["name"].endswith("point 3")
    drawn = rng.integers(0, PATIENTS, (4000, PATIENTS))
    ratios = 100 * ours[drawn].mean(axis=1) / free[drawn].mean(axis=1)
    low, high = np.percentile(ratios, [2.5, 97.5])
    assert share["low"] == pytest.approx(low, abs=2.0)
    assert share["high"] == pytest.approx(high, abs=2.0)
    unsure = np.where(np.arange(PATIENTS) % 2, 1.0, -0.98)
    found = compared_unseen([a_stage({}, 1, ours), a_stage(FREE, 1, unsure)], WHOSE)
    assert [row["of_reference_percent"] for row in found["rows"]] == [None, None]
    assert any("not above zero by its interval" in line for line in found["in_words"])


def test_one_seed_shows_no_point_to_be_better_and_that_is_said() -> None:
    one = compared_unseen(a_sweep((1,)), WHOSE)
    assert any("ONE SEED" in line and "no private point" in line for line in one["in_words"])
    assert "one seed" in one["plotted_words"]
    two = " ".join(compared_unseen(a_sweep(), WHOSE)["in_words"])
    assert "over patients and 2 seeds." in two
    assert "ONE SEED" not in two


def test_the_words_say_whose_patients_and_that_no_probe_is_meant() -> None:
    words = " ".join(compared_unseen(a_sweep(), WHOSE)["in_words"])
    assert "60 REAL patients whom none of these runs has read (lots 0.5 to 1)" in words
    assert "not the skill of a probe" in words
    assert "a 40 (30 with both sensors); b 20 (one sensor)" in words
    assert "9 hospitals, 40 rounds" in words
    assert "REPEATS" in words
    assert "has used them for it" in words
    assert "not known" not in words
    assert "left out" not in words
    shared = compared_unseen(a_sweep(), replace(WHOSE, read_elsewhere=3))["in_words"]
    assert any("3 more are left out" in line for line in shared)
    found = compared_unseen(a_sweep(), replace(WHOSE, same_person=4))
    assert any(line.startswith("Names left out") and ": 4." in line for line in found["in_words"])
    assert (found["left_out_same_person"], found["left_out_read_elsewhere"]) == (4, 0)
    begun = [a_stage({"model.weights": "w.safetensors", **values}, 1, np.zeros(PATIENTS))
             for values in ({}, {"algorithm.segments": 4})]  # fmt: skip
    assert "weights of a file" in " ".join(compared_unseen(begun, WHOSE)["in_words"])


def test_the_table_and_the_pictures_are_of_the_file_alone() -> None:
    found = json.loads(json.dumps(compared_unseen(a_sweep(), WHOSE)))
    lines = results_tables.private_stage_unseen(found)
    assert any("trainable norms" in line and "0.0100 [0.0100, 0.0100]" in line for line in lines)
    assert "fall, 30 patients with both sensors" in lines[0]
    assert not any("skill |" in line for line in lines)
    assert set(results_figures.draw("private-stage-unseen", found)) == {
        "fall", "fall-by-parameters",
    }  # fmt: skip


def test_the_command_measures_the_unread_and_says_so_on_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Losses are stand-ins; the file, its name and the section of the page are the command's."""
    runs = [tmp_path / "a", tmp_path / "b"]
    monkeypatch.setattr(private_stage, "ordered", lambda folder, seeds: runs)

    def read(folders: list[Path], **_: object) -> tuple[list[Stage[UnseenRun]], Measured]:
        assert folders == runs
        return a_sweep(), WHOSE

    monkeypatch.setattr(private_stage_unseen, "read_unseen", read)
    app = typer.Typer()
    cli_gain.register(app)
    words = ["private-stage", str(tmp_path), "--unseen", "-o", str(tmp_path / "out")]
    drawn = CliRunner().invoke(app, [*words, "--patients", "100"])
    assert isinstance(drawn.exception, OurMistake)
    assert not (tmp_path / "out" / "measured-private-stage-unseen.json").exists()
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "60 REAL patients" in " ".join(done.output.split())
    page = results_page.make(tmp_path / "out")
    assert "on real recordings, patients that none of its runs has read" in page.text
    assert len(page.figures) == 2
    content = json.loads((tmp_path / "out" / "measured-private-stage-unseen.json").read_text())
    assert "fresh_patients" not in content["figures"]
