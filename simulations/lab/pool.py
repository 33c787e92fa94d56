"""The in-process engine: worker processes that map the same weights and windows.

    with in_process(job, workers=2) as engine:
        total, told = engine.round(given, sites)

A worker is a process of its own (none is forked off this one), warm from round to round. It gets a
site's number through a pipe, calls the ClientApp and adds the integers to its own block of shared
memory; this process adds the blocks. Sites are handed out as workers become free. With one worker
all of that happens right here.

Blocks are memory of this process without a name (memfd), which workers open below /proc: whatever
is killed, nothing stays behind. A worker whose parent is gone ends within a second. A worker that
dies ends the run with `FedprintError`; nothing is waited for.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, Pipe, wait
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from shared_model.errors import FedprintError, OurMistake
from shared_model.secure_sum.primitives import Words
from simulations.lab.client_app import Job, client_app, forget
from simulations.lab.terms import RoundInput
from simulations.worker_process import gone, started

Told = list[dict[str, Any]]
OnSite = Callable[[int], None]
"""Told how many sites of the round are done."""

_CRASHED = b"\0"
_LOOK_S = 1.0
_MESSAGES = 16
"""To each worker in a round, about; with more sites than that a message asks for several."""


class Engine(Protocol):
    """Computes the hospitals of a round. How does not show in the result."""

    @property
    def workers(self) -> int:
        """Processes that compute at once."""

    def round(
        self, given: RoundInput, sites: Sequence[int], size: int, on_site: OnSite = lambda _: None
    ) -> tuple[Words, Told]:
        """The sum mod 2^32 over these sites, uint32 (size,), and what is told of each, in order.

        Args:
            sites: in the order in which they are begun, each once; at least one.

        Raises:
            FedprintError: a worker is gone, or a site could not be computed.
        """


def cores() -> int:
    """Processes that are of use on this machine."""
    return len(os.sched_getaffinity(0))


class Block:
    """Shared memory, mapped by a path in this process and its workers."""

    def __init__(self, size: int) -> None:
        self._descriptor = os.memfd_create("fedprint-lab")
        os.ftruncate(self._descriptor, size)
        self.path = f"/proc/{os.getpid()}/fd/{self._descriptor}"
        self.bytes: npt.NDArray[np.uint8] = np.memmap(self.path, dtype=np.uint8, mode="r+")

    def close(self) -> None:
        """Let go of it; it is gone when the last process has."""
        del self.bytes
        os.close(self._descriptor)


@contextmanager
def in_process(job: Job, workers: int = 0) -> Iterator[Engine]:
    """The engine, with so many workers; 0: as many as cores; 1: here, without a process."""
    count = workers or cores()
    with ExitStack() as stack:
        if count == 1:
            app = client_app(job)
            stack.callback(forget, job)
            desks: Sequence[_Desk] = [_Here(lambda header: _through(app, header))]
        else:
            desks = [stack.enter_context(_process(job)) for _ in range(count)]
        pool = _Pool(desks)
        stack.callback(pool.close)
        yield pool


class _Desk(Protocol):
    """Where sites are computed one after another."""

    @property
    def connection(self) -> Connection | None: ...
    def send(self, header: bytes) -> None: ...
    def receive(self) -> bytes: ...


@dataclass
class _Here:
    """In this process, at once."""

    call: Callable[[bytes], bytes]
    connection: None = None
    answers: deque[bytes] = field(default_factory=deque)

    def send(self, header: bytes) -> None:
        self.answers.append(self.call(header))

    def receive(self) -> bytes:
        return self.answers.popleft()


@dataclass
class _Process:
    """In a worker process."""

    connection: Connection
    process: subprocess.Popen[bytes]

    def send(self, header: bytes) -> None:
        try:
            self.connection.send_bytes(header)
        except OSError as error:
            raise gone(self.process, "workers") from error

    def receive(self) -> bytes:
        try:
            return self.connection.recv_bytes()
        except (EOFError, OSError) as error:
            raise gone(self.process, "workers") from error


@contextmanager
def _process(job: Job) -> Iterator[_Process]:
    ours, theirs = Pipe()
    one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    process = started("simulations.lab.pool:serve", theirs, env=os.environ | one_thread)
    theirs.close()
    try:
        desk = _Process(ours, process)
        desk.send(json.dumps([job.maker, job.setup.hex(), job.key]).encode())
        yield desk
    finally:
        ours.close()
        process.terminate()
        process.wait()


def serve(descriptor: str, parent: str) -> None:
    """Entry of a worker process."""
    threading.Thread(target=_leave_with, args=(int(parent),), daemon=True).start()
    with Connection(int(descriptor)) as connection:
        maker, setup, key = json.loads(connection.recv_bytes())
        app = client_app(Job(maker, bytes.fromhex(setup), key))
        while True:
            try:
                header = connection.recv_bytes()
                connection.send_bytes(_through(app, header))
            except (EOFError, OSError):
                return


def _leave_with(parent: int) -> None:
    """End this process soon after its parent, also in the middle of a site."""
    pause = threading.Event()
    while os.getppid() == parent:
        pause.wait(_LOOK_S)
    os._exit(1)


def _through(app: Any, header: bytes) -> bytes:
    """The reply's header; `_CRASHED` if there is none."""
    from flwr.app import Context, Message, RecordDict
    from flwr.supercore.task_identity import TaskIdentity

    from client.app import pack, unpack

    TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1
    message = Message(pack(header, b""), dst_node_id=1, message_type="train")
    context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={})
    reply = app(message, context)
    return _CRASHED if reply.has_error() else unpack(reply.content)[0]


