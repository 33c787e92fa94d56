"""Other designs of the model, for ablations only: what `shared_model.mae` decides by a constant.

The product has one design, so its model has no switches. Here an ablation, in its own process,
puts other values in the constants' place while it trains and scores a model, and puts them back.
No file of weights, no round and no fingerprint is ever made of such a model.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from shared_model.config import (
    CHANNELS,
    FINGERPRINT_SIZE,
    PATCH_SAMPLES,
    WINDOW_SAMPLES,
    ModelConfig,
)
from shared_model.errors import OurMistake

if TYPE_CHECKING:
    from torch import Tensor

Positions = Literal["both", "sines", "slopes"]
Pooling = Literal["mean", "max"]
_BLOCKS = ("encoder_blocks", "bottleneck_blocks", "decoder_blocks")
SIZES = (*_BLOCKS, "decoder_width")
"""Fields of a `ModelConfig` that a design changes."""
MOST_BLOCKS = 64
WIDEST = 4096
MOST_PARAMETERS = 50_000_000
"""Of a model that an ablation trains; `base` has 9.8 million."""


@dataclass(frozen=True)
class Design:
    """encoder_blocks ... decoder_width: of `ModelConfig`; 0 is the preset's own.

    positions: what tells tokens where they are. "both": sine positions at the input and attention
        that falls with distance (ours); or one of the two alone ("slopes": in the encoders and the
        bottleneck; decoders keep their sines, or a query would not know what is asked).
    pooling: of the token outputs, over valid tokens.
    patch_samples: length of a token at 125 Hz. Halves are complementary, so that the number of
        tokens has to be even: 5, 25 (ours), 125 or 625.
    """

    encoder_blocks: int = 0
    bottleneck_blocks: int = 0
    decoder_blocks: int = 0
    decoder_width: int = 0
    positions: Positions = "both"
    pooling: Pooling = "mean"
    patch_samples: int = PATCH_SAMPLES

    def __post_init__(self) -> None:
        wrong = ""
        if min(getattr(self, name) for name in SIZES) < 0:
            wrong = "blocks and widths are not below 0"
        elif max(getattr(self, name) for name in _BLOCKS) > MOST_BLOCKS:
            wrong = f"blocks are at most {MOST_BLOCKS}"
        elif self.decoder_width > WIDEST:
            wrong = f"decoder_width is at most {WIDEST}"
        elif self.decoder_width % 8:
            wrong = "decoder_width must be a multiple of 8"
        elif self.positions not in get_args(Positions):
            wrong = f"positions is one of {', '.join(get_args(Positions))}"
        elif self.pooling not in get_args(Pooling):
            wrong = f"pooling is one of {', '.join(get_args(Pooling))}"
        elif self.patch_samples < 2 or WINDOW_SAMPLES % (2 * self.patch_samples):
            wrong = "patch_samples must cut a window into an even number of tokens: 5, 25, 125, 625"
        if wrong:
            raise OurMistake(f"The design cannot be trained: {wrong}.")

    def config(self, preset: ModelConfig) -> ModelConfig:
        """The preset with other blocks and widths."""
        return replace(preset, **{k: getattr(self, k) for k in SIZES if getattr(self, k)})

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def parameters_of(design: Design, preset: ModelConfig) -> int:
    """How many parameters its model has, counted as `shared_model.mae` makes it; none is made.

    Raises:
        OurMistake: too many to train.
    """
    config = design.config(preset)
    width, narrow, patch = config.width, config.decoder_width, design.patch_samples

    def linear(inside: int, outside: int) -> int:
        return (inside + 1) * outside

    def block(size: int) -> int:
        inner = int(size * config.mlp_ratio)
        return 4 * linear(size, size) + linear(size, inner) + linear(inner, size) + 4 * size

    encoder = linear(patch, width) + config.encoder_blocks * block(width) + width
    bottleneck = config.bottleneck_blocks * block(width)
    head = 2 * width + linear(width, FINGERPRINT_SIZE)
    decoder = linear(FINGERPRINT_SIZE, narrow) + config.decoder_blocks * block(narrow)
    decoder += linear(narrow, patch) + 5 * narrow  # two norms and the mask token
    count = len(CHANNELS) * (encoder + decoder) + bottleneck + head
    if count > MOST_PARAMETERS:
        raise OurMistake(
            f"The design cannot be trained: it has {count:,} parameters, and an ablation's has at "
            f"most {MOST_PARAMETERS:,}."
        )
    return count


def regrouped(valid: npt.NDArray[np.bool_], patch_samples: int) -> npt.NDArray[np.bool_]:
    """Which tokens of another length are valid: those without an invalid sample.

    Args:
        valid: (..., token=50).

    Returns:
        (..., token'), as many as a window has.
    """
    if patch_samples == PATCH_SAMPLES:
        return valid
    samples = np.repeat(valid, PATCH_SAMPLES, axis=-1)
    return np.asarray(samples.reshape((*valid.shape[:-1], -1, patch_samples)).all(axis=-1))


@contextmanager
def in_force(design: Design) -> Iterator[None]:
    """Models that are built in this block, and what trains and scores them, are of this design."""
    from shared_model import fingerprint, losses, mae, mae_layers, patches
    from simulations import cross_modal

    tokens = WINDOW_SAMPLES // design.patch_samples
    longer = design.patch_samples / PATCH_SAMPLES
    slopes = tuple(slope * longer for slope in mae_layers.SLOPES)  # per second as before
    span = max(2, round(patches.LONGEST_SPAN / longer))
    with ExitStack() as stack:

        def put(module: ModuleType, **values: Any) -> None:
            for name, value in values.items():
                stack.callback(setattr, module, name, getattr(module, name))
                setattr(module, name, value)

        if design.patch_samples != PATCH_SAMPLES:
            half = {"TOKENS": tokens, "VISIBLE_TOKENS": tokens // 2}
            put(patches, PATCH_SAMPLES=design.patch_samples, LONGEST_SPAN=span, **half)
            put(mae, PATCH_SAMPLES=design.patch_samples, **half)
            put(mae_layers, SLOPES=slopes, TOKENS=tokens)
            put(mae, FINGERPRINT_FAR=mae.FINGERPRINT_FAR / longer)
            put(losses, VISIBLE_TOKENS=tokens // 2)
            put(fingerprint, TOKENS=tokens)
            put(cross_modal, TOKENS=tokens)
        if design.positions == "sines":
            put(mae_layers, SLOPES=(0.0,))
        if design.positions == "slopes":
            sines = mae_layers.sine_positions

            def decoders_only(width: int, kinds: int = 0) -> Tensor:
                made = sines(width, kinds)
                return made if kinds else made * 0.0

            put(mae, sine_positions=decoders_only)
        if design.pooling == "max":
            put(mae, pool=_largest)
        yield


def _largest(outputs: Tensor, keys: Tensor) -> Tensor:
    """As `shared_model.mae_layers.pool`, with the largest in place of the mean."""
    import torch

    seen = torch.where(keys[..., None], outputs, torch.full_like(outputs, -1e4)).amax(-2)
    largest = seen * keys.any(-1, keepdim=True)
    return largest * torch.rsqrt((largest * largest).sum(-1, keepdim=True) + 1e-12)
