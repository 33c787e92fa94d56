"""Patches and patch masks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shared_model.errors import OurMistake
from shared_model.patches import draw_patch_masks, fold, unfold


def test_unfold_undoes_fold_for_arrays_and_tensors() -> None:
    signal = np.random.default_rng(0).standard_normal((3, 2, 1250)).astype(np.float32)
    assert fold(signal).shape == (3, 2, 50, 25)
    assert np.array_equal(unfold(fold(signal)), signal)
    assert torch.equal(unfold(fold(torch.from_numpy(signal))), torch.from_numpy(signal))


def test_a_patch_is_25_samples_that_follow_each_other() -> None:
    assert np.array_equal(fold(np.arange(1250.0))[3], np.arange(75.0, 100.0))


def test_a_signal_of_another_length_is_refused() -> None:
    with pytest.raises(OurMistake):
        fold(np.zeros((2, 1249)))
    with pytest.raises(OurMistake):
        unfold(np.zeros((49, 25)))


@given(seed=st.integers(0, 2**32 - 1), a=st.integers(1, 3), b=st.integers(1, 4))
def test_patch_masks_hide_half_of_each_channel_and_complement_each_other(
    seed: int, a: int, b: int
) -> None:
    hidden = draw_patch_masks(np.random.default_rng(seed), (a, b))
    assert hidden.shape == (a, b, 2, 50)
    assert hidden.dtype == np.bool_
    assert (hidden.sum(axis=-1) == 25).all()
    assert (hidden[..., 0, :] ^ hidden[..., 1, :]).all()


def test_patch_masks_are_a_function_of_the_generator_alone() -> None:
    one, two = (draw_patch_masks(np.random.default_rng(5), (20,)) for _ in range(2))
    other = draw_patch_masks(np.random.default_rng(6), (20,))
    assert np.array_equal(one, two)
    assert not np.array_equal(one, other)


def test_some_patch_masks_hide_spans_and_some_single_tokens() -> None:
    hidden = draw_patch_masks(np.random.default_rng(1), (400,))[:, 0]
    turns = (hidden[:, 1:] != hidden[:, :-1]).sum(axis=1)
    assert 0.3 < (turns <= 18).mean() < 0.7  # single tokens turn about 25 times


def test_no_mask_at_all_is_an_empty_array() -> None:
    assert draw_patch_masks(np.random.default_rng(1), (0, 2)).shape == (0, 2, 2, 50)
