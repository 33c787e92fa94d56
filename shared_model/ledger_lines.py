"""The entries of a verified ledger, read from where they lie; in memory only marks of them.

A ledger is kept for years and a process that trains keeps it open for months, so that an object for
each entry is memory that never comes back. What stays in memory of an entry is 81 bytes (`Marks`):
its number, its kind, where its line ends, the head after it, who answers it, and the SHA-256 of its
line. The line itself stays in its file and is read again when somebody asks for it. It must then be
the line that was verified, by that digest: a file that was changed under the process is refused
(`Lines.changed`) and never believed.

    links[-1].entry            # one line is read
    for link in links: ...     # all are, one after the other; none is kept
"""

from __future__ import annotations

import hashlib
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, overload

from shared_model.errors import FedprintError, OurMistake
from shared_model.ledger_entries import (
    Answered,
    Approved,
    Booked,
    Entry,
    HandedOver,
    Incident,
    Opened,
    Recovered,
    Replaced,
    read_again,
)

_KINDS: tuple[type[Any], ...] = (
    *(Opened, Approved, Booked, Answered, Incident, Recovered, HandedOver, Replaced),
)
_DIGEST = 32


@dataclass(frozen=True)
class Link:
    """One verified entry with where it stands."""

    entry: Entry
    line: bytes = field(repr=False)
    digest: str
    head: str
    """After this entry."""


class Lines(Protocol):
    """A file in which lines of a verified ledger lie; see `server.ledgers`, `client.ledger_rows`.

    Whatever lies there is taken as hostile.
    """

    def read(self, marks: Marks, first: int, last: int) -> Iterator[bytes]:
        """Lines at places `first` ... `last` - 1, or what is there instead; without line ends.

        It may end early, and raise what `changed` makes.
        """
        ...

    def changed(self, entry: int) -> FedprintError:
        """The error for an entry (its number) that is no longer the one that was verified."""
        ...


@dataclass
class Marks:
    """What is kept in memory of each entry, by its place in the list (from 0)."""

    numbers: array[int] = field(default_factory=lambda: array("I"))
    """Sequence numbers; they ascend, and skip entries that were lost."""
    ends: array[int] = field(default_factory=lambda: array("Q"))
    """Bytes of all lines up to this one, each with a line end."""
    answers: array[int] = field(default_factory=lambda: array("I"))
    """Sequence number of the entry that answers this booking; 0 if there is none."""
    kinds: bytearray = field(default_factory=bytearray)
    heads: bytearray = field(default_factory=bytearray)
    """32 bytes each, after the entry."""
    prints: bytearray = field(default_factory=bytearray)
    """32 bytes each: SHA-256 of the line."""

    def __len__(self) -> int:
        return len(self.numbers)

    def copy(self) -> Marks:
        """Arrays are copied whole: a chain that somebody holds never changes."""
        return Marks(
            *(self.numbers[:], self.ends[:], self.answers[:]),
            *(self.kinds[:], self.heads[:], self.prints[:]),
        )

    def add(self, entry: Entry, line: bytes, head: str) -> None:
        self.numbers.append(entry.sequence)
        self.ends.append(self.size + len(line) + 1)
        self.answers.append(0)
        self.kinds.append(_KINDS.index(type(entry)))
        self.heads += bytes.fromhex(head)
        self.prints += hashlib.sha256(line).digest()

    @property
    def size(self) -> int:
        """Bytes of all lines, each with a line end."""
        return self.ends[-1] if self.ends else 0

    def place(self, number: int) -> int | None:
        """Where the entry with this sequence number stands; None if it is not here."""
        at = bisect_left(self.numbers, number)
        return at if at < len(self) and self.numbers[at] == number else None

    def answer(self, booking: int, by: int) -> None:
        """The booking with this number is answered by the entry with that one."""
        place = self.place(booking)
        if place is None:
            raise OurMistake("What is answered is not here.")
        self.answers[place] = by

    def answer_of(self, booking: int) -> int:
        """Number of the entry that answers this booking (its number); 0 if there is none."""
        place = self.place(booking)
        return 0 if place is None else self.answers[place]

    def places_after(self, number: int) -> range:
        """Of the entries beyond this sequence number."""
        return range(bisect_left(self.numbers, number + 1), len(self))

    def start(self, place: int) -> int:
        """Bytes of all lines before this one."""
        return self.ends[place - 1] if place else 0

    def head(self, place: int) -> str:
        return self.heads[place * _DIGEST : (place + 1) * _DIGEST].hex()

    def holds(self, place: int, line: bytes) -> bool:
        """Whether this is the line that was verified at this place."""
        known = self.prints[place * _DIGEST : (place + 1) * _DIGEST]
        return known == hashlib.sha256(line).digest()

    def begin_with(self, other: Marks) -> bool:
        """Whether the other's lines are the first of these, byte for byte."""
        return self.prints.startswith(other.prints)

    def count(self, kind: type[Any]) -> int:
        """Entries of this kind and of those derived from it."""
        return sum(self.kinds.count(number) for number in _numbers_of((kind,)))


