"""Scores against the trivial predictor."""

from __future__ import annotations

import math

import numpy as np
import torch

from shared_model import mae
from shared_model.reconstruction import reconstruction_scores


def _windows(count: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    signal = rng.standard_normal((count, 2, 1250)).astype(np.float32)
    signal -= signal.mean(-1, keepdims=True)
    return signal, np.ones((count, 2, 50), dtype=bool)


def test_a_model_that_answers_the_mean_scores_one() -> None:
    signal, valid = _windows(5)
    new = mae.build(mae.PRESETS["tiny"], seed=0)  # predicts zero, the mean of these windows
    scores = reconstruction_scores(new, signal, valid, np.random.default_rng(1), batch_size=2)
    assert all(abs(value - 1.0) < 1e-5 for value in scores.values())


def test_the_trivial_predictor_knows_the_mean_of_valid_samples_only() -> None:
    signal, valid = _windows(4)
    valid[:, 1, 20:] = False
    signal[:, 1] = 3.0
    signal[:, 1, 500:] = 0.0
    signal[:, 1, ::2] += 1.0
    new = mae.build(mae.PRESETS["tiny"], seed=0)
    scores = reconstruction_scores(new, signal, valid, np.random.default_rng(1))
    # the error of zero is 3.5^2 + 0.25, of the valid mean 3.5 it is 0.25
    assert abs(scores["ecg_to_ppg"] - (3.5**2 + 0.25) / 0.25) < 0.2


def test_one_sensor_alone_has_no_cross_modal_score(model: mae.MaskedAutoencoder) -> None:
    signal, valid = _windows(3)
    valid[:, 1] = False
    scores = reconstruction_scores(model, signal, valid, np.random.default_rng(1))
    assert math.isfinite(scores["masked"])
    assert math.isnan(scores["cross_modal"])
    assert math.isnan(scores["masked_ppg"])


def test_scores_do_not_depend_on_the_batch(model: mae.MaskedAutoencoder) -> None:
    signal, valid = _windows(5)
    one, two = (
        reconstruction_scores(model, signal, valid, np.random.default_rng(1), batch_size=size)
        for size in (2, 128)
    )
    assert all(abs(one[name] - two[name]) < 1e-4 * abs(one[name]) for name in one)


def test_scoring_leaves_the_model_as_it_was(model: mae.MaskedAutoencoder) -> None:
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    reconstruction_scores(model, *_windows(2), np.random.default_rng(1))
    assert all(torch.equal(before[name], value) for name, value in model.named_parameters())
