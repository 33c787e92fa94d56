"""The probe tasks: which windows of which real recordings, with which truth.

A task's folder is found by name below the data folder; a task whose folders are absent is skipped
with the reason. Windows that the quality gate refused count as missing, except where quality itself
is the question.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from client.ingest import prepare_recording
from client.mapping import ChannelMapping
from client.records import ReadFault, Recording, guess_mapping, read_folder
from shared_model import quality
from shared_model.config import WINDOW_S
from shared_model.errors import DataFault
from shared_model.windows import Windows

BEATS = frozenset("NLRBAaJSVrFejnE/fQ")
"""WFDB annotation codes that are beats (PhysioBank annotation codes)."""
MAX_WINDOWS_PER_PATIENT = 60


@dataclass(frozen=True)
class Task:
    """Windows with truths; a unit (what is predicted) is one window or a mean over several.

    signal: (window, 2, 1250); valid: (window, 2, 50); unit: (window,) index of the unit;
    truth, group, session: (unit,).
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

    @property
    def patients(self) -> int:
        return int(self.group.max()) + 1

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


class _Builder:
    """Collects windows, units and patients of one task."""

    def __init__(self) -> None:
        self.signal: list[np.ndarray] = []
        self.valid: list[np.ndarray] = []
        self.unit: list[int] = []
        self.truth: list[float] = []
        self.patient: list[str] = []
        self.session: list[int] = []

    def add(
        self, windows: Windows, chosen: np.ndarray, truth: float, patient: str, session: int
    ) -> None:
        """One unit made of the chosen windows."""
        for i in chosen:
            self.signal.append(windows.signal[i])
            self.valid.append(windows.valid[i])
            self.unit.append(len(self.truth))
        self.truth.append(truth)
        self.patient.append(patient)
        self.session.append(session)

    def task(
        self, name: str, kind: str, sensors: tuple[str, ...], **options: object
    ) -> Task | None:
        if not self.truth:
            return None
        _, group = np.unique(self.patient, return_inverse=True)
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
        )
        return replace(made, **options)  # type: ignore[arg-type]


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
        folders = sorted(p for part in pattern.split() for p in data.glob(part) if p.is_dir())
        task = make(name, folders) if folders else None
        if task is None:
            skipped[name] = f"no {pattern} with labels below the data folder"
        else:
            tasks.append(task)
    return tasks, skipped


def _recordings(folders: Iterable[Path], lead: str | None = None) -> Iterator[Recording]:
    for folder in folders:
        mapping = guess_mapping(folder)
        if lead is not None:
            mapping = mapping.model_copy(update={"ecg": ChannelMapping(names=(lead,))})
        for item in read_folder(folder, mapping):
            if not isinstance(item, ReadFault):
                yield item


def _windows(recording: Recording, *, gate: bool = True) -> Windows:
    prepared = prepare_recording(recording)
    if gate:
        return prepared.windows()
    absent = prepared.refusal == quality.ABSENT
    kept = np.where(absent, quality.ABSENT, quality.ACCEPTED).astype(np.uint8)
    return replace(prepared, refusal=kept).windows()


def _usable(windows: Windows) -> np.ndarray:
    return np.flatnonzero(windows.valid.any(axis=(1, 2)))


def _number(recording: Recording, label: str) -> float:
    try:
        return float(recording.labels[label])
    except (KeyError, ValueError):
        return float("nan")


