"""The integer sampler has exactly the law of the discrete Gaussian, whatever path a draw takes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import mpmath
import numpy as np
import pytest
from scipy import stats

from shared_model import discrete_gaussian as sampler
from shared_model.errors import OurMistake
from shared_model.noise import Keystream, NonPrivateForTests, SystemNoise

SURE = 1e-6
"""Each test of a law fails by chance once in a million runs."""
COUNT = 200_000
VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "discrete_gaussian.json").read_text())
SMALL = [Fraction(1, 16), Fraction(1, 4), Fraction(1), Fraction(37, 10) ** 2]
LARGE = [Fraction(10**6), Fraction(10**12), Fraction(1 << 56), sampler.LARGEST_VARIANCE]


class Script:
    """Words given one by one."""

    def __init__(self, *words: int) -> None:
        self.left = list(words)

    def words(self, count: int) -> np.ndarray:
        taken, self.left = self.left[:count], self.left[count:]
        assert len(taken) == count, "more words were drawn than expected"
        return np.array(taken, dtype=np.uint64)


def stream(key: int) -> Keystream:
    return Keystream(key.to_bytes(32, "big"))


def rho(x: int, variance: Fraction) -> mpmath.mpf:
    return mpmath.exp(-mpmath.mpf(x * x * variance.denominator) / (2 * variance.numerator))


@pytest.fixture(autouse=True)
def _many_digits() -> Iterator[None]:
    """mpmath's arithmetic in this file has 60 digits."""
    with mpmath.workdps(60):
        yield


def pmf(variance: Fraction) -> dict[int, float]:
    """Probabilities of the integers within 12 deviations, of 60-digit arithmetic."""
    end = int(12 * float(variance) ** 0.5) + 3
    each = {x: rho(x, variance) for x in range(-end, end + 1)}
    total = mpmath.fsum(each.values())
    return {x: float(value / total) for x, value in each.items()}


def chi_square_p(draws: np.ndarray, variance: Fraction) -> float:
    """Of every integer that is expected at least ten times, the others together."""
    law = pmf(variance)
    often = [x for x, p in law.items() if p * draws.size >= 10]
    found = [int(np.count_nonzero(draws == x)) for x in often]
    expected = [law[x] * draws.size for x in often]
    rest = draws.size - sum(found)
    other = sum(p for x, p in law.items() if x not in often) * draws.size
    if other < 1:  # too few for a chi-square; an exact bound instead
        assert stats.poisson.sf(rest - 1, other) > SURE
        expected = [value * sum(found) / sum(expected) for value in expected]
    else:
        found, expected = [*found, rest], [*expected, other]
        expected = [value * draws.size / sum(expected) for value in expected]
    return float(stats.chisquare(found, expected).pvalue)


@pytest.fixture
def fresh_tables() -> Iterator[None]:
    """Tables made under changed constants are forgotten."""
    sampler._table.cache_clear()
    yield
    sampler._table.cache_clear()


@pytest.mark.parametrize("vector", VECTORS["draws"], ids=lambda one: one["variance"])
def test_known_keystreams_give_known_integers(vector: dict[str, str]) -> None:
    """AES-256-CTR of a fixed key; a change of the law, or of the order of words, shows."""
    key = bytes.fromhex(vector["key"])
    draws = sampler.draw(VECTORS["count"], Fraction(vector["variance"]), Keystream(key))
    assert draws[:8].tolist() == vector["first"]
    assert hashlib.sha256(draws.astype("<i8").tobytes()).hexdigest() == vector["sha256"]


def test_the_keystream_is_aes_256_ctr() -> None:
    """NIST SP 800-38A, F.5.5, with the counter moved to zero: AES-256 of block 0 under that key."""
    key = bytes.fromhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
    wanted = np.frombuffer(bytes.fromhex("e568f68194cf76d6174d4cc04310a854"), dtype="<u8")
    assert Keystream(key).words(2).tolist() == wanted.tolist()
    parts = Keystream(key)
    together = np.concatenate([parts.words(n) for n in (1, 2, 70_000, 3)])
    assert np.array_equal(together, Keystream(key).words(70_006))
    for start in (1, 2, 3, 70_001):
        later = Keystream(key, start)
        assert np.array_equal(later.words(5), together[start : start + 5])
        assert later.drawn == start + 5


