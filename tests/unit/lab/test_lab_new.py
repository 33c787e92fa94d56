"""`fedprint-lab new`: an example that can be run, in which every field is."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from shared_model.errors import Refused
from simulations import cli_run
from simulations.lab import example
from simulations.lab.experiment import Experiment


def test_the_example_is_an_experiment_with_the_schema_s_defaults(tmp_path: Path) -> None:
    """What stands in it is the default, but for the few fields that make it small."""
    cli_run.new(tmp_path / "exp.toml")
    found = Experiment.from_toml(tmp_path / "exp.toml").as_dict()
    plain = Experiment.from_dict({"name": "x", "privacy": {"epsilon": 1.0}}).as_dict()
    for table, values in example.FIRST.items():
        for name, value in values.items():
            place, default = (found[table], plain[table]) if table else (found, plain)
            assert place[name] == value
            place[name] = default[name]
    assert found == plain


def test_a_file_that_is_there_is_not_written_over(tmp_path: Path) -> None:
    """It may be somebody's work."""
    (tmp_path / "exp.toml").write_text("name = 'mine'")
    with pytest.raises(Refused, match="there already"):
        cli_run.new(tmp_path / "exp.toml")


def test_the_help_names_every_table_and_field() -> None:
    """All of the schema, with kinds and bounds."""
    app = typer.Typer()
    cli_run.register(app)
    shown = CliRunner().invoke(app, ["new", "--help"], env={"COLUMNS": "150"}).output
    text = " ".join(shown.split())
    for part in ("privacy", "federation.effects", "behaviours", "algorithm", "engine"):
        assert f"Table {part}:" in text
    assert "sample_rate: number, > 0, <= 1; 0.1 by default" in text
    assert 'kind: "in-process" | "flower"; "in-process" by default' in text
    assert "Example: fedprint-lab new" in text


def test_each_wrong_field_is_named(tmp_path: Path) -> None:
    """A typo is no default."""
    file = tmp_path / "exp.toml"
    file.write_text('name = "x"\n[privacy]\nepsilom = 3.0\n')
    with pytest.raises(Exception, match=r"privacy\.epsilom"):
        Experiment.from_toml(file)
