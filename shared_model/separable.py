"""Does every patient's term stand by itself? Layers are refused by kind, losses by measurement.

Patient-level privacy rests on one fact: what patient i adds to the sum of gradients is a function
of the weights, of patient i and of public randomness. A batch contrast, batch statistics or state
kept between calls break it without any error. Measured in privacy.md: batch InfoNCE moved the
clipped sum by up to 262 x C on a batch of near-duplicates, and by about 1 x C on random data, so
the check below uses near-duplicates.

The check can refuse; it cannot prove. The proof is in the code: `client.training` differentiates a
function of one patient's tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from shared_model.config import CHANNELS, TOKENS, WINDOW_SAMPLES, LocalTraining
from shared_model.errors import OurMistake
from shared_model.losses import patient_losses
from shared_model.mae import MaskedAutoencoder
from shared_model.patches import draw_patch_masks, fold
from shared_model.privacy import refuse_coupling

BatchLoss = Callable[[Sequence[Tensor]], Tensor]
"""Tensors with the patient as axis 0 -> loss per patient (patient,), or their sum."""

_NEAR = 1e-3
"""Size of the differences inside a batch of near-duplicates (windows have standard deviation 1)."""


def check_separable(
    model: MaskedAutoencoder,
    training: LocalTraining,
    rng: np.random.Generator,
    *,
    loss: Callable[
        [MaskedAutoencoder, Tensor, Tensor, Tensor, LocalTraining], Tensor
    ] = patient_losses,
    patients: int = 6,
) -> None:
    """Refuse a model or a loss that couples patients. Uses made-up windows only.

    Raises:
        OurMistake: a forbidden layer, or a patient's gradient depends on the other patients, on
            their number, or on chance.
    """
    refuse_coupling(model)
    shape = (patients, training.segments, len(CHANNELS), WINDOW_SAMPLES)
    patches = fold(torch.from_numpy(rng.standard_normal(shape).astype(np.float32)))
    valid = torch.ones((*shape[:-1], TOKENS), dtype=torch.bool)
    masks = (patients, training.patch_masks, training.segments)
    hidden = torch.from_numpy(draw_patch_masks(rng, masks))
    check_batch_loss(
        lambda batch: loss(model, batch[0], batch[1], batch[2], training),
        [value for value in model.parameters() if value.requires_grad],
        (patches, valid, hidden),
        rng,
    )


def check_batch_loss(
    loss: BatchLoss,
    parameters: Sequence[Tensor],
    batch: Sequence[Tensor],
    rng: np.random.Generator,
    *,
    tolerance: float = 1e-3,
) -> None:
    """Refuse a loss over patients whose terms are not each patient's own.

    What a patient adds, grad(batch) - grad(batch without the patient), is measured among three
    sets of other patients: those given, near-duplicates of one of them, and near-duplicates of
    the patient itself. It must be the same each time.

    Args:
        batch: tensors with the patient as axis 0, at least 3 patients. Those of floating type are
            the signals.
        tolerance: largest difference allowed, over the norm of what the patient adds.

    Raises:
        OurMistake: fewer than 3 patients, or the loss couples patients, divides by their number,
            or is random.
    """
    if len(batch[0]) < 3:
        raise OurMistake("Coupling between patients shows with at least three of them.")
    first = [value[:1] for value in batch]
    others = [value[1:] for value in batch]
    crowds = [others, _near_duplicates(others, rng), _near_duplicates(first, rng, len(others[0]))]
    adds = []
    for crowd in crowds:
        whole = [torch.cat([one, rest]) for one, rest in zip(first, crowd, strict=True)]
        adds.append(_gradient(loss, parameters, whole) - _gradient(loss, parameters, crowd))
    alone = _gradient(loss, parameters, first)
    size = torch.linalg.vector_norm(alone).clamp(min=1e-6)
    worst = max(float(torch.linalg.vector_norm(add - alone) / size) for add in adds)
    if not worst <= tolerance:
        raise OurMistake(
            "The gradient of one patient depends on the other patients of the batch.",
            do="Write the loss as a sum over patients of terms that see one patient each; draw "
            "random choices outside; do not divide by the number of patients.",
        )


def _near_duplicates(
    batch: Sequence[Tensor], rng: np.random.Generator, count: int | None = None
) -> list[Tensor]:
    """As many patients, all nearly the first one of `batch`."""
    result = []
    for value in batch:
        many = value[:1].expand(count or len(value), *value.shape[1:]).clone()
        if many.is_floating_point():
            noise = _NEAR * rng.standard_normal(tuple(many.shape))
            many = many + torch.from_numpy(noise).to(many)
        result.append(many)
    return result


def _gradient(loss: BatchLoss, parameters: Sequence[Tensor], batch: Sequence[Tensor]) -> Tensor:
    """Gradient of the summed loss, one float64 vector."""
    with torch.enable_grad():
        parts = torch.autograd.grad(loss(batch).sum(), list(parameters), allow_unused=True)
    filled = [
        torch.zeros_like(value) if part is None else part
        for part, value in zip(parts, parameters, strict=True)
    ]
    return nn.utils.parameters_to_vector(filled).detach().double()
