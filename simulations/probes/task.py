"""A probe task: windows of recordings with truths, and what its makers share.

A unit (what is predicted) is one window, or a mean over the windows of a recording or a patient.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations, compress
from pathlib import Path

import numpy as np

from client.ingest import prepare_recording
from client.labels import as_number
from client.mapping import ChannelMapping
from client.records import ReadFault, Recording, read_folder
from shared_model import quality
from shared_model.errors import OurMistake
from shared_model.windows import Windows
from simulations.lots import lot_of, place_of
from simulations.site_mapping import mapping_of


@dataclass(frozen=True)
class People:
    """What is known of patients, by their index: sex "F", "M" or "", age in years or NaN, the place
    of the patient's folder among `folders`, and a lot in [0, 1) that follows from the patient's own
    name and nothing else: who is added or removed does not change the others'. copied: folder and
    lot of each other name under which a recording of the patient is there, too; None: of nobody.
    unheard: which of the labels sex and age each has in words that are not understood; (): none."""

    folders: tuple[str, ...]
    folder: np.ndarray = field(repr=False)
    sex: np.ndarray = field(repr=False)
    age: np.ndarray = field(repr=False)
    lot: np.ndarray = field(repr=False)
    copied: tuple[tuple[tuple[str, float], ...], ...] | None = field(default=None, repr=False)
    unheard: tuple[tuple[str, ...], ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class Task:
    """Windows with truths; a unit (what is predicted) is one window or a mean over several.

    signal: (window, 2, 1250); valid: (window, 2, 50); unit: (window,) index of the unit;
    truth, group, session: (unit,). people: what is known of the patients, by the index in group.
    classes: where the recordings say which there are; the truth is the place among them. unknown:
    how many patients' own words are not understood; "" if none. unreadable: files, by cause.
    """

    name: str
    kind: str
    sensors: tuple[str, ...]
    signal: np.ndarray = field(repr=False)
    valid: np.ndarray = field(repr=False)
    unit: np.ndarray = field(repr=False)
    truth: np.ndarray = field(repr=False)
    group: np.ndarray = field(repr=False)
    session: np.ndarray = field(repr=False)
    folds: int = 5
    pooling: str = "mean"
    note: str = ""
    people: People | None = None
    classes: tuple[str, ...] = ()
    unknown: str = ""
    unreadable: Mapping[str, int] = field(default_factory=dict)
    gated: bool = True
    """False where quality itself is the question, so that a missing sensor is part of it."""

    @property
    def patients(self) -> int:
        return int(self.group.max()) + 1

    def of_patients(self, kept: np.ndarray) -> Task | None:
        """The task with these patients alone (patient,), numbered anew; None if nothing is left."""
        return self.of_windows(kept[self.group][self.unit])

    def of_windows(self, windows: np.ndarray) -> Task | None:
        """The task with these windows alone (window,), units and patients of whom none is left out
        are numbered anew; None if nothing is left."""
        if not windows.any():
            return None
        units, kept = np.zeros(len(self.truth), dtype=bool), np.zeros(self.patients, dtype=bool)
        units[self.unit[windows]] = True  # (unit,)
        kept[self.group[units]] = True  # (patient,)
        people = self.people
        if people is not None:
            people = replace(
                people,
                folder=people.folder[kept],
                sex=people.sex[kept],
                age=people.age[kept],
                lot=people.lot[kept],
                copied=people.copied
                and tuple(one for one, stays in zip(people.copied, kept, strict=True) if stays),
                unheard=tuple(compress(people.unheard, kept)),
            )
        return replace(
            self,
            signal=self.signal[windows],
            valid=self.valid[windows],
            unit=(np.cumsum(units) - 1)[self.unit[windows]],
            truth=self.truth[units],
            group=(np.cumsum(kept) - 1)[self.group[units]],
            session=self.session[units],
            people=people,
        )

    def windows(self, sensors: str) -> tuple[np.ndarray, np.ndarray]:
        """Windows as an encoder sees them: a channel that is not used is absent."""
        if sensors == "both":
            return self.signal, self.valid
        hidden = {"ecg": 1, "ppg": 0}[sensors]
        signal, valid = self.signal.copy(), self.valid.copy()
        signal[:, hidden] = 0.0
        valid[:, hidden] = False
        return signal, valid

    def pool(self, features: np.ndarray) -> np.ndarray:
        """(window, feature) -> (unit, feature): mean over the unit's windows, NaN-aware;
        "mean+sd" appends the standard deviation."""
        known = np.isfinite(features)
        filled = np.where(known, features, 0.0)
        shape = (len(self.truth), features.shape[1])
        count, total, square = np.zeros(shape), np.zeros(shape), np.zeros(shape)
        np.add.at(count, self.unit, known)
        np.add.at(total, self.unit, filled)
        np.add.at(square, self.unit, filled**2)
        safe = np.maximum(count, 1)
        mean = np.where(count > 0, total / safe, np.nan)
        if self.pooling == "mean":
            return mean
        spread = np.sqrt(np.maximum(square / safe - (total / safe) ** 2, 0.0))
        return np.concatenate([mean, np.where(count > 0, spread, np.nan)], axis=1)


class Builder:
    """Collects windows, units and patients of one task. copies: those that are left out."""

    def __init__(self, copies: Copies | None = None) -> None:
        self.signal: list[np.ndarray] = []
        self.valid: list[np.ndarray] = []
        self.unit: list[int] = []
        self.truth: list[float] = []
        self.patient: list[str] = []
        self.session: list[int] = []
        self.known: dict[str, tuple[str, float, tuple[str, ...]]] = {}
        self.copies = Copies() if copies is None else copies

    def know(self, recording: Recording) -> None:
        """Note sex and age of a recording's patient; what comes first holds."""
        sex, age = sex_of(recording), number(recording, "age")
        lost = [
            name for name, known in (("sex", bool(sex)), ("age", not np.isnan(age))) if not known
        ]
        unheard = tuple(name for name in lost if word_of(recording, name))
        self.known.setdefault(recording.patient, (sex, age, unheard))

    def add(
        self, windows: Windows, chosen: np.ndarray, truth: float, recording: Recording, session: int
    ) -> None:
        """One unit made of the chosen windows."""
        self.know(recording)
        for i in chosen:
            self.signal.append(windows.signal[i])
            self.valid.append(windows.valid[i])
            self.unit.append(len(self.truth))
        self.truth.append(truth)
        self.patient.append(recording.patient)
        self.session.append(session)

    def task(
        self, name: str, kind: str, sensors: tuple[str, ...], **options: object
    ) -> Task | None:
        if not self.truth:
            return None
        persons, first = self.copies.persons(), self.copies.one_name(self.patient)
        names, group = np.unique([first[one] for one in self.patient], return_inverse=True)
        made = Task(
            name=name,
            kind=kind,
            sensors=sensors,
            signal=np.stack(self.signal).astype(np.float32),
            valid=np.stack(self.valid),
            unit=np.array(self.unit),
            truth=np.array(self.truth, dtype=np.float64),
            group=group,
            session=np.array(self.session),
            people=self._people([str(name) for name in names], persons),
            unreadable=dict(self.copies.unreadable),
        )
        made = replace(made, **options)  # type: ignore[arg-type]
        said = (made.note, copies_words(self.copies.count))
        return replace(made, note="; ".join(one for one in said if one))

    def _people(self, names: list[str], persons: Mapping[str, frozenset[str]]) -> People:
        folders = sorted({name.rpartition("\n")[2] for name in names})
        known = [self.known.get(name, ("", float("nan"), ())) for name in names]
        return People(
            tuple(folders),
            np.array([folders.index(name.rpartition("\n")[2]) for name in names]),
            np.array([sex for sex, _, _ in known], dtype="<U1"),
            np.array([age for _, age, _ in known], dtype=np.float64),
            np.array([lot_of(*name.rsplit("\n", 1)) for name in names]),
            tuple(
                tuple(
                    folder_and_lot(one) for one in sorted(persons.get(name, frozenset()) - {name})
                )
                for name in names
            ),
            tuple(unheard for _, _, unheard in known),
        )


