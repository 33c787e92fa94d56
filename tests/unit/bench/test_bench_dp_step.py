"""`bench dp-step` runs, prints its figures, and compares steps that do the same work."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from client import training
from client.training import unit_batch
from shared_model import privacy
from shared_model.errors import OurMistake
from shared_model.noise import SystemNoise
from simulations import bench_dp_step as bench
from simulations.cli import app

TINY = bench.Case("tiny", "head", 16)
PROMISED = {"time_ratio", "memory_ratio", "speedup_vs_opacus_hooks"}


def test_bench_dp_step_prints_the_promised_figures() -> None:
    """Of the default training and of all parameters, as JSON; it tells on stderr what it does."""
    done = CliRunner().invoke(app, ["bench", "dp-step", "--quick", "--json"])
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)["figures"]
    assert set(found) >= PROMISED | {f"{name}_all" for name in PROMISED}
    assert all(value > 0.0 for value in found.values())
    assert max(found["disagreement"], found["disagreement_all"]) <= bench.AGREEMENT
    assert "memory of opacus_hooks" in done.stderr


@pytest.mark.parametrize("trainable", ["head", "all"])
def test_opacus_side_has_our_per_patient_gradients(trainable: Literal["head", "all"]) -> None:
    """To 1e-5, of every patient and parameter; and again, so that nothing is left over."""
    case = replace(TINY, trainable=trainable)
    side = bench.OpacusStep(case, SystemNoise())
    rng = np.random.default_rng(0)
    batch = unit_batch(side.data, np.arange(5), case.training, rng)
    unit = training._Unit(case.model(), case.training)
    parameters = {f"model.{name}": value for name, value in side.trained.items()}
    wanted = privacy.per_patient_gradients(unit, parameters, batch)
    for _ in range(2):
        found = side.gradients(batch)
        assert {f"model.{name}" for name in found} == set(wanted)
        for name, value in found.items():
            torch.testing.assert_close(value, wanted[f"model.{name}"], rtol=1e-5, atol=1e-5)


def test_sides_that_do_not_do_the_same_work_are_not_compared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Opacus' side without its last patient: refused, and by how much."""
    whole = bench.OpacusStep.gradients

    def without_the_last(
        self: bench.OpacusStep, batch: tuple[torch.Tensor, ...]
    ) -> dict[str, torch.Tensor]:
        return {name: value[:-1] for name, value in whole(self, batch).items()}  # type: ignore[arg-type]

    monkeypatch.setattr(bench.OpacusStep, "gradients", without_the_last)
    with pytest.raises(OurMistake, match="differ by"):
        bench.disagreement(TINY)


def test_the_plain_step_descends_the_same_loss() -> None:
    """Its gradient is the mean of the per-patient ones that the private step clips."""
    step = bench.PlainStep(TINY)
    step.rng = np.random.default_rng(7)
    before = {name: value.detach().clone() for name, value in step.trained.items()}
    step()
    batch = unit_batch(step.data, np.arange(16), TINY.training, np.random.default_rng(7))
    unit = training._Unit(TINY.model(), TINY.training)
    parameters = {f"model.{name}": value for name, value in before.items()}
    each = privacy.per_patient_gradients(unit, parameters, batch)
    for name, value in step.trained.items():
        assert value.grad is not None
        torch.testing.assert_close(value.grad, each[f"model.{name}"].mean(0), rtol=1e-4, atol=1e-6)
        assert not torch.equal(value, before[name])


def test_memory_counts_what_a_step_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that holds 200 MB for a moment is found to, though it has freed them at the end."""

    def greedy(case: bench.Case) -> bench.Step:
        return lambda: np.ones(25_000_000 if case.patients == 1 else 1).sum()

    monkeypatch.setitem(bench.SIDES, "greedy", greedy)
    assert 180.0 < bench.peak_mb("greedy", replace(TINY, patients=1)) < 260.0
