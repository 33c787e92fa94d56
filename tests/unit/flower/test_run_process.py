"""The process that runs the coordinator's app: how its task ends."""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import SimpleNamespace

import httpx
import pytest
from flwr.app import Context, RecordDict
from flwr.common.constant import SubStatus
from flwr.common.serde import context_to_proto
from flwr.proto.run_pb2 import Run
from flwr.proto.runtime_pb2 import PullTaskInputResponse
from flwr.supercore.heartbeat import HeartbeatSender
from flwr.supercore.run import RunNotRunningException

from server import run_process


class Link:
    """The SuperLink's side of one task."""

    def __init__(self):
        self.begun, self.beaten, self.over = (threading.Event() for _ in range(3))
        self.refuses = self.hangs = False
        self.at_the_end = lambda: None
        self.refusal = RunNotRunningException()
        self.beats = []
        self.statuses = []

    def sender(self, beat):
        made = HeartbeatSender(beat)
        self.beats.append(made)
        return made

    def work(self, *_):
        """Ended by a signal alone."""
        self.begun.set()
        while not self.over.wait(0.2):
            pass

    def SendTaskHeartbeat(self, request):  # noqa: N802
        self.beaten.set()
        if self.hangs:
            self.over.wait(20.0)
        if self.refuses:
            self.begun.wait(20.0)
            raise RunNotRunningException
        return SimpleNamespace(success=True)

    def PullTaskInput(self, request):  # noqa: N802
        context = Context(1, 2, {}, RecordDict(), {})
        return PullTaskInputResponse(
            context=context_to_proto(context), run=Run(run_id=1), task_id=3
        )

    def PushTaskOutput(self, request):  # noqa: N802
        self.at_the_end()
        self.statuses.append(request.sub_status)
        if self.refuses:
            raise self.refusal


@pytest.fixture
def link(monkeypatch):
    made = Link()
    grid = SimpleNamespace(_runtime_client=made, set_run=lambda run: None, close=lambda: None)
    monkeypatch.setattr(run_process, "PatientGrid", lambda *_, **__: grid)
    monkeypatch.setattr(run_process, "HeartbeatSender", made.sender)
    for name in ("task_id", "run_id", "node_id"):
        monkeypatch.setattr(run_process.TaskIdentity, f"_{name}", None)
    yield made
    made.over.set()


def unauthorised():
    request = httpx.Request("POST", "https://127.0.0.1:1/")
    return httpx.HTTPStatusError("", request=request, response=httpx.Response(401))


def run(chosen):
    run_process.execute(chosen, "127.0.0.1:1", b"", "token")


@pytest.fixture
def handlers():
    """Those of this process, as they were."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("handlers")
def test_a_beat_that_is_refused_at_the_end_does_not_end_the_process(link, monkeypatch):
    """Flower's client sends SIGINT to its process when a beat is refused as unauthorised.

    The token ends with the task's output: a run that had finished was then told as "ended early".
    """
    link.at_the_end = lambda: os.kill(os.getpid(), signal.SIGINT)
    monkeypatch.setattr(run_process, "large_blocks_apart", lambda: None)
    monkeypatch.setattr(run_process, "_serve_run", run)
    run_process.serve_run([], lambda *_: link.beaten.wait(20.0))
    assert link.beaten.is_set()
    assert link.statuses == [SubStatus.COMPLETED]


def test_the_end_is_told_while_a_beat_hangs(link):
    """Flower tries a beat again for ever where the SuperLink is busy; nobody waits for that one."""
    link.hangs = True
    run(lambda *_: link.beaten.wait(20.0))
    assert link.statuses == [SubStatus.COMPLETED]
    assert [one._thread.is_alive() for one in link.beats] == [True]


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize("status", [401, 403])
def test_a_run_that_flower_has_ended_ends_its_process_at_once(link, status):
    """What the app waits for is interrupted; that Flower takes no output then is no fault."""
    link.refuses = True
    if status == 401:  # Flower's client raises the exception above for 403 alone
        link.refusal = unauthorised()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with pytest.raises(SystemExit) as ended:
        run(link.work)
    assert ended.value.code == 0
    assert link.statuses == [SubStatus.FAILED]


def test_a_finished_run_stays_finished_where_its_token_has_ended(link):
    """A coordinator that slept past the token's life has its result all the same."""
    link.refuses, link.refusal = True, unauthorised()
    run(lambda *_: None)
    assert link.statuses == [SubStatus.COMPLETED]
    link.refusal = httpx.HTTPStatusError(
        "", request=unauthorised().request, response=httpx.Response(500)
    )
    with pytest.raises(httpx.HTTPStatusError):
        run(lambda *_: None)
