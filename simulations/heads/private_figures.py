"""Figures of a private head, by sex and by age too, from the noisy histogram that calibrates it.

    found = figures_of(seen, "classes", classes=2, scale=1.0, unit="", draws=500, seed=0)

Nothing here looks at a patient: it is post-processing of a sum that has its noise already, and
costs no privacy. The patients behind it took no part in the steps, and neither accuracy, AUROC nor
mean error depends on the temperature, sets or band that are read off the same sum.

A cell of the sum is patients plus Gaussian noise of known deviation. An interval holds both kinds
of chance: each of its draws adds new noise of that deviation and, for the patients, Poisson numbers
in place of the counts. What the noise drowns is not given.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from shared_model.heads.manifest import FEWEST_IN_GROUP, Figure, Group
from simulations.heads.data import Floats
from simulations.heads.figures import BY_AGE, BY_SEX
from simulations.heads.private_calibration import (
    AGE_ROW,
    BINS,
    FAR_ROW,
    GROUPS,
    SEX_ROW,
    SURELY,
    TEMPERATURES,
    WIDEST_ERROR,
    ReadOff,
)
from simulations.probes.evaluate import interval

_Measure = Callable[[Floats], float]
"""Of cells, (cell,): a figure; NaN where it cannot be had."""


@dataclass(frozen=True)
class Found:
    """figures: of all patients. groups: by sex and by age. words: of whom, for the card."""

    figures: tuple[Figure, ...]
    groups: tuple[Group, ...]
    words: str


@dataclass(frozen=True)
class _Sum:
    """The noisy sum and how to draw others like it."""

    spread: float
    draws: int
    seed: int

    def figure(
        self, name: str, cells: Floats, measure: _Measure, top: float = np.inf
    ) -> Figure | None:
        """The figure of some cells, kept within 0 and `top`; None if noise drowns the patients."""
        if cells.sum() < self.fewest(len(cells)):
            return None
        rng = np.random.default_rng(self.seed)
        likely = np.maximum(cells, 0.0)
        size = (self.draws, len(cells))
        others = cells + self.spread * rng.normal(size=size) + rng.poisson(likely, size) - likely
        drawn = [measure(one) for one in others]
        value = measure(cells)
        found = interval(value, np.array(drawn))
        if not np.isfinite([found.value, found.low, found.high]).all():
            return None
        value, low, high = (
            float(np.clip(one, 0.0, top)) for one in (found.value, found.low, found.high)
        )
        return Figure(name=name, value=value, low=low, high=high)

    def fewest(self, cells: int) -> float:
        """Patients that cells have to hold before anything is said of them."""
        return max(float(FEWEST_IN_GROUP), SURELY * self.spread * float(np.sqrt(cells)))


def figures_of(
    seen: ReadOff, kind: str, *, classes: int, scale: float, unit: str, draws: int, seed: int
) -> Found:
    """What the summed histogram says of a head.

    Args:
        scale: of a number, public.
    """
    total = _Sum(seen.spread, draws, seed)
    grouped = _Sum(seen.spread / GROUPS, draws, seed)
    by_sex = seen.counts[SEX_ROW][: 2 * len(BY_SEX)]
    by_age = seen.counts[AGE_ROW][: 2 * len(BY_AGE)]
    number = kind == "number"
    largest = WIDEST_ERROR * scale

    def own(name: str, cells: Floats) -> Figure | None:
        if number:
            return grouped.figure(name, cells, lambda c: largest * _wrong(c), top=largest)
        return grouped.figure(name, cells, lambda c: 1.0 - _wrong(c), top=1.0)

    main = "mean absolute error" if number else "accuracy"
    made = [own(main, by_sex)]
    if not number:
        rows = seen.counts[:FAR_ROW].reshape(len(TEMPERATURES), classes, BINS)
        made.append(_largest(total, rows.mean(axis=0).sum(axis=1)))
        if classes == 2:
            made.insert(0, _auroc(total, rows[TEMPERATURES.index(seen.temperature)]))
    groups = [
        _group(name, row[2 * place : 2 * place + 2], own, main)
        for names, row in ((BY_SEX, by_sex), (BY_AGE, by_age))
        for place, name in enumerate(names)
    ]
    words = (
        f"about {seen.patients:.0f} patients who took no part in the steps, as the histogram of "
        "the calibration tells"
    )
    if number:
        words += f"; an error beyond {largest:.3g} {unit} counts as that"
    if not any(made):
        return Found((), (), "no figure is given here: the histogram's noise hides its patients")
    return Found(tuple(one for one in made if one is not None), tuple(groups), words)


def _group(
    name: str, cells: Floats, own: Callable[[str, Floats], Figure | None], main: str
) -> Group:
    found = own(main, cells)
    why = "" if found else f"fewer than {FEWEST_IN_GROUP} patients, or fewer than the noise hides"
    return Group(name=name, figures=() if found is None else (found,), why_none=why)


def _wrong(cells: Floats) -> float:
    """Share of the patients' items that is wrong: cells are right, wrong, right, wrong ..."""
    total = float(cells.sum())
    return float(cells[1::2].sum()) / total if total > 0 else float("nan")


def _largest(total: _Sum, of_class: Floats) -> Figure | None:
    """Share of the largest class: what always answering it would have right.

    Args:
        of_class: patients of each class, (class,); a mean over rows, whose noise is smaller than
            is reckoned with here.
    """

    largest = int(
        of_class.argmax()
    )  # the same in every draw: the largest of each would be too large

    def share(cells: Floats) -> float:
        whole = float(cells.sum())
        return float(cells[largest]) / whole if whole > 0 else float("nan")

    wide = _Sum(total.spread * float(np.sqrt(BINS / len(TEMPERATURES))), total.draws, total.seed)
    return wide.figure("share of the largest class", of_class, share, top=1.0)


def _auroc(total: _Sum, of_truth: Floats) -> Figure | None:
    """Area under the ROC curve of two classes, from bins; a tie counts one half.

    Args:
        of_truth: (class=2, bin) of the probability of the true class.
    """
    cells = np.concatenate([of_truth[0][::-1], of_truth[1]])  # both by the second's probability
    if min(of_truth.sum(axis=1)) < total.fewest(BINS):
        return None

    def area(cells: Floats) -> float:
        negative, positive = cells[:BINS], cells[BINS:]
        pairs = float(negative.sum() * positive.sum())
        if min(negative.sum(), positive.sum()) <= 0:
            return float("nan")
        below = np.cumsum(negative) - negative
        return float((positive * (below + 0.5 * negative)).sum()) / pairs

    return total.figure("AUROC", cells, area, top=1.0)
