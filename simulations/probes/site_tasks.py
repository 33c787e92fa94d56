"""Probe tasks of folders that nobody has named here: what their labels allow, and no more.

    tasks, skipped, read = site_tasks([Path("ward-7")])

One pass over the recordings finds which truths there are, and each task reads again what it needs.
Folders are pooled, patients told apart by folder, as the five alarm folders of `simulations.probes.
tasks` are. A task that both sensors can serve is asked of windows that have both; where too few
patients have such windows, of each sensor by itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from client.fingerprints import SENSORS
from client.records import ReadFault, Recording, guess_mapping, read_folder
from shared_model.errors import DataFault, OurMistake
from simulations.lots import place_of
from simulations.probes import tasks as known
from simulations.probes import truths
from simulations.probes.suitable import suitable
from simulations.probes.task import Task, number

_WORDS = {"ecg": "ECG", "ppg": "PPG"}
Make = Callable[[str, list[Path]], Task | None]


@dataclass(frozen=True)
class Question:
    """A task. asks: whether a recording has a truth. needs: what it must have, in words.
    sensors: those that it may be asked of."""

    make: Make
    asks: Callable[[Recording], bool]
    needs: str
    sensors: tuple[str, ...] = SENSORS


@dataclass
class Read:
    """What a pass over folders met. unreadable: files, by cause. truths: recordings that have one,
    by question; for identity, patients with more than one recording."""

    recordings: int = 0
    unreadable: Counter[str] = field(default_factory=Counter)
    truths: Counter[str] = field(default_factory=Counter)

    def words(self, sites: Sequence[Path]) -> dict[str, object]:
        """For probe.json."""
        return {
            "folders": [place_of(one) for one in sites],
            "recordings": self.recordings,
            "unreadable": dict(self.unreadable),
        }


def _said(read: Callable[[Recording], float]) -> Callable[[Recording], bool]:
    return lambda recording: bool(np.isfinite(read(recording)))


def _event(prefix: str) -> Callable[[Recording], bool]:
    return lambda recording: any(one.kind.startswith(prefix) for one in recording.events)


def _label(kind: str, read: Callable[[Recording], float], note: str = "") -> Make:
    return known.patient_label(kind, SENSORS, read, note)


QUESTIONS: dict[str, Question] = {
    "heart rate (annotated beats)": Question(
        known.annotated_rate, _event("beat:"), "annotated beats", ("ecg",)
    ),
    "heart rate (stated)": Question(
        known.recording_rate(SENSORS, "truth: label hr of the recording"),
        _said(truths.heart_rate),
        "a label hr",
    ),
    "heart rate (reference)": Question(
        known.reference_rate,
        lambda recording: "hr_reference_bpm" in recording.series,
        "a series hr_reference_bpm",
        ("ppg",),
    ),
    "atrial fibrillation (annotated)": Question(
        known.annotated_af, _event("rhythm:"), "annotated rhythms"
    ),
    "atrial fibrillation (stated)": Question(
        _label("auroc", truths.atrial_fibrillation, "AF against sinus rhythm"),
        _said(truths.atrial_fibrillation),
        "a label af or rhythm",
    ),
    "hypertension": Question(
        _label("auroc", truths.hypertension, "stage 1 or 2 against less"),
        _said(truths.hypertension),
        "a label hypertension, or sbp and dbp",
    ),
    "age": Question(_label("mae", truths.age, "years"), _said(truths.age), "a label age"),
    "sex": Question(_label("auroc", truths.is_male, "male"), _said(truths.is_male), "a label sex"),
    "true ventricular tachycardia": Question(
        known.true_vt,
        _said(lambda recording: number(recording, "vt_true") + number(recording, "alarm_s")),
        "labels vt_true and alarm_s",
    ),
    "recording quality": Question(
        known.quality,
        _said(lambda recording: number(recording, "acceptable")),
        "a label acceptable",
        ("ecg",),
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
        only: names of QUESTIONS, or their words before the bracket.

    Raises:
        OurMistake: no such task, or two of the folders have one name.
        DataFault: one of them is no folder.
    """
    for folder in sites:
        if not folder.is_dir():
            raise DataFault(f"{folder} is no folder.", cause="absent")
    wanted = _wanted(only)
    on_task("which labels there are")
    read = _pass(sites)
    tasks: list[Task] = []
    skipped: dict[str, str] = {}
    for name in wanted:
        question = QUESTIONS[name]
        if not read.truths[name]:
            skipped[name] = f"no recording has {question.needs}"
            continue
        on_task(name)
        made = question.make(name, list(sites))
        found, why = by_sensors(made, question.sensors)
        tasks += found
        if why:
            skipped[name] = why
    return tasks, skipped, read


def _wanted(only: Iterable[str] | None) -> list[str]:
    if only is None:
        return list(QUESTIONS)
    wanted: list[str] = []
    for asked in only:
        meant = [name for name in QUESTIONS if asked in {name, name.partition(" (")[0]}]
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
    for site in sites:
        for item in read_folder(site, guess_mapping(site)):
            if isinstance(item, ReadFault):
                read.unreadable[item.cause] += 1
                continue
            read.recordings += 1
            patients[place_of(site), item.patient] += 1
            for name, question in QUESTIONS.items():
                read.truths[name] += question.asks(item)
    read.truths["identity"] = sum(times > 1 for times in patients.values())
    return read


def by_sensors(task: Task | None, sensors: tuple[str, ...]) -> tuple[list[Task], str]:
    """The task with all its sensors, or one for each sensor where too few patients have both; why
    none, or "" if there is one."""
    if task is None:
        return [], "no usable window has a truth"
    if len(sensors) == 1:
        found, why = suitable(replace(task, sensors=sensors))
        return ([], why) if found is None else ([found], "")
    whole, why = suitable(replace(task, sensors=sensors))
    if whole is not None:
        return [whole], ""
    reasons = [f"both sensors: {why}"]
    tasks = []
    for one, word in _WORDS.items():
        found, why = suitable(replace(task, name=_named(task.name, word), sensors=(one,)))
        if found is None:
            reasons.append(f"{word}: {why}")
        else:
            tasks.append(found)
    return tasks, "" if tasks else "; ".join(reasons)


def _named(name: str, word: str) -> str:
    """ "age" -> "age (ECG)", "heart rate (stated)" -> "heart rate (stated, ECG)"."""
    return f"{name[:-1]}, {word})" if name.endswith(")") else f"{name} ({word})"


def sites_words(words: Mapping[str, Any]) -> list[str]:
    """Of a probe's `release`, for tables and pages: which folders were taken."""
    about = words.get("sites")
    if not about:
        return []
    folders = ", ".join(about["folders"])
    lines = [f"folders: {folders}, {about['recordings']} recordings"]
    if len(about["folders"]) > 1:
        lines.append(
            "folders are pooled: where a truth goes with a folder, a model that tells devices "
            "apart is right for the wrong reason; probe each by itself as well"
        )
    lines += [
        f"not readable: {count} files: {cause}" for cause, count in about["unreadable"].items()
    ]
    return lines
