"""What makes the tasks of heads out of recordings, where the probes' own makers are not enough."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from client.fingerprints import SENSORS
from client.records import Recording
from shared_model.config import WINDOW_S
from shared_model.windows import Windows
from simulations.probes import tasks as known
from simulations.probes import truths
from simulations.probes.task import Builder, Task, usable, windows_of
from simulations.probes.tasks import Make

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

years = known.patient_label("mae", SENSORS, truths.age, spread=known.AGE_SPREAD)
sex = known.patient_label("auroc", SENSORS, truths.is_male)
hypertension = known.patient_label(
    "auroc", SENSORS, truths.hypertension, "stage 1 or 2 against less"
)
rate_of_patient = known.patient_label(
    "mae", SENSORS, truths.mean_rate, "truth: label hr, else the mean of a reference device", np.inf
)


def _annotated_or_stated(
    kind: str,
    noted: Callable[[Recording, np.ndarray], Sequence[Any] | np.ndarray],
    at: Callable[[Any, float], float],
    said: Callable[[Recording], float],
    note: str,
    labels: str,
) -> Make:
    """One unit a window: of a recording that is annotated by its annotations, of any other by the
    recording's label, which each of its windows has.

    Which of the two holds follows from the recording alone. A choice for all of a folder, by what
    most of it has, would move one patient's truths by another's recordings, and no accountant of a
    training with DP counts that.

    Args:
        noted: of a recording and its annotated beats, what says it of a window; empty where it is
            not annotated. at: what that says of the window that begins there.
    """

    def make(name: str, folders: list[Path], build: Builder) -> Task | None:
        heard, stated = truths.Heard(said), 0
        for recording, windows, beats, chosen in known.holter(folders, build.copies):
            notes = noted(recording, beats)
            whole = truths.NOT_KNOWN if len(notes) else heard(recording)
            for i in chosen:
                truth = at(notes, float(windows.start_s[i])) if len(notes) else whole
                if np.isfinite(truth):
                    build.add(windows, np.array([i]), truth, recording, 0)
            stated += bool(np.isfinite(whole) and len(chosen))
        also = f"; of {stated} recordings without annotations {labels}, for each window"
        return build.task(
            name, kind, SENSORS, note=note + (also if stated else ""), unknown=heard.words
        )

    return make


fibrillation = _annotated_or_stated(
    "auroc",
    lambda recording, _: known.known_rhythms(recording),
    known.af_at,
    truths.atrial_fibrillation,
    "windows wholly in or wholly out of AF",
    "label af or rhythm",
)
rate_of_window = _annotated_or_stated(
    "mae",
    lambda _, beats: beats,
    known.rate_at,
    truths.heart_rate,
    "truth: annotated beats of the window",
    "label hr",
)


def quality(name: str, folders: list[Path], build: Builder) -> Task | None:
    """One item a window of every lead, not gated; each has the experts' word on its recording."""
    heard = truths.Heard(truths.acceptable)
    for recording in known.leads_of(folders, build.copies):
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


def rhythm(name: str, folders: list[Path], build: Builder) -> Task | None:
    """Windows wholly in one annotated rhythm that at least two patients have."""
    found: list[tuple[Recording, Windows, int, str]] = []
    patients: dict[str, set[str]] = defaultdict(set)
    for recording, windows, _, chosen in known.holter(folders, build.copies):
        said = known.known_rhythms(recording)
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
