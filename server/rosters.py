"""The roster at the coordinator: drafted from the enrolled cards, signed elsewhere, relayed.

    draft(home, today=...)            what goes to the root's holder by hand
    take(home, data, today=...)       the signed roster or a countersignature that comes back
    usable(home, today)               what a run goes by

The coordinator cannot sign a roster; it keeps the newest one that the root signed, and every
earlier one, because countersignatures are made with the keys of an earlier roster.
"""

from __future__ import annotations

import datetime

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from server import sites
from server.home import CoordinatorHome
from shared_model import enrolment, roster, signing
from shared_model.enrolment import RootCard
from shared_model.errors import OurMistake, PeerFault, Refused
from shared_model.files import write_atomic
from shared_model.roster import CountersignatureFile, Roster, SignedRoster

DRAFT = "Run: fedprint-coordinator roster draft -o draft.json (docs/root-key.md)"


def today_utc() -> str:
    """Today in Greenwich, YYYY-MM-DD: the same day for every machine of the consortium."""
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def pin_root(home: CoordinatorHome, data: bytes) -> RootCard:
    """Take the public root key. The same file again changes nothing.

    Raises:
        PeerFault: not a root.json.
        Refused: another root key is pinned (reason "pinned").
    """
    card = enrolment.open_root_card(data)
    if home.root_public.exists() and root_card(home) != card:
        raise Refused(
            "This coordinator goes by another root key.",
            reason="pinned",
            do=f"If the consortium replaced it (docs/root-key.md), remove {home.root_public}, "
            f"{home.roster} and {home.rosters} first.",
        )
    write_atomic(home.root_public, data)
    return card


def root_card(home: CoordinatorHome) -> RootCard:
    """The public root key that this coordinator goes by.

    Raises:
        OurMistake: none yet.
    """
    try:
        data = home.root_public.read_bytes()
    except OSError as error:
        raise OurMistake(
            "This coordinator has no root key.",
            do="Make one on an offline machine (fedprint-coordinator root init), bring its "
            "root.json here and run: fedprint-coordinator init --root root.json",
        ) from error
    return enrolment.open_root_card(data)


def current(home: CoordinatorHome) -> SignedRoster | None:
    """The newest roster, verified again; None before the first."""
    if not home.roster.exists():
        return None
    return roster.open_signed(home.roster.read_bytes(), root_card(home).root)


def usable(home: CoordinatorHome, today: str) -> SignedRoster:
    """The roster that a run goes by today.

    Raises:
        OurMistake: there is none.
        Refused: it has expired, or is out of the protocol's bounds.
    """
    signed = current(home)
    if signed is None:
        raise OurMistake("The root has signed no roster yet.", do=DRAFT)
    _check(signed.roster, today)
    return signed


def draft(
    home: CoordinatorHome,
    *,
    today: str,
    version: int | None = None,
    threshold: int | None = None,
    valid_days: int = 365,
) -> Roster:
    """The next roster: all enrolled sites, valid from today.

    Raises:
        OurMistake: no sites, or numbers that make no roster.
        Refused: out of the protocol's bounds (reason "threshold").
    """
    signed = current(home)
    first = datetime.date.fromisoformat(today)
    made = roster.draft(
        sites.roster(home),
        version or (1 if signed is None else signed.roster.version + 1),
        threshold,
        valid_from=today,
        valid_until=(first + datetime.timedelta(days=valid_days)).isoformat(),
    )
    _check(made, today)
    return made


def take(home: CoordinatorHome, data: bytes, *, today: str) -> SignedRoster:
    """Take a signed roster or a countersignature. The same file again changes nothing.

    Raises:
        PeerFault: neither; not signed by the root; or a countersignature that no earlier key of
            its site made.
        Refused: a lower version, another roster of this version, out of bounds, or not valid today.
    """
    try:
        countersignature = CountersignatureFile.from_bytes(data)
    except PeerFault:
        return _take_roster(home, roster.open_signed(data, root_card(home).root), today)
    return _take_countersignature(home, countersignature)


def ever(home: CoordinatorHome) -> list[Roster]:
    """Every roster that the root signed and that was imported here."""
    signed = current(home)
    return [] if signed is None else [*_earlier(home, signed.roster), signed.roster]


