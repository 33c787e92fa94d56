"""Standardisation and a linear model, chosen by cross-validation that is grouped by patient.

Every patient weighs the same, whatever the number of items. Classes: multinomial logistic
regression, chosen by the log loss (no class weights: the probabilities are meant as such). Numbers:
ridge regression, chosen by the mean absolute error. Scikit-learn fits; what is kept is plain arrays
of numbers on the fingerprint.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from shared_model.heads import distance as far
from simulations.heads.data import Floats, HeadData, Places

STRENGTHS = {"classes": (0.001, 0.01, 0.1, 1.0, 10.0), "number": (1.0, 10.0, 100.0, 1000.0)}
"""C of the logistic regression; alpha of the ridge."""
INNER_FOLDS = 3
_LEAST_SHARE = 1e-12
spread, away = far.spread, far.away


@dataclass(frozen=True)
class Fitted:
    """x = (fingerprint - mean) / scale; outputs = x @ weight.T + bias. float64."""

    mean: Floats = field(repr=False)
    scale: Floats = field(repr=False)
    weight: Floats = field(repr=False)
    bias: Floats = field(repr=False)
    strength: float

    def x(self, fingerprints: npt.NDArray[np.float32]) -> Floats:
        """Standardised, (item, 128)."""
        return np.asarray((fingerprints.astype(np.float64) - self.mean) / self.scale)

    def outputs(self, fingerprints: npt.NDArray[np.float32]) -> Floats:
        """Logits (item, class), or (item, 1)."""
        return np.asarray(self.x(fingerprints) @ self.weight.T + self.bias)


def standardisation(fingerprints: npt.NDArray[np.float32], weight: Floats) -> tuple[Floats, Floats]:
    """Mean and deviation of each feature, patients weighing the same; a constant one gets 1."""
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(fingerprints.astype(np.float64), sample_weight=weight)
    scale = np.where(scaler.scale_ > 1e-6, scaler.scale_, 1.0)
    return np.asarray(scaler.mean_), np.asarray(scale)


def splits(data: HeadData, folds: int, seed: int) -> list[tuple[Places, Places]]:
    """Folds that share no patient; of classes, each has its share of every class, as far as there
    are items of it: a class with fewer items than folds is in some of them only (`rare_words`)."""
    from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

    count = min(folds, data.patients)
    if data.kind == "classes":
        most = int(np.bincount(data.truth.astype(int)).max())
        count = min(count, max(2, most))  # with fewer items of every class none can be shared out
        if most >= count:
            splitter = StratifiedGroupKFold(n_splits=count, shuffle=True, random_state=seed)
            with warnings.catch_warnings():
                # of a rare class; it is said in the head's notes, in words and with its name
                warnings.filterwarnings("ignore", "The least populated class in y", UserWarning)
                return list(splitter.split(data.fingerprints, data.truth, data.patient))
    whole = GroupKFold(n_splits=count, shuffle=True, random_state=seed)
    return list(whole.split(data.fingerprints, None, data.patient))


def rare_words(data: HeadData, folds: int) -> str:
    """Which classes have fewer patients than folds, in words; "" if none has."""
    rare = [f"{name} ({count})" for name, count in data.of_class.items() if count < folds]
    if not rare:
        return ""
    return (
        f"classes with fewer patients than the {folds} folds asked for: {', '.join(rare)}; some "
        "folds have nobody of them, and their figures are of very few"
    )


def fit(data: HeadData, rows: Places, strength: float) -> Fitted:
    """Fit on some items with one strength of regularisation."""
    from sklearn.linear_model import LogisticRegression, Ridge

    weight, truth = data.weight[rows], data.truth[rows]
    mean, scale = standardisation(data.fingerprints[rows], weight)
    x = (data.fingerprints[rows].astype(np.float64) - mean) / scale
    if data.kind == "number":
        ridge = Ridge(alpha=strength).fit(x, truth, sample_weight=weight)
        return Fitted(mean, scale, ridge.coef_[None], np.array([ridge.intercept_]), strength)
    shape = (len(data.classes), x.shape[1])
    coefficients, bias = np.zeros(shape), np.full(len(data.classes), np.log(_LEAST_SHARE))
    present = np.unique(truth).astype(int)
    if len(present) == 1:  # a fold whose other classes are all in the other part
        bias[present] = 0.0
        return Fitted(mean, scale, coefficients, bias, strength)
    model = LogisticRegression(C=strength, max_iter=2000, tol=1e-5)
    model.fit(x, truth, sample_weight=weight)
    if len(present) == 2:  # scikit-learn keeps the second class's row, of both
        coefficients[present] = np.stack([-0.5 * model.coef_[0], 0.5 * model.coef_[0]])
        bias[present] = np.array([-0.5, 0.5]) * model.intercept_[0]
    else:
        coefficients[present], bias[present] = model.coef_, model.intercept_
    return Fitted(mean, scale, coefficients, bias, strength)


def loss(data: HeadData, rows: Places, outputs: Floats) -> float:
    """What a strength is chosen by, over some items: log loss, or mean absolute error."""
    weight = data.weight[rows]
    if data.kind == "number":
        return float(np.average(np.abs(outputs[:, 0] - data.truth[rows]), weights=weight))
    turned = outputs - outputs.max(axis=1, keepdims=True)
    logs = turned - np.log(np.exp(turned).sum(axis=1, keepdims=True))
    of_truth = logs[np.arange(len(rows)), data.truth[rows].astype(int)]
    return float(np.average(-np.maximum(of_truth, np.log(_LEAST_SHARE)), weights=weight))


def chosen(data: HeadData, rows: Places, seed: int) -> Fitted:
    """Choose the strength by folds within these items, then fit on all of them."""
    part = _only(data, rows)
    inner = splits(part, INNER_FOLDS, seed)
    losses = []
    for strength in STRENGTHS[data.kind]:
        parts = [
            (loss(part, test, fit(part, train, strength).outputs(part.fingerprints[test])), test)
            for train, test in inner
        ]
        sizes = [float(part.weight[test].sum()) for _, test in parts]
        losses.append(float(np.average([value for value, _ in parts], weights=sizes)))
    return fit(data, rows, STRENGTHS[data.kind][int(np.argmin(losses))])


def _only(data: HeadData, rows: Places) -> HeadData:
    """These items alone."""
    from dataclasses import replace

    return replace(
        data,
        fingerprints=data.fingerprints[rows],
        truth=data.truth[rows],
        patient=data.patient[rows],
        session=data.session[rows],
    )


def always(data: HeadData, rows: Places) -> float:
    """What says the same of everybody, of these items: their median, or the place of the class
    that most patients have."""
    truth = data.truth[rows]
    if data.kind == "number":
        return float(np.median(truth))
    return float(np.bincount(truth.astype(int), weights=data.weight[rows]).argmax())


@dataclass(frozen=True)
class OutOfFold:
    """What models answered for patients they had not seen.

    outputs: (item, class) or (item, 1). distance: Mahalanobis per feature, (item,), from the
    patients of the other folds. fold: (item,). always: what `always` says of the other folds,
    (item,); of classes that of all patients: of two that are as large, the other folds' larger one
    is the smaller one of those measured, and nobody would do as badly.
    """

    outputs: Floats = field(repr=False)
    distance: Floats = field(repr=False)
    fold: Places = field(repr=False)
    always: Floats | None = field(default=None, repr=False)


def out_of_fold(data: HeadData, folds: int, seed: int) -> OutOfFold:
    """Outer folds; the strength is chosen anew within each one's training patients."""
    outputs = np.full((len(data.truth), max(1, len(data.classes))), np.nan)
    distance, fold = np.full(len(data.truth), np.nan), np.zeros(len(data.truth), dtype=np.int64)
    everybody = np.arange(len(data.truth))
    same = np.full(len(data.truth), np.nan)
    for number, (train, test) in enumerate(splits(data, folds, seed)):
        fitted = chosen(data, train, seed)
        outputs[test] = fitted.outputs(data.fingerprints[test])
        mean, factor = spread(fitted.x(data.fingerprints[train]), data.weight[train])
        distance[test] = away(fitted.x(data.fingerprints[test]), mean, factor)
        fold[test] = number
        same[test] = always(data, train if data.kind == "number" else everybody)
    return OutOfFold(outputs, distance, fold, same)
