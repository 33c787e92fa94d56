"""Noise of a private step beside torch's generator, which protects nothing: speed, and its law.

Both sides are run by turns in one process on one thread; seconds are CPU seconds.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch

from shared_model import privacy
from shared_model.config import PrivacyPlan
from shared_model.noise import SystemNoise
from simulations.noise_laws import gaussian_p_values, integer_p_value
from simulations.torch_threads import torch_threads

PLAN = PrivacyPlan(sample_rate=0.1, noise_multiplier=1.1, clipping_norm=0.5, steps=1)
DECLARED_PATIENTS = 2000
LARGE = Fraction(1 << 56)
"""Variance of the integers that are timed: sigma 2^28, the largest that the secure sum may ask."""
SMALL = Fraction(37, 10) ** 2


@dataclass(frozen=True)
class Sizes:
    """How much is measured. `dimension`: parameters of preset `small`, all of them trained."""

    dimension: int = 2_060_000
    repeats: int = 21
    sample: int = 100_000_000


FULL = Sizes()
QUICK = Sizes(dimension=100_000, repeats=3, sample=1_000_000)


def figures(quick: bool, tell: Callable[[str], None]) -> dict[str, float]:
    """Figures of `fedprint-lab bench noise`; docs/benchmarks.md says what each is."""
    return measure(QUICK if quick else FULL, tell)


def measure(sizes: Sizes, tell: Callable[[str], None]) -> dict[str, float]:
    """All figures, at these sizes."""
    with torch_threads(1):
        return _speed(sizes, tell) | _laws(sizes.sample, tell)


def _speed(sizes: Sizes, tell: Callable[[str], None]) -> dict[str, float]:
    count = sizes.dimension
    noise = SystemNoise()
    total = np.random.default_rng(1).standard_normal(count)
    std = PLAN.noise_multiplier * PLAN.clipping_norm
    sides: dict[str, Callable[[], object]] = {
        "finished": lambda: privacy.noisy_mean(total, PLAN, DECLARED_PATIENTS, noise),
        "torch": lambda: torch.normal(0.0, std, (count,)),
        "integers": lambda: noise.discrete_gaussian(count, LARGE),
    }
    spent: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(sizes.repeats + 1):
        tell(f"{count} draws: turn {turn} of {sizes.repeats}")
        for name, side in sides.items():
            start = time.process_time()
            side()
            if turn:  # the first makes the tables and warms up
                spent[name].append(time.process_time() - start)
    median = {name: statistics.median(seconds) for name, seconds in spent.items()}
    return {
        "draws_per_s_per_core": count / median["finished"],
        "torch_draws_per_s_per_core": count / median["torch"],
        "ratio_vs_torch_normal": median["finished"] / median["torch"],
        "integer_draws_per_s_per_core": count / median["integers"],
    }


def _laws(count: int, tell: Callable[[str], None]) -> dict[str, float]:
    """p-values of finished float noise, of large integers and of small ones."""
    noise = SystemNoise()
    deviation = float(LARGE) ** 0.5
    samples: dict[str, Callable[[int], np.ndarray]] = {
        "normal": lambda size: noise.normal(size, 1.0),
        "integer": lambda size: noise.discrete_gaussian(size, LARGE) / deviation,
    }
    found: dict[str, float] = {}
    for kind, draw in samples.items():
        tell(f"the law of {kind} noise")
        found |= {f"{kind}_{name}": p for name, p in gaussian_p_values(draw, count, tell).items()}
    tell("the law of small integers")
    found["integer_pmf_p"] = integer_p_value(noise.discrete_gaussian(count, SMALL), SMALL)
    return found
