"""Delivery at the node: kept until it is there, in pieces that are not sent twice."""

from __future__ import annotations

import datetime
import random
from types import SimpleNamespace

import httpx
import pytest
from flwr.app import Metadata
from flwr.app.message import make_message
from flwr.common.constant import ErrorCode
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.inflatable.inflatable_utils import ObjectPullError, ObjectPushError
from flwr.supercore.object_store.in_memory_object_store import InMemoryObjectStore
from flwr.supercore.run import RunNotRunningException
from flwr.supernode import start_client_internal
from flwr.supernode.nodestate.in_memory_nodestate import InMemoryNodeState

from client import supernode
from client.app import pack, unpack
from client.sent import SentLog
from client.supernode import Pace, patient_invoker
from client.supernode_delivery import AGAIN_S, Awaited, Delivery, Kept
from shared_model.errors import OurMistake
from shared_model.known_source import check, source_digest
from shared_model.pieces import LARGEST_BYTES, SMALLEST_BYTES, piece_bytes

BODY = random.Random(1).randbytes(524_288)


class Clock:
    def __init__(self):
        self.now = 1_000.0
        self.slept = []

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds


class Link:
    """A SuperLink that stores objects by their digest. faults: what the next calls raise."""

    def __init__(self):
        self.objects = {}
        self.pushed = []
        self.faults = []
        self.takes = True
        self.after_store = []

    def send(self, message, tree, seconds):
        self._fail()
        if not self.takes:
            return set(), ""
        return {one for one in ids(tree) if one not in self.objects}, "session"

    def push_object(self, run, session, identifier, content):
        self._fail()
        self.pushed.append(identifier)
        self.objects[identifier] = content
        if self.after_store:
            raise self.after_store.pop(0)

    def _fail(self):
        if self.faults:
            fault = self.faults.pop(0)
            if fault is not None:
                raise fault


class State:
    """What `Delivery` needs of Flower's node state and object store."""

    def __init__(self, message):
        self.messages = [message]
        self.objects = {
            key: value.deflate() for key, value in get_all_nested_objects(message).items()
        }
        self.tree = get_object_tree(message)
        self.deleted = []

    def get_messages_legacy(self, *, is_reply):
        return self.messages

    def get_message_processing_duration(self, *, message_id):
        return 1.0

    def delete_messages(self, *, message_ids):
        self.deleted += message_ids

    def get_object_tree(self, identifier):
        return self.tree

    def get(self, identifier):
        return self.objects[identifier]

    def delete(self, identifier):
        self.deleted.append(identifier)


def ids(tree):
    return {tree.object_id}.union(*(ids(child) for child in tree.children))


@pytest.fixture
def reply():
    made = make_message(
        Metadata(
            run_id=1,
            message_id="",
            src_node_id=2,
            dst_node_id=1,
            reply_to_message_id="asked",
            group_id="",
            created_at=1_000_000.0,
            ttl=3_600.0,
            message_type="train",
        ),
        pack(b"header", BODY),
    )
    made.metadata.__dict__["_message_id"] = made.object_id
    return made


@pytest.fixture
def clock(reply):
    made = Clock()
    made.now = reply.metadata.created_at
    return made


@pytest.fixture
def log(node_home):
    return SentLog(node_home)


@pytest.fixture
def node_home(tmp_path):
    from client.home import NodeHome

    return NodeHome(tmp_path)


@pytest.fixture
def deliver(reply, clock, log):
    """Hands the reply over and delivers it to this link; the outcome in the log."""

    def delivered(link):
        log.handed_over(reply.metadata.message_id, b"", b"")
        state = State(reply)
        Delivery(log, clock.sleep, clock).push(state, state, link.send, link.push_object)
        assert reply.metadata.message_id in state.deleted
        (entry,) = log.entries()
        return entry.outcome

    return delivered


def test_flower_is_the_one_that_this_was_written_against():
    """A changed function is found at start, by name."""
    check(supernode.KNOWN, "Flower")
    with pytest.raises(OurMistake, match=r"Flower is not one that fedprint knows: .*pull_objects"):
        check({**supernode.KNOWN, supernode.pull_objects: "0" * 16}, "Flower")
    assert source_digest(len) == ""


def test_another_flower_ends_the_process_with_words(monkeypatch):
    monkeypatch.setattr(supernode, "KNOWN", {supernode.pull_objects: "0" * 16})
    with pytest.raises(SystemExit, match="not one that fedprint knows"):
        supernode.serve([])


