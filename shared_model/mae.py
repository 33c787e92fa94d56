"""The masked autoencoder of paired ECG and PPG: two encoders, one bottleneck, two decoders.

A transformer in the style of M2AE (2605.09579) and MAE (2111.06377): hidden tokens never enter an
encoder, a narrow decoder fills them in. LayerNorm only; no dropout and no randomness in `forward`,
so that a patient's gradient is a function of that patient's data and of the weights alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shared_model.config import CHANNELS, FINGERPRINT_SIZE, PATCH_SAMPLES, TOKENS, ModelConfig
from shared_model.errors import OurMistake
from shared_model.patches import draw_patch_masks
from shared_model.weights import Weights

__all__ = [
    "PRESETS",
    "MaskedAutoencoder",
    "build",
    "draw_patch_masks",
    "load_weights",
    "trainable_names",
    "weights_of",
]

PRESETS = {
    "tiny": ModelConfig(
        "tiny",
        width=96,
        heads=4,
        encoder_blocks=1,
        bottleneck_blocks=1,
        decoder_width=64,
        decoder_blocks=2,
        mlp_ratio=2.0,
    ),
    "small": ModelConfig(
        "small",
        width=160,
        heads=4,
        encoder_blocks=3,
        bottleneck_blocks=2,
        decoder_width=96,
        decoder_blocks=2,
    ),
    "base": ModelConfig(
        "base",
        width=288,
        heads=8,
        encoder_blocks=4,
        bottleneck_blocks=2,
        decoder_width=160,
        decoder_blocks=4,
    ),
}
BOTTLENECK_HEADS = 4
DECODER_HEADS = 4
FAR = -1e4
"""Added to the attention score of an unknown token; finite, so that no row can become NaN."""


def sin_cos(width: int) -> Tensor:
    """Fixed positions (Vaswani et al. 1706.03762, 3.5): float32 (token, width)."""
    rate = np.exp(-math.log(1000.0) * np.arange(width // 2) / (width // 2))
    angle = np.arange(TOKENS)[:, None] * rate[None, :]
    return torch.from_numpy(np.concatenate([np.sin(angle), np.cos(angle)], axis=1)).float()


class Attention(nn.Module):
    """Multi-head self-attention that gives unknown tokens no weight."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, known: Tensor) -> Tensor:
        """x (n, token, width), known bool (n, token) -> (n, token, width)."""
        n, tokens, width = x.shape
        qkv = self.qkv(x).reshape(n, tokens, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (n, head, token, width / head)
        score = q @ k.transpose(-1, -2) / math.sqrt(width // self.heads)
        score = score + FAR * (~known).to(x.dtype)[:, None, None, :]
        mixed = (torch.softmax(score, dim=-1) @ v).transpose(1, 2)  # (n, token, head, width / head)
        return torch.as_tensor(self.out(mixed.reshape(n, tokens, width)))


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, width: int, heads: int, ratio: float) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm_mlp = nn.LayerNorm(width)
        self.up = nn.Linear(width, int(width * ratio))
        self.down = nn.Linear(int(width * ratio), width)

    def forward(self, x: Tensor, known: Tensor) -> Tensor:
        x = x + self.attention(self.norm_attention(x), known)
        return torch.as_tensor(x + self.down(F.gelu(self.up(self.norm_mlp(x)))))


class Encoder(nn.Module):
    """Visible patches of one sensor to bottleneck-sized tokens."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embed = nn.Linear(PATCH_SAMPLES, config.width)
        self.blocks = nn.ModuleList(
            Block(config.width, config.heads, config.mlp_ratio)
            for _ in range(config.encoder_blocks)
        )
        self.out = nn.Linear(config.width, FINGERPRINT_SIZE)
        self.register_buffer("position", sin_cos(config.width), persistent=False)

    def forward(self, patches: Tensor, known: Tensor, visible: Tensor) -> Tensor:
        """patches (n, token, patch_sample), known and visible index (n, kept) -> (n, kept, 128)."""
        x = self.embed(patches) + self.position
        x = torch.take_along_dim(x, visible[..., None], dim=1)
        for block in self.blocks:
            x = block(x, known)
        return torch.as_tensor(self.out(x))


class Decoder(nn.Module):
    """All tokens of both sensors, hidden ones filled with the mask token, to patches of one."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.decoder_width
        self.blocks = nn.ModuleList(
            Block(width, DECODER_HEADS, config.mlp_ratio) for _ in range(config.decoder_blocks)
        )
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, PATCH_SAMPLES)

    def forward(self, x: Tensor, known: Tensor, channel: int) -> Tensor:
        """x (n, 2 x token, width), known (n, 2 x token) -> (n, token, patch_sample)."""
        for block in self.blocks:
            x = block(x, known)
        own = x[:, channel * TOKENS : (channel + 1) * TOKENS]
        return torch.as_tensor(self.out(self.norm(own)))


