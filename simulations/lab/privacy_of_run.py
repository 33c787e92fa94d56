"""What a lab run's noise is, what each hospital would have spent, and how both are said in words.

privacy = PrivacyOfRun.of(experiment, declared=..., dimension=..., asked=...)
privacy.plan                 # what every hospital's training is given
privacy.epsilon(12)          # of a hospital that booked 12 rounds; None in mode none
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from shared_model.accounting import (
    Mechanism,
    default_delta,
    epsilon_pld,
    noise_multiplier_for,
)
from shared_model.config import PrivacyPlan
from shared_model.distributed import mechanism
from shared_model.errors import OurMistake
from simulations.lab.experiment import Experiment
from simulations.lab.plots_style import counted

NEVER_CLIPS = 9_999.0
"""Mode none's clipping norm, beyond any gradient of this model."""
HARDLY_ANY = 1e-6
"""Mode none's noise multiplier: what the plan must name; nothing of it is drawn."""

NoiseKind = Literal["NonPrivateForTests", "system", "none"]


@dataclass(frozen=True)
class PrivacyOfRun:
    """The privacy of a run, from public numbers.

    delta: of every hospital. threshold, colluding: of mode distributed, else 0.
    """

    mode: Literal["local", "distributed", "none"]
    noise: NoiseKind
    plan: PrivacyPlan
    delta: float
    threshold: int
    colluding: int
    dimension: int
    _spent: dict[int, float] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(
        cls, experiment: Experiment, *, declared: Sequence[int], dimension: int, asked: int
    ) -> PrivacyOfRun:
        """Settle noise multiplier and delta.

        Args:
            declared: patients of each hospital. dimension: number of trained parameters.
            asked: hospitals that a round asks.

        Raises:
            OurMistake: no noise is enough, or the threshold leaves none.
        """
        asks, steps = experiment.privacy, experiment.algorithm.steps
        delta = asks.delta or default_delta(max(declared))
        if asks.mode == "none":
            plan = PrivacyPlan(asks.sample_rate, HARDLY_ANY, NEVER_CLIPS, steps)
            return cls("none", "none", plan, delta, 0, 0, dimension)
        threshold, colluding = 0, 0
        if asks.mode == "distributed":
            threshold = asks.threshold or max(2, asked // 2 + 1)
            colluding = asks.colluding
            if threshold > asked:
                raise OurMistake(
                    f"A round asks {asked} hospitals, fewer than the threshold, {threshold}."
                )
            if colluding >= threshold:
                raise OurMistake(
                    f"No share of the noise is left against {colluding} colluding hospitals.",
                    do=f"Say privacy.colluding below the threshold, {threshold}.",
                )
        if asks.noise_multiplier is not None:
            sigma = asks.noise_multiplier
        elif asks.epsilon is None:
            raise OurMistake("The experiment names neither epsilon nor noise_multiplier.")
        else:
            total = steps * experiment.rounds
            sigma = noise_multiplier_for(asks.epsilon, delta, asks.sample_rate, total)
            if asks.mode == "distributed":
                # a thousandth of a thousandth for the rounding of shares and sensitivity
                sigma *= math.sqrt(threshold / (threshold - colluding)) * (1.0 + 1e-6)
        plan = PrivacyPlan(asks.sample_rate, sigma, asks.clipping_norm, steps, asks.mode)
        made = cls(asks.mode, asks.noise, plan, delta, threshold, colluding, dimension)
        made.mechanism(1)
        return made

    def mechanism(self, rounds: int) -> Mechanism:
        """What so many rounds of one hospital are, for an accountant.

        Raises:
            OurMistake: the noise is too small for its integers (mode distributed).
        """
        if self.mode != "distributed":
            plan = self.plan
            return Mechanism(plan.sample_rate, plan.noise_multiplier, plan.steps * rounds)
        one = mechanism(
            self.plan,
            dimension=self.dimension,
            threshold=self.threshold,
            colluding=self.colluding,
        )
        return Mechanism(one.sample_rate, one.noise_multiplier, one.steps * rounds, one.slack)

    def epsilon(self, rounds: int) -> float | None:
        """Of a hospital that booked so many rounds; computed once for each number. None: mode none.

        What a real hospital would have spent. With seeded noise nothing is protected at all.
        """
        if self.mode == "none":
            return None
        if rounds not in self._spent:
            spent = epsilon_pld([self.mechanism(rounds)], self.delta) if rounds else 0.0
            self._spent[rounds] = spent
        return self._spent[rounds]

    def noise_to_signal(self, declared: Sequence[int], weights: Sequence[int]) -> float:
        """Expected L2 norm of the noise in the mean gradient of one step, over the clipping norm.

        The clipping norm is the largest that the mean gradient can be; so this is the smallest
        that the ratio can be. 0 in mode none.

        Args:
            declared, weights: of the survivors.
        """
        if self.mode == "none" or not declared:
            return 0.0
        plan = self.plan
        root = math.sqrt(self.dimension)
        if self.mode == "distributed":
            patients = plan.sample_rate * sum(declared)
            std = plan.noise_multiplier * math.sqrt(len(declared) / self.threshold)
            return std * root / patients
        total = sum(weights)
        parts = [
            weight / total * plan.noise_multiplier / (plan.sample_rate * count)
            for weight, count in zip(weights, declared, strict=True)
        ]
        return math.sqrt(math.fsum(part * part for part in parts)) * root

    def words(self) -> list[str]:
        """What must be said beside every figure of this run."""
        said = [
            "Masks are off: this run adds the same integers that hospitals mask, so the model is "
            "the same; here everybody could see every hospital's part.",
            "There is no ledger, no policy and no signature in a lab run.",
        ]
        if self.mode == "none":
            return [
                *said,
                "NO PRIVACY: mode none clips nothing and adds no noise. No epsilon belongs to it.",
            ]
        if self.noise == "NonPrivateForTests":
            said.append(
                "NO PRIVACY: the noise is drawn from the experiment's seed and repeats bit by bit. "
                "Epsilon is what each hospital's patients would have spent with real noise."
            )
        else:
            said.append(
                "The noise is the operating system's. Two runs of this experiment differ, by "
                "design, and so do a resumed and an undisturbed one."
            )
        if self.mode == "distributed":
            said.append(
                f"Mode distributed: each hospital adds its share of the noise, sized for "
                f"{self.threshold} survivors; epsilon is against the coordinator and "
                f"{counted(self.colluding, 'colluding hospital')}. In the field it rests on the "
                "secure sum, which is off here."
            )
        said.append(
            f"Epsilon is for one patient at one hospital with all recordings (add or remove), "
            f"delta {self.delta:.3g}, noise multiplier {self.plan.noise_multiplier:.4g}, sample "
            f"rate {self.plan.sample_rate:.4g}, clipping norm {self.plan.clipping_norm:.4g}."
        )
        return said
