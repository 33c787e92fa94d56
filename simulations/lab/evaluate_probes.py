"""Linear probes of frozen fingerprints: fitted on patients that train, measured on held-out ones.

The protocol is that of `simulations.probes.evaluate` (PaPaGei's, 2410.20542, corrected). A
patient's fingerprint is the mean over the windows that have the sensor. For several classes, one
probe for each against the rest, and the mean of their AUROCs (macro).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from shared_model.config import PATCH_SAMPLES
from shared_model.errors import OurMistake
from shared_model.mae import MaskedAutoencoder
from simulations.lab.data import FederationData
from simulations.lab.evaluate_sample import LEAST_OF_A_SITE, Chosen, Index, Signals, generator
from simulations.lab.experiment import Experiment
from simulations.probes.evaluate import Prediction, bootstrap, metric

F64 = npt.NDArray[np.float64]
MOST_CLASSES = 20
WHOLE_NUMBER_CLASSES = 8
LEAST_FITTED, LEAST_MEASURED, LEAST_AT_A_SITE = 6, 4, 3
"""Patients of a class (and not of it) below which there is no figure for it."""
LEAST_PATIENTS = 12
"""Patients with a number below which it is no label."""
LOGISTIC_CS = (0.01, 0.1)
RIDGE_ALPHAS = (1.0, 10.0, 100.0, 1000.0)
_HIDES = {"ecg": 1, "ppg": 0}


@dataclass(frozen=True)
class Label:
    """What a probe predicts.

    kind: "auroc" or "mae". classes: those with enough patients; one alone for a yes or no.
    truth: (row of the table,) number, or index of the class in `names`; NaN where unknown.
    """

    name: str
    kind: str
    classes: tuple[int, ...]
    names: tuple[str, ...]
    truth: F64 = field(repr=False)


def labels_of(
    data: FederationData, experiment: Experiment, chosen: Chosen
) -> tuple[tuple[Label, ...], dict[str, str]]:
    """Labels that can be probed, and why the others (or some of their classes) are left out.

    Raises:
        OurMistake: the experiment asks for a label that the patients do not have.
    """
    asked = experiment.evaluation.probes
    unknown = sorted(set(asked or ()) - set(data.labels))
    if unknown:
        raise OurMistake(
            f"The patients have no label {unknown[0]!r}.",
            do=f"evaluation.probes may name: {', '.join(data.labels) or 'nothing'}.",
        )
    found: list[Label] = []
    left_out: dict[str, str] = {}
    for name in data.labels if asked is None else asked:
        label, why = _label(name, data.table[name], chosen)
        if label is not None:
            found.append(label)
        if why:
            left_out[name] = why
    return tuple(found), left_out


def _label(name: str, values: npt.NDArray[Any], chosen: Chosen) -> tuple[Label | None, str]:
    fitted, measured = chosen.fitted, chosen.measured
    truth, names = _coded(values)
    known = [rows[np.isfinite(truth[rows])] for rows in (fitted, measured)]
    if names is None:
        if min(len(rows) for rows in known) < LEAST_PATIENTS:
            return None, f"fewer than {LEAST_PATIENTS} patients have it on one of the two sides"
        if np.ptp(truth[known[0]]) <= 0 or np.ptp(truth[known[1]]) <= 0:
            return None, "all patients have the same value"
        return Label(name, "mae", (), (), truth), ""
    if len(names) > MOST_CLASSES:
        return None, f"it has {len(names)} values: it names patients rather than classes"
    counts = [np.bincount(truth[rows].astype(int), minlength=len(names)) for rows in known]
    enough = [
        k
        for k in range(len(names))
        if min(counts[0][k], counts[0].sum() - counts[0][k]) >= LEAST_FITTED
        and min(counts[1][k], counts[1].sum() - counts[1][k]) >= LEAST_MEASURED
    ]
    rare = [one for k, one in enumerate(names) if k not in enough]
    if not enough:
        return None, "no two of its values have enough patients"
    classes = (enough[-1],) if len(names) == 2 else tuple(enough)
    why = f"classes with too few patients: {', '.join(rare)}" if rare else ""
    return Label(name, "auroc", classes, names, truth), why


def _coded(values: npt.NDArray[Any]) -> tuple[F64, tuple[str, ...] | None]:
    """Numbers as they are; classes as indices into their names. NaN and "" are unknown."""
    if values.dtype.kind in "OUS":
        words = np.array(["" if value is None else str(value) for value in values])
        known = words != ""
        names, index = np.unique(words[known], return_inverse=True)
        truth = np.full(len(values), np.nan)
        truth[known] = index
        return truth, tuple(names.tolist())
    numbers = values.astype(np.float64)
    known = np.isfinite(numbers)
    levels, index = np.unique(numbers[known], return_inverse=True)
    if len(levels) > WHOLE_NUMBER_CLASSES or bool((levels != np.round(levels)).any()):
        return numbers, None
    truth = np.full(len(values), np.nan)
    truth[known] = index
    return truth, tuple(f"{level:g}" for level in levels)


def patient_fingerprints(
    model: MaskedAutoencoder, signals: Signals, places: Index, sensors: str
) -> npt.NDArray[np.float32]:
    """Mean fingerprint of each patient: (patient, 128); NaN without a window of that sensor."""
    from shared_model.fingerprint import fingerprints

    valid = signals.valid[places].copy()
    if sensors != "both":
        valid[:, :, _HIDES[sensors]] = False
    patient, window = np.nonzero(valid.any((2, 3)))
    known = valid[patient, window]
    signal = signals.signal[places[patient], window].astype(np.float32)
    signal *= np.repeat(known, PATCH_SAMPLES, axis=-1)
    made = fingerprints(model, signal, known, batch_size=len(signal) or 1)
    total = np.zeros((len(places), made.shape[1]))
    np.add.at(total, patient, made.astype(np.float64))
    count = np.bincount(patient, minlength=len(places))[:, None]
    mean = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return mean.astype(np.float32)


@dataclass(frozen=True)
class Scores:
    """Outputs of a label's probes for patients that were not fitted: (class or 1, place)."""

    label: Label
    rows: Index
    values: F64 = field(repr=False)

    def among(self, rows: Index, least: int) -> list[Prediction]:
        """One prediction a class (or one), of those of `rows` that have truth and sensor.

        Classes without `least` patients of both sides are not in it; an empty list says that
        there is no figure.
        """
        at = np.searchsorted(self.rows, rows)
        usable = np.isfinite(self.label.truth[rows]) & np.isfinite(self.values[0, at])
        rows, at = rows[usable], at[usable]
        group = np.arange(len(rows))
        truth = self.label.truth[rows]
        if self.label.kind == "mae":
            if len(rows) < LEAST_OF_A_SITE:
                return []
            return [Prediction("mae", truth, self.values[0, at], group)]
        made = []
        for k, one in enumerate(self.label.classes):
            yes = (truth == one).astype(np.float64)
            if min(yes.sum(), len(yes) - yes.sum()) >= least:
                made.append(Prediction("auroc", yes, self.values[k, at], group))
        return made


