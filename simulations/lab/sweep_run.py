"""One run of a sweep in a process of its own: begun, waited for, and what became of it.

A process for each run, so that a run that takes all memory, or crashes, is one row of the table.
It dies with the process that began it. What it says goes to `run.log` beside the run's folder.

    outcome = carry_out(task)      # blocks; starts a process, reads what it left

The process writes `outcome.json` as its last act. A run whose process left none has failed.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

from shared_model.children import tether
from shared_model.errors import FedprintError
from shared_model.files import write_atomic
from simulations.lab.experiment import Experiment

ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
_GRACE_S, _LOOK_S = 10.0, 0.2

_INTERRUPTED = 128 + signal.SIGINT
_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from simulations.lab.sweep_run import main; main(*sys.argv[2:])"
)
CONDUCT = "simulations.lab.sweep_run:by_conduct"
"""What carries a run out, `module:function`: (experiment, folder, cache), resuming what is there;
raises what went wrong."""


@dataclass(frozen=True)
class Task:
    """What one process is told; plain values. cache: of federations, shared by all runs."""

    name: str
    experiment: dict[str, Any]
    folder: Path
    cache: Path
    conduct: str = CONDUCT

    @property
    def outcome(self) -> Path:
        return self.folder / "outcome.json"

    @property
    def run(self) -> Path:
        """The folder of the run itself."""
        return self.folder / "run"

    @property
    def log(self) -> Path:
        return self.folder / "run.log"


@dataclass(frozen=True)
class Outcome:
    """How a run ended. seconds: of all its starts together."""

    state: Literal["finished", "failed"]
    error: str
    seconds: float

    def save(self, path: Path) -> None:
        write_atomic(path, json.dumps(asdict(self), indent=1).encode())

    @classmethod
    def read(cls, path: Path) -> Outcome | None:
        """None: there is none, or it cannot be read: the run is carried out (again)."""
        try:
            return cls(**json.loads(path.read_bytes()))
        except (OSError, ValueError, TypeError):
            return None


class Stopping:
    """Tells those who wait for a run that all is to end."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def now(self) -> None:
        self._event.set()

    @property
    def asked(self) -> bool:
        return self._event.is_set()

    def wait(self, seconds: float) -> bool:
        return self._event.wait(seconds)


def by_conduct(experiment: Experiment, folder: Path, cache: Path) -> None:
    """The lab's own engine."""
    from simulations.lab import conduct

    conduct.run(experiment, folder, resume=True, cache=cache)


def private_log(path: Path) -> BinaryIO:
    """To append to, for this user alone: a fault's words may be of a patient."""
    log = path.open("ab")
    os.fchmod(log.fileno(), 0o600)
    return log


def carry_out(task: Task, stopping: Stopping | None = None) -> Outcome:
    """Carry a run out in a new process and wait for its end; what is finished is not begun again.

    Args:
        stopping: the run is ended (and can be resumed) when it is asked for.

    Raises:
        KeyboardInterrupt: it was stopped; there is no outcome.
    """
    before = Outcome.read(task.outcome)
    if before is not None and before.state == "finished":
        return before
    spent = 0.0 if before is None else before.seconds
    task.folder.mkdir(parents=True, exist_ok=True)
    task.outcome.unlink(missing_ok=True)
    told = asdict(task) | {"folder": str(task.folder), "cache": str(task.cache)}
    write_atomic(task.folder / "task.json", json.dumps(told).encode())
    with private_log(task.log) as log:
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", _START, json.dumps(sys.path), str(task.folder),
             str(os.getpid()), str(spent)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C is for this process, which ends its runs
            env=os.environ | ONE_THREAD,
        )  # fmt: skip
    while (status := _status(process)) is None:
        if stopping is not None and stopping.asked:
            _end(process)
            raise KeyboardInterrupt
    found = Outcome.read(task.outcome)
    if found is not None:
        return found
    if status == _INTERRUPTED:
        raise KeyboardInterrupt
    how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
    found = Outcome("failed", f"Its process {how}; see {task.log}.", spent)
    found.save(task.outcome)
    return found


def _status(process: subprocess.Popen[bytes]) -> int | None:
    try:
        return process.wait(_LOOK_S)
    except subprocess.TimeoutExpired:
        return None


def _end(process: subprocess.Popen[bytes]) -> None:
    """SIGINT, so that the run stops in order; SIGKILL to all of one that does not."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    try:
        process.wait(_GRACE_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def main(folder: str, parent: str, spent: str) -> None:
    """Entry of the new process."""
    tether(int(parent))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    told = json.loads((Path(folder) / "task.json").read_bytes())
    task = Task(**told | {"folder": Path(told["folder"]), "cache": Path(told["cache"])})
    module, _, function = task.conduct.partition(":")
    began, error = time.monotonic(), ""
    try:
        conduct = getattr(importlib.import_module(module), function)
        conduct(Experiment.from_dict(task.experiment), task.run, task.cache)
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)
    except FedprintError as fault:
        error = str(fault)
    except Exception as fault:
        import traceback

        traceback.print_exc()
        error = f"{_why(fault)}; see {task.log}"
    seconds = float(spent) + time.monotonic() - began
    Outcome("failed" if error else "finished", error, seconds).save(task.outcome)


def _why(fault: Exception) -> str:
    """The kind of a fault that nobody foresaw. Of the system's, its words too; of no other: they
    may quote what was read of a patient, and a file's name may be one's identifier."""
    kind = type(fault).__name__
    if not isinstance(fault, OSError) or fault.errno is None:
        return kind
    return f"{kind}: {os.strerror(fault.errno)}"
