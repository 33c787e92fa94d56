"""A hospital's integers in mode distributed: sensitivity, noise, room, and their sum."""

import hashlib
import math

import numpy as np
import pytest
from scipy.stats import chi2

from shared_model.config import LocalTraining, PrivacyPlan
from shared_model.discrete_gaussian import LARGEST_VARIANCE
from shared_model.distributed import (
    FINENESS,
    Shares,
    mechanism,
    refuse_unfit,
    resolution_bits,
    rounded,
    sensitivity,
    share,
    share_variance,
)
from shared_model.errors import OurMistake
from shared_model.noise import NonPrivateForTests, SystemNoise
from shared_model.secure_sum.numbers import flatten_exact, mean_of, padded_dimension, rotate

PLAN = PrivacyPlan(0.1, 1.5, 0.5, 1, "distributed")
SEED = bytes(range(32))
SURE = 1e-7
"""Chance that a statistical test fails though all is well."""


def numbers_of(plan=PLAN, dimension=70, threshold=4, declared=(500, 300, 200, 100, 80)) -> Shares:
    return Shares.of_plan(plan, dimension=dimension, threshold=threshold, declared=declared)


def noise(site="a", round=1) -> NonPrivateForTests:
    return NonPrivateForTests("run", site, round, 1)


class NoNoise:
    """Stands for a source; only what `share` asks."""

    def discrete_gaussian(self, count, variance):
        return np.zeros(count, dtype=np.int64)


def signed(vector: np.ndarray, numbers: Shares) -> np.ndarray:
    values = vector.astype(np.int64)
    return np.where(
        values >> (numbers.modulus_bits - 1), values - (1 << numbers.modulus_bits), values
    )


@pytest.mark.parametrize("dimension", [1, 32, 33, 70, 4096, 5000, 110_592, 1_000_000, 2**27])
def test_rounding_adds_at_most_a_thousandth_to_the_sensitivity(dimension):
    root = math.sqrt(padded_dimension(dimension))
    steps = 2 ** resolution_bits(dimension)
    assert steps >= FINENESS * root
    assert steps + root <= sensitivity(dimension) < steps + root + 1.0
    assert sensitivity(dimension) <= steps * 1.0012
    assert sensitivity(padded_dimension(dimension)) == sensitivity(dimension)
    assert 8 <= resolution_bits(dimension) <= 24


def _patient(rng: np.random.Generator, kind: str, base: np.ndarray, numbers: Shares) -> np.ndarray:
    """One more patient, of norm C (1 - 1e-3), made to do harm."""
    size = numbers.dimension
    match kind:
        case "random":
            found = rng.standard_normal(size)
        case "one coordinate":
            found = np.zeros(size)
            found[rng.integers(size)] = rng.choice([-1.0, 1.0])
        case "all alike":
            found = np.ones(size)
        case "cancels the sum":
            found = -base
        case "one rotated coordinate":
            # all of it lands on one coordinate after the rotation
            found = np.linalg.pinv(_matrix(numbers))[:, rng.integers(numbers.padded)]
        case "half a step everywhere":
            # from just below a rounding edge to just above the next one, in every coordinate
            turned = rotate(base, numbers, SEED) * numbers.scale
            goal = np.floor(turned + 0.5) + rng.choice([-0.5000001, 0.5000001], turned.size)
            found = np.linalg.pinv(_matrix(numbers)) @ (goal - turned) / numbers.scale
    norm = np.linalg.norm(found)
    bound = numbers.norm_bound * (1.0 - 1e-3)
    if kind == "half a step everywhere" and norm <= bound:
        return found
    return found * (bound / norm)


def _matrix(numbers: Shares) -> np.ndarray:
    columns = [rotate(row, numbers, SEED) for row in np.eye(numbers.dimension)]
    return np.stack(columns, axis=1)  # (padded, d)


@pytest.mark.parametrize(
    "kind",
    [
        "random",
        "one coordinate",
        "all alike",
        "cancels the sum",
        "one rotated coordinate",
        "half a step everywhere",
    ],
)
@pytest.mark.parametrize("dimension", [64, 70])
def test_no_patient_that_an_adversary_makes_moves_the_integers_further_than_delta(kind, dimension):
    rng = np.random.default_rng(3)
    numbers = numbers_of(dimension=dimension)
    worst = 0.0
    for place in range(5):
        for size in (0.0, 1e-6, 0.3, 5.0, 40.0, 4000.0):  # empty, tiny, usual, clamped sums
            base = rng.standard_normal(dimension) * size / math.sqrt(dimension)
            if kind == "cancels the sum" and size == 0.0:
                base[0] = 1e-9
            other = base + _patient(rng, kind, base, numbers)
            one, _ = rounded(base, numbers, place, SEED)
            two, _ = rounded(other, numbers, place, SEED)
            worst = max(worst, float(np.linalg.norm((two - one).astype(np.float64))))
    assert worst <= sensitivity(dimension)
    if kind not in ("half a step everywhere",):
        assert worst > 0.99 * 2 ** resolution_bits(dimension), "the search reaches the bound"


