"""`fedprint-lab new`: an example that can be run, in which every field is; what `run` tells."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from shared_model import terminal
from shared_model.errors import Refused
from simulations import cli_run
from simulations.lab import conduct, example, lab_report
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


EXPERIMENT = 'name = "x"\nrounds = 2\n[privacy]\nepsilon = 1.0\n'


def lab_run(place: Path) -> Any:
    """`fedprint-lab run` in this folder."""
    (place / "exp.toml").write_text(EXPERIMENT)
    app = typer.Typer()
    cli_run.register(app)
    return CliRunner().invoke(app, ["run", str(place / "exp.toml"), "-o", str(place / "out")])


def test_a_refused_experiment_shows_no_progress(tmp_path: Path) -> None:
    """Nothing was begun: a bar at 0 % would say that something was."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("somebody's work")
    result = lab_run(tmp_path)
    assert isinstance(result.exception, Refused)
    assert result.output.strip() == ""


def test_a_run_shows_progress_and_names_its_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bar on standard error; the page is what most people look at first."""
    place = tmp_path / "out"

    def quick(experiment: Experiment, out: Path, *, on_progress: Any, **_: Any) -> Any:
        on_progress(conduct.Progress("patients", 0, experiment.rounds))
        on_progress(conduct.Progress("round", 1, experiment.rounds, 1, 3))
        return SimpleNamespace(folder=place, about={"name": "x", "in_words": []})

    def written(folder: Path) -> lab_report.Report:
        return lab_report.Report(folder / "report.html", (), ())

    monkeypatch.setattr(conduct, "run", quick)
    monkeypatch.setattr(lab_report, "write", written)
    result = lab_run(tmp_path)
    assert result.exception is None, result.output
    assert "round 1/2, hospital 1/3" in result.stderr
    assert f"Report: {place / 'report.html'}" in result.stderr.replace("\n", "")
    assert "report.html" not in result.stdout


def test_a_run_says_at_once_and_once_that_hospitals_would_refuse_its_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the round that makes it, on standard error: a long run need not end first."""
    place, seen = tmp_path / "out", list[str]()

    def quick(experiment: Experiment, out: Path, *, observers: Any, **_: Any) -> Any:
        for number, refusal in enumerate([None, "Too large.", "Too large."], 1):
            with terminal.err.capture() as shown:
                observers[-1].on_round({"round": number, "refusal": refusal}, [])
            seen.append(shown.get())
        return SimpleNamespace(folder=place, about={"name": "x", "in_words": []})

    monkeypatch.setattr(conduct, "run", quick)
    monkeypatch.setattr(
        lab_report, "write", lambda folder: lab_report.Report(folder / "report.html", (), ())
    )
    result = lab_run(tmp_path)
    assert result.exception is None, result.output
    first, second, third = seen
    assert (first, third) == ("", "")
    assert "FROM ROUND 3 ON. Too large." in second
