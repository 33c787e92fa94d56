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
was left). Only `booked` and `recovered` cost. See docs/adr/0012-privacy-ledger.md.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from shared_model import canonical, signing
from shared_model.config import PrivacyPlan
from shared_model.enrolment import RawKey, SiteName
from shared_model.errors import FedprintError, OurMistake, Refused

TAG = "ledger-entry"
HEAD_TAG = "ledger-head"
NOTHING = "0" * 64
"""Head of the empty ledger, and digest of nothing."""
MAX_LINE_BYTES = 4096
MAX_ENTRIES = 10_000_000

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Signature = Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]
RunId = Annotated[str, Field(pattern=r"^[a-z0-9](?:[a-z0-9-]{0,62}[a-z0-9])?$")]
RoundNumber = Annotated[int, Field(ge=1, le=1_000_000)]
Sequence_ = Annotated[int, Field(ge=1, le=MAX_ENTRIES)]
Patients = Annotated[int, Field(ge=1, le=100_000_000)]
Epsilon = Annotated[float, Field(ge=0.0)] | None
"""None stands for infinity: nothing is promised."""
Words = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[ -~]+$")]
Seconds = Annotated[int, Field(ge=0, le=2**40)]
"""Seconds since 1970, UTC."""
Delta = Annotated[float, Field(gt=0.0, lt=1.0)]


class LedgerFault(Refused):
    """The ledger is not whole. `entry` is the number of the first bad entry, 0 for the file."""

    def __init__(self, message: str, *, entry: int = 0, do: str = "") -> None:
        super().__init__(message, reason="ledger", do=do)
        self.entry = entry


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class _Entry(_Strict):
    """What all entries have. `site` signs; `sequence` counts from 1."""

    version: Literal[1] = 1
    site: SiteName
    sequence: Sequence_


class Opened(_Entry):
    """The first entry. `ledger`: 32 random hexadecimal digits that name this ledger."""

    kind: Literal["opened"] = "opened"
    ledger: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    identity_key: RawKey
    unit: Literal["one patient at one hospital"] = "one patient at one hospital"
    adjacency: Literal["add or remove one patient"] = "add or remove one patient"
    delta: Delta
    software: Words
    time_s: Seconds


class Approved(_Entry):
    """A run's plan was approved: at most `bookings` rounds of it may be booked."""

    kind: Literal["approved"] = "approved"
    run: RunId
    plan_digest: Digest
    bookings: Annotated[int, Field(ge=1, le=1_000_000)]
    epsilon_run: Epsilon
    by: Literal["operator", "policy"]
    time_s: Seconds


class Booked(_Entry):
    """A round was booked, before data was read.

    colluding_sites: k against which `epsilon_*` hold in mode distributed (0 in mode local, which
    needs no other hospital). dimension: padded number of coordinates that were noised in mode
    distributed, 0 in mode local. limit_*: the policy's limits then. epsilon_*: all entries, this
    one included; they repeat what an accountant finds and count for nothing by themselves.
    """

    kind: Literal["booked"] = "booked"
    run: RunId
    round: RoundNumber
    purpose: Words
    mode: Literal["local", "distributed"]
    sample_rate: Annotated[float, Field(gt=0.0, le=1.0)]
    noise_multiplier: Annotated[float, Field(gt=0.0, lt=1e4)]
    clipping_norm: Annotated[float, Field(gt=0.0, lt=1e4)]
    steps: Annotated[int, Field(ge=1, le=100_000)]
    declared_patients: Patients
    delta: Delta
    noise: Words
    private: bool
    model_in: Digest
    request_digest: Digest
    code_digest: Digest
    roster_digest: Digest
    transcript: Digest
    participants: Annotated[int, Field(ge=1, le=255)]
    threshold: Annotated[int, Field(ge=1, le=255)]
    colluding_sites: Annotated[int, Field(ge=0, le=255)]
    minimum_contributors: Annotated[int, Field(ge=1, le=255)]
    dimension: Annotated[int, Field(ge=0, le=2**28)]
    limit_lifetime: Epsilon
    limit_run: Epsilon
    epsilon_lifetime: Epsilon
    epsilon_run: Epsilon
    outsider_epsilon_lifetime: Epsilon
    time_s: Seconds

    @property
    def plan(self) -> PrivacyPlan:
        """What was done to the patients."""
        return PrivacyPlan(
            sample_rate=self.sample_rate,
            noise_multiplier=self.noise_multiplier,
            clipping_norm=self.clipping_norm,
            steps=self.steps,
            mode=self.mode,  # type: ignore[arg-type,unused-ignore]
        )


