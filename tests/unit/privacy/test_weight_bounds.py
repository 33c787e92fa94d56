"""Weights under which rounding alone would turn a clipped gradient are refused by a hospital."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from client import submit
from client.training import prepared
from shared_model import canonical, mae, privacy, warm_start
from shared_model.config import LocalTraining
from shared_model.errors import Refused
from shared_model.patches import draw_patch_masks, fold
from shared_model.weight_bounds import (
    LARGEST_SPECTRAL_NORM,
    LARGEST_VECTOR_ELEMENT,
    check_bounds,
    within_bounds,
)
from shared_model.weights import Weights


def larger(weights: Weights, times: float) -> Weights:
    """Every matrix so many times as large."""
    return {
        name: (value * np.float32(times) if value.ndim > 1 else value)
        for name, value in weights.items()
    }


@pytest.mark.parametrize("preset", ["tiny", "small"])
def test_what_training_makes_is_far_below_the_bounds(preset: str) -> None:
    """1.8 times over, so that no honest run is stopped; new models of each size too. (The largest
    matrix is a decoder's, which runs do not train unless they train everything.)"""
    weights = warm_start.load(preset)[1]
    check_bounds({name: np.float32(1.8) * value for name, value in weights.items()})
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
        (np.array([0.0, -1.01 * LARGEST_VECTOR_ELEMENT], np.float32), "far larger"),
        (np.full((2, 2), np.finfo(np.float32).max), "far larger"),
        (np.float32(5.0), "far larger"),
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
        "vector": np.array([LARGEST_VECTOR_ELEMENT, -LARGEST_VECTOR_ELEMENT], np.float32),
        "matrix": np.full((40, 40), 0.99 * LARGEST_SPECTRAL_NORM / 40, np.float32),
        "long": np.full((1, 5000), 0.99 * LARGEST_SPECTRAL_NORM / 5000**0.5, np.float32),
        "many": np.eye(600, dtype=np.float32),  # Frobenius norm 24.5, spectral norm 1
        "none": np.zeros(0, np.float32),
        "nothing": np.zeros((0, 4), np.float32),
    })  # fmt: skip


Change = Callable[[str, np.ndarray], np.ndarray]


def doubled(name: str, value: np.ndarray) -> np.ndarray:
    """Matrices and LayerNorms."""
    return 2 * value if value.ndim > 1 or "norm" in name else value


def at_the_bound(name: str, value: np.ndarray) -> np.ndarray:
    """Every matrix as large as it may be, LayerNorms twice as large."""
    if value.ndim > 1:
        return value * np.float32(0.99 * LARGEST_SPECTRAL_NORM / np.linalg.norm(value, 2))
    return doubled(name, value)


def tenfold(name: str, value: np.ndarray) -> np.ndarray:
    return 10 * value if value.ndim > 1 else value


def moved_by_a_last_bit(change: Change | None, patients: int = 8) -> float:
    """Largest change of a clipped gradient, in clipping norms, when samples go up by one ulp."""
    from simulations.cohort import draw_windows

    config, weights, _ = warm_start.load("tiny")
    if change is not None:
        weights = {name: change(name, value) for name, value in weights.items()}
    assert within_bounds(weights) == (change is not tenfold)
    model = mae.build(config, 0)
    mae.load_weights(model, weights)
    unit, received = prepared(model, LocalTraining(segments=1))
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


def test_twice_the_packaged_weights_leave_rounding_without_effect() -> None:
    """So that a model that grew in training is as good as the packaged one."""
    assert moved_by_a_last_bit(None) < 1e-5
    assert moved_by_a_last_bit(doubled) < 1e-2


def test_the_bounds_narrow_the_gap_and_do_not_close_it() -> None:
    """What docs/privacy.md says: matrices that are all at the bound turn a clipped gradient as well
    as those beyond it; that other patients do not change a patient's bits is what holds then."""
    assert moved_by_a_last_bit(at_the_bound) > 1e-2
    assert moved_by_a_last_bit(tenfold) > 1e-3


def test_what_to_do_about_too_large_weights_reaches_the_hospitals_log() -> None:
    """`_checked_weights` passes on the advice, not the message alone."""

    class Big:
        def check_model(self, request: Any, body: bytes) -> Any:
            check_bounds({"w": np.full(3, 99.0, np.float32)})

    class Request:
        body_digest = canonical.digest(b"")

    with pytest.raises(Refused) as caught:
        submit._checked_weights(Big(), Request(), b"")  # type: ignore[arg-type]
    assert "diverged" in caught.value.do
