"""What a release says a round of mode distributed costs, and what it may not leave out."""

import pytest
from pydantic import ValidationError

from shared_model import accounting
from shared_model.config import PrivacyPlan
from shared_model.distributed import mechanism
from shared_model.protocol import PrivacyStatement
from shared_model.release import Contribution, Plan, Round, SharedNoise, SitePrivacy
from shared_model.release_price import fits, price_of

SHARED = {"dimension": 4096, "threshold": 5, "colluding_sites": 2}
WHO = Contribution(
    site="alpha",
    declared_patients=100,
    weight=1,
    noise="noise",
    delta=1e-5,
    body_digest="0" * 64,
    reply_digest="1" * 64,
)


def a_round(number=1, mode="distributed", shared=SHARED, **plan) -> Round:
    values = {"sample_rate": 0.1, "noise_multiplier": 2.0, "clipping_norm": 1.0, "steps": 1}
    return Round(
        run="spring",
        number=number,
        outcome="closed",
        plan=Plan(**{**values, **plan}, mode=mode),
        shared_noise=None if shared is None else SharedNoise(**shared),
        request_digest="2" * 64,
        model_in="3" * 64,
        model_out="3" * 64,
        contributors=(WHO,),
        sum=None,
    )


def test_the_price_is_against_the_fewest_colluders_and_the_outsiders_is_lower():
    other = {**SHARED, "colluding_sites": 1}
    local = a_round(3, "local", None, steps=20)
    replies = [(one, WHO) for one in (a_round(1), a_round(2, shared=other), local)]
    found = price_of(replies, 1e-5, accounting.epsilon_pld)
    plan = PrivacyPlan(0.1, 2.0, 1.0, 1, "distributed")
    k2 = mechanism(plan, dimension=4096, threshold=5, colluding=2)
    k1 = mechanism(plan, dimension=4096, threshold=5, colluding=1)
    k0 = mechanism(plan, dimension=4096, threshold=5, colluding=0)
    whole = PrivacyPlan(0.1, 2.0, 1.0, 20)
    assert found.epsilon == accounting.epsilon_pld([k2, k1, whole], 1e-5)
    assert found.outsider_epsilon == accounting.epsilon_pld([k0, k0, whole], 1e-5)
    assert (found.trust_model, found.colluding_sites) == ("distributed", 1)


def test_rounds_of_mode_local_alone_name_no_colluders():
    found = price_of([(a_round(1, "local", None), WHO)], 1e-5, accounting.epsilon_pld)
    assert (found.trust_model, found.colluding_sites, found.outsider_epsilon) == (
        "local",
        None,
        None,
    )


@pytest.mark.parametrize(
    ("mode", "shared"),
    [
        ("distributed", None),
        ("local", SHARED),
        ("distributed", {**SHARED, "colluding_sites": 0}),
        ("distributed", {**SHARED, "threshold": 1}),
    ],
    ids=["hidden", "invented", "nobody colludes", "threshold of one"],
)
def test_a_round_cannot_leave_out_or_invent_whom_it_trusts(mode, shared):
    with pytest.raises(ValidationError):
        a_round(1, mode, shared)


@pytest.mark.parametrize(
    ("trust", "colluding", "outsider"),
    [
        ("local", 1, None),
        ("distributed", None, 1.0),
        ("distributed", 1, None),
        ("local", None, 1.0),
    ],
)
def test_a_statement_names_colluders_and_outsiders_in_mode_distributed_and_no_other(
    trust, colluding, outsider
):
    with pytest.raises(ValidationError):
        SitePrivacy(
            site="alpha",
            identity_key="4" * 64,
            epsilon=1.0,
            delta=1e-5,
            unit="one patient at one hospital",
            adjacency="add or remove",
            trust_model=trust,
            colluding_sites=colluding,
            outsider_epsilon=outsider,
            lifetime_epsilon=1.0,
            noise="noise",
            declared_patients=100,
            rounds=1,
            steps=1,
        )


@pytest.mark.parametrize(
    ("statement", "shared", "good"),
    [
        ({"trust_model": "distributed", "colluding_sites": 2}, SHARED, True),
        ({"trust_model": "distributed", "colluding_sites": 1}, SHARED, True),
        ({"trust_model": "distributed", "colluding_sites": 3}, SHARED, False),
        ({}, SHARED, False),
        ({}, None, True),
        ({"trust_model": "distributed", "colluding_sites": 1}, None, True),
    ],
    ids=["as booked", "weaker before", "too strong", "local", "local round", "distributed before"],
)
def test_a_hospitals_statement_cannot_claim_a_stronger_trust_model(statement, shared, good):
    told = PrivacyStatement(epsilon=1.0, delta=1e-5, **statement)
    assert fits(told, None if shared is None else SharedNoise(**shared)) is good