@pytest.mark.parametrize("variance", SMALL, ids=str)
def test_small_deviations_have_their_exact_probabilities(variance: Fraction) -> None:
    """Chi-square against 60-digit probabilities."""
    assert chi_square_p(SystemNoise().discrete_gaussian(COUNT, variance), variance) > SURE


@pytest.mark.parametrize("variance", LARGE, ids=str)
def test_large_deviations_are_gaussian_in_bins(variance: Fraction) -> None:
    """500 bins of equal probability; the law is smooth at this scale."""
    deviation = float(variance) ** 0.5
    draws = SystemNoise().discrete_gaussian(COUNT, variance)
    edges = np.ceil(stats.norm.ppf(np.linspace(0, 1, 501)[1:-1]) * deviation)
    found = np.bincount(np.searchsorted(edges, draws, side="right"), minlength=500)
    shares = np.diff(stats.norm.cdf((edges - 0.5) / deviation), prepend=0.0, append=1.0)
    assert stats.chisquare(found, shares * COUNT).pvalue > SURE


@pytest.mark.parametrize("variance", [*SMALL[2:], *LARGE], ids=str)
def test_moments_are_those_of_the_law(variance: Fraction) -> None:
    """Mean zero; the variance is sigma^2 to within e^(-2 pi^2 sigma^2) from 1 on."""
    draws = SystemNoise().discrete_gaussian(COUNT, variance).astype(np.float64)
    scaled = draws / float(variance) ** 0.5
    sure = float(stats.norm.isf(SURE / 2))
    assert abs(scaled.mean()) < sure / COUNT**0.5
    low, high = stats.chi2.ppf([SURE / 2, 1 - SURE / 2], COUNT)
    assert low < np.sum(scaled**2) < high
    assert abs(stats.kurtosis(scaled)) < 5 * np.sqrt(24 / COUNT)


def test_low_bits_of_large_integers_are_coin_flips() -> None:
    """Every residue modulo 256 is as frequent as the others: no holes."""
    draws = SystemNoise().discrete_gaussian(COUNT, Fraction(1 << 56))
    assert stats.chisquare(np.bincount(draws & 255, minlength=256)).pvalue > SURE


@pytest.mark.parametrize("variance", [*SMALL, Fraction(127**2), Fraction(128**2), *LARGE], ids=str)
def test_the_table_lies_under_the_law_and_the_residuals_over_it(variance: Fraction) -> None:
    """n_j <= H rho(x) 2^-40 <= n_j + g_j 2^-40 in every block: where rho is least and greatest."""
    table = sampler._table(variance)
    height = mpmath.mpf(table.height)
    width = 1 << table.place_bits
    assert table.starts[0] == -table.reach
    assert table.starts[-1] + width == table.reach
    assert set(np.diff(table.starts).tolist()) == {width}
    for start, cells, residual in zip(
        table.starts.tolist(), table.cells.tolist(), table.residuals.tolist(), strict=False
    ):
        at_ends = [height * rho(x, variance) for x in (start, start + width - 1)]
        assert cells << 40 <= min(at_ends)
        assert max(at_ends) <= (cells << 40) + residual
    # the tail's proposal lies over the law where it begins, and rho falls faster from there on
    stretch = 1 << sampler._stretch_bits(variance)
    proposed = Fraction(int(table.residuals[-1]) * width, 4 * stretch)
    assert height * rho(table.reach, variance) <= float(proposed)
    assert stretch**2 >= variance
    assert rho(table.reach + stretch, variance) * 2 < rho(table.reach, variance)
    # all cells are given to somebody, and what is in excess is nothing to speak of
    assert np.bincount(np.searchsorted(table.starts, table.first[: table.owned])).tolist() == [
        *np.trim_zeros(table.cells, "b").tolist()
    ]
    excess = ((1 << 16) - table.owned << 40) - int(table.ends[-1])
    assert 0 <= excess < 1 << 14


