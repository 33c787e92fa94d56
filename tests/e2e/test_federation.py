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


def config(**changes) -> RunConfig:
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
            "minimum_contributors": 3,
            "poll_s": 0.05,
            **changes,
        }
    )


UNMASKED = "UnmaskedForSimulation"


def federation(root, *, repeatable, unmasked=False):
    return found(
        root,
        PATIENTS,
        windows_per_patient=2,
        seed=4,
        repeatable=repeatable,
        unmasked=unmasked,
        now=NOW,
        draw=draw,
    )


def test_masks_and_any_number_of_workers_give_the_same_bits(tmp_path):
    """The same integers are added with and without masks, wherever the hospitals run."""
    digests = set()
    for workers in (0, 2):
        for aggregation in ("secure-sum", UNMASKED):
            place = federation(
                tmp_path / f"{workers}-{aggregation}",
                repeatable=True,
                unmasked=aggregation == UNMASKED,
            )
            record = train(place, config(aggregation=aggregation), workers=workers)
            assert record.completed == 2
            digests.add(record.model_digest)
    assert len(digests) == 1


def test_what_arrives_at_the_coordinator_is_another_body_each_time_for_the_same_sum(tmp_path):
    """Masks are fresh: two runs with the same updates share no submission, and yet the sums."""
    folders = []
    for name in ("one", "two"):
        place = federation(tmp_path / name, repeatable=True)
        train(place, config())
        folders.append(place.folder("sweep"))
    for number in (1, 2):
        assert folders[0].summed(number) == folders[1].summed(number)
        for site in PATIENTS:
            bodies = [folder.round(number).submission(site).body for folder in folders]
            packed = len(folders[0].summed(number))
            same = sum(a == b for a, b in zip(bodies[0][:packed], bodies[1][:packed], strict=True))
            assert same < 0.02 * packed  # 1 / 256 of them by chance


def test_every_sum_of_a_finished_run_was_verified_by_all_its_hospitals(tmp_path):
    place = federation(tmp_path, repeatable=True)
    record = train(place, config())
    for item in record.rounds:
        closing = place.folder("sweep").closing(item.round)
        assert closing.state == "verified"
        assert set(closing.answers) == set(closing.receipts) == set(PATIENTS)
        assert len(item.agreements) >= record.roster.threshold == 3


def test_hospitals_that_were_founded_with_masks_refuse_a_run_without(tmp_path):
    place = federation(tmp_path, repeatable=True)
    record = train(place, config(aggregation=UNMASKED))
    assert (record.completed, record.state) == (0, "paused")
    reasons = {absent.reason for item in record.rounds for absent in item.absent}
    assert reasons == {"secure-sum"}


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
    bare = train(
        federation(tmp_path / "bare", repeatable=True, unmasked=True),
        config(aggregation=UNMASKED),
        engine="ray",
    )
    assert here.model_digest == there.model_digest == bare.model_digest


@pytest.mark.parametrize("sites", [2, 4])
def test_the_command_says_in_words_what_the_coordinator_learned(tmp_path, sites):
    """Two pretend hospitals can compute each other's update; their policies say so by name."""
    import json

    from typer.testing import CliRunner

    from simulations.cli import app

    words = {}
    for option in ("", "--unmasked-for-simulation"):
        arguments = [
            *("federate", str(tmp_path / f"place{option}"), "--sites", str(sites)),
            *("--patients", "8", "--windows", "1", "--rounds", "1", "--steps", "1"),
            *("--random-weights", "--repeatable-non-private", "--json", *option.split()),
        ]
        done = CliRunner().invoke(app, arguments, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        told = json.loads(done.stdout)
        assert (told["state"], len(told["rounds"])) == ("finished", 1)
        words[told["aggregation"]] = (told["model_digest"], " ".join(told["in_words"]))
    assert words["secure-sum"][0] == words[UNMASKED][0]
    assert "the coordinator learned the sum" in words["secure-sum"][1]
    assert "UNMASKED FOR SIMULATION" in words[UNMASKED][1]
