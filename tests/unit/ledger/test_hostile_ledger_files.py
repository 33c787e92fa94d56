"""Whatever lies in a ledger's files or beside them: it is refused in words, and costs no hour."""

from __future__ import annotations

import io
import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from books_stand_ins import (
    KEY,
    PUBLIC,
    SITE,
    D,
    book,
    chain_of,
    draft,
    head_of,
    line,
    new_home,
    open_store,
    opened,
)

from client import books, ledger_chain, ledger_file, ledger_recovery
from client.books import HospitalBooks, HospitalLedger
from client.budget import Budget
from client.home import NodeHome
from client.ledger_store import LedgerStore
from server.ledgers import LedgerArchive
from shared_model import canonical, ledger, signing
from shared_model.errors import OurMistake, Refused
from shared_model.ledger import Chain, LedgerFault, Link, entry_digest
from shared_model.ledger_lines import Links
from shared_model.ledger_walk import Walk

ENDLESS = Budget(epsilon_lifetime=float("inf"), epsilon_per_run=float("inf"), delta=1e-5)
PLAIN: dict[str, Any] = {"private": False, "noise": "not private"}
"""Needs no accountant."""


@pytest.fixture(autouse=True)
def _another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_chain, "_verified", {})


@pytest.fixture
def home(tmp_path: Path) -> NodeHome:
    """A node with two bookings."""
    home = new_home(tmp_path / "node")
    with open_store(home) as store:
        for number in (1, 2):
            book(store, "run", number, ENDLESS, **PLAIN)
    return home


def edit(home: NodeHome, *statements: str) -> None:
    """As somebody who owns the machine would, the triggers removed."""
    with sqlite3.connect(home.ledger) as other:
        for (name,) in other.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'"):
            other.execute(f"DROP TRIGGER {name}")
        for statement in statements:
            other.execute(statement)


def numbered(column: str) -> list[str]:
    return [
        "ALTER TABLE entries RENAME TO old",
        f"CREATE TABLE entries (sequence {column}, line BLOB)",
        "INSERT INTO entries SELECT sequence, line FROM old",
    ]


@pytest.mark.parametrize("column", ["TEXT", "REAL"])
@pytest.mark.parametrize("cold", [True, False])
def test_entries_that_are_numbered_with_something_else_are_refused(
    home: NodeHome, column: str, cold: bool
) -> None:
    """Also by a process that has verified them."""
    edit(home, *numbered(column))
    if cold:
        ledger_chain._verified.clear()
    with pytest.raises(LedgerFault, match="numbers its entries"):
        open_store(home)


OTHERS: dict[str, Callable[[LedgerStore], object]] = {
    "INSERT INTO peers VALUES ('beta', 5, 'zz', 'yy')": LedgerStore.peers,
    f"INSERT INTO peers VALUES ('beta', {2**62}, '{D}', '{D}{D}')": LedgerStore.peers,
    f"INSERT INTO peers VALUES ('beta', 2, x'ff', '{D}{D}')": LedgerStore.peers,
    "DROP TABLE peers": LedgerStore.peers,
    **{
        f"INSERT INTO countersignatures VALUES (1, 'run', {number}, {header}, '{text}')": (
            LedgerStore.countersigned
        )
        for number, header, text in (
            *((1, "x'00'", "{"), (1, "x'00'", "[1]"), (1, "x'00'", '{"a":"zz"}')),
            *((1, "x'00'", '{"a":1}'), ("'x'", "x'00'", "{}"), (1, "9000000000", "{}")),
            (1, "x'00'", "[" * 100_000),
        )
    },
}


@pytest.mark.parametrize("statement", OTHERS, ids=lambda text: text[12:70])
def test_what_is_no_head_and_no_countersignature_is_refused(home: NodeHome, statement: str) -> None:
    """Before a reply, an export or an answer is made of it."""
    edit(home, statement)
    with open_store(home) as store, pytest.raises(LedgerFault, match="of other hospitals"):
        OTHERS[statement](store)


@pytest.mark.parametrize("keep", [0, 100, 4096, 8192])
def test_a_file_that_is_cut_off_under_an_open_ledger_is_refused_in_words(
    home: NodeHome, keep: int
) -> None:
    """SQLite's own errors are nobody's answer to a coordinator."""
    with open_store(home) as store:
        os.truncate(home.ledger, keep)
        with pytest.raises(LedgerFault, match=r"cannot be|is damaged"):
            book(store, "run", 9, ENDLESS, **PLAIN)
        with pytest.raises(LedgerFault, match=r"cannot be|is damaged"):
            store.see({}, {}, {})


