"""The probe tasks: which windows of which real recordings, with which truth.

A task's folders are found by name below the data folder, those of the known collections first; a
task whose folders are absent, or have too few patients, is skipped with the reason. Windows that
the quality gate refused count as missing, except where quality itself is the question.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from client.fingerprints import SENSORS, having
from client.records import Recording
from shared_model.config import WINDOW_S
from shared_model.errors import DataFault
from shared_model.windows import Windows
from simulations.probes import truths
from simulations.probes.suitable import suitable
from simulations.probes.task import (
    Builder,
    Copies,
    Task,
    named,
    number,
    readable,
    recordings,
    usable,
    windows_of,
)

__all__ = ["TASKS", "Task", "folders_for", "load_tasks", "require_data"]

Parts = list[tuple[Windows, np.ndarray, float]]
"""Of a patient, by recording: windows, which of them, the truth."""
Make = Callable[[str, list[Path], Builder], Task | None]
"""Of a name and folders, the task; None if no recording has a truth and a usable window."""
AGE_SPREAD = 5.0
"""Years over which a patient may have been recorded."""
BEATS = frozenset("NLRBAaJSVrFejnE/fQ")
"""WFDB annotation codes that are beats (PhysioBank annotation codes)."""
MAX_WINDOWS_PER_PATIENT = 60
FIRST_BEAT_S = 1.5
LEADS = ("lead_II", "lead_I", "lead_V2", None)
"""By which `leads_of` reads a recording; by the last only one that has none of the others."""
_AFTER_ALARM_S = 0.05
"""Of a window before an alarm: rounding of rates and times, and no look at what came after."""
CONTRADICTS = "patients of whom recordings say different things are left out"


def load_tasks(
    data: Path, *, only: Iterable[str] | None = None, on_task: Callable[[str], None] | None = None
) -> tuple[list[Task], dict[str, str]]:
    """All tasks whose folders are present, and why the others were skipped."""
    tasks: list[Task] = []
    skipped: dict[str, str] = {}
    wanted = set(only) if only is not None else set(TASKS)
    for name in sorted(wanted - set(TASKS)):
        skipped[name] = f"no such task; there are: {', '.join(TASKS)}"
    for name, (pattern, make) in TASKS.items():
        if name not in wanted:
            continue
        if on_task is not None:
            on_task(name)
        folders = folders_for(pattern, data)
        task = make(name, folders, Builder()) if folders else None
        if task is None:
            looked = pattern.replace("|", ", nor ")
            skipped[name] = f"no {looked} with labels below the data folder"
            continue
        found, why = suitable(task)
        if found is None:
            skipped[name] = why
        else:
            tasks.append(found)
    return tasks, skipped


def folders_for(pattern: str, data: Path) -> list[Path]:
    """Folders below `data` by name.

    Args:
        pattern: names with *, separated by spaces; "|" before a name that counts where nothing
            answers to the one before it: another clinic's folder, in place of the known one's.
    """
    found: set[Path] = set()
    for part in pattern.split():
        for choice in part.split("|"):
            here = {path for path in data.glob(choice) if path.is_dir()}
            found |= here
            if here:
                break
    return sorted(found)


def holter(
    folders: list[Path], copies: Copies
) -> Iterator[tuple[Recording, Windows, np.ndarray, np.ndarray]]:
    """Recording, windows, beat times in seconds, chosen usable windows (evenly spaced)."""
    for recording in recordings(folders, copies=copies):
        windows = windows_of(recording)
        beats = np.array(
            [
                e.time_s
                for e in recording.events
                if e.kind.startswith("beat:") and e.kind[5:] in BEATS
            ]
        )
        good = usable(windows)
        step = max(1, len(good) // MAX_WINDOWS_PER_PATIENT)
        yield recording, windows, beats, good[::step]


def annotated_af(name: str, folders: list[Path], build: Builder) -> Task | None:
    """Windows wholly in or wholly out of AF, of recordings whose rhythm is annotated."""
    for recording, windows, _, chosen in holter(folders, build.copies):
        rhythms = known_rhythms(recording)
        for i in chosen:
            truth = af_at(rhythms, windows.start_s[i])
            if np.isfinite(truth):
                build.add(windows, np.array([i]), truth, recording, 0)
    note = "windows wholly in or wholly out of AF"
    return build.task(name, "auroc", ("ecg",), folds=3, note=note)


def known_rhythms(recording: Recording) -> list[tuple[float, str]]:
    """Annotated rhythms by their beginnings; one that is noted at the first beat, within a second
    and a half, was there from the start."""
    found = sorted((e.time_s, e.kind[7:]) for e in recording.events if e.kind[:7] == "rhythm:")
    if found and found[0][0] <= FIRST_BEAT_S:
        found[0] = (0.0, found[0][1])
    return found


def af_at(rhythms: list[tuple[float, str]], start: float) -> float:
    """1 of a window wholly in AF, 0 of one wholly out of it; NaN of others, and where nobody says
    what the rhythm was."""
    if not rhythms or start < rhythms[0][0]:
        return truths.NOT_KNOWN
    share = share_of_af(rhythms, start, start + WINDOW_S)
    return share if share in {0.0, 1.0} else truths.NOT_KNOWN


def share_of_af(rhythms: list[tuple[float, str]], start: float, end: float) -> float:
    """Share of [start, end) spent in AF ("AFIB"); a rhythm holds until the next one."""
    inside = 0.0
    for k, (at, kind) in enumerate(rhythms):
        until = rhythms[k + 1][0] if k + 1 < len(rhythms) else float("inf")
        if kind == "AFIB":
            inside += max(0.0, min(end, until) - max(start, at))
    return inside / (end - start)


def annotated_rate(name: str, folders: list[Path], build: Builder) -> Task | None:
    for recording, windows, beats, chosen in holter(folders, build.copies):
        for i in chosen:
            rate = rate_at(beats, windows.start_s[i])
            if np.isfinite(rate):
                build.add(windows, np.array([i]), rate, recording, 0)
    return build.task(name, "mae", ("ecg",), note="truth: annotated beats of the window")


def rate_at(beats: np.ndarray, start: float) -> float:
    """Mean rate of a window's beats in bpm; NaN with fewer than three."""
    inside = beats[(beats >= start) & (beats < start + WINDOW_S)]
    if len(inside) < 3:
        return truths.NOT_KNOWN
    return float(60.0 * (len(inside) - 1) / (inside[-1] - inside[0]))


