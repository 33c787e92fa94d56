"""Our SuperLink over a real database: who is away is away, and nothing that came is lost."""

from __future__ import annotations

import datetime
import random
import threading

import pytest
from flwr.app import Metadata
from flwr.app.message import make_message
from flwr.common.constant import ErrorCode
from flwr.server.superlink.linkstate import LinkStateFactory, sql_linkstate
from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState
from flwr.supercore import date
from flwr.supercore.constant import NOOP_FEDERATION_ID, NodeStatus, TaskType
from flwr.supercore.corestate import sql_corestate
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.state.schema.linkstate_models import Node
from flwr.supercore.utils import uint64_to_int64
from flwr.superlink.federation import NoOpFederationManager
from sqlalchemy import update

from client.app import pack
from server import fleet
from shared_model.errors import OurMistake
from shared_model.known_source import check

# Flower's own migrations
pytestmark = pytest.mark.filterwarnings("ignore:No path_separator:DeprecationWarning")

BODY = random.Random(1).randbytes(100_000)


@pytest.fixture
def link(tmp_path, monkeypatch):
    """The state of a SuperLink with ours installed; Flower's is put back afterwards."""
    for name in fleet._OURS:
        monkeypatch.setattr(SqlLinkState, name, getattr(SqlLinkState, name))
    for module, name in (
        (sql_linkstate, "check_node_availability_for_in_message"),
        (sql_corestate, "OBJECT_PUSH_SESSION_TTL_SECONDS"),
    ):
        monkeypatch.setitem(vars(module), name, vars(module)[name])
    fleet.install(kept_s=7 * 86_400.0)
    manager = NoOpFederationManager()
    path = str(tmp_path / "superlink.sqlite")
    factory = LinkStateFactory(path, manager, ObjectStoreFactory(path))
    made = factory.state()
    manager.linkstate = made
    return made


@pytest.fixture
def run(link):
    return link.create_run(
        "", "", "", {}, NOOP_FEDERATION_ID, None, "", primary_task_type=TaskType.SERVER_APP
    )


@pytest.fixture
def node(link):
    made = link.create_node("", "", b"key", 30.0)
    assert link.activate_node(made, 30.0)
    return made


def message(run, source, target, *, reply_to="", body=BODY):
    made = make_message(
        Metadata(
            run_id=run,
            message_id="",
            src_node_id=source,
            dst_node_id=target,
            reply_to_message_id=reply_to,
            group_id="",
            created_at=date.now().timestamp(),
            ttl=3_600.0 if not reply_to else 1_800.0,
            message_type="train",
        ),
        pack(b"header", body),
    )
    made.metadata.__dict__["_message_id"] = made.object_id
    return made


class Upload:
    """A message that is pushed object by object."""

    def __init__(self, link, made):
        self.link, self.message = link, made
        self.id = made.metadata.message_id
        self.run = made.metadata.run_id
        self.objects = {k: v.deflate() for k, v in get_all_nested_objects(made).items()}

    def begin(self):
        self.session = self.link.start_session(self.run)
        tree = get_object_tree(self.message)
        _, missing = self.link.store_message_and_object_tree(self.message, tree, self.session)
        return missing

    def push(self, identifiers):
        for one in identifiers:
            assert self.link.store_object(self.run, self.session, one, self.objects[one])


@pytest.fixture
def asked(link, run, node):
    """A message to the node that is complete at the SuperLink."""
    upload = Upload(link, message(run, 1, node))
    upload.push(upload.begin())
    return upload


def away(link, node, seconds):
    """The node was last heard of so long ago."""
    with link.session() as session:
        this = Node.node_id == uint64_to_int64(node)
        until = date.now().timestamp() - seconds
        session.execute(update(Node).where(this).values(online_until=until))


def info(link, node):
    (found,) = link.get_node_info(node_ids=[node])
    return found


def test_flower_is_the_one_that_this_was_written_against():
    """A changed function is found at start, by name."""
    check(fleet.KNOWN, "Flower")
    changed = {**fleet.KNOWN, SqlLinkState.store_message_res: "0" * 16}
    with pytest.raises(OurMistake, match="store_message_res"):
        check(changed, "Flower")


def test_nobody_answers_for_a_node_that_is_away(link, run, node, asked):
    """Ten minutes later its own answer is taken; Flower would have answered after one."""
    assert [one.metadata.message_id for one in link.get_message_ins(node, 1)] == [asked.id]
    away(link, node, 600.0)
    assert link.get_message_res({asked.id}, run) == []
    reply = Upload(link, message(run, node, 1, reply_to=asked.id))
    reply.push(reply.begin())
    (found,) = link.get_message_res({asked.id}, run)
    assert found.metadata.message_id == reply.id


