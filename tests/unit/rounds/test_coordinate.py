"""The loop over a transport in memory: rounds, faults, restarts."""

from __future__ import annotations

from round_stand_ins import (
    RUN_KEY,
    Clock,
    FakeTransport,
    folder_at,
    handlers,
    roster,
    run_config,
    start_model,
    three_nodes,
)

from server.coordinate import begin, run


def test_three_rounds_finish(tmp_path):
    """Three nodes, three rounds: every round is aggregated and the model changes."""
    clock = Clock()
    folder = folder_at(tmp_path)
    begin(folder, run_config(), roster(), RUN_KEY, start_model())
    transport = FakeTransport(handlers(three_nodes(tmp_path)))
    seen = []
    record = run(transport, folder, RUN_KEY, clock=clock, wait=clock.wait, on_progress=seen.append)
    for p in seen:
        print(p)
    assert record.state == "finished"
    assert record.completed == 3
