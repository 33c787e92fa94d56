"""Whole runs for `bench simulator`: memory, cost for each hospital, overhead, digests.

A run for which memory is measured is a process of its own, whose tree is looked at ten times a
second: proportional set size, so that what processes share counts once.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil

from simulations.lab import conduct, sources
from simulations.lab.beginning import settle
from simulations.lab.client_app import Job
from simulations.lab.data import FederationData
from simulations.lab.experiment import Experiment
from simulations.lab.hospital import Hospitals
from simulations.lab.pool import in_process
from simulations.lab.result import Observer, Result
from simulations.lab.run_folder import RunFolder
from simulations.lab.terms import RoundInput, Setup

Tell = Callable[[str], None]
WORKERS = 2
_LOOK_S = 0.1


def experiment_of(hospitals: int, patients: int, rounds: int, steps: int) -> Experiment:
    """Waves; nothing is held out, so nothing is measured."""
    return Experiment.from_dict(
        {
            "name": "bench",
            "rounds": rounds,
            "federation": {
                "source": "waves",
                "hospitals": hospitals,
                "patients": patients,
                "windows_per_patient": 2,
                "held_out": 0.0,
            },
            "algorithm": {"steps": steps},
            "privacy": {"noise_multiplier": 1.0},
            "evaluation": {"every": rounds},
            "engine": {"workers": WORKERS},
        }
    )


# ------------------------------------------------------------------ memory and cost


@dataclass
class _Clock(Observer):
    """When each round was done."""

    times: list[float] = field(default_factory=list)

    def on_start(self, folder: Path, experiment: Experiment) -> None:
        """See `Observer`."""

    def on_round(self, row: dict[str, Any], sites: list[dict[str, Any]]) -> None:
        """See `Observer`."""
        self.times.append(time.monotonic())

    def on_evaluation(self, rows: list[dict[str, Any]]) -> None:
        """See `Observer`."""

    def on_end(self, result: Result) -> None:
        """See `Observer`."""


def timed_run(value: str, out: str) -> None:
    """Entry of a process of its own: prints the seconds of each round but the first."""
    clock = _Clock()
    conduct.run(Experiment.from_dict(json.loads(value)), Path(out), observers=[clock])
    spent = [after - before for before, after in zip(clock.times, clock.times[1:], strict=False)]
    print(json.dumps(spent))


_RUN = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from simulations.bench_simulator_runs import timed_run; timed_run(*sys.argv[2:])"
)


def growth(hospitals: int, rounds: int, tell: Tell) -> dict[str, float]:
    """Peak memory, and seconds for each hospital and round, of many hospitals and of ten."""
    found: dict[int, tuple[float, float]] = {}
    for count in (10, hospitals):
        with tempfile.TemporaryDirectory() as folder:
            experiment = experiment_of(count, 4, rounds + 1, 1)
            arguments = [json.dumps(experiment.as_dict()), f"{folder}/out"]
            process = subprocess.Popen(
                [sys.executable, "-P", "-c", _RUN, json.dumps(sys.path), *arguments],
                stdout=subprocess.PIPE,
            )
            with _peak(process.pid) as peak:
                out, _ = process.communicate()
            if process.returncode:
                raise RuntimeError(f"The run of {count} hospitals failed.")
        each_s = statistics.median(json.loads(out)) / count
        found[count] = peak[0], each_s
        tell(f"{count} hospitals: {peak[0] / 1e6:.0f} MB, {each_s * 1e3:.1f} ms for each a round")
    few, many = found[10], found[hospitals]
    return {
        "memory_10_mb": few[0] / 1e6,
        "memory_1000_mb": many[0] / 1e6,
        "memory_ratio_1000_vs_10": many[0] / few[0],
        "hospital_10_ms": few[1] * 1e3,
        "hospital_1000_ms": many[1] * 1e3,
        "cost_ratio_1000_vs_10": many[1] / few[1],
    }


@contextmanager
def _peak(pid: int) -> Iterator[list[int]]:
    """Bytes of a process and all below it, the most that were seen."""
    peak, stop = [0], threading.Event()

    def look() -> None:
        while not stop.wait(_LOOK_S):
            with suppress(psutil.Error):
                root = psutil.Process(pid)
                peak[0] = max(peak[0], sum(map(_bytes, [root, *root.children(recursive=True)])))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()


def _bytes(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().pss)
    except psutil.Error:
        return 0


# ------------------------------------------------------------------ overhead


def overhead(hospitals: int, rounds: int, tell: Tell) -> dict[str, float]:
    """The run's rounds (who is asked, sum, step, rows, checkpoint) over `train_round` alone."""
    experiment = experiment_of(hospitals, 40, rounds + 1, 5)
    bare: list[float] = []
    whole: list[float] = []
    with tempfile.TemporaryDirectory() as name:
        folder = RunFolder(Path(name))
        data = sources.prepare(experiment, folder.path / "federation")
        settled = settle(experiment, data, folder.state / "sites")
        loop = conduct.Loop(experiment, folder, data, settled, (), lambda _: None)
        loop.restore()
        loop.begin()
        job = Job.of(settled.setup)
        with _bare_loops(settled.setup, data) as bare_round, in_process(job, WORKERS) as engine:
            for number in range(1, rounds + 2):
                given = RoundInput(
                    number, tuple(range(hospitals)), bytes(32), loop.last.weights, {}, {}
                )
                bare_s = _spent(partial(bare_round, given))
                whole_s = _spent(partial(loop.round, engine, number))
                tell(f"round {number}: {whole_s:.2f} s, training alone {bare_s:.2f} s")
                if number > 1:
                    bare.append(bare_s)
                    whole.append(whole_s)
    bare_s, whole_s = statistics.median(bare), statistics.median(whole)
    return {
        "round_20_s": whole_s,
        "round_20_training_alone_s": bare_s,
        "overhead_share": whole_s / bare_s - 1.0,
    }


