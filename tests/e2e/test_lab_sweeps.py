"""Sweeps and frontiers over the lab's real engine, by the commands that people type."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from simulations import cli_sweep
from simulations.lab import conduct
from simulations.lab.space import Sweep, points_of

EXPERIMENT = """
name = "small"
rounds = 1
[model]
begin_with = "random-weights"
[federation]
source = "waves"
hospitals = 3
patients = 4
windows_per_patient = 1
[algorithm]
steps = 1
segments = 1
[privacy]
noise_multiplier = 3.0
sample_rate = 0.3
[evaluation]
draws = 20
"""


def command(*arguments: str) -> Any:
    """`fedprint-lab` with these arguments."""
    app = typer.Typer()
    cli_sweep.register(app)
    return CliRunner().invoke(app, list(arguments))


def written(folder: Path) -> Path:
    """A sweep of two clipping norms."""
    (folder / "exp.toml").write_text(EXPERIMENT)
    path = folder / "sweep.toml"
    path.write_text('base = "exp.toml"\n[grid]\n"privacy.clipping_norm" = [0.5, 1.0]\n')
    return path


def test_a_sweep_s_runs_are_those_of_the_engine(tmp_path: Path) -> None:
    """The table's digests are those of the same experiments run one by one."""
    path = written(tmp_path)
    done = command("sweep", str(path), "-o", str(tmp_path / "out"), "--workers", "2", "--json")
    assert done.exit_code == 0, done.output
    rows = json.loads(done.stdout)["runs"]
    assert [row["state"] for row in rows] == ["finished", "finished"]
    for point, row in zip(points_of(Sweep.from_toml(path)), rows, strict=True):
        alone = point.experiment.with_values({"engine.workers": 1})
        result = conduct.run(alone, tmp_path / point.name)
        assert row["model"] == result.digest
        assert row["loss"] == result.about["loss"]
    assert rows[0]["model"] != rows[1]["model"]
    assert len(list((tmp_path / "out" / "federations").glob("*/federation.json"))) == 1


@pytest.mark.long
def test_ray_tune_makes_the_same_table(tmp_path: Path) -> None:
    """Another engine, the same rows; a failing run is a row there too."""
    path = written(tmp_path)
    tables = []
    for engine in ("pool", "ray-tune"):
        out = tmp_path / engine
        done = command("sweep", str(path), "-o", str(out), "--engine", engine, "--json")
        assert done.exit_code == 0, done.output
        rows = json.loads(done.stdout)["runs"]
        tables.append([{k: v for k, v in row.items() if k != "seconds"} for row in rows])
    assert tables[0] == tables[1]


@pytest.mark.long
def test_a_frontier_has_its_points_and_figure(tmp_path: Path) -> None:
    """Two epsilons and none, two seeds: means with intervals, and the starting model."""
    written(tmp_path)
    text = EXPERIMENT.replace("noise_multiplier = 3.0", "epsilon = 1.0")
    (tmp_path / "exp.toml").write_text(text)
    options = ["--epsilons", "1,8", "--hospitals", "3", "--patients", "4", "--seeds", "1,2"]
    out = tmp_path / "out"
    done = command("frontier", str(tmp_path / "exp.toml"), "-o", str(out), *options, "--json")
    assert done.exit_code == 0, done.output
    content = json.loads(done.stdout)
    assert sorted(point["mode"] for point in content["points"]) == [
        "local",
        "local",
        "none",
        "starting model",
    ]
    assert all(point["seeds"] == 2 and point["low"] is not None for point in content["points"])
    assert (out / "frontier.pdf").is_file()
    again = command("frontier", str(out), "--json")
    assert json.loads(again.stdout)["points"] == content["points"]
