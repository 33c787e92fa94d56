"""Every connection of a process and its children, as strace saw it."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

CALLS = "connect,sendto,sendmsg,sendmmsg,bind"
_CALL = re.compile(r"\b(connect|sendto|sendmsg|sendmmsg|bind)\(")
_INET = re.compile(
    r'sa_family=AF_INET6?, sin6?_port=htons\((\d+)\).*?"([0-9a-fA-F.:]+)"', re.DOTALL
)
_UNIX = re.compile(r'sa_family=AF_UNIX, sun_path=(@?"[^"]*")')


@dataclass(frozen=True)
class Seen:
    """reached: (address, port) of every connect or datagram. bound: ports of its own."""

    reached: frozenset[tuple[str, int]]
    bound: frozenset[int]
    sockets: frozenset[str]


def can_trace() -> str:
    """Why this machine cannot trace; "": it can."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    tried = subprocess.run(
        ["strace", "-o", "/dev/null", "true"], capture_output=True, timeout=30, check=False
    )
    return "" if tried.returncode == 0 else "this user may not trace processes"


def words(log: Path) -> list[str]:
    """The command line in front of a command, which stays the parent's own child."""
    return [
        *("strace", "-D", "-f", "-q", "--seccomp-bpf", "-s", "256"),
        *("-e", f"trace={CALLS}", "-e", "signal=none", "-o", str(log)),
    ]


def is_whole(log: Path, pid: int) -> bool:
    """Whether the trace goes to the end of this process, which is its first."""
    text = log.read_text(errors="replace") if log.exists() else ""
    return re.search(rf"^ *{pid} +\+\+\+ exited with", text, re.MULTILINE) is not None


def seen(lines: Iterable[str]) -> Seen:
    """What a trace shows. A call that strace printed in two halves has its address in the first."""
    reached, bound, sockets = set(), set(), set()
    for line in lines:
        call = _CALL.search(line)
        if call is None:
            continue
        for port, address in _INET.findall(line):
            if call[1] == "bind":
                bound.add(int(port))
            else:
                reached.add((address, int(port)))
        sockets |= {name.strip('"') for name in _UNIX.findall(line)}
    return Seen(frozenset(reached), frozenset(bound), frozenset(sockets))
