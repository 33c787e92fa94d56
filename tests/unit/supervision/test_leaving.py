"""At rest the training process leaves by itself, and tells the SuperNode before its last answer."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.app.metadata import Metadata

import client.app
from client import rest, state, supervisor
from client.home import NodeHome
from client.node_loop import Loop, Place
from client.policy import Policy
from client.reply_clock import ReplyClock
from client.settings import as_toml, settings_of
from client.supernode import WAIT_S, Leaving, Resting
from shared_model import bundle
from shared_model.children import Family


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NodeHome:
    place = NodeHome(tmp_path)
    place.config.write_text(as_toml("alpha", 100))
    Policy.write_default(place.policy, declared_patients=100)
    monkeypatch.setenv("FEDPRINT_NODE_HOME", str(tmp_path))
    monkeypatch.setattr(client.app, "_in_hand", threading.Lock())
    return place


def begun(home: NodeHome, *more: str) -> None:
    folder = home.outbox / "spring" / "0000001"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("round.json", "request", *more):
        (folder / name).write_bytes(b"x")


class Over(Exception):
    """The test has seen enough."""


def work(home: NodeHome, monkeypatch: pytest.MonkeyPatch, looks: int) -> int:
    """Run the loop of the training process; how often it asked for a message."""
    asked = 0

    def acquire(_: object) -> SimpleNamespace:
        nonlocal asked
        asked += 1
        if asked >= looks:
            raise Over
        return SimpleNamespace(HasField=lambda name: False, token="")

    link = SimpleNamespace(AcquireTask=acquire)
    monkeypatch.setattr(
        client.app,
        "RuntimeHttpClient",
        SimpleNamespace(from_server_address=lambda *_, **__: link),
    )
    monkeypatch.setattr(client.app.signal, "signal", lambda *_: None)
    monkeypatch.setattr(client.app, "POLL_S", 0.001)
    monkeypatch.setattr(client.app, "REST_S", 0.0)
    secret = home.root / "secret"
    secret.write_bytes(bytes(32))
    with contextlib.suppress(Over):
        client.app.work(["127.0.0.1:1", str(secret)])
    return asked


def test_with_nothing_in_hand_it_leaves_at_once(
    home: NodeHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert work(home, monkeypatch, 5) == 5
    assert not rest.leave_mark(home).exists()
    state.pause(home)
    assert work(home, monkeypatch, 5) == 0
    assert rest.leave_mark(home).exists()
    assert client.app._in_hand.locked()  # nothing begins any more in this process


def test_with_a_round_that_waits_for_its_next_trip_it_stays(
    home: NodeHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun(home)
    state.pause(home)
    assert work(home, monkeypatch, 5) == 5
    begun(home, "opened")
    assert work(home, monkeypatch, 5) == 0


def test_a_message_that_is_arriving_is_waited_for(
    home: NodeHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was sent before; its round was opened with this site."""
    state.pause(home)
    monkeypatch.setattr(client.app, "_arriving", {1: client.app.time.time() - 60.0})
    assert work(home, monkeypatch, 5) == 5
    monkeypatch.setattr(client.app, "_arriving", {1: client.app.time.time() - rest.LINGER_S})
    assert work(home, monkeypatch, 5) == 0


def test_the_last_answer_is_handed_over_after_the_supernode_was_told_to_leave(
    home: NodeHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the coordinator would open the next round with this site in between."""
    marks: list[bool] = []
    metadata = Metadata(
        run_id=1, message_id="m", src_node_id=1, dst_node_id=2, reply_to_message_id="",
        group_id="", created_at=0.0, ttl=1e9, message_type="train",
    )  # fmt: skip
    header = bytes(64) + b'{"kind":"open-request"}'
    message = Message(RecordDict({"fedprint": ConfigRecord({"header": header})}), metadata=metadata)
    monkeypatch.setattr(
        client.app,
        "RuntimeHttpClient",
        SimpleNamespace(from_server_address=lambda *_, **__: SimpleNamespace(close=lambda: None)),
    )
    beat = SimpleNamespace(start=lambda: None, stop=lambda: None, is_running=True)
    monkeypatch.setattr(client.app, "HeartbeatSender", lambda alive: beat)
    ours = SimpleNamespace(content=bundle.content())
    pulled = (message, Context(1, 2, {}, RecordDict(), {}), None, ours)
    monkeypatch.setattr(client.app, "pull_task_input", lambda _: pulled)
    monkeypatch.setattr(
        client.app, "push_message", lambda *_: marks.append(rest.leave_mark(home).exists())
    )
    monkeypatch.setattr(client.app, "push_task_output", lambda *_: None)

    def answer(asked: Message, context: Context) -> Message:
        begun(home, "opened")
        return Message(RecordDict(), reply_to=asked)

    monkeypatch.setattr(client.app, "app", answer)
    begun(home)
    clock = ReplyClock(wait=lambda seconds: False)
    client.app._answer("127.0.0.1:1", "token", clock, client.app.app)
    state.pause(home)
    client.app._answer("127.0.0.1:1", "token", clock, client.app.app)
    assert marks == [False, True]


def test_the_supernode_leaves_when_all_is_sent_and_no_message_was_there() -> None:
    waited: list[float] = []
    leave = [False]
    pace = Resting(waited.append, lambda: leave[0])
    pace.sleep(WAIT_S[1])
    leave[0] = True
    pace.sleep(0.5)  # an answer is awaited
    with pytest.raises(Leaving):
        pace.sleep(WAIT_S[1])
    assert waited == [WAIT_S[1], 0.5]
    assert not issubclass(Leaving, Exception)  # Flower logs those and goes on


def test_a_supernode_that_is_wanted_again_is_not_told_to_leave_any_more(home: NodeHome) -> None:
    place = Place(home, "127.0.0.1:1", home.root, home.root, lambda _: 1, lambda _: None)
    with Family() as family:
        loop = Loop(place, settings_of(home), family, lambda _: None)
        loop._do(supervisor.Leave("SuperNode"))
        assert rest.leave_mark(home).exists()
        loop._do(supervisor.Stay("SuperNode"))
        assert not rest.leave_mark(home).exists()
        loop._do(supervisor.Stay("SuperNode"))  # nothing had told it to


def test_a_full_disk_at_the_mark_ends_no_node(home: NodeHome) -> None:
    place = Place(home, "127.0.0.1:1", home.root, home.root, lambda _: 1, lambda _: None)
    mark = rest.leave_mark(home)
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.symlink_to("/dev/full")
    with Family() as family:
        Loop(place, settings_of(home), family, lambda _: None)._do(supervisor.Leave("SuperNode"))
