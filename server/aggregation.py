"""From the sum of integers to the next model: the mean update, and the coordinator's step.

What the sites submit is summed as integers modulo 2^m (`shared_model.secure_sum`), so the sum is
exact and the same to the bit for any order of arrival, and with or without masks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from shared_model.errors import OurMistake
from shared_model.secure_sum import numbers
from shared_model.secure_sum.transcript import Transcript
from shared_model.weights import Weights


def dimension_of(trainable: Mapping[str, np.ndarray]) -> int:
    """Number of the trainable parameters."""
    return sum(int(value.size) for value in trainable.values())


def mean_update(
    summed: np.ndarray,
    transcript: Transcript,
    survivors: tuple[str, ...],
    trainable: Mapping[str, np.ndarray],
) -> Weights:
    """Mean of the survivors' updates, weighted by their public weights; name -> float64 array.

    Args:
        summed: uint32 (padded,), the sum modulo 2^m over the survivors.
        trainable: gives names and shapes.
    """
    total = sum(transcript.weight(site) for site in survivors)
    flat = numbers.mean_of(summed, transcript.numbers, transcript.rotation_seed, total)  # (d,)
    return numbers.unflatten(flat, trainable)


class ServerStep(Protocol):
    """What the coordinator does with the mean update."""

    def apply(self, weights: Weights, mean: Mapping[str, np.ndarray]) -> Weights:
        """New full weights; parameters that `mean` lacks are returned as they were."""


@dataclass(frozen=True)
class FedAvg:
    """`w + learning_rate x mean update` (McMahan et al. 2017 with a server learning rate).

    Computed in float64, rounded to float32 once.
    """

    learning_rate: float = 1.0

    def apply(self, weights: Weights, mean: Mapping[str, np.ndarray]) -> Weights:
        """See `ServerStep.apply`.

        Raises:
            OurMistake: the mean has a parameter that the model lacks, or of another shape.
        """
        after = dict(weights)
        for name, value in mean.items():
            before = weights.get(name)
            if before is None or before.shape != value.shape:
                raise OurMistake("The mean update does not fit the model.")
            stepped = before.astype(np.float64) + self.learning_rate * value
            after[name] = stepped.astype(np.float32)
        return after
