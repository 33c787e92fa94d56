"""Tokens, certificates and cards: how a hospital comes in, changes keys and goes.

The card of whoever holds a token only waits; `admit` is the operator's decision after the words of
its key were compared by telephone (ADR 0016).
"""

from __future__ import annotations

import datetime
import re
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from server import rosters, sites, superlink, tls
from server.home import CoordinatorHome
from server.registry_book import How, Listed, RegistryBook, Waiting, moment
from server.registry_limits import CERTIFICATE_DAYS
from shared_model import enrolment, registry, signing
from shared_model.enrolment import SITE_NAME, Invitation, SiteCard
from shared_model.errors import OurMistake, Refused
from shared_model.protocol import COORDINATOR
from shared_model.registry_reasons import refusal

CERTIFICATES_A_DAY = 8
"""How often a site may renew, so that its rows do not fill the disk."""


def invitation(home: CoordinatorHome) -> tuple[Invitation, bytes]:
    """coordinator.json.

    Raises:
        OurMistake: the coordinator is not set up, or has no root key.
    """
    run_key = signing.load_key_file(home.run_key)
    release_key = signing.load_key_file(home.release_key)
    made = Invitation(
        address=superlink.load_config(home).address,
        ca_certificate=home.ca_certificate.read_text(),
        run_key=signing.public_bytes(run_key).hex(),
        release_key=signing.public_bytes(release_key).hex(),
        root_key=rosters.root_card(home).root_key,
    )
    return made, enrolment.seal(made, run_key)


def invite(
    home: CoordinatorHome,
    book: RegistryBook,
    site: str,
    *,
    replaces: bool,
    days: float,
    now: datetime.datetime,
) -> registry.Token:
    """A token for one site; its earlier unused ones count no more.

    Raises:
        OurMistake: no site name, or the coordinator is not set up.
        Refused: `replaces` for a site that is not enrolled (reason "enrolled").
    """
    pinned, _ = invitation(home)
    config = superlink.load_config(home)
    if site == COORDINATOR or re.fullmatch(SITE_NAME, site) is None:
        raise OurMistake(
            f"{site!r} cannot be the name of a hospital.",
            do="A site name has lower-case letters, digits and inner hyphens, at most 32.",
        )
    if replaces and sites.card_of(home, site) is None:
        raise Refused(
            f"{site} is not enrolled: there is nothing to replace.",
            reason="enrolled",
            do=f"Run: fedprint-coordinator invite {site} -o token.json",
        )
    key = ec.generate_private_key(ec.SECP256R1())
    until = now + datetime.timedelta(days=days)
    certificate = tls.issue_client(
        home,
        key.public_key(),
        name=f"token of {site}",
        uris=[f"urn:fedprint:token:{site}"],
        now=now,
        until=until,
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM).decode()
    token = registry.Token(
        site=site,
        address=config.registry_address,
        ca_certificate=pinned.ca_certificate,
        invitation=pinned.digest,
        expires=moment(until),
        certificate=pem,
        private_key=key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ).decode(),
    )
    with book.change():
        for item in book.certificates(site):
            if item.kind == "token" and item.state == "open":
                book.set_state(item.fingerprint, "revoked")
        book.list_certificate(
            Listed(
                fingerprint=fingerprint_of(certificate),
                kind="token",
                site=site,
                identity="",
                tls_key=registry.tls_point(key.public_key()),
                pem=pem,
                issued=moment(now),
                expires=token.expires,
                replaces=replaces,
                state="open",
            )
        )
    return token


def enrol(
    home: CoordinatorHome,
    book: RegistryBook,
    token: Listed,
    message: registry.Enrol,
    now: datetime.datetime,
) -> registry.Certificate:
    """Take the card of whoever holds a token, and give it a certificate. It waits for `admit`.

    The same card and TLS key again get the same answer.

    Raises:
        PeerFault: not a card.
        Refused: "other-site", "signature", "token-used", "enrolled".
        OurMistake: the coordinator is not set up.
    """
    data = message.card.encode()
    card = enrolment.open_site_card(data)
    if card.site != token.site:
        raise refusal("other-site")
    registry.check_tls_key(card.identity, card.site, message.tls_key, message.signature)
    _, pinned = invitation(home)
    with book.change():
        state = book.find(token.fingerprint)
        if state is None or state.state == "revoked":
            raise refusal("revoked")
        enrolled = sites.card_of(home, card.site)
        if state.state == "used":
            issued = _issued_to(book, card, message.tls_key)
            if issued is None:
                raise refusal("token-used")
        else:
            if enrolled is not None and enrolled != card and not token.replaces:
                raise refusal("enrolled")
            _refuse_foreign_keys(home, book, card)
            book.use_token(token.fingerprint, card.identity_key)
            issued = _issue(home, book, card.site, card.identity_key, message.tls_key, now)
            if enrolled != card:
                how: How = "new" if enrolled is None else "replaces"
                before = "" if enrolled is None else enrolled.identity_key
                book.wait(Waiting(card.site, data, how, before, moment(now)))
    admitted: Literal["waiting", "admitted"] = "admitted" if enrolled == card else "waiting"
    return registry.Certificate(certificate=issued.pem, invitation=pinned.decode(), state=admitted)


