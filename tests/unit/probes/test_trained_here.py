"""Weights in the folder of a run that read those who are measured: it is said, and who to ask."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from shared_model import warm_start, weights
from simulations import results_tables
from simulations.cli import app
from simulations.cohort import SiteEffects, draw_cohort, write_site
from simulations.lab.experiment import Experiment
from simulations.lots import Lots
from simulations.probes.trained_here import NOT_UNSEEN, trained_here, trained_words, weights_files
from simulations.probes.unseen import Seen


def run_of(folder: Path, ward: Path, begun: Path | None = None, lots: object = (0.0, 0.5)) -> Path:
    """A run's folder with nothing but its experiment; where its model would be."""
    folder.mkdir()
    federation = {"source": "folders", "folders": [str(ward)], "lots": list(lots)}
    made = {"name": folder.name, "privacy": {"mode": "none"}, "federation": federation}
    if begun is not None:
        made["model"] = {"weights": str(begun)}
    (folder / "experiment.toml").write_text(Experiment.from_dict(made).to_toml(), encoding="utf-8")
    (folder / "provenance.json").write_text("{}", encoding="utf-8")
    return folder / "model.safetensors"


@pytest.fixture
def ward(tmp_path: Path) -> Path:
    (tmp_path / "ward-7").mkdir()
    return tmp_path / "ward-7"


def test_files_of_weights_are_the_model_and_every_row() -> None:
    assert weights_files("warm-start:tiny", ["fed=a/b.safetensors"]) == {
        "fed": Path("a/b.safetensors")
    }
    assert weights_files("m.safetensors", ()) == {"release": Path("m.safetensors")}
    assert weights_files("m.safetensors", (), "model") == {"model": Path("m.safetensors")}


def test_the_run_beside_the_weights_is_asked_whom_it_read(tmp_path: Path, ward: Path) -> None:
    """A model was probed on its own patients without a word."""
    file = run_of(tmp_path / "real1", ward)
    (found,) = trained_here({"fed": file}, {"ward-7", "other"}, [])
    assert found == {"model": "fed", "run": str(tmp_path / "real1"), "folders": ["ward-7"]}
    assert trained_words([found]) == [
        "fed: trained on patients of these folders: ward-7; say --unseen-by " + found["run"]
    ]
    assert trained_words([found], NOT_UNSEEN)[0].endswith("ward-7; " + NOT_UNSEEN)
    assert trained_here({"fed": file}, {"other"}, []) == []
    assert trained_here({"fed": tmp_path / "copied.safetensors"}, {"ward-7"}, []) == []
    file.write_bytes(b"")
    link = tmp_path / "link.safetensors"
    link.symlink_to(file)
    assert trained_here({"fed": link}, {"ward-7"}, [])[0]["folders"] == ["ward-7"]


@pytest.mark.parametrize(
    ("folder", "lots", "told"),
    [
        ("ward-7", (0.0, 0.5), False),
        ("ward-7", (0.0, 1.0), False),
        ("ward-7", (0.0, 0.4), True),
        ("ward-8", (0.0, 1.0), True),
    ],
)
def test_nothing_is_said_where_all_whom_it_read_are_left_out(
    tmp_path: Path, ward: Path, folder: str, lots: tuple[float, float], told: bool
) -> None:
    """By this run or another; of half of them it is."""
    file = run_of(tmp_path / "real1", ward)
    seen = Seen("another", frozenset({folder}), Lots(*lots))
    assert bool(trained_here({"fed": file}, {"ward-7"}, [seen])) is told


def test_runs_that_a_run_began_with_have_read_as_well(tmp_path: Path, ward: Path) -> None:
    """And two that name each other are no endless way; an experiment that is none is told."""
    other = tmp_path / "other"
    first = run_of(tmp_path / "first", ward, begun=tmp_path / "second" / "model.safetensors")
    second = run_of(tmp_path / "second", other, begun=first)
    (found,) = trained_here({"fed": second}, {"ward-7"}, [])
    assert Path(found["run"]).name == "first"
    (tmp_path / "second" / "experiment.toml").write_text("[broken", encoding="utf-8")
    (found,) = trained_here({"fed": second}, {"ward-7"}, [])
    assert found["folders"] is None
    assert "whom its run has read is not known" in trained_words([found])[0]


def test_probe_and_cross_modal_say_so_in_words_and_in_json(tmp_path: Path) -> None:
    ward = tmp_path / "ward-7"
    cohort = draw_cohort(np.random.default_rng(5), 12, 1, SiteEffects(name="ward"))
    write_site(ward, cohort, "wfdb")
    file = run_of(tmp_path / "real1", ward)
    file.write_bytes(weights.to_bytes(warm_start.load("tiny")[1]))
    asked = ["--draws", "20", "-o", str(tmp_path / "out")]
    probe = ["probe", "warm-start:tiny", "--sites", str(ward), "--row", f"fed={file}",
             "--task", "age", "--random-seeds", "1", "--repeats", "1"]  # fmt: skip
    crossed = ["cross-modal", str(file), "--site", str(ward), "--windows", "1"]
    for words, name, do in (
        (probe, "fed", f"say --unseen-by {tmp_path / 'real1'}"),
        (crossed, "model", NOT_UNSEEN),
    ):
        done = CliRunner().invoke(app, [*words, *asked])
        assert done.exit_code == 0, done.output
        said = f"{name}: trained on patients of these folders: ward-7; {do}"
        assert "".join(said.split()) in "".join(done.stdout.split())
        measured = "probe-sites" if words is probe else "cross-modal"
        path = tmp_path / "out" / f"measured-{words[0]}.json"
        document = json.loads(path.read_text(encoding="utf-8"))
        figures = document["figures"]
        assert document["kind"] == measured
        about = figures["release"] if words is probe else figures
        assert about["trained_here"] == [
            {"model": name, "run": str(tmp_path / "real1"), "folders": ["ward-7"]}
        ]
        show = results_tables.sites_probe if words is probe else results_tables.cross_modal
        assert any(said in line for line in show(figures))
