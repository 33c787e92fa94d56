"""Figures of a private head, by sex and by age too, from the noisy histogram that calibrates it.

    found = figures_of(seen, "classes", classes=2, scale=1.0, unit="", draws=500, seed=0)

Nothing here looks at a patient: it is post-processing of a sum that has its noise already, and
costs no further epsilon. The patients behind it took no part in the steps. No figure depends on
what else is read off the sum: rows of their own hold them, whose noise is not that of the rows
which choose the temperature and say whether there are patients enough (a row chosen for what its
noise makes of it would flatter).

A cell of the sum is patients plus Gaussian noise of known deviation. An interval holds both kinds
of chance: each of its draws adds new noise of that deviation and, for the patients, Poisson numbers
in place of the counts; of a number, whose cells hold parts of patients, that is up to twice too
wide. What the noise hides is not given.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from shared_model.heads.manifest import BY_AGE, BY_SEX, FEWEST_IN_GROUP, Figure, Group
from shared_model.intervals import percentiles
from simulations.heads.data import Floats
from simulations.heads.private_calibration import (
    AGE_ROW,
    BINS,
    GROUPS,
    LOGIT_ROW,
    SEX_ROW,
    SURELY,
    WIDEST_ERROR,
    ReadOff,
    own_rows,
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
    """The noisy sum and how to draw others like it. spread: of a cell's noise, in patients."""

    spread: float
    draws: int
    seed: int

    def others(self, cells: Floats) -> Floats:
        """Cells as they might have been: (draw, cell)."""
        rng = np.random.default_rng(self.seed)
        likely, size = np.maximum(cells, 0.0), (self.draws, len(cells))
        noise = self.spread * rng.normal(size=size)
        return np.asarray(cells + noise + rng.poisson(likely, size) - likely)

    def figure(
        self, name: str, cells: Floats, measure: _Measure, top: float, *, patients: float
    ) -> Figure | None:
        """The figure of some cells, kept within 0 and `top`; None if noise hides the patients.

        Args:
            patients: how many there are; by other rows where that can be, or the few that come out
                many are those whose own noise is large.
        """
        if patients < self.fewest(len(cells)):
            return None
        found = interval(measure(cells), np.array([measure(one) for one in self.others(cells)]))
        return _kept(name, found.value, found.low, found.high, top)

    def fewest(self, cells: int) -> float:
        """Patients that cells have to hold before anything is said of them."""
        return max(float(FEWEST_IN_GROUP), SURELY * self.spread * float(np.sqrt(cells)))


def _kept(name: str, value: float, low: float, high: float, top: float) -> Figure | None:
    if not np.isfinite([value, low, high]).all():
        return None
    value, low, high = (float(np.clip(one, 0.0, top)) for one in (value, low, high))
    return Figure.of(name, value, low, high)


def figures_of(
    seen: ReadOff, kind: str, *, classes: int, scale: float, unit: str, draws: int, seed: int
) -> Found:
    """What the summed histogram says of a head.

    Args:
        scale: of a number, public.
    """
    grouped = _Sum(seen.spread / GROUPS, draws, seed)
    by_sex = seen.counts[SEX_ROW][: 2 * len(BY_SEX)]
    by_age = seen.counts[AGE_ROW][: 2 * len(BY_AGE)]
    number = kind == "number"
    largest = WIDEST_ERROR * scale
    main = f"mean absolute error (at most {largest:.3g})" if number else "accuracy"

    def own(cells: Floats, patients: float) -> Figure | None:
        if number:
            measure, top = (lambda c: largest * _wrong(c)), largest
        else:
            measure, top = (lambda c: 1.0 - _wrong(c)), 1.0
        return grouped.figure(main, cells, measure, top, patients=patients)

    made = [own(by_sex, seen.patients)]
    if not number:
        rows = seen.counts[: own_rows(kind)].reshape(-1, classes, BINS)
        of_class = rows.mean(axis=0).sum(axis=1)
        spread = seen.spread * float(np.sqrt(BINS / len(rows)))
        whole = _Sum(spread, draws, seed)
        made.append(_largest(whole, of_class, seen.patients))
        if classes == 2:
            made.insert(0, _auroc(grouped, seen.counts[LOGIT_ROW], whole, of_class))
    groups = [
        _group(name, row[2 * place : 2 * place + 2], own)
        for names, row in ((BY_SEX, by_sex), (BY_AGE, by_age))
        for place, name in enumerate(names)
    ]
    words = (
        f"about {seen.patients:.0f} patients who took no part in the steps, as the histogram of "
        "the calibration tells; a figure with a wide interval leans towards one half"
    )
    if number:
        words = words.partition(";")[0] + f"; an error beyond {largest:.3g} {unit} counts as that"
    if not any(made):
        return Found((), (), "no figure is given here: the histogram's noise hides its patients")
    return Found(tuple(one for one in made if one is not None), tuple(groups), words)


