"""Folders of coordinators as the commands and runs leave them, and somebody who visits the page."""

from __future__ import annotations

import asyncio
import datetime
import json
import logging
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from release_stand_ins import DECLARED, Story, key_of, public, write_run
from sum_stand_ins import roster_of
from web_stand_ins import Answered, ask

from server import dashboard, presence, public_loss, rosters, superlink, tls
from server.checkpoints import RunFolder
from server.dashboard_reads import Reader
from server.home import CoordinatorHome
from server.public_loss import PublicLoss, PublicPoint
from server.registry_book import Listed, RegistryBook, Waiting, moment
from server.release import make_release
from server.run_records import AbsentRecord, IncidentRecord, LateRecord, RunRecord
from shared_model import enrolment, protocol_open, roster, signing
from shared_model.enrolment import RootCard, SiteCard
from shared_model.files import write_atomic
from shared_model.protocol import TrainReply

SITES = ("alpha", "beta", "gamma")
NOW = datetime.datetime(2026, 11, 28, 18, 0, tzinfo=datetime.UTC)
PORT = 40011
HOST = f"127.0.0.1:{PORT}"


def empty_home(folder: Path, port: int = PORT) -> CoordinatorHome:
    """Set up with a root key; nobody is enrolled."""
    home = CoordinatorHome(folder)
    home.make()
    tls.make(home, "127.0.0.1:40009", now=NOW)
    for name, path in (("run", home.run_key), ("release", home.release_key)):
        path.parent.mkdir(parents=True, exist_ok=True)
        signing.write_secret(path, key_of(name).private_bytes(*_PEM))
    superlink.write_config(
        home,
        superlink.CoordinatorConfig(
            address="127.0.0.1:40009", registry_port=40010, dashboard_port=port
        ),
    )
    card = RootCard(root_key=public("root").hex())
    rosters.pin_root(home, enrolment.seal(card, key_of("root")))
    return home


_PEM = (
    serialization.Encoding.PEM,
    serialization.PrivateFormat.PKCS8,
    serialization.NoEncryption(),
)


def card_of(site: str) -> bytes:
    """site.json of a hospital whose identity key is the stand-in's."""
    supernode = ec.generate_private_key(ec.SECP384R1()).public_key()
    card = SiteCard(
        site=site,
        declared_patients=DECLARED[site],
        identity_key=public(site).hex(),
        supernode_key=supernode.public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        ).decode(),
    )
    return enrolment.seal(card, key_of(site))


def enrol(home: CoordinatorHome, sites: tuple[str, ...] = SITES) -> None:
    """Cards, a roster that the root signed, and certificates of the registry."""
    for site in sites:
        write_atomic(home.sites / f"{site}.json", card_of(site))
    signed = roster.sign(roster_of(sites, DECLARED, key_of, 2), key_of("root"))
    write_atomic(home.roster, signed.to_bytes())
    write_atomic(home.rosters / "0000000001.json", signed.to_bytes())
    with RegistryBook(home) as book:
        for number, site in enumerate(sites):
            until = NOW + datetime.timedelta(days=20 + 60 * number)
            book.list_certificate(
                Listed(
                    f"{number:064x}",
                    "site",
                    site,
                    public(site).hex(),
                    "k",
                    "pem",
                    moment(NOW),
                    moment(until),
                    False,
                    "valid",
                )
            )


def keep_ledgers(home: CoordinatorHome, record: RunRecord) -> None:
    """The entries that the replies of this run brought, as the archive keeps them."""
    lines: dict[str, list[str]] = {}
    for item in record.rounds:
        headers = {one.site: one.header_bytes for one in item.contributors}
        headers |= {one.site: one.header_bytes for one in item.absent if one.header}
        for site, header in headers.items():
            said = protocol_open.open_answer(header, public(site), site=site)
            if isinstance(said, TrainReply):
                lines.setdefault(site, []).extend(said.ledger.entries)
    for site, entries in lines.items():
        text = "".join(f"{line}\n" for line in entries)
        write_atomic(home.ledgers / f"{site}.jsonl", text.encode())


def rewritten(folder: RunFolder, **changes: object) -> RunRecord:
    """The record with other fields."""
    record = folder.record().model_copy(update=changes)
    folder.save(record)
    return record


def at_times(folder: RunFolder, begin_s: float, each_s: float = 240.0) -> None:
    """Rounds that follow each other in time."""
    record = folder.record()
    rounds = tuple(
        item.model_copy(
            update={
                "opened_at": begin_s + each_s * place,
                "ended_at": begin_s + each_s * (place + 0.75) + 13.0 * (item.round % 3),
            }
        )
        for place, item in enumerate(record.rounds)
    )
    folder.save(record.model_copy(update={"rounds": rounds}))


def finished_run(home: CoordinatorHome) -> RunFolder:
    """ "spring": closed once, one hospital away twice, one incident, one accusation, released."""
    folder = write_run(
        home,
        Story(rounds=12, closed=(4,), contributors={7: ("alpha", "beta"), 8: ("beta", "gamma")}),
    )
    record = folder.record()
    rounds = list(record.rounds)
    for number, site, ending, reason in (
        (7, "gamma", "silent", None),
        (8, "alpha", "refused", "not-ready"),
    ):
        away = AbsentRecord(site=site, ending=ending, reason=reason)  # type: ignore[arg-type]
        item = rounds[number - 1]
        rounds[number - 1] = item.model_copy(update={"absent": (away,)})
    rounds[4] = rounds[4].model_copy(
        update={
            "incidents": (
                IncidentRecord(site="gamma", reason="a wrong signature"),
                IncidentRecord(site="alpha", reason="shares", about="beta"),
            )
        }
    )
    rounds[3] = rounds[3].model_copy(update={"reason": "too-few-contributors"})
    late = LateRecord(site="gamma", round=7, at=NOW.timestamp() - 80_000, header="")
    rewritten(folder, rounds=tuple(rounds), late=(late,))
    at_times(folder, NOW.timestamp() - 86_400)
    return folder


