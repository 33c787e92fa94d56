"""One walk over the entries of a ledger: may this one follow, and what do they add up to?

A walk keeps what later entries are checked against and what is asked of a ledger again and again,
so that neither needs the entries themselves: which rounds are booked and answered, approvals, what
was spent. A booked and answered round takes about 250 bytes, its marks included.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from shared_model.ledger_entries import (
    NOTHING,
    Answered,
    Approved,
    Booked,
    Entry,
    HandedOver,
    Incident,
    LedgerFault,
    Opened,
    Recovered,
    Replaced,
    next_head,
)
from shared_model.ledger_lines import Link, Marks
from shared_model.ledger_spent import Tally

_CHANGES = (HandedOver, Replaced)
MOST_KEYS = 100
"""Keys of one ledger: whoever verifies a head of an unknown length tries them all."""


@dataclass
class Walk:
    """Is the next entry one that may stand there? What do those until now add up to?"""

    length: int = 0
    head: str = NOTHING
    marks: Marks = field(default_factory=Marks)
    tally: Tally = field(default_factory=Tally)
    first: Entry | None = None
    last_booked: Booked | None = None
    booked: dict[str, dict[int, int]] = field(default_factory=dict)
    """run -> round -> number of the booking."""
    approvals: dict[str, tuple[int, int]] = field(default_factory=dict)
    """run -> number of its last approval, rounds booked since."""
    incidents: set[tuple[str, int, str]] = field(default_factory=set)
    changes: tuple[HandedOver | Replaced, ...] = ()
    """Entries from which on another key signs."""
    lost: dict[int, str] = field(default_factory=dict)
    """Last lost number -> head there: what is known of entries that are not here."""
    delta: float | None = None
    charged: float = 0.0
    """Since the last booking, whose own epsilon has what was charged before."""
    _own: set[str] = field(default_factory=set, repr=False, compare=False)
    """Runs whose rounds no other walk has: they are added to in place. A copy for each booking
    would make the time of a reading grow with the square of a run's rounds."""

    @classmethod
    def over(cls, links: Iterable[Link]) -> Walk:
        """Of entries that were verified before."""
        walk = cls()
        for link in links:
            walk.take(link.entry, walk.length + 1)
            walk.advance(link.entry, link.line, link.digest)
        return walk

    def copy(self) -> Walk:
        return replace(
            self,
            marks=self.marks.copy(),
            tally=self.tally.copy(),
            booked=dict(self.booked),  # its rounds are copied when the first is added: `_own`
            approvals=dict(self.approvals),
            incidents=set(self.incidents),
            lost=dict(self.lost),
            _own=set(),
        )

    def take(self, entry: Entry, number: int) -> None:
        """Raises:
        LedgerFault: this entry may not follow."""
        fault = self._fault(entry, number)
        if fault:
            raise LedgerFault(f"Entry {number}: {fault}", entry=number)

    def advance(self, entry: Entry, line: bytes, digest: str) -> str:
        """The head after the entry, which was taken; its line is not kept."""
        if isinstance(entry, Recovered):
            self.head = entry.previous
        self.length, self.head = entry.sequence, next_head(self.head, digest)
        self.marks.add(entry, line, self.head)
        self._count(entry)
        return self.head

    def _count(self, entry: Entry) -> None:
        """What this entry adds."""
        if self.first is None:
            self.first = entry
        if isinstance(entry, _CHANGES):
            self.changes = (*self.changes, entry)
        match entry:
            case Booked():
                run = entry.run
                if run not in self._own:
                    self._own.add(run)
                    self.booked[run] = dict(self.booked.get(run, {}))
                self.booked[run][entry.round] = entry.sequence
                if run in self.approvals:
                    number, since = self.approvals[run]
                    self.approvals[run] = (number, since + 1)
                self.tally.take(entry)
                self.last_booked, self.charged = entry, 0.0
            case Answered():
                self.marks.answer(entry.booking, entry.sequence)
            case Approved():
                self.approvals[entry.run] = (entry.sequence, 0)
            case Incident():
                self.incidents.add((entry.run, entry.round, entry.reason))
            case Recovered():
                if entry.lost_to:
                    self.lost[entry.lost_to] = entry.previous
                self.charged += entry.epsilon_charged or 0.0
                self.tally.take(entry)
            case _:
                pass
        if isinstance(entry, Opened | Recovered):
            self.delta = entry.delta

    def _fault(self, entry: Entry, number: int) -> str:
        lost = isinstance(entry, Recovered) and entry.lost_from > 0
        if lost:
            if entry.lost_from != number:  # type: ignore[union-attr]
                return "what was lost does not begin where the ledger ends."
        elif entry.sequence != number:
            return f"it says that it is number {entry.sequence}; entries are missing or swapped."
        elif isinstance(entry, Recovered) and entry.previous != self.head:
            return "it does not follow from the entry before."
        if (number == 1 and not lost) != isinstance(entry, Opened):
            return "a ledger has one first entry, and this is not its place."
        if isinstance(entry, Recovered) and self._undercharged(entry.epsilon_charged):
            return "it charges less for what was lost than was left of the budget."
        if isinstance(entry, _CHANGES) and len(self.changes) + 2 > MOST_KEYS:
            return f"the key has changed {MOST_KEYS} times; no hospital does that."
        match entry:
            case Opened() | Recovered():
                if self.delta not in (None, entry.delta):
                    return "delta is fixed for life, and this is another."
            case Booked():
                if entry.round in self.booked.get(entry.run, ()):
                    return f"round {entry.round} of run {entry.run} is booked twice."
                if self.delta is not None and entry.delta != self.delta:
                    return "delta is fixed for life, and this is another."
            case Answered():
                if self.booked.get(entry.run, {}).get(entry.round) != entry.booking:
                    return "it answers a round that is not booked."
                if self.marks.answer_of(entry.booking):
                    return "the round is answered twice."
            case Incident():
                if (entry.run, entry.round, entry.reason) in self.incidents:
                    return "the incident is there twice."
            case _:
                pass
        return ""

    def _undercharged(self, charged: float | None) -> bool:
        """By what the last booking says of itself; whoever recomputes epsilon checks that."""
        last = self.last_booked
        if charged is None or last is None:
            return False
        if last.limit_lifetime is None or last.epsilon_lifetime is None:
            return False
        return last.epsilon_lifetime + self.charged + charged < last.limit_lifetime * (1.0 - 1e-9)
