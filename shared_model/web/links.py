"""One-time links: a token that logs one browser in, once, before it expires.

    links = LinkFile(path, clock=time.time, monotonic=time.monotonic,
                     entropy=secrets.token_bytes)
    token = links.issue()            a command prints it
    links.redeem(token)              the page's process: True, then never again

The file holds digests only and is for its owner alone. What cannot be read in it is no link.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shared_model.errors import Refused
from shared_model.files import read_regular, write_atomic
from shared_model.locks import locked

LIFETIME_S = 600.0
MOST = 16
"""Links that wait; the oldest makes room."""
_TOKEN = re.compile(r"[A-Za-z0-9_-]{43}")
_LIMIT_BYTES = 16 * 1024


class _Link(BaseModel):
    """digest: SHA-256 of the token. expires_s: seconds since 1970.

    made_m, expires_m: seconds of the machine's monotonic clock, which nobody puts back.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    expires_s: float
    made_m: float
    expires_m: float


class _Links(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    links: Annotated[tuple[_Link, ...], Field(max_length=MOST)] = ()


@dataclass(frozen=True)
class LinkFile:
    """The links of one page, shared by its process and the command that makes them.

    clock: seconds since 1970. monotonic: seconds since the machine was started, the same for all
    processes. A link lives while both say so. entropy: n random bytes of the operating system.
    """

    path: Path
    clock: Callable[[], float]
    monotonic: Callable[[], float]
    entropy: Callable[[int], bytes]

    def issue(self, lifetime_s: float = LIFETIME_S) -> str:
        """A new token; its digest is in the file before it is returned."""
        token = token_of(self.entropy(32))
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with locked(self._lock):
            made = self.monotonic()
            fresh = _Link(
                digest=_digest(token),
                expires_s=self.clock() + lifetime_s,
                made_m=made,
                expires_m=made + lifetime_s,
            )
            self._write((*self._waiting()[-(MOST - 1) :], fresh))
        return token

    def redeem(self, token: str) -> bool:
        """Spend a token: True once, before it expires. Compared in constant time."""
        if not _TOKEN.fullmatch(token) or not self.path.parent.is_dir():
            return False
        given = _digest(token)
        with locked(self._lock):
            waiting = self._waiting()
            rest = tuple(one for one in waiting if not hmac.compare_digest(one.digest, given))
            if len(rest) == len(waiting):
                return False
            self._write(rest)
        return True

    @property
    def _lock(self) -> Path:
        return self.path.with_suffix(".lock")

    def _waiting(self) -> tuple[_Link, ...]:
        """Links that have not expired; a clock that was put back makes none live longer, and a
        machine that was started anew (its monotonic clock is behind) ends those from before."""
        now, ticks = self.clock(), self.monotonic()
        try:
            found = _Links.model_validate_json(read_regular(self.path, _LIMIT_BYTES))
        except (Refused, ValidationError):
            return ()
        return tuple(
            one
            for one in found.links
            if now < one.expires_s <= now + 86400.0 and one.made_m <= ticks < one.expires_m
        )

    def _write(self, links: tuple[_Link, ...]) -> None:
        write_atomic(self.path, _Links(links=links).model_dump_json().encode(), mode=0o600)


def token_of(secret: bytes) -> str:
    """32 random bytes as 43 characters that need no escaping anywhere."""
    return base64.urlsafe_b64encode(secret).rstrip(b"=").decode()


def _digest(token: str) -> str:
    return hashlib.sha256(b"fedprint-one-time-link:" + token.encode()).hexdigest()
