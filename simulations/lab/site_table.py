"""What a federation's sites look like before anything is trained: one row a site."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from simulations.lab.data import FederationData
from simulations.lab.partition import classes

RATES = ("hr_bpm", "hr")
"""Labels that are heart rates in beats/min, the first that is there is shown."""
ALL = "all"


@dataclass(frozen=True)
class SiteRow:
    """One site, or all.

    training, held_out: patients. windows: of both. ecg, ppg: share of windows with that sensor.
    heart_rate: median over patients, beats/min; None: not known of anybody.
    mix: patients by value of the label that is shown. apart: total variation distance of the
        site's mix from that of all (0: the same, 1: nothing in common); None without a label.
    """

    site: str
    training: int
    held_out: int
    windows: int
    ecg: float
    ppg: float
    heart_rate: float | None
    mix: dict[str, int]
    apart: float | None
    about: str = ""


def shown_label(data: FederationData, wanted: str) -> str | None:
    """The label whose mix is shown: the wanted one, else the first of words, else none."""
    words = [name for name in data.labels if data.table[name].dtype.kind in "OU"]
    if wanted in data.labels:
        return wanted
    return words[0] if words else None


def site_rows(data: FederationData, label: str | None) -> tuple[SiteRow, list[SiteRow]]:
    """All patients as one row, and each site.

    Raises:
        OurMistake: the patients have no such label, or it is a measurement.
    """
    labels = {name: data.table[name] for name in data.labels}
    values = None if label is None else classes(labels, label)
    sensors = _sensors(data)
    site = data.table["site"]
    everybody = _row(data, sensors, values, ALL, np.arange(len(site)), "")
    found = []
    for index, info in enumerate(data.sites):
        row = _row(data, sensors, values, info.name, np.flatnonzero(site == index), info.about)
        found.append(_placed(row, everybody))
    return everybody, found


def _sensors(data: FederationData) -> npt.NDArray[np.int64]:
    """Windows with each sensor, (patient, channel); read in stretches."""
    first, windows = data.table["first"], data.table["windows"]
    seen = np.zeros((len(data.valid), 2), dtype=np.int64)
    for start in range(0, len(seen), 65_536):
        seen[start : start + 65_536] = data.valid[start : start + 65_536].any(axis=2)
    total = np.concatenate([np.zeros((1, 2), dtype=np.int64), np.cumsum(seen, axis=0)])
    return np.asarray(total[first + windows] - total[first])


def _row(
    data: FederationData,
    sensors: npt.NDArray[np.int64],
    values: npt.NDArray[Any] | None,
    name: str,
    rows: npt.NDArray[np.int64],
    about: str,
) -> SiteRow:
    held_out = int(data.table["held_out"][rows].sum())
    windows = int(data.table["windows"][rows].sum())
    ecg, ppg = sensors[rows].sum(axis=0) / max(1, windows)
    mix: dict[str, int] = {} if values is None else Counter(values[rows].tolist())
    return SiteRow(
        site=name,
        training=len(rows) - held_out,
        held_out=held_out,
        windows=windows,
        ecg=float(ecg),
        ppg=float(ppg),
        heart_rate=_rate(data, rows),
        mix=dict(sorted(mix.items(), key=lambda one: (-one[1], one[0]))),
        apart=None if values is None else 0.0,
        about=about,
    )


def _rate(data: FederationData, rows: npt.NDArray[np.int64]) -> float | None:
    for name in RATES:
        values = data.table.get(name)
        if values is not None and values.dtype.kind == "f":
            known = values[rows][np.isfinite(values[rows])]
            return float(np.median(known)) if len(known) else None
    return None


def _placed(row: SiteRow, everybody: SiteRow) -> SiteRow:
    """With its distance from all."""
    if row.apart is None:
        return row
    here, there = sum(row.mix.values()), sum(everybody.mix.values())
    gaps = [abs(row.mix.get(one, 0) / here - n / there) for one, n in everybody.mix.items()]
    return replace(row, apart=sum(gaps) / 2)
