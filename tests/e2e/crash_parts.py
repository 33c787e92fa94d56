"""Kills of named processes at named points of a deployed run, seen from outside only.

A point is something that appears in a folder of the coordinator or of a hospital: a request, a
durable step, a submission, a receipt. It is watched by looking; then that very process gets kill -9
and what ended is started again, as a service manager would. No code of the product knows of it.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from deployed_parts import (
    ENVIRONMENT,
    alive,
    allow_runs,
    command,
    descendants,
    fill_store,
    free_port,
    make_root,
    sign_roster,
)

from client import state, steps
from client.home import NodeHome
from client.ledger_store import LedgerStore
from server.checkpoints import RunFolder
from shared_model import signing
from shared_model import weights as weights_io
from shared_model.errors import FedprintError

SITES = ("alpha", "beta", "gamma")
VICTIM = "beta"
RUN = "matrix"
ROUNDS, STEPS = 2, 3
SEED = "5"
LOOK_S = 0.004
TOML = f"""
run = "{RUN}"
preset = "tiny"
rounds = {ROUNDS}
minimum_contributors = 3
deadline_s = 900.0
gather_s = 600.0
patience_s = 900.0
trip_s = 900.0
rekey_s = 900.0
poll_s = 0.2

[privacy]
sample_rate = 0.5
noise_multiplier = 2.0
clipping_norm = 1.0
steps = {STEPS}

[training]
trainable = "head"
segments = 1
patch_masks = 1
"""


@dataclass(frozen=True)
class Point:
    """order: for sorting points of several processes. seen: whether it has happened."""

    name: str
    order: tuple[int, int]
    seen: Callable[[Path], bool]


@dataclass(frozen=True)
class Strike:
    """kill -9 of `process` ("coordinator", "SuperLink", "node", "training") at a point."""

    process: str
    point: Point

    def __str__(self) -> str:
        return f"{self.process} at {self.point.name}"


# ---------------------------------------------------------------- points


def _outbox(root: Path, number: int) -> Path:
    return root / VICTIM / "outbox" / RUN / f"{number:07d}"


def _entries(root: Path) -> int:
    try:
        return int(json.loads(NodeHome(root / VICTIM).ledger_note.read_bytes())["length"])
    except (OSError, ValueError, KeyError):
        return 0


def _step(root: Path, number: int) -> int:
    """The last durable step; all of them once the state is removed after the reply."""
    folder = _outbox(root, number)
    if (folder / "reply.header").exists():
        return STEPS
    try:
        claim = (folder / "request").read_text()
        return steps.from_bytes((folder / "step").read_bytes(), claim, STEPS).step
    except (OSError, FedprintError):
        return 0


def _run(root: Path) -> Path:
    return root / "coordinator" / "runs" / RUN


def _ended(root: Path, number: int) -> bool:
    try:
        record = json.loads((_run(root) / "run.json").read_bytes())
    except (OSError, ValueError):
        return False
    return len(record["rounds"]) >= number


def _open(root: Path, number: int, pattern: str) -> bool:
    """A file of the open round; its folder goes when the round has ended."""
    folder = _run(root) / "open" / f"{number:04d}"
    return any(folder.glob(pattern)) or _ended(root, number)


def _verified(root: Path, number: int) -> bool:
    try:
        path = _run(root) / "sums" / f"{number:04d}.closing.json"
        return json.loads(path.read_bytes())["state"] == "verified"
    except (OSError, ValueError, KeyError):
        return False


def _order(number: int, place: int) -> tuple[int, int]:
    """What follows a round's end (70 and more) goes on beside the next round, and to its end."""
    return (number, place) if place < 70 else (ROUNDS, place + number)


