"""What the entries of a ledger say of epsilon on the way: figures, limits, charges for losses.

Each is held against what an accountant counts at chosen entries (`auditor.ledger_counting`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

from auditor.ledger import Ledger
from auditor.ledger_counting import Counting, Uncounted
from auditor.verify import AGREEMENT, Finding, close
from shared_model.ledger import Booked, Recovered

MOST_POINTS = 64
"""Bookings whose stated epsilon is counted again; in between it has only not to fall. And limits of
one run, or for life, that are held against what is counted."""
MOST_PARTS = 640
"""Losses of different plans that are composed for these points: about a minute."""

Costs = Sequence[Booked | Recovered]


def charges(ledger: Ledger, costs: Costs, counting: Counting) -> Iterator[Finding]:
    """A charge brings what was spent up to the highest limit that is known to have held before.

    Whether a higher one held while the lost entries were booked, nobody knows: never OK.
    """
    check = f"{ledger.site}: charge"
    try:
        found = counting.at(costs, {one.sequence for one in ledger.losses})
    except Uncounted as error:
        yield Finding(check, "CANNOT CHECK", str(error))
        return
    named = [_finite(one) for one in costs if isinstance(one, Booked)]
    highest = max(named, default=0.0)
    before = 0.0
    for one in costs:
        if isinstance(one, Booked):
            before = max(before, _finite(one))
            continue
        total = found[one.sequence]
        where = f"Entry {one.sequence} charges epsilon {one.epsilon_charged:.4g} for lost entries"
        if total < before * (1.0 - AGREEMENT):
            detail = (
                f"{where}: with it {total:.4g} is spent; entries before name limit {before:.4g}"
            )
            yield Finding(check, "FAILED", detail)
            continue
        rest = "no entry names a limit"
        if highest > 0.0:
            rest = f"with it {total:.4g} is spent, and {highest:.4g} is the highest limit here"
        detail = f"{where}: {rest}; under which limits they were booked is not known"
        yield Finding(check, "CANNOT CHECK", detail)


def _finite(booked: Booked) -> float:
    """0 for no limit, which says nothing of what may have been spent."""
    return booked.limit_lifetime or 0.0


def stated(ledger: Ledger, costs: Costs, counting: Counting) -> Iterator[Finding]:
    """What each entry says was spent, on the way."""
    check = f"{ledger.site}: stated epsilon"
    bookings = [one for one in costs if isinstance(one, Booked)]
    before = 0.0
    for booked in bookings:
        if not before <= lifetime(booked) * (1.0 + 1e-9):
            detail = f"Entry {booked.sequence}: less is spent for life than before"
            yield Finding(check, "FAILED", detail)
            return
        before = lifetime(booked)
    different = len({(one.sample_rate, one.noise_multiplier) for one in bookings})
    most = max(4, min(MOST_POINTS, MOST_PARTS // max(1, different)))
    every = max(1, math.ceil(len(bookings) / most))
    points = bookings[::-every][::-1]
    try:
        found = counting.at(costs, {booked.sequence for booked in points})
    except Uncounted as error:
        yield Finding(check, "CANNOT CHECK", str(error))
        return
    for booked in points:
        value = found[booked.sequence]
        if math.isfinite(value) and not close(value, lifetime(booked)):
            detail = f"Entry {booked.sequence} states {lifetime(booked):.4g}; PLD finds {value:.4g}"
            yield Finding(check, "FAILED", detail)
            return
    rest = "" if every == 1 else "; in between it never falls"
    if bookings:
        detail = f"counted again at {len(points)} of {len(bookings)} entries{rest}"
        yield Finding(check, "OK", detail)


def limits(
    ledger: Ledger, costs: Costs, runs: Mapping[str, Sequence[Booked]], counting: Counting
) -> Iterator[Finding]:
    """Neither by the entries nor by counting was a limit crossed that was in force."""
    check = f"{ledger.site}: limits"
    bookings = ledger.chain.bookings
    for booked in bookings:
        where = f"Entry {booked.sequence}: "
        for what, spent, limit in (
            ("for life", lifetime(booked), booked.limit_lifetime),
            ("of a run", of_run(booked), booked.limit_run),
        ):
            if limit is not None and spent > limit:
                yield Finding(check, "FAILED", f"{where}it crosses the limit {what}")
                return
    scopes: list[tuple[str, Costs, list[tuple[float, Booked]]]] = [
        ("life", costs, _binding(bookings, lambda one: one.limit_lifetime))
    ]
    scopes += [
        (f"run {run}", mine, _binding(mine, lambda one: one.limit_run))
        for run, mine in runs.items()
    ]
    for what, among, binding in scopes:
        asked = binding[-MOST_POINTS:]
        try:
            found = counting.at(among, {booked.sequence for _, booked in asked})
        except Uncounted as error:
            yield Finding(check, "CANNOT CHECK", str(error))
            return
        for limit, booked in asked:
            value = found[booked.sequence]
            if value > limit * (1.0 + AGREEMENT):
                detail = f"{value:.4g} crosses the limit {limit:.4g} of {what}"
                yield Finding(check, "FAILED", f"Entry {booked.sequence}: {detail}")
                return
    if bookings:
        yield _kept(check, ledger, bookings[-1], [binding for _, _, binding in scopes])


def _kept(
    check: str, ledger: Ledger, last: Booked, asked: Sequence[Sequence[tuple[float, Booked]]]
) -> Finding:
    if not any(asked):
        return Finding(check, "CANNOT CHECK", "the entries name no limit")
    if any(len(binding) > MOST_POINTS for binding in asked):
        detail = f"there are more than {MOST_POINTS} different limits; the last were never crossed"
        return Finding(check, "CANNOT CHECK", detail)
    detail = (
        f"when the last round was booked: {_limit(last.limit_lifetime)} for life, "
        f"{_limit(last.limit_run)} for a run, at delta {last.delta:.1e}"
    )
    if ledger.losses:
        detail = f"never crossed by what is here, nobody knows of what is lost; {detail}"
        return Finding(check, "CANNOT CHECK", detail)
    return Finding(check, "OK", f"never crossed; {detail}")


def _binding(
    bookings: Sequence[Booked], limit_of: Callable[[Booked], float | None]
) -> list[tuple[float, Booked]]:
    """Limits with the last booking that each binds. Epsilon only grows: if it kept to a limit, it
    had kept to every higher one that was in force before. What is left rises in both."""
    found: list[tuple[float, Booked]] = []
    for booked in bookings:
        limit = limit_of(booked)
        if limit is None:
            continue
        while found and found[-1][0] >= limit:
            found.pop()
        found.append((limit, booked))
    return found


def lifetime(booked: Booked) -> float:
    return math.inf if booked.epsilon_lifetime is None else booked.epsilon_lifetime


def of_run(booked: Booked) -> float:
    return math.inf if booked.epsilon_run is None else booked.epsilon_run


def _limit(value: float | None) -> str:
    return "none" if value is None else f"epsilon {value:.4g}"
