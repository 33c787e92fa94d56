"""What mode distributed changes in a round's numbers and transcript; the theorem is elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
from test_keys_and_transcripts import WEIGHTS, changed, request_of_three

from shared_model.config import LocalTraining, PrivacyPlan
from shared_model.distributed import Shares
from shared_model.errors import OurMistake
from shared_model.secure_sum.numbers import Numbers, flatten_exact, rotate
from shared_model.secure_sum.transcript import of_request

PLAN = PrivacyPlan(
    sample_rate=0.5, noise_multiplier=1.0, clipping_norm=1.0, steps=1, mode="distributed"
)


def shared_request(**changes):
    """The round of three, in mode distributed with the integers that follow from its plan."""
    request = request_of_three()
    numbers = Shares.of_plan(
        PLAN,
        dimension=request.sum.dimension,
        threshold=request.sum.threshold,
        declared=[one.declared_patients for one in request.participants],
    )
    integers = {
        "bits": numbers.bits,
        "norm_bound": numbers.norm_bound,
        "modulus_bits": numbers.modulus_bits,
        **changes,
    }
    return changed(
        request,
        privacy=PLAN,
        training=LocalTraining(optimiser="sgd"),
        sum=request.sum.model_copy(update=integers),
    )


def test_all_weights_are_one_and_the_divisor_is_the_expected_patients_of_the_survivors():
    request = shared_request()
    found = of_request(request, WEIGHTS)
    assert found.weights == (1, 1, 1)
    survivors = request.sites[:2]
    declared = [one.declared_patients for one in request.participants[:2]]
    assert found.divisor(survivors) == PLAN.sample_rate * sum(declared)
    local = of_request(request_of_three(), WEIGHTS)
    assert local.divisor(survivors) == sum(WEIGHTS[site] for site in survivors)


@pytest.mark.parametrize("change", [{"bits": 20}, {"norm_bound": 2.0}, {"modulus_bits": 31}])
def test_integers_that_do_not_follow_from_the_plan_are_refused(change):
    with pytest.raises(OurMistake, match="names"):
        of_request(shared_request(**change), WEIGHTS)


@pytest.mark.parametrize("dimension", [1, 100, 5000])
def test_the_rotation_keeps_lengths_and_fills_up(dimension):
    """Orthonormal, float64."""
    numbers = Numbers.of(dimension, 3, 1.0)
    values = np.random.default_rng(dimension).standard_normal(dimension)
    turned = rotate(values, numbers, bytes(32))
    assert turned.shape == (numbers.padded,)
    assert np.linalg.norm(turned) == pytest.approx(np.linalg.norm(values), rel=1e-12)


def test_parameters_are_laid_out_by_name_without_losing_a_bit():
    tiny = 1.0 + 2.0**-52
    flat = flatten_exact({"b": np.full((1, 2), tiny), "a": np.zeros(1)})
    assert flat.tolist() == [0.0, tiny, tiny]
    with pytest.raises(OurMistake, match="float64"):
        flatten_exact({"a": np.zeros(1, dtype=np.float32)})
