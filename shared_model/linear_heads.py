"""Linear heads on frozen features, by NumPy and SciPy alone: fitted, cross-validated, measured.

    found = cross_validated(features, truth, kind, groups)   # every answer by a head that did not
    found.figures                                            # see that patient; 95 % intervals
    head = fitted(features, truth, kind, found.penalty)

A node has no scikit-learn. Ridge regression in closed form; logistic and multinomial regression by
L-BFGS, both with an L2 penalty on standardised features, none on the intercept (Hastie et al.,
Elements of Statistical Learning, 3.4 and 4.4). Deterministic: folds and bootstrap draw from fixed
public seeds. Nothing here is private: a head is a function of its patients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from shared_model.errors import OurMistake
from shared_model.intervals import ends

Kind = Literal["class", "number"]
Array = npt.NDArray[np.float64]
Groups = npt.NDArray[np.int64]
Score = Callable[[Array, Array], float]
PENALTIES = (0.1, 1.0, 10.0, 100.0, 1000.0)
"""On the sum over items, features of unit variance."""
FOLDS, INNER_FOLDS, DRAWS = 5, 4, 1000
_ITERATIONS = 200


@dataclass(frozen=True)
class LinearHead:
    """mean, scale: (feature,), to standardise. weights: (output, feature). offset: (output,).

    outputs: one for a number; of `kind` "class" one for each class (with two classes as well).
    """

    kind: Kind
    mean: Array = field(repr=False)
    scale: Array = field(repr=False)
    weights: Array = field(repr=False)
    offset: Array = field(repr=False)

    def scores(self, features: npt.ArrayLike) -> Array:
        """(item, output): numbers, or the classes' probabilities."""
        raw = (np.asarray(features, dtype=np.float64) - self.mean) / self.scale
        raw = raw @ self.weights.T + self.offset
        return raw if self.kind == "number" else _softmax(raw)


@dataclass(frozen=True)
class Figure:
    """A measured figure with its 95 % interval over patients; reference: of the same without
    looking at the signal. low, high: NaN where there is no interval (`shared_model.intervals`)."""

    name: str
    value: float
    low: float
    high: float
    reference: float


@dataclass(frozen=True)
class Measured:
    """What cross-validation gives. answers: (item, output), each by a head that was fitted without
    that item's patient. penalty: chosen on all items."""

    figures: tuple[Figure, ...]
    penalty: float
    answers: Array = field(repr=False)


def scaling(values: Array) -> tuple[Array, Array]:
    """Mean and deviation of each feature, (feature,); a constant one gets 1."""
    scale: Array = values.std(0)
    mean: Array = values.mean(0)
    scale[scale <= 1e-12] = 1.0
    return mean, scale


def fitted(features: npt.ArrayLike, truth: Array, kind: Kind, penalty: float) -> LinearHead:
    """The head of all these items.

    Args:
        features: (item, feature). truth: (item,): numbers, or class indices 0 ... as floats.

    Raises:
        OurMistake: shapes differ, a value is not finite, or fewer than two classes.
    """
    values = np.asarray(features, dtype=np.float64)
    if values.ndim != 2 or truth.shape != (len(values),) or len(values) < 2:
        raise OurMistake("Features are (item, feature), truths (item,), two items at least.")
    if not (np.isfinite(values).all() and np.isfinite(truth).all()):
        raise OurMistake("Features or truths are not finite.")
    mean, scale = scaling(values)
    x = (values - mean) / scale
    if kind == "number":
        middle = float(truth.mean())
        square = x.T @ x + penalty * np.eye(x.shape[1])
        weights: Array = np.asarray(np.linalg.solve(square, x.T @ (truth - middle)))
        return LinearHead(kind, mean, scale, weights[None], np.array([middle]))
    return LinearHead(kind, mean, scale, *_multinomial(x, truth.astype(np.int64), penalty))


def cross_validated(features: npt.ArrayLike, truth: Array, kind: Kind, groups: Groups) -> Measured:
    """Out-of-fold answers, the penalty chosen inside each fold's training patients alone.

    Args:
        groups: (item,) patient of each item; a patient is never on both sides of a fold.

    Raises:
        OurMistake: fewer patients than folds, or a class with fewer patients than folds.
    """
    values = np.asarray(features, dtype=np.float64)
    _refuse_thin(truth, kind, groups)
    answers = np.zeros((len(truth), 1 if kind == "number" else int(truth.max()) + 1))
    for inside, outside in folds(truth, kind, groups, FOLDS):
        penalty = _penalty(values[inside], truth[inside], kind, groups[inside])
        head = fitted(values[inside], truth[inside], kind, penalty)
        found = head.scores(values[outside])
        answers[outside, : found.shape[1]] = found
    figures = measured(answers, truth, kind, groups)
    return Measured(figures, _penalty(values, truth, kind, groups), answers)


