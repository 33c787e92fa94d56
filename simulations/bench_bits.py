"""Three tests of whether bits look like coin flips: monobit, runs, chi-square of the bytes.

Monobit and runs: NIST SP 800-22 rev. 1a, sections 2.1 and 2.3, in its approximation for long
sequences. They find a broken generator, they do not prove a good one.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

Words = npt.NDArray[np.uint64]


def p_values(data: bytes | npt.NDArray[Any]) -> dict[str, float]:
    """monobit_p, runs_p, chi_square_p of a multiple of 8 bytes; small means not random."""
    octets = np.frombuffer(data, dtype=np.uint8)
    words = octets.view("<u8")
    bits = 64 * len(words)
    ones = int(np.bitwise_count(words).sum(dtype=np.int64))
    return {
        "monobit_p": math.erfc(abs(2 * ones - bits) / math.sqrt(2 * bits)),
        "runs_p": _runs_p(words, bits, ones),
        "chi_square_p": float(stats.chisquare(np.bincount(octets, minlength=256)).pvalue),
    }


def _runs_p(words: Words, bits: int, ones: int) -> float:
    """Whether bits change as often as they should; 0 if there are far too many of one kind."""
    share = ones / bits
    if abs(share - 0.5) >= 2.0 / math.sqrt(bits):
        return 0.0
    inside = np.bitwise_count((words ^ (words >> np.uint64(1))) & np.uint64(2**63 - 1))
    between = (words[:-1] >> np.uint64(63)) != (words[1:] & np.uint64(1))
    runs = 1 + int(inside.sum(dtype=np.int64)) + int(np.count_nonzero(between))
    both = 2.0 * bits * share * (1.0 - share)
    return math.erfc(abs(runs - both) / (2.0 * math.sqrt(2.0 * bits) * share * (1.0 - share)))
