"""The hospital's limits on epsilon."""

from __future__ import annotations

from dataclasses import dataclass

from shared_model.errors import BudgetExhausted, OurMistake


@dataclass(frozen=True)
class Budget:
    """The hospital's limits. Infinite ones exist for simulations only: a policy cannot say them."""

    epsilon_lifetime: float
    epsilon_per_run: float
    delta: float

    def __post_init__(self) -> None:
        if not (self.epsilon_lifetime > 0.0 and self.epsilon_per_run > 0.0):
            raise OurMistake("A budget's epsilon must be above 0.")
        if not 0.0 < self.delta < 1.0:
            raise OurMistake("A budget's delta must be in (0, 1).")

    @classmethod
    def unlimited_non_private_for_tests(cls, delta: float = 1e-5) -> Budget:
        """Lets rounds with non-private noise through; for `tests` and `simulations` only."""
        return cls(epsilon_lifetime=float("inf"), epsilon_per_run=float("inf"), delta=delta)

    def hold(self, lifetime: float, of_run: float) -> None:
        """Both totals, a new round included, are within the limits.

        Raises:
            BudgetExhausted: one is not, or is no number.
        """
        for what, cost, limit in (
            ("lifetime", lifetime, self.epsilon_lifetime),
            ("run", of_run, self.epsilon_per_run),
        ):
            if not cost <= limit:
                raise BudgetExhausted(
                    f"This round would bring the {what}'s epsilon to {cost:.2f} per patient (delta "
                    f"{self.delta:g}); the hospital allows {limit:g}.",
                    do="Only the hospital can raise the limit, in policy.toml.",
                )
