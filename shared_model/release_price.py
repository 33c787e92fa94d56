"""What the rounds of a release cost a patient, and under which trust model: pure.

In mode distributed that depends on the roster: t, and how many hospitals may collude (k). Both are
in the signed roster that the signed request names, and are compared with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from shared_model.accounting import Priced
from shared_model.distributed import mechanism
from shared_model.protocol import PrivacyStatement
from shared_model.release import Contribution, Round, SharedNoise
from shared_model.sum_evidence import Asked

Accountant = Callable[[Sequence[Priced], float], float]


@dataclass(frozen=True)
class Price:
    """Of one hospital's rounds. colluding_sites, outsider_epsilon: None in mode local."""

    epsilon: float
    colluding_sites: int | None
    outsider_epsilon: float | None

    @property
    def trust_model(self) -> str:
        return "local" if self.colluding_sites is None else "distributed"


def shared_noise_of(asked: Asked) -> SharedNoise | None:
    """What the price of a signed round depends on; None in mode local.

    Raises:
        ValueError: a roster that holds against nobody (pydantic's).
    """
    if asked.request.privacy.mode == "local":
        return None
    return SharedNoise(
        dimension=asked.transcript.numbers.padded,
        threshold=asked.roster.threshold,
        colluding_sites=asked.roster.collusion_bound,
    )


def price(step: Round, *, outsider: bool = False) -> Priced:
    """What an accountant composes for a patient of a hospital that answered this round.

    Args:
        outsider: against those who work with no hospital.

    Raises:
        OurMistake: numbers that have no price.
    """
    plan, shared = step.plan.plan(), step.shared_noise
    if shared is None:
        return plan
    return mechanism(
        plan,
        dimension=shared.dimension,
        threshold=shared.threshold,
        colluding=0 if outsider else shared.colluding_sites,
    )


def price_of(
    replies: Sequence[tuple[Round, Contribution]], delta: float, accountant: Accountant
) -> Price:
    """Of the rounds that a hospital answered (`release_checks.replies_of`).

    Raises:
        OurMistake: numbers that have no price.
    """
    steps = [step for step, _ in replies]
    epsilon = accountant([price(step) for step in steps], delta)
    shared = [step.shared_noise for step in steps if step.shared_noise is not None]
    if not shared:
        return Price(epsilon, None, None)
    outsider = accountant([price(step, outsider=True) for step in steps], delta)
    return Price(epsilon, min(one.colluding_sites for one in shared), outsider)


def fits(statement: PrivacyStatement, shared: SharedNoise | None) -> bool:
    """Whether a hospital's statement for life can follow a round with this noise.

    It names the weakest trust model of all its rounds: after one of mode distributed no other.
    """
    if shared is None:
        return True
    told = statement.colluding_sites
    return told is not None and told <= shared.colluding_sites
