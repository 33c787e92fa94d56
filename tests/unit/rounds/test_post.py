"""Letters on their way: sent, lost, sent again, given up, forgotten."""

from __future__ import annotations

import pytest
from round_stand_ins import Clock

from server.post import MAX_PUSHES, Letter, Pace, Post
from server.transport import Incoming


class Wire:
    """Takes letters and gives back what the test puts in `arrived`."""

    def __init__(self):
        self.there = {"alpha", "beta"}
        self.sent = []
        self.arrived = []

    def sites(self):
        return dict.fromkeys(self.there, 1)

    def push(self, messages):
        ids = []
        for message in messages:
            self.sent.append((message.site, message.header))
            ids.append(f"m{len(self.sent)}" if message.site in self.there else "")
        return ids

    def pull(self, ids):
        found = [item for item in self.arrived if item.id in ids]
        self.arrived = []
        return found


@pytest.fixture
def wire():
    return Wire()


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def post(wire, clock):
    return Post(wire, clock, gather_s=5.0)


def letter(site="alpha", trip="submit", number=1, attempt=0):
    return Letter(site, trip, number, b"request", b"", attempt)


def test_an_answer_comes_with_the_letter_that_it_answers(wire, post):
    """And ends the wait for it."""
    post.send([letter(), letter("beta")])
    assert post.awaits("submit", 1, "alpha")
    wire.arrived = [Incoming("m2", "beta", b"header", b"body")]
    (answer,) = post.collect()
    assert (answer.letter.site, answer.header, answer.body) == ("beta", b"header", b"body")
    assert not post.awaits("submit", 1, "beta")
    assert post.awaits("submit", 1, "alpha")


def test_a_letter_on_its_way_is_not_sent_twice(wire, post):
    """A second asking of the same thing changes nothing."""
    post.send([letter()])
    post.send([letter()])
    assert len(wire.sent) == 1
    post.send([letter(attempt=1)])
    assert len(wire.sent) == 2


def test_what_the_transport_loses_is_sent_again_and_given_up_in_the_end(wire, post):
    """The same bytes, at most MAX_PUSHES times."""
    post.send([letter()])
    for count in range(1, MAX_PUSHES):
        wire.arrived = [Incoming(f"m{count}", "alpha", error="crashed")]
        assert list(post.collect()) == []
        assert post.retry() == []
        assert len(wire.sent) == count + 1
    wire.arrived = [Incoming(f"m{MAX_PUSHES}", "alpha", error="crashed")]
    assert list(post.collect()) == []
    assert [item.site for item in post.retry()] == ["alpha"]
    assert not post.awaits("submit", 1, "alpha")
    assert set(wire.sent) == {("alpha", b"request")}


def test_a_site_that_is_away_is_waited_for_and_then_given_up(wire, post, clock):
    """As long as `gather_s`; if it comes in time it is asked."""
    wire.there = set()
    post.send([letter(), letter("beta")])
    clock.wait(4.0)
    wire.there = {"beta"}
    assert post.retry() == []
    clock.wait(1.0)
    assert [item.site for item in post.retry()] == ["alpha"]
    assert post.awaits("submit", 1, "beta")


def test_a_letter_that_is_forgotten_in_between_is_skipped(wire, post):
    """The first of two answers ends the round; the second is not looked at."""
    post.send([letter(), letter("beta"), letter("beta", "close", 7)])
    wire.arrived = [
        Incoming("m1", "alpha", b"first", b""),
        Incoming("m2", "beta", b"second", b""),
        Incoming("m3", "beta", b"third", b""),
    ]
    seen = []
    for answer in post.collect():
        seen.append(answer.header)
        post.forget(("submit",))
    assert seen == [b"first", b"third"]


def test_only_the_named_round_is_forgotten(wire, post):
    """Closings of other rounds go on."""
    post.send([letter(trip="close", number=1), letter(trip="close", number=2)])
    post.forget(("close",), 1)
    assert not post.awaits("close", 1, "alpha")
    assert post.awaits("close", 2, "alpha")


def test_an_answer_of_another_site_than_was_asked_is_not_taken(wire, post):
    """The transport's own confusion; the site that was asked may still answer."""
    post.send([letter()])
    wire.arrived = [Incoming("m1", "beta", b"header", b"")]
    assert list(post.collect()) == []
    assert post.awaits("submit", 1, "alpha")


def test_looks_follow_each_other_soon_after_an_answer_and_slower_later():
    """Up to poll_s, from a sixteenth of it."""
    waits = []
    pace = Pace(1.6, waits.append)
    for moved in (False, False, False, True, False, False, False, False, False, False):
        pace.after(moved)
    assert waits == pytest.approx([0.1, 0.2, 0.4, 0.1, 0.2, 0.4, 0.8, 1.6, 1.6])
