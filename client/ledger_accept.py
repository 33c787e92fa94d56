"""Another hospital's ledger goes on behind entries that it has lost: may this one follow it?

A hospital that holds a head from inside the lost range would refuse the other for good: no link
leads from there to what comes after. Its operator can take the other's exported ledger instead:

    found = judged(data, held=store.peers(), roster=roster, own="south")    # or a refusal
    store.accept_peer(found.site, found.held, found.head)              # after the operator's yes

Who vouched for the length of the ledger is what the other hospital says; its `recoveries/` has
their signed answers. What was lost is paid for in its ledger, which the chain enforces as far as
its own bookings tell.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from shared_model import ledger_export, signing
from shared_model.errors import OurMistake, Refused
from shared_model.ledger import Booked, Chain, LedgerHead, Recovered
from shared_model.roster import Roster


@dataclass(frozen=True)
class Acceptance:
    """What the operator says yes to.

    held: what this hospital holds of the ledger of `site`, inside what `entry` says is lost. head:
    what it would hold. limit: epsilon for life that the last booking before the loss was under,
    None if there is none.
    """

    site: str
    held: LedgerHead
    head: LedgerHead
    entry: Recovered
    limit: float | None

    @property
    def in_words(self) -> list[str]:
        """What was lost, what was charged, who vouched."""
        lost, site = self.entry, self.site
        under = (
            f"that is all that was left of its limit of {self.limit:g}"
            if self.limit is not None
            else "nothing that is left says what its limit was: its own word only"
        )
        return [
            f"The file is signed by {site}. This hospital saw {self.held.length} entries of its "
            f"ledger; now there are {self.head.length}.",
            f"Lost: entries {lost.lost_from} to {lost.lost_to}. {site} was restored from a backup, "
            "and nobody can show them any more.",
            f"Charged for them: epsilon {lost.epsilon_charged:g} ({under}), and delta "
            f"{lost.delta:g} once more.",
            f"Vouched for the {lost.lost_to} entries, as {site} says: "
            f"{', '.join(lost.witnesses)}. Ask one of them by telephone.",
            f"After a yes this hospital refuses every other ledger of {site}. It cannot be undone.",
        ]


def judged(data: bytes, *, held: Mapping[str, LedgerHead], roster: Roster, own: str) -> Acceptance:
    """Whether an exported ledger may take the place of the head that is held of its hospital.

    Args:
        data: what `fedprint-node ledger export` wrote there. held: by site. roster: approved here.

    Raises:
        Refused, LedgerFault: not an export, not signed by a hospital of this roster, not whole, or
            not one that goes on behind a loss which the held head lies in.
    """
    sealed = ledger_export.open_export(data)
    site, export = sealed.export.site, sealed.export
    if site == own:
        raise OurMistake("This is this hospital's own ledger.", do="Send it to the others.")
    if site not in roster.names:
        raise Refused(f"The approved roster has no hospital {site}.", reason="roster")
    key = roster.entry(site).identity
    try:
        signing.verify(key, ledger_export.TAG, sealed.body, sealed.signature)
    except Refused as error:
        raise Refused(
            f"The file is not signed by {site} with its key of the approved roster.",
            reason="signature",
            do="Compare the rosters of both hospitals: fedprint-node roster show",
        ) from error
    chain = Chain.verified([line.encode("ascii") for line in export.lines], key, site=site)
    head = _signed_head(export, chain)
    if site not in held:
        raise _refuse(
            f"This hospital has seen no entry of {site}: there is nothing to accept.",
            "The first head that it is shown is taken as it is.",
        )
    entry = _loss(chain, held[site])
    others = set(roster.names) - {site}
    needed = min(roster.threshold, len(others))
    if len(others & set(entry.witnesses)) < needed:
        raise _refuse(
            f"Entry {entry.sequence} names fewer than {needed} other hospitals of the approved "
            "roster that vouched for the ledger.",
            f"{site} asks again: fedprint-node ledger ask",
        )
    return Acceptance(site, held[site], head, entry, _limit_before(chain, entry))


def _signed_head(export: ledger_export.Export, chain: Chain) -> LedgerHead:
    head = export.head
    try:
        if head is None or (head.length, head.head) != (chain.length, chain.head):
            raise Refused("Not the head of these entries.", reason="ledger")
        head.check(chain.site, chain.key_at(head.length))
    except Refused as error:
        raise _refuse(
            f"The file has no signed head of the ledger of {chain.site}.",
            "That hospital exports it again, with this version: fedprint-node ledger export",
        ) from error
    return head


def _loss(chain: Chain, held: LedgerHead) -> Recovered:
    """The entry that goes on behind the held head.

    Raises:
        Refused: there is none ("ledger").
    """
    site, known = chain.site, chain.head_at(held.length)
    for link in chain.links:
        entry = link.entry
        if (
            isinstance(entry, Recovered)
            and entry.lost_from > 0
            and held.length <= entry.lost_to  # links bridge no loss, so a head before it waits, too
            and (known == held.head or (known is None and entry.lost_from <= held.length))
        ):
            return entry
    if known == held.head:
        raise _refuse(
            f"The ledger of {site} follows from entry {held.length} that this hospital has seen: "
            "there is nothing to accept.",
            "The next round is agreed to without this.",
        )
    raise _refuse(
        f"The ledger of {site} has {chain.length} entries and does not go on from entry "
        f"{held.length} that this hospital has seen: it was rolled back, forked or rewritten.",
        "No entry can settle this. Show the file to the other hospitals.",
    )


def _limit_before(chain: Chain, entry: Recovered) -> float | None:
    before = [
        link.entry
        for link in chain.links
        if isinstance(link.entry, Booked) and link.entry.sequence < entry.sequence
    ]
    return before[-1].limit_lifetime if before else None


def _refuse(message: str, do: str) -> Refused:
    return Refused(message, reason="ledger", do=do)
