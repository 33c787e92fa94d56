"""From an update to integers that add, and back: rotation, stochastic rounding, packing.

Rotation: randomised Hadamard transform on interleaved blocks, Kairouz et al. 2021 (2102.06387,
section 4.1). It spreads every coordinate over its block, so that one public scale fits all.
Overflow is excluded by arithmetic: |sum of weight x q| <= W (2^(bits-1) - 1) < 2^(modulus_bits-1).
Exact bytes: docs/secure-sum-wire.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from shared_model.errors import OurMistake
from shared_model.secure_sum.primitives import Words, keystream
from shared_model.weights import Weights

LARGEST_BLOCK = 4096
SMALLEST_BLOCK = 32
RANGE_IN_STD = 6.0
"""A rotated coordinate of a vector at the norm bound has standard deviation bound / sqrt(padded);
beyond six of them it is clipped: a share of 2e-9 of a normal distribution."""
MAX_MODULUS_BITS = 32
_GROUP = 32
"""Values packed at once: 32 values of m bits are m 32-bit words."""

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Numbers:
    """Public parameters of one round's integers.

    dimension: d, number of trained parameters. bits: b, of one quantised value. norm_bound: L2
    bound on an update. modulus_bits: m, sums are mod 2^m.
    """

    dimension: int
    bits: int
    norm_bound: float
    modulus_bits: int

    def __post_init__(self) -> None:
        good = self.dimension >= 1 and 2 <= self.bits < self.modulus_bits <= MAX_MODULUS_BITS
        if not (good and 0.0 < self.norm_bound < math.inf):
            raise OurMistake("These are no parameters of a secure sum.")

    @classmethod
    def of(cls, dimension: int, total_weight: int, norm_bound: float, bits: int = 20) -> Numbers:
        """Parameters for a sum whose participants' weights add up to `total_weight`.

        Raises:
            OurMistake: the sum does not fit 32 bits.
        """
        return cls(dimension, bits, norm_bound, modulus_bits_for(bits, total_weight))

    @property
    def block(self) -> int:
        """Size of a rotated block, a power of two."""
        if self.dimension >= LARGEST_BLOCK:
            return LARGEST_BLOCK
        return max(SMALLEST_BLOCK, 1 << (self.dimension - 1).bit_length())

    @property
    def columns(self) -> int:
        """Number of blocks."""
        return -(-self.dimension // self.block)

    @property
    def padded(self) -> int:
        """Number of integers in a vector, a multiple of 32."""
        return self.block * self.columns

    @property
    def half(self) -> int:
        """Largest quantised magnitude."""
        return (1 << (self.bits - 1)) - 1

    @property
    def scale(self) -> float:
        """Integer steps for one unit of a rotated coordinate."""
        return self.half * math.sqrt(self.padded) / (RANGE_IN_STD * self.norm_bound)

    @property
    def packed_bytes(self) -> int:
        """Length of a packed vector."""
        return self.padded * self.modulus_bits // 8


def modulus_bits_for(bits: int, total_weight: int) -> int:
    """m = b + ceil(log2(W)).

    Raises:
        OurMistake: W < 1.
    """
    if total_weight < 1:
        raise OurMistake("Weights add up to at least 1.")
    return bits + (total_weight - 1).bit_length()


@dataclass(frozen=True)
class Quantised:
    """What a node adds to the sum. The counts are for the node's own log and never leave.

    vector: uint32 (padded,), weight x q mod 2^m.
    """

    vector: Words = field(repr=False)
    clipped: int
    non_finite: int
    scaled: bool


def quantise(
    update: Floats, numbers: Numbers, rotation_seed: bytes, weight: int, rounding_seed: bytes
) -> Quantised:
    """Clip to the norm bound, rotate, round stochastically to `bits` bits, multiply by the weight.

    Unbiased up to clipping and float32. Non-finite elements become zero: refusing would be an
    answer about the data. The update must be private already (this is post-processing).

    Args:
        update: float32 (dimension,).
        rounding_seed: 32 bytes, used for nothing else.

    Raises:
        OurMistake: wrong shape or weight.
    """
    if update.shape != (numbers.dimension,) or weight < 1:
        raise OurMistake("The update has another size than the round's parameters say.")
    padded: Floats = np.zeros(numbers.padded, dtype=np.float32)
    inside = padded[: numbers.dimension]
    inside[:] = update
    square = float(np.dot(inside, inside))
    non_finite, scaled = 0, False
    # float32 is enough to see that the norm is far below the bound; else it is taken exactly
    if not square < 0.99 * numbers.norm_bound**2:
        finite = np.isfinite(inside)
        non_finite = int(inside.size - np.count_nonzero(finite))
        inside[~finite] = 0.0
        norm = math.sqrt(float(np.sum(np.square(inside, dtype=np.float64))))
        scaled = norm > numbers.norm_bound
        if scaled:
            np.multiply(inside, np.float64(numbers.norm_bound / norm), out=inside, casting="unsafe")
    padded *= _signs(rotation_seed, numbers.padded)
    rotated = _hadamard(padded.reshape(numbers.block, numbers.columns)).reshape(-1)
    rotated *= np.float32(numbers.scale / math.sqrt(numbers.block))
    half = np.float32(numbers.half)
    uniform = (keystream(rounding_seed, numbers.padded) >> np.uint32(8)).astype(np.float32)
    uniform *= np.float32(2.0**-24)
    rotated += uniform
    np.floor(rotated, out=rotated)
    clipped = int(np.count_nonzero(np.abs(rotated, out=uniform) > half))
    if clipped:
        np.clip(rotated, -half, half, out=rotated)
    integers = rotated.astype(np.int32)
    integers *= np.int32(weight)
    vector: Words = integers.view(np.uint32)
    vector &= np.uint32((1 << numbers.modulus_bits) - 1)
    return Quantised(vector, clipped, non_finite, scaled)


def mean_of(
    total: Words, numbers: Numbers, rotation_seed: bytes, total_weight: int
) -> npt.NDArray[np.float64]:
    """Mean update, float64 (dimension,), from the sum mod 2^m.

    Args:
        total: uint32 (padded,).
        total_weight: sum of the weights of the survivors.

    Raises:
        OurMistake: another length, or no weight.
    """
    if total.shape != (numbers.padded,) or total_weight < 1:
        raise OurMistake("This is not a sum of this round.")
    signed = total.astype(np.int64)
    signed[signed >= 1 << (numbers.modulus_bits - 1)] -= 1 << numbers.modulus_bits
    values = signed.astype(np.float64).reshape(numbers.block, numbers.columns)
    turned = _hadamard(values).reshape(-1)
    turned *= 1.0 / (numbers.scale * total_weight * math.sqrt(numbers.block))
    turned *= _signs(rotation_seed, numbers.padded)
    mean: npt.NDArray[np.float64] = turned[: numbers.dimension]
    return mean


def pack(vector: Words, modulus_bits: int) -> bytes:
    """m bits for each value, little-endian bit order; `len(vector) x m / 8` bytes.

    Raises:
        OurMistake: a length that is no multiple of 32, or a value of more than m bits.
    """
    if len(vector) % _GROUP or not 1 <= modulus_bits <= MAX_MODULUS_BITS:
        raise OurMistake("Vectors are packed in groups of 32 values of at most 32 bits.")
    if modulus_bits < MAX_MODULUS_BITS and len(vector) and int(vector.max()) >> modulus_bits:
        raise OurMistake("A value does not fit the modulus.")
    if modulus_bits == MAX_MODULUS_BITS:
        return vector.astype("<u4").tobytes()
    groups = np.ascontiguousarray(vector.reshape(-1, _GROUP).T)  # (value, group)
    words = np.zeros((modulus_bits, groups.shape[1]), dtype=np.uint32)  # (word, group)
    spill = np.empty(groups.shape[1], dtype=np.uint32)
    for value in range(_GROUP):
        word, shift = divmod(value * modulus_bits, 32)
        np.left_shift(groups[value], np.uint32(shift), out=spill)
        words[word] |= spill
        if shift + modulus_bits > 32:
            np.right_shift(groups[value], np.uint32(32 - shift), out=spill)
            words[word + 1] |= spill
    return np.ascontiguousarray(words.T).astype("<u4", copy=False).tobytes()


def unpack(data: bytes | memoryview, modulus_bits: int, padded: int) -> Words:
    """The reverse of `pack`: uint32 (padded,).

    Raises:
        OurMistake: another length.
    """
    if len(data) * 8 != padded * modulus_bits or padded % _GROUP:
        raise OurMistake("This is not a packed vector of this size.")
    flat = np.frombuffer(data, dtype="<u4")
    if modulus_bits == MAX_MODULUS_BITS:
        return flat.astype(np.uint32)
    words = np.ascontiguousarray(flat.reshape(-1, modulus_bits).T)  # (word, group)
    groups = np.empty((_GROUP, words.shape[1]), dtype=np.uint32)  # (value, group)
    spill = np.empty(words.shape[1], dtype=np.uint32)
    mask = np.uint32((1 << modulus_bits) - 1)
    for value in range(_GROUP):
        word, shift = divmod(value * modulus_bits, 32)
        np.right_shift(words[word], np.uint32(shift), out=groups[value])
        if shift + modulus_bits > 32:
            np.left_shift(words[word + 1], np.uint32(32 - shift), out=spill)
            groups[value] |= spill
        groups[value] &= mask
    return np.ascontiguousarray(groups.T).reshape(-1)


def flatten(update: Weights) -> Floats:
    """float32 (d,): the parameters in the order of their names, each row-major."""
    parts = [np.asarray(update[name], dtype=np.float32).reshape(-1) for name in sorted(update)]
    flat: Floats = np.concatenate(parts) if parts else np.zeros(0, dtype=np.float32)
    return flat


def unflatten(
    flat: npt.NDArray[np.float64], like: Mapping[str, npt.NDArray[np.float32]]
) -> dict[str, npt.NDArray[np.float64]]:
    """The reverse of `flatten`: name -> array of the shape in `like`.

    Raises:
        OurMistake: another number of elements.
    """
    sizes = [like[name].size for name in sorted(like)]
    if flat.shape != (sum(sizes),):
        raise OurMistake("The vector does not fit the parameters.")
    parts = np.split(flat, np.cumsum(sizes)[:-1]) if sizes else []
    return {
        name: part.reshape(like[name].shape) for name, part in zip(sorted(like), parts, strict=True)
    }


def _signs(seed: bytes, count: int) -> Floats:
    """+1 or -1 by the bits of the keystream, float32 (count,)."""
    bits = np.unpackbits(keystream(seed, -(-count // 32)).view(np.uint8), bitorder="little")
    signs: Floats = bits[:count].astype(np.float32)
    signs *= np.float32(-2.0)
    signs += np.float32(1.0)
    return signs


@cache
def _sylvester(size: int, kind: str) -> npt.NDArray[Any]:
    """Hadamard matrix of a power of two, Sylvester order, (size, size)."""
    matrix = np.ones((1, 1))
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix.astype(kind)


def _hadamard(columns: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Unnormalised Walsh-Hadamard transform of each column, (block, column).

    H of size a b is the Kronecker product of H_a and H_b: two matrix products, which are faster
    here than butterflies.
    """
    block, count = columns.shape
    bits = block.bit_length() - 1
    first, second = 1 << (bits // 2), 1 << (bits - bits // 2)
    kind = columns.dtype.str
    left, right = _sylvester(first, kind), _sylvester(second, kind)
    inner = (left @ columns.reshape(first, second * count)).reshape(first, second, count)
    outer: npt.NDArray[Any] = np.matmul(right, inner)  # (first, second, column)
    return outer.reshape(block, count)
