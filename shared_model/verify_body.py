"""Body of a `VerifyRequest`: statement, packed sum, and the header of every survivor's answer.

Each part with its length before it, as in `primitives.framed`: statement, sum, then the headers of
the `CloseReply`s in the order of the survivors.
"""

from __future__ import annotations

from collections.abc import Sequence

from shared_model.errors import PeerFault
from shared_model.protocol import COORDINATOR, MAX_PARTICIPANTS
from shared_model.secure_sum.primitives import framed

_LENGTH = 8


def verify_body(statement: bytes, packed_sum: bytes, answers: Sequence[bytes]) -> bytes:
    """The body, from its parts; `answers` in the order of the survivors."""
    return framed(statement, packed_sum, *answers)


def read_verify_body(body: bytes) -> tuple[bytes, bytes, tuple[bytes, ...]]:
    """Statement, packed sum and answers, all unchecked.

    Raises:
        PeerFault: of "coordinator"; not such a body.
    """
    parts: list[bytes] = []
    at = 0
    while at < len(body) and len(parts) < 2 + MAX_PARTICIPANTS:
        start = at + _LENGTH
        size = int.from_bytes(body[at:start], "big")
        if start > len(body) or size > len(body) - start:
            break
        parts.append(body[start : start + size])
        at = start + size
    if at != len(body) or len(parts) < 2:
        raise PeerFault("This is not the body of a verify request.", site=COORDINATOR)
    return parts[0], parts[1], tuple(parts[2:])
