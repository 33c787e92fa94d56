"""FedProx, own LayerNorms and SCAFFOLD in a hospital's training: what they do, and that 0 is 0."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

from client.local_state import CONTROL, NORMS, LocalState
from client.steps import from_bytes, to_bytes
from client.training import train_round
from shared_model import mae
from shared_model.config import LocalTraining, PrivacyPlan
from shared_model.errors import OurMistake
from shared_model.noise import NonPrivateForTests
from shared_model.server_optimisers import ControlVariates, FedAvg, control_of
from simulations.lab import algorithms
from simulations.lab.experiment import Experiment
from simulations.lab.experiment_tables import Algorithm

SGD = LocalTraining(segments=1, optimiser="sgd", learning_rate=0.05)
PLAN = PrivacyPlan(sample_rate=0.5, noise_multiplier=0.5, clipping_norm=0.5, steps=3)


@dataclass(frozen=True)
class Patients:
    """Noisy windows that repeat."""

    seed: int = 0
    patient_count: int = 3

    def segments(self, patients, segments, rng):
        own = np.random.default_rng([self.seed, 5])
        windows = own.standard_normal((self.patient_count, segments, 2, 1250))
        valid = np.ones((len(patients), segments, 2, 50), dtype=bool)
        return windows[patients].astype(np.float32), valid


@pytest.fixture(scope="module")
def model():
    return mae.build(mae.PRESETS["tiny"], seed=1)


def noise(round=1, site="north"):
    return NonPrivateForTests(seed=3, run="lab", site=site, round=round)


def trained(model, training=SGD, local=None, plan=PLAN, site=0, **more):
    patients = Patients(site)
    return train_round(
        model, patients, plan, training, 4, noise(site=f"site-{site}"), local=local, **more
    )


def size(update):
    return float(np.sqrt(sum((value.astype(np.float64) ** 2).sum() for value in update.values())))


def same(here, there):
    return set(here) == set(there) and all((here[name] == there[name]).all() for name in here)


def test_no_proximal_weight_changes_no_bit_and_no_byte(model):
    """0 is today's training, and stands in no message."""
    plain, zero = trained(model), trained(model, replace(SGD, proximal_weight=0.0))
    assert same(plain.update, zero.update)
    assert plain.local == {}
    assert "proximal_weight" not in SGD.as_dict()
    assert LocalTraining(**replace(SGD, proximal_weight=0.5).as_dict()).proximal_weight == 0.5


def test_a_large_proximal_weight_stays_near_the_received_weights(model):
    """lr x mu = 1: each step forgets the ones before, and an update is one step's."""
    plain, held = trained(model), trained(model, replace(SGD, proximal_weight=1 / 0.05))
    assert size(held.update) < 0.75 * size(plain.update)
    last = trained(model, plan=replace(PLAN, steps=1))
    assert size(held.update) == pytest.approx(size(last.update), rel=0.1)


def test_a_proximal_step_is_the_formula(model):
    """w2 = w1 - lr (g2 + mu (w1 - w0)), against what training without it does in its first step."""
    mu = 2.0
    one = trained(model, plan=replace(PLAN, steps=1)).update
    two = trained(model, replace(SGD, proximal_weight=mu), plan=replace(PLAN, steps=2)).update
    plain = trained(model, plan=replace(PLAN, steps=2)).update
    for name in one:
        assert np.allclose(plain[name] - two[name], 0.05 * mu * one[name], atol=1e-6)


def test_norms_of_ones_own_stay_at_the_site_and_go_on(model):
    """They take the same steps as if they were sent, are in no update, and are taken up."""
    everything = trained(model)
    names = mae.sent_names(model, "head", local_norms=True)
    first = trained(model, local=LocalState(norms=True))
    assert set(first.update) == set(names) < set(everything.update)
    norms = {NORMS + name for name in mae.norm_names(model)}
    assert set(first.local) == norms
    received = mae.weights_of(model)
    for name in norms:
        plain = name.removeprefix(NORMS)
        moved = first.local[name] - received[plain]
        assert np.allclose(moved, everything.update[plain], atol=1e-7)
    assert same(first.update, {name: everything.update[name] for name in names})
    again = trained(model, local=LocalState(first.local, norms=True))
    assert not same(again.update, first.update)
    from_the_same = mae.build(mae.PRESETS["tiny"], seed=1)
    mae.load_weights(
        from_the_same, received | {n.removeprefix(NORMS): v for n, v in first.local.items()}
    )
    wanted = trained(from_the_same).update
    assert same(again.update, {name: wanted[name] for name in names})


def test_variates_of_zero_change_no_step(model):
    """Before the first round there is nothing to correct with."""
    plain, first = trained(model), trained(model, local=LocalState(control={}))
    assert all(np.allclose(plain.update[n], first.update[n], atol=1e-7) for n in plain.update)
    assert {name.removeprefix(CONTROL) for name in first.local} == set(plain.update)


def test_a_sites_variate_is_the_mean_of_its_noised_gradients(model):
    """Option II from zero variates: minus the update over K lr."""
    first = trained(model, local=LocalState(control={}))
    for name, value in first.update.items():
        assert np.allclose(first.local[CONTROL + name], -value / (3 * 0.05), atol=1e-5)


