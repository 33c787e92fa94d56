"""What left the building, as the node writes it down."""

from __future__ import annotations

import json
import stat
from multiprocessing import get_context

import pytest

from client.egress import ALLOWED, Mark
from client.home import NodeHome
from client.sent import SentLog, reasons
from shared_model import canonical


class Clock:
    now = 100.0

    def __call__(self):
        self.now += 1.0
        return self.now


def header(kind="train-reply", run="spring", number=3):
    return bytes(64) + canonical.encode({"kind": kind, "run": run, "round": number})


@pytest.fixture
def home(tmp_path):
    return NodeHome(tmp_path)


@pytest.fixture
def log(home):
    return SentLog(home, Clock())


def test_a_message_is_written_down_before_it_leaves_and_when_it_is_there(log):
    """Sizes, digests, times, and the marks that say why it may leave; never its body."""
    body = b"masked numbers" * 100
    log.handed_over("m1", header(), body)
    (waiting,) = log.entries()
    assert (waiting.outcome, waiting.delivered_s) == ("", None)
    log.delivered("m1", "delivered")
    (entry,) = log.entries()
    assert (entry.kind, entry.run, entry.round) == ("train-reply", "spring", 3)
    assert (entry.body_bytes, entry.body_digest) == (len(body), canonical.digest(body))
    assert entry.header_digest == canonical.digest(header())
    assert (entry.handed_over_s, entry.outcome, entry.delivered_s) == (101.0, "delivered", 102.0)
    assert set(entry.why) == {Mark.NOISED_AND_BOOKED.value, Mark.PUBLIC_BY_POLICY.value}
    assert b"masked" not in log.path.read_bytes()
    assert stat.S_IMODE(log.path.stat().st_mode) == 0o600


def test_the_newest_comes_first_and_no_more_than_asked_for(log):
    for number in range(5):
        log.handed_over(f"m{number}", header(number=number), b"")
        log.delivered(f"m{number}", "delivered")
    assert [entry.round for entry in log.entries(3)] == [4, 3, 2]
    assert all(entry.outcome == "delivered" for entry in log.entries())


def test_each_kind_that_may_leave_has_a_reason():
    for kind in ALLOWED:
        assert reasons(kind)
    assert reasons("something else") == ()


def test_a_word_in_place_of_an_answer_is_an_error_without_a_body(log):
    """ "internal" leaves as a word of Flower's; it is written down too."""
    log.handed_over("m1", b"", b"")
    log.handed_over("m2", b"not a header", b"")
    assert [entry.kind for entry in log.entries()] == ["error", "error"]


def test_old_files_are_put_aside_and_read_through(home):
    """Five of them at most."""
    log = SentLog(home, Clock(), size_bytes=1500)
    for number in range(40):
        log.handed_over(f"m{number}", header(number=number), b"")
        log.delivered(f"m{number}", "delivered")
    files = sorted(path.name for path in home.logs.glob("sent.log*"))
    assert files == [
        *("sent.log", "sent.log.1", "sent.log.2", "sent.log.3", "sent.log.4", "sent.log.5")
    ]
    assert all(path.stat().st_size <= 1500 for path in home.logs.glob("sent.log*"))
    rounds = [entry.round for entry in log.entries()]
    assert rounds[:6] == [39, 38, 37, 36, 35, 34]
    assert rounds == sorted(rounds, reverse=True)


def test_damaged_lines_are_left_out(log):
    log.handed_over("m1", header(), b"")
    with log.path.open("ab") as stream:
        stream.write(b'{"id": "m2", "handed_over_s": "soon"}\n\xff\xfe\n[1]\n{"id": 3}\n{"cut": ')
    assert [entry.id for entry in log.entries()] == ["m1"]


def test_an_absent_log_is_empty(log):
    assert log.entries() == []


def _write(root, name):
    log = SentLog(NodeHome(root), size_bytes=4000)
    for number in range(30):
        log.handed_over(f"{name}{number}", header(), b"x")
        log.delivered(f"{name}{number}", "delivered")


def test_two_processes_write_whole_lines(tmp_path):
    """The training process hands over, the SuperNode delivers."""
    context = get_context("spawn")
    workers = [context.Process(target=_write, args=(tmp_path, name)) for name in "ab"]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    for path in (tmp_path / "logs").glob("sent.log*"):
        for line in path.read_text().splitlines():
            json.loads(line)
