"""A prediction held against a run that was carried out."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from shared_model.errors import OurMistake
from simulations import cli_plan
from simulations.lab import conduct
from simulations.lab.experiment import Experiment
from simulations.lab.plan_check import Checked, check

ROUNDS, STEPS = 2, 2


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Plain steps, so that the length of the update is the noise's."""
    experiment = Experiment.from_dict(
        {
            "name": "checked",
            "rounds": ROUNDS,
            "model": {"begin_with": "random-weights"},
            "federation": {
                "source": "waves",
                "hospitals": 3,
                "patients": 4,
                "windows_per_patient": 1,
                "held_out": 0.0,
            },
            "algorithm": {
                "steps": STEPS,
                "optimiser": "sgd",
                "learning_rate": 0.01,
                "segments": 1,
            },
            "privacy": {"noise_multiplier": 3.0, "sample_rate": 0.3},
            "engine": {"workers": 1},
        }
    )
    folder = tmp_path_factory.mktemp("checked") / "out"
    conduct.run(experiment, folder)
    return folder


def by_figure(rows: list[Checked]) -> dict[str, Checked]:
    return {row.figure: row for row in rows}


def test_a_run_is_what_was_predicted(run: Path) -> None:
    """Noise, epsilon, steps, bytes: to the digit; the length of the noise to a few percent."""
    rows = by_figure(check(run, timed=False))
    for figure in (
        "noise multiplier",
        "epsilon",
        "delta",
        "steps",
        "noise-to-signal of a step, mean",
        "bytes up, masked vector",
        "bytes down, model",
    ):
        assert rows[figure].error_percent == 0.0, figure
    assert rows["steps"].seen == ROUNDS * STEPS
    noise = rows["norm of the mean update, noise alone"].error_percent
    assert noise is not None
    assert abs(noise) < 3.0


def test_a_run_that_spent_something_else_shows(run: Path, tmp_path: Path) -> None:
    """Half the noise in the run's folder: the error is 100 percent."""
    shutil.copytree(run, tmp_path / "other")
    path = tmp_path / "other" / "result.json"
    content: dict[str, Any] = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"noise_multiplier": 1.5, "bytes_up": 1}))
    rows = by_figure(check(tmp_path / "other", timed=False))
    assert rows["noise multiplier"].error_percent == 100.0
    assert rows["bytes up, masked vector"].error_percent != 0.0


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    """The folder is named, and what to do."""
    with pytest.raises(OurMistake, match="holds no run"):
        check(tmp_path)


def command(*arguments: str) -> Any:
    """`fedprint-lab plan` with these arguments."""
    app = typer.Typer()
    cli_plan.register(app)
    return CliRunner().invoke(app, list(arguments))


def test_the_command_checks(run: Path) -> None:
    """One table a run, as JSON too."""
    done = command("--check", str(run), "--no-timing", "--json")
    assert done.exit_code == 0, done.output
    rows = json.loads(done.stdout)[str(run)]
    assert [set(row) for row in rows] == [
        {field.name for field in dataclasses.fields(Checked)} for _ in rows
    ]


def test_the_command_plans_and_draws(tmp_path: Path) -> None:
    """JSON with advice, the points around it, and the figure's file."""
    plot, path = tmp_path / "plan.svg", tmp_path / "exp.toml"
    text = 'name = "mine"\nrounds = 4\n[federation]\nhospitals = 4\npatients = 100\n'
    path.write_text(text + "[privacy]\nnoise_multiplier = 4.0\n")
    done = command("--experiment", str(path), "--no-timing", "--plot", str(plot), "--json")
    assert done.exit_code == 0, done.output
    content = json.loads(done.stdout)
    assert content["privacy"]["mode"] == "local"
    assert content["time"] is None
    assert content["around"][0]["what"] == "as asked"
    assert content["advice"]
    assert plot.read_bytes().startswith(b"<?xml")


def test_the_command_takes_an_experiment_and_changes_it(tmp_path: Path) -> None:
    """A file's fields stay where no option is given."""
    path = tmp_path / "exp.toml"
    text = 'name = "mine"\nrounds = 7\n[federation]\nhospitals = 5\npatients = 100\n'
    path.write_text(text + "[privacy]\nnoise_multiplier = 4.0\n")
    done = command("--experiment", str(path), "--rounds", "3", "--no-timing", "--json")
    assert done.exit_code == 0, done.output
    content = json.loads(done.stdout)
    assert (content["rounds"], content["hospitals"], content["declared"]) == (3, 5, 80)
    assert content["privacy"]["noise_multiplier"] == 4.0


def test_an_epsilon_without_privacy_is_refused() -> None:
    """Mode none has none; it is not left out silently."""
    done = command("--mode", "none", "--epsilon", "3", "--no-timing")
    assert isinstance(done.exception, OurMistake)


def test_steps_of_mode_distributed_are_refused() -> None:
    """A round is one step; two are a mistake that is named."""
    done = command("--mode", "distributed", "--steps", "2", "--no-timing")
    assert isinstance(done.exception, OurMistake)
