"""FedAdam and FedYogi move no parameter far beyond their rate, whatever moments a plan names."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared_model.config import ServerMoments
from shared_model.errors import OurMistake
from shared_model.server_optimisers import LARGEST_MOVE, FedAdam, FedYogi


def furthest(step, means):
    """The largest move of one parameter over rounds with these mean updates."""
    weights, state, moves = {"w": np.zeros(1, np.float32)}, {}, [0.0]
    for mean in means:
        weights, state = step.apply({"w": np.zeros(1, np.float32)}, {"w": np.array([mean])}, state)
        moves.append(abs(float(weights["w"][0])))
    return max(moves)


@pytest.mark.parametrize("kind", [FedAdam, FedYogi])
@pytest.mark.parametrize(
    "moments",
    [
        ServerMoments(0.9, 0.0, 1e-12),
        ServerMoments(0.9, 0.8, 1e-12),
        ServerMoments(0.0, 1.0 - 1e-12, 1e-12),
    ],
    ids=["v forgets at once", "v forgets before m", "v hardly begins"],
)
def test_moments_under_which_the_rate_bounds_no_move_are_refused(kind, moments):
    """A second moment that does not hold the first lets a round move the model by any distance,
    while the approver reads that it moves by about the rate."""
    with pytest.raises(OurMistake, match="far beyond the learning rate"):
        kind(0.1, moments)


@given(
    kind=st.sampled_from([FedAdam, FedYogi]),
    beta1=st.floats(0.0, 0.99),
    beta2=st.floats(0.0, 0.9999),
    means=st.lists(st.sampled_from([0.0, 1e-12, 1e-9, 1e-6, 1e-3, 0.03, 1.0, -1.0]), max_size=8),
)
def test_no_step_that_is_taken_moves_a_parameter_further_than_the_bound(kind, beta1, beta2, means):
    """Means that grow or vanish between rounds do not get past what is promised."""
    try:
        step = kind(0.1, ServerMoments(beta1, beta2, 1e-12))
    except OurMistake:
        return
    assert furthest(step, means) <= LARGEST_MOVE * 1.001


@pytest.mark.parametrize("kind", [FedAdam, FedYogi])
@pytest.mark.parametrize("beta2", [0.99, 0.999])
def test_the_usual_moments_are_taken(kind, beta2):
    """The paper's and Adam's own moments are within the bound at the largest rate."""
    assert furthest(kind(0.1, ServerMoments(0.9, beta2)), [1.0, 0.5, 1e-6]) > 0.0