class Copies:
    """Recordings that were met before under another name, by the digest by which a node knows them
    (`client.ingest`): another file's, another patient's or another folder's, they are one. A
    recording that never changes (no electrode, no finger) joins nobody with another. unreadable:
    files that the same pass could not read, by cause.

    Args:
        within: only a patient's own copies count. For training with DP: who is there with another
            patient's recording must not lose it when that patient leaves.
    """

    def __init__(self, *, within: bool = False) -> None:
        self._within = within
        self._met: defaultdict[tuple[str, ...], set[str]] = defaultdict(set)
        self._copies: set[tuple[str, str]] = set()
        self.unreadable: Counter[str] = Counter()

    def holds(self, recording: Recording, place: str, part: str = "") -> bool:
        """Whether it is a copy; it is counted.

        Args:
            place: the recording's folder. part: what is compared of a recording that is read
                several times.
        """
        owner = f"{recording.patient}\n{place}"
        changes = any(_changes(channel.samples) for channel in recording.channels.values())
        owners = self._met[recording.digest, part, "" if changes and not self._within else owner]
        known = bool(owners)
        owners.add(owner)
        if known:
            self._copies.add((owner, recording.name))
        return known

    def persons(self) -> dict[str, frozenset[str]]:
        """Names, as `recordings` calls patients, that are one person's: of whom a recording is the
        same, directly or through others. Of each name all of them, itself too."""
        found: dict[str, frozenset[str]] = {}
        for owners in self._met.values():
            joined = owners.union(*(found.get(one, frozenset()) for one in owners))
            found |= dict.fromkeys(joined, frozenset(joined))
        return found

    def one_name(self, names: Iterable[str]) -> dict[str, str]:
        """Of each name the first of those here that are the same person's."""
        persons, here = self.persons(), set(names)
        return {name: min(persons.get(name, {name}) & here) for name in here}

    @property
    def count(self) -> int:
        """Recordings that are a copy."""
        return len(self._copies)


