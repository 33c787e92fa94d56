"""A run that was cut off anywhere ends with the model and the rows of an undisturbed one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shared_model.errors import Refused
from simulations.lab import checkpoint, conduct, metrics_tables, run_folder
from simulations.lab.checkpoint import Checkpoint, Journal, SiteStates
from simulations.lab.experiment import Experiment
from simulations.lab.result import Result

SMALL: dict[str, Any] = {
    "name": "small",
    "rounds": 3,
    "model": {"begin_with": "random-weights"},
    "federation": {
        "source": "waves",
        "hospitals": 4,
        "patients": 4,
        "windows_per_patient": 1,
        "held_out": 0.0,
    },
    "behaviours": [{"kind": "drop-out", "share": 0.5, "probability": 0.5}],
    "participation": {"minimum_contributors": 2},
    "algorithm": {
        "name": "fedadam",
        "server_learning_rate": 0.01,
        "steps": 1,
        "segments": 1,
        "optimiser": "sgd",
        "control_variates": True,
    },
    "privacy": {"mode": "none", "sample_rate": 0.5},
    "evaluation": {"every": 2},
    "engine": {"workers": 1},
}
"""Server moments, control variates at sites and server, drop-outs: all that a round hands on."""
EXPERIMENT = Experiment.from_dict(SMALL)
WALL = "wall_s"


class Killed(BaseException):
    """Not an `Exception`: nobody tidies up after it."""


def facts(result: Result) -> list[Any]:
    """All that a run leaves but its wall-clock times."""
    return [
        result.digest,
        result.rounds().drop_columns([WALL]).to_pylist(),
        result.sites().to_pylist(),
        result.probes().to_pylist(),
    ]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    return facts(conduct.run(EXPERIMENT, tmp_path_factory.mktemp("whole") / "out"))


def before(owner: Any, name: str, call: int) -> Callable[[pytest.MonkeyPatch], None]:
    """Killed as this function is called for the `call`-th time."""

    def arm(patch: pytest.MonkeyPatch) -> None:
        real, seen = getattr(owner, name), []

        def wrapped(*given: Any, **named: Any) -> Any:
            seen.append(1)
            if len(seen) == call:
                raise Killed
            return real(*given, **named)

        patch.setattr(owner, name, wrapped)

    return arm


def after(owner: Any, name: str, call: int) -> Callable[[pytest.MonkeyPatch], None]:
    """Killed as soon as this function has returned for the `call`-th time."""

    def arm(patch: pytest.MonkeyPatch) -> None:
        real, seen = getattr(owner, name), []

        def wrapped(*given: Any, **named: Any) -> Any:
            made = real(*given, **named)
            seen.append(1)
            if len(seen) == call:
                raise Killed
            return made

        patch.setattr(owner, name, wrapped)

    return arm


def torn(call: int) -> Callable[[pytest.MonkeyPatch], None]:
    """Killed in the middle of writing the journal."""

    def arm(patch: pytest.MonkeyPatch) -> None:
        real, seen = Journal.append, []

        def wrapped(self: Journal, lines: Any) -> None:
            seen.append(1)
            size = self.size
            real(self, lines)
            if len(seen) == call:
                with self.path.open("r+b") as stream:
                    stream.truncate((size + self.size) // 2)
                raise Killed

        patch.setattr(Journal, "append", wrapped)

    return arm


INSTANTS = {
    "before the federation": before(conduct.sources, "prepare", 1),
    "after the federation": after(conduct.sources, "prepare", 1),
    "before the first checkpoint": before(Checkpoint, "save", 1),
    "as a site keeps its state": before(SiteStates, "keep", 4),
    "in the middle of a round": after(SiteStates, "keep", 5),
    "with rows but no checkpoint": before(Checkpoint, "save", 3),
    "with half the rows": torn(3),
    "right after a checkpoint": after(Checkpoint, "save", 3),
    "as old checkpoints go": before(Path, "unlink", 2),
    "in the tables": before(metrics_tables, "_write", 2),
    "before the model": before(conduct, "write_atomic", 1),
    "before the result": before(run_folder.RunFolder, "write_result", 1),
}


NORMAL = {
    "after the federation",
    "as a site keeps its state",
    "with half the rows",
    "with rows but no checkpoint",
    "right after a checkpoint",
    "before the result",
}
"""Instants of every run of the tests; the others are long."""


@pytest.mark.parametrize(
    "instant",
    [pytest.param(one, marks=[] if one in NORMAL else [pytest.mark.long]) for one in INSTANTS],
)
def test_a_run_killed_there_goes_on_to_the_same_end(
    instant: str,
    undisturbed: list[Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Model, rounds, sites and probes are those of the undisturbed run."""
    with monkeypatch.context() as patch:
        INSTANTS[instant](patch)
        with pytest.raises(Killed):
            conduct.run(EXPERIMENT, tmp_path / "out")
    assert facts(conduct.run(EXPERIMENT, tmp_path / "out", resume=True)) == undisturbed


