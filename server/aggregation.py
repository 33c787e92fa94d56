"""The aggregate: an exact integer sum that does not depend on the order of arrival.

Each update is quantised to fixed point, `q = rint(u 2^32)`, and the weighted sum is taken in int64
with public integer weights, so it is exact and commutes; bit-identical for any order of arrival.
The range `|u| < 2^17` with weights <= 8 and <= 1024 sites keeps the sum below 2^62: overflow is
excluded by arithmetic, not by luck. Quantisation changes an element by at most 2^-33.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from shared_model import weights as weights_io
from shared_model.config import MINIMUM_CONTRIBUTORS
from shared_model.errors import OurMistake, PeerFault, Refused
from shared_model.protocol import MAX_PARTICIPANTS, MAX_WEIGHT
from shared_model.weights import Weights

FRACTION_BITS = 32
UPDATE_LIMIT = float(2**17)


@dataclass(frozen=True)
class SiteUpdate:
    """An accepted update and its public weight."""

    site: str
    weight: int
    update: Weights


def read_update(
    body: bytes, like: Mapping[str, np.ndarray], expected_digest: str, *, site: str
) -> Weights:
    """Parse and check the update of a site.

    Args:
        body: safetensors bytes, already matched with the signed header.
        like: the trainable parameters: names and shapes must be exactly these.
        expected_digest: `weights.digest` that the header declares.

    Raises:
        PeerFault: names the site; not safetensors, other names or shapes, not float32, not
            finite, an element of 2^17 or more, or another digest.
    """
    try:
        update = weights_io.from_bytes(body, like=like)
    except Refused as error:
        raise PeerFault(f"The update of {site} does not fit this model.", site=site) from error
    for value in update.values():
        # NaN compares false, so one test covers NaN, infinities and the range.
        if not bool(np.all(np.abs(value) < UPDATE_LIMIT)):
            raise PeerFault(f"The update of {site} is not finite or out of range.", site=site)
    if weights_io.digest(update) != expected_digest:
        raise PeerFault(f"The update of {site} is not the one its header names.", site=site)
    return update


def weighted_mean(updates: Sequence[SiteUpdate]) -> dict[str, np.ndarray]:
    """Mean of the updates, weighted by public integers; name -> float64 array.

    Raises:
        OurMistake: fewer than MINIMUM_CONTRIBUTORS, a site twice, different parameters, or a
            weight outside 1 ... 8.
    """
    ordered = sorted(updates, key=lambda item: item.site)
    sites = [item.site for item in ordered]
    if len(set(sites)) != len(sites):
        raise OurMistake("A site is in the sum twice.")
    if not MINIMUM_CONTRIBUTORS <= len(sites) <= MAX_PARTICIPANTS:
        raise OurMistake(f"{len(sites)} contributors cannot be aggregated.")
    if any(not 1 <= item.weight <= MAX_WEIGHT for item in ordered):
        raise OurMistake(f"Aggregation weights are 1 ... {MAX_WEIGHT}.")
    names = sorted(ordered[0].update)
    if any(sorted(item.update) != names for item in ordered):
        raise OurMistake("The updates have different parameters.")
    total = sum(item.weight for item in ordered)
    mean: dict[str, np.ndarray] = {}
    for name in names:
        summed = np.zeros(ordered[0].update[name].shape, dtype=np.int64)
        for item in ordered:
            summed += item.weight * quantise(item.update[name])
        mean[name] = summed.astype(np.float64) / (total * 2.0**FRACTION_BITS)
    return mean


def quantise(values: np.ndarray) -> np.ndarray:
    """float32 -> int64 fixed point with 32 fraction bits, half to even; |values| < 2^17."""
    quantised: np.ndarray = np.rint(values.astype(np.float64) * 2.0**FRACTION_BITS).astype(np.int64)
    return quantised


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
