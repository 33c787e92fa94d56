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
    epsilon = spent.epsilon_with(...)

Kinds: `opened` (first, once), `approved` (a run's plan, by whom), `booked` (before data is read),
`answered` (before the update leaves), `incident`, `recovered` (after a restore; may charge all that
was left), `handed-over` (to the next identity key) and `replaced` (recovered with another key, the
old one is lost). Only `booked`, `recovered` and `replaced` cost. See docs/adr/0012, docs/adr/0025.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

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
    line_of,
    next_head,
    opened_line,
    parse,
    seal,
    sign_head,
    slim,
)

__all__ = [
    "HEAD_TAG",
    "MAX_ENTRIES",
    "MAX_LINE_BYTES",
    "NOTHING",
    "TAG",
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


_CHANGES = (HandedOver, Replaced)
MOST_KEYS = 100
"""Keys of one ledger: whoever verifies a head of an unknown length tries them all."""


@dataclass(frozen=True, slots=True)
class Link:
    """One verified entry with where it stands; small, because ledgers are kept for years.

    Whoever runs a federation holds an object of these for every entry of every hospital. So the
    line is not kept: it is canonical, the entry and its signature give it back.
    """

    entry: Entry
    _packed: bytes = field(repr=False)
    """Signature (64), digest of the entry (32), head after it (32)."""
    end: int
    """Bytes of all lines up to this one, each with a line end."""

    @classmethod
    def of(cls, entry: Entry, signature: bytes, digest: str, head: str, end: int) -> Link:
        """signature: 64 raw bytes; digest, head: 64 hexadecimal digits."""
        packed = signature + bytes.fromhex(digest) + bytes.fromhex(head)
        return cls(slim(entry), packed, end)

    @property
    def line(self) -> bytes:
        """As it was signed and verified, without a line end."""
        return line_of(self.entry, self._packed[:64])

    @property
    def digest(self) -> str:
        return self._packed[64:96].hex()

    @property
    def head(self) -> str:
        """After this entry."""
        return self._packed[96:].hex()


@dataclass(frozen=True)
class Chain:
    """A verified ledger. Immutable; `extended` gives a longer one.

    site, identity_key (32 raw bytes): whose it is. The key is the one that signs the next entry;
    earlier ones may be by keys that it took over from (`key_at`).
    """

    site: str
    identity_key: bytes
    links: tuple[Link, ...] = ()
    _walk: _Walk | None = field(default=None, repr=False, compare=False)
    """Where the walk over `links` stands; spares `extended` walking them again."""

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
        if self.links and self.identity_key != identity_key:
            last = self._changes[-1].sequence if self._changes else 0
            raise LedgerFault(
                f"Entry {last} hands the ledger over to another key than this hospital's."
                if last
                else "Entry 1 is not signed by this hospital.",
                entry=last or 1,
            )

    def extended(self, lines: Iterable[bytes]) -> Chain:
        """This chain and further lines. An empty one takes the key that the lines begin with.

        Raises:
            LedgerFault: as `verified`, except that the last key may be any.
        """
        links, walk = list(self.links), self._walked()
        signer = self.identity_key
        if not links:
            lines = list(lines)
            signer = first_signer(lines, signer)
        for line in lines:
            number = walk.length + 1
            try:
                entry, signature, after = opened_line(line, signer)
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
            end = (links[-1].end if links else 0) + len(line) + 1
            links.append(Link.of(entry, signature, digest, walk.advance(entry, digest), end))
            signer = after
        return Chain(self.site, signer, tuple(links), walk)

    @property
    def size(self) -> int:
        """Bytes of all lines, each with a line end."""
        return self.links[-1].end if self.links else 0

    @property
    def keys(self) -> tuple[bytes, ...]:
        """All keys that this hospital's ledger was ever signed with, in order."""
        earlier = (bytes.fromhex(one.previous_key) for one in self._changes)
        return (*earlier, self.identity_key)

    def key_at(self, length: int) -> bytes:
        """The key that signs a head of this length."""
        for entry in self._changes:
            if entry.sequence > length:
                return bytes.fromhex(entry.previous_key)
        return self.identity_key

    @cached_property
    def _changes(self) -> tuple[HandedOver | Replaced, ...]:
        """Entries from which on another key signs, found once: files have 200,000 entries."""
        entries = (link.entry for link in self.links)
        return tuple(entry for entry in entries if isinstance(entry, _CHANGES))

    def _walked(self) -> _Walk:
        return _Walk.after(self.links) if self._walk is None else self._walk.copy()

    @property
    def length(self) -> int:
        """Sequence number of the last entry; lost entries count."""
        return self.links[-1].entry.sequence if self.links else 0

    @property
    def head(self) -> str:
        return self.links[-1].head if self.links else NOTHING

    @property
    def opened(self) -> Opened:
        """Raises:
        OurMistake: the ledger is empty, or its first entry was lost."""
        first = self.links[0].entry if self.links else None
        if not isinstance(first, Opened):
            raise OurMistake("The first entry of this ledger is not here.")
        return first

    @property
    def delta(self) -> float | None:
        """Fixed for life by the first entry; None while there is none."""
        first = self.links[0].entry if self.links else None
        return first.delta if isinstance(first, Opened | Recovered) else None

    def head_at(self, length: int) -> str | None:
        """The head when the ledger had this many entries; None if it is not known here."""
        if length == 0:
            return NOTHING
        for link in reversed(self.links):
            if link.entry.sequence == length:
                return link.head
            if link.entry.sequence < length:
                break
            if isinstance(link.entry, Recovered) and link.entry.lost_to == length:
                return link.entry.previous
        return None

    def after(self, length: int) -> tuple[Link, ...]:
        """The entries beyond this length."""
        return tuple(link for link in self.links if link.entry.sequence > length)

    @property
    def bookings(self) -> tuple[Booked, ...]:
        return tuple(link.entry for link in self.links if isinstance(link.entry, Booked))

    @property
    def answered_bookings(self) -> tuple[Booked, ...]:
        """Those whose update may have left."""
        answered = {x.entry.booking for x in self.links if isinstance(x.entry, Answered)}
        return tuple(item for item in self.bookings if item.sequence in answered)

    def booking(self, run: str, round: int) -> Booked | None:
        """The booking of a round, if there is one."""
        return next((b for b in self.bookings if (b.run, b.round) == (run, round)), None)

    def approval(self, run: str) -> tuple[Approved | None, int]:
        """The run's last approval, and how many of its rounds were booked since."""
        found, since = None, 0
        for link in self.links:
            entry = link.entry
            if isinstance(entry, Approved) and entry.run == run:
                found, since = entry, 0
            elif isinstance(entry, Booked) and entry.run == run:
                since += 1
        return found, since

    def answer(self, run: str, round: int) -> Answered | None:
        """The answer of a booked round, if it was given."""
        for link in reversed(self.links):
            entry = link.entry
            if isinstance(entry, Answered) and (entry.run, entry.round) == (run, round):
                return entry
        return None

    def spent(self) -> Spent:
        """What the whole ledger costs."""
        charged = 0.0
        segments: list[list[Booked]] = [[]]
        for entry in (link.entry for link in self.links):
            if isinstance(entry, Booked):
                segments[-1].append(entry)
            elif isinstance(entry, Recovered) and entry.epsilon_charged is not None:
                charged += entry.epsilon_charged
                segments.append([])
        return Spent(charged, tuple(tuple(part) for part in segments))


@dataclass(frozen=True)
class Spent:
    """What an accountant composes.

    charged: sum of the charges for lost entries. segments: the bookings that are here, cut where
    entries were lost. Total: charged + epsilon(segment, delta) of **each segment by itself**, at
    (losses + 1) x delta. A charge is what was left below the limit L that held, so charge and
    bookings before it add up to L, within which everything before it stayed, lost entries
    included; what follows is added by basic composition. Composing the segments with each other
    would give less than L and is not sound: what was lost was composed with them.
    """

    charged: float
    segments: tuple[tuple[Booked, ...], ...]

    @property
    def losses(self) -> int:
        return len(self.segments) - 1

    @property
    def bookings(self) -> tuple[Booked, ...]:
        """All that are here."""
        return tuple(item for part in self.segments for item in part)

    def of_run(self, run: str) -> Spent:
        """The run's own bookings; a charge is nobody's run."""
        return Spent(0.0, (tuple(item for item in self.bookings if item.run == run),))


@dataclass
class _Walk:
    """Is the next entry one that may stand there?"""

    length: int = 0
    head: str = NOTHING
    booked: dict[tuple[str, int], int] = field(default_factory=dict)
    answered: set[int] = field(default_factory=set)
    incidents: set[tuple[str, int, str]] = field(default_factory=set)
    delta: float | None = None
    last_booked: Booked | None = None
    keys: int = 1
    charged: float = 0.0
    """Since the last booking, whose own epsilon has what was charged before."""

    @classmethod
    def after(cls, links: Sequence[Link]) -> _Walk:
        walk = cls()
        for link in links:
            walk.take(link.entry, walk.length + 1)
            walk.length, walk.head = link.entry.sequence, link.head
        return walk

    def copy(self) -> _Walk:
        return replace(
            self,
            booked=dict(self.booked),
            answered=set(self.answered),
            incidents=set(self.incidents),
        )

    def take(self, entry: Entry, number: int) -> None:
        """Raises:
        LedgerFault: this entry may not follow."""
        fault = self._fault(entry, number)
        if fault:
            raise LedgerFault(f"Entry {number}: {fault}", entry=number)

    def advance(self, entry: Entry, digest: str) -> str:
        """The head after the entry."""
        if isinstance(entry, Recovered):
            self.head = entry.previous
        self.length, self.head = entry.sequence, next_head(self.head, digest)
        return self.head

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
        if isinstance(entry, _CHANGES):
            self.keys += 1
            if self.keys > MOST_KEYS:
                return f"the key has changed {MOST_KEYS} times; no hospital does that."
        match entry:
            case Opened() | Recovered():
                if self.delta not in (None, entry.delta):
                    return "delta is fixed for life, and this is another."
                self.delta = entry.delta
                if isinstance(entry, Recovered):
                    self.charged += entry.epsilon_charged or 0.0
            case Booked():
                if (entry.run, entry.round) in self.booked:
                    return f"round {entry.round} of run {entry.run} is booked twice."
                if self.delta is not None and entry.delta != self.delta:
                    return "delta is fixed for life, and this is another."
                self.booked[entry.run, entry.round] = entry.sequence
                self.last_booked, self.charged = entry, 0.0
            case Answered():
                if self.booked.get((entry.run, entry.round)) != entry.booking:
                    return "it answers a round that is not booked."
                if entry.booking in self.answered:
                    return "the round is answered twice."
                self.answered.add(entry.booking)
            case Incident():
                if (entry.run, entry.round, entry.reason) in self.incidents:
                    return "the incident is there twice."
                self.incidents.add((entry.run, entry.round, entry.reason))
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
