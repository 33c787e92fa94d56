"""The ledger on the disk never understates: budgets, replays, delta, crashes, old copies."""

from __future__ import annotations

import math
import shutil
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from books_stand_ins import (
    BUDGET,
    NOW_S,
    PUBLIC,
    SITE,
    D,
    book,
    book_all,
    draft,
    key_of,
    line,
    new_home,
    open_store,
)

from client import ledger_chain, ledger_file, ledger_store
from client.home import NodeHome
from client.ledger_store import MOST_INCIDENTS, Budget, LedgerStore
from shared_model import ledger_cost, ledger_entries
from shared_model.accounting import epsilon_pld
from shared_model.config import PrivacyPlan
from shared_model.errors import BudgetExhausted, OurMistake, Refused
from shared_model.ledger import Booked, Chain, Incident, LedgerFault, Opened

PLAN = PrivacyPlan(sample_rate=0.1, noise_multiplier=2.0, clipping_norm=1.0, steps=20)


@pytest.fixture
def home(tmp_path: Path) -> NodeHome:
    return new_home(tmp_path / "node")


@pytest.fixture
def store(home: NodeHome) -> Iterator[LedgerStore]:
    with open_store(home) as opened:
        yield opened


@pytest.fixture(autouse=True)
def _another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test begins with nothing verified."""
    monkeypatch.setattr(ledger_chain, "_verified", {})


def restart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_chain, "_verified", {})


def lines_of(home: NodeHome) -> list[bytes]:
    with sqlite3.connect(home.ledger) as other:
        rows = other.execute("SELECT line FROM entries ORDER BY sequence").fetchall()
    return [bytes(row[0]) for row in rows]


# Booking


def test_a_round_is_on_the_disk_when_reserve_returns(store: LedgerStore, home: NodeHome) -> None:
    """Another connection sees it, signed and chained, whatever becomes of this process."""
    booked = book(store, "run", 3)
    chain = Chain.verified(lines_of(home), PUBLIC, site=SITE)
    assert [type(link.entry) for link in chain.links] == [Opened, Booked]
    assert chain.links[1].entry == booked
    assert chain.answer("run", 3) is None
    assert booked.epsilon_lifetime == epsilon_pld([PLAN], 1e-5) == booked.outsider_epsilon_lifetime
    assert (booked.limit_lifetime, booked.limit_run) == (2.5, 2.0)
    assert booked.time_s == int(NOW_S)
    assert store.chain.booking("run", 3) == booked
    assert store.chain.booking("run", 4) is None


def test_epsilon_is_the_composition_of_all_rounds(store: LedgerStore) -> None:
    """Two rounds of one run and one of another: lifetime over all, per run over each."""
    book(store, "one", 1)
    book(store, "one", 2)
    last = book(store, "two", 1)
    assert store.epsilon() == epsilon_pld([PLAN] * 3, 1e-5) == last.epsilon_lifetime
    assert store.epsilon(run="two") == epsilon_pld([PLAN], 1e-5) == last.epsilon_run
    assert store.epsilon(run="three") == 0.0


def test_the_run_budget_refuses_first_and_the_lifetime_budget_at_last(store: LedgerStore) -> None:
    """Both hold; a refused round leaves no entry."""
    first = book_all(store, "one")
    assert store.epsilon(run="one") <= 2.0 < epsilon_pld([PLAN] * (first + 1), 1e-5)
    second = book_all(store, "two")
    assert store.epsilon() <= 2.5 < epsilon_pld([PLAN] * (first + second + 1), 1e-5)
    assert book_all(store, "three") == 0
    assert len(store.chain.bookings) == first + second


def test_a_refusal_says_what_would_have_been_spent(store: LedgerStore) -> None:
    """Which limit, how much, and who can change it."""
    with pytest.raises(BudgetExhausted, match=r"run's epsilon to .* allows 0\.1.*policy\.toml"):
        book(store, "run", 1, Budget(3.0, 0.1, 1e-5))
    assert store.chain.bookings == ()


def test_a_round_is_booked_once(store: LedgerStore) -> None:
    """A second fresh update for one round would be a second look at the data."""
    book(store)
    with pytest.raises(Refused) as caught:
        book(store, request_digest="cd" * 32)
    assert caught.value.reason == "replay"
    assert len(store.chain.bookings) == 1


def test_the_very_same_booking_again_costs_nothing(store: LedgerStore) -> None:
    """A node that was killed goes on with what it booked, also where nothing more is left."""
    first = book(store)
    book(store, "run", 2)
    head = store.chain.head
    assert book(store, "run", 1, Budget(0.01, 0.01, 1e-5)) == first
    assert store.chain.head == head


@pytest.mark.parametrize(
    "changes",
    [
        {"code_digest": "cd" * 32},
        {"roster_digest": "cd" * 32},
        {"transcript": "cd" * 32},
        {"model_in": "cd" * 32},
        {"noise_multiplier": 3.0},
        {"steps": 7},
        {"private": False, "noise": "NON-PRIVATE"},
    ],
)
def test_the_same_request_under_other_circumstances_is_no_second_booking(
    store: LedgerStore, changes: dict[str, object]
) -> None:
    """Other code, roster, plan or noise: what was booked is not what would be done."""
    book(store)
    with pytest.raises(Refused) as caught:
        book(store, **changes)
    assert caught.value.reason == "interrupted"
    assert len(store.chain.bookings) == 1


def test_a_round_that_was_never_answered_counts(store: LedgerStore) -> None:
    """Closed rounds and crashes stay in the sum."""
    book(store, "run", 1)
    before = store.epsilon()
    book(store, "run", 2)
    store.answered("run", 2, D)
    assert store.epsilon() > before
    assert [item.round for item in store.chain.answered_bookings] == [2]


def test_a_round_is_answered_once(store: LedgerStore) -> None:
    """The digest of the update that left cannot be replaced; the same again changes nothing."""
    book(store)
    store.answered("run", 1, D)
    head = store.chain.head
    store.answered("run", 1, D)
    assert store.chain.head == head
    with pytest.raises(Refused, match="another update") as caught:
        store.answered("run", 1, "cd" * 32)
    assert caught.value.reason == "ledger"
    with pytest.raises(Refused, match="not booked"):
        store.answered("run", 2, D)
    with pytest.raises(ValueError, match="update_digest"):
        book(store, "run", 2), store.answered("run", 2, "")


def test_delta_is_fixed_for_life(store: LedgerStore) -> None:
    """The first entry fixes it; a later policy cannot change it."""
    before = store.chain.delta
    book(store)
    assert (before, store.chain.delta) == (None, 1e-5)
    with pytest.raises(Refused) as caught:
        book(store, "run", 2, Budget(3.0, 2.0, 1e-4))
    assert caught.value.reason == "delta"
    with pytest.raises(OurMistake, match="differ"):
        store.reserve(draft("run", 2, delta=1e-6), BUDGET)
    with pytest.raises(Refused, match="fixed"):
        store.incident("run", 2, "conflict", 1e-4)
    assert len(store.chain.bookings) == 1


def test_a_refused_first_round_fixes_nothing(store: LedgerStore, home: NodeHome) -> None:
    """Check and booking are one transaction: undone as a whole, the first entry included."""
    with pytest.raises(BudgetExhausted):
        book(store, "run", 1, Budget(0.01, 0.01, 1e-4))
    assert store.chain.delta is None
    assert lines_of(home) == []


def test_non_private_rounds_cost_infinity_for_ever(store: LedgerStore) -> None:
    """No policy's budget lets one through; where one went through nothing is finite again."""
    with pytest.raises(BudgetExhausted, match="inf"):
        book(store, private=False, noise="NON-PRIVATE")
    free = Budget.unlimited_non_private_for_tests()
    booked = book(store, "run", 1, free, private=False, noise="NON-PRIVATE")
    assert booked.epsilon_lifetime is None
    assert (booked.limit_lifetime, booked.limit_run) == (None, None)
    assert math.isinf(store.epsilon())
    with pytest.raises(BudgetExhausted):
        book(store, "other")


