"""TensorBoard, MLflow and Weights & Biases as places for a run's points."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shared_model.errors import OurMistake
from shared_model.files import write_atomic
from simulations.lab.experiment import Experiment
from simulations.lab.tracking import NOTHING, Points, parameters, quiet

_MARK = "told/round"
"""A metric that is the round itself: the last one says what was told."""
_FILE = "tracking.json"
"""In the run's folder: the run's id at each tracker, so that a resumed run goes on in it."""
_MOST_IN_A_BATCH = 500
FINAL = ("loss", "epsilon", "aggregated", "bytes_up", "bytes_down", "virtual_s")


class TensorBoard:
    """Event files in tensorboard/, written anew at every start: no point twice after a resume."""

    def begin(self, folder: Path, experiment: Experiment) -> int:
        """Remove earlier event files, which are told again from the journal."""
        from torch.utils.tensorboard import SummaryWriter

        place = folder / "tensorboard"
        for old in place.glob("events.out.tfevents.*"):
            old.unlink()
        self.writer = SummaryWriter(str(place))
        table = "\n".join(f"| {name} | {text} |" for name, text in parameters(experiment).items())
        self._text("experiment", f"| field | value |\n|---|---|\n{table}")
        return NOTHING

    def tell(self, round: int, points: Points) -> None:
        """Scalars, flushed: they are there to be looked at while the run goes on."""
        for name, value in points.items():
            self.writer.add_scalar(name, value, round)
        self.writer.flush()

    def end(self, figures: Mapping[str, Any]) -> None:
        """The words that belong to the figures."""
        self._text("in words", "\n\n".join(figures.get("in_words", ())))
        self.writer.close()

    def _text(self, name: str, text: str) -> None:
        self.writer.add_text(name, text)


class MLflow:
    """A run in the experiment "fedprint" of a tracking server, database or folder.

    address: a URI, or a folder (then a database, mlflow.db, lies in it).
    """

    def __init__(self, address: str) -> None:
        self.address = address

    def begin(self, folder: Path, experiment: Experiment) -> int:
        """Make the run, or go on in the one that this folder began."""
        quiet()
        from mlflow.tracking import MlflowClient

        self.client = MlflowClient(tracking_uri=_uri(self.address))
        known = _known(folder, "mlflow", self.address)
        if known is not None:
            self.run = known
            told = self.client.get_metric_history(self.run, _MARK)
            self.client.update_run(self.run, status="RUNNING")
            return max((int(one.step) for one in told), default=NOTHING)
        name = "fedprint"
        found = self.client.get_experiment_by_name(name)
        place = found.experiment_id if found else self.client.create_experiment(name)
        self.run = self.client.create_run(place, run_name=experiment.name).info.run_id
        for key, text in parameters(experiment).items():
            self.client.log_param(self.run, key, text[:500])
        self.client.set_tag(self.run, "fedprint.identity", experiment.identity)
        _remember(folder, "mlflow", self.address, self.run)
        return NOTHING

    def tell(self, round: int, points: Points) -> None:
        """Metrics with the round as their step; the mark comes last."""
        import time

        from mlflow.entities import Metric

        now_ms = int(time.time() * 1000)
        many = [Metric(name, value, now_ms, round) for name, value in points.items()]
        many.append(Metric(_MARK, float(round), now_ms, round))
        for start in range(0, len(many), _MOST_IN_A_BATCH):
            self.client.log_batch(self.run, metrics=many[start : start + _MOST_IN_A_BATCH])

    def end(self, figures: Mapping[str, Any]) -> None:
        """Digest and words as tags."""
        self.client.set_tag(self.run, "fedprint.model", str(figures.get("model")))
        self.client.set_tag(self.run, "fedprint.words", " ".join(figures.get("in_words", ())))
        self.client.set_terminated(self.run)


class WandB:
    """A run in a project of Weights & Biases; code, console, git and the machine are not sent."""

    def __init__(self, project: str) -> None:
        self.project = project

    def begin(self, folder: Path, experiment: Experiment) -> int:
        """Make the run, or go on in the one that this folder began."""
        quiet()
        import wandb

        known = _known(folder, "wandb", self.project)
        settings = wandb.Settings(
            console="off", disable_code=True, disable_git=True, save_code=False,
            x_disable_machine_info=True, x_disable_meta=True, x_disable_stats=True,
        )  # fmt: skip
        self.run = wandb.init(
            project=self.project,
            name=experiment.name,
            id=known,
            resume="allow" if known else None,
            config=parameters(experiment),
            settings=settings,
            dir=str(folder),
        )
        self.run.define_metric(_MARK)
        self.run.define_metric("*", step_metric=_MARK)
        if known is None:
            _remember(folder, "wandb", self.project, str(self.run.id))
            return NOTHING
        return int(self.run.summary.get(_MARK, NOTHING))

    def tell(self, round: int, points: Points) -> None:
        """One step of the run's history."""
        self.run.log({**points, _MARK: float(round)})

    def end(self, figures: Mapping[str, Any]) -> None:
        """Final figures in the summary."""
        chosen = {f"final/{name}": figures.get(name) for name in (*FINAL, "model", "in_words")}
        self.run.summary.update(chosen)
        self.run.finish()


def _uri(address: str) -> str:
    """A URI as it is; of a folder, its database: MLflow takes no plain folder any more."""
    plain = address.removeprefix("file://")
    if "://" in plain or plain in {"databricks", "uc"}:
        return address
    place = Path(plain).absolute()
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OurMistake(
            f"tracking.mlflow: the folder {plain} cannot be made: {error.strerror}.",
            do="Name another folder, or the address of a tracking server.",
        ) from error
    return f"sqlite:///{place / 'mlflow.db'}"


def _known(folder: Path, tracker: str, place: str) -> str | None:
    """The id of this folder's run there."""
    content = _ids(folder).get(tracker, {})
    return content.get("id") if content.get("place") == place else None


def _remember(folder: Path, tracker: str, place: str, run: str) -> None:
    content = _ids(folder) | {tracker: {"place": place, "id": run}}
    write_atomic(folder / _FILE, json.dumps(content, indent=1).encode(), mode=0o600)


def _ids(folder: Path) -> dict[str, dict[str, str]]:
    path = folder / _FILE
    if not path.is_file():
        return {}
    try:
        found: dict[str, dict[str, str]] = json.loads(path.read_bytes())
    except ValueError as error:
        raise OurMistake(f"{path} is not JSON.", do="Remove it: the run is told anew.") from error
    return found