def gaps(home: CoordinatorHome, signed: Roster) -> list[str]:
    """Where the enrolled cards and the roster differ, in words; a new roster would close them."""
    cards = {card.site: card for card in sites.roster(home)}
    lines = []
    for site in sorted(set(cards) | set(signed.names)):
        if site not in signed.names:
            lines.append(f"{site} is enrolled but not in the roster: it is not asked.")
        elif site not in cards:
            lines.append(f"{site} is in the roster but not enrolled: it cannot connect.")
        elif cards[site].identity_key != signed.entry(site).identity_key:
            lines.append(f"{site} is enrolled with another key than in the roster.")
        elif cards[site].declared_patients != signed.entry(site).declared_patients:
            lines.append(f"{site} is enrolled with other declared patients than in the roster.")
    return lines


def countersigned(home: CoordinatorHome, signed: SignedRoster) -> dict[int, list[str]]:
    """For each earlier version, the sites of it that countersigned this roster."""
    return {
        earlier.version: sorted(roster.countersigners(signed, earlier))
        for earlier in _earlier(home, signed.roster)
    }


def sign_here(
    home: CoordinatorHome,
    root_key: Ed25519PrivateKey,
    *,
    today: str,
    threshold: int | None = None,
    valid_days: int = 365,
) -> bytes:
    """For simulations and tests: draft, sign and take a roster, all on one machine.

    A real root key never comes near a coordinator: see docs/root-key.md.

    Returns:
        The signed roster's file.
    """
    public = RootCard(root_key=signing.public_bytes(root_key).hex())
    pin_root(home, enrolment.seal(public, root_key))
    made = draft(home, today=today, threshold=threshold, valid_days=valid_days)
    return take(home, roster.sign(made, root_key).to_bytes(), today=today).to_bytes()


def _take_roster(home: CoordinatorHome, signed: SignedRoster, today: str) -> SignedRoster:
    new, old = signed.roster, current(home)
    if old is not None:
        if new.version < old.roster.version:
            raise Refused(
                f"Version {new.version} is behind version {old.roster.version}, which is here.",
                reason="roster",
                do=DRAFT,
            )
        if new.version == old.roster.version and new.digest != old.roster.digest:
            raise Refused(
                f"Another roster of version {new.version} is here.",
                reason="roster",
                do="The root key signed two rosters of one version: call its holder.",
            )
        if new.digest == old.roster.digest:
            for item in old.countersignatures:
                signed = signed.with_countersignature(item.site, bytes.fromhex(item.signature))
    _check(new, today)
    write_atomic(home.rosters / f"{new.version:010d}.json", signed.to_bytes())
    write_atomic(home.roster, signed.to_bytes())
    return signed


def _take_countersignature(home: CoordinatorHome, given: CountersignatureFile) -> SignedRoster:
    signed = current(home)
    if signed is None or signed.roster.digest != given.roster_digest:
        raise Refused(
            f"The countersignature of {given.site} is for another roster than the newest here.",
            reason="roster",
            do="Import that roster first, or ask the hospital to countersign the newest.",
        )
    signature = bytes.fromhex(given.signature)
    keys = {
        earlier.entry(given.site).identity
        for earlier in _earlier(home, signed.roster)
        if given.site in earlier.names
    }
    if not any(roster.is_countersigned(signed.roster, given.site, key, signature) for key in keys):
        raise PeerFault(
            f"No key that {given.site} has in an earlier roster made this countersignature.",
            site=given.site,
            do="A hospital of the roster before countersigns: fedprint-node roster countersign",
        )
    signed = signed.with_countersignature(given.site, signature)
    write_atomic(home.roster, signed.to_bytes())
    return signed


def _earlier(home: CoordinatorHome, than: Roster) -> list[Roster]:
    root = root_card(home).root
    kept = [
        roster.open_signed(path.read_bytes(), root).roster
        for path in sorted(home.rosters.glob("*.json"))
    ]
    return [item for item in kept if item.version < than.version]


def _check(made: Roster, today: str) -> None:
    roster.check(made, colluding_sites=0, allow_two=True, today=today, own=None)