def folder_and_lot(name: str) -> tuple[str, float]:
    """Of a patient as `recordings` calls him."""
    patient, place = name.rsplit("\n", 1)
    return place, lot_of(patient, place)


def _changes(samples: np.ndarray) -> bool:
    known = samples[np.isfinite(samples)]
    return bool(len(known)) and bool((known != known[0]).any())


def copies_words(count: int) -> str:
    """How many recordings are left out because they are there already; "" if none."""
    what = "1 copy" if count == 1 else f"{count} copies"
    return f"left out: {what} of other recordings here, under another name" if count else ""


def recordings(
    folders: Sequence[Path], lead: str | None = None, copies: Copies | None = None
) -> Iterator[Recording]:
    """All that can be read, each once. A patient's name is told apart by the folder: two hospitals
    count their patients from 1 both.

    Args:
        copies: counts those that are left out, and what cannot be read; knows those of a pass
            before.

    Raises:
        OurMistake: two of the folders have one name.
    """
    copies = Copies() if copies is None else copies
    for place, folder in named(folders).items():
        for item in readable(folder, lead, copies):
            if not copies.holds(item, place, lead or ""):
                yield replace(item, patient=f"{item.patient}\n{place}")


def readable(folder: Path, lead: str | None, copies: Copies) -> Iterator[Recording]:
    """All that can be read of a folder, copies too, with the lead of this name if one is asked.

    Args:
        copies: counts what cannot be read. One without the lead that is asked is no such file.
    """
    for item in read(folder, lead):
        if not isinstance(item, ReadFault):
            yield item
        elif lead is None:
            copies.unreadable[item.cause] += 1


def read(folder: Path, lead: str | None = None) -> Iterator[Recording | ReadFault]:
    """As `readable`, and what cannot be read."""
    mapping = mapping_of(folder)
    if lead is not None:
        mapping = mapping.model_copy(update={"ecg": ChannelMapping(names=(lead,))})
    return read_folder(folder, mapping)


def named(folders: Sequence[Path]) -> dict[str, Path]:
    """Folders by what they are called.

    Raises:
        OurMistake: two have one name, are the same, or one lies in another: patients would be
            there twice.
    """
    whole = {folder: folder.resolve() for folder in folders}
    for first, second in combinations(folders, 2):
        inner, outer = sorted((whole[first], whole[second]), key=lambda one: -len(one.parts))
        if inner == outer or outer in inner.parents:
            raise OurMistake(
                f"{first} and {second} are the same folder, or one lies in the other.",
                do="Name each recording's folder once.",
            )
    found = {place_of(folder): folder for folder in folders}
    if len(found) < len(folders):
        raise OurMistake(
            "Two of the folders have one name, so that their patients cannot be told apart.",
            do="Rename one of them.",
        )
    return found


def windows_of(recording: Recording, *, gate: bool = True) -> Windows:
    """Its windows; without the gate, those that it refuses are there too."""
    prepared = prepare_recording(recording)
    if gate:
        return prepared.windows()
    absent = prepared.refusal == quality.ABSENT
    kept = np.where(absent, quality.ABSENT, quality.ACCEPTED).astype(np.uint8)
    return replace(prepared, refusal=kept).windows()


def usable(windows: Windows) -> np.ndarray:
    """Places of the windows of which anything is left."""
    return np.flatnonzero(windows.valid.any(axis=(1, 2)))


def word_of(recording: Recording, label: str) -> str:
    """A label as a word, blanks at its ends removed; "" if there is none. The column's name may be
    written in capitals."""
    for name in (label, *recording.labels):
        if name.casefold() == label and name in recording.labels:
            return " ".join(str(recording.labels[name]).split())
    return ""


def number(recording: Recording, label: str) -> float:
    """A label as a number; NaN if it is none."""
    return as_number(word_of(recording, label))


def sex_of(recording: Recording) -> str:
    """ "F", "M" or "" (not known)."""
    word = word_of(recording, "sex").upper()
    return {"F": "F", "FEMALE": "F", "M": "M", "MALE": "M"}.get(word, "")
