"""One run of a sweep in a process of its own: begun, waited for, and what became of it.

A process for each run, so that a run that takes all memory, or crashes, is one row of the table.
It dies with the process that began it. What it says goes to `run.log` beside the run's folder.

    outcome = carry_out(task)      # blocks; starts a process, reads what it left

The process writes `outcome.json` as its last act. A run whose process left none has failed.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from shared_model.children import tether
from shared_model.errors import FedprintError
from shared_model.files import write_atomic
from simulations.lab.experiment import Experiment

ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
_GRACE_S = 10.0

Conduct = Callable[[Experiment, Path, bool, Path], None]
"""(experiment, folder, resume, cache) -> None: carries one run out; raises what went wrong."""


@dataclass(frozen=True)
class Task:
    """What one process is told; plain values. cache: of federations, shared by all runs."""

    name: str
    experiment: dict[str, Any]
    folder: Path
    cache: Path

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


def by_conduct(experiment: Experiment, folder: Path, resume: bool, cache: Path) -> None:
    """The lab's own engine."""
    from simulations.lab import conduct

    conduct.run(experiment, folder, resume=resume, cache=cache)


def carry_out(
    task: Task, stopping: Stopping | None = None, conduct: Conduct = by_conduct
) -> Outcome:
    """Carry a run out in a new process and wait for its end; what is finished is not begun again.

    Args:
        stopping: the run is ended (and can be resumed) when it is asked for.
        conduct: a function of a module, so that another process finds it.

    Raises:
        KeyboardInterrupt: it was stopped; there is no outcome.
    """
    before = Outcome.read(task.outcome)
    if before is not None and before.state == "finished":
        return before
    spent = 0.0 if before is None else before.seconds
    task.folder.mkdir(parents=True, exist_ok=True)
    task.outcome.unlink(missing_ok=True)
    context = multiprocessing.get_context("spawn")
    process = context.Process(
        target=_main, args=(task, os.getpid(), spent, conduct), name=task.name
    )
    process.start()
    while process.is_alive():
        process.join(0.2)
        if stopping is not None and stopping.asked:
            _end(process)
            raise KeyboardInterrupt
    found = Outcome.read(task.outcome)
    if found is not None:
        return found
    if process.exitcode == 128 + signal.SIGINT:
        raise KeyboardInterrupt
    found = Outcome("failed", f"Its process ended with {process.exitcode}; see {task.log}.", spent)
    found.save(task.outcome)
    return found


def _end(process: Any) -> None:
    """SIGINT, so that the run stops in order; SIGKILL to who does not."""
    if process.pid is not None and process.is_alive():
        os.kill(process.pid, signal.SIGINT)
    process.join(_GRACE_S)
    if process.is_alive():
        process.kill()
        process.join()


def _main(task: Task, parent: int, spent: float, conduct: Conduct) -> None:
    """In the new process."""
    tether(parent)
    os.environ.update(ONE_THREAD)
    with task.log.open("ab", buffering=0) as stream:
        os.dup2(stream.fileno(), sys.stdout.fileno())
        os.dup2(stream.fileno(), sys.stderr.fileno())
    began = time.monotonic()
    error = ""
    try:
        conduct(Experiment.from_dict(task.experiment), task.run, task.run.exists(), task.cache)
    except KeyboardInterrupt:
        os._exit(128 + signal.SIGINT)
    except FedprintError as fault:
        error = str(fault)
    except Exception as fault:
        import traceback

        traceback.print_exc()
        error = f"{type(fault).__name__}: see {task.log}"
    seconds = spent + time.monotonic() - began
    Outcome("failed" if error else "finished", error, seconds).save(task.outcome)
