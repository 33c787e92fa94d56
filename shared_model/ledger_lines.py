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
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
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
PAGE = 128
"""Entries of a page of marks: the last page is what a longer chain copies."""


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
class _Page:
    """Marks of up to `PAGE` entries, by their place in the page."""

    numbers: array[int] = field(default_factory=lambda: array("I"))
    """Sequence numbers; they ascend, and skip entries that were lost."""
    ends: array[int] = field(default_factory=lambda: array("Q"))
    """Bytes of all lines up to this one, each with a line end."""
    answers: array[int] = field(default_factory=lambda: array("I"))
    """Sequence number of the entry that answers this booking; 0 if there is none."""
    kinds: bytes = b""
    heads: bytes = b""
    """32 bytes each, after the entry."""
    prints: bytes = b""
    """32 bytes each: SHA-256 of the line."""

    def copy(self) -> _Page:
        return replace(self, numbers=self.numbers[:], ends=self.ends[:], answers=self.answers[:])


class Marks:
    """What is kept in memory of each entry, by its place in the list (from 0).

    A longer list shares its full pages with the shorter one that it was copied from, so that years
    of entries are neither held twice nor copied for the next one.
    """

    __slots__ = ("_count", "_firsts", "_pages")

    def __init__(self, pages: Sequence[_Page] = (), firsts: Sequence[int] = ()) -> None:
        self._pages, self._firsts = list(pages), array("I", firsts)
        self._count = sum(len(page.numbers) for page in self._pages[-1:])
        self._count += PAGE * max(0, len(self._pages) - 1)

    def __len__(self) -> int:
        return self._count

    def copy(self) -> Marks:
        """A chain that somebody holds never changes."""
        pages = self._pages
        return Marks([*pages[:-1], *(page.copy() for page in pages[-1:])], self._firsts)

    def add(self, entry: Entry, line: bytes, head: str) -> None:
        size = self.size
        if self._count % PAGE == 0:
            self._pages.append(_Page())
            self._firsts.append(entry.sequence)
        page = self._pages[-1]
        page.numbers.append(entry.sequence)
        page.ends.append(size + len(line) + 1)
        page.answers.append(0)
        page.kinds += bytes([_KINDS.index(type(entry))])
        page.heads += bytes.fromhex(head)
        page.prints += hashlib.sha256(line).digest()
        self._count += 1

    @property
    def size(self) -> int:
        """Bytes of all lines, each with a line end."""
        return self.end(self._count - 1) if self._count else 0

    def place(self, number: int) -> int | None:
        """Where the entry with this sequence number stands; None if it is not here."""
        at = self.place_after(number - 1)
        return at if at < self._count and self.number(at) == number else None

    def place_after(self, number: int) -> int:
        """Of the first entry beyond this sequence number; the count if there is none."""
        page = bisect_right(self._firsts, max(number, 0)) - 1
        if page < 0:
            return 0
        return page * PAGE + bisect_right(self._pages[page].numbers, number)

    def number(self, place: int) -> int:
        """Sequence number."""
        return self._pages[place // PAGE].numbers[place % PAGE]

    def kind(self, place: int) -> int:
        """Place in `_KINDS`."""
        return self._pages[place // PAGE].kinds[place % PAGE]

    def start(self, place: int) -> int:
        """Bytes of all lines before this one."""
        return self.end(place - 1) if place else 0

    def end(self, place: int) -> int:
        """Bytes of all lines up to this one, each with a line end."""
        return self._pages[place // PAGE].ends[place % PAGE]

    def head(self, place: int) -> str:
        """After this entry."""
        at = place % PAGE * _DIGEST
        return self._pages[place // PAGE].heads[at : at + _DIGEST].hex()

    def holds(self, place: int, line: bytes) -> bool:
        """Whether this is the line that was verified at this place."""
        return self._print(place) == hashlib.sha256(line).digest()

    def answer(self, booking: int, by: int) -> None:
        """The booking with this number is answered by the entry with that one."""
        place = self.place(booking)
        if place is None:
            raise OurMistake("What is answered is not here.")
        page = place // PAGE
        if page < len(self._pages) - 1:  # others have it, too
            self._pages[page] = self._pages[page].copy()
        self._pages[page].answers[place % PAGE] = by

    def answer_of(self, booking: int) -> int:
        """Number of the entry that answers this booking (its number); 0 if there is none."""
        place = self.place(booking)
        return 0 if place is None else self._pages[place // PAGE].answers[place % PAGE]

    def begin_with(self, other: Marks) -> bool:
        """Whether the other's lines are the first of these, byte for byte."""
        if len(other) > len(self):
            return False
        pairs = zip(self._pages, other._pages, strict=False)
        return all(one is two or one.prints.startswith(two.prints) for one, two in pairs)

    def __eq__(self, other: object) -> bool:
        """Whether the lines are the same, byte for byte."""
        if not isinstance(other, Marks):
            return NotImplemented
        return len(self) == len(other) and self.begin_with(other)

    def __hash__(self) -> int:
        return hash((self._count, self._print(self._count - 1) if self._count else b""))

    def count(self, kind: type[Any]) -> int:
        """Entries of this kind and of those derived from it."""
        kinds = _numbers_of((kind,))
        return sum(page.kinds.count(number) for page in self._pages for number in kinds)

    def _print(self, place: int) -> bytes:
        at = place % PAGE * _DIGEST
        return self._pages[place // PAGE].prints[at : at + _DIGEST]


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
            return self.marks == other.marks
        if isinstance(other, tuple):
            return len(self) == len(other) and all(
                one == two for one, two in zip(self, other, strict=True)
            )
        return NotImplemented

    def __hash__(self) -> int:
        return hash(self.marks)

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
            if self.marks.kind(place) in wanted:
                yield self.tail[place - stored]

    def _read(self, first: int, last: int, wanted: Sequence[int]) -> Iterator[Link]:
        marks, lines = self.marks, self.lines
        if lines is None:
            raise OurMistake("Entries of a ledger lie nowhere.")
        found = lines.read(marks, first, last)
        for place in range(first, last):
            line = next(found, None)
            if line is None or not marks.holds(place, line):
                raise lines.changed(marks.number(place))
            if marks.kind(place) in wanted:
                entry, digest = read_again(line)
                yield Link(entry, line, digest, marks.head(place))


def _numbers_of(kinds: tuple[type[Any], ...]) -> tuple[int, ...]:
    return tuple(number for number, kind in enumerate(_KINDS) if issubclass(kind, kinds))
