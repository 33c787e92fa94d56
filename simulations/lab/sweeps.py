"""A sweep: many runs of one experiment with some fields changed, over all cores, restartable.

    found = sweep(Path("sweep.toml"), Path("out"), workers=4)
    found.rows                                   # one a run, also in out/sweep.parquet and .csv

    OUT/sweep.toml         the file as it was given    OUT/sweep.json   its values, base included
    OUT/runs/NAME/run/     a run's folder (docs: `fedprint-lab run`), run.log, outcome.json
    OUT/federations/       patients, shared by the runs that have the same
    OUT/sweep.parquet, sweep.csv, result.json

A run has one process, one thread, one engine worker: cores go to runs, never to one run. The same
OUT again with `resume` keeps what is finished, goes on with what was begun, and tries again what
has failed. A run that fails is a row with its error and ends nothing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from shared_model import outputs
from shared_model.errors import OurMistake
from shared_model.files import write_atomic
from shared_model.locks import locked
from simulations.lab import sweep_table
from simulations.lab.space import Point, Sweep, points_of
from simulations.lab.sweep_run import CONDUCT, Outcome, Stopping, Task, carry_out
from simulations.lab.sweep_table import Row

EngineKind = Literal["pool", "ray-tune"]
OnRun = Callable[[int, int, str], None]
"""(runs done, runs in all, what has just become of which)."""


@dataclass(frozen=True)
class Swept:
    """A sweep that was carried out. rows: in the order of the runs' numbers."""

    folder: Path
    rows: tuple[Row, ...]
    varied: tuple[str, ...]

    @property
    def probes(self) -> tuple[str, ...]:
        """Columns of probes that have an interval."""
        names = sweep_table.columns_of(self.rows)
        return tuple(name for name in names if f"{name} low" in names)

    @property
    def failed(self) -> tuple[Row, ...]:
        """Runs that ended with an error."""
        return tuple(row for row in self.rows if row["state"] == "failed")

    @property
    def words(self) -> tuple[str, ...]:
        """What must be said beside the table."""
        said = [
            "Each run's epsilon is of that run alone. Who compares runs of one real federation and "
            "keeps the best has spent them all."
        ]
        if any(str(row["private"]).startswith("NO PRIVACY") for row in self.rows):
            said.insert(
                0,
                "NO PRIVACY in runs whose noise repeats or is off (column private): epsilon is "
                "what hospitals would have spent. No run of the lab has masks or a ledger.",
            )
        if self.failed:
            said.append(f"{len(self.failed)} runs failed; the same command with --resume tries.")
        return tuple(said)


def sweep(
    asked: Path | Sweep,
    out: Path,
    *,
    workers: int = 0,
    engine: EngineKind = "pool",
    resume: bool = False,
    on_run: OnRun = lambda done, total, what: None,
    conduct: str = CONDUCT,
) -> Swept:
    """Carry out all runs of a sweep.

    Args:
        asked: the sweep's file, or the sweep.
        out: a new folder; with `resume` an earlier one too.
        workers: runs at the same time; 0: as many as there are cores.
        conduct: what carries one run out (`sweep_run.CONDUCT`).

    Raises:
        OurMistake: the file is wrong; the folder is not new; or another sweep is at work in it.
        KeyboardInterrupt: what was begun can be resumed.
    """
    plan = asked if isinstance(asked, Sweep) else Sweep.from_toml(asked)
    points = points_of(plan)
    if out.exists() and any(out.iterdir()) and not resume:
        raise OurMistake(
            f"{out} is there already.", do="Give --resume to go on with it, or another folder."
        )
    if resume and out.exists() and not (out / "sweep.json").is_file() and any(out.iterdir()):
        raise OurMistake(f"{out} holds no sweep.", do="Give another folder.")
    out.mkdir(parents=True, exist_ok=True)
    with locked(out / "lock", OurMistake(f"Another sweep is at work in {out}.")):
        if isinstance(asked, Path):
            write_atomic(out / "sweep.toml", asked.read_bytes())
        content = json.dumps(plan.model_dump(mode="json"), indent=1)
        write_atomic(out / "sweep.json", content.encode())
        tasks = {point.key: _task(point, out, conduct) for point in points}
        _carry_out(points, tasks, workers or os.cpu_count() or 1, engine, on_run)
        return collect(plan, points, out)


