"""Hospitals by their key only, and rosters of them, right or bent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from shared_model import canonical, roster, signing
from shared_model.roster import Roster, SignedRoster

TODAY = "2026-11-21"
TOMORROW = "2026-11-22"
LAST_DAY = "2027-11-21"


@dataclass(frozen=True)
class Hospital:
    """What a roster takes from an enrolment card, and the secret key."""

    site: str
    key: Ed25519PrivateKey
    declared_patients: int

    @property
    def identity_key(self) -> str:
        return signing.public_bytes(self.key).hex()

    def with_other_key(self) -> Hospital:
        return replace(self, key=Ed25519PrivateKey.generate())


@dataclass(frozen=True)
class Policy:
    """The part of a policy that concerns rosters."""

    colluding_sites: int = 1
    allow_two_hospitals_who_can_each_compute_the_others_update: bool = False


def hospitals_of(*names: str) -> tuple[Hospital, ...]:
    return tuple(
        Hospital(name, Ed25519PrivateKey.generate(), 100 * (index + 1))
        for index, name in enumerate(names)
    )


def roster_of(
    hospitals: Sequence[Hospital],
    version: int = 1,
    threshold: int | None = None,
    first: str = TODAY,
    last: str = LAST_DAY,
) -> Roster:
    return roster.draft(hospitals, version, threshold, valid_from=first, valid_until=last)


def bent(right: Roster, site: str, **changes: Any) -> Roster:
    """The roster with fields of one entry changed, weights not computed again."""
    return Roster(
        version=right.version,
        threshold=right.threshold,
        sites=tuple(
            roster.RosterEntry(**{**entry.content(), **changes}) if entry.site == site else entry
            for entry in right.sites
        ),
    )


def countersigned(signed: SignedRoster, hospitals: Sequence[Hospital]) -> SignedRoster:
    for hospital in hospitals:
        made = roster.countersign(signed.roster, hospital.site, hospital.key)
        signed = signed.with_countersignature(hospital.site, made)
    return signed


def file_of(document: Any) -> bytes:
    """The bytes of a signed roster's file, whatever it says."""
    import json

    canonical.encode(document)
    return (json.dumps(document, indent=1, sort_keys=True) + "\n").encode()
