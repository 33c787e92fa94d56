"""The pure ledger: what its parser takes, what may follow what, and what it all costs."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from books_stand_ins import KEY, PUBLIC, SITE, D, chain_of, draft, head_of, key_of, line, opened
from hypothesis import given, settings
from hypothesis import strategies as st

from shared_model import canonical, ledger, ledger_cost
from shared_model.errors import OurMistake, Refused
from shared_model.ledger import (
    NOTHING,
    Answered,
    Approved,
    Chain,
    Incident,
    LedgerFault,
    Recovered,
)


def booked(sequence: int, number: int = 1, run: str = "run", **changes: Any) -> Any:
    return draft(run, number, sequence=sequence, **changes)


def answered(sequence: int, booking: int, number: int = 1, run: str = "run") -> Answered:
    return Answered(
        site=SITE, sequence=sequence, booking=booking, run=run, round=number, update_digest=D
    )


def recovered(sequence: int, **changes: Any) -> Recovered:
    values: dict[str, Any] = {
        "site": SITE,
        "sequence": sequence,
        "lost_from": 0,
        "lost_to": 0,
        "previous": D,
        "epsilon_charged": None,
        "delta": 1e-5,
        "witnesses": ("beta",),
        "evidence_digest": D,
        "time_s": 0,
    }
    return Recovered(**{**values, **changes})


CHAIN = chain_of(
    booked(2),
    answered(3, 2),
    Approved(
        site=SITE, sequence=4, run="run", plan_digest=D, bookings=3, epsilon_run=1.0, by="policy",
        time_s=1,
    ),
    booked(5, 2),
    Incident(site=SITE, sequence=6, run="run", round=2, reason="conflict"),
    answered(7, 5, 2),
)  # fmt: skip
LINES = [link.line for link in CHAIN.links]


def verified(lines: list[bytes]) -> Chain:
    return Chain.verified(lines, PUBLIC, site=SITE)


def refused(lines: list[bytes], entry: int, match: str = r".") -> None:
    with pytest.raises(LedgerFault, match=match) as caught:
        verified(lines)
    assert caught.value.entry == entry
    assert f"Entry {entry}" in caught.value.message or entry == 0


def test_a_chain_verifies_and_says_what_is_in_it() -> None:
    """Length, head, delta, bookings, answers."""
    assert verified(LINES) == CHAIN
    assert (CHAIN.length, CHAIN.delta, CHAIN.opened.ledger) == (7, 1e-5, "0" * 32)
    assert [item.round for item in CHAIN.bookings] == [1, 2]
    assert [item.round for item in CHAIN.answered_bookings] == [1, 2]
    assert CHAIN.booking("run", 2) == CHAIN.bookings[1]
    assert CHAIN.answer("run", 3) is None
    assert [(one.rounds, one.steps) for one in CHAIN.spent().bookings] == [(2, 40)]


@given(st.integers(0, 7))
def test_extending_a_prefix_gives_the_same_chain_as_verifying_all(cut: int) -> None:
    """Also in two processes that share nothing."""
    prefix = verified(LINES[:cut])
    longer = prefix.extended(LINES[cut:])
    assert (longer.links, longer.head) == (CHAIN.links, CHAIN.head)
    assert prefix.length == cut  # untouched
    with pytest.raises(LedgerFault):
        prefix.extended(LINES[cut:]).extended(LINES[-1:])


def test_links_lead_from_every_head_to_every_later_one() -> None:
    """And the head at each length is the one that it was then."""
    for cut in range(8):
        head = CHAIN.head_at(cut)
        assert head is not None
        assert ledger.follows(head, [link.digest for link in CHAIN.after(cut)]) == CHAIN.head
        assert verified(LINES[:cut]).head == head
    assert CHAIN.head_at(8) is None
    assert CHAIN.head_at(0) == NOTHING


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_one_flipped_bit_anywhere_is_refused_and_named(data: st.DataObject) -> None:
    """Signature, digest, number, brace: any bit of any line."""
    place = data.draw(st.integers(0, len(LINES) - 1))
    bit = data.draw(st.integers(0, 8 * len(LINES[place]) - 1))
    changed = bytearray(LINES[place])
    changed[bit // 8] ^= 1 << bit % 8
    refused([*LINES[:place], bytes(changed), *LINES[place + 1 :]], place + 1)


@given(st.integers(0, 6), st.integers(0, 6))
def test_swapped_entries_are_refused(one: int, other: int) -> None:
    """The first one that is out of place is named."""
    lines = list(LINES)
    lines[one], lines[other] = lines[other], lines[one]
    if one == other:
        assert verified(lines) == CHAIN
    else:
        refused(lines, min(one, other) + 1)


@given(st.integers(0, 5))
def test_a_removed_or_doubled_entry_is_refused(place: int) -> None:
    """All but the last: a shorter chain is a chain, which is what notes and peers are for."""
    refused(LINES[:place] + LINES[place + 1 :], place + 1)
    refused(LINES[: place + 1] + LINES[place:], place + 2)


def test_an_entry_signed_by_another_key_is_refused() -> None:
    """Re-signed, also with the key that the first entry names."""
    stranger = key_of("stranger")
    refused([*LINES[:2], line(CHAIN.links[2].entry, stranger)], 3, "not signed by this hospital")
    refused([line(opened(stranger))], 1, "not signed")
    refused([line(CHAIN.links[0].entry, stranger)], 1, "not signed")
    refused([line(opened(stranger), stranger)], 1, "not signed by this hospital")


def test_an_entry_of_another_hospital_is_refused() -> None:
    """Even with the same key."""
    foreign = line(opened(KEY, "beta"))
    refused([foreign], 1, "another hospital")


def canonical_line(**changes: Any) -> bytes:
    plain = json.loads(LINES[1])
    return canonical.encode({**plain, **changes})


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"a":1e999,"signature":"00"}',
        b'{"signature":null}',
        b'{"signature":5}',
        LINES[1] + b"\n",
        b" " + LINES[1],
        LINES[1].replace(b'"kind"', b'"kind":"opened","kind"'),
        LINES[1].replace(b'"round":1', b'"round":1.0'),
        LINES[1].replace(b'"round":1', b'"round":"1"'),
        LINES[1].replace(b'"round":1', b'"round":true'),
        LINES[1].replace(b'"private":true', b'"private":1'),
        LINES[1].replace(b'"delta":1e-05', b'"delta":0.00001'),
        canonical_line(extra=1),
        canonical_line(version=2),
        canonical_line(kind="bookd"),
        canonical_line(noise_multiplier=-1.0),
        canonical_line(steps=-5),
        canonical_line(steps=2**70),
        canonical_line(noise="x" * 5000),
        canonical_line(noise="caf\u00e9"),
        canonical_line(signature="AB" * 64),
        canonical_line(signature="ab" * 63),
        LINES[1].decode().encode("utf-16"),
    ],
)
def test_a_line_that_no_honest_node_writes_is_refused(bad: bytes) -> None:
    """Not canonical, of wrong type, out of bounds; never another exception."""
    with pytest.raises(LedgerFault):
        ledger.parse(bad)
    refused([LINES[0], bad], 2)


@given(st.binary(max_size=300))
def test_no_bytes_make_the_parser_raise_anything_else(data: bytes) -> None:
    """What the parser takes it gives back byte for byte."""
    with pytest.raises(LedgerFault):
        ledger.parse(data)


ONE = opened()


@pytest.mark.parametrize(
    ("entries", "entry", "match"),
    [
        ([booked(1)], 1, "first entry"),
        ([ONE, opened(sequence=2)], 2, "first entry"),
        ([ONE, booked(3)], 2, "missing or swapped"),
        ([ONE, booked(2), booked(3)], 3, "booked twice"),
        ([ONE, booked(2, delta=1e-6)], 2, "delta is fixed"),
        ([ONE, answered(2, 1)], 2, "not booked"),
        ([ONE, booked(2), answered(3, 1)], 3, "not booked"),
        ([ONE, booked(2), answered(3, 2, 2)], 3, "not booked"),
        ([ONE, booked(2), answered(3, 2), answered(4, 2)], 4, "answered twice"),
        (
            [ONE]
            + [Incident(site=SITE, sequence=n, run="r", round=1, reason="late") for n in (2, 3)],
            3,
            "there twice",
        ),
        ([recovered(1, previous=NOTHING)], 1, "first entry"),
        ([ONE, recovered(2)], 2, "does not follow"),
        ([ONE, recovered(5, lost_from=3, lost_to=4, epsilon_charged=1.0)], 2, "does not begin"),
        (
            [ONE, recovered(4, lost_from=2, lost_to=3, epsilon_charged=1.0, delta=1e-6)],
            2,
            "delta is fixed",
        ),
    ],
)
def test_an_entry_that_makes_no_sense_where_it_stands_is_refused(
    entries: list[Any], entry: int, match: str
) -> None:
    """Signed by the right key all the same."""
    refused([line(item) for item in entries], entry, match)


@pytest.mark.parametrize(
    "changes",
    [
        {"lost_from": 2},
        {"lost_to": 2},
        {"lost_from": 4, "lost_to": 3, "epsilon_charged": 1.0},
        {"lost_from": 2, "lost_to": 3},
        {"lost_from": 2, "lost_to": 2, "epsilon_charged": 1.0},
        {"epsilon_charged": -1.0},
        {"epsilon_charged": float("inf")},
    ],
)
def test_a_loss_that_is_no_range_or_costs_nothing_is_no_entry(changes: dict[str, Any]) -> None:
    """Lost entries are always charged."""
    with pytest.raises(ValueError, match=r"."):
        recovered(4, **changes)


def lossy(charge: float) -> Recovered:
    """After entries 1 (opened) and 2 (booked: spent 1 of 8); 3 and 4 are lost."""
    return recovered(5, lost_from=3, lost_to=4, epsilon_charged=charge)


def test_what_is_here_counts_on_after_a_loss_and_the_charge_comes_on_top() -> None:
    """A hospital cannot make its bookings cheap by declaring entries lost."""
    first = booked(2, epsilon_lifetime=1.0, limit_lifetime=8.0)
    chain = chain_of(first, lossy(7.0), booked(6, 2))
    spent = chain.spent()
    assert (spent.charged, spent.losses) == (7.0, 1)
    assert [[one.rounds for one in part] for part in spent.segments] == [[1], [1]]
    assert sum(one.rounds for one in spent.of_run("run").bookings) == 2
    assert (chain.length, chain.delta) == (6, 1e-5)
    assert chain.head_at(4) == D
    assert chain.head_at(3) is None
    assert chain.head_at(5) == ledger.next_head(D, chain.links[2].digest)
    with pytest.raises(LedgerFault, match="charges less"):
        chain_of(first, lossy(6.9))


def test_what_follows_a_loss_is_added_to_the_limit_and_not_composed_with_what_was_before() -> None:
    """The lost rounds were composed with those before; only their sum is known to be in the limit.

    Composing what is here across the loss reads less than the limit plus what follows: unsound.
    """
    alone, _ = ledger_cost.epsilon(chain_of(booked(2)).spent(), 1e-5)
    first = booked(2, epsilon_lifetime=alone, limit_lifetime=8.0)
    chain = chain_of(first, lossy(8.0 - alone), booked(6, 2))
    total, delta = ledger_cost.epsilon(chain.spent(), 1e-5)
    assert total == pytest.approx(8.0 + alone)
    assert delta == 2e-5
    across, _ = ledger_cost.epsilon(chain_of(first, booked(3, 2)).spent(), 1e-5)
    assert 8.0 - alone + across < total


def test_a_charge_without_lost_entries_must_be_all_that_was_left_as_well() -> None:
    """Entries that nobody else saw."""
    first = booked(2, epsilon_lifetime=1.0, limit_lifetime=8.0)
    head = chain_of(first).head
    chain = chain_of(first, recovered(3, previous=head, epsilon_charged=7.0))
    assert (chain.spent().charged, chain.spent().losses) == (7.0, 1)
    with pytest.raises(LedgerFault, match="charges less"):
        chain_of(first, recovered(3, previous=head, epsilon_charged=0.1))


def test_a_second_loss_counts_what_the_first_has_charged() -> None:
    """Nothing is left then; after another booking its own epsilon says so."""
    first = booked(2, epsilon_lifetime=1.0, limit_lifetime=8.0)
    again = recovered(9, lost_from=6, lost_to=8, epsilon_charged=0.0)
    chain = chain_of(first, lossy(7.0), again)
    assert (chain.spent().charged, chain.spent().losses) == (7.0, 2)
    higher = booked(6, 2, epsilon_lifetime=9.0, limit_lifetime=10.0)
    late = recovered(9, lost_from=7, lost_to=8, epsilon_charged=0.9)
    with pytest.raises(LedgerFault, match="charges less"):
        chain_of(first, lossy(7.0), higher, late)


def test_a_recovery_without_loss_costs_nothing() -> None:
    """The chain just goes on."""
    before = chain_of(booked(2))
    chain = chain_of(booked(2), recovered(3, previous=before.head))
    assert (chain.spent().charged, chain.spent().losses) == (0.0, 0)
    assert ledger.follows(before.head, [chain.links[-1].digest]) == chain.head


def test_a_ledger_may_begin_with_what_was_lost() -> None:
    """Everything is gone but what peers vouch for; the first entry is not here then."""
    chain = verified([line(recovered(5, lost_from=1, lost_to=4, epsilon_charged=8.0))])
    assert (chain.length, chain.delta) == (5, 1e-5)
    with pytest.raises(OurMistake, match="not here"):
        _ = chain.opened


def test_a_head_is_signed_for_one_site_length_and_digest() -> None:
    """Nothing else passes for it."""
    head = head_of(CHAIN)
    head.check(SITE, PUBLIC)
    for changed in (
        head.model_copy(update={"length": 6}),
        head.model_copy(update={"head": D}),
        head.model_copy(update={"signature": "00" * 64}),
    ):
        with pytest.raises(Refused):
            changed.check(SITE, PUBLIC)
    with pytest.raises(Refused):
        head.check("beta", PUBLIC)


def test_every_entry_has_another_digest_and_every_head_is_another() -> None:
    """A digest stands for one entry."""
    assert len({link.digest for link in CHAIN.links}) == CHAIN.length
    heads = [link.head for link in CHAIN.links]
    assert len(set(heads)) == CHAIN.length
    for before, link in pairwise([NOTHING, *heads]):
        assert before != link


def test_the_approval_of_a_run_is_its_last_one() -> None:
    """With how many of its rounds were booked since."""
    approval, since = CHAIN.approval("run")
    assert approval is not None
    assert (approval.sequence, since) == (4, 1)
    assert CHAIN.approval("other") == (None, 0)


def test_sealing_refuses_what_its_own_parser_would_not_take() -> None:
    """No node writes a line that nobody reads."""
    with pytest.raises(OurMistake):
        ledger.seal(draft().model_copy(update={"steps": 0}), KEY)
