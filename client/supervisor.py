"""What is started and ended at the hospital: `advance(state, event) -> (state, actions)`.

No I/O, no clock: events carry the time (seconds, monotonic). `client.node_loop` makes them and
carries out the actions.

Guarantees, whatever the order of events:

- no process is started while it is up, before its pause after a failure is over, or at rest with
  nothing left to finish;
- the pause is 1 s after the first failure and doubles to at most 60 s; ten good minutes forget it;
- the training process is not asked to end because the node rests, it leaves by itself; unless the
  SuperNode has left before it and nothing is unfinished: then it waits for nobody;
- a SuperNode that was seen to be leaving stays if it is wanted again before it has left; if it
  leaves all the same within `LEAVE_S`, that was planned;
- what the console does changes nothing of the others;
- the node gives up only if the coordinator refuses it and has never accepted it since the start.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

from client.state import Phase
from shared_model.errors import OurMistake

Name = Literal["SuperNode", "training", "console"]
Rest = Literal["", "paused", "outside-hours"]
Link = Literal["connecting", "up", "unreachable", "refused", "unproven"]
Cause = Literal["", "refused", "unproven", "memory"]
Standing = Literal["down", "up", "leaving", "ending"]

NAMES: tuple[Name, ...] = ("SuperNode", "training", "console")
_NEEDED: tuple[Name, ...] = ("SuperNode", "training")
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0
GOOD_S = 600.0
"""A process that ran so long has no failures behind it."""
LEAVE_S = 600.0
"""So long the SuperNode may take to send what it has and to leave, once the training has left."""
GRACE_S = 10.0
"""Between asking a process to end and killing it."""
FAILURES_OF_TROUBLE = 3


@dataclass(frozen=True)
class Process:
    """due_s: not started before. end_by_s: while leaving or ending, when it is asked or killed.
    may_leave_until_s: until then it may leave without fault, for it was to leave not long ago."""

    name: Name
    standing: Standing = "down"
    since_s: float = 0.0
    failures: int = 0
    due_s: float = 0.0
    end_by_s: float = 0.0
    may_leave_until_s: float = 0.0
    starts: int = 0

    @property
    def restarts(self) -> int:
        return max(0, self.starts - 1)


def _all_down() -> tuple[Process, ...]:
    return tuple(Process(name) for name in NAMES)


@dataclass(frozen=True)
class State:
    """rest: why nothing new begins. unfinished: a round that was begun waits for its next trip.

    link: what the SuperNode last said about the coordinator. accepted: it was let in since the
    start. memory: the training process was last ended for the memory it took.
    """

    processes: tuple[Process, ...] = field(default_factory=_all_down)
    rest: Rest = ""
    unfinished: bool = False
    console: bool = False
    link: Link = "connecting"
    accepted: bool = False
    memory: bool = False

    def of(self, name: Name) -> Process:
        return next(item for item in self.processes if item.name == name)


# ---------------------------------------------------------------- events and actions


@dataclass(frozen=True)
class Looked:
    """The loop looked around. console: wanted and installed."""

    now_s: float
    rest: Rest = ""
    unfinished: bool = False
    console: bool = False


@dataclass(frozen=True)
class Ended:
    """A process has ended. code: as of `Popen.returncode`."""

    now_s: float
    name: Name
    code: int
    cause: Cause = ""


@dataclass(frozen=True)
class Told:
    """The SuperNode said how it stands with the coordinator."""

    link: Link


@dataclass(frozen=True)
class Replace:
    """This process has to start anew (it holds an address that is not ours any more)."""

    now_s: float
    name: Name


Event = Looked | Ended | Told | Replace


@dataclass(frozen=True)
class Start:
    name: Name


@dataclass(frozen=True)
class Ask:
    """SIGTERM."""

    name: Name


@dataclass(frozen=True)
class Kill:
    """SIGKILL."""

    name: Name


@dataclass(frozen=True)
class Leave:
    """It is to leave once it has sent what it has, whether or not training told it so."""

    name: Name


@dataclass(frozen=True)
class Stay:
    """It need not leave any more: take back what tells it to."""

    name: Name


@dataclass(frozen=True)
class GiveUp:
    """The coordinator does not know this node: no restart mends it."""


Action = Start | Ask | Kill | Leave | Stay | GiveUp
Step = tuple[State, tuple[Action, ...]]


def pause_s(failures: int) -> float:
    """Seconds before the next start after so many failures in a row; 0 after none."""
    if failures < 1:
        return 0.0
    return min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(failures - 1, 16))


def advance(state: State, event: Event) -> Step:
    """One step."""
    match event:
        case Looked():
            return _looked(state, event)
        case Ended():
            return _ended(state, event)
        case Told():
            return _told(state, event), ()
        case Replace():
            process = state.of(event.name)
            if process.standing not in ("up", "leaving"):
                return state, ()
            process = replace(process, standing="ending", end_by_s=event.now_s + GRACE_S)
            return _with(state, process), (Ask(event.name),)
    raise OurMistake(f"{type(event).__name__} is no event of the supervisor.")


def _looked(state: State, event: Looked) -> Step:
    state = replace(state, rest=event.rest, unfinished=event.unfinished, console=event.console)
    actions: list[Action] = []
    for name in NAMES:
        process, done = _look(state, state.of(name), event.now_s)
        state = _with(state, process)
        actions += done
    return state, tuple(actions)


def _look(state: State, process: Process, now_s: float) -> tuple[Process, list[Action]]:
    name = process.name
    match process.standing:
        case "down":
            if not _wanted(state, name) or now_s < process.due_s:
                return process, []
            up = replace(
                process,
                standing="up",
                since_s=now_s,
                may_leave_until_s=0.0,
                starts=process.starts + 1,
            )
            return up, [Start(name)]
        case "up":
            if process.failures and now_s - process.since_s >= GOOD_S:
                process = replace(process, failures=0)
            if _wanted(state, name):
                return process, []
            if name == "training":
                if state.of("SuperNode").standing != "down":
                    return process, []
                return replace(process, standing="ending", end_by_s=now_s + GRACE_S), [Ask(name)]
            if name == "console":
                return replace(process, standing="ending", end_by_s=now_s + GRACE_S), [Ask(name)]
            if state.of("training").standing != "down":
                return process, []
            leave_s = LEAVE_S if state.accepted else 0.0  # else it has nothing to send
            return replace(process, standing="leaving", end_by_s=now_s + leave_s), [Leave(name)]
        case "leaving":
            if _wanted(state, name):
                until_s = now_s + LEAVE_S
                return replace(process, standing="up", may_leave_until_s=until_s), [Stay(name)]
            if now_s < process.end_by_s:
                return process, []
            return replace(process, standing="ending", end_by_s=now_s + GRACE_S), [Ask(name)]
        case "ending":
            if now_s < process.end_by_s:
                return process, []
            return replace(process, end_by_s=now_s + GRACE_S), [Kill(name)]
    raise OurMistake(f"A process cannot be {process.standing}.")


def _wanted(state: State, name: Name) -> bool:
    if name == "console":
        return state.console
    return not state.rest or state.unfinished


def _ended(state: State, event: Ended) -> Step:
    process = state.of(event.name)
    if process.standing == "down":
        return state, ()
    at_rest = event.name == "training" and bool(state.rest)  # it knows best what is unfinished
    at_rest = at_rest or (event.name == "SuperNode" and not _wanted(state, event.name))
    may_leave = at_rest or event.now_s < process.may_leave_until_s
    left = may_leave and event.code == 0 and not event.cause  # Flower ends with 0 if refused too
    planned = left or process.standing in ("leaving", "ending")
    good = event.now_s - process.since_s >= GOOD_S
    failures = 0 if planned else (1 if good else process.failures + 1)
    if planned and not good:
        failures = process.failures
    due_s = event.now_s if planned else event.now_s + pause_s(failures)
    state = _with(
        state,
        replace(process, standing="down", since_s=event.now_s, failures=failures, due_s=due_s),
    )
    if event.name == "training":
        if event.code == 0 and process.standing == "up":  # it left, and the SuperNode was told to
            state = _with(
                state, replace(state.of("SuperNode"), may_leave_until_s=event.now_s + LEAVE_S)
            )
        return replace(state, memory=event.cause == "memory"), ()
    if event.name == "console":
        return state, ()
    if event.cause == "refused":
        state = replace(state, link="refused")
        return state, () if state.accepted else (GiveUp(),)
    return replace(state, link="unproven" if event.cause == "unproven" else "connecting"), ()


def _told(state: State, event: Told) -> State:
    return replace(state, link=event.link, accepted=state.accepted or event.link == "up")


def _with(state: State, process: Process) -> State:
    return replace(
        state,
        processes=tuple(process if old.name == process.name else old for old in state.processes),
    )


# ---------------------------------------------------------------- in words


def in_words(state: State, rest_words: Callable[[Rest], str]) -> tuple[Phase, str]:
    """The node's phase, and why, for people.

    Args:
        rest_words: says why the node rests.
    """
    if state.rest:
        begun = any(state.of(name).standing != "down" for name in _NEEDED)
        first = " What was begun is finished first." if begun else ""
        return state.rest, rest_words(state.rest) + first
    if state.link == "refused":
        return "trouble", "The coordinator does not accept this node any more: ask its operator."
    if state.link == "unproven":
        return "trouble", (
            "What answers at the coordinator's address does not prove to be the coordinator, or "
            "the line is cut in the handshake; it is tried again."
        )
    training = state.of("training")
    if state.memory and (training.standing == "down" or training.failures):
        return "trouble", (
            "Training took more memory than memory_gb in node.toml allows and was ended; "
            "a round that it was working on may be lost."
        )
    for name in _NEEDED:
        process = state.of(name)
        if process.failures >= FAILURES_OF_TROUBLE:
            return "trouble", (
                f"{name} ended {process.failures} times in a row; it is started again. "
                "See: fedprint-node logs"
            )
    if state.link == "unreachable":
        words = "The coordinator cannot be reached; it is tried again until it answers."
        return ("trouble" if state.accepted else "starting"), words
    for name in _NEEDED:
        if state.of(name).standing != "up":
            return "starting", f"{name} has ended and is started again."
    if state.link != "up":
        return "starting", "Waiting for the coordinator's first answer."
    return "running", ""