def patient_label(
    kind: str,
    sensors: tuple[str, ...],
    recode: Callable[[Recording], float],
    note: str = "",
    spread: float = 0.0,
) -> Make:
    """One unit a patient: the mean over all windows of all the patient's recordings.

    Args:
        spread: how far apart a patient's recordings may be; their mean is the truth. Who is further
            apart, or of two classes, is left out, and counted in the note.
    """

    def make(name: str, folders: list[Path], build: Builder) -> Task | None:
        heard = truths.Heard(recode)
        per_patient: dict[str, Parts] = {}
        for recording in recordings(folders, copies=build.copies):
            truth = heard(recording)
            if not np.isfinite(truth):
                continue
            windows = windows_of(recording)
            chosen = _first(windows, sensors)
            if len(chosen):
                build.know(recording)
                per_patient.setdefault(recording.patient, []).append((windows, chosen, truth))
        left_out = 0
        for patient, parts in _of_persons(per_patient, build.copies).items():
            said = np.unique([truth for _, _, truth in parts])
            if said[-1] - said[0] > spread:
                left_out += 1
                continue
            unit = len(build.truth)
            for windows, chosen, _ in parts:
                for i in chosen:
                    build.signal.append(windows.signal[i])
                    build.valid.append(windows.valid[i])
                    build.unit.append(unit)
            build.truth.append(float(said.mean()))
            build.patient.append(patient)
            build.session.append(0)
        gone = f"{left_out} {CONTRADICTS}" if left_out else ""
        note_here = "; ".join(one for one in (note, gone) if one)
        return build.task(name, kind, sensors, note=note_here, unknown=heard.words)

    return make


