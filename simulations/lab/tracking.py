"""Who is told about a run: TensorBoard always; MLflow and W&B when the experiment's file asks.

    run(experiment, out, observers=tracking.observers(experiment, out))

A tracker gets one point a round (rows of rounds.parquet) and one an evaluation (rows over all sites
of probes.parquet). Points are told in the order of rounds, after the round's checkpoint; at the
start of a process a tracker first gets what it lacks, from the run's journal. So a resumed run has
every point once. No signal, no site's own figure and no plot is sent anywhere.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from shared_model.errors import FedprintError, OurMistake
from simulations.lab.experiment import Experiment

if TYPE_CHECKING:
    from simulations.lab.result import Observer, Result

Points = dict[str, float]
NOTHING = -1
"""No round was told yet."""
_NO_POINT = {"round", "outcome", "model"}


class Sink(Protocol):
    """Where points go."""

    def begin(self, folder: Path, experiment: Experiment) -> int:
        """Open it. Returns the last round that it has already; `NOTHING` if it has none."""

    def tell(self, round: int, points: Points) -> None:
        """All points of a round."""

    def end(self, figures: Mapping[str, Any]) -> None:
        """The run is done; figures of result.json."""


class Tracker:
    """Brings rounds and evaluations to a sink, each once. Implements `result.Observer`."""

    def __init__(self, sink: Sink) -> None:
        self.sink = sink
        self.told = NOTHING
        self._measured: dict[int, list[dict[str, Any]]] = {}

    def on_start(self, folder: Path, experiment: Experiment) -> None:
        """Open the sink, and tell it the rounds of earlier processes that it lacks."""
        with explained(self.sink):
            self.told = self.sink.begin(folder, experiment)
        for number, points in kept(folder):
            self._tell(number, points)

    def on_evaluation(self, rows: list[dict[str, Any]]) -> None:
        """Keep them until their round is safe; round 0 has no row of its own."""
        for row in rows:
            self._measured.setdefault(int(row["round"]), []).append(row)

    def on_round(self, row: dict[str, Any], sites: list[dict[str, Any]]) -> None:
        """Tell this round, and before it an evaluation of round 0."""
        number = int(row["round"])
        for earlier in sorted(one for one in self._measured if one < number):
            self._tell(earlier, points_of(self._measured.pop(earlier)))
        self._tell(number, points_of(self._measured.pop(number, ()), row))

    def on_end(self, result: Result) -> None:
        """Tell what is left, and close."""
        for number in sorted(self._measured):
            self._tell(number, points_of(self._measured.pop(number)))
        with explained(self.sink):
            self.sink.end(result.about)

    def _tell(self, number: int, points: Points) -> None:
        if number > self.told and points:
            with explained(self.sink):
                self.sink.tell(number, points)
            self.told = number


@contextmanager
def explained(sink: Sink) -> Iterator[None]:
    """A tracker's own fault in our words; never its text, which may hold an address or a key.

    Raises:
        OurMistake: it could not be told.
    """
    try:
        yield
    except FedprintError:
        raise
    except Exception as error:
        name = type(sink).__name__
        raise OurMistake(
            f"{name} could not be told about the run ({type(error).__name__}).",
            do="See that it can be reached, or take it out of the file's [tracking]; then go on "
            "with the run: --resume. What it lacks is told then.",
        ) from error


def observers(experiment: Experiment, folder: Path) -> list[Observer]:
    """The trackers that the experiment asks for.

    Raises:
        OurMistake: one of them is not installed; the message names the extra.
    """
    from simulations.lab.tracking_sinks import MLflow, TensorBoard, WandB

    _need("tensorboard", "lab")
    made: list[Observer] = [Tracker(TensorBoard())]
    if experiment.tracking.mlflow is not None:
        _need("mlflow", "mlflow")
        made.append(Tracker(MLflow(experiment.tracking.mlflow)))
    if experiment.tracking.wandb is not None:
        _need("wandb", "wandb")
        made.append(Tracker(WandB(experiment.tracking.wandb)))
    return made


def _need(package: str, extra: str) -> None:
    if find_spec(package) is None:
        raise OurMistake(
            f"The experiment is to be tracked with {package}, which is not installed.",
            do=f"pip install 'fedprint[{extra}]', or take tracking.{package} out of the file.",
        )


def points_of(
    measured: Sequence[Mapping[str, Any]], row: Mapping[str, Any] | None = None
) -> Points:
    """Names and values: round/loss, probe/rhythm/both/auroc, .../low, .../high, .../gain.

    Baselines are beside: probe/rhythm/both/auroc/random-init. What is not finite is left out.
    """
    points: Points = {}
    for name, value in (row or {}).items():
        if name not in _NO_POINT:
            _add(points, f"round/{name}", value)
    for one in measured:
        if one["site"] != "all":
            continue
        name = "/".join(("probe", one["task"], one["sensors"], one["kind"])).replace(" ", "-")
        if one["model"] != "federated":
            _add(points, f"{name}/{one['model']}".replace(" ", "-"), one["value"])
            continue
        _add(points, name, one["value"])
        for part in ("low", "high", "gain"):
            _add(points, f"{name}/{part}", one[part])
    return points


def _add(points: Points, name: str, value: Any) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and math.isfinite(value):
        points[name] = float(value)


def kept(folder: Path) -> Iterator[tuple[int, Points]]:
    """Points of all rounds up to the newest checkpoint, in order."""
    from simulations.lab.checkpoint import Checkpoint, Journal

    found = Checkpoint.newest(folder / "state")
    if found is None:
        return
    journal = Journal(folder / "state" / "journal.jsonl")
    measured: dict[int, list[dict[str, Any]]] = {}
    for line in journal.lines("probe", found.journal):
        row = line["row"]
        measured.setdefault(int(row["round"]), []).append(row)
    rows = {int(row["round"]): row for row in journal.lines("round", found.journal)}
    for number in sorted({*measured, *rows}):
        yield number, points_of(measured.get(number, ()), rows.get(number))


def parameters(experiment: Experiment) -> dict[str, str]:
    """Fields of the experiment by dotted name, as text; without where it is tracked."""
    content = experiment.as_dict()
    del content["tracking"]  # an address may hold a password
    return dict(_flat(content, ""))


def _flat(value: Any, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else key)
    elif value is not None and value != []:
        yield name, str(value)


def quiet() -> None:
    """No usage reports of the trackers' makers."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["DO_NOT_TRACK"] = "true"
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