def _holter(folders: list[Path]) -> Iterator[tuple[Recording, Windows, np.ndarray, np.ndarray]]:
    """Recording, windows, beat times in seconds, chosen usable windows (evenly spaced)."""
    for recording in _recordings(folders):
        windows = _windows(recording)
        beats = np.array(
            [
                e.time_s
                for e in recording.events
                if e.kind.startswith("beat:") and e.kind[5:] in BEATS
            ]
        )
        usable = _usable(windows)
        step = max(1, len(usable) // MAX_WINDOWS_PER_PATIENT)
        yield recording, windows, beats, usable[::step]


def _af(name: str, folders: list[Path]) -> Task | None:
    build = _Builder()
    for recording, windows, _, chosen in _holter(folders):
        rhythms = [(e.time_s, e.kind[7:]) for e in recording.events if e.kind.startswith("rhythm:")]
        for i in chosen:
            start, end = windows.start_s[i], windows.start_s[i] + WINDOW_S
            share = _share_of_af(rhythms, start, end)
            if share in {0.0, 1.0}:
                build.add(windows, np.array([i]), share, recording.patient, 0)
    if not any(build.truth):
        return None
    positive = {p for p, t in zip(build.patient, build.truth, strict=True) if t == 1.0}
    return build.task(
        name,
        "auroc",
        ("ecg",),
        folds=max(2, min(3, len(positive))),
        note=f"windows wholly in or wholly out of AF; only {len(positive)} patients have AF",
    )


def _share_of_af(rhythms: list[tuple[float, str]], start: float, end: float) -> float:
    """Share of [start, end) spent in AF ("AFIB"); a rhythm holds until the next one."""
    inside = 0.0
    for k, (at, kind) in enumerate(rhythms):
        until = rhythms[k + 1][0] if k + 1 < len(rhythms) else float("inf")
        if kind == "AFIB":
            inside += max(0.0, min(end, until) - max(start, at))
    return inside / (end - start)


def _hr_ecg(name: str, folders: list[Path]) -> Task | None:
    build = _Builder()
    for recording, windows, beats, chosen in _holter(folders):
        for i in chosen:
            start = windows.start_s[i]
            inside = beats[(beats >= start) & (beats < start + WINDOW_S)]
            if len(inside) >= 3:
                rate = 60.0 * (len(inside) - 1) / (inside[-1] - inside[0])
                build.add(windows, np.array([i]), rate, recording.patient, 0)
    return build.task(name, "mae", ("ecg",), note="truth: annotated beats of the window")


def _patient_label(
    label: str, kind: str, sensors: tuple[str, ...], recode: Callable[[Recording], float], note: str
) -> Callable[[str, list[Path]], Task | None]:
    """One unit a patient: the mean over all windows of all the patient's recordings."""

    def make(name: str, folders: list[Path]) -> Task | None:
        per_patient: dict[str, list[tuple[Windows, np.ndarray, float]]] = {}
        for recording in _recordings(folders):
            truth = recode(recording)
            if not np.isfinite(truth):
                continue
            windows = _windows(recording)
            chosen = _usable(windows)[:MAX_WINDOWS_PER_PATIENT]
            if len(chosen):
                per_patient.setdefault(recording.patient, []).append((windows, chosen, truth))
        build = _Builder()
        for patient, parts in per_patient.items():
            unit = len(build.truth)
            for windows, chosen, _ in parts:
                for i in chosen:
                    build.signal.append(windows.signal[i])
                    build.valid.append(windows.valid[i])
                    build.unit.append(unit)
            build.truth.append(parts[0][2])
            build.patient.append(patient)
            build.session.append(0)
        return build.task(name, kind, sensors, note=note)

    make.__doc__ = f"Patient-level {label}."
    return make


def _hypertension(recording: Recording) -> float:
    stage = str(recording.labels.get("hypertension", ""))
    return float(stage.startswith("Stage")) if stage else float("nan")


def _recording_rate(
    sensors: tuple[str, ...], note: str
) -> Callable[[str, list[Path]], Task | None]:
    """One unit a recording with a heart rate label of its own."""

    def make(name: str, folders: list[Path]) -> Task | None:
        build = _Builder()
        for recording in _recordings(folders):
            truth = _number(recording, "hr")
            windows = _windows(recording)
            chosen = _usable(windows)
            chosen = chosen[:: max(1, len(chosen) // 12)]
            if np.isfinite(truth) and len(chosen):
                build.add(windows, chosen, truth, recording.patient, 0)
        return build.task(name, "mae", sensors, note=note)

    return make


def _hr_motion(name: str, folders: list[Path]) -> Task | None:
    """Wrist PPG on a treadmill; truth: the reference rate at the window."""
    build = _Builder()
    for recording in _recordings(folders):
        rate = recording.series.get("hr_reference_bpm")
        if rate is None:
            continue
        # TROIKA gives one value per 8 s every 2 s; BAMI-1 gives the times.
        at_s = recording.series.get("hr_reference_time_s", 4.0 + 2.0 * np.arange(len(rate)))
        windows = _windows(recording)
        for i in _usable(windows)[:MAX_WINDOWS_PER_PATIENT]:
            if not windows.valid[i, 1].any():
                continue
            start = windows.start_s[i]
            inside = (at_s >= start) & (at_s <= start + WINDOW_S) & np.isfinite(rate)
            if inside.any():
                build.add(windows, np.array([i]), float(rate[inside].mean()), recording.patient, 0)
    return build.task(name, "mae", ("ppg",), note="wrist PPG under heavy motion")


def _vt(name: str, folders: list[Path]) -> Task | None:
    build = _Builder()
    for recording in _recordings(folders):
        truth, alarm_s = _number(recording, "vt_true"), _number(recording, "alarm_s")
        if not np.isfinite(truth + alarm_s):
            continue
        windows = _windows(recording)
        usable = _usable(windows)
        at = usable[np.abs(windows.start_s[usable] - (alarm_s - WINDOW_S)) < WINDOW_S / 2]
        if len(at):
            build.add(windows, at[-1:], truth, recording.patient, 0)
    return build.task(name, "auroc", ("both", "ecg", "ppg"), note="the window before the alarm")


def _quality(name: str, folders: list[Path]) -> Task | None:
    """Windows as they are, not gated; one unit a recording over its three leads."""
    build = _Builder()
    units: dict[str, int] = {}
    for lead in ("lead_II", "lead_I", "lead_V2"):
        for recording in _recordings(folders, lead):
            truth = _number(recording, "acceptable")
            if not np.isfinite(truth):
                continue
            windows = _windows(recording, gate=False)
            unit = units.setdefault(recording.patient, len(units))
            if unit == len(build.truth):
                build.truth.append(truth)
                build.patient.append(recording.patient)
                build.session.append(0)
            for i in range(len(windows.signal)):
                build.signal.append(windows.signal[i])
                build.valid.append(windows.valid[i])
                build.unit.append(unit)
    return build.task(
        name, "auroc", ("ecg",), pooling="mean+sd", note="not gated; leads I, II and V2 together"
    )


def _identity(name: str, folders: list[Path]) -> Task | None:
    build = _Builder()
    sessions: dict[str, int] = {}
    for recording in _recordings(folders):
        windows = _windows(recording)
        chosen = _usable(windows)
        session = sessions.get(recording.patient, 0)
        sessions[recording.patient] = session + 1
        if len(chosen):
            build.add(windows, chosen, 0.0, recording.patient, session)
    return build.task(
        name, "verification", ("ecg",), note="same person in another recording against others"
    )


TASKS: dict[str, tuple[str, Callable[[str, list[Path]], Task | None]]] = {
    "heart rate (ECG)": ("holter_*", _hr_ecg),
    "heart rate (PPG)": (
        "clinic_ppg_bp",
        _patient_label(
            "heart rate", "mae", ("ppg",), lambda r: _number(r, "hr"), "2.1-s recordings"
        ),
    ),
    "heart rate (ICU)": (
        "icu_bidmc",
        _recording_rate(("both", "ecg", "ppg"), "truth: the monitor's mean over the recording"),
    ),
    "heart rate (wrist, motion)": ("wearable_*", _hr_motion),
    "atrial fibrillation": ("holter_*", _af),
    "hypertension": (
        "clinic_ppg_bp",
        _patient_label(
            "hypertension", "auroc", ("ppg",), _hypertension, "stage 1 or 2 against less"
        ),
    ),
    "age": (
        "clinic_ppg_bp",
        _patient_label("age", "mae", ("ppg",), lambda r: _number(r, "age"), "years"),
    ),
    "true ventricular tachycardia": ("icu_alarms_*", _vt),
    "recording quality": ("quality_*", _quality),
    "identity": ("identity_*", _identity),
}


def require_data(data: Path) -> None:
    """Raises DataFault where the folder of real recordings is absent."""
    if not data.is_dir():
        raise DataFault(
            f"The folder of real recordings {data} is absent.",
            cause="absent",
            do="Pass --data FOLDER or set FEDPRINT_DATA.",
        )
