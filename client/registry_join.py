"""Joining with a token, and the end of a key's rotation: what changes on this node's disk."""

from __future__ import annotations

import datetime
import json
import os
from dataclasses import dataclass

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from client import keys, registry_client
from client.home import NodeHome
from client.ledger_store import LedgerStore
from client.registry_client import RegistryPlace, Session
from client.rosters import RosterBook
from shared_model import enrolment, registry, roster, signing
from shared_model.enrolment import Invitation
from shared_model.errors import OurMistake, PeerFault, Refused
from shared_model.files import sync_folder, write_atomic
from shared_model.ledger import LedgerFault
from shared_model.protocol import COORDINATOR
from shared_model.registry import Token
from shared_model.registry_reasons import refusal


@dataclass(frozen=True)
class Joined:
    """What the registry gave; nothing of it is pinned yet."""

    key: ec.EllipticCurvePrivateKey
    certificate: str
    invitation: Invitation
    invitation_file: bytes
    admitted: bool


def is_token(data: bytes) -> bool:
    """Whether a file means to be a token (and not a coordinator.json)."""
    try:
        document = json.loads(data[: registry.MAX_MESSAGE_BYTES])
    except (ValueError, RecursionError):
        return False
    return isinstance(document, dict) and document.get("kind") == "fedprint-token"


def read_token(data: bytes, site: str | None, now: datetime.datetime) -> Token:
    """Read a token file.

    Args:
        site: this node's name, if it has one already.

    Raises:
        PeerFault: it is damaged.
        Refused: it has expired (reason "expired"), or is another hospital's ("other-site").
    """
    try:
        token = Token.from_bytes(data)
    except PeerFault as error:
        raise PeerFault(
            "The token file is damaged.", site=COORDINATOR, do="Ask the operator for it again."
        ) from error
    if token.expires <= now.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"):
        raise refusal("expired")
    if site is not None and token.site != site:
        raise refusal("other-site")
    return token


def offer(home: NodeHome, token: Token) -> Joined:
    """Send this node's card to the registry; the same again after a broken line is harmless.

    Raises:
        OurMistake: this node is not initialised.
        Refused: the registry's reason; another coordinator is pinned here ("pinned").
        PeerFault: not reachable, another authority, or not what the token names.
    """
    _refuse_another(home, token)
    key = _tls_key(home)
    point = registry.tls_point(key.public_key())
    identity = signing.load_key_file(home.identity_key)
    message = registry.Enrol(
        card=keys.card_bytes(home).decode(),
        tls_key=point,
        signature=registry.sign_tls_key(identity, token.site, point),
    )
    with Session(
        token.address, token.ca_certificate, token.private_key, token.certificate
    ) as session:
        reply = session.call("Enrol", message, registry.Certificate)
    data = reply.invitation.encode()
    invitation = enrolment.open_invitation(data)
    if invitation.digest != token.invitation or invitation.ca_certificate != token.ca_certificate:
        raise PeerFault(
            "The registry gave another coordinator.json than the token names.",
            site=COORDINATOR,
            do="Telephone the operator; if the coordinator's keys changed, ask for a new token.",
        )
    return Joined(key, reply.certificate, invitation, data, reply.state == "admitted")


def _tls_key(home: NodeHome) -> ec.EllipticCurvePrivateKey:
    """The key of the last attempt, or of the certificate, so that joining again is harmless."""
    path = home.registry / "joining.key"
    if registry_client.has_joined(home):
        pem = registry_client.client_pem(home)[0].encode()
    else:
        if not path.exists():
            fresh = ec.generate_private_key(ec.SECP256R1())
            signing.write_secret(path, registry_client.tls_key_pem(fresh))
        pem = path.read_bytes()
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except ValueError:
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise OurMistake(
            f"A key in {home.registry} is damaged.", do="Remove that folder, and join again."
        )
    return key


