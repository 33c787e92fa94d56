"""The tasks of heads: which labelled recordings, which classes, and what one answer is about.

    chosen = TASKS["sex"]
    task = chosen.load("ppg", data)                 # folders by the names of the known collections
    task = chosen.load("ppg", data, sites=[...])    # or these folders, whatever their names

Windows, truths and patients are those of the probes (`simulations.probes.tasks`), so that a head
and a probe speak of the same thing; what a head asks in addition is made here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from client.fingerprints import SENSORS
from client.personal_rows import FEWEST_PATIENTS
from client.records import Recording
from shared_model.config import WINDOW_S
from shared_model.errors import DataFault, OurMistake
from shared_model.windows import Windows
from simulations.probes import tasks as probes
from simulations.probes import truths
from simulations.probes.task import Builder, Copies, Task, recordings, usable, windows_of

Kind = Literal["classes", "number", "identity"]
Item = Literal["window", "recording", "patient"]
Make = Callable[[str, list[Path], Builder], Task | None]

LABELS = "Labels, and the words of them that are understood: docs/probes.md."
FEWEST_OF_RHYTHM = 2
"""Patients with a rhythm, below which it is no class: no fold could be measured on it."""
RHYTHMS = {
    "N": "sinus or normal", "AFIB": "atrial fibrillation", "AFL": "atrial flutter",
    "P": "paced", "B": "bigeminy", "T": "trigeminy", "VT": "ventricular tachycardia",
    "SVTA": "supraventricular tachyarrhythmia", "IVR": "idioventricular", "PREX": "pre-excitation",
    "VFL": "ventricular flutter", "NOD": "nodal", "SBR": "sinus bradycardia",
    "BII": "second-degree block", "AB": "atrial bigeminy",
}  # fmt: skip
"""Rhythm codes of the PhysioBank annotations, in words."""


@dataclass(frozen=True)
class Source:
    """Recordings for one choice of sensors: folders by name, and what makes the task of them."""

    pattern: str
    make: Make
    item: Item


@dataclass(frozen=True)
class HeadTask:
    """A task. sources: by sensors, the usual choice first. classes: in the order of the truth's
    numbers; () where the annotations say which there are. unit: of a number. truth: what a
    recording's own labels say, where it is not annotated."""

    name: str
    kind: Kind
    about: str
    sources: dict[str, Source]
    classes: tuple[str, ...] = ()
    unit: str = ""
    gated: bool = True
    truth: Callable[[Recording], float] | None = None

    def sensors(self, asked: str | None) -> str:
        """The sensors to use.

        Raises:
            OurMistake: this task has no recordings for them.
        """
        chosen = asked or next(iter(self.sources))
        if chosen not in self.sources:
            raise OurMistake(
                f"Task {self.name} has no recordings for sensors {chosen!r}.",
                do=f"Choose among: {', '.join(self.sources)}.",
            )
        return chosen

    def load(
        self, sensors: str, data: Path, sites: Sequence[Path] = (), *, alone: bool = False
    ) -> Task:
        """Windows and truths.

        Args:
            data: the folder below which collections lie. sites: folders to take instead. alone:
                nobody's windows depend on who else is there; another's copy stays.

        Raises:
            DataFault: none of the folders is there, or none holds a label of this task.
            OurMistake: two of the folders have one name.
        """
        source = self.sources[sensors]
        folders = self.folders(sensors, data, sites)
        task = source.make(self.name, folders, Builder(Copies(within=alone))) if folders else None
        if task is None:
            looked = f"Looked for: {', '.join(str(f) for f in folders) or source.pattern}. {LABELS}"
            raise DataFault(
                f"There are no recordings with labels for task {self.name}, sensors {sensors}.",
                cause="absent",
                do=self.unknown(folders) + (self.advice(sensors, sites) or looked),
            )
        return task

    def folders(self, sensors: str, data: Path, sites: Sequence[Path] = ()) -> list[Path]:
        """The folders to read; none if there are none of the names looked for.

        Raises:
            DataFault: there is no such folder.
        """
        if sites:
            return _folders(sites)
        probes.require_data(data)
        return probes.folders_for(self.sources[sensors].pattern, data)

    def load_first(self, sites: Sequence[Path]) -> tuple[str, Task]:
        """Windows and truths, for the first of this task's sensors, the usual choice first, with
        which enough patients of these folders have a label; and which sensors these are.

        Raises:
            DataFault: there are none; says how many patients there are with which sensors.
            OurMistake: two of the folders have one name.
        """
        found = {}
        for sensors, patients, task in self._patients(sites):
            if task is not None and patients >= FEWEST_PATIENTS:
                return sensors, task
            found[sensors] = patients
        counts = ", ".join(f"{sensors} {patients}" for sensors, patients in found.items())
        needs = f"A head needs {FEWEST_PATIENTS} patients. {LABELS}"
        raise DataFault(
            f"Too few patients of these folders have a label for task {self.name} and a usable "
            f"window: {counts}.",
            cause="few",
            do=self.unknown(_folders(sites)) + needs,
        )

    def unknown(self, folders: Sequence[Path]) -> str:
        """How many patients' words are not understood, as a sentence; "" if none. It reads all."""
        if self.truth is None:
            return ""
        heard = truths.Heard(self.truth)
        for recording in recordings(folders):
            heard(recording)
        return sentence(heard.words)

    def advice(self, sensors: str, sites: Sequence[Path]) -> str:
        """With which other sensors these folders have enough patients; "" if with none."""
        if not sites or len(self.sources) == 1:
            return ""
        others = {
            one: patients
            for one, patients, _ in self._patients(sites)
            if one != sensors and patients >= FEWEST_PATIENTS
        }
        words = ", or ".join(f"--sensors {one} ({count} patients)" for one, count in others.items())
        return f"These folders have enough with: {words}." if words else ""

    def _patients(self, sites: Sequence[Path]) -> Iterator[tuple[str, int, Task | None]]:
        """By sensors: patients with a label and a window in which all of them are, and the task."""
        read: dict[Make, Task | None] = {}
        folders = _folders(sites)
        for sensors, source in self.sources.items():
            if source.make not in read:
                read[source.make] = source.make(self.name, folders, Builder())
            task = read[source.make]
            yield sensors, 0 if task is None else patients_with(task, sensors), task


