"""A node and a coordinator that live, for one round, under their systemd units' restrictions."""

from __future__ import annotations

import ctypes.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from deployed_parts import (
    BIN,
    ENVIRONMENT,
    Running,
    allow_runs,
    command,
    descendants,
    fill_store,
    free_port,
    make_root,
    running,
    sign_roster,
    wait_for,
)
from restricted import NOBODY

import client
import server
import shared_model
from server.checkpoints import RunFolder

pytestmark = [pytest.mark.deployed, pytest.mark.timeout(900)]

SITES = ("alpha", "beta", "gamma")
PLAN = ("--steps", "2", "--sample-rate", "0.5", "--noise-multiplier", "2.0", "--minimum", "3")
NEEDED = ("unshare", "systemd-analyze", "mount")
ABSENT = [name for name in NEEDED if shutil.which(name) is None]
if ctypes.util.find_library("seccomp") is None:
    ABSENT.append("libseccomp")


def may_mount() -> bool:
    done = subprocess.run(
        ["unshare", "--mount", "--ipc", "mount", "-t", "tmpfs", "tmpfs", "/mnt"],
        capture_output=True,
        check=False,
    )
    return done.returncode == 0


@pytest.fixture
def root() -> Iterator[Path]:
    """Not below /tmp, which a unit has for itself."""
    if os.geteuid() != 0 or ABSENT:
        pytest.skip(f"needs root and: {', '.join(ABSENT) or 'nothing else'}")
    if not may_mount():
        pytest.skip("this machine does not let us mount")
    folder = Path(tempfile.mkdtemp(dir="/var/lib", prefix="fedprint-test-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@contextmanager
def restricted(log: Path, home: Path, *words: str) -> Iterator[Running]:
    """A command as its unit runs it; its home is all that it may write to."""
    for path in (home, *home.rglob("*")):
        os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
    package = server if words[0] == "fedprint-coordinator" else client
    name = "fedprint-coordinator" if package is server else "fedprint-node"
    unit = Path(str(package.__file__)).parent / "systemd" / f"{name}.service"
    keep = {Path(__file__).parents[2]}
    keep |= {Path(m.__file__).parents[1] for m in (client, shared_model, pytest) if m.__file__}
    with log.open("ab") as stream:
        process = subprocess.Popen(
            [
                *("unshare", "--mount", "--ipc", "--propagation", "private"),
                *(
                    sys.executable,
                    str(Path(__file__).with_name("restricted.py")),
                    str(unit),
                    str(home),
                ),
                *(str(path) for path in sorted(keep)),
                *("--", str(BIN / words[0]), *words[1:]),
            ],
            env={**ENVIRONMENT, "HOME": "/nonexistent"},
            stdout=stream,
            stderr=stream,
        )
    started = Running(process, log)
    try:
        yield started
    finally:
        started.kill_tree()


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def test_training_step_works_under_the_nodes_unit_and_what_it_forbids_does_not(root: Path) -> None:
    """torch makes machine code while it runs: with MemoryDenyWriteExecute=yes rounds failed."""
    home, script = root / "home", Path(__file__).with_name("inside_the_unit.py")
    home.mkdir()
    with restricted(root / "log", home, "python", "-I", str(script), str(home)) as process:
        assert process.process.wait(120) == 0, process.text()
    told = json.loads(process.text().splitlines()[-1])
    must = ("trains", "writes home", "writes tmp", "tcp", "looks names up", "affinity", "code")
    must_not = ("writes elsewhere", "sees home folders", "raw", "packet", "new namespace")
    assert [name for name in must if not told[name]] == []
    assert [name for name in must_not if told[name]] == []
    assert (told["uid"], told["devices"]) == (NOBODY, [])


@pytest.mark.long
def test_node_and_coordinator_finish_a_round_under_their_units_restrictions(root: Path) -> None:
    """User nobody, read-only system, no devices, no capabilities, no writable code, few calls.

    Not tried here, because only systemd as PID 1 does it: sd_notify's socket, the credential,
    StateDirectory, ProtectProc, ProtectClock, ProtectKernelLogs, ProtectControlGroups' cgroup.
    """
    home, address = root / "coordinator", f"127.0.0.1:{free_port()}"
    card, invitation = str(make_root(root)), root / "coordinator.json"
    at = ("--home", str(home))
    command("fedprint-coordinator", "init", *at, "--address", address, "--root", card)
    command("fedprint-coordinator", "invitation", *at, "-o", str(invitation))
    for site in SITES:
        node = ("--home", str(root / site))
        command("fedprint-node", "init", *node, "--site", site, "--patients", "12")
        allow_runs(root / site)
        command("fedprint-node", "join", str(invitation), *node, "--yes")
        fill_store(root / site, patients=12, seed=len(site))
        command("fedprint-coordinator", "enrol", str(root / site / "site.json"), *at)
    sign_roster(root, SITES)
    with ExitStack() as stack:
        nodes = {}
        for site in SITES:
            words = ("fedprint-node", "start", "--home", str(root / site))
            log = root / f"{site}.log"
            nodes[site] = stack.enter_context(
                restricted(log, root / site, *words) if site == "alpha" else running(log, *words)
            )
        for site, node_process in nodes.items():
            wait_for(
                lambda p=node_process: "is started" in p.text() or p.process.poll() is not None,
                f"{site} is started",
                120,
            )
            assert node_process.process.poll() is None, node_process.text()
        run = stack.enter_context(
            restricted(
                root / "run.log",
                home,
                *("fedprint-coordinator", "start", "--rounds", "1", "--run", "spring", *PLAN, *at),
            )
        )
        link_log = home / "logs" / "superlink.log"
        wait_for(lambda: run.process.poll() is not None or link_log.exists(), "processes", 120)
        for process in (nodes["alpha"], run):
            for pid in descendants(process.process.pid):
                facts = status(pid)
                assert facts["Uid"].split() == [str(NOBODY)] * 4
                assert (facts["NoNewPrivs"], facts["Seccomp"]) == ("1", "2")
                assert int(facts["CapEff"], 16) == int(facts["CapBnd"], 16) == 0
        wait_for(lambda: run.process.poll() is not None, "the run ends", 300)
        log = (root / "alpha" / "logs" / "rounds.log").read_text()
        assert run.process.returncode == 0, run.text() + log
        assert RunFolder(home / "runs" / "spring").record().rounds
        for process in nodes.values():
            assert process.end(signal.SIGTERM) in (130, 143)