def node_points() -> list[Point]:
    """What happens at one hospital, in order."""
    found = [
        Point(
            f"{VICTIM}'s epoch key is made",
            (0, 1),
            lambda root: (root / VICTIM / "never-back-up" / "epoch.json").exists(),
        )
    ]
    for number in range(1, ROUNDS + 1):

        def there(name: str, number: int = number) -> Callable[[Path], bool]:
            return lambda root: (_outbox(root, number) / name).exists()

        def entries(count: int) -> Callable[[Path], bool]:
            return lambda root: _entries(root) >= count

        def step(wanted: int, number: int = number) -> Callable[[Path], bool]:
            return lambda root: _step(root, number) >= wanted

        happens: list[tuple[str, Callable[[Path], bool]]] = [
            ("is claimed", there("request")),
            ("is booked", entries(2 * number + 1)),  # after the first entry and the approval
            *((f"step {k} of {STEPS} is durable", step(k)) for k in range(1, STEPS + 1)),
            ("the body is prepared", there("prepared")),
            ("the answer is in the ledger", entries(2 * number + 2)),
            ("the submission is stored", there("reply.header")),
            ("the agreement is signed", there("agreement.header")),
            ("rows are opened", there("opened")),
            ("the receipt is written", there("receipt.header")),
        ]
        places = (10, 11, 12, 13, 14, 15, 16, 17, 30, 50, 70)
        found += [
            Point(f"round {number}: {VICTIM}: {name}", _order(number, place), seen)
            for place, (name, seen) in zip(places, happens, strict=True)
        ]
    return found


def coordinator_points() -> list[Point]:
    """What happens at the coordinator, in order."""
    found = [Point("the run is begun", (0, 0), lambda root: (_run(root) / "run.json").exists())]
    for number in range(1, ROUNDS + 1):

        def opened(pattern: str, number: int = number) -> Callable[[Path], bool]:
            return lambda root: _open(root, number, pattern)

        def submitted(site: str, number: int = number) -> Callable[[Path], bool]:
            name = f"{number:04d}/{site}.header"
            return lambda root: (_run(root) / "submissions" / name).exists()

        happens: list[tuple[int, str, Callable[[Path], bool]]] = [
            (1, "the request is stored", opened("request.header")),
            *((20, f"{s}'s submission is stored", submitted(s)) for s in SITES),
            (25, "the survivors are chosen", opened("agreed.json")),
            *((40, f"{s}'s agreement is stored", opened(f"agreement-{s}.header")) for s in SITES),
            (45, "the opening is asked", opened("opening-*.json")),
            *((60, f"{s}'s shares are stored", opened(f"shares-*-{s}.header")) for s in SITES),
            (65, "the round has ended", lambda root, n=number: _ended(root, n)),
            (80, "its sum is verified", lambda root, n=number: _verified(root, n)),
        ]
        found += [
            Point(f"round {number}: {name}", _order(number, place), seen)
            for place, name, seen in happens
        ]
    return found


def strikes() -> dict[str, list[Strike]]:
    """All named points of the four processes."""
    at_node, at_coordinator = node_points(), coordinator_points()
    last = at_coordinator.pop()  # then the run is over and its processes end
    assert last.name.endswith("verified")
    return {
        "coordinator": [Strike("coordinator", one) for one in at_coordinator],
        "SuperLink": [Strike("SuperLink", one) for one in at_coordinator],
        "node": [Strike("node", one) for one in at_node],
        "training": [Strike("training", one) for one in at_node],
    }


# ---------------------------------------------------------------- processes


@dataclass
class Service:
    """A command that is started again whenever it ends, but for status 0."""

    words: tuple[str, ...]
    log: Path
    starts: int = 0
    process: subprocess.Popen[bytes] | None = None
    seen: set[int] = field(default_factory=set)

    @property
    def done(self) -> bool:
        return self.process is not None and self.process.poll() == 0

    @property
    def pid(self) -> int:
        return 0 if self.process is None or self.process.poll() is not None else self.process.pid

    def keep(self) -> None:
        """Start it, or start it again."""
        if self.done or self.pid:
            return
        with self.log.open("ab") as stream:
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-m", "simulations.deployed", *self.words],
                env=ENVIRONMENT,
                stdout=stream,
                stderr=stream,
            )
        self.starts += 1

    def look(self) -> None:
        if self.pid:
            self.seen |= descendants(self.pid)

    def end(self) -> None:
        """Kill it with all it started."""
        self.look()
        if self.process is not None:
            for pid in sorted(self.seen):
                if alive(pid):
                    os.kill(pid, signal.SIGKILL)
            self.process.wait(60)


