"""Children end with their parent, however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from shared_model.children import Family


def gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return True
    return state == "Z"


def wait_for(condition: object, what: str, deadline_s: float = 20.0) -> None:
    assert callable(condition)
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.05)


def test_leaving_ends_the_children(tmp_path: Path) -> None:
    with Family() as family:
        child = family.start("nap", "signal:sigwait", log=tmp_path / "log")
        pid = child.pid
        assert not gone(pid)
    assert gone(pid)


def test_a_child_that_ends_is_noticed(tmp_path: Path) -> None:
    with Family() as family:
        child = family.start("short", "os:getpid", log=tmp_path / "log")
        assert child.wait(20.0) is not None
        assert family.ended() is child


def test_a_child_sees_no_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A decoy module in the working directory or on PYTHONPATH is not executed."""
    (tmp_path / "signal.py").write_text("open('executed', 'w')\n")
    (tmp_path / "client").mkdir()
    (tmp_path / "client" / "__init__.py").write_text("open('executed', 'w')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with Family() as family:
        child = family.start("decoy", "client.home:NodeHome", ["x"], log=tmp_path / "log")
        assert child.wait(30.0) == 0
    assert not (tmp_path / "executed").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_children_end_with_a_parent_that_is_killed(tmp_path: Path, number: signal.Signals) -> None:
    script = f"""
import pathlib, signal, sys
from shared_model.children import Family
with Family() as family:
    child = family.start("nap", "signal:sigwait", log=pathlib.Path({str(tmp_path / "log")!r}))
    while pathlib.Path(f"/proc/{{child.pid}}/cmdline").read_bytes().count(b"children") == 0: pass
    print(child.pid, flush=True)
    while True: signal.sigtimedwait([signal.SIGUSR1], 0.2)
"""
    parent = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    os.kill(parent.pid, number)
    assert parent.wait(20.0) != 0
    wait_for(lambda: gone(child), "the child outlived its parent")
    parent.stdout.close()
