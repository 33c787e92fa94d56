"""The signed roster: which hospitals there are, their keys, weights and the threshold.

    draft = draft(cards, version, valid_from=..., valid_until=...)        coordinator
    signed = sign(draft, root_key)                                       root, offline
    signed = open_signed(data, root_public)                              everyone
    check(signed.roster, colluding_sites=1, allow_two=False, today=..., own=...)   node

The root signs the canonical JSON of the `Roster`, with the roster's kind as type tag. Beside it
travel countersignatures: a hospital of the previous roster says with the key that it has there
that it approves of the new one. They are no part of the roster's digest. What the files hold is in
`roster_files`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import ValidationError

from shared_model import canonical, signing
from shared_model.errors import OurMistake, Refused
from shared_model.protocol import MAX_WEIGHT
from shared_model.roster_files import (
    MAX_ROSTER_BYTES,
    Countersignature,
    CountersignatureFile,
    Roster,
    RosterEntry,
    SignedRoster,
)

__all__ = [
    "MAX_ROSTER_BYTES",
    "Countersignature",
    "CountersignatureFile",
    "Roster",
    "RosterEntry",
    "SignedRoster",
    "check",
    "countersign",
    "countersigners",
    "default_threshold",
    "differences",
    "draft",
    "facts",
    "in_words",
    "is_countersigned",
    "open_signed",
    "sign",
    "weight_of",
]

COUNTERSIGNATURE = "fedprint-countersignature"
FEWEST_SITES = 3
"""With two, each hospital subtracts its own update from the sum and has the other's."""


class Enrolled(Protocol):
    """What a roster takes from an enrolment card."""

    @property
    def site(self) -> str: ...
    @property
    def identity_key(self) -> str: ...
    @property
    def declared_patients(self) -> int: ...


