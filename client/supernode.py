"""Flower's SuperNode at the hospital, with what an outage needs.

Flower's own drops a finished reply, and says that it was sent, as soon as one call for it fails.
Here, in the process of the SuperNode:

- a reply is kept until the SuperLink has every piece of it, or its message no longer counts. Pieces
  that are there are not sent again;
- pieces of a message that came are kept, so that a download goes on too;
- a reply of which the training process was killed before it had handed all of it over is an answer
  that crashed, so that the coordinator asks again; Flower's waits for the rest for ever;
- nothing that the line does ends the process: a connection that is cut in its TLS handshake, a
  proxy that is away;
- `logs/sent.log` says when a reply was delivered, and never that of one that was not.

`serve` refuses a Flower whose functions are not the ones that this was written against.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from logging import INFO, WARNING
from typing import Any

import httpx
from flwr.app.message import array
from flwr.common.logger import log
from flwr.supercore.inflatable.inflatable_utils import (
    pull_objects,
    push_object_contents_from_iterable,
)
from flwr.supercore.retry import RetryInvoker, http_retry
from flwr.supernode import fleet_http_connection, start_client_internal
from flwr.supernode.nodestate.in_memory_nodestate import InMemoryNodeState

from client.home import NodeHome
from client.rest import leave_mark
from client.sent import SentLog
from client.supernode_delivery import Awaited, Delivery, Kept
from shared_model import known_source
from shared_model.errors import FedprintError

RECONNECT_S = 5
"""Longest pause of a node whose coordinator is away; Flower's is 20 s."""
WAIT_S = (0.2, 3.0)
"""Shortest and longest pause before the SuperNode asks the coordinator again; Flower's is 3 s,
three times a round."""
WAIT_SHARE = 0.25
"""A pause is at most this share of the time since the last message, within `WAIT_S`."""

KNOWN: Mapping[Callable[..., Any], str] = {
    start_client_internal.start_client_internal: "9e89a6eb68fbec68",
    start_client_internal._push_messages: "00bb86faffdec114",
    start_client_internal._pull_and_store_message: "eaf5d0e36dc34e4c",
    fleet_http_connection.http_request_response: "b80ca36779c2657f",
    http_retry.make_simple_http_retry_invoker: "49e12326a4b17e26",
    pull_objects: "31bb2de46b450e6a",
    push_object_contents_from_iterable: "89d2efe1cf720c91",
    array.Array.slice_array: "b31c50d5c7206fa1",
    InMemoryNodeState._store_error_replies: "3af03090bfae3ea7",
    InMemoryNodeState._on_task_tokens_expired: "a181b661f768cc12",
}
"""The functions of Flower that are replaced here, or that what is replaced relies on."""


def serve(arguments: list[str]) -> None:
    """Flower's own command with these arguments, in the process of the SuperNode.

    Raises:
        OurMistake: another Flower.
    """
    from flwr.supernode.cli import flower_supernode

    try:
        known_source.check(KNOWN, "Flower")
    except FedprintError as error:
        sys.exit(f"{error.message} {error.do}")
    pace = Pace()
    install(Delivery(SentLog(NodeHome.find()), pace.sleep), Kept(pace.sleep), pace)
    leave = leave_mark(NodeHome.find()).exists
    vars(start_client_internal)["time"] = Resting(pace.sleep, leave)
    sys.argv = ["flower-supernode", *arguments]
    try:
        flower_supernode()
    except Leaving:  # Flower has said good-bye on its way out of the connection
        log(INFO, "the node rests: nothing is left to send")
        signal.raise_signal(signal.SIGTERM)


def install(delivery: Delivery, kept: Kept, pace: Pace) -> None:
    """Put ours into Flower's modules."""
    vars(http_retry)["MAX_RETRY_DELAY"] = RECONNECT_S
    vars(fleet_http_connection)["make_simple_http_retry_invoker"] = patient_invoker
    loop = vars(start_client_internal)
    loop["time"] = pace
    loop["pull_objects"] = kept.pull
    loop["_push_messages"] = delivery.push
    loop["_pull_and_store_message"] = partial(
        _receive, start_client_internal._pull_and_store_message, pace.sleep, delivery.awaited
    )


# ---------------------------------------------------------------- pauses


class Pace:
    """Stands for the module `time` in Flower's SuperNode, whose loop only sleeps.

    A round has three trips, so the next message comes soon after the last answer, or it comes when
    the slowest hospital is ready. The pause grows with the time that has gone by: little is lost
    while a round goes on, and a waiting node asks as rarely as Flower's own.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._clock, self._sleep = clock, sleep
        self._last = clock()

    def sleep(self, seconds: float) -> None:
        """Called with 3 s when no message was there, with less while one is being answered."""
        shortest, longest = WAIT_S
        if seconds < longest:
            self._last = self._clock()
            self._sleep(min(seconds, shortest))
            return
        gone = self._clock() - self._last
        self._sleep(min(longest, max(shortest, WAIT_SHARE * gone)))


class Leaving(BaseException):
    """The SuperNode says good-bye and ends. Not an `Exception`, which Flower would only log."""


@dataclass(frozen=True)
class Resting:
    """Stands for `time` in Flower's loop: the node leaves when it rests and nothing is there.

    pause: waits. leave: whether the training process has asked for it (docs/adr/0017).
    """

    pause: Callable[[float], None]
    leave: Callable[[], bool]

    def sleep(self, seconds: float) -> None:
        """Called with 3 s when everything is sent and no message was there.

        Raises:
            Leaving: the node rests.
        """
        if seconds >= WAIT_S[1] and self.leave():
            raise Leaving
        self.pause(seconds)


def patient_invoker() -> RetryInvoker:
    """Flower's, which also tries again when a handshake was cut or the proxy did not connect."""
    invoker = http_retry.make_simple_http_retry_invoker()
    flowers = invoker.should_giveup
    exceptions = invoker.recoverable_exceptions
    known = exceptions if isinstance(exceptions, tuple) else (exceptions,)
    invoker.recoverable_exceptions = (*known, httpx.ProxyError)

    def should_giveup(error: Exception) -> bool:
        if isinstance(error, httpx.TransportError):
            return "certificate" in str(error).lower()
        return flowers is None or flowers(error)

    invoker.should_giveup = should_giveup
    return invoker


def _receive(
    flowers: Callable[..., int | None],
    sleep: Callable[[float], None],
    awaited: Awaited,
    **parts: Any,
) -> int | None:
    """Flower's `_pull_and_store_message`; what goes wrong in it is tried again, not the end."""
    receive = parts.get("receive")

    def noting() -> Any:
        found = receive() if receive is not None else None
        if found is not None:
            awaited.came(found[0])
        return found

    try:
        return flowers(**parts | ({} if receive is None else {"receive": noting}))
    except Exception as error:
        log(WARNING, "no message could be asked for (%s)", type(error).__name__)
        sleep(RECONNECT_S)
        return None
