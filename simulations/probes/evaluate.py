"""Linear probes with patient-disjoint cross-validation and bootstrap over patients.

Protocol: that of PaPaGei (2410.20542, section 4), corrected: StandardScaler and the linear model
are fitted on training patients only; the regularisation is chosen by an inner cross-validation that
is grouped by patient too; every interval is a percentile bootstrap over patients of the pooled
out-of-fold predictions; all rows share folds and bootstrap draws, so differences are paired. The
table (`simulations.probes.table`) averages several partitions into folds.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field

import numpy as np
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GroupKFold, StratifiedGroupKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from shared_model.errors import OurMistake
from shared_model.intervals import ends

RIDGE_ALPHAS = (1.0, 10.0, 100.0, 1000.0)
LOGISTIC_CS = (0.001, 0.01, 0.1, 1.0)
_STRONGEST = {"mae": -1, "auroc": 0}
"""Place of the strongest regularisation among these."""
_MOST_WEIGHTS = 2_000_000
"""Weights of bootstrap samples in memory at once."""


@dataclass(frozen=True)
class Prediction:
    """Out-of-fold outputs of one row on one task.

    truth, score: float64 (item,); group: patient index (item,).
    kind: "auroc", "mae" or "verification" (an item is a pair of recordings, `group` (item, 2)).
    """

    kind: str
    truth: np.ndarray = field(repr=False)
    score: np.ndarray = field(repr=False)
    group: np.ndarray = field(repr=False)

    @property
    def patients(self) -> int:
        return int(np.unique(self.group).size)


@dataclass(frozen=True)
class Estimate:
    """A metric with its 95 % bootstrap interval over patients; its ends are NaN without one."""

    value: float
    low: float
    high: float


def metric(kind: str, truth: np.ndarray, score: np.ndarray, weight: np.ndarray) -> float:
    """AUROC (weighted) or mean absolute error (weighted); NaN if one class is absent."""
    if kind == "mae":
        return float(np.average(np.abs(truth - score), weights=weight))
    _, rank = np.unique(score, return_inverse=True)
    return _auroc(truth, rank, weight)


def _auroc(truth: np.ndarray, rank: np.ndarray, weight: np.ndarray) -> float:
    """Weighted area under the ROC curve from dense ranks; ties count one half."""
    return float(_aurocs(truth, rank, weight[None])[0])


def _aurocs(truth: np.ndarray, rank: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The same for rows of weights (draw, item): (draw,); NaN where a class has no weight."""
    order = np.argsort(rank, kind="stable")
    starts = np.flatnonzero(np.diff(rank[order], prepend=-1))
    sides = [weights[:, order] * side[order] for side in (truth, 1.0 - truth)]
    positive, negative = (np.add.reduceat(side, starts, axis=1) for side in sides)
    pairs = positive.sum(axis=1) * negative.sum(axis=1)
    below = np.cumsum(negative, axis=1) - negative
    wins = (positive * (below + 0.5 * negative)).sum(axis=1)
    share = np.minimum(wins / np.where(pairs > 0, pairs, 1.0), 1.0)  # the sums are rounded
    return np.where(pairs > 0, share, np.nan)


def skill(kind: str, value: float, baseline: float) -> float:
    """One scale for all tasks: 0 = knows nothing, 1 = perfect.

    AUROC: 2 (AUROC - 0.5). Mean absolute error: 1 - MAE / MAE of always predicting the median.
    """
    if kind == "mae":
        return 1.0 - value / baseline
    return 2.0 * (value - 0.5)


def bootstrap_counts(patients: int, draws: int, rng: np.random.Generator) -> np.ndarray:
    """How often each patient is in each bootstrap sample: (draw, patient)."""
    chosen = rng.integers(0, patients, size=(draws, patients))
    return np.stack([np.bincount(row, minlength=patients) for row in chosen]).astype(np.float64)


