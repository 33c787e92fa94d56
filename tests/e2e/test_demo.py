"""The demo: the whole road as real processes, nothing left behind, also when it is interrupted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

DEADLINE_S = 540.0


def _start(output: Path) -> subprocess.Popen[bytes]:
    command = [str(Path(sys.executable).parent / "fedprint-lab"), "demo", str(output)]
    command += ["--simulated", "--rounds", "1", "--steps", "2", "--patients", "12"]
    return subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def _processes_below(folder: Path) -> list[int]:
    """Processes whose command line names the folder of this demo."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            words = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if str(folder).encode() in words:
            found.append(int(entry.name))
    return found


def _until_gone(folder: Path) -> list[int]:
    until = time.monotonic() + 30.0
    while _processes_below(folder) and time.monotonic() < until:
        time.sleep(0.2)
    return _processes_below(folder)


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "demo"


@pytest.mark.deployed
def test_demo_walks_the_whole_road_and_leaves_no_process(output: Path) -> None:
    """Ingest, three nodes over TLS, rounds with DP, release, installation, audit, report."""
    demo = _start(output)
    try:
        _, errors = demo.communicate(timeout=DEADLINE_S)
    finally:
        demo.kill()
    assert demo.returncode == 0, errors.decode()[-2000:]
    summary = json.loads((output / "summary.json").read_text())
    assert summary["data"] == "SIMULATED hospitals"
    learned = next(line for line in summary["in_words"] if line.startswith("Secure sum:"))
    assert "each of at least 3 hospitals' noised updates, and no hospital's own" in learned
    assert summary["audit"]["verdict"] == "OK"
    assert summary["audit_sums"]["verdict"] == "OK"
    sums = {item["check"]: item["verdict"] for item in summary["audit_sums"]["findings"]}
    assert sums["round 1: added again"] == sums["round 1: model"] == "OK"
    typed = " | ".join(item["command"] for item in summary["commands"])
    for ceremony in ("root init", "roster draft", "root sign", "roster import", "roster approve"):
        assert ceremony in typed
    assert len(summary["privacy"]) == 3
    assert all(one["epsilon"] > 0 for one in summary["privacy"])
    page = (output / "report.html").read_text()
    assert "SIMULATED" in page
    assert 'src="http' not in page
    assert 'href="http' not in page
    assert _until_gone(output) == []


@pytest.mark.deployed
def test_interrupted_demo_leaves_no_process(output: Path) -> None:
    """Ctrl-C while nodes and coordinator run ends all of them."""
    demo = _start(output)
    try:
        until = time.monotonic() + DEADLINE_S
        log = output / "logs" / "coordinator.log"
        while time.monotonic() < until and not (log.exists() and b"opened" in log.read_bytes()):
            assert demo.poll() is None, "the demo ended before it could be interrupted"
            time.sleep(0.2)
        demo.send_signal(signal.SIGINT)
        _, errors = demo.communicate(timeout=60.0)
    finally:
        demo.kill()
    assert demo.returncode == 130, errors.decode()[-2000:]
    assert _until_gone(output) == []


def test_demo_refuses_a_folder_that_is_not_its_own(output: Path) -> None:
    """A folder with something in it is never removed, not even with --replace."""
    output.mkdir()
    (output / "thesis.txt").write_text("three years")
    lab = str(Path(sys.executable).parent / "fedprint-lab")
    for options in ([], ["--replace"]):
        done = subprocess.run(
            [lab, "demo", str(output), *options], capture_output=True, text=True, check=False
        )
        assert done.returncode == 2
        assert "exists already" in " ".join(done.stderr.split())  # wherever its line breaks
    assert (output / "thesis.txt").exists()
