"""A ledger in a folder, and drafts of rounds to book in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client import ledger_file
from client.home import NodeHome
from client.ledger_store import Budget, LedgerStore
from shared_model import ledger, signing
from shared_model.errors import BudgetExhausted
from shared_model.ledger import Booked, Chain, LedgerHead, Opened

SITE = "alpha"
D = "ab" * 32
BUDGET = Budget(epsilon_lifetime=2.5, epsilon_per_run=2.0, delta=1e-5)
NOW_S = 1_700_000_000.5


def key_of(name: str) -> Ed25519PrivateKey:
    """A fixed key for a name; tests only."""
    return Ed25519PrivateKey.from_private_bytes(name.encode().ljust(32, b"."))


KEY = key_of(SITE)
PUBLIC = signing.public_bytes(KEY)


def new_home(folder: Path) -> NodeHome:
    """A node's folder with an empty ledger."""
    home = NodeHome(folder)
    ledger_file.create(home, never_trained=True)
    return home


def open_store(home: NodeHome, **options: Any) -> LedgerStore:
    return LedgerStore.open(home, SITE, KEY, clock=lambda: NOW_S, **options)


def draft(run: str = "run", number: int = 1, **changes: Any) -> Booked:
    """20 steps at q 0.1 and sigma 2 unless changed."""
    values: dict[str, Any] = {
        "site": SITE,
        "sequence": 1,
        "run": run,
        "round": number,
        "purpose": "pretrain",
        "mode": "local",
        "sample_rate": 0.1,
        "noise_multiplier": 2.0,
        "clipping_norm": 1.0,
        "steps": 20,
        "declared_patients": 100,
        "delta": 1e-5,
        "noise": "system entropy",
        "private": True,
        "model_in": D,
        "request_digest": D,
        "code_digest": D,
        "roster_digest": D,
        "transcript": D,
        "participants": 5,
        "threshold": 4,
        "colluding_sites": 0,
        "minimum_contributors": 3,
        "dimension": 0,
        "limit_lifetime": None,
        "limit_run": None,
        "epsilon_lifetime": None,
        "epsilon_run": None,
        "outsider_epsilon_lifetime": None,
        "time_s": 0,
    }
    return Booked(**{**values, **changes})


def book(
    store: LedgerStore, run: str = "run", number: int = 1, budget: Budget = BUDGET, **changes: Any
) -> Booked:
    return store.reserve(draft(run, number, delta=budget.delta, **changes), budget)


def book_all(store: LedgerStore, run: str) -> int:
    """Book rounds until the budget refuses; how many went in."""
    for number in range(1, 100):
        try:
            book(store, run, number)
        except BudgetExhausted:
            return number - 1
    raise AssertionError("the budget never refused")


def opened(key: Ed25519PrivateKey = KEY, site: str = SITE, **changes: Any) -> Opened:
    values: dict[str, Any] = {
        "site": site,
        "sequence": 1,
        "ledger": "0" * 32,
        "identity_key": signing.public_bytes(key).hex(),
        "delta": 1e-5,
        "software": "test",
        "time_s": 0,
    }
    return Opened(**{**values, **changes})


def line(entry: Any, key: Ed25519PrivateKey = KEY) -> bytes:
    return ledger.seal(entry, key)


def chain_of(*entries: Any, key: Ed25519PrivateKey = KEY, site: str = SITE) -> Chain:
    """`opened` and these."""
    lines = [line(entry, key) for entry in (opened(key, site), *entries)]
    return Chain.verified(lines, signing.public_bytes(key), site=site)


def head_of(chain: Chain, key: Ed25519PrivateKey = KEY) -> LedgerHead:
    return ledger.sign_head(key, chain.site, chain.length, chain.head)