class MaskedAutoencoder(nn.Module):
    """See the module. All arguments have windows on axis 0; `n` counts windows, not patients."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        width = config.decoder_width
        self.encoders = nn.ModuleList(Encoder(config) for _ in CHANNELS)
        self.bottleneck = nn.ModuleList(
            Block(FINGERPRINT_SIZE, BOTTLENECK_HEADS, config.mlp_ratio)
            for _ in range(config.bottleneck_blocks)
        )
        self.norm = nn.LayerNorm(FINGERPRINT_SIZE)
        self.to_decoder = nn.Linear(FINGERPRINT_SIZE, width)
        self.mask_token = nn.Linear(1, width, bias=False)
        self.sensor = nn.Embedding(len(CHANNELS), width)
        self.decoders = nn.ModuleList(Decoder(config) for _ in CHANNELS)
        self.register_buffer("position", sin_cos(width), persistent=False)

    def encode(
        self, patches: Tensor, valid: Tensor, visible: tuple[Tensor | None, Tensor | None]
    ) -> tuple[Tensor, Tensor]:
        """Bottleneck tokens of the visible patches; a sensor with `visible` None is not looked at.

        Args:
            patches: (n, channel, token, patch_sample); valid: bool (n, channel, token).
            visible: per sensor the indices of visible tokens, int64 (n, kept).

        Returns:
            tokens (n, kept of both, 128) and whether each is known (visible and valid), bool.
        """
        parts, known_parts = [], []
        for channel, index in enumerate(visible):
            if index is None:
                continue
            known = torch.take_along_dim(valid[:, channel], index, dim=1)
            parts.append(self.encoders[channel](patches[:, channel], known, index))
            known_parts.append(known)
        tokens, known = torch.cat(parts, dim=1), torch.cat(known_parts, dim=1)
        for block in self.bottleneck:
            tokens = block(tokens, known)
        return self.norm(tokens), known

    def decode(
        self,
        tokens: Tensor,
        known: Tensor,
        visible: tuple[Tensor | None, Tensor | None],
        channels: tuple[int, ...],
    ) -> list[Tensor]:
        """Patches of the wanted sensors, each (n, token, patch_sample)."""
        n = tokens.shape[0]
        narrow = self.to_decoder(tokens)
        mask = self.mask_token(torch.ones(1, 1, 1, dtype=tokens.dtype))
        sequence, start = [], 0
        for channel, index in enumerate(visible):
            full = mask.expand(n, TOKENS, -1)
            if index is not None:
                stop = start + index.shape[1]
                here = narrow[:, start:stop]
                use = known[:, start:stop, None].to(tokens.dtype)
                here = here * use + mask * (1 - use)
                full = torch.scatter(full, 1, index[..., None].expand(-1, -1, full.shape[2]), here)
                start = stop
            sequence.append(full + self.position + self.sensor.weight[channel])
        x = torch.cat(sequence, dim=1)
        everything = torch.ones(n, x.shape[1], dtype=torch.bool)
        return [self.decoders[channel](x, everything, channel) for channel in channels]


def pool(tokens: Tensor, known: Tensor) -> Tensor:
    """Mean of the known tokens, unit length: (n, token, 128) -> (n, 128); zero if none is known."""
    weight = known[..., None].to(tokens.dtype)
    mean = (tokens * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1.0)
    return mean / torch.sqrt((mean**2).sum(dim=-1, keepdim=True) + 1e-12)


def all_tokens(n: int) -> Tensor:
    """Indices of all tokens: int64 (n, token)."""
    return torch.arange(TOKENS).expand(n, TOKENS)


def build(config: ModelConfig, seed: int) -> MaskedAutoencoder:
    """A fresh model whose weights depend on the configuration and the seed alone.

    Xavier-uniform matrices, zero biases, N(0, 0.02) mask token and sensor embedding.
    """
    with torch.random.fork_rng(devices=[]):
        model = MaskedAutoencoder(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in sorted(model.named_parameters()):
            if name.startswith(("mask_token", "sensor")):
                value.normal_(0.0, 0.02, generator=generator)
            elif value.ndim == 2:
                nn.init.xavier_uniform_(value, generator=generator)
            elif name.endswith("bias"):
                value.zero_()
    return model


def weights_of(model: nn.Module) -> Weights:
    """All parameters as float32 arrays, copies."""
    return {name: value.detach().cpu().numpy().copy() for name, value in model.named_parameters()}


def load_weights(model: nn.Module, weights: Mapping[str, np.ndarray]) -> None:
    """Set the parameters that are named.

    Raises:
        OurMistake: an unknown name or a wrong shape.
    """
    own = dict(model.named_parameters())
    for name, value in weights.items():
        if name not in own or tuple(own[name].shape) != tuple(value.shape):
            raise OurMistake(f"The weights do not fit the model at {name!r}.")
    with torch.no_grad():
        for name, value in weights.items():
            own[name].copy_(torch.from_numpy(np.ascontiguousarray(value)))


def trainable_names(model: MaskedAutoencoder, which: str) -> tuple[str, ...]:
    """What private training moves, sorted.

    "head": the last bottleneck block, the encoders' outputs and all norms (0.16 to 0.29 M
    parameters: noise grows with the square root of their number); "all": everything.

    Raises:
        OurMistake: another word.
    """
    names = sorted(name for name, _ in model.named_parameters())
    if which == "all":
        return tuple(names)
    if which != "head":
        raise OurMistake(f'trainable is "head" or "all", not {which!r}.')
    last = f"bottleneck.{model.config.bottleneck_blocks - 1}."
    outputs = tuple(f"encoders.{channel}.out." for channel in range(len(CHANNELS)))
    return tuple(
        name
        for name in names
        if name.startswith((last, *outputs)) or ".norm" in name or name.startswith("norm.")
    )
