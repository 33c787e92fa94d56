"""What the registry answers, without the network: bytes in, bytes out, or `Refused` with a reason.

    desk.answer("Enrol", fingerprint, request)   -> reply
    desk.stretch(fingerprint, request)           -> which bytes of which file to stream

`fingerprint` is the SHA-256 of the certificate that the caller proved to hold; everything that the
caller may do follows from its row in the book (ADR 0016).
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from server import registry_enrolment, rosters, sites
from server.epochs import EpochBook
from server.home import CoordinatorHome
from server.ledgers import LedgerArchive
from server.registry_book import Listed, RegistryBook, moment
from server.registry_limits import RegistryLimits
from server.registry_releases import archive, archives
from shared_model import registry, signing
from shared_model.enrolment import SiteCard
from shared_model.errors import OurMistake, PeerFault, Refused
from shared_model.registry_reasons import refusal

Clock = Callable[[], datetime.datetime]


@dataclass(frozen=True)
class Caller:
    """Who calls. `card` is the enrolled one, only if this certificate speaks for it."""

    listed: Listed
    card: SiteCard | None

    @property
    def site(self) -> str:
        return self.listed.site

    @property
    def is_token(self) -> bool:
        return self.listed.kind == "token"


@dataclass(frozen=True)
class Stretch:
    """The rest of an archive, from `offset` to `size_bytes`, for a site that was charged for it."""

    site: str
    charged: datetime.datetime
    path: Path
    offset: int
    size_bytes: int


class Desk:
    """Answers one request at a time."""

    def __init__(
        self, home: CoordinatorHome, book: RegistryBook, limits: RegistryLimits, clock: Clock
    ) -> None:
        self._home, self._book, self._limits, self._clock = home, book, limits, clock
        self._methods: dict[str, tuple[str, Callable[[Caller, bytes], registry.Message]]] = {
            "Health": ("any", self._health),
            "Enrol": ("token", self._enrol),
            "Standing": ("site", self._standing),
            "Leave": ("site", self._leave),
            "Renew": ("admitted", self._renew),
            "Rotate": ("admitted", self._rotate),
            "Roster": ("admitted", self._roster),
            "Heads": ("admitted", self._heads),
            "Epoch": ("admitted", self._epoch),
            "Releases": ("admitted", self._releases),
            "Send": ("admitted", self._send),
            "Mail": ("admitted", self._mail),
            "Collect": ("admitted", self._collect),
        }

    @property
    def methods(self) -> tuple[str, ...]:
        """Those that `answer` knows."""
        return tuple(self._methods)

    def listed(self, fingerprint: str) -> Listed:
        """The row of a certificate that counts now.

        Raises:
            Refused: "unknown-certificate", "revoked", "expired".
        """
        listed = self._book.find(fingerprint)
        if listed is None or listed.state == "retired":
            raise refusal("unknown-certificate")
        if listed.state == "revoked":
            raise refusal("revoked")
        if listed.expires <= moment(self._clock()):
            raise refusal("expired")
        return listed

    def caller(self, fingerprint: str) -> Caller:
        """Who has this certificate.

        Raises:
            Refused: as `listed`.
        """
        listed = self.listed(fingerprint)
        card = None if listed.kind == "token" else sites.card_of(self._home, listed.site)
        if card is not None and card.identity_key != listed.identity:
            card = None
        return Caller(listed, card)

    def name_of(self, fingerprint: str) -> str:
        """The site of a certificate, for the log; "unknown" if it is not listed."""
        listed = self._book.find(fingerprint)
        return "unknown" if listed is None else listed.site

    def account_of(self, fingerprint: str) -> str:
        """Whose calls are counted together: all certificates of one key of a site.

        One that does not count, or a token, takes nothing from the site that it names.
        """
        try:
            listed = self.listed(fingerprint)
        except Refused:
            return fingerprint
        return f"{listed.kind} {listed.site} {listed.identity}"

    def answer(self, method: str, fingerprint: str, request: bytes) -> bytes:
        """The reply to one call.

        Raises:
            Refused: with a reason of `registry_reasons`, and no other.
        """
        needs, handle = self._methods[method]
        with told():
            caller = self.admit(fingerprint, needs)
            return handle(caller, request).to_bytes()

    def admit(self, fingerprint: str, needs: str) -> Caller:
        """The caller, if it may do what `needs` says: any, token, site, admitted.

        Raises:
            Refused: as `caller`; "token-only", "no-token", "not-admitted".
        """
        caller = self.caller(fingerprint)
        if needs == "token" and not caller.is_token:
            raise refusal("no-token")
        if needs in ("site", "admitted") and caller.is_token:
            raise refusal("token-only")
        if needs == "admitted" and caller.card is None:
            raise refusal("not-admitted")
        if not caller.is_token:
            self._book.retire_before(caller.listed)
        return caller

    def stretch(self, fingerprint: str, request: bytes) -> Stretch:
        """What to stream for a `Fetch`; its bytes are charged to the site's day.

        Raises:
            Refused: as `admit`; "malformed", "no-release", "offset", "quota".
        """
        with told():
            caller = self.admit(fingerprint, "admitted")
            wanted = registry.Fetch.from_bytes(request, sender=caller.site)
            path = archive(self._home, wanted.sha256)
            size_bytes = path.stat().st_size
            if wanted.offset > size_bytes:
                raise refusal("offset")
            now = self._clock()
            self._book.charge(
                caller.site,
                size_bytes - wanted.offset,
                self._limits.release_bytes_a_day,
                now,
            )
            return Stretch(caller.site, now, path, wanted.offset, size_bytes)

    def not_sent(self, stretch: Stretch, size_bytes: int) -> None:
        """A stretch ended before this many of its bytes left: they were not fetched."""
        with told():
            self._book.give_back(stretch.site, size_bytes, stretch.charged)

    # --- the calls -----------------------------------------------------------------------------

    def _health(self, caller: Caller, request: bytes) -> registry.Message:
        registry.Ask.from_bytes(request, sender=caller.site)
        return registry.Health(fedprint=metadata.version("fedprint"))

    def _enrol(self, caller: Caller, request: bytes) -> registry.Message:
        message = registry.Enrol.from_bytes(request, sender=caller.site)
        return registry_enrolment.enrol(
            self._home, self._book, caller.listed, message, self._clock()
        )

    def _standing(self, caller: Caller, request: bytes) -> registry.Message:
        registry.Ask.from_bytes(request, sender=caller.site)
        waits = self._book.waiting_of(caller.site)
        state: Literal["waiting", "admitted", "rotating"] = "waiting"
        if caller.card is not None:
            state = "rotating" if waits is not None and waits.how == "rotation" else "admitted"
        signed = rosters.current(self._home) if self._home.root_public.exists() else None
        return registry.Standing(
            site=caller.site,
            state=state,
            identity=signing.key_digest(bytes.fromhex(caller.listed.identity)),
            expires=caller.listed.expires,
            roster=0 if signed is None else signed.roster.version,
        )

    def _renew(self, caller: Caller, request: bytes) -> registry.Message:
        message = registry.Renew.from_bytes(request, sender=caller.site)
        return registry_enrolment.renew(
            self._home, self._book, caller.listed, message, self._clock()
        )

    def _rotate(self, caller: Caller, request: bytes) -> registry.Message:
        message = registry.Rotate.from_bytes(request, sender=caller.site)
        if caller.card is None:
            raise refusal("not-admitted")
        registry_enrolment.rotate(self._home, self._book, caller.card, message, self._clock())
        return registry.Done()

    def _leave(self, caller: Caller, request: bytes) -> registry.Message:
        message = registry.Leave.from_bytes(request, sender=caller.site)
        identity = bytes.fromhex(caller.listed.identity)
        registry.check_leaving(identity, caller.site, message.signature)
        registry_enrolment.leave(self._home, self._book, caller.listed, caller.card is not None)
        return registry.Done()

    def _roster(self, caller: Caller, request: bytes) -> registry.Message:
        registry.Ask.from_bytes(request, sender=caller.site)
        try:
            return registry.RosterFile(file=self._home.roster.read_text())
        except FileNotFoundError:
            raise refusal("no-roster") from None

    def _heads(self, caller: Caller, request: bytes) -> registry.Message:
        registry.Ask.from_bytes(request, sender=caller.site)
        heads = LedgerArchive(self._home.ledgers).heads()
        return registry.Heads(
            heads=tuple(registry.HeadEntry(site=site, ledger=heads[site]) for site in sorted(heads))
        )

    def _epoch(self, caller: Caller, request: bytes) -> registry.Message:
        registry.Ask.from_bytes(request, sender=caller.site)
        epoch = EpochBook(self._home.root / "epochs.json").current
        if epoch is None:
            raise refusal("no-epoch")
        return registry.EpochKeys(
            epoch=epoch.number, roster_digest=epoch.roster_digest, keys=epoch.keys
        )

    def _releases(self, caller: Caller, request: bytes) -> registry.Message:
        registry.Ask.from_bytes(request, sender=caller.site)
        return registry.Releases(releases=tuple(archives(self._home)))

    def _send(self, caller: Caller, request: bytes) -> registry.Message:
        message = registry.Send.from_bytes(request, sender=caller.site)
        if sites.card_of(self._home, message.to) is None:
            raise refusal("no-receiver")
        self._book.post(
            caller.site, message.to, message.what, message.data, self._limits, self._clock()
        )
        return registry.Done()

    def _mail(self, caller: Caller, request: bytes) -> registry.Message:
        registry.Ask.from_bytes(request, sender=caller.site)
        return registry.Mail(items=tuple(self._book.mail(caller.site)))

    def _collect(self, caller: Caller, request: bytes) -> registry.Message:
        message = registry.Collect.from_bytes(request, sender=caller.site)
        return self._book.collect(caller.site, message.id, remove=message.remove)


@contextmanager
def told() -> Iterator[None]:
    """Whatever a caller's bytes lead to becomes a reason of the closed list."""
    try:
        yield
    except PeerFault as error:
        raise refusal("malformed") from error
    except OurMistake as error:
        raise refusal("not-ready") from error
    except Refused as error:
        raise refusal(error.reason) from error
