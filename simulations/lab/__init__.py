"""The lab as a Python library: a dozen names.

    from pathlib import Path
    from simulations import lab

    experiment = lab.Experiment.from_toml(Path("exp.toml"))
    lab.plan(experiment)                                # noise, bytes, hours; nothing is trained
    lab.federation(experiment, Path("patients"))        # whose patients they are
    result = lab.run(experiment, Path("out"))           # or lab.resume(experiment, Path("out"))
    result.rounds().to_pandas(); result.probes(); result.weights(); result.words
    lab.report(Path("out"))                             # plots and report.html again
    lab.check(Path("out"))                              # the plan against what came
    lab.sweep(Path("sweep.toml"), Path("swept"))

| name | what it is |
|---|---|
| `Experiment` | one experiment; `from_toml`, `from_dict`, `with_values`, `to_toml` |
| `run`, `resume` | carry it out, or go on after any interruption; give a `Result` |
| `Result`, `open_result` | what a run has left in its folder |
| `federation` | make or read the patients; gives `FederationData` |
| `FederationData` | windows and labels of all sites |
| `plan`, `check` | predict what a run costs; hold a prediction against a run |
| `sweep`, `frontier` | many experiments, one table; its points over epsilon, hospitals, patients |
| `report` | plots and page of a run |

Everything else below this package may change from one version to the next. What a call needs is
imported when it is called.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simulations.lab.experiment import Experiment

if TYPE_CHECKING:
    from simulations.lab.conduct import OnProgress
    from simulations.lab.data import FederationData
    from simulations.lab.frontiers import Frontier
    from simulations.lab.lab_report import Report
    from simulations.lab.plan_check import Checked
    from simulations.lab.planner import Plan
    from simulations.lab.result import Observer, Result
    from simulations.lab.space import Sweep
    from simulations.lab.sweeps import Swept

__all__ = [
    "Experiment",
    "FederationData",
    "Result",
    "check",
    "federation",
    "frontier",
    "open_result",
    "plan",
    "report",
    "resume",
    "run",
    "sweep",
]
_CLASSES = {
    "FederationData": "simulations.lab.data",
    "Result": "simulations.lab.result",
}


def __getattr__(name: str) -> Any:
    """Classes that are imported when they are asked for."""
    if name not in _CLASSES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_CLASSES[name]), name)


def run(
    experiment: Experiment,
    out: Path,
    *,
    cache: Path | None = None,
    observers: Sequence[Observer] = (),
    on_progress: OnProgress | None = None,
) -> Result:
    """Carry out an experiment in a new folder. Nothing is drawn or tracked: see `report`.

    Args:
        cache: folder of federations that several runs share; in `out` by default.
        observers: told of rounds and measurements while they come.

    Raises:
        Refused: `out` holds something already.
        OurMistake: the experiment cannot be run; nothing has been trained.
    """
    from simulations.lab import conduct

    return conduct.run(experiment, out, cache=cache, observers=observers, on_progress=on_progress)


def resume(
    experiment: Experiment,
    out: Path,
    *,
    cache: Path | None = None,
    observers: Sequence[Observer] = (),
    on_progress: OnProgress | None = None,
) -> Result:
    """Go on with what is in `out` after any interruption, to the same model; or begin it.

    Raises:
        Refused: `out` holds another experiment, or one of other code.
    """
    from simulations.lab import conduct

    return conduct.run(
        experiment, out, resume=True, cache=cache, observers=observers, on_progress=on_progress
    )


def open_result(out: Path) -> Result:
    """What a run has left in its folder, also an unfinished one.

    Raises:
        OurMistake: there is none.
    """
    from simulations.lab.result import Result

    return Result.open(out)


def federation(experiment: Experiment, folder: Path) -> FederationData:
    """The experiment's patients in this folder: what is there if it fits, else made anew.

    Raises:
        OurMistake: patients are too few for what is asked, or the disk is too small.
    """
    from simulations.lab import sources

    return sources.prepare(experiment, folder)


def plan(experiment: Experiment, *, timed: bool = False) -> Plan:
    """What a run of it costs, in hospitals: noise multiplier, noise-to-signal, bytes.

    Args:
        timed: also hours; trains for some seconds on this machine to know its speed.

    Raises:
        OurMistake: the patients of real folders are not known yet.
    """
    from simulations.lab import planner
    from simulations.lab.calibrate import speed_of

    if not timed:
        return planner.plan(experiment)
    training = experiment.algorithm.training(experiment.model.trainable)
    return planner.plan(experiment, speed=speed_of(experiment.model.preset, training))


def check(out: Path, *, timed: bool = False) -> list[Checked]:
    """The plan of a finished run against what the run says, in percent.

    Raises:
        OurMistake: no finished run.
    """
    from simulations.lab import plan_check

    return plan_check.check(out, timed=timed)


def sweep(asked: Path | Sweep, out: Path, *, workers: int = 0, resume: bool = False) -> Swept:
    """All combinations of a sweep's file; finished runs are kept.

    Args:
        workers: runs at the same time; 0: as many as there are cores.

    Raises:
        OurMistake: the file is wrong, or the folder is not new and `resume` is false.
    """
    from simulations.lab import sweeps

    return sweeps.sweep(asked, out, workers=workers, resume=resume)


def frontier(
    base: Experiment,
    out: Path,
    asked: Frontier | None = None,
    *,
    workers: int = 0,
    resume: bool = False,
) -> Swept:
    """Epsilon x hospitals x patients, each also without privacy; rows as of `sweep`.

    Raises:
        OurMistake: as `sweep`, or the base reads real folders.
    """
    from simulations.lab.frontiers import Frontier

    return sweep((asked or Frontier()).sweep(base), out, workers=workers, resume=resume)


def report(out: Path, *, umap: bool = False) -> Report:
    """Draw the plots of a run's folder and write its report.html.

    Raises:
        OurMistake: the folder holds no run.
    """
    from simulations.lab import lab_report

    return lab_report.write(out, umap=umap)
