"""The ledger as people read it: what was spent, for life and of each run, and what is left.

Epsilon never stands alone: delta, unit and trust model go with it. The figure for life is computed
from the entries; those of single rounds and the plot are what the entries say of themselves, which
`fedprint-node ledger verify` recomputes.
"""

from __future__ import annotations

import datetime
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from client.policy import Policy
from shared_model import ledger_cost
from shared_model.ledger import Booked, Chain, Incident, Recovered
from shared_model.protocol import PRIVACY_UNIT

_LOCAL = "local (this hospital adds the whole noise itself)"
_COLOURS = ("#0072B2", "#D55E00")
"""For life, of runs: told apart by colour-blind readers, too (Okabe and Ito)."""


@dataclass(frozen=True)
class LedgerView:
    """A verified chain under today's policy."""

    chain: Chain
    policy: Policy

    @property
    def delta(self) -> float:
        """Delta of the whole, charges for lost entries included."""
        return (self.chain.spent().losses + 1) * (self.chain.delta or self.policy.delta)

    @property
    def epsilon(self) -> float:
        return self._epsilon(None)

    def _epsilon(self, run: str | None) -> float:
        spent = self.chain.spent() if run is None else self.chain.spent().of_run(run)
        return ledger_cost.epsilon(spent, self.chain.delta or self.policy.delta)[0]

    @property
    def left(self) -> float:
        """Epsilon for life that is left."""
        return max(0.0, self.policy.epsilon_lifetime - self.epsilon)

    @property
    def rounds_left(self) -> int | None:
        """Rounds of the present plan, that of the last booking; None before the first."""
        last = self.chain.last_booking
        if last is None:
            return None
        return ledger_cost.rounds_left(
            self.chain.spent(),
            last,
            delta=self.chain.delta or self.policy.delta,
            lifetime=self.policy.epsilon_lifetime,
            per_run=self.policy.epsilon_per_run,
        )

    @property
    def trust_model(self) -> str:
        """The weakest that anything here depends on."""
        shared = any(item.mode == "distributed" for item in self.chain.spent().bookings)
        return "distributed" if shared else "local"

    @property
    def trust_in_words(self) -> str:
        if self.trust_model == "local":
            return _LOCAL
        bookings = self.chain.spent().bookings
        least = min(x.colluding_sites for x in bookings if x.mode == "distributed")
        return f"distributed (holds while the secure sum does, against {least} colluding hospitals)"

    @property
    def in_words(self) -> str:
        """Spent, limits and left, in two or three sentences."""
        words = (
            f"Spent for life: epsilon {number(self.epsilon)} at delta {self.delta:g}, unit: "
            f"{PRIVACY_UNIT}, trust model {self.trust_in_words}. Limit: epsilon "
            f"{self.policy.epsilon_lifetime:g} for life, {self.policy.epsilon_per_run:g} a run. "
            f"Left for life: epsilon {number(self.left)}"
        )
        last = self.chain.last_booking
        if last is None:
            return words + "."
        return (
            f"{words}, which is {self.rounds_left} more rounds of the present plan "
            f"(run {last.run}: {last.steps} steps, sample rate {last.sample_rate:g}, noise "
            f"multiplier {last.noise_multiplier:g})."
        )

    def runs(self) -> list[dict[str, Any]]:
        """One row a run."""
        rows = []
        for run, last in self._last_of_runs().items():
            epsilon = self._epsilon(run)
            bookings = self.chain.spent().of_run(run).bookings
            rows.append(
                {
                    "run": run,
                    "rounds": self.chain.rounds_of(run),
                    "steps": sum(item.steps for item in bookings),
                    "epsilon": number(epsilon),
                    "delta": last.delta,
                    "left of the run": number(max(0.0, self.policy.epsilon_per_run - epsilon)),
                    "trust model": last.mode,
                }
            )
        return rows

    def _last_of_runs(self) -> dict[str, Booked]:
        """The last booking of each run, in the order of their first."""
        found: dict[str, Booked] = {}
        for booked in self.chain.entries(Booked):
            found[booked.run] = booked
        return found

    def rounds(self) -> list[dict[str, Any]]:
        """One row a booking."""
        return [
            {
                "run": item.run,
                "round": item.round,
                "booked": day(item.time_s),
                "steps": item.steps,
                "sample rate": item.sample_rate,
                "noise multiplier": item.noise_multiplier,
                "clipping norm": item.clipping_norm,
                "noise": item.noise if item.private else f"{item.noise} (NOT PRIVATE)",
                "epsilon so far": _stated(item.epsilon_lifetime),
                "delta": item.delta,
                "unit": PRIVACY_UNIT,
                "trust model": item.mode,
                "answered": self.chain.is_answered(item),
            }
            for item in self.chain.entries(Booked)
        ]

    def facts(self) -> dict[str, Any]:
        """For machines (`--json`)."""
        return {
            "site": self.chain.site,
            "entries": self.chain.length,
            "head": self.chain.head,
            "epsilon": number(self.epsilon),
            "delta": self.delta,
            "unit": PRIVACY_UNIT,
            "trust_model": self.trust_model,
            "epsilon_lifetime": self.policy.epsilon_lifetime,
            "epsilon_per_run": self.policy.epsilon_per_run,
            "epsilon_left": number(self.left),
            "rounds_left": self.rounds_left,
            "in_words": self.in_words,
            "incidents": self.chain.count(Incident),
            "recovered": [
                {
                    "entry": item.sequence,
                    "lost_from": item.lost_from,
                    "lost_to": item.lost_to,
                    "epsilon_charged": item.epsilon_charged,
                    "witnesses": list(item.witnesses),
                }
                for item in self.chain.entries(Recovered)
            ],
            "runs": [_keys(row) for row in self.runs()],
            "rounds": [_keys(row) for row in self.rounds()],
        }

    def misstated(self) -> Booked | None:
        """The last booking of each run says what an accountant finds; None, or the one that not."""
        spent = self.chain.spent()
        delta = self.chain.delta or self.policy.delta
        last = self.chain.last_booking
        if last is not None and not _same(
            last.epsilon_lifetime, ledger_cost.epsilon(spent, delta)[0]
        ):
            return last
        for booked in self._last_of_runs().values():
            of_run, _ = ledger_cost.epsilon(spent.of_run(booked.run), delta)
            if not _same(booked.epsilon_run, of_run):
                return booked
        return None


