"""A hospital's folder with everything that a console shows, and a browser of the tests' own."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from web_stand_ins import Answered, ask

from client import console_app, keys, state
from client.approvals import HospitalApprovals, approvals_of
from client.home import NodeHome
from client.ledger_store import LedgerStore
from client.policy import Policy, installed_code
from client.rosters import RosterBook, today_utc
from client.state import NodeState, ProcessState, Progress
from shared_model import roster, signing
from shared_model.config import LocalTraining, PrivacyPlan
from shared_model.errors import Refused
from shared_model.ledger import Booked
from shared_model.locks import locked
from shared_model.protocol import RunPlan

SITE, PORT = "north", 8450
HOST = f"127.0.0.1:{PORT}"
PRIVACY = PrivacyPlan(sample_rate=0.05, noise_multiplier=2.0, clipping_norm=1.0, steps=10)
ROOT = Ed25519PrivateKey.from_private_bytes(b"root".ljust(32, b"."))
NOW_S = 1_790_000_000.0


@dataclass(frozen=True)
class Card:
    """What a roster takes from an enrolment card."""

    site: str
    identity_key: str
    declared_patients: int


def plan(**changes: Any) -> RunPlan:
    values: dict[str, Any] = {
        "run": "spring",
        "purpose": "pretrain",
        "preset": "tiny",
        "config_digest": "ab" * 32,
        "privacy": PRIVACY,
        "training": LocalTraining(),
        "rounds": 3,
        "bookings": 5,
        "minimum_contributors": 3,
        "aggregation": "secure-sum",
        "server_step": "fedavg",
        "server_learning_rate": 1.0,
        "code_digest": installed_code(),
    }
    return RunPlan(**{**values, **changes})


@dataclass
class Hospital:
    """A node's folder; what is in it is real, but for who wrote it."""

    home: NodeHome

    @classmethod
    def made(cls, root: Path) -> Hospital:
        home = NodeHome(root)
        keys.make(home, SITE, 430)
        Policy.write_default(home.policy, declared_patients=430)
        hospital = cls(home)
        winter = plan(run="winter")
        hospital.approvals.approve(winter)
        for number in (1, 2):
            hospital.book("winter", number)
        hospital.ask(plan())
        return hospital

    @property
    def approvals(self) -> HospitalApprovals:
        """Made anew, as for each message."""
        return approvals_of(self.home)

    def ask(self, asked: RunPlan) -> None:
        """The coordinator shows a plan; it waits."""
        with pytest.raises(Refused, match="waits for this hospital"):
            self.approvals.check(asked)

    def store(self, now_s: float = NOW_S) -> LedgerStore:
        key = signing.load_key_file(self.home.identity_key)
        return LedgerStore.open(self.home, SITE, key, clock=lambda: now_s)

    def book(self, run: str, number: int, now_s: float | None = None) -> None:
        policy = Policy.from_file(self.home.policy)
        draft = Booked(
            site=SITE, sequence=1, run=run, round=number, purpose="pretrain", mode="local",
            sample_rate=PRIVACY.sample_rate, noise_multiplier=PRIVACY.noise_multiplier,
            clipping_norm=PRIVACY.clipping_norm, steps=PRIVACY.steps, declared_patients=430,
            delta=policy.delta, noise="system entropy, AES-256-CTR", private=True,
            model_in="ab" * 32, request_digest="cd" * 32, code_digest=installed_code(),
            roster_digest="ef" * 32, transcript="01" * 32, participants=3, threshold=2,
            colluding_sites=0, minimum_contributors=3, dimension=0, limit_lifetime=None,
            limit_run=None, epsilon_lifetime=None, epsilon_run=None,
            outsider_epsilon_lifetime=None, time_s=0,
        )  # fmt: skip
        when_s = NOW_S + 3600.0 * number if now_s is None else now_s
        with self.store(when_s) as store:
            store.reserve(draft, policy.budget)
            store.answered(run, number, "aa" * 32)

    def rosters(self) -> None:
        """Version 1 is approved, version 2 with a further hospital waits."""
        own = keys.card(self.home)
        policy, root = Policy.from_file(self.home.policy), signing.public_bytes(ROOT)
        cards = [Card(own.site, own.identity_key, own.declared_patients)]
        cards += [
            Card(name, signing.public_bytes(_key(name)).hex(), 200) for name in ("east", "south")
        ]
        book = RosterBook(self.home)
        book.approve(_signed(cards, 1), root, policy, today_utc())
        cards.append(Card("west", signing.public_bytes(_key("west")).hex(), 200))
        with pytest.raises(Refused, match="approv"):
            book.offer(_signed(cards, 2), root, policy, today_utc())

    @contextmanager
    def running(self, now_s: float, **changes: Any) -> Iterator[None]:
        """As if the supervisor ran: its lock is held and its state written."""
        processes = (
            ProcessState(name="SuperNode", pid=4711, since_s=now_s - 4000, restarts=0),
            ProcessState(name="training", pid=4712, since_s=now_s - 300, restarts=2),
            ProcessState(name="console", pid=4713, since_s=now_s - 4000, restarts=0),
        )
        values: dict[str, Any] = {
            "phase": "running", "since_s": now_s - 4000, "written_s": now_s, "pid": 4710,
            "processes": processes,
        }  # fmt: skip
        state.write_node_state(self.home, NodeState(**{**values, **changes}))
        with locked(self.home.root / "node.lock"):
            yield

    def trains(self, now_s: float, step: int = 4, steps: int = 10) -> None:
        state.write_progress(
            self.home,
            Progress(
                run="winter", round=3, stage="training", step=step, steps=steps,
                begun_s=now_s - 60, written_s=now_s,
            ),
        )  # fmt: skip