@pytest.mark.parametrize("variance", [Fraction(37, 10) ** 2, Fraction(1 << 56)], ids=str)
def test_rational_arithmetic_decides_as_float64_does(
    variance: Fraction, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With every case called doubtful the same words give the same integers."""
    plain = sampler.draw(20_000, variance, stream(5))
    asked = []
    decide = sampler._below

    def counted(*arguments: object) -> bool:
        asked.append(arguments)
        return decide(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(sampler, "_below", counted)
    assert np.array_equal(sampler.draw(20_000, variance, stream(5)), plain)
    assert not asked
    monkeypatch.setattr(sampler, "_MARGIN", 2.0)
    assert np.array_equal(sampler.draw(20_000, variance, stream(5)), plain)
    assert asked


def test_float64_exponentials_are_far_within_their_margin() -> None:
    """What the comparison takes for granted of this machine's numpy: 2^-47 relative, the margin is
    2^-34."""
    arguments = -np.random.default_rng(1).uniform(0.0, 100.0, 5000)
    for argument, found in zip(arguments, np.exp(arguments), strict=True):
        exact = mpmath.exp(mpmath.mpf(float(argument)))
        assert abs(mpmath.mpf(float(found)) - exact) <= exact * mpmath.mpf(2) ** -47


def test_a_doubtful_case_takes_more_bits_until_it_is_decided() -> None:
    """The first 64, and in one case 128, bits of Y are those of the bound itself."""
    variance = Fraction(10**6)
    table = sampler._table(variance)
    width, x = Fraction(1 << 52), 1234
    with mpmath.workdps(120):
        bound = table.height * mpmath.exp(-mpmath.mpf(x * x) / (2 * 10**6)) / (1 << 52)
        bits = int(mpmath.floor(bound * mpmath.mpf(2) ** 192))
    first, second, third = bits >> 128, bits >> 64 & (1 << 64) - 1, bits & (1 << 64) - 1
    assert all(1 < word < (1 << 64) - 2 for word in (first, second, third))  # room on both sides
    for words, below in [
        ([second - 1], True),
        ([second + 1], False),
        ([second, third - 1], True),
        ([second, third + 1], False),
    ]:
        script = Script(*words)
        assert sampler._below(first, width, 0, x, table, script) is below
        assert not script.left
    assert sampler._below(first - 1, width, 0, x, table, Script()) is True
    assert sampler._below(first + 1, width, 0, x, table, Script()) is False


def test_equality_at_zero_is_decided() -> None:
    """rho(0) is rational, so the bound can be met to the last of any number of bits."""
    table = sampler._table(Fraction(4))
    width = Fraction(2 * table.height)  # the bound is Y = 1/2
    assert sampler._below(1 << 63, width, 0, 0, table, Script()) is False
    assert sampler._below((1 << 63) - 1, width, 0, 0, table, Script()) is True


@pytest.mark.parametrize("variance", [Fraction(4), Fraction(300**2)], ids=str)
def test_the_tail_belongs_to_the_same_law(
    variance: Fraction, monkeypatch: pytest.MonkeyPatch, fresh_tables: None
) -> None:
    """Blocks that end at one deviation leave a third of all draws to the tail: nothing changes."""
    monkeypatch.setattr(sampler, "_REACH", Fraction(1))
    used = []
    tail = sampler._tail

    def counted(*arguments: object) -> int | None:
        used.append(arguments)
        return tail(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(sampler, "_tail", counted)
    draws = sampler.draw(20_000, variance, stream(11))
    assert len(used) > 5000
    assert chi_square_p(draws, variance) > SURE
    assert np.abs(draws).max() > 3 * float(variance) ** 0.5


def test_a_tail_draw_is_made_of_its_words() -> None:
    """Side, place, Y, and one word for each further stretch; a Y too large is rejected."""
    variance = Fraction(1 << 20)
    table = sampler._table(variance)
    stretch_bits = sampler._stretch_bits(variance)
    right, left, ahead, stop = 1 << 63, 0, 1 << 63, 0
    place = 5 << (64 - stretch_bits)
    assert sampler._tail(table, Script(right, place, 0, stop)) == table.reach + 5
    assert sampler._tail(table, Script(left, place, 0, stop)) == -table.reach - 6
    assert (
        sampler._tail(table, Script(right, place, 0, ahead, stop))
        == table.reach + (1 << stretch_bits) + 5
    )
    assert sampler._tail(table, Script(right, place, (1 << 64) - 1, stop)) is None


def test_neighbours_and_chunks_are_independent() -> None:
    """No correlation at lags 1 to 3 and one chunk, of values and of squares."""
    draws = SystemNoise().discrete_gaussian(COUNT, Fraction(10**6)) / 1e3
    for values in (draws, draws**2):
        for lag in (1, 2, 3, sampler.CHUNK, sampler.CHUNK + 1):
            correlation = np.corrcoef(values[:-lag], values[lag:])[0, 1]
            assert abs(correlation) < 6 / np.sqrt(COUNT - lag)


@pytest.mark.parametrize("count", [0, 1, sampler.CHUNK, sampler.CHUNK + 1])
def test_any_count_gives_that_many_int64(count: int) -> None:
    """Edges of a chunk, and nothing."""
    draws = SystemNoise().discrete_gaussian(count, Fraction(9))
    assert draws.dtype == np.int64
    assert draws.shape == (count,)


@pytest.mark.parametrize(
    "variance",
    [0.25, 1.0, "1", None, Fraction(0), Fraction(-1), Fraction(1, 17), (1 << 80) + 1],
    ids=repr,
)
def test_a_variance_that_is_not_exact_or_out_of_range_is_refused(variance: object) -> None:
    """A float hides a rounding; beyond 2^80 draws would not be exact as float64."""
    with pytest.raises(OurMistake, match="variance"):
        SystemNoise().discrete_gaussian(3, variance)  # type: ignore[arg-type]


def test_a_negative_count_is_refused() -> None:
    """Ours, not numpy's, message."""
    with pytest.raises(OurMistake, match="negative"):
        SystemNoise().discrete_gaussian(-1, Fraction(1))


def test_seeded_integers_repeat_and_system_integers_do_not() -> None:
    """Whole variances are taken too; no draw comes twice."""
    one, again, other = (NonPrivateForTests("run", "a", 1, seed) for seed in (7, 7, 8))
    first = one.discrete_gaussian(1000, Fraction(10**8))
    assert np.array_equal(first, again.discrete_gaussian(1000, 10**8))  # type: ignore[arg-type]
    assert not np.array_equal(first, other.discrete_gaussian(1000, Fraction(10**8)))
    assert not np.array_equal(first, one.discrete_gaussian(1000, Fraction(10**8)))
    system = SystemNoise()
    parts = [system.discrete_gaussian(1000, Fraction(1 << 56)) for _ in range(3)]
    assert all(not np.intersect1d(a, b).size for a, b in pairwise(parts))


@pytest.mark.parametrize("deviation", [3, 5, 8])
def test_it_is_nearly_a_rounded_gaussian(deviation: int) -> None:
    """Chi-square divergence 1 / (288 s^4), on which the argument of `shared_model.noise` rests."""
    with mpmath.workdps(40):
        s = mpmath.mpf(deviation)
        law = {x: mpmath.exp(-(x**2) / (2 * s**2)) for x in range(-12 * deviation, 12 * deviation)}
        total = mpmath.fsum(law.values())
        divergence = mpmath.fsum(
            (mpmath.ncdf((x + 0.5) / s) - mpmath.ncdf((x - 0.5) / s)) ** 2 / (p / total)
            for x, p in law.items()
        ) - mpmath.fsum(
            mpmath.ncdf((x + 0.5) / s) - mpmath.ncdf((x - 0.5) / s) for x in law
        ) * 2 + 1  # fmt: skip
        assert float(divergence * 288 * s**4) == pytest.approx(1.0, rel=0.05)
