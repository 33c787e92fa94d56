"""Adapters: who a site is follows from its key; bytes pass whole; errors are one word."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable

import pytest
from flwr.app import Context, Error, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.proto.node_pb2 import NodeInfo

from client import app as client_app
from server.app import Guard
from server.grid import GridTransport, by_node_key, in_order
from server.transport import Outgoing
from shared_model.errors import OurMistake
from simulations.in_process_grid import InProcessGrid


class Echo:
    """Hospitals that answer with what they were sent, and who they are."""

    def handle(self, site: str, header: bytes, body: bytes) -> tuple[bytes, bytes]:
        if header == b"fail":
            raise ValueError("patient Doe")
        return site.encode() + b":" + header, body[::-1]


def transport(nodes: int = 2) -> GridTransport:
    return GridTransport(InProcessGrid(Echo(), nodes), in_order(("alpha", "beta")), ttl_s=60.0)


def test_bytes_pass_whole_in_both_directions() -> None:
    line = transport()
    body = bytes(range(256)) * 5000
    ids = line.push([Outgoing(site, "train", b"\x00\xffh", body) for site in ("alpha", "beta")])
    answers = line.pull(ids)
    assert [(a.site, a.header, a.body, a.error) for a in answers] == [
        ("alpha", b"alpha:\x00\xffh", body[::-1], ""),
        ("beta", b"beta:\x00\xffh", body[::-1], ""),
    ]
    assert line.pull(ids) == []


def test_two_messages_to_one_site_are_answered_each() -> None:
    """As the closing exchanges of two rounds are: every message has an id of its own."""
    line = transport()
    asked = [Outgoing(site, "train", header, b"") for site, header in TWICE]
    ids = line.push(asked)
    assert len(set(ids)) == len(TWICE)
    answers = {answer.id: answer.header for answer in line.pull(ids)}
    assert [answers[one] for one in ids] == [site.encode() + b":" + h for site, h in TWICE]


TWICE = (("alpha", b"first"), ("beta", b"only"), ("alpha", b"second"))


def test_a_body_travels_in_pieces_both_ways() -> None:
    """Those that `piece_bytes` says; else a cut costs the whole body."""
    body = random.Random(1).randbytes(524_288)
    asked = transport()._message(Outgoing("alpha", "train", b"header", body), 1)
    for records, count in ((asked.content, 2), (client_app.pack(b"header", body), 32)):
        pieces = records.array_records[client_app.BODY][client_app.BODY].slice_array()
        assert len(pieces) == count
        assert client_app.unpack(records) == (b"header", body)


def test_an_empty_body_stays_empty() -> None:
    line = transport()
    (answer,) = line.pull(line.push([Outgoing("beta", "train", b"h", b"")]))
    assert (answer.header, answer.body) == (b"beta:h", b"")


def test_what_fails_at_the_client_leaves_as_one_word() -> None:
    line = transport()
    (answer,) = line.pull(line.push([Outgoing("alpha", "train", b"fail", b"")]))
    assert (answer.error, answer.header, answer.body) == ("crashed", b"", b"")


def test_the_reason_of_a_failure_does_not_leave() -> None:
    grid = InProcessGrid(Echo(), 1)
    message = GridTransport(grid, in_order(("a",)), 60.0)._message(
        Outgoing("a", "train", b"fail", b""), 2
    )
    (reply,) = grid.send_and_receive([message])
    assert reply.error.reason == "internal"


def test_a_site_that_is_not_there_gets_no_message() -> None:
    line = transport(nodes=1)
    ids = line.push([Outgoing(site, "train", b"h", b"b") for site in ("beta", "alpha")])
    assert ids[0] == ""
    assert [answer.site for answer in line.pull(ids)] == ["alpha"]


def test_another_action_is_our_mistake() -> None:
    with pytest.raises(OurMistake):
        transport().push([Outgoing("alpha", "shell", b"h", b"")])


def test_a_site_is_who_holds_its_key_not_who_bears_its_name() -> None:
    nodes = [
        NodeInfo(node_id=7, public_key=b"stranger", name="north"),
        NodeInfo(node_id=8, public_key=b"north-key", name="whatever"),
    ]
    assert by_node_key({b"north-key": "north", b"south-key": "south"})(nodes) == {"north": 8}


def test_a_reply_of_another_node_is_misrouted() -> None:
    line = transport()
    (identifier,) = line.push([Outgoing("alpha", "train", b"h", b"")])
    reply = next(iter(line.grid.pull_messages([identifier])))
    reply.metadata.__dict__["_src_node_id"] = 99
    answer = line._incoming(reply)
    assert (answer.site, answer.error, answer.header) == ("alpha", "misrouted", b"")


@pytest.mark.parametrize(
    ("code", "word"),
    [
        (ErrorCode.NODE_UNAVAILABLE, "unreachable"),
        (ErrorCode.REPLY_MESSAGE_UNAVAILABLE, "expired"),
        (ErrorCode.CLIENT_APP_CRASHED, "crashed"),
        (ErrorCode.UNKNOWN, "failed"),
    ],
)
def test_flower_errors_become_words(code: int, word: str) -> None:
    line = transport()
    (identifier,) = line.push([Outgoing("alpha", "train", b"h", b"")])
    reply = next(iter(line.grid.pull_messages([identifier])))
    message = Message(Error(code, "text of a peer"), reply_to=reply)
    message.metadata.__dict__["_reply_to_message_id"] = identifier
    assert line._incoming(message).error == word


class Broken(InProcessGrid):
    """A grid in which the first site's reply cannot be unpacked, as Flower's own then raises."""

    bad = ""
    down = False

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        wanted = list(message_ids)
        if self.down:
            raise ConnectionRefusedError
        if self.bad in wanted:
            raise KeyError("NoSuchObject")
        return super().pull_messages(wanted)


def test_a_reply_that_cannot_be_unpacked_is_that_sites_loss_alone() -> None:
    grid = Broken(Echo(), 2)
    line = GridTransport(grid, in_order(("alpha", "beta")), 60.0)
    ids = line.push([Outgoing(site, "train", b"h", b"b") for site in ("alpha", "beta")])
    grid.bad = ids[0]
    answers = {answer.site: answer for answer in line.pull(ids)}
    assert (answers["alpha"].error, answers["alpha"].header) == ("malformed", b"")
    assert (answers["beta"].error, answers["beta"].header) == ("", b"beta:h")
    assert line.pull(ids) == []


def test_a_superlink_that_is_gone_is_no_fault_of_a_site() -> None:
    grid = Broken(Echo(), 2)
    line = GridTransport(grid, in_order(("alpha", "beta")), 60.0)
    ids = line.push([Outgoing("alpha", "train", b"h", b"b")])
    grid.down = True
    with pytest.raises(ConnectionRefusedError):
        line.pull(ids)


def test_records_without_our_fields_are_empty() -> None:
    assert client_app.unpack(RecordDict()) == (b"", b"")


def test_the_client_app_knows_train_only() -> None:
    message = Message(RecordDict(), dst_node_id=2, message_type="query")
    context = Context(1, 2, {}, RecordDict(), {})
    with pytest.raises(ValueError, match="query"):
        client_app.app(message, context)


@pytest.mark.parametrize(
    ("path", "client", "secret", "status"),
    [
        ("/health", "10.0.0.9", "", 200),
        ("/v1/fleet/pull-messages", "10.0.0.9", "", 200),
        ("/v1/control/start-run", "127.0.0.1", "", 404),
        ("/v1/control/start-run", "127.0.0.1", "wrong", 404),
        ("/v1/control/start-run", "10.0.0.9", "right", 200),
        ("/v1/control/register-node", "10.0.0.9", "", 404),
        ("/v1/runtime/acquire-task", "10.0.0.9", "right", 404),
        ("/v1/runtime/acquire-task", "127.0.0.1", "", 200),
        ("/docs", "127.0.0.1", "right", 404),
        ("/openapi.json", "127.0.0.1", "right", 404),
        ("/V1/control/start-run", "127.0.0.1", "right", 404),
        ("//v1/fleet/pull-messages", "127.0.0.1", "right", 404),
    ],
)
def test_the_network_reaches_the_nodes_interface_only(
    path: str, client: str, secret: str, status: int
) -> None:
    guard = Guard(lambda *_: None, "right")  # type: ignore[arg-type,return-value]
    guard.opened = True
    headers = [(b"x-fedprint-operator", secret.encode())] if secret else []
    scope = {"type": "http", "path": path, "client": (client, 1), "headers": headers}
    assert guard.judge(scope) == status


def test_the_guard_closes_websockets() -> None:
    """The SuperLink has none; one that a later Flower adds must not pass by default."""
    sent: list[dict[str, object]] = []

    async def link(*_: object) -> None:
        raise AssertionError("passed")

    async def send(message: dict[str, object]) -> None:
        sent.append(message)

    guard = Guard(link, "right")
    asyncio.run(guard({"type": "websocket", "path": "/v1/control/x"}, link, send))  # type: ignore[arg-type]
    assert [message["type"] for message in sent] == ["websocket.close"]


def test_nodes_wait_until_the_roster_is_enrolled() -> None:
    """A node that came before its enrolment would be told that it is unknown, and give up."""
    passed: list[str] = []

    async def link(scope: dict[str, object], receive: object, send: object) -> None:
        passed.append(str(scope["path"]))

    async def ignore(*_: object) -> None:
        return None

    guard = Guard(link, "right")  # type: ignore[arg-type]
    fleet = {"type": "http", "path": "/v1/fleet/activate-node", "client": None, "headers": []}
    right = [(b"x-fedprint-operator", b"right")]
    for path in ("/v1/control/register-node", "/v1/control/start-run"):
        assert guard.judge(fleet) == 503
        scope = {"type": "http", "path": path, "client": None, "headers": right}
        asyncio.run(guard(scope, ignore, ignore))  # type: ignore[arg-type]
    assert guard.judge(fleet) == 200
    assert len(passed) == 2
