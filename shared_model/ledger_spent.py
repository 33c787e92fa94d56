"""What a ledger has spent, in as few words as cost the same. What it costs: `ledger_cost`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from shared_model.config import PrivacyPlan
from shared_model.ledger_entries import Booked, Recovered


@dataclass(frozen=True, slots=True)
class Alike:
    """Bookings of one run that cost the same each. Their fields as in `Booked`.

    first_steps: of the first of them. rounds: how many they are. steps: of all together.
    """

    run: str
    mode: Literal["local", "distributed"]
    private: bool
    sample_rate: float
    noise_multiplier: float
    clipping_norm: float
    dimension: int
    threshold: int
    colluding_sites: int
    first_steps: int
    rounds: int
    steps: int

    @classmethod
    def of(cls, booked: Booked) -> Alike:
        """One booking."""
        return cls(
            run=booked.run,
            mode=booked.mode,
            private=booked.private,
            sample_rate=booked.sample_rate,
            noise_multiplier=booked.noise_multiplier,
            clipping_norm=booked.clipping_norm,
            dimension=booked.dimension,
            threshold=booked.threshold,
            colluding_sites=booked.colluding_sites,
            first_steps=booked.steps,
            rounds=1,
            steps=booked.steps,
        )

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for bookings that belong together."""
        return (
            *(self.run, self.private, *self.price),
            *(self.dimension, self.threshold, self.colluding_sites),
        )

    @property
    def price(self) -> tuple[object, ...]:
        """Equal for steps that cost the same, whichever their run."""
        found = (self.mode, self.sample_rate, self.noise_multiplier, self.clipping_norm)
        if self.mode == "local":
            return found
        return (*found, self.dimension, self.threshold, self.colluding_sites)

    @property
    def plan(self) -> PrivacyPlan:
        """What the first of them did to the patients."""
        return PrivacyPlan(
            sample_rate=self.sample_rate,
            noise_multiplier=self.noise_multiplier,
            clipping_norm=self.clipping_norm,
            steps=self.first_steps,
            mode=self.mode,
        )


@dataclass(frozen=True)
class Spent:
    """What an accountant composes.

    charged: sum of the charges for lost entries. segments: the bookings that are here, in the order
    in which each price came first, cut where entries were lost. Total: charged + epsilon(segment,
    delta) of **each segment by itself**, at (losses + 1) x delta. A charge is what was left below
    the limit L that held, so charge and bookings before it add up to L, within which everything
    before it stayed, lost entries included; what follows is added by basic composition. Composing
    the segments with each other would give less than L and is not sound: what was lost was composed
    with them.
    """

    charged: float
    segments: tuple[tuple[Alike, ...], ...]

    @classmethod
    def of(cls, charged: float, *segments: Iterable[Booked]) -> Spent:
        """By the bookings of each segment."""
        tally = Tally()
        for number, part in enumerate(segments):
            if number:
                tally.cut(0.0)
            for booked in part:
                tally.book(booked)
        return replace(tally.spent(), charged=charged)

    @property
    def losses(self) -> int:
        return len(self.segments) - 1

    @property
    def bookings(self) -> tuple[Alike, ...]:
        """All that are here."""
        return tuple(item for part in self.segments for item in part)

    def of_run(self, run: str) -> Spent:
        """The run's own bookings; a charge is nobody's run."""
        return Spent(0.0, (tuple(item for item in self.bookings if item.run == run),))


class Tally:
    """Adds up `Spent`, booking by booking."""

    def __init__(
        self, charged: float = 0.0, segments: Iterable[Mapping[tuple[object, ...], Alike]] = ({},)
    ) -> None:
        self._charged = charged
        self._segments = [dict(part) for part in segments]

    def copy(self) -> Tally:
        return Tally(self._charged, self._segments)

    def book(self, booked: Booked) -> None:
        one = Alike.of(booked)
        key = one.key
        before = self._segments[-1].get(key)
        if before is not None:
            one = replace(before, rounds=before.rounds + 1, steps=before.steps + one.steps)
        self._segments[-1][key] = one

    def take(self, entry: Booked | Recovered) -> None:
        """The next entry that costs."""
        if isinstance(entry, Booked):
            self.book(entry)
        elif entry.epsilon_charged is not None:
            self.cut(entry.epsilon_charged)

    def cut(self, charge: float) -> None:
        """Entries were lost here, or may have been."""
        self._charged += charge
        self._segments.append({})

    def spent(self) -> Spent:
        return Spent(self._charged, tuple(tuple(part.values()) for part in self._segments))