def sentence(words: str) -> str:
    """With its full stop and a blank behind; "" stays so."""
    return f"{words[:1].upper()}{words[1:]}. " if words else ""


def _folders(sites: Sequence[Path]) -> list[Path]:
    for folder in sites:
        if not folder.is_dir():
            raise DataFault(f"{folder} is no folder.", cause="absent")
    return list(sites)


def patients_with(task: Task, sensors: str) -> int:
    """Patients of whom there is a window that has all of these sensors."""
    ecg, ppg = (task.valid[:, channel].any(axis=1) for channel in (0, 1))  # (window,)
    good = {"both": ecg & ppg, "ecg": ecg, "ppg": ppg}[sensors]
    return int(np.unique(task.group[task.unit[good]]).size)


def known(sensors: str) -> str:
    """Sensors that there are.

    Raises:
        OurMistake: these are none.
    """
    if sensors not in SENSORS:
        raise OurMistake(f"There are no sensors {sensors!r}.", do="Say both, ecg or ppg.")
    return sensors


def _of(name: str) -> Make:
    return probes.TASKS[name][1]


_years = probes.patient_label("mae", SENSORS, truths.age, spread=probes.AGE_SPREAD)
_sex = probes.patient_label("auroc", SENSORS, truths.is_male)


def _quality(name: str, folders: list[Path], build: Builder) -> Task | None:
    """One item a window of every lead, not gated; each has the experts' word on its recording."""
    heard = truths.Heard(truths.acceptable)
    for recording in probes.leads_of(folders, build.copies):
        truth = heard(recording)
        if not np.isfinite(truth):
            continue
        windows = windows_of(recording, gate=False)
        for i in usable(windows):
            build.add(windows, np.array([i]), truth, recording, 0)
    note = "not gated; leads I, II and V2"
    return build.task(name, "auroc", ("ecg",), note=note, unknown=heard.words)


def rhythm_at(rhythms: Sequence[tuple[float, str]], start_s: float) -> str:
    """The rhythm that holds throughout a window; "" if there are two, or none is known."""
    before = [kind for at, kind in rhythms if at <= start_s]
    inside = {kind for at, kind in rhythms if start_s < at < start_s + WINDOW_S}
    return before[-1] if before and inside <= {before[-1]} else ""


