"""A chain that lies in a file: the same answers, hardly any memory, and no belief in the file."""

from __future__ import annotations

import _sqlite3
import ctypes
import gc
import sqlite3
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from books_stand_ins import (
    BUDGET,
    PUBLIC,
    SITE,
    D,
    book,
    book_all,
    chain_of,
    draft,
    head_of,
    line,
    new_home,
    open_store,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from client import ledger_chain, ledger_file, ledger_rows
from client.budget import Budget
from client.home import NodeHome
from server.ledgers import LedgerArchive
from shared_model import accounting, distributed, ledger_cost, ledger_lines
from shared_model.accounting import Mechanism
from shared_model.errors import OurMistake, Refused
from shared_model.ledger import (
    Answered,
    Approved,
    Booked,
    Chain,
    Incident,
    LedgerFault,
    Lines,
    Link,
    Recovered,
)
from shared_model.ledger_lines import Marks

ENDLESS = Budget(epsilon_lifetime=float("inf"), epsilon_per_run=float("inf"), delta=1e-5)
PLAIN = {"private": False, "noise": "not private"}
"""Needs no accountant."""
REAL_PAGE = ledger_lines.PAGE


@pytest.fixture
def home(tmp_path: Path) -> NodeHome:
    return new_home(tmp_path / "node")


@pytest.fixture(autouse=True)
def _another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test begins with nothing verified, and pages of a few entries."""
    monkeypatch.setattr(ledger_chain, "_verified", {})
    monkeypatch.setattr(ledger_chain, "PAGE", 3)
    monkeypatch.setattr(ledger_rows, "PAGE", 3)
    monkeypatch.setattr(ledger_lines, "PAGE", 4)


@dataclass
class Kept(Lines):
    """A file that is a list; `looks` counts the lines that were read."""

    found: list[bytes]
    looks: int = 0

    def read(self, marks: Marks, first: int, last: int) -> Iterator[bytes]:
        for one in self.found[first:last]:
            self.looks += 1
            yield one

    def changed(self, entry: int) -> LedgerFault:
        return LedgerFault("changed", entry=entry)


# The same answers


def entry_of(kind: str, chain: Chain, number: int, steps: int) -> Any:
    """The next entry of this kind, or None where it may not stand."""
    common = {"site": SITE, "sequence": chain.length + 1}
    run = f"run-{number % 2}"
    rounds = [item for item in chain.bookings if not chain.is_answered(item)]
    match kind:
        case "booked":
            taken = sum(item.run == run for item in chain.bookings)
            return draft(run, taken + 1, sequence=chain.length + 1, steps=steps)
        case "answered" if rounds:
            item = rounds[number % len(rounds)]
            of = {"booking": item.sequence, "run": item.run, "round": item.round}
            return Answered(**common, **of, update_digest=D)
        case "approved":
            of = {"run": run, "plan_digest": D, "bookings": 9, "epsilon_run": 1.0}
            return Approved(**common, **of, by="policy", time_s=0)
        case "incident":
            return Incident(**common, run=run, round=chain.length, reason="conflict")
        case "lost":
            lost_to = chain.length + 1 + number
            common["sequence"] = lost_to + 1
            of = {"lost_from": chain.length + 1, "lost_to": lost_to, "previous": D}
            more = {"witnesses": ("beta",), "evidence_digest": D, "time_s": 0}
            return Recovered(**common, **of, **more, epsilon_charged=8.0, delta=1e-5)
    return None


MOVES = st.lists(
    st.tuples(
        st.sampled_from(["booked", "booked", "answered", "approved", "incident", "lost"]),
        st.integers(0, 3),
        st.sampled_from([1, 20]),
    ),
    max_size=14,
)


def grown(moves: list[tuple[str, int, int]]) -> Chain:
    chain = chain_of()
    for kind, number, steps in moves:
        entry = entry_of(kind, chain, number, steps)
        if entry is not None:
            chain = chain.extended([line(entry)])
    return chain


def answers(chain: Chain, until: int | None = None) -> list[Any]:
    """All that is asked of a chain."""
    runs = [(run, number) for run in ("run-0", "run-1", "none") for number in range(4)]
    return [
        *(chain.length, chain.head, chain.size, chain.delta, chain.keys, chain.opened),
        *(chain.bookings, chain.answered_bookings, chain.last_booking),
        [chain.number(place) for place in range(len(chain.links))],
        [chain.head_at(length) for length in range(40)],
        [[link.digest for link in chain.after(length)] for length in range(chain.length + 2)],
        [(chain.booking(*of), chain.answer(*of)) for of in runs],
        [(chain.approval(run), chain.rounds_of(run)) for run, _ in runs],
        [list(chain.entries(kind)) for kind in (Booked, Answered, Approved, Incident, Recovered)],
        [chain.count(kind) for kind in (Booked, Answered, Approved, Incident, Recovered)],
        [chain.spent(until), chain.spent(until).of_run("run-1")],
    ]


@settings(max_examples=40, deadline=None)
@given(MOVES, st.integers(0, 14))
def test_a_chain_in_a_file_says_what_one_in_memory_says(
    moves: list[tuple[str, int, int]], cut: int
) -> None:
    """Whether it was read whole, or in two parts, or half of it still is in memory."""
    chain = grown(moves)
    lines = [link.line for link in chain.links]
    kept = Kept(lines)
    read = Chain(SITE, PUBLIC).extended(iter(lines), at=kept)
    part = Chain(SITE, PUBLIC).extended(iter(lines[:cut]), at=kept)
    for other in (read, part.extended(lines[cut:], at=kept), part.extended(lines[cut:])):
        assert other == chain
        assert hash(other) == hash(chain)
        assert answers(other) == answers(chain)
        assert [*other.links] == [*chain.links]
    assert Chain(SITE, PUBLIC, tuple(chain.links)) == chain
    if 0 < cut < len(lines):
        first = Chain.verified(lines[:cut], PUBLIC, site=SITE)
        assert chain.continues(first)
        assert not first.continues(chain)
        assert chain.spent(until=first.length) == first.spent()


PRICES = st.tuples(
    st.sampled_from(["local", "distributed"]),
    st.sampled_from(["one", "two"]),
    st.sampled_from([0.1, 0.2]),
    st.sampled_from([2.0, 4.0]),
    st.integers(1, 3),
    st.integers(0, 1),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(PRICES, max_size=12), st.lists(PRICES, max_size=3), st.integers(0, 12))
def test_bookings_that_cost_the_same_are_added_up_and_cost_what_they_cost_one_by_one(
    made: list[Any], further: list[Any], cut: int
) -> None:
    """The accountant is asked for the very same mechanisms in the same order, so that epsilon is
    the same to the last bit; written down here from ADR 12, without `Alike`."""

    def booking(mode: str, run: str, rate: float, sigma: float, steps: int, k: int) -> Booked:
        of = {"sample_rate": rate, "noise_multiplier": sigma, "steps": steps, "run": run}
        shared = {"mode": mode, "steps": 1, "dimension": 1024, "colluding_sites": k}
        return draft(**{**of, **(shared if mode == "distributed" else {})})

    def one_by_one(bookings: list[Booked]) -> list[Mechanism]:
        groups: dict[Any, list[Booked]] = {}
        for item in bookings:
            like = (item.mode, item.sample_rate, item.noise_multiplier, item.colluding_sites)
            groups.setdefault(like, []).append(item)
        found = []
        for items in groups.values():
            steps, first = sum(item.steps for item in items), items[0]
            slack = 0.0
            if first.mode == "distributed":
                of = {"dimension": 1024, "threshold": 4, "colluding": first.colluding_sites}
                paid = distributed.mechanism(first.plan, **of)
                found.append(replace(paid, steps=steps))
            else:
                found.append(Mechanism(first.sample_rate, first.noise_multiplier, steps, slack))
        return found

    asked: list[list[Mechanism]] = []
    bookings = [booking(*one) for one in made]
    new = [booking(*one) for one in further]
    parts = [bookings[:cut], bookings[cut:]]
    spent = ledger_cost.Spent.of(1.5, *parts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(accounting, "epsilon_pld", lambda them, delta: asked.append(them) or 0.25)
        total, delta = ledger_cost.epsilon(spent, 1e-5, new)
        of_run, _ = ledger_cost.epsilon(spent.of_run("two"), 1e-5, new)
    assert (total, delta, of_run) == (2.0, 2e-5, 0.25)
    mine = [item for item in bookings if item.run == "two"]
    expected = [parts[0], [*parts[1], *new], [*mine, *new]]
    assert asked == [one_by_one(part) for part in expected]


# Memory


@pytest.fixture
def live() -> Iterator[Callable[[], int]]:
    """How many objects of entries are alive that were made since the test began."""
    kinds = (Link, Booked, Answered, Incident, Approved, Recovered)

    def count() -> int:
        return sum(isinstance(one, kinds) for one in gc.get_objects())

    gc.collect()
    gc.freeze()  # what was there is not looked at again
    try:
        yield count
    finally:
        gc.unfreeze()


def rounds(home: NodeHome, archive: LedgerArchive, first: int, last: int) -> None:
    """As in a federation: the node books and answers, each time opened anew; then the archive
    takes what is new."""
    for number in range(first, last):
        with open_store(home) as store:
            book(store, "run", number, ENDLESS, **PLAIN)
        with open_store(home) as store:
            store.answered("run", number, D)
    with open_store(home) as store:
        lines = [link.line for link in store.chain.links]
        archive.take_in(SITE, lines, store.signed_head(), PUBLIC)


def test_memory_does_not_grow_with_the_entries_of_a_ledger(
    home: NodeHome, tmp_path: Path, live: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an entry no object stays alive, and less than 300 bytes at the node or in the archive; an
    object for each takes thousands."""
    monkeypatch.setattr(ledger_lines, "PAGE", REAL_PAGE)
    archive = LedgerArchive(tmp_path / "archive")
    rounds(home, archive, 1, 3)
    tracemalloc.start()
    try:
        rounds(home, archive, 3, 5)  # whatever is made once is there
        before, few = live(), tracemalloc.get_traced_memory()[0]
        rounds(home, archive, 5, 25)
        after, many = live(), tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert 0 < before == after <= 6  # the first and the last booking, of both
    assert (many - few) / (20 * 2 * 2) < 300.0
    with open_store(home) as store:
        assert archive.chain(SITE, PUBLIC) == store.chain
        assert store.chain.length == 1 + 2 * 24


def test_sqlite_keeps_a_few_pages_of_a_long_ledger(home: NodeHome) -> None:
    """Its own cache would hold 2 MB of the file's pages, with which a node grows for a year."""
    used = ctypes.CDLL(_sqlite3.__file__).sqlite3_memory_used
    used.restype = ctypes.c_int64
    with open_store(home), closing(ledger_file.connect(home.root / "long.sqlite")) as long:
        before = used()
        long.execute("CREATE TABLE entries (line TEXT)")
        long.execute("BEGIN")
        long.executemany("INSERT INTO entries VALUES (?)", [("x" * 1000,)] * 3000)
        long.execute("COMMIT")
        long.execute("PRAGMA integrity_check").fetchall()
        assert before > 0  # else nothing is counted in this build of SQLite
        assert used() - before < 400_000


def test_a_first_reading_holds_no_entry_but_the_one_that_it_verifies(
    home: NodeHome, tmp_path: Path, live: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ledger of years is verified as it is read."""
    rounds(home, LedgerArchive(tmp_path / "archive"), 1, 9)
    monkeypatch.setattr(ledger_chain, "_verified", {})
    before, most = live(), list[int]()
    real = Marks.add

    def counted(marks: Marks, *arguments: Any) -> None:
        most.append(live())
        real(marks, *arguments)

    monkeypatch.setattr(Marks, "add", counted)
    with open_store(home) as store:
        assert LedgerArchive(tmp_path / "archive").chain(SITE, PUBLIC) == store.chain
    assert len(most) == 2 * 17
    assert max(most) <= before + 6


# A file that was changed under the process


def edit(home: NodeHome, statement: str) -> None:
    """As somebody who owns the machine would, the triggers removed."""
    with sqlite3.connect(home.ledger) as other:
        for (name,) in other.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'"):
            other.execute(f"DROP TRIGGER {name}")
        other.execute(statement)


EDITS = [
    "UPDATE entries SET line = replace(line, '\"steps\":20', '\"steps\":10') WHERE sequence = 3",
    "UPDATE entries SET line = x'00' WHERE sequence = 3",
    "UPDATE entries SET line = (SELECT line FROM entries WHERE sequence = 2) WHERE sequence = 3",
    "UPDATE entries SET line = substr(line, 1, length(line) - 2) || '0\"}' WHERE sequence = 3",
    "DELETE FROM entries WHERE sequence = 3",
]


@pytest.mark.parametrize("statement", EDITS)
def test_an_edit_under_a_running_node_changes_nothing_that_counts_and_is_never_shown(
    home: NodeHome, statement: str
) -> None:
    """Budget, replays and head stand as they were verified; the entry itself is refused."""
    with open_store(home) as store:
        for number in (1, 2, 3):
            book(store, "run", number)
        epsilon, head = store.epsilon(), store.chain.head
    edit(home, statement)
    with open_store(home) as store:
        assert (store.epsilon(), store.chain.head) == (epsilon, head)
        assert [one.steps for one in store.chain.spent().bookings] == [60]
        for asked in (
            lambda: book(store, "run", 2),
            lambda: store.answered("run", 2, D),
            lambda: store.chain.after(0),
            lambda: list(store.chain.links),
            lambda: store.chain.bookings,
        ):
            with pytest.raises(LedgerFault, match="changed under it") as caught:
                asked()
            assert caught.value.entry == 3
        assert store.chain.booking("run", 1) is not None
        assert book(store, "run", 4, ENDLESS).sequence == 5
        assert store.epsilon() > epsilon
    ledger_chain._verified.clear()
    with pytest.raises(LedgerFault):
        open_store(home)


def test_a_file_that_is_gone_is_not_made_again_by_reading_it(home: NodeHome) -> None:
    with open_store(home) as store:
        book(store)
        chain = store.chain
    home.ledger.unlink()
    with pytest.raises(LedgerFault):
        chain.bookings  # noqa: B018
    assert not home.ledger.exists()


def test_a_chain_outlives_its_store_and_goes_to_other_threads(home: NodeHome) -> None:
    """A page of the console has it long after; whoever writes meanwhile is not kept waiting."""
    found: list[Any] = []
    with open_store(home) as store:
        for number in range(1, 8):
            book(store, "run", number, ENDLESS, **PLAIN)
        chain = store.chain
        thread = threading.Thread(target=lambda: found.append(chain.bookings))
        thread.start()
        thread.join()
    assert [item.round for item in found[0]] == list(range(1, 8))
    reading = iter(chain.links)
    next(reading)
    with open_store(home) as store:
        store._connection.execute("PRAGMA busy_timeout = 0")
        book(store, "run", 8, ENDLESS, **PLAIN)
        assert [link.entry.sequence for link in reading] == list(range(2, 9))
        assert len(chain.bookings) == 7
        assert len(store.chain.bookings) == 8


def test_a_reading_that_was_broken_off_may_be_thrown_away_by_another_thread(
    home: NodeHome,
) -> None:
    """As the trace of an error is, that goes from a page to the server: no connection is open that
    only the thread which reads could close."""
    with open_store(home) as store:
        for number in range(1, 8):
            book(store, "run", number, ENDLESS, **PLAIN)
        chain = store.chain
    reading: list[Any] = []

    def read() -> None:
        reading.append(chain.links._read(0, 8, range(9)))  # type: ignore[attr-defined]
        next(reading[0])

    thread = threading.Thread(target=read)
    thread.start()
    thread.join()
    reading[0].close()


def archived(tmp_path: Path, number: int) -> tuple[LedgerArchive, Path]:
    """An archive that has verified a ledger of so many bookings, and its file."""
    chain = chain_of(*(draft("run", n, sequence=n + 1) for n in range(1, number + 1)))
    archive = LedgerArchive(tmp_path / "archive")
    archive.take_in(SITE, [link.line for link in chain.links], head_of(chain), PUBLIC)
    assert archive.chain(SITE, PUBLIC) == chain
    return archive, archive.path / f"{SITE}.jsonl"


def test_an_edit_of_the_archive_under_a_coordinator_is_refused_when_it_is_read(
    tmp_path: Path,
) -> None:
    """Same length or not, cut off or gone; what was verified counts on, and no peer is sent it."""
    archive, path = archived(tmp_path, 5)
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    head = archive.chain(SITE, PUBLIC).head
    for bad in (
        whole.replace(b'"round":2', b'"round":9'),
        b"".join([lines[0], lines[1], lines[3], lines[2], *lines[4:]]),
        b"".join([*lines[:2], b"{}\n", *lines[3:]]),
        b"".join(lines[:2]),
        lines[0] + lines[1] + lines[2][:100],
        None,
    ):
        path.unlink() if bad is None else path.write_bytes(bad)
        chain = archive.chain(SITE, PUBLIC)
        assert (chain.head, chain.length) == (head, 6)
        with pytest.raises(OurMistake, match="changed by somebody else"):
            archive.links_for("beta", {SITE: head_of(chain)}, {SITE: PUBLIC})
        with pytest.raises(OurMistake, match="changed by somebody else"):
            list(chain.links)
    path.write_bytes(whole)
    (links,) = archive.links_for("beta", {SITE: head_of(chain)}, {SITE: PUBLIC}).values()
    assert len(links) == 6


def test_what_is_no_line_at_the_end_of_an_archive_counts_for_nothing_or_is_refused(
    tmp_path: Path,
) -> None:
    """A crash cuts a line off; no crash writes one that is longer than an entry."""
    archive, path = archived(tmp_path, 2)
    whole = path.read_bytes()
    path.write_bytes(whole + b"{" * 4096)
    assert LedgerArchive(archive.path).chain(SITE, PUBLIC).length == 3
    path.write_bytes(whole + b"{" * 5000)
    with pytest.raises(OurMistake, match="damaged"):
        LedgerArchive(archive.path).chain(SITE, PUBLIC)


def test_the_budget_of_a_node_does_not_need_the_entries(home: NodeHome) -> None:
    """What is left is decided from what was verified, also if nothing can be read any more."""
    with open_store(home) as store:
        booked = book_all(store, "run")
        assert booked == 3
        edit(home, "UPDATE entries SET line = x'00' WHERE sequence BETWEEN 2 AND 3")
        with pytest.raises(Refused) as caught:
            book(store, "run", booked + 1, BUDGET)
        assert caught.value.reason == "budget"


def test_one_entry_is_one_line_read() -> None:
    """Look-ups read what they answer with and nothing else."""
    chain = grown([("booked", 0, 1), ("answered", 0, 1)] * 5)
    kept = Kept([link.line for link in chain.links])
    stored = chain.at(kept)
    assert stored.booking("run-0", 3) == chain.booking("run-0", 3)
    assert stored.answer("run-0", 3) == chain.answer("run-0", 3)
    assert kept.looks == 2
    for asked in (stored.spent, lambda: stored.head_at(4), lambda: stored.count(Booked)):
        asked()
    assert stored.booking("run-0", 99) is None
    assert (stored.length, stored.head, kept.looks) == (chain.length, chain.head, 2)
