"""What a model is worth on pretend patients that nobody trained on: to compare recipes and runs.

Nothing is chosen on real test patients that way. Tasks are the simulator's own labels, probed by
the protocol of `simulations.probes.evaluate`: patient-disjoint folds, paired over patients.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from shared_model.config import ModelConfig
from shared_model.weights import Weights

if TYPE_CHECKING:
    from shared_model.mae import MaskedAutoencoder

F64 = npt.NDArray[np.float64]
FOLDS = 4
_LOSS_BATCH = 128
CLASSES: dict[str, Callable[[dict[str, npt.NDArray[Any]]], npt.NDArray[np.bool_]]] = {
    "sinus rhythm": lambda labels: labels["rhythm"] == 0,
    "atrial fibrillation": lambda labels: labels["rhythm"] == 1,
    "hypertension": lambda labels: labels["hypertension"] >= 2,
}
NUMBERS = {"age": "age", "systolic pressure": "sbp", "heart rate": "hr_bpm"}
"""Task and the simulator's label."""
RECONSTRUCTION = {
    "masked": "masked error over trivial",
    "cross_modal": "cross-modal error over trivial, as it is",
}


@dataclass(frozen=True)
class Pairs:
    """Two windows in a row of each patient. patient: index, (window,)."""

    signal: npt.NDArray[np.float32] = field(repr=False)
    valid: npt.NDArray[np.bool_] = field(repr=False)
    patient: npt.NDArray[np.int64] = field(repr=False)


@dataclass(frozen=True)
class Fresh:
    """One window a patient. truths: by task, (patient,), NaN where unknown."""

    signal: npt.NDArray[np.float32] = field(repr=False)
    valid: npt.NDArray[np.bool_] = field(repr=False)
    kinds: dict[str, str]
    truths: dict[str, F64] = field(repr=False)


@dataclass(frozen=True)
class Scores:
    """metrics, skills: by task (AUROC or mean absolute error; 0 knows nothing, 1 is perfect).

    shifted: mean correlation after the best shift, by direction. errors: see `RECONSTRUCTION`.
    loss: mean unit loss (`shared_model.losses`, usual weights), one window a patient.
    """

    kinds: dict[str, str]
    metrics: dict[str, float]
    skills: dict[str, float]
    errors: dict[str, float]
    shifted: dict[str, float]
    loss: float

    @property
    def skill(self) -> float:
        """Mean over tasks."""
        return float(np.mean(list(self.skills.values())))


@lru_cache(maxsize=2)
def draw(patients: int, seed: int) -> Fresh:
    """Pretend patients of devices of their own; equal arguments, equal bytes."""
    from simulations.cohort import draw_windows

    signal, valid, labels = draw_windows(np.random.default_rng([seed, 77]), patients)
    truths: dict[str, F64] = {}
    kinds: dict[str, str] = {}
    for name, holds in CLASSES.items():
        truths[name], kinds[name] = holds(labels).astype(np.float64), "auroc"
    for name, label in NUMBERS.items():
        truths[name], kinds[name] = labels[label].astype(np.float64), "mae"
    return Fresh(signal, valid, kinds, truths)


@lru_cache(maxsize=2)
def draw_pairs(patients: int, seed: int) -> Pairs:
    """Other pretend patients, with two windows each; equal arguments, equal bytes."""
    from simulations.cohort import draw_windows

    rng = np.random.default_rng([seed, 80])
    signal, valid, labels = draw_windows(rng, 2 * patients, windows_per_patient=2)
    return Pairs(signal, valid, labels["patient"])


def score(config: ModelConfig, weights: Weights, fresh: Fresh, seed: int) -> Scores:
    """Probes of frozen fingerprints (both sensors), reconstruction errors, shifted correlations.

    Raises:
        OurMistake: too few patients of a class for the folds.
        Refused: the weights are not the configuration's.
    """
    from shared_model.fingerprint import fingerprints
    from shared_model.mae import ECG, PPG, build, load_weights
    from shared_model.reconstruction import reconstruction_scores
    from simulations.cross_modal import reconstruct
    from simulations.cross_modal_measures import best_shift
    from simulations.probes.evaluate import metric, out_of_fold, skill

    model = build(config, 0)
    load_weights(model, weights)
    usable = fresh.valid.any(axis=(1, 2))
    features = fingerprints(model, fresh.signal[usable], fresh.valid[usable])
    metrics, skills = {}, {}
    for name, truth in fresh.truths.items():
        known = np.isfinite(truth[usable])
        right, group = truth[usable][known], np.flatnonzero(known)
        found = out_of_fold(
            features[known], right, group, kind=fresh.kinds[name], folds=FOLDS, seed=seed
        )
        ones = np.ones(len(right))
        metrics[name] = metric(found.kind, found.truth, found.score, ones)
        base = metric("mae", found.truth, np.full(len(right), np.median(right)), ones)
        skills[name] = skill(found.kind, metrics[name], base)
    whole = fresh.signal[fresh.valid.all(axis=(1, 2))]
    made = reconstruct(model, whole)
    errors = reconstruction_scores(
        model, fresh.signal, fresh.valid, np.random.default_rng([seed, 78])
    )
    return Scores(
        kinds=dict(fresh.kinds),
        metrics=metrics,
        skills=skills,
        errors={name: errors[name] for name in RECONSTRUCTION},
        shifted={
            name: float(best_shift(made[:, channel], whole[:, channel])[0].mean())
            for name, channel in (("PPG to ECG", ECG), ("ECG to PPG", PPG))
        },
        loss=_loss(model, fresh, np.random.default_rng([seed, 79])),
    )


def identity(config: ModelConfig, weights: Weights, pairs: Pairs) -> float:
    """AUROC of telling whether two windows are one person's, by the cosine of standardised
    fingerprints, as the probe of identity on real recordings does it.

    Raises:
        Refused: the weights are not the configuration's.
    """
    from shared_model.fingerprint import fingerprints
    from shared_model.mae import build, load_weights
    from simulations.probes.evaluate import metric, verification

    model = build(config, 0)
    load_weights(model, weights)
    usable = pairs.valid.any(axis=(1, 2))
    features = fingerprints(model, pairs.signal[usable], pairs.valid[usable])
    order = np.arange(len(pairs.patient)) % 2
    found = verification(features, pairs.patient[usable], order[usable])
    return metric(found.kind, found.truth, found.score, np.ones(len(found.truth)))


def _loss(model: MaskedAutoencoder, fresh: Fresh, rng: np.random.Generator) -> float:
    """Mean unit loss over patients that have anything; equal seeds, equal masks."""
    import torch

    from shared_model.config import LocalTraining
    from shared_model.losses import patient_losses
    from shared_model.patches import draw_patch_masks, fold

    hidden = draw_patch_masks(rng, (len(fresh.signal), 1, 1))  # patient, mask, window
    found = []
    with torch.inference_mode():
        for start in range(0, len(hidden), _LOSS_BATCH):
            part = slice(start, start + _LOSS_BATCH)
            patches = fold(torch.from_numpy(fresh.signal[part]))[:, None]
            known = torch.from_numpy(fresh.valid[part])[:, None]
            masks = torch.from_numpy(hidden[part])
            lost = patient_losses(model, patches, known, masks, LocalTraining())
            found.append(lost[known.flatten(1).any(1)].double().numpy())
    return float(np.concatenate(found).mean())
