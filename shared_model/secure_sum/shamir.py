"""Shamir's secret sharing, byte by byte over GF(2^8).

Source: Shamir 1979; field polynomial x^8 + x^4 + x^3 + x + 1 (0x11b), as in AES. A share of a
32-byte secret has 32 bytes; receiver with index r (from 0) evaluates at x = r + 1, so there are at
most 255 receivers. Fewer than `threshold` shares are independent of the secret.

Multiplication is by table: on a machine shared with an attacker, cache timing may tell something
about the shares (docs/secure-sum.md, sharp edges).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from shared_model.errors import OurMistake
from shared_model.secure_sum.primitives import SEED_BYTES

Bytes = npt.NDArray[np.uint8]

MAX_RECEIVERS = 255
_POLYNOMIAL = 0x11B


def _table() -> Bytes:
    """Products of all pairs, (256, 256)."""
    factors = np.arange(256, dtype=np.uint16)
    table = np.zeros((256, 256), dtype=np.uint16)
    shifted = np.broadcast_to(factors, (256, 256)).copy()
    for bit in range(8):
        table ^= np.where((factors[:, None] >> bit) & 1, shifted, 0).astype(np.uint16)
        carried = np.where(shifted >> 7, _POLYNOMIAL, 0)
        shifted = ((shifted << 1) ^ carried).astype(np.uint16)
    return table.astype(np.uint8)


PRODUCT = _table()
_INVERSE = np.argmax(PRODUCT == 1, axis=1).astype(np.uint8)


def split(secrets: Bytes, threshold: int, receivers: int, coefficients: bytes) -> Bytes:
    """Shares of several secrets.

    Args:
        secrets: uint8 (secret, 32).
        coefficients: `secrets x (threshold - 1) x 32` fresh random bytes, (secret, power, byte).

    Returns:
        uint8 (receiver, secret, 32).

    Raises:
        OurMistake: wrong sizes.
    """
    count = len(secrets)
    if secrets.shape != (count, SEED_BYTES) or not 1 <= threshold <= receivers <= MAX_RECEIVERS:
        raise OurMistake("These secrets cannot be shared so.")
    if len(coefficients) != count * (threshold - 1) * SEED_BYTES:
        raise OurMistake("Shamir's polynomials need another number of random bytes.")
    powers = np.frombuffer(coefficients, dtype=np.uint8).reshape(count, threshold - 1, SEED_BYTES)
    shares: Bytes = np.empty((receivers, count, SEED_BYTES), dtype=np.uint8)
    # (secret x byte,) for each power, contiguous
    rows = [np.ascontiguousarray(powers[:, power]).reshape(-1) for power in range(threshold - 1)]
    for receiver in range(receivers):
        times_x = PRODUCT[receiver + 1].tobytes()  # bytes.translate is faster than indexing
        value: Bytes = np.zeros(count * SEED_BYTES, dtype=np.uint8)
        for row in reversed(rows):  # Horner
            value = np.frombuffer((value ^ row).tobytes().translate(times_x), dtype=np.uint8)
        shares[receiver] = value.reshape(secrets.shape) ^ secrets
    return shares


def rebuild(shares: Mapping[int, bytes]) -> bytes:
    """The secret from exactly `threshold` shares: receiver's index -> 32 bytes.

    More shares than the threshold give the same secret if all lie on one polynomial; which of
    them are used is the caller's choice.

    Raises:
        OurMistake: no share, an index out of range, or a share of another length.
    """
    if not shares or not all(0 <= index < MAX_RECEIVERS for index in shares):
        raise OurMistake("A secret is rebuilt from shares of receivers 0 ... 254.")
    if any(len(share) != SEED_BYTES for share in shares.values()):
        raise OurMistake("A share has 32 bytes.")
    points = sorted(shares)
    secret: Bytes = np.zeros(SEED_BYTES, dtype=np.uint8)
    for index in points:
        weight = 1  # Lagrange at 0: product of x_j / (x_j - x_i); minus is xor
        for other in points:
            if other != index:
                x, y = other + 1, index + 1
                weight = int(PRODUCT[weight, PRODUCT[x, _INVERSE[x ^ y]]])
        secret ^= PRODUCT[weight][np.frombuffer(shares[index], dtype=np.uint8)]
    return secret.tobytes()
