"""`fedprint-coordinator serve` with three hospitals: one service, whose children may die."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import ssl
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import deployed_parts
from deployed_parts import (
    Running,
    allow_runs,
    command,
    fill_store,
    free_port,
    make_root,
    running,
    wait_for,
)

from server.checkpoints import RunFolder

pytestmark = [pytest.mark.deployed, pytest.mark.timeout(1200)]

SITES = ("alpha", "beta", "gamma")
PLAN = ("--steps", "2", "--sample-rate", "0.5", "--noise-multiplier", "2.0")


@contextmanager
def manager(path: Path) -> Iterator[socket.socket]:
    """The service manager's socket, as systemd gives it in NOTIFY_SOCKET."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(path))
        receiver.setblocking(False)
        yield receiver


def heard(receiver: socket.socket, said: set[str]) -> set[str]:
    """Every word that the service has said so far."""
    while True:
        try:
            said |= set(receiver.recv(4096).decode().splitlines())
        except BlockingIOError:
            return said


@dataclass
class Served:
    """A coordinator's folder and its service."""

    home: Path
    service: Running
    port: int

    def pid(self, child: str) -> int:
        """The process that the service started last in this place."""
        lines = (self.home / "logs" / "service.log").read_text().splitlines()
        started = [
            one
            for one in (json.loads(line) for line in lines)
            if one["event"] == "child-started" and one["child"] == child
        ]
        return int(started[-1]["pid"]) if started else 0

    def browser(self) -> httpx.Client:
        """Somebody who has opened a one-time link."""
        done = command("fedprint-coordinator", "dashboard", "link", "--home", str(self.home))
        base = f"http://127.0.0.1:{self.port}"
        client = httpx.Client(base_url=base, trust_env=False, headers={"origin": base})
        token = done.stdout.strip().rpartition("token=")[2]
        answer = client.post("/login", data={"token": token})
        assert answer.status_code == 303, answer.text
        return client


def kill_and_see(served: Served, child: str) -> None:
    """kill -9; the service starts another."""
    before = served.pid(child)
    os.kill(before, signal.SIGKILL)
    wait_for(lambda: served.pid(child) != before, f"{child} is started again", 120)


