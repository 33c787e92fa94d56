"""From an update to integers that add, and back: rotation, stochastic rounding, packing.

Rotation (`rotation`): spreads every coordinate over its block, so that one public scale fits all.
Overflow is excluded by arithmetic: |sum of weight x q| <= W (2^(bits-1) - 1) < 2^(modulus_bits-1).
Exact bytes: docs/secure-sum-wire.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from shared_model.errors import OurMistake
from shared_model.secure_sum.primitives import Words, keystream
from shared_model.secure_sum.rotation import PIECE, flip, hadamard
from shared_model.weights import Weights

LARGEST_BLOCK = 4096
SMALLEST_BLOCK = 32
RANGE_IN_STD = 6.0
"""A rotated coordinate of a vector at the norm bound has standard deviation bound / sqrt(padded);
beyond six of them it is clipped: a share of 2e-9 of a normal distribution."""
MAX_BITS = 24
"""Whole numbers of at most 24 bits are exact in float32, in which values are rounded."""
MAX_MODULUS_BITS = 32
_GROUP = 32
"""Values packed at once: 32 values of m bits are m 32-bit words."""
_COLUMNS = 64
"""Columns that are transformed back together."""
_UNPACKED = 1 << 14
"""Groups that are unpacked together."""
_TURNED = 256
"""Groups that are transposed together."""

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
        sizes = 2 <= self.bits <= MAX_BITS and self.bits < self.modulus_bits <= MAX_MODULUS_BITS
        if not (sizes and self.dimension >= 1 and 1e-12 < self.norm_bound < 1e12):
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
        return block_of(self.dimension)

    @property
    def columns(self) -> int:
        """Number of blocks."""
        return -(-self.dimension // self.block)

    @property
    def padded(self) -> int:
        """Number of integers in a vector, a multiple of 32."""
        return padded_dimension(self.dimension)

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

    def as_dict(self) -> dict[str, Any]:
        """As the transcript binds it."""
        return {
            "dimension": self.dimension,
            "bits": self.bits,
            "modulus_bits": self.modulus_bits,
            "norm_bound": self.norm_bound,
        }


def block_of(dimension: int) -> int:
    """Size of a rotated block, a power of two."""
    if dimension >= LARGEST_BLOCK:
        return LARGEST_BLOCK
    return max(SMALLEST_BLOCK, 1 << (dimension - 1).bit_length())


def padded_dimension(dimension: int) -> int:
    """Number of integers in a vector: whole blocks. Padding what is padded changes nothing."""
    block = block_of(dimension)
    return -(-dimension // block) * block


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
    padded: Floats = np.empty(numbers.padded, dtype=np.float32)
    padded[numbers.dimension :] = 0.0
    inside = padded[: numbers.dimension]
    flip(update, rotation_seed, inside)
    with np.errstate(over="ignore", invalid="ignore"):
        square = float(np.dot(inside, inside))
    non_finite, scaled = 0, False
    # float32 is enough to see that the norm is far below the bound; else it is taken exactly
    if not square < 0.99 * numbers.norm_bound**2:
        if not math.isfinite(square):
            finite = np.isfinite(inside)
            non_finite = int(inside.size - np.count_nonzero(finite))
            inside[~finite] = 0.0
        norm = _norm(inside)
        scaled = norm > numbers.norm_bound
        if scaled:
            np.multiply(inside, np.float64(numbers.norm_bound / norm), out=inside, casting="unsafe")
    rotated = hadamard(padded.reshape(numbers.block, numbers.columns)).reshape(-1)
    vector = keystream(rounding_seed, numbers.padded)
    clipped = 0
    for start in range(0, numbers.padded, PIECE):
        piece = slice(start, start + PIECE)
        clipped += _round(rotated[piece], vector[piece], numbers, weight)
    return Quantised(vector, clipped, non_finite, scaled)


def _norm(values: Floats) -> float:
    """L2 norm, added up in float64; finite for finite values."""
    square = 0.0
    for start in range(0, len(values), PIECE):
        piece = values[start : start + PIECE].astype(np.float64)
        square += float(np.dot(piece, piece))
    return math.sqrt(square)


def _round(rotated: Floats, words: Words, numbers: Numbers, weight: int) -> int:
    """Step 4 and 5 of the wire document: `words` is random and becomes weight x q mod 2^m.

    Returns:
        Number of clipped values.
    """
    half = np.float32(numbers.half)
    rotated *= np.float32(numbers.scale / math.sqrt(numbers.block))
    words >>= np.uint32(8)
    uniform = words.astype(np.float32)
    uniform *= np.float32(2.0**-24)
    rotated += uniform
    np.floor(rotated, out=rotated)
    clipped = 0
    if rotated.max() > half or rotated.min() < -half:
        clipped = int(np.count_nonzero(np.abs(rotated, out=uniform) > half))
        np.clip(rotated, -half, half, out=rotated)
    integers = words.view(np.int32)
    integers[:] = rotated
    integers *= np.int32(weight)
    words &= np.uint32((1 << numbers.modulus_bits) - 1)
    return clipped


def rotate(
    values: npt.NDArray[np.float64], numbers: Numbers, rotation_seed: bytes
) -> npt.NDArray[np.float64]:
    """The orthonormal rotation in float64: (dimension,) to (padded,)."""
    padded = np.zeros(numbers.padded)
    flip(values, rotation_seed, padded[: numbers.dimension])
    rotated = hadamard(padded.reshape(numbers.block, numbers.columns)).reshape(-1)
    turned: npt.NDArray[np.float64] = rotated * (1.0 / math.sqrt(numbers.block))
    return turned


def mean_of(
    total: Words, numbers: Numbers, rotation_seed: bytes, total_weight: float
) -> npt.NDArray[np.float64]:
    """Mean update, float64 (dimension,), from the sum mod 2^m.

    Args:
        total: uint32 (padded,).
        total_weight: sum of the weights of the survivors; in mode distributed the divisor.

    Raises:
        OurMistake: another length, or no weight.
    """
    if total.shape != (numbers.padded,) or not total_weight > 0.0:
        raise OurMistake("This is not a sum of this round.")
    beyond = np.uint32(MAX_MODULUS_BITS - numbers.modulus_bits)
    signed = (total << beyond).view(np.int32)
    signed >>= beyond.view(np.int32)  # the sign bit fills up
    columns = signed.reshape(numbers.block, numbers.columns)
    turned = np.empty(columns.shape, dtype=np.float64)
    unit = 1.0 / (numbers.scale * total_weight * math.sqrt(numbers.block))
    for start in range(0, numbers.columns, _COLUMNS):
        piece = slice(start, start + _COLUMNS)
        np.multiply(hadamard(columns[:, piece].astype(np.float64)), unit, out=turned[:, piece])
    flat = turned.reshape(-1)
    flip(flat, rotation_seed, flat)
    mean: npt.NDArray[np.float64] = flat[: numbers.dimension]
    return mean


def pack(vector: Words, modulus_bits: int) -> bytes:
    """m bits for each value, little-endian bit order; `len(vector) x m / 8` bytes.

    Raises:
        OurMistake: a length that is no multiple of 32, or a value of more than m bits.
    """
    return packed_words(vector, modulus_bits).tobytes()


def packed_words(vector: Words, modulus_bits: int) -> Words:
    """`pack` without the last copy: the bytes as contiguous little-endian words."""
    if len(vector) % _GROUP or not 1 <= modulus_bits <= MAX_MODULUS_BITS:
        raise OurMistake("Vectors are packed in groups of 32 values of at most 32 bits.")
    if modulus_bits < MAX_MODULUS_BITS and len(vector) and int(vector.max()) >> modulus_bits:
        raise OurMistake("A value does not fit the modulus.")
    if modulus_bits == MAX_MODULUS_BITS:
        return vector.astype("<u4")
    groups = _turned(vector.reshape(-1, _GROUP))  # (value, group)
    words = np.empty((modulus_bits, groups.shape[1]), dtype=np.uint32)  # (word, group)
    part = np.empty(groups.shape[1], dtype=np.uint32)
    for value, (word, shift, spilt) in enumerate(_places(modulus_bits)):
        if shift:
            words[word] |= np.left_shift(groups[value], np.uint32(shift), out=part)
        else:
            words[word] = groups[value]
        if spilt:
            np.right_shift(groups[value], np.uint32(32 - shift), out=words[word + 1])
    return _turned(words).astype("<u4", copy=False)


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
    total = PackedSum(modulus_bits, padded)
    total.add(data)
    return total.vector()


class PackedSum:
    """Sum mod 2^m of packed vectors, of which one at a time is unpacked."""

    def __init__(self, modulus_bits: int, padded: int) -> None:
        if padded % _GROUP or not 1 <= modulus_bits <= MAX_MODULUS_BITS:
            raise OurMistake("Vectors are packed in groups of 32 values of at most 32 bits.")
        self.modulus_bits, self.padded = modulus_bits, padded
        self._sums = np.zeros((_GROUP, padded // _GROUP), dtype=np.uint32)  # (value, group)

    def add(self, data: bytes | memoryview) -> None:
        """Add a packed vector.

        Raises:
            OurMistake: another length.
        """
        if len(data) * 8 != self.padded * self.modulus_bits:
            raise OurMistake("This is not a packed vector of this size.")
        packed = np.frombuffer(data, dtype="<u4").reshape(-1, self.modulus_bits)  # (group, word)
        for start in range(0, len(packed), _UNPACKED):
            piece = slice(start, start + _UNPACKED)
            self._add(_turned(packed[piece]), self._sums[:, piece])

    def _add(self, words: Words, sums: Words) -> None:
        part = np.empty(words.shape[1], dtype=np.uint32)
        # what the neighbours leave above bit m is carried along and cut off at the end
        for value, (word, shift, spilt) in enumerate(_places(self.modulus_bits)):
            sums[value] += np.right_shift(words[word], np.uint32(shift), out=part)
            if spilt:
                sums[value] += np.left_shift(words[word + 1], np.uint32(32 - shift), out=part)

    def vector(self) -> Words:
        """The sum so far, uint32 (padded,)."""
        found = _turned(self._sums).reshape(-1)
        found &= np.uint32((1 << self.modulus_bits) - 1)
        return found


def _places(modulus_bits: int) -> Iterator[tuple[int, int, bool]]:
    """Of each value of a group: its first word, its first bit there, whether it goes on beyond."""
    for value in range(_GROUP):
        word, shift = divmod(value * modulus_bits, 32)
        yield word, shift, shift + modulus_bits > 32


def _turned(matrix: Words) -> Words:
    """Contiguous transpose of a matrix of which one side is short."""
    rows, columns = matrix.shape
    turned: Words = np.empty((columns, rows), dtype=np.uint32)
    if rows > columns:
        for start in range(0, rows, _TURNED):
            turned[:, start : start + _TURNED] = matrix[start : start + _TURNED].T
    else:
        for start in range(0, columns, _TURNED):
            turned[start : start + _TURNED] = matrix[:, start : start + _TURNED].T
    return turned


def flatten(update: Weights) -> Floats:
    """float32 (d,): the parameters in the order of their names, each row-major."""
    parts = [np.asarray(update[name], dtype=np.float32).reshape(-1) for name in sorted(update)]
    flat: Floats = np.concatenate(parts) if parts else np.zeros(0, dtype=np.float32)
    return flat


def flatten_exact(update: Weights) -> npt.NDArray[np.float64]:
    """As `flatten`, of float64 arrays: not a bit is lost.

    Raises:
        OurMistake: an array is not float64.
    """
    if any(value.dtype != np.float64 for value in update.values()):
        raise OurMistake("Sums of mode distributed are float64 until they are integers.")
    flat: npt.NDArray[np.float64] = np.concatenate([update[n].reshape(-1) for n in sorted(update)])
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
