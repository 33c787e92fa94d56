"""Deployed rounds while processes of hospitals and coordinator are killed and stopped at random.

Real processes over TLS on loopback. Faults are drawn from a seed; when they strike is up to the
machine. FEDPRINT_SOAK_DEPLOYED overrides the number of rounds.
"""

from __future__ import annotations

import collections
import json
import os
import random
import signal
import sys
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from deployed_parts import Running, command, free_port, make_root, running, sign_roster, wait_for
from test_deployed import SITES, make_node

from client import state
from client.home import NodeHome
from server.checkpoints import RunFolder, RunRecord

pytestmark = [pytest.mark.deployed, pytest.mark.long, pytest.mark.timeout(6 * 3600)]

ROUNDS = int(os.environ.get("FEDPRINT_SOAK_DEPLOYED", "50"))
SEED = 5
FAULTS = ("kill training", "kill SuperNode", "stop training", "stop SuperNode", "kill node")
RUN = """run = "soak"
preset = "tiny"
rounds = {rounds}
begin_with = "random-weights"
gather_s = 20.0
trip_s = 300.0
poll_s = 0.2
max_failed_rounds = 1000
[privacy]
sample_rate = 0.2
noise_multiplier = 4.0
clipping_norm = 1.0
steps = 1
"""


@dataclass
class Place:
    """Hospitals and a coordinator that are started again and again."""

    root: Path
    stack: ExitStack
    rng: random.Random
    nodes: dict[str, Running] = field(default_factory=dict)
    coordinator: Running | None = None
    starts: int = 0
    counts: collections.Counter[str] = field(default_factory=collections.Counter)

    def start_node(self, site: str) -> None:
        words = ("fedprint-node", "start", "--home", str(self.root / site))
        self.nodes[site] = self.stack.enter_context(running(self.root / f"{site}.log", *words))

    def start_coordinator(self) -> None:
        self.starts += 1
        log = self.root / f"coordinator-{self.starts}.log"
        begin = () if self.folder.exists else ("--config", str(self.root / "run.toml"))
        words = ("fedprint-coordinator", "start", "--home", str(self.root / "coordinator"))
        again = () if begin else ("--resume",)
        self.coordinator = self.stack.enter_context(
            running(log, *words, "--run", "soak", *begin, *again)
        )

    @property
    def folder(self) -> RunFolder:
        return RunFolder(self.root / "coordinator" / "runs" / "soak")

    @property
    def record(self) -> RunRecord | None:
        return self.folder.record() if self.folder.exists else None

    def finished(self) -> bool:
        """Whether the run and its coordinator have ended; one that ended before is started."""
        assert self.coordinator is not None
        if self.coordinator.process.poll() is None:
            self.coordinator.look()
            return False
        record = self.record
        if record is not None and record.state == "finished":
            return True
        self.counts["coordinator ended by itself"] += 1
        print(f"ended {self.coordinator.process.returncode}: {self.coordinator.text()[-500:]}")
        assert self.counts["coordinator ended by itself"] < 50
        self.start_coordinator()
        return False

    def strike(self) -> None:
        """One fault, now."""
        fault = self.rng.choice((*FAULTS, "kill coordinator"))
        site = self.rng.choice(SITES)
        how, _, name = fault.partition(" ")
        self.counts[fault] += 1
        if name == "coordinator":
            assert self.coordinator is not None
            self.coordinator.kill_tree()
            self.start_coordinator()
        elif name == "node":
            self.nodes[site].kill_tree()
            self.start_node(site)
        else:
            pid = self._pid(site, name)
            if pid is None:
                return
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL if how == "kill" else signal.SIGSTOP)
                if how == "stop":
                    self._for(self.rng.uniform(2.0, 20.0))
                    os.kill(pid, signal.SIGCONT)

    def _pid(self, site: str, name: str) -> int | None:
        found = state.node_state(NodeHome(self.root / site))
        processes = () if found is None else found.processes
        return next((item.pid for item in processes if item.name == name), None)

    def _for(self, seconds: float) -> None:
        """The length of a fault; or shorter, if the run ends meanwhile."""
        end = time.monotonic() + seconds
        wait_for(lambda: time.monotonic() >= end or self.finished(), "time passes", seconds + 60.0)

    def play(self) -> None:
        """Faults, one after the other, until the run is finished."""
        while not self.finished():
            self._for(self.rng.uniform(5.0, 40.0))
            record = self.record
            if record is None or record.state == "finished":
                continue
            for site, node in self.nodes.items():
                assert node.process.poll() is None, f"{site}: {node.text()[-2000:]}"
                node.look()
            self.strike()


def test_deployed_rounds_under_kills_and_stops_lose_nothing(tmp_path: Path) -> None:
    """Every sum is verified by all its sites; every answer that a site has booked is in the record,
    in a sum or with the reason why not; nothing is paid twice."""
    home = str(tmp_path / "coordinator")
    invitation = tmp_path / "coordinator.json"
    address = ("--address", f"127.0.0.1:{free_port()}")
    card = ("--root", str(make_root(tmp_path)))
    command("fedprint-coordinator", "init", "--home", home, *address, *card)
    command("fedprint-coordinator", "invitation", "--home", home, "-o", str(invitation))
    for site in SITES:
        make_node(tmp_path, site, invitation)
        card_of_site = str(tmp_path / site / "site.json")
        command("fedprint-coordinator", "enrol", card_of_site, "--home", home)
    sign_roster(tmp_path, SITES)
    (tmp_path / "run.toml").write_text(RUN.format(rounds=ROUNDS))
    with ExitStack() as stack:
        place = Place(tmp_path, stack, random.Random(SEED))
        for site in SITES:
            place.start_node(site)
        place.start_coordinator()
        place.play()
        record = place.record
    assert record is not None
    print(
        f"faults {dict(place.counts)}, {len(record.rounds)} rounds, {record.completed} with a sum"
    )
    states = collections.Counter(
        place.folder.closing(done.round).state
        for done in record.rounds
        if done.outcome == "aggregated"
    )
    print(f"closing {dict(states)}, late {len(record.late)}")
    assert record.completed == ROUNDS
    assert states == {"verified": ROUNDS}
    for site in SITES:
        said = command("fedprint-node", "spend", "--home", str(tmp_path / site), "--json")
        rows = json.loads(said.stdout)["rounds"]
        assert len({row["round"] for row in rows}) == len(rows)
        booked = {row["round"]: row["answered"] for row in rows}
        for done in record.rounds:
            inside = site in {one.site for one in done.contributors}
            assert not inside or booked.get(done.round)
            if booked.get(done.round) and not inside:
                why = {one.site: one.ending for one in done.absent}.get(site, done.reason)
                late = {(one.site, one.round) for one in record.late}
                print(f"{site}, round {done.round}: answered, in no sum: {why}")
                assert why or (site, done.round) in late
