"""The registry's messages: what crosses between a hospital and the registry, and the token file.

Each message is exactly the canonical JSON of its strict, frozen model (ADR 0016); `from_bytes`
accepts no other bytes. What a node signs in them is made and checked here too, so that both sides
agree on it. Times are UTC, YYYY-MM-DDTHH:MM:SSZ, and compare as text.
"""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Literal, Self

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import Field, ValidationError, field_validator

from shared_model import canonical, signing
from shared_model.enrolment import MAX_BYTES as MAX_CARD_BYTES
from shared_model.enrolment import Card, SiteName, check_address
from shared_model.errors import PeerFault
from shared_model.ledger import LedgerHead
from shared_model.protocol import COORDINATOR, MAX_PARTICIPANTS, Digest, EpochKeyEntry
from shared_model.protocol_sum import EpochNumber
from shared_model.roster_files import MAX_ROSTER_BYTES, Signature

SERVICE = "fedprint.Registry"
MAX_MESSAGE_BYTES = 2 * 1024 * 1024
MAX_MAIL_BYTES = 1024 * 1024
TIME_METADATA = "fedprint-time"
"""Initial metadata of the answer to Health: the registry's `Time`. Older ones do not send it."""
MAX_RELEASES = 10_000
MAX_ITEMS = 1_000
RELEASE_LIMIT_BYTES = 2**40

TLS_KEY = "fedprint-tls-key"
ROTATION = "fedprint-rotation"
LEAVING = "fedprint-leaving"

Time = Annotated[str, Field(pattern=r"^20[0-9]{2}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$")]
TlsKey = Annotated[str, Field(pattern=r"^04[0-9a-f]{128}$")]
"""An uncompressed P-256 point in hexadecimal."""
Pem = Annotated[str, Field(max_length=8192)]
MailKind = Literal["ask", "witness", "entries"]
"""What a mailbox carries, unopened (ADR 0012)."""
Correspondent = SiteName
"""A site, or "coordinator"."""


class Message(Card):
    """One message; `to_bytes` is its only spelling."""

    def to_bytes(self) -> bytes:
        return canonical.encode(self.content())

    @classmethod
    def from_bytes(cls, data: bytes, *, sender: str = COORDINATOR) -> Self:
        """Read it.

        Raises:
            PeerFault: of `sender`: not this message, or not the bytes that `to_bytes` makes.
        """
        fault = PeerFault("A message of the registry is malformed.", site=sender)
        if len(data) > MAX_MESSAGE_BYTES:
            raise fault
        try:
            message = cls.model_validate_json(data)
            if message.to_bytes() != data:
                raise fault
        except (ValidationError, ValueError, RecursionError) as error:
            raise fault from error
        return message


class Token(Message):
    """The file that `invite` writes: whoever holds it can enrol one card for this site, once."""

    kind: Literal["fedprint-token"] = "fedprint-token"
    version: Literal[1] = 1
    site: SiteName
    address: Annotated[str, Field(max_length=300)]
    ca_certificate: Pem
    invitation: Digest
    """Digest of the coordinator.json that the registry will give."""
    expires: Time
    certificate: Pem
    private_key: Annotated[str, Field(max_length=8192, repr=False)]

    @field_validator("address")
    @classmethod
    def _has_port(cls, value: str) -> str:
        check_address(value)
        return value

    @field_validator("ca_certificate", "certificate")
    @classmethod
    def _is_certificate(cls, value: str) -> str:
        x509.load_pem_x509_certificate(value.encode())
        return value


class Ask(Message):
    """A call without arguments."""

    kind: Literal["fedprint-ask"] = "fedprint-ask"


class Health(Message):
    """The registry lives and speaks this version of its messages."""

    kind: Literal["fedprint-health"] = "fedprint-health"
    protocol: Literal[1] = 1
    fedprint: Annotated[str, Field(max_length=64)]


class Enrol(Message):
    """A hospital's card and the TLS key that shall speak for it; the identity key signs both."""

    kind: Literal["fedprint-enrol"] = "fedprint-enrol"
    card: Annotated[str, Field(max_length=MAX_CARD_BYTES)]
    """site.json, as `enrolment.seal` writes it."""
    tls_key: TlsKey
    signature: Signature


class Renew(Message):
    """Another certificate, for a TLS key that the identity key signs."""

    kind: Literal["fedprint-renew"] = "fedprint-renew"
    tls_key: TlsKey
    signature: Signature


class Certificate(Message):
    """The site's client certificate, and coordinator.json."""

    kind: Literal["fedprint-certificate"] = "fedprint-certificate"
    certificate: Pem
    invitation: Annotated[str, Field(max_length=MAX_CARD_BYTES)]
    state: Literal["waiting", "admitted"]


class Standing(Message):
    """How the registry sees the caller."""

    kind: Literal["fedprint-standing"] = "fedprint-standing"
    site: SiteName
    state: Literal["waiting", "admitted", "rotating"]
    identity: Digest
    """Digest of the identity key that is enrolled, or that waits."""
    expires: Time
    """End of the certificate that the caller shows."""
    roster: Annotated[int, Field(ge=0, le=2**31)]
    """Version of the newest roster; 0: none."""


class Rotate(Message):
    """A new card for the same site: signed by its own new key, and by the enrolled one."""

    kind: Literal["fedprint-rotate"] = "fedprint-rotate"
    card: Annotated[str, Field(max_length=MAX_CARD_BYTES)]
    signature: Signature


class Leave(Message):
    """The hospital leaves; signed by its identity key."""

    kind: Literal["fedprint-leave"] = "fedprint-leave"
    signature: Signature


class Done(Message):
    """Nothing to tell."""

    kind: Literal["fedprint-done"] = "fedprint-done"


