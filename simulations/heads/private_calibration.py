"""Temperature, sets, band and distance of a private head from one noisy histogram.

Other patients than those who fitted give, once and for all (sample rate 1), a histogram each: the
mean over his items of "which bin", in several rows at once:

- classes: for each of a few temperatures, the class and the bin of its probability;
- a number: the bin of the absolute error;
- always: the bin of the Mahalanobis distance from simulated fingerprints;
- of two classes, the class and the bin of the logit at temperature 1: for the area under the curve;
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
from shared_model.heads.manifest import BY_SEX, FARTHEST, Hidden
from shared_model.noise import NoiseSource
from shared_model.weights import Weights
from simulations.heads.figures import kinds

if TYPE_CHECKING:
    from shared_model.config import PrivacyPlan
    from simulations.heads.data import Floats, HeadData

TEMPERATURES = (0.5, 0.7, 1.0, 1.4, 2.0)
BINS = 20
WIDEST_ERROR = 3.0
"""Of a number, in its public scale; larger errors are in the last bin."""
DISTANCES = np.geomspace(0.5, FARTHEST, BINS)
"""Upper edges of the distance's bins; what is beyond the last is in the last."""
SURELY = 3.0
"""Standard deviations of noise that patients, or a gain of calibration, have to exceed."""
NAME = "histogram"


LOGIT_ROW, FAR_ROW, SEX_ROW, AGE_ROW = -4, -3, -2, -1
"""After the rows of the kind; the first only of two classes."""
LOGITS = np.array(
    [-6, -4, -3, -2.5, -2, -1.5, -1, -0.5, -0.25, 0, 0.25, 0.5, 1, 1.5, 2, 2.5, 3, 4, 6]
)
"""Inner edges of the logit's bins."""
GROUPS = 0.5
"""Height of the rows for figures alone (logit, sex, age) over that of the others: figures have
twice the noise, so that thresholds have little more than without them."""


def own_rows(kind: str) -> int:
    """Rows that calibrate: of a number one, of classes one a temperature."""
    return 1 if kind == "number" else len(TEMPERATURES)


def rows_of(kind: str, classes: int) -> int:
    """Rows of the histogram."""
    return own_rows(kind) + (4 if classes == 2 else 3)


def heights(kind: str, classes: int) -> tuple[Floats, float]:
    """Of the rows, (row, 1), and the root of their squares."""
    made = np.ones((rows_of(kind, classes), 1))
    made[[SEX_ROW, AGE_ROW]] = GROUPS
    if classes == 2:
        made[LOGIT_ROW] = GROUPS
    return made, float(np.sqrt((made**2).sum()))


def shape_of(kind: str, classes: int) -> tuple[int, int]:
    """(row, bin); of classes a row has the bins of one class after those of another."""
    return rows_of(kind, classes), BINS * max(1, classes)