def test_rounding_alone_can_move_nearly_every_coordinate():
    """Why sqrt(D) is in the sensitivity: a change of 1e-5 steps moves all coordinates by one."""
    numbers = numbers_of(dimension=64)
    turned = np.arange(64) + 0.4999999
    base = np.linalg.pinv(_matrix(numbers)) @ turned / numbers.scale
    other = np.linalg.pinv(_matrix(numbers)) @ (turned + 2e-7) / numbers.scale
    one, _ = rounded(base, numbers, 0, SEED)
    two, _ = rounded(other, numbers, 0, SEED)
    moved = np.linalg.norm(two - one)
    assert moved == pytest.approx(8.0)
    assert moved > 1e5 * np.linalg.norm(other - base) * numbers.scale


def test_the_worst_patient_gains_a_whole_step_in_every_coordinate_and_delta_covers_it():
    """He moves every coordinate by whole steps and a little, from just below a rounding edge."""
    numbers = numbers_of(dimension=64)
    back = np.linalg.inv(_matrix(numbers)) / numbers.scale
    edge, whole = np.full(64, 0.4999999), np.full(64, 1022.0)
    base, patient = back @ edge, back @ (whole + 2e-7)
    assert np.linalg.norm(patient) <= numbers.norm_bound * (1.0 - 1e-3)
    one, _ = rounded(base, numbers, 0, SEED)
    two, _ = rounded(base + patient, numbers, 0, SEED)
    moved = np.linalg.norm(two - one)
    assert moved == pytest.approx(np.linalg.norm(patient) * numbers.scale + 8.0, rel=1e-9)
    assert moved <= sensitivity(64)


def test_clamping_only_brings_integers_closer():
    numbers = numbers_of()
    rng = np.random.default_rng(5)
    long = rng.standard_normal(70) * 1e4
    found, clamped = rounded(long, numbers, 4, SEED)
    assert clamped > 0
    assert np.abs(found).max() == numbers.limits[4]
    assert rounded(np.zeros(70), numbers, 4, SEED)[1] == 0


def test_without_noise_the_sum_of_integers_gives_back_the_mean_of_the_sums():
    rng = np.random.default_rng(7)
    numbers = numbers_of(dimension=5000)
    totals = rng.standard_normal((5, 5000)) * 0.05
    vector = np.zeros(numbers.padded, dtype=np.uint32)
    for place, total in enumerate(totals):
        vector += share(total, numbers, place, SEED, NoNoise()).vector
    vector &= np.uint32((1 << numbers.modulus_bits) - 1)
    divisor = numbers.divisor(range(5))
    assert divisor == pytest.approx(0.1 * 1180)
    mean = mean_of(vector, numbers, SEED, divisor)
    exact = totals.sum(axis=0) / divisor
    assert np.linalg.norm(mean - exact) <= 1e-3 * np.linalg.norm(exact)
    step = numbers.norm_bound / 2**numbers.bits
    assert np.linalg.norm(mean - exact) * divisor <= 5 * 0.5 * step * math.sqrt(numbers.padded)


def test_a_whole_share_is_what_it_always_was():
    """Known answer: rotation, rounding, noise and modulus; the reference implementation agrees on
    the integers (tests/vectors)."""
    total = np.sin(np.arange(1.0, 71.0)) * 0.4
    made = share(total, numbers_of(), 1, SEED, noise())
    data = made.vector.astype("<u4").tobytes()
    assert hashlib.sha256(data).hexdigest() == KNOWN
    assert made.clamped == 0
    plain, _ = rounded(total, numbers_of(), 1, SEED)
    drawn = noise().discrete_gaussian(128, numbers_of().variance)
    assert (signed(made.vector, numbers_of()) == plain + drawn).all()


KNOWN = "81897e40cfb0a10385fc5cea0c617b0131ac521ca6f5d86dde5c8ebdfa6c27ae"


@pytest.mark.parametrize("count", [4, 5])
def test_the_noise_of_survivors_is_the_plans_at_t_and_more_above(count):
    """Chi-square over 16,384 coordinates: t = 4 survivors have sigma Delta, five have more."""
    numbers = numbers_of(dimension=16_384)
    total = sum(
        SystemNoise().discrete_gaussian(numbers.padded, numbers.variance) for _ in range(count)
    )
    wanted = (PLAN.noise_multiplier * sensitivity(16_384)) ** 2 * count / 4
    _chi_square(total, wanted)


