"""The process that answers messages at the hospital."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.app.metadata import Metadata
from flwr.common.constant import ErrorCode

import client.app
from client.policy import Policy
from shared_model import bundle


def message(number: int) -> Message:
    metadata = Metadata(
        run_id=1, message_id=f"m{number}", src_node_id=1, dst_node_id=2, reply_to_message_id="",
        group_id="", created_at=0.0, ttl=1e9, message_type="train",
    )  # fmt: skip
    header = bytes(64) + b'{"kind":"agree-request"}'  # of a trip that the reply clock leaves alone
    record = ConfigRecord({"header": header})
    return Message(RecordDict({"fedprint": record}), metadata=metadata)


class SuperNode:
    """Hands out tasks; the first one's message never arrives, as after a stopped run."""

    def __init__(self, stuck: threading.Event) -> None:
        self.stuck = stuck
        self.tokens = ["stale", "fresh"]
        self.answered = threading.Event()
        self.pushed: list[str] = []
        self.bundle = bundle.content()
        self.errors: list[int] = []
        self.statuses: list[str] = []

    def from_server_address(self, *_: object, interceptors: list[object], **__: object) -> object:
        node = self
        token = next((i._token for i in interceptors if hasattr(i, "_token")), "")

        class Client:
            def AcquireTask(self, request: object) -> object:  # noqa: N802
                if node.answered.is_set():
                    raise SystemExit  # the test is over
                free = node.tokens.pop(0) if node.tokens else ""
                return SimpleNamespace(HasField=lambda name: bool(free), token=free)

            def SendTaskHeartbeat(self, request: object) -> object:  # noqa: N802
                return SimpleNamespace(success=True)

            def close(self) -> None:
                pass

        client_ = Client()
        client_.token = token  # type: ignore[attr-defined]
        return client_

    def pull(self, connection: SimpleNamespace) -> tuple[object, ...]:
        if connection.token == "stale":
            self.stuck.wait(30.0)
            raise RuntimeError("never whole")
        ours = SimpleNamespace(content=self.bundle)
        return message(2), Context(1, 2, {}, RecordDict(), {}), None, ours

    def push(self, connection: object, reply: Message, context: Context) -> None:
        self.pushed.append(reply.metadata.reply_to_message_id)
        self.errors += [reply.error.code] if reply.has_error() else []

    def push_output(self, connection: object, context: object, status: str, details: str) -> None:
        self.statuses.append(status)
        self.answered.set()


def test_a_message_that_never_arrives_does_not_hold_up_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found by killing a coordinator: the stopped run's half-sent message blocked the new run's."""
    node = worked(tmp_path, monkeypatch, bundle.content())
    assert node.pushed == ["m2"]
    assert node.statuses[0] == "completed"
    assert len(node.statuses) == 2
    assert node.errors == []


def test_the_process_that_answers_takes_no_other_bundle_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not trust the SuperNode to have looked: the message is not given to the app."""
    node = worked(tmp_path, monkeypatch, b"hostile")
    assert node.errors == [ErrorCode.INVALID_FAB]


def empty_reply(message: Message, context: Context) -> Message:
    return Message(RecordDict(), reply_to=message)


def worked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes) -> SuperNode:
    """The process with this SuperNode, until both tasks are over."""
    stuck = threading.Event()
    node = SuperNode(stuck)
    node.bundle = content
    monkeypatch.setenv("FEDPRINT_NODE_HOME", str(tmp_path))
    Policy.write_default(tmp_path / "policy.toml", declared_patients=437)
    monkeypatch.setattr(client.app, "RuntimeHttpClient", node)
    monkeypatch.setattr(client.app, "pull_task_input", node.pull)
    monkeypatch.setattr(client.app, "push_message", node.push)
    monkeypatch.setattr(client.app, "push_task_output", node.push_output)
    monkeypatch.setattr(client.app.signal, "signal", lambda *_: None)
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(32))
    with pytest.raises(SystemExit):
        client.app.work(["127.0.0.1:1", str(secret)], empty_reply)
    stuck.set()
    for thread in threading.enumerate():  # else it ends when nothing is patched any more
        if thread.name.endswith("(_answer)"):
            thread.join(30.0)
    return node


def test_a_fault_of_the_client_stays_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    def handle(header: bytes, body: bytes) -> tuple[bytes, bytes]:
        raise KeyError("patient 1234")

    reply = client.app.carry(message(1), handle)
    assert reply.has_error()
    assert reply.error.reason == "internal"