class RosterFile(Message):
    """The newest roster.json, signed by the root."""

    kind: Literal["fedprint-roster-file"] = "fedprint-roster-file"
    file: Annotated[str, Field(max_length=MAX_ROSTER_BYTES)]


class HeadEntry(Card):
    """The newest head of a site's privacy ledger at the coordinator, as the site signed it."""

    site: SiteName
    ledger: LedgerHead


class Heads(Message):
    """The heads of all ledgers, by site; whoever reads them verifies them."""

    kind: Literal["fedprint-heads"] = "fedprint-heads"
    heads: Annotated[tuple[HeadEntry, ...], Field(max_length=MAX_PARTICIPANTS)]


class EpochKeys(Message):
    """The present epoch and the keys that sites have given for it, each signed by its site."""

    kind: Literal["fedprint-epoch-keys"] = "fedprint-epoch-keys"
    epoch: EpochNumber
    roster_digest: Digest
    keys: Annotated[tuple[EpochKeyEntry, ...], Field(max_length=MAX_PARTICIPANTS)]


class ReleaseEntry(Card):
    """One release: the packed archive's SHA-256 and size."""

    number: Annotated[int, Field(ge=1, le=2**31)]
    sha256: Digest
    size_bytes: Annotated[int, Field(ge=1, le=RELEASE_LIMIT_BYTES)]


class Releases(Message):
    """What can be fetched, by number."""

    kind: Literal["fedprint-releases"] = "fedprint-releases"
    releases: Annotated[tuple[ReleaseEntry, ...], Field(max_length=MAX_RELEASES)]


class Fetch(Message):
    """The rest of a release from this byte on; answered by a stream of raw pieces."""

    kind: Literal["fedprint-fetch"] = "fedprint-fetch"
    sha256: Digest
    offset: Annotated[int, Field(ge=0, le=RELEASE_LIMIT_BYTES)]


class _MailFile(Message):
    what: MailKind
    file: Annotated[str, Field(max_length=(MAX_MAIL_BYTES + 2) // 3 * 4)]
    """Base 64."""

    @field_validator("file")
    @classmethod
    def _is_base64(cls, value: str) -> str:
        if base64.b64encode(_decoded(value)).decode() != value:
            raise ValueError("not base 64")
        return value

    @property
    def data(self) -> bytes:
        return _decoded(self.file)


class Send(_MailFile):
    """One file for another site's mailbox."""

    kind: Literal["fedprint-send"] = "fedprint-send"
    to: Correspondent


class MailContent(_MailFile):
    """One file of the caller's mailbox, as it was sent."""

    kind: Literal["fedprint-mail-content"] = "fedprint-mail-content"
    sender: Correspondent


class MailItem(Card):
    """One file in the caller's mailbox."""

    id: Annotated[int, Field(ge=1, le=2**53)]
    sender: Correspondent
    what: MailKind
    sha256: Digest
    size_bytes: Annotated[int, Field(ge=0, le=MAX_MAIL_BYTES)]
    sent: Time


class Mail(Message):
    """The caller's mailbox, oldest first."""

    kind: Literal["fedprint-mail"] = "fedprint-mail"
    items: Annotated[tuple[MailItem, ...], Field(max_length=MAX_ITEMS)]


class Collect(Message):
    """Ask for one file of the mailbox, or take it out."""

    kind: Literal["fedprint-collect"] = "fedprint-collect"
    id: Annotated[int, Field(ge=1, le=2**53)]
    remove: bool


def _decoded(value: str) -> bytes:
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError("not base 64") from error


def encoded(data: bytes) -> str:
    """Base 64, as messages carry files."""
    return base64.b64encode(data).decode()


def tls_point(key: ec.EllipticCurvePublicKey) -> str:
    """A P-256 public key as messages carry it."""
    return key.public_bytes(
        serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
    ).hex()


def tls_public_key(point: str) -> ec.EllipticCurvePublicKey:
    """Inverse of `tls_point`.

    Raises:
        PeerFault: of "hospital": no point of P-256.
    """
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), bytes.fromhex(point))
    except ValueError as error:
        raise PeerFault("The TLS key is no point of P-256.", site="hospital") from error


def sign_tls_key(identity: Ed25519PrivateKey, site: str, point: str) -> str:
    """The identity key says which TLS key speaks for the site."""
    body = canonical.encode({"site": site, "tls_key": point})
    return signing.sign(identity, TLS_KEY, body).hex()


def check_tls_key(identity: bytes, site: str, point: str, signature: str) -> None:
    """Raises `Refused` (reason "signature") unless this identity key signed the TLS key."""
    body = canonical.encode({"site": site, "tls_key": point})
    signing.verify(identity, TLS_KEY, body, bytes.fromhex(signature))


def sign_rotation(old: Ed25519PrivateKey, site: str, card_digest: str) -> str:
    """The enrolled key says which card comes after it."""
    body = canonical.encode({"card": card_digest, "site": site})
    return signing.sign(old, ROTATION, body).hex()


def check_rotation(old: bytes, site: str, card_digest: str, signature: str) -> None:
    """Raises `Refused` (reason "signature") unless the enrolled key signed the new card."""
    body = canonical.encode({"card": card_digest, "site": site})
    signing.verify(old, ROTATION, body, bytes.fromhex(signature))


def sign_leaving(identity: Ed25519PrivateKey, site: str) -> str:
    """The hospital says that it leaves."""
    return signing.sign(identity, LEAVING, canonical.encode({"site": site})).hex()


def check_leaving(identity: bytes, site: str, signature: str) -> None:
    """Raises `Refused` (reason "signature") unless the site's key signed its leaving."""
    body = canonical.encode({"site": site})
    signing.verify(identity, LEAVING, body, bytes.fromhex(signature))
