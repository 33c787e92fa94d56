"""A run's folder: who may use it, whether it may be gone on with, where it came from.

Two runs cannot use one folder at once. A folder that holds a run is refused without `resume`; with
it, another experiment, other code or another federation is refused, and it is said what differs.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from client.pseudonyms import SPELLING
from shared_model import outputs
from shared_model.errors import OurMistake, Refused
from shared_model.files import write_atomic
from shared_model.locks import locked
from simulations.lab.experiment import Experiment

_PACKAGES = ("fedprint", "flwr", "numpy", "opacus", "dp-accounting", "pyarrow", "ray", "torch")
_LOCK = ".lock"


@dataclass(frozen=True)
class RunFolder:
    """Where a run writes."""

    path: Path

    @property
    def state(self) -> Path:
        """Checkpoints and journal."""
        return self.path / "state"

    @property
    def metrics(self) -> Path:
        """Parquet tables."""
        return self.path / "metrics"

    @contextmanager
    def held(self, *, resume: bool) -> Iterator[None]:
        """Hold the folder, which is made.

        Raises:
            Refused: it holds something and `resume` is not asked for ("exists"), something else
                than a run ("exists"), or another process works in it ("busy").
        """
        if self._taken() and not resume:
            raise Refused(
                f"{self.path} is there already, and not empty.",
                reason="exists",
                do="Choose another folder, or go on with the run in it: --resume",
            )
        if self._taken() and not (self.path / "experiment.toml").is_file():
            raise Refused(
                f"{self.path} holds no run of the lab.", reason="exists", do="Choose another."
            )
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OurMistake(f"{self.path} cannot be made: {error.strerror}.") from error
        busy = Refused(f"Another process works in {self.path}.", reason="busy", do="Wait for it.")
        with locked(self.path / _LOCK, busy):
            yield

    def _taken(self) -> bool:
        """Something lies in it that is not just a beginning of ours."""
        if not self.path.exists():
            return False
        if not self.path.is_dir():
            return True
        names = [one.name for one in self.path.iterdir()]
        return any(name != _LOCK and not name.endswith(".new") for name in names)

    def begin(self, experiment: Experiment) -> None:
        """Write down what is run, by what; or see that it is the same as before.

        Raises:
            Refused: another experiment ("experiment") or other code ("code").
        """
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        place = self.path / "provenance.json"
        code = _code()
        if (self.path / "experiment.toml").is_file():
            _same(Experiment.from_toml(self.path / "experiment.toml"), experiment)
        if not place.is_file():
            content = {
                "identity": experiment.identity,
                "code": code,
                "data": None,
                "versions": _versions(),
                "machine": _machine(),
                "command": sys.argv,
                "began": now,
                "resumed": [],
            }
        else:
            content = json.loads(place.read_bytes())
            if content["code"] != code:
                raise Refused(
                    f"The run was begun with other code ({content['code'][:12]}) than is installed "
                    f"here ({code[:12]}): what follows would not fit what was before.",
                    reason="code",
                    do=f"Install what it was begun with ({_said(content['versions'])}), or run the "
                    "experiment anew in another folder.",
                )
            content["resumed"].append({"time": now, "versions": _versions()})
        write_atomic(self.path / "experiment.toml", experiment.to_toml().encode())
        self._write("provenance.json", content)

    def settle_data(self, digest: str, mappings: Mapping[str, str]) -> None:
        """Write down the federation's digest, the mappings by which its folders were read and the
        rule by which identifiers were spelled; or see that it is the same as before.

        Raises:
            Refused: it is another federation ("data").
        """
        content = json.loads((self.path / "provenance.json").read_bytes())
        if content["data"] not in (None, digest):
            raise Refused(
                "The federation's patients are not those that the run was begun with.",
                reason="data",
                do="Run the experiment anew in another folder.",
            )
        told = {"data": digest, "mappings": dict(mappings), "spelling": SPELLING}
        self._write("provenance.json", content | told)

    def write_result(self, content: Mapping[str, Any]) -> None:
        """result.json: the run is done."""
        self._write("result.json", content)

    def _write(self, name: str, content: Mapping[str, Any]) -> None:
        write_atomic(self.path / name, (outputs.document(content) + "\n").encode())


def _same(before: Experiment, now: Experiment) -> None:
    if before.identity == now.identity:
        return
    differ = sorted(_differences(before.deciding(), now.deciding(), ""))
    raise Refused(
        f"The folder holds another experiment. It differs at {'; '.join(differ[:8])}.",
        reason="experiment",
        do="Choose another folder, or give the experiment that the folder was begun with: its "
        "experiment.toml",
    )


def _differences(old: Any, new: Any, where: str) -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for name in sorted({*old, *new}):
            place = f"{where}.{name}" if where else name
            yield from _differences(old.get(name), new.get(name), place)
    elif old != new:
        yield f"{where} (there {_short(old)}, here {_short(new)})"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _code() -> str:
    from shared_model.release_files import code_digest

    return code_digest()


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "none"
    return {"python": platform.python_version(), **found}


def _said(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {versions[name]}" for name in ("fedprint", "torch", "numpy"))


def _machine() -> dict[str, Any]:
    from shared_model.machine import cpus, memory

    return {
        "system": platform.platform(),
        "processor": platform.machine(),
        "cores": cpus(),
        "memory_bytes": memory()[0],
        "threads": os.environ.get("OMP_NUM_THREADS", "as many as cores"),
    }
