"""kill -9 of a hospital at its durable writes, with its real ledger, training and masks.

The unit tests strike a node with books in memory; here SQLite's commits, the notes of the ledger
and the states of real training are struck too.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "rounds"))
sys.path.insert(0, str(Path(__file__).parent))
from killer import MODES, Killed, Killer
from test_federation import config, draw

import client.outbox
from client.home import NodeHome
from client.ledger_store import LedgerStore
from client.node_interfaces import Node, PretendNode
from client.node_parts import node_from_home
from client.round import answer
from shared_model import files, protocol, protocol_open, signing
from shared_model.noise import NonPrivateForTests
from shared_model.protocol import TrainReply, TrainRequest
from simulations.federation import Federation, SimulatedPatients, found, train

NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
PLAN = {"sample_rate": 0.3, "noise_multiplier": 2.0, "clipping_norm": 1.0, "steps": 2}
VICTIM = "east"


@dataclass
class Watching:
    """Answers for all, and keeps the victim's folder as it was before it was asked to train."""

    federation: Federation
    before: Path
    asked: list[tuple[bytes, bytes]] = field(default_factory=list)

    def handle(self, site: str, header: bytes, body: bytes) -> tuple[bytes, bytes]:
        kind = protocol_open.readable(header)["kind"]
        if site == VICTIM and kind == protocol.kind_of(TrainRequest):
            shutil.copytree(self.federation.home(site).root, self.before)
            self.asked.append((header, body))
        return self.federation.handle(site, header, body)


@dataclass(frozen=True)
class Asked:
    """A hospital's folder, and the request that comes to it."""

    before: Path
    header: bytes
    body: bytes

    def node(self, root: Path) -> Node:
        """A new process of the hospital; its noise and its entropy repeat."""
        counter = iter(range(1000))
        pretend = PretendNode(
            data=SimulatedPatients(root / "pretend"),
            noise=lambda asked, site: NonPrivateForTests(asked.run, site, asked.round, 4),
            unlimited_budget=True,
        )
        return replace(
            node_from_home(NodeHome(root), pretend),
            entropy=lambda size: hashlib.shake_256(bytes([next(counter)])).digest(size),
        )

    def answer(self, root: Path) -> tuple[bytes, bytes]:
        return answer(self.node(root), self.header, self.body)


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Asked:
    root = tmp_path_factory.mktemp("federation")
    federation = found(
        root / "all",
        {"east": 20, "north": 20, "south": 20},
        windows_per_patient=2,
        seed=4,
        repeatable=True,
        now=NOW,
        draw=draw,
        epsilon=1000.0,
    )
    watching = Watching(federation, root / "before")
    record = train(federation, config(rounds=1, privacy=PLAN), hospitals=watching)
    assert record.state == "finished"
    return Asked(watching.before, *watching.asked[0])


@contextlib.contextmanager
def deadly(killer: Killer) -> Iterator[None]:
    """Every durable write of outbox and ledger is the killer's. What a kill leaves is on the disk
    without flushing: only a power cut loses that."""
    real = LedgerStore._commit

    def commit(store: LedgerStore) -> None:
        if not killer.strikes():
            real(store)
            return
        if killer.mode == "after":
            real(store)
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        patch.setattr(client.outbox, "write_atomic", killer.write)
        patch.setattr(files, "write_atomic", killer.write)
        patch.setattr(LedgerStore, "_commit", commit)
        yield


def said(pair: tuple[bytes, bytes]) -> dict[str, Any]:
    """What a reply says, but for its ledger: that has times in it."""
    assert pair[1], protocol_open.readable(pair[0])
    found = dict(protocol_open.readable(pair[0]))
    assert found["kind"] == protocol.kind_of(TrainReply)
    del found["ledger"]
    return found


def check(asked: Asked, root: Path, killer: Killer, wanted: tuple[bytes, bytes]) -> None:
    """Killed, started anew, asked again: the undisturbed submission; booked and answered once."""
    shutil.copytree(asked.before, root)
    left = []
    with deadly(killer), contextlib.suppress(Killed):
        left.append(asked.answer(root))
    left += [asked.answer(root), asked.answer(root)]
    assert len(set(left)) == 1
    assert (said(left[0]), left[0][1]) == (said(wanted), wanted[1])
    home = NodeHome(root)
    with LedgerStore.open(home, VICTIM, signing.load_key_file(home.identity_key)) as store:
        chain = store.chain
    assert len(chain.bookings) == 1
    assert chain.answered_bookings == chain.bookings


@pytest.fixture(scope="module")
def undisturbed(asked: Asked, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, int]:
    """The reply, and how many durable writes it takes."""
    root, never = tmp_path_factory.mktemp("undisturbed") / "root", Killer(1000, "after")
    shutil.copytree(asked.before, root)
    with deadly(never):
        reply = asked.answer(root)
    return reply, 1000 - never.left


def test_a_hospital_killed_at_some_writes_sends_the_undisturbed_submission(
    asked: Asked, undisturbed: tuple[Any, int], tmp_path: Path
) -> None:
    """A sample: every fifth write, before, in the middle and after by turns."""
    reply, writes = undisturbed
    assert writes > 20
    for count in range(0, writes, 5):
        killer = Killer(count, MODES[count % 3])
        check(asked, tmp_path / f"{count}", killer, reply)
        assert killer.fired


@pytest.mark.long
@pytest.mark.parametrize("mode", MODES)
def test_a_hospital_killed_at_any_write_sends_the_undisturbed_submission(
    asked: Asked, undisturbed: tuple[Any, int], tmp_path: Path, mode: str
) -> None:
    """Every one."""
    reply, writes = undisturbed
    for count in range(writes):
        check(asked, tmp_path / f"{count}", Killer(count, mode), reply)
