"""What couples patients is refused."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from shared_model import losses, mae
from shared_model.config import LocalTraining
from shared_model.errors import OurMistake
from shared_model.separable import check_batch_loss, check_separable

TRAINING = LocalTraining()


def _batch_info_nce(
    model: mae.MaskedAutoencoder, patches: Tensor, valid: Tensor, hidden: Tensor, _: LocalTraining
) -> Tensor:
    """CLIP's loss over patients: the negative example."""
    found = model(patches, valid, hidden.movedim(1, 2)).fingerprint[:, 0]  # (patient, view, 128)
    logits = found[:, -2] @ found[:, -1].T / 0.1
    return nn.functional.cross_entropy(logits, torch.arange(len(logits)), reduction="none")


def test_our_model_and_loss_pass(model: mae.MaskedAutoencoder) -> None:
    check_separable(model, LocalTraining(contrast_weight=0.5), np.random.default_rng(0))


def test_batch_info_nce_is_refused(model: mae.MaskedAutoencoder) -> None:
    with pytest.raises(OurMistake, match="depends on the other patients"):
        check_separable(model, TRAINING, np.random.default_rng(0), loss=_batch_info_nce)


@pytest.mark.parametrize(
    "layer",
    [
        nn.BatchNorm1d(16),
        nn.SyncBatchNorm(16),
        nn.InstanceNorm1d(16, track_running_stats=True),
        nn.Dropout(0.1),
        nn.LSTM(16, 16),
    ],
)
def test_layers_that_can_couple_patients_are_refused(
    model: mae.MaskedAutoencoder, layer: nn.Module
) -> None:
    model.bottleneck.append(layer)
    with pytest.raises(OurMistake, match="couple patients"):
        check_separable(model, TRAINING, np.random.default_rng(0))


def _mean(model: mae.MaskedAutoencoder, *data: Tensor, training: LocalTraining) -> Tensor:
    return losses.patient_losses(model, *data, training).mean()


def test_dividing_by_the_number_of_sampled_patients_is_refused(
    model: mae.MaskedAutoencoder,
) -> None:
    with pytest.raises(OurMistake):
        check_separable(
            model, TRAINING, np.random.default_rng(0),
            loss=lambda m, p, v, h, t: _mean(m, p, v, h, training=t),
        )  # fmt: skip


@pytest.mark.parametrize(
    ("loss", "ok"),
    [
        (lambda x, w: (x * w).square().sum(-1), True),
        (lambda x, w: ((x - x.mean(0)) * w).square().sum(-1), False),  # batch centring
        (lambda x, w: (x * w).square().sum(-1) / x.norm(), False),  # batch scale
        (lambda x, w: (x * w).square().sum(-1) * torch.rand(()), False),  # chance
        (lambda x, w: torch.relu(1.0 - (x * w).var(0, correction=0)).sum(), False),  # VICReg
        (lambda x, w: ((x * w).T @ (x * w)).square().sum(), False),  # Barlow twins
    ],
)
def test_a_loss_over_the_batch_is_told_from_a_sum_over_patients(
    loss: Callable[[Tensor, Tensor], Tensor], ok: bool
) -> None:
    rng = np.random.default_rng(2)
    x = torch.from_numpy(rng.standard_normal((5, 7)).astype(np.float32))
    w = torch.full((7,), 0.3, requires_grad=True)
    if ok:
        check_batch_loss(lambda b: loss(b[0], w), [w], [x], rng)
        return
    with pytest.raises(OurMistake):
        check_batch_loss(lambda b: loss(b[0], w), [w], [x], rng)


def test_two_patients_are_too_few_to_see_coupling() -> None:
    w = torch.ones(3, requires_grad=True)
    with pytest.raises(OurMistake, match="at least three"):
        check_batch_loss(
            lambda b: (b[0] * w).sum(), [w], [torch.ones(2, 3)], np.random.default_rng(0)
        )