def open_run(home: CoordinatorHome) -> RunFolder:
    """ "winter": three rounds are over, in the fourth two of three have submitted."""
    folder = write_run(home, Story(run="winter", rounds=5, seed=5))
    record = folder.record()
    last = record.rounds[3]
    files = folder.round(4)
    files.begin(last.request_bytes)
    begun_s = NOW.timestamp() - 120.0
    os.utime(files.open / "request.header", (begun_s, begun_s))
    (files.submissions / "gamma.header").unlink()
    (files.submissions / "gamma.body").unlink()
    folder.forget_sum(4)
    folder.forget_sum(5)
    closing = folder.closing(3)
    folder.save_closing(closing.model_copy(update={"state": "unverified", "receipts": {}}))
    rewritten(folder, rounds=record.rounds[:3], state="running")
    at_times(folder, NOW.timestamp() - 1200)
    seen = presence.Presence().after(SITES, NOW.timestamp() - 900)
    seen = seen.after(("alpha", "beta"), NOW.timestamp() - 5)
    data = json.dumps(seen.model_dump(mode="json")).encode()
    write_atomic(presence.path_in(folder.path), data)
    return folder


def lively_home(folder: Path, port: int = PORT) -> CoordinatorHome:
    """Three hospitals, one that waits, three runs, a release, a registry's log."""
    home = empty_home(folder, port)
    enrol(home)
    spring = finished_run(home)
    keep_ledgers(home, spring.record())
    make_release(home, spring, key=key_of("release"), created="2026-11-27", origin="a test")
    paused = write_run(home, Story(run="autumn", rounds=4, seed=4))
    rewritten(paused, state="paused", pause="too-few-sites", rounds=paused.record().rounds[:2])
    at_times(paused, NOW.timestamp() - 7200)
    open_run(home)
    points = spring.record()
    rng = np.random.default_rng(0)
    models = [(0, points.initial_model)] + [(one.round, one.model_out) for one in points.rounds]
    public_loss.write(
        spring.path,
        PublicLoss(
            windows=256,
            patients=16,
            seed=7,
            points=tuple(
                PublicPoint(
                    round=number,
                    model=model,
                    masked=0.62 - 0.01 * number + 0.004 * float(rng.random()),
                    cross_modal=0.9 - 0.012 * number,
                )
                for number, model in models
            ),
        ),
    )
    with RegistryBook(home) as book:
        book.wait(Waiting("delta", card_of("delta"), "new", "none", moment(NOW)))
    home.logs.mkdir()
    calls = [("alpha", "Roster", "ok"), ("beta", "Standing", "ok"), ("gamma", "Fetch", "quota")]
    lines = [
        json.dumps(
            {
                "time": NOW.isoformat(timespec="milliseconds"),
                "method": method,
                "site": site,
                "certificate": "0" * 16,
                "outcome": outcome,
                "ms": 3,
            }
        )
        for site, method, outcome in calls
    ]
    (home.logs / "registry.log").write_text("\n".join([*lines, "no json", "{}"]) + "\n")
    return home


@dataclass
class Visitor:
    """Somebody with a one-time link; requests go straight to the application."""

    home: CoordinatorHome
    now_s: float = NOW.timestamp()
    mono: float = 1000.0
    cookie: str = ""
    app: Any = None
    faults: list[logging.LogRecord] = field(default_factory=list)

    def __post_init__(self) -> None:
        log = logging.Logger("test")
        handler = logging.Handler()
        handler.emit = self._heard  # type: ignore[method-assign]
        log.addHandler(handler)
        looks = dashboard.Looks(Reader(self.home), lambda: self.mono, lambda: self.now_s)
        self.app = dashboard.application(self.home, looks, log, monotonic=lambda: self.mono)

    def _heard(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.ERROR:
            self.faults.append(record)

    def log_in(self) -> Visitor:
        token = dashboard.links(self.home).issue()
        answer = self.get(
            "/login",
            method="POST",
            body=f"token={token}".encode(),
            extra=(
                ("origin", f"http://{HOST}"),
                ("content-type", "application/x-www-form-urlencoded"),
            ),
        )
        assert answer.status == 303, answer.text
        self.cookie = answer.headers["set-cookie"].partition(";")[0]
        return self

    def get(
        self,
        path: str,
        query: str = "",
        *,
        method: str = "GET",
        body: bytes = b"",
        extra: tuple[tuple[str, str], ...] = (),
    ) -> Answered:
        headers = [("host", HOST), *extra]
        if self.cookie:
            headers.append(("cookie", self.cookie))
        self.mono += 2.0
        return asyncio.run(
            ask(
                self.app,
                method,
                path,
                headers=headers,
                query=query.encode(),
                chunks=(body,),
            )
        )


def words_of(answer: Answered) -> str:
    """What a person reads: no tags, single spaces."""
    return " ".join(re.sub(r"<[^>]*>", " ", answer.text).split())
