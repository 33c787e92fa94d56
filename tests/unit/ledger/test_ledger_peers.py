"""What a hospital keeps of the others: heads that only grow, and who countersigned."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from books_stand_ins import (
    KEY,
    PUBLIC,
    book,
    chain_of,
    draft,
    head_of,
    key_of,
    new_home,
    open_store,
)

from client.ledger_peers import Countersigned
from client.ledger_store import LedgerStore
from shared_model import signing
from shared_model.errors import Refused
from shared_model.ledger import Chain

BETA = key_of("beta")
KEYS = {
    "alpha": PUBLIC,
    "beta": signing.public_bytes(BETA),
    "gamma": signing.public_bytes(key_of("gamma")),
}


def beta(rounds: int, run: str = "run") -> Chain:
    """Beta's ledger of 1 + rounds entries."""
    entries = [
        draft(run, number, site="beta", sequence=number + 1) for number in range(1, rounds + 1)
    ]
    return chain_of(*entries, key=BETA, site="beta")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LedgerStore]:
    with open_store(new_home(tmp_path)) as opened:
        yield opened


def see(store: LedgerStore, chain: Chain, since: int | None = None) -> None:
    links = () if since is None else tuple(link.digest for link in chain.after(since))
    store.see({"beta": head_of(chain, BETA)}, {"beta": links}, KEYS)


def held(store: LedgerStore) -> int:
    return store.peers()["beta"].length


def test_the_first_head_of_a_hospital_is_taken_as_it_is(store: LedgerStore) -> None:
    """Nobody knows better yet; the own head is not kept."""
    own = head_of(chain_of(), KEY)
    store.see({"alpha": own, "beta": head_of(beta(3), BETA)}, {}, KEYS)
    assert {site: head.length for site, head in store.peers().items()} == {"beta": 4}


def test_a_head_that_the_links_lead_to_is_kept(store: LedgerStore) -> None:
    """Links may begin earlier than the head that is held; the same head again needs none."""
    see(store, beta(1))
    see(store, beta(3), since=2)
    see(store, beta(3))
    see(store, beta(5), since=0)
    assert held(store) == 6


@pytest.mark.parametrize(
    ("chain", "since", "match"),
    [
        (beta(1), 0, "rolled back"),
        (beta(3, "other"), 0, "forked or rewritten"),
        (beta(3, "other"), None, "forked or rewritten"),
        (beta(5), None, "links are missing"),
        (beta(5), 5, "links are missing"),
        (beta(5, "other"), 0, "forked or rewritten"),
        (beta(5, "other"), 4, "forked or rewritten"),
    ],
)
def test_a_rolled_back_forked_or_rewritten_ledger_is_refused(
    store: LedgerStore, chain: Chain, since: int | None, match: str
) -> None:
    """By name; what was held stays."""
    see(store, beta(3))
    with pytest.raises(Refused, match=f"of beta .*{match}") as caught:
        see(store, chain, since)
    assert caught.value.reason == "ledger"
    assert held(store) == 4


def test_a_head_that_its_site_did_not_sign_is_refused(store: LedgerStore) -> None:
    """Nor one of a site that the roster lacks."""
    forged = head_of(beta(3), KEY)
    with pytest.raises(Refused, match="not signed by beta"):
        store.see({"beta": forged}, {}, KEYS)
    with pytest.raises(Refused, match="not signed by beta"):
        store.see({"beta": head_of(beta(3), BETA)}, {}, {"alpha": PUBLIC})
    assert store.peers() == {}


def test_heads_are_kept_all_or_none(store: LedgerStore) -> None:
    """One bad head, and none of the request's is kept."""
    heads = {"beta": head_of(beta(3), BETA), "gamma": head_of(beta(3), BETA)}
    with pytest.raises(Refused, match="gamma"):
        store.see(heads, {}, KEYS)
    assert store.peers() == {}


def test_heads_survive_a_restart(store: LedgerStore) -> None:
    """On the disk when `see` returns."""
    see(store, beta(3))
    with open_store(store._home) as again:
        assert again.peers() == store.peers()


def test_the_newest_three_rounds_are_kept_with_all_their_countersignatures(
    store: LedgerStore,
) -> None:
    """Late agreements are added; nothing of the own ledger changes."""
    book(store)
    head = store.chain.head
    for number in (1, 2, 3, 4):
        kept = Countersigned("run", number, b"request", {"beta": b"b"})
        store.keep_countersigned(kept)
    store.keep_countersigned(Countersigned("run", 3, b"request", {"gamma": b"c"}))
    found = store.countersigned()
    assert [item.round for item in found] == [2, 3, 4]
    assert found[1].agreements == {"beta": b"b", "gamma": b"c"}
    assert found[2].request == b"request"
    assert store.chain.head == head
