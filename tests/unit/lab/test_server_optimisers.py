"""Server steps: against a plain reference, against torch's Adam, and the same bits in any order."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shared_model.config import ServerMoments
from shared_model.errors import OurMistake
from shared_model.server_optimisers import (
    CONTROL,
    LARGEST_RATE,
    ControlVariates,
    FedAdam,
    FedAvg,
    FedYogi,
    check_state,
    control_of,
    named,
    rate_of,
)

SHAPES = {"encoder.a": (3, 2), "fingerprint.b": (4,)}
MOMENTS = ServerMoments(0.9, 0.99, 1e-3)


def weights_of(seed):
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}


def mean_of(seed, scale=1e-3):
    rng = np.random.default_rng([seed, 7])
    return {name: scale * rng.standard_normal(shape) for name, shape in SHAPES.items()}


def f32(value):
    return float(np.float32(value))


def reference(kind, rate, moments, weights, means):
    """Algorithm 2 of 2003.00295, one number at a time, with Python's floats."""
    w = {name: value.ravel().tolist() for name, value in weights.items()}
    m = {name: [0.0] * len(values) for name, values in w.items()}
    v = {name: [f32(moments.tau * moments.tau)] * len(values) for name, values in w.items()}
    for mean in means:
        for name, change in mean.items():
            for place, d in enumerate(change.ravel().tolist()):
                m[name][place] = f32(m[name][place] * moments.beta1 + d * (1.0 - moments.beta1))
                old, square = v[name][place], d * d
                if kind is FedAdam:
                    new = old * moments.beta2 + square * (1.0 - moments.beta2)
                else:
                    sign = (old > square) - (old < square)
                    new = old - square * (1.0 - moments.beta2) * sign
                v[name][place] = f32(new)
                root = math.sqrt(v[name][place]) + moments.tau
                w[name][place] = f32(w[name][place] + rate * (m[name][place] / root))
    return {name: np.array(values).reshape(SHAPES[name]) for name, values in w.items()}


@pytest.mark.parametrize("kind", [FedAdam, FedYogi])
def test_a_step_is_algorithm_2_to_the_bit(kind):
    """Five rounds against floats of Python, which are IEEE doubles too."""
    before, means = weights_of(1), [mean_of(seed, 10.0 ** (seed - 5)) for seed in range(5)]
    step = kind(0.02, MOMENTS)
    weights, state = before, step.begin(before)
    for mean in means:
        weights, state = step.apply(weights, mean, state)
    wanted = reference(kind, 0.02, MOMENTS, before, means)
    for name in SHAPES:
        assert weights[name].dtype == np.float32
        assert (weights[name] == wanted[name]).all()


def test_fedadam_is_torchs_adam_without_its_bias_correction():
    """torch divides by 1 - beta^t; a rate and an eps that undo it, v from tau^2: they agree."""
    start, means, rate = weights_of(3), [mean_of(seed) for seed in range(6)], 0.01
    step, parameters = FedAdam(rate, MOMENTS), {}
    weights, state = start, step.begin(start)
    for name, value in start.items():
        parameters[name] = torch.nn.Parameter(torch.from_numpy(value.astype(np.float64)))
    adam = torch.optim.Adam(parameters.values(), betas=(MOMENTS.beta1, MOMENTS.beta2))
    for parameter in parameters.values():
        adam.state[parameter] = {
            "step": torch.tensor(0.0),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.full_like(parameter, MOMENTS.tau**2),
        }
    for number, mean in enumerate(means, 1):
        root = math.sqrt(1.0 - MOMENTS.beta2**number)
        adam.param_groups[0]["lr"] = rate * (1.0 - MOMENTS.beta1**number) / root
        adam.param_groups[0]["eps"] = MOMENTS.tau / root
        for name, parameter in parameters.items():
            parameter.grad = torch.from_numpy(-mean[name])
        adam.step()
        weights, state = step.apply(weights, mean, state)
    for name, parameter in parameters.items():
        moved = np.abs(weights[name] - start[name]).max()
        assert moved > 1e-3
        assert np.allclose(parameter.detach().numpy(), weights[name], atol=1e-6)


@given(st.integers(0, 2**31), st.sampled_from(["fedavg", "fedadam", "fedyogi", "scaffold"]))
def test_the_order_of_the_parameters_does_not_show(seed, name):
    """Dictionaries come in the order of a file or of a model; the bits are the same."""
    step = (
        ControlVariates(FedAvg(), 3, 0.1)
        if name == "scaffold"
        else named(name, 0.05, None if name == "fedavg" else MOMENTS)
    )
    order = list(SHAPES)
    random.Random(seed).shuffle(order)
    plain, turned = (weights_of(seed), {}), ({n: weights_of(seed)[n] for n in reversed(order)}, {})
    for number in range(2):
        mean = mean_of(seed + number)
        plain = step.apply(plain[0], mean, plain[1])
        turned = step.apply(turned[0], {n: mean[n] for n in order}, turned[1])
    for here, there in zip(plain, turned, strict=True):
        assert set(here) == set(there)
        assert all((here[n] == there[n]).all() for n in here)


@given(st.integers(0, 2**31), st.floats(1e-30, 1e12))
def test_yogis_second_moment_never_becomes_negative(seed, scale):
    """Its root is taken; a mean of any size that a norm bound allows."""
    step, state, weights = FedYogi(0.01, MOMENTS), {}, weights_of(seed)
    for number in range(3):
        weights, state = step.apply(weights, mean_of(seed + number, scale), state)
        assert all(np.isfinite(value).all() for value in weights.values())
        assert all((v >= 0).all() for n, v in state.items() if "/second/" in n)


