"""`fedprint-node doctor`: reads the facts, each with a deadline, and puts them to the checks."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from client import doctor_home as of_home
from client import doctor_lines as of_lines
from client import doctor_net, keys, registry_client, state
from client.doctor_lines import Asked
from client.doctor_net import Line
from client.home import NodeHome
from client.settings import NodeSettings, settings_of
from shared_model import machine, registry
from shared_model import machine_checks as of_machine
from shared_model.errors import FedprintError, OurMistake
from shared_model.findings import Finding, attention, broken, ok, printable, tried
from shared_model.machine_checks import GIB

ASK_S = 8.0
STALE_S = 180.0
OUTBOX_ENOUGH, OUTBOX_LEAST = 10 * GIB, 2 * GIB
STORE_ENOUGH, STORE_LEAST = 5 * GIB, GIB // 2
UNIT = "fedprint-node.service"


def examine(home: NodeHome) -> list[Finding]:
    """All checks of this node, in the order in which one depends on another."""
    now = datetime.datetime.now(datetime.UTC)
    with ThreadPoolExecutor(3) as pool:
        seen = [pool.submit(_seen, home, *which) for which in ((0, True), (1, False))]
        answer = pool.submit(_asked, home)
        findings = [*_folder(home, now), *_machine(home)]
        lines = tuple(line for line in (one.result() for one in seen) if line is not None)
        findings += _network(home, lines, answer.result(), now)
    return findings


def check_running(locked: bool, seen: state.NodeState | None, now_s: float) -> Finding:
    """Whether the supervisor lives and what it says.

    Args:
        locked: some process holds the node's lock. seen: what the supervisor wrote last.
    """
    start = "Start it: fedprint-node start, or systemctl start fedprint-node"
    if not locked:
        return broken("node", "it does not run", start)
    if seen is None or now_s - seen.written_s > STALE_S:
        return broken("node", "it runs and has said nothing for minutes", "See: fedprint-node logs")
    if seen.phase == "trouble":
        return broken("node", f"trouble: {printable(seen.why, 300)}", "Run: fedprint-node doctor")
    return ok("node", seen.phase + (f": {printable(seen.why, 300)}" if seen.why else ""))


def _folder(home: NodeHome, now: datetime.datetime) -> list[Finding]:
    if not home.config.exists():
        return [
            broken(
                "node.toml",
                f"there is no node in {home.root}",
                "Run: fedprint-node join token.json --patients N, or choose --home.",
            )
        ]
    checks: dict[str, Callable[[], Finding]] = {
        "node.toml": lambda: of_home.check_settings(home),
        "policy.toml": lambda: of_home.check_policy(home),
        "rights": lambda: of_home.check_files(home),
        "keys": lambda: of_home.check_keys(home),
        "restored": lambda: of_home.check_restored(home),
        "ledger": lambda: of_home.check_ledger(home),
        "roster": lambda: of_home.check_roster(home, now.date()),
        "approvals": lambda: of_home.check_runs(home),
        "store key": lambda: of_home.check_store_key(home),
        "store": lambda: of_home.check_store(home),
        "code": lambda: of_home.check_code(home),
        "own certificate": lambda: of_home.check_certificate(home, now),
    }
    return [tried(name, check) for name, check in checks.items()]


def _machine(home: NodeHome) -> list[Finding]:
    settings = _settings(home)
    training = settings.training if settings else None
    version, threads, gpus = machine.torch_facts()
    return [
        tried("disk of the outbox", lambda: _disk(home, "outbox", OUTBOX_ENOUGH, OUTBOX_LEAST)),
        tried("disk of the store", lambda: _disk(home, "store", STORE_ENOUGH, STORE_LEAST)),
        of_machine.check_memory(*machine.memory(), training.memory_gb if training else 0.0),
        of_machine.check_torch(version, threads, machine.cpus(), training.cores if training else 0),
        of_machine.check_gpu(gpus, training.gpus if training else 0),
        of_machine.check_flower(machine.version_of("flwr")),
        tried("telemetry", lambda: _telemetry(home)),
        tried("console", lambda: _console(home, settings)),
        of_machine.check_unit("systemd", machine.booted_by_systemd(), machine.unit(UNIT)),
    ]


def _network(
    home: NodeHome, lines: tuple[Line, ...], answer: Asked | None, now: datetime.datetime
) -> list[Finding]:
    settings = _settings(home)
    hours = settings.training.hours if settings else None
    zone = time.tzname[time.localtime().tm_isdst > 0]
    clock = of_machine.check_clock(
        of_lines.clock_of(lines, answer), zone, str(hours) if hours else None
    )
    if not lines:
        do = "Run: fedprint-node join token.json (the operator has the token)"
        return [broken("coordinator", "this node has joined none", do), clock]
    findings = [clock, of_lines.check_name(lines), of_lines.check_proxy(lines)]
    for name, line in zip(("superlink", "registry"), lines, strict=False):
        findings.append(of_lines.check_port(name, line, always=name == "registry"))
        findings.append(of_lines.check_tls(f"{name} certificate", line, now))
    findings.append(of_lines.check_asked(answer))
    if answer is not None:
        ours = machine.version_of("fedprint") or "unknown"
        findings.append(of_machine.check_versions(ours, answer.version))
    return findings


def _seen(home: NodeHome, which: int, health: bool) -> Line | None:
    """The line to the SuperLink (0) or to the registry (1); None if this node has none."""
    try:
        invitation = keys.pinned(home)
        address = invitation.address if which == 0 else registry_client.address(home)
    except FedprintError:
        return None
    try:
        return doctor_net.look(address, invitation.ca_certificate, health=health)
    except Exception as error:
        return Line(address, "connect", why=_failed(error))


def _asked(home: NodeHome) -> Asked | None:
    try:
        return asked(home)
    except Exception as error:
        return Asked(_failed(error), "Report this line to whoever maintains fedprint for you.")


def _failed(error: Exception) -> str:
    """Of an exception that nobody foresaw only the kind is told: its text could hold anything."""
    return f"the check itself failed ({type(error).__name__})"


def asked(home: NodeHome, timeout_s: float = ASK_S) -> Asked | None:
    """What the registry says to this node's certificate; None if it has none."""
    try:
        session = registry_client.plain_session(home)
    except OurMistake:
        return None
    try:
        with session:
            begun = time.time()
            health, told = session.health(timeout_s)
            half = (time.time() + begun) / 2
            standing = session.call(
                "Standing", registry.Ask(), registry.Standing, timeout_s=timeout_s
            )
    except FedprintError as error:
        return Asked(fault=error.message, do=error.do)
    ahead = None if told is None else half - told.timestamp() - 0.5  # cut to whole seconds
    return Asked(version=health.fedprint, ahead_s=ahead, state=standing.state)


def _settings(home: NodeHome) -> NodeSettings | None:
    try:
        return settings_of(home)
    except FedprintError:
        return None  # node.toml has its own line


def _disk(home: NodeHome, name: str, enough: int, least: int) -> Finding:
    free = machine.free_bytes(home.root / name)
    return of_machine.check_disk(f"disk of the {name}", free, enough=enough, least=least)


def _telemetry(home: NodeHome) -> Finding:
    now = state.node_state(home)
    running = {one.name: one.pid for one in now.processes if one.pid} if now else {}
    return of_machine.check_telemetry(machine.environments(running))


def _console(home: NodeHome, settings: NodeSettings | None) -> Finding:
    from client import node

    if settings is None or not settings.console.enabled:
        return ok("console", "off")
    port = settings.console.port
    if node.is_running(home):
        return ok("console", f"the node has 127.0.0.1:{port}")
    if doctor_net.port_is_free(port):
        return ok("console", f"127.0.0.1:{port} is free")
    return attention(
        "console", f"127.0.0.1:{port} is taken", "Choose another port under [console] in node.toml."
    )
