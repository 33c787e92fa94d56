"""Trip 1 of a round of mode distributed at the node: what it takes, and what it refuses."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from node_stand_ins import (
    DECLARED,
    SITES,
    TRAINABLE,
    Consortium,
    FakeRosters,
    signed_roster,
)

from shared_model.config import LocalTraining, PrivacyPlan
from shared_model.distributed import Shares
from shared_model.noise import NonPrivateForTests, SystemNoise
from shared_model.protocol import Refusal, TrainReply
from shared_model.secure_sum.transcript import of_request

PLAN = PrivacyPlan(0.1, 1.5, 1.0, 1, "distributed")
SGD = LocalTraining(optimiser="sgd", learning_rate=0.1)
NUMBERS = Shares.of_plan(
    PLAN, dimension=8, threshold=3, declared=[DECLARED[site] for site in sorted(SITES)]
)
SUM = {
    "bits": NUMBERS.bits,
    "norm_bound": NUMBERS.norm_bound,
    "modulus_bits": NUMBERS.modulus_bits,
}


def clipped(request, weights, data, noise, declared, steps, kind=np.float64):
    """Stands for `client.node_training.train`."""
    return {name: np.full(weights[name].shape, 0.01, dtype=kind) for name in TRAINABLE}


def changes(**others):
    return {"privacy": PLAN, "training": SGD, "sum": SUM, **others}


def consortium(root, **others) -> Consortium:
    return Consortium.of(root, **{"train": clipped, **others})


def asked(place: Consortium, site="alpha", **others):
    request, body = place.request(**changes(**others))
    return place.told(site, request, body)


def test_every_hospital_answers_with_weight_one_whatever_it_declared(tmp_path):
    played = consortium(tmp_path).submit(**changes())
    assert set(played.submissions) == set(SITES)
    assert played.transcript.weights == (1, 1, 1)
    assert played.transcript.numbers == NUMBERS
    assert played.transcript.divisor(("alpha", "beta")) == pytest.approx(0.1 * (1000 + 260))
    with_more = dataclasses.replace(PLAN, noise_multiplier=1.6)
    other = played.consortium.request(**changes(privacy=with_more))[0]
    assert other.sum == played.asked.sum, "the same numbers but for the noise"
    weights = played.consortium.roster.weights
    assert of_request(other, weights).digest != played.transcript.digest


def test_the_same_request_gets_the_same_bytes_and_trains_no_second_time(tmp_path):
    place = consortium(tmp_path)
    request, body = place.request(**changes())
    assert place.ask("alpha", request, body) == place.ask("alpha", request, body)


@pytest.mark.parametrize(
    "wrong",
    [
        {"sum": {**SUM, "bits": NUMBERS.bits - 1}},
        {"sum": {**SUM, "norm_bound": 2.0}},
        {"sum": {**SUM, "modulus_bits": NUMBERS.modulus_bits - 1}},
        {"sum": {**SUM, "modulus_bits": NUMBERS.modulus_bits + 1}},
        {"training": LocalTraining(optimiser="adam")},
        {"privacy": dataclasses.replace(PLAN, clipping_norm=0.5)},
        {"privacy": dataclasses.replace(PLAN, sample_rate=1.0)},
    ],
    ids=["coarser", "other norm", "less room", "more room", "adam", "other C", "other q"],
)
def test_numbers_that_do_not_follow_from_the_plan_are_refused_before_data_is_read(tmp_path, wrong):
    opened = []
    place = consortium(tmp_path, data=lambda: opened.append(1))
    found = asked(place, **wrong)
    assert isinstance(found, Refusal)
    assert found.reason == "secure-sum"
    assert not opened
    assert not place.nodes["alpha"].books.chain.bookings


def test_a_roster_under_which_one_colluder_sees_too_much_is_refused(tmp_path):
    """Three sites with threshold 2: the bound is 0."""
    signed = signed_roster(threshold=2)
    rosters = FakeRosters("alpha", signed, colluding_sites=0)
    place = consortium(tmp_path, threshold=2, rosters=rosters)
    numbers = Shares.of_plan(PLAN, dimension=8, threshold=2, declared=NUMBERS.declared)
    found = asked(place, sum={**SUM, "modulus_bits": numbers.modulus_bits})
    assert isinstance(found, Refusal)
    assert found.reason == "threshold"


@pytest.mark.parametrize("private", [True, False])
def test_without_masks_only_noise_that_promises_nothing_is_shared_out(tmp_path, private):
    def noise(request):
        if private:
            return SystemNoise()
        return NonPrivateForTests(request.run, "alpha", request.round, 1)

    place = consortium(tmp_path, allow_unmasked=True, noise=noise)
    found = asked(place, sum={**SUM, "aggregation": "UnmaskedForSimulation"})
    if private:
        assert isinstance(found, Refusal)
        assert found.reason == "secure-sum"
    else:
        assert isinstance(found, TrainReply)
        assert not found.private


def test_a_trainer_that_rounds_its_sum_to_float32_makes_no_submission(tmp_path):
    place = consortium(tmp_path, train=lambda *given: clipped(*given, kind=np.float32))
    found = asked(place)
    assert isinstance(found, Refusal)
    assert found.reason == "internal"


def test_nothing_of_a_killed_step_is_on_the_disk_and_the_whole_step_is_taken_again(tmp_path):
    """The clipped sum is not private: only the masked body, with the noise in it, is stored."""

    class Killed(BaseException):
        """Stands for kill -9."""

    class KeepsNothing:
        last = None

        def keep(self, state):
            raise AssertionError("mode distributed keeps no state")

    taken = []

    def dies(request, weights, data, noise, declared, steps):
        found = clipped(request, weights, data, noise, declared, KeepsNothing())
        assert steps.last is None
        taken.append(found)
        if len(taken) == 1:
            raise Killed
        return found

    place = consortium(tmp_path, train=dies)
    request, body = place.request(**changes())
    with pytest.raises(Killed):
        place.ask("alpha", request, body)
    folder = place.nodes["alpha"].outbox.root / "spring" / "0000001"
    assert {path.name for path in folder.iterdir()} == {"request", "round.json"}
    first = place.ask("alpha", request, body)
    assert first[1]
    assert place.ask("alpha", request, body) == first
    assert len(taken) == 2
    assert len(place.nodes["alpha"].books.reserved) == 1
