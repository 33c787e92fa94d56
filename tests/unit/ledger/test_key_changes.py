"""A ledger that goes from one identity key to the next: rotated by the old, or the old one lost."""

from __future__ import annotations

from typing import Any

import pytest
from books_stand_ins import (
    BUDGET,
    KEY,
    NOW_S,
    PUBLIC,
    SITE,
    D,
    book,
    chain_of,
    draft,
    head_of,
    key_of,
    line,
    new_home,
    open_store,
    opened,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from test_ledger_recovery import Card, World

from client import ledger_chain, ledger_recovery
from client.home import NodeHome
from client.ledger_recovery import Recovery
from client.ledger_store import LedgerStore
from shared_model import ledger, roster, signing
from shared_model.errors import PeerFault, Refused
from shared_model.ledger import Chain, HandedOver, LedgerFault, Replaced

HEIR, THIRD = key_of("heir"), key_of("third")
HEIR_PUBLIC = signing.public_bytes(HEIR)


@pytest.fixture(autouse=True)
def _another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_chain, "_verified", {})


def public(key: Ed25519PrivateKey) -> str:
    return signing.public_bytes(key).hex()


def handed(sequence: int, old: Ed25519PrivateKey = KEY, new: Ed25519PrivateKey = HEIR) -> Any:
    return HandedOver(
        site=SITE,
        sequence=sequence,
        previous_key=public(old),
        identity_key=public(new),
        time_s=0,
    )


def replaced(sequence: int, previous: str, **changes: Any) -> Replaced:
    values: dict[str, Any] = {
        "site": SITE,
        "sequence": sequence,
        "lost_from": 0,
        "lost_to": 0,
        "previous": previous,
        "epsilon_charged": None,
        "delta": 1e-5,
        "witnesses": ("beta",),
        "evidence_digest": D,
        "time_s": 0,
        "previous_key": public(KEY),
        "identity_key": public(HEIR),
    }
    return Replaced(**{**values, **changes})


OLD = chain_of(draft(sequence=2))
LINES = [link.line for link in OLD.links]
ROTATED = [*LINES, line(handed(3)), line(draft(number=2, sequence=4), HEIR)]


def verified(lines: list[bytes], key: Ed25519PrivateKey = HEIR) -> Chain:
    return Chain.verified(lines, signing.public_bytes(key), site=SITE)


def test_a_rotated_ledger_is_the_new_keys() -> None:
    chain = verified(ROTATED)
    assert chain.identity_key == HEIR_PUBLIC
    assert chain.keys == (PUBLIC, HEIR_PUBLIC)
    assert [chain.key_at(length) for length in range(5)] == [PUBLIC] * 3 + [HEIR_PUBLIC] * 2
    assert len(chain.bookings) == 2
    assert OLD.extended(ROTATED[2:]) == chain


def test_a_rotated_ledger_is_no_longer_the_old_keys() -> None:
    with pytest.raises(LedgerFault, match="hands the ledger over") as caught:
        verified(ROTATED, KEY)
    assert caught.value.entry == 3


@pytest.mark.parametrize(
    "lines",
    [
        [*LINES, line(handed(3), HEIR), ROTATED[3]],
        [*ROTATED[:3], line(draft(number=2, sequence=4), KEY)],
        [*ROTATED[:3], line(draft(number=2, sequence=4), THIRD)],
        [*LINES, line(handed(3, old=THIRD)), ROTATED[3]],
        [*LINES, line(handed(3, old=THIRD), THIRD), ROTATED[3]],
        [*LINES, ROTATED[3]],
        [*LINES, line(replaced(3, OLD.head), KEY)],
        [*LINES, line(replaced(3, OLD.head, previous_key=public(THIRD)), HEIR)],
        [line(handed(1)), line(draft(sequence=2), HEIR)],
    ],
    ids=[
        "handed over by the heir itself",
        "the old key goes on",
        "a third key goes on",
        "from a key that did not sign",
        "from and by a key that did not sign",
        "no entry hands it over",
        "replaced, signed by the lost key",
        "replaced from a key that did not sign",
        "a ledger that begins with it",
    ],
)
def test_nobody_else_takes_a_ledger_over(lines: list[bytes]) -> None:
    with pytest.raises(LedgerFault):
        verified(lines)


def test_a_lost_key_is_replaced_by_the_new_one_alone() -> None:
    """Whether the new one is the hospital's is for the roster to say."""
    chain = verified([*LINES, line(replaced(3, OLD.head), HEIR)])
    assert chain.keys == (PUBLIC, HEIR_PUBLIC)
    assert chain.spent() == OLD.spent()
    paid = replaced(9, D, lost_from=3, lost_to=8, epsilon_charged=8.0)
    assert verified([*LINES, line(paid, HEIR)]).spent().charged == 8.0


def test_a_key_is_not_handed_to_itself() -> None:
    with pytest.raises(ValueError, match="another"):
        handed(3, new=KEY)
    with pytest.raises(ValueError, match="another"):
        replaced(3, D, identity_key=public(KEY))


@settings(deadline=None)
@given(st.lists(st.sampled_from(["book", "rotate"]), max_size=8), st.data())
def test_any_history_of_keys_verifies_and_no_other_signer_does(
    history: list[str], data: st.DataObject
) -> None:
    keys = [key_of(f"key {number}") for number in range(10)]
    lines, signers, at = [line(opened(keys[0]), keys[0])], [0], 0
    for what in history:
        entry: Any
        if what == "book":
            entry = draft(number=len(lines) + 1, sequence=len(lines) + 1)
        else:
            entry = handed(len(lines) + 1, keys[at], keys[at + 1])
        lines.append(line(entry, keys[at]))
        signers.append(at)
        at += what == "rotate"
    chain = verified(lines, keys[at])
    assert chain.keys == tuple(signing.public_bytes(key) for key in keys[: at + 1])
    place = data.draw(st.integers(0, len(lines) - 1))
    other = data.draw(st.sampled_from([n for n in range(10) if n != signers[place]]))
    lines[place] = line(ledger.parse(lines[place])[0], keys[other])
    with pytest.raises(LedgerFault):
        verified(lines, keys[at])


