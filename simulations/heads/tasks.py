"""The tasks of heads: which labelled recordings, which classes, and what one answer is about.

    chosen = TASKS["sex"]
    task = chosen.load("ppg", data)                 # folders by the names of the known collections
    task = chosen.load("ppg", data, sites=[...])    # or these folders, whatever their names

Windows, truths and patients are those of the probes (`simulations.probes.tasks`), so that a head
and a probe speak of the same thing; what a head asks in addition is made in `makers`. Of known
collections each task has its folders, and sensors that these have; of folders that are named it
takes what `probe --sites` takes of them (`simulations.probes.site_tasks`).

Which source a recording's truth is from follows from that recording, and which sensors are used
from the command: in `head federate` neither from what the patients of a folder have together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from client.fingerprints import SENSORS
from client.personal_rows import FEWEST_PATIENTS
from client.records import Recording
from shared_model.errors import DataFault, OurMistake
from simulations.heads import makers
from simulations.heads.missing import LABELS, missing, needs
from simulations.probes import tasks as probes
from simulations.probes import truths
from simulations.probes.task import Builder, Copies, Task
from simulations.probes.tasks import Make

Kind = Literal["classes", "number", "identity"]
Item = Literal["window", "recording", "patient"]


@dataclass(frozen=True)
class Source:
    """Recordings for one choice of sensors: folders by name ("" of those that are named), what
    makes the task of them, and the probes' questions of which a recording has to answer one. truth:
    in words, where a truth comes from; of sources alone, so that every head may say it."""

    pattern: str
    make: Make
    item: Item
    questions: tuple[str, ...] = ()
    truth: str = ""

    @property
    def needs(self) -> str:
        """What a recording must have, in words."""
        return needs(self.questions)


@dataclass(frozen=True)
class HeadTask:
    """A task. sources: by sensors, the usual choice first. classes: in the order of the truth's
    numbers; () where the annotations say which there are. unit: of a number. truth: what a
    recording's own labels say, where it is not annotated. own: sources of folders that are named,
    which take all that the probes take; {}: as those of the known collections. leads: by which a
    recording is read, one after the other (`probes.tasks.leads_of`)."""

    name: str
    kind: Kind
    about: str
    sources: dict[str, Source]
    classes: tuple[str, ...] = ()
    unit: str = ""
    gated: bool = True
    leads: tuple[str | None, ...] = (None,)
    truth: Callable[[Recording], float] | None = None
    own: dict[str, Source] = field(default_factory=dict)

    def sources_of(self, sites: Sequence[Path]) -> dict[str, Source]:
        """By sensors, the usual choice first: of the folders named, or of the known collections."""
        return (self.own or self.sources) if sites else self.sources

    def sensors(self, asked: str | None, sites: Sequence[Path] = ()) -> str:
        """The sensors to use. No recording is looked at.

        Raises:
            OurMistake: this task has no recordings for them.
        """
        sources = self.sources_of(sites)
        chosen = asked or next(iter(sources))
        if chosen not in sources:
            more = " Folders that are named with --sites may have them."
            raise OurMistake(
                f"Task {self.name} has no recordings for sensors {chosen!r}.",
                do=f"Choose among: {', '.join(sources)}."
                + (more if not sites and chosen in self.own else ""),
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
        source = self.sources_of(sites)[sensors]
        folders = self.folders(sensors, data, sites)
        task = source.make(self.name, folders, Builder(Copies(within=alone))) if folders else None
        if task is None:
            looked = f"Looked for: {', '.join(str(f) for f in folders) or source.pattern}. {LABELS}"
            raise DataFault(
                f"There are no recordings with understood labels for task {self.name}, sensors "
                f"{sensors}.",
                cause="absent",
                do=self.missing(folders, {sensors: source})
                + (self.advice(sensors, sites) or looked + self._more(sensors, sites)),
            )
        return task

    def _more(self, sensors: str, sites: Sequence[Path]) -> str:
        """What folders may have instead where they are named; "" if nothing else."""
        own = self.own.get(sensors)
        if sites or own is None or own.questions == self.sources[sensors].questions:
            return ""
        return f" Of folders named with --sites are taken: {own.needs}."

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
        raise DataFault(
            f"Too few patients of these folders have an understood label for task {self.name} and "
            f"a usable window: {counts}.",
            cause="few",
            do=f"{self.missing(_folders(sites), self.sources_of(sites))}A head needs "
            f"{FEWEST_PATIENTS} patients. {LABELS}",
        )

    def missing(self, folders: Sequence[Path], sources: dict[str, Source]) -> str:
        """What these folders lack for the sources, in sentences; "" of no folder. It reads all."""
        questions = dict.fromkeys(name for one in sources.values() for name in one.questions)
        return missing(folders, tuple(questions), self.truth) if folders else ""

    def advice(self, sensors: str, sites: Sequence[Path]) -> str:
        """With which other sensors these folders have enough patients; "" if with none."""
        if not sites or len(self.sources_of(sites)) == 1:
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
        for sensors, source in self.sources_of(sites).items():
            if source.make not in read:
                read[source.make] = source.make(self.name, folders, Builder())
            task = read[source.make]
            yield sensors, 0 if task is None else patients_with(task, sensors), task


def _folders(sites: Sequence[Path]) -> list[Path]:
    for folder in sites:
        if not folder.is_dir():
            raise DataFault(
                f"{folder} is no folder.", cause="absent", do="Name a folder of recordings."
            )
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


_ICU, _CLINIC, _HOLTER = "icu_bidmc|icu_*", "clinic_ppg_bp|clinic_*", "holter_*"
_ECG = "identity_ecg_id|identity_* holter_*"
_ECG_FIRST = ("ecg", "ppg", "both")
_PLACES = {"ppg": _CLINIC, "ecg": _ECG, "both": _ICU}
_ANNOTATED_AF, _STATED_AF = "atrial fibrillation (annotated)", "atrial fibrillation (stated)"
_BEATS, _STATED_RATE = "heart rate (annotated beats)", "heart rate (stated)"
_REFERENCE_RATE = "heart rate (reference)"
_VT = "true ventricular tachycardia"


_IN_AF = "truth: annotated rhythms, of windows wholly in or wholly out of atrial fibrillation"
_BEATS_OF = "truth: annotated beats of the window"
_PRESSURE = "truth: label hypertension; where a recording has none, labels sbp and dbp"
_HR = "truth: label hr"


def _or(annotated: str, labels: str) -> str:
    """Where the truth comes from, of what is annotated or not."""
    stands = "stands for every window, also where it was another for a while"
    return f"{annotated}; where a recording is not annotated, its {labels} {stands}"


def _everywhere(
    sensors: Iterable[str], make: Make, item: Item, *asks: str, truth: str = ""
) -> dict[str, Source]:
    """Of folders that are named, one maker for all of these sensors, the usual first."""
    return {one: Source("", make, item, asks, truth) for one in sensors}


_YEARS, _SEXES = (
    {
        one: Source(place, make, "patient", (name,), f"truth: label {name}")
        for one, place in _PLACES.items()
    }
    for name, make in (("age", makers.years), ("sex", makers.sex))
)
_ALARMS = {
    one: Source(
        "icu_alarms_*", _of(_VT), "window", (_VT,),
        "truth: label vt_true, of the window before label alarm_s",
    )
    for one in SENSORS
}  # fmt: skip
_RATES = {
    "ecg": Source(_HOLTER, _of("heart rate (ECG)"), "window", (_BEATS,), _BEATS_OF),
    "ppg": Source(_CLINIC, _of("heart rate (PPG)"), "patient", (_STATED_RATE,), _HR),
    "both": Source(_ICU, _of("heart rate (ICU)"), "recording", (_STATED_RATE,), _HR),
}
_OWN_RATES = {
    "ecg": Source(
        "", makers.rate_of_window, "window", (_BEATS, _STATED_RATE), _or(_BEATS_OF, "label hr")
    ),
    "ppg": Source(
        "", makers.rate_of_patient, "patient", (_STATED_RATE, _REFERENCE_RATE),
        f"{_HR}; where a recording has none, the mean of its series hr_reference_bpm",
    ),
    "both": Source("", _of("heart rate (ICU)"), "recording", (_STATED_RATE,), _HR),
}  # fmt: skip

TASKS: dict[str, HeadTask] = {
    task.name: task
    for task in (
        HeadTask(
            "hypertension",
            "classes",
            "hypertension of stage 1 or 2, from a visit's recordings",
            {"ppg": Source(_CLINIC, _of("hypertension"), "patient", ("hypertension",), _PRESSURE)},
            ("below stage 1", "stage 1 or 2"),
            truth=truths.hypertension,
            own=_everywhere(
                _PLACES, makers.hypertension, "patient", "hypertension", truth=_PRESSURE
            ),
        ),
        HeadTask(
            "af",
            "classes",
            "atrial fibrillation throughout a window, or not at all",
            {
                "ecg": Source(
                    _HOLTER, _of("atrial fibrillation"), "window", (_ANNOTATED_AF,), _IN_AF
                )
            },
            ("no atrial fibrillation", "atrial fibrillation"),
            truth=truths.atrial_fibrillation,
            own=_everywhere(
                _ECG_FIRST,
                makers.fibrillation,
                "window",
                _ANNOTATED_AF,
                _STATED_AF,
                truth=_or(_IN_AF, "label af or rhythm"),
            ),
        ),
        HeadTask(
            "rhythm",
            "classes",
            "the annotated rhythm of a window; classes that at least two patients have",
            {
                "ecg": Source(
                    _HOLTER,
                    makers.rhythm,
                    "window",
                    (_ANNOTATED_AF,),
                    "truth: the annotated rhythm, of windows wholly in one",
                )
            },
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
            "heart-rate",
            "number",
            "mean heart rate",
            _RATES,
            unit="bpm",
            truth=truths.heart_rate,
            own=_OWN_RATES,
        ),
        HeadTask(
            "quality",
            "classes",
            "experts' word on a recording, for each window of its leads; windows are not gated",
            {
                "ecg": Source(
                    "quality_*",
                    makers.quality,
                    "window",
                    ("recording quality",),
                    "truth: label acceptable, of the recording, for every window",
                )
            },
            ("not acceptable", "acceptable"),
            gated=False,
            leads=probes.LEADS,
            truth=truths.acceptable,
        ),
        HeadTask(
            "identity",
            "identity",
            "whether two recordings are of one person; nothing is fitted but scale and threshold",
            {"ecg": Source("identity_*", _of("identity"), "recording", ("identity",))},
            own=_everywhere(_ECG_FIRST, _of("identity"), "recording", "identity"),
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
