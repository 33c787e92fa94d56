"""Noise has the law it claims, cannot be repeated, and cannot be shared."""

from __future__ import annotations

import copy
import multiprocessing
import pickle

import numpy as np
import pytest
from scipy import stats

from shared_model.errors import OurMistake
from shared_model.noise import NonPrivateForTests, SystemNoise, grid

COUNT = 200_000
SURE = 1e-6
"""Each test of a law fails by chance once in a million runs."""


def test_noise_is_gaussian_with_the_asked_deviation() -> None:
    """Kolmogorov-Smirnov against N(0, 3^2) and chi-square of the variance."""
    draws = SystemNoise().normal(COUNT, 3.0)
    assert draws.dtype == np.float64
    assert stats.kstest(draws / 3.0, "norm").pvalue > SURE
    chi_square = float(np.sum((draws / 3.0) ** 2))
    low, high = stats.chi2.ppf([SURE / 2, 1 - SURE / 2], COUNT)
    assert low < chi_square < high


def test_noise_has_gaussian_tails() -> None:
    """Kurtosis and the number beyond 4 deviations are those of a Gaussian."""
    draws = SystemNoise().normal(COUNT, 1.0)
    assert abs(stats.kurtosis(draws)) < 5 * np.sqrt(24 / COUNT)
    beyond = int(np.sum(np.abs(draws) > 4.0))
    low, high = stats.binom.ppf([SURE, 1 - SURE], COUNT, 2 * stats.norm.sf(4.0))
    assert low <= beyond <= high


@pytest.mark.parametrize("std", [1e-12, 0.3, 1.0, 1.5, 1e12])
def test_noise_is_a_whole_number_of_steps_of_a_public_grid(std: float) -> None:
    """No holes: every residue of the steps modulo 256 is as frequent as the others."""
    step = grid(std)
    assert np.frexp(step)[0] == 0.5  # a power of two
    assert 2.0**39 <= std / step < 2.0**40
    steps = SystemNoise().normal(COUNT, std) / step
    assert np.array_equal(steps, np.rint(steps))
    residues = np.bincount(steps.astype(np.int64) & 255, minlength=256)
    assert stats.chisquare(residues).pvalue > SURE
    assert abs(np.std(steps) * step / std - 1) < 5 / np.sqrt(2 * COUNT)


def test_neighbouring_draws_are_uncorrelated() -> None:
    """Lags 1, 2 and the chunk lengths, where a reused keystream would show."""
    draws = SystemNoise().normal(COUNT, 1.0)
    for lag in (1, 2, 3, 1 << 15, 1 << 16, (1 << 16) + 1):
        correlation = np.corrcoef(draws[:-lag], draws[lag:])[0, 1]
        assert abs(correlation) < 6 / np.sqrt(COUNT - lag)


def test_squares_of_neighbours_are_uncorrelated() -> None:
    """Two branches of one Box-Muller pair would share their radius."""
    squares = SystemNoise().normal(COUNT, 1.0) ** 2
    for lag in (1, 1 << 15, 1 << 16):
        correlation = np.corrcoef(squares[:-lag], squares[lag:])[0, 1]
        assert abs(correlation) < 6 / np.sqrt(COUNT - lag)


def test_two_sources_never_repeat_each_other() -> None:
    """No value in common, and no correlation, between two sources and two calls."""
    one, other = SystemNoise(), SystemNoise()
    first, second, third = one.normal(5000, 1.0), one.normal(5000, 1.0), other.normal(5000, 1.0)
    for a, b in ((first, second), (first, third), (second, third)):
        assert not np.intersect1d(a, b).size
        assert abs(np.corrcoef(a, b)[0, 1]) < 6 / np.sqrt(5000)


def test_global_seeds_do_not_reach_the_noise() -> None:
    """Seeding numpy and torch changes nothing: the operating system is the only source."""
    import torch

    draws = []
    for _ in range(2):
        np.random.seed(7)
        torch.manual_seed(7)
        draws.append(SystemNoise().normal(100, 1.0))
    assert not np.intersect1d(draws[0], draws[1]).size


def test_system_noise_takes_no_seed() -> None:
    """There is no argument through which a configuration could reach it."""
    with pytest.raises(TypeError):
        SystemNoise(1)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        SystemNoise(seed=1)  # type: ignore[call-arg]


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_noise_source_cannot_be_duplicated(duplicate: object) -> None:
    """A copy would repeat the stream."""
    with pytest.raises(OurMistake, match="copied"):
        duplicate(SystemNoise())  # type: ignore[operator]