def test_the_correction_is_added_to_every_step(model):
    """c - c_i, K times with rate lr; and c_i+ is again the mean of the gradients themselves."""
    rng = np.random.default_rng(1)
    like = trained(model).update
    c = {n: rng.standard_normal(v.shape).astype(np.float32) for n, v in like.items()}
    own = {CONTROL + n: rng.standard_normal(v.shape).astype(np.float32) for n, v in like.items()}
    plan = replace(PLAN, steps=1)
    plain = trained(model, plan=plan)
    held = trained(model, plan=plan, local=LocalState(own, control=c))
    for name in like:
        shift = c[name] - own[CONTROL + name]
        wanted = plain.update[name] - 0.05 * shift
        assert np.allclose(held.update[name], wanted, atol=1e-6)
        gradient = -plain.update[name] / 0.05
        assert np.allclose(held.local[CONTROL + name], gradient, atol=2e-5)


def test_the_servers_variate_follows_the_sites_through_real_training(model):
    """Two sites, two rounds: c is the mean of what the sites keep, from the mean update alone."""
    step = ControlVariates(FedAvg(), PLAN.steps, SGD.learning_rate)
    weights, state, kept = mae.weights_of(model), {}, [{}, {}]
    for _ in range(2):
        here = mae.build(mae.PRESETS["tiny"], seed=1)
        mae.load_weights(here, weights)
        done = [
            trained(here, local=LocalState(kept[site], control=control_of(state)), site=site)
            for site in range(2)
        ]
        kept = [one.local for one in done]
        mean = {
            name: sum(one.update[name].astype(np.float64) for one in done) / 2
            for name in done[0].update
        }
        weights, state = step.apply(weights, mean, state)
        for name, value in control_of(state).items():
            average = (kept[0][CONTROL + name] + kept[1][CONTROL + name]) / 2
            assert np.allclose(value, average, atol=2e-4)


class Keeper:
    """Keeps the states of a round as the outbox does, as bytes."""

    def __init__(self, last=None):
        self.last, self.kept = last, []

    def keep(self, state):
        self.kept.append(from_bytes(to_bytes(state, "ab" * 32), "ab" * 32, PLAN.steps))


def test_a_resumed_round_has_the_same_bits_with_all_of_it(model):
    """Killed after any step: FedProx, own norms and variates go on as if nothing had been."""
    training = replace(SGD, proximal_weight=0.7)
    like = mae.sent_names(model, "head", local_norms=True)
    received = mae.weights_of(model)
    control = {name: np.full_like(received[name], 0.01) for name in like}
    kept = {NORMS + n: received[n] + np.float32(0.5) for n in mae.norm_names(model)}
    local = LocalState(kept, norms=True, control=control)
    whole = Keeper()
    undisturbed = trained(model, training, local, steps=whole)
    for state in whole.kept:
        resumed = trained(model, training, local, steps=Keeper(state))
        assert same(resumed.update, undisturbed.update)
        assert same(resumed.local, undisturbed.local)


def test_variates_with_adam_are_refused(model):
    """Adam divides by the size of the gradient, so that a correction would be none."""
    with pytest.raises(OurMistake, match="plain SGD"):
        trained(model, LocalTraining(segments=1), LocalState(control={}))
    with pytest.raises(OurMistake, match="plain SGD"):
        algorithms.server_step(Algorithm(control_variates=True), "local")


def test_what_was_kept_of_another_model_is_refused(model):
    """Names or shapes that do not fit, of norms and of both variates."""
    wrong = np.zeros(3, np.float32)
    for local in (
        LocalState({NORMS + "norm.weight": wrong}, norms=True),
        LocalState({CONTROL + "other": wrong}, control={}),
        LocalState(control={"other": wrong}),
    ):
        with pytest.raises(OurMistake, match="another model"):
            trained(model, local=local)


def test_an_experiments_algorithm_makes_the_objects_of_hospitals(model):
    """No copy: the step, the site's state and the names that are sent."""
    plain = Algorithm()
    assert algorithms.server_step(plain, "local") == FedAvg(1.0)
    assert algorithms.local_state(plain, {}, {}) is None
    assert algorithms.sent_names(model, plain, "head") == mae.trainable_names(model, "head")
    adam = Algorithm(name="fedadam", server_learning_rate=0.02, tau=0.01)
    step = algorithms.server_step(adam, "none")
    assert (step.learning_rate, step.moments.tau) == (0.02, 0.01)
    shared = Algorithm(name="fedyogi", steps=1, optimiser="sgd", learning_rate=0.01)
    assert algorithms.server_step(shared, "distributed").learning_rate == 0.01
    everything = Algorithm(
        local_norms=True, control_variates=True, optimiser="sgd", proximal_weight=0.3
    )
    assert everything.training("head").proximal_weight == 0.3
    state = algorithms.server_step(everything, "local").begin({"a": np.ones(2, np.float32)})
    local = algorithms.local_state(everything, {}, state)
    assert local.norms
    assert set(local.control) == {"a"}
    assert not set(algorithms.sent_names(model, everything, "all")) & mae.norm_names(model)


@pytest.mark.parametrize(
    ("algorithm", "words"),
    [
        ({"name": "fedadam"}, "by about the learning rate a round: 1 is not in"),
        ({"control_variates": True}, "plain SGD"),
    ],
)
def test_an_experiment_that_would_ruin_the_model_is_refused_when_it_is_read(algorithm, words):
    """Before any patient is drawn; FedAvg's default rate is none for FedAdam."""
    content = {"name": "a", "privacy": {"mode": "none"}, "algorithm": algorithm}
    with pytest.raises(OurMistake, match=words):
        Experiment.from_dict(content)
    cured = {**algorithm, "server_learning_rate": 0.01, "optimiser": "sgd"}
    assert Experiment.from_dict({**content, "algorithm": cured}).algorithm.steps == 5
    one = {"name": "fedadam", "steps": 1, "optimiser": "sgd", "learning_rate": 0.01}
    shared = {"mode": "distributed", "epsilon": 3.0}
    assert Experiment.from_dict({"name": "a", "privacy": shared, "algorithm": one})
