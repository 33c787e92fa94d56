"""The coordinator's folder, read for dashboard and metrics. It only reads: no lock, no clean-up.

    reader = Reader(home)
    overview = reader.overview(now_s=time.time())

What takes long (signatures, models) is kept until its file changes. A file that vanishes while it
is read (a round that ends) is read once more; then it is damaged, and the overview says so.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

from cryptography import x509

from server import registry, rosters, sites, superlink
from server.dashboard_calls import last_calls
from server.dashboard_runs import Around, RunReader, damaged_run
from server.dashboard_view import (
    Overview,
    Release,
    Run,
    SitePrivacy,
    day_s,
    incident_views,
    privacy_of,
    release_view,
    site_views,
)
from server.home import CoordinatorHome
from server.kept import Kept, twice
from server.ledgers import LedgerArchive
from server.presence import Presence
from server.presence import read as presence_of
from server.registry_book import RegistryBook
from server.release_numbers import releases_of
from server.run_records import RunRecord
from shared_model import signing
from shared_model.enrolment import SiteCard
from shared_model.errors import FedprintError, OurMistake
from shared_model.locks import is_locked
from shared_model.release_checks import verify
from shared_model.release_files import read_release
from shared_model.roster import Roster

HOW: Mapping[str, str] = {
    "new": "a new hospital",
    "replaces": "replaces the enrolled keys, not signed by them",
    "rotation": "the next key, signed by the enrolled one",
}
"""What waits to be admitted."""
_T = TypeVar("_T")


@dataclass
class Reader:
    """Reads one home; not for several threads at once.

    with_models: compare the models of the rounds, too.
    """

    home: CoordinatorHome
    with_models: bool = True
    _kept: Kept = field(default_factory=Kept, repr=False)

    def __post_init__(self) -> None:
        self._runs = RunReader(self._kept, self.with_models)

    def overview(self, now_s: float) -> Overview:
        """Everything at this moment.

        Raises:
            OurMistake: this home is no coordinator's.
        """
        config = superlink.load_config(self.home)
        damaged: list[str] = []
        running = superlink.is_running(self.home)
        service = is_locked(self.home.service_lock)
        cards = self._told(damaged, self._cards) or {}
        roster = self._told(damaged, self._roster)
        waits, certificates = self._told(damaged, self._book) or ({}, {})
        releases = self._releases()
        released = frozenset(one.model for one in releases if not one.damaged)
        records, runs = self._all_runs(Around(running, service, released))
        log = self.home.logs / "registry.log"
        calls = self._kept.at("calls", log, lambda: last_calls(self.home.logs))
        return Overview(
            now_s=now_s,
            address=config.address,
            registry_address=config.registry_address,
            running=running,
            registry=registry.is_running(self.home),
            service=service,
            roster_version=None if roster is None else roster.version,
            roster_ends_s=None
            if roster is None
            else min(day_s(entry.valid_until) for entry in roster.sites),
            server_certificate_s=self._told(damaged, self._server_certificate),
            gaps=()
            if roster is None
            else tuple(self._told(damaged, lambda: rosters.gaps(self.home, roster)) or ()),
            sites=site_views(
                cards,
                roster,
                waits,
                certificates,
                self._presence(runs),
                calls.last,
                records,
                self._privacy(cards, damaged),
                running=running,
                now_s=now_s,
            ),
            runs=runs,
            releases=releases,
            incidents=incident_views(records),
            refused_calls=calls.refused,
            damaged=tuple(damaged),
        )

    # --- hospitals -----------------------------------------------------------------------------

    def _cards(self) -> dict[str, SiteCard]:
        """Each card that is put in its place changes the folder."""
        return self._kept.at(
            "cards", self.home.sites, lambda: {card.site: card for card in sites.roster(self.home)}
        )

    def _roster(self) -> Roster | None:
        if not self.home.root_public.exists():
            return None
        signed = rosters.current(self.home)
        return None if signed is None else signed.roster

    def _book(self) -> tuple[dict[str, str], dict[str, float]]:
        """What waits, and when the last valid certificate of each site ends."""
        if not self.home.registry_book.exists():
            return {}, {}
        ends: dict[str, float] = {}
        with RegistryBook(self.home) as book:
            waits = {item.site: HOW[item.how] for item in book.waiting()}
            for item in book.certificates():
                if item.kind == "site" and item.state == "valid":
                    until = datetime.datetime.fromisoformat(item.expires).timestamp()
                    ends[item.site] = max(until, ends.get(item.site, 0.0))
        return waits, ends

    def _server_certificate(self) -> float | None:
        if not self.home.server_certificate.exists():
            return None
        path = self.home.server_certificate
        try:
            found = x509.load_pem_x509_certificate(path.read_bytes())
        except ValueError as error:
            raise OurMistake(f"{path} is no certificate.") from error
        return found.not_valid_after_utc.timestamp()

    def _privacy(
        self, cards: Mapping[str, SiteCard], damaged: list[str]
    ) -> dict[str, SitePrivacy | None]:
        """By site; ledgers of sites that are not enrolled have no key to be verified with."""
        known = LedgerArchive(self.home.ledgers).sites
        return {
            site: self._told(damaged, partial(self._ledger, cards[site]))
            for site in known
            if site in cards
        }

    def _ledger(self, card: SiteCard) -> SitePrivacy | None:
        path = self.home.ledgers / f"{card.site}.jsonl"

        def read() -> SitePrivacy | None:
            chain = LedgerArchive(self.home.ledgers).chain(card.site, card.identity)
            if chain.identity_key != card.identity and chain.links:
                ever = rosters.ever(self.home)
                known = {one.entry(card.site).identity for one in ever if card.site in one.names}
                if chain.identity_key not in known:
                    raise OurMistake(f"The ledger held of {card.site} is of another key.")
            return privacy_of(chain)

        return self._kept.at(("ledger", card.site, card.identity_key), path, read)

    # --- runs and releases ---------------------------------------------------------------------

    def _all_runs(self, around: Around) -> tuple[list[RunRecord], tuple[Run, ...]]:
        """Runs that go on first, then those that wait."""
        self._runs.begin()
        records: list[RunRecord] = []
        runs: list[Run] = []
        for path in sorted(self.home.runs.glob("*/run.json")):
            try:
                record, run = self._runs.read(path.parent, around)
            except FedprintError as error:
                runs.append(damaged_run(path.parent.name, error))
                continue
            records.append(record)
            runs.append(run)
        first = {"running": 0, "paused": 1, "damaged": 2}
        return records, tuple(sorted(runs, key=lambda run: (first.get(run.state, 3), run.name)))

    def _presence(self, runs: tuple[Run, ...]) -> Presence | None:
        """What was written last, by any run."""
        found = (presence_of(self.home.run_folder(run.name)) for run in runs)
        return max((one for one in found if one), key=lambda one: one.written_s, default=None)

    def _releases(self) -> tuple[Release, ...]:
        """The latest first."""
        return tuple(
            self._kept.at(
                ("release", folder), folder / "manifest.json", partial(self._release, folder)
            )
            for folder in reversed(releases_of(self.home))
        )

    def _release(self, folder: Path) -> Release:
        try:
            key = signing.public_bytes(signing.load_key_file(self.home.release_key))
            return release_view(verify(read_release(folder), key).manifest)
        except FedprintError as error:
            return Release(int(folder.name), "", "", "", "", (), (), 0, (), damaged=error.message)

    def _told(self, damaged: list[str], read: Callable[[], _T]) -> _T | None:
        """What is read; what cannot be read is told, and None."""
        try:
            return twice(read)
        except FedprintError as error:
            damaged.append(error.message)
            return None
