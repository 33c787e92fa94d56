"""systemd's socket, limits of a process, places for messages, progress, what Flower's lines say."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from client import limits, state
from client.home import NodeHome
from client.notify import Notifier, message
from client.progress import step_writer
from client.pulls import Pulls, TooSlow
from client.settings import TrainingSettings


def wait_for(condition: Callable[[], object], deadline_s: float = 20.0) -> None:
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


# ---------------------------------------------------------------- systemd


def test_systemd_is_told_at_its_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(path)
        environment = {"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "7"}
        notifier = Notifier.taken_from(environment, pid=7)
        assert environment == {}  # no child speaks in our name
        assert notifier.watchdog_s == 30.0
        notifier.send(READY="1", STATUS="two\nlines")
        assert listener.recv(1000) == b"READY=1\nSTATUS=two lines"
    notifier.send(WATCHDOG="1")  # nobody listens any more


def test_nothing_is_sent_where_nobody_asked() -> None:
    assert Notifier.taken_from({}, 1) == Notifier()
    assert Notifier.taken_from({"NOTIFY_SOCKET": "example.org:80"}, 1) == Notifier()
    watched = {"NOTIFY_SOCKET": "@a", "WATCHDOG_USEC": "1", "WATCHDOG_PID": "2"}
    assert Notifier.taken_from(watched, 1).watchdog_s == 0.0
    Notifier().send(READY="1")


def test_a_status_cannot_add_a_field() -> None:
    assert message({"STATUS": "x\nMAINPID=1"}) == b"STATUS=x MAINPID=1"


# ---------------------------------------------------------------- limits


def test_the_last_cores_are_taken() -> None:
    assert limits.cores_of({0, 1, 2, 3}, 2) == {2, 3}
    assert limits.cores_of({0, 1}, 0) == {0, 1}
    assert limits.cores_of({0, 1}, 9) == {0, 1}


@pytest.mark.skipif(sys.platform != "linux", reason="affinity of another process is Linux's")
def test_a_process_and_its_later_threads_keep_to_their_core() -> None:
    code = (
        "import os, sys, threading; sys.stdin.readline(); out = []\n"
        "t = threading.Thread(target=lambda: out.append((sorted(os.sched_getaffinity(0)),"
        " os.nice(0)))); t.start(); t.join(); print(out)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        limits.apply(child.pid, TrainingSettings(cores=1))
        out, _ = child.communicate("go\n", timeout=60.0)
    core = max(os.sched_getaffinity(0))
    assert out.strip() == str([([core], max(limits.NICE, os.nice(0)))])


def test_threads_are_set_only_where_cores_are() -> None:
    assert limits.environment(TrainingSettings()) == {}
    assert limits.environment(TrainingSettings(cores=1))["OMP_NUM_THREADS"] == "1"


def test_memory_beyond_the_limit_is_too_much() -> None:
    limit = TrainingSettings(memory_gb=0.5)
    assert limits.too_much(500_000_001, limit)
    assert not limits.too_much(500_000_000, limit)
    assert not limits.too_much(10**15, TrainingSettings())
    assert limits.resident_bytes(os.getpid()) > 1_000_000
    limits.apply(2**22 + 1, limit)  # a process that is gone is left alone


# ---------------------------------------------------------------- messages


def found(content: bytes) -> SimpleNamespace:
    return SimpleNamespace(object_content=content)


def test_a_message_with_content_waits_for_a_place_and_an_empty_one_does_not() -> None:
    pulls = Pulls(places=1)
    came: list[str] = []

    def other() -> None:
        with pulls.message() as second:
            second.limited(lambda _: found(b""))("still empty")
            came.append("empty")
            second.limited(lambda _: found(b"x"))("content")
            came.append("content")

    with pulls.message() as first:
        first.limited(lambda _: found(b"x"))("content")
        thread = threading.Thread(target=other)
        thread.start()
        wait_for(lambda: pulls.somebody_waits)
        assert came == ["empty"]
    thread.join(20.0)
    assert came == ["empty", "content"]
    with pulls.message() as third:  # the place is free again
        third.limited(lambda _: found(b"x"))("content")


def test_a_message_that_stands_still_while_another_waits_is_given_up() -> None:
    """Left over from a stopped run: it may not hold the only place."""
    now = [0.0]
    pulls = Pulls(places=1, idle_s=3600.0, yield_s=30.0, clock=lambda: now[0])
    with pulls.message() as stale:
        stale.limited(lambda _: found(b"half"))("content")
        now[0] = 1000.0
        stale.limited(lambda _: found(b""))("not yet")  # nobody waits: a long outage is no fault
        fresh = pulls.message()

        def come() -> None:
            with fresh as one:
                one.limited(lambda _: found(b"x"))("content")

        thread = threading.Thread(target=come)
        thread.start()
        wait_for(lambda: pulls.somebody_waits)
        with pytest.raises(TooSlow):
            stale.limited(lambda _: found(b""))("not yet")
    thread.join(20.0)
    assert not thread.is_alive()


def test_a_message_that_never_begins_is_given_up_in_the_end() -> None:
    now = [0.0]
    pulls = Pulls(clock=lambda: now[0])
    with pulls.message() as one:
        pull = one.limited(lambda _: found(b""))
        pull("not yet")
        now[0] = 7200.0
        with pytest.raises(TooSlow):
            pull("not yet")


# ---------------------------------------------------------------- progress


def test_progress_is_written_at_most_twice_a_second_and_at_the_end(tmp_path: Path) -> None:
    home, now = NodeHome(tmp_path), [100.0]
    on_step = step_writer(home, "spring", 3, lambda: now[0])
    seen = []
    for step in range(11):
        now[0] = 100.0 + 0.1 * step
        on_step(step, 10)
        shown = state.progress(home)
        assert shown is not None
        seen.append(shown.step)
    assert seen == [0, 0, 0, 0, 0, 5, 5, 5, 5, 5, 10]
    assert (shown.run, shown.round, shown.stage, shown.begun_s) == ("spring", 3, "training", 100.0)


def test_a_display_that_cannot_be_written_stops_no_training(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("not a folder")
    step_writer(NodeHome(tmp_path), "spring", 1)(0, 2)
