"""What a killed node takes up again, what it does not, and how often."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
from node_stand_ins import SITES, Consortium, cheap_train

from client import steps
from client.outbox import MOST_TAKE_UPS, STEPS_KEPT, Outbox
from client.steps import StepState
from shared_model.errors import Refused
from shared_model.protocol import Refusal, TrainReply

ASKED = "ab" * 32


class Killed(BaseException):
    """Stands for kill -9."""


def dies_after(step):
    """A trainer that is killed when this step is kept."""

    def train(*given):
        *others, keeper = given

        class Dying:
            last = keeper.last

            def keep(self, state):
                keeper.keep(state)
                if state.step == step:
                    raise Killed

        return cheap_train(*others, Dying())

    return train


@pytest.fixture
def place(tmp_path):
    """A node that was killed after step 2 of 4."""
    consortium = Consortium.of(tmp_path, SITES)
    outbox = Outbox(tmp_path / "outbox", tmp_path / "outside")
    node = replace(consortium.nodes["alpha"], train=dies_after(2), outbox=outbox)
    consortium.nodes["alpha"] = node
    with pytest.raises(Killed):
        consortium.ask("alpha", *consortium.request())
    consortium.nodes["alpha"] = replace(node, train=cheap_train)
    return consortium


def folder(consortium, number=1):
    return consortium.nodes["alpha"].outbox.root / "spring" / f"{number:07d}"


def told(consortium, **changes):
    return consortium.told("alpha", *consortium.request(**changes))


def test_a_killed_node_goes_on_after_its_last_step(place):
    """And says so in its own log."""
    taken, log = [], []

    def train(*given):
        taken.append(given[-1].last.step)
        return cheap_train(*given)

    place.nodes["alpha"] = replace(place.nodes["alpha"], train=train, log=log.append)
    assert isinstance(told(place), TrainReply)
    assert taken == [2]
    assert [entry["times"] for entry in log if entry["outcome"] == "taken up"] == [1]


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "link", "other request"])
def test_a_state_that_cannot_be_used_is_no_new_beginning(place, damage):
    """Its steps are on the disk somewhere; others would be more than was booked."""
    path = folder(place) / "step"
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    elif damage == "cut":
        path.write_bytes(data[:-1])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "link":
        path.rename(path.with_name("elsewhere"))
        path.symlink_to("elsewhere")
    else:
        state = steps.from_bytes(bytes(data), request_of(place), 4)
        path.write_bytes(steps.to_bytes(state, ASKED))
    refusal = told(place)
    assert isinstance(refusal, Refusal)
    assert refusal.reason == "interrupted"
    assert place.nodes["alpha"].books.settled == {}


def request_of(consortium):
    return (folder(consortium) / "request").read_text()


def test_states_are_of_a_step_of_the_round_and_of_this_version():
    state = StepState(2, {"head": np.ones(2, np.float32)}, {"mean": np.ones(2)}, None)
    data = steps.to_bytes(state, ASKED)
    again = steps.from_bytes(data, ASKED, 2)
    assert (again.step, again.noise) == (2, None)
    assert np.array_equal(again.weights["head"], state.weights["head"])
    assert np.array_equal(again.moments["mean"], state.moments["mean"])
    for bad in (b"", b"short", data[:32], data + b"x"):
        with pytest.raises(Refused):
            steps.from_bytes(bad, ASKED, 2)
    for asked, count in ((ASKED, 1), ("cd" * 32, 2)):
        with pytest.raises(Refused):
            steps.from_bytes(data, asked, count)


def test_another_request_of_a_killed_round_is_refused(place):
    assert told(place, deadline_s=61.0).reason == "conflict"
    assert isinstance(told(place), TrainReply)


def test_a_killed_round_is_over_once_a_later_one_was_begun(place):
    """And its state of training is gone."""
    assert isinstance(told(place, round=2), TrainReply)
    assert (folder(place) / "step").read_bytes() == b""
    assert told(place).reason == "interrupted"


def test_a_round_is_taken_up_so_often_and_no_more(place):
    """Who can make the node die chooses samples by when it dies; not without end."""
    node = place.nodes["alpha"]
    dying = replace(node, train=dies_after(2))
    for _ in range(MOST_TAKE_UPS):
        place.nodes["alpha"] = replace(node, train=dying_at_once)
        with pytest.raises(Killed):
            told(place)
    place.nodes["alpha"] = dying
    assert told(place).reason == "interrupted"


def dying_at_once(*_):
    raise Killed


def test_training_that_failed_is_never_taken_up(place):
    """A fault that hangs on a patient would tell each time."""

    def fails(*_):
        raise MemoryError

    good = place.nodes["alpha"]
    place.nodes["alpha"] = replace(good, train=fails)
    assert told(place).reason == "internal"
    place.nodes["alpha"] = good
    assert told(place).reason == "interrupted"


def test_an_outbox_put_back_to_an_earlier_step_answers_nothing(place, tmp_path):
    """Two sequences of steps from one state would be more than was booked."""
    node = place.nodes["alpha"]
    shutil.copytree(node.outbox.root, tmp_path / "copy")
    place.nodes["alpha"] = replace(node, train=dies_after(3))
    with pytest.raises(Killed):
        told(place)
    shutil.rmtree(node.outbox.root)
    shutil.copytree(tmp_path / "copy", node.outbox.root)
    place.nodes["alpha"] = node
    assert told(place).reason == "epoch"


def test_an_answered_round_whose_body_is_gone_is_never_answered_anew(place, tmp_path):
    """Also where the count of writes was put back with it: the ledger knows the one body."""
    node = place.nodes["alpha"]
    shutil.copytree(node.outbox.root, tmp_path / "copy")
    shutil.copy(tmp_path / "outside", tmp_path / "outside-copy")
    assert isinstance(told(place), TrainReply)
    shutil.rmtree(node.outbox.root)
    shutil.copytree(tmp_path / "copy", node.outbox.root)
    shutil.copy(tmp_path / "outside-copy", tmp_path / "outside")
    place.nodes["alpha"] = replace(node, train=dying_at_once)  # no data is read
    assert told(place).reason == "ledger"


def test_a_booked_round_that_the_outbox_does_not_know_is_refused(place):
    """Its folder was removed: nothing is trained from the beginning."""
    shutil.rmtree(folder(place))
    place.nodes["alpha"] = replace(place.nodes["alpha"], train=dying_at_once)
    assert told(place).reason == "conflict"


def test_a_damaged_body_is_not_sealed_again(place, monkeypatch):
    """The round is over; a second body under the same masks is never made."""

    def killed(*_):
        raise Killed

    node = place.nodes["alpha"]
    with monkeypatch.context() as patch:
        patch.setattr(node.books.__class__, "settle", killed)
        with pytest.raises(Killed):
            told(place)
    body = folder(place) / "reply.body"
    body.write_bytes(body.read_bytes()[:-1])
    place.nodes["alpha"] = replace(node, train=dying_at_once)
    assert told(place).reason == "interrupted"


def test_states_are_private_files_and_few_are_kept(tmp_path):
    """Mode 0600; of runs that nobody goes on with the newest few."""
    outbox = Outbox(tmp_path)
    for number in range(STEPS_KEPT + 2):
        outbox.begin(f"run-{number}", 1, ASKED)
        outbox.keep_step(f"run-{number}", 1, b"state")
    outbox.begin("last", 1, ASKED)
    sizes = [path.stat().st_size for path in sorted(tmp_path.glob("*/*/step"))]
    assert sorted(sizes) == [0, 0] + [5] * STEPS_KEPT
    assert {path.stat().st_mode & 0o777 for path in tmp_path.glob("*/*/step")} == {0o600}


def test_torn_writes_are_removed_before_a_round_goes_on(place):
    """Two outcomes of one step do not lie on the disk."""
    torn = folder(place) / ".step.xyz.new"
    torn.write_bytes(b"half")
    place.nodes["alpha"] = replace(place.nodes["alpha"], train=dying_at_once)
    with pytest.raises(Killed):
        told(place)
    assert not torn.exists()


def test_a_booking_that_was_written_is_gone_on_with_though_the_ledger_said_no(tmp_path):
    """Its note could not be taken down (another process held the file): no replay, no alarm."""
    consortium = Consortium.of(tmp_path, SITES)
    node = consortium.nodes["alpha"]
    reserve, faults = node.books.reserve, [Refused("The ledger is held.", reason="ledger")]

    def held(*args, **options):
        found = reserve(*args, **options)
        if faults:
            raise faults.pop()
        return found

    node.books.reserve = held
    assert consortium.told("alpha", *consortium.request(), kind=Refusal).reason == "ledger"
    assert isinstance(told(consortium), TrainReply)
    assert node.books.incidents == []