def fit(
    label: Label, features: npt.NDArray[np.float32], signals: Signals, chosen: Chosen, seed: int
) -> Scores | None:
    """Fit the label's probes and score everybody else; None if too few have the sensor.

    Args:
        features: (patient of `signals`, 128), NaN where the sensor is missing.
    """
    known = np.isfinite(label.truth[signals.rows]) & np.isfinite(features[:, 0])
    mine = signals.places(chosen.fitted)
    mine = mine[known[mine]]
    rows = np.union1d(chosen.measured, chosen.by_site)
    theirs = signals.places(rows)
    there = np.isfinite(features[theirs, 0])
    truth = label.truth[signals.rows[mine]]
    values = np.full((max(1, len(label.classes)), len(rows)), np.nan)
    if not there.any() or len(mine) < LEAST_PATIENTS:
        return None
    others = features[theirs[there]]
    if label.kind == "mae":
        values[0, there] = _number(features[mine], truth, others)
        return Scores(label, rows, values)
    for k, one in enumerate(label.classes):
        yes = truth == one
        if min(yes.sum(), (~yes).sum()) < LEAST_FITTED:
            return None
        values[k, there] = _chance(features[mine], yes, others, seed)
    return Scores(label, rows, values)


def _number(features: npt.NDArray[np.float32], truth: F64, others: npt.NDArray[np.float32]) -> F64:
    """Ridge regression; its alpha by leaving one training patient out."""
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), RidgeCV(alphas=RIDGE_ALPHAS))
    model.fit(features.astype(np.float64), truth)
    return np.asarray(model.predict(others.astype(np.float64)), dtype=np.float64)


