"""Logs on a disk that is full: torn lines swallow no other, and a log ends no delivery."""

from __future__ import annotations

import errno
import json
import os
from types import SimpleNamespace

import pytest
from flwr.app import Metadata
from flwr.app.message import make_message
from flwr.supercore.inflatable.inflatable_object import get_object_tree

from client import sent, supernode_delivery
from client.app import pack
from client.console_log import ConsoleLog
from client.home import NodeHome
from client.round_log import log_to
from client.sent import SentLog
from shared_model import canonical

HEADER = bytes(64) + canonical.encode({"kind": "train-reply", "run": "spring", "round": 3})


def full(*_: object, **__: object) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def home(tmp_path):
    return NodeHome(tmp_path)


def tear(path):
    """The disk took half of a line."""
    with path.open("ab") as stream:
        stream.write(b'{"id": "m1", "handed_ov')


def test_a_torn_line_does_not_swallow_the_next_message_that_left(home):
    """What left the building is in the log, also after the disk was full once."""
    log = SentLog(home)
    log.handed_over("m0", HEADER, b"")
    tear(log.path)
    log.handed_over("m2", HEADER, b"")
    assert [entry.id for entry in log.entries()] == ["m2", "m0"]


def test_a_torn_line_does_not_swallow_who_approved_what(home):
    log = ConsoleLog(home)
    log.write("s", "login")
    tear(home.logs / "console-audit.log")
    log.write("s", "approve run", "spring")
    assert [line["what"] for line in log.last()] == ["approve run", "login"]


def test_a_torn_line_does_not_swallow_an_alarm(home):
    write = log_to(home.logs / "rounds.log")
    write({"outcome": "replied"})
    tear(home.logs / "rounds.log")
    write({"alarm": "secure-sum"})
    last = (home.logs / "rounds.log").read_text().splitlines()[-1]
    assert json.loads(last)["alarm"] == "secure-sum"


def test_a_line_that_cannot_be_written_keeps_no_answer_back(home, monkeypatch, capsys):
    """The round is booked and answered; rounds.log says how, and counts for nothing."""
    write = log_to(home.logs / "rounds.log")
    monkeypatch.setattr(os, "open", full)
    write({"outcome": "replied"})
    assert "rounds.log could not be written" in capsys.readouterr().err


def test_nothing_leaves_that_is_not_in_the_log(home, monkeypatch):
    """sent.log is another matter: what it cannot take does not leave."""
    log = SentLog(home)
    monkeypatch.setattr(os, "open", full)
    with pytest.raises(OSError, match="No space"):
        log.handed_over("m1", HEADER, b"")


def test_a_reply_that_was_delivered_ends_no_supernode_because_the_disk_is_full(home, monkeypatch):
    """It has left; only the line that says since when is missing."""
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
        pack(b"header", b""),
    )
    made.metadata.__dict__["_message_id"] = made.object_id
    gone = []

    def delete(*, message_ids):
        gone.extend(message_ids)

    place = SimpleNamespace(
        get_messages_legacy=lambda is_reply: [made],
        delete_messages=delete,
        delete=gone.append,
        get_object_tree=lambda identifier: get_object_tree(made),
        get=lambda identifier: b"all of it",
    )
    monkeypatch.setattr(supernode_delivery.Delivery, "_deliver", lambda *_: "delivered")
    monkeypatch.setattr(sent.os, "open", full)
    supernode_delivery.Delivery(SentLog(home), lambda _: None).push(place, place, None, None)
    assert made.metadata.message_id in gone
