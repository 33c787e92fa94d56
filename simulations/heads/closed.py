"""What a head's training with DP asks of folders whose patients not everybody has.

    refuse_guesses(folders)                  # before anything is read
    persons = read_once(folders, closed=True)
    hospitals = declared(hospitals, numbers, folders)

A guess, a faulty table and a count of patients are of all patients together: by each of them one
patient more would change what another brings, or what everybody sees, and no accountant counts it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from client.policy import rounded_patients
from client.records import MAPPING_FILE, ReadFault
from shared_model.accounting import default_delta
from shared_model.errors import DataFault, OurMistake
from simulations.heads.hospitals import FEWEST, STEPS, Hospital
from simulations.heads.train import plain_name
from simulations.lab.plots_style import counted
from simulations.lots import place_of
from simulations.probes.task import Copies, People, folder_and_lot, named, read
from simulations.site_mapping import own_mapping

LARGEST = 100_000_000
"""Patients that a hospital may declare, as a node's policy has it."""
FEWEST_DECLARED = math.ceil(FEWEST / STEPS)
LARGEST_DELTA = 1e-5
"""That may be asked on closed data: the largest that a node's policy has by itself."""
OF_ONE_CHANNEL = frozenset({"no-channel", "no-samples"})
"""Faults that are a recording's own: a sensor that was never there. Of a file of many recordings
they are not."""
Name = tuple[str, float]
"""A patient's folder and lot."""


def is_closed(mode: str, opened: str) -> bool:
    """Whether epsilon is promised of patients whom not everybody has.

    Args:
        opened: why everybody has the data, or that the patients are simulated; "" of others.
    """
    return mode != "none" and not opened


def refuse_guesses(folders: Sequence[Path]) -> None:
    """Raises OurMistake where a folder does not say itself how it is read. A guess looks at all
    rows and headers: a patient with a long cell would take a label from everybody."""
    guessed = [folder for folder in folders if own_mapping(folder) is None]
    if guessed:
        raise OurMistake(
            f"No {MAPPING_FILE} in: {', '.join(map(str, guessed))}. What is there would be read "
            "by a guess over all its rows, so that one patient more may change what all others "
            "bring; epsilon does not count that.",
            do=f"Write it: fedprint-node data mapping FOLDER -o FOLDER/{MAPPING_FILE} has the "
            "guess; look it through and mend it. Or say why everybody has these data: --open-data",
        )


@dataclass(frozen=True)
class Persons:
    """Who of several names is one person, by the recordings that names share."""

    _others: dict[Name, tuple[Name, ...]] = field(repr=False)

    def of(self, people: People) -> People:
        """The people, each with the other names under which a recording of him is there."""
        keys = zip((people.folders[place] for place in people.folder), people.lot, strict=True)
        found = tuple(self._others.get((folder, float(lot)), ()) for folder, lot in keys)
        return replace(people, copied=found)


def read_once(
    folders: Sequence[Path], *, closed: bool, leads: Sequence[str | None] = (None,)
) -> Persons:
    """Read all recordings for what is wrong with them, and for recordings that two names share.

    The second is for held-out figures alone: nothing that is trained may follow from it.

    Args:
        closed: faults are said, and nothing is trained on the rest; but for those of a channel
            that a recording does not have. leads: by which the task reads each recording.

    Raises:
        DataFault: something could not be read; says by which causes, and nobody's name.
    """
    copies, faulty = Copies(), Counter[tuple[str, str, str]]()
    for place, folder in named(folders).items():
        for lead in leads:
            met = Counter[tuple[str, str, str]]()
            for item in read(folder, lead):
                if not isinstance(item, ReadFault):
                    copies.holds(item, place, lead or "")
                elif _stops(item, lead):
                    met[place, item.file, item.cause] += 1
            faulty |= met  # of a file that several leads are asked of, once
    causes = Counter(cause for _, _, cause in faulty.elements())
    if closed and causes:
        told = ", ".join(f"{cause} {count}" for cause, count in sorted(causes.items()))
        raise DataFault(
            f"Not everything in these folders could be read: {told}. A fault may be of a table of "
            "recordings, which is many patients'; no head with DP is trained on the rest.",
            cause="bad-table" if "bad-table" in causes else next(iter(sorted(causes))),
            do=f"docs/data-formats.md has the causes; fedprint-node data add FOLDER --mapping "
            f"FOLDER/{MAPPING_FILE} lists the files. Mend them, or take them out of the folders.",
        )
    return Persons(
        {
            folder_and_lot(one): tuple(folder_and_lot(other) for other in sorted(same - {one}))
            for one, same in copies.persons().items()
        }
    )