def _group(name: str, cells: Floats, own: Callable[[Floats, float], Figure | None]) -> Group:
    found = own(cells, float(cells.sum()))  # no other row knows the group
    why = "" if found else f"fewer than {FEWEST_IN_GROUP} patients, or fewer than the noise hides"
    return Group(name=name, figures=() if found is None else (found,), why_none=why)


def _wrong(cells: Floats) -> float:
    """Share of the patients' items that is wrong: cells are right, wrong, right, wrong ..."""
    total = float(cells.sum())
    return float(cells[1::2].sum()) / total if total > 0 else float("nan")


def _largest(total: _Sum, of_class: Floats, patients: float) -> Figure | None:
    """Share of the largest class: what always answering it would have right.

    Args:
        of_class: patients of each class, (class,).
    """
    largest = int(of_class.argmax())  # the same in every draw: each draw's own would be too large

    def share(cells: Floats) -> float:
        whole = float(cells.sum())
        return float(cells[largest]) / whole if whole > 0 else float("nan")

    return total.figure("share of the largest class", of_class, share, 1.0, patients=patients)


def _auroc(total: _Sum, cells: Floats, classes: _Sum, of_class: Floats) -> Figure | None:
    """Area under the ROC curve of two classes, from bins of the logit. A tie, two patients in one
    bin, counts one half; the interval is that of no tie won to every tie won.

    Other rows know better how many patients a class has: a class's bins are all moved by the same,
    to that sum. Without it their own noisy sum, a divisor, would pull the area towards one half.

    Args:
        cells: first class's bins, then the second's, with the noise of `total`. of_class: patients
            of each, (class=2,), with that of `classes`.
    """
    if of_class.min() < classes.fewest(1):
        return None
    bins = cells.reshape(2, BINS)
    rng = np.random.default_rng(total.seed)
    likely, size = np.maximum(bins, 0.0), (total.draws, 2, BINS)
    chance = rng.poisson(likely, size) - likely
    others = _moved(
        bins + total.spread * rng.normal(size=size) + chance,
        of_class + classes.spread * rng.normal(size=size[:2]) + chance.sum(axis=2),
    )
    drawn = np.array([_won(one) for one in others])  # (draw, 2)
    lost, won = _won(_moved(bins, of_class))
    low, _ = percentiles(drawn[:, 0])
    _, high = percentiles(drawn[:, 1])
    return _kept("AUROC (from 20 bins)", 0.5 * (lost + won), low, high, 1.0)


def _moved(bins: Floats, sums: Floats) -> Floats:
    """(..., class, bin) with these sums over bins, (..., class)."""
    return np.asarray(bins + (sums - bins.sum(axis=-1))[..., None] / BINS)


def _won(bins: Floats) -> tuple[float, float]:
    """Share of the pairs in which the second class has the higher bin; and with the ties.

    Args:
        bins: (class=2, bin).
    """
    first, second = bins
    if min(first.sum(), second.sum()) <= 0:
        return float("nan"), float("nan")
    pairs = float(first.sum() * second.sum())
    upto = np.cumsum(first)
    return float(second @ (upto - first)) / pairs, float(second @ upto) / pairs
