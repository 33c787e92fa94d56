"""How often the SuperNode asks the coordinator; the clock and the sleep are the test's own."""

from __future__ import annotations

import inspect
import re

import pytest
from flwr.supernode import start_client_internal

from client.supernode import WAIT_S, Pace


class Clock:
    """Sleeping moves it on."""

    def __init__(self):
        self.now = 100.0
        self.slept = []

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def clock():
    return Clock()


def test_the_loop_of_flowers_supernode_uses_nothing_of_time_but_sleep():
    """`Pace` stands for the whole module there; another use would break the node."""
    assert start_client_internal.time.__name__ == "time"
    assert set(re.findall(r"\btime\.(\w+)", inspect.getsource(start_client_internal))) == {"sleep"}


def test_a_node_asks_soon_after_an_answer_and_ever_more_rarely(clock):
    """A pause is a quarter of the time gone by, from 0.2 s to Flower's own 3 s."""
    pace = Pace(clock, clock.sleep)
    pace.sleep(0.5)  # an answer is awaited
    answered = clock.now
    clock.slept.clear()
    while clock.now < answered + 60.0:
        pace.sleep(3)
    assert clock.slept[0] == WAIT_S[0]
    assert clock.slept == sorted(clock.slept)
    assert clock.slept[-1] == WAIT_S[1]
    assert len(clock.slept) < 40


def test_a_message_makes_a_waiting_node_quick_again(clock):
    """The next trip is expected at once, however long the node had waited."""
    pace = Pace(clock, clock.sleep)
    clock.now += 3600.0
    pace.sleep(3)
    pace.sleep(0.5)
    pace.sleep(3)
    assert clock.slept == [WAIT_S[1], WAIT_S[0], WAIT_S[0]]
