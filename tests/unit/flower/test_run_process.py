"""The process that runs the coordinator's app: how its task ends."""

from __future__ import annotations

import signal
import threading
from types import SimpleNamespace

import pytest
from flwr.app import Context, RecordDict
from flwr.common.constant import SubStatus
from flwr.common.serde import context_to_proto
from flwr.proto.run_pb2 import Run
from flwr.proto.runtime_pb2 import PullTaskInputResponse
from flwr.supercore.heartbeat import HeartbeatSender
from flwr.supercore.run import RunNotRunningException

import server.app


class Link:
    """The SuperLink's side of one task."""

    def __init__(self):
        self.beaten = threading.Event()
        self.refuses = False
        self.beats = []
        self.statuses = []
        self.beating_at_the_end = []

    def sender(self, beat):
        made = HeartbeatSender(beat)
        self.beats.append(made)
        return made

    def SendTaskHeartbeat(self, request):  # noqa: N802
        self.beaten.set()
        if self.refuses:
            raise RunNotRunningException
        return SimpleNamespace(success=True)

    def PullTaskInput(self, request):  # noqa: N802
        context = Context(1, 2, {}, RecordDict(), {})
        return PullTaskInputResponse(
            context=context_to_proto(context), run=Run(run_id=1), task_id=3
        )

    def PushTaskOutput(self, request):  # noqa: N802
        self.beating_at_the_end += [one._thread.is_alive() for one in self.beats]
        self.statuses.append(request.sub_status)


@pytest.fixture
def link(monkeypatch):
    made = Link()
    grid = SimpleNamespace(_runtime_client=made, set_run=lambda run: None, close=lambda: None)
    monkeypatch.setattr(server.app, "PatientGrid", lambda *_, **__: grid)
    monkeypatch.setattr(server.app, "HeartbeatSender", made.sender)
    for name in ("task_id", "run_id", "node_id"):
        monkeypatch.setattr(server.app.TaskIdentity, f"_{name}", None)
    return made


def test_no_beat_is_under_way_when_the_token_ends(link):
    """Flower's client sends SIGINT to its process when a beat is refused as unauthorised.

    The token ends with the task's output: a run that had finished was then told as "ended early".
    """
    server.app.execute(lambda *_: link.beaten.wait(20.0), "127.0.0.1:1", b"", "token")
    assert link.beaten.is_set()
    assert link.statuses == [SubStatus.COMPLETED]
    assert link.beating_at_the_end == [False]


def test_a_run_that_flower_has_ended_ends_its_process(link, monkeypatch):
    link.refuses = True
    told = threading.Event()
    numbers = []

    def raised(number):
        numbers.append(number)
        told.set()

    def chosen(*_):
        assert told.wait(20.0)
        raise SystemExit(0)  # what the handler of SIGTERM does

    monkeypatch.setattr(server.app.signal, "raise_signal", raised)
    with pytest.raises(SystemExit):
        server.app.execute(chosen, "127.0.0.1:1", b"", "token")
    assert numbers == [signal.SIGTERM]
    assert link.statuses == [SubStatus.FAILED]
