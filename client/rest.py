"""When nothing new begins here: the operator said pause, or it is outside the hours of node.toml.

check_awake(home)                  # raises before anything is booked
why_at_rest(home)                  # "", "paused", "outside-hours"
unfinished(home.outbox, now_s)     # does a round that was begun wait for its next trip?
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from client import state
from client.home import NodeHome
from client.settings import TrainingSettings, settings_of
from client.supervisor import Rest
from shared_model.errors import Refused

LINGER_S = 900.0
"""So long a round that was begun is waited for after the last word about it."""
_asked_s: ContextVar[float | None] = ContextVar("asked_s", default=None)
_OVER = ("opened", "receipt.header")


def rest_of(
    training: TrainingSettings, paused: state.Paused | None, time_of_day: datetime.time
) -> Rest:
    """Why nothing new begins; "": it may."""
    if paused is not None:
        return "paused"
    hours = training.hours
    return "" if hours is None or hours.contains(time_of_day) else "outside-hours"


def why_at_rest(home: NodeHome, at_s: float | None = None) -> Rest:
    """The same for this node, at this time (seconds since 1970; None: now).

    A pause that was said after `at_s` did not hold then. Now it holds, whatever the clock says.

    Raises:
        OurMistake: node.toml is wrong.
    """
    paused = state.paused(home)
    now_s = time.time()
    if paused is not None and at_s is not None and at_s < paused.since_s <= now_s:
        paused = None  # one of the future was said before the clock was put back
    at_s = now_s if at_s is None else at_s
    time_of_day = datetime.datetime.fromtimestamp(at_s).time()
    return rest_of(settings_of(home).training, paused, time_of_day)


@contextmanager
def asked(at_s: float) -> Iterator[None]:
    """What is done within was asked for at this time, seconds since 1970.

    A model takes minutes over a slow line. A request that began to arrive before the rest, at most
    `LINGER_S` ago, is no new one: the round was opened with this site.
    """
    token = _asked_s.set(at_s)
    try:
        yield
    finally:
        _asked_s.reset(token)


def check_awake(home: NodeHome) -> None:
    """Return if something new may begin.

    Raises:
        Refused: the node rests ("not-ready").
    """
    now_s, at_s = time.time(), _asked_s.get()
    recent = at_s is not None and 0.0 <= now_s - at_s < LINGER_S
    rest = why_at_rest(home, at_s if recent else None)
    if rest == "paused":
        raise Refused(
            "The operator has paused this node.", reason="not-ready", do="Run: fedprint-node resume"
        )
    if rest:
        raise Refused("No training begins outside the hours in node.toml.", reason="not-ready")


def unfinished(outbox: Path, now_s: float) -> bool:
    """Whether a round that was begun here waits for its next trip; `now_s` since 1970.

    A round is over once its shares were opened or its sum was found right; one about which no word
    was said for `LINGER_S` is waited for no longer.
    """
    for claim in outbox.glob("*/*/request"):
        folder = claim.parent
        try:
            if not (folder / "round.json").exists():  # masks are off: there is no later trip
                continue
            if any((folder / name).exists() for name in _OVER):
                continue
            if any(abs(now_s - item.stat().st_mtime) < LINGER_S for item in folder.iterdir()):
                return True
        except OSError:
            continue  # it is being changed: the next look sees it
    return False


def leave_mark(home: NodeHome) -> Path:
    """Where the SuperNode is told to leave once the last answer is sent: by the training process
    before it hands that over, and by the supervisor where training can say it no more."""
    return home.state / "leave"


def ask_to_leave(home: NodeHome) -> None:
    """Put the mark there."""
    mark = leave_mark(home)
    mark.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    mark.write_text(f"{time.time():.0f}\n", encoding="ascii")
