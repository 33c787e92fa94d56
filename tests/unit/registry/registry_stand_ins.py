"""Coordinators, nodes and the registry for tests: without network, or over TLS in a thread."""

from __future__ import annotations

import asyncio
import datetime
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client import keys, registry_client, registry_join
from client.home import NodeHome
from server import registry_enrolment, rosters, superlink, tls
from server.home import CoordinatorHome
from server.registry import Registry
from server.registry_book import RegistryBook
from server.registry_desk import Desk
from server.registry_limits import RegistryLimits
from shared_model import enrolment, registry, signing
from shared_model.enrolment import RootCard
from shared_model.registry import Token
from shared_model.release_files import write_release
from shared_model.release_signed import ReleaseBytes

TODAY = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
"""Certificates are checked against the machine's clock by TLS; so tests live today."""
ROOT_KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


def coordinator_at(folder: Path, port: int = 40000) -> CoordinatorHome:
    """A coordinator that is set up and has a root key."""
    home = CoordinatorHome(folder / "coordinator")
    home.make()
    tls.make(home, "127.0.0.1:40001", now=TODAY)
    signing.create_key_file(home.run_key)
    signing.create_key_file(home.release_key)
    superlink.write_config(
        home, superlink.CoordinatorConfig(address="127.0.0.1:40001", registry_port=port)
    )
    card = RootCard(root_key=signing.public_bytes(ROOT_KEY).hex())
    rosters.pin_root(home, enrolment.seal(card, ROOT_KEY))
    return home


def node_at(folder: Path, site: str, patients: int = 100) -> NodeHome:
    node = NodeHome(folder)
    keys.make(node, site, patients)
    return node


def fingerprint(pem: str) -> str:
    return x509.load_pem_x509_certificate(pem.encode()).fingerprint(hashes.SHA256()).hex()


def write_a_release(home: CoordinatorHome, number: int, size_bytes: int = 1000) -> None:
    """A folder that looks like a release; nothing in it verifies."""
    files = ReleaseBytes(b"{}", bytes(64), bytes(range(256)) * (size_bytes // 256 + 1), b"[]")
    write_release(home.releases / f"{number:04d}", files)


@dataclass
class Counter:
    """Desk, book and a clock that tests set."""

    home: CoordinatorHome
    limits: RegistryLimits
    now: datetime.datetime = TODAY

    def __enter__(self) -> Self:
        self.book = RegistryBook(self.home)
        self.desk = Desk(self.home, self.book, self.limits, lambda: self.now)
        return self

    def __exit__(self, *error: object) -> None:
        self.book.__exit__(None, None, None)

    def invite(self, site: str, *, replaces: bool = False, days: float = 14) -> Token:
        return registry_enrolment.invite(
            self.home, self.book, site, replaces=replaces, days=days, now=self.now
        )

    def admit(self, site: str) -> None:
        waits = self.book.waiting_of(site)
        assert waits is not None
        card = enrolment.open_site_card(waits.card)
        registry_enrolment.admit(self.home, self.book, site, card)


@dataclass
class Member:
    """A node as the desk sees it: its home, TLS key and certificate's fingerprint."""

    node: NodeHome
    key: ec.EllipticCurvePrivateKey
    certificate: str = ""

    @property
    def site(self) -> str:
        return keys.load_config(self.node).site

    @property
    def identity(self) -> Ed25519PrivateKey:
        return signing.load_key_file(self.node.identity_key)

    @property
    def enrol(self) -> registry.Enrol:
        point = registry.tls_point(self.key.public_key())
        return registry.Enrol(
            card=keys.card_bytes(self.node).decode(),
            tls_key=point,
            signature=registry.sign_tls_key(self.identity, self.site, point),
        )


@dataclass
class Hall:
    """Hospitals before the desk."""

    folder: Path
    counter: Counter
    count: int = field(default=0)

    def member(self, site: str) -> Member:
        self.count += 1
        node = node_at(self.folder / f"{site}-{self.count}", site)
        return Member(node, ec.generate_private_key(ec.SECP256R1()))

    def ask(self, method: str, certificate: str, message: registry.Message | bytes) -> bytes:
        data = message if isinstance(message, bytes) else message.to_bytes()
        return self.counter.desk.answer(method, certificate, data)

    def enrol(self, member: Member, token: Token) -> registry.Certificate:
        reply = registry.Certificate.from_bytes(
            self.ask("Enrol", fingerprint(token.certificate), member.enrol)
        )
        member.certificate = fingerprint(reply.certificate)
        return reply

    def waiting(self, site: str) -> Member:
        """A hospital that has used its token."""
        member = self.member(site)
        self.enrol(member, self.counter.invite(site))
        return member

    def admitted(self, site: str) -> Member:
        member = self.waiting(site)
        self.counter.admit(site)
        return member

    def standing(self, member: Member) -> registry.Standing:
        return registry.Standing.from_bytes(
            self.ask("Standing", member.certificate, registry.Ask())
        )


class Served:
    """A registry in a thread. Its own book; tests open another."""

    def __init__(self, home: CoordinatorHome, limits: RegistryLimits) -> None:
        self.home, self.limits, self.port = home, limits, 0
        self.faults = logging.Logger("test")
        self.records: list[logging.LogRecord] = []
        handler = logging.Handler()
        handler.emit = self.records.append  # type: ignore[method-assign]
        self.faults.addHandler(handler)

    def start(self, port: int = 0) -> None:
        self._ready, self._loop = threading.Event(), asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, args=(port,), daemon=True)
        self._thread.start()
        assert self._ready.wait(30)

    def _run(self, port: int) -> None:
        asyncio.set_event_loop(self._loop)

        async def live() -> None:
            self._end = asyncio.Event()
            with RegistryBook(self.home) as book:
                server = Registry(self.home, book, self.limits, self.faults)
                self.port = await server.start("127.0.0.1", port)
                self._ready.set()
                await self._end.wait()
                await server.stop()

        self._loop.run_until_complete(live())
        self._loop.close()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(30)
        assert not self._thread.is_alive()

    @contextmanager
    def book(self) -> Iterator[Counter]:
        with Counter(self.home, self.limits) as counter:
            yield counter

    def joined(self, folder: Path, site: str, *, admitted: bool = True) -> NodeHome:
        """A node that has joined with a token, over the network."""
        node = node_at(folder, site)
        with self.book() as counter:
            token = counter.invite(site)
        registry_join.pin(node, token, registry_join.offer(node, token))
        if admitted:
            with self.book() as counter:
                counter.admit(site)
        return node

    @contextmanager
    def session(self, node: NodeHome) -> Iterator[registry_client.Session]:
        with registry_client.opened(node, datetime.datetime.now(datetime.UTC)) as session:
            yield session


@contextmanager
def served(home: CoordinatorHome, limits: RegistryLimits) -> Iterator[Served]:
    """Start on a free port and write it into the coordinator's configuration."""
    running = Served(home, limits)
    running.start()
    config = superlink.load_config(home)
    superlink.write_config(home, config.model_copy(update={"registry_port": running.port}))
    try:
        yield running
    finally:
        running.stop()
