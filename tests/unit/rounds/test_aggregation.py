"""The aggregate: exact, the same for any order, against the plain mean."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.aggregation import FedAvg, SiteUpdate, quantise, read_update, weighted_mean
from shared_model import weights as weights_io
from shared_model.errors import OurMistake, PeerFault

LIKE = {"a": np.zeros((2, 3), np.float32), "b": np.zeros(4, np.float32)}


def update(seed, scale=1.0):
    rng = np.random.default_rng(seed)
    return {
        name: (scale * rng.standard_normal(value.shape)).astype(np.float32)
        for name, value in LIKE.items()
    }


def sites(count, scale=1.0):
    return [SiteUpdate(f"s{n}", 1 + n % 8, update(n, scale)) for n in range(count)]


@settings(deadline=None)
@given(order=st.permutations(range(6)), scale=st.sampled_from([1e-6, 1.0, 1e4]))
def test_any_order_gives_the_same_bits(order, scale):
    items = sites(6, scale)
    expected = weighted_mean(items)
    got = weighted_mean([items[n] for n in order])
    assert all(got[name].tobytes() == expected[name].tobytes() for name in LIKE)


def test_float_sums_would_depend_on_the_order():
    """What fixed point is for: the same numbers summed as float32 in another order differ."""
    rng = np.random.default_rng(1)
    values = rng.standard_normal((5, 20_000)).astype(np.float32)
    forward = values[0] + values[1] + values[2] + values[3] + values[4]
    backward = values[4] + values[3] + values[2] + values[1] + values[0]
    assert (forward != backward).any()


def test_the_mean_is_the_weighted_mean_to_within_the_quantisation():
    items = sites(10)
    got = weighted_mean(items)
    total = sum(item.weight for item in items)
    for name in LIKE:
        exact = sum(item.weight * item.update[name].astype(np.float64) for item in items) / total
        assert np.abs(got[name] - exact).max() <= 2.0**-33 + 1e-15


def test_the_largest_legal_sum_does_not_overflow():
    """1024 sites of weight 8 at the limit: by exact integers."""
    top = np.full(1, np.nextafter(np.float32(2**17), np.float32(0)), np.float32)
    items = [SiteUpdate(f"s{n:04d}", 8, {"a": top}) for n in range(1024)]
    assert 1024 * 8 * int(quantise(top)[0]) < 2**63
    assert weighted_mean(items)["a"][0] == float(top[0])


@pytest.mark.parametrize(
    "items",
    [
        [SiteUpdate("a", 1, update(1))],
        [],
        [SiteUpdate("a", 1, update(1)), SiteUpdate("a", 1, update(2))],
        [SiteUpdate("a", 0, update(1)), SiteUpdate("b", 1, update(2))],
        [SiteUpdate("a", 9, update(1)), SiteUpdate("b", 1, update(2))],
        [SiteUpdate("a", 1, update(1)), SiteUpdate("b", 1, {"a": update(1)["a"]})],
    ],
    ids=["one", "none", "twice", "weight 0", "weight 9", "other parameters"],
)
def test_what_must_not_be_summed_is_refused(items):
    with pytest.raises(OurMistake):
        weighted_mean(items)


def test_fedavg_steps_and_leaves_the_rest():
    weights = {**update(3), "frozen": np.ones(2, np.float32)}
    mean = {name: np.full(LIKE[name].shape, 0.5) for name in LIKE}
    after = FedAvg(0.5).apply(weights, mean)
    for name in LIKE:
        expected = (weights[name].astype(np.float64) + 0.25).astype(np.float32)
        assert (after[name] == expected).all()
        assert after[name].dtype == np.float32
    assert after["frozen"] is weights["frozen"]
    with pytest.raises(OurMistake):
        FedAvg().apply(weights, {"other": np.zeros(2)})


def faulty(value):
    body = weights_io.to_bytes(value)
    return body, weights_io.digest(value)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 2.0**17, -(2.0**17)])
def test_an_update_that_is_not_a_number_names_its_site(bad):
    value = update(1)
    value["a"][1, 2] = bad
    with pytest.raises(PeerFault) as caught:
        read_update(*reorder(faulty(value)), site="alpha")
    assert caught.value.site == "alpha"


def reorder(pair):
    return pair[0], LIKE, pair[1]


@pytest.mark.parametrize(
    "value",
    [
        {"a": LIKE["a"]},
        {**LIKE, "c": LIKE["b"]},
        {"a": LIKE["a"].T.copy(), "b": LIKE["b"]},
    ],
    ids=["fewer", "more", "another shape"],
)
def test_an_update_of_another_model_names_its_site(value):
    with pytest.raises(PeerFault) as caught:
        read_update(*reorder(faulty(value)), site="alpha")
    assert caught.value.site == "alpha"


def test_an_update_must_have_the_digest_of_its_header():
    body, _ = faulty(update(1))
    with pytest.raises(PeerFault):
        read_update(body, LIKE, "0" * 64, site="alpha")


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=300))
def test_bytes_that_are_no_update_raise_peer_fault_only(data):
    with pytest.raises(PeerFault):
        read_update(data, LIKE, "0" * 64, site="alpha")
