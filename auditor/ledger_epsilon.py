"""Epsilon of a ledger, counted again by two independent accountants, and held against its entries.

Guarantee: unit one patient at one hospital, adjacency add or remove one patient, over every booking
of the ledger, whether it was answered or not. For lost entries epsilon is what the hospital states.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from auditor.ledger import Ledger
from auditor.ledger_counting import Accountants, Counting, Uncounted, by_run, costs_of
from auditor.ledger_limits import charges, lifetime, limits, of_run, stated
from auditor.verify import CROSS_CHECKED_UP_TO, Finding, Verdict, agree, close
from shared_model.ledger import Booked, Recovered

STATES_ANOTHER = "the entries state another epsilon"


@dataclass(frozen=True)
class Figure:
    """What some bookings cost, lost entries included where it is for life.

    what: "life" or the name of a run. pld, prv, stated: epsilon at `delta`; None: not known.
    losses: how often entries were lost, for which `charged` is the hospital's own word. verdict: OK
    only if both accountants and the entries agree, and nothing was lost.
    """

    what: str
    rounds: int
    steps: int
    losses: int
    charged: float
    delta: float
    pld: float | None
    prv: float | None
    stated: float | None
    verdict: Verdict
    why: str = ""

    def in_words(self) -> str:
        """Both figures, with delta; never epsilon alone."""
        figures = (("PLD", self.pld), ("PRV", self.prv), ("stated by the entries", self.stated))
        told = ", ".join(f"{name} {_number(value)}" for name, value in figures)
        charge = f" (of which {self.charged:.4g} is charged for lost entries)"
        return (
            f"epsilon at delta {self.delta:.1e}{charge if self.losses else ''}: {told}; "
            f"{self.rounds} rounds, {self.steps} steps" + (f"; {self.why}" if self.why else "")
        )


def _number(value: float | None) -> str:
    return "not known" if value is None else f"{value:.4g}"


@dataclass(frozen=True)
class Price:
    """For life, against those outside if there are rounds of mode distributed, and of each run."""

    life: Figure | None
    outsider: Figure | None
    runs: tuple[Figure, ...]

    @property
    def figures(self) -> tuple[Figure, ...]:
        return tuple(one for one in (self.life, self.outsider, *self.runs) if one is not None)


def price(ledger: Ledger, accountants: Accountants) -> tuple[Price, list[Finding]]:
    """Figures and findings; a ledger that has spent nothing has no figure."""
    delta, costs, runs = ledger.chain.delta, costs_of(ledger), by_run(ledger)
    if delta is None or not costs:
        return Price(None, None, ()), []
    counting = Counting(delta, accountants)
    outsider = None
    if any(isinstance(one, Booked) and one.mode == "distributed" for one in costs):
        outsider = _figure("life, outsiders", costs, counting, _outsider, colluding=0)
    found = Price(
        _figure("life", costs, counting, lifetime),
        outsider,
        tuple(_figure(run, mine, counting, of_run) for run, mine in runs.items()),
    )
    findings = [
        Finding(f"{ledger.site}: epsilon of {one.what}", one.verdict, one.in_words())
        for one in found.figures
    ]
    findings += charges(ledger, costs, counting)
    findings += stated(ledger, costs, counting)
    findings += limits(ledger, costs, runs, counting)
    return found, findings


def _outsider(booked: Booked) -> float:
    value = booked.outsider_epsilon_lifetime
    return math.inf if value is None else value


def _figure(
    what: str,
    costs: Sequence[Booked | Recovered],
    counting: Counting,
    stated_of: Callable[[Booked], float],
    colluding: int | None = None,
) -> Figure:
    """Both accountants over these entries. The last booking states what was spent until then:
    a charge that came after it is added."""
    bookings = [one for one in costs if isinstance(one, Booked)]
    lost = [one for one in costs if isinstance(one, Recovered)]
    charged = sum(one.epsilon_charged or 0.0 for one in lost)
    told = pld = prv = None
    if bookings:
        last = bookings[-1]
        later = (one.epsilon_charged or 0.0 for one in lost if one.sequence > last.sequence)
        told = stated_of(last) + sum(later)
    end = costs[-1].sequence
    try:
        pld = counting.at(costs, {end}, colluding=colluding)[end]
        if pld - charged <= CROSS_CHECKED_UP_TO:
            prv = counting.at(costs, {end}, second=True, colluding=colluding)[end]
        verdict, why = _compared(pld, prv, told, charged, bool(lost))
    except Uncounted as error:
        verdict, why = "CANNOT CHECK", str(error)
        if pld is not None and told is not None and not close(told, pld):
            verdict, why = "FAILED", STATES_ANOTHER
    shared = {one.colluding_sites for one in bookings if one.mode == "distributed"}
    if shared:
        against = min(shared) if colluding is None else colluding
        why += f"; against {against} hospitals that work with the coordinator"
    return Figure(
        what=what,
        rounds=len(bookings),
        steps=sum(one.steps for one in bookings),
        losses=len(lost),
        charged=charged,
        delta=(len(lost) + 1) * counting.delta,
        pld=pld,
        prv=prv,
        stated=told,
        verdict=verdict,
        why=why,
    )


def _compared(
    pld: float, prv: float | None, stated: float | None, charged: float, lossy: bool
) -> tuple[Verdict, str]:
    if not math.isfinite(pld):
        return "FAILED", "there are rounds without private noise: NOTHING IS PROMISED"
    if stated is not None and not close(stated, pld):
        return "FAILED", STATES_ANOTHER
    if prv is None:
        why = f"above {CROSS_CHECKED_UP_TO:g} there is no second accountant, nor much privacy"
        return "CANNOT CHECK", why
    if not agree(pld - charged, prv - charged):
        return "FAILED", "the two accountants differ"
    if lossy:
        why = "what lost entries cost is the hospital's own word: stated, and verified by nobody"
        return "CANNOT CHECK", why
    return "OK", "both accountants and the entries agree to 1 %"
