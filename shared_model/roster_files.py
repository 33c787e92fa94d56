"""The files of `shared_model.roster`: what a roster, its signature and a countersignature say.

Files are exactly the bytes that `to_bytes` makes; a parser accepts no others.
"""

from __future__ import annotations

import calendar
import json
from typing import Annotated, Literal, Self, TypeVar

from pydantic import AfterValidator, Field, ValidationError, model_validator

from shared_model import canonical, signing
from shared_model.enrolment import Card, RawKey, SiteName, spoken
from shared_model.errors import PeerFault, Refused
from shared_model.protocol import COORDINATOR, MAX_PARTICIPANTS, Digest, Patients, Weight
from shared_model.spoken_words import words_of

MAX_ROSTER_BYTES = 256 * 1024

Signature = Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]


def _is_day(text: str) -> str:
    year, month, day = (int(part) for part in text.split("-"))
    if year < 2000 or not 1 <= month <= 12 or not 1 <= day <= calendar.monthrange(year, month)[1]:
        raise ValueError("there is no such day")
    return text


Day = Annotated[str, Field(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$"), AfterValidator(_is_day)]
"""A day, YYYY-MM-DD; compares as text."""


class RosterEntry(Card):
    """One hospital. Valid from the first day to the last, both included."""

    site: SiteName
    identity_key: RawKey
    declared_patients: Patients
    weight: Weight
    valid_from: Day
    valid_until: Day

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.valid_from > self.valid_until:
            raise ValueError("valid_from is after valid_until")
        return self

    @property
    def identity(self) -> bytes:
        """Raw Ed25519 public key, 32 bytes."""
        return bytes.fromhex(self.identity_key)

    @property
    def spoken_key(self) -> str:
        """Digest of the identity key, as people compare it by telephone."""
        return spoken(signing.key_digest(self.identity))

    @property
    def words_key(self) -> str:
        """The same in 12 words."""
        return words_of(signing.key_digest(self.identity))


class Roster(Card):
    """All hospitals of the consortium, sorted by name; what `digest` stands for.

    threshold: how many must agree to open a sum, and how many can. n counts all sites here, never
        the participants of a round. Bounds that depend on n are in `check`, not in the parser.
    """

    kind: Literal["fedprint-roster"] = "fedprint-roster"
    version: Annotated[int, Field(ge=1, le=2**31)]
    threshold: Annotated[int, Field(ge=1, le=MAX_PARTICIPANTS)]
    sites: Annotated[tuple[RosterEntry, ...], Field(min_length=1, max_length=MAX_PARTICIPANTS)]

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        names = [entry.site for entry in self.sites]
        if names != sorted(set(names)):
            raise ValueError("sites must be sorted by name, each once")
        if len({entry.identity_key for entry in self.sites}) != len(names):
            raise ValueError("two sites have the same key")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(entry.site for entry in self.sites)

    @property
    def weights(self) -> dict[str, int]:
        return {entry.site: entry.weight for entry in self.sites}

    @property
    def collusion_bound(self) -> int:
        """How many hospitals may collude with the coordinator: min(2t - n - 1, t - 2)."""
        return min(2 * self.threshold - len(self.sites) - 1, self.threshold - 2)

    @property
    def valid_from(self) -> str:
        """First day on which every entry is valid."""
        return max(entry.valid_from for entry in self.sites)

    @property
    def valid_until(self) -> str:
        """Last day on which every entry is valid."""
        return min(entry.valid_until for entry in self.sites)

    def entry(self, site: str) -> RosterEntry:
        """The entry of a site.

        Raises:
            Refused: no such site (reason "roster").
        """
        for entry in self.sites:
            if entry.site == site:
                return entry
        raise Refused(f"The roster has no site {site}.", reason="roster")

    def to_bytes(self) -> bytes:
        """The draft's file."""
        return _file_of(self)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read a draft, which nobody has signed.

        Raises:
            PeerFault: of the coordinator: not a draft, or not the bytes that `to_bytes` makes.
        """
        return _read(cls, data, "a draft of a roster", COORDINATOR)


class Countersignature(Card):
    """A hospital of the previous roster approves of the new one."""

    site: SiteName
    signature: Signature


class CountersignatureFile(Card):
    """What `fedprint-node roster countersign` writes."""

    kind: Literal["fedprint-countersignature"] = "fedprint-countersignature"
    version: Literal[1] = 1
    roster_digest: Digest
    site: SiteName
    signature: Signature

    def to_bytes(self) -> bytes:
        return _file_of(self)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read it; nothing is verified yet.

        Raises:
            PeerFault: of "hospital": not such a file.
        """
        return _read(cls, data, "a countersignature", "hospital")


class SignedRoster(Card):
    """roster.json: the roster, the root's signature, and what hospitals countersigned."""

    kind: Literal["fedprint-signed-roster"] = "fedprint-signed-roster"
    roster: Roster
    root_signature: Signature
    countersignatures: Annotated[
        tuple[Countersignature, ...], Field(max_length=MAX_PARTICIPANTS)
    ] = ()

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        names = [item.site for item in self.countersignatures]
        if names != sorted(set(names)):
            raise ValueError("countersignatures must be sorted by site, each once")
        return self

    def to_bytes(self) -> bytes:
        return _file_of(self)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read it **without** verifying a signature; use `open_signed` to trust it.

        Raises:
            PeerFault: of the coordinator: not such a file, or not the bytes that `to_bytes` makes.
        """
        return _read(cls, data, "a signed roster", COORDINATOR)

    def verify(self, root_public: bytes) -> None:
        """Check the root's signature.

        Raises:
            PeerFault: of the coordinator: another key signed, or something else was signed.
        """
        body = canonical.encode(self.roster.content())
        try:
            signing.verify(root_public, self.roster.kind, body, bytes.fromhex(self.root_signature))
        except Refused as error:
            raise PeerFault(
                "The roster is not signed by the consortium's root key.",
                site=COORDINATOR,
                do="Compare the digest of the root key by telephone; see docs/root-key.md.",
            ) from error

    def with_countersignature(self, site: str, signature: bytes) -> SignedRoster:
        """This roster with one countersignature more; an earlier one of the site is replaced."""
        kept = {item.site: item for item in self.countersignatures}
        kept[site] = Countersignature(site=site, signature=signature.hex())
        return SignedRoster(
            roster=self.roster,
            root_signature=self.root_signature,
            countersignatures=tuple(kept[name] for name in sorted(kept)),
        )


_C = TypeVar("_C", bound=Card)


def _file_of(card: Card) -> bytes:
    return (json.dumps(card.content(), indent=1, sort_keys=True) + "\n").encode()


def _read(model: type[_C], data: bytes, what: str, site: str) -> _C:
    fault = PeerFault(
        f"This file is not {what}.", site=site, do="Fetch it again from whoever wrote it."
    )
    if len(data) > MAX_ROSTER_BYTES:
        raise fault
    try:
        card = model.model_validate_json(data)
    except (ValidationError, ValueError, RecursionError) as error:
        raise fault from error
    if _file_of(card) != data:
        raise fault
    return card
