"""Epsilon of a ledger, counted again by two independent accountants, and held against its entries.

Guarantee: unit one patient at one hospital, adjacency add or remove one patient, over every booking
of the ledger, whether it was answered or not. Composition is `shared_model.ledger_cost`'s: what was
lost is charged as its entry says, and delta counts once more for each loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from auditor.ledger import Ledger
from auditor.verify import AGREEMENT, CROSS_CHECKED_UP_TO, Finding, Verdict, agree, close
from shared_model.errors import OurMistake
from shared_model.ledger import Booked, Recovered
from shared_model.ledger_cost import mechanism

Accountant = Callable[[Sequence[Any], float], float | None]
"""(mechanisms, delta) -> epsilon; None: not in the time that was given."""
Accountants = tuple[Accountant, Accountant]
"""dp-accounting PLD, Opacus PRV."""

MOST_POINTS = 64
"""Bookings whose stated epsilon is counted again; in between it has only not to fall."""
MOST_PARTS = 640
"""Losses of different plans that are composed for these points: about a minute."""


@dataclass(frozen=True)
class Figure:
    """What some bookings cost, lost entries included where it is for life.

    what: "life" or the name of a run. pld, prv, stated: epsilon at `delta`; None: not known.
    verdict: OK only if both accountants and the entries agree.
    """

    what: str
    rounds: int
    steps: int
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
            f"epsilon at delta {self.delta:.1e}{charge if self.charged else ''}: {told}; "
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
    delta, entries = ledger.chain.delta, _Entries.of(ledger)
    if delta is None or not (entries.bookings or entries.charges):
        return Price(None, None, ()), []
    life = _figure("life", entries, delta, accountants, _lifetime)
    outsider = None
    if any(one.mode == "distributed" for one in entries.bookings):
        outsider = _figure("life, outsiders", entries, delta, accountants, _outsider, colluding=0)
    runs = tuple(
        _figure(run, mine, delta, accountants, _of_run) for run, mine in entries.by_run().items()
    )
    found = Price(life, outsider, runs)
    findings = [
        Finding(f"{ledger.site}: epsilon of {one.what}", one.verdict, one.in_words())
        for one in found.figures
    ]
    findings += _charges(ledger)
    findings += _stated(ledger, entries, delta, accountants[0])
    findings += _limits(ledger, entries, delta, accountants[0])
    return found, findings


@dataclass(frozen=True)
class _Entries:
    """What costs: bookings, and charges as (sequence, epsilon)."""

    bookings: tuple[Booked, ...]
    charges: tuple[tuple[int, float], ...]

    @classmethod
    def of(cls, ledger: Ledger) -> _Entries:
        charges = tuple(
            (entry.sequence, entry.epsilon_charged)
            for entry in (link.entry for link in ledger.chain.links)
            if isinstance(entry, Recovered) and entry.epsilon_charged is not None
        )
        return cls(ledger.chain.bookings, charges)

    def by_run(self) -> dict[str, _Entries]:
        """In the order of their first rounds. A charge is nobody's run."""
        found: dict[str, list[Booked]] = {}
        for one in self.bookings:
            found.setdefault(one.run, []).append(one)
        return {run: _Entries(tuple(mine), ()) for run, mine in found.items()}

    def upto(self, booked: Booked) -> _Entries:
        """What there was when this booking was written, it included."""
        return _Entries(
            tuple(one for one in self.bookings if one.sequence <= booked.sequence),
            tuple(one for one in self.charges if one[0] < booked.sequence),
        )

    @property
    def charged(self) -> float:
        return sum(epsilon for _, epsilon in self.charges)

    def epsilon(
        self, delta: float, accountant: Accountant, colluding: int | None = None
    ) -> float | None:
        """Raises:
        OurMistake: a mode that this version cannot count."""
        if not all(one.private for one in self.bookings):
            return math.inf
        mechanisms = [mechanism(one, colluding=colluding) for one in self.bookings]
        found = accountant(mechanisms, delta) if mechanisms else 0.0
        return None if found is None else self.charged + found


def _lifetime(booked: Booked) -> float:
    return math.inf if booked.epsilon_lifetime is None else booked.epsilon_lifetime


def _outsider(booked: Booked) -> float:
    value = booked.outsider_epsilon_lifetime
    return math.inf if value is None else value


def _of_run(booked: Booked) -> float:
    return math.inf if booked.epsilon_run is None else booked.epsilon_run


def _figure(
    what: str,
    entries: _Entries,
    delta: float,
    accountants: Accountants,
    stated_of: Callable[[Booked], float],
    colluding: int | None = None,
) -> Figure:
    """Both accountants over these entries. The last booking states what was spent until then:
    a charge that came after it is added."""
    pld_of, prv_of = accountants
    stated = None
    if entries.bookings:
        last = entries.bookings[-1]
        stated = stated_of(last) + entries.charged - entries.upto(last).charged
    pld = prv = None
    shared = {one.colluding_sites for one in entries.bookings if one.mode == "distributed"}
    against = min(shared, default=0) if colluding is None else colluding
    try:
        pld = entries.epsilon(delta, pld_of, colluding)
        if pld is not None and pld - entries.charged <= CROSS_CHECKED_UP_TO:
            prv = entries.epsilon(delta, prv_of, colluding)
        verdict, why = _compared(pld, prv, stated, entries.charged)
    except OurMistake as error:
        verdict, why = "CANNOT CHECK", error.message
    if shared:
        why += f"; against {against} hospitals that work with the coordinator"
    return Figure(
        what=what,
        rounds=len(entries.bookings),
        steps=sum(one.steps for one in entries.bookings),
        charged=entries.charged,
        delta=(len(entries.charges) + 1) * delta,
        pld=pld,
        prv=prv,
        stated=stated,
        verdict=verdict,
        why=why,
    )


