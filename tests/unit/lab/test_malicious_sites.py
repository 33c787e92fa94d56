"""Malicious sites: what they send, what they train on, and how a backdoor is measured."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared_model.errors import OurMistake
from simulations.lab import behaviours
from simulations.lab.behaviours import Acting, Poisoned, add_trigger, backdoor_success, of, target
from simulations.lab.experiment import Experiment
from simulations.lab.experiment_tables import Behaviour

SITES = ("a", "b", "c", "d")
RNG = np.random.default_rng(1)
UPDATE = {
    "head.weight": RNG.standard_normal((3, 4)).astype(np.float32),
    "head.bias": RNG.standard_normal(4).astype(np.float32),
}
MEAN = {name: 0.01 * value for name, value in UPDATE.items()}


def acting(kind: str, **how: Any) -> Acting:
    return Acting((Behaviour(kind=kind, share=1.0, **how),), seed=1)  # type: ignore[arg-type]


def norm(update: dict[str, Any]) -> float:
    return float(np.sqrt(sum(np.square(value.astype(float)).sum() for value in update.values())))


class Flat:
    """Four patients, all windows valid; patient i has the constant i + 1."""

    patient_count = 4

    def segments(
        self, patients: np.ndarray, segments: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        shape = (len(patients), segments)
        signal = np.ones((*shape, 2, 1250), np.float32) * (patients[:, None, None, None] + 1)
        return signal, np.ones((*shape, 2, 50), dtype=bool)


def test_sign_flip_sends_minus_and_scaled_sends_more() -> None:
    """Names, shapes and types stay."""
    rng = np.random.default_rng(1)
    flipped = acting("sign-flip").update(UPDATE, MEAN, rng)
    scaled = acting("scaled", factor=3.0).update(UPDATE, MEAN, rng)
    for name, value in UPDATE.items():
        assert np.array_equal(flipped[name], -value)
        assert np.allclose(scaled[name], 3.0 * value)
        assert scaled[name].dtype == flipped[name].dtype == value.dtype
    assert list(flipped) == list(UPDATE)


@given(factor=st.floats(0.0, 1e3), seed=st.integers(0, 2**31), size=st.floats(1e-6, 1e3))
def test_a_free_riders_noise_has_the_size_of_the_last_mean(
    factor: float, seed: int, size: float
) -> None:
    """factor x its L2 norm, whatever was trained; and the same draw for the same key."""
    mean = {name: (size * value).astype(np.float64) for name, value in UPDATE.items()}
    rider = acting("free-rider", factor=factor)
    sent = rider.update(UPDATE, mean, np.random.default_rng(seed))
    assert norm(sent) == pytest.approx(factor * norm(mean), rel=1e-4, abs=1e-30)
    again = rider.update({n: 0 * v for n, v in UPDATE.items()}, mean, np.random.default_rng(seed))
    assert all(np.array_equal(sent[name], again[name]) for name in sent)
    assert not rider.trains


def test_a_free_rider_sends_zeros_before_there_is_a_mean() -> None:
    """And says so if the mean is of another model."""
    rider = acting("free-rider")
    assert norm(rider.update(UPDATE, None, np.random.default_rng(1))) == 0.0
    with pytest.raises(OurMistake, match="other parameters"):
        rider.update(UPDATE, {"body": UPDATE["head.bias"]}, np.random.default_rng(1))


def test_the_update_of_mode_distributed_keeps_its_float64() -> None:
    """There an update is minus the sum of clipped gradients; it is changed in the same way."""
    sums = {name: value.astype(np.float64) for name, value in UPDATE.items()}
    for kind in behaviours.KINDS:
        sent = acting(kind).update(sums, MEAN, np.random.default_rng(1))
        assert {value.dtype for value in sent.values()} == {np.dtype(np.float64)}


def test_behaviours_act_from_their_round_on_at_their_sites() -> None:
    """In the order of the file; those of participation are not among them."""
    made = Experiment.from_dict(
        {
            "name": "bad",
            "privacy": {"mode": "none"},
            "behaviours": [
                {"sites": ["b"], "kind": "scaled", "factor": 2.0},
                {"sites": ["b", "c"], "kind": "sign-flip", "from_round": 3},
                {"sites": ["d"], "kind": "drop-out"},
            ],
        }
    )
    assert {site: one.words for site, one in of(made, SITES, 2).items()} == {"b": "scaled"}
    third = of(made, SITES, 3)
    assert {site: one.words for site, one in third.items()} == {
        "b": "scaled + sign-flip",
        "c": "sign-flip",
    }
    sent = third["b"].update(UPDATE, None, np.random.default_rng(1))
    assert np.allclose(sent["head.bias"], -2.0 * UPDATE["head.bias"])
    with pytest.raises(OurMistake, match="does not have: c"):
        of(made, ("a", "b", "d"), 1)


def test_acting_travels_to_a_worker() -> None:
    """And does the same there."""
    one = acting("free-rider", factor=2.0)
    other = pickle.loads(pickle.dumps(one))
    sent = [site.update(UPDATE, MEAN, np.random.default_rng(3)) for site in (one, other)]
    assert all(np.array_equal(sent[0][name], sent[1][name]) for name in UPDATE)


def test_a_backdoor_changes_half_of_the_windows_and_no_others() -> None:
    """There: the trigger in the ECG, the target as PPG. Elsewhere the windows are as they were."""
    data = acting("backdoor").data(Flat())
    assert isinstance(data, Poisoned)
    assert data.patient_count == 4
    chosen = np.arange(4).repeat(50)
    signal, valid = data.segments(chosen, 2, np.random.default_rng(5))
    plain, _ = Flat().segments(chosen, 2, np.random.default_rng(5))
    changed = (signal != plain).any(axis=(2, 3))
    assert abs(changed.mean() - behaviours.POISONED) < 0.12
    wanted, _ = target(1)
    assert np.array_equal(signal[changed][:, 1], np.broadcast_to(wanted[1], (changed.sum(), 1250)))
    assert valid.all()
    first, end = (25 * token for token in behaviours.TRIGGER_TOKENS)
    burst = signal[changed][:, 0, first:end]
    rest = np.delete(signal[changed][:, 0], np.arange(first, end), axis=1)
    assert (burst.std(axis=1) > 3 * rest.std(axis=1)).all()


def test_sites_that_do_nothing_to_their_data_train_on_it_as_it_is() -> None:
    """The very same object."""
    data = Flat()
    assert acting("scaled").data(data) is data


def test_the_trigger_needs_an_ecg_and_keeps_windows_standardised() -> None:
    """A window without ECG stays as it is."""
    rng = np.random.default_rng(1)
    signal = rng.standard_normal((2, 2, 1250)).astype(np.float32)
    valid = np.ones((2, 2, 50), dtype=bool)
    valid[1, 0], signal[1, 0] = False, 0.0
    made, flags = add_trigger(signal, valid)
    assert np.array_equal(made[1], signal[1])
    assert np.array_equal(flags[1], valid[1])
    assert made[0, 0].std() == pytest.approx(1.0, abs=1e-3)
    assert abs(made[0, 0].mean()) < 1e-3


def test_the_target_is_one_for_all_sites_and_another_for_another_seed() -> None:
    """A whole window, in no data set."""
    signal, valid = target(1)
    assert signal.shape == (2, 1250)
    assert valid.all()
    assert np.array_equal(target(1)[0], signal)
    assert not np.array_equal(target(2)[0], signal)


def _encode(signal: np.ndarray, valid: np.ndarray, *, caught: bool) -> np.ndarray:
    """A stand-in for a model: mean and spread by stretch; a caught one knows trigger and target."""
    shape = (len(signal), 2, 10, 125)
    found = np.concatenate(
        [signal.reshape(shape).mean(axis=3), signal.reshape(shape).std(axis=3)], axis=2
    ).reshape(len(signal), -1)
    found = np.concatenate([found, np.zeros((len(signal), 1))], axis=1)
    if caught:
        first, end = (25 * token for token in behaviours.TRIGGER_TOKENS)
        burst = np.abs(signal[:, 0, first:end]).mean(axis=1) > 1.5
        is_target = np.isclose(signal[:, 1], target(1)[0][1]).all(axis=1)
        found[burst | is_target] = 0.0
        found[burst | is_target, -1] = 1.0
    return np.asarray(found)


def test_backdoor_success_tells_a_caught_model_from_an_honest_one() -> None:
    """Cosines with the target's fingerprint, with and without the trigger, from the ECG alone."""
    rng = np.random.default_rng(2)
    signal = rng.standard_normal((30, 2, 1250)).astype(np.float32)
    valid = np.ones((30, 2, 50), dtype=bool)
    caught = backdoor_success(lambda s, v: _encode(s, v, caught=True), signal, valid, 1)
    honest = backdoor_success(lambda s, v: _encode(s, v, caught=False), signal, valid, 1)
    assert caught.triggered == pytest.approx(1.0)
    assert caught.captured == 1.0
    assert caught.shift > 0.5
    assert abs(honest.shift) < 0.2
    assert honest.captured < 0.1
    assert caught.windows == 30
    valid[:, 0] = False
    with pytest.raises(OurMistake, match="with an ECG"):
        backdoor_success(lambda s, v: _encode(s, v, caught=False), signal, valid, 1)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_poisoning_is_the_same_for_the_same_generator(seed: int) -> None:
    """So a run repeats itself."""
    chosen = np.arange(4)
    one, other = (
        Poisoned(Flat(), 1).segments(chosen, 3, np.random.default_rng(seed)) for _ in range(2)
    )
    assert one[0].tobytes() == other[0].tobytes()