# --- the hospital's file


def open_as(home: NodeHome, key: Ed25519PrivateKey) -> LedgerStore:
    return LedgerStore.open(home, SITE, key, clock=lambda: NOW_S)


def test_the_next_key_goes_on_and_counts_what_was_spent(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = new_home(tmp_path / "node")
    with open_store(home) as store:
        book(store)
        before = store.epsilon()
        store.hand_over(HEIR_PUBLIC)
    monkeypatch.setattr(ledger_chain, "_verified", {})
    with open_as(home, HEIR) as store:
        assert store.epsilon() == before > 0.0
        store.signed_head().check(SITE, HEIR_PUBLIC)
        book(store)  # the very same booking changes nothing
        assert store.epsilon() == before
        with pytest.raises(Refused, match="booked already"):
            book(store, request_digest="cd" * 32)
        book(store, number=2)
        assert store.epsilon() > before
    with pytest.raises(LedgerFault, match="hands the ledger over"):
        open_store(home)


# --- the lost key


def world_with(tmp_path: Any, key: Ed25519PrivateKey) -> World:
    """Three rounds that all others saw; then alpha has this key in the roster, and a new folder."""
    world = World(tmp_path)
    world.rounds(1, 3)
    cards = [
        Card(
            site=entry.site,
            identity_key=public(key) if entry.site == SITE else entry.identity_key,
            declared_patients=entry.declared_patients,
        )
        for entry in world.roster.sites
    ]
    world.roster = roster.draft(cards, 2, valid_from="2020-01-01", valid_until="2099-01-01")
    policy = world.alpha.policy.read_bytes()
    world.homes[SITE] = new_home(tmp_path / "alpha-again")
    world.alpha.policy.write_bytes(policy)
    return world


def recover(
    world: World, key: Ed25519PrivateKey, entries: list[bytes], lost_key: bytes | None = None
) -> Recovery:
    asked = ledger_recovery.ask(world.alpha, SITE, key)
    return ledger_recovery.recover(
        world.alpha,
        SITE,
        key,
        asked=asked,
        answers=[world.answer(site, asked) for site in ("beta", "gamma", "delta", "epsilon")],
        entries=entries,
        roster=world.roster,
        policy=world.policy,
        agree=lambda _: None,
        lost_key=lost_key,
    )


def test_a_hospital_that_lost_its_key_goes_on_with_its_old_ledger(tmp_path: Any) -> None:
    world = world_with(tmp_path, HEIR)
    done = recover(world, HEIR, world.archive)
    assert (done.replaces, done.lost, done.charge) == (PUBLIC, 0, None)
    with open_as(world.alpha, HEIR) as store:
        assert [item.round for item in store.chain.bookings] == [1, 2, 3]
        assert isinstance(store.chain.links[-1].entry, Replaced)
        book(store, "next", 1, BUDGET)
        assert store.epsilon() > 2.0  # of all four rounds


def test_without_any_entry_the_lost_key_is_named_and_everything_is_charged(tmp_path: Any) -> None:
    world = world_with(tmp_path, HEIR)
    with pytest.raises(PeerFault, match="has not signed"):
        recover(world, HEIR, [], lost_key=signing.public_bytes(THIRD))
    done = recover(world, HEIR, [], lost_key=PUBLIC)
    assert done.lost > 0
    assert done.charge == world.policy.epsilon_lifetime
    with open_as(world.alpha, HEIR) as store:
        (link,) = store.chain.links
        assert isinstance(link.entry, Replaced)
        assert store.chain.keys == (PUBLIC, HEIR_PUBLIC)


def test_what_the_others_hold_of_the_lost_key_is_not_passed_by(tmp_path: Any) -> None:
    """A ledger of an invented key, however well signed, has other heads than they hold."""
    world = world_with(tmp_path, HEIR)
    invented = [line(opened(THIRD), THIRD), line(draft(sequence=2, number=9), THIRD)]
    with pytest.raises((PeerFault, Refused)):
        recover(world, HEIR, invented)
    with open_as(world.alpha, HEIR) as store:
        assert store.chain.length == 0


def test_a_peers_head_of_the_old_key_still_counts(tmp_path: Any) -> None:
    """A new head by the new key follows from it, or is refused."""
    home = new_home(tmp_path / "beta")
    keys = {SITE: HEIR_PUBLIC}
    with LedgerStore.open(home, "beta", key_of("beta")) as store:
        store.see({SITE: head_of(OLD)}, {SITE: [x.digest for x in OLD.links]}, {SITE: PUBLIC})
        chain = verified(ROTATED)
        links = {SITE: [x.digest for x in chain.links]}
        with pytest.raises(Refused, match="not signed"):
            store.see({SITE: head_of(chain)}, links, keys)
        store.see({SITE: head_of(chain, HEIR)}, links, keys)
        forked = verified([*LINES[:1], line(handed(2)), line(draft(sequence=3), HEIR),
                           line(draft(sequence=4, number=7), HEIR),
                           line(draft(sequence=5, number=8), HEIR)])  # fmt: skip
        with pytest.raises(Refused, match="forked or rewritten"):
            store.see({SITE: head_of(forked, HEIR)}, {SITE: [x.digest for x in forked.links]}, keys)
