"""The coordinator's part: add the masked vectors one after the other, take the opened masks off.

At most three vectors are in memory: the sum, one submission, and a chunk of keystream.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from shared_model.errors import OurMistake
from shared_model.secure_sum.numbers import PackedSum
from shared_model.secure_sum.opening import Seeds
from shared_model.secure_sum.primitives import Words, add_keystream
from shared_model.secure_sum.transcript import Transcript


def sum_of(
    packed: Iterable[tuple[str, bytes | memoryview]], transcript: Transcript, seeds: Seeds | None
) -> Words:
    """Sum of the survivors' quantised vectors, uint32 (padded,), mod 2^m.

    Args:
        packed: (site, packed masked vector) of each survivor, each once; read one at a time.
        seeds: of exactly these survivors; None if the masks are off.

    Raises:
        OurMistake: a vector of another length, or seeds of other survivors.
    """
    numbers = transcript.numbers
    sums = PackedSum(numbers.modulus_bits, numbers.padded)
    seen = [_added(sums, site, vector) for site, vector in packed]
    if len(set(seen)) != len(seen) or (seeds is not None and set(seen) != set(seeds.self_seeds)):
        raise OurMistake("The submissions are not those of the survivors whose seeds were opened.")
    total = sums.vector()
    if seeds is not None:
        take_off(total, seeds)
    total &= np.uint32((1 << numbers.modulus_bits) - 1)
    return total


def _added(sums: PackedSum, site: str, vector: bytes | memoryview) -> str:
    sums.add(vector)
    return site


def take_off(total: Words, seeds: Seeds) -> None:
    """Subtract all masks that are left in a sum of survivors, mod 2^32, in place."""
    for seed in seeds.self_seeds.values():
        add_keystream(total, seed, subtract=True)
    for (survivor, site), seed in seeds.pair_seeds.items():
        # the survivor had added it if the dropped site comes after it
        add_keystream(total, seed, subtract=site > survivor)
