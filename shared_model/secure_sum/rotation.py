"""The two halves of the rotation: random signs from a keystream, and the Hadamard transform.

Randomised Hadamard transform on interleaved blocks, Kairouz et al. 2021 (2102.06387, section 4.1).
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from shared_model.secure_sum.primitives import keystream

_FACTOR = 8
"""Size of the small Hadamard matrices that make up a large one."""
PIECE = 1 << 16
"""Coordinates that are worked on together: their arrays stay in the cache."""


def flip(values: npt.NDArray[Any], seed: bytes, out: npt.NDArray[Any]) -> None:
    """Negate element e where bit e of the keystream is 1; (k,), floating."""
    octets = keystream(seed, -(-len(values) // 32)).view(np.uint8)
    for start in range(0, len(values), PIECE):
        piece = values[start : start + PIECE]
        bits = np.unpackbits(octets[start // 8 : (start + PIECE) // 8], bitorder="little")
        signs = bits[: len(piece)].astype(values.dtype)
        signs *= -2.0
        signs += 1.0
        np.multiply(piece, signs, out=out[start : start + PIECE])


@cache
def _sylvester(size: int, kind: str) -> npt.NDArray[Any]:
    """Hadamard matrix of a power of two, Sylvester order, (size, size)."""
    matrix = np.ones((1, 1))
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix.astype(kind)


def hadamard(columns: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Unnormalised Walsh-Hadamard transform of each column, (block, column).

    H of size a b is the Kronecker product of H_a and H_b: a matrix product for each factor of 8,
    which is faster here than butterflies or one large product.
    """
    block = len(columns)
    done, turned = 1, columns
    while done < block:
        factor = min(_FACTOR, block // done)
        matrix = _sylvester(factor, columns.dtype.str)
        turned = np.matmul(matrix, turned.reshape(done, factor, -1))  # (done, factor, the rest)
        done *= factor
    return turned.reshape(columns.shape)
