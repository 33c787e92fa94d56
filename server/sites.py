"""The enrolled hospitals: one signed card each, as the hospital gave it; never replaced.

Enrolled hospitals may connect. Which of them take part in a sum, and with which key, says the
roster that the root signed (`server.rosters`), which is drafted from these cards.
"""

from __future__ import annotations

from pathlib import Path

from server.home import CoordinatorHome
from shared_model.enrolment import SiteCard, open_site_card
from shared_model.errors import OurMistake, Refused
from shared_model.files import write_atomic
from shared_model.protocol import MAX_PARTICIPANTS


def enrol(home: CoordinatorHome, data: bytes) -> SiteCard:
    """Take a hospital's card. The same card again changes nothing.

    Raises:
        PeerFault: not a card, or not signed by the key that it names.
        Refused: the name or a key is enrolled already, with another card, or there are as many
            sites as a roster can have (reason "enrolled").
    """
    card = open_site_card(data)
    others = roster(home)
    for other in others:
        if other == card:
            return card
        same_key = (
            other.identity_key == card.identity_key or other.supernode_bytes == card.supernode_bytes
        )
        if other.site == card.site or same_key:
            raise Refused(
                f"Site {other.site} is enrolled with another card or the same keys.",
                reason="enrolled",
                do=f"If the hospital made new keys, remove it first: "
                f"fedprint-coordinator remove {other.site}",
            )
    if len(others) >= MAX_PARTICIPANTS:
        raise Refused(
            f"{MAX_PARTICIPANTS} hospitals are enrolled, and a roster has no more.",
            reason="enrolled",
            do="Remove one first: fedprint-coordinator remove SITE",
        )
    write_atomic(_path(home, card.site), data)
    return card


def replace(home: CoordinatorHome, data: bytes) -> SiteCard:
    """Take another card of a hospital that is enrolled: its operator admitted new keys.

    Raises:
        PeerFault: not a card, or not signed by the key that it names.
        Refused: another hospital has one of the keys (reason "enrolled").
    """
    card = open_site_card(data)
    for other in roster(home):
        same_key = (
            other.identity_key == card.identity_key or other.supernode_bytes == card.supernode_bytes
        )
        if other.site != card.site and same_key:
            raise Refused(f"Site {other.site} has one of these keys.", reason="enrolled")
    write_atomic(_path(home, card.site), data)
    return card


def remove(home: CoordinatorHome, site: str) -> None:
    """Enrol a hospital no more: it cannot connect. The signed roster lists it until the next.

    Raises:
        OurMistake: no such site.
    """
    if site not in {card.site for card in roster(home)}:
        raise OurMistake(f"No site {site} is enrolled.", do="See: fedprint-coordinator status")
    _path(home, site).unlink()


def card_of(home: CoordinatorHome, site: str) -> SiteCard | None:
    """The enrolled card of one hospital, verified again; None if it is not enrolled."""
    try:
        return open_site_card(_path(home, site).read_bytes())
    except FileNotFoundError:
        return None


def roster(home: CoordinatorHome) -> list[SiteCard]:
    """All enrolled sites, sorted by name; each card is verified again."""
    if not home.sites.is_dir():
        return []
    cards = []
    for path in sorted(home.sites.glob("*.json")):
        card = open_site_card(path.read_bytes())
        if path.stem != card.site:
            raise OurMistake(f"{path} holds the card of {card.site}.")
        cards.append(card)
    return cards


def _path(home: CoordinatorHome, site: str) -> Path:
    return home.sites / f"{site}.json"
