"""Writes what the training does to state/progress.json, for people on this machine.

It is not called with anything of the data: run, round and number of steps are the plan's.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from client import state
from client.home import NodeHome

EVERY_S = 0.5


def step_writer(
    home: NodeHome,
    run: str,
    round: int,
    clock: Callable[[], float] = time.time,
) -> Callable[[int, int], None]:
    """An `on_step(step, steps)`; it writes at most every `EVERY_S`, and the first and last step.

    A display that cannot be written (a full disk) stops no training.
    """
    begun_s = clock()
    last_s = 0.0

    def on_step(step: int, steps: int) -> None:
        nonlocal last_s
        now_s = clock()
        if step not in (0, steps) and 0.0 <= now_s - last_s < EVERY_S:
            return
        last_s = now_s
        shown = state.Progress(
            run=run,
            round=round,
            stage="training",
            step=step,
            steps=steps,
            begun_s=begun_s,
            written_s=now_s,
        )
        try:
            state.write_progress(home, shown)
        except OSError:
            return

    return on_step
