"""Who is logged in: sessions in memory, found by the digest of their cookie.

    sessions = Sessions(clock=time.monotonic, entropy=secrets.token_bytes)
    token, session = sessions.begin()
    sessions.find(token, touch=True)     None: unknown, idle too long, or too old
    sessions.end(session.id)

A restart ends all of them. Usable from several threads.
"""

from __future__ import annotations

import hashlib
import hmac
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from shared_model.web.links import token_of

IDLE_S = 3600.0
ABSOLUTE_S = 12 * 3600.0
MOST = 16
_COOKIE_LENGTH = 43


@dataclass
class Session:
    """One browser that is logged in.

    id: 16 hexadecimal digits that name it in pages and logs; nobody gets in with it.
    csrf: secret that its forms carry. begun_s, seen_s: by the clock of `Sessions`.
    """

    id: str
    csrf: str = field(repr=False)
    begun_s: float
    seen_s: float
    said: list[str] = field(default_factory=list, repr=False)
    """Sentences to be shown on the next page."""

    def holds(self, csrf: str) -> bool:
        """Whether a form carries this session's secret; constant time."""
        return hmac.compare_digest(self.csrf.encode(), csrf.encode("utf-8", "replace"))

    def take_said(self) -> list[str]:
        """The sentences, once."""
        said, self.said = self.said, []
        return said


class Sessions:
    """All sessions of one page.

    Args:
        clock: monotonic seconds. entropy: n random bytes of the operating system.
        idle_s, absolute_s: a session ends so long after it was last used, or begun.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float],
        entropy: Callable[[int], bytes],
        idle_s: float = IDLE_S,
        absolute_s: float = ABSOLUTE_S,
    ) -> None:
        self._clock, self._entropy = clock, entropy
        self.idle_s, self.absolute_s = idle_s, absolute_s
        self._lock = threading.Lock()
        self._by_digest: dict[str, Session] = {}

    def begin(self) -> tuple[str, Session]:
        """(the cookie's value, the session); the least used of too many ends."""
        token, now = token_of(self._entropy(32)), self._clock()
        digest = _digest(token)
        session = Session(digest[:16], token_of(self._entropy(32)), now, now)
        with self._lock:
            self._forget_old(now)
            while len(self._by_digest) >= MOST:
                least = min(self._by_digest, key=lambda name: self._by_digest[name].seen_s)
                del self._by_digest[least]
            self._by_digest[digest] = session
        return token, session

    def find(self, token: str, *, touch: bool) -> Session | None:
        """The session of a cookie. touch: this request is its user's doing."""
        if len(token) != _COOKIE_LENGTH or not token.isascii():
            return None
        now = self._clock()
        with self._lock:
            self._forget_old(now)
            session = self._by_digest.get(_digest(token))
            if session is not None and touch:
                session.seen_s = now
            return session

    def end(self, id: str) -> bool:
        """Log one out; False if there is none of this name."""
        with self._lock:
            kept = {name: one for name, one in self._by_digest.items() if one.id != id}
            found = len(kept) < len(self._by_digest)
            self._by_digest = kept
            return found

    def all(self) -> list[Session]:
        """Those that are logged in, the newest first."""
        with self._lock:
            self._forget_old(self._clock())
            return sorted(self._by_digest.values(), key=lambda one: -one.begun_s)

    def age_s(self, session: Session) -> tuple[float, float]:
        """Seconds since it was begun, and since it was last used."""
        now = self._clock()
        return now - session.begun_s, now - session.seen_s

    def _forget_old(self, now: float) -> None:
        self._by_digest = {
            name: one
            for name, one in self._by_digest.items()
            if now - one.seen_s < self.idle_s and now - one.begun_s < self.absolute_s
        }


class Throttle:
    """So many at once, then one each `every_s`. clock: monotonic seconds."""

    def __init__(self, *, clock: Callable[[], float], burst: int, every_s: float) -> None:
        self._clock, self._burst, self._every_s = clock, burst, every_s
        self._lock = threading.Lock()
        self._left, self._at = float(burst), clock()

    def allows(self) -> bool:
        """Whether one more may be answered; it is counted if so."""
        with self._lock:
            now = self._clock()
            gained = max(0.0, now - self._at) / self._every_s
            self._left, self._at = min(float(self._burst), self._left + gained), now
            if self._left < 1.0:
                return False
            self._left -= 1.0
            return True


def _digest(token: str) -> str:
    return hashlib.sha256(b"fedprint-session:" + token.encode()).hexdigest()
