"""The coordinator's grid to a real SuperLink: it waits for no upload, and asks again who forgot."""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest
from flwr.app import Metadata
from flwr.app.message import make_message
from flwr.common.constant import ErrorCode
from flwr.common.serde import message_to_proto
from flwr.proto.node_pb2 import NodeInfo
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree

from client.app import pack, unpack
from server import runtime_grid
from server.grid import GridTransport, by_node_key
from server.runtime_grid import PatientGrid
from server.transport import Outgoing
from shared_model.known_source import check

BODY = random.Random(1).randbytes(100_000)


class Link:
    """The SuperLink's side: replies whose objects come one by one."""

    def __init__(self):
        self.replies = {}
        self.objects = {}
        self.expected = set()
        self.confirmed = []
        self.claimed = set()
        self.began = "10:00"
        self.pulls = 0

    def PullMessages(self, request):  # noqa: N802
        new = [
            one for one in request.message_ids if one in self.replies and one not in self.claimed
        ]
        self.claimed |= set(new)
        found = [self.replies[one] for one in new]
        return SimpleNamespace(
            messages_list=[message_to_proto(one) for one in found],
            message_object_trees=[get_object_tree(one) for one in found],
        )

    def PullObject(self, request):  # noqa: N802
        self.pulls += 1
        content = self.objects.get(request.object_id, b"")
        return SimpleNamespace(
            object_found=request.object_id in self.expected,
            object_available=content != b"",
            object_content=content,
        )

    def ConfirmMessageReceived(self, request):  # noqa: N802
        self.confirmed.append(request.message_object_id)

    def GetNodes(self, request):  # noqa: N802
        node = NodeInfo(node_id=7, public_key=b"key", last_activated_at=self.began)
        return SimpleNamespace(nodes=[node])

    def PushMessages(self, request):  # noqa: N802
        ids = [one.metadata.message_id for one in request.messages_list]
        self.expected |= set(ids)
        return SimpleNamespace(message_ids=ids, objects_to_push=[], session_id="s")

    def PushObject(self, request):  # noqa: N802
        return SimpleNamespace(stored=True)

    def begin(self, asked):
        """The node's reply to this message is announced; nothing of it is here."""
        made = make_message(
            Metadata(
                run_id=1,
                message_id="",
                src_node_id=7,
                dst_node_id=1,
                reply_to_message_id=asked,
                group_id="",
                created_at=1_000.0,
                ttl=3_600.0,
                message_type="train",
            ),
            pack(b"header", BODY),
        )
        made.metadata.__dict__["_message_id"] = made.object_id
        self.replies[asked] = made
        objects = {key: one.deflate() for key, one in get_all_nested_objects(made).items()}
        self.expected |= set(objects)
        return objects


@pytest.fixture
def link():
    return Link()


@pytest.fixture
def grid(link, monkeypatch):
    monkeypatch.setattr(PatientGrid, "_runtime_client", link)
    made = PatientGrid("127.0.0.1:1", root_certificates=b"", token="token")
    made._run = SimpleNamespace(run_id=1)
    monkeypatch.setattr(PatientGrid, "run", made._run)
    return made


def test_flower_is_the_one_that_this_was_written_against():
    check(runtime_grid.KNOWN, "Flower")


def test_an_upload_that_is_not_complete_holds_nobody_up(grid, link):
    """It is looked at again at the next turn; another site's reply passes it."""
    slow, quick = link.begin("slow"), link.begin("quick")
    *first, last = slow
    link.objects |= {key: slow[key] for key in first}
    assert list(grid.pull_messages(["slow"])) == []
    link.objects |= quick
    found = list(grid.pull_messages(["slow", "quick"]))
    assert [one.metadata.reply_to_message_id for one in found] in (["quick"], ["quick", "slow"])
    link.objects[last] = slow[last]
    found += list(grid.pull_messages(["slow", "quick"]))
    assert {one.metadata.reply_to_message_id for one in found} == {"slow", "quick"}
    assert all(unpack(one.content) == (b"header", BODY) for one in found)
    assert len(link.confirmed) == 2


def test_what_came_of_an_upload_is_not_fetched_twice(grid, link):
    """While the rest is awaited each look costs one call."""
    objects = link.begin("slow")
    link.objects |= dict(list(objects.items())[:-1])
    grid.pull_messages(["slow"])
    before = link.pulls
    for _ in range(5):
        grid.pull_messages(["slow"])
    assert link.pulls - before == 5


def test_an_upload_that_will_never_be_complete_is_an_error(grid, link):
    objects = link.begin("slow")
    link.expected -= set(objects)
    (found,) = grid.pull_messages(["slow"])
    assert found.error.code == ErrorCode.MESSAGE_UNAVAILABLE
    assert found.metadata.reply_to_message_id == "slow"


def test_a_reply_that_cannot_be_unpacked_is_an_error_of_its_own(grid, link, monkeypatch):
    link.objects |= link.begin("slow")

    def fails(*_):
        raise KeyError("hostile")

    monkeypatch.setattr(runtime_grid, "inflate_object_from_contents", fails)
    (found,) = grid.pull_messages(["slow"])
    assert found.has_error()


class Clock:
    now = 100.0

    def __call__(self):
        self.now += 10.0
        return self.now


@pytest.fixture
def transport(grid):
    return GridTransport(grid, by_node_key({b"key": "alpha"}), ttl_s=60.0, clock=Clock())


@pytest.fixture
def asked(transport, monkeypatch):
    from flwr.supercore.task_identity import TaskIdentity

    for name, value in (("_run_id", 1), ("_node_id", 1), ("_task_id", 1)):
        monkeypatch.setattr(TaskIdentity, name, value)
    (identifier,) = transport.push([Outgoing("alpha", "train", b"header", b"")])
    return identifier


def test_a_node_that_began_anew_and_had_taken_the_message_is_asked_again(transport, link, asked):
    """At the next look, not at the deadline."""
    assert transport.pull([asked]) == []
    link.expected.discard(asked)  # it has said that it has everything
    assert transport.pull([asked]) == []
    link.began = "10:05"
    (lost,) = transport.pull([asked])
    assert (lost.id, lost.site, lost.error) == (asked, "alpha", "restarted")


def test_a_message_that_it_had_not_taken_is_left_to_flower(transport, link, asked):
    """It is given to the node, once; what the node has then is not lost by the old restart."""
    link.began = "10:05"
    assert transport.pull([asked]) == []
    link.expected.discard(asked)
    assert transport.pull([asked]) == []


def test_a_reply_that_is_larger_than_any_is_given_up_before_it_is_whole(grid, link, monkeypatch):
    """One site must not fill the memory in which all the others' rounds are."""
    monkeypatch.setattr(runtime_grid, "LARGEST_BYTES", len(BODY) // 2)
    huge, pulled = link.begin("huge"), link.pulls
    link.objects |= huge
    (found,) = grid.pull_messages(["huge"])
    assert found.has_error()
    assert found.metadata.reply_to_message_id == "huge"
    assert link.pulls - pulled < len(huge)