def _compared(
    pld: float | None, prv: float | None, stated: float | None, charged: float
) -> tuple[Verdict, str]:
    if pld is not None and not math.isfinite(pld):
        return "FAILED", "there are rounds without private noise: NOTHING IS PROMISED"
    if pld is None:
        return "CANNOT CHECK", "PLD did not finish in the time that was given"
    if stated is not None and not close(stated, pld):
        return "FAILED", "the entries state another epsilon"
    if prv is None and pld - charged > CROSS_CHECKED_UP_TO:
        why = f"above {CROSS_CHECKED_UP_TO:g} there is no second accountant, nor much privacy"
        return "CANNOT CHECK", why
    if prv is None:
        return "CANNOT CHECK", "PRV did not finish in the time that was given"
    if not agree(pld - charged, prv - charged):
        return "FAILED", "the two accountants differ"
    return "OK", "both accountants and the entries agree to 1 %"


def _charges(ledger: Ledger) -> Iterator[Finding]:
    """`ledger.Chain` has held a charge against the limit of the booking before it; without one
    nobody knows what the limit was."""
    limited = False
    for entry in (link.entry for link in ledger.chain.links):
        if isinstance(entry, Booked):
            limited = entry.limit_lifetime is not None
        elif isinstance(entry, Recovered) and entry.epsilon_charged is not None and not limited:
            yield Finding(
                f"{ledger.site}: charge",
                "CANNOT CHECK",
                f"Entry {entry.sequence} charges epsilon {entry.epsilon_charged:.4g} for lost "
                "entries; whether that was all of the budget, no entry before it tells",
            )


def _stated(
    ledger: Ledger, entries: _Entries, delta: float, accountant: Accountant
) -> Iterator[Finding]:
    """What each entry says was spent, on the way."""
    check = f"{ledger.site}: stated epsilon"
    bookings = entries.bookings
    before = 0.0
    for booked in bookings:
        if not before <= _lifetime(booked) * (1.0 + 1e-9):
            detail = f"Entry {booked.sequence}: less is spent for life than before"
            yield Finding(check, "FAILED", detail)
            return
        before = _lifetime(booked)
    different = len({(one.sample_rate, one.noise_multiplier) for one in bookings})
    most = max(4, min(MOST_POINTS, MOST_PARTS // max(1, different)))
    every = max(1, math.ceil(len(bookings) / most))
    points = bookings[::-every][::-1]
    for booked in points:
        found = _epsilon(entries.upto(booked), delta, accountant)
        if found is None:
            detail = "the time that was given was not enough for every entry"
            yield Finding(check, "CANNOT CHECK", detail)
            return
        if math.isfinite(found) and not close(found, _lifetime(booked)):
            yield Finding(
                check,
                "FAILED",
                f"Entry {booked.sequence} states {_lifetime(booked):.4g}; PLD finds {found:.4g}",
            )
            return
    rest = "" if every == 1 else "; in between it never falls"
    if bookings:
        yield Finding(
            check, "OK", f"counted again at {len(points)} of {len(bookings)} entries{rest}"
        )


def _limits(
    ledger: Ledger, entries: _Entries, delta: float, accountant: Accountant
) -> Iterator[Finding]:
    """Epsilon only grows: of all bookings under one limit the last one is the test."""
    check = f"{ledger.site}: limits"
    asked: dict[tuple[str, float], tuple[Booked, _Entries]] = {}
    runs = entries.by_run()
    for booked in entries.bookings:
        where = f"Entry {booked.sequence}: "
        if booked.limit_lifetime is not None:
            if _lifetime(booked) > booked.limit_lifetime:
                yield Finding(check, "FAILED", where + "it crosses the limit for life")
                return
            asked["life", booked.limit_lifetime] = (booked, entries)
        if booked.limit_run is not None:
            if _of_run(booked) > booked.limit_run:
                yield Finding(check, "FAILED", where + "it crosses the limit of a run")
                return
            asked[f"run {booked.run}", booked.limit_run] = (booked, runs[booked.run])
    for (what, limit), (booked, among) in asked.items():
        found = _epsilon(among.upto(booked), delta, accountant)
        if found is None:
            yield Finding(check, "CANNOT CHECK", "the time that was given was not enough")
            return
        if found > limit * (1.0 + AGREEMENT):
            detail = f"Entry {booked.sequence}: {found:.4g} crosses the limit {limit:.4g} of {what}"
            yield Finding(check, "FAILED", detail)
            return
    if not entries.bookings:
        return
    if not asked:
        yield Finding(check, "CANNOT CHECK", "the entries name no limit")
        return
    last = entries.bookings[-1]
    yield Finding(
        check,
        "OK",
        "never crossed; when the last round was booked: "
        f"{_limit(last.limit_lifetime)} for life, {_limit(last.limit_run)} for a run, at delta "
        f"{delta:.1e}",
    )


def _limit(value: float | None) -> str:
    return "none" if value is None else f"epsilon {value:.4g}"


def _epsilon(entries: _Entries, delta: float, accountant: Accountant) -> float | None:
    try:
        return entries.epsilon(delta, accountant)
    except OurMistake:
        return None
