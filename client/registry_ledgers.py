"""What the registry shows of all privacy ledgers, held against what this hospital knows.

    for finding in compared(own, held, shown, identity_keys): ...

The coordinator believes no head, and neither do we: each is verified with a key that an approved
roster names. A head that a site has signed and that is not in the ledger as it is known here proves
that this site, or whoever has its key, signed two ledgers.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from shared_model.ledger import Chain, LedgerHead
from shared_model.registry import HeadEntry
from shared_model.roster import Roster

Verdict = Literal["same", "grown", "older", "new", "unsigned", "unknown-site", "forked", "lost"]

WORDS: Mapping[Verdict, str] = {
    "same": "as it is known here",
    "grown": "has grown since this hospital saw it",
    "older": "the registry has an earlier one than this hospital",
    "new": "not seen here yet",
    "unsigned": "NOT SIGNED by this hospital",
    "unknown-site": "of a hospital that is not in the approved roster",
    "forked": "ANOTHER LEDGER than the one that is known here",
    "lost": "LONGER THAN HERE: this node's ledger was put back from an older copy",
}
ALARMS: frozenset[Verdict] = frozenset(("unsigned", "forked", "lost"))


@dataclass(frozen=True)
class HeadFinding:
    """One site's ledger. shown, here: numbers of entries; None: none is known."""

    site: str
    shown: int | None
    here: int | None
    verdict: Verdict

    @property
    def alarm(self) -> bool:
        """Whether somebody has to be called."""
        return self.verdict in ALARMS


def compared(
    own: Chain,
    held: Mapping[str, LedgerHead],
    shown: Sequence[HeadEntry],
    identity_keys: Mapping[str, Collection[bytes]],
) -> Iterator[HeadFinding]:
    """One finding for each head that the registry shows.

    Args:
        own: this hospital's ledger. held: what it holds of the others'.
        identity_keys: see `known_keys`.
    """
    for entry in shown:
        if entry.site == own.site:
            yield _own(own, entry.ledger)
        else:
            yield _peer(entry, held.get(entry.site), identity_keys.get(entry.site, ()))


def _own(own: Chain, head: LedgerHead) -> HeadFinding:
    verdict: Verdict = "same"
    if not head.is_signed_by(own.site, own.keys):
        verdict = "unsigned"
    elif head.length > own.length:
        verdict = "lost"
    elif own.head_at(head.length) != head.head:
        verdict = "forked"
    elif head.length < own.length:
        verdict = "older"
    return HeadFinding(own.site, head.length, own.length, verdict)


def _peer(entry: HeadEntry, held: LedgerHead | None, keys: Collection[bytes]) -> HeadFinding:
    head, here = entry.ledger, None if held is None else held.length
    verdict: Verdict = "same"
    if not keys:
        verdict = "unknown-site"
    elif not head.is_signed_by(entry.site, keys):
        verdict = "unsigned"
    elif held is None:
        verdict = "new"
    elif head.length == held.length:
        verdict = "same" if head.head == held.head else "forked"
    else:
        verdict = "grown" if head.length > held.length else "older"
    return HeadFinding(entry.site, head.length, here, verdict)


def known_keys(rosters: Iterable[Roster]) -> dict[str, tuple[bytes, ...]]:
    """Every identity key that a roster which was approved here ever named of a site; 32 raw bytes.

    A head that a site signed before it changed its key is still its head.
    """
    found: dict[str, dict[bytes, None]] = {}
    for roster in rosters:
        for entry in roster.sites:
            found.setdefault(entry.site, {})[entry.identity] = None
    return {site: tuple(keys) for site, keys in found.items()}
