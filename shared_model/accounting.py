"""What private steps cost: epsilon for a list of plans, by two independent accountants.

Mechanism: Poisson-subsampled Gaussian, up to a pointwise factor exp(slack) of each step. Unit: one
patient at one hospital. Adjacency: add or remove one patient. Composition is over every step of
every plan, adaptively chosen plans included.

A plan of mode `local` is such a mechanism with slack 0. What a round of mode `distributed` costs
depends on the roster too: `shared_model.distributed.mechanism` says it. If every step's law is
within a factor exp(+-slack) of a Gaussian one's, for all data, then so is the composition's with
the slacks added up, L: (epsilon, delta exp(-L)) of the Gaussian ones is (epsilon + 2 L, delta) of
the real ones (docs/adr/0014-mode-distributed.md).

The running figure is dp-accounting's privacy loss distribution (PLD, 2207.04380, pessimistic
rounding: never below the truth); Opacus' PRV accountant (2106.02848) is the cross-check.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from shared_model.config import PrivacyPlan
from shared_model.errors import OurMistake
from shared_model.memory import forget_transforms

Groups = tuple[tuple[float, float, int], ...]
"""Sorted (sample_rate, noise_multiplier, steps), one entry for each different mechanism."""

_COARSE = 1e-3
"""Discretisation of the privacy loss; 0.1 % off at epsilon 1, less above."""
_FINE = 1e-4
_FINE_BELOW = 1.0
"""Epsilon below which the fine interval is used."""
_MIDDLE = 2.5e-4
_MIDDLE_BELOW = 10.0
_MIDDLE_STEPS, _MIDDLE_GROUPS = 1_000_000, 8
"""Epsilon below which the middle interval is used: the coarse one is 1 % off after 10,000 steps of
epsilon 1. Not for longer histories, which would take minutes. Each of the three limits is crossed
once in a ledger's life, towards a coarser interval: what was spent never seems to fall."""
_ROUNDING = 1e-14
_ROUNDING_OF_STEP = 2.0**-51
"""Taken off delta: Fourier transforms in float64 lose up to 4e-17 of probability for each composed
step (measured on full-batch Gaussians of 1 to 10^7 steps, whose delta is known): ten times that."""
_RDP_ABOVE = 60.0
"""Above this epsilon Renyi accounting answers: an upper bound too, in constant memory."""
_RDP_BELOW_SIGMA = 0.1
"""So does it for noise so small that one step's loss spans millions of intervals."""
_RDP_ABOVE_STEPS = 1_000_000
"""And for more steps: composing a billion, which a hostile plan may name, takes PLD minutes."""
_LEAST_RATE = 1e-300
"""A smaller sample rate is counted as this one, which costs no less: dp-accounting divides by it,
and fails where that overflows."""
_RDP_ORDERS = (*range(2, 64), 96, 128, 192, 256, 512, 1024)
"""Whole orders only: their series are finite, fractional ones need not converge."""

_LARGEST_SLACK = 1e-6
"""Of everything that is composed; more is a sign of parameters that were never meant."""


@dataclass(frozen=True)
class Mechanism:
    """Poisson-subsampled Gaussian steps, as far as their price goes.

    slack: the law of each step is within a factor exp(+-slack) of the Gaussian one's, pointwise.
    """

    sample_rate: float
    noise_multiplier: float
    steps: int
    slack: float = 0.0

    def __post_init__(self) -> None:
        legal = 0.0 < self.sample_rate <= 1.0 and 0.0 < self.noise_multiplier < 1e4
        if not (legal and self.steps >= 1 and 0.0 <= self.slack < math.inf):
            raise OurMistake("These numbers are no mechanism.")


Priced = PrivacyPlan | Mechanism


def default_delta(declared_patients: int) -> float:
    """`min(1e-5, 1 / (10 N))` with N the declared number of patients of the hospital."""
    if declared_patients < 1:
        raise OurMistake("The declared number of patients must be at least 1.")
    return min(1e-5, 1.0 / (10.0 * declared_patients))


def epsilon_pld(plans: Sequence[Priced], delta: float) -> float:
    """Smallest epsilon, rounded up, for which all plans together are (epsilon, delta)-private.

    Edges: no plan costs 0. Beyond about epsilon 60, for a noise multiplier below 0.1, and for more
    than a million steps of one kind, the (larger) Renyi bound is returned, infinity if that
    overflows: a hostile plan must not cost the node its memory or its afternoon.

    Raises:
        OurMistake: a plan of mode distributed by itself, or slacks that add up to more than 1e-6.
    """
    _check_delta(delta)
    slack = _slack(plans)
    return _epsilon(_groups(plans), delta * math.exp(-slack)) + 2.0 * slack


def epsilon_prv(plans: Sequence[Priced], delta: float) -> float:
    """The same by Opacus' PRV accountant (upper end of its error bar): the cross-check.

    The bar is 0.01, and 0.001 where epsilon is below 2.

    Slow for long histories of unequal plans (79 s for 100 were seen) and wide losses.
    """
    _check_delta(delta)
    groups, slack = _groups(plans), _slack(plans)
    if not groups:
        return 0.0
    delta *= math.exp(-slack)
    from opacus.accountants import PRVAccountant

    accountant = PRVAccountant()
    accountant.history = [(sigma, q, steps) for q, sigma, steps in groups]
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        # about the Renyi orders that only size its grid
        warnings.filterwarnings("ignore", message="Optimal order", category=UserWarning)
        epsilon = float(accountant.get_epsilon(delta, eps_error=0.01))
        if epsilon < 2.0:
            epsilon = float(accountant.get_epsilon(delta, eps_error=0.001))
    return epsilon + 2.0 * slack


