"""What `bench encoder` compares: models, a step of the warm start, windows, and the compiler."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from shared_model import mae
from shared_model.config import CHANNELS, ModelConfig
from shared_model.fingerprint import fingerprints
from shared_model.mae_layers import Block
from shared_model.weights import Weights
from simulations import pretrain
from simulations.cohort import draw_windows
from simulations.pretrain_terms import draw_heads

_SENSORS = ((True, True), (True, False), (False, True))
"""Both, ECG alone, PPG alone."""


class InBfloat16(mae.MaskedAutoencoder):
    """Fingerprints with matrix products in bfloat16, given as float32."""

    def fingerprint(self, patches: Tensor, valid: Tensor) -> Tensor:
        with torch.autocast(patches.device.type, torch.bfloat16):
            made = super().fingerprint(patches, valid)
        return made.float()


def model_of(
    config: ModelConfig,
    weights: Weights,
    device: torch.device,
    kind: type[mae.MaskedAutoencoder] = mae.MaskedAutoencoder,
) -> mae.MaskedAutoencoder:
    """The model with these weights; torch's own generator is left alone."""
    with torch.random.fork_rng(devices=[]):
        model = kind(config)
    mae.load_weights(model, weights)
    return model.to(device)


def compile_blocks(model: mae.MaskedAutoencoder, backend: str) -> mae.MaskedAutoencoder:
    """The model itself, compiled at its first call; blocks of one shape share their code."""
    for layer in model.modules():
        if isinstance(layer, Block):
            layer.compile(backend=backend, fullgraph=True, dynamic=False)
    return model


class WarmStartStep:
    """Loss, backward, gradient norm, AdamW, on one batch again and again."""

    def __init__(
        self, model: mae.MaskedAutoencoder, recipe: pretrain.Recipe, batch: pretrain.Batch
    ) -> None:
        self.model, self.recipe, self.batch = model, recipe, batch
        with torch.random.fork_rng(devices=[]):
            self.heads = pretrain.AuxiliaryHeads(batch[2])
        draw_heads(self.heads, torch.Generator().manual_seed(0))
        self.parameters = [*model.parameters(), *self.heads.parameters()]
        self.optimiser = torch.optim.AdamW(self.parameters, lr=1e-4)

    def gradient(self) -> Tensor:
        """Of all parameters, flat; with the same patch masks at every call."""
        loss, _ = pretrain.step_loss(
            self.model, self.heads, None, self.batch, self.recipe, np.random.default_rng(1)
        )
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        return torch.cat([p.grad.flatten() for p in self.parameters if p.grad is not None])

    def __call__(self) -> None:
        self.gradient()
        torch.nn.utils.clip_grad_norm_(self.parameters, self.recipe.gradient_norm)
        self.optimiser.step()


@contextmanager
def compiling() -> Iterator[None]:
    """Compile in this process, into a folder of its own, so that nothing is there already."""
    import torch._dynamo
    import torch._inductor.config
    from torch._inductor.utils import fresh_inductor_cache

    with torch._inductor.config.patch(compile_threads=1), fresh_inductor_cache():
        try:
            yield
        finally:
            torch._dynamo.reset()


def graphs() -> int:
    """Graphs that were compiled in this process."""
    from torch._dynamo.utils import counters

    return int(counters["stats"]["unique_graphs"])


def cause(error: Exception) -> str:
    """Of the innermost fault: kind, and first line unless it may name a folder of this machine."""
    inner = getattr(error, "inner_exception", None) or error.__cause__ or error
    first = str(inner).partition("\n")[0]
    return type(inner).__name__ + (f": {first[:160]}" if first and "/" not in first else "")


def windows(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Simulated ones in which both sensors passed the gate."""
    signal, valid, _ = draw_windows(np.random.default_rng(4), 2 * count)
    both = np.flatnonzero(valid.any(axis=2).sum(axis=1) == len(CHANNELS))[:count]
    return signal[both], valid[both]


def with_sensors(signal: np.ndarray, valid: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The windows with both sensors, and with one of them taken away."""
    for kept in _SENSORS:
        mask = np.array(kept).reshape(1, len(CHANNELS), 1)
        yield np.where(mask, signal, np.float32(0.0)), valid & mask


def smallest_cosine(
    first: mae.MaskedAutoencoder, second: mae.MaskedAutoencoder, signal: np.ndarray,
    valid: np.ndarray, batch: int,
) -> float:  # fmt: skip
    """Of any window; always `batch` windows at once."""
    one, other = (
        torch.from_numpy(fingerprints(model, signal, valid, batch)).double()
        for model in (first, second)
    )
    return float(torch.cosine_similarity(one, other).min())


def cosine(one: Tensor, other: Tensor) -> float:
    return float(torch.cosine_similarity(one.double(), other.double(), dim=0))