def test_a_node_that_was_taken_off_the_roster_is_gone(link, run, node, asked):
    link.delete_node("", node)
    (found,) = link.get_message_res({asked.id}, run)
    assert found.error.code == ErrorCode.NODE_UNAVAILABLE


def test_an_upload_that_was_cut_keeps_what_came(link, run, node, asked, monkeypatch):
    """An hour later, asked for in vain meanwhile: only the rest is missing."""
    reply = Upload(link, message(run, node, 1, reply_to=asked.id))
    missing = reply.begin()
    half = missing[: len(missing) // 2]
    reply.push(half)
    later = date.now() + datetime.timedelta(hours=1)
    monkeypatch.setattr(sql_corestate, "now", lambda: later)
    assert link.get_object(run, missing[-1]) == b""
    assert set(reply.begin()) == set(missing) - set(half)


def test_a_message_that_did_not_arrive_whole_is_handed_out_again(link, run, node, asked):
    """Until the node has said that it has everything; then never."""
    for _ in range(3):
        assert [one.metadata.message_id for one in link.get_message_ins(node, 1)] == [asked.id]
    link.object_store.delete(asked.id)  # what the node's confirmation does
    assert link.get_message_ins(node, 1) == []


def test_a_message_that_is_answered_is_not_handed_out_again(link, run, node, asked):
    link.get_message_ins(node, 1)
    Upload(link, message(run, node, 1, reply_to=asked.id)).begin()
    assert link.get_message_ins(node, 1) == []


def test_another_nodes_messages_are_left_alone(link, run, node, asked):
    other = link.create_node("", "", b"another key", 30.0)
    link.get_message_ins(node, 1)
    assert link.get_message_ins(other, 1) == []


def test_a_reply_is_given_to_the_coordinator_when_it_is_whole(link, run, node, asked):
    """Flower gives it away with its first byte, and then refuses the rest of a cut upload."""
    reply = Upload(link, message(run, node, 1, reply_to=asked.id))
    *most, last = reply.begin()
    reply.push(most)
    assert link.get_message_res({asked.id}, run) == []
    assert reply.begin() == [last]
    assert link.get_message_res({asked.id}, run) == []
    reply.push([last])
    (found,) = link.get_message_res({asked.id}, run)
    assert found.metadata.message_id == reply.id


def test_an_upload_that_begins_while_replies_are_looked_for_is_not_given_away(
    link, run, node, asked, monkeypatch
):
    """Its beginning waits for the look to end."""
    reply = Upload(link, message(run, node, 1, reply_to=asked.id))
    missing = []
    begins = threading.Thread(target=lambda: missing.extend(reply.begin()))
    flowers = fleet._flower_replies

    def meanwhile(*words):
        begins.start()
        begins.join(1.0)  # for ever, but for this look
        return flowers(*words)

    monkeypatch.setattr(fleet, "_flower_replies", meanwhile)
    assert link.get_message_res({asked.id}, run) == []
    begins.join(30.0)
    assert missing
    assert set(reply.begin()) == set(missing)


def test_a_whole_reply_is_given_although_the_node_asked_once_more(link, run, node, asked):
    """Its last receipt was lost on the way: the node asks what is missing. Nothing is."""
    reply = Upload(link, message(run, node, 1, reply_to=asked.id))
    reply.push(reply.begin())
    assert reply.begin() == []
    assert len(link.get_message_res({asked.id}, run)) == 1
    link.delete_messages({asked.id})  # what the SuperLink does with what it has given away
    assert reply.begin() == []


def test_a_killed_node_may_connect_at_once(link, node):
    """Flower refuses it until 60 s after its last word."""
    before = info(link, node).last_activated_at
    assert link.activate_node(node, 30.0)
    assert info(link, node).status == NodeStatus.ONLINE
    assert info(link, node).last_activated_at > before


def test_a_line_that_comes_back_is_no_new_process(link, node):
    """The heartbeat after an outage leaves `last_activated_at` as it was."""
    before = info(link, node).last_activated_at
    away(link, node, 600.0)
    assert info(link, node).status == NodeStatus.OFFLINE
    assert link.acknowledge_node_heartbeat(node, 30.0)
    assert info(link, node).status == NodeStatus.ONLINE
    assert info(link, node).last_activated_at == before
    assert not link.acknowledge_node_heartbeat(12345, 30.0)
