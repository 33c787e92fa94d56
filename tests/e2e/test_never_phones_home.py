"""Every connection of a node's processes in a real round: to the coordinator, to nobody else.

The same consortium shows what a pause does to a round: nothing is lost or paid for nothing.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import traced
from deployed_parts import (
    BIN,
    ENVIRONMENT,
    Running,
    allow_runs,
    command,
    fill_store,
    free_port,
    make_root,
    running,
    sign_roster,
    wait_for,
)

from client import state
from client.home import NodeHome
from server.checkpoints import RunFolder

pytestmark = [pytest.mark.deployed, pytest.mark.timeout(1200)]

SITES = ("alpha", "beta", "gamma")
PLAN = ("--steps", "2", "--sample-rate", "0.5", "--noise-multiplier", "2.0")
LINES = (
    "12 connect(3, {sa_family=AF_INET, sin_port=htons(53), "
    'sin_addr=inet_addr("10.0.0.2")}, 16) = 0',
    '12 sendto(4, "q", 1, 0, {sa_family=AF_INET, sin_port=htons(123), '
    'sin_addr=inet_addr("192.0.2.1")}, 16) = 1',
    "12 sendmmsg(3, [{msg_hdr={msg_name={sa_family=AF_INET, sin_port=htons(53), "
    'sin_addr=inet_addr("10.0.0.3")}, msg_namelen=16}}], 1, 0) = 1',
    "13 connect(3, {sa_family=AF_INET6, sin6_port=htons(443), sin6_flowinfo=htonl(0), "
    'inet_pton(AF_INET6, "2001:db8::1", &sin6_addr), sin6_scope_id=0}, 28 <unfinished ...>',
    '13 bind(3, {sa_family=AF_INET, sin_port=htons(9), sin_addr=inet_addr("127.0.0.1")}, 16) = 0',
    '14 connect(5, {sa_family=AF_UNIX, sun_path="/run/nscd/socket"}, 110) = -1 ENOENT',
    '14 write(3, "connect", 7) = 7',
)
LOCAL_NAMES = {"/var/run/nscd/socket", "/run/nscd/socket"}
"""The C library asks there for the name of the user, if there is such a service."""


def test_the_search_finds_names_asked_and_strangers_called() -> None:
    """Else an empty result would say nothing."""
    found = traced.seen(LINES)
    assert found.reached == {
        ("10.0.0.2", 53), ("192.0.2.1", 123), ("10.0.0.3", 53), ("2001:db8::1", 443),
    }  # fmt: skip
    assert found.bound == {9}
    assert found.sockets == {"/run/nscd/socket"}


needs_strace = pytest.mark.skipif(bool(traced.can_trace()), reason=traced.can_trace() or "-")


@needs_strace
def test_no_import_speaks_to_anybody(tmp_path: Path) -> None:
    """torch, Flower and matplotlib, as the node uses them; with our modules on top."""
    code = (
        "import torch, flwr.app, flwr.clientapp, flwr.supernode.cli, matplotlib.pyplot\n"
        "import client.app, client.cli, client.training, client.contact_sheet"
    )
    trace = tmp_path / "trace"
    with subprocess.Popen(
        [*traced.words(trace), sys.executable, "-I", "-W", "ignore", "-c", code],
        env=ENVIRONMENT | {"HOME": str(tmp_path), "MPLCONFIGDIR": str(tmp_path)},
    ) as process:
        assert process.wait(300) == 0
    wait_for(lambda: traced.is_whole(trace, process.pid), "the trace is whole", 30.0)
    assert traced.seen(trace.read_text(errors="replace").splitlines()).reached == frozenset()


@dataclass
class Consortium:
    """Three hospitals; alpha's node is traced."""

    root: Path
    port: int
    nodes: dict[str, Running]

    def phase(self, site: str) -> str:
        found = state.node_state(NodeHome(self.root / site))
        return "" if found is None else found.phase


@contextmanager
def traced_node(root: Path, site: str) -> Iterator[Running]:
    """As `running`, under strace where there is one."""
    front = traced.words(root / f"{site}.trace") if not traced.can_trace() else []
    with (root / f"{site}.log").open("ab") as stream:
        process = subprocess.Popen(
            [*front, str(BIN / "fedprint-node"), "start", "--home", str(root / site)],
            env=ENVIRONMENT,
            stdout=stream,
            stderr=stream,
        )
    started = Running(process, root / f"{site}.log")
    try:
        yield started
    finally:
        started.kill_tree()


