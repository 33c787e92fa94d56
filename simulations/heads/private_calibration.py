"""Temperature, sets, band and distance of a private head from one noisy histogram.

Other patients than those who fitted give, once and for all (sample rate 1), a histogram each: the
mean over his items of "which bin", in several rows at once:

- classes: for each of a few temperatures, the class and the bin of its probability;
- a number: the bin of the absolute error;
- always: the bin of the Mahalanobis distance from simulated fingerprints;
- his sex, and in a row of its own his age group, with the share of his items that the head has
  wrong (of a number the mean error, as a share of the largest): what the figures of a head are made
  of (`simulations.heads.private_figures`).

A row is a distribution, norm at most its height; divided by the root of the heights' squares they
have norm at most 1 together, which is the clipping norm. The sum over hospitals goes through the
same integers as a round's. Everything read off it afterwards is post-processing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from shared_model import privacy
from shared_model.heads.answers import distances, logits, softmax, standardised
from shared_model.heads.arrays import Head
from shared_model.noise import NoiseSource
from shared_model.weights import Weights
from simulations.heads.figures import BY_AGE, BY_SEX, kinds

if TYPE_CHECKING:
    from shared_model.config import PrivacyPlan
    from simulations.heads.data import Floats, HeadData

TEMPERATURES = (0.5, 0.7, 1.0, 1.4, 2.0)
BINS = 20
WIDEST_ERROR = 3.0
"""Of a number, in its public scale; larger errors are in the last bin."""
DISTANCES = np.geomspace(0.5, 8.0, BINS)
"""Upper edges of the distance's bins; what is beyond the last is in the last."""
SURELY = 3.0
"""Standard deviations of a row's noise that its patients have to exceed."""
NAME = "histogram"


FAR_ROW, SEX_ROW, AGE_ROW = -3, -2, -1
"""Rows that every histogram has, after those of the kind."""
GROUPS = 0.5
"""Height of the rows of sex and age over that of the others: figures have twice the noise, so that
thresholds have little more than without them."""


def rows_of(kind: str) -> int:
    """Rows of the histogram."""
    return (1 if kind == "number" else len(TEMPERATURES)) + 3


def heights(kind: str) -> tuple[Floats, float]:
    """Of the rows, (row, 1), and the root of their squares."""
    made = np.ones((rows_of(kind), 1))
    made[[SEX_ROW, AGE_ROW]] = GROUPS
    return made, float(np.sqrt((made**2).sum()))


def used_of(kind: str, classes: int) -> list[int]:
    """Bins of each row that a patient can be in; the others hold noise alone."""
    own = 1 if kind == "number" else len(TEMPERATURES)
    groups = [2 * len(BY_SEX), 2 * len(BY_AGE)]
    return [BINS * max(1, classes)] * own + [BINS, *groups]


def shape_of(kind: str, classes: int) -> tuple[int, int]:
    """(row, bin); of classes a row has the bins of one class after those of another."""
    return rows_of(kind), BINS * max(1, classes)


def told(head: Head, data: HeadData, scale: float) -> npt.NDArray[np.float64]:
    """Every patient's rows, (patient, row, bin), each of its height's sum; divided so that a
    patient's norm is at most 1.

    Args:
        scale: of a number, public.
    """
    x = standardised(head, data.fingerprints)
    scores = logits(head, x)
    kind = data.kind
    places = [np.minimum(np.searchsorted(DISTANCES, distances(head, x)), BINS - 1)]
    if kind == "number":
        wrong = np.minimum(np.abs(scores[:, 0] - data.truth) / scale / WIDEST_ERROR, 1.0)
        places.insert(0, np.minimum((wrong * BINS).astype(int), BINS - 1))
    else:
        labels = data.truth.astype(int)
        wrong = (scores.argmax(axis=1) != labels).astype(np.float64)
        of_truth = [softmax(scores, t)[np.arange(len(labels)), labels] for t in TEMPERATURES]
        bins = [np.minimum((p * BINS).astype(int), BINS - 1) for p in of_truth]
        places = [*(labels * BINS + place for place in bins), *places]
    people, index = np.unique(data.patient, return_inverse=True)
    made = np.zeros((len(people), *shape_of(kind, len(data.classes))))
    for row, place in enumerate(places):
        np.add.at(made[:, row], (index, place), data.weight)
    groups = np.stack([kept for _, kept in kinds(data)])  # (group, item)
    for row, few in ((SEX_ROW, groups[: len(BY_SEX)]), (AGE_ROW, groups[len(BY_SEX) :])):
        place = 2 * few.argmax(axis=0)
        np.add.at(made[:, row], (index, place), data.weight * (1.0 - wrong))
        np.add.at(made[:, row], (index, place + 1), data.weight * wrong)
    height, norm = heights(kind)
    return np.asarray(made * height / norm)


