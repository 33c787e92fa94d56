"""How well the masked autoencoder reconstructs what it has not seen, against the trivial answer."""

from __future__ import annotations

import numpy as np
import torch

from shared_model.config import CHANNELS
from shared_model.errors import OurMistake
from shared_model.mae import MaskedAutoencoder
from shared_model.patches import VISIBLE_TOKENS, draw_patch_masks, fold


def reconstruction_scores(
    model: MaskedAutoencoder,
    signal: np.ndarray,
    valid: np.ndarray,
    rng: np.random.Generator,
    *,
    batch_size: int = 128,
) -> dict[str, float]:
    """Mean squared error over that of the trivial predictor, the mean of each window and channel.

    1 is worthless, 0 perfect. `masked`: the hidden half under one complementary patch mask a
    window. `cross_modal`: one modality wholly hidden, answered from the other; windows that have
    both. Each also by modality reconstructed (`masked_ecg`, `cross_modal_ppg` ...). A score
    without a token to score is NaN.

    Args:
        signal: float32 (window, channel=2, sample=1250).
        valid: bool (window, channel=2, token=50).

    Raises:
        OurMistake: there is no window.
    """
    if signal.shape[0] == 0:
        raise OurMistake("There is no window to score.")
    error = np.zeros((2, len(CHANNELS)))  # (masked or cross-modal, channel)
    trivial = np.zeros((2, len(CHANNELS)))
    device = next(model.parameters()).device
    with torch.inference_mode():
        for start in range(0, signal.shape[0], batch_size):
            rows = slice(start, start + batch_size)
            patches = fold(torch.tensor(signal[rows], dtype=torch.float32, device=device))
            ok = torch.tensor(valid[rows], device=device)
            hidden = torch.from_numpy(draw_patch_masks(rng, (len(patches), 1))).to(device)
            views = model(patches, ok, hidden)
            for channel in range(len(CHANNELS)):
                x = patches[:, channel]  # (window, token, sample)
                weight = ok[:, channel].to(x.dtype)[..., None]  # (window, token, 1)
                samples = weight.sum((-1, -2)).clamp(min=1.0) * x.shape[-1]
                mean = (x * weight).sum((-1, -2)) / samples  # (window,)
                place = views.places[channel][..., None]
                target = torch.take_along_dim(x, place, dim=-2)  # (window, query, sample)
                counted = views.counted[channel].to(x.dtype)
                missed = counted * (views.predicted[channel] - target).square().mean(-1)
                lazy = counted * (mean[:, None, None] - target).square().mean(-1)
                for kind, cut in enumerate((slice(VISIBLE_TOKENS), slice(VISIBLE_TOKENS, None))):
                    error[kind, channel] += missed[:, cut].double().sum().item()
                    trivial[kind, channel] += lazy[:, cut].double().sum().item()
    scores: dict[str, float] = {}
    for kind, name in enumerate(("masked", "cross_modal")):
        scores[name] = _ratio(error[kind].sum(), trivial[kind].sum())
        for channel, modality in enumerate(CHANNELS):
            scores[f"{name}_{modality}"] = _ratio(error[kind, channel], trivial[kind, channel])
    return scores


def _ratio(error: float, trivial: float) -> float:
    return float(error / trivial) if trivial > 0.0 else float("nan")
