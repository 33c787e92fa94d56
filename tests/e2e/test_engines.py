"""Flower's simulation engine runs what is installed, and makes the same model to the last bit."""

from __future__ import annotations

import datetime
import gc
import warnings
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Flower, Ray and Typer about themselves
    import simulations.in_process_grid
    import simulations.ray_engine  # noqa: F401

from server.checkpoints import RunRecord
from server.run_config import RunConfig
from simulations import federation
from simulations.federation import Federation

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore"),  # Flower's own, of its simulation engine
]

Engine = Literal["in-process", "ray"]
SITES = {"alpha": 12, "beta": 20, "gamma": 16}
NOW = datetime.datetime(2026, 11, 21, tzinfo=datetime.UTC)
CONFIG = {
    "run": "engines",
    "preset": "tiny",
    "begin_with": "random-weights",
    "rounds": 1,
    "privacy": {
        "sample_rate": 0.25,
        "noise_multiplier": 1.0,
        "clipping_norm": 1.0,
        "steps": 2,
    },
    "training": {"segments": 1},
    "minimum_contributors": 3,
    "poll_s": 0.05,
}


def waves(rng: np.random.Generator, windows: int) -> tuple[np.ndarray, np.ndarray]:
    """Windows of noisy sines."""
    time_s = np.arange(1250) / 125.0
    signal = np.sin(2 * np.pi * rng.uniform(0.8, 2.0, (windows, 2, 1)) * time_s)
    signal = signal + 0.2 * rng.standard_normal(signal.shape)
    return signal.astype(np.float32), np.ones((windows, 2, 50), dtype=bool)


def trained(root: Path, engine: Engine) -> RunRecord:
    place: Federation = federation.found(
        root, SITES, windows_per_patient=3, seed=5, repeatable=True, now=NOW, draw=waves
    )
    return federation.train(place, RunConfig.from_dict(CONFIG), engine=engine)


def test_a_decoy_in_the_working_directory_is_not_executed_by_ray(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray adds the working directory to its workers' path; a folder client/ there was run."""
    decoy = tmp_path / "here" / "client"
    decoy.mkdir(parents=True)
    for name in ("__init__.py", "app.py", "round.py"):
        (decoy / name).write_text(f"open({str(tmp_path / 'executed')!r}, 'w')\n")
    monkeypatch.chdir(decoy.parent)
    here = trained(tmp_path / "a", "in-process")
    gc.disable()  # nothing is collected by the way
    try:
        there = trained(tmp_path / "b", "ray")
        with warnings.catch_warnings(record=True) as left:
            warnings.simplefilter("always")
            gc.collect()
    finally:
        gc.enable()
    assert not left, "Ray's open files are left to whoever comes next"
    assert not (tmp_path / "executed").exists()
    assert Path.cwd() == decoy.parent
    assert there.state == "finished"
    assert here.model_digest == there.model_digest != here.initial_model
