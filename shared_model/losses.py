"""The unit loss: one patient, K segments, A patch masks. No term sees another patient.

    masked reconstruction of both sensors under complementary patch masks
  + cross_modal_weight x reconstruction of each sensor from the other alone
  + alignment_weight x (1 - cos(ECG-only, PPG-only fingerprint)), gradients into one side in turn

Targets are the z-scored windows themselves. Errors are averaged over hidden, valid samples of a
segment and then over the patient's usable segments; a patient without any gives exactly zero.
"""

from __future__ import annotations

import torch
from torch import Tensor

from shared_model.config import TOKENS, LocalTraining
from shared_model.mae import MaskedAutoencoder, all_tokens, pool
from shared_model.patches import HIDDEN_TOKENS

ECG, PPG = 0, 1


def unit_loss(
    model: MaskedAutoencoder,
    patches: Tensor,
    valid: Tensor,
    hidden: Tensor,
    training: LocalTraining,
) -> Tensor:
    """Loss of one patient.

    Args:
        patches: (segment, channel, token, patch_sample).
        valid: bool (segment, channel, token).
        hidden: bool (mask, segment, channel, token), complementary patch masks.

    Returns:
        Scalar; zero with zero gradient where nothing is valid.
    """
    masks, segments = hidden.shape[:2]
    many = patches.repeat(masks, 1, 1, 1)  # (mask * segment, channel, token, patch_sample)
    known = valid.repeat(masks, 1, 1)
    away = hidden.reshape(masks * segments, *hidden.shape[2:])
    loss = masked_loss(model, many, known, away)
    if training.cross_modal_weight > 0 or training.alignment_weight > 0:
        cross, apart = single_sensor_losses(model, patches, valid)
        loss = loss + training.cross_modal_weight * cross + training.alignment_weight * apart
    return loss


def masked_loss(model: MaskedAutoencoder, patches: Tensor, valid: Tensor, hidden: Tensor) -> Tensor:
    """Mean squared error over hidden valid tokens, mean over windows: scalar."""
    error, weight = masked_errors(model, patches, valid, hidden)
    return mean_of_windows(error, weight)


def masked_errors(
    model: MaskedAutoencoder, patches: Tensor, valid: Tensor, hidden: Tensor
) -> tuple[Tensor, Tensor]:
    """Squared error per token (n, channel, token) and which tokens count (hidden and valid)."""
    order = torch.argsort(hidden.to(torch.uint8), dim=-1, stable=True)
    index = order[..., : TOKENS - HIDDEN_TOKENS]  # (n, channel, kept)
    visible = (index[:, ECG], index[:, PPG])
    tokens, known = model.encode(patches, valid, visible)
    made = torch.stack(model.decode(tokens, known, visible, (ECG, PPG)), dim=1)
    return ((made - patches) ** 2).mean(dim=-1), (hidden & valid).to(patches.dtype)


def single_sensor_losses(
    model: MaskedAutoencoder, patches: Tensor, valid: Tensor
) -> tuple[Tensor, Tensor]:
    """Cross-modal reconstruction error and 1 - cosine of the two single-sensor fingerprints.

    Only segments in which both sensors are valid somewhere count.
    """
    (ppg_made, from_ecg), (ecg_made, from_ppg) = single_sensor(model, patches, valid)
    both = (valid[:, ECG].any(-1) & valid[:, PPG].any(-1)).to(patches.dtype)  # (n,)
    cross = torch.zeros((), dtype=patches.dtype)
    for made, channel in ((ppg_made, PPG), (ecg_made, ECG)):
        error = ((made - patches[:, channel]) ** 2).mean(dim=-1)
        weight = valid[:, channel].to(patches.dtype) * both[:, None]
        cross = cross + 0.5 * mean_of_windows(error[:, None], weight[:, None])
    forth = 1.0 - (from_ecg * from_ppg.detach()).sum(-1)
    back = 1.0 - (from_ecg.detach() * from_ppg).sum(-1)
    apart = (0.5 * (forth + back) * both).sum() / both.sum().clamp(min=1.0)
    return cross, apart


def single_sensor(
    model: MaskedAutoencoder, patches: Tensor, valid: Tensor
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """From one sensor alone: (PPG made of the ECG, ECG-only fingerprint) and the reverse."""
    n = patches.shape[0]
    out = []
    for seen, wanted in ((ECG, PPG), (PPG, ECG)):
        index = all_tokens(n)
        visible = (index, None) if seen == ECG else (None, index)
        tokens, known = model.encode(patches, valid, visible)
        made = model.decode(tokens, known, visible, (wanted,))[0]
        out.append((made, pool(tokens, known)))
    return out[0], out[1]


def mean_of_windows(error: Tensor, weight: Tensor) -> Tensor:
    """error, weight (n, channel, token): weighted mean in each window, then over usable windows."""
    total = weight.sum(dim=(1, 2))
    per_window = (error * weight).sum(dim=(1, 2)) / total.clamp(min=1.0)
    usable = (total > 0).to(error.dtype)
    return (per_window * usable).sum() / usable.sum().clamp(min=1.0)