def _task(point: Point, out: Path, conduct: str = CONDUCT) -> Task:
    alone = point.experiment.with_values({"engine.kind": "in-process", "engine.workers": 1})
    folder = (out / "runs" / point.name).absolute()
    return Task(point.name, alone.as_dict(), folder, (out / "federations").absolute(), conduct)


def _carry_out(
    points: Sequence[Point],
    tasks: dict[str, Task],
    workers: int,
    engine: EngineKind,
    on_run: OnRun,
) -> None:
    outcomes = {key: Outcome.read(task.outcome) for key, task in tasks.items()}
    finished = {key for key, one in outcomes.items() if one is not None and one.state == "finished"}
    waiting = [point for point in points if point.key not in finished]
    done = len(points) - len(waiting)
    on_run(done, len(points), f"{done} finished earlier" if done else "")
    if not waiting:
        return

    def told(point: Point, outcome: Outcome) -> None:
        nonlocal done
        done += 1
        problem = f": {outcome.error}" if outcome.error else ""
        on_run(done, len(points), f"{point.name} {outcome.state}{problem}")

    if engine == "ray-tune":
        from simulations.lab.tune_engine import over_tune

        by_key = {point.key: point for point in waiting}
        for key, outcome in over_tune([(p.key, tasks[p.key]) for p in waiting], workers):
            told(by_key[key], outcome)
        return
    with _pool(min(workers, len(waiting))) as (pool, stopping):
        begun: dict[Future[Outcome], Point] = {}
        left = iter(waiting)
        while True:
            for point in left:
                begun[pool.submit(carry_out, tasks[point.key], stopping)] = point
                if len(begun) >= workers:
                    break
            if not begun:
                return
            for future in wait(begun, return_when=FIRST_COMPLETED).done:
                told(begun.pop(future), future.result())


@contextmanager
def _pool(workers: int) -> Iterator[tuple[ThreadPoolExecutor, Stopping]]:
    """Threads that wait for runs; whatever ends the block ends the runs."""
    stopping = Stopping()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="sweep")
    try:
        yield pool, stopping
    except BaseException:
        stopping.now()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def again(out: Path) -> Swept:
    """The table of an earlier sweep, of what is there now; nothing is run.

    Raises:
        OurMistake: the folder holds no sweep.
    """
    return collect(*planned(out), out)


def planned(out: Path) -> tuple[Sweep, list[Point]]:
    """What an earlier sweep was told to run, finished or not, in its order.

    Raises:
        OurMistake: the folder holds no sweep.
    """
    try:
        content = json.loads((out / "sweep.json").read_bytes())
        given = {name: value for name, value in content.items() if value is not None}
    except (OSError, ValueError, AttributeError) as error:
        raise OurMistake(f"{out} holds no sweep.", do="Name a folder that -o named.") from error
    plan = Sweep.from_dict(given)
    return plan, points_of(plan)


def collect(plan: Sweep, points: Sequence[Point], out: Path) -> Swept:
    """Make the table of what is there, and write it."""
    rows = []
    for point in points:
        task = _task(point, out)
        outcome = Outcome.read(task.outcome)
        rows.append(sweep_table.row_of(point, outcome, task.run, plan.varied))
    found = Swept(out, tuple(rows), plan.varied)
    sweep_table.write(rows, out)
    content = {"runs": len(rows), "failed": len(found.failed), "words": found.words}
    write_atomic(out / "result.json", outputs.document(content, indent=1).encode())
    return found
