"""The budget in the console: what was spent, what is left, in words, as a plot and as tables."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from client import ledger_view
from client.console_facts import Facts, Kept, Spending, Unread, attempt
from client.ledger_view import LedgerView, day
from client.run_cost import TRUST
from shared_model.protocol import PRIVACY_UNIT
from shared_model.web.charts import Limit, Line, line_chart
from shared_model.web.site import Answer, Call, Page, Shown

SHOWN_ROUNDS = 200


@dataclass(frozen=True)
class PrivacyPages:
    """Of one node."""

    facts: Facts
    _kept: Kept[dict[str, Any]] = field(default_factory=Kept, repr=False)

    def all(self) -> list[Page]:
        return [Page("/privacy", self.show, nav="Privacy")]

    def show(self, call: Call) -> Answer:
        found = self.facts.spending()
        if isinstance(found, Unread):
            return Shown("privacy.html", {"fault": found, "spending": None})
        key = (found.view.chain.head, found.view.policy)
        values = attempt(lambda: self._kept.get(key, lambda: _values(found)))
        if isinstance(values, Unread):  # an entry was changed since this process has verified it
            return Shown("privacy.html", {"fault": values, "spending": None})
        return Shown("privacy.html", {"fault": None, "spending": found, **values})


def _values(found: Spending) -> dict[str, Any]:
    """What follows from the ledger and the policy alone."""
    view = found.view
    rounds = view.rounds()
    return {
        "limit": view.policy.epsilon_lifetime,
        "percent_left": round(100 * found.left / view.policy.epsilon_lifetime),
        "words": _in_words(found),
        "trust": TRUST[view.trust_model],
        "chart": chart(view),
        "runs": view.runs(),
        "rounds": list(reversed(rounds[-SHOWN_ROUNDS:])),
        "more": max(0, len(rounds) - SHOWN_ROUNDS),
    }


def chart(view: LedgerView) -> Markup:
    """Epsilon over time, for life and of each run, with their limits; as `ledger show --plot`."""
    life = ledger_view.spent_for_life(view.chain)
    runs = ledger_view.spent_of_runs(view.chain)
    lines = [Line("spent for life", _points(life), 1, steps=True)]
    lines += [
        Line("spent of each run" if number == 0 else "", _points(points), 2, steps=True)
        for number, points in enumerate(runs)
    ]
    policy = view.policy
    times = [moment.timestamp() for series in (life, *runs) for moment, _ in series] or [0.0]
    x_text, axis = _times(min(times), max(times))
    return line_chart(
        id="epsilon",
        title=f"Epsilon spent over time by {view.chain.site}",
        description=f"Steps upwards at each booked round, for life and of each run, at delta "
        f"{view.delta:g}, unit: {PRIVACY_UNIT}, trust model {view.trust_model}; with the limits "
        f"{policy.epsilon_lifetime:g} for life and {policy.epsilon_per_run:g} of a run. The table "
        "of rounds has the same numbers.",
        y_label=f"epsilon at delta {view.delta:g}",
        x_label=f"{axis}, UTC",
        lines=lines,
        limits=[
            Limit("limit for life", policy.epsilon_lifetime, 1),
            Limit("limit of a run", policy.epsilon_per_run, 2),
        ],
        x_text=x_text,
    )


def _times(first_s: float, last_s: float) -> tuple[Callable[[float], str], str]:
    """How a moment is written on an axis from the first to the last, and the axis's words."""
    begin, end = day(int(first_s)), day(int(last_s))
    if begin[:10] == end[:10]:
        return lambda seconds: day(int(seconds))[11:], f"time of booking on {begin[:10]}"
    if last_s - first_s < 4 * 86400.0:
        return lambda seconds: day(int(seconds))[5:], f"month-day and time of booking, {end[:4]}"
    return lambda seconds: day(int(seconds))[:10], "day of booking"


def _points(points: ledger_view.Points) -> tuple[tuple[float, float], ...]:
    return tuple((moment.timestamp(), epsilon) for moment, epsilon in points)


def _in_words(found: Spending) -> list[tuple[str, Any]]:
    """Epsilon never stands alone: delta, unit and trust model go with it."""
    last = found.view.chain.last_booking
    words: list[tuple[str, Any]] = [
        ("Spent for life", f"epsilon {found.epsilon:.4g}"),
        ("Left for life", f"epsilon {found.left:.4g}"),
        ("Limit for life", f"epsilon {found.view.policy.epsilon_lifetime:g}"),
        ("Limit of a run", f"epsilon {found.view.policy.epsilon_per_run:g}"),
        ("At delta", f"{found.view.delta:g}"),
        ("Unit", PRIVACY_UNIT),
    ]
    if last is not None and found.rounds_left is not None:
        words.append((f"Rounds left like those of {last.run}", found.rounds_left))
    return words
