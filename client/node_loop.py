"""The loop that supervises: looks around, asks `client.supervisor`, carries out what it says."""

from __future__ import annotations

import datetime
import importlib.util
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from client import limits, notify, rest, state, supervisor
from client.home import NodeHome
from client.node_logs import Formatter, Level, LogFile, Pump, put_aside
from client.settings import NodeSettings, settings_of
from client.supernode_lines import cause_of, link_of
from client.supervisor import Link, Name
from shared_model.children import Child, Family
from shared_model.errors import FedprintError, PeerFault

QUIET = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
WATCH_S = 0.5
WRITE_S = 5.0
"""Seconds between two writes of state/node.json if nothing changes."""
CONSOLE = "client.console_app"
LOGS: Mapping[Name, str] = {
    "SuperNode": "supernode.log",
    "training": "training.log",
    "console": "console.log",
}


@dataclass(frozen=True)
class Place:
    """What does not change while the node runs.

    free_port: a free port of this machine, the given one if it is. check_books: see `client.node`.
    work: entry of the training process.
    """

    home: NodeHome
    address: str
    certificate: Path
    secret: Path = field(repr=False)
    free_port: Callable[[int], int]
    check_books: Callable[[NodeHome], None]
    work: str = "client.app:work"


class Loop:
    """One start of the node. Use from the main thread."""

    def __init__(
        self, place: Place, settings: NodeSettings, family: Family, tell: Callable[[str], None]
    ) -> None:
        self.place, self.settings, self.family, self.tell = place, settings, family, tell
        self.home = place.home
        self.state = supervisor.State()
        self.log = LogFile(self.home.logs / "node.log", settings.log)
        self.notifier = notify.of_this_process()
        self._port = place.free_port(0)
        self._children: dict[Name, Child] = {}
        self._pumps: dict[Name, Pump] = {}
        self._begun_s: dict[Name, float] = {}
        self._links: queue.SimpleQueue[Link] = queue.SimpleQueue()
        self._wake = threading.Event()
        self._later: list[supervisor.Event] = []
        self._over_memory = False
        self._reread = False
        self._wrong = ""
        self._file = self._file_time()
        self._shown: state.NodeState | None = None
        self._told = ""

    # ------------------------------------------------------------ life

    def run(self, on_start: Callable[[], None]) -> None:
        """Until interrupted.

        Raises:
            FedprintError: what no restart mends.
        """
        state.write_progress(self.home, None)
        if sys.stdin is None or not sys.stdin.isatty():  # else it says that the terminal is gone
            signal.signal(signal.SIGHUP, self._hang_up)
        self.say("info", "the node starts", site=self.settings.site)
        self.turn()
        on_start()
        self.notifier.send(READY="1")
        while True:
            self._wake.wait(WATCH_S)
            self._wake.clear()
            self.turn()

    def ending(self, error: BaseException) -> None:
        """The processes are about to be ended."""
        why = error.message if isinstance(error, FedprintError) else ""
        self.notifier.send(STOPPING="1", STATUS=why or "ending")
        self.say("error" if why else "info", "the node ends", why=why)
        self._show("stopping", why)

    def ended(self, error: BaseException) -> None:
        """They have ended."""
        for pump in self._pumps.values():
            pump.finish(2.0)
        self._children.clear()
        rest.leave_mark(self.home).unlink(missing_ok=True)
        state.write_progress(self.home, None)
        self._show("stopped", error.message if isinstance(error, FedprintError) else "")

    def say(self, level: Level, message: str, **more: object) -> None:
        """A line of node.log."""
        self.log.write(Formatter(self.settings.log, "node").own(level, message, **more))

    def _hang_up(self, *_: object) -> None:
        self._reread = True

    # ------------------------------------------------------------ one look

    def turn(self) -> None:
        """Look around once and do what follows."""
        self._read_settings()
        self._watch_memory()
        self._put_rounds_aside()
        now_s = time.monotonic()
        events: list[supervisor.Event] = [
            self._gone(name, child, now_s)
            for name, child in list(self._children.items())
            if child.exit_code is not None
        ]
        told = [self._links.get() for _ in range(self._links.qsize())]
        if "SuperNode" in self._children:  # what one that has ended said is over
            events += [supervisor.Told(link) for link in told]
        events.append(self._look(now_s))
        while events:
            self.state, actions = supervisor.advance(self.state, events.pop(0))
            for action in actions:
                self._do(action)
            events += self._later
            self._later = []
        phase, why = supervisor.in_words(self.state, self._rest_words)
        self._show(phase, " ".join(filter(None, (why, self._wrong))))
        if self.notifier.watchdog_s:
            self.notifier.send(WATCHDOG="1")

    def _look(self, now_s: float) -> supervisor.Looked:
        now = datetime.datetime.now().time()
        why = rest.rest_of(self.settings.training, state.paused(self.home), now)
        return supervisor.Looked(
            now_s,
            why,
            why != "" and rest.unfinished(self.home.outbox, time.time()),
            self.settings.console.enabled and importlib.util.find_spec(CONSOLE) is not None,
        )

    def _rest_words(self, why: supervisor.Rest) -> str:
        if why == "paused":
            paused = state.paused(self.home)
            said = f": {paused.why}" if paused is not None and paused.why else ""
            return f"Paused by the operator{said}. fedprint-node resume goes on."
        return f"No training begins outside {self.settings.training.hours}."

    def _gone(self, name: Name, child: Child, now_s: float) -> supervisor.Ended:
        code = child.exit_code
        pump = self._pumps.pop(name)
        pump.finish(2.0)
        del self._children[name]
        self.family.forget(child)
        cause = cause_of(name, pump.last_lines())
        if name == "training":
            state.write_progress(self.home, None)
            if self._over_memory:
                cause, self._over_memory = "memory", False
        code = -1 if code is None else code
        how = f"by signal {-code}" if code < 0 else f"with status {code}"
        self.say("info" if code == 0 else "warning", f"{name} ended {how}", cause=cause)
        return supervisor.Ended(now_s, name, code, cause)

    def _watch_memory(self) -> None:
        child = self._children.get("training")
        if child is None or self._over_memory:
            return
        taken_bytes = limits.resident_bytes(child.pid)
        if limits.too_much(taken_bytes, self.settings.training):
            self._over_memory = True
            self.say(
                "error",
                f"training took {taken_bytes / limits.GB:.2f} GB, more than memory_gb in "
                "node.toml, and is ended; the round that it was working on may be lost, and what "
                "was booked for it stays booked",
                memory_gb=self.settings.training.memory_gb,
            )
            self.family.signal(child, signal.SIGKILL)

    def _put_rounds_aside(self) -> None:
        """rounds.log is opened anew for each line by who writes it: renaming loses none."""
        path, log = self.home.logs / "rounds.log", self.settings.log
        try:
            if path.stat().st_size > log.size_mb * 1_000_000:
                put_aside(path, log.kept)
        except OSError:
            return

    # ------------------------------------------------------------ node.toml

    def _read_settings(self) -> None:
        """Take over a changed node.toml; a wrong one changes nothing but what is said."""
        seen = self._file_time()
        if seen == self._file and not self._reread:
            return
        self._file, self._reread = seen, False
        try:
            new = settings_of(self.home)
        except FedprintError as error:
            self._wrong = f"The limits before stay in force: {error.message}"[:200]
            self.say("error", self._wrong)
            return
        self._wrong = ""
        if new == self.settings:
            return
        self.settings = new
        self.log.settings = new.log
        self.say("info", "node.toml was read again")
        child = self._children.get("training")
        if child is not None:
            limits.apply(child.pid, new.training)

    def _file_time(self) -> tuple[int, int]:
        try:
            found = self.home.config.stat()
        except OSError:
            return (0, 0)
        return (found.st_mtime_ns, found.st_ino)

    # ------------------------------------------------------------ actions

    def _do(self, action: supervisor.Action) -> None:
        match action:
            case supervisor.Start():
                self._start(action.name)
            case supervisor.Ask():
                self._signal(action.name, signal.SIGTERM)
            case supervisor.Kill():
                self._signal(action.name, signal.SIGKILL)
            case supervisor.Leave():
                with suppress(OSError):  # a full disk ends nothing; then it leaves after LEAVE_S
                    rest.ask_to_leave(self.home)
            case supervisor.Stay():
                rest.leave_mark(self.home).unlink(missing_ok=True)
            case supervisor.GiveUp():
                raise PeerFault(
                    "The coordinator does not accept this node.",
                    site="coordinator",
                    do="Send site.json to the operator, who runs: fedprint-coordinator enrol "
                    "site.json",
                )

    def _signal(self, name: Name, number: signal.Signals) -> None:
        child = self._children.get(name)
        if child is not None:
            self.family.signal(child, number)

    def _start(self, name: Name) -> None:
        again = self.state.of(name).restarts
        if name == "training" and again:
            self.place.check_books(self.home)  # what no restart mends ends the node
        if name == "SuperNode":
            self._port_for_supernode()
        if name != "console":  # wanted again: what told the SuperNode to leave is over
            rest.leave_mark(self.home).unlink(missing_ok=True)
        try:
            child = self.family.start(
                name,
                *self._command(name),
                log=self.home.logs / LOGS[name],
                environment=self._environment(name),
                merged=True,
            )
        except OSError as error:  # no memory, no more processes: it may be better in a minute
            self.say("error", f"{name} could not be started: {error.strerror}")
            self._later.append(supervisor.Ended(time.monotonic(), name, -1))
            return
        if name == "training":
            limits.apply(child.pid, self.settings.training)
        form = Formatter(self.settings.log, name)
        log = LogFile(child.log, self.settings.log)
        heard = self._heard if name == "SuperNode" else _nothing
        self._pumps[name] = Pump(child.output, log, form, heard, self._wake.set)
        self._children[name] = child
        self._begun_s[name] = time.time()
        self.say("info", f"{name} is started", pid=child.pid, restarts=again)

    def _port_for_supernode(self) -> None:
        port = self.place.free_port(self._port)
        if port != self._port:
            self._port = port
            self._later.append(supervisor.Replace(time.monotonic(), "training"))

    def _heard(self, line: str) -> None:
        """Called by the SuperNode's pump."""
        link = link_of(line)
        if link is not None:
            self._links.put(link)
            self._wake.set()

    def _command(self, name: Name) -> tuple[str, list[str]]:
        if name == "console":
            return f"{CONSOLE}:serve", []
        if name == "training":
            return self.place.work, [f"127.0.0.1:{self._port}", str(self.place.secret)]
        return "client.app:serve_supernode", [
            *("--superlink", self.place.address),
            *("--root-certificates", str(self.place.certificate)),
            *("--auth-supernode-private-key", str(self.home.supernode_key)),
            *("--isolation", "process"),
            *("--superexec-auth-secret-file", str(self.place.secret)),
            *("--host", "127.0.0.1"),
            *("--port", str(self._port)),
        ]

    def _environment(self, name: Name) -> dict[str, str]:
        more = limits.environment(self.settings.training) if name == "training" else {}
        return {
            **QUIET,
            "FLWR_HOME": str(self.home.root / "flower"),
            "FEDPRINT_NODE_HOME": str(self.home.root),
            **more,
        }

    # ------------------------------------------------------------ what others see

    def _show(self, phase: state.Phase, why: str) -> None:
        now_s = time.time()
        processes = tuple(
            state.ProcessState(
                name=item.name,
                pid=self._children[item.name].pid if item.name in self._children else None,
                since_s=self._begun_s[item.name],
                restarts=item.restarts,
            )
            for item in self.state.processes
            if item.name in self._begun_s
        )
        old = self._shown
        same = old is not None and (old.phase, old.why) == (phase, why[:300])
        since_s = old.since_s if old is not None and same else now_s
        new = state.NodeState(
            phase=phase,
            since_s=since_s,
            written_s=now_s,
            pid=os.getpid(),
            why=why[:300],
            processes=processes,
        )
        fresh = old is not None and 0.0 <= now_s - old.written_s < WRITE_S
        if old is not None and same and fresh and old.processes == processes:
            return
        try:
            state.write_node_state(self.home, new)
        except OSError:
            return  # a full disk hides how the node is, and ends nothing
        finally:
            self._shown = new
            if not same:
                self._tell(phase, why)

    def _tell(self, phase: state.Phase, why: str) -> None:
        words = why or ("Connected to the coordinator." if phase == "running" else phase)
        if words == self._told:
            return
        self._told = words
        self.say("error" if phase == "trouble" else "info", f"now {phase}", why=why)
        self.notifier.send(STATUS=words)
        if phase not in ("stopping", "stopped"):
            self.tell(words)


def _nothing(line: str) -> None:
    return
