"""What a run would cost this hospital, before anyone says yes to it; and the plan in words.

    cost = cost_of(plan, chain, budget, ...)
    lines = in_words(plan, cost, ...)

All of it follows from the plan, the ledger and the policy; nothing is read in recordings.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from client.ledger_store import Budget
from shared_model import ledger_cost
from shared_model.config import Trainable
from shared_model.ledger import Booked, Chain
from shared_model.protocol import PRIVACY_UNIT, RunPlan

TRUST = {
    "local": "local (this hospital adds the whole noise itself, and trusts nobody)",
    "distributed": "distributed (the hospitals share the noise out; the promise holds only while "
    "the secure sum does)",
}

TRAINED: dict[Trainable, str] = {
    "all": "all parameters",
    "head": "its head",
    "norms": "its LayerNorms and fingerprint head",
    "bottleneck": "its bottleneck and fingerprint head",
    "adapters": "low-rank adapters of its encoders and bottleneck, merged in after every round",
}


@dataclass(frozen=True)
class Cost:
    """Epsilon, all at `delta`, of this hospital's whole life and of the run; upper bounds.

    They hold against `colluding_sites` hospitals (0 in mode local, which needs no other hospital).
    before: for life, until now. after, of_run: with all further bookings of the plan; outsider: of
    the run, for those who collude with no hospital. next_after, next_of_run: with one more.
    needed: rounds without which the run cannot end well. rounds_left: rounds like these that the
    budget has room for, at most the plan's bookings. Infinite limits (simulations): nothing is
    computed, all epsilons are infinite.
    """

    before: float
    after: float
    of_run: float
    outsider: float
    colluding_sites: int
    next_after: float
    next_of_run: float
    needed: int
    rounds_left: int
    delta: float
    budget: Budget

    @property
    def affordable(self) -> bool:
        """Whether one more round could be booked."""
        return self.rounds_left >= 1

    @property
    def covers_run(self) -> bool:
        """Whether this hospital could take part to the end, if no round fails."""
        return self.rounds_left >= self.needed

    @property
    def left(self) -> float:
        """Epsilon that would be left for life."""
        return max(0.0, self.budget.epsilon_lifetime - self.after)

    @property
    def fraction_left(self) -> float:
        """The same as a part of the limit for life."""
        return self.left / self.budget.epsilon_lifetime


def cost_of(plan: RunPlan, chain: Chain, budget: Budget, like: Booked) -> Cost:
    """What `plan.bookings` further rounds would cost on top of this ledger.

    Args:
        like: `booking_like` of the plan.
    """
    spent = chain.spent()
    run = spent.of_run(plan.run)
    needed = max(1, plan.rounds - chain.rounds_of(plan.run))
    if math.isinf(budget.epsilon_lifetime) and math.isinf(budget.epsilon_per_run):
        endless = math.inf
        return Cost(
            before=endless,
            after=endless,
            of_run=endless,
            outsider=endless,
            colluding_sites=like.colluding_sites,
            next_after=endless,
            next_of_run=endless,
            needed=needed,
            rounds_left=plan.bookings,
            delta=budget.delta,
            budget=budget,
        )

    def total(rounds: int) -> tuple[float, float, float]:
        further = ledger_cost.repeated(like, rounds)
        after, delta = ledger_cost.epsilon(spent, budget.delta, further)
        return after, ledger_cost.epsilon(run, budget.delta, further)[0], delta

    after, of_run, delta = total(plan.bookings)
    next_after, next_of_run, _ = total(1)
    if after <= budget.epsilon_lifetime and of_run <= budget.epsilon_per_run:
        room = plan.bookings
    else:
        room = ledger_cost.rounds_left(
            spent,
            like,
            delta=budget.delta,
            lifetime=budget.epsilon_lifetime,
            per_run=budget.epsilon_per_run,
        )
    return Cost(
        before=ledger_cost.epsilon(spent, budget.delta)[0],
        after=after,
        of_run=of_run,
        outsider=ledger_cost.epsilon(
            run, budget.delta, ledger_cost.repeated(like, plan.bookings), colluding=0
        )[0],
        colluding_sites=like.colluding_sites,
        next_after=next_after,
        next_of_run=next_of_run,
        needed=needed,
        rounds_left=min(room, plan.bookings),
        delta=delta,
        budget=budget,
    )


def booking_like(
    plan: RunPlan, *, participants: int, threshold: int, colluding_sites: int, dimension: int
) -> Booked:
    """A booking of the plan, for accountants only: it is no legal entry.

    Args:
        participants, threshold, colluding_sites: n, t and k of the approved roster.
        dimension: padded number of coordinates that are noised in mode distributed; else 0.
    """
    return Booked.model_construct(
        run=plan.run,
        mode=plan.privacy.mode,
        sample_rate=plan.privacy.sample_rate,
        noise_multiplier=plan.privacy.noise_multiplier,
        clipping_norm=plan.privacy.clipping_norm,
        steps=plan.privacy.steps,
        private=True,
        participants=participants,
        threshold=threshold,
        colluding_sites=colluding_sites,
        minimum_contributors=plan.minimum_contributors,
        dimension=dimension,
    )


def in_words(
    plan: RunPlan, cost: Cost, *, code: str, weights: Mapping[str, int], booked: int
) -> list[str]:
    """The plan as its approver reads it.

    Args:
        code: digest of what is installed here. weights: of the approved roster's sites; empty if
            none is approved. booked: rounds of this run that are booked already.
    """
    privacy, spare = plan.privacy, plan.bookings - plan.rounds
    same = "the same code" if code == plan.code_digest else "OTHER CODE"
    return [
        f"Run {plan.run}: to {plan.purpose} the model {plan.preset}, "
        f"{TRAINED[plan.training.trainable]}.",
        f"{plan.rounds} rounds, and up to {spare} more for rounds that fail; "
        f"{booked or 'none'} booked here so far.",
        f"A round: {privacy.steps} steps; a patient is in a step with probability "
        f"{privacy.sample_rate:g}; noise {privacy.noise_multiplier:g} x clipping norm "
        f"{privacy.clipping_norm:g}.{_proximal(plan.training.proximal_weight)}",
        f"Trust model: {TRUST[privacy.mode]}.",
        *_cost_in_words(plan, cost),
        f"A sum has at least {plan.minimum_contributors} hospitals"
        + ("." if plan.aggregation == "secure-sum" else "; UPDATES LEAVE WITHOUT MASKS."),
        "Weights in the sum: "
        + (", ".join(f"{site} {weights[site]}" for site in sorted(weights)) or "no roster yet")
        + f"; the model then moves {_server_step(plan)}.",
        f"Code at the coordinator: {plan.code_digest}",
        f"Code here ({same}): {code}",
        f"Digest of this plan:     {plan.digest}",
    ]


def _proximal(weight: float) -> str:
    if not weight:
        return ""
    return f" Each step is drawn back to the round's first weights (FedProx, mu {weight:g})."


def _server_step(plan: RunPlan) -> str:
    """How the sum moves the model, after "the model then moves"."""
    moments = plan.server_moments
    if moments is None:
        return f"by {plan.server_learning_rate:g} x the mean ({plan.server_step})"
    return (
        f"by {plan.server_step}, each trained parameter by about {plan.step.learning_rate:g} a "
        f"round (beta1 {moments.beta1:g}, beta2 {moments.beta2:g}, tau {moments.tau:g}); its state "
        "follows from the published sums, and this hospital computes it again"
    )


def _cost_in_words(plan: RunPlan, cost: Cost) -> list[str]:
    if not math.isfinite(cost.after):
        return ["It would cost epsilon without end: nothing is promised to patients."]
    budget = cost.budget
    lines = [
        f"It would cost epsilon {cost.of_run:.2f} if all {plan.bookings} rounds are booked (limit "
        f"of a run: {budget.epsilon_per_run:g}), at delta {cost.delta:g}, unit: {PRIVACY_UNIT}.",
        f"For life: epsilon {cost.before:.2f} until now, {cost.after:.2f} after it, of "
        f"{budget.epsilon_lifetime:g}. Left then: {cost.left:.2f}, {100 * cost.fraction_left:.0f} "
        "% of the limit.",
    ]
    if plan.privacy.mode == "distributed":
        lines.append(
            f"This holds against {cost.colluding_sites} colluding hospitals. Against all others "
            f"the run costs epsilon {cost.outsider:.2f}."
        )
    if not cost.affordable:
        lines.append("THE BUDGET DOES NOT HOLD for one more round of this run: it is refused.")
    elif not cost.covers_run:
        lines.append(
            f"The budget holds for {cost.rounds_left} of {cost.needed} rounds: this hospital stops "
            "before the run ends."
        )
    elif cost.rounds_left < plan.bookings:
        lines.append(
            f"The budget holds for {cost.rounds_left} of {plan.bookings} rounds: if more of them "
            "fail, this hospital stops before the run ends."
        )
    return lines


def facts(
    plan: RunPlan, cost: Cost, *, code: str, weights: Mapping[str, int], booked: int
) -> dict[str, Any]:
    """The same for machines (`--json`); infinite numbers are null."""

    def number(value: float) -> float | None:
        return round(value, 6) if math.isfinite(value) else None

    return {
        "plan": plan.model_dump(mode="json"),
        "plan_digest": plan.digest,
        "booked": booked,
        "code_digest_here": code,
        "same_code": code == plan.code_digest,
        "weights": dict(sorted(weights.items())),
        "epsilon_before": number(cost.before),
        "epsilon_of_run": number(cost.of_run),
        "epsilon_of_run_for_outsiders": number(cost.outsider),
        "colluding_sites": cost.colluding_sites,
        "epsilon_after": number(cost.after),
        "epsilon_left": number(cost.left),
        "fraction_left": number(cost.fraction_left),
        "delta": cost.delta,
        "unit": PRIVACY_UNIT,
        "trust_model": plan.privacy.mode,
        "epsilon_lifetime": number(cost.budget.epsilon_lifetime),
        "epsilon_per_run": number(cost.budget.epsilon_per_run),
        "affordable": cost.affordable,
        "covers_run": cost.covers_run,
        "covers_all_bookings": cost.rounds_left == plan.bookings,
        "rounds_needed": cost.needed,
        "rounds_left": cost.rounds_left,
    }
