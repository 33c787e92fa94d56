"""The rows of a probe table: encoders (or hand-made features) that turn windows into numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from shared_model import warm_start
from shared_model.config import FINGERPRINT_SIZE, ModelConfig
from shared_model.fingerprint import fingerprints
from shared_model.mae import MaskedAutoencoder, build, load_weights
from shared_model.weights import Weights
from simulations.probes.features import hand_made

Encode = Callable[[np.ndarray, np.ndarray], np.ndarray]

RANDOM = "random-init"
HAND_MADE = "hand-made features"
WARM_START = "warm start (simulator only)"
WITHOUT_DP = "federated, without DP"
POOLED = "pooled, without DP"


@dataclass(frozen=True)
class Row:
    """One row: its members are encoders whose metrics are averaged (several for random-init)."""

    name: str
    members: tuple[Encode, ...] = field(repr=False)


def encoder(config: ModelConfig, weights: Weights) -> Encode:
    """Frozen fingerprints of a model: (window, 2, 1250), (window, 2, 50) -> (window, 128)."""
    model = build(config, seed=0)
    load_weights(model, weights)
    return partial(frozen, model)


def frozen(model: MaskedAutoencoder, signal: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Fingerprints (window, 128); NaN for a window in which the chosen sensor is missing."""
    out = np.full((len(signal), FINGERPRINT_SIZE), np.nan, dtype=np.float32)
    known = valid.any(axis=(1, 2))
    out[known] = fingerprints(model, signal[known], valid[known])
    return out


def random_init(config: ModelConfig, seeds: int) -> Row:
    """The same network, never trained: the baseline without which no figure means anything."""
    return Row(RANDOM, tuple(partial(frozen, build(config, seed=1000 + k)) for k in range(seeds)))


def hand_made_row() -> Row:
    """NeuroKit2 features."""
    return Row(HAND_MADE, (hand_made,))


def warm_start_row(preset: str) -> Row:
    """The packaged warm start: trained on simulated windows only."""
    config, weights, _ = warm_start.load(preset)
    return Row(WARM_START, (encoder(config, weights),))


def weights_row(name: str, config: ModelConfig, weights: Weights) -> Row:
    """Any trained weights under a name of the caller's."""
    return Row(name, (encoder(config, weights),))
