"""The privacy-utility frontier: what epsilon costs in utility, for hospitals and patients.

    asked = Frontier(epsilons=(1.0, 3.0, 8.0), hospitals=(4, 16), patients=(50, 200))
    found = sweep(asked.sweep(base), out)
    points = points_of(found.rows, "auroc rhythm")      # means over seeds, with intervals
    write(points, out)                                  # frontier.csv, frontier.pdf, frontier.svg

Beside each trust model stand two references of the same hospitals and patients: mode none (no
noise, no clipping) and the starting model, which nobody's patient has touched. Intervals are over
seeds: 95 %, Student's t. One seed has none, and the plot shows none.

Mode distributed is compared at equal steps: one step a round, so as many rounds as mode local has
steps, with plain SGD at `distributed_rate`.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shared_model import canonical
from shared_model.errors import OurMistake
from shared_model.files import write_atomic
from simulations.lab.experiment import Experiment
from simulations.lab.experiment_tables import MAX_HOSPITALS, Seed
from simulations.lab.reading import faults_of
from simulations.lab.space import ABSENT, Sweep
from simulations.lab.sweep_table import LOSS

Mode = Literal["local", "distributed"]
Epsilon = Annotated[float, Field(gt=0.0, le=1e4)]
__all__ = ["LOSS", "Frontier", "Point", "interval", "metrics_of", "points_of", "write"]
CONFIDENCE = 0.95
START, NONE = "starting model", "none"


class Frontier(BaseModel):
    """What is compared. distributed_rate: of plain steps in mode distributed."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    epsilons: Annotated[tuple[Epsilon, ...], Field(min_length=1)] = (1.0, 3.0, 8.0)
    hospitals: Annotated[
        tuple[Annotated[int, Field(ge=1, le=MAX_HOSPITALS)], ...], Field(min_length=1)
    ] = (4, 16)
    patients: Annotated[tuple[Annotated[int, Field(ge=2)], ...], Field(min_length=1)] = (50, 200)
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (1, 2, 3)
    modes: Annotated[tuple[Mode, ...], Field(min_length=1)] = ("local",)
    distributed_rate: Annotated[float, Field(gt=0.0, lt=10.0)] = 0.1

    @classmethod
    def from_dict(cls, value: Any) -> Frontier:
        """Read plain values.

        Raises:
            OurMistake: says which field is wrong.
        """
        try:
            return cls.model_validate_json(canonical.encode(value))
        except ValidationError as error:
            raise OurMistake(f"The frontier is wrong at {faults_of(error)[0]}.") from error

    def sweep(self, base: Experiment) -> Sweep:
        """The runs of it. What else the base says stays: model, algorithm, rounds, effects.

        Raises:
            OurMistake: the base reads real folders, which have the patients that they have.
        """
        if base.federation.source == "folders":
            raise OurMistake(
                "A frontier varies hospitals and patients; real folders have the patients that "
                "they have.",
                do="Sweep privacy.epsilon, with a partition federation.hospitals too: "
                "fedprint-lab sweep --help",
            )
        points: list[dict[str, Any]] = [self._point(base, self.modes[0], None)]
        for mode in self.modes:
            points += [self._point(base, mode, epsilon) for epsilon in self.epsilons]
        return Sweep.from_dict(
            {
                "experiment": base.as_dict(),
                "seeds": list(self.seeds),
                "grid": {
                    "federation.hospitals": list(self.hospitals),
                    "federation.patients": list(self.patients),
                },
                "points": points,
            }
        )

    def _point(self, base: Experiment, mode: Mode, epsilon: float | None) -> dict[str, Any]:
        """Fields of a mode and epsilon; None: mode none, trained as `mode` is."""
        steps = base.rounds * base.algorithm.steps
        point: dict[str, Any] = {
            "privacy.mode": NONE if epsilon is None else mode,
            "privacy.epsilon": ABSENT if epsilon is None else epsilon,
            "privacy.noise_multiplier": ABSENT,
        }
        if mode == "distributed" and base.privacy.mode != "distributed":
            point |= {
                "rounds": steps,
                "algorithm.steps": 1,
                "algorithm.optimiser": "sgd",
                "algorithm.learning_rate": self.distributed_rate,
                "algorithm.proximal_weight": 0.0,
                "algorithm.local_norms": False,
                "algorithm.control_variates": False,
                "evaluation.every": base.evaluation.every * base.algorithm.steps,
            }
        return point


