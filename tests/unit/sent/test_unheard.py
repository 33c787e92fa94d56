"""What the node notes when it never heard again of a submission."""

from __future__ import annotations

import json

import pytest

from client import unheard
from client.home import NodeHome
from client.outbox import Outbox
from shared_model import canonical


def header(number, kind="train-reply"):
    return bytes(64) + canonical.encode({"kind": kind, "run": "spring", "round": number})


@pytest.fixture
def home(tmp_path):
    return NodeHome(tmp_path)


@pytest.fixture
def outbox(home):
    return Outbox(home.outbox)


def submit(outbox, number, sum_round=b"{}"):
    outbox.begin("spring", number, "digest", sum_round)
    outbox.prepare("spring", number, b"body")
    outbox.store("spring", number, header(number))


def lines(home):
    path = home.logs / "rounds.log"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_a_submission_that_came_to_nothing_is_noted_with_the_next(home, outbox):
    submit(outbox, 1)
    submit(outbox, 3)
    unheard.note(home, header(3))
    (line,) = lines(home)
    assert (line["run"], line["round"], line["outcome"]) == ("spring", 1, "void")


def test_a_round_that_the_node_was_asked_about_is_not_noted(home, outbox):
    submit(outbox, 1)
    outbox.keep_agreement("spring", 1, b"asked", b"agreed")
    submit(outbox, 2)
    unheard.note(home, header(2))
    assert lines(home) == []


@pytest.mark.parametrize("what", ["the first", "no masks", "another kind", "no message", "no run"])
def test_there_is_nothing_to_note(home, outbox, what):
    """The first round, rounds without a second trip, other messages, bare words."""
    if what != "the first":
        submit(outbox, 1, b"" if what == "no masks" else b"{}")
    said = {
        "another kind": header(2, "agreement"),
        "no message": b"",
        "no run": bytes(64) + canonical.encode({"kind": "train-reply", "round": 2}),
    }
    unheard.note(home, said.get(what, header(2)))
    assert lines(home) == []
