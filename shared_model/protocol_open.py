"""Opening what the other side sent: signature first, then length, form and version.

    request = open_train_request(header, run_key)          # node
    answer = open_answer(header, identity_key, site=...)   # coordinator: TrainReply | Refusal
    check_body(request.body_digest, body, site=...)

What a message is, and how it is sealed, is in `protocol`. Open functions raise
`PeerFault(site=...)` for anything that is not such a message, and of these `OtherVersion` for one
that is signed as it should be and of another protocol version.
"""

from __future__ import annotations

import json
import re
from importlib import metadata
from typing import Any, TypeVar

from pydantic import ValidationError

from shared_model import canonical, signing
from shared_model.errors import FedprintError, OurMistake, PeerFault, Refused
from shared_model.protocol import (
    COORDINATOR,
    MAX_BODY_BYTES,
    MAX_HEADER_BYTES,
    SIGNATURE_BYTES,
    Refusal,
    TrainReply,
    TrainRequest,
    kind_of,
    software,
)
from shared_model.protocol_base import MAX_VERSION, OLDEST, SPOKEN, VERSION, SignedMessage

_PRINTABLE = re.compile(r"[ -~]+")
_KEY_HINT = "Compare the key digest with the one that was enrolled; enrol again if it changed."

_M = TypeVar("_M", bound=SignedMessage)


class OtherVersion(PeerFault):
    """A message that is signed by who it should be, and is of another protocol version.

    version: of the message. software: what it names, "" if nothing (answers do not).
    """

    def __init__(self, version: int, software: str, *, site: str) -> None:
        theirs = f" ({software})" if software else ""
        super().__init__(
            f"{site.capitalize() if site == COORDINATOR else site} speaks protocol version "
            f"{version}{theirs}; this installation ({_ours()}) speaks {SPOKEN}.",
            site=site,
            do="Upgrade the older of the two; docs/upgrade.md says which versions talk.",
        )
        self.version = version
        self.software = software


def open_train_request(header: bytes, run_key: bytes) -> TrainRequest:
    """The coordinator's request, verified against the pinned run key.

    Raises:
        PeerFault: of site "coordinator": oversize, wrong signature, unknown field, wrong type,
            out of bounds, or not in canonical form.
    """
    return open_signed(header, run_key, TrainRequest, site=COORDINATOR)


def open_answer(header: bytes, identity_key: bytes, *, site: str) -> TrainReply | Refusal:
    """A site's answer to a `TrainRequest`, verified against its identity key of the roster.

    Raises:
        PeerFault: as for requests, and when the answer names another site.
    """
    return open_answer_of(header, identity_key, TrainReply, site=site)


def open_signed(header: bytes, public_key: bytes, model: type[_M], *, site: str) -> _M:
    """A message of this one kind, signed by this key.

    Raises:
        PeerFault: of `site`: oversize, wrong signature or kind, unknown field, wrong type, out of
            bounds, or not in canonical form.
    """
    _bounded(header, site)
    _verified(header, public_key, kind_of(model), site)
    return _parsed(model, header[SIGNATURE_BYTES:], site)


def open_answer_of(
    header: bytes, identity_key: bytes, model: type[_M], *, site: str
) -> _M | Refusal:
    """A site's answer of this kind, or its refusal.

    Raises:
        PeerFault: as `open_signed`, and when the answer names another site.
    """
    _bounded(header, site)
    answer: _M | Refusal
    if is_signed(header, identity_key, kind_of(model)):
        answer = open_signed(header, identity_key, model, site=site)
    elif is_signed(header, identity_key, "refusal"):
        answer = open_signed(header, identity_key, Refusal, site=site)
    else:
        raise PeerFault(f"The answer of {site} has no valid signature.", site=site, do=_KEY_HINT)
    if getattr(answer, "site", None) != site:
        raise PeerFault(f"An answer of {site} names another site.", site=site)
    return answer


def check_body(expected_digest: str, body: bytes, *, site: str) -> None:
    """The body must be the one that the signed header commits to.

    Raises:
        PeerFault: oversize, or another SHA-256.
    """
    if len(body) > MAX_BODY_BYTES:
        raise PeerFault(f"The body of {site} is longer than allowed.", site=site)
    if canonical.digest(body) != expected_digest:
        raise PeerFault(f"The body of {site} is not the one its header signs.", site=site)


def is_signed(header: bytes, public_key: bytes, kind: str) -> bool:
    """Whether the header is of this kind and signed by this key, legal message or not."""
    try:
        _bounded(header, COORDINATOR)
        _verified(header, public_key, kind, COORDINATOR)
    except PeerFault:
        return False
    return True


def _other_version(model: type[SignedMessage], data: bytes, site: str) -> OtherVersion | None:
    """Whether a signed message that is not legal is one of another protocol version.

    For that every version has `version` in its JSON, and requests have `software`.
    """
    if "version" not in model.model_fields:
        return None
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict):
        return None
    version, named = value.get("version"), value.get("software")
    if type(version) is not int or not 1 <= version <= MAX_VERSION:
        return None
    if OLDEST <= version <= VERSION:
        return None
    if not isinstance(named, str) or len(named) > 64 or not _PRINTABLE.fullmatch(named):
        named = ""
    return OtherVersion(version, named, site=site)


def _ours() -> str:
    try:
        return software()
    except metadata.PackageNotFoundError:
        return "fedprint"


def readable(header: bytes) -> dict[str, Any]:
    """The JSON of a header **without** verifying anything: for display only.

    Raises:
        OurMistake: not a header.
    """
    try:
        value = json.loads(header[SIGNATURE_BYTES:])
    except (ValueError, RecursionError) as error:
        raise OurMistake("This is not a message header.") from error
    if not isinstance(value, dict):
        raise OurMistake("This is not a message header.")
    return value


def _bounded(header: bytes, site: str) -> None:
    if not SIGNATURE_BYTES < len(header) <= MAX_HEADER_BYTES:
        raise PeerFault(f"A message of {site} has a length that no message has.", site=site)


def _verified(header: bytes, public_key: bytes, kind: str, site: str) -> None:
    try:
        signing.verify(public_key, kind, header[SIGNATURE_BYTES:], header[:SIGNATURE_BYTES])
    except Refused as error:
        raise PeerFault(
            f"A message of {site} has no valid signature.", site=site, do=_KEY_HINT
        ) from error


def _parsed(model: type[_M], data: bytes, site: str) -> _M:
    try:
        message = model.model_validate_json(data)
        again = canonical.encode(message.model_dump(mode="json"))
    except (ValidationError, FedprintError, ValueError, RecursionError) as error:
        other = _other_version(model, data, site)
        if other is not None:
            raise other from None
        # The cause names fields of the peer's making; it stays in the chain, not in the message.
        raise PeerFault(f"A signed message of {site} is not a legal message.", site=site) from error
    if again != data:
        raise PeerFault(f"A signed message of {site} is not in canonical form.", site=site)
    return message
