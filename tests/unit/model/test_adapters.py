"""Adapters compute nothing new until they are trained, are merged to the bit, and give gradients
of each patient by every way that the model itself does."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from opacus import GradSampleModule
from torch import Tensor

from client.run_cost import TRAINED
from client.training import _Unit, train_round
from server.curves import moved
from shared_model import adapters, losses, mae, privacy, weights
from shared_model.config import TRAINABLE, LocalTraining, PrivacyPlan, Trainable
from shared_model.errors import OurMistake
from shared_model.noise import NonPrivateForTests

Batch = tuple[Tensor, Tensor, Tensor]
Makes = Callable[..., Batch]
TRAINING = LocalTraining(segments=2, patch_masks=2, trainable="adapters")
LAYER = "encoders.0.blocks.0.attention.query"


def filled(model: mae.MaskedAutoencoder, seed: int = 0, size: float = 0.3) -> weights.Weights:
    """Some B for each layer."""
    held = mae.weights_of(model)
    part = adapters.trained_part(held, mae.trainable_names(model, "adapters"))
    rng = np.random.default_rng(seed)
    return {
        name: (size * rng.standard_normal(value.shape)).astype(np.float32)
        for name, value in part.items()
    }


def adapted(model: mae.MaskedAutoencoder, factors: weights.Weights) -> mae.MaskedAutoencoder:
    made = adapters.attached(model)
    with torch.no_grad():
        for name, value in made.named_parameters():
            if name in factors:
                value.copy_(torch.from_numpy(factors[name]))
    return made


def loaded(model: mae.MaskedAutoencoder, values: weights.Weights) -> mae.MaskedAutoencoder:
    made = mae.build(model.config, 0)
    mae.load_weights(made, values)
    return made


def test_each_choice_trains_what_it_says(model: mae.MaskedAutoencoder) -> None:
    """Norms and bottleneck together are the head; adapters are no parameter of a model at rest."""
    named = {which: set(mae.trainable_names(model, which)) for which in TRAINABLE}
    assert named["head"] == named["norms"] | named["bottleneck"]
    assert named["norms"] & named["bottleneck"] >= {"fingerprint_head.weight"}
    assert "encoders.0.blocks.0.norm_1.weight" in named["norms"] - named["bottleneck"]
    assert "bottleneck.0.up.weight" in named["bottleneck"] - named["norms"]
    assert not named["adapters"] & named["all"]
    assert {name.split(".")[0] for name in named["adapters"]} == {"encoders", "bottleneck"}
    assert set(TRAINED) == set(TRAINABLE)


@pytest.mark.parametrize(("preset", "low", "high"), [("tiny", 2e4, 3e4), ("small", 1e5, 3e5)])
def test_adapters_are_few(preset: str, low: float, high: float) -> None:
    """0.1 to 0.3 M of `small`, fewer of `tiny`, and fewer than its head."""
    counts = mae.parameter_counts(mae.build(mae.PRESETS[preset], 0))
    assert low < counts["adapters"] < high
    assert counts["norms"] < counts["adapters"] < counts["bottleneck"] < counts["head"]


def test_a_new_adapter_changes_nothing(model: mae.MaskedAutoencoder, batch: Makes) -> None:
    """B is zero: fingerprints and losses are the same bits; the given model has none."""
    before = weights.digest(mae.weights_of(model))
    state = torch.random.get_rng_state()
    made = adapters.attached(model)
    assert torch.equal(state, torch.random.get_rng_state())
    patches, valid, hidden = batch()
    assert torch.equal(made.fingerprint(patches, valid), model.fingerprint(patches, valid))
    wanted = losses.patient_losses(model, patches, valid, hidden, TRAINING)
    assert torch.equal(losses.patient_losses(made, patches, valid, hidden, TRAINING), wanted)
    assert weights.digest(mae.weights_of(model)) == before
    assert not any(name.endswith(adapters.ADAPTER) for name in mae.weights_of(model))


def test_a_merged_model_computes_what_the_adapted_one_does(
    model: mae.MaskedAutoencoder, batch: Makes
) -> None:
    """To 1e-5, where the adapters move fingerprints and losses by far more."""
    factors = filled(model)
    carried = adapted(model, factors)
    plain = loaded(model, adapters.merged(mae.weights_of(model) | factors))
    patches, valid, hidden = batch()
    wanted = carried.fingerprint(patches, valid)
    torch.testing.assert_close(plain.fingerprint(patches, valid), wanted, rtol=1e-5, atol=1e-5)
    away = (model.fingerprint(patches, valid) - wanted).abs().max()
    assert float(away.detach()) > 1e-2
    torch.testing.assert_close(
        losses.patient_losses(plain, patches, valid, hidden, TRAINING),
        losses.patient_losses(carried, patches, valid, hidden, TRAINING),
        rtol=1e-4, atol=1e-5,
    )  # fmt: skip


def test_rounds_that_are_merged_one_by_one_are_one_adapter(model: mae.MaskedAutoencoder) -> None:
    """And the mean of two hospitals' models is the model of their mean: A is the same for all."""
    held, first, second = mae.weights_of(model), filled(model, 1), filled(model, 2)
    together = adapters.merged(held | {name: first[name] + second[name] for name in first})
    one_by_one = adapters.merged(adapters.merged(held | first) | second)
    one, other = adapters.merged(held | first), adapters.merged(held | second)
    mean = adapters.merged(held | {name: (first[name] + second[name]) / 2 for name in first})
    for name in held:
        np.testing.assert_allclose(one_by_one[name], together[name], rtol=0, atol=1e-6)
        np.testing.assert_allclose((one[name] + other[name]) / 2, mean[name], rtol=0, atol=1e-6)