def _of_persons(found: Mapping[str, Parts], copies: Copies) -> dict[str, Parts]:
    """By patient, names that are one person's under the first of them."""
    named, joined = copies.one_name(found), defaultdict[str, Parts](list)
    for name, parts in found.items():
        joined[named[name]] += parts
    return joined


def _first(windows: Windows, sensors: tuple[str, ...]) -> np.ndarray:
    """The first usable windows; of too many, those with all of the sensors before the others."""
    good = usable(windows)
    if len(good) > MAX_WINDOWS_PER_PATIENT and len(sensors) > 1:
        whole = having(windows.valid[good], "both")
        good = np.concatenate([good[whole], good[~whole]])
    return np.sort(good[:MAX_WINDOWS_PER_PATIENT])


def recording_label(
    kind: str, sensors: tuple[str, ...], recode: Callable[[Recording], float], note: str
) -> Make:
    """One unit a recording with a label of its own: about 12 of its windows, evenly spaced."""

    def make(name: str, folders: list[Path], build: Builder) -> Task | None:
        heard = truths.Heard(recode)
        for recording in recordings(folders, copies=build.copies):
            truth = heard(recording)
            if not np.isfinite(truth):
                continue
            windows = windows_of(recording)
            chosen = usable(windows)
            chosen = chosen[:: max(1, len(chosen) // 12)]
            if len(chosen):
                build.add(windows, chosen, truth, recording, 0)
        return build.task(name, kind, sensors, note=note, unknown=heard.words)

    return make


def reference_rate(name: str, folders: list[Path], build: Builder) -> Task | None:
    """Truth: a reference device's rate at the window. Where it gives times, one for each value."""
    for recording in recordings(folders, copies=build.copies):
        rate = recording.series.get("hr_reference_bpm")
        if rate is None:
            continue
        # TROIKA gives one value per 8 s every 2 s; BAMI-1 gives the times.
        at_s = recording.series.get("hr_reference_time_s", 4.0 + 2.0 * np.arange(len(rate)))
        if len(at_s) != len(rate):
            continue
        rate = np.where((rate >= truths.RATES_BPM[0]) & (rate <= truths.RATES_BPM[1]), rate, np.nan)
        windows = windows_of(recording)
        for i in usable(windows)[:MAX_WINDOWS_PER_PATIENT]:
            if not windows.valid[i, 1].any():
                continue
            start = windows.start_s[i]
            inside = (at_s >= start) & (at_s <= start + WINDOW_S) & np.isfinite(rate)
            if inside.any():
                build.add(windows, np.array([i]), float(rate[inside].mean()), recording, 0)
    return build.task(name, "mae", ("ppg",), note="truth: a reference device's rate at the window")


def true_vt(name: str, folders: list[Path], build: Builder) -> Task | None:
    heard = truths.Heard(truths.true_alarm)
    for recording in recordings(folders, copies=build.copies):
        truth, alarm_s = heard(recording), number(recording, "alarm_s")
        if not np.isfinite(truth + alarm_s):
            continue
        windows = windows_of(recording)
        good = usable(windows)
        early_s = alarm_s - WINDOW_S - windows.start_s[good]  # that the window ends before it
        at = good[(early_s > -_AFTER_ALARM_S) & (early_s < WINDOW_S)]
        if len(at):
            build.add(windows, at[-1:], truth, recording, 0)
    note = "the last window that ends before the alarm, less than 10 s before"
    return build.task(name, "auroc", SENSORS, note=note, unknown=heard.words)


def quality(name: str, folders: list[Path], build: Builder) -> Task | None:
    """Windows as they are, not gated; one unit a recording over its leads."""
    units: dict[tuple[str, str], int] = {}
    for recording in leads_of(folders, build.copies):
        truth = truths.acceptable(recording)
        if not np.isfinite(truth):
            continue
        windows = windows_of(recording, gate=False)
        unit = units.setdefault((recording.patient, recording.name), len(units))
        if unit == len(build.truth):
            build.truth.append(truth)
            build.patient.append(recording.patient)
            build.session.append(0)
        for i in range(len(windows.signal)):
            build.signal.append(windows.signal[i])
            build.valid.append(windows.valid[i])
            build.unit.append(unit)
    note = "not gated; leads I, II and V2 together where they have these names"
    return build.task(name, "auroc", ("ecg",), pooling="mean+sd", gated=False, note=note)


def leads_of(folders: list[Path], copies: Copies) -> Iterator[Recording]:
    """ECG recordings once for each of leads I, II and V2 that they have; one without these names
    once, with the lead that is usually taken. It follows from the recording alone: in a private
    head nobody decides how another is read."""
    for place, folder in named(folders).items():
        found: set[tuple[str, str]] = set()
        for lead in LEADS:
            for recording in readable(folder, lead, copies):
                name = (recording.patient, recording.name)
                if "ecg" not in recording.channels or (lead is None and name in found):
                    continue
                found.add(name)
                if not copies.holds(recording, place, lead or ""):
                    yield replace(recording, patient=f"{recording.patient}\n{place}")


def identity(name: str, folders: list[Path], build: Builder) -> Task | None:
    for session, recording in enumerate(recordings(folders, copies=build.copies)):
        windows = windows_of(recording)
        chosen = usable(windows)
        if len(chosen):
            build.add(windows, chosen, 0.0, recording, session)
    note = "same person in another recording against others"
    return build.task(name, "verification", ("ecg",), note=note)


_CLINIC, _ICU = "clinic_ppg_bp|clinic_*", "icu_bidmc|icu_*"
_PERSONS = "identity_ecg_id|identity_*"
_STATED_RATE = "truth: label hr of the recording"

TASKS: dict[str, tuple[str, Make]] = {
    "heart rate (ECG)": ("holter_*", annotated_rate),
    "heart rate (PPG)": (
        _CLINIC,
        patient_label("mae", ("ppg",), truths.heart_rate, "truth: label hr of the visit", np.inf),
    ),
    "heart rate (ICU)": (
        _ICU,
        recording_label("mae", SENSORS, truths.heart_rate, _STATED_RATE),
    ),
    "heart rate (wrist, motion)": ("wearable_*", reference_rate),
    "atrial fibrillation": ("holter_*", annotated_af),
    "hypertension": (
        _CLINIC,
        patient_label("auroc", ("ppg",), truths.hypertension, "stage 1 or 2 against less"),
    ),
    "age": (_CLINIC, patient_label("mae", ("ppg",), truths.age, "years", AGE_SPREAD)),
    "sex (PPG)": (_CLINIC, patient_label("auroc", ("ppg",), truths.is_male, "male")),
    "sex (ECG)": (_PERSONS, patient_label("auroc", ("ecg",), truths.is_male, "male")),
    "sex (ICU)": (_ICU, patient_label("auroc", SENSORS, truths.is_male, "male")),
    "true ventricular tachycardia": ("icu_alarms_*", true_vt),
    "recording quality": ("quality_*", quality),
    "identity": ("identity_*", identity),
}


def require_data(data: Path) -> None:
    """Raises DataFault where the folder of real recordings is absent."""
    if not data.is_dir():
        raise DataFault(
            f"The folder of real recordings {data} is absent.",
            cause="absent",
            do="Pass --data FOLDER or set FEDPRINT_DATA.",
        )