@pytest.mark.parametrize("changes", [{"run": ""}, {"round": 0}, {"declared_patients": 0}])
def test_a_nameless_booking_is_refused(store: LedgerStore, changes: dict[str, object]) -> None:
    """Run, round and declared number are part of every entry."""
    with pytest.raises(OurMistake, match="no legal ledger entry"):
        store.reserve(draft().model_copy(update=changes), BUDGET)
    assert store.chain.links == ()


@pytest.mark.parametrize("epsilon", [0.0, -1.0, float("nan")])
def test_an_impossible_budget_is_refused(epsilon: float) -> None:
    """NaN compares false with everything and must not open the gate."""
    with pytest.raises(OurMistake):
        Budget(epsilon, 1.0, 1e-5)
    with pytest.raises(OurMistake):
        Budget(1.0, epsilon, 1e-5)


def test_incidents_are_written_once_and_never_without_end(
    store: LedgerStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has the coordinator's key cannot fill the disk; a full table raises nothing."""
    monkeypatch.setattr(ledger_store, "MOST_INCIDENTS", 3)
    assert MOST_INCIDENTS == 1000
    for number in (1, 1, 2, 3, 4, 5):
        store.incident("run", number, "conflict", 1e-5)
    found = [link.entry for link in store.chain.links if isinstance(link.entry, Incident)]
    assert [item.round for item in found] == [1, 2, 3]


# The design's figure


def test_twenty_rounds_of_fifty_steps_cost_what_all_thousand_steps_cost(
    store: LedgerStore,
) -> None:
    """sigma 1, q 0.1, delta 1e-5: 25.2 within 1 %, not the 5.2 of each round by itself."""
    budget = Budget(30.0, 30.0, 1e-5)
    values = {"sample_rate": 0.1, "noise_multiplier": 1.0, "steps": 50}
    first = book(store, "run", 1, budget, **values)
    assert first.epsilon_lifetime == pytest.approx(5.2, rel=0.01)
    for number in range(2, 21):
        last = book(store, "run", number, budget, **values)
    assert store.epsilon() == last.epsilon_lifetime == pytest.approx(25.2, rel=0.01)
    with open_store(store._home) as again:
        assert again.epsilon() == store.epsilon()


def test_a_node_whose_ledger_is_reset_every_round_is_refused(
    home: NodeHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would read 5.2 for ever: an empty ledger put in place of the one that was kept."""
    budget = Budget(30.0, 30.0, 1e-5)
    empty = home.ledger.read_bytes()
    with open_store(home) as store:
        book(store, "run", 1, budget, noise_multiplier=1.0, steps=50)
    home.ledger.write_bytes(empty)
    for verified in (dict(ledger_chain._verified), {}):
        monkeypatch.setattr(ledger_chain, "_verified", verified)
        with pytest.raises(LedgerFault, match="entry 1 is missing"):
            open_store(home)


def test_data_and_pseudonyms_never_give_anything_back(home: NodeHome) -> None:
    """Keys renewed, patients removed and added, a new version of the store, another policy: the
    ledger stands beside all of them and is not touched."""
    from client.policy import Policy
    from client.pseudonyms import load_or_create_key
    from client.store_write import StoreWriter

    with open_store(home) as store:
        book(store)
        spent = store.epsilon()
    for _ in range(2):
        with StoreWriter(home.store, load_or_create_key(home)) as writer:
            writer.publish([])
        with open_store(home) as store:
            assert store.epsilon() == spent
        home.pseudonym_key.unlink()
        shutil.rmtree(home.store)
        home.policy.unlink(missing_ok=True)
        Policy.write_default(home.policy, declared_patients=5000)
    with open_store(home) as store:
        book(store, "run", 2)
        assert store.epsilon() == epsilon_pld([PLAN] * 2, 1e-5) > spent


# The file


def test_reopening_keeps_everything(
    store: LedgerStore, home: NodeHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A restart of the node forgets nothing."""
    book(store, "run", 1)
    book(store, "run", 2)
    restart(monkeypatch)
    with open_store(home) as again:
        assert again.chain == store.chain
        assert again.epsilon() == store.epsilon()


def test_only_the_owner_reads_the_ledger(store: LedgerStore, home: NodeHome) -> None:
    """Mode 0600 on all three files, and a tag that keeps back-ups out of the third's folder."""
    book(store)
    for file in (home.ledger, home.ledger_marker, home.ledger_note):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert (home.never_back_up / "CACHEDIR.TAG").is_file()


def test_commits_are_flushed_to_the_disk(store: LedgerStore) -> None:
    """Rollback journal, synchronous EXTRA (3): a power cut after reserve keeps the entry."""
    connection = store._connection
    assert connection.execute("PRAGMA journal_mode").fetchone()[0] == "delete"
    assert connection.execute("PRAGMA synchronous").fetchone()[0] == 3


def test_a_process_verifies_what_is_new_and_nothing_twice(
    home: NodeHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that each message may open the ledger, however long it is."""
    with open_store(home) as store:
        book(store, "run", 1)
    counted: list[bytes] = []
    parse = ledger_entries.parse
    monkeypatch.setattr(ledger_entries, "parse", lambda data: counted.append(data) or parse(data))
    with open_store(home) as store:
        assert counted == []
        book(store, "run", 2)
    restart(monkeypatch)
    counted.clear()
    with open_store(home):
        assert len(counted) == 4  # the first also to see whose key it names


def refused(home: NodeHome, match: str, entry: int | None = None) -> None:
    with pytest.raises(LedgerFault, match=match) as caught:
        open_store(home)
    assert caught.value.reason == "ledger"
    assert "fedprint-node ledger" in caught.value.do
    if entry is not None:
        assert caught.value.entry == entry


def test_a_node_without_a_ledger_does_not_begin_one_by_itself(tmp_path: Path) -> None:
    """A fresh one would have forgotten everything."""
    home = NodeHome(tmp_path / "node")
    refused(home, "has no ledger")
    home.make()
    home.spend.write_bytes(b"")
    refused(home, "earlier version .* import-spend")
    assert not home.ledger.exists()


def test_a_missing_ledger_is_not_silently_started_again(home: NodeHome) -> None:
    """Each of the two notes says that there was one."""
    home.ledger.unlink()
    refused(home, "missing")
    home.ledger_marker.unlink()
    refused(home, "missing")
    assert not home.ledger.exists()


def test_an_older_copy_is_refused(store: LedgerStore, home: NodeHome) -> None:
    """Put back from a backup, with its marker: never-back-up/ knows better."""
    book(store, "run", 1)
    copies = {file: file.read_bytes() for file in (home.ledger, home.ledger_marker)}
    book(store, "run", 2)
    for file, data in copies.items():
        file.write_bytes(data)
    refused(home, "older copy: it ends with entry 2 and had 3; entry 3 is missing", 3)
    home.ledger_note.unlink()
    refused(home, "nobody here knows")


def test_a_running_node_notices_an_older_copy_as_well(store: LedgerStore, home: NodeHome) -> None:
    """What this process has verified does not hide what is in the file now."""
    book(store, "run", 1)
    before = home.ledger.read_bytes()
    book(store, "run", 2)
    home.ledger.write_bytes(before)
    with pytest.raises(LedgerFault, match="entry 3 is missing"):
        book(store, "run", 3)


def test_a_fork_is_refused(home: NodeHome, tmp_path: Path) -> None:
    """Signed by the same key, as long, and whole, but not what this node has kept."""
    other = new_home(tmp_path / "other")
    for place in (home, other):
        with open_store(place) as store:
            book(store)
    shutil.copy(other.ledger, home.ledger)
    refused(home, "another one than this node has kept: entry 2", 2)


def test_another_hospitals_ledger_is_refused(home: NodeHome, tmp_path: Path) -> None:
    """Its first entry is not signed by this one."""
    other = new_home(tmp_path / "other")
    with LedgerStore.open(other, SITE, key_of("thief")) as store:
        book(store)
    shutil.copy(other.ledger, home.ledger)
    refused(home, "Entry 1 is not signed by this hospital", 1)


def edit(home: NodeHome, *statements: str) -> None:
    """As somebody who owns the machine would, the triggers removed."""
    with sqlite3.connect(home.ledger) as other:
        for (name,) in other.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'"):
            other.execute(f"DROP TRIGGER {name}")
        for statement in statements:
            other.execute(statement)


@pytest.mark.parametrize(
    ("statement", "entry"),
    [
        ("DELETE FROM entries WHERE sequence = 1", 1),
        ("DELETE FROM entries WHERE sequence = 3", 3),
        ("DELETE FROM entries WHERE sequence >= 4", 4),
        ("UPDATE entries SET line = replace(line, '\"steps\":20', '\"steps\":10')", 2),
        ("UPDATE entries SET line = replace(line, '\"private\":true', '\"private\":false')", 2),
        ("UPDATE entries SET line = (SELECT line FROM entries WHERE sequence = 2)", 1),
        ("UPDATE entries SET line = x'00' WHERE sequence = 3", 3),
        ("UPDATE entries SET sequence = 9 WHERE sequence = 4", 9),
        ("INSERT INTO entries SELECT 5, line FROM entries WHERE sequence = 4", 5),
    ],
)
def test_an_edited_ledger_is_refused_and_the_entry_is_named(
    home: NodeHome, statement: str, entry: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Removed, changed, doubled or moved, by someone who removed the triggers."""
    with open_store(home) as store:
        for number in (1, 2, 3):
            book(store, "run", number)
    edit(home, statement)
    restart(monkeypatch)
    refused(home, rf"(?i)entry {entry}\b", entry)


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM entries",
        "UPDATE entries SET line = x'00'",
        "UPDATE entries SET sequence = 7",
        "INSERT INTO entries VALUES (1, x'00')",
        "INSERT OR REPLACE INTO entries VALUES (2, x'00')",
        "DELETE FROM peers",
        "UPDATE peers SET length = 4",
        "UPDATE peers SET head = 'x'",
        "DELETE FROM identity",
        "UPDATE identity SET schema_version = 2",
    ],
)
def test_entries_cannot_be_changed_by_accident(
    store: LedgerStore, home: NodeHome, statement: str
) -> None:
    """Triggers stop a careless script; a determined editor is the chain's matter."""
    book(store)
    with sqlite3.connect(home.ledger) as other:
        other.execute("INSERT INTO peers VALUES ('beta', 5, 'head', 'signature')")
        other.commit()
        with pytest.raises(sqlite3.IntegrityError):
            other.execute(statement)


def test_a_lost_marker_is_written_again(store: LedgerStore, home: NodeHome) -> None:
    """The note in never-back-up/ says that the ledger is the newest."""
    book(store, "run", 1)
    home.ledger_marker.unlink()
    book(store, "run", 2)
    assert home.ledger_marker.read_bytes() == home.ledger_note.read_bytes()


def test_a_note_that_another_process_writes_meanwhile_is_no_alarm(
    store: LedgerStore, home: NodeHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Notes are read before the ledger, which only grows."""
    book(store, "run", 1)
    hold = ledger_file.hold_against_notes

    def slow(notes: ledger_file.Notes, chain: Chain) -> None:
        monkeypatch.setattr(ledger_file, "hold_against_notes", hold)
        book(store, "run", 2)
        assert ledger_file.Notes.of(home).note != notes.note
        hold(notes, chain)

    monkeypatch.setattr(ledger_file, "hold_against_notes", slow)
    with open_store(home) as other:
        assert len(other.chain.bookings) == 1


def test_a_slow_process_does_not_put_a_shorter_note_over_a_longer(
    store: LedgerStore, home: NodeHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else data would be read after a booking that a rollback can hide."""
    noted = LedgerStore._committed

    def late(self: LedgerStore, chain: Chain) -> None:
        monkeypatch.setattr(LedgerStore, "_committed", noted)
        with open_store(home) as other:
            other.incident("spring", 2, "conflict", BUDGET.delta)
        noted(self, chain)

    monkeypatch.setattr(LedgerStore, "_committed", late)
    store.incident("spring", 1, "conflict", BUDGET.delta)
    assert ledger_file.Notes.of(home).note == (3, store.chain.head)


def test_notes_that_lag_behind_do_no_harm(store: LedgerStore, home: NodeHome) -> None:
    """Killed between the commit and the notes."""
    before = home.ledger_note.read_bytes()
    book(store)
    for file in (home.ledger_marker, home.ledger_note):
        file.write_bytes(before)
    with open_store(home) as again:
        assert again.chain.length == 2


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b'{"length": 1, "head": 5}', b"\xff"])
@pytest.mark.parametrize("which", ["ledger_marker", "ledger_note"])
def test_a_damaged_note_is_refused(
    store: LedgerStore, home: NodeHome, content: bytes, which: str
) -> None:
    """It might have said more than the ledger does."""
    book(store)
    getattr(home, which).write_bytes(content)
    refused(home, "is damaged|another one than")