@dataclass(frozen=True)
class Point:
    """Runs that differ by their seed alone. mode: local, distributed, none, starting model.

    epsilon: as asked; spent: the largest of them. low, high: None with one seed.
    """

    mode: str
    hospitals: int
    patients: int
    epsilon: float | None
    spent: float | None
    delta: float | None
    noise_to_signal: float | None
    metric: str
    seeds: int
    mean: float
    low: float | None
    high: float | None


def interval(values: Sequence[float]) -> tuple[float, float | None, float | None]:
    """Mean, and Student's t interval of it if there are two values or more."""
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return mean, None, None
    from scipy.stats import t as student

    square = math.fsum((one - mean) ** 2 for one in values) / (len(values) - 1)
    half = float(student.ppf(0.5 + CONFIDENCE / 2.0, len(values) - 1))
    half *= math.sqrt(square / len(values))
    return mean, mean - half, mean + half


def with_ends(values: Sequence[float]) -> dict[str, float | None]:
    """`interval` as a measured file has it."""
    mean, low, high = interval(values)
    return {"value": mean, "low": low, "high": high}


def metrics_of(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Columns that can be drawn: the loss, and every figure with an interval."""
    names: dict[str, None] = {}
    for row in rows:
        names |= {name: None for name in row if f"{name} start" in row and row[name] is not None}
    return list(names)


def points_of(rows: Sequence[Mapping[str, Any]], metric: str) -> list[Point]:
    """Mean over seeds of all finished runs of a table, and of their starting models.

    Raises:
        OurMistake: no finished run has this metric; says which there are.
    """
    done = [row for row in rows if row["state"] == "finished" and row.get(metric) is not None]
    if not done:
        known = metrics_of(rows)
        raise OurMistake(
            f"No finished run has the figure {metric!r}.",
            do=f"Choose from: {', '.join(known)}." if known else "Let runs finish first.",
        )
    groups: dict[tuple[str, int, int, float | None], list[Mapping[str, Any]]] = {}
    for row in done:
        groups.setdefault(_key(row), []).append(row)
    found = [_point(key, group, metric, metric) for key, group in groups.items()]
    starts: dict[tuple[str, int, int, float | None], dict[Any, Mapping[str, Any]]] = {}
    for row in done:
        if row.get(f"{metric} start") is not None:
            key = (START, row["federation.hospitals"], row["federation.patients"], None)
            starts.setdefault(key, {})[row.get("seed")] = row  # the same for every epsilon
    found += [
        _point(key, list(group.values()), f"{metric} start", metric)
        for key, group in starts.items()
    ]
    return sorted(found, key=lambda one: (one.mode, one.patients, one.hospitals, one.epsilon or 0))


def _key(row: Mapping[str, Any]) -> tuple[str, int, int, float | None]:
    try:
        return (
            str(row["privacy.mode"]),
            int(row["federation.hospitals"]),
            int(row["federation.patients"]),
            row["privacy.epsilon"],
        )
    except KeyError as error:
        raise OurMistake(
            f"The table does not vary {error.args[0]}: it is no frontier.",
            do="Make one with: fedprint-lab frontier EXP.toml -o OUT",
        ) from error


def _point(
    key: tuple[str, int, int, float | None],
    group: Sequence[Mapping[str, Any]],
    column: str,
    metric: str,
) -> Point:
    mode, hospitals, patients, epsilon = key
    mean, low, high = interval([float(row[column]) for row in group])
    private = epsilon is not None
    spent = [row["epsilon"] for row in group if row.get("epsilon") is not None]
    ratios = [row["noise_to_signal"] for row in group if row.get("noise_to_signal") is not None]
    return Point(
        mode=mode,
        hospitals=hospitals,
        patients=patients,
        epsilon=epsilon,
        spent=max(spent) if private and spent else None,
        delta=max((row["delta"] for row in group if row.get("delta")), default=None)
        if private
        else None,
        noise_to_signal=max(ratios) if private and ratios else None,
        metric=metric,
        seeds=len(group),
        mean=mean,
        low=low,
        high=high,
    )


def write(points: Sequence[Point], folder: Path) -> list[Path]:
    """frontier.csv, frontier.pdf and frontier.svg, each whole or not at all."""
    from simulations.lab import frontier_plot

    text = io.StringIO()
    writer = csv.DictWriter(text, [one.name for one in fields(Point)], lineterminator="\n")
    writer.writeheader()
    for point in points:
        content = asdict(point)
        writer.writerow({name: "" if value is None else value for name, value in content.items()})
    table = folder / "frontier.csv"
    write_atomic(table, text.getvalue().encode())
    return [table, *frontier_plot.draw(points, folder)]
