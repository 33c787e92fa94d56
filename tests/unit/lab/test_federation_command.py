"""`fedprint-lab federation`: what will be trained, looked at before anything is trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from shared_model.errors import OurMistake
from simulations import cli_federation_data
from simulations.lab import from_formulas, sources
from simulations.lab.data import FederationData
from simulations.lab.experiment import Experiment
from simulations.lab.site_figure import draw
from simulations.lab.site_table import shown_label, site_rows

EXPERIMENT = """
name = "look"
[privacy]
mode = "none"
[federation]
source = "waves"
hospitals = 5
patients = 12
windows_per_patient = 2
[federation.partition]
kind = "pathological"
classes_per_site = 1
[[federation.effects]]
sites = ["site-2"]
missing_ppg = 1.0
"""
app = typer.Typer(pretty_exceptions_enable=False)
cli_federation_data.register(app)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("look") / "exp.toml"
    path.write_text(EXPERIMENT)
    return path


@pytest.fixture(scope="module")
def data(path: Path) -> FederationData:
    return sources.prepare(Experiment.from_toml(path), path.parent / "federation")


def run(*words: str) -> str:
    result = CliRunner().invoke(app, list(words), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_json_tells_every_site_as_it_lies_on_disk(path: Path, data: FederationData) -> None:
    """Counts from the files themselves; the digest that a run will name."""
    told: dict[str, Any] = json.loads(run(str(path), "-o", str(data.folder), "--json"))
    assert told["digest"] == data.digest
    assert told["folder"] == str(data.folder)
    assert "without any meaning" in told["says"]
    assert [row["site"] for row in told["sites"]] == [site.name for site in data.sites]
    for index, row in enumerate(told["sites"]):
        training = data.patients(index)
        held_out = data.patients(index, held_out=True)
        assert row["training"] == training.patient_count
        assert row["held_out"] == held_out.patient_count
        assert row["windows"] == int(training.windows.sum() + held_out.windows.sum())
        assert row["ppg"] == (0.0 if row["site"] == "site-2" else 1.0)
        assert row["ecg"] == 1.0
        rows = data.table["site"] == index
        assert sum(row["mix"].values()) == rows.sum()
        assert row["heart_rate"] == pytest.approx(np.median(data.table["hr_bpm"][rows]))
    assert told["all"]["training"] == sum(row["training"] for row in told["sites"])


def test_how_far_a_site_is_from_all_is_the_distance_of_its_mix(data: FederationData) -> None:
    """A site with one of three values that a third of all have is two thirds apart."""
    everybody, sites = site_rows(data, "rhythm")
    assert everybody.apart == 0.0
    for row in sites:
        (value,) = row.mix
        share = everybody.mix[value] / sum(everybody.mix.values())
        assert row.apart == pytest.approx(1.0 - share)


def test_a_folder_that_fits_is_read_and_not_made(
    path: Path, data: FederationData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table is of what is there."""

    def refuse(order: object) -> None:
        raise AssertionError("drawn again")

    monkeypatch.setattr("simulations.lab.from_pool.draw", refuse)
    monkeypatch.setattr(from_formulas, "draw", refuse)
    out = run(str(path), "-o", str(data.folder))
    assert "site-5" in out
    assert "WAVES" in out


def test_without_a_folder_nothing_is_left_behind(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The federation lies in a temporary folder for as long as it is looked at."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert json.loads(run(str(path), "--json"))["folder"] is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("ending", ["pdf", "svg", "png"])
def test_the_figure_repeats_itself_byte_by_byte(
    path: Path, data: FederationData, tmp_path: Path, ending: str
) -> None:
    """And is of the format that its name says."""
    begins = {"pdf": b"%PDF", "svg": b"<?xml", "png": b"\x89PNG"}[ending]
    for name in ("one", "two"):
        run(str(path), "-o", str(data.folder), "--plot", str(tmp_path / f"{name}.{ending}"))
    one, two = ((tmp_path / f"{name}.{ending}").read_bytes() for name in ("one", "two"))
    assert one.startswith(begins)
    assert one == two


def test_a_figure_of_another_kind_is_refused(data: FederationData, tmp_path: Path) -> None:
    """Nothing is written; and without a label patients alone are drawn."""
    everybody, sites = site_rows(data, None)
    assert everybody.mix == {}
    with pytest.raises(OurMistake, match="ends in"):
        draw(tmp_path / "sites.bmp", everybody, sites, None, "")
    assert list(tmp_path.iterdir()) == []
    draw(tmp_path / "patients.svg", everybody, sites, None, "no label")
    draw(tmp_path / "both.svg", *site_rows(data, "rhythm"), "rhythm", "with a label")
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert sizes["both.svg"] > sizes["patients.svg"] > 0


def test_the_partitions_label_is_shown_else_one_of_words(data: FederationData) -> None:
    """A measurement has no mix, and a label that is not there is refused."""
    assert shown_label(data, "rhythm") == "rhythm"
    assert shown_label(data, "ward") == "rhythm"
    for wrong in ("hr_bpm", "ward"):
        with pytest.raises(OurMistake, match=wrong):
            site_rows(data, wrong)
