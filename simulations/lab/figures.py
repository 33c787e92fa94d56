"""A run's folder as plots and report read it: also of a run that goes on or was interrupted.

run = RunData.read(Path("out"))
run.series("rhythm", "auroc")        # rounds, values, intervals
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from shared_model.errors import OurMistake
from shared_model.weights import Weights
from simulations.lab.data import FederationData
from simulations.lab.evaluate_rows import BACKDOOR, DRAWN, FEDERATED, LOSSES, MEDIAN, RANDOM_INIT
from simulations.lab.experiment import Experiment

F64 = npt.NDArray[np.float64]
Row = dict[str, Any]
MEGABYTE = 1e6
NOT_LABELS = {*LOSSES, *DRAWN, BACKDOOR}
"""Tasks that are no labels of patients."""


@dataclass(frozen=True)
class Series:
    """A figure over rounds. Arrays of one length; NaN where there is no interval or epsilon."""

    round: F64
    value: F64
    low: F64
    high: F64
    epsilon: F64
    patients: int

    def __len__(self) -> int:
        return len(self.round)


@dataclass(frozen=True)
class RunData:
    """What a run has left so far.

    about: result.json, {} before the end. rounds, probes: rows of the Parquet files.
    """

    folder: Path
    experiment: Experiment
    provenance: Row
    about: Row
    rounds: tuple[Row, ...] = field(repr=False)
    probes: tuple[Row, ...] = field(repr=False)

    @classmethod
    def read(cls, folder: Path) -> RunData:
        """Read a run's folder; what is not there yet is empty.

        Raises:
            OurMistake: the folder holds no run, or a file of it cannot be read.
        """
        if not (folder / "experiment.toml").is_file():
            raise OurMistake(
                f"{folder} holds no run of the lab.",
                do="Name the folder that was given to: fedprint-lab run EXP.toml -o FOLDER",
            )
        return cls(
            folder,
            Experiment.from_toml(folder / "experiment.toml"),
            _json(folder / "provenance.json"),
            _json(folder / "result.json"),
            tuple(_table(folder, "rounds").to_pylist()),
            tuple(_table(folder, "probes").to_pylist()),
        )

    @property
    def done(self) -> bool:
        """The run has ended."""
        return bool(self.about)

    @cached_property
    def sites(self) -> Any:
        """metrics/sites.parquet, a pyarrow table: one row a (round, site)."""
        return _table(self.folder, "sites")

    @cached_property
    def data(self) -> FederationData | None:
        """The federation's patients; None if they are not on this machine any more."""
        place = self.folder / "federation"
        told = self.folder / "federation.txt"
        if told.is_file():
            place = Path(told.read_text(encoding="utf-8").strip())
        made = FederationData(place)
        return made if (place / "federation.json").is_file() else None

    @cached_property
    def own_norms(self) -> dict[str, Weights]:
        """LayerNorms that sites keep for themselves, after the last round."""
        from client.local_state import NORMS
        from simulations.lab.checkpoint import SiteStates

        states = SiteStates(self.folder / "state" / "sites")
        kept = {
            site.name: states.before(place, self.experiment.rounds + 1)
            for place, site in enumerate(self.data.sites if self.data else ())
        }
        return {
            name: {key.removeprefix(NORMS): one[key] for key in one if key.startswith(NORMS)}
            for name, one in kept.items()
        }

    @cached_property
    def evaluated(self) -> tuple[int, ...]:
        """Rounds that were measured."""
        return tuple(sorted({int(row["round"]) for row in self.probes}))

    @cached_property
    def labels(self) -> tuple[tuple[str, str], ...]:
        """Labels that were probed, and the kind that is plotted: "auroc" or "r"."""
        kinds = {"auroc": "auroc", "mae": "r"}
        found = {
            row["task"]: kinds[row["kind"]]
            for row in self.probes
            if row["task"] not in NOT_LABELS and row["kind"] in kinds
        }
        return tuple(found.items())

    def series(
        self,
        task: str,
        kind: str,
        *,
        sensors: str = "both",
        site: str = "all",
        model: str = FEDERATED,
    ) -> Series:
        """One figure over rounds; empty if it was never measured."""
        wanted = (task, kind, sensors, site, model)
        names = ("task", "kind", "sensors", "site", "model")
        rows = [row for row in self.probes if tuple(row[name] for name in names) == wanted]
        rows = sorted((row for row in rows if row["value"] is not None), key=_round)
        columns = {
            name: np.array(
                [np.nan if row[name] is None else row[name] for row in rows], dtype=np.float64
            )
            for name in ("round", "value", "low", "high", "epsilon")
        }
        return Series(**columns, patients=int(rows[-1]["patients"]) if rows else 0)

    def baseline(self, task: str, kind: str, sensors: str = "both") -> Row | None:
        """Random-init's row, or always predicting the median."""
        for model in (RANDOM_INIT, MEDIAN):
            found = [
                row
                for row in self.probes
                if (row["task"], row["kind"], row["sensors"], row["model"])
                == (task, kind, sensors, model)
            ]
            if found:
                return found[0]
        return None

    def last(self, **wanted: Any) -> list[Row]:
        """Rows of the last measured round whose columns are these."""
        if not self.evaluated:
            return []
        want = {"round": self.evaluated[-1], "model": FEDERATED, **wanted}
        return [row for row in self.probes if all(row[name] == want[name] for name in want)]

    def at_sites(self, task: str, kind: str, round: int) -> list[Row]:
        """A figure of every site that has one in that round."""
        return [
            row
            for row in self.probes
            if (row["task"], row["kind"], row["round"]) == (task, kind, round)
            and row["site"] != "all"
            and row["value"] is not None
        ]

    def column(self, name: str) -> F64:
        """A column of rounds.parquet; NaN where it is empty."""
        return np.array(
            [np.nan if row.get(name) is None else row[name] for row in self.rounds],
            dtype=np.float64,
        )

    @property
    def has_epsilon(self) -> bool:
        """Some rounds have a finite epsilon."""
        return bool(np.isfinite(self.column("epsilon")).any())


def _round(row: Row) -> int:
    return int(row["round"])


def _json(path: Path) -> Row:
    if not path.is_file():
        return {}
    try:
        content: Row = json.loads(path.read_bytes())
    except ValueError as error:
        raise OurMistake(f"{path} is not JSON.", do="The folder was changed.") from error
    return content


def _table(folder: Path, name: str) -> Any:
    import pyarrow as arrow
    from pyarrow import parquet

    path = folder / "metrics" / f"{name}.parquet"
    if not path.is_file():
        return arrow.table({})
    try:
        return parquet.read_table(path)
    except arrow.ArrowInvalid as error:
        raise OurMistake(f"{path} is not Parquet.", do="The folder was changed.") from error
