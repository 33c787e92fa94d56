"""Fingerprints with truths: what a head is fitted and measured on.

data = load(task_named("sex"), "ppg", model, data_folder)      # real recordings
data.fingerprints, data.truth, data.patient, data.weight
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from client.personal import FEWEST_OF_A_CLASS
from client.personal_rows import FEWEST_PATIENTS
from shared_model.errors import DataFault, OurMistake
from simulations.heads import collections
from simulations.heads.missing import not_used
from simulations.heads.tasks import HeadTask, Item, Kind
from simulations.models import NamedModel
from simulations.probes.task import People

Floats = npt.NDArray[np.float64]
Places = npt.NDArray[np.int64]


@dataclass(frozen=True)
class HeadData:
    """Items with a fingerprint.

    fingerprints: float32 (item, 128). truth: (item,), class as a number, or the number. patient,
    session: (item,). people: by patient. windows: those that the fingerprints are of. left_out:
    items without a fingerprint of these sensors. known: those of the people's folders that are open
    collections. unknown: how many patients' own words are not understood; "" if none. mappings: a
    line for each folder that was read by a mapping of its own. truths: where a truth comes from, in
    words that count nobody. unreadable: files, by cause; of closed data for training with DP none
    is counted.
    """

    task: str
    kind: Kind
    classes: tuple[str, ...]
    unit: str
    item: Item
    sensors: str
    fingerprints: npt.NDArray[np.float32] = field(repr=False)
    truth: Floats = field(repr=False)
    patient: Places = field(repr=False)
    session: Places = field(repr=False)
    people: People = field(repr=False)
    windows: int
    left_out: int
    note: str = ""
    known: frozenset[str] = frozenset()
    unknown: str = ""
    mappings: tuple[str, ...] = ()
    truths: str = ""
    unreadable: Mapping[str, int] = field(default_factory=dict)

    @property
    def patients(self) -> int:
        """Patients with at least one item."""
        return int(np.unique(self.patient).size)

    @property
    def of_class(self) -> dict[str, int]:
        """Patients of each class; none for what has no classes."""
        return {
            name: int(np.unique(self.patient[self.truth == place]).size)
            for place, name in enumerate(self.classes)
        }

    @property
    def weight(self) -> Floats:
        """(item,): every patient weighs 1, shared out over the patient's items."""
        return np.asarray(1.0 / np.bincount(self.patient)[self.patient])

    def of(self, chosen: npt.NDArray[np.bool_]) -> HeadData:
        """The items of the patients that are chosen (patient,)."""
        kept = chosen[self.patient]
        return replace(
            self,
            fingerprints=self.fingerprints[kept],
            truth=self.truth[kept],
            patient=self.patient[kept],
            session=self.session[kept],
        )


def load(
    task: HeadTask,
    sensors: str | None,
    model: NamedModel,
    data: Path,
    *,
    sites: Sequence[Path] = (),
    fewest_of_class: int = FEWEST_OF_A_CLASS,
    alone: bool = False,
    closed: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> HeadData:
    """Read recordings, make fingerprints, pool them by item.

    Args:
        sensors: None: the first with which the folders in `sites` have enough labelled patients;
            the data's note says which. alone: see `HeadTask.load`; always for training with DP,
            with sensors that are named. closed: not everybody has the data; anything that cannot be
            read, or a folder without anybody, is refused.

    Raises:
        DataFault: no recording with labels, fewer patients than a personal head needs, or fewer
            than `fewest_of_class` of a class.
        OurMistake: sensors that the patients decide, for training with DP.
    """
    from simulations.heads.closed import read_once, refuse_absent
    from simulations.probes.rows import encoder
    from simulations.site_mapping import mapping_words, own_mappings

    persons = None
    if alone:
        if sensors is None:
            raise OurMistake(
                "For training with DP the sensors are named: what the folders' patients have must "
                "not choose them.",
                do="Name them: --sensors.",
            )
        say("reading recordings: faults, and who is there under two names")
        folders = task.folders(sensors, data, sites)
        persons = read_once(folders, closed=closed, leads=task.leads)
    say(f"reading recordings: {task.name}")
    taken = ""
    if sensors is None:
        sensors, found = task.load_first(sites)
        taken = f"sensors {sensors}: the first of this task's with enough patients in the folders"
        say(taken)
    else:
        found = task.load(sensors, data, sites, alone=alone)
    say(f"fingerprints of {len(found.signal)} windows")
    by_window = encoder(model.config, model.weights)(*found.windows(sensors))  # (window, 128)
    features = found.pool(by_window)
    good = np.isfinite(features).all(axis=1)
    if found.people is None:
        raise OurMistake(f"The makers of task {task.name} do not know whose windows they are.")
    folders = task.folders(sensors, data, sites)
    if closed:
        refuse_absent(folders, found.people)
    mapped = tuple(mapping_words(own_mappings(folders)))
    for line in mapped:
        say(line)
    source = task.sources_of(sites)[sensors]
    made = HeadData(
        task=task.name,
        kind=task.kind,
        classes=found.classes or task.classes,
        unit=task.unit,
        item=source.item,
        sensors=sensors,
        fingerprints=features[good].astype(np.float32),
        truth=found.truth[good],
        patient=found.group[good].astype(np.int64),
        session=found.session[good].astype(np.int64),
        people=found.people if persons is None else persons.of(found.people),
        windows=int(np.isfinite(by_window).all(axis=1).sum()),
        left_out=int((~good).sum()),
        note="; ".join(part for part in (taken, found.note) if part),
        known=collections.known_among(folders),
        unknown=found.unknown,
        mappings=mapped,
        truths=source.truth,
        unreadable={} if closed else found.unreadable,
    )
    if made.patients < FEWEST_PATIENTS:
        advice = task.advice(sensors, sites)
        if advice:
            raise DataFault(_few(made), cause="few", do=advice)
    return checked(made, fewest_of_class)


def checked(data: HeadData, fewest_of_class: int = FEWEST_OF_A_CLASS) -> HeadData:
    """Raises DataFault where nothing can be learnt; the rule is that of `fedprint-node
    personalise`."""
    if data.patients < FEWEST_PATIENTS:
        raise DataFault(
            _few(data),
            cause="few",
            do=f"{not_used(data.unknown, data.unreadable)}Add recordings, or choose other "
            "--sensors.",
        )
    few = {name: count for name, count in data.of_class.items() if count < fewest_of_class}
    if few:
        least = min(few.values())
        told = ", ".join(f"{name} {count}" for name, count in few.items())
        raise DataFault(
            f"A class has fewer patients with a fingerprint than the {fewest_of_class} that a head "
            f"needs: {told}.",
            cause="few",
            do=f"{not_used(data.unknown, data.unreadable)}Add patients of it."
            + (f" `head train --fewest-of-class {least}` takes as few." if least >= 2 else ""),
        )
    return data


def _few(data: HeadData) -> str:
    return (
        f"There are {data.patients} patients with understood labels and a fingerprint of sensors "
        f"{data.sensors}; a head needs {FEWEST_PATIENTS}."
    )
