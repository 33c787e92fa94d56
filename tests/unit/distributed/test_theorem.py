"""The theorem of docs/adr/0014: exact laws of tiny cases against what the accountant claims."""

import math

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from shared_model import accounting
from shared_model.accounting import Mechanism
from shared_model.config import PrivacyPlan
from shared_model.distributed import (
    bound,
    flatness,
    mechanism,
    sensitivity,
    smoothing_slack,
    sum_slack,
)
from shared_model.errors import OurMistake

PLAN = PrivacyPlan(0.1, 1.0, 0.5, 1, "distributed")
ROUNDING = 1e-12
"""Of float64 in the laws below."""


def law(variance: float, reach: int) -> np.ndarray:
    """N_Z(0, variance) on -reach ... reach."""
    x = np.arange(-reach, reach + 1)
    mass = np.exp(-(x**2) / (2.0 * variance))
    return mass / mass.sum()


def law_of_sum(shares: int, variance: float) -> np.ndarray:
    """Of independent shares, on a range beyond which there is nothing that float64 could hold."""
    one = law(variance, math.ceil(12.0 * math.sqrt(variance)) + 2)
    found = one
    for _ in range(shares - 1):
        found = np.convolve(found, one)
    return found


def moved(mass: np.ndarray, by: int) -> np.ndarray:
    """The law of x + by on the same range, widened by |by| on both sides by the caller."""
    return np.roll(mass, by)


def pair(q: float, shares: int, variance: float, shift: tuple[int, ...]) -> tuple[np.ndarray, ...]:
    """Exact laws without and with one patient, who moves coordinate i by shift[i] if sampled."""
    without, with_him = np.ones(1), np.ones(1)
    for by in shift:
        mass = np.pad(law_of_sum(shares, variance), abs(by) + 1)
        without = np.multiply.outer(without, mass)
        with_him = np.multiply.outer(with_him, moved(mass, by))
    without, with_him = without.ravel(), with_him.ravel()
    return without, (1.0 - q) * without + q * with_him


def delta_of(one: np.ndarray, other: np.ndarray, epsilon: float) -> float:
    """Hockey-stick divergence, the larger of both directions."""
    there = np.maximum(one - math.exp(epsilon) * other, 0.0).sum()
    back = np.maximum(other - math.exp(epsilon) * one, 0.0).sum()
    return float(max(there, back))


def gaussian_delta(q: float, sigma: float, epsilon: float) -> float:
    """Hockey-stick divergence of the Poisson-subsampled Gaussian, the larger direction, exact.

    The likelihood ratio (1 - q) + q exp((2 x - 1) / (2 sigma^2)) rises in x.
    """
    found = [0.0]
    for level, sign in ((math.exp(epsilon), 1.0), (math.exp(-epsilon), -1.0)):
        if level <= 1.0 - q:
            continue
        x = sigma**2 * math.log((level - 1.0 + q) / q) + 0.5
        above_0, above_1 = norm.sf(x / sigma), norm.sf((x - 1.0) / sigma)
        mixed = (1.0 - q) * above_0 + q * above_1
        if sign > 0:
            found.append(mixed - math.exp(epsilon) * above_0)
        else:
            found.append((1.0 - above_0) - math.exp(epsilon) * (1.0 - mixed))
    return max(found)


CASES = [
    # q, shares, variance of a share, shift
    (0.3, 1, 0.5, (1,)),
    (0.3, 2, 0.5, (1,)),
    (0.2, 3, 1.0, (2,)),
    (0.5, 2, 4.0, (3,)),
    (0.1, 4, 2.0, (3,)),
    (0.3, 2, 1.0, (1, 1)),
    (0.2, 3, 0.7, (1, -2)),
    (1.0, 2, 3.0, (2, 1)),
]


@pytest.mark.parametrize(("q", "shares", "variance", "shift"), CASES)
@pytest.mark.parametrize("width", [0.55, 0.65])
def test_the_exact_divergence_is_below_the_theorem_also_where_its_slack_is_large(
    q, shares, variance, shift, width
):
    """delta of the integers at epsilon + 2 slack <= exp(slack) x delta of the Gaussian."""
    paid = bound(
        q,
        change=math.hypot(*shift),
        shares=shares,
        variance=variance,
        dimension=len(shift),
        width=width,
    )
    one, other = pair(q, shares, variance, shift)
    for epsilon in np.linspace(0.0, 4.0, 33):
        exact = delta_of(one, other, epsilon + 2.0 * paid.slack)
        claimed = math.exp(paid.slack) * gaussian_delta(q, paid.noise_multiplier, epsilon)
        assert exact <= claimed + ROUNDING


