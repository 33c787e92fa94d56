"""Trackers are told each round once, whatever was interrupted, and nothing that was not asked."""

from __future__ import annotations

import os
import sys
import types
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from measured_run_parts import experiment

from shared_model.errors import OurMistake
from simulations.lab import tracking
from simulations.lab.checkpoint import Checkpoint, Journal
from simulations.lab.tracking import Tracker, observers, parameters, points_of
from simulations.lab.tracking_sinks import MLflow, TensorBoard, WandB

SECRET = "https://me:secret@host/"


class Ended:
    """A result, as far as a tracker looks at it."""

    about = {"model": "abc", "in_words": ["NO PRIVACY."], "loss": 0.5}  # noqa: RUF012


def round_row(number: int) -> dict:
    """A row of rounds.parquet."""
    return {
        "round": number, "participants": 3, "survivors": 3, "outcome": "aggregated",
        "loss": 2.0 / number, "epsilon": None, "update_norm": float("inf"), "model": "abc",
    }  # fmt: skip


def probe_rows(number: int) -> list[dict]:
    """Rows of probes.parquet: of all sites, of a site, of random-init."""
    one = {
        "round": number, "task": "heart rhythm", "sensors": "both", "site": "all",
        "model": "federated", "kind": "auroc", "value": 0.7 + 0.01 * number, "low": 0.6,
        "high": 0.9, "gain": 0.1, "gain_low": 0.0, "gain_high": 0.2, "patients": 9,
        "epsilon": None,
    }  # fmt: skip
    return [one, one | {"site": "a hospital"}, one | {"model": "random-init", "value": 0.5}]


def leave(folder: Path, rounds: int) -> None:
    """A journal and a checkpoint after so many rounds, and a line that no checkpoint counts."""
    (folder / "state").mkdir(parents=True, exist_ok=True)
    journal = Journal(folder / "state" / "journal.jsonl")
    journal.cut(0)
    journal.append({"kind": "probe", "row": row} for row in probe_rows(0))
    for number in range(1, rounds + 1):
        journal.append([{"kind": "round", **round_row(number)}])
        journal.append({"kind": "probe", "row": row} for row in probe_rows(number))
    one = {"w": np.zeros(2, dtype=np.float32)}
    size = journal.size
    Checkpoint(rounds, one, {}, {}, (rounds,), size, 1.0, "abc").save(folder / "state")
    journal.append([{"kind": "round", **round_row(rounds + 1)}])


def train(tracker: Tracker, folder: Path, rounds: range, *, end: bool) -> None:
    """A process of a run, from its first round to its last."""
    tracker.on_start(folder, experiment())
    if rounds.start == 1:
        tracker.on_evaluation(probe_rows(0))
    for number in rounds:
        tracker.on_evaluation(probe_rows(number))
        tracker.on_round(round_row(number), [])
    if end:
        tracker.on_end(Ended())  # type: ignore[arg-type]


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard would show."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(folder / "tensorboard"))
    read.Reload()
    return {
        tag: [(point.step, round(point.value, 5)) for point in read.Scalars(tag)]
        for tag in read.Tags()["scalars"]
    }


def test_tensorboard_has_every_point_once_after_an_interruption(tmp_path):
    """Two rounds, killed while the third was measured, gone on with from the checkpoint."""
    train(Tracker(TensorBoard()), tmp_path, range(1, 3), end=False)
    leave(tmp_path, 2)
    train(Tracker(TensorBoard()), tmp_path, range(3, 4), end=True)
    found = scalars(tmp_path)
    assert found["round/loss"] == [(1, 2.0), (2, 1.0), (3, 0.66667)]
    name = "probe/heart-rhythm/both/auroc"
    assert found[name] == [(0, 0.7), (1, 0.71), (2, 0.72), (3, 0.73)]
    assert found[f"{name}/random-init"][0] == (0, 0.5)
    assert len(list((tmp_path / "tensorboard").iterdir())) == 1


def test_what_the_checkpoint_does_not_count_is_not_told(tmp_path):
    """A round in the journal beyond the checkpoint is computed again, so it is no point yet."""
    leave(tmp_path, 1)
    assert [number for number, _ in tracking.kept(tmp_path)] == [0, 1]


def test_a_measurement_is_told_with_its_round_and_not_before(tmp_path):
    """Killed between the two, the round is measured again: nothing was told of it."""
    tracker = Tracker(TensorBoard())
    tracker.on_start(tmp_path, experiment())
    tracker.on_evaluation(probe_rows(1))
    assert scalars(tmp_path) == {}
    tracker.on_round(round_row(1), [])
    assert scalars(tmp_path)["round/loss"] == [(1, 2.0)]


def test_points_are_finite_numbers_over_all_sites():
    """No site's own figure, no infinity, no text."""
    points = points_of(probe_rows(1), round_row(1))
    assert set(points) == {
        "round/participants", "round/survivors", "round/loss", "probe/heart-rhythm/both/auroc",
        "probe/heart-rhythm/both/auroc/low", "probe/heart-rhythm/both/auroc/high",
        "probe/heart-rhythm/both/auroc/gain", "probe/heart-rhythm/both/auroc/random-init",
    }  # fmt: skip


