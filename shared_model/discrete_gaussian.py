"""Exact sampler of the discrete Gaussian N_Z(0, sigma^2) (Canonne, Kamath, Steinke, 2004.00010).

P(x) is proportional to rho(x) = exp(-x^2 / (2 sigma^2)) on all integers, sigma^2 rational. The law
is exact: given ideal random bits, no rounding decides an outcome. 2004.00010 (section 5) tosses
exact coins one by one; here the same law is had from a table, as in a discrete ziggurat (Buchmann
et al., SAC 2013), so that most draws are one look-up without any real number in it.

Rejection sampling with a squeeze. The integers are cut into blocks of w = 2^m. The unit of mass is
a *cell*, of 2^16. H is an integer; the target puts H 2^-40 rho(x) / w cells on every x.

1. One 64-bit word gives a cell and a place r < w in a block: its top 16 bits and its lowest m.
2. Block j owns n_j whole cells, n_j <= H 2^-40 rho(x) for every x in it. A cell that is owned gives
   x = j w + r at once: mass n_j / w on each x.
3. The other cells are shared out as residuals of g_j 2^-40 cells, n_j + g_j 2^-40 >= H 2^-40 rho(x)
   for every x of the block, or are in excess. A fresh word picks one; excess begins anew at 1. In
   block j the candidate is again x = j w + r, accepted with probability
   (H rho(x) - 2^40 n_j) / g_j, in [0, 1]; a rejected one begins anew. Mass: the missing part.
4. Beyond the blocks (9.5 sigma, picked about once in 2^56 draws) the proposal has tails that halve
   over each further stretch of >= sigma: rho falls faster, so the law has no end anywhere.

Together H 2^-40 rho(x) / w on every integer, which is the law whatever H is: the normalising
constant is never needed.

Where real numbers come in, and why they decide nothing:

- The table needs n_j too small, or g_j too large, by any amount: it is made of integers from
  `decimal`'s exp, which is correctly rounded, widened by its error bound.
- Acceptance compares a real uniform Y, of which 64 bits are drawn first, with
  (H rho(x) - 2^40 n_j) / g_j. Both sides are computed in float64 with a relative error below 2^-44
  (square, product and quotient give 3 roundings of an argument below 100; exp may be off by 2^5
  units in the last place, more than any library is). If they differ by more than 2^-34 of their
  sum, the comparison is certain. Otherwise, once in several 1e9 draws, `_below` decides in
  rationals, drawing more bits of Y and digits of rho(x) until the intervals around both are apart.
  That ends with probability one.

The run time depends on the words drawn, rejected ones mostly; see docs/adr/0015-noise.md.
"""

from __future__ import annotations

import decimal
import math
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Protocol

import numpy as np
import numpy.typing as npt

from shared_model.errors import OurMistake

Integers = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]

SMALLEST_VARIANCE = Fraction(1, 16)
LARGEST_VARIANCE = Fraction(1 << 80)
"""A draw is below 2^53 but for one of 2^(-10^7), and exact as float64."""
CHUNK = 1 << 15
"""Draws made at once: words, cells and results stay in the cache."""
_CELL_BITS = 16
_UNIT_BITS = 40
_REACH = Fraction(19, 2)
"""Blocks go to this many sigma."""
_BLOCKS_PER_SIGMA = 64
_MARGIN = 2.0**-34
_SCALE_BITS = 100
_FINE_DIGITS = 40


class WordStream(Protocol):
    """Where random bits come from."""

    def words(self, count: int) -> Words:
        """uint64 (count,), the next of the stream, writable."""


@dataclass(frozen=True)
class _Table:
    """What is public about one variance. Blocks are counted from the lowest, the tail is last."""

    variance: Fraction
    place_bits: int
    reach: int
    """Blocks cover -reach <= x < reach."""
    height: int
    """H."""
    first: Integers
    """(2^16,) lowest integer of the block that owns the cell, 0 where none does."""
    owned: int
    """Cells below this number are owned."""
    starts: Integers
    """(block,) lowest integer."""
    cells: Integers
    """(block,) n_j."""
    residuals: Integers
    """(block + 1,) g_j, and the tail's."""
    ends: Integers
    """(block + 1,) running sum of `residuals`."""