def _draw_in_child(noise: SystemNoise, answers: multiprocessing.Queue[str]) -> None:
    try:
        noise.normal(3, 1.0)
        answers.put("drew")
    except OurMistake:
        answers.put("refused")


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_noise_source_refuses_to_work_in_a_forked_process() -> None:
    """Two processes after a fork would draw equal noise; their difference is bare data."""
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    child = context.Process(target=_draw_in_child, args=(SystemNoise(), answers))
    child.start()
    assert answers.get(timeout=60) == "refused"
    child.join(60)


@pytest.mark.parametrize("std", [0.0, -1.0, float("nan"), float("inf"), 1e-300, 1e13])
def test_a_deviation_that_is_no_mechanism_is_refused(std: float) -> None:
    """Zero, negative, non-finite, or where float64 itself becomes coarse."""
    with pytest.raises(OurMistake):
        SystemNoise().normal(3, std)


def test_every_patient_is_sampled_at_the_rate() -> None:
    """Inclusion counts of each patient are binomial; sample sizes vary as a sum of coins."""
    noise, rate, rounds, patients = SystemNoise(), 0.1, 4000, 50
    included = np.zeros(patients)
    sizes = []
    for _ in range(rounds):
        sample = noise.poisson_sample(patients, rate)
        assert (np.diff(sample) > 0).all()
        included[sample] += 1
        sizes.append(len(sample))
    expected = rounds * rate
    chi_square = float(np.sum((included - expected) ** 2) / (expected * (1 - rate)))
    assert stats.chi2.sf(chi_square, patients) > SURE
    variance = patients * rate * (1 - rate)
    assert abs(np.var(sizes) / variance - 1) < 6 * np.sqrt(2 / rounds)


def test_rate_one_takes_all_and_no_patients_gives_nobody() -> None:
    """The edges of sampling."""
    noise = SystemNoise()
    assert noise.poisson_sample(5, 1.0).tolist() == [0, 1, 2, 3, 4]
    assert noise.poisson_sample(0, 0.5).size == 0
    assert noise.poisson_sample(1000, 1e-19).size == 0


@pytest.mark.parametrize("rate", [0.0, -0.1, 1.1, float("nan")])
def test_an_impossible_rate_is_refused(rate: float) -> None:
    """A rate is in (0, 1]."""
    with pytest.raises(OurMistake):
        SystemNoise().poisson_sample(3, rate)


def test_masks_of_two_rounds_differ() -> None:
    """Public choices come from the operating system too."""
    one, other = SystemNoise().public_generator(), SystemNoise().public_generator()
    assert not np.array_equal(one.random(8), other.random(8))


def test_non_private_noise_repeats_itself_and_says_so() -> None:
    """The same key, the same draws; any other key, others; and no claim of privacy."""

    def draws(*key: object) -> np.ndarray:
        source = NonPrivateForTests(*key)  # type: ignore[arg-type]
        parts = [source.normal(4, 2.0), source.public_generator().random(4)]
        return np.concatenate([*parts, source.poisson_sample(9, 0.5).astype(float)])

    assert np.array_equal(draws("run", "a", 1, 7), draws("run", "a", 1, 7))
    for other in (("run", "a", 2, 7), ("run", "b", 1, 7), ("other", "a", 1, 7), ("run", "a", 1, 8)):
        assert not np.array_equal(draws("run", "a", 1, 7)[:8], draws(*other)[:8])
    source = NonPrivateForTests("run", "a", 1, 7)
    assert not source.private
    assert "NON-PRIVATE" in source.name
    assert "NonPrivate" in repr(source)
    assert "inf" in repr(source)
    assert SystemNoise.private


def test_rounding_is_fresh_where_noise_is_and_repeats_where_it_repeats() -> None:
    """32 bytes, of another stream than the noise: asking for them changes no draw."""
    system = SystemNoise()
    seeds = {system.rounding_seed() for _ in range(50)}
    assert len(seeds) == 50
    assert {len(seed) for seed in seeds} == {32}
    first, second = (NonPrivateForTests("run", "site", 1, 2) for _ in range(2))
    seed = first.rounding_seed()
    assert len(seed) == 32
    assert seed == second.rounding_seed()
    assert np.array_equal(
        first.normal(5, 1.0), NonPrivateForTests("run", "site", 1, 2).normal(5, 1.0)
    )
    others = [
        ("other", "site", 1, 2),
        ("run", "b", 1, 2),
        ("run", "site", 2, 2),
        ("run", "site", 1, 3),
    ]
    assert len({seed, *(NonPrivateForTests(*key).rounding_seed() for key in others)}) == 5
