"""One node and nobody that answers: its processes die, its limits change, it is told to end."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import deployed_parts
from deployed_parts import Running, alive, command, free_port, make_root, running, wait_for

from client import state
from client.home import NodeHome

pytestmark = [pytest.mark.deployed, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def joined(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A node whose coordinator is not there."""
    root = tmp_path_factory.mktemp("alone")
    home, node, invitation = root / "coordinator", root / "alpha", root / "coordinator.json"
    address = f"127.0.0.1:{free_port()}"
    words = ("--home", str(home))
    card = str(make_root(root))
    command("fedprint-coordinator", "init", *words, "--address", address, "--root", card)
    command("fedprint-coordinator", "invitation", *words, "-o", str(invitation))
    place = ("--home", str(node))
    command("fedprint-node", "init", *place, "--site", "alpha", "--patients", "12")
    command("fedprint-node", "join", str(invitation), *place, "--yes")
    change(node, "port = 8450", "port = 0")
    return node


@contextmanager
def node_of(home: Path) -> Iterator[Running]:
    log = home.parent / f"start-{len(list(home.parent.glob('start-*')))}.log"
    with running(log, "fedprint-node", "start", "--home", str(home)) as node:
        wait_for(lambda: "is started" in node.text(), "the node is started")
        yield node


def now(home: Path) -> state.NodeState:
    found = state.node_state(NodeHome(home))
    assert found is not None
    return found


def process(home: Path, name: str) -> state.ProcessState:
    return next(item for item in now(home).processes if item.name == name)


def both(home: Path) -> list[int | None]:
    """Process ids of SuperNode and training; the console is there at rest too."""
    return [item.pid for item in now(home).processes if item.name != "console"]


def up_again(home: Path, name: str, old: int) -> Callable[[], bool]:
    return lambda: process(home, name).pid not in (None, old) and not alive(old)


def log_of(home: Path) -> str:
    return (home / "logs" / "node.log").read_text()


def change(home: Path, old: str, new: str) -> None:
    text = (home / "node.toml").read_text()
    assert old in text
    fresh = home / "node.toml.new"
    fresh.write_text(text.replace(old, new))
    fresh.replace(home / "node.toml")


def test_what_dies_is_started_again_and_a_coordinator_that_is_away_is_waited_for(
    joined: Path,
) -> None:
    """systemd is told; whoever is killed comes back; SIGTERM ends everything, 130."""
    told: list[bytes] = []
    path = str(joined / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(path)
        listener.settimeout(60.0)

        def listen() -> None:
            while not told or b"STOPPING=1" not in told[-1]:
                told.append(listener.recv(4096))

        thread = threading.Thread(target=listen, daemon=True)
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(deployed_parts.ENVIRONMENT, "NOTIFY_SOCKET", path)
            patch.setitem(deployed_parts.ENVIRONMENT, "WATCHDOG_USEC", "30000000")
            thread.start()
            with node_of(joined) as node:
                wait_for(lambda: "cannot be reached" in now(joined).why, "it says so")
                assert now(joined).phase == "starting"
                wait_for(lambda: "cannot be reached" in node.text(), "the terminal too")
                for name in ("training", "SuperNode"):
                    old = process(joined, name).pid
                    assert old is not None
                    os.kill(old, signal.SIGKILL)
                    wait_for(up_again(joined, name, old), f"{name} is back")
                    assert process(joined, name).restarts == 1
                    assert f"{name} ended by signal 9" in log_of(joined)
                shown = command("fedprint-node", "status", "--home", str(joined), "--json")
                assert "restarted 1 times" in json.loads(shown.stdout)["training"]
                node.look()
                assert node.end(signal.SIGTERM) == 130
                wait_for(lambda: not node.leftovers(), "all its processes are gone")
        thread.join(60.0)
    assert any(b"READY=1" in item for item in told)
    assert any(b"cannot be reached" in item for item in told)
    assert b"WATCHDOG=1" in told
    assert now(joined).phase == "stopped"
    assert all(item.pid is None for item in now(joined).processes)


def test_limits_count_at_once_and_a_wrong_file_changes_none(joined: Path) -> None:
    """Cores, memory, pause and hours of a node that runs."""
    with node_of(joined) as node:
        first = process(joined, "training").pid
        assert first is not None
        change(joined, "cores = 0", "cores = 1")
        core = {max(os.sched_getaffinity(0))}
        wait_for(lambda: os.sched_getaffinity(first) == core, "it has one core")
        wait_for(lambda: os.getpriority(os.PRIO_PROCESS, first) == 10, "it is nice")

        change(joined, "cores = 1", "cores = many")
        node.process.send_signal(signal.SIGHUP)
        wait_for(lambda: "limits before stay in force" in now(joined).why, "it says so")
        change(joined, "cores = many", "cores = 0")
        wait_for(lambda: "limits before" not in now(joined).why, "it is mended")

        change(joined, "memory_gb = 0.0", "memory_gb = 0.01")
        wait_for(lambda: "memory_gb" in now(joined).why, "it took too much")
        wait_for(lambda: now(joined).phase == "trouble", "it is trouble")
        wait_for(lambda: "is ended; the round" in log_of(joined), "the log says so")
        change(joined, "memory_gb = 0.01", "memory_gb = 0.0")
        wait_for(lambda: process(joined, "training").pid is not None, "it is started again")

        restarts = process(joined, "console").restarts
        command("fedprint-node", "pause", "--home", str(joined))
        wait_for(lambda: both(joined) == [None, None], "both have left")
        wait_for(lambda: now(joined).phase == "paused", "it is paused")
        assert process(joined, "console").restarts == restarts  # the page is there at rest
        assert process(joined, "console").pid is not None
        command("fedprint-node", "resume", "--home", str(joined))
        wait_for(lambda: None not in both(joined), "both are back")
        node.look()
        assert node.end(signal.SIGINT) == 130
        assert not node.leftovers()


def test_a_node_started_at_rest_waits_and_its_logs_read_as_one(joined: Path) -> None:
    command("fedprint-node", "pause", "--why", "move", "--home", str(joined))
    with node_of(joined) as node:
        assert "Paused by the operator: move" in node.text()
        assert both(joined) == []
        assert node.end(signal.SIGTERM) == 130
    command("fedprint-node", "resume", "--home", str(joined))
    shown = command("fedprint-node", "logs", "--json", "-n", "500", "--home", str(joined))
    entries = [json.loads(line) for line in shown.stdout.splitlines()]
    assert {"node", "training", "supernode"} <= {entry["log"] for entry in entries}
    assert [entry["time"] for entry in entries] == sorted(entry["time"] for entry in entries)


def test_a_ledger_that_breaks_while_the_node_runs_ends_it_with_the_reason(joined: Path) -> None:
    """It is looked at before the training process is started again."""
    with node_of(joined) as node:
        pid = process(joined, "training").pid
        assert pid is not None
        (joined / "ledger.sqlite").rename(joined / "ledger.away")
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: node.look() and node.process.poll() is not None, "it ends")
        (joined / "ledger.away").rename(joined / "ledger.sqlite")
        assert node.process.returncode == 3
        assert "ledger" in node.text()
        assert not node.leftovers()
    assert now(joined).phase == "stopped"
    assert "ledger" in now(joined).why