@pytest.mark.parametrize("size", [1, 1000, 346_352, 6_500_000, 39_000_000, 500_000_000])
def test_a_cut_costs_a_sixteenth_of_a_body_at_most(size):
    """Two pieces, unless the body is so small that they are of the smallest size."""
    piece = piece_bytes(size)
    assert SMALLEST_BYTES <= piece <= LARGEST_BYTES
    assert 2 * piece <= max(size / 15, 2 * SMALLEST_BYTES)


def test_a_body_in_pieces_is_the_same_body():
    """Also one whose pieces are alike."""
    for body in (BODY, bytes(300_000), b"x", b""):
        assert unpack(pack(b"header", body)) == (b"header", body)


def test_an_upload_that_is_cut_goes_on_with_what_is_missing(deliver, clock):
    """However often; no piece is stored twice, and "delivered" is said once all are there."""
    link = Link()
    cut = httpx.ConnectError("the line is down")
    link.faults = [None, None, None, None, cut, cut, None, None, None, cut]
    assert deliver(link) == "delivered"
    assert len(link.pushed) == len(set(link.pushed))
    assert set(link.pushed) == set(link.objects)
    assert len(link.objects) > 32
    assert clock.slept[0] == AGAIN_S[0]


def test_a_piece_whose_receipt_was_lost_is_not_taken_for_lost(deliver):
    """The SuperLink says that it wants no such piece: it is asked what it lacks."""
    link = Link()
    link.after_store = [ObjectPushError("x", 1, "session")]
    assert deliver(link) == "delivered"
    assert len(link.pushed) == len(set(link.pushed))


def test_what_the_superlink_does_not_take_is_not_called_delivered(deliver):
    """Flower says "Sent successfully" of it."""
    link = Link()
    link.takes = False
    assert deliver(link) == "not-taken"
    assert link.pushed == []


def test_what_it_stops_to_take_in_the_middle_is_not_called_delivered(deliver, reply):
    """Some pieces went, others never did."""
    link = Link()

    class Closing(Link):
        def push_object(self, *words):
            super().push_object(*words)
            self.takes = False
            raise httpx.ReadError("cut")

    link = Closing()
    assert deliver(link) == "not-taken"


def test_a_reply_is_tried_until_its_message_has_expired(deliver, clock, reply):
    """Not once, and not for ever: the pauses grow up to half a minute."""
    link = Link()
    link.faults = [httpx.ConnectError("down")] * 10_000
    assert deliver(link) == "expired"
    assert clock.now >= reply.metadata.created_at + reply.metadata.ttl
    assert clock.slept == sorted(clock.slept)
    assert clock.slept[-1] == AGAIN_S[1]


def test_a_run_that_is_over_ends_the_wait(deliver):
    """The next start of the coordinator asks again, and the outbox answers."""
    link = Link()
    link.faults = [httpx.ConnectError("down"), RunNotRunningException()]
    assert deliver(link) == "run-over"


@pytest.mark.parametrize(
    ("code", "outcome"), [(413, "not-taken"), (500, "delivered"), (503, "delivered")]
)
def test_an_answer_that_another_try_would_get_too_ends_the_wait(deliver, code, outcome):
    """Too large stays too large; a fault of the SuperLink may pass."""
    link = Link()
    response = httpx.Response(code, request=httpx.Request("POST", "https://example.org"))
    link.faults = [httpx.HTTPStatusError("no", request=response.request, response=response)]
    assert deliver(link) == outcome


def test_a_download_that_is_cut_keeps_what_came():
    """Each piece is asked for once more at most, those that came not at all."""
    asked, faults = [], [None, None, httpx.ReadError("cut"), None]

    def pull(identifier):
        asked.append(identifier)
        fault = faults.pop(0) if faults else None
        if fault is not None:
            raise fault
        return identifier.encode()

    clock = Clock()
    kept = Kept(clock.sleep)
    wanted = ["a", "b", "c", "d", "e", "a"]
    assert kept.pull(wanted, pull) == {key: key.encode() for key in "abcde"}
    assert len(asked) <= 7
    before = len(asked)
    assert set(kept.pull(["a", "b", "f"], pull)) == {"a", "b", "f"}
    assert asked[before:] == ["f"]


