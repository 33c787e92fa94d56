"""How well a model reconstructs windows, against the trivial predictor (the window's mean)."""

from __future__ import annotations

import numpy as np
import torch

from shared_model.losses import masked_queries
from shared_model.mae import ECG, PPG, MaskedAutoencoder
from shared_model.patches import draw_patch_masks, fold


def reconstruction_scores(
    model: MaskedAutoencoder,
    signal: np.ndarray,
    valid: np.ndarray,
    rng: np.random.Generator,
    *,
    batch_size: int = 128,
) -> dict[str, float]:
    """Squared error over the trivial predictor's, summed over all windows; below 1 beats trivial.

    Trivial predicts the mean of the channel's valid samples in that window (zero after z-scoring).

    Args:
        signal: float32 (window, 2, 1250); valid: bool (window, 2, 50).

    Returns:
        "masked" (hidden halves of both sensors), "cross_modal" (one sensor wholly hidden), and
        both for each sensor: "masked_ecg", "masked_ppg", "ppg_to_ecg", "ecg_to_ppg". NaN where no
        window has what is needed.
    """
    total = np.zeros((2, 2, 2))  # (masked or cross, channel, model or trivial)
    hidden = draw_patch_masks(rng, (len(signal), 1))
    with torch.inference_mode():
        for start in range(0, len(signal), batch_size):
            part = slice(start, start + batch_size)
            patches = fold(torch.from_numpy(np.ascontiguousarray(signal[part], dtype=np.float32)))
            known = torch.from_numpy(np.ascontiguousarray(valid[part]))
            views = model(patches, known, torch.from_numpy(hidden[part]))
            trivial = _trivial(patches, known)  # (window, channel, token)
            for channel in (ECG, PPG):
                place = views.places[channel]  # (window, query)
                target = torch.take_along_dim(patches[:, channel], place[..., None], dim=1)
                error = (views.predicted[channel] - target).square().mean(-1)
                base = torch.take_along_dim(trivial[:, channel], place, dim=1)
                weight = views.counted[channel].to(error.dtype)
                cut = masked_queries(1)
                for which, span in ((0, slice(0, cut)), (1, slice(cut, None))):
                    total[which, channel] += _sums(error[:, span], base[:, span], weight[:, span])
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = total[..., 0] / total[..., 1]
        pooled = total.sum(axis=1)
        overall = pooled[:, 0] / pooled[:, 1]
    return {
        "masked": float(overall[0]),
        "cross_modal": float(overall[1]),
        "masked_ecg": float(ratio[0, ECG]),
        "masked_ppg": float(ratio[0, PPG]),
        "ppg_to_ecg": float(ratio[1, ECG]),
        "ecg_to_ppg": float(ratio[1, PPG]),
    }


def _trivial(patches: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Squared error per token of the mean over the window's valid samples: (n, channel, token)."""
    weight = known.to(patches.dtype)
    mean = (patches.mean(-1) * weight).sum(-1) / weight.sum(-1).clamp(min=1.0)
    return ((patches - mean[..., None, None]) ** 2).mean(-1)


def _sums(error: torch.Tensor, trivial: torch.Tensor, weight: torch.Tensor) -> np.ndarray:
    return np.array([float((error * weight).sum()), float((trivial * weight).sum())])
