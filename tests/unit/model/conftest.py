"""A small model and made-up windows; no test of the model needs a recording."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from shared_model import mae, patches
from shared_model.config import ModelConfig

SMALL = ModelConfig(
    preset="test", width=16, heads=2, encoder_blocks=1, bottleneck_blocks=1,
    decoder_width=16, decoder_blocks=1, mlp_ratio=2.0,
)  # fmt: skip


@pytest.fixture
def model() -> mae.MaskedAutoencoder:
    """The smallest model of the same structure, moved off its initial values: a new model predicts
    zero whatever it sees, and a test on zeros would show nothing."""
    torch.set_num_threads(1)
    made = mae.build(SMALL, seed=3)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for value in made.parameters():
            value.add_(0.1 * torch.randn(value.shape, generator=generator))
    return made


def _batch(
    patients: int = 6, segments: int = 2, masks: int = 2, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Patches, valid, hidden of patients with every kind of absence among them.

    Patient 1 has no ECG, 2 no PPG, 3 nothing at all, 4 2 s of PPG in its first segment.
    """
    rng = np.random.default_rng(seed)
    signal = rng.standard_normal((patients, segments, 2, 1250)).astype(np.float32)
    valid = np.ones((patients, segments, 2, 50), dtype=bool)
    for patient, kill in enumerate(
        ((), (slice(None), 0), (slice(None), 1), (slice(None),), (0, 1, slice(10, None)))
    ):
        if kill and patient < patients:
            valid[(patient, *kill)] = False
    signal *= np.repeat(valid, 25, axis=-1)
    hidden = mae.draw_patch_masks(rng, (patients, masks, segments))
    return (
        patches.fold(torch.from_numpy(signal)),
        torch.from_numpy(valid),
        torch.from_numpy(hidden),
    )


Batch = Callable[..., tuple[Tensor, Tensor, Tensor]]


@pytest.fixture
def batch() -> Batch:
    """Makes patches, valid, hidden; see `_batch`."""
    return _batch
