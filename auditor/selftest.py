"""Mechanism self-tests: does the private training that is installed here do what is booked?

Each check runs the product's own training, sampler and ledger on made-up patients (by way of
`simulations.mechanism`) and measures from outside. It has a verdict: OK, FAILED, or CANNOT CHECK if
the probe did not reach what it was to measure. A sound installation fails a check by chance with
probability at most `FALSE_ALARM`; checks of plain limits never do.

A self-test finds faults. That it finds none proves nothing: code that behaves otherwise on real
patients, or only sometimes, passes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from shared_model.errors import FedprintError, OurMistake

FALSE_ALARM = 1e-7
"""Largest probability that a sound installation fails a check, for each check."""
LIMITS_IN_WORDS = (
    "A self-test can find a fault; it can never prove privacy. It sees this code, on this machine, "
    "now, on made-up patients. Code that tells an examination from a real round would pass."
)

Verdict = Literal["OK", "FAILED", "CANNOT CHECK"]


@dataclass(frozen=True)
class Seen:
    """What a check measured.

    p_values: by part; the check fails if one of n is below FALSE_ALARM / n.
    broken: limits that hold without chance and did not, in words.
    unreached: why the probe could not measure what it was meant to, or nothing.
    figures: for the report.
    finds: the smallest fault that would have been found, in words.
    """

    p_values: Mapping[str, float] = field(default_factory=dict)
    broken: Sequence[str] = ()
    unreached: Sequence[str] = ()
    figures: Mapping[str, float | int | str] = field(default_factory=dict)
    finds: str = ""


@dataclass(frozen=True)
class Check:
    """A self-test. `measure` is told whether to be quick."""

    name: str
    shows: str
    statistic: str
    measure: Callable[[bool], Seen]


@dataclass(frozen=True)
class Finding:
    """One line of the report. `false_alarm`: probability that a sound installation fails."""

    check: str
    verdict: Verdict
    detail: str
    shows: str
    statistic: str
    false_alarm: float
    finds: str
    figures: Mapping[str, float | int | str]


def level(parts: int) -> float:
    """What one of so many p-values of a check may fall to (Bonferroni)."""
    return FALSE_ALARM / max(1, parts)


def judged(check: Check, seen: Seen) -> Finding:
    """The verdict on what was measured; a p-value that is not a number fails."""
    limit = level(len(seen.p_values))
    odd = [part for part, p in seen.p_values.items() if not p >= limit]
    reasons = list(seen.broken)
    if odd:
        worst = min(odd, key=lambda part: seen.p_values[part])
        more = f" and {len(odd) - 1} more" if len(odd) > 1 else ""
        reasons.append(f"{worst}{more}: p = {seen.p_values[worst]:.2g}")
    verdict: Verdict = "FAILED" if reasons else "CANNOT CHECK" if seen.unreached else "OK"
    shown = [f"{name} {_short(value)}" for name, value in seen.figures.items()]
    return Finding(
        check=check.name,
        verdict=verdict,
        detail="; ".join([*reasons, *(seen.unreached if not reasons else ()), *shown]),
        shows=check.shows,
        statistic=check.statistic,
        false_alarm=FALSE_ALARM if seen.p_values else 0.0,
        finds=seen.finds,
        figures=seen.figures,
    )


def run(check: Check, *, quick: bool) -> Finding:
    """One check. What the product refuses to do in it makes it fail, and so does any exception:
    what could not be measured to its end must neither pass nor hide the other checks' verdicts."""
    try:
        return judged(check, check.measure(quick))
    except FedprintError as error:
        broken = f"The product refused: {error}"
    except Exception as error:
        broken = f"The check broke off with {type(error).__name__}: {error}"
    return judged(check, Seen(broken=[broken]))


def chosen(checks: Sequence[Check], only: Sequence[str]) -> list[Check]:
    """The checks of these names, in the order of the report; all if none is named.

    Raises:
        OurMistake: there is no check of that name.
    """
    names = [check.name for check in checks]
    for name in only:
        if name not in names:
            raise OurMistake(
                f"There is no self-test {name!r}.", do=f"Choose from: {', '.join(names)}."
            )
    return [check for check in checks if not only or check.name in only]


def _short(value: float | int | str) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if math.isfinite(value) else str(value)
    return str(value)