def _key(name: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(name.encode().ljust(32, b"."))


def _signed(cards: list[Card], version: int) -> bytes:
    drafted = roster.draft(cards, version, None, valid_from="2020-01-01", valid_until="2099-01-01")
    return roster.sign(drafted, ROOT).to_bytes()


@dataclass
class Browser:
    """Sends what a browser with the console open would send."""

    hospital: Hospital
    app: Any = None
    cookie: str = ""
    csrf: str = ""
    extra: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.app = self.app or console_app.application(self.hospital.home, PORT)

    def get(self, path: str = "/", *extra: tuple[str, str], query: bytes = b"") -> Answered:
        headers = [("host", HOST), *self._cookies(), *extra]
        return asyncio.run(ask(self.app, path=path, headers=headers, query=query))

    def post(self, path: str, **fields: str) -> Answered:
        headers = [
            ("host", HOST), ("origin", f"http://{HOST}"),
            ("content-type", "application/x-www-form-urlencoded"), *self._cookies(),
        ]  # fmt: skip
        body = "&".join(f"{key}={value}" for key, value in {"csrf": self.csrf, **fields}.items())
        return asyncio.run(ask(self.app, "POST", path, headers=headers, chunks=(body.encode(),)))

    def log_in(self) -> Browser:
        token = console_app.links_of(self.hospital.home).issue()
        answer = self.post("/login", token=token)
        assert answer.status == 303, answer.text
        found = re.match(rf"{console_app.COOKIE}=([^;]+)", answer.headers["set-cookie"])
        assert found is not None
        self.cookie = found[1]
        secret = re.search(r'name="csrf" value="([^"]+)"', self.get().text)
        assert secret is not None
        self.csrf = secret[1]
        return self

    def _cookies(self) -> list[tuple[str, str]]:
        return [("cookie", f"{console_app.COOKIE}={self.cookie}")] if self.cookie else []


def words(page: Answered) -> str:
    """What a page says, without its tags."""
    text = re.sub(r"<[^>]+>", " ", page.text)
    for name, sign in (
        ("&#39;", "'"),
        ("&#34;", '"'),
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&amp;", "&"),
    ):
        text = text.replace(name, sign)
    return " ".join(text.split())


def add_data(home: NodeHome, folder: Path) -> None:
    """CSV recordings of three patients, 20 s each, through the real reader."""
    import csv

    import numpy as np

    from client.ingest import add_recordings
    from client.records import guess_mapping, read_folder
    from simulations.bench_ingest import synthetic_recording

    folder.mkdir(parents=True)
    rows = []
    for number, patient in enumerate(("CANARY-a", "CANARY-b", "CANARY-c")):
        ecg, ppg = synthetic_recording(np.random.default_rng([7, number]), 2, 125.0, 125.0)
        if number == 2:
            ppg[1250:] = 0.5
        with (folder / f"r{number}.csv").open("w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(["time_s", "ecg", "ppg"])
            for index, pair in enumerate(zip(ecg, ppg, strict=True)):
                writer.writerow([f"{index / 125:.4f}", *(f"{value:.5f}" for value in pair)])
        rows.append([f"r{number}", patient, "125.0", str(40 + number)])
    with (folder / "recordings.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([["recording", "patient_id", "fs_hz", "age"], *rows])
    add_recordings(home, folder, read_folder(folder, guess_mapping(folder)), name="ward-7")
