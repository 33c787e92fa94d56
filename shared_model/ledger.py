"""The privacy ledger: entries, canonical lines, hash chain, heads. Pure: bytes in, verdict out.

An entry is a line: canonical JSON of its fields and `signature`, made with the hospital's identity
key over (tag "ledger-entry", canonical JSON without the signature). Lines are chained:

    entry digest i = SHA-256("ledger-entry" framed with the canonical JSON of entry i)
    head 0         = 64 zeros
    head i         = SHA-256("ledger-head" framed with head i-1 and entry digest i)

so that a list of entry digests (`links`) shows that one head follows from another. A `LedgerHead`
is (length, head) signed by the site: what others keep.

    chain = Chain.verified(lines, identity_key)       # every signature, every link; or LedgerFault
    spent = chain.spent()                             # what an accountant composes
    chain = chain.at(lines)                           # from now on entries are read from there

A chain that was made of lines holds them. One that lies in a file (`at`) holds marks of 80 bytes an
entry and what they add up to, and reads entries again when they are asked for, never unverified:
see `ledger_lines`.

Kinds: `opened` (first, once), `approved` (a run's plan, by whom), `booked` (before data is read),
`answered` (before the update leaves), `incident`, `recovered` (after a restore; may charge all that
was left), `handed-over` (to the next identity key) and `replaced` (recovered with another key, the
old one is lost). Only `booked`, `recovered` and `replaced` cost. See docs/adr/0012, docs/adr/0025.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar, overload

from shared_model.errors import OurMistake, Refused
from shared_model.ledger_entries import (
    HEAD_TAG,
    MAX_ENTRIES,
    MAX_LINE_BYTES,
    NOTHING,
    TAG,
    Answered,
    Approved,
    Booked,
    Digest,
    Entry,
    HandedOver,
    Incident,
    LedgerFault,
    LedgerHead,
    Opened,
    Recovered,
    Replaced,
    RoundNumber,
    RunId,
    Signature,
    entry_digest,
    first_signer,
    follows,
    next_head,
    opened_line,
    parse,
    seal,
    sign_head,
)
from shared_model.ledger_lines import Lines, Link, Links
from shared_model.ledger_spent import Alike, Spent, Tally
from shared_model.ledger_walk import MOST_KEYS, Walk

__all__ = [
    "HEAD_TAG",
    "MAX_ENTRIES",
    "MAX_LINE_BYTES",
    "MOST_KEYS",
    "NOTHING",
    "TAG",
    "Alike",
    "Answered",
    "Approved",
    "Booked",
    "Chain",
    "Digest",
    "Entry",
    "HandedOver",
    "Incident",
    "LedgerFault",
    "LedgerHead",
    "Lines",
    "Link",
    "Opened",
    "Recovered",
    "Replaced",
    "RoundNumber",
    "RunId",
    "Signature",
    "Spent",
    "entry_digest",
    "first_signer",
    "follows",
    "next_head",
    "opened_line",
    "parse",
    "seal",
    "sign_head",
]


K = TypeVar("K", bound=Entry)
L = TypeVar("L", bound=Entry)


@dataclass(frozen=True)
class Chain:
    """A verified ledger. Immutable; `extended` gives a longer one.

    site, identity_key (32 raw bytes): whose it is. The key is the one that signs the next entry;
    earlier ones may be by keys that it took over from (`key_at`).
    """

    site: str
    identity_key: bytes
    links: Sequence[Link] = ()
    _walk: Walk = field(default_factory=Walk, repr=False, compare=False)
    """What `links` add up to; never changed."""

    def __post_init__(self) -> None:
        """Links that come without their walk were verified before."""
        if not isinstance(self.links, Links):
            object.__setattr__(self, "_walk", Walk.over(self.links))
            object.__setattr__(self, "links", Links(self._walk.marks, None, self.links))

    @classmethod
    def verified(cls, lines: Iterable[bytes], identity_key: bytes, *, site: str) -> Chain:
        """Every line, in order; the last key that signs is this one.

        Raises:
            LedgerFault: names the first bad entry: not canonical, not signed by the key that has
                to, out of order, of another site, or one that makes no sense where it stands; or
                the ledger is another key's.
        """
        chain = cls(site, identity_key).extended(lines)
        chain.check_key(identity_key)
        return chain

    def check_key(self, identity_key: bytes) -> None:
        """Raises:
        LedgerFault: the ledger has entries, and another key than this signs the next."""
        if self.length and self.identity_key != identity_key:
            last = self._walk.changes[-1].sequence if self._walk.changes else 0
            raise LedgerFault(
                f"Entry {last} hands the ledger over to another key than this hospital's."
                if last
                else "Entry 1 is not signed by this hospital.",
                entry=last or 1,
            )

    def extended(self, lines: Iterable[bytes], *, at: Lines | None = None) -> Chain:
        """This chain and further lines. An empty one takes the key that the lines begin with.

        Args:
            at: where this chain and the further lines lie already; none of them is held then,
                and they are verified as they come.

        Raises:
            LedgerFault: as `verified`, except that the last key may be any.
        """
        walk, tail = self._walk.copy(), list[Link]()
        signer = self.identity_key
        if not self.length:
            signer, lines = _first_signer(lines, signer)
        for line in lines:
            number = walk.length + 1
            try:
                entry, after = opened_line(line, signer)
            except LedgerFault as error:
                raise LedgerFault(f"Entry {number}: {error.message}", entry=number) from error
            except Refused as error:
                raise LedgerFault(
                    f"Entry {number} is not signed by this hospital.", entry=number
                ) from error
            if entry.site != self.site:
                raise LedgerFault(f"Entry {number} is of another hospital.", entry=number)
            walk.take(entry, number)
            if isinstance(entry, Opened) and entry.identity_key != signer.hex():
                raise LedgerFault("Entry 1 names another key than the one that signs it.", entry=1)
            digest = entry_digest(entry)
            head = walk.advance(entry, line, digest)
            if at is None:
                tail.append(Link(entry, line, digest, head))
            signer = after
        old = self._links
        links = Links(walk.marks, old.lines, (*old.tail, *tail)) if at is None else None
        return Chain(self.site, signer, links or Links(walk.marks, at), walk)

    def at(self, lines: Lines) -> Chain:
        """The same chain, all of which lies there by now: no entry is held in memory."""
        return replace(self, links=Links(self._walk.marks, lines))

    @property
    def _links(self) -> Links:
        if not isinstance(self.links, Links):
            raise OurMistake("The links of a chain were replaced.")
        return self.links

    @property
    def size(self) -> int:
        """Bytes of all lines, each with a line end."""
        return self._walk.marks.size

    def number(self, place: int) -> int:
        """Sequence number of the entry at this place among those that are here, from 0."""
        return self._walk.marks.number(place)

    def holds(self, number: int, line: bytes) -> bool:
        """Whether this is the line of the entry with this number."""
        place = self._walk.marks.place(number)
        return place is not None and self._walk.marks.holds(place, line)

    def continues(self, other: Chain) -> bool:
        """Whether the other's lines are the first of this one's, byte for byte."""
        return self._walk.marks.begin_with(other._walk.marks)

    @property
    def keys(self) -> tuple[bytes, ...]:
        """All keys that this hospital's ledger was ever signed with, in order."""
        earlier = (bytes.fromhex(one.previous_key) for one in self._walk.changes)
        return (*earlier, self.identity_key)

    def key_at(self, length: int) -> bytes:
        """The key that signs a head of this length."""
        for entry in self._walk.changes:
            if entry.sequence > length:
                return bytes.fromhex(entry.previous_key)
        return self.identity_key

    @property
    def length(self) -> int:
        """Sequence number of the last entry; lost entries count."""
        return self._walk.length

    @property
    def head(self) -> str:
        return self._walk.head

    @property
    def opened(self) -> Opened:
        """Raises:
        OurMistake: the ledger is empty, or its first entry was lost."""
        first = self._walk.first
        if not isinstance(first, Opened):
            raise OurMistake("The first entry of this ledger is not here.")
        return first

    @property
    def delta(self) -> float | None:
        """Fixed for life by the first entry; None while there is none."""
        first = self._walk.first
        return first.delta if isinstance(first, Opened | Recovered) else None

    def head_at(self, length: int) -> str | None:
        """The head when the ledger had this many entries; None if it is not known here."""
        if length == 0:
            return NOTHING
        marks = self._walk.marks
        place = marks.place(length)
        return self._walk.lost.get(length) if place is None else marks.head(place)

    def after(self, length: int) -> tuple[Link, ...]:
        """The entries beyond this length."""
        first = self._walk.marks.place_after(length)
        return tuple(self._links.between(first, len(self.links)))

    def size_after(self, length: int) -> tuple[int, int]:
        """How many entries are beyond this length, and bytes of their lines; none is read."""
        marks = self._walk.marks
        first = marks.place_after(length)
        count = len(marks) - first
        return count, marks.size - marks.start(first) - count

    def digests(self, after: int, until: int) -> Iterator[str]:
        """Of the entries with numbers beyond the one and up to the other; no two are held."""
        first, last = map(self._walk.marks.place_after, (after, until))
        return (link.digest for link in self._links.between(first, last))

    @overload
    def entries(self, kind: type[K], /) -> Iterator[K]: ...
    @overload
    def entries(self, kind: type[K], other: type[L], /) -> Iterator[K | L]: ...
    def entries(self, *kinds: type[Any]) -> Iterator[Any]:
        """Entries of these kinds, and of those derived from them, read one after the other.

        Raises:
            FedprintError: the ledger lies in a file that was changed since it was verified.
        """
        return (link.entry for link in self._links.between(0, len(self.links), kinds))

    def count(self, kind: type[Any]) -> int:
        """Entries of this kind."""
        return self._walk.marks.count(kind)

    @property
    def bookings(self) -> tuple[Booked, ...]:
        """All of them, in memory: `entries`, `count`, `last_booking` need not hold them."""
        return tuple(self.entries(Booked))

    @property
    def last_booking(self) -> Booked | None:
        return self._walk.last_booked

    def rounds_of(self, run: str) -> int:
        """Rounds of the run that are booked."""
        return len(self._walk.booked.get(run, ()))

    def is_answered(self, booking: Booked) -> bool:
        """Whether the update of a booking of this chain may have left."""
        return self._walk.marks.answer_of(booking.sequence) > 0

    def has_incident(self, run: str, round: int, reason: str) -> bool:
        return (run, round, reason) in self._walk.incidents

    @property
    def answered_bookings(self) -> tuple[Booked, ...]:
        """Those whose update may have left."""
        return tuple(item for item in self.entries(Booked) if self.is_answered(item))

    def booking(self, run: str, round: int) -> Booked | None:
        """The booking of a round, if there is one."""
        found = self._entry(self._walk.booked.get(run, {}).get(round, 0))
        return found if isinstance(found, Booked) else None

    def approval(self, run: str) -> tuple[Approved | None, int]:
        """The run's last approval, and how many of its rounds were booked since."""
        number, since = self._walk.approvals.get(run, (0, self.rounds_of(run)))
        found = self._entry(number)
        return (found if isinstance(found, Approved) else None), since

    def answer(self, run: str, round: int) -> Answered | None:
        """The answer of a booked round, if it was given."""
        booking = self._walk.booked.get(run, {}).get(round, 0)
        found = self._entry(self._walk.marks.answer_of(booking))
        return found if isinstance(found, Answered) else None

    def _entry(self, number: int) -> Entry | None:
        """The entry with this sequence number, read again; None if it is not here."""
        place = self._walk.marks.place(number)
        return None if place is None else self.links[place].entry

    def spent(self, until: int | None = None) -> Spent:
        """What the ledger costs.

        Args:
            until: sequence number of the last entry that counts; all do if None.
        """
        if until is None or until >= self.length:
            return self._walk.tally.spent()
        tally = Tally()
        for entry in self.entries(Booked, Recovered):
            if entry.sequence > until:
                break
            tally.take(entry)
        return tally.spent()


def _first_signer(lines: Iterable[bytes], last: bytes) -> tuple[bytes, Iterator[bytes]]:
    """See `first_signer`; and all lines, of which no more are held than it has looked at."""
    seen, rest = list[bytes](), iter(lines)

    def looked_at() -> Iterator[bytes]:
        for line in rest:
            seen.append(line)
            yield line

    signer = first_signer(looked_at(), last)
    return signer, itertools.chain(seen, rest)
