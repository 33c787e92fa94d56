"""`fedprint-coordinator serve`: registry, dashboard and the unfinished run, kept going.

    serve(home, environment=os.environ)      until SIGTERM, SIGINT or SIGHUP

Each is a child with children of its own; whatever dies is started again (docs/adr/0022). Nothing in
this process speaks to the network.
"""

from __future__ import annotations

import logging
import socket
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from server import dashboard_config, superlink
from server.home import CoordinatorHome
from server.kept import Kept
from server.logs import json_log, put_aside
from server.notify import notify
from server.service_runs import Work, asked_again, next_work
from shared_model.children import Child, Family
from shared_model.errors import FedprintError, OurMistake
from shared_model.locks import locked

LOOK_S = 0.5
GRACE_S = 25.0
"""At the end: longer than what a run's own children get."""
FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 60.0
STEADY_S = 60.0
"""A child that lived so long has not failed in a row."""
HOUSEKEEPING_S = 30.0
READY_S = 60.0
"""The service manager is told READY after so long even if a port is taken: the log says whose."""
WITHOUT_HOPE = (2, 3)
"""Exit codes of a wrong call and of a refusal: only a person changes what led to it."""
STOPPED = (0, 130, -15)
"""A child that ended because somebody asked it to."""


@dataclass(frozen=True)
class Restarts:
    """When a child is started again. failures: in a row; at_s: not before."""

    failures: int = 0
    at_s: float = 0.0

    def after(self, code: int, lived_s: float, now_s: float) -> Restarts:
        """The child ended with this code after so long."""
        failures = 1 if lived_s >= STEADY_S else self.failures + 1
        wait = min(FIRST_WAIT_S * 2.0 ** min(failures - 1, 10), LONGEST_WAIT_S)
        if code in WITHOUT_HOPE:
            wait = LONGEST_WAIT_S
        return Restarts(failures, now_s + wait)


@dataclass
class Place:
    """Where one child belongs. entry: `module:function`. child: None while none runs."""

    name: str
    entry: str
    arguments: tuple[str, ...] = ()
    child: Child | None = None
    since_s: float = 0.0
    restarts: Restarts = field(default_factory=Restarts)


@dataclass
class Service:
    """Looks after the places; `look` is called again and again.

    Args:
        start: starts a child of a place. clock: seconds, monotonic.
    """

    home: CoordinatorHome
    start: Callable[[Place], Child]
    forget: Callable[[Child], None]
    log: logging.Logger
    clock: Callable[[], float] = time.monotonic
    work: Callable[[CoordinatorHome, Kept], Work] = next_work
    always: tuple[Place, ...] = field(
        default_factory=lambda: (
            Place("registry", "server.service:registry_child"),
            Place("dashboard", "server.service:dashboard_child"),
        )
    )
    run: Place = field(default_factory=lambda: Place("run", "server.service:run_child"))
    _damaged: frozenset[str] = frozenset()
    _kept: Kept = field(default_factory=Kept)

    def look(self) -> None:
        """See who ended, start who is due."""
        for place in (*self.always, self.run):
            self._see(place)
        for place in self.always:
            self._start(place)
        if self.run.child is None and self.clock() >= self.run.restarts.at_s:
            self._take_up()

    @property
    def words(self) -> str:
        """For the service manager: what goes on."""
        run = self.run.arguments[0] if self.run.child is not None else ""
        waits = [p.name for p in (*self.always, self.run) if p.restarts.failures and not p.child]
        now = f"run {run} goes on" if run else "no run goes on"
        return now + (f"; starting again: {', '.join(waits)}" if waits else "")

    def _see(self, place: Place) -> None:
        child, now = place.child, self.clock()
        if child is None or child.exit_code is None:
            return
        code, place.child = child.exit_code, None
        self.forget(child)
        told = {"child": place.name, "code": code, "lived_s": round(now - place.since_s, 1)}
        if place is self.run and code == 0:
            place.restarts = Restarts(0, now + FIRST_WAIT_S)
            asked_again(self.home, place.arguments[0])
            self.log.info("run-ended", extra={"told": {**told, "run": place.arguments[0]}})
            return
        place.restarts = place.restarts.after(code, now - place.since_s, now)
        again = round(place.restarts.at_s - now, 1)
        told |= {"again_in_s": again, "log": str(child.log), "last": child.last_lines(3)}
        self.log.error("child-ended", extra={"told": told})

    def _start(self, place: Place) -> None:
        if place.child is not None or self.clock() < place.restarts.at_s:
            return
        try:
            place.child, place.since_s = self.start(place), self.clock()
        except OSError as error:  # no memory, no more processes: it may be better in a minute
            place.restarts = place.restarts.after(1, 0.0, self.clock())
            why = {"child": place.name, "why": error.strerror}
            self.log.error("child-not-started", extra={"told": why})
            return
        told = {"child": place.name, "pid": place.child.pid, "arguments": place.arguments}
        self.log.info("child-started", extra={"told": told})

    def _take_up(self) -> None:
        found = self.work(self.home, self._kept)
        damaged = frozenset(run for run, _ in found.damaged)
        for run, why in found.damaged:
            if run not in self._damaged:
                self.log.error("run-damaged", extra={"told": {"run": run, "why": why}})
        self._damaged = damaged
        if found.run:
            if self.run.arguments != (found.run,):
                self.run.restarts = replace(self.run.restarts, failures=0)
            self.run.arguments = (found.run,)
            self._start(self.run)