class Answered(_Entry):
    """The update of a booked round may leave. booking: sequence of its `booked` entry."""

    kind: Literal["answered"] = "answered"
    booking: Sequence_
    run: RunId
    round: RoundNumber
    update_digest: Digest


class Incident(_Entry):
    """A request that no honest coordinator sends; at most once for (run, round, reason)."""

    kind: Literal["incident"] = "incident"
    run: RunId
    round: RoundNumber
    reason: Words


class Recovered(_Entry):
    """After a restore, with the answers of `witnesses` to a fresh question.

    lost_from, lost_to: entries that others saw and that could not be had again; both 0 if there are
    none. What is lost counts as `epsilon_charged`, all that was left of the budget, and delta once
    more; entries that only this hospital knows to be lost are charged without a range. Entries that
    are here count as ever: nothing drops out (see `Spent`).
    """

    kind: Literal["recovered"] = "recovered"
    lost_from: Annotated[int, Field(ge=0, le=MAX_ENTRIES)]
    lost_to: Annotated[int, Field(ge=0, le=MAX_ENTRIES)]
    previous: Digest
    epsilon_charged: Annotated[float, Field(ge=0.0)] | None
    delta: Delta
    witnesses: Annotated[tuple[SiteName, ...], Field(max_length=255)]
    evidence_digest: Digest
    time_s: Seconds

    @model_validator(mode="after")
    def _fits(self) -> Recovered:
        lost = self.lost_from > 0
        if lost != (self.lost_to > 0) or self.lost_from > self.lost_to:
            raise ValueError("what was lost is a range")
        if lost and self.epsilon_charged is None:
            raise ValueError("lost entries are charged")
        if lost and self.sequence != self.lost_to + 1:
            raise ValueError("the entry follows what was lost")
        return self


Entry = Opened | Approved | Booked | Answered | Incident | Recovered
_ENTRY: TypeAdapter[Entry] = TypeAdapter(Annotated[Entry, Field(discriminator="kind")])


class LedgerHead(_Strict):
    """What others keep of a ledger: its length and head, signed by its site."""

    length: Annotated[int, Field(ge=0, le=MAX_ENTRIES)]
    head: Digest
    signature: Signature

    def check(self, site: str, identity_key: bytes) -> None:
        """Raises:
        Refused: this site did not sign it (reason "signature")."""
        body = _head_body(site, self.length, self.head)
        signing.verify(identity_key, HEAD_TAG, body, bytes.fromhex(self.signature))


def sign_head(key: Ed25519PrivateKey, site: str, length: int, head: str) -> LedgerHead:
    """The head of a site's own ledger, signed."""
    signature = signing.sign(key, HEAD_TAG, _head_body(site, length, head))
    return LedgerHead(length=length, head=head, signature=signature.hex())


def _head_body(site: str, length: int, head: str) -> bytes:
    return canonical.encode({"site": site, "length": length, "head": head})


def _framed(tag: str, *parts: bytes) -> str:
    hasher = hashlib.sha256()
    for part in (b"fedprint-1", tag.encode(), *parts):
        hasher.update(len(part).to_bytes(8, "big") + part)
    return hasher.hexdigest()


def entry_digest(entry: Entry) -> str:
    """The link of this entry; 64 hexadecimal digits."""
    return _framed(TAG, canonical.encode(entry.model_dump(mode="json")))


def next_head(head: str, link: str) -> str:
    """The head after an entry with this digest."""
    return _framed(HEAD_TAG, bytes.fromhex(head), bytes.fromhex(link))