def noise_multiplier_for(epsilon: float, delta: float, sample_rate: float, steps: int) -> float:
    """Smallest noise multiplier (to 0.1 %, rounded up) that keeps `steps` within (epsilon, delta).

    Raises:
        OurMistake: no multiplier below 10,000 is enough.
    """
    if not 0.0 < epsilon < math.inf:
        raise OurMistake("epsilon must be above 0 and finite.")
    _check_delta(delta)

    def fits(sigma: float) -> bool:
        return epsilon_pld([Mechanism(sample_rate, sigma, steps)], delta) <= epsilon

    low, high = 0.05, 1.0
    while not fits(high):
        low, high = high, high * 2.0
        if high >= 1e4:
            raise OurMistake(
                "No noise multiplier below 10000 keeps this many steps within epsilon.",
                do="Take fewer steps, a smaller sample rate or a larger epsilon.",
            )
    while high / low > 1.001:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high


def _check_delta(delta: float) -> None:
    if not 0.0 < delta < 1.0:
        raise OurMistake("delta must be in (0, 1).")


def _slack(plans: Sequence[Priced]) -> float:
    slack = math.fsum(plan.steps * plan.slack for plan in plans if isinstance(plan, Mechanism))
    if slack > _LARGEST_SLACK:
        raise OurMistake(
            "The noise is too coarse for its integers: the accountant's error is not negligible.",
            do="Use a larger noise multiplier, or fewer hospitals.",
        )
    return slack


def _groups(plans: Sequence[Priced]) -> Groups:
    steps: Counter[tuple[float, float]] = Counter()
    for plan in plans:
        if isinstance(plan, PrivacyPlan) and plan.mode != "local":
            raise OurMistake(
                "What a round of mode distributed costs depends on its roster.",
                do="Compose shared_model.distributed.mechanism(plan, ...) instead.",
            )
        steps[(plan.sample_rate, plan.noise_multiplier)] += plan.steps
    return tuple(sorted((q, sigma, count) for (q, sigma), count in steps.items()))


@lru_cache(maxsize=512)
def _epsilon(groups: Groups, delta: float) -> float:
    if not groups:
        return 0.0
    renyi = _epsilon_rdp(groups, delta)
    beyond = renyi >= _RDP_ABOVE
    if not renyi > 0.0:
        renyi = math.inf  # no bound: PLD alone answers
    least_noise = min(sigma for _, sigma, _ in groups)
    most_steps = max(steps for _, _, steps in groups)
    if beyond or least_noise < _RDP_BELOW_SIGMA or most_steps > _RDP_ABOVE_STEPS:
        return renyi
    coarse = _epsilon_pld(groups, delta, _COARSE)
    steps = sum(count for _, _, count in groups)
    if coarse < _FINE_BELOW:
        return min(_epsilon_pld(groups, delta, _FINE), renyi)
    if coarse < _MIDDLE_BELOW and steps <= _MIDDLE_STEPS and len(groups) <= _MIDDLE_GROUPS:
        return min(_epsilon_pld(groups, delta, _MIDDLE), renyi)
    return min(coarse, renyi)


def _epsilon_pld(groups: Groups, delta: float, interval: float) -> float:
    """Infinity where rounding is as large as delta."""
    steps_of_all = sum(steps for _, _, steps in groups)
    delta -= _ROUNDING * len(groups) + _ROUNDING_OF_STEP * steps_of_all
    if delta <= 0.0:
        return math.inf
    total: Any = None
    try:
        for q, sigma, steps in groups:
            part = _step_loss(max(q, _LEAST_RATE), sigma, interval).self_compose(steps)
            total = part if total is None else total.compose(part)
        return float(total.get_epsilon_for_delta(delta))
    finally:
        forget_transforms()


@lru_cache(maxsize=256)
def _step_loss(q: float, sigma: float, interval: float) -> Any:
    from dp_accounting.pld import privacy_loss_distribution

    return privacy_loss_distribution.from_gaussian_mechanism(
        sigma,
        sampling_prob=q,
        value_discretization_interval=interval,
        pessimistic_estimate=True,
    )


def _epsilon_rdp(groups: Groups, delta: float) -> float:
    """Renyi bound (1908.10530); NaN or overflow of its series counts as infinity.

    0 is no bound: dp-accounting says it, beside a log line, if rounding made one order's divergence
    negative.
    """
    from dp_accounting import dp_event
    from dp_accounting.rdp import RdpAccountant

    accountant = RdpAccountant(orders=_RDP_ORDERS)
    with np.errstate(all="ignore"):
        try:
            for q, sigma, steps in groups:
                gaussian = dp_event.GaussianDpEvent(sigma)
                accountant.compose(dp_event.PoissonSampledDpEvent(q, gaussian), steps)
            epsilon = float(accountant.get_epsilon(delta))
        except (ZeroDivisionError, OverflowError):
            return math.inf
    return epsilon if math.isfinite(epsilon) else math.inf
