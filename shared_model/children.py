"""Child processes that never outlive their parent, whatever ends it.

    with Family() as family:
        link = family.start("superlink", "server.app:serve_superlink", [...], log=path)
        ...                                   # on leaving: SIGTERM, wait, SIGKILL

- a child runs `module:function` of our installed packages with Python's isolated mode (`-I`): no
  working directory, no PYTHONPATH on its path, so that nothing lying around is executed;
- it is in a session of its own: a Ctrl-C at the terminal reaches the parent only, which ends its
  children in order; SIGTERM and SIGHUP to the parent do the same as Ctrl-C;
- when the parent is killed (kill -9), the kernel kills the child (Linux, PR_SET_PDEATHSIG);
  elsewhere the child notices that its standard input was closed.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, TracebackType
from typing import IO

from shared_model.errors import OurMistake

GRACE_S = 10.0
_PR_SET_PDEATHSIG = 1
_ENDING = (signal.SIGTERM, signal.SIGHUP)


@dataclass
class Child:
    """One running child."""

    name: str
    log: Path
    process: subprocess.Popen[bytes] = field(repr=False)
    merged: bool = False

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def output(self) -> IO[bytes]:
        """What a child started with `piped` writes to its standard output, with `merged` to both.

        Who takes it from a `merged` child closes it.
        """
        if self.process.stdout is None:
            raise OurMistake(f"The output of {self.name} is not piped.")
        return self.process.stdout

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self.process.poll()

    def wait(self, timeout_s: float) -> int | None:
        """Wait for its end, at most so long; None when it still runs."""
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def last_lines(self, count: int = 15) -> str:
        """The end of its log, for a human."""
        try:
            text = self.log.read_text(errors="replace")
        except OSError:
            return ""
        return "\n".join(text.splitlines()[-count:])


class Family:
    """Starts children and ends all of them on leaving. Use from the main thread, once."""

    def __init__(self) -> None:
        self.children: list[Child] = []
        self._handlers: dict[signal.Signals, object] = {}

    def __enter__(self) -> Family:
        for number in _ENDING:
            self._handlers[number] = signal.signal(number, _interrupt)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number in (*_ENDING, signal.SIGINT):  # a second Ctrl-C must not leave orphans
            previous = signal.signal(number, signal.SIG_IGN)
            self._handlers.setdefault(number, previous)
        try:
            self.stop()
        finally:
            for number, handler in self._handlers.items():
                signal.signal(number, handler)  # type: ignore[arg-type]

    def start(
        self,
        name: str,
        entry: str,
        arguments: Sequence[str] = (),
        *,
        log: Path,
        environment: Mapping[str, str] | None = None,
        piped: bool = False,
        merged: bool = False,
    ) -> Child:
        """Run `module:function` with these arguments; output is appended to `log`.

        Args:
            piped: standard output goes to `Child.output` instead of the log.
            merged: standard output and error go there, unbuffered; nothing to the log.
        """
        log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        command = [sys.executable, "-I", *(["-u"] if merged else []), "-m", "shared_model.children"]
        command += [str(os.getpid()), entry, *arguments]

        def run(out: IO[bytes] | int, err: IO[bytes] | int) -> subprocess.Popen[bytes]:
            return subprocess.Popen(
                command,
                stdin=subprocess.PIPE,  # closes with us; see tether
                stdout=out,
                stderr=err,
                start_new_session=True,
                env={**os.environ, **(environment or {})},
            )

        if merged:
            process = run(subprocess.PIPE, subprocess.STDOUT)
        else:
            with log.open("ab") as stream:
                process = run(subprocess.PIPE if piped else stream, stream)
        child = Child(name, log, process, merged)
        self.children.append(child)
        return child

    def signal(self, child: Child, number: signal.Signals) -> None:
        """Send a signal to a child and all that it started."""
        _signal_group(child, number)

    def forget(self, child: Child) -> None:
        """A child that has ended: end what it left behind, let go of it."""
        _signal_group(child, signal.SIGKILL)
        child.process.wait()
        _close(child)
        self.children.remove(child)

    def ended(self) -> Child | None:
        """The first child that is no longer running."""
        return next((child for child in self.children if child.exit_code is not None), None)

    def stop(self, grace_s: float = GRACE_S) -> None:
        """End all, the last started first; who does not obey in time is killed."""
        for child in reversed(self.children):
            _signal_group(child, signal.SIGTERM)
        for child in reversed(self.children):
            child.wait(grace_s)
        for child in reversed(self.children):
            _signal_group(child, signal.SIGKILL)
            child.process.wait()
            _close(child)
        self.children.clear()


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _signal_group(child: Child, number: signal.Signals) -> None:
    try:
        os.killpg(child.pid, number)
    except (ProcessLookupError, PermissionError):
        return  # it has ended


def _close(child: Child) -> None:
    pipes = (child.process.stdin, None if child.merged else child.process.stdout)
    for pipe in pipes:
        if pipe is not None:
            pipe.close()


def tether(parent: int) -> None:
    """Bind this process to the life of its parent."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl")
        if os.getppid() != parent:  # it died before we asked
            os._exit(1)
    else:
        threading.Thread(target=_watch_input, daemon=True).start()


def _watch_input() -> None:
    while sys.stdin.buffer.read(1):
        pass
    os._exit(1)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry of a child: PARENT_PID MODULE:FUNCTION ARGUMENTS..."""
    parent, entry, *rest = sys.argv[1:] if arguments is None else arguments
    tether(int(parent))
    module, _, function = entry.partition(":")
    run: Callable[[list[str]], None] = getattr(importlib.import_module(module), function)
    run(list(rest))


if __name__ == "__main__":
    main()