def test_no_state_stands_for_the_first_one():
    """A run's first model has no state beside it."""
    step, weights, mean = FedAdam(0.01, MOMENTS), weights_of(1), mean_of(1)
    given_, absent = step.apply(weights, mean, step.begin(mean)), step.apply(weights, mean, {})
    for here, there in zip(given_, absent, strict=True):
        assert all((here[name] == there[name]).all() for name in here)


def test_a_step_moves_by_its_rate_whatever_the_size_of_the_mean():
    """Constant means of 1e-2 and of 1e2: after many rounds both move by the rate in a round."""
    for size in (1e-2, 1e2):
        weights, state = {"a": np.zeros(1, np.float32)}, {}
        for _ in range(1500):
            before = weights["a"].copy()
            weights, state = FedAdam(0.01, MOMENTS).apply(weights, {"a": np.array([size])}, state)
        assert weights["a"] - before == pytest.approx(0.01, rel=0.12)


def test_frozen_parameters_stay_and_have_no_moments():
    """Only what has a mean is stepped."""
    weights = weights_of(1) | {"frozen": np.ones(2, np.float32)}
    after, state = FedAdam(0.01, MOMENTS).apply(weights, mean_of(1), {})
    assert after["frozen"] is weights["frozen"]
    assert not [name for name in state if "frozen" in name]


@pytest.mark.parametrize("step", [FedAvg(), FedAdam(0.01), ControlVariates(FedAvg(), 1, 0.1)])
def test_a_foreign_state_is_refused(step):
    """Other names, other shapes, other types: of another step, model or file."""
    mean = mean_of(1)
    check_state(step, mean, step.begin(mean))
    wrong = [{"server-step/other/encoder.a": np.zeros((3, 2), np.float32)}]
    if not isinstance(step, FedAvg):
        good = step.begin(mean)
        name = next(iter(good))
        wrong += [
            {**good, name: good[name].astype(np.float64)},
            {**good, name: good[name].ravel()},
            {other: good[other] for other in good if other != name},
        ]
    for state in wrong:
        with pytest.raises(OurMistake, match="another step"):
            step.apply(weights_of(1), mean, state)


@pytest.mark.parametrize("rate", [0.0, -1.0, 1.0, LARGEST_RATE * 1.01, math.nan])
def test_an_adaptive_step_of_a_size_that_ruins_a_model_is_refused(rate):
    """FedAvg's default rate of 1 would move every weight by 1 a round."""
    for kind in (FedAdam, FedYogi):
        with pytest.raises(OurMistake, match="learning rate"):
            kind(rate)


def test_names_and_moments_go_together():
    """FedAvg has none, the others must say theirs, and there is no fourth."""
    assert named("fedavg", 0.5) == FedAvg(0.5)
    assert type(named("fedyogi", 0.05, MOMENTS)) is FedYogi
    for name, moments in (("fedavg", MOMENTS), ("fedadam", None), ("fedsgd", MOMENTS)):
        with pytest.raises(OurMistake):
            named(name, 0.05, moments)


def test_in_mode_distributed_the_training_and_the_server_share_one_step():
    """The product of both rates; else the server's alone."""
    assert rate_of("distributed", 0.5, 0.01) == 0.5 * 0.01
    assert rate_of("local", 0.5, 0.01) == 0.5


@given(
    st.integers(0, 2**31),
    st.integers(2, 6),
    st.integers(1, 5),
    st.floats(1e-3, 1.0),
    st.data(),
)
def test_the_servers_variate_is_what_the_sites_variates_average_to(seed, sites, steps, rate, data):
    """SCAFFOLD, option II: c moves by share x mean of (c_i+ - c_i), from the mean update alone."""
    rng = np.random.default_rng(seed)
    asked = data.draw(st.integers(1, sites))
    step = ControlVariates(FedAvg(), steps, rate)
    weights, state = weights_of(seed), {}
    own = [{name: np.zeros(shape) for name, shape in SHAPES.items()} for _ in range(sites)]
    for _ in range(3):
        control = control_of(state) or {n: np.zeros(s) for n, s in SHAPES.items()}
        chosen = rng.choice(sites, asked, replace=False)
        updates = {i: {n: rng.standard_normal(s) for n, s in SHAPES.items()} for i in chosen}
        moved = {n: np.zeros(s) for n, s in SHAPES.items()}
        for i in chosen:
            for n in SHAPES:
                new = own[i][n] - control[n] - updates[i][n] / (steps * rate)
                moved[n] += (new - own[i][n]) / asked
                own[i][n] = new
        mean = {n: sum(updates[i][n] for i in chosen) / asked for n in SHAPES}
        weights, state = step.apply(weights, mean, state, share=asked / sites)
        for n in SHAPES:
            wanted = control[n] + asked / sites * moved[n]
            assert np.allclose(state[CONTROL + n], wanted, rtol=1e-5, atol=1e-4 / rate)
    if asked == sites:
        for n in SHAPES:  # then c is the sites' mean variate, round after round
            average = sum(one[n] for one in own) / sites
            assert np.allclose(state[CONTROL + n], average, rtol=1e-5, atol=1e-4 / rate)


def test_a_share_of_nothing_is_our_mistake():
    """No round without survivors makes a step."""
    with pytest.raises(OurMistake, match="share"):
        ControlVariates(FedAvg(), 1, 0.1).apply(weights_of(1), mean_of(1), {}, share=0.0)
