"""The only builder of messages that leave the hospital, from an allow-list of fields.

Every field of every message has a mark that says why it may leave:

- NOISED_AND_BOOKED: computed from patients, noised, and booked in the spend table before it leaves;
- PUBLIC_BY_POLICY: not computed from recordings: it follows from the request, the hospital's
  enrolment, its policy, or its history of booked rounds.

There is no third kind: losses, counts, durations, error texts have no field to travel in. A field
that a message gains and that has no mark here is refused at once, and a test fails.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from shared_model import canonical, protocol
from shared_model import weights as weights_io
from shared_model.errors import OurMistake
from shared_model.protocol import PrivacyStatement, Refusal, RefusalReason, TrainReply, TrainRequest
from shared_model.weights import Weights


class Mark(Enum):
    """Why a field may leave."""

    NOISED_AND_BOOKED = "noised and booked"
    PUBLIC_BY_POLICY = "public by policy"


_PUBLIC = Mark.PUBLIC_BY_POLICY
_NOISED = Mark.NOISED_AND_BOOKED

ALLOWED: Mapping[str, Mapping[str, Mark]] = MappingProxyType(
    {
        "train-reply": MappingProxyType(
            {
                "kind": _PUBLIC,
                "version": _PUBLIC,
                "run": _PUBLIC,
                "round": _PUBLIC,
                "site": _PUBLIC,
                "request_digest": _PUBLIC,
                "update_digest": _NOISED,
                "body_digest": _NOISED,
                "declared_patients": _PUBLIC,
                "weight": _PUBLIC,
                "noise": _PUBLIC,
                "private": _PUBLIC,
                "privacy": _PUBLIC,
                "privacy.epsilon": _PUBLIC,
                "privacy.delta": _PUBLIC,
                "privacy.unit": _PUBLIC,
                "privacy.trust_model": _PUBLIC,
                "software": _PUBLIC,
                "(body)": _NOISED,
            }
        ),
        "refusal": MappingProxyType(
            {
                "kind": _PUBLIC,
                "version": _PUBLIC,
                "run": _PUBLIC,
                "round": _PUBLIC,
                "site": _PUBLIC,
                "request_digest": _PUBLIC,
                "reason": _PUBLIC,
            }
        ),
    }
)


def train_reply(
    key: Ed25519PrivateKey,
    request: TrainRequest,
    request_digest: str,
    *,
    site: str,
    declared_patients: int,
    update: Weights,
    noise: str,
    private: bool,
    privacy: PrivacyStatement,
) -> tuple[bytes, bytes]:
    """Header and body of a reply. `update` must come from private training and be booked."""
    body = weights_io.to_bytes(update)
    message = TrainReply(
        run=request.run,
        round=request.round,
        site=site,
        request_digest=request_digest,
        update_digest=weights_io.digest(update),
        body_digest=canonical.digest(body),
        declared_patients=declared_patients,
        weight=protocol.aggregation_weight(declared_patients, request.participants),
        noise=noise,
        private=private,
        privacy=privacy,
        software=protocol.software(),
    )
    return _seal(message, key), body


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


def _seal(message: TrainReply | Refusal, key: Ed25519PrivateKey) -> bytes:
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