def told(head: Head, data: HeadData, scale: float) -> npt.NDArray[np.float64]:
    """Every patient's rows, (patient, row, bin), each of its height's sum; divided so that a
    patient's norm is at most 1.

    Args:
        scale: of a number, public.
    """
    good = np.isfinite(data.fingerprints).all(axis=1) & np.isfinite(data.truth)
    weight = np.where(good, data.weight, 0.0)
    truth = np.where(good, data.truth, 0.0)
    x = standardised(head, np.where(good[:, None], data.fingerprints, 0.0).astype(np.float32))
    scores = logits(head, x)
    kind, classes = data.kind, len(data.classes)
    places = [np.minimum(np.searchsorted(DISTANCES, distances(head, x)), BINS - 1)]
    if kind == "number":
        wrong = np.minimum(np.abs(scores[:, 0] - truth) / scale / WIDEST_ERROR, 1.0)
        places.insert(0, np.minimum((wrong * BINS).astype(int), BINS - 1))
    else:
        labels = truth.astype(int)
        wrong = (scores.argmax(axis=1) != labels).astype(np.float64)
        of_truth = [softmax(scores, t)[np.arange(len(labels)), labels] for t in TEMPERATURES]
        bins = [np.minimum((p * BINS).astype(int), BINS - 1) for p in of_truth]
        if classes == 2:
            logit = scores[:, 1] - scores[:, 0]
            places.insert(0, labels * BINS + np.searchsorted(LOGITS, logit, side="right"))
        places = [*(labels * BINS + place for place in bins), *places]
    people, index = np.unique(data.patient, return_inverse=True)
    made = np.zeros((len(people), *shape_of(kind, classes)))
    for row, place in enumerate(places):
        np.add.at(made[:, row], (index, place), weight)
    groups = np.stack([kept for _, kept in kinds(data)])  # (group, item)
    for row, few in ((SEX_ROW, groups[: len(BY_SEX)]), (AGE_ROW, groups[len(BY_SEX) :])):
        place = 2 * few.argmax(axis=0)
        np.add.at(made[:, row], (index, place), weight * (1.0 - wrong))
        np.add.at(made[:, row], (index, place + 1), weight * wrong)
    height, norm = heights(kind, classes)
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
    """What the noisy histogram says. patients: how many it holds, noisy, by the rows that
    calibrate. spread: standard deviation of one bin's noise, in patients; of the rows for figures
    alone 1 / GROUPS times as much. hidden: what the noise left nothing of; temperature, half width
    and distance are then those of nobody."""

    temperature: float
    least: tuple[float, ...]
    half_width: float
    far: float
    patients: float
    spread: float
    hidden: tuple[Hidden, ...]
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
    drowns is said to be hidden, or gives sets of all classes.

    Args:
        noise_std: of each entry, known from the mechanism.
    """
    classes = 0 if kind == "number" else noisy.shape[1] // BINS
    height, norm = heights(kind, classes)
    counts = noisy * norm / height
    spread = noise_std * norm
    own = counts[: own_rows(kind)]
    told = [*own.sum(axis=1), counts[FAR_ROW][:BINS].sum()]
    patients = max(float(np.mean(told)), 1.0)
    far = _edge(counts[FAR_ROW][:BINS], far_level, patients, spread)
    far_limit = float(DISTANCES[-1 if far is None else far])
    hidden: tuple[Hidden, ...] = ("distance",) if far is None else ()
    if kind == "number":
        place = _edge(counts[0], level, patients, spread)
        half = (BINS if place is None else place + 1) / BINS * WIDEST_ERROR * scale
        hidden = (*hidden, "interval") if place is None else hidden
        return ReadOff(1.0, (), half, far_limit, patients, spread, hidden, counts)
    by_class = own.reshape(len(TEMPERATURES), -1, BINS)  # (temperature, class, bin)
    fitted = _fitted(by_class, spread)
    hidden = (*hidden, "temperature") if fitted is None else hidden
    best = TEMPERATURES.index(1.0) if fitted is None else fitted
    rows = by_class[best][:, ::-1]  # from sure to unsure
    if promise == "overall":
        found = [_least(rows.sum(axis=0), level, spread * np.sqrt(len(rows)))] * len(rows)
    else:
        found = [_least(row, level, spread) for row in rows]
    heat = TEMPERATURES[best]
    return ReadOff(heat, tuple(found), 0.0, far_limit, patients, spread, hidden, counts)


def _fitted(by_class: Floats, spread: float) -> int | None:
    """Place of the temperature under which the truths are likeliest; None where it is not better
    than 1, or 1 than all others, by more than the noise can do.

    Rows of a class hold the same patients, so that only differences between bins count: what all
    bins of a row have in common is its noise.

    Args:
        by_class: (temperature, class, bin), bins of the probability of the truth.
    """
    told = np.log((np.arange(BINS) + 0.5) / BINS)
    told = told - told.mean()
    likely = np.asarray((by_class * told).sum(axis=(1, 2)))
    noise = spread * float(np.sqrt(2 * by_class.shape[1] * (told**2).sum()))  # of a difference
    best, plain = int(likely.argmax()), TEMPERATURES.index(1.0)
    others = np.delete(likely, best) if best == plain else likely[[plain]]
    return best if likely[best] - others.max() > SURELY * noise else None


def _least(row: Floats, level: float, spread: float) -> float:
    """Least probability of a class from its bins, the surest first."""
    place = _edge(row, level, max(float(row.sum()), 1.0), spread)
    return 0.0 if place is None else 1.0 - (place + 1) / BINS


def _edge(row: Floats, level: float, patients: float, spread: float) -> int | None:
    """First bin at whose end `level` of the patients, and one more, are reached beyond the noise.

    None where that is nowhere, where the patients themselves may be noise, and in the last bin,
    which holds all that is larger still and so has no end.
    """
    if patients < SURELY * spread * float(np.sqrt(len(row))):
        return None
    for place in range(len(row) - 1):
        reached = float(row[: place + 1].sum()) - spread * float(np.sqrt(place + 1))
        if reached >= level * (patients + 1.0):
            return place
    return None


def summed_histogram(parts: Sequence[npt.NDArray[np.float64]]) -> Floats:
    """Without noise, for tests: the sum over hospitals and patients, (row, bin)."""
    return np.asarray(sum(part.sum(axis=0) for part in parts))