def default_threshold(n: int) -> int:
    """floor(2n/3) + 1, at most n (n = 3: 3, 5: 4, 10: 7)."""
    return min(n, 2 * n // 3 + 1)


def weight_of(declared: int, largest: int) -> int:
    """Aggregation weight: 8 N / L rounded to the nearest, half up, within [1, 8].

    Args:
        declared: patients that the site declared, N.
        largest: the largest declared number of the roster, L.
    """
    if not 1 <= declared <= largest:
        raise OurMistake("A declared number is between 1 and the largest of the roster.")
    top = 2 * MAX_WEIGHT
    return max(1, min(MAX_WEIGHT, (top * declared + largest) // (2 * largest)))


def draft(
    cards: Iterable[Enrolled],
    version: int,
    threshold: int | None = None,
    *,
    valid_from: str,
    valid_until: str,
) -> Roster:
    """A roster of these sites, with the weights that every node recomputes.

    Raises:
        OurMistake: no sites, a site or key twice, no such day, or numbers out of bounds.
    """
    given = sorted(cards, key=lambda card: card.site)
    if not given:
        raise OurMistake("A roster needs sites.", do="Run: fedprint-coordinator enrol site.json")
    largest = max(card.declared_patients for card in given)
    try:
        return Roster(
            version=version,
            threshold=default_threshold(len(given)) if threshold is None else threshold,
            sites=tuple(
                RosterEntry(
                    site=card.site,
                    identity_key=card.identity_key,
                    declared_patients=card.declared_patients,
                    weight=weight_of(card.declared_patients, largest),
                    valid_from=valid_from,
                    valid_until=valid_until,
                )
                for card in given
            ),
        )
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise OurMistake(f"These sites make no roster: {first['msg']}.") from error


def sign(roster: Roster, root_key: Ed25519PrivateKey) -> SignedRoster:
    """The root's signature over the roster's canonical JSON; Ed25519, so always the same."""
    signature = signing.sign(root_key, roster.kind, canonical.encode(roster.content()))
    return SignedRoster(roster=roster, root_signature=signature.hex())


def open_signed(data: bytes, root_public: bytes) -> SignedRoster:
    """Read roster.json and verify the root's signature.

    Raises:
        PeerFault: of the coordinator: not such a file, or not signed by this root key.
    """
    signed = SignedRoster.from_bytes(data)
    signed.verify(root_public)
    return signed


def check(
    roster: Roster,
    *,
    colluding_sites: int,
    allow_two: bool,
    today: str,
    own: tuple[str, str, int] | None,
) -> None:
    """Hold a roster against the protocol's bounds and this node's policy.

    Args:
        colluding_sites: how many hospitals the node supposes to collude with the coordinator.
        allow_two: accept two hospitals, each of which can compute the other's update.
        today: YYYY-MM-DD.
        own: this node's site name, identity key (hexadecimal) and declared patients.

    Raises:
        Refused: too few sites, t out of bounds or too low a collusion bound (reason "threshold");
            weights that do not follow from the declared numbers, an entry that is not valid today,
            or another own entry (reason "roster").
    """
    n, t = len(roster.sites), roster.threshold
    if n < FEWEST_SITES and not (allow_two and n == 2 and colluding_sites == 0):
        raise Refused(
            f"The roster has {n} hospitals; a secure sum needs {FEWEST_SITES}.",
            reason="threshold",
            do="Two may take part only where each policy says so by name, with colluding_sites 0.",
        )
    if not n // 2 + 1 <= t <= n:
        raise Refused(
            f"The roster's threshold is {t}; with {n} sites it is from {n // 2 + 1} to {n}.",
            reason="threshold",
        )
    if colluding_sites > roster.collusion_bound:
        raise Refused(
            f"With {n} sites and threshold {t}, updates are hidden from at most "
            f"{roster.collusion_bound} colluding hospitals; the policy supposes {colluding_sites}.",
            reason="threshold",
            do="Ask for a roster with a higher threshold or more sites.",
        )
    largest = max(entry.declared_patients for entry in roster.sites)
    for entry in roster.sites:
        if entry.weight != weight_of(entry.declared_patients, largest):
            raise Refused(
                f"The weight of {entry.site} does not follow from the declared numbers.",
                reason="roster",
            )
    if not roster.valid_from <= today <= roster.valid_until:
        state = "has expired" if today > roster.valid_until else "is not valid yet"
        raise Refused(
            f"The roster {state}: it is valid from {roster.valid_from} to {roster.valid_until}.",
            reason="roster",
            do="The root signs a new version; see docs/root-key.md.",
        )
    if own is not None:
        _check_own(roster, *own)


def _check_own(roster: Roster, site: str, identity_key: str, declared: int) -> None:
    if site not in roster.names:
        raise Refused(f"The roster does not list this hospital, {site}.", reason="roster")
    entry = roster.entry(site)
    if entry.identity_key != identity_key:
        raise Refused(
            f"The roster lists {site} with a key that is not this node's.",
            reason="roster",
            do="Somebody else may pose as this hospital: call the coordinator's operator.",
        )
    if entry.declared_patients != declared:
        raise Refused(
            f"The roster lists {site} with {entry.declared_patients} declared patients; this node "
            f"declares {declared}.",
            reason="roster",
        )


def countersign(roster: Roster, site: str, key: Ed25519PrivateKey) -> bytes:
    """64-byte signature of a site that approves of this roster, with its key of the previous."""
    return signing.sign(key, COUNTERSIGNATURE, _countersigned(roster, site))


def is_countersigned(roster: Roster, site: str, public_key: bytes, signature: bytes) -> bool:
    """Whether this site's key made the countersignature."""
    try:
        signing.verify(public_key, COUNTERSIGNATURE, _countersigned(roster, site), signature)
    except Refused:
        return False
    return True


def countersigners(signed: SignedRoster, previous: Roster) -> set[str]:
    """Distinct sites of `previous` that countersigned with the keys they have there.

    What does not verify, or is of a site that is not in `previous`, does not count.
    """
    keys = {entry.site: entry.identity for entry in previous.sites}
    return {
        item.site
        for item in signed.countersignatures
        if item.site in keys
        and is_countersigned(
            signed.roster, item.site, keys[item.site], bytes.fromhex(item.signature)
        )
    }


def differences(old: Roster | None, new: Roster) -> list[str]:
    """What changes, in words for the person who approves."""
    if old is None:
        return ["This is the first roster: compare the key of every hospital by telephone."]
    before = {entry.site: entry for entry in old.sites}
    after = {entry.site: entry for entry in new.sites}
    lines = []
    for site in sorted(set(before) | set(after)):
        if site not in after:
            lines.append(f"{site} is REMOVED.")
        elif site not in before:
            lines.append(
                f"{site} is ADDED: {after[site].declared_patients} declared patients, key "
                f"{after[site].spoken_key}"
            )
        else:
            lines += _changes(before[site], after[site])
    if old.threshold != new.threshold:
        way = "LOWERED" if new.threshold < old.threshold else "raised"
        lines.append(f"The threshold is {way} from {old.threshold} to {new.threshold}.")
    if old.collusion_bound != new.collusion_bound:
        lines.append(
            f"Updates stay hidden from at most {new.collusion_bound} colluding hospitals "
            f"(before: {old.collusion_bound})."
        )
    if not lines:
        lines.append(
            "Nothing changes but the version." if old.version != new.version else "Nothing changes."
        )
    return lines


def _changes(old: RosterEntry, new: RosterEntry) -> list[str]:
    lines = []
    if old.identity_key != new.identity_key:
        lines.append(
            f"The KEY of {new.site} is SWAPPED: whoever holds the new key speaks as {new.site}. "
            f"Old {old.spoken_key}; new {new.spoken_key}"
        )
    if old.declared_patients != new.declared_patients:
        lines.append(
            f"{new.site} declares {new.declared_patients} patients (before: "
            f"{old.declared_patients})."
        )
    if old.weight != new.weight:
        lines.append(f"The weight of {new.site} is {new.weight} (before: {old.weight}).")
    if (old.valid_from, old.valid_until) != (new.valid_from, new.valid_until):
        lines.append(
            f"{new.site} is valid from {new.valid_from} to {new.valid_until} (before: "
            f"{old.valid_from} to {old.valid_until})."
        )
    return lines


def in_words(roster: Roster) -> list[str]:
    """The roster as its approver reads it: sites, keys, and what the threshold means."""
    n, t = len(roster.sites), roster.threshold
    lines = [
        f"Roster version {roster.version}: {n} hospitals, valid from {roster.valid_from} to "
        f"{roster.valid_until}.",
        f"Threshold {t}: a round needs {t} hospitals to the end; "
        f"{n - t or 'none'} of {n} may drop out.",
        "Hospitals that may collude with the coordinator and still learn no update: at most "
        f"{roster.collusion_bound}.",
    ]
    if n < FEWEST_SITES:
        lines.append("WITH TWO HOSPITALS each of them can compute the other's update.")
    for entry in roster.sites:
        lines.append(
            f"{entry.site}: {entry.declared_patients} declared patients, weight {entry.weight}"
        )
        lines.append(f"  key {entry.spoken_key}")
        lines.append(f"  key in words: {entry.words_key}")
    return [*lines, "Digest of the roster:", f"  {roster.spoken}"]


def facts(roster: Roster) -> dict[str, Any]:
    """The same for machines (`--json`)."""
    return {
        "version": roster.version,
        "digest": roster.digest,
        "threshold": roster.threshold,
        "may_drop_out": len(roster.sites) - roster.threshold,
        "collusion_bound": roster.collusion_bound,
        "valid_from": roster.valid_from,
        "valid_until": roster.valid_until,
        "sites": [
            {**entry.content(), "key_digest": signing.key_digest(entry.identity)}
            for entry in roster.sites
        ],
    }


def _countersigned(roster: Roster, site: str) -> bytes:
    return canonical.encode({"roster_digest": roster.digest, "site": site})