def test_a_message_that_is_gone_is_not_waited_for():
    def pull(identifier):
        raise ObjectPullError(identifier, "not found")

    with pytest.raises(ObjectPullError):
        Kept(Clock().sleep).pull(["a"], pull)


def test_pieces_of_earlier_messages_are_kept_up_to_a_limit():
    """The present message is never cut short by it."""
    kept = Kept(Clock().sleep, limit_bytes=10)
    assert len(kept.pull(list("abc"), lambda _: bytes(4))) == 3
    asked = []
    kept.pull(list("bc"), lambda one: asked.append(one) or bytes(4))
    assert asked == []  # the youngest two
    kept.pull(list("a"), lambda one: asked.append(one) or bytes(4))
    assert asked == ["a"]


@pytest.mark.parametrize(
    ("error", "ends"),
    [
        (httpx.ConnectError("[SSL: UNEXPECTED_EOF_WHILE_READING] EOF in TLS handshake"), False),
        (httpx.ProxyError("502 Bad Gateway"), False),
        (httpx.ReadTimeout("slow"), False),
        (httpx.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed"), True),
    ],
)
def test_a_handshake_that_was_cut_is_no_wrong_certificate(error, ends):
    """Flower gives up at both; a proxy that does not connect it does not even know."""
    invoker = patient_invoker()
    assert isinstance(error, invoker.recoverable_exceptions)
    assert invoker.should_giveup(error) == ends


def test_nothing_that_goes_wrong_in_asking_ends_the_node(clock):
    def flowers(**parts):
        raise httpx.DecodingError("nonsense")

    assert supernode._receive(flowers, clock.sleep, Awaited()) is None
    assert clock.slept


def test_a_reply_to_a_stopped_run_does_not_stand_for_the_one_that_is_waited_for(reply, clock, log):
    """Seen: each reply went out only after the next message had come, for ever after."""

    class TwoReplies(State):
        def get_messages_legacy(self, *, is_reply):
            return self.messages.pop(0) if self.messages else []

    asked = SimpleNamespace(
        metadata=SimpleNamespace(message_id="asked", created_at=clock.now, ttl=3_600.0)
    )
    stale = SimpleNamespace(
        metadata=SimpleNamespace(
            run_id=9, message_id="stale", reply_to_message_id="before", created_at=0.0, ttl=1e9
        )
    )
    link, state = Link(), TwoReplies(reply)
    state.messages = [[stale], [], [], [reply]]
    delivery = Delivery(log, clock.sleep, clock)

    def send(message, tree, worked_s):
        if message is stale:
            raise RunNotRunningException
        return link.send(message, tree, worked_s)

    supernode._receive(
        lambda receive: receive() and 1, clock.sleep, delivery.awaited, receive=lambda: (asked, 0)
    )
    delivery.push(state, state, send, link.push_object)
    assert set(link.pushed) == set(link.objects)
    assert state.messages == []
    assert len(clock.slept) == 2


def test_a_message_that_is_never_answered_is_not_waited_for_beyond_its_time(reply, clock, log):
    class Nothing(State):
        def get_messages_legacy(self, *, is_reply):
            return []

    delivery = Delivery(log, clock.sleep, clock)
    delivery.awaited.came(
        SimpleNamespace(metadata=SimpleNamespace(message_id="asked", created_at=clock.now, ttl=3.0))
    )
    delivery.push(Nothing(reply), None, None, None)
    assert sum(clock.slept) >= 3.0


def test_ours_stand_in_for_flowers_functions(log, monkeypatch):
    """The names that Flower's loop looks up."""
    for module in (start_client_internal, supernode.fleet_http_connection, supernode.http_retry):
        for name, value in list(vars(module).items()):
            monkeypatch.setitem(vars(module), name, value)
    pace = Pace()
    delivery, kept = Delivery(log, pace.sleep), Kept(pace.sleep)
    supernode.install(delivery, kept, pace)
    assert start_client_internal._push_messages == delivery.push
    assert vars(start_client_internal)["pull_objects"] == kept.pull
    names = start_client_internal.start_client_internal.__code__.co_names
    assert {"_push_messages", "_pull_and_store_message", "time"} <= set(names)


def test_what_came_of_messages_that_never_arrived_is_let_go():
    """A coordinator that cuts one message after the other fills no memory."""
    kept = Kept(Clock().sleep, limit_bytes=10)

    def pull(identifier):
        if identifier.startswith("gone"):
            raise ObjectPullError(identifier, "not found")
        return bytes(4)

    for number in range(20):
        assert len(kept.pull([f"{number}"], pull)) == 1
        with pytest.raises(ObjectPullError):
            kept.pull([f"{number}-{part}" for part in range(9)] + [f"gone-{number}"], pull)
        assert sum(map(len, kept._pieces.values())) <= 10


def test_a_message_that_is_larger_than_any_is_given_up():
    """Before all of it is in memory."""
    asked = []
    kept = Kept(Clock().sleep, limit_bytes=10, largest_bytes=40)
    with pytest.raises(ObjectPullError, match="larger than any"):
        kept.pull([str(n) for n in range(10_000)], lambda one: asked.append(one) or bytes(4))
    assert len(asked) < 1000
    assert kept.pull(["a"], lambda one: bytes(40)) == {"a": bytes(40)}


class Handing:
    """Flower's own node state, and a training process that hands a reply over piece by piece."""

    def __init__(self, reply):
        self.store = InMemoryObjectStore()
        self.state = InMemoryNodeState(self.store)
        about = reply.metadata
        asked = make_message(
            Metadata(
                run_id=about.run_id,
                message_id="asked",
                src_node_id=1,
                dst_node_id=2,
                reply_to_message_id="",
                group_id="",
                created_at=about.created_at,
                ttl=about.ttl,
                message_type="train",
            ),
            pack(b"question", b""),
        )
        self.state.store_message(asked)
        assert self.state.get_messages_legacy(is_reply=False)
        self.task = self.state.create_task("flwr-clientapp", about.run_id)
        assert self.state.claim_task(self.task)
        assert self.state.activate_task(self.task)
        self.pieces = {key: value.deflate() for key, value in get_all_nested_objects(reply).items()}
        self.session = self.state.start_session(about.run_id)
        _, self.missing = self.state.store_message_and_object_tree(
            reply, get_object_tree(reply), self.session
        )
        self.run = about.run_id

    def hand(self, count):
        """The next pieces; those that are left stay with the process."""
        for one in [self.missing.pop() for _ in range(min(count, len(self.missing)))]:
            assert self.state.store_object(self.run, self.session, one, self.pieces[one])

    def is_silent(self):
        """A minute without a sign of life has passed."""
        record = self.state.task_token_store[self.task]
        record.active_until = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=1)


