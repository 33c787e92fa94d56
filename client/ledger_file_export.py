"""What this hospital hands out of its ledger: `fedprint-node ledger export`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from client import install, policy
from client.keys import pinned
from client.ledger_store import LedgerStore
from client.rosters import RosterBook, today_utc
from shared_model import ledger_export, protocol
from shared_model.ledger import Chain, Recovered

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from client.home import NodeHome


def export(home: NodeHome, site: str, key: Ed25519PrivateKey) -> tuple[bytes, int]:
    """The signed file, and how many entries it has. No patient data is in it.

    Raises:
        LedgerFault: the ledger is not whole, or perhaps not current.
        OurMistake: this hospital has joined no coordinator or approved no roster.
    """
    with LedgerStore.open(home, site, key) as store:
        chain, witnessed, rounds = store.chain, store.peers(), store.countersigned()
        head = store.signed_head()
    made = ledger_export.build(
        site=site,
        created=today_utc(),
        software=protocol.software(),
        code_digest=policy.installed_code(),
        lines=[link.line for link in chain.links],
        rosters=RosterBook(home).documents(pinned(home).root),
        witnessed=witnessed,
        countersigned=[(one.run, one.round, one.request, one.agreements) for one in rounds],
        releases=install.digests(home),
        head=head,
        recoveries=_kept(home, chain),
    )
    return ledger_export.seal(made, key), chain.length


def _kept(home: NodeHome, chain: Chain) -> Iterator[bytes]:
    """Question and answers of each recovery; those that a lost disk took with it are not here."""
    digests = (one.evidence_digest for one in chain.entries(Recovered))
    for digest in dict.fromkeys(digests):
        path = home.recoveries / f"{digest}.json"
        if path.exists():
            yield path.read_bytes()
