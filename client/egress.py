"""The only builder of messages that leave the hospital, from an allow-list of fields.

Every field of every message has a mark that says why it may leave:

- NOISED_AND_BOOKED: computed from patients, noised, and booked in the ledger before it leaves.
  The masked vector is one: its masks hide it from the coordinator, its noise from everybody who
  sees the sum. What travels in the same body (sealed shares, commitments) is computed from keys,
  fresh randomness and the transcript, never from patients;
- PUBLIC_BY_POLICY: not computed from recordings: it follows from the request, the hospital's
  enrolment, its policy, or its history of booked rounds. An epoch's public key, the entries of
  the ledger and its head (a digest of them) are such;
- OPENS_ONE_SUM: shares and pair seeds. Not computed from patients: they are what hides submitted
  vectors, and giving them out lets the coordinator compute the sum of **one** set of survivors per
  round, each of whose updates is noised and booked. `client.sum_round` gives them out only for the
  one set that this node has signed and t members have, and never a share of the self seed of a
  site together with a pair seed with it;
- SENT_ALREADY: subset sums of the masked vector. A function of bytes that have left in trip 1 and
  of a public challenge: whoever receives it could have computed it.

There is no further kind: losses, counts, durations, error texts have no field to travel in. A field
that a message gains and that has no mark here is refused at once, and a test fails.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from shared_model import canonical, protocol
from shared_model.errors import OurMistake
from shared_model.protocol import LedgerNote, PrivacyStatement, Refusal, TrainReply, TrainRequest
from shared_model.protocol_base import SignedMessage
from shared_model.protocol_sum import (
    Agreement,
    AgreeRequest,
    CloseReply,
    CloseRequest,
    EpochKey,
    EpochRequest,
    OpenRequest,
    SharesReply,
    SumReceipt,
    VerifyRequest,
    agreed_digest,
)
from shared_model.protocol_words import RefusalReason
from shared_model.secure_sum.opening import Opened


class Mark(Enum):
    """Why a field may leave."""

    NOISED_AND_BOOKED = "noised and booked"
    PUBLIC_BY_POLICY = "public by policy"
    OPENS_ONE_SUM = "opens the sum of one set of survivors"
    SENT_ALREADY = "follows from what was sent already"


_PUBLIC = Mark.PUBLIC_BY_POLICY
_NOISED = Mark.NOISED_AND_BOOKED
_OPENS = Mark.OPENS_ONE_SUM
_SENT = Mark.SENT_ALREADY


def _round_fields(**others: Mark) -> Mapping[str, Mark]:
    common = dict.fromkeys(("kind", "version", "run", "round", "site"), _PUBLIC)
    return MappingProxyType({**common, **others})


ALLOWED: Mapping[str, Mapping[str, Mark]] = MappingProxyType(
    {
        "train-reply": MappingProxyType(
            {
                **_round_fields(
                    request_digest=_PUBLIC,
                    transcript=_PUBLIC,
                    body_digest=_NOISED,
                    declared_patients=_PUBLIC,
                    weight=_PUBLIC,
                    noise=_PUBLIC,
                    private=_PUBLIC,
                    privacy=_PUBLIC,
                    ledger=_PUBLIC,
                    software=_PUBLIC,
                ),
                "privacy.epsilon": _PUBLIC,
                "privacy.delta": _PUBLIC,
                "privacy.unit": _PUBLIC,
                "privacy.trust_model": _PUBLIC,
                "privacy.colluding_sites": _PUBLIC,
                "privacy.outsider_epsilon": _PUBLIC,
                "ledger.length": _PUBLIC,
                "ledger.head": _PUBLIC,
                "ledger.signature": _PUBLIC,
                # plans, epsilons, approvals, and digests of bodies that are noised and booked
                "ledger.entries": _PUBLIC,
                "(body)": _NOISED,
            }
        ),
        "epoch-key": MappingProxyType(
            {
                "kind": _PUBLIC,
                "version": _PUBLIC,
                "site": _PUBLIC,
                "epoch": _PUBLIC,
                "roster_digest": _PUBLIC,
                "public_key": _PUBLIC,
            }
        ),
        "agreement": _round_fields(transcript=_PUBLIC, agreed=_PUBLIC),
        "shares-reply": MappingProxyType(
            {
                **_round_fields(
                    transcript=_PUBLIC,
                    request_digest=_PUBLIC,
                    unreadable=_OPENS,
                    accused=_OPENS,
                    body_digest=_OPENS,
                ),
                "(body)": _OPENS,
            }
        ),
        "close-reply": _round_fields(transcript=_PUBLIC, statement_digest=_PUBLIC, sums=_SENT),
        # model_out: anyone who has the request and the published sum computes the same
        "sum-receipt": _round_fields(
            transcript=_PUBLIC, statement_digest=_PUBLIC, model_out=_PUBLIC
        ),
        "refusal": _round_fields(request_digest=_PUBLIC, reason=_PUBLIC),
    }
)


def train_reply(
    key: Ed25519PrivateKey,
    request: TrainRequest,
    request_digest: str,
    *,
    site: str,
    transcript: str,
    declared_patients: int,
    weight: int,
    body: bytes,
    noise: str,
    private: bool,
    privacy: PrivacyStatement,
    ledger: LedgerNote,
) -> tuple[bytes, bytes]:
    """Header and body of a submission. What `body` hides must be private and booked."""
    message = TrainReply(
        run=request.run,
        round=request.round,
        site=site,
        request_digest=request_digest,
        transcript=transcript,
        body_digest=canonical.digest(body),
        declared_patients=declared_patients,
        weight=weight,
        noise=noise,
        private=private,
        privacy=privacy,
        ledger=ledger,
        software=protocol.software(),
    )
    return _seal(message, key), body


def epoch_key(
    key: Ed25519PrivateKey, request: EpochRequest, *, site: str, public_key: bytes
) -> tuple[bytes, bytes]:
    """Header and empty body of an epoch's public key (32 raw bytes)."""
    message = EpochKey(
        site=site,
        epoch=request.epoch,
        roster_digest=request.roster_digest,
        public_key=public_key.hex(),
    )
    return _seal(message, key), b""


