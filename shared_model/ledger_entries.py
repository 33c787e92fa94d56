"""Entries of the privacy ledger: their models, canonical lines, digests and heads. See `ledger`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from shared_model import canonical, signing
from shared_model.config import PrivacyPlan
from shared_model.enrolment import RawKey, SiteName
from shared_model.errors import FedprintError, OurMistake, Refused

TAG = "ledger-entry"
HEAD_TAG = "ledger-head"
NOTHING = "0" * 64
"""Head of the empty ledger, and digest of nothing."""
MAX_LINE_BYTES = 4096
MAX_ENTRIES = 10_000_000

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Signature = Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]
RunId = Annotated[str, Field(pattern=r"^[a-z0-9](?:[a-z0-9-]{0,62}[a-z0-9])?$")]
RoundNumber = Annotated[int, Field(ge=1, le=1_000_000)]
Sequence_ = Annotated[int, Field(ge=1, le=MAX_ENTRIES)]
Patients = Annotated[int, Field(ge=1, le=100_000_000)]
Epsilon = Annotated[float, Field(ge=0.0)] | None
"""None stands for infinity: nothing is promised."""
Words = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[ -~]+$")]
Seconds = Annotated[int, Field(ge=0, le=2**40)]
"""Seconds since 1970, UTC."""
Delta = Annotated[float, Field(gt=0.0, lt=1.0)]


class LedgerFault(Refused):
    """The ledger is not whole. `entry` is the number of the first bad entry, 0 for the file."""

    def __init__(self, message: str, *, entry: int = 0, do: str = "") -> None:
        super().__init__(message, reason="ledger", do=do)
        self.entry = entry


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class _Entry(_Strict):
    """What all entries have. `site` signs; `sequence` counts from 1."""

    version: Literal[1] = 1
    site: SiteName
    sequence: Sequence_


class Opened(_Entry):
    """The first entry. `ledger`: 32 random hexadecimal digits that name this ledger."""

    kind: Literal["opened"] = "opened"
    ledger: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    identity_key: RawKey
    unit: Literal["one patient at one hospital"] = "one patient at one hospital"
    adjacency: Literal["add or remove one patient"] = "add or remove one patient"
    delta: Delta
    software: Words
    time_s: Seconds


class Approved(_Entry):
    """A run's plan was approved: at most `bookings` rounds of it may be booked."""

    kind: Literal["approved"] = "approved"
    run: RunId
    plan_digest: Digest
    bookings: Annotated[int, Field(ge=1, le=1_000_000)]
    epsilon_run: Epsilon
    by: Literal["operator", "policy"]
    time_s: Seconds


class Booked(_Entry):
    """A round was booked, before data was read.

    colluding_sites: k against which `epsilon_*` hold in mode distributed (0 in mode local, which
    needs no other hospital). dimension: padded number of coordinates that were noised in mode
    distributed, 0 in mode local. limit_*: the policy's limits then. epsilon_*: all entries, this
    one included; they repeat what an accountant finds and count for nothing by themselves.
    """

    kind: Literal["booked"] = "booked"
    run: RunId
    round: RoundNumber
    purpose: Words
    mode: Literal["local", "distributed"]
    sample_rate: Annotated[float, Field(gt=0.0, le=1.0)]
    noise_multiplier: Annotated[float, Field(gt=0.0, lt=1e4)]
    clipping_norm: Annotated[float, Field(gt=0.0, lt=1e4)]
    steps: Annotated[int, Field(ge=1, le=100_000)]
    declared_patients: Patients
    delta: Delta
    noise: Words
    private: bool
    model_in: Digest
    request_digest: Digest
    code_digest: Digest
    roster_digest: Digest
    transcript: Digest
    participants: Annotated[int, Field(ge=1, le=255)]
    threshold: Annotated[int, Field(ge=1, le=255)]
    colluding_sites: Annotated[int, Field(ge=0, le=255)]
    minimum_contributors: Annotated[int, Field(ge=1, le=255)]
    dimension: Annotated[int, Field(ge=0, le=2**28)]
    limit_lifetime: Epsilon
    limit_run: Epsilon
    epsilon_lifetime: Epsilon
    epsilon_run: Epsilon
    outsider_epsilon_lifetime: Epsilon
    time_s: Seconds

    @property
    def plan(self) -> PrivacyPlan:
        """What was done to the patients."""
        return PrivacyPlan(
            sample_rate=self.sample_rate,
            noise_multiplier=self.noise_multiplier,
            clipping_norm=self.clipping_norm,
            steps=self.steps,
            mode=self.mode,  # type: ignore[arg-type,unused-ignore]
        )

    @model_validator(mode="after")
    def _is_a_plan(self) -> Booked:
        if self.mode == "distributed" and (self.steps != 1 or self.dimension < 1):
            raise ValueError("a round of mode distributed is one step of some coordinates")
        return self


