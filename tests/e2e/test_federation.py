"""Simulated consortia over Flower's interface in process: same bits for any number of workers."""

from __future__ import annotations

import datetime
import warnings

import numpy as np
import pytest

from server.run_config import RunConfig
from shared_model.accounting import epsilon_pld
from simulations.federation import found, train

with warnings.catch_warnings():  # Flower and Typer warn about themselves when imported
    warnings.simplefilter("ignore")
    import simulations.in_process_grid
    import simulations.ray_engine  # noqa: F401

NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
PATIENTS = {"east": 40, "north": 90, "south": 25}


def draw(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Sine waves of random rate: cheap windows."""
    rate = rng.uniform(0.8, 2.0, (count, 1, 1))
    signal = np.sin(2 * np.pi * rate * np.arange(1250) / 125.0).repeat(2, axis=1)
    return signal.astype(np.float32), np.ones((count, 2, 50), dtype=bool)


def config() -> RunConfig:
    return RunConfig.from_dict(
        {
            "run": "sweep",
            "preset": "tiny",
            "begin_with": "random-weights",
            "rounds": 2,
            "privacy": {
                "sample_rate": 0.05,
                "noise_multiplier": 2.0,
                "clipping_norm": 1.0,
                "steps": 1,
            },
            "training": {"segments": 1},
            "insecure_aggregation": True,
            "minimum_contributors": 3,
            "poll_s": 0.05,
        }
    )


def federation(root, *, repeatable):
    return found(
        root, PATIENTS, windows_per_patient=2, seed=4, repeatable=repeatable, now=NOW, draw=draw
    )


def test_any_number_of_workers_gives_the_same_bits(tmp_path):
    digests = {
        workers: train(
            federation(tmp_path / str(workers), repeatable=True), config(), workers=workers
        ).model_digest
        for workers in (0, 2)
    }
    assert len(set(digests.values())) == 1


def test_private_noise_gives_other_bits_each_time_and_promises_epsilon(tmp_path):
    records = [
        train(federation(tmp_path / name, repeatable=False), config()) for name in ("one", "two")
    ]
    assert records[0].model_digest != records[1].model_digest
    for record in records:
        assert record.state == "finished"
        for contributor in record.rounds[-1].contributors:
            assert contributor.private
            spent = epsilon_pld([record.config.privacy] * 2, contributor.privacy.delta)
            assert contributor.privacy.epsilon == pytest.approx(spent, rel=1e-9)


def test_a_run_that_is_finished_stays_as_it_is(tmp_path):
    place = federation(tmp_path, repeatable=True)
    first = train(place, config())
    assert train(place, config()).rounds == first.rounds


@pytest.mark.long
def test_flowers_ray_engine_gives_the_same_bits(tmp_path):
    pytest.importorskip("ray")
    here = train(federation(tmp_path / "here", repeatable=True), config())
    there = train(federation(tmp_path / "there", repeatable=True), config(), engine="ray")
    assert here.model_digest == there.model_digest