def agreement(key: Ed25519PrivateKey, request: AgreeRequest, *, site: str) -> tuple[bytes, bytes]:
    """Header and empty body of an agreement to the request's survivors and ledger heads."""
    message = Agreement(
        run=request.run,
        round=request.round,
        site=site,
        transcript=request.transcript,
        agreed=agreed_digest(request.survivors, request.submissions, request.heads),
    )
    return _seal(message, key), b""


def shares_reply(
    key: Ed25519PrivateKey,
    request: OpenRequest,
    request_digest: str,
    *,
    site: str,
    opened: Opened,
) -> tuple[bytes, bytes]:
    """Header and body of what this node opens."""
    message = SharesReply(
        run=request.run,
        round=request.round,
        site=site,
        transcript=request.transcript,
        request_digest=request_digest,
        unreadable=opened.unreadable,
        accused=opened.accused,
        body_digest=canonical.digest(opened.body),
    )
    return _seal(message, key), opened.body


def close_reply(
    key: Ed25519PrivateKey, request: CloseRequest, *, site: str, sums: tuple[int, ...]
) -> tuple[bytes, bytes]:
    """Header and empty body of the subset sums of the submitted vector."""
    message = CloseReply(
        run=request.run,
        round=request.round,
        site=site,
        transcript=request.transcript,
        statement_digest=request.statement_digest,
        sums=sums,
    )
    return _seal(message, key), b""


def sum_receipt(
    key: Ed25519PrivateKey, request: VerifyRequest, *, site: str, model_out: str
) -> tuple[bytes, bytes]:
    """Header and empty body: this node found the published sum right, and it makes this model."""
    message = SumReceipt(
        run=request.run,
        round=request.round,
        site=site,
        transcript=request.transcript,
        statement_digest=request.statement_digest,
        model_out=model_out,
    )
    return _seal(message, key), b""


def refusal(
    key: Ed25519PrivateKey,
    *,
    site: str,
    run: str,
    round: int,
    request_digest: str,
    reason: RefusalReason,
) -> tuple[bytes, bytes]:
    """Header and empty body of a refusal: a word of a closed set, no text."""
    message = Refusal(run=run, round=round, site=site, request_digest=request_digest, reason=reason)
    return _seal(message, key), b""


def _seal(message: SignedMessage, key: Ed25519PrivateKey) -> bytes:
    fields = fields_of(message.model_dump(mode="json"))
    unknown = sorted(fields - set(ALLOWED[message.kind]))
    if unknown:
        raise OurMistake(f"A {message.kind} may not carry {', '.join(unknown)}.")
    return protocol.seal(message, key)


def fields_of(value: Mapping[str, object], prefix: str = "") -> set[str]:
    """Dotted names of all fields of a message's plain form."""
    names: set[str] = set()
    for name, item in value.items():
        names.add(prefix + name)
        if isinstance(item, Mapping):
            names |= fields_of(item, f"{prefix}{name}.")
    return names
