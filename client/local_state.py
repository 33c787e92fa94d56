"""What a site keeps between rounds beside the model, and what it adds to its noised gradients.

FedProx, LayerNorms of one's own and SCAFFOLD. All of it is computed from weights and noised means:
functions of private values (post-processing), after clipping and noise, which stay as they were.

FedProx (1812.06127): mu x (w - received w), from `LocalTraining.proximal_weight`.
Local norms (as FedBN, 2102.07623): the LayerNorms' parameters take the same noised steps, stay at
the site and go on from there in its next round; they are in no update.
SCAFFOLD (1910.06378, option II): c - c_i is added to every gradient, c from the server, c_i from
the site's last round; then `c_i = c_i - c + (received w - w) / (K lr)`, which is the mean of the K
gradients as they were stepped with, less the correction. For plain SGD alone.

Local norms and SCAFFOLD are in the lab only (docs/adr/0029-server-optimisers.md): nothing in a
hospital makes a `LocalState`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np

from shared_model.config import LocalTraining
from shared_model.errors import OurMistake
from shared_model.weights import Weights

NORMS, CONTROL = "norms/", "control/"


@dataclass(frozen=True)
class LocalState:
    """What a site brings to a round beside the model.

    kept: `TrainingOutcome.local` of its last round; {} before the first.
    norms: its LayerNorms are its own.
    control: the server's control variate by parameter, float32
        (`server_optimisers.control_of`); {} before the first round; None: there are none.
    """

    kept: Weights = field(default_factory=dict, repr=False)
    norms: bool = False
    control: Weights | None = field(default=None, repr=False)

    def own_norms(self, like: Mapping[str, np.ndarray], norms: Collection[str]) -> Weights:
        """The site's LayerNorms to begin with, by parameter; {} before its first round.

        Args:
            like: the received trainable weights. norms: names of all LayerNorm parameters.

        Raises:
            OurMistake: what was kept is of another model.
        """
        found = _of_kind(self.kept, NORMS)
        if not self.norms or not found:
            return {}
        _must_fit(found, {name: value for name, value in like.items() if name in norms})
        return found


@dataclass(frozen=True)
class Correction:
    """What is added to each noised gradient of a round; flat vectors in sorted order of the names.

    start: float64 (d,), the weights that the round began from; None without a proximal weight.
    shift: float64 (d,), c - c_i.
    """

    proximal_weight: float
    start: np.ndarray | None = field(repr=False)
    shift: np.ndarray | None = field(repr=False)

    def __call__(self, gradient: np.ndarray, weights: Mapping[str, np.ndarray]) -> np.ndarray:
        """The gradient to step with; the very same array where nothing is added."""
        if self.start is not None:
            away = np.subtract(flat(weights), self.start)
            gradient = np.add(gradient, np.multiply(away, self.proximal_weight))
        if self.shift is not None:
            gradient = np.add(gradient, self.shift)
        return gradient


def correction(
    training: LocalTraining,
    start: Mapping[str, np.ndarray],
    sent: Collection[str],
    local: LocalState | None,
) -> Correction:
    """What a round adds to its gradients.

    Args:
        start: trainable weights that it begins from. sent: names of those in its update.

    Raises:
        OurMistake: control variates with Adam, or of another model.
    """
    shift = None
    if local is not None and local.control is not None:
        if training.optimiser != "sgd":
            raise OurMistake(
                "Control variates (SCAFFOLD) correct the steps of plain SGD; Adam would divide the "
                "correction by the size of the noise.",
                do='Say optimiser = "sgd", or no control_variates.',
            )
        server, own = _variates(local, local.control, {name: start[name] for name in sent})
        shift = flat(
            {
                name: np.subtract(server[name], own[name], dtype=np.float64)
                if name in own
                else np.zeros(value.shape)
                for name, value in start.items()
            }
        )
    mu = training.proximal_weight
    return Correction(mu, flat(start) if mu else None, shift)


def kept_after(
    training: LocalTraining,
    steps: int,
    start: Mapping[str, np.ndarray],
    end: Mapping[str, np.ndarray],
    sent: Collection[str],
    local: LocalState | None,
) -> Weights:
    """What the site keeps for its next round; {} if nothing. float32.

    Args:
        start, end: trainable weights that the round began from, and made. steps: K.
    """
    if local is None:
        return {}
    kept: Weights = {}
    if local.norms:
        kept |= {NORMS + name: value.copy() for name, value in end.items() if name not in sent}
    if local.control is not None:
        server, own = _variates(local, local.control, {name: start[name] for name in sent})
        scale = float(steps) * training.learning_rate
        for name, before in own.items():
            mean = np.divide(np.subtract(start[name], end[name], dtype=np.float64), scale)
            changed = np.subtract(before, server[name], dtype=np.float64)
            kept[CONTROL + name] = np.add(changed, mean).astype(np.float32)
    return kept


def flat(weights: Mapping[str, np.ndarray]) -> np.ndarray:
    """float64 (d,), the names in sorted order, each flattened: as `privacy.clip_and_sum` has it."""
    return np.concatenate([weights[name].ravel() for name in sorted(weights)], dtype=np.float64)


def _variates(
    local: LocalState, control: Weights, like: Mapping[str, np.ndarray]
) -> tuple[Weights, Weights]:
    """c and c_i; each zero before the first round."""
    own = _of_kind(local.kept, CONTROL)
    zero = {name: np.zeros(value.shape, np.float32) for name, value in like.items()}
    for found in (control, own):
        if found:
            _must_fit(found, like)
    return control or zero, own or zero


def _of_kind(kept: Mapping[str, np.ndarray], kind: str) -> Weights:
    return {name.removeprefix(kind): value for name, value in kept.items() if name.startswith(kind)}


def _must_fit(found: Mapping[str, np.ndarray], like: Mapping[str, np.ndarray]) -> None:
    shapes = {name: (value.shape, value.dtype) for name, value in found.items()}
    if shapes != {name: (value.shape, np.dtype(np.float32)) for name, value in like.items()}:
        raise OurMistake("What the site or the server has kept is of another model.")
