"""A consortium of three pretend hospitals that trains adapters or norms of the warm start."""

from __future__ import annotations

import datetime
import json
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

with warnings.catch_warnings():  # Flower and Typer warn about themselves when imported
    warnings.simplefilter("ignore")
    from click.testing import Result
    from typer.testing import CliRunner

    import simulations.in_process_grid  # noqa: F401

from auditor.cli import app as audit_app
from client.cli import app as node_app
from client.integers import integers
from client.training import clipped_step, train_round
from server.checkpoints import RunRecord
from server.cli import app as coordinator_app
from server.run_config import RunConfig
from shared_model import adapters, mae
from shared_model.noise import NonPrivateForTests
from shared_model.protocol import TrainRequest
from shared_model.protocol_open import open_train_request
from shared_model.secure_sum.numbers import unpack
from shared_model.secure_sum.primitives import Words
from shared_model.secure_sum.transcript import Transcript, of_request
from shared_model.server_step import mean_update
from shared_model.weights import Weights
from simulations.federation import Federation, SimulatedPatients, found

NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
PATIENTS = {"east": 20, "north": 30, "south": 12}
SEED = 4
LOCAL = {"sample_rate": 0.05, "noise_multiplier": 2.0, "clipping_norm": 1.0, "steps": 2}
SHARED = {**LOCAL, "sample_rate": 0.2, "steps": 1, "mode": "distributed"}
PLAIN_STEPS = {"segments": 1, "optimiser": "sgd", "learning_rate": 0.05}


