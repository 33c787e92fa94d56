"""Low-rank adapters on linear layers: what they are, how a round trains them, how it ends.

An adapted layer computes `W x + b + (alpha / r) B A x` (LoRA, 2106.09685, section 4.1) with
alpha = r. Only B is trained; A is frozen and public (FFA-LoRA, 2403.12313): a product of two noised
factors would multiply noise by noise, and the mean of sites' products is not the product of means,
while with one frozen A the mean of B A is (mean B) A, exactly.

**Nothing but plain weights is ever at rest.** B begins a round at zero, the update of a round is
what B became, and the server step's new B is merged into W at once:

    part = trained_part(weights, names)     # what a round trains: parameters, and zeros for B
    ...                                     # the server step moves them
    weights = merged(weights | moved)       # plain weights again, the same bits everywhere

A is never sent: its entries are -1 or 1 over sqrt(inputs), signs from SHAKE-256 over the layer's
name and shape (random signs keep lengths as Gaussian ones do: Achlioptas, 2003). Its rows have unit
length, so that B's noise moves W as far, on average, as it moves B.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from shared_model.errors import OurMistake
from shared_model.weights import Weights

if TYPE_CHECKING:
    from torch import nn

    Model = TypeVar("Model", bound=nn.Module)

ADAPTER = ".adapter.weight"
"""Ends the name of a B: the name of the layer comes before."""
_WEIGHT = ".weight"
_RANK_DIVISOR = 8
_PARTS = ("encoders.", "bottleneck.")
_LAYERS = (".query", ".key_value", ".up", ".down")
_DOMAIN = "fedprint-adapter-1"


def rank_of(outputs: int, inputs: int) -> int:
    """r of a layer: an eighth of its shorter side, at least 1."""
    return max(1, min(outputs, inputs) // _RANK_DIVISOR)


@functools.lru_cache(maxsize=256)
def directions(layer: str, rank: int, inputs: int) -> np.ndarray:
    """A of a layer, float32 (r, inputs), read-only: the same bits on every machine."""
    name = f"{_DOMAIN}:{layer}:{rank}:{inputs}".encode()
    count = rank * inputs
    drawn = np.frombuffer(hashlib.shake_256(name).digest((count + 7) // 8), dtype=np.uint8)
    signs = np.unpackbits(drawn, count=count).reshape(rank, inputs)
    one = np.float32(1.0 / math.sqrt(inputs))
    made: np.ndarray = np.where(signs == 1, one, -one)
    made.setflags(write=False)
    return made


def names_of(parameters: Iterable[str]) -> tuple[str, ...]:
    """Names of all B's of a model with these parameters, in their order: of the layers `query`,
    `key_value`, `up` and `down` of encoders and bottleneck."""
    layers = (name.removesuffix(_WEIGHT) for name in parameters if name.endswith(_WEIGHT))
    return tuple(
        layer + ADAPTER for layer in layers if layer.startswith(_PARTS) and layer.endswith(_LAYERS)
    )


def trained_part(weights: Mapping[str, np.ndarray], names: Iterable[str]) -> Weights:
    """What a round trains of a model, as it begins: parameters as they are, every B zero.

    Raises:
        OurMistake: the model has no such parameter, or no layer for such a B.
    """
    return {name: _beginning(weights, name) for name in names}


def merged(weights: Mapping[str, np.ndarray]) -> Weights:
    """Plain weights: each B in `weights` is taken into its layer, W + B A.

    In float64, one product and one sum an element and column of B, in order, rounded to float32
    once: no matrix product, so that all machines get the same bits. The products are exact.

    Raises:
        OurMistake: a B that fits no layer.
    """
    plain = {name: value for name, value in weights.items() if not name.endswith(ADAPTER)}
    for name in sorted(set(weights) - set(plain)):
        factor, layer = weights[name], name.removesuffix(ADAPTER)
        if factor.shape != _beginning(plain, name).shape:
            raise OurMistake(_NO_LAYER)
        total = plain[layer + _WEIGHT].astype(np.float64)
        fixed = directions(layer, factor.shape[1], total.shape[1]).astype(np.float64)
        for column, row in zip(factor.astype(np.float64).T, fixed, strict=True):
            total += np.multiply(column[:, None], row[None, :])
        plain[layer + _WEIGHT] = total.astype(np.float32)
    return plain


def moved_part(
    before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray], names: Iterable[str]
) -> Weights:
    """How two models differ where a round with these names may have moved them; float64, by the
    plain parameter's name.

    Raises:
        OurMistake: the models lack such a parameter.
    """
    plain = dict.fromkeys(_at_rest(name) for name in names)
    if not set(plain) <= set(before) & set(after):
        raise OurMistake(_NO_LAYER)
    return {
        name: after[name].astype(np.float64) - before[name].astype(np.float64) for name in plain
    }


def attached(model: Model) -> Model:
    """A copy of a model whose layers have their adapters, B zero: it computes the same.

    Each adapted layer becomes a module of a frozen linear layer and one of r inputs without bias,
    whose weight is B: a leaf layer with one input that runs once, as the model's own are.
    """
    made = copy.deepcopy(model)
    for name in names_of(parameter for parameter, _ in made.named_parameters()):
        layer = name.removesuffix(ADAPTER)
        parent = made.get_submodule(layer.rpartition(".")[0])
        setattr(parent, layer.rpartition(".")[2], _adapted(layer, made.get_submodule(layer)))
    return made


_NO_LAYER = "The trainable parameters are not parameters of the model."


def _at_rest(name: str) -> str:
    return name.removesuffix(ADAPTER) + _WEIGHT if name.endswith(ADAPTER) else name


def _beginning(weights: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    value, plain = weights.get(_at_rest(name)), not name.endswith(ADAPTER)
    if value is None or not (plain or (value.ndim == 2 and names_of([_at_rest(name)]) == (name,))):
        raise OurMistake(_NO_LAYER)
    if plain:
        return value
    outputs, inputs = value.shape
    return np.zeros((outputs, rank_of(outputs, inputs)), dtype=np.float32)


def _adapted(layer: str, linear: nn.Module) -> nn.Module:
    import torch
    from torch import Tensor, nn
    from torch.nn import functional as F

    class Adapted(nn.Module):
        """`linear(x) + B A x`; A is a buffer, in no state."""

        def __init__(self, frozen: nn.Linear) -> None:
            super().__init__()
            rank = rank_of(frozen.out_features, frozen.in_features)
            fixed = torch.from_numpy(directions(layer, rank, frozen.in_features).copy())
            self.frozen = frozen
            with torch.random.fork_rng(devices=[]):  # the constructor draws from the global one
                self.adapter = nn.Linear(rank, frozen.out_features, bias=False)
            with torch.no_grad():
                self.adapter.weight.zero_()
            self.adapter.to(frozen.weight.device)
            self.register_buffer("directions", fixed.to(frozen.weight.device), persistent=False)
            self.directions: Tensor  # (r, inputs)

        def forward(self, x: Tensor) -> Tensor:
            added: Tensor = self.frozen(x) + self.adapter(F.linear(x, self.directions))
            return added

    if not isinstance(linear, nn.Linear):
        raise OurMistake("Only a linear layer can have an adapter.")
    return Adapted(linear)
