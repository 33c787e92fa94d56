"""How much noise an epsilon asks for, and what noise costs, over all steps of a run.

The accountant is the ledger's. Worst case: the hospital takes part in every round. Mode
distributed is priced as the ledger books it, against `colluding` of `threshold` survivors.

    rule = Rule("distributed", sample_rate=0.1, delta=1e-5, threshold=6, colluding=1, dimension=d)
    sigma = rule.noise_multiplier(3.0, steps=200)
    rule.epsilon(sigma, steps=200) <= 3.0
    rule.times(sigma, 200, 8.0)                # how many such runs an epsilon has room for
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from shared_model import accounting, distributed
from shared_model.accounting import Mechanism
from shared_model.config import PrivacyPlan
from shared_model.errors import OurMistake

MOST_STEPS = 1_000_000
"""No more are looked for; the accountant is coarse beyond."""
_CLOSER = 1.001
"""How far above the smallest noise multiplier the answer may be, as the accountant's own."""


@dataclass(frozen=True)
class Rule:
    """What a step costs but for its noise multiplier.

    threshold, colluding, dimension: t, k and the number of trained parameters; they count in mode
    distributed only.
    """

    mode: Literal["local", "distributed"]
    sample_rate: float
    delta: float
    threshold: int = 2
    colluding: int = 0
    dimension: int = 1

    def mechanism(
        self, noise_multiplier: float, steps: int, colluding: int | None = None
    ) -> Mechanism:
        """So many steps, for an accountant.

        Raises:
            OurMistake: no honest share of the noise is left, or it is too small for its integers.
        """
        if self.mode == "local":
            return Mechanism(self.sample_rate, noise_multiplier, steps)
        plan = PrivacyPlan(self.sample_rate, noise_multiplier, 1.0, 1, "distributed")
        one = distributed.mechanism(
            plan,
            dimension=self.dimension,
            threshold=self.threshold,
            colluding=self.colluding if colluding is None else colluding,
        )
        return replace(one, steps=steps)

    def epsilon(self, noise_multiplier: float, steps: int, colluding: int | None = None) -> float:
        """Epsilon of so many steps. colluding: another number of hospitals; 0: the outsider's."""
        return _epsilon(self.mechanism(noise_multiplier, steps, colluding), self.delta)

    def noise_multiplier(self, epsilon: float, steps: int) -> float:
        """Smallest noise multiplier, to 0.2 %, that keeps so many steps within epsilon.

        Raises:
            OurMistake: none below 10,000 does.
        """
        if self.mode == "local":
            return _alone(epsilon, self.delta, self.sample_rate, steps)
        kept = (self.threshold - self.colluding) / self.threshold
        if kept <= 0.0:
            raise OurMistake(
                "No share of the noise is left against so many colluding hospitals.",
                do="Suppose fewer of them, or a higher threshold.",
            )
        needed = _alone(epsilon, self.delta, self.sample_rate, steps) / math.sqrt(kept)
        while needed < 1e4:
            if self.epsilon(needed, steps) <= epsilon:
                return needed
            needed *= _CLOSER
        raise OurMistake(
            "No noise multiplier below 10000 keeps this many steps within epsilon.",
            do="Take fewer steps, a smaller sample rate or a larger epsilon.",
        )

    def times(self, noise_multiplier: float, steps: int, epsilon: float) -> int:
        """How many times so many steps with this noise fit epsilon; at most a million steps."""
        low, high = 0, 1
        while (
            high * steps <= MOST_STEPS and self.epsilon(noise_multiplier, high * steps) <= epsilon
        ):
            low, high = high, 2 * high
        high = min(high, MOST_STEPS // steps + 1)
        while high - low > max(1, low // 1000):
            middle = (low + high) // 2
            fits = self.epsilon(noise_multiplier, middle * steps) <= epsilon
            low, high = (middle, high) if fits else (low, middle)
        return low


@lru_cache(maxsize=4096)
def _alone(epsilon: float, delta: float, sample_rate: float, steps: int) -> float:
    return accounting.noise_multiplier_for(epsilon, delta, sample_rate, steps)


@lru_cache(maxsize=4096)
def _epsilon(mechanism: Mechanism, delta: float) -> float:
    return accounting.epsilon_pld([mechanism], delta)
