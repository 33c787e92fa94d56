"""`fedprint-lab run` as a process: Ctrl-C and kill -9 in mid-run, then --resume; two engines."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import Any

import psutil
import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Flower, Ray and Typer about themselves
    import simulations.ray_engine  # noqa: F401

from simulations.lab import conduct
from simulations.lab.experiment import Experiment

ROOT = Path(__file__).resolve().parents[2]
WORDS: dict[str, Any] = {
    "name": "killed",
    "rounds": 3,
    "model": {"begin_with": "random-weights"},
    "federation": {
        "source": "waves",
        "hospitals": 4,
        "patients": 5,
        "windows_per_patient": 1,
        "held_out": 0.0,
    },
    "algorithm": {"steps": 1, "segments": 1},
    "privacy": {"noise_multiplier": 1.0, "sample_rate": 0.4},
    "evaluation": {"every": 100},
    "engine": {"workers": 1},
}
COMMAND = (
    "import typer; from shared_model import terminal; from simulations import cli_run; "
    "app = typer.Typer(); cli_run.register(app); "
    "terminal.run(lambda: app(standalone_mode=False))"
)
PATIENCE_S = 300.0


def command(file: Path, out: Path, *more: str) -> list[str]:
    return [sys.executable, "-c", COMMAND, "run", str(file), "-o", str(out), "--json", *more]


def started(file: Path, out: Path, *more: str) -> subprocess.Popen[bytes]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command(file, out, *more),
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def once(process: subprocess.Popen[bytes], there: Callable[[], bool]) -> None:
    """Until the run has come so far; a run that has ended has come far enough."""
    pause = Event()
    for _ in range(int(PATIENCE_S / 0.01)):
        if there() or process.poll() is not None:
            return
        pause.wait(0.01)
    raise AssertionError("the run does not get on")


def checkpoint(out: Path, number: int) -> Callable[[], bool]:
    return (out / "state" / f"round-{number:06d}.safetensors").exists


def written(tmp_path: Path, **values: Any) -> Path:
    file = tmp_path / "exp.toml"
    experiment = Experiment.from_dict(WORDS).with_values(values)
    file.write_text(experiment.to_toml())
    return file


def undisturbed(tmp_path: Path) -> str:
    return conduct.run(Experiment.from_dict(WORDS), tmp_path / "undisturbed").digest


def test_interrupted_killed_and_resumed_it_makes_the_same_model(tmp_path: Path) -> None:
    """Ctrl-C says how to go on (130); kill -9 leaves no worker behind; the model is the same."""
    file, out = written(tmp_path, **{"engine.workers": 2}), tmp_path / "out"
    process = started(file, out)
    once(process, checkpoint(out, 1))
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert f"-o {out} --resume" in said.decode()

    process = started(file, out, "--resume")
    workers: list[psutil.Process] = []

    def busy() -> bool:
        workers[:] = psutil.Process(process.pid).children(recursive=True)
        return len(workers) >= 2 and checkpoint(out, 2)()

    once(process, busy)
    process.kill()
    process.communicate(timeout=PATIENCE_S)
    _, alive = psutil.wait_procs(workers, timeout=PATIENCE_S)
    assert not alive

    process = started(file, out, "--resume")
    answer, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0
    assert json.loads(answer)["model"] == undisturbed(tmp_path)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(8))
def test_killed_at_a_random_instant_it_makes_the_same_model(tmp_path: Path, seed: int) -> None:
    """After a random time between start and end, again and again until it is done."""
    rng, pause = random.Random(seed), Event()
    file, out = written(tmp_path, **{"engine.workers": 2}), tmp_path / "out"
    for _ in range(6):
        process = started(file, out, "--resume")
        pause.wait(rng.uniform(0.5, 12.0))
        process.kill()
        process.communicate(timeout=PATIENCE_S)
    process = started(file, out, "--resume")
    answer, _ = process.communicate(timeout=PATIENCE_S)
    assert json.loads(answer)["model"] == undisturbed(tmp_path)


@pytest.mark.filterwarnings("ignore")  # Ray leaves sockets and files to the collector
@pytest.mark.timeout(900)
@pytest.mark.parametrize("messages", [4, pytest.param(2, marks=pytest.mark.long)])
def test_flower_on_ray_makes_the_same_model(
    tmp_path: Path, messages: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same ClientApp, weights and sums in Flower's messages: the same SHA-256."""
    from simulations.lab import flower_engine

    if messages != WORDS["federation"]["hospitals"]:
        real = flower_engine.over_flower
        monkeypatch.setattr(
            flower_engine, "over_flower", lambda *given: real(*given, messages=messages)
        )
    experiment = Experiment.from_dict(WORDS).with_values(
        {"rounds": 1, "engine.kind": "flower", "engine.workers": 2}
    )
    result = conduct.run(experiment, tmp_path / "flower")
    here = experiment.with_values({"engine.kind": "in-process", "engine.workers": 1})
    assert result.digest == conduct.run(here, tmp_path / "here").digest


@pytest.mark.long
@pytest.mark.parametrize("workers", [2, 3, 4])
def test_more_workers_make_the_same_model(tmp_path: Path, workers: int) -> None:
    """Whole runs, by processes."""
    experiment = Experiment.from_dict(WORDS).with_values({"engine.workers": workers})
    assert conduct.run(experiment, tmp_path / "out").digest == undisturbed(tmp_path)