def draw(count: int, variance: Fraction, stream: WordStream) -> Integers:
    """int64 (count,), independent N_Z(0, variance), from the next words of the stream.

    Raises:
        OurMistake: the count is negative or the variance is not in 1/16 ... 2^80.
    """
    if count < 0:
        raise OurMistake("A number of draws cannot be negative.")
    table = _table(_checked(variance))
    result = np.empty(count, dtype=np.int64)
    slow, words = [], []
    inside = np.uint64((1 << table.place_bits) - 1)
    for start in range(0, count, CHUNK):
        part = result[start : start + CHUNK]
        fresh = stream.words(part.size)
        cell = (fresh >> np.uint64(64 - _CELL_BITS)).view(np.int64)
        np.take(table.first, cell, out=part, mode="clip")  # clip: never happens, and is faster
        unowned = np.flatnonzero(cell >= table.owned)
        slow.append(unowned + start)
        words.append(fresh[unowned])
        fresh &= inside
        part += fresh.view(np.int64)
    if count:
        _finish(result, np.concatenate(slow), np.concatenate(words), table, stream)
    return result


def _finish(
    result: Integers, at: Integers, words: Words, table: _Table, stream: WordStream
) -> None:
    """Steps 3 and 4 for the places `at`, whose words hit cells that no block owns."""
    if not at.size:
        return
    fresh = stream.words(2 * at.size)
    offset = (words >> np.uint64(64 - _CELL_BITS)) - np.uint64(table.owned)
    pick = (offset << np.uint64(_UNIT_BITS)) | (fresh[: at.size] >> np.uint64(64 - _UNIT_BITS))
    block = np.searchsorted(table.ends, pick.view(np.int64), side="right")
    regular = np.flatnonzero(block < table.starts.size)
    chosen, inside = block[regular], np.uint64((1 << table.place_bits) - 1)
    value = table.starts[chosen] + (words[regular] & inside).view(np.int64)
    accepted = np.zeros(at.size, dtype=bool)
    accepted[regular] = _accepted(value, chosen, fresh[at.size :][regular], table, stream)
    result[at[regular]] = value  # of the rejected ones too: they are drawn again below
    for place in np.flatnonzero(block == table.starts.size):
        found = _tail(table, stream)
        if found is not None:
            result[at[place]], accepted[place] = found, True
    again = at[~accepted]
    result[again] = draw(again.size, table.variance, stream)


def _accepted(
    value: Integers, block: Integers, uniform: Words, table: _Table, stream: WordStream
) -> npt.NDArray[np.bool_]:
    """bool: Y g_j + 2^40 n_j < H rho(x), with Y in [uniform, uniform + 1) / 2^64."""
    x = value.astype(np.float64)
    target = float(table.height) * np.exp(x * x / float(-2 * table.variance))
    used = uniform.astype(np.float64) * 2.0**-64 * table.residuals[block].astype(np.float64)
    used += table.cells[block].astype(np.float64) * 2.0**_UNIT_BITS
    accepted: npt.NDArray[np.bool_] = used < target
    for place in np.flatnonzero(np.abs(target - used) <= _MARGIN * (target + used)):
        accepted[place] = _below(
            int(uniform[place]),
            Fraction(int(table.residuals[block[place]])),
            int(table.cells[block[place]]) << _UNIT_BITS,
            int(value[place]),
            table,
            stream,
        )
    return accepted


def _below(
    uniform: int, width: Fraction, base: int, x: int, table: _Table, stream: WordStream
) -> bool:
    """Y width + base < H rho(x) for a real Y of which 64 bits are known: exactly."""
    bits, digits = 64, _FINE_DIGITS
    while True:
        low, high = _rho(x * x, table.variance, digits)
        unit = width / (1 << bits)
        if (uniform + 1) * unit + base <= table.height * low:
            return True
        if uniform * unit + base >= table.height * high:
            return False
        uniform = (uniform << 64) | int(stream.words(1)[0])
        bits, digits = bits + 64, digits + 20


