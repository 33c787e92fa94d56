"""Points of a sweep on real patients whom no run has read: paired, honest about what is drawn."""

from __future__ import annotations

import json
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
from simulations.private_stage_unseen import Told, UnseenRun, compared_unseen

ROOT = Path(__file__).resolve().parents[3]
BASE = Experiment.from_toml(ROOT / "docs" / "experiments" / "private-stage-real.toml")
WHOSE = Told(9, (0.5, 1.0))
FREE = {"privacy.mode": "none", "privacy.epsilon": None}
PATIENTS = 60


def a_stage(values: dict[str, Any], seed: int, falls: np.ndarray) -> Stage[UnseenRun]:
    """Falls of each patient, from losses that differ much between patients."""
    experiment = BASE.with_values({**values, "seed": seed})
    before = 1.0 + np.random.default_rng(7).random(len(falls))
    name = f"{experiment.privacy.mode}, seed {seed}"
    run = UnseenRun(name, experiment, "start", f"digest {seed}", before, before - falls)
    return Stage(run, 1000, 4000.0, None if experiment.privacy.mode == "none" else 2.99, 1e-5)


def a_sweep(seeds: tuple[int, ...] = (1, 2)) -> list[Stage[UnseenRun]]:
    """Patients differ by far more than the points; norms are 0.01 better for everybody."""
    patients = np.random.default_rng(1).normal(0.02, 0.2, PATIENTS)
    patients += 0.02 - patients.mean()
    found = []
    for seed in seeds:
        mine = patients + 0.001 * seed
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
    assert norms["more_than_base"]["value"] == pytest.approx(0.01)
    assert norms["more_than_base"]["low"] == pytest.approx(0.01)
    assert norms["more_than_base"]["high"] == pytest.approx(0.01)
    assert base["more_than_base"] is None
    assert free["of_reference_percent"]["value"] == pytest.approx(100.0)
    assert norms["of_reference_percent"]["value"] == pytest.approx(100 * 0.0315 / 0.0515)


def test_an_interval_covers_the_mean_of_the_patients_from_whom_these_are() -> None:
    """Of 200 samples of 60 patients the 95 % interval misses the true mean in 2 to 20."""
    rng, missed = np.random.default_rng(2), 0
    draw = private_stage_unseen._Draws(1, PATIENTS)
    for _ in range(200):
        found = draw.interval(rng.normal(0.3, 1.0, (1, PATIENTS)))
        missed += not found["low"] <= 0.3 <= found["high"]
    assert 2 <= missed <= 20


def test_seeds_are_drawn_anew_too() -> None:
    """Equal patients, other seeds: only seeds make the interval; with one seed it is said."""
    stages = []
    for seed, fall in ((1, 0.0), (2, 0.1), (3, 0.2)):
        stages += [a_stage({}, seed, np.full(PATIENTS, fall)),
                   a_stage({"algorithm.segments": 4}, seed, np.full(PATIENTS, 0.1))]  # fmt: skip
    found = compared_unseen(stages, WHOSE)
    assert found["rows"][0]["fall"]["low"] < 0.05 < 0.15 < found["rows"][0]["fall"]["high"]
    assert found["rows"][1]["fall"]["low"] == pytest.approx(0.1)
    assert any("and 3 seeds" in line for line in found["in_words"])
    one = compared_unseen(a_sweep((1,)), WHOSE)
    assert any("one seed: what noise does is not in them" in line for line in one["in_words"])


def test_the_words_say_whose_patients_and_that_no_probe_is_meant() -> None:
    words = " ".join(compared_unseen(a_sweep(), WHOSE)["in_words"])
    assert "60 REAL patients of 9 folders whom no run has read (lots 0.5 to 1)" in words
    assert "not the skill of a probe" in words
    assert "9 hospitals, 40 rounds" in words
    assert "REPEATS" in words
    assert "has used these patients for it" in words


def test_without_a_fall_of_the_reference_there_is_no_share_and_few_patients_are_refused() -> None:
    """A reference that may as well not fall has a share without an interval."""
    lost = [a_stage({}, 1, np.full(PATIENTS, 0.1)), a_stage(FREE, 1, np.full(PATIENTS, -0.1))]
    found = compared_unseen(lost, WHOSE)
    assert [row["of_reference_percent"] for row in found["rows"]] == [None, None]
    assert any("no share" in line for line in found["in_words"])
    unsure = np.where(np.arange(PATIENTS) % 2, 1.0, -0.98)
    both = compared_unseen([lost[0], a_stage(FREE, 1, unsure)], WHOSE)
    assert both["rows"][0]["of_reference_percent"]["low"] is None
    few = [a_stage({}, 1, np.zeros(19)), a_stage(FREE, 1, np.zeros(19))]
    with pytest.raises(OurMistake, match="19 patients"):
        compared_unseen(few, WHOSE)


def test_the_table_and_the_pictures_are_of_the_file_alone() -> None:
    found = json.loads(json.dumps(compared_unseen(a_sweep(), WHOSE)))
    lines = results_tables.private_stage(found)
    assert any("trainable norms" in line and "0.0100 [0.0100, 0.0100]" in line for line in lines)
    assert not any("One epsilon and mode" in line and "SIMULATED" in line for line in lines)
    assert set(results_figures.draw("private-stage-unseen", found)) == {
        "fall", "fall-by-parameters",
    }  # fmt: skip


def test_the_command_measures_the_unread_and_says_so_on_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Losses are stand-ins; the file, its name and the section of the page are the command's."""
    runs = [tmp_path / "a", tmp_path / "b"]
    monkeypatch.setattr(private_stage, "ordered", lambda folder, seeds: runs)

    def read(folders: list[Path], **_: object) -> tuple[list[Stage[UnseenRun]], Told]:
        assert folders == runs
        return a_sweep(), WHOSE

    monkeypatch.setattr(private_stage_unseen, "read_unseen", read)
    app = typer.Typer()
    cli_gain.register(app)
    words = ["private-stage", str(tmp_path), "--unseen", "-o", str(tmp_path / "out")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "60 REAL patients" in " ".join(done.output.split())
    page = results_page.make(tmp_path / "out")
    assert "on real recordings, patients that no run has read" in page.text
    assert len(page.figures) == 2
    content = json.loads((tmp_path / "out" / "measured-private-stage-unseen.json").read_text())
    assert "fresh_patients" not in content["figures"]
