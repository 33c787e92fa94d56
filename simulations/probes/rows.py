"""The rows of a probe table: encoders (or hand-made features) that turn windows into numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from shared_model import warm_start
from shared_model.config import ModelConfig
from shared_model.fingerprint import fingerprints
from shared_model.mae import build, load_weights
from shared_model.weights import Weights
from simulations.probes.features import hand_made

Encode = Callable[[np.ndarray, np.ndarray], np.ndarray]

RANDOM = "random-init"
HAND_MADE = "hand-made features"
WARM_START = "warm start (simulator only)"


@dataclass(frozen=True)
class Row:
    """One row: its members are encoders whose metrics are averaged (several for random-init)."""

    name: str
    members: tuple[Encode, ...] = field(repr=False)


def encoder(config: ModelConfig, weights: Weights) -> Encode:
    """Frozen fingerprints of a model: (window, 2, 1250), (window, 2, 50) -> (window, 128)."""
    model = build(config, seed=0)
    load_weights(model, weights)
    return lambda signal, valid: fingerprints(model, signal, valid)


def random_init(config: ModelConfig, seeds: int) -> Row:
    """The same network, never trained: the baseline without which no figure means anything."""
    models = [build(config, seed=1000 + k) for k in range(seeds)]
    return Row(
        RANDOM,
        tuple((lambda s, v, m=model: fingerprints(m, s, v)) for model in models),
    )


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
