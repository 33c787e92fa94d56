"""Work in processes of their own that never outlive the one that asked for it.

    with ended_by_signals():
        for place, answer in side_by_side("simulations.ablation:answer", orders, workers=2):
            ...

A worker gets an order as JSON through a pipe and answers with JSON. It writes no file, so that it
can be killed at any instant. It is in a session of its own, with what it starts: on leaving the
block, whatever ended it, all of that is killed at once. When this process is killed itself, the
kernel kills the workers, and what they started ends with its pipe (`shared_model.children`).
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe, wait
from types import FrameType
from typing import Any

from shared_model.children import tether
from shared_model.errors import FedprintError, OurMistake, Refused
from simulations.worker_process import gone, started

Order = dict[str, Any]
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Ended(KeyboardInterrupt):
    """A signal asked this process to end. number: which."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """SIGINT, SIGTERM and SIGHUP end the block by `Ended`; one that is ignored stays so (nohup)."""

    def end(number: int, frame: FrameType | None) -> None:
        raise Ended(number)

    heard = [one for one in _ENDING if signal.getsignal(one) is not signal.SIG_IGN]
    before = [(one, signal.signal(one, end)) for one in heard]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)


def side_by_side(
    entry: str, orders: Sequence[Order], workers: int
) -> Generator[tuple[int, dict[str, Any]]]:
    """(place of an order, its answer), in the order in which they are done.

    Args:
        entry: `module:function`, order -> answer; run in the workers.

    Raises:
        FedprintError: a worker is gone, or has failed; the others are ended.
    """
    with ExitStack() as stack:
        left = iter(enumerate(orders))
        busy: dict[Connection, tuple[_Worker, int]] = {}

        def give(worker: _Worker) -> None:
            for place, order in left:
                worker.send(order)
                busy[worker.connection] = (worker, place)
                return

        for _ in range(min(workers, len(orders))):
            give(stack.enter_context(_worker(entry)))
        while busy:
            ready = wait(list(busy))
            for connection in [one for one in busy if one in ready]:
                worker, place = busy.pop(connection)
                answer = worker.receive()
                give(worker)
                yield place, answer


@dataclass
class _Worker:
    connection: Connection
    process: subprocess.Popen[bytes]

    def send(self, order: Order) -> None:
        try:
            self.connection.send_bytes(json.dumps(order).encode())
        except OSError as error:
            raise gone(self.process, "--workers") from error

    def receive(self) -> dict[str, Any]:
        try:
            told = json.loads(self.connection.recv_bytes())
        except (EOFError, OSError) as error:
            raise gone(self.process, "--workers") from error
        if "fault" in told:
            raise _fault(**told)
        answer: dict[str, Any] = told["answer"]
        return answer


@contextmanager
def _worker(entry: str) -> Iterator[_Worker]:
    ours, theirs = Pipe()
    with ours, theirs:
        process = started("simulations.ablation_workers:serve", theirs, entry)
        try:
            theirs.close()
            yield _Worker(ours, process)
        finally:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def serve(descriptor: str, parent: str, entry: str) -> None:
    """Entry of a worker process."""
    tether(int(parent))
    module, _, function = entry.partition(":")
    with Connection(int(descriptor)) as connection:
        answer: Callable[[Order], dict[str, Any]]
        answer = getattr(importlib.import_module(module), function)
        with suppress(EOFError, OSError):
            while True:
                order = json.loads(connection.recv_bytes())
                connection.send_bytes(json.dumps(_answered(answer, order)).encode())


def _answered(answer: Callable[[Order], dict[str, Any]], order: Order) -> dict[str, Any]:
    try:
        return {"answer": answer(order)}
    except FedprintError as error:
        reason = error.reason if isinstance(error, Refused) else ""
        return {
            "fault": type(error).__name__, "message": error.message, "do": error.do,
            "reason": reason,
        }  # fmt: skip
    except Exception as error:
        traceback.print_exc()
        return {
            "fault": "FedprintError", "message": f"A worker has failed: {type(error).__name__}.",
            "do": "What it said stands above.", "reason": "",
        }  # fmt: skip


def _fault(fault: str, message: str, do: str, reason: str) -> FedprintError:
    """The worker's fault, of its kind as far as the exit status goes."""
    if reason:
        return Refused(message, reason=reason, do=do)
    kind = OurMistake if fault == OurMistake.__name__ else FedprintError
    return kind(message, do=do)
