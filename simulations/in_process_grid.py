"""Flower's Grid without Flower's network: clients run here, or in a pool of processes.

The result is the same, bit for bit, for any number of workers: what a client answers depends on
the message alone (noise that repeats itself, one thread for each client), replies are delivered in
the order in which messages were sent, and the aggregate is summed in the order of the roster.

    grid = InProcessGrid(client_app(hospitals), nodes=3, workers=2)     # 0: in this process
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from functools import partial
from types import TracebackType
from typing import Protocol

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from client.app import carry
from server.grid import RECORD, SITE
from shared_model.errors import OurMistake
from simulations.torch_threads import torch_threads

_COORDINATOR_NODE = 1
_RUN = 1


class Hospitals(Protocol):
    """Pretend hospitals. Must be picklable; answers depend on the arguments and files alone."""

    def handle(self, site: str, header: bytes, body: bytes) -> tuple[bytes, bytes]:
        """What this hospital answers to a message."""


def client_app(hospitals: Hospitals) -> ClientApp:
    """A ClientApp that plays whichever hospital the message is meant for."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        site = str(message.content.config_records.get(RECORD, ConfigRecord()).get(SITE, ""))
        with torch_threads(1):  # sums depend on their number
            return carry(message, partial(hospitals.handle, site))

    return app


class InProcessGrid(Grid):
    """Runs each message's client when it is pushed, on `workers` processes or (0) right here.

    Use as a context manager, or call `close`.
    """

    def __init__(self, hospitals: Hospitals, nodes: int, workers: int = 0) -> None:
        if nodes < 1 or workers < 0:
            raise OurMistake("A grid has at least one node and no negative number of workers.")
        self._nodes = [_COORDINATOR_NODE + 1 + index for index in range(nodes)]
        self._app = client_app(hospitals)
        self._pool: ProcessPoolExecutor | None = None
        if workers:
            self._pool = ProcessPoolExecutor(
                workers,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_begin_worker,
                initargs=(hospitals,),
            )
        self._answers: dict[str, Future[Message] | Message] = {}
        self._sent = 0
        self._run: Run | None = None
        TaskIdentity.run_id = _RUN
        TaskIdentity.node_id = _COORDINATOR_NODE
        TaskIdentity.task_id = _RUN

    def __enter__(self) -> InProcessGrid:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the pool; work that has not begun is dropped."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    def set_run(self, run: Run) -> None:
        self._run = run

    @property
    def run(self) -> Run:
        if self._run is None:
            raise OurMistake("This grid has no Flower run.")
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        return list(self._nodes)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Begin all; ids are consecutive numbers."""
        identifiers = []
        for message in messages:
            self._sent += 1
            identifier = f"{self._sent:08d}"
            message.metadata.__dict__["_message_id"] = identifier
            if self._pool is None:
                self._answers[identifier] = self._app(message, _context(message))
            else:
                self._answers[identifier] = self._pool.submit(_work, without_pieces(message))
            identifiers.append(identifier)
        return identifiers

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Replies that are ready, in the order of sending, none before the ones sent earlier."""
        ready = []
        for identifier in sorted(set(message_ids) & set(self._answers)):
            answer = self._answers[identifier]
            if isinstance(answer, Future):
                if not answer.done():
                    break
                answer = answer.result()
            ready.append(answer)
            del self._answers[identifier]
        return ready

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Push all and wait for all."""
        identifiers = list(self.push_messages(messages))
        for identifier in identifiers:
            answer = self._answers[identifier]
            if isinstance(answer, Future):
                answer.result(timeout)
        return list(self.pull_messages(identifiers))


_apps: list[ClientApp] = []
"""In a worker process: its one ClientApp."""


def _begin_worker(hospitals: Hospitals) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    _apps[:] = [client_app(hospitals)]


def _work(message: Message) -> Message:
    return without_pieces(_apps[0](message, _context(message)))


def without_pieces(message: Message) -> Message:
    """A body's pieces are views of it, which cannot be pickled; nobody here sends it in pieces."""
    if message.has_content():
        for record in message.content.array_records.values():
            for array in record.values():
                array.__dict__.pop("_chunks", None)
    return message


def _context(message: Message) -> Context:
    return Context(
        run_id=message.metadata.run_id,
        node_id=message.metadata.dst_node_id,
        node_config={},
        state=RecordDict(),
        run_config={},
    )