@pytest.fixture(scope="module")
def consortium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Consortium]:
    root = tmp_path_factory.mktemp("traced")
    home, port, card = str(root / "coordinator"), free_port(), str(make_root(root))
    address, invitation = f"127.0.0.1:{port}", root / "coordinator.json"
    command("fedprint-coordinator", "init", "--home", home, "--address", address, "--root", card)
    command("fedprint-coordinator", "invitation", "--home", home, "-o", str(invitation))
    for site in SITES:
        node = str(root / site)
        command("fedprint-node", "init", "--home", node, "--site", site, "--patients", "12")
        allow_runs(root / site)
        command("fedprint-node", "join", str(invitation), "--home", node, "--yes")
        fill_store(root / site, patients=12, seed=len(site))
        command("fedprint-coordinator", "enrol", str(root / site / "site.json"), "--home", home)
    sign_roster(root, SITES)
    with ExitStack() as stack:
        nodes = {"alpha": stack.enter_context(traced_node(root, "alpha"))}
        for site in SITES[1:]:
            words = ("fedprint-node", "start", "--home", str(root / site))
            nodes[site] = stack.enter_context(running(root / f"{site}.log", *words))
        yield Consortium(root, port, nodes)


@needs_strace
def test_a_round_with_a_pause_reaches_the_coordinator_and_nobody_else(
    consortium: Consortium,
) -> None:
    """beta is paused in round 1: it finishes it, leaves, and round 2 waits; no round fails."""
    root = consortium.root
    beta = str(root / "beta")
    with ExitStack() as stack:
        coordinator = stack.enter_context(
            running(
                root / "run.log",
                *("fedprint-coordinator", "start", "--home", str(root / "coordinator")),
                *("--rounds", "2", "--run", "night", "--minimum", "3", *PLAN),
            )
        )
        begun = root / "beta" / "outbox" / "night" / "0000001" / "request"
        wait_for(begun.exists, "beta has begun round 1")
        command("fedprint-node", "pause", "--why", "ward round", "--home", beta)
        wait_for(lambda: "round 1  aggregated" in coordinator.text(), "round 1 is done")

        def beta_is_down() -> bool:
            found = state.node_state(NodeHome(root / "beta"))
            assert found is not None
            away = [item.pid is None for item in found.processes if item.name != "console"]
            return all(away)

        wait_for(beta_is_down, "beta has left")
        assert consortium.phase("beta") == "paused"
        shown = command("fedprint-node", "status", "--home", beta, "--json")
        assert "ward round" in json.loads(shown.stdout)["why"]
        assert "round 2  opened" not in coordinator.text()
        command("fedprint-node", "resume", "--home", beta)
        wait_for(lambda: coordinator.look() and coordinator.process.poll() is not None, "it ends")
        assert coordinator.process.returncode == 0, coordinator.text()
    record = RunFolder(root / "coordinator" / "runs" / "night").record()
    assert [item.outcome for item in record.rounds] == ["aggregated", "aggregated"]
    assert [len(item.contributors) for item in record.rounds] == [3, 3]
    for site in SITES:
        spend = command("fedprint-node", "spend", "--home", str(root / site), "--json")
        assert [row["answered"] for row in json.loads(spend.stdout)["rounds"]] == [True, True]

    alpha = consortium.nodes["alpha"]
    alpha.look()
    assert alpha.end(signal.SIGTERM) == 130
    wait_for(lambda: not alpha.leftovers(), "all processes of alpha are gone")
    pid = alpha.process.pid
    wait_for(lambda: traced.is_whole(root / "alpha.trace", pid), "the trace is whole", 30.0)
    found = traced.seen((root / "alpha.trace").read_text(errors="replace").splitlines())
    theirs = {("127.0.0.1", consortium.port)}
    own = {(address, port) for address, port in found.reached if port in found.bound}
    assert theirs <= found.reached
    assert {address for address, _ in own} <= {"127.0.0.1"}
    assert found.reached - own == theirs
    assert found.sockets <= LOCAL_NAMES, found.sockets
