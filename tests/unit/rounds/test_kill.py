"""Kill the coordinator at any write: its folder stays whole, the model is the very same."""

from __future__ import annotations

import pytest
from killer import MODES, Killed, Killer
from round_stand_ins import (
    RUN_KEY,
    Clock,
    FakeTransport,
    begun,
    folder_at,
    handlers,
    key_of,
    three_nodes,
)

import server.checkpoints
import server.epochs
import server.round_folder
from server.coordinate import run

ROUNDS = 2
STEP = {"before": 1, "torn": 2, "after": 3}
"""Every write is struck in one mode; in the others, every second or third."""


def go(root, transport, nodes):
    clock = Clock()
    folder = folder_at(root)
    if not folder.exists:
        begun(root, rounds=ROUNDS)
    return run(
        transport,
        folder,
        RUN_KEY,
        clock=clock,
        wall_clock=clock,
        wait=clock.wait,
        non_private_for_tests=True,
    )


@pytest.mark.parametrize("mode", MODES)
def test_a_coordinator_killed_at_any_write_continues_to_the_same_model(tmp_path, monkeypatch, mode):
    """In every trip, in the closing exchange and at every end: nothing is spent twice, every sum
    is verified in the end, and no submission of a round is lost."""
    nodes = three_nodes(tmp_path / "reference")
    expected = go(tmp_path / "reference", FakeTransport(handlers(nodes)), nodes)
    survived = 0
    for count in range(0, 400, STEP[mode]):
        root = tmp_path / f"{mode}{count}"
        folder = folder_at(root)
        nodes = three_nodes(root)
        killer = Killer(count, mode)
        with monkeypatch.context() as patch:
            for module in (server.checkpoints, server.round_folder, server.epochs):
                patch.setattr(module, "write_atomic", killer.write)
            patch.setattr(server.round_folder.shutil, "rmtree", killer.rmtree)
            try:
                record = go(root, FakeTransport(handlers(nodes)), nodes)
            except Killed:
                survived += 1
                if folder.exists:
                    folder.weights(folder.record())
                record = None
        if record is None:
            record = go(root, FakeTransport(handlers(nodes)), nodes)
        assert record.state == "finished"
        assert record.model_digest == expected.model_digest
        assert [item.outcome for item in record.rounds] == ["aggregated"] * ROUNDS
        for node in nodes.values():
            assert node.books.reserved == [("spring", 1), ("spring", 2)]
        for number in range(1, ROUNDS + 1):
            assert folder.closing(number).state == "verified"
            assert folder.round(number).submitted == ("alpha", "beta", "gamma")
        assert not list((folder.path / "open").iterdir())
        assert folder.record() == record
        if not killer.fired:
            break
    assert survived > 60 // STEP[mode]


def test_keys_of_the_stand_ins_are_all_different():
    """Else a signature test could pass by accident."""
    assert len({key_of(name).private_bytes_raw() for name in ("alpha", "beta", "coordinator")}) == 3
