"""An exported ledger whose signature and chain were verified, with what is looked up in it.

`auditor.ledger_examine` makes it of a hostile file. A ledger can have gaps: entries that were lost
in a restore. Every look-up is by an index: a hostile file has 200,000 entries.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from shared_model.errors import Refused
from shared_model.ledger import (
    NOTHING,
    Answered,
    Booked,
    Chain,
    Entry,
    LedgerHead,
    Recovered,
)
from shared_model.ledger_export import Export
from shared_model.roster import Roster

RoundOf = tuple[str, int]
"""(run, number)."""


@dataclass(frozen=True)
class Vouch:
    """`by` has seen this head of the ledger of `of`, and has signed that it has."""

    by: str
    of: str
    head: LedgerHead


@dataclass(frozen=True)
class Ledger:
    """A file whose signature and chain were verified.

    key: the hospital's, 32 raw bytes. vouches: for this and other ledgers, each verified.
    """

    name: str
    digest: str
    export: Export = field(repr=False)
    key: bytes
    rosters: Mapping[str, Roster] = field(repr=False)
    chain: Chain = field(repr=False)
    vouches: tuple[Vouch, ...] = field(default=(), repr=False)

    @property
    def site(self) -> str:
        return self.export.site

    @cached_property
    def newest_first(self) -> tuple[Roster, ...]:
        """The rosters, by version."""
        return tuple(sorted(self.rosters.values(), key=lambda one: one.version, reverse=True))

    @property
    def newest_roster(self) -> Roster:
        return self.newest_first[0]

    def keys_of(self, site: str) -> tuple[bytes, ...]:
        """Of another hospital, as rosters in the file name them, newest first; 32 raw bytes each.

        Raises:
            Refused: no roster names it.
        """
        found = [one.entry(site).identity for one in self.newest_first if site in one.names]
        if not found:
            raise Refused(f"No roster in the file names {site}.", reason="roster")
        return tuple(dict.fromkeys(found))

    @cached_property
    def entries(self) -> tuple[Entry, ...]:
        return tuple(link.entry for link in self.chain.links)

    @cached_property
    def bookings(self) -> Mapping[RoundOf, Booked]:
        """In their order; a chain books each round once."""
        return {(one.run, one.round): one for one in self.chain.bookings}

    @cached_property
    def answers(self) -> Mapping[RoundOf, Answered]:
        return {(one.run, one.round): one for one in self.entries if isinstance(one, Answered)}

    @cached_property
    def imported(self) -> tuple[Booked, ...]:
        """Bookings at the beginning that were taken over from an older spend table, which knew no
        roster, request or approval."""
        found = []
        for entry in self.entries[1:]:
            if isinstance(entry, Booked) and entry.roster_digest == NOTHING:
                found.append(entry)
            elif not isinstance(entry, Answered):
                break
        return tuple(found)

    @cached_property
    def own_bookings(self) -> tuple[Booked, ...]:
        """The others."""
        return self.chain.bookings[len(self.imported) :]

    # What was lost

    @cached_property
    def losses(self) -> tuple[Recovered, ...]:
        """Entries that charge for lost ones, by this hospital's own word."""
        recovered = (one for one in self.entries if isinstance(one, Recovered))
        return tuple(one for one in recovered if one.epsilon_charged is not None)

    @cached_property
    def gaps(self) -> tuple[tuple[int, int], ...]:
        """Ranges of entries that are not here: first and last number of each."""
        return tuple((one.lost_from, one.lost_to) for one in self.losses if one.lost_from)

    @cached_property
    def stretches(self) -> tuple[tuple[int, int], ...]:
        """Ranges of entries that are here. No entry after a gap says anything of those before."""
        firsts = (1, *(last + 1 for _, last in self.gaps))
        lasts = (*(first - 1 for first, _ in self.gaps), self.chain.length)
        return tuple(one for one in zip(firsts, lasts, strict=True) if one[0] <= one[1])

    def lost(self, length: int) -> bool:
        """Whether this ledger ended with an entry that is not here when it had this length."""
        at = bisect_right(self.gaps, length, key=lambda gap: gap[0]) - 1
        return at >= 0 and length <= self.gaps[at][1]

    def head_at(self, length: int) -> str | None:
        """The head when it had this length; None: not known here. Of a gap its last is known."""
        return self._heads.get(length)

    def may_have_had(self, length: int, head: str) -> bool:
        """Whether this was its head at that length, or may have been: nobody knows in a gap."""
        known = self.head_at(length)
        return known == head or (known is None and self.lost(length))

    @cached_property
    def _heads(self) -> Mapping[int, str]:
        found = {0: NOTHING}
        for link in self.chain.links:
            if isinstance(link.entry, Recovered) and link.entry.lost_to:
                found[link.entry.lost_to] = link.entry.previous
            found[link.entry.sequence] = link.head
        return found
