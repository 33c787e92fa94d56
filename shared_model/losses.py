"""The unit loss: a function of one patient's data, the weights and public patch masks only.

    masked reconstruction under complementary patch masks
    + cross_modal_weight x reconstruction of one modality from the other alone, both ways,
      up to one delay per window
    + alignment_weight x (1 - cosine) of the ECG-only and the PPG-only fingerprint
    + contrast_weight x InfoNCE among the patient's own segments (0 unless asked for)

Targets are the samples of the window as they are: windows are z-scored per channel, so predicting
the window mean costs 1. Nothing is normalised over windows or patients.

The delay from heart to finger is not in the signal: it holds the monitor's own, hundreds of
milliseconds that differ from site to site. A least-squares guess of a narrow QRS at an unknown
place is flat. So a modality made from the other alone is compared at the one shift of the whole
window, at most `DELAY_SAMPLES` either way, at which the two are most alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from shared_model.config import LocalTraining
from shared_model.mae import ECG, PPG, Views
from shared_model.patches import VISIBLE_TOKENS

Forward = Callable[[Tensor, Tensor, Tensor], Views]
"""`MaskedAutoencoder.forward`, or anything that stands for it (GradSampleModule ...)."""

CONTRAST_TEMPERATURE = 0.1
DELAY_SAMPLES = 30
"""Largest shift of a window made from the other modality, either way: 0.24 s at 125 Hz."""


@dataclass(frozen=True)
class Terms:
    """The terms of the unit loss, each (patient,), unweighted."""

    masked: Tensor
    cross_modal: Tensor
    alignment: Tensor
    contrast: Tensor

    def total(self, training: LocalTraining) -> Tensor:
        """(patient,)."""
        return (
            self.masked
            + training.cross_modal_weight * self.cross_modal
            + training.alignment_weight * self.alignment
            + training.contrast_weight * self.contrast
        )


def unit_loss(
    model: Forward, patches: Tensor, valid: Tensor, hidden: Tensor, training: LocalTraining
) -> Tensor:
    """Loss of one patient, averaged over K segments and A patch masks.

    Args:
        patches: (segment, channel=2, token=50, patch_sample=25).
        valid: bool (segment, channel, token).
        hidden: bool (mask, segment, channel, token), from `draw_patch_masks`.

    Returns:
        Scalar. A term for which the patient has no data (one modality absent) is 0 and has
        gradient 0; so is the loss of a patient without a valid token. Works under vmap and grad.
    """
    return patient_losses(model, patches[None], valid[None], hidden[None], training)[0]


def patient_losses(
    model: Forward, patches: Tensor, valid: Tensor, hidden: Tensor, training: LocalTraining
) -> Tensor:
    """`unit_loss` of several patients in one pass: axis 0 is the patient everywhere.

    Returns:
        (patient,). Entry i depends on patient i alone.
    """
    views = model(patches, valid, hidden.movedim(1, 2))  # masks after segments
    return terms(views, patches, valid).total(training)


def terms(views: Views, patches: Tensor, valid: Tensor) -> Terms:
    """Terms of each patient from one training pass over (patient, segment, ...)."""
    zero = torch.zeros((), dtype=patches.dtype)
    masked_error, masked_count, cross_error, cross_count = zero, zero, zero, zero
    for channel in (ECG, PPG):
        predicted = views.predicted[channel]  # (patient, segment, query, sample)
        target = torch.take_along_dim(
            patches[..., channel, :, :], views.places[channel][..., None], dim=-2
        )
        weight = views.counted[channel].to(predicted.dtype)  # (patient, segment, query)
        cut = weight.shape[-1] - valid.shape[-1]  # 25 A queries of patch masks come first
        error = (predicted[..., :cut, :] - target[..., :cut, :]).square().mean(-1)
        masked_error = masked_error + (weight[..., :cut] * error).sum((-2, -1))
        masked_count = masked_count + weight[..., :cut].sum((-2, -1))
        whole = predicted[..., cut:, :], target[..., cut:, :], weight[..., cut:]
        error, count = _up_to_a_delay(*whole)
        cross_error = cross_error + error.sum(-1)
        cross_count = cross_count + count.sum(-1)
    ecg, ppg = views.fingerprint[..., -2, :], views.fingerprint[..., -1, :]
    both = valid.any(-1).all(-1).to(ecg.dtype)  # (patient, segment): both modalities present
    return Terms(
        masked=_mean(masked_error, masked_count),
        cross_modal=_mean(cross_error, cross_count),
        alignment=_mean((both * _alignment(ecg, ppg)).sum(-1), both.sum(-1)),
        contrast=contrast(ecg, ppg, both),
    )


def _up_to_a_delay(predicted: Tensor, target: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Squared error of whole windows at the shift at which prediction and target correlate most.

    Args:
        predicted, target: (..., token=50, patch_sample=25), tokens in order.
        weight: (..., token), 1.0 where the token counts.

    Returns:
        (...): the sum over the counted samples that have a partner, in tokens, and their number.
        No shift beats none when all are alike, as for a prediction of zero.
    """
    size = predicted.shape[-1]
    known = weight[..., None].expand(predicted.shape).flatten(-2)  # (..., sample=1250)
    made, truth = predicted.flatten(-2) * known, target.flatten(-2) * known
    order = sorted(range(-DELAY_SAMPLES, DELAY_SAMPLES + 1), key=abs)
    apart = torch.tensor(order, device=made.device) + DELAY_SAMPLES  # (shift,)
    near = F.pad(truth, (DELAY_SAMPLES, DELAY_SAMPLES)).unfold(-1, made.shape[-1], 1)
    alike = (near.detach() @ made.detach()[..., None]).squeeze(-1)  # (..., shift)
    best = apart[alike[..., apart].argmax(-1)]  # the first of equals is the smallest shift
    place = best[..., None] + torch.arange(made.shape[-1], device=made.device)  # (..., sample)
    moved = torch.take_along_dim(F.pad(truth, (DELAY_SAMPLES, DELAY_SAMPLES)), place, dim=-1)
    partner = torch.take_along_dim(F.pad(known, (DELAY_SAMPLES, DELAY_SAMPLES)), place, dim=-1)
    counted = known * partner
    return (counted * (made - moved).square()).sum(-1) / size, counted.sum(-1) / size


