"""Kill at any write: the folder stays consistent, the run ends with the very same model."""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import replace

import pytest
from round_stand_ins import (
    RUN_KEY,
    Clock,
    FakeTransport,
    folder_at,
    handlers,
    key_of,
    make_node,
    roster,
    run_config,
    start_model,
    three_nodes,
)

import client.outbox
import server.checkpoints
from client.round import answer
from server.coordinate import begin, run
from shared_model.files import write_atomic
from shared_model.protocol import Refusal, open_answer


class Killed(BaseException):
    """Stands for kill -9: nothing catches it."""


class Killer:
    """Lets `count` durable operations pass, then dies before, in the middle of, or after one."""

    def __init__(self, count, mode):
        self.left = count
        self.mode = mode
        self.fired = False

    def _strike(self):
        self.left -= 1
        if self.left >= 0 or self.fired:
            return False
        self.fired = True
        return True

    def write(self, path, data, *, mode=0o644):
        if not self._strike():
            write_atomic(path, data, mode=mode)
            return
        if self.mode == "torn":
            path.parent.mkdir(parents=True, exist_ok=True)
            (path.parent / f".{path.name}.xyz.new").write_bytes(data[: len(data) // 2])
        if self.mode == "after":
            write_atomic(path, data, mode=mode)
        raise Killed

    def rmtree(self, path, *args, **options):
        if not self._strike():
            real_rmtree(path, *args, **options)
            return
        if self.mode == "torn":
            for item in sorted(path.iterdir())[:2]:
                item.unlink()
        if self.mode == "after":
            real_rmtree(path, *args, **options)
        raise Killed


real_rmtree = shutil.rmtree


def go(folder, transport, config):
    clock = Clock()
    if not folder.exists:
        begin(folder, config, roster(), RUN_KEY, start_model(), software="test")
    return run(transport, folder, RUN_KEY, clock=clock, wall_clock=clock, wait=clock.wait)


@pytest.mark.parametrize("mode", ["before", "torn", "after"])
def test_a_coordinator_killed_at_any_write_continues_to_the_same_model(tmp_path, monkeypatch, mode):
    config = run_config(rounds=2)
    reference = folder_at(tmp_path / "reference")
    expected = go(reference, FakeTransport(handlers(three_nodes(tmp_path / "reference"))), config)
    survived = 0
    for count in range(200):
        root = tmp_path / f"{mode}{count}"
        folder = folder_at(root)
        nodes = three_nodes(root)
        killer = Killer(count, mode)
        with monkeypatch.context() as patch:
            patch.setattr(server.checkpoints, "write_atomic", killer.write)
            patch.setattr(server.checkpoints.shutil, "rmtree", killer.rmtree)
            try:
                record = go(folder, FakeTransport(handlers(nodes)), config)
            except Killed:
                survived += 1
                if folder.exists:
                    folder.weights(folder.record())
                record = None
        if record is None:
            record = go(folder, FakeTransport(handlers(nodes)), config)
        assert record.state == "finished"
        assert record.model_digest == expected.model_digest
        assert [item.outcome for item in record.rounds] == ["aggregated"] * 2
        for node in nodes.values():
            assert node.books.reserved == [("spring", 1), ("spring", 2)]
        assert folder.record() == record
        if not killer.fired:
            break
    assert survived > 20


@pytest.mark.parametrize("mode", ["before", "torn", "after"])
def test_a_node_killed_at_any_write_never_sends_two_updates_for_one_round(
    tmp_path, monkeypatch, mode
):
    requests = []

    def recording(header, body):
        requests.append((header, body))
        return answer(make_node("alpha", tmp_path / "first"), header, body)

    nodes = handlers(three_nodes(tmp_path / "others"))
    folder = folder_at(tmp_path)
    go(folder, FakeTransport({**nodes, "alpha": recording}), run_config(rounds=1))
    header, body = requests[0]
    outcomes = set()
    for count in range(10):
        root = tmp_path / f"{mode}{count}"
        node = make_node("alpha", root)
        killer = Killer(count, mode)
        left = []
        with monkeypatch.context() as patch:
            patch.setattr(client.outbox, "write_atomic", killer.write)
            with contextlib.suppress(Killed):
                left.append(answer(node, header, body))
        # another process, other noise: what it would compute now differs from what it did before
        after = replace(make_node("alpha", root), books=node.books, noise=other_noise)
        left += [answer(after, header, body), answer(after, header, body)]
        assert left[-1] == left[-2]
        final = open_answer(left[-1][0], roster()[0].key, site="alpha")
        outcomes.add("interrupted" if isinstance(final, Refusal) else "replied")
        if isinstance(final, Refusal):
            assert final.reason == "interrupted"
        replies = {item for item in left if item[1]}
        assert len(replies) <= 1
        assert len(node.books.reserved) == 1 or (not replies and not node.books.reserved)
        if replies:
            assert node.books.settled == {("spring", 1): final.update_digest}
        if not killer.fired:
            break
    assert outcomes == {"interrupted", "replied"}


def other_noise(request):
    from shared_model.noise import NonPrivateForTests

    return NonPrivateForTests(request.run, "alpha", request.round, 99)


def test_keys_of_the_stand_ins_are_all_different():
    assert len({key_of(name).private_bytes_raw() for name in ("alpha", "beta", "coordinator")}) == 3