def serve(home: CoordinatorHome, *, environment: Mapping[str, str]) -> None:
    """Run the service until it is asked to end.

    Raises:
        OurMistake: not set up, or a service runs in this home.
        Refused: as `superlink.refuse_restored`.
    """
    config = superlink.load_config(home)
    superlink.refuse_restored(home)
    listens = dashboard_config.listening(home)
    ports = ((config.bind, config.registry_at), (listens.host, listens.port))
    home.make()
    busy = OurMistake(
        f"A service is running in {home.root}.", do="Stop it first, or choose --home."
    )
    beside = logging.StreamHandler(sys.stderr)
    with locked(home.service_lock, busy), json_log(home.logs / "service.log", beside=beside) as log:
        try:
            with Family() as family:
                service = Service(home, _starter(home, family), family.forget, log)
                _keep(service, family, home, ports, environment)
        except KeyboardInterrupt:
            log.info("stopped")


def _keep(
    service: Service,
    family: Family,
    home: CoordinatorHome,
    ports: tuple[tuple[str, int], ...],
    environment: Mapping[str, str],
) -> None:
    ready, cleaned, said, begun = False, 0.0, "", time.monotonic()
    try:
        while True:
            service.look()
            now = time.monotonic()
            if now - cleaned >= HOUSEKEEPING_S:
                cleaned = now
                for name in ("superlink", "run", "run-child", "registry-child", "dashboard-child"):
                    put_aside(home.logs / f"{name}.log")
            late = now - begun >= READY_S  # a taken port must not end a run that goes on
            if not ready and (late or all(_listens(host, port) for host, port in ports)):
                ready = True
                service.log.info("ready")
                notify(environment, READY="1", STATUS=service.words)
            if ready:
                if "WATCHDOG_USEC" in environment:
                    notify(environment, WATCHDOG="1")
                if service.words != said:
                    said = service.words
                    notify(environment, STATUS=said)
            time.sleep(LOOK_S)
    finally:
        notify(environment, STOPPING="1")
        family.stop(GRACE_S)


def _starter(home: CoordinatorHome, family: Family) -> Callable[[Place], Child]:
    def start(place: Place) -> Child:
        return family.start(
            place.name,
            place.entry,
            place.arguments,
            log=home.logs / f"{place.name}-child.log",
            environment={**superlink.QUIET, "FEDPRINT_COORDINATOR_HOME": str(home.root)},
        )

    return start


def _listens(host: str, port: int) -> bool:
    """Whether somebody accepts connections there."""
    where = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    try:
        with socket.create_connection((where, port), timeout=1.0):
            return True
    except OSError:
        return False


# ---------------------------------------------------------------- the children


def registry_child(_: list[str]) -> None:
    """Entry: the registry."""
    from server import registry

    _as_child(lambda: registry.serve(CoordinatorHome.find(), lambda port: None))


def dashboard_child(_: list[str]) -> None:
    """Entry: the dashboard."""
    from server import dashboard

    _as_child(lambda: dashboard.serve(CoordinatorHome.find()))


def run_child(arguments: list[str]) -> None:
    """Entry: RUN; its SuperLink and its process are children of this one."""
    from server import rosters
    from server.checkpoints import RunFolder

    home, run = CoordinatorHome.find(), arguments[0]

    def conduct() -> None:
        if RunFolder(home.run_folder(run)).own_record().state != "finished":
            rosters.usable(home, rosters.today_utc())  # says so if it has expired
        with json_log(home.logs / "run-events.log") as log:

            def told(event: Mapping[str, object]) -> None:
                what = {key: value for key, value in event.items() if key != "event"}
                log.info(str(event.get("event", "")), extra={"told": {"run": run, **what}})

            superlink.conduct(home, run, told)

    _as_child(conduct)


def _as_child(work: Callable[[], None]) -> None:
    """Work to its end; a fault that is expected becomes two lines in the log and an exit code."""
    try:
        work()
    except FedprintError as error:
        sys.stderr.write(f"{error.message}\n{error.do}\n")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