def _rhythm(name: str, folders: list[Path], build: Builder) -> Task | None:
    """Windows wholly in one annotated rhythm that at least two patients have."""
    found: list[tuple[Recording, Windows, int, str]] = []
    patients: dict[str, set[str]] = defaultdict(set)
    for recording, windows, _, chosen in probes.holter(folders, build.copies):
        said = probes.known_rhythms(recording)
        for i in chosen:
            kind = rhythm_at(said, float(windows.start_s[i]))
            if kind:
                patients[kind].add(recording.patient)
                found.append((recording, windows, int(i), kind))
    kept = sorted(kind for kind, who in patients.items() if len(who) >= FEWEST_OF_RHYTHM)
    if len(kept) < 2:
        return None
    for recording, windows, i, kind in found:
        if kind in kept:
            place = float(kept.index(kind))
            build.add(windows, np.array([i]), place, recording, 0)
    left_out = sorted(set(patients) - set(kept))
    names = ", ".join(RHYTHMS.get(kind, kind) for kind in left_out)
    return build.task(
        name,
        "classes",
        ("ecg",),
        classes=tuple(RHYTHMS.get(kind, kind) for kind in kept),
        note=f"left out, fewer than {FEWEST_OF_RHYTHM} patients: {names}" if names else "",
    )


_ICU, _CLINIC, _HOLTER = "icu_bidmc|icu_*", "clinic_ppg_bp|clinic_*", "holter_*"
_ECG = "identity_ecg_id|identity_* holter_*"
_YEARS = {
    sensors: Source(folder, _years, "patient")
    for sensors, folder in (("ppg", _CLINIC), ("ecg", _ECG), ("both", _ICU))
}
_SEXES = {
    sensors: Source(folder, _sex, "patient")
    for sensors, folder in (("ppg", _CLINIC), ("ecg", _ECG), ("both", _ICU))
}
_ALARMS = {
    sensors: Source("icu_alarms_*", _of("true ventricular tachycardia"), "window")
    for sensors in SENSORS
}
_RATES = {
    "ecg": Source(_HOLTER, _of("heart rate (ECG)"), "window"),
    "ppg": Source(_CLINIC, _of("heart rate (PPG)"), "patient"),
    "both": Source(_ICU, _of("heart rate (ICU)"), "recording"),
}

TASKS: dict[str, HeadTask] = {
    task.name: task
    for task in (
        HeadTask(
            "hypertension",
            "classes",
            "hypertension of stage 1 or 2, from a visit's recordings",
            {"ppg": Source(_CLINIC, _of("hypertension"), "patient")},
            ("below stage 1", "stage 1 or 2"),
            truth=truths.hypertension,
        ),
        HeadTask(
            "af",
            "classes",
            "atrial fibrillation throughout a window, or not at all",
            {"ecg": Source(_HOLTER, _of("atrial fibrillation"), "window")},
            ("no atrial fibrillation", "atrial fibrillation"),
        ),
        HeadTask(
            "rhythm",
            "classes",
            "the annotated rhythm of a window; classes that at least two patients have",
            {"ecg": Source(_HOLTER, _rhythm, "window")},
        ),
        HeadTask(
            "vt",
            "classes",
            "whether a ventricular-tachycardia alarm is true, from the 10 s before it",
            _ALARMS,
            ("false alarm", "true ventricular tachycardia"),
            truth=truths.true_alarm,
        ),
        HeadTask("age", "number", "age", _YEARS, unit="years", truth=truths.age),
        HeadTask(
            "sex",
            "classes",
            "sex as the record states it",
            _SEXES,
            ("female", "male"),
            truth=truths.is_male,
        ),
        HeadTask(
            "heart-rate", "number", "mean heart rate", _RATES, unit="bpm", truth=truths.heart_rate
        ),
        HeadTask(
            "quality",
            "classes",
            "experts' word on a recording, for each window of its leads; windows are not gated",
            {"ecg": Source("quality_*", _quality, "window")},
            ("not acceptable", "acceptable"),
            gated=False,
            truth=truths.acceptable,
        ),
        HeadTask(
            "identity",
            "identity",
            "whether two recordings are of one person; nothing is fitted but scale and threshold",
            {"ecg": Source("identity_*", _of("identity"), "recording")},
        ),
    )
}


def task_named(name: str) -> HeadTask:
    """The task.

    Raises:
        OurMistake: there is none of this name.
    """
    if name not in TASKS:
        raise OurMistake(f"There is no task {name!r}.", do=f"Choose among: {', '.join(TASKS)}.")
    return TASKS[name]
