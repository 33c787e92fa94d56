"""Which run the service works on, and how a run that waits goes on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from server.checkpoints import RunFolder
from server.home import CoordinatorHome
from server.kept import Kept
from shared_model.errors import FedprintError, OurMistake, Refused
from shared_model.files import write_atomic
from shared_model.locks import is_locked


@dataclass(frozen=True)
class Work:
    """What there is to do. run: "" if nothing. damaged: runs that cannot be read, and why."""

    run: str
    damaged: tuple[tuple[str, str], ...] = ()


def next_work(home: CoordinatorHome, kept: Kept | None = None) -> Work:
    """The first unfinished run by name that does not wait for its operator; else a finished one
    that the operator wants to be asked about again.

    Args:
        kept: states of records that did not change since an earlier look.
    """
    again, damaged, known = "", [], kept or Kept()
    for path in sorted(home.runs.glob("*/run.json")):
        folder = RunFolder(path.parent)
        try:
            state = known.at(path, path, lambda: folder.own_record().state)  # noqa: B023
        except FedprintError as error:
            damaged.append((path.parent.name, error.message))
            continue
        if state == "running":
            return Work(path.parent.name, tuple(damaged))
        if state == "finished" and not again and _marker(folder).exists():
            again = path.parent.name
    return Work(again, tuple(damaged))


def asked_again(home: CoordinatorHome, run: str) -> None:
    """The hospitals were asked about the sums of a finished run."""
    _marker(RunFolder(home.run_folder(run))).unlink(missing_ok=True)


def resume(home: CoordinatorHome, run: str) -> str:
    """The operator has read why a run waits, and lets it go on; in words, what happens next.

    A paused run becomes one that runs: what only time or people can mend is tried again. Of a
    finished run whose sums are not all verified, the hospitals are asked again.

    Raises:
        OurMistake: no such run, or nothing waits in it.
        Refused: a coordinator works on it (reason "busy").
    """
    folder = RunFolder(home.run_folder(run))
    if not folder.exists:
        raise OurMistake(f"There is no run {run}.", do="See: fedprint-coordinator status")
    with folder.locked():
        record = folder.own_record()
        if record.state == "paused":
            last = record.rounds[-1].round if record.rounds else 0
            going = {"state": "running", "pause": "", "resumed_after": last}
            folder.save(record.model_copy(update=going))
            return f"Run {run} goes on after round {last}."
        if record.state == "running":
            raise OurMistake(f"Run {run} is not paused.", do="fedprint-coordinator serve runs it.")
        summed = [item.round for item in record.rounds if item.outcome == "aggregated"]
        if all(folder.closing(number).state == "verified" for number in summed):
            raise OurMistake(
                f"Run {run} is finished and all its sums are verified.",
                do=f"Next: fedprint-coordinator release {run}",
            )
        write_atomic(_marker(folder), b"", mode=0o600)
        return f"The hospitals are asked again about the sums of run {run}."


def is_served(home: CoordinatorHome) -> bool:
    """Whether the service runs in this home now."""
    return is_locked(home.service_lock)


def refuse_if_served(home: CoordinatorHome) -> None:
    """A run at a terminal, while the service is there: one of the two.

    Raises:
        Refused: the service runs in this home (reason "busy").
    """
    if is_served(home):
        raise Refused(
            f"fedprint-coordinator serve runs in {home.root} and takes up runs itself.",
            reason="busy",
            do="Begin a run for it: start --only-begin; let a paused one go on: resume RUN.",
        )


def _marker(folder: RunFolder) -> Path:
    return folder.path / "ask-again"
