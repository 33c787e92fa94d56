"""kill -9 of a hospital at random instants: its ledger never understates, nothing leaves unbooked.

The hospital is a process of its own that answers over a socket. This process is the network: it
sees every byte that leaves, and decides when the hospital dies. Which instants those are is left to
chance; the verdict must not depend on them.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from deployed_parts import ENVIRONMENT
from hospital_process import exactly, receive, send
from test_federation import config, draw

from client.ledger_store import LedgerStore
from shared_model import protocol, protocol_open, signing
from shared_model.ledger import Answered, Chain
from simulations.federation import Federation, found, train

NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
PATIENTS = {"east": 30, "north": 30, "south": 30, "west": 30}
VICTIM = "east"


class Line:
    """The victim's line to the world: every message, every byte that comes back, every kill."""

    def __init__(self, federation: Federation) -> None:
        self.federation = federation
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.settimeout(120)
        port = self.listener.getsockname()[1]
        script = Path(__file__).with_name("hospital_process.py")
        self.nursery = subprocess.Popen(
            [sys.executable, str(script), str(port), str(federation.root), VICTIM],
            env=ENVIRONMENT,
            stdin=subprocess.PIPE,
        )
        self.connection: socket.socket | None = None
        self.pid = 0
        self.asked: dict[str, bytes] = {}
        self.left: list[bytes] = []
        self.kills = 0
        self.chance: random.Random | None = None
        self.most = 0
        self.longest_s = 0.1

    def ask(self, header: bytes, body: bytes) -> tuple[bytes, bytes]:
        """The hospital's answer.

        Raises EOFError if it died first.
        """
        if self.connection is None:
            self._begin()
        assert self.connection is not None
        self.asked[protocol.header_digest(header)] = header
        struck = threading.Event()

        def strike() -> None:
            struck.set()
            os.kill(self.pid, signal.SIGKILL)

        killer = None
        # Not for ever in one run: a process that begins anew measures its kernels first, so that
        # it is about as slow each time as the slowest was, and nearly every try would be struck.
        if self.chance is not None and self.kills < self.most:
            killer = threading.Timer(self.chance.uniform(0.0, self.longest_s), strike)
            killer.start()
        began = time.monotonic()
        record = bytearray()
        try:
            send(self.connection, header, body)
            parts = [self._part(record), self._part(record)]
            self.longest_s = max(self.longest_s, 1.1 * (time.monotonic() - began))
            return parts[0], parts[1]
        except OSError:
            raise EOFError from None
        finally:
            if killer is not None:
                killer.cancel()
                killer.join()
            if struck.is_set():
                with contextlib.suppress(OSError):
                    record += self.stream.read()  # until it is dead; what it still said counts
                self.kills += 1
                self._bury()
            self.left.append(bytes(record))

    def _part(self, record: bytearray) -> bytes:
        """One framed part, piece by piece: what is cut off counts, too."""
        size = exactly(self.stream, 8)
        record += size
        part, wanted = b"", int.from_bytes(size, "big")
        while len(part) < wanted:
            piece = self.stream.read1(wanted - len(part))
            if not piece:
                raise EOFError
            part += piece
            record += piece
        return part

    def _begin(self) -> None:
        assert self.nursery.stdin is not None
        self.nursery.stdin.write(b"\n")
        self.nursery.stdin.flush()
        self.connection, _ = self.listener.accept()
        self.stream = self.connection.makefile("rb")
        self.pid = int(receive(self.stream))

    def _bury(self) -> None:
        if self.connection is not None:
            self.stream.close()
            self.connection.close()
            self.connection = None

    def close(self) -> None:
        self._bury()  # a living hospital ends when its line does
        self.nursery.kill()
        self.nursery.wait(60)
        assert self.nursery.stdin is not None
        self.nursery.stdin.close()
        self.listener.close()