def test_colluders_subtract_their_shares_and_the_accountants_noise_is_left():
    """Of five survivors two tell their noise; what remains is at least what is booked for k = 2
    of t = 4, and exactly that where four survive."""
    numbers = numbers_of(dimension=16_384)
    each = [SystemNoise().discrete_gaussian(numbers.padded, numbers.variance) for _ in range(4)]
    left = sum(each) - each[0] - each[1]
    paid = mechanism(PLAN, dimension=16_384, threshold=4, colluding=2)
    wanted = (paid.noise_multiplier * sensitivity(16_384)) ** 2
    _chi_square(left, wanted)
    assert paid.noise_multiplier == pytest.approx(1.5 * math.sqrt(0.5), rel=1e-6)


def _chi_square(values: np.ndarray, variance: float) -> None:
    statistic = float((values.astype(np.float64) ** 2).sum() / variance)
    assert SURE / 2 < chi2.cdf(statistic, values.size) < 1.0 - SURE / 2


def test_the_chi_square_test_catches_half_a_share_too_little():
    numbers = numbers_of(dimension=16_384)
    values = SystemNoise().discrete_gaussian(numbers.padded, numbers.variance * 7 // 8)
    with pytest.raises(AssertionError):
        _chi_square(values, float(numbers.variance))


@pytest.mark.parametrize("seed", range(40))
def test_the_limits_of_all_and_ten_deviations_of_all_noise_fit_the_modulus(seed):
    """Random plans and rosters: the largest sum that is planned for is below half the modulus, and
    one bit less would not do."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(3, 30))
    declared = [int(n) for n in 10 ** rng.uniform(1, 4, count)]
    plan = PrivacyPlan(
        float(rng.uniform(0.001, 0.2)),
        float(rng.uniform(0.3, 8.0)),
        float(10 ** rng.uniform(-3, 2)),
        1,
        "distributed",
    )
    dimension = int(10 ** rng.uniform(0, 6))
    threshold = 2 * count // 3 + 1
    numbers = numbers_of(plan, dimension, threshold, declared)
    largest = sum(numbers.limits) + 10.0 * math.sqrt(count * numbers.variance)
    assert largest < 2 ** (numbers.modulus_bits - 1) <= 2.001 * largest + 16
    assert numbers.modulus_bits <= 32
    exact = (plan.noise_multiplier * sensitivity(dimension)) ** 2 / threshold
    assert exact * (1 - 1e-12) <= numbers.variance <= exact + 1.0
    for limit, patients in zip(numbers.limits, declared, strict=True):
        # a sum in which all expected patients agree, spread by the rotation, is six times below
        agreed = plan.sample_rate * patients * 2**numbers.bits / math.sqrt(numbers.padded)
        assert limit > 6.0 * agreed


def test_sums_at_all_limits_do_not_wrap():
    numbers = numbers_of()
    vector = np.zeros(numbers.padded, dtype=np.uint32)
    for place in range(5):
        vector += share(np.full(70, 1e9), numbers, place, SEED, NoNoise()).vector
    vector &= np.uint32((1 << numbers.modulus_bits) - 1)
    values = signed(vector, numbers)
    assert np.abs(values).max() <= sum(numbers.limits)
    alone = [rounded(np.full(70, 1e9), numbers, place, SEED)[0] for place in range(5)]
    assert (values == sum(alone)).all()


def test_a_sum_that_needs_more_than_32_bits_is_refused_and_says_what_to_do():
    with pytest.raises(OurMistake, match="bits") as caught:
        numbers_of(PrivacyPlan(1.0, 1.0, 1.0, 1, "distributed"), declared=(90_000_000,) * 5)
    assert "sample rate" in caught.value.do


@pytest.mark.parametrize(
    "total",
    [np.zeros(69), np.zeros((1, 70)), np.zeros(70, dtype=np.float32), np.full(70, np.nan)],
    ids=["short", "matrix", "float32", "not finite"],
)
def test_what_is_no_float64_sum_of_this_size_is_refused(total):
    with pytest.raises(OurMistake):
        share(total, numbers_of(), 0, SEED, noise())


def test_float32_sums_never_become_integers():
    """Rounding a long sum to float32 would move it by more than the margin of clipping allows."""
    with pytest.raises(OurMistake, match="float64"):
        flatten_exact({"a": np.zeros(3), "b": np.zeros(2, dtype=np.float32)})


def test_only_plain_steps_are_taken():
    refuse_unfit(LocalTraining(optimiser="sgd"))
    with pytest.raises(OurMistake, match="plain steps"):
        refuse_unfit(LocalTraining(optimiser="adam"))


def test_shares_are_of_mode_distributed_only():
    with pytest.raises(OurMistake):
        share_variance(PrivacyPlan(0.1, 1.0, 1.0, 1), dimension=10, threshold=3)


def test_the_variance_of_a_share_is_within_what_the_sampler_draws():
    widest = PrivacyPlan(0.1, 9999.0, 1.0, 1, "distributed")
    assert share_variance(widest, dimension=2**27, threshold=2) < LARGEST_VARIANCE