def draw(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Sine waves of random rate: cheap windows."""
    rate = rng.uniform(0.8, 2.0, (count, 1, 1))
    signal = np.sin(2 * np.pi * rate * np.arange(1250) / 125.0).repeat(2, axis=1)
    return signal.astype(np.float32), np.ones((count, 2, 50), dtype=bool)


def config(trainable: str, run: str = "spring", **changes: Any) -> RunConfig:
    """Two masked rounds from the packaged warm start of `tiny`."""
    training = {"segments": 1, **changes.pop("training", {}), "trainable": trainable}
    fixed = {"preset": "tiny", "begin_with": "warm-start", "rounds": 2, "privacy": LOCAL}
    quick = {"minimum_contributors": 3, "poll_s": 0.05}
    return RunConfig.from_dict({"run": run, **fixed, **quick, "training": training, **changes})


def without_syncing() -> Iterator[None]:
    """A killed process loses nothing that it has written; only a power cut does. Much faster."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


def consortium(
    root: Path, *, repeatable: bool, unmasked: bool = False, patients: dict[str, int] = PATIENTS
) -> Federation:
    return found(
        root,
        patients,
        windows_per_patient=2,
        seed=SEED,
        repeatable=repeatable,
        unmasked=unmasked,
        now=NOW,
        draw=draw,
    )


def run(app: Any, *arguments: object, home: Path | None = None) -> Result:
    """A command that has to succeed, or raises what it refuses with."""
    place = [] if home is None else ["--home", str(home)]
    done = CliRunner().invoke(app, [*map(str, arguments), *place], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done


def released(made: Federation, name: str = "spring") -> Path:
    """The run's release, made and installed by the commands."""
    path = made.root / f"{name}.fedprint"
    run(coordinator_app, "release", name, "-o", path, "--json", home=made.coordinator.root)
    for site in made.sites:
        run(node_app, "install", path, "--yes", home=made.home(site).root)
    return path


def audit_of_release(made: Federation, release: Path) -> dict[str, str]:
    """Verdicts by check."""
    signer = made.home("east").coordinator
    done = run(audit_app, "release", release, "--signer", signer, "--json")
    return verdicts(done)


def sums_audited(made: Federation, bundle: Path, *more: object) -> Result:
    """fedprint-audit sum with roster and root key as a hospital has them; it may refuse."""
    node = made.home("east")
    pinned = json.loads(node.coordinator.read_text())
    keys = ("--roster", node.roster, "--root-key", pinned["root_key"])
    words = ("sum", bundle, *keys, "--coordinator", node.coordinator, *more, "--json")
    return CliRunner().invoke(audit_app, [*map(str, words)])


def bundled(made: Federation, place: Path, name: str = "spring") -> Path:
    run(coordinator_app, "audit-bundle", name, "-o", place, home=made.coordinator.root)
    return place


def verdicts(done: Result) -> dict[str, str]:
    return {item["check"]: item["verdict"] for item in json.loads(done.stdout)["findings"]}


@dataclass(frozen=True)
class SummedRound:
    """A round of a finished run, as its folder tells it.

    survivors: sites. total: the published sum, uint32 (padded,). before, after: whole models.
    """

    request: TrainRequest
    transcript: Transcript
    survivors: tuple[str, ...]
    total: Words
    before: Weights
    after: Weights
    names: tuple[str, ...]

    @property
    def part(self) -> Weights:
        """What the round trains, as it begins."""
        return adapters.trained_part(self.before, self.names)

    @property
    def decoded(self) -> Weights:
        """The weighted mean of the updates, as the published sum tells it; float64 by name."""
        return mean_update(self.total, self.transcript, self.survivors, self.part)

    def update(self, made: Federation, site: str) -> tuple[Weights, NonPrivateForTests]:
        """What the hospital trained, made again from its patients and its repeatable noise."""
        request = self.request
        model = mae.build(mae.PRESETS["tiny"], 0)
        mae.load_weights(model, self.before)
        data = SimulatedPatients(made.home(site).root / "pretend")
        noise = NonPrivateForTests(request.run, site, request.round, SEED)
        declared = {one.site: one.declared_patients for one in request.participants}[site]
        plan, training = request.privacy, request.training
        if plan.mode == "distributed":
            return clipped_step(model, data, plan, training, declared, noise), noise
        return train_round(model, data, plan, training, declared, noise).update, noise

    def integers_of(self, made: Federation, site: str) -> tuple[Weights, Words]:
        """Its update, and what of it went under the mask."""
        update, noise = self.update(made, site)
        script = self.transcript
        place, weight = script.index(site), script.weight(site)
        seed = script.rotation_seed
        return update, integers(update, script.numbers, seed, place, weight, noise)[0]


def summed_rounds(made: Federation, record: RunRecord) -> list[SummedRound]:
    """All rounds of a run, every one of which has a sum."""
    folder, found_rounds = made.folder(record.run), []
    for item in record.rounds:
        assert item.outcome == "aggregated"
        request = open_train_request(item.request_bytes, bytes.fromhex(record.run_key))
        script = of_request(request, record.roster_named(request.sum.roster_digest).weights)
        numbers = script.numbers
        packed = folder.summed(item.round)
        found_rounds.append(
            SummedRound(
                request,
                script,
                item.survivors,
                unpack(packed, numbers.modulus_bits, numbers.padded),
                folder.weights(record, item.round - 1),
                folder.weights(record, item.round),
                record.trainable,
            )
        )
    return found_rounds


def moved_by(part: Weights, change: Weights) -> dict[str, np.ndarray]:
    """By how much each parameter of the plain model moves if the trained part moves so: a matrix
    product of the change of B with the fixed A, or the change itself. Not by `adapters.merged`."""
    moves = {}
    for name, value in change.items():
        layer = name.removesuffix(adapters.ADAPTER)
        if layer == name:
            moves[name] = value
        else:
            moves[f"{layer}.weight"] = value @ fixed(layer, part[name].shape[1])
    return moves


def fixed(layer: str, rank: int) -> np.ndarray:
    """A of a layer of `tiny`, (rank, inputs), float64."""
    weight = mae.build(mae.PRESETS["tiny"], 0).get_submodule(layer).weight
    return adapters.directions(layer, rank, int(weight.shape[1])).astype(np.float64)
