"""Probe tasks of folders that nobody has named here: what their labels allow, and no more.

    tasks, skipped, read = site_tasks([Path("ward-7")])

One pass over the recordings finds which truths there are, and each task reads again what it needs.
Folders are pooled, patients told apart by folder, as the five alarm folders of `simulations.probes.
tasks` are. A task that both sensors can serve is asked of windows that have both; where too few
patients have such windows, or many more have one, of each sensor by itself.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from client.fingerprints import SENSORS
from client.records import ReadFault, Recording, columns_left_out, read_folder
from shared_model.errors import DataFault, OurMistake
from simulations.lab.plots_style import counted
from simulations.lots import place_of, shown
from simulations.probes import tasks as known
from simulations.probes import truths
from simulations.probes.suitable import suitable
from simulations.probes.task import Builder, Copies, Task, copies_words, named, number, word_of
from simulations.probes.tasks import Make
from simulations.site_mapping import mapping_of, mapping_words, own_mappings

MANY_MORE = 2
"""So many times the patients with one sensor, and that sensor is asked by itself as well."""
_WORDS = {"ecg": "ECG", "ppg": "PPG"}
_SENSOR_AT_END = re.compile(r"(?: \(|, )(?:ECG|PPG)\)$")

NOT_TAKEN = "was left out"
"""Of a column, in why a task is not there; `simulations.site_mapping.HOW_READ` says what to do."""


@dataclass(frozen=True)
class Question:
    """A task. asks: whether a recording has a truth. needs: what it must have, in words.
    labels: columns that say something of it, known words or not. sensors: those to ask of."""

    make: Make
    asks: Callable[[Recording], bool]
    needs: str
    labels: tuple[str, ...] = ()
    sensors: tuple[str, ...] = SENSORS


@dataclass
class Read:
    """What a pass over folders met. unreadable: files, by cause. simulated: recordings that say so.
    truths: recordings that have one, by question; for identity, patients with more than one
    recording. unknown: recordings whose label is none of the known words or numbers. shared:
    identifiers that are in more than one folder. copies: recordings that were met before under
    another name, in no other count.
    """

    recordings: int = 0
    unreadable: Counter[str] = field(default_factory=Counter)
    simulated: int = 0
    truths: Counter[str] = field(default_factory=Counter)
    unknown: Counter[str] = field(default_factory=Counter)
    shared: int = 0
    copies: Copies = field(default_factory=Copies)

    def words(self, sites: Sequence[Path]) -> dict[str, object]:
        """For probe.json."""
        return {
            "folders": [shown(place_of(one)) for one in sites],
            "recordings": self.recordings,
            "mappings": own_mappings(sites),
            "unreadable": dict(self.unreadable),
            "copies": self.copies.count,
            "simulated": self.simulated,
            "identifiers_in_several_folders": self.shared,
        }


def _said(read: Callable[[Recording], float]) -> Callable[[Recording], bool]:
    return lambda recording: bool(np.isfinite(read(recording)))


def _event(prefix: str) -> Callable[[Recording], bool]:
    return lambda recording: any(one.kind.startswith(prefix) for one in recording.events)


def _of_patient(
    kind: str,
    read: Callable[[Recording], float],
    needs: str,
    note: str,
    spread: float = 0.0,
) -> Question:
    make = known.patient_label(kind, SENSORS, read, note, spread)
    return Question(make, _said(read), needs, truths.SAID_IN[read])


def _of_recording(kind: str, read: Callable[[Recording], float], needs: str, note: str) -> Question:
    make = known.recording_label(kind, SENSORS, read, note)
    return Question(make, _said(read), needs, truths.SAID_IN[read])


QUESTIONS: dict[str, Question] = {
    "heart rate (annotated beats)": Question(
        known.annotated_rate, _event("beat:"), "annotated beats", sensors=("ecg",)
    ),
    "heart rate (stated)": _of_recording(
        "mae", truths.heart_rate, "a label hr", "truth: label hr of the recording"
    ),
    "heart rate (reference)": Question(
        known.reference_rate,
        lambda recording: "hr_reference_bpm" in recording.series,
        "a series hr_reference_bpm",
        sensors=("ppg",),
    ),
    "atrial fibrillation (annotated)": Question(
        known.annotated_af, _event("rhythm:"), "annotated rhythms"
    ),
    "atrial fibrillation (stated)": _of_recording(
        "auroc",
        truths.atrial_fibrillation,
        "a label af or rhythm",
        "AF against sinus rhythm, of the recording",
    ),
    "hypertension": _of_patient(
        "auroc",
        truths.hypertension,
        "a label hypertension, or sbp and dbp",
        "stage 1 or 2 against less",
    ),
    "age": _of_patient("mae", truths.age, "a label age", "years", known.AGE_SPREAD),
    "sex": _of_patient("auroc", truths.is_male, "a label sex", "male"),
    "true ventricular tachycardia": Question(
        known.true_vt,
        lambda one: bool(np.isfinite(truths.true_alarm(one) + number(one, "alarm_s"))),
        "labels vt_true and alarm_s",
        truths.SAID_IN[truths.true_alarm],
    ),
    "recording quality": Question(
        known.quality,
        _said(truths.acceptable),
        "a label acceptable",
        truths.SAID_IN[truths.acceptable],
        sensors=("ecg",),
    ),
    # no recording tells by itself: counted at the end of the pass
    "identity": Question(known.identity, lambda _: False, "another of the same patient beside it"),
}


def site_tasks(
    sites: Sequence[Path],
    *,
    only: Iterable[str] | None = None,
    on_task: Callable[[str], None] = lambda _: None,
) -> tuple[list[Task], dict[str, str], Read]:
    """All tasks that these folders' labels allow, why the others are skipped, and what was met.

    Args:
        only: names of QUESTIONS, their words before the bracket, or a task's as a table shows it.

    Raises:
        OurMistake: no such task; two folders have one name, or one lies in the other.
        DataFault: one of them is no folder.
    """
    for folder in sites:
        if not folder.is_dir():
            raise DataFault(
                f"{folder} is no folder.", cause="absent", do="Name a folder of recordings."
            )
    named(sites)
    wanted = _wanted(only)
    on_task("which labels there are")
    read = _pass(sites)
    tasks: list[Task] = []
    skipped: dict[str, str] = {}
    for name in wanted:
        question = QUESTIONS[name]
        unknown = _unknown(read, name)
        if not read.truths[name]:
            absent = f"no recording has {question.needs}"
            skipped[name] = unknown or "; ".join([absent, *not_taken(sites, question.labels)])
            continue
        on_task(name)
        found, why = by_sensors(question.make(name, list(sites), Builder()), question.sensors)
        tasks += [_noted(task, unknown) for task in found]
        if why:
            skipped[name] = "; ".join(one for one in (why, unknown) if one)
    return tasks, skipped, read


def _unknown(read: Read, name: str) -> str:
    """How many recordings say something of this that is not understood; "" if none."""
    count = read.unknown[name]
    labels = ", ".join(QUESTIONS[name].labels)
    return f"what {count} recordings say of {labels} is not known here" if count else ""


def not_taken(sites: Sequence[Path], labels: Sequence[str]) -> list[str]:
    """Columns of these names that the guess did not take for labels, and why. A folder with a
    mapping of its own is not guessed at."""
    found = []
    for site in sites if labels else ():
        if own_mappings([site]):
            continue
        for column, why in columns_left_out(site).items():
            if column.strip().casefold() in labels:
                found.append(f"a column {column.strip().casefold()} {NOT_TAKEN}: {why}")
    return list(dict.fromkeys(found))


def _noted(task: Task, words: str) -> Task:
    return replace(task, note="; ".join(one for one in (task.note, words) if one))


def _wanted(only: Iterable[str] | None) -> list[str]:
    if only is None:
        return list(QUESTIONS)
    wanted: list[str] = []
    for asked in only:
        names = {asked, _SENSOR_AT_END.sub("", asked), _SENSOR_AT_END.sub(")", asked)}
        meant = [name for name in QUESTIONS if {name, name.partition(" (")[0]} & names]
        if not meant:
            raise OurMistake(
                f"There is no task {asked!r} of folders.", do=f"There are: {', '.join(QUESTIONS)}."
            )
        wanted += [name for name in meant if name not in wanted]
    return wanted


def _pass(sites: Sequence[Path]) -> Read:
    """Read every recording once, and keep nothing of it but what it says."""
    read = Read()
    patients: Counter[tuple[str, str]] = Counter()
    folders: dict[str, set[str]] = defaultdict(set)
    for site in sites:
        for item in read_folder(site, mapping_of(site)):
            if isinstance(item, ReadFault):
                read.unreadable[item.cause] += 1
                continue
            folders[item.patient].add(place_of(site))
            if read.copies.holds(item, place_of(site)):
                continue
            read.recordings += 1
            read.simulated += word_of(item, "source").casefold() == "simulated"
            patients[place_of(site), item.patient] += 1
            for name, question in QUESTIONS.items():
                asked = question.asks(item)
                read.truths[name] += asked
                said = any(word_of(item, label) for label in question.labels)
                read.unknown[name] += said and not asked
    read.truths["identity"] = sum(times > 1 for times in patients.values())
    read.shared = sum(len(places) > 1 for places in folders.values())
    return read


def by_sensors(task: Task | None, sensors: tuple[str, ...]) -> tuple[list[Task], str]:
    """The task with all its sensors, and one for each sensor where too few patients have both, or
    many more have it; and why not with both, and of each alone, or "" if both can be asked."""
    if task is None:
        return [], "no usable window has a truth"
    whole, why = suitable(replace(task, sensors=sensors))
    tasks = [] if whole is None else [whole]
    if len(sensors) == 1:
        return tasks, why
    reasons = [f"both sensors: {why}"]
    for one, word in _WORDS.items():
        found, why = suitable(replace(task, name=_named(task.name, word), sensors=(one,)))
        if found is None:
            reasons.append(f"{word}: {why}")
        elif whole is None or found.patients >= MANY_MORE * whole.patients:
            tasks.append(found)
    return tasks, "; ".join(reasons) if whole is None else ""


def _named(name: str, word: str) -> str:
    """ "age" -> "age (ECG)", "heart rate (stated)" -> "heart rate (stated, ECG)"."""
    return f"{name[:-1]}, {word})" if name.endswith(")") else f"{name} ({word})"


def require_read(sites: Sequence[Path], runs: Iterable[tuple[str, frozenset[str]]]) -> None:
    """A run leaves somebody out only where a folder is one that it read, by its name.

    Args:
        runs: of each run its name and the names of its folders.

    Raises:
        OurMistake: a run has read no folder of this name: nobody would be left out, and whoever
            reads the figures would believe that somebody was.
    """
    here = {place_of(one) for one in sites}
    for run, folders in runs:
        if not folders & here:
            raise OurMistake(
                f"The run {run} has read none of these folders by name, so that nobody could be "
                "left out.",
                do="Name the folders that it read, or leave out --unseen-by if none of these "
                "recordings is a copy of them.",
            )


def unreadable_words(unreadable: Mapping[str, int]) -> list[str]:
    """Files that could not be read, by cause."""
    return [f"not readable: {counted(n, 'file')}: {cause}" for cause, n in unreadable.items()]


def sites_words(words: Mapping[str, Any]) -> list[str]:
    """Of a probe's `release`, for tables and pages: which folders were taken."""
    about = words.get("sites")
    if not about:
        return []
    lines = [f"folders: {', '.join(about['folders'])}: {about['recordings']} recordings"]
    lines += mapping_words(about.get("mappings", {}))
    if about["simulated"]:
        lines.append(f"SIMULATED: {about['simulated']} of them say that they are nobody's")
    if len(about["folders"]) > 1:
        lines.append(
            "folders are pooled: where a truth goes with a folder, a model that tells devices "
            "apart is right for the wrong reason; probe each by itself as well"
        )
    if about["identifiers_in_several_folders"]:
        lines.append(
            f"{about['identifiers_in_several_folders']} identifiers are in several folders and "
            "count as different patients: if they are the same, the figures are too good"
        )
    lines += [one for one in (copies_words(about.get("copies", 0)),) if one]
    return lines + unreadable_words(about["unreadable"])
