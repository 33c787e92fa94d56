"""One private step: per-patient gradients, clipping, noise, expected-size division.

Guarantee. Let a step see a Poisson sample of patients with rate q, let every patient's term depend
on the weights, that patient's data and randomness independent of all data, and nothing else. Then
`noisy_mean(clipped_sum(...))` is the Poisson-subsampled Gaussian mechanism with noise multiplier
sigma and rate q under adding or removing one patient with all recordings; `shared_model.accounting`
says what that costs. The weights may be chosen by an adversary who has seen every earlier step.

A patient's term cannot see another patient: the loss runs under `vmap` and is a function of one
patient's tensors. `shared_model.taps` goes backward layer by layer where the trained parameters are
those of Linear and LayerNorm layers; else `vmap(grad(loss))` does, to the same result. What could
still couple them (batch statistics, dropout, state kept between calls) is refused by
`refuse_coupling`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from shared_model import taps
from shared_model.config import PrivacyPlan
from shared_model.errors import OurMistake
from shared_model.noise import NoiseSource, grid

CLIPPING_MARGIN = 1e-3
"""Patients are clipped to C (1 - margin): float32 rounding that depends on the shape of the batch
moved the clipped sum by up to 4e-4 C more than the bound, noise is sized for C."""
SMALLEST_CLIPPING_NORM = 1e-6
"""Below it float64 noise would come near the smallest numbers, where its grid is no longer fine."""
ROUNDING_MARGIN = 1e-4
"""Rounding d coordinates to the grid adds at most sqrt(d) grid to the sensitivity; that must fit
into this share of C, which the clipping margin leaves free."""
_CHUNK = 1 << 15
"""Coordinates finished at once, in the cache."""

_COUPLING = (
    nn.modules.batchnorm._NormBase,  # BatchNorm1-3d, SyncBatchNorm, InstanceNorm with statistics
    nn.modules.dropout._DropoutNd,
    nn.RReLU,
    nn.RNNBase,
)


def refuse_coupling(module: nn.Module) -> None:
    """Refuse layers through which one patient could reach another patient's term.

    Batch and running statistics, randomness inside `forward`, recurrent state. A loss over a batch
    (InfoNCE, VICReg, Barlow twins) cannot be written against `per_patient_gradients` at all.

    Raises:
        OurMistake: such a layer is there (dropout with probability 0 is let through).
    """
    for name, layer in module.named_modules():
        if isinstance(layer, nn.modules.dropout._DropoutNd) and layer.p == 0.0:
            continue
        if isinstance(layer, _COUPLING):
            raise OurMistake(
                f"Layer {name!r} ({type(layer).__name__}) can couple patients.",
                do="Use LayerNorm, and draw random choices outside the model.",
            )


def per_patient_gradients(
    loss: nn.Module, parameters: Mapping[str, Tensor], batch: Sequence[Tensor]
) -> dict[str, Tensor]:
    """Gradient of the loss of every patient by itself.

    One thread at a time for one `loss`, or for two that share a model: torch's `functional_call`
    puts the given tensors into the module while it runs.

    Args:
        loss: `loss(*tensors_of_one_patient)` is a scalar; its own parameters are replaced by
            `parameters` where named there and held constant elsewhere.
        parameters: the trainable ones, by their names in `loss`.
        batch: tensors with the patient as axis 0.

    Returns:
        Gradients by name, each (patient, *shape of the parameter).

    Raises:
        OurMistake: a Linear or LayerNorm layer's trained tensor is used outside of it as well, or
            the loss is not one number.
        RuntimeError: from torch, if `forward` draws random numbers.
    """
    held = {name: value.detach() for name, value in loss.named_parameters()}
    held |= {name: value.detach() for name, value in loss.named_buffers()}

    with torch.autocast(batch[0].device.type, enabled=False):  # whatever the caller does
        if taps.tappable(loss, list(parameters)):
            return taps.gradients(loss, held, parameters, batch)
        return _by_transforms(loss, held, parameters, batch)


def _by_transforms(
    loss: nn.Module,
    held: Mapping[str, Tensor],
    parameters: Mapping[str, Tensor],
    batch: Sequence[Tensor],
) -> dict[str, Tensor]:
    """`vmap(grad(loss))` of torch.func: for any layer; keeps every activation to the end."""

    def one_patient(chosen: dict[str, Tensor], *tensors: Tensor) -> Tensor:
        result = functional_call(loss, {**held, **chosen}, tensors)
        return torch.as_tensor(result)

    each = vmap(grad(one_patient), in_dims=(None, *(0 for _ in batch)))
    gradients: dict[str, Tensor] = each(
        {name: value.detach() for name, value in parameters.items()}, *batch
    )
    return gradients


def clip_and_sum(
    gradients: Mapping[str, Tensor], clipping_norm: float, keep: Tensor | None = None
) -> np.ndarray:
    """Sum over patients of gradients that were clipped as one vector each.

    L2 norm of each patient's contribution <= clipping_norm (1 - CLIPPING_MARGIN); a zero gradient
    stays zero; a patient with any non-finite entry contributes zero; so does one with `keep` false.
    Norms, scales and the sum are in float64.

    Args:
        gradients: by name, each (patient, ...).
        keep: (patient,) bool; which rows are patients and not padding.

    Returns:
        float64 (d,), the names in sorted order, each flattened.
    """
    names = sorted(gradients)
    norms = torch.stack(
        [
            torch.linalg.vector_norm(gradients[name].flatten(1), dim=1, dtype=torch.float64)
            for name in names
        ]
    )  # (name, patient)
    norm = torch.linalg.vector_norm(norms, dim=0)  # (patient,)
    bound = clipping_norm * (1.0 - CLIPPING_MARGIN)
    scale = torch.clamp(bound / torch.clamp(norm, min=torch.finfo(torch.float64).tiny), max=1.0)
    good = torch.isfinite(norm)
    if keep is not None:
        good = good & keep.to(good.device)
    scale = torch.where(good, scale, torch.zeros_like(scale))
    all_good = bool(good.all())
    parts = []
    for name in names:
        rows = gradients[name].flatten(1).double()  # (patient, size)
        if not all_good:  # 0 * inf would be NaN; of good rows, not a bit changes
            rows = torch.where(good[:, None], rows, 0.0)
        parts.append(scale @ rows)
    return torch.cat(parts).cpu().numpy()


def clipped_sum(
    loss: nn.Module,
    parameters: Mapping[str, Tensor],
    batch: Sequence[Tensor],
    clipping_norm: float,
    *,
    chunk: int = 16,
) -> np.ndarray:
    """`clip_and_sum(per_patient_gradients(...))` in chunks of patients, memory bounded.

    L2 sensitivity to adding or removing one patient <= clipping_norm. The last chunk is padded to
    full size with a repeated patient that counts nothing, so that rounding inside the matrix
    products does not depend on how many patients there are. No patient: zero.

    Returns:
        float64 (d,) as `clip_and_sum`.
    """
    total = np.zeros(sum(value.numel() for value in parameters.values()), dtype=np.float64)
    count = batch[0].shape[0]
    for start in range(0, count, chunk):
        rows = torch.arange(start, start + chunk)
        keep = rows < count
        rows = rows.clamp(max=count - 1)
        gradients = per_patient_gradients(loss, parameters, [value[rows] for value in batch])
        total += clip_and_sum(gradients, clipping_norm, keep)
    return total


def noisy_mean(
    total: np.ndarray, plan: PrivacyPlan, declared_patients: int, noise: NoiseSource
) -> np.ndarray:
    """(clipped sum + N(0, (sigma C)^2)) / (q N): the only thing of a step that may be looked at.

    N is the declared number of patients, a public constant, never the number sampled or
    catalogued. An empty sample (total zero) gives pure noise.

    Guarantee: the Gaussian mechanism with noise multiplier sigma, up to a total variation of
    sqrt(d) 2e-25 (`shared_model.noise`), in spite of computing with float64. The sum is rounded to
    the noise's public grid, which moves its sensitivity by at most sqrt(d) grid <=
    ROUNDING_MARGIN C, so that it stays below C; the noise is a whole number of grid steps; float64
    gives the nearest number to the exact sum of both, a function of that sum; division and the
    rounding to float32 are functions of it, too: post-processing.

    Args:
        total: float64 (d,) from `clipped_sum`, L2 sensitivity <= plan.clipping_norm.

    Returns:
        float32 (d,).

    Raises:
        OurMistake: the declared number is below 1, the clipping norm below 1e-6, the sum is not
            finite float64, or it has too many coordinates for such large noise.
    """
    if declared_patients < 1:
        raise OurMistake("The declared number of patients must be at least 1.")
    if plan.clipping_norm < SMALLEST_CLIPPING_NORM:
        raise OurMistake("The clipping norm is too small for safe noise arithmetic.")
    if total.dtype != np.float64 or not np.isfinite(total).all():
        raise OurMistake("A clipped sum must be finite float64.")
    std = plan.noise_multiplier * plan.clipping_norm
    step = grid(std)
    if math.sqrt(total.size) * step > ROUNDING_MARGIN * plan.clipping_norm:
        raise OurMistake(
            "With this noise multiplier the noise's grid is too coarse for so many parameters.",
            do="Lower the noise multiplier or train fewer parameters.",
        )
    drawn = noise.normal(total.size, std)
    mean = np.empty(total.size, dtype=np.float32)
    divisor = plan.sample_rate * declared_patients
    for start in range(0, total.size, _CHUNK):
        part = slice(start, start + _CHUNK)
        mean[part] = (np.rint(total[part] / step) * step + drawn[part]) / divisor
    return mean


def split(flat: np.ndarray, parameters: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """Undo the flattening of `clip_and_sum`: (d,) to arrays by name."""
    parts: dict[str, np.ndarray] = {}
    start = 0
    for name in sorted(parameters):
        shape = tuple(parameters[name].shape)
        size = math.prod(shape)
        parts[name] = flat[start : start + size].reshape(shape)
        start += size
    return parts


def measured_sensitivity(
    summed: Callable[[Sequence[Any]], np.ndarray], batch: Sequence[Any], clipping_norm: float
) -> float:
    """Largest change of the clipped sum over C when one patient of the batch is taken out.

    A sound mechanism stays at or below 1 on every batch; a batch contrast goes far above on an
    adversarial one. A test, not a proof: it says something about this batch only.

    Args:
        summed: clipped sum of the patients whose tensors are given (axis 0 is the patient).
    """
    whole = summed(batch)
    worst = 0.0
    for left_out in range(len(batch[0])):
        rows = [i for i in range(len(batch[0])) if i != left_out]
        less = summed([value[rows] for value in batch])
        worst = max(worst, float(np.linalg.norm(whole - less)) / clipping_norm)
    return worst
