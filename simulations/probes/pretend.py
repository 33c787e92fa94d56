"""Probe tasks on pretend patients: for who has no recordings, and to choose without looking at any.

One window a patient, both sensors recorded; the truths are the simulator's own. Each task is asked
of both sensors and of each alone.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from client.fingerprints import SENSORS, having
from shared_model.errors import OurMistake
from simulations.fresh_patients import CLASSES, FOLDS, NUMBERS, draw
from simulations.probes.task import Task


def pretend_tasks(patients: int, seed: int, only: Iterable[str] | None = None) -> list[Task]:
    """Tasks on so many pretend patients of devices of their own; those of whom the gate left
    nothing of one sensor are left out. Equal arguments, equal bytes.

    Raises:
        OurMistake: no such task.
    """
    known = (*CLASSES, *NUMBERS)
    wanted = list(dict.fromkeys(known if only is None else only))
    for name in wanted:
        if name not in known:
            raise OurMistake(
                f"There is no task {name!r} on pretend patients.",
                do=f"There are: {', '.join(known)}.",
            )
    fresh = draw(patients, seed)
    signals: dict[bytes, tuple[np.ndarray, np.ndarray]] = {}
    paired = having(fresh.valid, "both")
    tasks = []
    for name in wanted:
        kept = np.flatnonzero(paired & np.isfinite(fresh.truths[name]))
        index = np.arange(len(kept))
        key = kept.tobytes()
        if key not in signals:
            signals[key] = fresh.signal[kept], fresh.valid[kept]
        signal, valid = signals[key]  # the same arrays for the same patients: encoded once
        made = Task(
            name=name,
            kind=fresh.kinds[name],
            sensors=SENSORS,
            signal=signal,
            valid=valid,
            unit=index,
            truth=fresh.truths[name][kept],
            group=index,
            session=np.zeros(len(kept), dtype=np.int64),
            folds=FOLDS,
        )
        tasks.append(made)
    return tasks
