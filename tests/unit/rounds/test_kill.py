"""Kill the coordinator at any write: its folder stays whole, the model is the very same."""

from __future__ import annotations

import pytest
from killer import MODES, Killed, Killer
from round_stand_ins import (
    RUN_KEY,
    Clock,
    FakeTransport,
    folder_at,
    handlers,
    key_of,
    roster,
    run_config,
    start_model,
    three_nodes,
)

import server.checkpoints
from server.coordinate import begin, run


def go(folder, transport, config):
    clock = Clock()
    if not folder.exists:
        begin(folder, config, roster(), RUN_KEY, start_model(), software="test")
    return run(transport, folder, RUN_KEY, clock=clock, wall_clock=clock, wait=clock.wait)


@pytest.mark.parametrize("mode", MODES)
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


def test_keys_of_the_stand_ins_are_all_different():
    assert len({key_of(name).private_bytes_raw() for name in ("alpha", "beta", "coordinator")}) == 3