def test_a_run_goes_to_its_end_though_every_child_of_the_service_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service itself, registry, dashboard and, in round 2, the run with its SuperLink."""
    place, port = tmp_path / "coordinator", free_port()
    home = ("--home", str(place))
    offline = ("--home", str(tmp_path / "offline"), "--yes")
    draft, signed = str(tmp_path / "draft.json"), str(tmp_path / "roster.json")
    command(
        *("fedprint-coordinator", "init", "--address", f"127.0.0.1:{free_port()}"),
        *("--registry-port", str(free_port()), "--dashboard-port", str(port)),
        *("--root", str(make_root(tmp_path)), *home),
    )
    with ExitStack() as stack:
        receiver, said = stack.enter_context(manager(tmp_path / "notify")), set[str]()
        monkeypatch.setitem(deployed_parts.ENVIRONMENT, "NOTIFY_SOCKET", str(tmp_path / "notify"))
        words = ("fedprint-coordinator", "serve", *home)
        service = stack.enter_context(running(tmp_path / "first.log", *words))
        wait_for(lambda: "READY=1" in heard(receiver, said), "READY", 120)
        service.look()
        os.kill(service.process.pid, signal.SIGKILL)
        wait_for(lambda: service.process.poll() is not None, "it is dead")
        wait_for(lambda: not service.leftovers(), "its children went with it", 30)
        said.clear()
        service = stack.enter_context(running(tmp_path / "serve.log", *words))
        served = Served(place, service, port)
        wait_for(lambda: "READY=1" in heard(receiver, said), "READY", 120)
        monkeypatch.delitem(deployed_parts.ENVIRONMENT, "NOTIFY_SOCKET")
        kill_and_see(served, "registry")
        for site in SITES:
            token, node = str(tmp_path / f"{site}.json"), ("--home", str(tmp_path / site))
            command("fedprint-coordinator", "invite", site, "-o", token, *home)
            join = ("fedprint-node", "join", token, "--patients", "12", "--yes", *node)
            wait_for(lambda join=join: command(*join, check=False).returncode == 0, "joined", 60)
            command("fedprint-coordinator", "admit", site, "--yes", *home)
        command("fedprint-coordinator", "roster", "draft", "-o", draft, *home)
        command("fedprint-coordinator", "root", "sign", draft, "-o", signed, *offline)
        command("fedprint-coordinator", "roster", "import", signed, *home)
        nodes = {}
        for site in SITES:
            node = ("--home", str(tmp_path / site))
            command("fedprint-node", "roster", "fetch", *node)
            command("fedprint-node", "roster", "approve", "--yes", *node)
            fill_store(tmp_path / site, patients=12, seed=len(site))
            allow_runs(tmp_path / site)
            nodes[site] = stack.enter_context(
                running(tmp_path / f"{site}.log", "fedprint-node", "start", *node)
            )
        refused = command("fedprint-coordinator", "start", "--rounds", "3", *home, check=False)
        assert refused.returncode == 3, refused.stderr
        command(
            *("fedprint-coordinator", "start", "--only-begin", "--rounds", "2", "--run", "spring"),
            *PLAN,
            *home,
        )
        browser = stack.enter_context(contextlib.closing(served.browser()))
        wait_for(lambda: "Round 2 is open" in browser.get("/live/now").text, "round 2 is shown")
        assert "STATUS=run spring goes on" in heard(receiver, said)
        service.look()
        kill_and_see(served, "run")
        kill_and_see(served, "dashboard")
        folder = RunFolder(place / "runs" / "spring")
        wait_for(lambda: folder.record().state == "finished", "the run's end")
        wait_for(lambda: "run-ended" in (place / "logs/service.log").read_text(), "its child's end")
        record = folder.record()
        assert (record.completed, record.starts) == (2, 2)
        assert all(folder.closing(number).state == "verified" for number in (1, 2))
        again = stack.enter_context(contextlib.closing(served.browser()))
        shown = again.get("/live/runs/spring").text
        assert ("finished" in shown, "2 of 2" in shown) == (True, True)
        assert browser.get("/").status_code == 401  # sessions end with the process
        for site in SITES:
            assert again.get("/sites").text.count(f'id="site-{site}"') == 1

        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as monitor:
            health = monitor.get("/health")
            assert (health.status_code, health.json()["ready"]) == (200, True)
            assert monitor.get("/metrics").status_code == 401
            bearer = {"authorization": f"Bearer {(place / 'metrics.token').read_text()}"}
            numbers = monitor.get("/metrics", headers=bearer).text
        assert 'fedprint_coordinator_rounds_total{outcome="aggregated"} 2.0' in numbers
        assert 'fedprint_coordinator_runs{state="finished"} 1.0' in numbers
        service.look()
        assert service.end(signal.SIGTERM) == 0
        assert "STOPPING=1" in heard(receiver, said)
        wait_for(lambda: not service.leftovers(), "no process is left", 30)
        for process in nodes.values():
            process.end(signal.SIGTERM)


def test_a_dashboard_on_a_network_speaks_tls_only(tmp_path: Path) -> None:
    """With the coordinator's own certificate; its cookie is of https alone; SIGTERM ends it."""
    place, port = tmp_path / "coordinator", free_port()
    home = ("--home", str(place))
    command(
        *("fedprint-coordinator", "init", "--address", f"127.0.0.1:{free_port()}"),
        *("--registry-port", str(free_port()), "--dashboard-port", str(port)),
        *("--dashboard-bind", "0.0.0.0", *home),
    )
    context = ssl.create_default_context(cafile=str(place / "tls" / "ca.pem"))
    base = f"https://127.0.0.1:{port}"
    with ExitStack() as stack:
        page = stack.enter_context(
            running(tmp_path / "dashboard.log", "fedprint-coordinator", "dashboard", "start", *home)
        )
        client = stack.enter_context(httpx.Client(base_url=base, verify=context, trust_env=False))

        def answers() -> bool:
            try:
                return client.get("/health").status_code == 503  # no registry runs
            except httpx.TransportError:
                return False

        wait_for(answers, "it answers", 120)
        with pytest.raises(httpx.TransportError):
            httpx.get(f"http://127.0.0.1:{port}/health", trust_env=False)
        assert client.get("/health", headers={"host": f"rebound.example:{port}"}).status_code == 421
        url = command("fedprint-coordinator", "dashboard", "link", *home).stdout.strip()
        assert url.startswith(f"{base}/login?token=")
        form = {"token": url.rpartition("=")[2]}
        answer = client.post("/login", data=form, headers={"origin": base})
        cookie = answer.headers["set-cookie"]
        assert cookie.startswith("__Host-")
        assert {"Secure", "HttpOnly"} <= {part.strip() for part in cookie.split(";")}
        assert client.get("/").status_code == 200
        assert page.end(signal.SIGTERM) == 0
        lines = (place / "logs" / "dashboard.log").read_text().splitlines()
        assert [json.loads(line)["event"] for line in lines] == ["login"]