def _stops(fault: ReadFault, lead: str | None) -> bool:
    """Whether nothing may be trained beside it. A lead that a file of many does not have is that
    file's form, and no patient's."""
    if fault.cause == "no-channel" and lead is not None:
        return False
    return fault.of_many or fault.cause not in OF_ONE_CHANNEL


def refuse_absent(folders: Sequence[Path], people: People) -> None:
    """Raises DataFault where nobody of a folder takes part: it would be no hospital, and which
    hospitals there are would follow from one patient."""
    for folder in folders:
        if place_of(folder) not in people.folders:
            raise DataFault(
                f"Hospital {plain_name(place_of(folder))} has no patient with a label.",
                cause="few",
                do="Name fewer hospitals.",
            )


def refuse_declared(numbers: Sequence[int], count: int, delta: float | None) -> None:
    """Before anything is read.

    Args:
        numbers: of patients, as each hospital declares them. count: hospitals. delta: that is
            asked; None: that of the largest hospital's policy.

    Raises:
        OurMistake: a number no hospital can declare, or not one for each hospital; a delta that
            promises nothing.
    """
    if delta is not None and delta > LARGEST_DELTA:
        raise OurMistake(
            f"Delta is at most {LARGEST_DELTA:g} on data that are not open: it is the chance with "
            "which epsilon promises nothing.",
            do="Say a smaller --delta, or none.",
        )
    if not numbers:
        raise OurMistake(
            "How many patients a hospital has is public, so nobody may count them: a head says it, "
            "and one patient more or less would be seen.",
            do="Say --declared N for each hospital, in the order of --sites, as in its policy. Or "
            "say why everybody has these data: --open-data",
        )
    if len(numbers) != count:
        raise OurMistake(
            f"There {'is' if count == 1 else 'are'} {counted(count, 'hospital')} and "
            f"{counted(len(numbers), 'declared number')}.",
            do="Say --declared once for each hospital, in the order of --sites; of patients dealt "
            "out by --hospitals N, N times.",
        )
    if min(numbers) < FEWEST_DECLARED or max(numbers) > LARGEST:
        raise OurMistake(
            f"A hospital declares {FEWEST_DECLARED} to {LARGEST} patients.",
            do="Correct --declared, or name fewer hospitals.",
        )
    for number in numbers:
        if rounded_patients(number) != number:
            raise OurMistake(
                f"{number} is no rounded number of patients, and the command line is public.",
                do=f"Say --declared {rounded_patients(number)}, as a node's set-up would round it.",
            )
    if delta is not None and delta * max(numbers) > 1.0:
        raise OurMistake(
            "Delta is above 1 / declared patients: that would promise nothing to the largest "
            "hospital's.",
            do=f"Say --delta {default_delta(max(numbers)):.3g}, or less.",
        )


def declared(
    hospitals: Sequence[Hospital], numbers: Sequence[int], folders: Sequence[Path]
) -> list[Hospital]:
    """Hospitals with the numbers that a person has declared.

    Args:
        numbers: that `refuse_declared` has looked at. folders: in the order of the numbers; of
            patients that were dealt out it is the hospitals'.
    """
    names = [one.name for one in hospitals]
    order = [place_of(folder) for folder in folders]
    order = order if set(order) == set(names) else names
    found = dict(zip(order, numbers, strict=True))
    return [replace(one, told=found[one.name]) for one in hospitals]
