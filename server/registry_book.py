"""registry.sqlite: tokens, certificates, cards that wait, mail. What is not in here does not count.

Several processes use it at once (the registry and the operator's commands); each change is one
`BEGIN IMMEDIATE`, on the disk when the method returns. Times are UTC text, see
`shared_model.registry`.
"""

from __future__ import annotations

import datetime
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from types import TracebackType
from typing import Literal, Self, cast

from server.home import CoordinatorHome
from server.registry_limits import RegistryLimits
from shared_model import canonical
from shared_model.errors import OurMistake
from shared_model.registry import MailContent, MailItem, encoded
from shared_model.registry_reasons import refusal

_SCHEMA = """
CREATE TABLE IF NOT EXISTS certificates (
  fingerprint TEXT PRIMARY KEY,
  kind TEXT NOT NULL CHECK (kind IN ('token', 'site')),
  site TEXT NOT NULL,
  identity TEXT NOT NULL,
  tls_key TEXT NOT NULL,
  pem TEXT NOT NULL,
  issued TEXT NOT NULL,
  expires TEXT NOT NULL,
  replaces INTEGER NOT NULL,
  state TEXT NOT NULL CHECK (state IN ('open', 'used', 'valid', 'retired', 'revoked'))
) STRICT;
CREATE TABLE IF NOT EXISTS waiting (
  site TEXT PRIMARY KEY,
  card BLOB NOT NULL,
  how TEXT NOT NULL CHECK (how IN ('new', 'replaces', 'rotation')),
  before TEXT NOT NULL,
  since TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS mail (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  sender TEXT NOT NULL,
  receiver TEXT NOT NULL,
  what TEXT NOT NULL,
  digest TEXT NOT NULL,
  content BLOB NOT NULL,
  sent TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS traffic (
  site TEXT NOT NULL, day TEXT NOT NULL, size_bytes INTEGER NOT NULL, PRIMARY KEY (site, day)
) STRICT;
"""
BUSY_S = 5.0
How = Literal["new", "replaces", "rotation"]


def moment(now: datetime.datetime) -> str:
    """A time as messages and tables have it."""
    return now.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True)
class Listed:
    """A certificate that the registry issued. `identity` is the key's hexadecimal digits."""

    fingerprint: str
    kind: str
    site: str
    identity: str
    tls_key: str
    pem: str
    issued: str
    expires: str
    replaces: bool
    state: str


@dataclass(frozen=True)
class Waiting:
    """A card that the operator has not admitted yet. `before`: the identity key enrolled then."""

    site: str
    card: bytes
    how: How
    before: str
    since: str


