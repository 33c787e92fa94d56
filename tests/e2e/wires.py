"""Wires of the tests: a TCP proxy that delays, cuts and counts; namespaces with a narrow link.

with Wire("127.0.0.1", port) as wire:       # wire.port: where to connect instead
    wire.cut()                              # all connections end, new ones too
    wire.silence()                          # all connections stay, and nothing gets through
    wire.mend()
    wire.cut_when(lambda: wire.up > 10**6)  # cut by itself: asked after each piece upwards
    wire.up, wire.down                      # bytes carried to the target, and back
    wire.up_until(time.time())              # those carried to the target before then
"""

from __future__ import annotations

import bisect
import contextlib
import os
import selectors
import shutil
import socket
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

PIECE = 16 * 1024


@dataclass
class _Half:
    """One direction of a connection: what was read and may not be written before its time."""

    source: socket.socket
    target: socket.socket
    up: bool
    waiting: deque[tuple[float, bytes]] = field(default_factory=deque)
    ended: bool = False

    @property
    def held(self) -> int:
        return sum(len(data) for _, data in self.waiting)


class Wire:
    """A TCP proxy to HOST:PORT in a thread. Use as a context manager.

    Args:
        delay_s: one way.
        bind, listen: address and port to listen at; port 0: any.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        delay_s: float = 0.0,
        bind: str = "127.0.0.1",
        listen: int = 0,
    ) -> None:
        self.target = (host, port)
        self.delay_s = delay_s
        self.down = 0
        self._ups: list[tuple[float, int]] = []
        self.cuts = 0
        self.connections = 0
        self._state = "whole"
        self.cut_at: tuple[float, int] | None = None
        self._condition: Callable[[], bool] | None = None
        self._lock = threading.Lock()
        self._pairs: list[tuple[_Half, _Half]] = []
        self._listener = socket.create_server((bind, listen), backlog=64)
        self._listener.setblocking(False)
        self.port = int(self._listener.getsockname()[1])
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join(10)
        self._end_all()
        self._listener.close()

    # ------------------------------------------------------------ what a test does

    def cut(self) -> None:
        """All connections end; whoever connects is hung up on."""
        with self._lock:
            self._state = "cut"
            self.cuts += 1

    def silence(self) -> None:
        """Nothing gets through, and nobody says so: a line that has gone."""
        with self._lock:
            self._state = "silent"
            self.cuts += 1

    def mend(self) -> None:
        """As it was. What was under way in a silence is lost with its connections."""
        with self._lock:
            self._state = "mended" if self._state == "silent" else "whole"

    def cut_when(self, condition: Callable[[], bool]) -> None:
        """Cut by itself once this holds. It is asked in the wire's own thread after each piece that
        went up, before the next can: however slow the machine is, the moment is not missed.
        `cut_at` then says when (seconds since 1970) and after how many bytes upwards."""
        with self._lock:
            self._condition = condition

    @property
    def up(self) -> int:
        """Bytes carried to the target."""
        return self._ups[-1][1] if self._ups else 0

    def up_until(self, at_s: float) -> int:
        """Bytes carried to the target before then (seconds since 1970, as a node's logs tell)."""
        before = bisect.bisect_left(self._ups, at_s, key=lambda one: one[0])
        return self._ups[before - 1][1] if before else 0

    @property
    def is_whole(self) -> bool:
        return self._state in ("whole", "mended")

    # ------------------------------------------------------------ the thread

    def _run(self) -> None:
        while not self._stop.is_set():
            with self._lock:
                state = self._state
                if state == "mended":
                    self._state = "whole"
            if state in ("cut", "mended"):
                self._end_all()
            self._turn(state)

    def _turn(self, state: str) -> None:
        halves = [half for pair in self._pairs for half in pair]
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ, None)
            if state == "whole":
                for half in halves:
                    if not half.ended and half.held < 4 * 1024 * 1024:
                        selector.register(half.source, selectors.EVENT_READ, half)
            for key, _ in selector.select(self._patience(halves, state)):
                if key.data is None:
                    self._accept(state)
                else:
                    self._read(key.data)
        if state == "whole":
            for half in halves:
                self._write(half)
        self._pairs = [pair for pair in self._pairs if not self._over(pair)]

    def _patience(self, halves: list[_Half], state: str) -> float:
        due = [half.waiting[0][0] for half in halves if half.waiting]
        if state != "whole" or not due:
            return 0.02
        return min(0.02, max(0.0, min(due) - time.monotonic()))

    def _accept(self, state: str) -> None:
        near, _ = self._listener.accept()
        if state == "cut":
            near.close()
            return
        try:
            far = socket.create_connection(self.target, timeout=5.0)
        except OSError:
            near.close()
            return
        for end in (near, far):
            end.setblocking(False)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connections += 1
        self._pairs.append((_Half(near, far, up=True), _Half(far, near, up=False)))

    def _read(self, half: _Half) -> None:
        try:
            data = half.source.recv(PIECE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            half.ended = True
            return
        half.waiting.append((time.monotonic() + self.delay_s, data))

    def _write(self, half: _Half) -> None:
        while half.waiting and half.waiting[0][0] <= time.monotonic():
            at, data = half.waiting.popleft()
            try:
                count = half.target.send(data)
            except BlockingIOError:
                count = 0
            except OSError:
                half.ended = True
                half.waiting.clear()
                return
            if count < len(data):
                half.waiting.appendleft((at, data[count:]))
            self._count(half, count)
            if count < len(data):
                return

    def _count(self, half: _Half, count: int) -> None:
        if not half.up:
            self.down += count
            return
        self._ups.append((time.time(), self.up + count))
        with self._lock:
            if self._condition is None or not self._condition():
                return
            self._condition, self._state = None, "cut"
            self.cut_at = self._ups[-1]
            self.cuts += 1

    def _over(self, pair: tuple[_Half, _Half]) -> bool:
        if not any(half.ended and not half.waiting for half in pair):
            return False
        for half in pair:
            with contextlib.suppress(OSError):
                half.source.close()
        return True

    def _end_all(self) -> None:
        for pair in self._pairs:
            for half in pair:
                with contextlib.suppress(OSError):
                    half.source.close()
        self._pairs = []


# ---------------------------------------------------------------- namespaces


def why_no_namespaces() -> str:
    """ "" if this process can make network namespaces; else why not."""
    if os.geteuid() != 0:
        return "needs root: ip netns"
    if shutil.which("ip") is None or shutil.which("tc") is None:
        return "needs iproute2 (ip, tc)"
    name = f"fp{os.getpid()}x"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False)
    if made.returncode != 0:
        return "ip netns add does not work here"
    subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
    return ""


