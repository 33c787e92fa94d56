"""Windows to patches and back, and the patch masks of the autoencoder."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from shared_model.config import PATCH_SAMPLES, TOKENS

HIDDEN_TOKENS = TOKENS // 2
"""Hidden tokens per channel in every complementary patch mask."""
SPANS = (1, 2, 5, 10)
"""Lengths of hidden spans in tokens (0.2 to 2 s): short ones alone can be interpolated."""


def fold(window: Tensor) -> Tensor:
    """(..., sample) -> (..., token, patch_sample)."""
    return window.reshape(*window.shape[:-1], TOKENS, PATCH_SAMPLES)


def unfold(patches: Tensor) -> Tensor:
    """(..., token, patch_sample) -> (..., sample)."""
    return patches.reshape(*patches.shape[:-2], TOKENS * PATCH_SAMPLES)


def draw_patch_masks(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Complementary patch masks: what is hidden in one channel is visible in the other.

    Spans of random length are hidden until exactly half of the ECG's tokens are; the PPG hides the
    other half. Drawn without looking at any data.

    Returns:
        bool (*shape, channel=2, token=50), True = hidden.
    """
    count = int(np.prod(shape))
    span = rng.choice(SPANS, size=(count, 1))
    offset = rng.integers(0, TOKENS, size=(count, 1))
    block = (np.arange(TOKENS)[None, :] + offset) // span  # (mask, token): which span
    score = rng.random((count, TOKENS + 1))
    keyed = np.take_along_axis(score, block % (TOKENS + 1), axis=1)
    keyed = keyed + 1e-6 * rng.random((count, TOKENS))
    order = np.argsort(keyed, axis=1)
    hidden = np.zeros((count, TOKENS), dtype=bool)
    np.put_along_axis(hidden, order[:, :HIDDEN_TOKENS], True, axis=1)
    pair = np.stack([hidden, ~hidden], axis=1)  # (mask, channel, token)
    return pair.reshape(*shape, 2, TOKENS)
