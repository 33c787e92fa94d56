"""Mode `distributed`: one DP-SGD step of all hospitals, whose noise is shared out as integers.

A round is one step over the union of the hospitals' patients. Each hospital takes a Poisson sample
with the same rate q, clips every patient to C, sums in float64, and turns the sum into integers:

    rotate (public randomised Hadamard transform, orthonormal)
    times 2^r / C, rounded to the nearest integer, each clamped to its hospital's public limit B
    plus N_Z(0, s^2) on each coordinate, drawn exactly                      (discrete Gaussian)
    mod 2^m

Sensitivity. Rounding moves a coordinate's change by less than 1, clamping never enlarges it: one
patient changes one hospital's integers by at most Delta = 2^r + sqrt(D) in L2, D the padded
dimension; 2^r >= 1000 sqrt(D), so that this is at most 0.1 % more than C. It is no probability.

Noise. s^2 = sigma^2 Delta^2 / t, rounded up: t hospitals' shares together are sigma Delta. k of
them that work with the coordinator subtract theirs: sigma Delta sqrt((t - k) / t) is left.

What it costs: `mechanism`; theorem and proof in docs/adr/0014-mode-distributed.md. Ideas:
2102.06387 (the distributed discrete Gaussian), 2004.00010 (the discrete Gaussian).

    paid = mechanism(plan, dimension=d, threshold=t, colluding=k)      # for an accountant
    numbers = Shares.of_plan(plan, dimension=d, threshold=t, declared=...)   # for everybody
    vector = share(minus_the_clipped_sum, numbers, place, rotation_seed, noise).vector
    step = mean_of(sum of vectors, numbers, rotation_seed, numbers.divisor(places of survivors))
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from shared_model.accounting import Mechanism
from shared_model.config import LocalTraining, PrivacyPlan
from shared_model.errors import OurMistake
from shared_model.noise import NoiseSource
from shared_model.secure_sum.numbers import (
    MAX_MODULUS_BITS,
    RANGE_IN_STD,
    Numbers,
    padded_dimension,
    rotate,
)
from shared_model.secure_sum.primitives import Words

FINENESS = 1000
"""2^r >= FINENESS sqrt(D): rounding adds at most a thousandth to the sensitivity."""
SMOOTHING = 3.0
"""Width r of the kernel that makes integers of a continuous Gaussian in the proof; costs
SMOOTHING^2 of the noise's variance, which is in the billions."""
HEADROOM_IN_STD = 10
"""Room for the noise of all participants together."""
_DOWN = 1.0 - 2.0**-48
"""Takes up the rounding of a few float64 operations."""
_SMALLEST = 1e-300
"""Below it, exp is rounded up to this."""


def resolution_bits(dimension: int) -> int:
    """r: C is 2^r integer steps; the smallest with 2^r >= 1000 sqrt(D)."""
    wanted = FINENESS * _root_up(padded_dimension(dimension))
    return (wanted - 1).bit_length()


def sensitivity(dimension: int) -> int:
    """Delta: L2 change of the integers by one patient, rounded up."""
    return (1 << resolution_bits(dimension)) + _root_up(padded_dimension(dimension))