def test_parameters_do_not_hold_where_the_run_is_tracked():
    """An address may hold a password, and parameters are sent."""
    sent = parameters(experiment(tracking={"mlflow": SECRET, "wandb": "a-project"}))
    assert sent["privacy.mode"] == "none"
    assert "secret" not in str(sent)
    assert "a-project" not in str(sent)


def test_nothing_but_tensorboard_is_made_unless_the_file_asks(tmp_path):
    """An experiment that names no tracker has one observer, which writes files."""
    (only,) = observers(experiment(), tmp_path)
    assert isinstance(only.sink, TensorBoard)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_a_tracker_that_is_not_installed_is_named_with_its_extra(tmp_path, monkeypatch, name):
    """Before anything is trained, with what to install."""
    monkeypatch.setattr(tracking, "find_spec", lambda package: None if package == name else "x")
    with pytest.raises(OurMistake, match="not installed") as fault:
        observers(experiment(tracking={name: "somewhere"}), tmp_path)
    assert f"pip install 'fedprint[{name}]'" in fault.value.do


@pytest.mark.filterwarnings("ignore")
def test_mlflow_has_every_point_once_after_an_interruption(tmp_path):
    """A folder is a database; a second process goes on in the same run, and tells what it lacks."""
    pytest.importorskip("mlflow")
    from mlflow.tracking import MlflowClient

    out, place = tmp_path / "out", tmp_path / "tracked"
    out.mkdir()
    train(Tracker(MLflow(str(place))), out, range(1, 2), end=False)
    leave(out, 2)
    train(Tracker(MLflow(str(place))), out, range(3, 4), end=True)
    client = MlflowClient(tracking_uri=f"sqlite:///{place}/mlflow.db")
    (kept,) = client.search_experiments(filter_string="name = 'fedprint'")
    (run,) = client.search_runs([kept.experiment_id])
    points = client.get_metric_history(run.info.run_id, "round/loss")
    assert sorted((one.step, round(one.value, 3)) for one in points) == [
        (1, 2.0), (2, 1.0), (3, 0.667),
    ]  # fmt: skip
    measured = client.get_metric_history(run.info.run_id, "probe/heart-rhythm/both/auroc")
    assert sorted(one.step for one in measured) == [0, 1, 2, 3]
    assert run.info.status == "FINISHED"
    assert run.data.tags["fedprint.words"] == "NO PRIVACY."
    assert run.data.params["privacy.mode"] == "none"
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"


class StandIn(types.ModuleType):
    """Weights & Biases as far as a tracker uses it, keeping what it is told."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.runs: dict[str, types.SimpleNamespace] = {}
        self.asked: list[dict] = []

    def Settings(self, **chosen):  # noqa: N802
        return chosen

    def init(self, **asked):
        self.asked.append(asked)
        name = asked["id"] or f"run-{len(self.runs)}"
        if name not in self.runs:
            run = types.SimpleNamespace(id=name, told=[], summary={}, ended=0)

            def log(points, run=run):
                run.told.append(points)
                run.summary.update(points)

            run.log, run.define_metric = log, lambda *a, **k: None
            run.finish = lambda run=run: setattr(run, "ended", run.ended + 1)
            self.runs[name] = run
        return self.runs[name]


def test_wandb_goes_on_in_the_same_run_and_is_sent_no_machine_and_no_code(tmp_path, monkeypatch):
    """With a stand-in for its module: one run, each round once, everything else switched off."""
    stand_in = StandIn()
    monkeypatch.setitem(sys.modules, "wandb", stand_in)
    train(Tracker(WandB("p")), tmp_path, range(1, 2), end=False)
    leave(tmp_path, 2)
    train(Tracker(WandB("p")), tmp_path, range(3, 4), end=True)
    (run,) = stand_in.runs.values()
    assert [points["told/round"] for points in run.told] == [0, 1, 2, 3]
    assert run.ended == 1
    assert run.summary["final/model"] == "abc"
    assert [asked["resume"] for asked in stand_in.asked] == [None, "allow"]
    settings = stand_in.asked[0]["settings"]
    assert settings["disable_code"]
    assert settings["disable_git"]
    assert settings["console"] == "off"
    assert "tracking" not in str(stand_in.asked[0]["config"])


def test_a_tracker_that_cannot_be_reached_stops_the_run_without_its_text(tmp_path):
    """The library's message may hold an address with a password: ours has the kind of fault."""

    class Broken(TensorBoard):
        def tell(self, round: int, points: dict) -> None:
            raise ConnectionError(SECRET)

    tracker = Tracker(Broken())
    tracker.on_start(tmp_path, experiment())
    with pytest.raises(OurMistake, match="ConnectionError") as fault:
        tracker.on_round(round_row(1), [])
    assert "secret" not in str(fault.value)
    assert "--resume" in fault.value.do


def test_mlflows_folder_is_taken_from_the_files_own_folder(tmp_path):
    """As every path in an experiment's file; an address stays an address."""
    for given, wanted in (("runs", str(tmp_path / "runs")), (SECRET, SECRET), ("uc", "uc")):
        one = experiment(tracking={"mlflow": given}).placed(tmp_path)
        assert one.tracking.mlflow == wanted
