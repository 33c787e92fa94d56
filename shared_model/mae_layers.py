"""Layers of the masked autoencoder: attention that knows distances, positions, pooling."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shared_model.config import TOKENS

SLOPES = (1.5, 0.4, 0.1, 0.0)
"""Attention scores fall by slope x patches apart (ALiBi, 2108.12409), head by head; the last head
sees everything alike. Without it the loss stood at the trivial level for hundreds of steps."""
_SLOWEST = 100.0
"""Slowest over fastest rate of the sine positions; 50 tokens need no slower wave."""


class Attention(nn.Module):
    """Multi-head attention of tokens (..., token, width) to context (..., key, context_width)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        slopes = torch.tensor([SLOPES[head % len(SLOPES)] for head in range(heads)])
        self.register_buffer("slopes", slopes[:, None, None], persistent=False)
        self.slopes: Tensor  # (head, 1, 1)

    def forward(self, tokens: Tensor, context: Tensor, bias: Tensor, far: Tensor) -> Tensor:
        """`bias` (..., token or 1, key): from `bias_of`, says which keys a token may look at;
        `far` (..., token, key): how many patches apart they are."""
        key, value = self.key_value(context).chunk(2, dim=-1)
        q = self._split(self.query(tokens))  # (batch, head, token, size)
        k, v = self._split(key), self._split(value)  # (batch, head, key, size)
        # Written out: torch's fused CPU attention has no batching rule, so vmap would run it one
        # patient at a time. The small q is scaled, not the large scores.
        scores = (q / math.sqrt(q.shape[-1])) @ k.transpose(-1, -2)  # (batch, head, token, key)
        scores = scores + bias.reshape(-1, 1, *bias.shape[-2:])
        scores = scores - self.slopes * far.reshape(-1, 1, *far.shape[-2:])
        merged = (scores.softmax(dim=-1) @ v).transpose(-2, -3).flatten(-2)  # (batch, token, width)
        projected: Tensor = self.out(merged.reshape(tokens.shape))
        return projected

    def _split(self, x: Tensor) -> Tensor:
        """(..., token, width) -> (batch, head, token, size), leading axes flattened."""
        size = x.shape[-1] // self.heads
        return x.reshape(-1, x.shape[-2], self.heads, size).transpose(-2, -3)


class Block(nn.Module):
    """Pre-norm transformer block: self-attention, or cross-attention where `context` is given."""

    def __init__(self, width: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm_1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm_2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, int(width * mlp_ratio))
        self.down = nn.Linear(int(width * mlp_ratio), width)

    def forward(
        self, x: Tensor, bias: Tensor, far: Tensor, context: Tensor | None = None
    ) -> Tensor:
        normed = self.norm_1(x)
        x = x + self.attention(normed, normed if context is None else context, bias, far)
        grown: Tensor = x + self.down(F.gelu(self.up(self.norm_2(x))))
        return grown


def sine_positions(width: int, kinds: int = 0) -> Tensor:
    """Fixed sine-cosine positions (1706.03762, section 3.5), waves of 6 to 600 tokens.

    Returns (token, width). With `kinds`, (kind, token, width): each kind has a constant vector
    added, so that equal times of two modalities stay near each other.
    """
    rate = torch.exp(torch.arange(0, width, 2) * (-math.log(_SLOWEST) / width))  # (width / 2,)

    def waves(place: Tensor) -> Tensor:
        angle = place[..., None] * rate
        return torch.stack([torch.sin(angle), torch.cos(angle)], dim=-1).flatten(-2)

    positions = waves(torch.arange(TOKENS))  # (token, width)
    if not kinds:
        return positions
    return positions + waves(1000 * torch.arange(1, kinds + 1))[:, None, :]  # (kind, token, width)


def bias_of(allowed: Tensor) -> Tensor:
    """0 where a key is allowed, -10^4 where not: float32 of the same shape.

    Finite, so that a token without an allowed key looks at all keys and its result, which nobody
    uses, has a gradient: a softmax over nothing would be NaN even behind a zero weight.
    """
    return (~allowed).to(torch.float32) * -1e4


def far_of(queries: Tensor, keys: Tensor) -> Tensor:
    """Patches between two places, whatever the modality: (..., query, key) float32."""
    return (queries[..., :, None] - keys[..., None, :]).abs().to(torch.float32)


def pool(outputs: Tensor, keys: Tensor) -> Tensor:
    """Mean of (..., token, 128) over valid tokens, made unit norm; zero where there is none."""
    weight = keys.to(outputs.dtype)[..., None]  # (..., token, 1)
    mean = (outputs * weight).sum(-2) / weight.sum(-2).clamp(min=1.0)  # (..., 128)
    return mean * torch.rsqrt((mean * mean).sum(-1, keepdim=True) + 1e-12)