def plot(view: LedgerView, path: Path) -> None:
    """Cumulative epsilon over time, for life and of each run, with their limits; .png or .svg."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 4.5), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    life, of_run = _COLOURS
    spent = spent_for_life(view.chain)
    for color, name, style, width, series, limit in (
        (life, "for life", "--", 3.0, [spent], view.policy.epsilon_lifetime),
        (of_run, "of each run", ":", 1.2, spent_of_runs(view.chain), view.policy.epsilon_per_run),
    ):
        for number, points in enumerate(series):
            days, totals = zip(*points, strict=True) if points else ((), ())
            label = f"spent {name}" if number == 0 else None
            axes.step(
                days, totals, where="post", color=color, marker=".", lw=width, ms=4.0, label=label
            )
        axes.axhline(limit, color=color, linestyle=style, label=f"limit {name}")
    axes.set_ylim(bottom=0.0)
    axes.set_ylabel(f"epsilon at delta {view.delta:g}, a patient")
    if spent:
        locator = AutoDateLocator()  # type: ignore[no-untyped-call]
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
        first, last = min(spent)[0], max(spent)[0]
        margin = max((last - first) / 20, datetime.timedelta(minutes=5))
        axes.set_xlim(first - margin, last + margin)  # type: ignore[arg-type]
        axes.set_xlabel("time of booking, UTC")
    else:
        axes.set_xticks([])
        axes.set_xlabel("no round is booked yet")
    axes.set_title(f"{view.chain.site}: {PRIVACY_UNIT}; trust model {view.trust_model}")
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    figure.savefig(path)


Points = list[tuple[datetime.datetime, float]]


def spent_for_life(chain: Chain) -> Points:
    """(time, epsilon for life after it), from 0 on."""
    points: Points = []
    for entry in chain.entries(Booked, Recovered):
        if isinstance(entry, Recovered) and entry.epsilon_charged:
            before = points[-1][1] if points else 0.0
            _add(points, entry.time_s, before + entry.epsilon_charged)
        elif isinstance(entry, Booked):
            _add(points, entry.time_s, entry.epsilon_lifetime)
    return points


def spent_of_runs(chain: Chain) -> list[Points]:
    """The same of each run by itself."""
    runs: dict[str, Points] = {}
    for booked in chain.entries(Booked):
        _add(runs.setdefault(booked.run, []), booked.time_s, booked.epsilon_run)
    return list(runs.values())


def _add(points: Points, time_s: int, epsilon: float | None) -> None:
    if not points:
        points.append((_time(time_s), 0.0))
    points.append((_time(time_s), math.nan if epsilon is None else epsilon))


def number(epsilon: float) -> float | str:
    """JSON has no infinity; it stands for "nothing is promised"."""
    return round(epsilon, 6) if math.isfinite(epsilon) else "infinite"


def day(time_s: int) -> str:
    """YYYY-MM-DD HH:MM, UTC."""
    return _time(time_s).strftime("%Y-%m-%d %H:%M")


def _time(time_s: int) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(time_s, datetime.UTC)


def _stated(epsilon: float | None) -> float | str:
    return "infinite" if epsilon is None else number(epsilon)


def _same(stated: float | None, found: float) -> bool:
    """To 1 %: versions of the accountant may differ by so much."""
    if stated is None or not math.isfinite(found):
        return stated is None and not math.isfinite(found)
    return math.isclose(stated, found, rel_tol=0.01, abs_tol=1e-3)


def _keys(row: dict[str, Any]) -> dict[str, Any]:
    return {key.replace(" ", "_"): value for key, value in row.items()}
