"""Letters on their way: sent, lost, sent again, given up, forgotten."""

from __future__ import annotations

import pytest
from round_stand_ins import Clock

from server.post import AGAIN_S, LATE_KEPT, MAX_FAILURES, MAX_PUSHES, Letter, Pace, Post
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


def lose(wire, post, count, error="unreachable"):
    """The transport says that the last push of the letter to alpha was lost."""
    wire.arrived = [Incoming(f"m{count}", "alpha", error=error)]
    assert list(post.collect()) == []


def test_a_letter_of_a_round_that_the_transport_loses_is_never_given_up(wire, post, clock):
    """The same bytes: at once as long as it was sent MAX_PUSHES times, then every AGAIN_S."""
    post.send([letter()])
    for count in range(1, MAX_PUSHES + 20):
        lose(wire, post, count)
        assert post.retry() == []
        if count >= MAX_PUSHES:
            assert len(wire.sent) == count
            clock.wait(AGAIN_S)
            assert post.retry() == []
        assert len(wire.sent) == count + 1
    assert post.awaits("submit", 1, "alpha")
    assert set(wire.sent) == {("alpha", b"request")}


def test_a_node_that_only_crashes_is_given_up_in_the_end(wire, post, clock):
    """It is there and answers, with no answer; the round need not wait for its deadline."""
    post.send([letter()])
    for count in range(1, MAX_FAILURES + 1):
        lose(wire, post, count, "crashed")
        given_up = post.retry()
        assert [item.site for item in given_up] == (["alpha"] if count == MAX_FAILURES else [])
        clock.wait(AGAIN_S)
        post.retry()
    assert len(wire.sent) == MAX_FAILURES
    assert not post.awaits("submit", 1, "alpha")


def test_a_letter_outside_a_round_is_given_up_after_three_losses(wire, post):
    """For a key nobody has paid; the site is asked again for the next epoch."""
    post.send([letter(trip="keying")])
    for count in range(1, MAX_PUSHES + 1):
        lose(wire, post, count)
        given_up = post.retry()
    assert [item.trip for item in given_up] == ["keying"]
    assert len(wire.sent) == MAX_PUSHES


def test_a_site_that_is_away_is_asked_when_it_comes_however_late(wire, post, clock):
    """Its round has a deadline of its own."""
    wire.there = set()
    post.send([letter(), letter("beta")])
    for _ in range(100):
        clock.wait(10.0)
        assert post.retry() == []
    wire.there = {"beta"}
    assert post.retry() == []
    assert post.awaits("submit", 1, "beta")
    assert wire.sent[-1] == ("beta", b"request")
    assert post.awaits("submit", 1, "alpha")


def test_for_a_key_a_site_that_is_away_is_waited_for_as_long_as_gather_s(wire, post, clock):
    """Whether its letter never left or is on its way."""
    wire.there = {"beta"}
    post.send([letter(trip="keying"), letter("beta", "keying")])
    assert post.retry() == []
    wire.there = set()
    clock.wait(4.0)
    assert post.retry() == []
    clock.wait(1.0)
    assert [item.site for item in post.retry()] == ["alpha"]
    clock.wait(4.0)
    assert [item.site for item in post.retry()] == ["beta"]
    assert not post.awaits("keying", 1, "beta")


def test_a_submission_that_nobody_waits_for_any_more_comes_as_late(wire, post):
    """Answers of the other trips, and words of the transport, are of no use then."""
    post.send([letter(), letter("beta", "agree")])
    post.forget(("submit", "agree"))
    assert not post.awaits("submit", 1, "alpha")
    wire.arrived = [Incoming("m1", "alpha", b"header", b"body"), Incoming("m2", "beta", b"h", b"")]
    (answer,) = post.collect()
    assert (answer.late, answer.letter.site, answer.header) == (True, "alpha", b"header")
    assert list(post.collect()) == []
    post.send([letter(number=2)])
    post.forget(("submit",))
    wire.arrived = [Incoming("m3", "alpha", error="crashed")]
    assert list(post.collect()) == []


def test_so_many_late_ones_are_looked_for_and_no_more(wire, post):
    for number in range(LATE_KEPT + 5):
        post.send([letter(number=number)])
        post.forget(("submit",))
    wire.arrived = [Incoming("m5", "alpha", b"old", b""), Incoming("m6", "alpha", b"kept", b"")]
    assert [answer.header for answer in post.collect()] == [b"kept"]


def test_a_letter_that_is_forgotten_in_between_is_skipped(wire, post):
    """The first of two answers ends the trip; the second is not looked at."""
    post.send([letter(trip="open"), letter("beta", "open"), letter("beta", "close", 7)])
    wire.arrived = [
        Incoming("m1", "alpha", b"first", b""),
        Incoming("m2", "beta", b"second", b""),
        Incoming("m3", "beta", b"third", b""),
    ]
    seen = []
    for answer in post.collect():
        seen.append(answer.header)
        post.forget(("open",))
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
