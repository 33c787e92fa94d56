"""Windows as patches, and the patch masks that hide some of them."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from torch import Tensor

from shared_model.config import CHANNELS, PATCH_SAMPLES, TOKENS, WINDOW_SAMPLES
from shared_model.errors import OurMistake

Array = TypeVar("Array", np.ndarray, Tensor)

VISIBLE_TOKENS = TOKENS // 2
"""Visible tokens of each channel under a patch mask: always exactly half, so shapes are static."""
LONGEST_SPAN = 12
"""Longest run of hidden tokens that the span pattern asks for, 2.4 s: at least one beat inside."""


def fold(signal: Array) -> Array:
    """(..., sample=1250) -> (..., token=50, patch_sample=25). Works on NumPy arrays and tensors.

    Raises:
        OurMistake: the last axis is not one window.
    """
    if signal.shape[-1] != WINDOW_SAMPLES:
        raise OurMistake(f"A window has {WINDOW_SAMPLES} samples.")
    return signal.reshape((*signal.shape[:-1], TOKENS, PATCH_SAMPLES))


def unfold(patches: Array) -> Array:
    """(..., token=50, patch_sample=25) -> (..., sample=1250). Undoes `fold`.

    Raises:
        OurMistake: the last two axes are not the patches of one window.
    """
    if tuple(patches.shape[-2:]) != (TOKENS, PATCH_SAMPLES):
        raise OurMistake(f"A window has {TOKENS} patches of {PATCH_SAMPLES} samples.")
    return patches.reshape((*patches.shape[:-2], WINDOW_SAMPLES))


def draw_patch_masks(
    rng: np.random.Generator, shape: tuple[int, ...], *, span_share: float = 0.5
) -> np.ndarray:
    """Complementary patch masks: what is hidden in one channel is visible in the other.

    Half of the masks hide single tokens at random, half hide spans of 2 to 12 tokens. Each hides
    exactly 25 of 50 tokens of each channel. Drawn from `rng` alone, never from data.

    Args:
        shape: leading axes of the result.
        span_share: expected share of masks that hide spans.

    Returns:
        hidden bool (*shape, channel=2, token=50), True where the model must not look.
    """
    count = int(np.prod(shape, dtype=np.int64))
    ranks = np.where(
        rng.random((count, 1)) < 1.0 - span_share,
        rng.random((count, TOKENS)),
        _span_scores(rng, count),
    )
    order = np.argsort(ranks, axis=-1)
    ecg = np.zeros((count, TOKENS), dtype=bool)
    np.put_along_axis(ecg, order[:, :VISIBLE_TOKENS], True, axis=-1)
    hidden = np.stack([ecg, ~ecg], axis=1)  # (mask, channel, token)
    return hidden.reshape((*shape, len(CHANNELS), TOKENS))


def _span_scores(rng: np.random.Generator, count: int) -> np.ndarray:
    """(count, token): scores equal along spans of random length, so that the lowest half is runs.

    A little slope breaks ties so that the span cut by the half is cut in one place.
    """
    length = rng.integers(2, LONGEST_SPAN + 1, size=(count, 1))
    offset = rng.integers(0, LONGEST_SPAN, size=(count, 1))
    span = (np.arange(TOKENS) + offset) // length  # (count, token)
    scores = np.take_along_axis(rng.random((count, TOKENS)), span, axis=1)
    return np.asarray(scores + np.arange(TOKENS) * 1e-9)
