"""What the training process may take of this machine: cores, memory, and who ends first.

Set from outside by the supervisor, so that they hold before the first import and can be changed
while it runs. Nothing here is about privacy; limits of that are policy.toml.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import psutil

from client.settings import TrainingSettings

NICE = 10
OOM_SCORE = 800
"""The kernel ends what has the most first; 1000 is the most."""
GB = 1_000_000_000
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def cores_of(allowed: set[int], wanted: int) -> set[int]:
    """The last `wanted` of the allowed cores, for the first serve everybody; all if 0 or more."""
    return set(sorted(allowed)[-wanted:]) if 0 < wanted < len(allowed) else set(allowed)


def environment(training: TrainingSettings) -> Mapping[str, str]:
    """Thread counts of the numeric libraries; nothing if all cores may be used."""
    if training.cores == 0:
        return {}
    available = len(os.sched_getaffinity(0)) if sys.platform == "linux" else training.cores
    return dict.fromkeys(_THREADS, str(min(training.cores, available)))


def apply(pid: int, training: TrainingSettings) -> None:
    """Affinity, niceness and order of ending of every thread that the process has now.

    Threads that come later inherit them. A process that has just ended is left alone; so is
    everything on systems other than Linux.
    """
    if sys.platform != "linux":
        return
    cores = cores_of(os.sched_getaffinity(0), training.cores)
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/oom_score_adj").write_text(f"{OOM_SCORE}\n", encoding="ascii")
    for thread in _threads(pid):
        with contextlib.suppress(OSError):
            os.sched_setaffinity(thread, cores)
            if os.getpriority(os.PRIO_PROCESS, thread) < NICE:
                os.setpriority(os.PRIO_PROCESS, thread, NICE)


def resident_bytes(pid: int) -> int:
    """Memory that the process has in RAM; 0 if it is gone."""
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0


def too_much(taken_bytes: int, training: TrainingSettings) -> bool:
    """Whether this is beyond memory_gb."""
    return training.memory_gb > 0.0 and taken_bytes > training.memory_gb * GB


def _threads(pid: int) -> list[int]:
    try:
        return [int(name) for name in os.listdir(f"/proc/{pid}/task")]
    except OSError:
        return []