def measured(answers: Array, truth: Array, kind: Kind, groups: Groups) -> tuple[Figure, ...]:
    """Figures of given answers: whole patients are drawn again for the intervals."""
    rows = [np.flatnonzero(groups == one) for one in np.unique(groups)]
    rng = np.random.default_rng(0)
    draws = [
        np.concatenate([rows[one] for one in rng.integers(0, len(rows), len(rows))])
        for _ in range(DRAWS)
    ]
    if kind == "number":
        middle = np.full((len(truth), 1), np.median(truth))
        return (
            _figure("mean absolute error", _error, answers, truth, draws, _error(middle, truth)),
            _figure("correlation", _correlation, answers, truth, draws, 0.0),
        )
    most = float(np.bincount(truth.astype(np.int64)).max()) / len(truth)
    return (
        _figure("AUROC", auroc, answers, truth, draws, 0.5),
        _figure("accuracy", _accuracy, answers, truth, draws, most),
    )


def auroc(answers: Array, truth: Array) -> float:
    """Area under the ROC curve by ranks (Mann and Whitney); of more classes the mean over one
    against the rest; NaN if a class is absent."""
    from scipy.stats import rankdata

    classes = [1] if answers.shape[1] == 2 else list(range(answers.shape[1]))
    areas = []
    for one in classes:
        positive = truth == one
        count, rest = int(positive.sum()), int((~positive).sum())
        if not count or not rest:
            return float("nan")
        ranks = rankdata(answers[:, one])
        areas.append((float(ranks[positive].sum()) - count * (count + 1) / 2) / (count * rest))
    return float(np.mean(areas))


def folds(
    truth: Array, kind: Kind, groups: Groups, count: int
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """(training items, test items) of each fold: patients dealt out at random, of each class (that
    of a patient's first item) in turn, so that every fold has its share."""
    people, first = np.unique(groups, return_index=True)
    order = np.random.default_rng(1).permutation(len(people))
    if kind == "class":
        order = order[np.argsort(truth[first][order], kind="stable")]
    place = np.empty(len(people), dtype=np.int64)
    place[order] = np.arange(len(people)) % count
    fold = place[np.searchsorted(people, groups)]
    for number in range(count):
        yield np.flatnonzero(fold != number), np.flatnonzero(fold == number)


def _refuse_thin(truth: Array, kind: Kind, groups: Groups) -> None:
    people, first = np.unique(groups, return_index=True)
    fewest = len(people)
    if kind == "class":
        counts = np.bincount(truth[first].astype(np.int64))
        fewest = int(counts.min()) if len(counts) > 1 else 0
    if fewest < FOLDS:
        raise OurMistake(f"Cross-validation needs {FOLDS} patients, of each class, at least.")


def _penalty(values: Array, truth: Array, kind: Kind, groups: Groups) -> float:
    """That of the smallest loss on patients left out; the larger of two equals."""
    losses = []
    for penalty in PENALTIES:
        total = 0.0
        for inside, outside in folds(truth, kind, groups, INNER_FOLDS):
            scores = fitted(values[inside], truth[inside], kind, penalty).scores(values[outside])
            total += _loss(scores, truth[outside], kind)
        losses.append(total)
    return max(p for p, loss in zip(PENALTIES, losses, strict=True) if loss == min(losses))


def _loss(scores: Array, truth: Array, kind: Kind) -> float:
    if kind == "number":
        return float(np.square(scores[:, 0] - truth).sum())
    own = scores[np.arange(len(truth)), np.minimum(truth.astype(np.int64), scores.shape[1] - 1)]
    return float(-np.log(np.clip(own, 1e-12, 1.0)).sum())


def _multinomial(x: Array, truth: npt.NDArray[np.int64], penalty: float) -> tuple[Array, Array]:
    from scipy.optimize import minimize

    classes, size = int(truth.max()) + 1, x.shape[1]
    if len(np.unique(truth)) < 2:
        raise OurMistake("There is one class only.")
    own = np.eye(classes)[truth]  # (item, class)

    def loss(flat: Array) -> tuple[float, Array]:
        parameters = flat.reshape(classes, size + 1)
        weights = parameters[:, :size]
        chance = _softmax(x @ weights.T + parameters[:, size])
        value = -np.log(np.clip((chance * own).sum(1), 1e-300, 1.0)).sum()
        slope = np.empty_like(parameters)
        slope[:, :size] = (chance - own).T @ x + penalty * weights
        slope[:, size] = (chance - own).sum(0)
        return float(value + 0.5 * penalty * np.square(weights).sum()), slope.ravel()

    start = np.zeros(classes * (size + 1))
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": _ITERATIONS})
    parameters = found.x.reshape(classes, size + 1)
    return parameters[:, :size].copy(), parameters[:, size].copy()


def _softmax(raw: Array) -> Array:
    exp = np.exp(raw - raw.max(axis=1, keepdims=True))
    made: Array = exp / exp.sum(axis=1, keepdims=True)
    return made


def _figure(
    name: str, of: Score, answers: Array, truth: Array, draws: Sequence[Groups], reference: float
) -> Figure:
    low, high = ends([of(answers[rows], truth[rows]) for rows in draws])
    return Figure(name, float(of(answers, truth)), low, high, float(reference))


def _error(answers: Array, truth: Array) -> float:
    return float(np.abs(answers[:, 0] - truth).mean())


def _correlation(answers: Array, truth: Array) -> float:
    if np.ptp(truth) == 0 or np.ptp(answers[:, 0]) == 0:
        return float("nan")
    return float(np.corrcoef(answers[:, 0], truth)[0, 1])


def _accuracy(answers: Array, truth: Array) -> float:
    return float((answers.argmax(1) == truth).mean())
