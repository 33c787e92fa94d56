"""What a ledger costs: from entries to epsilon. The one place where a booking becomes a mechanism.

    total, delta = epsilon(chain.spent(), chain.delta)            # for life
    of_run, _ = epsilon(chain.spent().of_run(run), chain.delta)
    n = rounds_left(chain.spent(), like, delta=..., lifetime=..., per_run=...)

Guarantee: unit one patient at one hospital, adjacency add or remove one patient, over every booking
that is here (answered or not, of whatever version of the data) and the charge for lost ones. A
booking whose noise was not private costs infinity, and so does everything composed with it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from shared_model import accounting, distributed
from shared_model.accounting import Mechanism
from shared_model.config import PrivacyPlan
from shared_model.ledger import Alike, Booked, Spent

MOST_ROUNDS = 10_001
_MOST_STEPS = 100_000
"""What a plan may say."""


def mechanism(booked: Booked | Alike, *, colluding: int | None = None) -> PrivacyPlan | Mechanism:
    """What an accountant composes for this booking, or for the first of some that cost the same.

    In mode distributed it depends on the roster: n, t, k and the dimension were booked.

    Args:
        colluding: hospitals that give away their shares of the noise; what was booked if None.
    """
    if booked.mode == "local":
        return booked.plan
    return distributed.mechanism(
        booked.plan,
        dimension=booked.dimension,
        threshold=booked.threshold,
        colluding=booked.colluding_sites if colluding is None else colluding,
    )


def epsilon(
    spent: Spent, delta: float, further: Sequence[Booked] = (), *, colluding: int | None = None
) -> tuple[float, float]:
    """(epsilon, delta) of what was spent and of further bookings, by dp-accounting's PLD.

    The delta that comes back is (losses + 1) x the ledger's own. Epsilon is infinite if any booking
    was not private; 0 for nothing.
    """
    *before, last = spent.segments
    segments = [*before, (*last, *map(Alike.of, further))]
    total = (spent.losses + 1) * delta
    if not all(item.private for part in segments for item in part):
        return math.inf, total
    parts = (_composed(part, delta, colluding) for part in segments)
    return spent.charged + sum(parts), total


def repeated(like: Booked, rounds: int) -> list[Booked]:
    """So many rounds like this one, in as few bookings as cost the same.

    In mode local only the number of steps counts.
    """
    if like.mode != "local":
        return [like] * rounds
    whole, rest = divmod(like.steps * rounds, _MOST_STEPS)
    steps = [_MOST_STEPS] * whole + ([rest] if rest else [])
    return [like.model_copy(update={"steps": number}) for number in steps]


def rounds_left(
    spent: Spent, like: Booked, *, delta: float, lifetime: float, per_run: float
) -> int:
    """How many more rounds like this one, of its run, keep within both limits (at most 10,000)."""
    run = spent.of_run(like.run)

    def fits(rounds: int) -> bool:
        further = repeated(like, rounds)
        return (
            epsilon(spent, delta, further)[0] <= lifetime
            and epsilon(run, delta, further)[0] <= per_run
        )

    low, high = 0, 1
    while high < MOST_ROUNDS and fits(high):
        low, high = high, min(2 * high, MOST_ROUNDS)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _composed(bookings: Sequence[Alike], delta: float, colluding: int | None) -> float:
    """Bookings of the same price are one mechanism, of whichever run they are."""
    steps: Counter[tuple[object, ...]] = Counter()
    like: dict[tuple[object, ...], Alike] = {}
    for item in bookings:
        steps[item.price] += item.steps
        like.setdefault(item.price, item)
    return accounting.epsilon_pld(
        [_longer(mechanism(like[key], colluding=colluding), steps[key]) for key in like], delta
    )


def _longer(one: PrivacyPlan | Mechanism, steps: int) -> Mechanism:
    slack = one.slack if isinstance(one, Mechanism) else 0.0
    return Mechanism(one.sample_rate, one.noise_multiplier, steps, slack)
