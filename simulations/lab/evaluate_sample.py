"""Whom an evaluation measures: a keyed, bounded choice of patients, and their first windows."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from shared_model.canonical import digest_of
from shared_model.config import TOKENS, WINDOW_SAMPLES
from simulations.lab.data import FederationData
from simulations.lab.experiment import Experiment

WINDOWS = 2
"""Windows of a patient that are looked at, the first ones."""
MOST_OF_A_SITE = 20
"""Patients of a site that are measured for figures by site, when there are more than enough."""
LEAST_OF_A_SITE = 8
"""A site with fewer held-out patients has no figure of its own."""

Index = npt.NDArray[np.int64]


def generator(*purpose: str | int) -> np.random.Generator:
    """A generator that depends on nothing but its purpose."""
    return np.random.Generator(np.random.PCG64(int(digest_of(["lab-evaluation", *purpose]), 16)))


@dataclass(frozen=True)
class Chosen:
    """Rows of the federation's table: who fits probes, who is measured, and who for their site."""

    fitted: Index
    measured: Index
    by_site: Index

    @property
    def rows(self) -> Index:
        """Everybody, once, in the table's order."""
        return np.unique(np.concatenate([self.fitted, self.measured, self.by_site]))


def choose(data: FederationData, experiment: Experiment) -> Chosen:
    """Patients of an evaluation; the same at every round of an experiment.

    Returns:
        At most `most_patients` each of patients that train, of held-out patients, and of held-out
        patients of whole sites in drawn order.
    """
    most = experiment.evaluation.most_patients
    held_out = np.asarray(data.table["held_out"], dtype=bool)
    site = np.asarray(data.table["site"], dtype=np.int64)
    rng = generator("patients", experiment.seed)
    trained = _some(np.flatnonzero(~held_out), most, rng)
    others = np.flatnonzero(held_out)
    measured = _some(others, most, rng)
    return Chosen(trained, measured, _whole_sites(others, site, most, rng))


def _some(rows: Index, most: int, rng: np.random.Generator) -> Index:
    if len(rows) <= most:
        return rows
    return np.sort(rng.choice(rows, size=most, replace=False))


def _whole_sites(rows: Index, site: Index, most: int, rng: np.random.Generator) -> Index:
    """Sites in drawn order, each with its patients (at most 20 if not all fit)."""
    counts = np.bincount(site[rows], minlength=1)
    usable = np.flatnonzero(counts >= LEAST_OF_A_SITE)
    if counts[usable].sum() <= most:
        return rows[np.isin(site[rows], usable)]
    chosen: list[Index] = []
    left = most
    for one in rng.permutation(usable):
        mine = _some(rows[site[rows] == one], MOST_OF_A_SITE, rng)
        if len(mine) > left:
            break
        chosen.append(mine)
        left -= len(mine)
    return np.sort(np.concatenate(chosen)) if chosen else rows[:0]


@dataclass(frozen=True)
class Signals:
    """Windows of some patients; a patient with one has an invalid one at the end.

    rows: (patient,) of the table. signal: float16 (patient, window=2, channel=2, sample=1250);
    valid: bool (patient, window, channel, token=50).
    """

    rows: Index
    signal: npt.NDArray[np.float16] = field(repr=False)
    valid: npt.NDArray[np.bool_] = field(repr=False)

    @classmethod
    def read(cls, data: FederationData, rows: Index) -> Signals:
        """The patients' first windows, copied from the mapped files."""
        signal = np.zeros((len(rows), WINDOWS, 2, WINDOW_SAMPLES), dtype=np.float16)
        valid = np.zeros((len(rows), WINDOWS, 2, TOKENS), dtype=np.bool_)
        for i, row in enumerate(rows):
            first = int(data.table["first"][row])
            count = min(WINDOWS, int(data.table["windows"][row]))
            signal[i, :count] = data.signal[first : first + count]
            valid[i, :count] = data.valid[first : first + count]
        return cls(rows, signal, valid)

    def of(self, rows: Index) -> Signals:
        """Only these patients."""
        at = self.places(rows)
        return Signals(rows, self.signal[at], self.valid[at])

    def places(self, rows: Index) -> Index:
        """Where these rows of the table are in here."""
        return np.searchsorted(self.rows, rows)
