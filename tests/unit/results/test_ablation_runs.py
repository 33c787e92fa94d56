"""Kept runs of an ablation: who made them, whether they are whole, and what may be asked at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer import Typer
from typer.testing import CliRunner

from shared_model import warm_start
from shared_model.errors import OurMistake, Refused
from shared_model.mae import build, weights_of
from shared_model.release_files import code_digest
from shared_model.weights import digest
from simulations import (
    ablation,
    ablation_runs,
    cli_ablate,
    fresh_patients,
    measurement,
    results_tables,
)
from simulations.fresh_patients import Scores
from simulations.torch_threads import check_threads

ASKED = ablation.Ablation(name="a", seeds=(1, 2), steps=2, patients=80, vary={"batch": [8]})
TOML = 'name = "a"\npatients = 80\nsteps = 2\n'


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """No run is trained: which ones would have been, (batch, seed)."""
    asked: list[tuple[int, int]] = []

    def train(config: Any, recipe: Any, **_: Any) -> tuple[Any, list[Any]]:
        asked.append((recipe.batch, recipe.seed))
        return weights_of(build(config, recipe.batch + recipe.seed)), []

    def score(config: Any, weights: Any, *_: Any) -> Scores:
        skill = 0.3 + float(np.abs(weights["fingerprint_head.weight"]).mean())
        errors = dict.fromkeys(fresh_patients.RECONSTRUCTION, 0.7)
        one = ({"a": "auroc"}, {"a": 0.5 + skill / 2}, {"a": skill})
        return Scores(*one, errors, {"PPG to ECG": 0.6}, 0.5)

    monkeypatch.setattr(ablation, "train", train)
    monkeypatch.setattr(ablation, "score", score)
    monkeypatch.setattr(ablation, "identity", lambda *_: 0.5)
    return asked


def resumed(out: Path) -> tuple[ablation.Ablated, str]:
    """What came of it, and what was said before."""
    said: list[str] = []
    done = ablation.run(ASKED, out, resume=True, on_kept=said.append)
    assert len(said) == 1
    return done, said[0]


def one_of(out: Path, batch: int) -> Path:
    named = f'"batch": {batch},'
    return next(path for path in sorted((out / "runs").iterdir()) if named in path.read_text())


def command(*words: str) -> Any:
    """`ablate` as typed; faults come out as exceptions."""
    app = Typer()
    app.command("other")(lambda: None)
    cli_ablate.register(app)
    return CliRunner().invoke(app, ["ablate", *words])


def test_a_run_says_what_made_it(tmp_path: Path, trained: list[tuple[int, int]]) -> None:
    """And all of them together say it in the measured document."""
    done = ablation.run(ASKED, tmp_path, resume=False)
    runs = [json.loads(path.read_text()) for path in (tmp_path / "runs").iterdir()]
    assert len(runs) == len(trained) == 4
    for run in runs:
        by = run["made_by"]
        assert by["code"] == code_digest()
        assert by["versions"] == measurement.versions()
        assert by["commit"] == measurement.commit_of(Path(ablation.__file__).parent)
        assert by["threads"] == ASKED.threads
        assert by["seconds"] >= 0
        assert by["date"].endswith("Z")
        assert run["digest"] == ablation_runs.digest_of(run)
    made = done.made
    assert (made["count"], made["kept"], made["code"]) == (4, 0, code_digest())
    assert made["commits"] == [runs[0]["made_by"]["commit"]]
    assert made["seconds"] == pytest.approx(sum(run["made_by"]["seconds"] for run in runs))
    assert made["models"]["batch = 8, seed 2"] in {run["model"] for run in runs}


def test_runs_of_this_code_are_kept(tmp_path: Path, trained: list[tuple[int, int]]) -> None:
    first = ablation.run(ASKED, tmp_path, resume=False)
    trained.clear()
    again, said = resumed(tmp_path)
    assert trained == []
    assert said == "4 of 4 runs are kept."
    assert again.figures == first.figures
    assert again.made == first.made | {"kept": 4}


def test_a_figure_typed_into_a_kept_run_is_not_taken(
    tmp_path: Path, trained: list[tuple[int, int]]
) -> None:
    """Nor a run put in another's place: its own digest fits, its key does not."""
    first = ablation.run(ASKED, tmp_path, resume=False)
    path = one_of(tmp_path, 64)
    run = json.loads(path.read_text())
    path.write_text(json.dumps(run | {"skill": 0.99}))
    moved = one_of(tmp_path, 8)
    moved.write_text(json.dumps(run))
    trained.clear()
    again, said = resumed(tmp_path)
    assert len(trained) == 2
    assert "2 of 4 runs are kept; 2 trained: 2 changed since they were made" in said
    assert again.figures == first.figures
    assert (again.made["kept"], again.made["models"]) == (2, first.made["models"])


@pytest.mark.parametrize("other", ["code", "versions"])
def test_a_run_of_other_code_or_versions_is_trained_anew(
    tmp_path: Path, trained: list[tuple[int, int]], other: str
) -> None:
    ablation.run(ASKED, tmp_path, resume=False)
    path = one_of(tmp_path, 8)
    run = json.loads(path.read_text())
    run["made_by"][other] = "0" * 64 if other == "code" else {"torch": "1.0"}
    path.write_text(json.dumps(run | {"digest": ablation_runs.digest_of(run)}))
    trained.clear()
    again, said = resumed(tmp_path)
    assert len(trained) == 1
    assert said == (
        "3 of 4 runs are kept; 1 trained: 1 of other code or other versions of packages."
    )
    assert json.loads(path.read_text())["made_by"]["versions"] == measurement.versions()
    assert again.made["code"] == code_digest()