class _Pool:
    """Hands sites out, and adds up."""

    def __init__(self, desks: Sequence[_Desk]) -> None:
        self._desks = desks
        self._input: Block | None = None
        self._sums: list[Block] = []
        self._all: list[Block] = []  # open to the end: a path must never mean another block

    @property
    def workers(self) -> int:
        """See `Engine`."""
        return len(self._desks)

    def close(self) -> None:
        """Let go of the shared memory."""
        self._input, self._sums = None, []
        while self._all:
            self._all.pop().close()

    def round(
        self, given: RoundInput, sites: Sequence[int], size: int, on_site: OnSite = lambda _: None
    ) -> tuple[Words, Told]:
        """See `Engine`."""
        if not sites or len(set(sites)) != len(sites):
            raise OurMistake("A round has sites, each once.")
        data = given.to_bytes()
        common = {"round": given.number, "input": [self._shown(data), len(data)]}
        self._room(4 * size)
        left, told, worked = deque(sites), Told(), set()
        busy = [0] * len(self._desks)
        together = max(1, len(sites) // (len(busy) * _MESSAGES))

        def give(place: int) -> None:
            some = [left.popleft() for _ in range(min(together, len(left)))]
            header = common | {"sites": some, "sum": self._sums[place].path}
            self._desks[place].send(json.dumps(header).encode())
            worked.add(place)
            busy[place] += 1

        while left or any(busy):
            ahead = (
                2 if len(left) > 2 * len(busy) * together else 1
            )  # the next one lies ready at each desk
            for depth in range(ahead):
                for place, now in enumerate(busy):
                    if left and now <= depth and now <= depth:
                        give(place)
            for place in self._ready(busy):
                told += opened(self._desks[place].receive())
                busy[place] -= 1
                on_site(len(told))
        total = np.zeros(size, dtype=np.uint32)
        for place in sorted(worked):
            total += self._sums[place].bytes[: 4 * size].view(np.uint32)
        return total, sorted(told, key=lambda one: int(one["site"]))

    def _ready(self, busy: Sequence[int]) -> list[int]:
        """Desks with an answer, after waiting for one."""
        waiting = {
            desk.connection: place
            for place, desk in enumerate(self._desks)
            if busy[place] and desk.connection is not None
        }
        if not waiting:
            return [place for place, count in enumerate(busy) if count]
        return [waiting[one] for one in wait(list(waiting)) if isinstance(one, Connection)]

    def _shown(self, data: bytes) -> str:
        """Put a round's input where workers read it."""
        if self._input is None or len(self._input.bytes) < len(data):
            self._input = self._block(len(data) + (1 << 16))
        self._input.bytes[: len(data)] = np.frombuffer(data, dtype=np.uint8)
        return self._input.path

    def _room(self, size: int) -> None:
        """A block for each desk's sum."""
        if self._sums and len(self._sums[0].bytes) >= size:
            return
        self._sums = [self._block(size) for _ in self._desks]

    def _block(self, size: int) -> Block:
        self._all.append(Block(size))
        return self._all[-1]


def opened(reply: bytes) -> Told:
    """What a reply's header tells.

    Raises:
        FedprintError: it tells of a fault.
    """
    if reply == _CRASHED:
        raise FedprintError(
            "A hospital's work failed; what happened is on standard error, above.",
            do="This is a fault of fedprint or of the machine. Go on with --resume.",
        )
    content = json.loads(reply)
    if "error" in content:
        raise OurMistake(content["error"], do=content["do"])
    told: Told = content["told"]
    return told
