"""`fedprint-coordinator doctor`: files, certificates, roster, ports, disk, versions."""

from __future__ import annotations

import datetime
import os
import socket
import time
from collections.abc import Callable

from cryptography import x509

from server import registry, rosters, superlink
from server.home import CoordinatorHome
from server.registry_book import RegistryBook
from shared_model import machine, signing
from shared_model import machine_checks as of_machine
from shared_model.findings import Finding, attention, broken, ok, tried
from shared_model.machine_checks import GIB

SOON_DAYS = 30.0
DISK_ENOUGH, DISK_LEAST = 20 * GIB, 2 * GIB
CONNECT_S = 3.0
UNIT = "fedprint-coordinator.service"
_EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104
_SECRET = ("keys", "tls/ca.key", "tls/server.key", "registry.sqlite")


def examine(home: CoordinatorHome) -> list[Finding]:
    """All checks of this coordinator."""
    now = datetime.datetime.now(datetime.UTC)
    if not home.config.exists():
        do = "Run: fedprint-coordinator init --address HOST:PORT --root root.json, or give --home."
        return [broken("coordinator.toml", f"there is no coordinator in {home.root}", do)]
    checks: dict[str, Callable[[], Finding]] = {
        "coordinator.toml": lambda: check_config(home),
        "rights": lambda: check_files(home),
        "keys": lambda: check_keys(home),
        "restored": lambda: check_restored(home),
        "authority": lambda: check_certificate(home, "authority", now),
        "server certificate": lambda: check_certificate(home, "server certificate", now),
        "roster": lambda: check_roster(home, now.date()),
        "registry.sqlite": lambda: check_book(home),
        "superlink": lambda: check_port(home, "superlink"),
        "registry": lambda: check_port(home, "registry"),
        "dns": lambda: check_name(home),
        "disk": lambda: of_machine.check_disk(
            "disk", machine.free_bytes(home.runs), enough=DISK_ENOUGH, least=DISK_LEAST
        ),
        "memory": lambda: of_machine.check_memory(*machine.memory()),
        "torch": _torch,
        "flower": lambda: of_machine.check_flower(machine.version_of("flwr")),
        "systemd": lambda: of_machine.check_unit(
            "systemd", machine.booted_by_systemd(), machine.unit(UNIT)
        ),
        "clock": _zone,
    }
    return [tried(name, check) for name, check in checks.items()]


def check_config(home: CoordinatorHome) -> Finding:
    """coordinator.toml parses and names two ports."""
    config = superlink.load_config(home)
    return ok("coordinator.toml", f"{config.address}, registry {config.registry_address}")


def check_files(home: CoordinatorHome) -> Finding:
    """Folder 0700, keys 0600, one owner."""
    below = [home.root / name for name in _SECRET]
    if home.run_key.parent.is_dir() and os.access(home.run_key.parent, os.R_OK | os.X_OK):
        below += sorted(home.run_key.parent.iterdir())
    return of_machine.check_rights(
        str(home.root), machine.rights_of(home.root, below), os.geteuid()
    )


def check_keys(home: CoordinatorHome) -> Finding:
    """The run key can be read; the release key may live elsewhere."""
    signing.load_key_file(home.run_key)
    if not home.release_key.exists():
        return ok("keys", "run key; the release key is not on this machine")
    signing.load_key_file(home.release_key)
    return ok("keys", "run key and release key")


def check_restored(home: CoordinatorHome) -> Finding:
    """Nothing was put back from a backup without saying so."""
    if home.restored.exists():
        return broken(
            "restored",
            "this folder was restored from a backup",
            "Run: fedprint-coordinator restored",
        )
    return ok("restored", "this folder is as this coordinator left it")


def check_certificate(home: CoordinatorHome, which: str, now: datetime.datetime) -> Finding:
    """Days left of the authority's or the server's certificate."""
    path = home.ca_certificate if which == "authority" else home.server_certificate
    ends = x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc
    do = (
        "Plan a new consortium: every hospital has pinned this authority."
        if which == "authority"
        else "Run: fedprint-coordinator registry renew-certificate, then restart."
    )
    days = (ends - now) / datetime.timedelta(days=1)
    return of_machine.check_days(which, days, soon=SOON_DAYS, do=do)


def check_roster(home: CoordinatorHome, today: datetime.date) -> Finding:
    """A roster is signed and valid, for a while yet."""
    signed = rosters.current(home)
    if signed is None:
        return broken(
            "roster", "none", "Run: fedprint-coordinator roster draft, and have the root sign it."
        )
    roster = signed.roster
    left = datetime.date.fromisoformat(roster.valid_until) - today
    found = of_machine.check_days(
        "roster",
        left / datetime.timedelta(days=1),
        soon=SOON_DAYS,
        do="Run: fedprint-coordinator roster draft, and have the root sign it.",
    )
    words = f"version {roster.version}, {len(roster.sites)} hospitals, threshold {roster.threshold}"
    return Finding("roster", found.state, f"{words}, {found.found}", found.do)


def check_book(home: CoordinatorHome) -> Finding:
    """The registry's database can be read; whether cards wait."""
    with RegistryBook(home) as book:
        waiting = len(book.waiting())
    if waiting:
        return attention(
            "registry.sqlite",
            f"{waiting} cards wait to be admitted",
            "Telephone them: fedprint-coordinator waiting",
        )
    return ok("registry.sqlite", "can be read; no card waits")


def check_port(home: CoordinatorHome, which: str) -> Finding:
    """Whether one of the two ports answers, or is taken by something else."""
    config = superlink.load_config(home)
    port = config.port if which == "superlink" else config.registry_at
    runs = superlink.is_running(home) if which == "superlink" else registry.is_running(home)
    host = "127.0.0.1" if config.bind in _EVERYWHERE else config.bind
    answers = _answers(host, port)
    if runs and not answers:
        return broken(which, f"it runs, and {host}:{port} does not answer", f"See logs/{which}.log")
    if answers and not runs:
        return broken(
            which, f"another process has {host}:{port}", "Stop it, or change coordinator.toml."
        )
    if not runs:
        return attention(
            which, f"not running; port {port} is free", "Start it: fedprint-coordinator serve"
        )
    return ok(which, f"{host}:{port} answers")


def check_name(home: CoordinatorHome) -> Finding:
    """The name that hospitals go to is known, here at least."""
    host = superlink.load_config(home).address.rpartition(":")[0]
    try:
        socket.getaddrinfo(host.strip("[]"), None)
    except OSError:
        return attention(
            "dns", f"{host} is not known here", "Hospitals must know it: see your DNS."
        )
    return ok("dns", f"{host} is known")


def _answers(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=CONNECT_S):
            return True
    except OSError:
        return False


def _torch() -> Finding:
    version, threads, _ = machine.torch_facts()
    return of_machine.check_torch(version, threads, machine.cpus())


def _zone() -> Finding:
    zone = time.tzname[time.localtime().tm_isdst > 0]
    return ok("clock", f"time zone {zone}; hospitals compare theirs with this one: keep NTP on")
