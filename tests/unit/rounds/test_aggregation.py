"""From the sum of integers to the next model, against the plain mean."""

from __future__ import annotations

import numpy as np
import pytest

from server.aggregation import dimension_of
from server.run_config import RunConfig, default_norm_bound, norm_bound
from shared_model.errors import OurMistake
from shared_model.secure_sum.numbers import Numbers, flatten, quantise
from shared_model.secure_sum.transcript import Transcript
from shared_model.server_step import FedAvg, mean_update

LIKE = {"a": np.zeros((20, 30), np.float32), "b": np.zeros(40, np.float32)}
SITES = ("alpha", "beta", "gamma")
WEIGHTS = (8, 2, 5)


def update(seed, scale=0.01):
    rng = np.random.default_rng(seed)
    return {
        name: (scale * rng.standard_normal(value.shape)).astype(np.float32)
        for name, value in LIKE.items()
    }


def transcript():
    return Transcript(
        run="spring",
        round=1,
        participants=SITES,
        model_digest="0" * 64,
        configuration_digest="1" * 64,
        numbers=Numbers.of(dimension_of(LIKE), sum(WEIGHTS), 1.0),
        roster_digest="2" * 64,
        epoch=1,
        epoch_keys_digest="3" * 64,
        threshold=3,
        weights=WEIGHTS,
        mode="local",
    )


@pytest.mark.parametrize("survivors", [SITES, ("alpha", "gamma")])
def test_the_mean_is_weighted_by_the_survivors_alone(survivors):
    """Who dropped out counts neither in the sum nor in the weights."""
    script = transcript()
    total = np.zeros(script.numbers.padded, np.uint32)
    for place, site in enumerate(survivors):
        seed = bytes([place]) * 32
        made = quantise(
            flatten(update(place)), script.numbers, script.rotation_seed, script.weight(site), seed
        )
        total += made.vector
    total &= np.uint32((1 << script.numbers.modulus_bits) - 1)
    mean = mean_update(total, script, survivors, LIKE)
    weights = [script.weight(site) for site in survivors]
    for name in LIKE:
        exact = sum(
            weight * update(place)[name].astype(np.float64) for place, weight in enumerate(weights)
        ) / sum(weights)
        assert mean[name].shape == LIKE[name].shape
        assert np.linalg.norm(mean[name] - exact) < 1e-4 * np.linalg.norm(exact)


def test_fedavg_steps_and_leaves_the_rest():
    """One rounding to float32; what has no mean is the same object."""
    weights = {**update(3), "frozen": np.ones(2, np.float32)}
    mean = {name: np.full(LIKE[name].shape, 0.5) for name in LIKE}
    after, state = FedAvg(0.5).apply(weights, mean, {})
    assert state == {}
    for name in LIKE:
        expected = (weights[name].astype(np.float64) + 0.25).astype(np.float32)
        assert (after[name] == expected).all()
        assert after[name].dtype == np.float32
    assert after["frozen"] is weights["frozen"]
    with pytest.raises(OurMistake):
        FedAvg().apply(weights, {"other": np.zeros(2)}, {})


def config(optimiser, **changes):
    return RunConfig.from_dict(
        {
            "run": "spring",
            "preset": "tiny",
            "rounds": 1,
            "privacy": {
                "sample_rate": 0.1,
                "noise_multiplier": 2.0,
                "clipping_norm": 0.5,
                "steps": 100,
            },
            "training": {"optimiser": optimiser, "learning_rate": 0.01},
            **changes,
        }
    )


def test_the_default_bound_follows_from_public_numbers():
    """The two formulas of the docstring, by hand: lr 0.01, 100 steps, d = 10,000, N = 50."""
    adam = default_norm_bound(config("adam"), 50, 10_000)
    assert adam == pytest.approx(1.05 * 0.01 * 100.0 * min(100, 6 * 10))
    sgd = default_norm_bound(config("sgd"), 50, 10_000)
    assert sgd == pytest.approx(0.01 * 100 * 0.5 + 3 * 0.01 * 10 * 2.0 * 0.5 * 100 / (0.1 * 50))


def test_the_operators_bound_goes_before_the_default():
    """It is fixed when the run begins."""
    assert norm_bound(config("adam", update_norm_bound=7.5), 50, 10_000) == 7.5
    assert norm_bound(config("adam"), 50, 10_000) == default_norm_bound(config("adam"), 50, 10_000)


def test_one_step_of_adam_is_not_scaled_down_at_every_hospital():
    """Its first step moves every parameter by lr; 1e-3 in float32 is more than 1e-3."""
    from client.training import _Optimiser

    size = 4000
    plan = {"sample_rate": 0.1, "noise_multiplier": 2.0, "clipping_norm": 0.5, "steps": 1}
    training = {"optimiser": "adam", "learning_rate": 1e-3}
    settings = config("adam", privacy=plan, training=training)
    bound = default_norm_bound(settings, 50, size)
    tight, numbers = (Numbers.of(size, 10, norm) for norm in (1e-3 * size**0.5, bound))
    for seed in range(5):
        noise = np.random.default_rng(seed).standard_normal(size)
        made = _Optimiser(settings.training, size).step(noise)
        assert not quantise(made, numbers, bytes(32), 1, bytes(32)).scaled
        assert quantise(made, tight, bytes(32), 1, bytes(32)).scaled


@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
def test_noise_alone_stays_within_the_default_bound(optimiser):
    """What the real optimiser makes of pure noise, the largest part of a private update."""
    from client.training import _Optimiser

    settings, size, declared = config(optimiser), 4000, 50
    plan = settings.privacy
    rng = np.random.default_rng(3)
    made, steps = np.zeros(size), _Optimiser(settings.training, size)
    scale = plan.noise_multiplier * plan.clipping_norm / (plan.sample_rate * declared)
    for _ in range(plan.steps):
        made += steps.step(scale * rng.standard_normal(size))
    bound = default_norm_bound(settings, declared, size)
    assert 0.02 * bound < np.linalg.norm(made) < bound