def follows(head: str, links: Iterable[str]) -> str:
    """The head that these entry digests lead to."""
    for link in links:
        head = next_head(head, link)
    return head


def seal(entry: Entry, key: Ed25519PrivateKey) -> bytes:
    """The line of an entry, without a line end.

    Raises:
        OurMistake: its own parser would not take it.
    """
    plain = entry.model_dump(mode="json")
    signature = signing.sign(key, TAG, canonical.encode(plain)).hex()
    line = canonical.encode({**plain, "signature": signature})
    try:
        same = parse(line)[0] == entry
    except LedgerFault as error:
        raise OurMistake(f"This is no legal ledger entry ({error.message}).") from error
    if not same or len(line) > MAX_LINE_BYTES:
        raise OurMistake("This is no legal ledger entry.")
    return line


def parse(line: bytes) -> tuple[Entry, bytes]:
    """Entry and signature of a hostile line; the signature is not verified here.

    Raises:
        LedgerFault: not a canonical line.
    """
    try:
        if len(line) > MAX_LINE_BYTES:
            raise ValueError("too long")
        plain: dict[str, Any] = json.loads(line)
        signature = bytes.fromhex(plain.pop("signature"))
        entry = _ENTRY.validate_json(canonical.encode(plain))
        again = canonical.encode({**entry.model_dump(mode="json"), "signature": signature.hex()})
    except (
        ValidationError,
        FedprintError,
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
    ) as error:
        raise LedgerFault("A line is not an entry of a ledger.") from error
    except RecursionError as error:
        raise LedgerFault("A line is not an entry of a ledger.") from error
    if again != line or len(signature) != 64:
        raise LedgerFault("A line is not in canonical form.")
    return entry, signature


def opened_line(line: bytes, identity_key: bytes) -> Entry:
    """The entry of a hostile line that this key (32 raw bytes) signed.

    Raises:
        LedgerFault: not a canonical line.
        Refused: not signed by this key (reason "signature").
    """
    entry, signature = parse(line)
    signing.verify(identity_key, TAG, canonical.encode(entry.model_dump(mode="json")), signature)
    return entry


@dataclass(frozen=True)
class Link:
    """One verified entry with where it stands."""

    entry: Entry
    line: bytes = field(repr=False)
    digest: str
    head: str
    """After this entry."""


@dataclass(frozen=True)
class Chain:
    """A verified ledger. Immutable; `extended` gives a longer one.

    site, identity_key (32 raw bytes): whose it is.
    """

    site: str
    identity_key: bytes
    links: tuple[Link, ...] = ()
    _walk: _Walk | None = field(default=None, repr=False, compare=False)
    """Where the walk over `links` stands; spares `extended` walking them again."""

    @classmethod
    def verified(cls, lines: Iterable[bytes], identity_key: bytes, *, site: str) -> Chain:
        """Every line, in order.

        Raises:
            LedgerFault: names the first bad entry: not canonical, not signed by this key, out of
                order, of another site, or one that makes no sense where it stands.
        """
        return cls(site, identity_key).extended(lines)

    def extended(self, lines: Iterable[bytes]) -> Chain:
        """This chain and further lines.

        Raises:
            LedgerFault: as `verified`.
        """
        links, walk = list(self.links), self._walked()
        for line in lines:
            number = walk.length + 1
            try:
                entry = opened_line(line, self.identity_key)
            except LedgerFault as error:
                raise LedgerFault(f"Entry {number}: {error.message}", entry=number) from error
            except Refused as error:
                raise LedgerFault(
                    f"Entry {number} is not signed by this hospital.", entry=number
                ) from error
            if entry.site != self.site:
                raise LedgerFault(f"Entry {number} is of another hospital.", entry=number)
            walk.take(entry, number)
            if isinstance(entry, Opened) and entry.identity_key != self.identity_key.hex():
                raise LedgerFault("Entry 1 names another key than the one that signs it.", entry=1)
            digest = entry_digest(entry)
            links.append(Link(entry, line, digest, walk.advance(entry, digest)))
        return Chain(self.site, self.identity_key, tuple(links), walk)

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