def pin(home: NodeHome, token: Token, joined: Joined) -> None:
    """After the comparison by telephone: pin the coordinator, keep the certificate.

    Raises:
        PeerFault, Refused: as `keys.join`, and for a wrong certificate.
    """
    place = RegistryPlace(address=token.address, ca_certificate=token.ca_certificate)
    write_atomic(home.registry / "registry.json", place.to_bytes())
    registry_client.write_certificate(home, joined.key, joined.certificate, place)
    keys.join(home, joined.invitation_file)
    (home.registry / "joining.key").unlink(missing_ok=True)


def forget(home: NodeHome) -> None:
    """After leaving: no coordinator is pinned, no certificate kept. Books and keys stay."""
    for path in (
        home.registry / "client.pem",
        home.registry / "registry.json",
        home.registry / "joining.key",
        home.coordinator,
    ):
        path.unlink(missing_ok=True)


def hand_over_ledger(home: NodeHome, site: str) -> None:
    """Let the next identity key sign this node's ledger from now on; again changes nothing.

    An empty ledger needs no entry: it is the key's that signs its first.

    Raises:
        Refused: the ledger cannot be read, or is not current (reason "ledger").
    """
    if not home.ledger.exists():
        return
    heir = signing.load_key_file(home.next_identity_key)
    try:
        with LedgerStore.open(home, site, heir) as store:
            if store.chain.length:
                return  # handed over already: what came after was cut off
    except LedgerFault:
        pass  # as it is before: the present key's
    with LedgerStore.open(home, site, signing.load_key_file(home.identity_key)) as store:
        if store.chain.length:
            store.hand_over(signing.public_bytes(heir))


def switch_identity(home: NodeHome, signed_roster: bytes) -> str:
    """Go over to the next identity key, once the root has signed a roster that lists it.

    First the ledger, then the key. The old key is kept in keys/. A crash leaves the old or the new
    key in its place, never none.

    Returns:
        Digest of the new key.

    Raises:
        OurMistake: no rotation is under way.
        PeerFault: not a roster of the pinned root key.
        Refused: the roster does not list the next key for this hospital (reason "roster"); as
            `hand_over_ledger`.
    """
    if not home.next_identity_key.exists():
        raise OurMistake("No rotation is under way here.", do="Run: fedprint-node rotate-key")
    fresh = signing.public_bytes(signing.load_key_file(home.next_identity_key))
    site = keys.load_config(home).site
    listed = roster.open_signed(signed_roster, keys.pinned(home).root).roster
    if site not in listed.names or listed.entry(site).identity != fresh:
        raise Refused(
            f"Version {listed.version} of the roster does not list this hospital's next key.",
            reason="roster",
            do="The operator admits the new card (fedprint-coordinator admit SITE) and has the "
            "next roster signed; then run: fedprint-node rotate-key --finish",
        )
    seen = RosterBook(home).seen()
    if seen is not None and listed.version < seen.version:
        raise Refused(
            f"Version {listed.version} of the roster is older than one that was seen here.",
            reason="roster",
            do="Run: fedprint-node rotate-key --finish, without --roster",
        )
    hand_over_ledger(home, site)
    old = signing.public_bytes(signing.load_key_file(home.identity_key))
    kept = home.identity_key.with_name(f"identity-{signing.key_digest(old)[:16]}.pem")
    if not kept.exists():
        signing.write_secret(kept, home.identity_key.read_bytes())
    os.replace(home.next_identity_key, home.identity_key)
    sync_folder(home.identity_key.parent)
    write_atomic(home.root / "site.json", keys.card_bytes(home))
    return signing.key_digest(fresh)


def _refuse_another(home: NodeHome, token: Token) -> None:
    if home.coordinator.exists() and keys.pinned(home).digest != token.invitation:
        raise Refused(
            "This node has pinned another coordinator.",
            reason="pinned",
            do=f"If the consortium changed its keys, remove {home.coordinator} first.",
        )
