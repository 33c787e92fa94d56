"""Whether a file of weights lies in the folder of a run that has read patients who are measured.

    found = trained_here({"fed": Path("real1/model.safetensors")}, {"ward-7"}, seen=[])
    trained_words(found)      # "fed: trained on patients of these folders: ward-7; say ..."

A file that was copied out of its run's folder tells nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from shared_model.errors import OurMistake
from simulations.lots import shown
from simulations.probes.task import Task
from simulations.probes.unseen import Seen

_EXPERIMENT = "experiment.toml"
NOT_UNSEEN = "these figures are not of unseen patients"
"""For who cannot leave any of them out."""


def weights_files(model: str, rows: Iterable[str], called: str = "release") -> dict[str, Path]:
    """Files of weights among what is named: MODEL, and each --row NAME=FILE; by the row's name.

    Args:
        called: the row that MODEL is.
    """
    named = {name: Path(file) for name, _, file in (row.partition("=") for row in rows)}
    return {called: Path(model), **named} if model.endswith(".safetensors") else named


def folders_in(tasks: Iterable[Task]) -> frozenset[str]:
    """What the folders are called whose patients these tasks ask."""
    return frozenset(
        name for task in tasks if task.people is not None for name in task.people.folders
    )


def trained_here(
    files: Mapping[str, Path], folders: Collection[str], seen: Sequence[Seen]
) -> list[dict[str, Any]]:
    """Of each file the runs that made it (with those that they began with) and the measured folders
    that they have read, for JSON; folders is None where a run's experiment cannot be read.

    Args:
        folders: by name, those that are measured.
        seen: runs whose patients are left out.
    """
    found = []
    for name, file in files.items():
        for run, read in _runs_of(file):
            here = None if read is None else sorted(_left_in(read, folders, seen))
            if here != []:
                found.append({"model": name, "run": str(run), "folders": here})
    return found


def _runs_of(file: Path) -> Iterator[tuple[Path, Seen | None]]:
    """The run in whose folder the file lies, the one whose weights that run began with, and on;
    None for what a run has read where its experiment cannot be read."""
    from simulations.lab.result import Result

    met: set[Path] = set()
    while True:
        run = next((one for one in (file.parent, file.resolve().parent) if _is_run(one)), None)
        if run is None or run.resolve() in met:
            return
        met.add(run.resolve())
        try:
            read, weights = Seen.by(run), Result.open(run).experiment.model.weights
        except OurMistake:
            yield run, None
            return
        yield run, read
        if weights is None:
            return
        file = Path(weights)


def _is_run(folder: Path) -> bool:
    return (folder / _EXPERIMENT).is_file()


def _left_in(read: Seen, folders: Collection[str], seen: Sequence[Seen]) -> set[str]:
    """Folders of which a patient whom the run has read is still measured."""
    return {
        name
        for name in read.folders & set(folders)
        if not any(
            name in one.folders
            and one.lots.first <= read.lots.first
            and read.lots.end <= one.lots.end
            for one in seen
        )
    }


def trained_words(found: Iterable[Mapping[str, Any]], do: str = "") -> list[str]:
    """For tables and pages, of what `trained_here` gives.

    Args:
        do: what to say behind the folders; else that --unseen-by leaves these patients out.
    """
    lines = []
    for one in found:
        if one["folders"] is None:
            lines.append(
                f"{one['model']}: whom its run has read is not known: {_EXPERIMENT} of "
                f"{shown(one['run'])} cannot be read"
            )
            continue
        here = ", ".join(map(shown, one["folders"]))
        what = do or f"say --unseen-by {shown(one['run'])}"
        lines.append(f"{one['model']}: trained on patients of these folders: {here}; {what}")
    return lines
