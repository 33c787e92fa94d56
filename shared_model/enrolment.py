"""The files that people hand over before any two machines meet on the network.

    site.json          hospital -> coordinator: name, declared patients, public keys, self-signed
    root.json          root -> coordinator: the consortium's public root key, self-signed
    coordinator.json   coordinator -> hospital: address, CA certificate, public keys, self-signed

All are public. A signature by the file's own key proves possession of that key and nothing else:
who sent the file is settled by people, who compare its `spoken` digest by telephone.
"""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Literal, TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from shared_model import canonical, signing
from shared_model.errors import OurMistake, PeerFault, Refused
from shared_model.spoken_words import words_of

MAX_BYTES = 64 * 1024

SITE_NAME = r"^[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?$"
SiteName = Annotated[str, Field(pattern=SITE_NAME)]
RawKey = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""A raw Ed25519 public key, 32 bytes in hexadecimal."""
_ADDRESS = re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9.-]{0,252}|\[[0-9A-Fa-f:]{2,45}\]):([0-9]{1,5})")


def spoken(digest: str) -> str:
    """A digest in 16 groups of four digits, as people read it to each other."""
    return " ".join(digest[at : at + 4] for at in range(0, 64, 4))


class Card(BaseModel):
    """A file that people hand over: strict, frozen, with a digest that they can compare."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    def content(self) -> dict[str, Any]:
        return self.model_dump(mode="json")

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical content."""
        return canonical.digest_of(self.content())

    @property
    def spoken(self) -> str:
        """The digest as people compare it by telephone."""
        return spoken(self.digest)

    @property
    def words(self) -> str:
        """The digest in 12 words."""
        return words_of(self.digest)


class SiteCard(Card):
    """Public part of a hospital's node."""

    kind: Literal["fedprint-site"] = "fedprint-site"
    version: Literal[1] = 1
    site: SiteName
    declared_patients: Annotated[int, Field(ge=1, le=100_000_000)]
    identity_key: RawKey
    supernode_key: Annotated[str, Field(max_length=2048)]

    @field_validator("supernode_key")
    @classmethod
    def _is_p384(cls, value: str) -> str:
        key = serialization.load_pem_public_key(value.encode())
        if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp384r1":
            raise ValueError("supernode_key must be a P-384 public key")
        return value

    @property
    def identity(self) -> bytes:
        return bytes.fromhex(self.identity_key)

    @property
    def words_key(self) -> str:
        """Digest of the identity key in 12 words; the key signs the card."""
        return words_of(signing.key_digest(self.identity))

    @property
    def supernode_bytes(self) -> bytes:
        """The node key as Flower carries it: SubjectPublicKeyInfo, PEM."""
        key = serialization.load_pem_public_key(self.supernode_key.encode())
        return key.public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )


class Invitation(Card):
    """What a hospital pins about its coordinator."""

    kind: Literal["fedprint-coordinator"] = "fedprint-coordinator"
    version: Literal[2] = 2
    address: Annotated[str, Field(max_length=300)]
    ca_certificate: Annotated[str, Field(max_length=8192)]
    run_key: RawKey
    release_key: RawKey
    root_key: RawKey

    @field_validator("address")
    @classmethod
    def _has_port(cls, value: str) -> str:
        check_address(value)
        return value

    @field_validator("ca_certificate")
    @classmethod
    def _is_certificate(cls, value: str) -> str:
        x509.load_pem_x509_certificate(value.encode())
        return value

    @property
    def run(self) -> bytes:
        return bytes.fromhex(self.run_key)

    @property
    def release(self) -> bytes:
        return bytes.fromhex(self.release_key)

    @property
    def root(self) -> bytes:
        """The consortium's root key, which signs the roster."""
        return bytes.fromhex(self.root_key)


class RootCard(Card):
    """root.json: the public part of the consortium's root key."""

    kind: Literal["fedprint-root"] = "fedprint-root"
    version: Literal[1] = 1
    root_key: RawKey

    @property
    def root(self) -> bytes:
        return bytes.fromhex(self.root_key)

    @property
    def spoken_key(self) -> str:
        """Digest of the root key, as people compare it by telephone."""
        return spoken(signing.key_digest(self.root))

    @property
    def words_key(self) -> str:
        """The same in 12 words."""
        return words_of(signing.key_digest(self.root))


def check_address(address: str) -> tuple[str, int]:
    """Split HOST:PORT.

    Raises:
        ValueError: not of this form, or no such port.
    """
    match = _ADDRESS.fullmatch(address)
    if match is None or not 1 <= int(match.group(1)) <= 65535:
        raise ValueError("an address is HOST:PORT")
    host = address.rpartition(":")[0]
    return host.strip("[]"), int(match.group(1))


_C = TypeVar("_C", SiteCard, Invitation, RootCard)


def _named_key(card: SiteCard | Invitation | RootCard) -> bytes:
    if isinstance(card, SiteCard):
        return card.identity
    return card.run if isinstance(card, Invitation) else card.root


def seal(card: SiteCard | Invitation | RootCard, key: Ed25519PrivateKey) -> bytes:
    """The file's bytes: flat JSON of the fields and `signature`, signed by the card's own key.

    Raises:
        OurMistake: the key is not the one that the card names.
    """
    if signing.public_bytes(key) != _named_key(card):
        raise OurMistake("The card names another key than the one that signs it.")
    return signing.signed_document(card.kind, card.content(), key)


def open_site_card(data: bytes) -> SiteCard:
    """Read site.json.

    Raises:
        PeerFault: not a card, out of bounds, or not signed by the key that it names.
    """
    return _open(SiteCard, data, "hospital")


def open_invitation(data: bytes) -> Invitation:
    """Read coordinator.json.

    Raises:
        PeerFault: as for `open_site_card`, of site "coordinator".
    """
    return _open(Invitation, data, "coordinator")


def open_root_card(data: bytes) -> RootCard:
    """Read root.json.

    Raises:
        PeerFault: as for `open_site_card`, of site "root".
    """
    return _open(RootCard, data, "root")


def _open(model: type[_C], data: bytes, site: str) -> _C:
    ask = f"Ask the {site} for the file again."
    try:
        if len(data) > MAX_BYTES:
            raise ValueError("too long")
        document = json.loads(data)
        signature = bytes.fromhex(document.pop("signature"))
        card = model.model_validate_json(json.dumps(document))
        signing.verify(_named_key(card), card.kind, canonical.encode(card.content()), signature)
    except Refused as error:
        raise PeerFault(
            f"The file of the {site} is not signed by its own key.", site=site, do=ask
        ) from error
    except (
        ValidationError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RecursionError,
        UnsupportedAlgorithm,
    ) as error:
        raise PeerFault(f"This is not a file that a {site} writes.", site=site, do=ask) from error
    return card