@pytest.mark.parametrize(("q", "shares", "variance", "shift"), CASES[2:5] + CASES[7:])
@pytest.mark.parametrize("steps", [1, 3])
def test_the_exact_delta_of_composed_steps_is_below_what_the_accountant_was_asked_for(
    q, shares, variance, shift, steps
):
    """Variances below are large enough for a width whose slack the accountant accepts."""
    delta = 1e-3
    scale = 6  # integers six times finer: the same mechanism with a negligible slack
    shift = tuple(scale * by for by in shift)
    variance = variance * scale**2
    paid = bound(
        q,
        change=math.hypot(*shift),
        shares=shares,
        variance=variance,
        dimension=len(shift),
        steps=steps,
        width=1.5,
    )
    epsilon = accounting.epsilon_pld([paid], delta)
    # a Gaussian's loss depends on one direction only, the integers' on all of them
    one, other = pair(q, shares, variance, shift)
    exact = max(_composed(one, other, steps, epsilon), _composed(other, one, steps, epsilon))
    assert exact <= delta
    assert exact > 0.5 * delta, "so loose a claim would let the noise be halved unnoticed"


def _composed(one: np.ndarray, other: np.ndarray, steps: int, epsilon: float) -> float:
    """Delta at epsilon of `steps` steps, from below: losses are rounded down to a grid of 1e-3."""
    step = 1e-3
    good = (one > 1e-18) & (other > 1e-18)
    loss = np.floor(np.log(one[good] / other[good]) / step).astype(np.int64)
    low = loss.min()
    mass = np.bincount(loss - low, weights=one[good])
    total = np.ones(1)
    for _ in range(steps):
        total = np.convolve(total, mass)
    losses = (np.arange(total.size) + steps * low) * step
    above = losses > epsilon
    return float((total[above] * -np.expm1(epsilon - losses[above])).sum())


def test_a_claim_of_a_tenth_more_noise_than_there_is_is_caught():
    """The test above can fail."""
    q, shares, variance, shift = 0.5, 2, 144.0, (18,)
    one, other = pair(q, shares, variance, shift)
    wrong = bound(q, change=18.0, shares=shares, variance=1.21 * variance, dimension=1, width=1.5)
    epsilon = accounting.epsilon_pld([wrong], 1e-3)
    assert delta_of(one, other, epsilon) > 1e-3


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("variance", [0.25, 0.5, 1.0, 3.0])
def test_the_law_of_a_sum_of_shares_is_within_its_bound_and_is_not_the_discrete_gaussian(
    count, variance
):
    total = law_of_sum(count, variance)
    reach = total.size // 2
    alone = law(count * variance, reach)
    near = slice(reach - math.ceil(6 * math.sqrt(variance)), reach + 1)
    worst = np.abs(np.log(total[near] / alone[near])).max()
    slack = sum_slack(count, variance)
    assert worst <= slack + 1e-10
    if variance <= 0.5:
        assert worst > slack / 20.0, "the bound should say something"


@pytest.mark.parametrize(("variance", "width"), [(1.0, 0.6), (2.0, 0.8), (4.0, 1.0)])
def test_integers_are_within_their_bound_of_a_rounded_continuous_gaussian(variance, width):
    """The integral of the proof, done numerically, at x = 0 (whole shifts change nothing)."""
    alone = law(variance, 40)
    slack = smoothing_slack(variance, width)
    narrow = math.sqrt(variance - width**2)
    integers = np.arange(-60, 61)

    def kernel(y: float, z: int) -> float:
        weights = np.exp(-((integers - y) ** 2) / (2.0 * width**2))
        return math.exp(-((z - y) ** 2) / (2.0 * width**2)) / weights.sum()

    for z in range(4):
        rounded, _ = quad(
            lambda y, z=z: norm.pdf(y, scale=narrow) * kernel(y, z), -15.0, 15.0, limit=400
        )
        assert abs(math.log(alone[40 + z] / rounded)) <= slack + 1e-7


