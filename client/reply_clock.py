"""When a reply may leave: at a whole multiple of `reply_clock_s` after its request came.

A round takes longer with more patients. What the coordinator can see of that is reduced to a number
of ticks, one if the tick is longer than the round:

    reply leaves at   arrived + tick x max(1, ceil((done - arrived) / tick))

for a submission, a stored one and a refusal alike. The node answers nothing else until then (its
caller holds the one lock of the process): else a message sent on purpose while the node trains,
and answered as soon as it has done so, would tell what the reply no longer does.

Messages of the later trips leave when they are ready: what they take follows from public sizes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from client.home import NodeHome
from client.policy import DEFAULT_REPLY_CLOCK_S, Policy
from shared_model import protocol, protocol_open
from shared_model.errors import FedprintError, OurMistake
from shared_model.protocol_sum import REQUESTS

_AT_ONCE = frozenset(protocol.kind_of(model) for model in REQUESTS)


class Stopped(Exception):
    """The node is being stopped: the reply stays in the outbox and leaves after the next start."""


@dataclass(frozen=True)
class ReplyClock:
    """The clock of one process.

    now: monotonic seconds. wait: sleeps up to so many seconds; true if the node is being stopped.
    """

    wait: Callable[[float], bool]
    now: Callable[[], float] = time.monotonic

    def due(self, arrived: float, tick_s: float) -> float:
        """When a reply that is done now may leave; `now` seconds."""
        return arrived + tick_s * max(1, math.ceil((self.now() - arrived) / tick_s))

    def hold(self, arrived: float, tick_s: float) -> int:
        """Return when a reply to a request that came at `arrived` may leave.

        Returns:
            The number of ticks that it took.

        Raises:
            Stopped: it may not leave any more; never before its tick.
        """
        due = self.due(arrived, tick_s)
        ticks = round((due - arrived) / tick_s)
        while (left := due - self.now()) > 0.0:
            if self.wait(left):
                raise Stopped
        return ticks


def tick_of(home: NodeHome) -> float:
    """`reply_clock_s` of this node's policy; the default's where that cannot be read."""
    try:
        return Policy.from_file(home.policy).reply_clock_s
    except FedprintError:
        return DEFAULT_REPLY_CLOCK_S


def is_timed(header: bytes) -> bool:
    """Whether the reply to this message waits; so does that to what cannot be read.

    Nothing is verified here: what says that it is of another kind than its signature is refused
    before any data is looked at.
    """
    try:
        kind = protocol_open.readable(header).get("kind")
    except OurMistake:
        return True
    return not (isinstance(kind, str) and kind in _AT_ONCE)
