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
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from logging import ERROR, INFO, WARNING
from typing import Any

import httpx
from flwr.app import Message
from flwr.app.message import array
from flwr.common.constant import Status
from flwr.common.logger import log
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.inflatable.inflatable_utils import (
    ObjectPullError,
    pull_objects,
    push_object_contents_from_iterable,
)
from flwr.supercore.retry import RetryInvoker, http_retry
from flwr.supercore.run import RunNotRunningException
from flwr.supernode import fleet_http_connection, start_client_internal
from flwr.supernode.nodestate import in_memory_nodestate
from flwr.supernode.nodestate.in_memory_nodestate import InMemoryNodeState

from client.home import NodeHome
from client.rest import leave_mark
from client.sent import Outcome, SentLog
from shared_model import known_source
from shared_model.errors import FedprintError
from shared_model.pieces import AT_ONCE
from shared_model.protocol import MAX_BODY_BYTES

RECONNECT_S = 5
"""Longest pause of a node whose coordinator is away; Flower's is 20 s."""
WAIT_S = (0.2, 3.0)
"""Shortest and longest pause before the SuperNode asks the coordinator again; Flower's is 3 s,
three times a round."""
WAIT_SHARE = 0.25
"""A pause is at most this share of the time since the last message, within `WAIT_S`."""
AGAIN_S = (0.5, 30.0)
"""First and longest pause before a delivery that failed is tried again."""
POLL_S = 0.5
"""How often to look whether the training process has answered."""
KEPT_BYTES = 64 * 1024 * 1024
"""Pieces of earlier messages that are kept, because the next may have the same."""

LARGEST_BYTES = MAX_BODY_BYTES + KEPT_BYTES
"""Of one message: the largest body, and room for everything around it."""

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


def _pauses() -> Iterator[float]:
    """Twice as long each time, within `AGAIN_S`."""
    pause, longest = AGAIN_S
    while True:
        yield pause
        pause = min(2.0 * pause, longest)


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


# ---------------------------------------------------------------- to the coordinator


@dataclass
class Awaited:
    """The message that came last, whose reply is delivered before another is asked for.

    identifier: "": none has come yet. until_s: when it expires, seconds since 1970.
    """

    identifier: str = ""
    until_s: float = 0.0

    def came(self, message: Message) -> None:
        """This one is to be answered now."""
        about = message.metadata
        self.identifier, self.until_s = about.message_id, about.created_at + about.ttl


@dataclass(frozen=True)
class Delivery:
    """Gets finished replies to the SuperLink.

    now: seconds since 1970, as messages are dated.
    """

    sent: SentLog
    sleep: Callable[[float], None]
    now: Callable[[], float] = time.time
    awaited: Awaited = field(default_factory=Awaited)

    def push(
        self,
        state: Any,
        object_store: Any,
        send: Callable[[Message, ObjectTree, float], tuple[set[str], str]],
        push_object: Callable[[int, str, str, bytes], None],
    ) -> None:
        """Stands for Flower's `_push_messages`: wait for the reply, deliver it, forget it.

        Replies to earlier messages go out too, but none of them counts as the one that is waited
        for. A message whose run was stopped while it came is answered as well; Flower's loop would
        then send, for ever after, the reply to the message before, and leave the last one unsent.
        """
        awaited = self.awaited.identifier
        while True:
            while not (replies := state.get_messages_legacy(is_reply=True)):
                if awaited and self.now() >= self.awaited.until_s:
                    log(ERROR, "message %s was not answered in its time", awaited)
                    return
                self.sleep(POLL_S)
            lost = [one for one in replies if not self._is_whole(one, state, object_store)]
            for message in lost:
                log(ERROR, "the training process ended while it handed over a reply")
                about = message.metadata
                state.delete_messages(message_ids=[about.message_id])
                object_store.delete(about.message_id)
                self._note(about.message_id, "lost")
                state._store_error_replies(
                    {about.run_id}, in_memory_nodestate.CLIENT_APP_CRASHED_ERROR
                )
            replies = [one for one in replies if one not in lost]
            for message in replies:
                about = message.metadata
                try:
                    outcome = self._deliver(message, state, object_store, send, push_object)
                    log(INFO, "Reply %s: %s", about.message_id, outcome)
                    self._note(about.message_id, outcome)
                finally:
                    state.delete_messages(message_ids=[about.message_id, about.reply_to_message_id])
                    object_store.delete(about.message_id)
            if awaited in ("", *(message.metadata.reply_to_message_id for message in replies)):
                return

    def _is_whole(self, message: Message, state: Any, object_store: Any) -> bool:
        """Wait until the training process has handed all of this reply over; false if it never
        will: it has ended, or given up, and Flower has noticed (it hears nothing for a minute)."""
        about = message.metadata
        tree = object_store.get_object_tree(about.message_id)
        parts = [one.object_id for one in iterate_object_tree(tree)]

        def whole() -> bool:
            return all(object_store.get(one) != b"" for one in parts)

        while not whole():
            state.get_task_by_token("")  # for what it does on the way: it ends silent tasks
            if not state.get_tasks(run_ids=[about.run_id], statuses=[Status.RUNNING]):
                return whole()  # the last piece may have come since
            self.sleep(POLL_S / 5.0)
        return True

    def _note(self, identifier: str, outcome: Outcome) -> None:
        try:
            self.sent.delivered(identifier, outcome)
        except OSError as error:  # what was handed over is written down already
            log(ERROR, "sent.log could not be written: %s", error.strerror)

    def _deliver(
        self,
        message: Message,
        state: Any,
        object_store: Any,
        send: Callable[[Message, ObjectTree, float], tuple[set[str], str]],
        push_object: Callable[[int, str, str, bytes], None],
    ) -> Outcome:
        about = message.metadata
        tree = object_store.get_object_tree(about.message_id)
        worked_s = state.get_message_processing_duration(message_id=about.reply_to_message_id)
        needed: set[str] = set()
        tried: set[str] = set()

        def push(session: str, identifier: str, content: bytes) -> None:
            tried.add(identifier)
            push_object(about.run_id, session, identifier, content)

        for pause in _pauses():
            try:
                missing, session = send(message, tree, worked_s)
                if not missing:
                    # what it takes it lacks at first; it lacks nothing any more once it has it
                    return "delivered" if needed and needed <= tried else "not-taken"
                needed |= missing
                push_object_contents_from_iterable(
                    _contents(tree, missing, object_store),
                    partial(push, session),
                    max_concurrent_pushes=AT_ONCE,
                )
                return "delivered"
            except RunNotRunningException:
                return "run-over"
            except Exception as error:
                if _is_final(error):
                    log(ERROR, "the SuperLink refuses a reply: %s", type(error).__name__)
                    return "not-taken"
                log(WARNING, "a delivery was cut (%s); it goes on", type(error).__name__)
            if self.now() >= about.created_at + about.ttl:
                return "expired"
            self.sleep(pause)
        raise AssertionError("unreachable")