@dataclass(frozen=True)
class Namespace:
    """A network of its own, joined to this one by one cable.

    here, there: the cable's two addresses; a process in it reaches `here` and nothing else.
    """

    name: str
    here: str
    there: str
    device: str

    @property
    def prefix(self) -> tuple[str, ...]:
        """Words that begin a command that is to run in it."""
        return ("ip", "netns", "exec", self.name)


@contextlib.contextmanager
def namespace(*, mbit: float | None = None) -> Iterator[Namespace]:
    """A namespace; at most so many Mbit/s each way (tbf)."""
    number = _free_network()
    base = f"fp{os.getpid() % 100000}n{number}"
    this = Namespace(base, f"10.213.{number}.1", f"10.213.{number}.2", f"{base}h")
    inner = f"{base}i"
    try:
        _ip("netns", "add", this.name)
        _ip("link", "add", this.device, "type", "veth", "peer", "name", inner)
        _ip("link", "set", inner, "netns", this.name)
        _ip("addr", "add", f"{this.here}/24", "dev", this.device)
        _ip("link", "set", this.device, "up")
        _ip("-n", this.name, "addr", "add", f"{this.there}/24", "dev", inner)
        _ip("-n", this.name, "link", "set", inner, "up")
        _ip("-n", this.name, "link", "set", "lo", "up")
        if mbit is not None:
            for prefix, device in (((), this.device), (("-n", this.name), inner)):
                shape = ("rate", f"{mbit}mbit", "burst", "32kbit", "latency", "400ms")
                words = ("tc", *prefix, "qdisc", "add", "dev", device, "root", "tbf", *shape)
                subprocess.run(words, check=True, capture_output=True)
        yield this
    finally:
        for words in (("netns", "del", this.name), ("link", "del", this.device)):
            subprocess.run(("ip", *words), capture_output=True, check=False)


def _free_network() -> int:
    """N of a network 10.213.N.0/24 that nobody here has; a killed test may have left one."""
    taken = subprocess.run(
        ["ip", "-4", "-o", "addr"], check=True, capture_output=True, text=True
    ).stdout
    first = os.getpid() % 200
    return next(
        number % 200
        for number in range(first, first + 200)
        if f" 10.213.{number % 200}." not in taken
    )


def _ip(*words: str) -> None:
    subprocess.run(("ip", *words), check=True, capture_output=True)


@contextlib.contextmanager
def tinyproxy(folder: Path, address: str) -> Iterator[tuple[str, Path]]:
    """A real forward proxy (Debian's tinyproxy): its URL and its log."""
    with socket.socket() as probe:
        probe.bind((address, 0))
        port = int(probe.getsockname()[1])
    log = folder / "tinyproxy.log"
    settings = folder / "tinyproxy.conf"
    settings.write_text(
        f'Port {port}\nListen {address}\nLogFile "{log}"\nLogLevel Connect\nTimeout 600\n'
    )
    words = ("tinyproxy", "-d", "-c", str(settings))
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 20.0
        while True:
            try:
                socket.create_connection((address, port), timeout=1.0).close()
                break
            except OSError:
                assert time.monotonic() < end, "tinyproxy does not listen"
                time.sleep(0.05)
        yield f"http://{address}:{port}", log
    finally:
        process.terminate()
        process.wait(20)


def during(condition: Callable[[], object], wire: Wire, seconds: float, how: str) -> None:
    """Once the condition holds, take the line away for so long. how: "cut" or "silence"."""
    end = time.monotonic() + 600.0
    while not condition():
        assert time.monotonic() < end, "the moment of the outage never came"
        time.sleep(0.02)
    getattr(wire, how)()
    threading.Event().wait(seconds)
    wire.mend()
