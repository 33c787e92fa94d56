"""`fedprint-lab ablate --workers 2` as a process that is told to end in mid-run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from threading import Event

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]
COMMAND = (
    "import typer; from shared_model import terminal; from simulations import cli_ablate; "
    "app = typer.Typer(); app.command('other')(lambda: None); cli_ablate.register(app); "
    "terminal.run(lambda: app(standalone_mode=False))"
)
ENDLESS = """
name = "endless"
steps = 1000000
patients = 80
[base]
batch = 2
[vary]
learning_rate = [1e-3]
"""
PATIENCE_S = 300.0
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")


def trainers(parent: int) -> list[psutil.Process]:
    """All that the command started, once both workers have what simulates their windows."""
    found = psutil.Process(parent).children(recursive=True)
    direct = [one for one in found if one.ppid() == parent]
    busy = [one for one in direct if any(other.ppid() == one.pid for other in found)]
    return found if len(busy) == 2 else []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_end_it_ends_at_once_and_leaves_nothing(
    tmp_path: Path, number: signal.Signals
) -> None:
    """A run would take days. One line, 128 + the signal, no process, no file but the folder."""
    (tmp_path / "a.toml").write_text(ENDLESS)
    out = tmp_path / "out"
    words = ["ablate", str(tmp_path / "a.toml"), "-o", str(out), "--workers", "2"]
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, *words],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    started: list[psutil.Process] = []
    pause = Event()
    for _ in range(int(PATIENCE_S / 0.05)):
        started = trainers(process.pid)
        if started or process.poll() is not None:
            break
        pause.wait(0.05)
    assert len(started) >= 4
    sessions = {os.getsid(one.pid) for one in started}
    process.send_signal(number)
    shown, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 128 + number
    _, alive = psutil.wait_procs(started, timeout=PATIENCE_S)
    assert alive == []
    assert not sessions & {session_of(pid) for pid in psutil.pids()}
    lines = said.decode().splitlines()
    told = [line for line in lines if "Ended by" in line or "nterrupted" in line]
    assert told == [
        f"Ended by {number.name}. Go on with: fedprint-lab ablate {tmp_path}/a.toml -o {out} "
        "--resume --workers 2"
    ]
    assert "Traceback" not in said.decode()
    assert shown == b""
    assert list(out.rglob("*")) == [out / "runs"]


def session_of(pid: int) -> int:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return 0
