"""The unit loss: what counts, what absence does, three ways to the same gradient."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from opacus import GradSampleModule
from torch.func import functional_call, grad, vmap

from shared_model import losses, mae
from shared_model.config import LocalTraining

Batch = Callable[..., tuple[torch.Tensor, torch.Tensor, torch.Tensor]]

TRAINING = LocalTraining(segments=2, patch_masks=2, contrast_weight=0.3)


def _one_by_one(
    model: mae.MaskedAutoencoder, data: tuple[torch.Tensor, ...]
) -> list[dict[str, torch.Tensor]]:
    result = []
    for patient in range(len(data[0])):
        model.zero_grad(set_to_none=False)
        losses.unit_loss(model, *(value[patient] for value in data), TRAINING).backward()
        result.append(
            {
                name: torch.zeros_like(value) if value.grad is None else value.grad.clone()
                for name, value in model.named_parameters()
            }
        )
    return result


@pytest.mark.parametrize("which", ["head", "all"])
def test_torch_func_gives_the_gradients_of_autograd_one_patient_at_a_time(
    model: mae.MaskedAutoencoder, which: str, batch: Batch
) -> None:
    data = batch()
    names = mae.trainable_names(model, which)  # type: ignore[arg-type]
    chosen = {name: v.detach() for name, v in model.named_parameters() if name in names}

    def loss(parameters: dict[str, torch.Tensor], *unit: torch.Tensor) -> torch.Tensor:
        return losses.unit_loss(lambda *a: functional_call(model, parameters, a), *unit, TRAINING)

    each = vmap(grad(loss), in_dims=(None, 0, 0, 0))(chosen, *data)
    for patient, expected in enumerate(_one_by_one(model, data)):
        for name in names:
            assert torch.allclose(each[name][patient], expected[name], atol=1e-5), name


@pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning")
def test_opacus_hooks_give_the_gradients_of_autograd_one_patient_at_a_time(
    model: mae.MaskedAutoencoder, batch: Batch
) -> None:
    data = batch()
    expected = _one_by_one(model, data)
    model.zero_grad(set_to_none=True)
    wrapped = GradSampleModule(model, loss_reduction="sum", strict=True)
    losses.patient_losses(wrapped, *data, TRAINING).sum().backward()
    for name, value in model.named_parameters():
        for patient in range(len(data[0])):
            found = value.grad_sample[patient]  # type: ignore[attr-defined]
            assert torch.allclose(found, expected[patient][name], atol=1e-5), name
    wrapped.remove_hooks()


def test_a_patient_without_a_valid_token_gives_zero_and_zero_gradient(
    model: mae.MaskedAutoencoder, batch: Batch
) -> None:
    patches, valid, hidden = (value[3] for value in batch())
    loss = losses.unit_loss(model, patches, valid, hidden, TRAINING)
    loss.backward()
    assert loss.item() == 0.0
    assert all(not v.grad.any() for v in model.parameters() if v.grad is not None)


@pytest.mark.parametrize("channel", [0, 1])
def test_one_sensor_alone_trains_on_its_hidden_half_only(
    model: mae.MaskedAutoencoder, channel: int, batch: Batch
) -> None:
    patches, valid, hidden = batch(patients=1)
    valid[:, :, 1 - channel] = False
    views = model(patches, valid, hidden.movedim(1, 2))
    terms = losses.terms(views, patches, valid)
    assert terms.masked.item() > 0.0
    assert terms.cross_modal.item() == terms.alignment.item() == terms.contrast.item() == 0.0
    terms.total(TRAINING).sum().backward()
    decoder = model.decoders[1 - channel]
    assert all(not v.grad.any() for v in decoder.parameters() if v.grad is not None)


@pytest.mark.parametrize("seed", range(5))
def test_sparse_and_adversarial_validity_never_gives_nan(
    model: mae.MaskedAutoencoder, seed: int, batch: Batch
) -> None:
    rng = np.random.default_rng(seed)
    patches, valid, hidden = batch(patients=8, seed=seed)
    keep = rng.random((8, 1, 2, 1)) * rng.random((8, 2, 2, 1))
    valid &= torch.from_numpy(rng.random((8, 2, 2, 50)) < keep)
    valid[0] &= hidden[0, 0]  # every visible token of the first patch mask is absent
    valid[1] &= ~hidden[1, 0]  # every hidden token is absent
    valid[2] = False
    valid[2, 0, 0, 7] = True  # a single token
    chosen = {name: v.detach() for name, v in model.named_parameters()}

    def loss(parameters: dict[str, torch.Tensor], *unit: torch.Tensor) -> torch.Tensor:
        return losses.unit_loss(lambda *a: functional_call(model, parameters, a), *unit, TRAINING)

    each = vmap(grad(loss), in_dims=(None, 0, 0, 0))(chosen, patches, valid, hidden)
    assert all(torch.isfinite(value).all() for value in each.values())


def test_perfect_predictions_cost_nothing_and_the_window_mean_costs_one(batch: Batch) -> None:
    patches, valid, hidden = batch(patients=1, masks=1)
    patches = (patches - patches.mean((-1, -2), keepdim=True)) / patches.std(
        (-1, -2), keepdim=True, unbiased=False
    )
    everywhere = torch.arange(50).expand(1, 2, 50)
    places = tuple(
        torch.cat([torch.argsort(hidden[:, 0, :, c].int(), -1)[..., 25:], everywhere], -1)
        for c in (0, 1)
    )
    counted = tuple(torch.ones_like(place, dtype=torch.bool) for place in places)
    right = tuple(
        torch.take_along_dim(patches[..., c, :, :], places[c][..., None], dim=-2) for c in (0, 1)
    )
    same = torch.zeros(1, 2, 3, 128)
    same[..., 0] = 1.0
    perfect = losses.terms(mae.Views(same, right, places, counted), patches, valid)  # type: ignore[arg-type]
    assert perfect.masked.item() == perfect.cross_modal.item() == perfect.alignment.item() == 0.0
    zero = tuple(torch.zeros_like(value) for value in right)
    lazy = losses.terms(mae.Views(same, zero, places, counted), patches, valid)  # type: ignore[arg-type]
    assert lazy.cross_modal.item() == pytest.approx(1.0, abs=1e-5)


def test_the_alignment_pulls_each_side_toward_the_other() -> None:
    ecg = torch.tensor([[[1.0, 0.0]]], requires_grad=True)
    ppg = torch.tensor([[[0.0, 1.0]]], requires_grad=True)
    value = losses._alignment(ecg, ppg)
    value.sum().backward()
    assert value.item() == 1.0
    assert torch.equal(ecg.grad, torch.tensor([[[0.0, -0.5]]]))  # type: ignore[arg-type]
    assert torch.equal(ppg.grad, torch.tensor([[[-0.5, 0.0]]]))  # type: ignore[arg-type]


def test_contrast_in_a_patient_needs_two_segments_with_both_sensors() -> None:
    unit = torch.eye(4)[None, :3]
    both = torch.tensor([[1.0, 0.0, 0.0]])
    assert losses.contrast(unit, unit, both).item() == 0.0
    both = torch.tensor([[1.0, 1.0, 0.0]])
    good = losses.contrast(unit, unit, both).item()
    swapped = losses.contrast(unit, unit[:, [1, 0, 2]], both).item()
    assert good == pytest.approx(np.log1p(np.exp(-10.0)), abs=1e-4)
    assert swapped == pytest.approx(10.0, abs=1e-3)


def test_contrast_is_off_unless_asked_for() -> None:
    assert LocalTraining().contrast_weight == 0.0