class RegistryBook:
    """The database. Use as a context manager, from one thread.

    Raises:
        OurMistake: the file is damaged or locked for long.
    """

    def __init__(self, home: CoordinatorHome) -> None:
        self.path = home.registry_book
        try:
            home.make()
            if not self.path.exists():
                self.path.touch(mode=0o600)
            self._base = sqlite3.connect(self.path, timeout=BUSY_S, isolation_level=None)
            self._base.execute("PRAGMA synchronous = EXTRA")
            self._base.execute("PRAGMA secure_delete = ON")
            self._base.executescript(_SCHEMA)
        except (sqlite3.Error, OSError) as error:
            raise self._damaged() from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._base.close()

    def _damaged(self) -> OurMistake:
        return OurMistake(
            f"{self.path} cannot be used.",
            do="If it is damaged, move it away and invite the hospitals anew (docs/operator.md).",
        )

    @contextmanager
    def change(self) -> Iterator[None]:
        """One transaction: all of it or nothing."""
        try:
            self._base.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._base.execute("ROLLBACK")
                raise
            self._base.execute("COMMIT")
        except sqlite3.Error as error:
            raise self._damaged() from error

    def _rows(self, query: str, *values: object) -> list[tuple[object, ...]]:
        try:
            return self._base.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise self._damaged() from error

    # --- certificates -------------------------------------------------------------------------

    def list_certificate(self, item: Listed) -> None:
        """Let a certificate count."""
        self._rows(
            "INSERT INTO certificates VALUES (?,?,?,?,?,?,?,?,?,?)",
            item.fingerprint,
            item.kind,
            item.site,
            item.identity,
            item.tls_key,
            item.pem,
            item.issued,
            item.expires,
            int(item.replaces),
            item.state,
        )

    def certificates(self, site: str | None = None) -> list[Listed]:
        """All, or those of one site, in the order of issue."""
        where = "" if site is None else " WHERE site = ?"
        rows = self._rows(
            f"SELECT * FROM certificates{where} ORDER BY rowid",  # noqa: S608
            *(() if site is None else (site,)),
        )
        return [_listed(row) for row in rows]

    def find(self, fingerprint: str) -> Listed | None:
        """A certificate by the SHA-256 of its DER form."""
        rows = self._rows("SELECT * FROM certificates WHERE fingerprint = ?", fingerprint)
        return _listed(rows[0]) if rows else None

    def set_state(self, fingerprint: str, state: str) -> None:
        self._rows("UPDATE certificates SET state = ? WHERE fingerprint = ?", state, fingerprint)

    def use_token(self, fingerprint: str, identity: str) -> None:
        """The token is spent for this identity key."""
        self._rows(
            "UPDATE certificates SET state = 'used', identity = ? WHERE fingerprint = ?",
            identity,
            fingerprint,
        )

    def retire_before(self, used: Listed) -> None:
        """A newer certificate was used: older ones of the same identity key count no more."""
        self._rows(
            "UPDATE certificates SET state = 'retired' WHERE kind = 'site' AND state = 'valid' "
            "AND site = ? AND identity = ? AND rowid < "
            "(SELECT rowid FROM certificates WHERE fingerprint = ?)",
            used.site,
            used.identity,
            used.fingerprint,
        )

    def revoke(self, site: str, *, only: str | None = None, but: str | None = None) -> int:
        """Revoke tokens and certificates of a site; how many.

        Args:
            only, but: restrict it to one identity key, or spare one.
        """
        rows = self._rows(
            "UPDATE certificates SET state = 'revoked' WHERE site = ? "
            "AND identity = COALESCE(?, identity) AND identity != COALESCE(?, 'none') "
            "AND state IN ('open', 'used', 'valid') RETURNING fingerprint",
            site,
            only,
            but,
        )
        return len(rows)

    def rebind(self, site: str, old: str, new: str) -> None:
        """After a rotation was admitted: the site's certificates speak for its new key."""
        self._rows(
            "UPDATE certificates SET identity = ? WHERE site = ? AND identity = ? "
            "AND kind = 'site' AND state = 'valid'",
            new,
            site,
            old,
        )

    # --- cards that wait -----------------------------------------------------------------------

    def wait(self, item: Waiting) -> None:
        """A card waits; an earlier one of the site does not any more."""
        self._rows(
            "INSERT OR REPLACE INTO waiting VALUES (?,?,?,?,?)",
            item.site,
            item.card,
            item.how,
            item.before,
            item.since,
        )

    def waiting(self) -> list[Waiting]:
        """All cards that wait, by site."""
        return [
            Waiting(str(site), cast(bytes, card), cast(How, how), str(before), str(since))
            for site, card, how, before, since in self._rows("SELECT * FROM waiting ORDER BY site")
        ]

    def waiting_of(self, site: str) -> Waiting | None:
        return next((item for item in self.waiting() if item.site == site), None)

    def wait_no_more(self, site: str) -> None:
        self._rows("DELETE FROM waiting WHERE site = ?", site)

    # --- mail ----------------------------------------------------------------------------------

    def post(
        self,
        sender: str,
        receiver: str,
        what: str,
        data: bytes,
        limits: RegistryLimits,
        now: datetime.datetime,
    ) -> None:
        """Put a file into a mailbox; the same file from the same sender is there once.

        Raises:
            Refused: the box is full, of all senders or of this one (reason "mailbox-full").
        """
        end = moment(now - datetime.timedelta(days=limits.mail_days))
        digest = canonical.digest(data)
        with self.change():
            self._rows("DELETE FROM mail WHERE sent < ?", end)
            box = self._rows("SELECT sender, what, digest FROM mail WHERE receiver = ?", receiver)
            if (sender, what, digest) in box:
                return
            own = sum(row[0] == sender for row in box)
            if len(box) >= limits.mail_in_a_box or own >= limits.mail_of_one_sender:
                raise refusal("mailbox-full")
            self._rows(
                "INSERT INTO mail (sender, receiver, what, digest, content, sent) "
                "VALUES (?,?,?,?,?,?)",
                sender,
                receiver,
                what,
                digest,
                data,
                moment(now),
            )

    def mail(self, receiver: str) -> list[MailItem]:
        """What a mailbox holds, oldest first."""
        rows = self._rows(
            "SELECT id, sender, what, digest, length(content), sent FROM mail "
            "WHERE receiver = ? ORDER BY id",
            receiver,
        )
        names = ("id", "sender", "what", "sha256", "size_bytes", "sent")
        return [MailItem.model_validate(dict(zip(names, row, strict=True))) for row in rows]

    def collect(self, receiver: str, number: int, *, remove: bool) -> MailContent:
        """One file of a mailbox.

        Raises:
            Refused: no such file in *this* mailbox (reason "no-mail").
        """
        rows = self._rows(
            "SELECT sender, what, content FROM mail WHERE receiver = ? AND id = ?",
            receiver,
            number,
        )
        if not rows:
            raise refusal("no-mail")
        sender, what, content = rows[0]
        if remove:
            self._rows("DELETE FROM mail WHERE receiver = ? AND id = ?", receiver, number)
        return MailContent.model_validate(
            {"sender": sender, "what": what, "file": encoded(cast(bytes, content))}
        )

    def forget_mail(self, site: str) -> None:
        """Remove what a site has sent and not fetched."""
        self._rows("DELETE FROM mail WHERE sender = ? OR receiver = ?", site, site)

    # --- quota ---------------------------------------------------------------------------------

    def charge(self, site: str, size_bytes: int, limit_bytes: int, now: datetime.datetime) -> None:
        """Count bytes of releases that a site takes today.

        Raises:
            Refused: more than its daily quota (reason "quota").
        """
        day = moment(now)[:10]
        with self.change():
            self._rows("DELETE FROM traffic WHERE day < ?", day)
            rows = self._rows(
                "SELECT size_bytes FROM traffic WHERE site = ? AND day = ?", site, day
            )
            spent = cast(int, rows[0][0]) if rows else 0
            if spent + size_bytes > limit_bytes:
                raise refusal("quota")
            self._rows(
                "INSERT OR REPLACE INTO traffic VALUES (?,?,?)", site, day, spent + size_bytes
            )

    def give_back(self, site: str, size_bytes: int, charged: datetime.datetime) -> None:
        """Bytes that were counted on that day and not taken."""
        with self.change():
            self._rows(
                "UPDATE traffic SET size_bytes = MAX(0, size_bytes - ?) WHERE site = ? AND day = ?",
                size_bytes,
                site,
                moment(charged)[:10],
            )


def _listed(row: tuple[object, ...]) -> Listed:
    values = dict(zip((item.name for item in fields(Listed)), row, strict=True))
    return Listed(**{**values, "replaces": bool(values["replaces"])})  # type: ignore[arg-type]
