"""Patients of the simulator: age, sex, blood pressure, heart rate, rhythm, conduction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulations.cohort_sites import F64, I64, RHYTHMS, WIDE, Acquisition, SiteEffects

BLOCKS = ("none", "rbbb", "lbbb")
HYPERTENSION = ("normal", "prehypertension", "stage1", "stage2")


@dataclass(frozen=True)
class Patients:
    """One entry a patient. Pressures in mmHg, rates in beats/min, times in s."""

    age: F64
    male: NDArray[np.bool_]
    hypertension: I64
    """Index into HYPERTENSION, from sbp and dbp (JNC-7 limits: 120/80, 140/90, 160/100)."""
    sbp: F64
    dbp: F64
    heart_rate: F64
    rhythm: I64
    block: I64
    lvh: NDArray[np.bool_]
    """Left ventricular hypertrophy: high voltage and strain."""
    stiffness: F64
    """Arterial stiffness, about 0 (young, normal pressure) ... 1.5."""
    respiration_hz: F64
    sdnn: F64
    """Standard deviation of sinus beat intervals over their mean."""
    lf_share: F64
    """Share of slow (0.05-0.15 Hz) in sinus variability; the rest is respiratory."""
    qtc_s: F64
    pat_s: F64
    """Time from R peak to the foot of the finger's pulse, without device delay."""


def draw_patients(
    rng: np.random.Generator, count: int, acquisition: Acquisition, effects: SiteEffects | None
) -> Patients:
    """Patients of a site's case mix (None: the wide mix with flat ages)."""
    site = WIDE if effects is None else effects
    if effects is None:
        age = rng.uniform(18.0, 92.0, count)
    else:
        age = np.clip(rng.normal(site.age_mean, site.age_std, count), 18.0, 95.0)
    male = rng.random(count) < 0.52
    # systolic pressure climbs with age, diastolic falls after 60: pulse pressure widens
    ill = rng.random(count) < site.hypertensive * np.clip(0.4 + age / 75.0, 0.3, 1.6)
    sbp = 108 + 0.22 * (age - 20) + rng.normal(0, 9, count)
    sbp += ill * (14 + rng.gamma(2.0, 9.0, count))
    sbp = np.clip(sbp, 82, 215)
    dbp = 68 + 0.35 * (sbp - 120) - 0.1 * np.maximum(age - 60, 0) + rng.normal(0, 6, count)
    dbp = np.clip(dbp, 42, np.minimum(sbp - 18, 125))
    hypertension = np.maximum(
        np.digitize(sbp, [120.0, 140.0, 160.0]), np.digitize(dbp, [80.0, 90.0, 100.0])
    )
    shares = np.array([float(site.rhythms.get(rhythm, 0.0)) for rhythm in RHYTHMS])
    rhythm = _older_are_sicker(rng, rng.choice(len(RHYTHMS), count, p=shares / shares.sum()), age)
    rate = np.exp(rng.normal(np.log(74.0), 0.20, count))
    if effects is None:
        rate = np.where(rng.random(count) < 0.35, rng.uniform(42.0, 130.0, count), rate)
    moving = rng.random(count) < acquisition.exercise
    rate = np.where(moving, rng.uniform(85.0, np.maximum(208.0 - 0.75 * age, 120.0)), rate)
    rate = np.clip(rate, 38.0, 185.0)
    stiffness = np.clip(
        (age - 22) / 65 + 0.008 * (sbp - 118) + rng.normal(0, 0.14, count), 0.0, 1.6
    )
    # shorter with stiffness and pressure (pulse wave velocity), with rate (pre-ejection period)
    pat_s = 0.245 - 0.055 * stiffness - 0.0005 * (sbp - 120) - 0.0003 * (rate - 70)
    pat_s = np.clip(pat_s + rng.normal(0, 0.018, count), 0.10, 0.38)
    # doi 10.1161/01.CIR.93.5.1043: variability falls with age; and with rate
    sdnn = 0.075 * np.exp(-0.014 * (age - 20)) * np.exp(-0.012 * np.maximum(rate - 70, -20))
    # the ventilated, the sedated and many diabetics hardly vary at all
    stiff_heart = rng.random(count) < np.where(age > 45, 0.3, 0.08)
    sdnn *= np.where(stiff_heart, rng.uniform(0.05, 0.4, count), 1.0)
    sdnn = np.clip(sdnn * np.exp(rng.normal(0, 0.55, count)), 0.0015, 0.22)
    block = rng.choice(3, count, p=[0.86, 0.08, 0.06])
    lvh = rng.random(count) < np.where(hypertension >= 2, 0.45, 0.05)
    return Patients(
        age=age,
        male=male,
        hypertension=hypertension,
        sbp=sbp,
        dbp=dbp,
        heart_rate=rate,
        rhythm=rhythm,
        block=block,
        lvh=lvh,
        stiffness=stiffness,
        respiration_hz=np.clip(rng.normal(0.26, 0.06, count) + 0.0012 * (rate - 70), 0.1, 0.7),
        sdnn=sdnn,
        lf_share=np.clip(rng.beta(3.0, 3.0, count) + 0.003 * (age - 50), 0.05, 0.95),
        qtc_s=np.clip(rng.normal(0.415, 0.028, count) + 0.012 * ~male, 0.34, 0.52),
        pat_s=pat_s,
    )


def _older_are_sicker(rng: np.random.Generator, rhythm: I64, age: F64) -> I64:
    """Some rhythms move from the young to the old within a site: AF before 45 is seldom."""
    result = rhythm.copy()
    # patients sorted by noisy age receive rhythms sorted by being ill, ties at random
    noisy = np.argsort(age + rng.normal(0, 28.0, len(age)))
    keys = np.lexsort((rng.random(len(age)), rhythm != 0))
    result[noisy] = rhythm[keys]
    return result


def labels_of(patients: Patients) -> Mapping[str, NDArray[Any]]:
    """Labels a hospital would have, one array a column."""
    return {
        "age": np.round(patients.age),
        "sex": np.where(patients.male, "M", "F"),
        "sbp": np.round(patients.sbp),
        "dbp": np.round(patients.dbp),
        "hypertension": np.array(HYPERTENSION)[patients.hypertension],
        "rhythm": np.array(RHYTHMS)[patients.rhythm],
        "block": np.array(BLOCKS)[patients.block],
        "lvh": patients.lvh.astype(np.int64),
    }