def renew(
    home: CoordinatorHome,
    book: RegistryBook,
    present: Listed,
    message: registry.Renew,
    now: datetime.datetime,
) -> registry.Certificate:
    """Another certificate for an admitted site, whose identity key signed the TLS key.

    Raises:
        Refused: "signature"; "rate": it has renewed often enough today.
    """
    identity = bytes.fromhex(present.identity)
    registry.check_tls_key(identity, present.site, message.tls_key, message.signature)
    _, pinned = invitation(home)
    with book.change():
        yesterday = moment(now - datetime.timedelta(days=1))
        lately = [item for item in book.certificates(present.site) if item.issued > yesterday]
        if sum(item.kind == "site" for item in lately) >= CERTIFICATES_A_DAY:
            raise refusal("rate")
        issued = _issue(home, book, present.site, present.identity, message.tls_key, now)
    return registry.Certificate(
        certificate=issued.pem, invitation=pinned.decode(), state="admitted"
    )


def rotate(
    home: CoordinatorHome,
    book: RegistryBook,
    enrolled: SiteCard,
    message: registry.Rotate,
    now: datetime.datetime,
) -> None:
    """Let a new card of an admitted site wait; the enrolled key has signed it.

    Raises:
        PeerFault: not a card.
        Refused: "other-site", "signature", "enrolled".
    """
    data = message.card.encode()
    card = enrolment.open_site_card(data)
    if card.site != enrolled.site or card.declared_patients != enrolled.declared_patients:
        raise refusal("other-site")
    registry.check_rotation(enrolled.identity, card.site, card.digest, message.signature)
    with book.change():
        _refuse_foreign_keys(home, book, card)
        waits = book.waiting_of(card.site)
        if waits is not None and waits.how == "replaces":
            raise refusal("enrolled")  # else who has the old key keeps the new one from waiting
        if card != enrolled:
            book.wait(Waiting(card.site, data, "rotation", enrolled.identity_key, moment(now)))


def admit(home: CoordinatorHome, book: RegistryBook, site: str, card: SiteCard) -> None:
    """The operator's yes to the card that waits, after its words were compared.

    Raises:
        OurMistake: no card of this site waits, or another one than the operator was shown.
        Refused: a key or the name is enrolled already (reason "enrolled").
    """
    with book.change():
        waits = book.waiting_of(site)
        if waits is None or enrolment.open_site_card(waits.card) != card:
            raise nobody_waits(site)
        if waits.how == "new":
            sites.enrol(home, waits.card)
        else:
            sites.replace(home, waits.card)
        if waits.how == "rotation":
            book.rebind(site, waits.before, card.identity_key)
        book.revoke(site, but=card.identity_key)
        book.wait_no_more(site)


def revoke(home: CoordinatorHome, book: RegistryBook, site: str) -> int:
    """End all that a site has here, at once: certificates, tokens, card, mail. How many ended."""
    with book.change():
        count = book.revoke(site)
        book.wait_no_more(site)
        book.forget_mail(site)
    if sites.card_of(home, site) is not None:  # afterwards: the callers' reason is "revoked"
        sites.remove(home, site)
        count += 1
    return count


def leave(home: CoordinatorHome, book: RegistryBook, listed: Listed, admitted: bool) -> None:
    """A site goes by itself. One that only waits takes back its card and no more."""
    if admitted:
        revoke(home, book, listed.site)
        return
    with book.change():
        book.revoke(listed.site, only=listed.identity)
        waits = book.waiting_of(listed.site)
        if waits is not None:
            card = enrolment.open_site_card(waits.card)
            if card.identity_key == listed.identity:
                book.wait_no_more(listed.site)


def fingerprint_of(certificate: x509.Certificate) -> str:
    """SHA-256 of the DER form, in hexadecimal: what a certificate is listed by."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def nobody_waits(site: str) -> OurMistake:
    return OurMistake(f"No such card of {site} waits.", do="See: fedprint-coordinator waiting")


def _issue(
    home: CoordinatorHome,
    book: RegistryBook,
    site: str,
    identity: str,
    point: str,
    now: datetime.datetime,
) -> Listed:
    until = now + datetime.timedelta(days=CERTIFICATE_DAYS)
    certificate = tls.issue_client(
        home,
        registry.tls_public_key(point),
        name=site,
        uris=[
            f"urn:fedprint:site:{site}",
            f"urn:fedprint:identity:{signing.key_digest(bytes.fromhex(identity))}",
        ],
        now=now,
        until=until,
    )
    issued = Listed(
        fingerprint=fingerprint_of(certificate),
        kind="site",
        site=site,
        identity=identity,
        tls_key=point,
        pem=certificate.public_bytes(serialization.Encoding.PEM).decode(),
        issued=moment(now),
        expires=moment(until),
        replaces=False,
        state="valid",
    )
    book.list_certificate(issued)
    return issued


def _issued_to(book: RegistryBook, card: SiteCard, point: str) -> Listed | None:
    """The valid certificate of this card and TLS key."""
    return next(
        (
            item
            for item in reversed(book.certificates(card.site))
            if item.kind == "site"
            and item.state == "valid"
            and (item.identity, item.tls_key) == (card.identity_key, point)
        ),
        None,
    )


def _refuse_foreign_keys(home: CoordinatorHome, book: RegistryBook, card: SiteCard) -> None:
    """No two sites, enrolled or waiting, share a key."""
    waiting = [enrolment.open_site_card(item.card) for item in book.waiting()]
    for other in (*sites.roster(home), *waiting):
        same_key = (
            other.identity_key == card.identity_key or other.supernode_bytes == card.supernode_bytes
        )
        if other.site != card.site and same_key:
            raise refusal("enrolled")