def contribution(rows: npt.NDArray[np.float64], plan: PrivacyPlan, noise: NoiseSource) -> Weights:
    """A hospital's part: clipped and summed; in mode local with its noise, float32."""
    flat = torch.from_numpy(rows.reshape(len(rows), rows.shape[1] * rows.shape[2]))
    total = privacy.clip_and_sum({NAME: flat}, plan.clipping_norm)
    if plan.mode == "distributed":
        return {NAME: total.reshape(rows.shape[1:])}
    noisy = privacy.noisy_mean(total, plan, 1, noise)  # rate 1, one "patient": the sum itself
    return {NAME: noisy.reshape(rows.shape[1:])}


@dataclass(frozen=True)
class ReadOff:
    """What the noisy histogram says. patients: how many it holds, noisy. spread: standard deviation
    of one bin's noise, in patients; of the rows of sex and age 1 / GROUPS times as much."""

    temperature: float
    least: tuple[float, ...]
    half_width: float
    far: float
    patients: float
    spread: float
    counts: Floats = field(repr=False)


def read_off(
    noisy: npt.NDArray[np.float64],
    kind: str,
    *,
    level: float,
    promise: str,
    far_level: float,
    scale: float,
    noise_std: float,
) -> ReadOff:
    """Post-processing of the summed histogram (row, bin), as it came out of the sum.

    Quantiles are taken one standard deviation of their noise to the careful side; what the noise
    drowns gives the widest answer: sets of all classes, a band of the largest error.

    Args:
        noise_std: of each entry, known from the mechanism.
    """
    height, norm = heights(kind)
    counts = noisy * norm / height
    spread = noise_std * norm
    classes = counts.shape[1] // BINS
    told = [row[:used].sum() for row, used in zip(counts, used_of(kind, classes), strict=True)]
    patients = max(float(np.average(told, weights=height[:, 0] ** 2)), 1.0)
    far = _edge(counts[FAR_ROW][:BINS], far_level, patients, spread)
    far_limit = float(DISTANCES[far])
    if kind == "number":
        place = _edge(counts[0], level, patients, spread)
        half = (place + 1) / BINS * WIDEST_ERROR * scale
        return ReadOff(1.0, (), half, far_limit, patients, spread, counts)
    centres = (np.arange(BINS) + 0.5) / BINS
    by_class = counts[:FAR_ROW].reshape(len(TEMPERATURES), -1, BINS)  # (temperature, class, bin)
    best = int(np.argmin(-(by_class * np.log(centres)).sum(axis=(1, 2))))
    rows = by_class[best][:, ::-1]  # from sure to unsure
    if promise == "overall":
        found = [_least(rows.sum(axis=0), level, spread * np.sqrt(len(rows)))] * len(rows)
    else:
        found = [_least(row, level, spread) for row in rows]
    return ReadOff(TEMPERATURES[best], tuple(found), 0.0, far_limit, patients, spread, counts)


def _least(row: Floats, level: float, spread: float) -> float:
    """Least probability of a class from its bins, the surest first."""
    place = _edge(row, level, max(float(row.sum()), 1.0), spread)
    return max(0.0, 1.0 - (place + 1) / BINS)


def _edge(row: Floats, level: float, patients: float, spread: float) -> int:
    """First bin at whose end `level` of the patients, and one more, are reached beyond the noise;
    the last one where that is nowhere, or where the patients themselves may be noise."""
    if patients < SURELY * spread * float(np.sqrt(len(row))):
        return len(row) - 1
    for place in range(len(row)):
        reached = float(row[: place + 1].sum()) - spread * float(np.sqrt(place + 1))
        if reached >= level * (patients + 1.0):
            return place
    return len(row) - 1


def summed_histogram(parts: Sequence[npt.NDArray[np.float64]]) -> Floats:
    """Without noise, for tests: the sum over hospitals and patients, (row, bin)."""
    return np.asarray(sum(part.sum(axis=0) for part in parts))