def _mean(total: Tensor | float, count: Tensor | float) -> Tensor:
    return torch.as_tensor(total) / torch.as_tensor(count).clamp(min=1.0)


def _alignment(ecg: Tensor, ppg: Tensor) -> Tensor:
    """1 - cosine, each side in turn held still: the value of one, the gradient of half of each."""
    toward_ppg = (ecg * ppg.detach()).sum(-1)
    toward_ecg = (ecg.detach() * ppg).sum(-1)
    return 1.0 - 0.5 * (toward_ppg + toward_ecg)


def contrast(ecg: Tensor, ppg: Tensor, both: Tensor) -> Tensor:
    """InfoNCE (1807.03748) in the patient: its own other segments are the only negatives.

    Args:
        ecg, ppg: (patient, segment, 128) unit norm.
        both: (patient, segment), 1.0 where both modalities are there.

    Returns:
        (patient,); 0 with fewer than two such segments.
    """
    logits = ecg @ ppg.transpose(-1, -2) / CONTRAST_TEMPERATURE  # (patient, segment, segment)
    pair = both[..., :, None] * both[..., None, :]
    logits = logits + (pair - 1.0) * 1e4
    right = torch.diagonal(logits, dim1=-2, dim2=-1)
    lost = 0.5 * (torch.logsumexp(logits, -1) + torch.logsumexp(logits, -2)) - right
    enough = (both.sum(-1) >= 2.0).to(ecg.dtype)
    return enough * _mean((both * lost).sum(-1), both.sum(-1))


def masked_queries(masks: int) -> int:
    """Queries of a decoder that belong to patch masks; the rest are of the whole modality."""
    return masks * VISIBLE_TOKENS
