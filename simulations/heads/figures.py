"""Figures of out-of-fold answers with 95 % bootstrap intervals over patients, and by group."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from client.personal import FEWEST_OF_A_CLASS
from shared_model import intervals
from shared_model.heads.manifest import (
    AGES,
    BY_AGE,
    BY_SEX,
    FEWEST_IN_GROUP,
    CurvePoint,
    Figure,
    Group,
)
from shared_model.heads.stated import (
    ACCURACY_OF_SAME,
    ERROR_OF_SAME,
    NOISY_FIGURES,
    OWN_MEDIAN,
)
from simulations.heads.data import Floats, HeadData
from simulations.probes.evaluate import bootstrap_counts, metric

CURVE_POINTS = 20
CHANCE = 0.5
"""The AUROC of who knows nothing."""
ROUNDING = 1e-9
"""Sums of the same numbers in two orders differ by less."""
WORSE = "WORSE than always the same answer"
NOT_HELD = (
    "whether the error is smaller than that of always the same answer is not said here: the noisy "
    "histogram does not tell that one; rows of held-out patients, in the report that stays with "
    "whoever trained the head, do"
)
"""A number's card without that row's error."""
IN_SET = "truth in the set, "
Measure = Callable[[Floats], float]
"""A figure for some weights of the items, (item,); NaN where it cannot be had."""


@dataclass(frozen=True)
class Measured:
    """Answers of patients left out. shares: (item, class), calibrated without the item's fold; of
    a number (item, 1), the prediction. least: of each class in the conformal set, (item, class), or
    half the band, (item, 1); without the item's fold. always: the same answer, of patients trained
    on, (item,); None where it is not at hand, or nobody may be told."""

    data: HeadData = field(repr=False)
    shares: Floats = field(repr=False)
    least: Floats = field(repr=False)
    counts: Floats = field(repr=False)
    always: Floats | None = field(default=None, repr=False)

    @classmethod
    def of(
        cls,
        data: HeadData,
        shares: Floats,
        least: Floats,
        *,
        draws: int,
        seed: int,
        always: Floats | None = None,
    ) -> Measured:
        """With bootstrap samples of the patients."""
        size = int(data.patient.max()) + 1
        known = np.unique(data.patient)
        drawn = bootstrap_counts(len(known), draws, np.random.default_rng(seed))
        counts = np.zeros((draws, size))
        counts[:, known] = drawn
        return cls(data, shares, least, counts, always)

    def figure(
        self,
        name: str,
        measure: Measure,
        kept: Floats | None = None,
        rarest: int | None = None,
    ) -> Figure | None:
        """The figure over all items, or those of `kept` weight; None if it cannot be had.

        Args:
            rarest: patients of the rarest class that it is of; few of them give no interval. None:
                of an AUROC the rarest of all classes, of other figures it does not matter.
        """
        if rarest is None:
            of_all = min(self.data.of_class.values(), default=0)
            rarest = of_all if name == "AUROC" else FEWEST_OF_A_CLASS
        weight = self.data.weight if kept is None else self.data.weight * kept
        value = measure(weight)
        if not np.isfinite(value):
            return None
        low = high = None
        if rarest >= FEWEST_OF_A_CLASS:
            drawn = np.array([measure(weight * row[self.data.patient]) for row in self.counts])
            low, high = ends(drawn)
        return Figure.of(name, float(value), low, high)


def ends(drawn: Floats) -> tuple[float | None, float | None]:
    """Of the 95 % interval of bootstrap samples (draw,); None where that has none."""
    low, high = intervals.ends(drawn)
    return (None, None) if np.isnan(low) else (low, high)


def no_interval_words(data: HeadData, found: Iterable[Figure]) -> str:
    """Which figures have no interval, and of how many patients they are; "" if all have one."""
    counts = data.of_class
    told = []
    for one in found:
        if one.low is None:
            name = one.name.removeprefix(IN_SET)
            rarest = min(counts.values(), default=0)
            if name in counts and name != one.name:
                who = f"{counts[name]} patients"
            elif one.name == "AUROC" and rarest < FEWEST_OF_A_CLASS:
                who = f"{rarest} patients of the rarest class"
            else:
                who = f"{data.patients} patients"
            told.append(f"{one.name} ({who})")
    if not told:
        return ""
    return (
        f"no interval where a class has fewer than {FEWEST_OF_A_CLASS} patients, or drawing the "
        f"patients anew changes nothing: {', '.join(told)}"
    )


def absent_words(data: HeadData) -> str:
    """That nobody measured is of some class; "" if there is somebody of each."""
    absent = [name for name, count in data.of_class.items() if not count]
    return f"not measured: no patient of class {', '.join(absent)}" if absent else ""


def worse_words(
    found: Mapping[str, float | None], kindest: Mapping[str, float | None] | None = None
) -> str:
    """Which figures of a head, by name, are worse than those of always the same answer, which are
    among them; "" if none is. Whether it has learned, the main figure says; where that was not
    measured, the accuracy. Figures within 1e-9 (`ROUNDING`) of the larger one or of 1, or that
    look alike as they are shown, are equal.

    Args:
        kindest: the ends of their intervals that speak for the head (`kindest`), by which it is
            told not to have learned; by default the figures themselves.
    """
    told, _ = _worse_of(found)
    if not told:
        return ""
    _, lost = _worse_of(found if kindest is None else kindest)
    return f"{WORSE}{': not learned, or diverged' if lost else ''} ({'; '.join(told)})"


def kindest(ends: Mapping[str, tuple[float | None, float | None]]) -> dict[str, float | None]:
    """Of low and high by a figure's name, the one that speaks for the head: the error's low, the
    constant's error's high."""
    return {name: low if name in _SMALL_IS_GOOD else high for name, (low, high) in ends.items()}


def kindest_of(found: Iterable[Figure]) -> dict[str, float | None]:
    """`kindest` of figures as a manifest has them."""
    return kindest({one.name: (one.low, one.high) for one in found})


def worse_of(found: Sequence[Figure]) -> str:
    """`worse_words` of figures as a manifest has them, and their intervals."""
    return worse_words({one.name: one.value for one in found}, kindest_of(found))


def _worse_of(found: Mapping[str, float | None]) -> tuple[list[str], bool]:
    """Words; and whether the main figure is among them."""
    value = {name: one for name, one in found.items() if one is not None}
    areas = [name for name in ("AUROC", NOISY_FIGURES[0]) if name in value]
    told = [
        f"{name} {_shown(value[name])}, of chance {_shown(CHANCE)}"
        for name in areas
        if _less(value[name], CHANCE)
    ]
    if _less(value.get(ERROR_OF_SAME, np.inf), value.get("mean absolute error", 0.0)):
        told.append(_against(value, "mean absolute error", ERROR_OF_SAME))
    learned = bool(areas) and not told
    for constant in (ACCURACY_OF_SAME, "share of the largest class"):
        if _less(value.get("accuracy", 1.0), value.get(constant, 0.0)):
            told.append(_against(value, "accuracy", constant))
    return told, bool(told) and not learned


_SMALL_IS_GOOD = ("mean absolute error", ACCURACY_OF_SAME, "share of the largest class")
"""Of the head, and of the constant that it is held against."""


def _against(value: Mapping[str, float], own: str, constant: str) -> str:
    return f"{own} {_shown(value[own])}, {constant} {_shown(value[constant])}"


def _less(one: float, other: float) -> bool:
    """By more than `ROUNDING`, and as both are shown, too."""
    near = math.isclose(one, other, rel_tol=ROUNDING, abs_tol=ROUNDING)
    return one < other and not near and _shown(one) != _shown(other)


def _shown(value: float) -> str:
    return f"{value:.3f}"


def measures(measured: Measured) -> dict[str, Measure]:
    """The figures of a kind of head, by name; the first one is the main one."""
    truth, shares = measured.data.truth, measured.shares
    name, constant = _constant(measured)
    if measured.data.kind == "number":
        error = np.abs(shares[:, 0] - truth)
        return {
            "mean absolute error": lambda w: _mean(error, w),
            name: constant,
            "correlation": lambda w: _correlation(shares[:, 0], truth, w),
            "within the band": lambda w: _mean((error <= measured.least[:, 0]).astype(float), w),
        }
    labels = truth.astype(int)
    right = (shares.argmax(axis=1) == labels).astype(float)
    sets = shares >= measured.least
    rows = np.arange(len(labels))
    answered = (sets.sum(axis=1) == 1) & sets[rows, shares.argmax(axis=1)]
    inside = sets[rows, labels].astype(float)
    return {
        "AUROC": lambda w: auroc(shares, labels, w),
        "accuracy": lambda w: _mean(right, w),
        name: constant,
        "truth in the set": lambda w: _mean(inside, w),
        "answered": lambda w: _mean(answered.astype(float), w),
        "accuracy where answered": lambda w: _mean(right, w * answered),
    }


def _constant(measured: Measured) -> tuple[str, Measure]:
    """What always the same answer would reach; where it is not at hand, what is best in hindsight,
    under a name of its own."""
    truth, always = measured.data.truth, measured.always
    if measured.data.kind == "number":
        said = np.median(truth) if always is None else always
        error = np.abs(truth - said)
        return OWN_MEDIAN if always is None else ERROR_OF_SAME, lambda w: _mean(error, w)
    if always is None:
        return "share of the largest class", lambda w: _largest(truth.astype(int), w)
    right = (truth == always).astype(float)
    return ACCURACY_OF_SAME, lambda w: _mean(right, w)


def auroc(shares: Floats, labels: Floats, weight: Floats) -> float:
    """Area under the ROC curve; of more than two classes the mean of one against the rest."""
    classes = shares.shape[1]
    asked = [1] if classes == 2 else range(classes)
    found = [
        metric("auroc", (labels == one).astype(np.float64), shares[:, one], weight) for one in asked
    ]
    return float(np.mean(found)) if np.isfinite(found).all() else float("nan")


def figures(measured: Measured) -> tuple[Figure, ...]:
    """All of them, of all patients; and of each class whether its truth is in the set."""
    counts = measured.data.of_class
    found = [measured.figure(name, one) for name, one in measures(measured).items()]
    if measured.data.kind == "classes":
        inside = measures(measured)["truth in the set"]
        for place, name in enumerate(measured.data.classes):
            kept = (measured.data.truth == place).astype(np.float64)
            found.append(measured.figure(f"{IN_SET}{name}"[:64], inside, kept, counts[name]))
    return tuple(one for one in found if one is not None)


def groups(measured: Measured) -> tuple[Group, ...]:
    """The main figure by sex and by age; none of fewer than 20 patients, no AUROC where a class
    has few of them."""
    return tuple(_group(measured, name, kept) for name, kept in kinds(measured.data) if kept.any())


def kinds(data: HeadData) -> Iterator[tuple[str, Floats]]:
    """Groups by sex, then by age; every item is in one of each: name, 1 or 0 (item,)."""
    sex, age = data.people.sex[data.patient], data.people.age[data.patient]
    for letter, name in zip("FM", BY_SEX, strict=False):
        yield name, (sex == letter).astype(np.float64)
    yield BY_SEX[-1], (~np.isin(sex, ("F", "M"))).astype(np.float64)
    known = np.zeros(len(age), dtype=np.bool_)
    for low, high, name in AGES:
        with np.errstate(invalid="ignore"):
            inside = (age >= low) & (age < high)
        known |= inside
        yield name, inside.astype(np.float64)
    yield BY_AGE[-1], (~known).astype(np.float64)


def _group(measured: Measured, name: str, kept: Floats) -> Group:
    patients = len(np.unique(measured.data.patient[kept > 0]))
    if patients < FEWEST_IN_GROUP:
        why = f"fewer than {FEWEST_IN_GROUP} patients: too few"
        return Group(name=name, figures=(), why_none=why)
    wanted = list(measures(measured).items())
    main = [wanted[0], *(one for one in wanted if one[0] in {"accuracy", "within the band"})]
    if measured.data.kind == "classes" and _rarest(measured.data, kept) < FEWEST_OF_A_CLASS:
        main = main[1:]
    found = [measured.figure(figure, one, kept) for figure, one in main]
    made = tuple(one for one in found if one is not None)
    why = "" if made else "a class is absent in this group"
    return Group(name=name, figures=made, why_none=why)


def _rarest(data: HeadData, kept: Floats) -> int:
    """Patients of the rarest class in a group."""
    return min(
        int(np.unique(data.patient[(kept > 0) & (data.truth == place)]).size)
        for place in range(len(data.classes))
    )


def answered_curve(measured: Measured) -> tuple[CurvePoint, ...]:
    """Accuracy of the most confident share of the items, for 5 % to 100 % of them."""
    data, shares = measured.data, measured.shares
    confidence = shares.max(axis=1)
    right = (shares.argmax(axis=1) == data.truth.astype(int)).astype(np.float64)
    order = np.argsort(-confidence, kind="stable")
    total = data.weight.sum()
    reached = np.cumsum(data.weight[order]) / total
    points = []
    for share in np.linspace(1.0 / CURVE_POINTS, 1.0, CURVE_POINTS):
        kept = np.zeros(len(order))
        kept[order[: int(np.searchsorted(reached, share - 1e-9)) + 1]] = 1.0
        found = measured.figure("accuracy", lambda w: _mean(right, w), kept)
        if found is not None:
            points.append(CurvePoint(x=float(share), y=found.value, low=found.low, high=found.high))
    return tuple(points)


def _mean(values: Floats, weight: Floats) -> float:
    """Weighted mean; rounding must not carry it beyond the values. NaN without weight."""
    total = float(weight.sum())
    if total <= 0:
        return float("nan")
    return float(np.clip(float(values @ weight) / total, values.min(), values.max()))


def _largest(labels: Floats, weight: Floats) -> float:
    total = float(weight.sum())
    if total <= 0:
        return float("nan")
    return min(1.0, float(np.bincount(labels, weights=weight).max()) / total)


def _correlation(first: Floats, second: Floats, weight: Floats) -> float:
    a, b = first - _mean(first, weight), second - _mean(second, weight)
    size = float(np.sqrt((weight @ a**2) * (weight @ b**2)))
    return float(np.clip(weight @ (a * b) / size, -1.0, 1.0)) if size > 0 else float("nan")