@pytest.mark.parametrize("variance", [0.05, 0.2, 1.0, 9.0])
def test_flatness_bounds_how_far_a_sum_over_shifted_integers_is_from_constant(variance):
    z = np.arange(-100, 101)
    sums = [np.exp(-((z - c) ** 2) / (2.0 * variance)).sum() for c in np.linspace(0.0, 1.0, 41)]
    constant = math.sqrt(2.0 * math.pi * variance)
    worst = max(abs(value / constant - 1.0) for value in sums)
    assert worst <= flatness(variance) + 1e-14
    assert flatness(variance) < 1.01 * worst + 1e-12


def test_flatness_never_becomes_zero_and_says_nothing_where_it_knows_nothing():
    assert 0.0 < flatness(1e30) < 1e-290
    assert flatness(0.0) == math.inf
    assert sum_slack(2, 0.01) == smoothing_slack(1.0, 0.1) == smoothing_slack(1.0, 2.0) == math.inf


def test_what_is_booked_is_the_noise_that_k_colluders_leave():
    """sigma sqrt((t - k) / t), never more, and less by a billionth at most."""
    for colluding in range(4):
        paid = mechanism(PLAN, dimension=300_000, threshold=5, colluding=colluding)
        left = math.sqrt((5 - colluding) / 5)
        assert left * (1.0 - 1e-9) < paid.noise_multiplier <= left * (1.0 + 1e-12)
        assert 0.0 < paid.slack < 1e-60
        assert (paid.sample_rate, paid.steps) == (0.1, 1)


def test_epsilon_of_rounds_in_both_modes_composes_and_both_accountants_agree():
    local = PrivacyPlan(0.1, 1.0, 0.5, 20)
    shared = mechanism(PLAN, dimension=50_000, threshold=4, colluding=2)
    pld = accounting.epsilon_pld([local, *[shared] * 30], 1e-5)
    prv = accounting.epsilon_prv([local, *[shared] * 30], 1e-5)
    same = accounting.epsilon_pld([local, Mechanism(0.1, math.sqrt(0.5), 30)], 1e-5)
    assert pld == pytest.approx(prv, rel=0.01)
    assert pld == pytest.approx(same, rel=1e-6)
    assert pld > accounting.epsilon_pld([local], 1e-5)


def test_the_accountant_uses_the_slack_and_refuses_one_that_is_not_negligible():
    small = Mechanism(0.1, 1.0, 10, slack=9e-8)
    none = Mechanism(0.1, 1.0, 10)
    gap = accounting.epsilon_pld([small], 1e-5) - accounting.epsilon_pld([none], 1e-5)
    assert gap > 2.0 * 10 * 9e-8 * 0.99
    with pytest.raises(OurMistake, match="too coarse"):
        accounting.epsilon_pld([Mechanism(0.1, 1.0, 10, slack=2e-7)], 1e-5)
    with pytest.raises(OurMistake, match="too coarse"):
        accounting.epsilon_prv([Mechanism(0.1, 1.0, 12, slack=9e-8)], 1e-5)


def test_a_plan_of_mode_distributed_by_itself_has_no_price():
    for accountant in (accounting.epsilon_pld, accounting.epsilon_prv):
        with pytest.raises(OurMistake, match="depends on its roster"):
            accountant([PLAN], 1e-5)


@pytest.mark.parametrize(("threshold", "colluding"), [(4, 4), (4, 5), (4, -1), (1, 0)])
def test_no_price_is_named_where_no_honest_share_is_left(threshold, colluding):
    with pytest.raises(OurMistake):
        mechanism(PLAN, dimension=100, threshold=threshold, colluding=colluding)


def test_noise_that_is_too_small_for_its_integers_is_refused():
    tiny = PrivacyPlan(0.1, 1e-4, 0.5, 1, "distributed")
    assert sensitivity(100) < 20_000
    with pytest.raises(OurMistake, match="too small"):
        mechanism(tiny, dimension=100, threshold=4, colluding=2)


def test_several_steps_in_a_round_of_mode_distributed_are_no_plan():
    with pytest.raises(OurMistake, match="one step"):
        PrivacyPlan(0.1, 1.0, 0.5, 2, "distributed")
