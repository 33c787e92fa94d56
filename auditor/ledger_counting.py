"""Epsilon of a ledger after chosen entries, in one walk over it.

Guarantee and composition are those of `shared_model.ledger.Spent`: the bookings of a stretch are
composed with each other; stretches between losses, and what is charged for losses, are added up.
Equal mechanisms are one, so that the work grows with the entries, and not with their square.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field
from typing import Any

from auditor.ledger import Ledger
from shared_model.accounting import Mechanism
from shared_model.errors import OurMistake
from shared_model.ledger import Booked, Recovered
from shared_model.ledger_cost import mechanism

Accountant = Callable[[Sequence[Any], float], float | None]
"""(mechanisms, delta) -> epsilon; None: not in the time that was given."""
Accountants = tuple[Accountant, Accountant]
"""dp-accounting PLD, Opacus PRV."""

MOST_DIFFERENT = 1000
"""Mechanisms of one ledger. PRV took 79 s for 100; each that exists costs the auditor's time before
an accountant is asked."""

_Price = tuple[float, float, float]
"""sample_rate, noise_multiplier, slack of a step."""


class Uncounted(Exception):
    """Epsilon could not be counted; says why."""


def costs_of(ledger: Ledger) -> tuple[Booked | Recovered, ...]:
    """The entries that cost, in their order."""
    return tuple(
        one
        for one in ledger.entries
        if isinstance(one, Booked)
        or (isinstance(one, Recovered) and one.epsilon_charged is not None)
    )


def by_run(ledger: Ledger) -> dict[str, list[Booked]]:
    """In the order of their first rounds. A charge is nobody's run."""
    found: dict[str, list[Booked]] = {}
    for one in ledger.chain.bookings:
        found.setdefault(one.run, []).append(one)
    return found


@dataclass(frozen=True)
class Counting:
    """Of one ledger. delta: of its entries."""

    delta: float
    accountants: Accountants
    _prices: dict[tuple[object, ...], _Price] = field(default_factory=dict, repr=False)

    def at(
        self,
        costs: Sequence[Booked | Recovered],
        points: Container[int],
        *,
        second: bool = False,
        colluding: int | None = None,
    ) -> dict[int, float]:
        """Epsilon after each entry whose sequence number is in `points`.

        Args:
            second: by the second accountant.
            colluding: hospitals that give away their noise; what was booked if None.

        Raises:
            Uncounted: no time was left, or no accountant can count this.
        """
        found: dict[int, float] = {}
        before, steps = 0.0, Counter[_Price]()
        for one in costs:
            if isinstance(one, Recovered):
                before += self._asked(steps, second) + (one.epsilon_charged or 0.0)
                steps.clear()
            elif not one.private:
                before = math.inf
            else:
                steps[self._price(one, colluding)] += one.steps
            if one.sequence in points:
                found[one.sequence] = (
                    before if before == math.inf else before + self._asked(steps, second)
                )
        return found

    def _asked(self, steps: Counter[_Price], second: bool) -> float:
        if not steps:
            return 0.0
        try:
            together = [
                Mechanism(rate, sigma, count, slack)
                for (rate, sigma, slack), count in sorted(steps.items())
            ]
            found = self.accountants[second](together, self.delta)
        except OurMistake as error:
            raise Uncounted(error.message) from error
        if found is None:
            name = "PRV" if second else "PLD"
            raise Uncounted(f"{name} did not finish in the time that was given")
        return found

    def _price(self, booked: Booked, colluding: int | None) -> _Price:
        key = (
            colluding,
            booked.mode,
            booked.sample_rate,
            booked.noise_multiplier,
            booked.clipping_norm,
            booked.dimension,
            booked.threshold,
            booked.colluding_sites,
        )
        price = self._prices.get(key)
        if price is None:
            if len(self._prices) >= MOST_DIFFERENT:
                raise Uncounted(f"there are more than {MOST_DIFFERENT} different mechanisms")
            try:
                one = mechanism(booked, colluding=colluding)
            except OurMistake as error:
                raise Uncounted(error.message) from error
            slack = one.slack if isinstance(one, Mechanism) else 0.0
            price = self._prices[key] = (one.sample_rate, one.noise_multiplier, slack)
        return price