def test_the_fixed_factor_is_what_the_wire_page_says() -> None:
    """Computed again bit by bit; rows of unit length; another layer has another one."""
    found = adapters.directions(LAYER, 8, 64)
    drawn = hashlib.shake_256(f"fedprint-adapter-1:{LAYER}:8:64".encode()).digest(64)
    for k in range(512):
        sign = 1.0 if drawn[k // 8] >> (7 - k % 8) & 1 else -1.0
        assert found[k // 64, k % 64] == np.float32(sign / 8.0)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1.0, rtol=1e-6)
    other = adapters.directions(LAYER.replace("query", "up"), 8, 64)
    assert 0.3 < float((found == other).mean()) < 0.7


@given(seed=st.integers(0, 2**32), size=st.sampled_from([0.0, 1e-9, 0.1, 1e6]))
def test_merging_is_one_product_and_one_sum_at_a_time(seed: int, size: float) -> None:
    """The bits of plain Python's float64 in the order of the wire page; zero leaves the weights."""
    rng = np.random.default_rng(seed)
    layer = rng.standard_normal((16, 24)).astype(np.float32)
    factor = (size * rng.standard_normal((16, 2))).astype(np.float32)
    held = {LAYER + ".weight": layer, "other": np.ones(3, np.float32)}
    found = adapters.merged(held | {LAYER + adapters.ADAPTER: factor})
    fixed = adapters.directions(LAYER, 2, 24)
    for i in range(0, 16, 5):
        for j in range(0, 24, 5):
            total = float(layer[i, j])
            for k in range(2):
                total = total + float(factor[i, k]) * float(fixed[k, j])
            assert found[LAYER + ".weight"][i, j] == np.float32(total)
    assert set(found) == set(held)
    if size == 0.0:
        assert weights.digest(found) == weights.digest(held)


def test_what_fits_no_layer_is_refused(model: mae.MaskedAutoencoder) -> None:
    """No such layer, a layer that has none, another rank."""
    held = mae.weights_of(model)
    right = LAYER + adapters.ADAPTER
    for name in ("gone.query" + adapters.ADAPTER, "decoders.0.memory" + adapters.ADAPTER, "gone"):
        with pytest.raises(OurMistake):
            adapters.trained_part(held, [name])
    for name, shape in ((right, (16, 3)), (right, (15, 2)), ("gone" + adapters.ADAPTER, (16, 2))):
        with pytest.raises(OurMistake):
            adapters.merged(held | {name: np.zeros(shape, np.float32)})
    assert adapters.trained_part(held, [right])[right].shape == (16, 2)


@pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning")
@pytest.mark.parametrize("which", ["norms", "bottleneck", "adapters"])
def test_gradients_of_each_patient_are_the_same_three_ways(
    model: mae.MaskedAutoencoder, batch: Makes, which: Trainable
) -> None:
    """One patient at a time, torch.func, Opacus' hooks; B not at zero."""
    made_up = batch(5)
    made = adapted(model, filled(model)) if which == "adapters" else model
    names = set(mae.trainable_names(model, which))
    for name, value in made.named_parameters():
        value.requires_grad_(name in names)
    trained = {name: value for name, value in made.named_parameters() if name in names}
    assert set(trained) == names
    unit = _Unit(made, TRAINING)
    fast = privacy.per_patient_gradients(
        unit, {f"model.{name}": value for name, value in trained.items()}, list(made_up)
    )
    assert all(float(value.abs().max()) > 0.0 for value in fast.values())
    for patient in range(5):
        loss = losses.unit_loss(made, *(value[patient] for value in made_up), TRAINING)
        slow = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
        for (name, value), gradient in zip(trained.items(), slow, strict=True):
            wanted = torch.zeros_like(value) if gradient is None else gradient
            found = fast[f"model.{name}"][patient]
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    hooked = GradSampleModule(made, loss_reduction="sum", strict=True)
    losses.patient_losses(hooked, *made_up, TRAINING).sum().backward()  # type: ignore[no-untyped-call]
    for name, value in trained.items():
        each = value.grad_sample  # type: ignore[attr-defined]
        torch.testing.assert_close(fast[f"model.{name}"], each, rtol=1e-4, atol=1e-5)


class Waves:
    """Three patients with two windows each."""

    patient_count = 3

    def segments(
        self, patients: np.ndarray, segments: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        own = np.random.default_rng([9, *(int(one) for one in patients)])
        shape = (len(patients), segments, 2)
        signal = own.standard_normal((*shape, 1250)).astype(np.float32)
        return signal, np.ones((*shape, 50), dtype=bool)


def trained(model: mae.MaskedAutoencoder, **changes: object) -> weights.Weights:
    plan = PrivacyPlan(sample_rate=1.0, noise_multiplier=0.01, clipping_norm=1.0, steps=3)
    training = LocalTraining(segments=1, trainable="adapters", **changes)  # type: ignore[arg-type]
    noise = NonPrivateForTests("run", "site", 1, 1)
    return train_round(model, Waves(), plan, training, 3, noise).update


def test_a_round_of_adapters_moves_the_factors_and_leaves_the_model(
    model: mae.MaskedAutoencoder,
) -> None:
    """The update has their names; merged, it is as long a move as the dashboard says."""
    before = weights.digest(mae.weights_of(model))
    update = trained(model)
    names = mae.trainable_names(model, "adapters")
    assert set(update) == set(names)
    assert all(float(np.abs(value).max()) > 0.0 for value in update.values())
    held = mae.weights_of(model)
    after = adapters.merged(held | update)
    assert weights.digest(mae.weights_of(model)) == before
    changed = {name for name in held if not np.array_equal(held[name], after[name])}
    assert changed == {name.replace(adapters.ADAPTER, ".weight") for name in names}
    length = np.sqrt(sum(float(np.square(after[name] - held[name]).sum()) for name in changed))
    assert moved(held, after, names) == pytest.approx(length, rel=1e-5)


def test_a_proximal_weight_draws_the_factors_back_to_zero(model: mae.MaskedAutoencoder) -> None:
    """FedProx's anchor is the model that was received, where every B is zero."""
    free = trained(model, optimiser="sgd", learning_rate=0.5)
    held = trained(model, optimiser="sgd", learning_rate=0.5, proximal_weight=1.0)
    lengths = [
        float(np.sqrt(sum(np.square(one).sum() for one in made.values()))) for made in (free, held)
    ]
    assert lengths[1] < 0.9 * lengths[0]
