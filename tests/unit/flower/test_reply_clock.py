"""The time of a reply tells how many ticks a round took, and nothing finer."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.app.metadata import Metadata

import client.app
from client import state
from client.home import NodeHome
from client.policy import DEFAULT_REPLY_CLOCK_S, Policy
from client.reply_clock import ReplyClock, Stopped, is_timed, tick_of
from shared_model import bundle, canonical
from shared_model.protocol import kind_of
from shared_model.protocol_sum import REQUESTS

TICK_S = 60.0


@dataclass
class Time:
    """Seconds that pass only when someone waits or works; `wakes`: how much too early a sleep ends.

    stops_at: the node is stopped then.
    """

    now_s: float = 1000.0
    wakes: float = 0.0
    stops_at: float = float("inf")
    waited: list[float] = field(default_factory=list)

    def now(self) -> float:
        return self.now_s

    def wait(self, seconds: float) -> bool:
        self.waited.append(seconds)
        slept = seconds - self.wakes if seconds > 2 * self.wakes else seconds
        self.now_s += min(slept, max(0.0, self.stops_at - self.now_s))
        return self.now_s >= self.stops_at

    def clock(self) -> ReplyClock:
        return ReplyClock(wait=self.wait, now=self.now)


@pytest.mark.parametrize(
    ("worked_s", "ticks"), [(0.0, 1), (0.01, 1), (59.9, 1), (60.0, 1), (60.1, 2), (200.0, 4)]
)
def test_a_reply_leaves_at_a_whole_multiple_after_its_request_came(worked_s, ticks):
    """Also one that needed no time at all: a stored reply, a refusal."""
    time = Time()
    arrived = time.now_s
    time.now_s += worked_s
    assert time.clock().hold(arrived, TICK_S) == ticks
    assert time.now_s == arrived + ticks * TICK_S


def test_a_thousand_rounds_of_any_length_are_seen_at_multiples_only():
    """What an observer measures carries nothing but the number of ticks."""
    rng = np.random.default_rng(7)
    time = Time(wakes=0.3)
    for worked_s in rng.gamma(2.0, 40.0, 1000):
        arrived = time.now_s
        time.now_s += float(worked_s)
        ticks = time.clock().hold(arrived, TICK_S)
        assert time.now_s - arrived == pytest.approx(ticks * TICK_S, abs=1e-6)
        assert (ticks - 1) * TICK_S < worked_s <= ticks * TICK_S


def test_a_sleep_that_ends_early_is_slept_on():
    time = Time(wakes=0.5)
    time.clock().hold(time.now_s, TICK_S)
    assert len(time.waited) > 1
    assert time.now_s >= 1000.0 + TICK_S


def test_a_stopped_node_sends_nothing_before_its_tick():
    """The reply stays where it is stored."""
    time = Time(stops_at=1010.0)
    with pytest.raises(Stopped):
        time.clock().hold(1000.0, TICK_S)
    assert time.now_s < 1000.0 + TICK_S


def header(kind: object) -> bytes:
    return bytes(64) + canonical.encode({"kind": kind})


def test_all_but_the_later_trips_wait():
    """Whatever cannot be read waits as well: nothing is answered sooner for being wrong."""
    assert is_timed(header("train-request"))
    for unreadable in (b"", b"short", header(["agree-request"]), header(None), header("other")):
        assert is_timed(unreadable)
    assert not any(is_timed(header(kind_of(model))) for model in REQUESTS)


def test_the_tick_is_the_policy_s_and_the_default_where_that_is_damaged(tmp_path: Path):
    home = NodeHome(tmp_path)
    Policy.write_default(home.policy, declared_patients=100, reply_clock_s=7.5)
    assert tick_of(home) == 7.5
    home.policy.write_text("reply_clock_s = 1.0\n")
    assert tick_of(home) == DEFAULT_REPLY_CLOCK_S


# ---------------------------------------------------------------- in the process of the node


def message(kind: str) -> Message:
    metadata = Metadata(
        run_id=1, message_id=kind, src_node_id=1, dst_node_id=2, reply_to_message_id="",
        group_id="", created_at=0.0, ttl=1e9, message_type="train",
    )  # fmt: skip
    return Message(
        RecordDict({"fedprint": ConfigRecord({"header": header(kind)})}), metadata=metadata
    )


@dataclass
class Worker:
    """`client.app._answer` with the SuperNode and the training replaced; time is `Time`."""

    time: Time
    worked_s: dict[str, float] = field(default_factory=dict)
    pushed: list[tuple[str, float]] = field(default_factory=list)
    statuses: list[str] = field(default_factory=list)
    pulled: str = ""

    def patch(self, monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
        monkeypatch.setenv("FEDPRINT_NODE_HOME", str(home))
        link = SimpleNamespace(
            from_server_address=lambda *_, **__: SimpleNamespace(close=lambda: None)
        )
        monkeypatch.setattr(client.app, "RuntimeHttpClient", link)
        beat = SimpleNamespace(start=lambda: None, stop=lambda: None, is_running=True)
        monkeypatch.setattr(client.app, "HeartbeatSender", lambda alive: beat)
        monkeypatch.setattr(client.app, "pull_task_input", self._pull)
        monkeypatch.setattr(client.app, "push_message", self._push)
        monkeypatch.setattr(client.app, "push_task_output", self._output)
        monkeypatch.setattr(client.app, "app", self._work)

    def ask(self, kind: str) -> None:
        self.pulled = kind
        client.app._answer("127.0.0.1:1", "token", self.time.clock(), client.app.app)

    def _pull(self, _: object) -> tuple[object, ...]:
        ours = SimpleNamespace(content=bundle.content())
        return message(self.pulled), Context(1, 2, {}, RecordDict(), {}), None, ours

    def _work(self, asked: Message, context: Context) -> Message:
        self.time.now_s += self.worked_s.get(asked.metadata.message_id, 0.0)
        return Message(RecordDict(), reply_to=asked)

    def _push(self, connection: object, reply: Message, context: Context) -> None:
        self.pushed.append((reply.metadata.reply_to_message_id, self.time.now_s))

    def _output(self, connection: object, context: object, status: str, details: str) -> None:
        self.statuses.append(status)


@pytest.fixture
def home(tmp_path: Path) -> NodeHome:
    node = NodeHome(tmp_path)
    Policy.write_default(node.policy, declared_patients=100, reply_clock_s=TICK_S)
    return node


def test_the_node_s_process_keeps_to_the_clock_and_only_its_own_log_says_when_it_was_short(
    home: NodeHome, monkeypatch: pytest.MonkeyPatch
):
    worker = Worker(Time(), {"train-request": 130.0, "agree-request": 1.5})
    worker.patch(monkeypatch, home.root)
    worker.ask("agree-request")
    assert worker.pushed == [("agree-request", 1001.5)]
    worker.ask("train-request")
    assert worker.pushed[1] == ("train-request", 1001.5 + 3 * TICK_S)
    worker.worked_s["train-request"] = 0.0
    worker.ask("train-request")
    assert worker.pushed[2] == ("train-request", 1001.5 + 4 * TICK_S)
    assert worker.statuses == ["completed"] * 3
    logged = [json.loads(line) for line in (home.logs / "rounds.log").read_text().splitlines()]
    assert [entry["ticks"] for entry in logged] == [3]


def test_while_a_reply_waits_the_display_says_when_it_leaves(
    home: NodeHome, monkeypatch: pytest.MonkeyPatch
):
    """For people at this machine; it is gone once the reply has left."""
    time = Time()
    worker = Worker(time, {"train-request": 5.0})
    worker.patch(monkeypatch, home.root)
    begun = state.Progress(run="spring", round=2, stage="training", step=8, steps=8)
    state.write_progress(home, begun)
    moved, seen = time.wait, []

    def wait(seconds: float) -> bool:
        seen.append(state.progress(home))
        return moved(seconds)

    time.wait = wait  # type: ignore[method-assign]
    worker.ask("train-request")
    assert [item.stage for item in seen if item is not None] == ["training", "holding"]
    held = seen[-1]
    assert held is not None
    assert (held.run, held.step) == ("spring", 8)
    assert held.leaves_s == pytest.approx(held.written_s + TICK_S - 5.0, abs=1.0)
    assert state.progress(home) is None


def test_a_display_that_cannot_be_written_changes_nothing_of_when_a_reply_leaves(
    home: NodeHome, monkeypatch: pytest.MonkeyPatch
):
    """On a full disk a word of failure would leave at once, and tell how long training took."""
    worker = Worker(Time(), {"train-request": 5.0})
    worker.patch(monkeypatch, home.root)
    begun = state.Progress(run="spring", round=2, stage="training", step=8, steps=8)
    state.write_progress(home, begun)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(state, "write_atomic", full)
    worker.ask("train-request")
    assert worker.pushed == [("train-request", 1000.0 + TICK_S)]
    assert worker.statuses == ["completed"]


def test_a_node_that_is_stopped_while_a_reply_waits_pushes_nothing(
    home: NodeHome, monkeypatch: pytest.MonkeyPatch
):
    """After the next start the coordinator asks again and gets the stored reply."""
    worker = Worker(Time(stops_at=1030.0), {"train-request": 10.0})
    worker.patch(monkeypatch, home.root)
    worker.ask("train-request")
    assert worker.pushed == worker.statuses == []
    assert not client.app._in_hand.locked()
    worker.ask("train-request")  # one that waited for its turn meanwhile is not begun
    assert worker.pushed == []
    assert worker.time.now_s == 1030.0


def test_nothing_else_is_answered_while_a_reply_waits(
    home: NodeHome, monkeypatch: pytest.MonkeyPatch
):
    """A message sent on purpose during the training would tell when that ended."""
    time = Time()
    worker = Worker(time, {"train-request": 5.0})
    worker.patch(monkeypatch, home.root)
    moved, held = time.wait, []

    def wait(seconds: float) -> bool:
        held.append(client.app._in_hand.locked())
        return moved(seconds)

    time.wait = wait  # type: ignore[method-assign]
    worker.ask("train-request")
    assert held == [True, True]  # before the work, and while the reply waits
    assert worker.pushed == [("train-request", 1060.0)]
