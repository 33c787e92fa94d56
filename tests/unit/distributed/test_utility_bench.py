"""The bench of mode distributed: its verdict can fail, its steps are those of central training."""

import dataclasses

import numpy as np
import pytest
import torch

from simulations.bench_distributed import (
    QUICK,
    MaskedLinear,
    Patients,
    central_step,
    distributed_step,
    loss_of,
    summary,
)


def losses(distributed=0.0, local=0.05):
    rng = np.random.default_rng(1)
    names = {"central": 0.0, "distributed": distributed, "default": 0.001, "local": local}
    return {name: 0.7 + by + 0.002 * rng.standard_normal(16) for name, by in names.items()}


@pytest.mark.parametrize(
    ("case", "equal"),
    [(losses(), 1.0), (losses(distributed=0.01), 0.0), (losses(local=0.0), 0.0)],
    ids=["equal", "worse than central", "no power to tell"],
)
def test_the_verdict_is_computed_and_can_be_no(case, equal):
    found = summary(case)
    assert found["equal"] == equal
    assert found["difference_low"] < found["difference"] < found["difference_high"]
    assert found["difference"] == pytest.approx(
        (case["distributed"] - case["central"]).mean(), abs=1e-12
    )


def test_with_everybody_sampled_and_hardly_any_noise_both_take_the_same_step():
    trial = dataclasses.replace(QUICK, sample_rate=1.0, noise_multiplier=0.003)
    rng = np.random.default_rng(3)
    pool = Patients.drawn(rng, 30)
    sites = [pool.part(0, 12), pool.part(12, 22), pool.part(22, 30)]
    weights = MaskedLinear().weight.detach().clone()
    central = central_step([pool], weights, trial, 1, 1)
    shared = distributed_step(sites, weights, trial, 1, 1, threshold=3)
    gap = np.linalg.norm(shared - central) / np.linalg.norm(central)
    assert 0.0 < gap < 0.05
    stepped = weights + torch.from_numpy(shared).reshape(weights.shape).float()
    assert loss_of(stepped, pool) < loss_of(weights, pool)