def _chance(
    features: npt.NDArray[np.float32],
    yes: npt.NDArray[np.bool_],
    others: npt.NDArray[np.float32],
    seed: int,
) -> F64:
    """Logistic regression; its C by the AUROC in three folds of training patients."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(features.astype(np.float64))
    mine, theirs = scaler.transform(features), scaler.transform(others)
    folds = list(StratifiedKFold(3, shuffle=True, random_state=seed).split(mine, yes))

    def output(c: float, train: Index, x: F64) -> F64:
        model = LogisticRegression(C=c, solver="newton-cholesky", class_weight="balanced")
        found = model.fit(mine[train], yes[train]).predict_proba(x)[:, 1]
        return np.asarray(found, dtype=np.float64)

    def worth(c: float) -> float:
        score = np.empty(len(yes))
        for train, test in folds:
            score[test] = output(c, train, mine[test])
        return metric("auroc", yes.astype(np.float64), score, np.ones(len(yes)))

    return output(max(LOGISTIC_CS, key=worth), np.arange(len(yes)), theirs)


@dataclass(frozen=True)
class Measured:
    """A metric and its value in every bootstrap sample of patients."""

    value: float
    draws: F64 = field(repr=False)
    patients: int = 0


def measured(predictions: Sequence[Prediction], counts: F64, kind: str) -> Measured:
    """Mean over classes of the metric: "auroc", "mae", or "r" (correlation with the truth)."""
    patients = len(predictions[0].truth)
    if kind == "r":
        one = predictions[0]
        values = weighted_r(one.truth, one.score, np.vstack([np.ones(patients), counts]))
        return Measured(float(values[0]), values[1:], patients)
    ones = np.ones(patients)
    value = np.mean([metric(one.kind, one.truth, one.score, ones) for one in predictions])
    draws = np.mean([bootstrap(one, counts) for one in predictions], axis=0)
    return Measured(float(value), draws, patients)


def weighted_r(x: F64, y: F64, weights: F64) -> F64:
    """Pearson's r under rows of weights (draw, patient): (draw,); 0 where one does not vary."""
    total = weights.sum(axis=1)
    x, y = x - x.mean(), y - y.mean()
    mean_x, mean_y = weights @ x / total, weights @ y / total
    covers = weights @ (x * y) / total - mean_x * mean_y
    spread_x = weights @ (x * x) / total - mean_x**2
    spread_y = weights @ (y * y) / total - mean_y**2
    spread = np.sqrt(np.maximum(spread_x, 0.0) * np.maximum(spread_y, 0.0))
    return np.where(spread > 1e-12, covers / np.where(spread > 1e-12, spread, 1.0), 0.0)


def samples(patients: int, experiment: Experiment, *purpose: str) -> F64:
    """How often each patient is in each bootstrap sample (draw, patient); keyed by the purpose."""
    from simulations.probes.evaluate import bootstrap_counts

    rng = generator("bootstrap", experiment.seed, patients, *purpose)
    return bootstrap_counts(patients, experiment.evaluation.draws, rng)
