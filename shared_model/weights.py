"""Weights as safetensors bytes and their digest. Never pickle.

The state of a server step (`shared_model.server_optimisers`) travels and lies in the same bytes,
under names that begin with `STATE`; no parameter of a model has such a name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
from safetensors.numpy import load as _load
from safetensors.numpy import save as _save

from shared_model.errors import OurMistake, Refused

Weights = dict[str, np.ndarray]
"""Parameter name -> float32 array, C order."""
STATE = "server-step/"
"""Begins the names of a server step's state."""


def to_bytes(weights: Mapping[str, np.ndarray]) -> bytes:
    """Safetensors bytes, names sorted, so that equal weights give equal bytes."""
    return bytes(_save({name: _float32(weights[name]) for name in sorted(weights)}))


def from_bytes(data: bytes, *, like: Mapping[str, np.ndarray] | None = None) -> Weights:
    """Parse safetensors bytes of a peer or a file.

    Args:
        data: hostile until parsed.
        like: if given, names and shapes must be exactly these.

    Raises:
        Refused: not safetensors, not float32, or names and shapes differ from `like`.
    """
    try:
        weights: Weights = _load(data)
    except Exception as error:
        raise Refused("The weights are not valid safetensors.", reason="weights") from error
    for name, value in weights.items():
        if value.dtype != np.float32:
            raise Refused(f"Tensor {name!r} is not float32.", reason="weights")
    if like is not None:
        wanted = {name: tuple(value.shape) for name, value in like.items()}
        if wanted != {name: tuple(value.shape) for name, value in weights.items()}:
            raise Refused("The weights do not fit this model.", reason="weights")
    return weights


def digest(weights: Mapping[str, np.ndarray]) -> str:
    """SHA-256 over names, shapes and float32 bytes in sorted order (independent of the file).

    With a server step's state: `joined_digest` of the model's own digest and the state's.
    """
    model, state = parts(weights)
    return joined_digest(_digest(model), state_digest(state)) if state else _digest(model)


def state_digest(state: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of the arrays of a server step's state, as `digest` makes it of a model's."""
    return _digest(state)


def joined_digest(model: str, state: str) -> str:
    """What a round names as its model if a server step's state goes with it, so that whoever has
    the model alone can still hold it against what hospitals signed."""
    return hashlib.sha256(f"fedprint-model-and-state-1:{model}:{state}".encode()).hexdigest()


def _digest(weights: Mapping[str, np.ndarray]) -> str:
    hasher = hashlib.sha256(b"fedprint-weights-1")
    for name in sorted(weights):
        value = _float32(weights[name])
        header = f"{len(name)}:{name}:{value.shape}".encode()
        hasher.update(len(header).to_bytes(8, "big"))
        hasher.update(header)
        hasher.update(value.tobytes())
    return hasher.hexdigest()


def parts(weights: Mapping[str, np.ndarray]) -> tuple[Weights, Weights]:
    """The model's own arrays, and those of the server step's state."""
    model = {name: value for name, value in weights.items() if not name.startswith(STATE)}
    state = {name: value for name, value in weights.items() if name.startswith(STATE)}
    return model, state


def _float32(value: np.ndarray) -> np.ndarray:
    if value.dtype != np.float32:
        raise OurMistake("Weights are float32.")
    return np.ascontiguousarray(value)
