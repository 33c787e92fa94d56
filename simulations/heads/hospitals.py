"""Hospitals whose patients train a head together: real folders, or simulated patients.

hospitals = shared_out(data, count=5, seed=0)        # folders, or patients dealt out
parts = divide(hospitals[0], seed=0)                 # fit, calibrate, measure: no patient twice
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from client.fingerprints import having
from client.policy import rounded_patients
from client.site_fingerprints import seen_with
from shared_model.config import FINGERPRINT_SIZE
from shared_model.errors import DataFault, OurMistake
from simulations.heads.data import HeadData
from simulations.heads.tasks import HeadTask
from simulations.heads.train import plain_name
from simulations.lab.keyed import generator
from simulations.lab.plots_style import counted
from simulations.lots import place_of
from simulations.models import NamedModel
from simulations.probes.task import People

HELD_OUT, CALIBRATE = 0.25, 0.25
"""Share of a hospital's patients that measure; share of the others that calibrate."""
STEPS = (1.0 - HELD_OUT) * (1.0 - CALIBRATE)
"""Share that takes part in the steps: 9 of 16."""
FEWEST = 4
"""Patients of a hospital that take part in the steps."""
_GOLDEN = 0.6180339887498949
_SHUFFLE = 7919.0
"""Of a lot: its later digits, which say nothing of the part that its first ones give."""
Truth = Callable[[npt.NDArray[Any]], npt.NDArray[Any]]
SIMULATED: dict[str, tuple[str, Truth]] = {
    "hypertension": ("hypertension", lambda values: values >= 2),
    "af": ("rhythm", lambda values: values == 1),
    "age": ("age", lambda values: values),
    "heart-rate": ("hr_bpm", lambda values: values),
}
"""Label of the simulator, and the task's truth from it (hypertension 2 is stage 1, rhythm 1 is af).
"""


@dataclass(frozen=True)
class Hospital:
    """A hospital's patients. told: how many it declares (`closed.declared`); None: they are
    counted, of simulated patients and open data."""

    name: str
    fit: HeadData = field(repr=False)
    calibrate: HeadData = field(repr=False)
    measure: HeadData = field(repr=False)
    told: int | None = None

    @property
    def declared(self) -> int:
        """Patients that take part in the steps, rounded as a node's set-up rounds: this number is
        public, and in every manifest."""
        if self.told is not None:
            return steps_of(self.told)
        return rounded_patients(self.fit.patients) if self.fit.patients else 0

    @property
    def everybody(self) -> int:
        """Declared patients of the hospital, which its delta follows from; or counted ones."""
        if self.told is not None:
            return self.told
        return self.fit.patients + self.calibrate.patients + self.measure.patients


def steps_of(declared: int) -> int:
    """How many of a hospital's patients take part in the steps, by its declared number."""
    return rounded_patients(int(declared * STEPS))


def divided(name: str, data: HeadData, seed: int) -> Hospital:
    """Divide patients for good: each has one part only, so that he pays for one of two mechanisms.

    The part follows from the patient's own lot and the seed; so one patient more or less changes
    nobody else's part, without which the two mechanisms would not compose in parallel.

    Raises:
        DataFault: a part has hardly anybody.
    """
    lot = np.mod(data.people.lot + (seed * _GOLDEN) % 1.0, 1.0)  # (patient,)
    held = lot < HELD_OUT
    told = ~held & (lot < HELD_OUT + CALIBRATE * (1.0 - HELD_OUT))
    made = Hospital(name, data.of(~held & ~told), data.of(told), data.of(held))
    if made.declared < FEWEST:  # nobody in another part is no fault: it adds noise alone
        raise DataFault(
            f"Hospital {plain_name(name)} has too few patients to divide.",
            cause="few",
            do=f"{FEWEST} of about half of them have to be left for the steps. Name fewer "
            "hospitals.",
        )
    return made


def without_trained(hospitals: Sequence[Hospital]) -> tuple[list[Hospital], int]:
    """The hospitals, and of the patients who measure none of whom a recording is among those that
    fit or calibrate, under another name, anywhere; and how many are left out so.

    Of figures alone: who fits or calibrates does not change, for with DP he depends on nobody else.
    """
    trained = {
        name for one in hospitals for part in (one.fit, one.calibrate) for name in _names(part)
    }
    made, left_out = [], 0
    for one in hospitals:
        measure = one.measure
        copied = measure.people.copied
        if copied is not None:
            again = np.array([not trained.isdisjoint(others) for others in copied], dtype=bool)
            left_out += int(again[np.unique(measure.patient)].sum())
            measure = measure.of(~again)
        made.append(replace(one, measure=measure))
    return made, left_out


def _names(data: HeadData) -> list[tuple[str, float]]:
    """Folder and lot of each patient of whom there is an item."""
    people = data.people
    return [
        (people.folders[people.folder[one]], float(people.lot[one]))
        for one in np.unique(data.patient)
    ]