@dataclass
class Consortium:
    """Three hospitals and a coordinator as services, below a folder."""

    root: Path
    services: dict[str, Service]

    @property
    def coordinator(self) -> Service:
        return self.services["coordinator"]

    def keep(self) -> None:
        for service in self.services.values():
            service.keep()

    def pid(self, process: str) -> int:
        """Of one of the four that are struck; 0 while it does not run."""
        if process == "coordinator":
            return self.coordinator.pid
        if process == "node":
            return self.services[VICTIM].pid
        if process == "training":
            shown = state.node_state(NodeHome(self.root / VICTIM))
            listed = shown.processes if shown is not None else ()
            pids = [one.pid for one in listed if one.name == "training" and one.pid]
            pids = [pid for pid in pids if _command_has(pid, "work_non_private_for_tests")]
            return pids[0] if pids else 0
        below = descendants(self.coordinator.pid) if self.coordinator.pid else set()
        return next((pid for pid in sorted(below) if _command_has(pid, "serve_superlink")), 0)

    def strike(self, one: Strike, deadline_s: float) -> None:
        """Wait for the point, then kill -9."""
        end = time.monotonic() + deadline_s
        looked = 0.0
        while not one.point.seen(self.root):
            assert time.monotonic() < end, f"not within {deadline_s:.0f} s: {one.point.name}"
            if time.monotonic() - looked > 0.1:
                self.keep()
                looked = time.monotonic()
            time.sleep(LOOK_S)
        while not (pid := self.pid(one.process)):
            assert time.monotonic() < end, f"{one.process} does not run"
            self.keep()
            time.sleep(0.02)
        os.kill(pid, signal.SIGKILL)
        while alive(pid) and time.monotonic() < end:
            self.keep()
            time.sleep(0.01)

    def finish(self, deadline_s: float) -> None:
        """Until the coordinator says that the run is finished."""
        end = time.monotonic() + deadline_s
        while not self.coordinator.done:
            assert time.monotonic() < end, self.coordinator.log.read_text()[-3000:]
            self.keep()
            time.sleep(0.05)

    def digest(self) -> str:
        """Of the final model; the run has to be whole."""
        folder = RunFolder(_run(self.root))
        record = folder.record()
        assert (record.state, record.completed) == ("finished", ROUNDS)
        assert [item.round for item in record.rounds] == list(range(1, ROUNDS + 1))
        assert all(len(item.contributors) == len(SITES) for item in record.rounds)
        assert all(_verified(self.root, number) for number in range(1, ROUNDS + 1))
        for site in SITES:
            home = NodeHome(self.root / site)
            with LedgerStore.open(home, site, signing.load_key_file(home.identity_key)) as store:
                chain = store.chain
            assert [item.round for item in chain.bookings] == list(range(1, ROUNDS + 1))
            assert chain.answered_bookings == chain.bookings
        return weights_io.digest(folder.weights(record))


def _command_has(pid: int, word: str) -> bool:
    try:
        return word in Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return False


def make_template(root: Path) -> None:
    """Enrolled and joined, nothing started; copied for each case, which has the same port."""
    home, invitation = str(root / "coordinator"), root / "coordinator.json"
    card = str(make_root(root))
    address = f"127.0.0.1:{free_port()}"
    command("fedprint-coordinator", "init", "--home", home, "--address", address, "--root", card)
    command("fedprint-coordinator", "invitation", "--home", home, "-o", str(invitation))
    for site in SITES:
        node = str(root / site)
        command("fedprint-node", "init", "--home", node, "--site", site, "--patients", "12")
        allow_runs(root / site)
        settings = root / site / "node.toml"
        settings.write_text(settings.read_text().replace("enabled = true", "enabled = false"))
        command("fedprint-node", "join", str(invitation), "--home", node, "--yes")
        fill_store(root / site, patients=12, seed=len(site))
        command("fedprint-coordinator", "enrol", str(root / site / "site.json"), "--home", home)
    sign_roster(root, SITES)
    (root / "run.toml").write_text(TOML)


@contextmanager
def deployed(template: Path, root: Path) -> Iterator[Consortium]:
    """A copy of the template with its services; all are killed in the end."""
    shutil.copytree(template, root)
    services = {
        site: Service(("node", str(root / site), SEED), root / f"{site}.log") for site in SITES
    }
    words = ("coordinator", str(root / "coordinator"), str(root / "run.toml"))
    services["coordinator"] = Service(words, root / "coordinator.log")
    try:
        yield Consortium(root, services)
    finally:
        for service in services.values():
            service.end()


def struck(template: Path, root: Path, case: Sequence[Strike], deadline_s: float = 400.0) -> str:
    """The final model's digest of a run that was struck so."""
    with deployed(template, root) as consortium:
        consortium.keep()
        for one in sorted(case, key=lambda strike: strike.point.order):
            consortium.strike(one, deadline_s)
            print(f"{time.strftime('%H:%M:%S')} struck {one}", flush=True)
        consortium.finish(deadline_s)
        digest = consortium.digest()
    return digest