def _contents(tree: ObjectTree, missing: set[str], store: Any) -> Iterator[tuple[str, bytes]]:
    """The missing objects, each once, in the order of the tree."""
    left = set(missing)
    for part in iterate_object_tree(tree):
        if part.object_id not in left:
            continue
        left.remove(part.object_id)
        yield part.object_id, store.get(part.object_id)


def _is_final(error: Exception) -> bool:
    """An answer of the SuperLink that another try would get as well."""
    if not isinstance(error, httpx.HTTPStatusError):
        return False
    code = error.response.status_code
    return 400 <= code < 500 and code not in (401, 403, 404, 407, 408, 425, 429)


# ---------------------------------------------------------------- from the coordinator


@dataclass
class Kept:
    """Stands for Flower's `pull_objects`: what has come is not asked for again."""

    sleep: Callable[[float], None]
    limit_bytes: int = KEPT_BYTES
    largest_bytes: int = LARGEST_BYTES
    _pieces: MutableMapping[str, bytes] = field(default_factory=OrderedDict, repr=False)

    def pull(
        self, object_ids: Sequence[str], pull_object_fn: Callable[[str], bytes]
    ) -> dict[str, bytes]:
        """All of these objects; tried until all are here.

        Raises:
            ObjectPullError, RunNotRunningException: the message does not count any more, or is
                larger than any.
        """
        wanted = list(dict.fromkeys(object_ids))
        room = self.largest_bytes - sum(len(self._pieces.get(one, b"")) for one in wanted)

        def keeping(identifier: str) -> bytes:
            nonlocal room
            content = pull_object_fn(identifier)
            room -= len(content)
            if room < 0:
                raise ObjectPullError(identifier, "the message is larger than any")
            self._pieces[identifier] = content
            return content

        for pause in _pauses():
            missing = [identifier for identifier in wanted if identifier not in self._pieces]
            try:
                if missing:
                    pull_objects(missing, keeping, max_concurrent_pulls=AT_ONCE)
                break
            except (ObjectPullError, RunNotRunningException):
                self._let_go(())
                raise
            except Exception as error:
                if _is_final(error):
                    self._let_go(())
                    raise
                log(WARNING, "a download was cut (%s); it goes on", type(error).__name__)
            self.sleep(pause)
        found = {identifier: self._pieces[identifier] for identifier in wanted}
        self._let_go(wanted)
        return found

    def _let_go(self, wanted: Sequence[str]) -> None:
        """The oldest pieces beyond the limit; the present message's are the youngest."""
        for identifier in wanted:
            self._pieces[identifier] = self._pieces.pop(identifier)
        size = sum(map(len, self._pieces.values()))
        for identifier in list(self._pieces):
            if size <= self.limit_bytes:
                break
            size -= len(self._pieces.pop(identifier))


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
