"""The unit loss: a function of one patient's data, the weights and public patch masks only.

    masked reconstruction under complementary patch masks
    + cross_modal_weight x reconstruction of one modality from the other alone, both ways
    + alignment_weight x (1 - cosine) of the ECG-only and the PPG-only fingerprint
    + contrast_weight x InfoNCE among the patient's own segments (0 unless asked for)

Targets are the samples of the window as they are: windows are z-scored per channel, so predicting
the window mean costs 1. Nothing is normalised over windows or patients.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from shared_model.config import LocalTraining
from shared_model.mae import ECG, PPG, Views
from shared_model.patches import VISIBLE_TOKENS

Forward = Callable[[Tensor, Tensor, Tensor], Views]
"""`MaskedAutoencoder.forward`, or anything that stands for it (GradSampleModule ...)."""

CONTRAST_TEMPERATURE = 0.1


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
        error = weight * (predicted - target).square().mean(-1)
        cut = error.shape[-1] - valid.shape[-1]  # 25 A queries of patch masks come first
        masked_error = masked_error + error[..., :cut].sum((-2, -1))
        masked_count = masked_count + weight[..., :cut].sum((-2, -1))
        cross_error = cross_error + error[..., cut:].sum((-2, -1))
        cross_count = cross_count + weight[..., cut:].sum((-2, -1))
    ecg, ppg = views.fingerprint[..., -2, :], views.fingerprint[..., -1, :]
    both = valid.any(-1).all(-1).to(ecg.dtype)  # (patient, segment): both modalities present
    return Terms(
        masked=_mean(masked_error, masked_count),
        cross_modal=_mean(cross_error, cross_count),
        alignment=_mean((both * _alignment(ecg, ppg)).sum(-1), both.sum(-1)),
        contrast=_contrast(ecg, ppg, both),
    )


def _mean(total: Tensor | float, count: Tensor | float) -> Tensor:
    return torch.as_tensor(total) / torch.as_tensor(count).clamp(min=1.0)


def _alignment(ecg: Tensor, ppg: Tensor) -> Tensor:
    """1 - cosine, each side in turn held still: the value of one, the gradient of half of each."""
    toward_ppg = (ecg * ppg.detach()).sum(-1)
    toward_ecg = (ecg.detach() * ppg).sum(-1)
    return 1.0 - 0.5 * (toward_ppg + toward_ecg)


def _contrast(ecg: Tensor, ppg: Tensor, both: Tensor) -> Tensor:
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