@dataclass
class Hospitals:
    """Three hospitals in this process and the victim in its own."""

    federation: Federation
    line: Line
    again: random.Random = field(default_factory=lambda: random.Random(1))

    def handle(self, site: str, header: bytes, body: bytes) -> tuple[bytes, bytes]:
        if site != VICTIM:
            return self.federation.handle(site, header, body)
        try:
            return self.line.ask(header, body)
        except EOFError:
            if self.again.random() < 0.5:
                raise  # the coordinator hears that the message was lost
        with contextlib.suppress(EOFError):
            return self.line.ask(header, body)  # the line delivers it once more
        raise EOFError


def chain_of(federation: Federation) -> Chain:
    """The victim's ledger as it lies on the disk, every signature verified."""
    home = federation.home(VICTIM)
    with LedgerStore.open(home, VICTIM, signing.load_key_file(home.identity_key)) as store:
        return store.chain


def faults(
    asked: Mapping[str, bytes], left: Sequence[bytes], reads: Iterable[str], chain: Chain
) -> list[str]:
    """What a ledger that understates would be convicted of.

    Args:
        asked: headers that the hospital was sent, by digest. left: what came back, perhaps cut off.
        reads: digests of the headers for which data was read.
    """
    found, bodies = [], {}
    for record in left:
        size = int.from_bytes(record[:8], "big")
        header = record[8 : 8 + size]
        if (
            len(header) < size
            or not size
            or protocol_open.readable(header)["kind"] != "train-reply"
        ):
            continue
        said = protocol_open.readable(header)
        place = (said["run"], said["round"])
        booked, answered = chain.booking(*place), chain.answer(*place)
        if booked is None or booked.request_digest != said["request_digest"]:
            found.append(f"{place} left and is not booked")
        if answered is None or answered.update_digest != said["body_digest"]:
            found.append(f"{place} left and its update is not in the ledger")
        if bodies.setdefault(place, said["body_digest"]) != said["body_digest"]:
            found.append(f"two updates of {place} left")
        if chain.head_at(said["ledger"]["length"]) != said["ledger"]["head"]:
            found.append(f"the head that left with {place} is not in the ledger")
    for digest in reads:
        request = protocol_open.readable(asked[digest])
        booked = chain.booking(request["run"], request["round"])
        if booked is None or booked.request_digest != digest:
            found.append(f"data was read for {request['run']} and is not booked")
    return found


@contextlib.contextmanager
def struck(root: Path, kills: int) -> Iterator[tuple[Federation, Line]]:
    """A federation whose victim was killed so many times while it answered."""
    federation = found(
        root,
        PATIENTS,
        windows_per_patient=2,
        seed=4,
        repeatable=False,
        now=NOW,
        draw=draw,
        epsilon=1000.0,
    )
    line = Line(federation)
    try:
        hospitals = Hospitals(federation, line)
        record = train(federation, config(run="calm"), hospitals=hospitals)
        assert record.state == "finished"
        line.chance, line.most = random.Random(os.urandom(8)), kills
        for number in range(1, 4 * kills):
            train(federation, config(run=f"wild-{number}", rounds=3), hospitals=hospitals)
            if line.kills >= kills:
                break
        line.chance = None
        record = train(federation, config(run="calm-again"), hospitals=hospitals)
        assert record.state == "finished"
        yield federation, line
    finally:
        line.close()


def reads(federation: Federation) -> set[str]:
    return set((federation.home(VICTIM).root / "pretend" / "reads").read_text().split())


def test_ten_kills_around_rounds_leave_a_ledger_that_knows_all_that_left(tmp_path):
    """And the checker is not blind: without its last booking the same ledger is convicted."""
    with struck(tmp_path, 10) as (federation, line):
        assert line.kills >= 10
        chain = chain_of(federation)
        assert reads(federation)
        assert not faults(line.asked, line.left, reads(federation), chain)
        answers = [link for link in chain.links if isinstance(link.entry, Answered)]
        before = chain.links[: chain.links.index(answers[-1]) - 1]
        shorter = Chain(chain.site, chain.identity_key, before)
        assert faults(line.asked, line.left, reads(federation), shorter)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_fifty_kills_around_rounds_leave_a_ledger_that_knows_all_that_left(tmp_path):
    with struck(tmp_path, 50) as (federation, line):
        assert line.kills >= 50
        assert not faults(line.asked, line.left, reads(federation), chain_of(federation))