def _spent(call: Callable[[], object]) -> float:
    began = time.monotonic()
    call()
    return time.monotonic() - began


@contextmanager
def _bare_loops(setup: Setup, data: FederationData) -> Iterator[Callable[[RoundInput], None]]:
    """`WORKERS` processes, each with its share of the sites."""
    context = get_context("spawn")
    ends: list[Connection] = []
    processes = []
    for place in range(WORKERS):
        ours, theirs = context.Pipe()
        sites = list(range(len(data.sites)))[place::WORKERS]
        process = context.Process(
            target=_bare_loop, args=(theirs, setup.to_bytes(), sites), daemon=True
        )
        process.start()
        theirs.close()
        ends.append(ours)
        processes.append(process)

    def bare_round(given: RoundInput) -> None:
        body = given.to_bytes()
        for end in ends:
            end.send_bytes(body)
        for end in ends:
            end.recv_bytes()

    try:
        yield bare_round
    finally:
        for end, process in zip(ends, processes, strict=True):
            end.close()
            process.join()


def _bare_loop(connection: Connection, setup: bytes, sites: list[int]) -> None:
    """A process: `train_round` of each of its sites, nothing else."""
    from client.training import train_round
    from simulations.lab.evaluate import one_thread

    hospitals = Hospitals(Setup.from_bytes(setup))
    with one_thread(), suppress(EOFError):
        while True:
            given = RoundInput.from_bytes(connection.recv_bytes())
            hospitals.begin(given)
            for site in sites:
                train_round(
                    hospitals.model,
                    hospitals.data.patients(site),
                    hospitals.setup.plan,
                    hospitals.training,
                    hospitals.declared[site],
                    hospitals.noise(hospitals.names[site]),
                )
            connection.send_bytes(b"done")


# ------------------------------------------------------------------ digests


def digests(tell: Tell) -> dict[str, float]:
    """One experiment by 1, 2 and 4 workers and by Flower on Ray."""
    engines: list[dict[str, Any]] = [{"workers": count} for count in (1, 2, 4)]
    engines.append({"kind": "flower", "workers": WORKERS})
    base = experiment_of(6, 6, 2, 2)
    found = set()
    with tempfile.TemporaryDirectory() as folder:
        for index, engine in enumerate(engines):
            values = {f"engine.{name}": value for name, value in engine.items()}
            result = conduct.run(base.with_values(values), Path(folder) / str(index))
            found.add(result.digest)
            tell(f"{engine}: {result.digest[:16]}")
    return {"same_digest_all_workers": float(len(found) == 1)}
