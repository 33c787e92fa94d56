"""The process that runs the coordinator's app: how its task ends."""

from __future__ import annotations

import json
import os
import signal
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
from flwr.supercore.retry import http_retry, make_simple_http_retry_invoker
from flwr.supercore.run import RunNotRunningException

from server import run_process, superlink
from shared_model.errors import FedprintError, OurMistake, Refused


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

    def refuse(self):
        """As Flower's client does, which sends SIGINT to its process for 401."""

        def answer():
            raise self.refusal

        make_simple_http_retry_invoker().invoke(answer)

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
            self.refuse()
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
            self.refuse()


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


def refused(status):
    request = httpx.Request("POST", "https://127.0.0.1:1/")
    return httpx.HTTPStatusError("", request=request, response=httpx.Response(status))


def run(chosen):
    run_process.execute(chosen, "127.0.0.1:1", b"", "token")


@pytest.fixture
def handlers():
    """Of the run's process; afterwards those of this one, as they were."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, run_process.flower_ended)
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
def test_a_run_that_flower_has_ended_ends_its_process_at_once(link, status, monkeypatch):
    """What the app waits for is interrupted, and it is said what has happened. Flower answers 401
    where the task has ended: for a day that was taken for an answer to be tried again."""
    monkeypatch.setattr(http_retry, "FORCE_EXIT_TIMEOUT_SECONDS", -1)  # sleeps one more, and 0
    link.refuses = True
    if status == 401:
        link.refusal = refused(401)
    monkeypatch.setattr(run_process, "large_blocks_apart", lambda: None)
    monkeypatch.setattr(run_process, "_serve_run", run)
    told = []
    monkeypatch.setattr(run_process, "announce", told.append)
    with pytest.raises(SystemExit) as ended:
        run_process.serve_run([], link.work)
    assert ended.value.code == OurMistake.exit_code
    assert told[0]["message"].startswith("Flower has ended this run")
    assert link.statuses == [SubStatus.FAILED]


@pytest.mark.usefixtures("handlers")
def test_sigterm_ends_the_process_though_flower_takes_no_output(link, monkeypatch):
    """Where the SuperLink has gone, Flower's client tries for ever."""
    monkeypatch.setattr(run_process, "PUSH_S", 0.1)
    monkeypatch.setattr(run_process, "large_blocks_apart", lambda: None)
    monkeypatch.setattr(run_process, "_serve_run", run)
    link.at_the_end = lambda: link.over.wait(20.0)

    def killed(*_):
        os.kill(os.getpid(), signal.SIGTERM)
        link.work()

    with pytest.raises(SystemExit) as ended:
        run_process.serve_run([], killed)
    assert ended.value.code == superlink.TERMINATED


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize("status", [401, 500])
def test_what_flower_answers_at_the_end_changes_nothing(link, status, monkeypatch):
    """A coordinator that slept past the token's life has its result all the same; and what ended
    the run otherwise is told as it is."""
    monkeypatch.setattr(http_retry, "FORCE_EXIT_TIMEOUT_SECONDS", -1)
    link.at_the_end = lambda: setattr(link, "refuses", True)
    link.refusal = refused(status)
    run(lambda *_: None)
    assert link.statuses == [SubStatus.COMPLETED]

    def paused(*_):
        raise Refused("Run run-1 is paused.", reason="paused")

    link.refuses = False
    with pytest.raises(Refused, match="is paused"):
        run(paused)
    assert link.statuses == [SubStatus.COMPLETED, SubStatus.FAILED]


ENDED = {"event": "ended", "state": "finished", "pause": ""}
FAULT = {"event": "fault", "message": "No.", "do": "Else.", "exit_code": 3, "site": ""}


def watched(events, code):
    """What reached the operator of a run's process that says this and ends so."""
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb") as pipe:
        pipe.write(b"".join(json.dumps(one).encode() + b"\n" for one in events))
    seen = []
    with os.fdopen(reading, "rb") as output:
        worker = SimpleNamespace(
            output=output, process=SimpleNamespace(wait=lambda: code), log="run.log",
            last_lines=lambda: "the last line",
        )  # fmt: skip
        superlink._watch(SimpleNamespace(exit_code=None), worker, seen.append)
    return seen


@pytest.mark.parametrize("code", [0, 1, superlink.TERMINATED])
def test_what_the_run_said_of_its_end_counts(code):
    """It was "ended early" where Flower's database was locked a moment later."""
    assert watched([ENDED], code) == watched([ENDED, FAULT], code) == [ENDED]


@pytest.mark.parametrize(
    ("events", "code", "words"),
    [
        ([FAULT], 3, r"No\. Else\."),
        ([], superlink.TERMINATED, "ended from outside"),
        ([], 1, "ended early.*\n.*the last line"),
        ([], 0, "ended early"),  # `serve` took it for the run's end
    ],
)
def test_a_run_that_did_not_say_its_end_has_not_ended_well(events, code, words):
    with pytest.raises(FedprintError, match=words):
        watched(events, code)
