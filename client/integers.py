"""From an update to the integers that a hospital adds to a round's sum. Also what the lab calls.

vector, counts = integers(update, numbers, rotation_seed, place, weight, noise)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared_model.distributed import Shares, share
from shared_model.secure_sum.numbers import Numbers, flatten, flatten_exact, quantise
from shared_model.secure_sum.primitives import Words
from shared_model.weights import Weights

if TYPE_CHECKING:
    from shared_model.noise import NoiseSource


def integers(
    update: Weights,
    numbers: Numbers,
    rotation_seed: bytes,
    place: int,
    weight: int,
    noise: NoiseSource,
) -> tuple[Words, dict[str, object]]:
    """What a site adds to the sum, uint32 (padded,), and counts for its own log.

    In mode local `update` is private already. In mode distributed the noise is added here.

    Args:
        place: of the site among the participants, from 0; of use in mode distributed.
        weight: of the site; of use in mode local.

    Raises:
        OurMistake: the update does not fit the numbers.
    """
    if isinstance(numbers, Shares):
        made = share(flatten_exact(update), numbers, place, rotation_seed, noise)
        return made.vector, {"clamped": made.clamped}
    quantised = quantise(flatten(update), numbers, rotation_seed, weight, noise.rounding_seed())
    return quantised.vector, {
        "clipped": quantised.clipped,
        "non_finite": quantised.non_finite,
        "scaled": quantised.scaled,
    }
