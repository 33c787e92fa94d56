"""Real recordings as patients: read, windowed and gated by the very code that hospitals run."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from shared_model.canonical import digest_of
from shared_model.errors import DataFault, OurMistake
from simulations.lab.partition import site_name
from simulations.lab.patient_pool import Piece
from simulations.lots import Lots, lot_of, place_of

if TYPE_CHECKING:
    from simulations.probes.task import Copies

OnPatient = Callable[[str, bool], None]


class Pool(Protocol):
    """Where a folder's patients go: `simulations.lab.patient_pool.PatientPool`, or less."""

    def write(self, signal: npt.NDArray[Any], valid: npt.NDArray[np.bool_]) -> Piece:
        """Take windows whose patient is added later."""

    def add_pieces(
        self, pieces: tuple[Piece, ...], labels: dict[str, str | float], natural: str
    ) -> None:
        """Add one patient whose windows were written before, in this order."""


@dataclass
class Read:
    """What was met in a folder. Counts only: neither names of files nor patients."""

    recordings: int = 0
    patients: int = 0
    without_windows: int = 0
    """Patients of whose recordings the quality gate accepted nothing."""
    not_wanted: int = 0
    """Recordings of patients whose lot is not among those of the experiment."""
    faults: Counter[str] = field(default_factory=Counter)
    no_numbers: Counter[str] = field(default_factory=Counter)
    """Recordings of which a label that is a number everywhere is a word; it is left out."""
    mapped: bool = False
    """By the mapping that lies in the folder, and not by a guess."""

    @property
    def words(self) -> str:
        """For federation.json and tables."""
        said = [f"recordings {self.recordings}, patients {self.patients}"]
        if self.mapped:
            said.append("read by the folder's own mapping")
        if self.without_windows:
            said.append(f"of these without a usable window {self.without_windows}")
        if self.not_wanted:
            said.append(f"recordings of patients with another lot, left out {self.not_wanted}")
        if self.faults:
            causes = ", ".join(f"{cause} {count}" for cause, count in sorted(self.faults.items()))
            said.append(f"not readable {self.faults.total()} ({causes})")
        if self.no_numbers:
            names = ", ".join(f"{name} {count}" for name, count in sorted(self.no_numbers.items()))
            said.append(f"recordings with words in place of a number, left out of it: {names}")
        return "; ".join(said)


def site_names(folders: tuple[str, ...]) -> dict[str, Path]:
    """Name of each folder's site.

    Raises:
        OurMistake: a folder is not there, or two give the same name.
    """
    named: dict[str, Path] = {}
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise OurMistake(
                f"The folder of recordings {folder} is not there.",
                do="Correct federation.folders; paths are taken from the experiment's own folder.",
            )
        name = site_name(place_of(folder))
        if name in named:
            raise OurMistake(
                f"Two folders of recordings would both be the site {name!r}.",
                do="Rename one of them: a site is called as its folder.",
            )
        named[name] = folder
    return dict(sorted(named.items()))


def listing_digest(folders: tuple[str, ...]) -> str:
    """SHA-256 over names, sizes and times of change of all files: says whether to read again."""
    seen: list[list[Any]] = []
    for name, folder in site_names(folders).items():
        for path in sorted(one for one in folder.rglob("*") if one.is_file()):
            about = path.stat()
            seen.append([name, str(path.relative_to(folder)), about.st_size, about.st_mtime_ns])
    return digest_of(seen)


def count(folders: tuple[str, ...]) -> int:
    """Recordings in all folders by the look of the files, for progress bars."""
    from client.records import count_recordings

    return sum(count_recordings(folder) for folder in site_names(folders).values())


def read_into(
    pool: Pool,
    folder: Path,
    site: str,
    lots: Lots,
    on_recording: Callable[[], None],
    on_patient: OnPatient = lambda _name, _added: None,
    copies: Copies | None = None,
) -> Read:
    """Put a folder's patients of these lots into the pool, one recording in memory at a time.

    A patient's windows are the usable ones of all recordings, in the order in which they are read.
    A label is the mean over the patient's recordings if all values are numbers, else the most
    frequent; a word in place of an age, rate or pressure is left out and counted. Identifiers stay
    in this function, in `on_patient`, which is told whose lot is not wanted (False), and who is
    added to the pool next (True), and in `copies`, which meets every recording, of all lots, at
    this site: none is left out by it.
    """
    from client.ingest import prepare_recording
    from client.records import ReadFault, read_folder
    from simulations.site_mapping import mapping_of, own_mapping

    read, place = Read(mapped=own_mapping(folder) is not None), place_of(folder)
    pieces: dict[str, list[Piece]] = {}
    labels: dict[str, list[dict[str, str | float]]] = {}
    for item in read_folder(folder, mapping_of(folder)):
        on_recording()
        if isinstance(item, ReadFault):
            read.faults[item.cause] += 1
            continue
        if copies is not None:
            copies.holds(item, site)
        if not lots.hold(lot_of(item.patient, place)):
            read.not_wanted += 1
            on_patient(item.patient, False)
            continue
        try:
            windows = prepare_recording(item).windows()
        except DataFault as error:
            read.faults[error.cause] += 1
            continue
        read.recordings += 1
        labels.setdefault(item.patient, []).append(_understood(item.labels, read.no_numbers))
        usable = windows.select(windows.usable)
        of_patient = pieces.setdefault(item.patient, [])
        if len(usable):
            of_patient.append(pool.write(usable.signal, usable.valid))
    for patient, found in pieces.items():
        read.patients += 1
        if found:
            on_patient(patient, True)
            pool.add_pieces(tuple(found), _merged(labels[patient]), site)
        else:
            read.without_windows += 1
    return read


def _understood(
    labels: Mapping[str, str | float], no_numbers: Counter[str]
) -> dict[str, str | float]:
    """Labels without words where the probes read a number: one such cell ("ca. 80") would make
    classes of all."""
    from client.labels import as_number
    from simulations.probes.truths import NUMBERS

    found: dict[str, str | float] = {}
    for name, value in labels.items():
        if name.casefold() not in NUMBERS:
            found[name] = value
        elif math.isnan(known := as_number(str(value))):
            no_numbers[name.casefold()] += 1
        else:
            found[name] = known
    return found


def _merged(recordings: list[dict[str, str | float]]) -> dict[str, str | float]:
    """One value of each label."""
    merged: dict[str, str | float] = {}
    for name in sorted({name for labels in recordings for name in labels}):
        values = [labels[name] for labels in recordings if name in labels]
        numbers = [value for value in values if isinstance(value, float)]
        if len(numbers) == len(values):
            merged[name] = sum(numbers) / len(numbers)
        else:
            merged[name] = Counter(map(str, values)).most_common(1)[0][0]
    return merged
