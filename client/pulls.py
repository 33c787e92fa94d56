"""How many messages with content the training process takes from the SuperNode at once.

    pulls = Pulls()
    with pulls.message() as message:
        pull(message.limited(client.PullObject))     # raises TooSlow; holds a place from here on
        ...                                          # until the message is done with

A message may have 512 MiB, and after stopped runs the SuperNode hands out several, some of which
never arrive whole. A message takes a place with its first content and keeps it until it is done
with; there are two. One that waits for its first byte has none. One that has a place and does not
move is given up after `YIELD_S` if another waits for a place: the SuperNode takes one message after
the other, so that one which stands still while another comes is left over from a stopped run. If
nobody waits it has `IDLE_S`, longer than most outages of a line.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from shared_model.errors import FedprintError

PLACES = 2
IDLE_S = 7200.0
YIELD_S = 30.0


class TooSlow(FedprintError):
    """The message does not arrive whole."""


class Answer(Protocol):
    """Flower's answer to a request for one object."""

    @property
    def object_content(self) -> bytes: ...


class Pulls:
    """The places. Use from any thread."""

    def __init__(
        self,
        places: int = PLACES,
        idle_s: float = IDLE_S,
        yield_s: float = YIELD_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.idle_s, self.yield_s, self.clock = idle_s, yield_s, clock
        self._free = threading.Semaphore(places)
        self._lock = threading.Lock()
        self._waiting = 0

    @contextmanager
    def message(self) -> Iterator[Message]:
        """One message, from its first byte until it is done with."""
        one = Message(self)
        try:
            yield one
        finally:
            one.done()

    @property
    def somebody_waits(self) -> bool:
        return self._waiting > 0

    def take(self) -> None:
        """A place; waits for it."""
        with self._lock:
            self._waiting += 1
        try:
            self._free.acquire()
        finally:
            with self._lock:
                self._waiting -= 1

    def give(self) -> None:
        """The place is free again."""
        self._free.release()


class Message:
    """One message that is being pulled, by several threads."""

    def __init__(self, pulls: Pulls) -> None:
        self._pulls = pulls
        self._lock = threading.Lock()
        self._placed = False
        self._done = False
        self._moved_s = pulls.clock()

    def limited(self, pull: Callable[[Any], Answer]) -> Callable[[Any], Answer]:
        """`pull` under these rules.

        Raises (when called):
            TooSlow: nothing came for too long.
        """

        def pulled(request: Any) -> Answer:
            answer = pull(request)
            if answer.object_content:
                self._came()
            else:
                self._check()
            return answer

        return pulled

    def done(self) -> None:
        """Its memory is free."""
        with self._lock:
            if self._placed and not self._done:
                self._pulls.give()
            self._done = True

    def _came(self) -> None:
        with self._lock:  # its other threads wait here too, with what they hold
            if not self._placed and not self._done:
                self._pulls.take()
                self._placed = True
            self._moved_s = self._pulls.clock()

    def _check(self) -> None:
        still_s = self._pulls.clock() - self._moved_s
        waited_for = self._placed and self._pulls.somebody_waits
        if still_s >= (self._pulls.yield_s if waited_for else self._pulls.idle_s):
            raise TooSlow(f"A message did not move for {still_s:.0f} s; it is given up.")
