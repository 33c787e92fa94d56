"""Mode distributed against the reference implementation (tests/reference), which shares no code."""

import json
from pathlib import Path

import numpy as np
import pytest

from shared_model.config import PrivacyPlan
from shared_model.distributed import Shares, rounded, share
from shared_model.secure_sum.numbers import mean_of

FILE = Path(__file__).parents[2] / "vectors" / "secure_sum_distributed.json"
VECTORS = json.loads(FILE.read_text())
SUM = VECTORS["sum"]


class Given:
    """Noise of the file."""

    def __init__(self, place):
        self.place = place

    def discrete_gaussian(self, count, variance):
        assert (count, variance) == (64, VECTORS["rounds"][0]["numbers"]["share_variance"])
        return np.array(SUM["noise"][self.place], dtype=np.int64)


def shares_of(case) -> Shares:
    numbers = case["numbers"]
    plan = PrivacyPlan(
        numbers["sample_rate"], case["noise_multiplier"], numbers["norm_bound"], 1, "distributed"
    )
    return Shares.of_plan(
        plan,
        dimension=numbers["dimension"],
        threshold=case["threshold"],
        declared=numbers["declared_patients"],
    )


@pytest.mark.parametrize("case", VECTORS["rounds"], ids=lambda c: str(c["numbers"]["dimension"]))
def test_the_public_numbers_of_a_round_are_the_references(case):
    """As the transcript binds them, every one."""
    assert shares_of(case).as_dict() == case["numbers"]


@pytest.mark.parametrize("place", range(4))
def test_the_integers_and_the_whole_share_of_a_hospital_are_the_references(place):
    numbers, seed = shares_of(VECTORS["rounds"][0]), bytes.fromhex(SUM["rotation_seed"])
    total = np.array(SUM["totals"][place])
    integers, clamped = rounded(total, numbers, place, seed)
    assert integers.tolist() == SUM["integers"][place]
    assert (clamped > 0) == (place == 3)
    made = share(total, numbers, place, seed, Given(place))
    assert made.vector.tolist() == SUM["vectors"][place]


def test_the_step_that_the_sum_of_survivors_makes_is_the_references():
    numbers, seed = shares_of(VECTORS["rounds"][0]), bytes.fromhex(SUM["rotation_seed"])
    total = np.array(SUM["total"], dtype=np.uint32)
    step = mean_of(total, numbers, seed, numbers.divisor(SUM["survivors"]))
    assert step == pytest.approx(np.array(SUM["step"]), rel=1e-12, abs=1e-15)