def _tail(table: _Table, stream: WordStream) -> int | None:
    """A number beyond the blocks, or None if the candidate is rejected."""
    stretch_bits = _stretch_bits(table.variance)
    side, place, uniform = (int(word) for word in stream.words(3))
    stretches = 0
    while int(stream.words(1)[0]) >> 63:
        stretches += 1
    beyond = (stretches << stretch_bits) + (place >> (64 - stretch_bits) if stretch_bits else 0)
    x = table.reach + beyond if side >> 63 else -table.reach - 1 - beyond
    # proposed with g 2^-(2 + stretches) / stretch, wanted H rho(x) / w; see step 4
    width = Fraction(
        int(table.residuals[-1]) << table.place_bits, 1 << (stretches + 2 + stretch_bits)
    )
    return x if _below(uniform, width, 0, x, table, stream) else None


def _checked(variance: object) -> Fraction:
    """As a Fraction; a float, which hides a rounding, is refused."""
    if not isinstance(variance, int | Fraction):
        raise OurMistake("A variance must be an exact rational.", do="Give a Fraction.")
    if not SMALLEST_VARIANCE <= variance <= LARGEST_VARIANCE:
        raise OurMistake("The variance of a discrete Gaussian must be in 1/16 ... 2^80.")
    return Fraction(variance)


def _stretch_bits(variance: Fraction) -> int:
    """Stretches of the tail have a length of 2^this, at least sigma."""
    return math.isqrt(math.ceil(variance)).bit_length()


@lru_cache(maxsize=64)
def _table(variance: Fraction) -> _Table:
    """Table of a variance; some 10 ms, nothing in it is secret."""
    place_bits = max(0, math.isqrt(int(variance) // _BLOCKS_PER_SIGMA**2).bit_length() - 1)
    width = 1 << place_bits
    count = math.isqrt(math.ceil(_REACH**2 * variance)) // width + 1  # blocks on either side
    edges = [_rho((i * width) ** 2, variance, _FINE_DIGITS) for i in range(count + 1)]
    low = [math.floor(below * (1 << _SCALE_BITS)) for below, _ in edges]
    high = [math.ceil(above * (1 << _SCALE_BITS)) for _, above in edges]
    # rho over [j w, j w + w): between its values at the ends, one of which is outside if w > 1
    inner = 1 if width > 1 else 0
    least = [low[-j] if j < 0 else low[j + inner] for j in range(-count, count)]
    most = [high[-j - inner] if j < 0 else high[j] for j in range(-count, count)]
    stretch = 1 << _stretch_bits(variance)
    tail = -(-4 * stretch * high[count] // width)
    height = ((1 << (_CELL_BITS + _UNIT_BITS)) - len(most) - 1 << _SCALE_BITS) // (sum(most) + tail)
    cells = [height * one >> (_SCALE_BITS + _UNIT_BITS) for one in least]
    residuals = [
        -(-height * one >> _SCALE_BITS) - (owned << _UNIT_BITS)
        for one, owned in zip(most, cells, strict=True)
    ]
    residuals.append(-(-height * tail >> _SCALE_BITS))
    starts = np.arange(-count, count, dtype=np.int64) * width
    first = np.zeros(1 << _CELL_BITS, dtype=np.int64)
    first[: sum(cells)] = np.repeat(starts, cells)
    return _Table(
        variance=variance,
        place_bits=place_bits,
        reach=count * width,
        height=height,
        first=first,
        owned=sum(cells),
        starts=starts,
        cells=np.array(cells, dtype=np.int64),
        residuals=np.array(residuals, dtype=np.int64),
        ends=np.cumsum(residuals, dtype=np.int64),
    )


def _rho(square: int, variance: Fraction, digits: int) -> tuple[Fraction, Fraction]:
    """Bounds of exp(-square / (2 variance)), equal to about `digits` digits.

    Decimal's division and exp are correctly rounded: relative errors of 10^(1 - digits) each, the
    first of which counts as often as the argument is large.
    """
    if not square:
        return Fraction(1), Fraction(1)
    context = decimal.Context(prec=digits, Emin=decimal.MIN_EMIN, Emax=decimal.MAX_EMAX)
    argument = context.divide(
        decimal.Decimal(-square * variance.denominator), decimal.Decimal(2 * variance.numerator)
    )
    middle = Fraction(context.exp(argument))
    slack = middle * (1 + math.ceil(-argument)) / 10 ** (digits - 2)
    return middle - slack, middle + slack
