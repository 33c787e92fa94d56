"""Processes of a benchmark: started with our commands, waited for, ended."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from shared_model.errors import OurMistake

DEADLINE_S = 900.0
BIN = Path(sys.executable).parent
QUIET = {
    "PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}",
    "OMP_NUM_THREADS": "1",
    "NO_COLOR": "1",
    "COLUMNS": "200",
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
}


def command(*words: str) -> None:
    """One of our commands, to its end.

    Raises:
        OurMistake: it failed; with what it said.
    """
    done = subprocess.run(
        [str(BIN / words[0]), *words[1:]],
        env={**os.environ, **QUIET},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    if done.returncode != 0:
        raise OurMistake(f"{' '.join(words[:3])} failed:\n{done.stdout}{done.stderr}")


@contextmanager
def running(
    log: Path, words: Sequence[str], more: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A command in a session of its own; it and all that it started are ended on the way out."""
    with log.open("ab") as stream:
        process = subprocess.Popen(
            [str(BIN / words[0]), *words[1:]],
            env={**os.environ, **QUIET, **(more or {})},
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(process.pid, number)
                process.wait(20.0)
            except ProcessLookupError:
                break
            except subprocess.TimeoutExpired:
                continue


def wait_for(
    condition: Callable[[], object], what: str, process: subprocess.Popen[bytes] | None = None
) -> None:
    """Poll until the condition holds.

    Raises:
        OurMistake: the process ended, or DEADLINE_S passed.
    """
    end = time.monotonic() + DEADLINE_S
    while not condition():
        if process is not None and process.poll() is not None:
            raise OurMistake(f"A process of the benchmark ended before this: {what}.")
        if time.monotonic() > end:
            raise OurMistake(f"Not within {DEADLINE_S:.0f} s: {what}.")
        time.sleep(0.05)


def free_port() -> int:
    """A TCP port that nothing uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def last_lines(log: Path, lines: int = 20) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
