"""Several devices of one hospital: the same update, whoever is faster, and no device in secret."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from client import replicas, training
from client.replicas import devices_of
from client.training import clipped_step, train_round
from shared_model import mae, privacy
from shared_model.config import LocalTraining, PrivacyPlan
from shared_model.errors import Refused
from shared_model.noise import NonPrivateForTests
from shared_model.weights import Weights

CPU = torch.device("cpu")
PLAN = PrivacyPlan(sample_rate=0.9, noise_multiplier=1.0, clipping_norm=0.5, steps=2)
PATIENTS = 40  # three chunks of 16 or fewer


class Waves:
    """Each patient with a window of noise of its own."""

    patient_count = PATIENTS

    def segments(
        self, patients: np.ndarray, segments: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        every = [np.random.default_rng(int(one)).standard_normal((2, 1250)) for one in patients]
        signal = np.repeat(np.array(every, np.float32)[:, None], segments, axis=1)
        return signal, np.ones((len(patients), segments, 2, 50), bool)


def trained(
    devices: Sequence[torch.device], which: Literal["head", "adapters"], optimiser: str = "adam"
) -> Weights:
    model = mae.build(mae.PRESETS["tiny"], seed=1)
    told = LocalTraining(segments=1, trainable=which, optimiser=optimiser)  # type: ignore[arg-type]
    noise = NonPrivateForTests("run", "site", 1, 1)
    return train_round(model, Waves(), PLAN, told, PATIENTS, noise, devices=devices).update


@pytest.mark.parametrize("which", ["head", "adapters"])
def test_copies_train_the_same_update_as_one_model_to_the_bit(
    which: Literal["head", "adapters"],
) -> None:
    """One copy, two, and more than there are chunks; two steps, so that copies have to follow."""
    one = trained((), which)
    for count in (1, 2, 5):
        found = trained((CPU,) * count, which)
        assert found.keys() == one.keys()
        for name, value in one.items():
            assert np.array_equal(found[name], value)


def test_copies_give_the_clipped_sum_of_mode_distributed_to_the_bit() -> None:
    model = mae.build(mae.PRESETS["tiny"], seed=1)

    def summed(devices: Sequence[torch.device]) -> Weights:
        noise = NonPrivateForTests("run", "site", 1, 1)
        return clipped_step(
            model, Waves(), PLAN, LocalTraining(segments=1), PATIENTS, noise, devices
        )

    one, two = summed(()), summed((CPU, CPU))
    assert all(np.array_equal(two[name], value) for name, value in one.items())


def test_sums_are_added_in_their_order_whichever_device_is_faster(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first device waits until the second has given its answer."""
    second = threading.Event()
    order: list[int] = []

    def slow_first(
        loss: Any, held: Any, batch: Sequence[Tensor], *_: Any, chunk: int
    ) -> np.ndarray:
        number = int(batch[0][0])
        if number == 0:
            assert second.wait(60)
        order.append(number)
        if number == 1:
            second.set()
        return np.array([(1.0, 1e-17, 1e-17, -1.0)[number]])  # rounds otherwise in another order

    monkeypatch.setattr(privacy, "clipped_sum", slow_first)
    weights = {"w": torch.zeros(1)}
    copies = replicas.Replicas(torch.nn.Linear(1, 1), weights, (CPU, CPU))
    batches = [[torch.tensor([float(number)])] for number in range(4)]
    total = copies.clipped_sum(weights, batches, 1.0, chunk=1)
    assert order.index(1) < order.index(0)
    assert total.tolist() == [((1.0 + 1e-17) + 1e-17) - 1.0]


def test_a_device_that_fails_ends_the_step_with_its_own_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing is made of the chunks that went well, and no thread stays."""
    real = privacy.clipped_sum
    calls: list[int] = []

    def second_fails(*given: Any, **named: Any) -> np.ndarray:
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("out of memory")
        return real(*given, **named)

    before = threading.active_count()
    monkeypatch.setattr(privacy, "clipped_sum", second_fails)
    with pytest.raises(RuntimeError, match="out of memory"):
        trained((CPU, CPU), "head")
    assert threading.active_count() == before


def test_without_gpus_the_cpu_is_used_and_no_gpu_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: pytest.fail("asked"))
    assert devices_of(0) == ()


def test_fewer_gpus_than_named_are_refused_and_not_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where torch is built without CUDA."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert devices_of(2) == (torch.device("cuda", 0), torch.device("cuda", 1))
    with pytest.raises(Refused, match=r"is 3, and torch sees 2") as caught:
        devices_of(3)
    assert caught.value.reason == "not-ready"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(Refused, match="torch sees 0"):
        devices_of(1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_gpus_train_the_update_of_the_cpu() -> None:
    """On every GPU here, to float32's rounding; sgd, for Adam turns rounding into signs."""
    every = devices_of(torch.cuda.device_count())
    one = trained((), "head", "sgd")
    for devices in (every[:1], every):
        for name, value in trained(devices, "head", "sgd").items():
            np.testing.assert_allclose(value, one[name], rtol=1e-3, atol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_on_a_gpu_a_clipped_gradient_has_the_same_bits_whoever_else_is_in_the_chunk() -> None:
    """What sensitivity rests on there, as `test_taps.py` has it for the CPU."""
    device = devices_of(1)[0]
    told = LocalTraining(segments=1)
    unit, received = training.prepared(mae.build(mae.PRESETS["tiny"], seed=1), told)
    unit, held = unit.to(device), {name: value.to(device) for name, value in received.items()}
    rng = np.random.default_rng(0)
    batch = [value.to(device) for value in training.unit_batch(Waves(), np.arange(16), told, rng)]
    alone = [
        torch.cat([value[:1], value[:1].repeat(15, *[1] * (value.ndim - 1))]) for value in batch
    ]
    among = privacy.per_patient_gradients(unit, held, batch)
    apart = privacy.per_patient_gradients(unit, held, alone)
    assert all(torch.equal(among[name][0], apart[name][0]) for name in among)