class Answered(_Entry):
    """The update of a booked round may leave. booking: sequence of its `booked` entry."""

    kind: Literal["answered"] = "answered"
    booking: Sequence_
    run: RunId
    round: RoundNumber
    update_digest: Digest


class Incident(_Entry):
    """A request that no honest coordinator sends; at most once for (run, round, reason)."""

    kind: Literal["incident"] = "incident"
    run: RunId
    round: RoundNumber
    reason: Words


class Recovered(_Entry):
    """After a restore, with the answers of `witnesses` to a fresh question.

    lost_from, lost_to: entries that others saw and that could not be had again; both 0 if there are
    none. What is lost counts as `epsilon_charged`, all that was left of the budget, and delta once
    more; entries that only this hospital knows to be lost are charged without a range. Entries that
    are here count as ever: nothing drops out (see `Spent`).
    """

    kind: Literal["recovered"] = "recovered"
    lost_from: Annotated[int, Field(ge=0, le=MAX_ENTRIES)]
    lost_to: Annotated[int, Field(ge=0, le=MAX_ENTRIES)]
    previous: Digest
    epsilon_charged: Annotated[float, Field(ge=0.0)] | None
    delta: Delta
    witnesses: Annotated[tuple[SiteName, ...], Field(max_length=255)]
    evidence_digest: Digest
    time_s: Seconds

    @model_validator(mode="after")
    def _fits(self) -> Recovered:
        lost = self.lost_from > 0
        if lost != (self.lost_to > 0) or self.lost_from > self.lost_to:
            raise ValueError("what was lost is a range")
        if lost and self.epsilon_charged is None:
            raise ValueError("lost entries are charged")
        if lost and self.sequence != self.lost_to + 1:
            raise ValueError("the entry follows what was lost")
        return self


class HandedOver(_Entry):
    """The identity key was rotated: `previous_key` signs this line, `identity_key` what follows."""

    kind: Literal["handed-over"] = "handed-over"
    previous_key: RawKey
    identity_key: RawKey
    time_s: Seconds

    @model_validator(mode="after")
    def _differ(self) -> HandedOver:
        if self.previous_key == self.identity_key:
            raise ValueError("a key is handed over to another")
        return self


class Replaced(Recovered):
    """As `Recovered`, of a hospital that has lost `previous_key`: `identity_key` signs this line.

    Whoever believes it must know from a roster that the root signed that the new key is the
    hospital's.
    """

    kind: Literal["replaced"] = "replaced"  # type: ignore[assignment]
    previous_key: RawKey
    identity_key: RawKey

    @model_validator(mode="after")
    def _differ(self) -> Replaced:
        if self.previous_key == self.identity_key:
            raise ValueError("a key is replaced by another")
        return self


Entry = Opened | Approved | Booked | Answered | Incident | Recovered | HandedOver | Replaced
_ENTRY: TypeAdapter[Entry] = TypeAdapter(Annotated[Entry, Field(discriminator="kind")])


class LedgerHead(_Strict):
    """What others keep of a ledger: its length and head, signed by its site."""

    length: Annotated[int, Field(ge=0, le=MAX_ENTRIES)]
    head: Digest
    signature: Signature

    def check(self, site: str, identity_key: bytes) -> None:
        """Raises:
        Refused: this site did not sign it (reason "signature")."""
        body = _head_body(site, self.length, self.head)
        signing.verify(identity_key, HEAD_TAG, body, bytes.fromhex(self.signature))

    def is_signed_by(self, site: str, identity_keys: Iterable[bytes]) -> bool:
        """Whether this site signed it with one of these keys: it may have changed its key since."""
        for key in identity_keys:
            try:
                self.check(site, key)
            except Refused:
                continue
            return True
        return False


def sign_head(key: Ed25519PrivateKey, site: str, length: int, head: str) -> LedgerHead:
    """The head of a site's own ledger, signed."""
    signature = signing.sign(key, HEAD_TAG, _head_body(site, length, head))
    return LedgerHead(length=length, head=head, signature=signature.hex())