def test_a_run_that_does_not_say_what_made_it_is_trained_anew(
    tmp_path: Path, trained: list[tuple[int, int]]
) -> None:
    """As all did before."""
    ablation.run(ASKED, tmp_path, resume=False)
    for path in (tmp_path / "runs").iterdir():
        run = json.loads(path.read_text())
        path.write_text(
            json.dumps({k: v for k, v in run.items() if k not in {"made_by", "digest"}})
        )
    one_of(tmp_path, 8).unlink()
    trained.clear()
    _, said = resumed(tmp_path)
    assert len(trained) == 4
    assert said == (
        "0 of 4 runs are kept; 4 trained: 3 without a word of what made them, 1 not there yet."
    )


def test_code_that_changes_meanwhile_ends_the_ablation(
    tmp_path: Path, trained: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run in which it changed is not kept: no commit made it."""
    digests = iter(["a" * 64, "a" * 64, "a" * 64, "a" * 64, "b" * 64])
    monkeypatch.setattr(ablation_runs, "code_digest", lambda: next(digests))
    with pytest.raises(Refused, match="have changed since"):
        ablation.run(ASKED, tmp_path, resume=False)
    assert len(trained) == 2
    assert len(list((tmp_path / "runs").iterdir())) == 1


def test_the_document_names_runs_and_packaged_weights(
    tmp_path: Path, trained: list[tuple[int, int]]
) -> None:
    """The help names each file that is written, and no other."""
    (tmp_path / "a.toml").write_text(TOML + 'begin_with = "warm-start"\n[vary]\nbatch = [8]\n')
    out = tmp_path / "out"
    assert command(str(tmp_path / "a.toml"), "-o", str(out)).exit_code == 0
    again = command(str(tmp_path / "a.toml"), "-o", str(out), "--resume")
    assert again.exit_code == 0
    assert "4 of 4 runs are kept." in again.stderr
    document = measurement.read(out / "measured-ablation.json")
    assert document.weights == {"as begun, no step": digest(warm_start.load("tiny")[1])}
    assert document.figures["runs"]["kept"] == 4
    page = "\n".join(results_tables.origin("x", document))
    assert "4 runs, 4 of them kept from earlier" in page
    assert f"commit {document.figures['runs']['commits'][0]}, code {code_digest()[:12]}" in page
    old = document.model_copy(
        update={"figures": {}, "command": "fedprint-lab ablate a.toml -o out --resume"}
    )
    assert "runs may be kept from earlier: commit and seconds are those of putting" in "\n".join(
        results_tables.origin("x", old)
    )
    fresh = old.model_copy(update={"command": "fedprint-lab ablate a.toml -o out"})
    assert "kept" not in "\n".join(results_tables.origin("x", fresh))
    written = {path.name for path in out.iterdir()}
    assert written == {"measured-ablation.json", "ablation-error.svg", "runs"}
    explained = " ".join((cli_ablate.ablate.__doc__ or "").split())
    assert all(name in explained for name in written)
    assert "pdf" not in explained


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("seeds = [1, 1, 1]\n[vary]\nbatch = [8]", "seed is named twice"),
        ("seeds = [18446744073709551616]\n[vary]\nbatch = [8]", "seeds"),
        ("[vary]\nalignment_weight = [0.2, 0.2]", "same training as alignment_weight = 0.2"),
        ("[vary]\nalignment_weight = [0, 0.0]", "same training as alignment_weight = 0"),
        ("[vary]\nalignment_weight = [0.1]", "same training as base"),
        ("[base]\nbatch = 8\n[vary]\nbatch = [8]", "same training as base"),
        ("[vary]\ndecoder_blocks = [2]", "same training as base"),
        ("[vary]\nbatch = []", "vary"),
    ],
)
def test_runs_that_would_be_the_same_are_refused(
    tmp_path: Path, trained: list[tuple[int, int]], words: str, said: str
) -> None:
    """Before the first step, and before a folder is made."""
    (tmp_path / "a.toml").write_text(TOML + words + "\n")
    refused = command(str(tmp_path / "a.toml"), "-o", str(tmp_path / "out")).exception
    assert isinstance(refused, OurMistake)
    assert said in refused.message
    assert trained == []
    assert not (tmp_path / "out").exists()


def test_a_folder_that_takes_no_file_is_refused_before_the_first_step(
    trained: list[tuple[int, int]],
) -> None:
    """Root may write in /proc by its rights, and no file can be made there."""
    with pytest.raises(OurMistake, match="cannot be written"):
        ablation.run(ASKED, Path("/proc/x"), resume=False)
    assert trained == []


def test_more_threads_than_cores_are_refused(
    tmp_path: Path, trained: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    check_threads(4)
    with pytest.raises(OurMistake, match="more than this machine has") as refused:
        check_threads(5)
    assert "at most 4" in refused.value.do
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    check_threads(2)  # the default of warm-start
    with pytest.raises(OurMistake):
        ablation.run(ASKED.model_copy(update={"threads": 3}), tmp_path / "out", resume=False)
    assert trained == []