def shared_out(
    data: HeadData,
    count: int | None,
    seed: int,
    read: Sequence[Path] = (),
    *,
    named: bool = False,
) -> tuple[list[Hospital], str]:
    """A hospital for each folder; or, asked for more, all patients dealt out at random.

    Args:
        read: folders, each a hospital. named: by who asks, so that one without anybody is a
            mistake; else it is told.

    Returns:
        The hospitals, and in words how real their borders are.

    Raises:
        OurMistake: one folder, and no number of hospitals.
        DataFault: a hospital has too few patients, or one that is named nobody.
    """
    from simulations.heads.closed import refuse_absent

    folders = data.people.folders
    if named and count is None:
        refuse_absent(read, data.people)
    absent = [plain_name(one) for one in map(place_of, read) if one not in folders]
    without = f"; no patient with a label in {', '.join(absent)}" if absent else ""
    if count is None or count == len(folders):
        if len(folders) < 2:
            raise OurMistake(
                "There is one folder of recordings; a federation has several hospitals.",
                do="Say --hospitals N to deal its patients out, or name more folders.",
            )
        made = [
            divided(name, data.of(data.people.folder == place), seed)
            for place, name in enumerate(folders)
        ]
        return made, f"each folder of recordings is a hospital{without}"
    # By each patient's own lot: one patient more or less moves nobody else to another hospital.
    drawn = np.mod(data.people.lot * _SHUFFLE + (seed * _GOLDEN) % 1.0, 1.0)
    dealt = np.minimum((drawn * count).astype(int), count - 1)
    made = [divided(f"part-{place + 1}", data.of(dealt == place), seed) for place in range(count)]
    return made, (
        f"PRETEND HOSPITALS: the patients of {counted(len(folders), 'folder')} dealt out at random "
        f"among {count}; real hospitals differ more{without}"
    )


def simulated(
    task: HeadTask,
    sensors: str,
    model: NamedModel,
    *,
    hospitals: int,
    patients: int,
    windows: int,
    seed: int,
    say: Callable[[str], None] = lambda _: None,
) -> list[Hospital]:
    """Pretend hospitals with patients of the cohort simulator.

    Raises:
        OurMistake: the simulator has no truth for this task.
    """
    if task.name not in SIMULATED:
        raise OurMistake(
            f"The simulator has no truth for task {task.name}.",
            do=f"It has: {', '.join(SIMULATED)}.",
        )
    from simulations.cohort import draw_windows, pretend_sites

    made = []
    for place, effects in enumerate(pretend_sites(hospitals)):
        say(f"simulated patients: hospital {place + 1} of {hospitals}")
        rng = generator("head patients", seed, place)
        signal, valid, labels = draw_windows(
            rng, patients * windows, effects=effects, windows_per_patient=windows
        )
        label, truth_of = SIMULATED[task.name]
        data = _pretend(
            task,
            sensors,
            model,
            (signal, valid),
            truth_of(labels[label]).astype(np.float64),
            labels,
        )
        lots = generator("head lots", seed, place).random(patients)
        people = replace(data.people, folders=(effects.name,), lot=lots[: len(data.people.lot)])
        data = replace(data, people=people)
        made.append(divided(effects.name, data, seed))
    return made


def _pretend(
    task: HeadTask,
    sensors: str,
    model: NamedModel,
    seen: tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]],
    truth: npt.NDArray[np.float64],
    labels: dict[str, npt.NDArray[np.generic]],
) -> HeadData:
    patient = labels["patient"].astype(np.int64)
    features = features_of(model, sensors, *seen)
    good = np.isfinite(features).all(axis=1) & np.isfinite(truth)
    count = int(patient.max()) + 1
    _, first = np.unique(patient, return_index=True)
    male, age = labels["male"][first], labels["age"][first].astype(np.float64)
    people = People(
        ("simulated",),
        np.zeros(count, dtype=int),
        np.where(male.astype(bool), "M", "F"),
        age,
        np.zeros(count),
    )
    return HeadData(
        task=task.name,
        kind=task.kind,
        classes=task.classes,
        unit=task.unit,
        item="window",
        sensors=sensors,
        fingerprints=features[good],
        truth=truth[good],
        patient=patient[good],
        session=np.zeros(int(good.sum()), dtype=np.int64),
        people=people,
        windows=int(good.sum()),
        left_out=int((~good).sum()),
        note="SIMULATED PATIENTS: no figure here is of a real one",
        truths="truth: what the simulator drew",
    )


def features_of(
    model: NamedModel,
    sensors: str,
    signal: npt.NDArray[np.float32],
    valid: npt.NDArray[np.bool_],
) -> npt.NDArray[np.float32]:
    """Fingerprints of some sensors, float32 (window, 128); NaN where one of them is missing."""
    from simulations.probes.rows import encoder

    made = np.full((len(signal), FINGERPRINT_SIZE), np.nan, dtype=np.float32)
    encode = encoder(model.config, model.weights)
    made[having(valid, sensors)] = encode(*seen_with(signal, valid, sensors))
    return made


def together(parts: list[HeadData]) -> HeadData:
    """The patients of several hospitals as one group; every patient stays one.

    Raises:
        DataFault: there is nobody.
    """
    parts = [part for part in parts if part.patients]
    if not parts:
        raise DataFault("No patient is left for this.", cause="few", do="Add recordings.")
    shifts = np.cumsum([0, *(int(part.patient.max()) + 1 for part in parts[:-1])])
    names = tuple(name for part in parts for name in part.people.folders)
    unique = tuple(dict.fromkeys(names))
    places = [
        np.array([unique.index(part.people.folders[one]) for one in part.people.folder])
        for part in parts
    ]
    people = People(
        unique,
        np.concatenate(places),
        np.concatenate([part.people.sex for part in parts]),
        np.concatenate([part.people.age for part in parts]),
        np.concatenate([part.people.lot for part in parts]),
    )
    return replace(
        parts[0],
        fingerprints=np.concatenate([part.fingerprints for part in parts]),
        truth=np.concatenate([part.truth for part in parts]),
        patient=np.concatenate(
            [part.patient + shift for part, shift in zip(parts, shifts, strict=True)]
        ),
        session=np.concatenate([part.session for part in parts]),
        people=people,
    )