def bootstrap(prediction: Prediction, counts: np.ndarray) -> np.ndarray:
    """The metric in every bootstrap sample of patients: (draw,)."""
    values = np.empty(len(counts))
    _, rank = np.unique(prediction.score, return_inverse=True)
    error = np.abs(prediction.truth - prediction.score)
    block = max(1, _MOST_WEIGHTS // max(1, len(error)))
    for start in range(0, len(counts), block):
        part = slice(start, start + block)
        weight = counts[part][:, prediction.group]  # (draw, item), or (draw, item, 2)
        if weight.ndim == 3:
            own = (
                prediction.group[:, 0] == prediction.group[:, 1]
            )  # once for each draw of the person
            weight = np.where(own, weight[..., 0], weight.prod(axis=2))
        if prediction.kind == "mae":
            values[part] = (weight * error).sum(axis=1) / weight.sum(axis=1)
        else:
            values[part] = _aurocs(prediction.truth, rank, weight)
    return values


def estimate(prediction: Prediction, counts: np.ndarray) -> Estimate:
    """The metric on all patients and its percentile interval."""
    ones = np.ones(len(prediction.truth))
    value = metric(prediction.kind, prediction.truth, prediction.score, ones)
    return interval(value, bootstrap(prediction, counts))


def interval(value: float, draws: np.ndarray) -> Estimate:
    """Percentile interval; none where all draws are the same (`shared_model.intervals`)."""
    return Estimate(value, *ends(draws))


def around(value: float, draws: np.ndarray, *, few: bool) -> Estimate:
    """The same; of too few patients without an interval."""
    return Estimate(value, math.nan, math.nan) if few else interval(value, draws)


def out_of_fold(
    features: np.ndarray, truth: np.ndarray, group: np.ndarray, *, kind: str, folds: int, seed: int
) -> Prediction:
    """Pooled predictions for patients that the probe has not seen.

    Args:
        features: (item, feature); truth: (item,); group: patient index (item,).
        kind: "auroc" (truth 0/1) or "mae".
        folds: number of patient-disjoint folds; for "auroc" stratified by class.

    Raises:
        OurMistake: fewer patients (or patients of a class) than folds, or a fold leaves one class
            alone to train on.
    """
    require_folds(truth, group, kind=kind, folds=folds, seed=seed)
    score = np.full(len(truth), np.nan)
    for train, test in _splits(features, truth, group, kind, folds, seed):
        model = _fit(features[train], truth[train], group[train], kind, seed)
        score[test] = _predict(model, features[test], kind)
    return Prediction(kind=kind, truth=truth.astype(np.float64), score=score, group=group)


def require_folds(
    truth: np.ndarray, group: np.ndarray, *, kind: str, folds: int, seed: int
) -> None:
    """Whether the patients can be shared out so; which features they have does not matter.

    Raises:
        OurMistake: see `out_of_fold`.
    """
    if np.unique(group).size < folds:
        raise OurMistake("A probe needs at least as many patients as folds.")
    nothing = np.zeros((len(truth), 1))
    for train, _ in _splits(nothing, truth, group, kind, folds, seed):
        if kind == "auroc" and np.unique(truth[train]).size < 2:
            raise OurMistake("A fold leaves patients of one class alone to train on.")


def verification(features: np.ndarray, group: np.ndarray, session: np.ndarray) -> Prediction:
    """Same person or not, for all pairs of recordings of different sessions; nothing is fitted
    but the standardisation, which knows no identities.

    Args:
        features: (recording, feature); group: patient index; session: recording order in patient.
    """
    scaled = make_pipeline(*_prepare()).fit_transform(features)
    unit = scaled / np.maximum(np.linalg.norm(scaled, axis=1, keepdims=True), 1e-12)
    first, second = np.triu_indices(len(unit), k=1)
    kept = (group[first] != group[second]) | (session[first] != session[second])
    first, second = first[kept], second[kept]
    same = (group[first] == group[second]).astype(np.float64)
    score = np.einsum("ij,ij->i", unit[first], unit[second])
    return Prediction("verification", same, score, np.stack([group[first], group[second]], axis=1))


def _splits(
    features: np.ndarray, truth: np.ndarray, group: np.ndarray, kind: str, folds: int, seed: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    if kind == "auroc":
        splitter = StratifiedGroupKFold(n_splits=folds, shuffle=True, random_state=seed)
    else:
        splitter = GroupKFold(n_splits=folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        # few of a class are said in the task's note, not once for every fold
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        return list(splitter.split(features, truth, group))


def _prepare() -> tuple[SimpleImputer, StandardScaler]:
    """Training medians for missing features, then training mean and deviation."""
    return SimpleImputer(strategy="median", keep_empty_features=True), StandardScaler()


def _candidates(kind: str) -> list[Pipeline]:
    """Unfitted models, one for each strength of regularisation."""
    if kind == "mae":
        return [make_pipeline(*_prepare(), Ridge(alpha=alpha)) for alpha in RIDGE_ALPHAS]
    return [
        make_pipeline(
            *_prepare(), LogisticRegression(C=c, solver="newton-cholesky", class_weight="balanced")
        )
        for c in LOGISTIC_CS
    ]


def _predict(model: Pipeline, features: np.ndarray, kind: str) -> np.ndarray:
    if kind == "mae":
        return np.asarray(model.predict(features), dtype=np.float64)
    return np.asarray(model.predict_proba(features)[:, 1], dtype=np.float64)


def _fit(
    features: np.ndarray, truth: np.ndarray, group: np.ndarray, kind: str, seed: int
) -> Pipeline:
    """Choose the regularisation by grouped inner cross-validation, then fit on everything. Where
    too few patients are there to choose by, it is the strongest."""
    folds = min(3, np.unique(group).size)
    losses = []
    if folds < 2:
        return _candidates(kind)[_STRONGEST[kind]].fit(features, truth)
    for candidate in _candidates(kind):
        score = np.full(len(truth), np.nan)
        for train, test in _splits(features, truth, group, kind, folds, seed):
            if kind == "auroc" and np.unique(truth[train]).size < 2:
                continue
            fitted = candidate.fit(features[train], truth[train])
            score[test] = _predict(fitted, features[test], kind)
        done = np.isfinite(score)
        value = metric(kind, truth[done], score[done], np.ones(int(done.sum())))
        losses.append(value if kind == "mae" else -value)
    chosen = _STRONGEST[kind] if np.isnan(losses).all() else int(np.nanargmin(losses))
    return _candidates(kind)[chosen].fit(features, truth)