def _head_body(site: str, length: int, head: str) -> bytes:
    return canonical.encode({"site": site, "length": length, "head": head})


def _framed(tag: str, *parts: bytes) -> str:
    hasher = hashlib.sha256()
    for part in (b"fedprint-1", tag.encode(), *parts):
        hasher.update(len(part).to_bytes(8, "big") + part)
    return hasher.hexdigest()


def entry_digest(entry: Entry) -> str:
    """The link of this entry; 64 hexadecimal digits."""
    return _framed(TAG, canonical.encode(entry.model_dump(mode="json")))


def next_head(head: str, link: str) -> str:
    """The head after an entry with this digest."""
    return _framed(HEAD_TAG, bytes.fromhex(head), bytes.fromhex(link))


def follows(head: str, links: Iterable[str]) -> str:
    """The head that these entry digests lead to."""
    for link in links:
        head = next_head(head, link)
    return head


def seal(entry: Entry, key: Ed25519PrivateKey) -> bytes:
    """The line of an entry, without a line end.

    Raises:
        OurMistake: its own parser would not take it.
    """
    plain = entry.model_dump(mode="json")
    signature = signing.sign(key, TAG, canonical.encode(plain)).hex()
    line = canonical.encode({**plain, "signature": signature})
    try:
        same = parse(line)[0] == entry
    except LedgerFault as error:
        raise OurMistake(f"This is no legal ledger entry ({error.message}).") from error
    if not same or len(line) > MAX_LINE_BYTES:
        raise OurMistake("This is no legal ledger entry.")
    return line


def parse(line: bytes) -> tuple[Entry, bytes]:
    """Entry and signature of a hostile line; the signature is not verified here.

    Raises:
        LedgerFault: not a canonical line.
    """
    try:
        if len(line) > MAX_LINE_BYTES:
            raise ValueError("too long")
        plain: dict[str, Any] = json.loads(line)
        signature = bytes.fromhex(plain.pop("signature"))
        entry = _ENTRY.validate_json(canonical.encode(plain))
        again = canonical.encode({**entry.model_dump(mode="json"), "signature": signature.hex()})
    except (
        ValidationError,
        FedprintError,
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
    ) as error:
        raise LedgerFault("A line is not an entry of a ledger.") from error
    except RecursionError as error:
        raise LedgerFault("A line is not an entry of a ledger.") from error
    if again != line or len(signature) != 64:
        raise LedgerFault("A line is not in canonical form.")
    return entry, signature


def read_again(line: bytes) -> tuple[Entry, str]:
    """Entry and digest of a line that was verified before, which the caller has made sure of."""
    plain: dict[str, Any] = json.loads(line)
    del plain["signature"]
    data = canonical.encode(plain)
    return _ENTRY.validate_json(data), _framed(TAG, data)


def opened_line(line: bytes, signer: bytes) -> tuple[Entry, bytes]:
    """The entry of a hostile line, and the key that signs the next one; 32 raw bytes each.

    Args:
        signer: the key that signs here. A `replaced` entry is signed by the key that it names.

    Raises:
        LedgerFault: not a canonical line.
        Refused: not signed by the key that has to ("signature"), or it takes over from another.
    """
    entry, signature = parse(line)
    after = signer
    if isinstance(entry, HandedOver | Replaced):
        if entry.previous_key != signer.hex():
            raise Refused("It takes over from another key.", reason="signature")
        after = bytes.fromhex(entry.identity_key)
    by = after if isinstance(entry, Replaced) else signer
    signing.verify(by, TAG, canonical.encode(entry.model_dump(mode="json")), signature)
    return entry, after


def first_signer(lines: Iterable[bytes], last: bytes) -> bytes:
    """The key that signs the first of these lines, by what they say themselves; 32 raw bytes.

    It is named by the first change of keys, or by a ledger's first entry; else it is `last`.
    Nothing is verified: `opened_line` with this key is.
    """
    for line in lines:
        if b'"previous_key"' in line or b'"kind":"opened"' in line:
            try:
                entry, _ = parse(line)
            except LedgerFault:
                return last
            if isinstance(entry, HandedOver | Replaced):
                return bytes.fromhex(entry.previous_key)
            if isinstance(entry, Opened):
                return bytes.fromhex(entry.identity_key)
    return last
