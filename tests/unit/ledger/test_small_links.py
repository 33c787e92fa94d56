"""Verified entries are kept for years: what one costs in memory, and that nothing is lost by it."""

from __future__ import annotations

import gc
import tracemalloc

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from shared_model import ledger, signing
from shared_model.ledger import Answered, Booked, Chain, Opened

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = signing.public_bytes(KEY)
MOST_BYTES = 3_500
"""Of a round: a booking and an answer. 6,200 when lines and names of fields were kept as well."""


def lines_of(rounds: int) -> list[bytes]:
    """A ledger of so many rounds, each with digests of its own."""
    opened = Opened(
        site="alpha",
        sequence=1,
        ledger="0" * 32,
        identity_key=PUBLIC.hex(),
        delta=1e-5,
        software="fedprint 0.1.0",
        time_s=1,
    )
    made = [ledger.seal(opened, KEY)]
    for number in range(1, rounds + 1):
        own = {
            name: f"{number:04x}{name.encode().hex():0<60}"[:64] for name in ("m", "r", "t", "u")
        }
        booked = Booked(
            site="alpha",
            sequence=2 * number,
            run="spring",
            round=number,
            purpose="pretraining",
            mode="local",
            sample_rate=0.1,
            noise_multiplier=1.1,
            clipping_norm=1.0,
            steps=5,
            declared_patients=1000,
            delta=1e-5,
            noise="system",
            private=True,
            model_in=own["m"],
            request_digest=own["r"],
            code_digest="c" * 64,
            roster_digest="d" * 64,
            transcript=own["t"],
            participants=4,
            threshold=3,
            colluding_sites=0,
            minimum_contributors=3,
            dimension=0,
            limit_lifetime=8.0,
            limit_run=8.0,
            epsilon_lifetime=0.01 * number,
            epsilon_run=0.01 * number,
            outsider_epsilon_lifetime=0.01 * number,
            time_s=10**9 + number,
        )
        answered = Answered(
            site="alpha",
            sequence=2 * number + 1,
            booking=2 * number,
            run="spring",
            round=number,
            update_digest=own["u"],
        )
        made += [ledger.seal(booked, KEY), ledger.seal(answered, KEY)]
    return made


def test_lines_digests_and_sizes_come_back_from_what_is_kept() -> None:
    lines = lines_of(5)
    chain = Chain.verified(lines, PUBLIC, site="alpha")
    assert [link.line for link in chain.links] == lines
    assert chain.size == sum(len(line) + 1 for line in lines)
    heads = ledger.follows(ledger.NOTHING, [link.digest for link in chain.links])
    assert heads == chain.head == chain.links[-1].head


def test_a_copy_of_an_entry_may_change_without_changing_others() -> None:
    """All entries of a kind share one set of the names of their fields."""
    chain = Chain.verified(lines_of(2), PUBLIC, site="alpha")
    first, second = chain.bookings
    copied = first.model_copy(update={"steps": 6})
    assert (copied.steps, first.steps, second.steps) == (6, 5, 5)
    assert copied.model_fields_set == first.model_fields_set == set(Booked.model_fields)


def test_a_round_costs_little_memory() -> None:
    """Counted by tracemalloc over 200 rounds: not resident memory, so nothing else shows."""
    lines = lines_of(200)
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        chain = Chain.verified(iter(lines), PUBLIC, site="alpha")
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert chain.length == 401
    assert grown / 200 <= MOST_BYTES