@pytest.mark.parametrize("keep", [0, 50, 5000])
def test_a_truncated_file_is_refused(home: NodeHome, keep: int, monkeypatch) -> None:
    """A half-written copy is no ledger."""
    with open_store(home) as store:
        book(store)
    home.ledger.write_bytes(home.ledger.read_bytes()[:keep])
    restart(monkeypatch)
    refused(home, r"damaged|cannot be read|not a ledger")


def test_noise_over_the_file_is_refused(home: NodeHome, monkeypatch) -> None:
    """Pages overwritten with other bytes."""
    with open_store(home) as store:
        for number in (1, 2, 3):
            book(store, "run", number)
    data = bytearray(home.ledger.read_bytes())
    data[4096:12288] = b"\xa5" * 8192
    home.ledger.write_bytes(bytes(data))
    restart(monkeypatch)
    refused(home, r"damaged|cannot be read")


def test_another_sqlite_file_and_another_version_are_refused(home: NodeHome) -> None:
    """Not every database is a ledger, and a newer program's is not guessed at."""
    edit(home, "UPDATE identity SET schema_version = 99")
    refused(home, "not of version 1")
    home.ledger.unlink()
    with sqlite3.connect(home.ledger) as other:
        other.execute("CREATE TABLE t (a)")
    refused(home, "not a ledger")


def test_making_a_ledger_again_changes_nothing(store: LedgerStore, home: NodeHome) -> None:
    """Neither entries nor notes."""
    book(store)
    before = (lines_of(home), home.ledger_note.read_bytes())
    ledger_file.create(home, never_trained=True)
    assert (lines_of(home), home.ledger_note.read_bytes()) == before


def test_only_what_continues_the_chain_is_ever_written(store: LedgerStore, home: NodeHome) -> None:
    """Also by this program itself."""
    book(store)
    with pytest.raises(LedgerFault):
        store.restore(store.chain, [line(draft(sequence=5))], lambda _: draft(sequence=6))
    assert len(lines_of(home)) == 2


def test_what_is_left_is_told_in_rounds(store: LedgerStore) -> None:
    """As many more as can then be booked, and not one more."""
    booked = book(store)
    limits = {"delta": 1e-5, "lifetime": 2.5, "per_run": 2.0}
    left = ledger_cost.rounds_left(store.chain.spent(), booked, **limits)
    for number in range(2, left + 2):
        book(store, "run", number)
    with pytest.raises(BudgetExhausted):
        book(store, "run", left + 2)
    assert left > 1
    assert ledger_cost.rounds_left(store.chain.spent(), booked, **limits) == 0