class Links(Sequence[Link]):
    """All entries of a chain, in order; the first `len(marks) - len(tail)` lie in `lines`.

    Equal to another if every line is equal. A slice is a tuple: it holds what it was asked for.

    tail: entries that are in no file yet.
    """

    __slots__ = ("lines", "marks", "tail")

    def __init__(self, marks: Marks, lines: Lines | None = None, tail: Sequence[Link] = ()) -> None:
        self.marks, self.lines, self.tail = marks, lines, tuple(tail)

    def __len__(self) -> int:
        return len(self.marks)

    @overload
    def __getitem__(self, place: int) -> Link: ...
    @overload
    def __getitem__(self, place: slice) -> tuple[Link, ...]: ...
    def __getitem__(self, place: int | slice) -> Link | tuple[Link, ...]:
        if isinstance(place, slice):
            first, last, step = place.indices(len(self))
            if step != 1:
                return tuple(self[at] for at in range(first, last, step))
            return tuple(self.between(first, last))
        at = place + len(self) if place < 0 else place
        if not 0 <= at < len(self):
            raise IndexError(place)
        return next(self.between(at, at + 1))

    def __iter__(self) -> Iterator[Link]:
        return self.between(0, len(self))

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Links):
            return self.marks.prints == other.marks.prints
        if isinstance(other, tuple):
            return len(self) == len(other) and all(
                one == two for one, two in zip(self, other, strict=True)
            )
        return NotImplemented

    def __hash__(self) -> int:
        return hash(bytes(self.marks.prints))

    def __repr__(self) -> str:
        return f"Links({len(self)})"

    def between(self, first: int, last: int, kinds: tuple[type[Any], ...] = ()) -> Iterator[Link]:
        """Entries at places `first` ... `last` - 1, of these kinds and those derived from them; of
        all kinds if none is named.

        Raises:
            FedprintError: a line is no longer the one that was verified.
        """
        wanted = _numbers_of(kinds) if kinds else range(len(_KINDS))
        stored = len(self) - len(self.tail)
        if first < min(last, stored):
            yield from self._read(first, min(last, stored), wanted)
        for place in range(max(first, stored), last):
            if self.marks.kinds[place] in wanted:
                yield self.tail[place - stored]

    def _read(self, first: int, last: int, wanted: Sequence[int]) -> Iterator[Link]:
        marks, lines = self.marks, self.lines
        if lines is None:
            raise OurMistake("Entries of a ledger lie nowhere.")
        found = lines.read(marks, first, last)
        for place in range(first, last):
            line = next(found, None)
            if line is None or not marks.holds(place, line):
                raise lines.changed(marks.numbers[place])
            if marks.kinds[place] in wanted:
                entry, digest = read_again(line)
                yield Link(entry, line, digest, marks.head(place))


def _numbers_of(kinds: tuple[type[Any], ...]) -> tuple[int, ...]:
    return tuple(number for number, kind in enumerate(_KINDS) if issubclass(kind, kinds))