def share_variance(plan: PrivacyPlan, *, dimension: int, threshold: int) -> int:
    """s^2 of one hospital's share of the noise, in integer steps squared; rounded up.

    Raises:
        OurMistake: the plan is of another mode, or no threshold.
    """
    if plan.mode != "distributed":
        raise OurMistake("Only mode distributed shares the noise out.")
    if threshold < 2:
        raise OurMistake("The threshold is at least 2.")
    top, bottom = plan.noise_multiplier.as_integer_ratio()
    delta = sensitivity(dimension)
    return -(-((top * delta) ** 2) // (bottom**2 * threshold))


@dataclass(frozen=True)
class Shares(Numbers):
    """Public parameters of one round's integers in mode distributed; they follow from the plan.

    bits: r. norm_bound: C. modulus_bits: m, so that the sum of all limits, and ten standard
    deviations of all noise, fit: a wrapped sum would be wrong, though private. declared: N of each
    participant, in their order. limits: B of each. variance: s^2 of a share of the noise.
    """

    sample_rate: float
    declared: tuple[int, ...]
    limits: tuple[int, ...]
    variance: int

    @classmethod
    def of_plan(
        cls, plan: PrivacyPlan, *, dimension: int, threshold: int, declared: Sequence[int]
    ) -> Shares:
        """Parameters of a round.

        Raises:
            OurMistake: the sum does not fit 32 bits, or another mode; says what to do.
        """
        variance = share_variance(plan, dimension=dimension, threshold=threshold)
        resolution = resolution_bits(dimension)
        limits = tuple(
            _limit(plan.sample_rate, count, resolution, padded_dimension(dimension))
            for count in declared
        )
        room = HEADROOM_IN_STD * _root_up(len(declared) * variance)
        modulus_bits = (sum(limits) + room).bit_length() + 1
        if modulus_bits > MAX_MODULUS_BITS:
            raise OurMistake(
                f"The sum of this round needs {modulus_bits} bits; there are {MAX_MODULUS_BITS}.",
                do="Use a smaller sample rate, a smaller noise multiplier, or fewer hospitals.",
            )
        return cls(
            dimension,
            resolution,
            plan.clipping_norm,
            modulus_bits,
            plan.sample_rate,
            tuple(declared),
            limits,
            variance,
        )

    @property
    def half(self) -> int:
        """Largest magnitude of any participant before noise."""
        return max(self.limits)

    @property
    def scale(self) -> float:
        """Integer steps for one unit of a rotated coordinate: 2^r / C."""
        return math.ldexp(1.0, self.bits) / self.norm_bound

    def divisor(self, places: Iterable[int]) -> float:
        """Patients whom a step of these participants expects: q x sum of their declared numbers."""
        return self.sample_rate * sum(self.declared[place] for place in places)

    def as_dict(self) -> dict[str, Any]:
        """As the transcript binds it."""
        return super().as_dict() | {
            "sample_rate": self.sample_rate,
            "declared_patients": list(self.declared),
            "limits": list(self.limits),
            "share_variance": self.variance,
        }


def _limit(sample_rate: float, declared: int, resolution: int, padded: int) -> int:
    """B: six standard deviations of a rotated coordinate of the longest sum, in which all of
    q N + 6 sqrt(q N) + 6 patients agree."""
    expected = sample_rate * declared
    patients = math.ceil(expected + 6.0 * math.sqrt(expected) + 6.0)
    return -((-int(RANGE_IN_STD) * patients << resolution) // math.isqrt(padded))


def refuse_unfit(training: LocalTraining) -> None:
    """A round is one step, taken by everybody from the published sum.

    Raises:
        OurMistake: another optimiser than plain SGD, or a proximal weight is named.
    """
    if training.optimiser != "sgd":
        raise OurMistake(
            "Mode distributed takes plain steps: the noisy sum is all there is.",
            do='Say optimiser = "sgd" in the run\'s [training].',
        )
    if training.proximal_weight:
        raise OurMistake(
            "Mode distributed trains nothing locally that a proximal weight could hold back.",
            do="Leave proximal_weight out of the run's [training].",
        )


@dataclass(frozen=True)
class Share:
    """What a hospital adds to the sum. `clamped`, coordinates, is for its own log and never leaves.

    vector: uint32 (padded,), integers and noise mod 2^m.
    """

    vector: Words = field(repr=False)
    clamped: int


def share(
    total: npt.NDArray[np.float64],
    numbers: Shares,
    place: int,
    rotation_seed: bytes,
    noise: NoiseSource,
) -> Share:
    """A hospital's integers with its share of the noise.

    Guarantee: one patient more or less changes the integers before noise by at most
    `sensitivity(d)` in L2, if it changes `total` by at most C (1 - 1e-4). That is what clipping
    with its margin leaves (`shared_model.privacy`); the 1e-4 take up the float64 rounding of the
    rotation, at most 2e-14 of the sum's norm, of up to 10^9 patients.

    Args:
        total: (d,) sum over the hospital's sampled patients, each clipped.
        place: of the hospital among the participants, from 0.

    Raises:
        OurMistake: another size, or not finite float64.
    """
    if total.shape != (numbers.dimension,) or total.dtype != np.float64:
        raise OurMistake("The sum has another size than the round's parameters say.")
    if not np.isfinite(total).all():
        raise OurMistake("A clipped sum must be finite float64.")
    integers, clamped = rounded(total, numbers, place, rotation_seed)
    integers += noise.discrete_gaussian(numbers.padded, Fraction(numbers.variance))
    integers &= (1 << numbers.modulus_bits) - 1
    return Share(integers.astype(np.uint32), clamped)


def rounded(
    total: npt.NDArray[np.float64], numbers: Shares, place: int, rotation_seed: bytes
) -> tuple[npt.NDArray[np.int64], int]:
    """The integers before noise, int64 (padded,), and how many were clamped: private to nobody."""
    turned = rotate(total, numbers, rotation_seed)
    turned *= numbers.scale
    turned += 0.5
    np.floor(turned, out=turned)
    limit = float(numbers.limits[place])
    clamped = int(np.count_nonzero(np.abs(turned) > limit))
    np.clip(turned, -limit, limit, out=turned)
    return turned.astype(np.int64), clamped


@lru_cache(maxsize=1024)
def mechanism(plan: PrivacyPlan, *, dimension: int, threshold: int, colluding: int) -> Mechanism:
    """What one round costs one patient, for an accountant.

    Guarantee: whoever sees everything but the shares of threshold - colluding honest hospitals, and
    cannot break the secure sum, learns no more of one patient than from a Poisson-subsampled
    Gaussian step with this rate and noise multiplier, up to a pointwise factor exp(slack).

    Args:
        dimension: number of trained parameters, or that number padded.
        threshold: t, fewest survivors of a round.
        colluding: k, survivors that give their shares of the noise away; 0: the outsider's view.

    Raises:
        OurMistake: another mode; no honest share left; or noise too small for its integers.
    """
    honest = threshold - colluding
    if not 0 <= colluding < threshold:
        raise OurMistake(
            "No share of the noise is left against so many colluding hospitals.",
            do="Suppose fewer of them, or ask for a roster with a higher threshold.",
        )
    variance = share_variance(plan, dimension=dimension, threshold=threshold)
    return bound(
        plan.sample_rate,
        change=sensitivity(dimension),
        shares=honest,
        variance=variance,
        dimension=padded_dimension(dimension),
        steps=plan.steps,
    )


def bound(
    sample_rate: float,
    *,
    change: float,
    shares: int,
    variance: float,
    dimension: int,
    steps: int = 1,
    width: float = SMOOTHING,
) -> Mechanism:
    """The theorem: steps of integer vectors that a sampled patient changes by `change` in L2, with
    the sum of `shares` independent N_Z(0, variance) on each of `dimension` coordinates.

    Args:
        width: of the kernel in the proof; any that leaves noise.

    Raises:
        OurMistake: the noise is too small for its integers.
    """
    continuous = shares * variance - width**2
    slack = dimension * (sum_slack(shares, variance) + smoothing_slack(shares * variance, width))
    if not (continuous > 0.0 and slack < math.inf):
        raise OurMistake(
            "The noise is too small for its integers.", do="Use a larger noise multiplier."
        )
    multiplier = math.sqrt(continuous) / change * _DOWN
    return Mechanism(sample_rate, multiplier, steps, slack)


def flatness(variance: float) -> float:
    """Upper bound on how far sum_z rho(z - c) is from constant in c, relatively.

    rho(x) = exp(-x^2 / (2 variance)), z over the integers. Poisson's summation formula gives
    2 sum_{j >= 1} exp(-2 pi^2 variance j^2), here bounded by a geometric series.
    """
    first = max(math.exp(-2.0 * math.pi**2 * variance), _SMALLEST)
    return 2.0 * first / (1.0 - first**3) if first < 1.0 else math.inf


def sum_slack(count: int, variance: float) -> float:
    """tau: log of the largest ratio, either way, between the laws of the sum of `count`
    independent N_Z(0, variance) and of N_Z(0, count x variance). Infinite where nothing is known.

    The sum of k of them and one more: sum_x rho_k(x) rho_1(z - x) is rho_{k+1}(z) times a sum as in
    `flatness` of variance k / (k + 1) x variance. As 2102.06387, which bounds each term by
    10 exp(-2 pi^2 variance k / (k + 1)).
    """
    total = 0.0
    for k in range(1, count):
        flat = flatness(variance * k / (k + 1))
        if flat >= 1.0:
            return math.inf
        total += math.log1p(flat) - math.log1p(-flat)
    return total


def smoothing_slack(variance: float, width: float) -> float:
    """Log of the largest ratio, either way, between x + N_Z(0, variance), x an integer, and what
    comes of y ~ N(x, variance - width^2) by drawing an integer z with probability proportional to
    exp(-(z - y)^2 / (2 width^2)). Infinite where nothing is known."""
    flat = flatness(width**2)
    if flat >= 1.0 or width**2 >= variance:
        return math.inf
    return math.log1p(flatness(variance)) - math.log1p(-flat)


def _root_up(value: int) -> int:
    """Square root of a positive integer, rounded up to an integer."""
    return math.isqrt(value - 1) + 1