@pytest.mark.parametrize("text", [b'{"length": 1e400, "head": ""}', b"[" * 200_000, None])
@pytest.mark.parametrize("which", ["ledger_marker", "ledger_note"])
def test_a_note_that_nobody_wrote_is_refused(
    home: NodeHome, text: bytes | None, which: str
) -> None:
    """Infinity, a thousand lists, a folder."""
    path: Path = getattr(home, which)
    path.unlink()
    path.mkdir() if text is None else path.write_bytes(text)
    with pytest.raises(LedgerFault, match="is damaged"):
        open_store(home)


@pytest.mark.parametrize("what", ["booked", "answered"])
def test_going_on_after_a_kill_before_the_notes_writes_them(
    home: NodeHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """The round that goes on reads data, or lets its update leave: an older copy that is put back
    afterwards is found out, although the node was killed between the commit and its notes."""

    def act() -> None:
        with open_store(home) as store:
            if what == "booked":
                book(store, "run", 3, ENDLESS, **PLAIN)
            else:
                store.answered("run", 2, D)

    old = shutil.copy(home.ledger, tmp_path / "old")

    def killed(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ledger_file, "write_notes", killed)
        with pytest.raises(KeyboardInterrupt):
            act()
    ledger_chain._verified.clear()
    act()
    with open_store(home) as store:
        assert store.chain.length == 4
    ledger_chain._verified.clear()
    shutil.copy(old, home.ledger)
    with pytest.raises(LedgerFault, match="older copy"):
        open_store(home)


def test_an_older_copy_that_is_put_back_between_a_commit_and_its_notes_is_not_noted(
    home: NodeHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Notes say what was written; never what lies there instead."""
    old = shutil.copy(home.ledger, tmp_path / "old")
    with open_store(home) as store:
        book(store, "run", 3, ENDLESS, **PLAIN)
    committed = LedgerStore._committed

    def late(store: LedgerStore, chain: Chain) -> None:
        shutil.copyfile(old, home.ledger)
        committed(store, chain)

    with monkeypatch.context() as patch:
        patch.setattr(LedgerStore, "_committed", late)
        with open_store(home) as store, pytest.raises(LedgerFault, match="exchanged"):
            book(store, "run", 4, ENDLESS, **PLAIN)
    with pytest.raises(LedgerFault, match="older copy"):
        open_store(home)


def test_a_coordinator_that_shows_no_head_costs_the_node_no_reading(
    home: NodeHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether all entries fit an answer is known without them: else any request would hold the
    whole ledger in memory."""
    with open_store(home) as store:
        for number in range(3, 10):
            book(store, "run", number, ENDLESS, **PLAIN)
        lines = [link.line for link in store.chain.links]
        for after in (0, 1, 4, 9, 10, 11, 99):
            found = (len(lines[after:]), sum(map(len, lines[after:])))
            assert store.chain.size_after(after) == found
        at = head_of(store.chain)
    monkeypatch.setattr(books, "MAX_NOTE_ENTRIES", books.ENTRIES_OF_A_ROUND + 9)
    read: list[object] = []
    real = Links.between
    monkeypatch.setattr(Links, "between", lambda *a: read.append(a) or real(*a))
    own = HospitalBooks(HospitalLedger(home, SITE, KEY), ENDLESS, 100)
    with pytest.raises(Refused, match="lacks 10 entries"):
        own.check_own(None)
    own.check_own(at)
    assert read == []


def test_the_rounds_of_a_run_are_copied_once_for_a_reading() -> None:
    """A copy for each booking took hours for the 100,000 of a hostile ledger; and what another
    chain has is never added to."""

    def add(walk: Walk, number: int) -> None:
        entry = draft("run", number, sequence=number + 1)
        walk.take(entry, walk.length + 1)
        walk.advance(entry, b"line", entry_digest(entry))

    walk, first = Walk(), opened()
    walk.take(first, 1)
    walk.advance(first, b"line", entry_digest(first))
    add(walk, 1)
    rounds = walk.booked["run"]
    add(walk, 2)
    assert walk.booked["run"] is rounds
    longer = walk.copy()
    add(longer, 3)
    assert rounds == {1: 2, 2: 3}
    assert longer.booked["run"] == {1: 2, 2: 3, 3: 4}
    again = walk.copy()
    add(again, 3)
    assert again.booked["run"] == longer.booked["run"]


@pytest.mark.parametrize("changes", [{"steps": 4, "dimension": 64}, {"dimension": 0}])
def test_a_booking_that_no_accountant_can_read_is_no_entry(changes: dict[str, int]) -> None:
    """Signed by its hospital and whole in all else: it ended the coordinator's round and the
    auditor's report with an error that was neither's."""
    plain = draft().model_dump(mode="json") | {"mode": "distributed", "steps": 1, **changes}
    signature = signing.sign(KEY, ledger.TAG, canonical.encode(plain)).hex()
    bad = canonical.encode({**plain, "sequence": 2, "signature": signature})
    with pytest.raises(LedgerFault, match="not an entry"):
        ledger.parse(bad)
    assert ledger.parse(line(draft(mode="distributed", steps=1, dimension=64)))


def test_entries_for_a_recovery_are_a_file_of_a_ledgers_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes from somebody else: no pipe is waited for, no disk is read into memory."""
    path = tmp_path / "entries.jsonl"
    path.write_bytes(b"one\r\ntwo\n\n")
    assert ledger_recovery.entries_of(path) == [b"one", b"two"]
    monkeypatch.setattr(ledger_recovery, "MAX_EXPORT_BYTES", 8)
    with pytest.raises(Refused) as caught:
        ledger_recovery.entries_of(path)
    assert caught.value.reason == "size"
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(Refused):
        ledger_recovery.entries_of(tmp_path / "pipe")


# The coordinator's archive


@pytest.fixture
def archive(tmp_path: Path) -> LedgerArchive:
    """With five bookings of a ledger."""
    archive = LedgerArchive(tmp_path / "archive")
    grow(archive, 5)
    return archive


def grow(archive: LedgerArchive, rounds: int) -> None:
    chain = chain_of(*(draft("run", n, sequence=n + 1) for n in range(1, rounds + 1)))
    archive.take_in(SITE, [link.line for link in chain.links], head_of(chain), PUBLIC)


@pytest.mark.parametrize("keep", [0, 1000, -1])
def test_nothing_is_put_behind_a_hole_in_the_archive(archive: LedgerArchive, keep: int) -> None:
    """Cut off by somebody else while the coordinator runs: it was filled up with zeros, and every
    entry behind it could never be read again."""
    path = archive.path / f"{SITE}.jsonl"
    path.write_bytes(path.read_bytes()[:keep])
    before = path.read_bytes()
    with pytest.raises(OurMistake, match="changed by somebody else"):
        grow(archive, 8)
    assert path.read_bytes() == before


def test_a_line_that_is_written_while_the_archive_is_read_is_no_damage(
    archive: LedgerArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page or a command reads what the coordinator writes: half a line, and then its rest."""
    whole = (archive.path / f"{SITE}.jsonl").read_bytes()

    class Growing(io.BytesIO):
        def readline(self, size: int | None = -1, /) -> bytes:
            found = super().readline(size)
            if found and not found.endswith(b"\n"):
                at = self.tell()
                self.seek(0, io.SEEK_END)
                self.write(whole[self.tell() :])
                self.seek(at)
            return found

    monkeypatch.setattr(Path, "open", lambda *_: Growing(whole[:-100]))
    assert LedgerArchive(archive.path).chain(SITE, PUBLIC).length == 5


@pytest.mark.parametrize(
    "text",
    [
        *("[]", "null", '"a"', "[" * 100_000, '{"beta":[]}', '{"beta":{"alpha":"1"}}'),
        *('{"beta":{"alpha":NaN}}', '{"beta":{"alpha":-1}}', '{"beta":{"alpha":1e9}}'),
        *('{"beta":{"alpha":true}}', f'{{"beta":{{"alpha":{2**70}}}}}', '{"\\ud800":{"alpha":1}}'),
    ],
    ids=lambda text: text[:30],
)
def test_what_peers_hold_is_a_table_of_lengths_or_refused(
    archive: LedgerArchive, text: str
) -> None:
    """Removing it costs longer messages and nothing else."""
    (archive.path / "held.json").write_text(text)
    heads, keys = {SITE: head_of(archive.chain(SITE, PUBLIC))}, {SITE: PUBLIC}
    for asked in (
        lambda: archive.links_for("beta", heads, keys),
        lambda: archive.witnessed("beta", heads),
        lambda: archive.doubts("beta"),
    ):
        with pytest.raises(OurMistake, match=r"held\.json cannot be read"):
            asked()


def test_links_for_a_peer_are_made_entry_by_entry(
    archive: LedgerArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A peer that doubts is sent all links: one entry at a time is in memory, and none is read
    beyond the head that they lead to."""
    chain = archive.chain(SITE, PUBLIC)
    alive: list[Link] = []
    real = Links._read

    def read(links: Links, first: int, last: int, wanted: Any) -> Any:
        for link in real(links, first, last, wanted):
            alive.append(link)
            yield link

    monkeypatch.setattr(Links, "_read", read)
    digests = chain.digests(1, 4)
    assert len([next(digests), next(digests)]) == len(alive) == 2
    assert [*chain.digests(1, 4)] == [link.digest for link in chain.links[1:4]]
    head = head_of(chain_of(*(draft("run", n, sequence=n + 1) for n in range(1, 4))))
    alive.clear()
    (links,) = archive.links_for("beta", {SITE: head}, {SITE: PUBLIC}).values()
    assert len(links) == len(alive) == 4
    assert [*chain.digests(6, 6)] == [*chain.digests(99, 100)] == []
