"""Identity: nothing is fitted but the standardisation and a threshold on the cosine.

Patients are divided; the standardisation and the threshold of each part's pairs come from the
other patients. Pairs are of different recordings. Intervals: bootstrap over patients, a pair
counting as often as both of its patients are drawn.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from shared_model.errors import DataFault
from shared_model.heads.arrays import Head
from shared_model.heads.manifest import (
    FEWEST_IN_GROUP,
    CurvePoint,
    Figure,
    Group,
    Verification,
)
from simulations.heads import figures, fit
from simulations.heads.data import Floats, HeadData, Places
from simulations.heads.missing import not_used
from simulations.probes.evaluate import bootstrap_counts, metric
from simulations.site_mapping import HOW_READ

if TYPE_CHECKING:
    from simulations.heads.train import Asked, Say
    from simulations.models import NamedModel

AIM = 0.01
"""False-accept rate that the threshold is set for."""
POINTS = 41
OF_A_FOLD, FEWEST_FOLDS = 2, 2
"""People with two recordings, for each fold."""


@dataclass(frozen=True)
class Pairs:
    """Cosines of pairs of recordings. same: one person; first, second: patients; each (pair,)."""

    score: Floats = field(repr=False)
    same: Floats = field(repr=False)
    first: Places = field(repr=False)
    second: Places = field(repr=False)

    def weights(self, counts: Floats) -> Floats:
        """Of the pairs in a bootstrap sample: counts (patient,) -> (pair,)."""
        both = counts[self.first] * counts[self.second]
        return np.where(self.same > 0, counts[self.first], both)


def pairs(x: Floats, patient: Places, session: Places) -> Pairs:
    """All pairs of different recordings; x is standardised, (recording, 128)."""
    unit = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    first, second = np.triu_indices(len(unit), k=1)
    kept = (patient[first] != patient[second]) | (session[first] != session[second])
    first, second = first[kept], second[kept]
    score = np.einsum("ij,ij->i", unit[first], unit[second])
    same = (patient[first] == patient[second]).astype(np.float64)
    return Pairs(score, same, patient[first], patient[second])


def rates(found: Pairs, threshold: float, weight: Floats) -> tuple[float, float]:
    """False accepts among pairs of two people, false rejects among pairs of one."""
    other, own = weight * (1.0 - found.same), weight * found.same
    accepted = found.score >= threshold
    if other.sum() == 0 or own.sum() == 0:
        return float("nan"), float("nan")
    accepts, rejects = other @ accepted / other.sum(), own @ ~accepted / own.sum()
    return min(1.0, float(accepts)), min(1.0, float(rejects))


def equal_error(found: Pairs, weight: Floats) -> float:
    """The rate at which both errors are the same, between the two thresholds next to it."""
    order = np.argsort(found.score, kind="stable")
    own = (weight * found.same)[order]
    other = (weight * (1.0 - found.same))[order]
    if own.sum() == 0 or other.sum() == 0:
        return float("nan")
    rejects = np.concatenate([[0.0], np.cumsum(own) / own.sum()])
    accepts = 1.0 - np.concatenate([[0.0], np.cumsum(other) / other.sum()])
    place = int(np.argmax(rejects >= accepts))
    return float(np.clip((rejects[place] + accepts[place]) / 2.0, 0.0, 1.0))


def threshold_for(found: Pairs, aim: float) -> float:
    """Smallest cosine that at most `aim` of the pairs of two people reach."""
    others = np.sort(found.score[found.same == 0])
    place = min(len(others) - 1, int(np.ceil((1.0 - aim) * len(others))))
    return float(np.clip(np.nextafter(others[place], 2.0), -1.0, 1.0))


def train(data: HeadData, model: NamedModel, asked: Asked, say: Say) -> Head:
    """A head of identity.

    Raises:
        DataFault: hardly anybody has two recordings.
    """
    from simulations.heads.train import distance, written

    repeated = int((np.bincount(data.patient) > 1).sum())
    if repeated < OF_A_FOLD * asked.folds:
        raise DataFault(
            f"{repeated} people have two recordings with a fingerprint of sensors {data.sensors}; "
            f"{asked.folds} folds need {OF_A_FOLD * asked.folds}, {OF_A_FOLD} each.",
            cause="few",
            do=not_used(data.unknown, data.unreadable) + _advice(repeated),
        )
    say("pairs of patients left out")
    outside: list[Pairs] = []
    limits: list[Floats] = []
    far, fold = np.full(len(data.patient), np.nan), np.zeros(len(data.patient), dtype=np.int64)
    for number, (rest, test) in enumerate(fit.splits(data, asked.folds, asked.seed)):
        fitted = _standardised(data, rest)
        x = fitted.x(data.fingerprints)
        outside.append(pairs(x[test], data.patient[test], data.session[test]))
        known = pairs(x[rest], data.patient[rest], data.session[rest])
        limits.append(np.full(len(outside[-1].score), threshold_for(known, AIM)))
        centre = fit.spread(x[rest], data.weight[rest])
        far[test], fold[test] = fit.away(x[test], *centre), number
    all_pairs = Pairs(*(np.concatenate([getattr(p, n) for p in outside]) for n in _PARTS))
    everything = _standardised(data, np.arange(len(data.patient)))
    final = pairs(everything.x(data.fingerprints), data.patient, data.session)
    shifted = np.concatenate(limits)
    away = distance(data, fit.OutOfFold(np.zeros((len(far), 1)), far, fold))
    fields = {
        "figures": _figures(data, all_pairs, shifted, asked),
        "groups": _groups(data, all_pairs, shifted, asked),
        "figures_of": "pairs of recordings of patients left out, within their fold; of a group, "
        "pairs of two recordings of its patients",
        "verification": Verification(
            threshold=threshold_for(final, AIM),
            aim=f"set for {AIM:.0%} false accepts among the pairs trained on",
            curve=_curve(all_pairs),
        ),
        "distance": away,
    }
    return written(data, model, asked, everything, fields)


def _advice(repeated: int) -> str:
    """What helps where so many people have two recordings."""
    folds = repeated // OF_A_FOLD
    if folds >= FEWEST_FOLDS:
        return f"--folds {folds} needs no more."
    return (
        "Add recordings of the same people. If they are there, say whose each is: in the column "
        f"`patient_id` of a table of recordings, or in a mapping (docs/data-formats.md). "
        f"{HOW_READ}."
    )


_PARTS = ("score", "same", "first", "second")


def _standardised(data: HeadData, rows: Places) -> fit.Fitted:
    mean, scale = fit.standardisation(data.fingerprints[rows], data.weight[rows])
    return fit.Fitted(mean, scale, np.zeros((0, len(mean))), np.zeros(0), 1.0)


def _figures(data: HeadData, found: Pairs, limits: Floats, asked: Asked) -> tuple[Figure, ...]:
    shifted = Pairs(found.score - limits, found.same, found.first, found.second)
    measures: dict[str, Callable[[Floats], float]] = {
        "AUROC": lambda w: metric("verification", found.same, found.score, w),
        "equal error rate": lambda w: equal_error(found, w),
        "false-accept rate": lambda w: rates(shifted, 0.0, w)[0],
        "false-reject rate": lambda w: rates(shifted, 0.0, w)[1],
    }
    known = np.unique(data.patient)
    counts = np.zeros((asked.draws, int(data.patient.max()) + 1))
    drawn = bootstrap_counts(len(known), asked.draws, np.random.default_rng(asked.seed))
    counts[:, known] = drawn
    made = []
    for name, measure in measures.items():
        value = measure(np.ones(len(found.score)))
        if not np.isfinite(value):
            continue
        low, high = figures.ends(np.array([measure(found.weights(row)) for row in counts]))
        made.append(Figure.of(name, value, low, high))
    return tuple(made)


def _groups(data: HeadData, found: Pairs, limits: Floats, asked: Asked) -> tuple[Group, ...]:
    """The same by sex and by age; none of fewer than 20 patients."""
    made = []
    for name, kept in figures.kinds(data):
        people = np.unique(data.patient[kept > 0])
        if not len(people):
            continue
        rows = np.isin(found.first, people) & np.isin(found.second, people)
        own = Pairs(*(getattr(found, part)[rows] for part in _PARTS))
        if len(people) < FEWEST_IN_GROUP:
            why = f"fewer than {FEWEST_IN_GROUP} patients: too few"
            made.append(Group(name=name, figures=(), why_none=why))
            continue
        got = _figures(data, own, limits[rows], asked) if own.same.any() else ()
        why = "" if got else "nobody here has two recordings"
        made.append(Group(name=name, figures=got, why_none=why))
    return tuple(made)


def _curve(found: Pairs) -> tuple[CurvePoint, ...]:
    """False-reject rate against false-accept rate."""
    ones = np.ones(len(found.score))
    spaced = np.quantile(found.score, np.linspace(0.0, 1.0, POINTS))
    made = []
    for threshold in np.unique(spaced):
        accepts, rejects = rates(found, float(threshold), ones)
        made.append(CurvePoint(x=accepts, y=rejects, low=None, high=None))
    return tuple(made)
