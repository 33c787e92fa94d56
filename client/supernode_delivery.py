"""Replies to the SuperLink and messages from it, piece by piece, through a line that is cut.

`Delivery` and `Kept` stand for two functions of Flower's; `client.supernode` puts them there, and
says why.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from logging import ERROR, INFO, WARNING
from typing import Any

import httpx
from flwr.app import Message
from flwr.common.constant import Status
from flwr.common.logger import log
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.inflatable.inflatable_utils import (
    ObjectPullError,
    pull_objects,
    push_object_contents_from_iterable,
)
from flwr.supercore.run import RunNotRunningException
from flwr.supernode.nodestate import in_memory_nodestate

from client.sent import Outcome, SentLog
from shared_model.pieces import AT_ONCE
from shared_model.protocol import MAX_BODY_BYTES

AGAIN_S = (0.5, 30.0)
"""First and longest pause before a delivery that failed is tried again."""
POLL_S = 0.5
"""How often to look whether the training process has answered."""
KEPT_BYTES = 64 * 1024 * 1024
"""Pieces of earlier messages that are kept, because the next may have the same."""

LARGEST_BYTES = MAX_BODY_BYTES + KEPT_BYTES
"""Of one message: the largest body, and room for everything around it."""


def _pauses() -> Iterator[float]:
    """Twice as long each time, within `AGAIN_S`."""
    pause, longest = AGAIN_S
    while True:
        yield pause
        pause = min(2.0 * pause, longest)


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
