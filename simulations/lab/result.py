"""What a run leaves behind, and who is told while it goes on.

result = Result.open(Path("out"))
result.rounds().to_pandas()          # also sites(), probes(): pyarrow tables
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from shared_model import weights as weights_io
from shared_model.errors import OurMistake
from shared_model.weights import Weights
from simulations.lab.experiment import Experiment


class Observer(Protocol):
    """Told in the coordinator's process, in this order. What it does decides nothing."""

    def on_start(self, folder: Path, experiment: Experiment) -> None:
        """Before the first round of this process."""

    def on_round(self, row: dict[str, Any], sites: list[dict[str, Any]]) -> None:
        """A row of rounds.parquet, and the rows of the sites that were asked."""

    def on_evaluation(self, rows: list[dict[str, Any]]) -> None:
        """Rows of probes.parquet, before the round's own row."""

    def on_end(self, result: Result) -> None:
        """The run is done."""


@dataclass(frozen=True)
class Result:
    """A run's folder, read when asked."""

    folder: Path

    @classmethod
    def open(cls, folder: Path) -> Result:
        """Look at a folder that `run` has written.

        Raises:
            OurMistake: it is none.
        """
        if not (folder / "experiment.toml").is_file():
            raise OurMistake(
                f"{folder} holds no run of the lab.",
                do="Name the folder that was given to: fedprint-lab run EXP.toml -o FOLDER",
            )
        return cls(folder)

    @property
    def experiment(self) -> Experiment:
        """As it was run, with every default."""
        return Experiment.from_toml(self.folder / "experiment.toml")

    @property
    def provenance(self) -> dict[str, Any]:
        """Digests, versions, machine, command, times."""
        return self._json("provenance.json")

    @property
    def mappings(self) -> dict[str, str]:
        """By which folders were read that had one of their own (`simulations.site_mapping`); none
        of a run that is older than they are."""
        return dict(self.provenance.get("mappings", {}))

    @property
    def spelling(self) -> int:
        """`client.pseudonyms.SPELLING` when its folders were read; 0 of a run before it had one."""
        return int(self.provenance.get("spelling", 0))

    @property
    def about(self) -> dict[str, Any]:
        """result.json.

        Raises:
            OurMistake: the run has not ended.
        """
        return self._json("result.json")

    @property
    def state(self) -> Literal["done", "unfinished"]:
        """Whether the run has ended."""
        return "done" if (self.folder / "result.json").is_file() else "unfinished"

    @property
    def digest(self) -> str:
        """SHA-256 of the final model."""
        return str(self.about["model"])

    @property
    def words(self) -> list[str]:
        """What must be said beside every figure."""
        return list(self.about["in_words"])

    def rounds(self) -> Any:
        """metrics/rounds.parquet."""
        return self._table("rounds")

    def sites(self) -> Any:
        """metrics/sites.parquet."""
        return self._table("sites")

    def probes(self) -> Any:
        """metrics/probes.parquet."""
        return self._table("probes")

    def weights(self) -> Weights:
        """The final model."""
        _ = self.about
        return weights_io.from_bytes((self.folder / "model.safetensors").read_bytes())

    def _table(self, name: str) -> Any:
        from pyarrow import parquet

        path = self.folder / "metrics" / f"{name}.parquet"
        if not path.is_file():
            raise OurMistake(f"{self.folder} has no {name} yet.", do="Let the run go on.")
        return parquet.read_table(path)

    def _json(self, name: str) -> dict[str, Any]:
        try:
            content: dict[str, Any] = json.loads((self.folder / name).read_bytes())
        except OSError as error:
            raise OurMistake(
                f"The run in {self.folder} has not ended: there is no {name}.",
                do="Go on with it: fedprint-lab run EXP.toml -o FOLDER --resume",
            ) from error
        return content


def tell(observers: Sequence[Observer], what: str, *values: Any) -> None:
    """Call one method of all."""
    for observer in observers:
        getattr(observer, what)(*values)