def test_a_process_that_is_killed_while_it_hands_a_reply_over_ends_no_node(reply, clock, log):
    """Flower's loop waits for the rest for ever, and takes no other message: the coordinator hears
    that the process crashed, and asks again."""
    handing, link, waits = Handing(reply), Link(), []
    handing.hand(2)
    assert handing.missing

    def sleep(seconds):
        waits.append(seconds)
        if len(waits) == 5:
            handing.is_silent()
        assert len(waits) < 50, "it waits for ever"

    said = []

    def send(message, tree, worked_s):
        said.append(message)
        return link.send(message, tree, worked_s)

    delivery = Delivery(log, sleep, clock)
    delivery.awaited.identifier, delivery.awaited.until_s = "asked", clock() + 3_600.0
    log.handed_over(reply.metadata.message_id, b"", b"")
    delivery.push(handing.state, handing.store, send, link.push_object)
    (crashed,) = said
    assert crashed.error.code == ErrorCode.CLIENT_APP_CRASHED
    assert crashed.metadata.reply_to_message_id == "asked"
    assert [entry.outcome for entry in log.entries()] == ["lost"]
    assert not handing.state.msg_store


def test_a_process_that_is_slow_to_hand_a_reply_over_is_waited_for(reply, clock, log):
    """And a reply whose last piece comes with the end of its task is whole."""
    handing, link = Handing(reply), Link()
    log.handed_over(reply.metadata.message_id, b"", b"")

    def sleep(seconds):
        handing.hand(1)
        if not handing.missing:
            assert handing.state.finish_task(handing.task, "completed", "")

    delivery = Delivery(log, sleep, clock)
    delivery.awaited.identifier, delivery.awaited.until_s = "asked", clock() + 3_600.0
    delivery.push(handing.state, handing.store, link.send, link.push_object)
    assert set(link.objects) == set(handing.pieces)
    assert [entry.outcome for entry in log.entries()] == ["delivered"]
