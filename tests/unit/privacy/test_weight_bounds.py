"""Weights under which rounding alone would turn a clipped gradient are refused by a hospital."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from client.training import _prepared
from shared_model import mae, privacy, warm_start
from shared_model.config import LocalTraining
from shared_model.errors import Refused
from shared_model.patches import draw_patch_masks, fold
from shared_model.weight_bounds import LARGEST_ELEMENT, LARGEST_SPECTRAL_NORM, check_bounds
from shared_model.weights import Weights


def larger(weights: Weights, times: float) -> Weights:
    """Every matrix so many times as large."""
    return {
        name: (value * np.float32(times) if value.ndim > 1 else value)
        for name, value in weights.items()
    }


@pytest.mark.parametrize("preset", ["tiny", "small"])
def test_what_training_makes_is_far_below_the_bounds(preset: str) -> None:
    """Twice over, so that no honest run is stopped; new models of each size too."""
    weights = warm_start.load(preset)[1]
    check_bounds({name: 2 * value for name, value in weights.items()})
    with pytest.raises(Refused, match="far larger"):
        check_bounds(larger(weights, 10))


@pytest.mark.parametrize("preset", sorted(mae.PRESETS))
def test_a_new_model_is_below_the_bounds(preset: str) -> None:
    check_bounds(mae.weights_of(mae.build(mae.PRESETS[preset], 0)))


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (np.array([1.0, np.nan], np.float32), "not finite"),
        (np.array([[1.0, -np.inf]], np.float32), "not finite"),
        (np.array([0.0, -1.01 * LARGEST_ELEMENT], np.float32), "far larger"),
        (np.full((2, 2), np.finfo(np.float32).max), "far larger"),
        (np.full((40, 40), 1.01 * LARGEST_SPECTRAL_NORM / 40, np.float32), "far larger"),
    ],
)
def test_one_tensor_beyond_the_bounds_is_enough(value: np.ndarray, said: str) -> None:
    """Also a matrix of small numbers that all point one way."""
    with pytest.raises(Refused, match=said) as caught:
        check_bounds({"fine": np.ones(3, np.float32), "other": value})
    assert caught.value.reason == "model"


def test_tensors_at_the_bounds_and_empty_ones_pass() -> None:
    check_bounds({
        "vector": np.array([LARGEST_ELEMENT, -LARGEST_ELEMENT], np.float32),
        "matrix": np.full((40, 40), 0.99 * LARGEST_SPECTRAL_NORM / 40, np.float32),
        "none": np.zeros(0, np.float32),
    })  # fmt: skip


def moved_by_a_last_bit(times: float, patients: int = 8) -> float:
    """Largest change of a clipped gradient, in clipping norms, when samples go up by one ulp."""
    from simulations.cohort import draw_windows

    config, weights, _ = warm_start.load("tiny")
    model = mae.build(config, 0)
    mae.load_weights(model, larger(weights, times))
    unit, received = _prepared(model, LocalTraining(segments=1))
    signal, valid, _ = draw_windows(np.random.default_rng(5), patients)
    hidden = torch.from_numpy(draw_patch_masks(np.random.default_rng(1), (patients, 1, 1)))
    changes = []
    for one in range(patients):
        patches = fold(torch.from_numpy(signal[one : one + 1]))[None]
        known = torch.from_numpy(valid[one : one + 1])[None]
        sums = [
            privacy.clipped_sum(unit, received, (each, known, hidden[one, None]), 0.5, chunk=1)
            for each in (patches, torch.nextafter(patches, torch.full_like(patches, 1e9)))
        ]
        changes.append(float(np.linalg.norm(sums[1] - sums[0])) / 0.5)
    return max(changes)


def test_below_the_bounds_rounding_is_nothing_and_far_beyond_them_it_is_not() -> None:
    """Three times the packaged matrices are just below the bounds; thirty times are refused."""
    assert moved_by_a_last_bit(1) < 1e-5
    assert moved_by_a_last_bit(3) < 1e-3
    assert moved_by_a_last_bit(30) > 1e-2