def test_a_finished_run_is_resumed_to_itself(undisturbed: list[Any], tmp_path: Path) -> None:
    """Nothing is trained again; `resume` may begin a run, too."""
    conduct.run(EXPERIMENT, tmp_path / "out", resume=True)
    again = conduct.run(EXPERIMENT, tmp_path / "out", resume=True)
    assert facts(again) == undisturbed
    assert len(again.provenance["resumed"]) == 1


def cut_off(folder: Path) -> None:
    """A run of one round, as it lies there after a kill in the second."""
    with pytest.MonkeyPatch.context() as patch:
        after(Checkpoint, "save", 2)(patch)
        with pytest.raises(Killed):
            conduct.run(EXPERIMENT, folder)


def test_another_experiment_is_not_gone_on_with(tmp_path: Path) -> None:
    """The refusal names the fields; what decides nothing about the model may change."""
    cut_off(tmp_path / "out")
    other = EXPERIMENT.with_values({"algorithm.beta1": 0.5, "seed": 2})
    with pytest.raises(Refused, match=r"algorithm\.beta1 .*0\.9.*0\.5.*; seed") as refused:
        conduct.run(other, tmp_path / "out", resume=True)
    assert refused.value.reason == "experiment"
    same = EXPERIMENT.with_values({"name": "renamed", "evaluation.draws": 99})
    assert conduct.run(same, tmp_path / "out", resume=True).experiment.name == "renamed"


def test_other_code_does_not_go_on_with_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a run by one version and half by another is no experiment."""
    cut_off(tmp_path / "out")
    monkeypatch.setattr(run_folder, "_code", lambda: "f" * 64)
    with pytest.raises(Refused, match="other code") as refused:
        conduct.run(EXPERIMENT, tmp_path / "out", resume=True)
    assert "fedprint" in refused.value.do


def test_other_patients_do_not_go_on_with_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The federation's digest was written down."""
    cut_off(tmp_path / "out")
    monkeypatch.setattr(conduct.FederationData, "digest", "0" * 64)
    with pytest.raises(Refused, match="not those that the run was begun with"):
        conduct.run(EXPERIMENT, tmp_path / "out", resume=True)


def test_a_folder_with_something_in_it_is_refused(tmp_path: Path) -> None:
    """With and without `resume`; nothing in it is touched."""
    cut_off(tmp_path / "run")
    with pytest.raises(Refused, match="not empty") as refused:
        conduct.run(EXPERIMENT, tmp_path / "run")
    assert "--resume" in refused.value.do
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("all of it")
    for resume in (False, True):
        with pytest.raises(Refused):
            conduct.run(EXPERIMENT, foreign, resume=resume)
    assert [one.name for one in foreign.iterdir()] == ["thesis.tex"]


def test_two_runs_cannot_use_one_folder(tmp_path: Path) -> None:
    """The second is refused while the first holds the folder."""
    cut_off(tmp_path / "out")
    held = run_folder.RunFolder(tmp_path / "out").held(resume=True)
    with held, pytest.raises(Refused, match="Another process") as refused:
        conduct.run(EXPERIMENT, tmp_path / "out", resume=True)
    assert refused.value.reason == "busy"


def test_a_journal_that_lost_rows_is_refused(tmp_path: Path) -> None:
    """A disk that lost what was flushed, or a hand in the folder: the figures would lie."""
    cut_off(tmp_path / "out")
    (tmp_path / "out" / "state" / "journal.jsonl").write_bytes(b"")
    with pytest.raises(Refused, match="shorter"):
        conduct.run(EXPERIMENT, tmp_path / "out", resume=True)


def test_two_checkpoints_are_kept_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    """Bytes that are no checkpoint are never weights."""
    conduct.run(EXPERIMENT, tmp_path / "out")
    state = tmp_path / "out" / "state"
    kept = sorted(one.name for one in state.glob("round-*"))
    assert kept == ["round-000002.safetensors", "round-000003.safetensors"]
    (state / kept[-1]).write_bytes(b"\x08" + bytes(7) + b"not JSON")
    with pytest.raises(Refused, match="damaged"):
        checkpoint.Checkpoint.newest(state)
