"""Updates become integers that add, and come back."""

from __future__ import annotations

import math

import numpy as np
import pytest
import secure_sum_reference as reference
from hypothesis import given, settings
from hypothesis import strategies as st
from sum_cases import Entropy

from shared_model.errors import OurMistake
from shared_model.secure_sum import numbers
from shared_model.secure_sum.numbers import Numbers, mean_of, modulus_bits_for, pack, unpack

SEED = b"r" * 32
ROUNDING = b"u" * 32
SLOW = settings(max_examples=40, deadline=None)


def update_of(dimension, seed, norm=1.0):
    """A normal vector of this norm, float32 (dimension,)."""
    values = np.random.default_rng(seed).standard_normal(dimension)
    return (values * (norm / np.linalg.norm(values))).astype(np.float32)


def quantise(update, plan, weight=1, rounding=ROUNDING):
    return numbers.quantise(update, plan, SEED, weight, rounding)


def back(vector, plan, weight=1):
    return mean_of(vector, plan, SEED, weight)


# ---- parameters


@pytest.mark.parametrize(
    "values",
    [
        (0, 20, 1.0, 24),
        (40, 1, 1.0, 24),
        (40, 25, 1.0, 32),
        (40, 24, 1.0, 24),
        (40, 24, 1.0, 23),
        (40, 20, 1.0, 33),
        (40, 20, 0.0, 24),
        (40, 20, -1.0, 24),
        (40, 20, 1e-12, 24),
        (40, 20, 1e12, 24),
        (40, 20, math.inf, 24),
        (40, 20, math.nan, 24),
    ],
)
def test_parameters_that_make_no_sum_are_refused(values):
    """Dimension, bits, norm bound and modulus each have limits."""
    with pytest.raises(OurMistake, match="no parameters"):
        Numbers(*values)


@pytest.mark.parametrize("values", [(1, 2, 2e-12, 3), (40, 24, 9e11, 32), (40, 23, 1.0, 24)])
def test_parameters_at_their_limits_are_taken(values):
    """A vector at the norm bound comes back."""
    plan = Numbers(*values)
    update = update_of(plan.dimension, 1, norm=plan.norm_bound)
    error = np.linalg.norm(back(quantise(update, plan).vector, plan) - update)
    assert error <= 1.01 * math.sqrt(plan.padded) / plan.scale


def test_a_sum_that_does_not_fit_32_bits_is_refused():
    """20 bits leave room for a total weight of 4096, and for no more."""
    assert Numbers.of(40, 4096, 1.0).modulus_bits == 32
    with pytest.raises(OurMistake):
        Numbers.of(40, 4097, 1.0)


def test_twenty_bits_are_the_default():
    assert Numbers.of(40, 2, 1.0).bits == 20


@pytest.mark.parametrize("weight", [0, -1])
def test_weights_that_add_up_to_nothing_are_refused(weight):
    with pytest.raises(OurMistake, match="at least 1"):
        modulus_bits_for(20, weight)


@given(bits=st.integers(2, 24), weight=st.integers(1, 2040))
def test_no_sum_of_this_weight_can_overflow(bits, weight):
    """W x half < 2^(m-1), and one bit less would not do for W > 1 at the next power of two."""
    m = modulus_bits_for(bits, weight)
    half = 2 ** (bits - 1) - 1
    assert weight * half < 2 ** (m - 1)
    assert 2 ** (m - bits) >= weight
    assert m == bits or 2 ** (m - bits - 1) < weight


@given(
    bits=st.integers(8, 24),
    weights=st.lists(st.integers(1, 8), min_size=2, max_size=20),
    sign=st.sampled_from([-1, 1]),
)
def test_the_largest_vectors_of_all_sites_add_up_exactly(bits, weights, sign):
    """All at their limit, all of one sign: the sum is read back as what it is."""
    plan = Numbers.of(32, sum(weights), 1.0, bits)
    modulus = 1 << plan.modulus_bits
    total = sum((sign * w * plan.half) % modulus for w in weights) % modulus
    mean = back(np.full(32, total, dtype=np.uint32), plan, sum(weights))
    # every rotated coordinate is +-half, so the mean's norm is half sqrt(32) / scale = 6 bounds
    assert np.linalg.norm(mean) == pytest.approx(6.0, rel=1e-12)
    one = back(np.full(32, sign * plan.half % modulus, dtype=np.uint32), plan, 1)
    assert mean == pytest.approx(one, rel=1e-12, abs=1e-12)


# ---- quantise


def test_an_update_of_another_size_is_a_mistake():
    plan = Numbers.of(40, 2, 1.0)
    for shape in ((39,), (41,), (40, 1), ()):
        with pytest.raises(OurMistake, match="size"):
            quantise(np.zeros(shape, np.float32), plan)


@pytest.mark.parametrize("weight", [0, -3])
def test_a_weight_below_one_is_a_mistake(weight):
    with pytest.raises(OurMistake):
        quantise(np.zeros(40, np.float32), Numbers.of(40, 2, 1.0), weight)


def test_the_callers_update_is_left_as_it_was():
    """Clipping and rotation work on a copy."""
    update = update_of(40, 1, norm=7.0)
    update[3] = np.nan
    before = update.copy()
    quantise(update, Numbers.of(40, 2, 1.0))
    assert np.array_equal(update, before, equal_nan=True)


@pytest.mark.parametrize("dimension", [1, 31, 32, 40, 4096, 5000, 65_536, 66 * 4096 - 5])
def test_a_vector_comes_back_from_its_integers(dimension):
    """Each rotated coordinate is off by less than one step, so the vector by sqrt(padded) steps."""
    plan = Numbers.of(dimension, 2, 1.0)
    update = update_of(dimension, dimension, norm=0.5)
    found = quantise(update, plan)
    assert (found.clipped, found.non_finite, found.scaled) == (0, 0, False)
    error = np.linalg.norm(back(found.vector, plan) - update)
    assert error < math.sqrt(plan.padded) / plan.scale
    assert found.vector.dtype == np.uint32
    assert found.vector.shape == (plan.padded,)


def test_zero_stays_zero():
    plan = Numbers.of(5000, 2, 1.0)
    found = quantise(np.zeros(5000, np.float32), plan)
    assert not found.vector.any()
    assert not back(found.vector, plan).any()


@pytest.mark.parametrize("weight", [1, 3, 8])
def test_the_weight_multiplies_the_integers(weight):
    plan = Numbers.of(40, 16, 1.0)
    one = quantise(update_of(40, 2, norm=0.5), plan).vector.astype(np.int64)
    more = quantise(update_of(40, 2, norm=0.5), plan, weight).vector
    assert np.array_equal(more, (one * weight) % (1 << plan.modulus_bits))


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    dimension=st.sampled_from([1, 7, 40, 200]),
    bits=st.integers(8, 20),
)
def test_every_integer_is_the_floor_or_the_ceiling_of_its_value(seed, dimension, bits):
    """Against the reference's rotation in float64; one part in a million of slack for float32."""
    plan = Numbers.of(dimension, 2, 1.0, bits)
    update = update_of(dimension, seed, norm=0.6)
    fields = {"dimension": dimension, "bits": bits, "norm_bound": 1.0}
    exact = np.array(reference.rotate([float(x) for x in update], fields, SEED)) * plan.scale
    found = quantise(update, plan).vector.astype(np.int64)
    found[found >= 1 << (plan.modulus_bits - 1)] -= 1 << plan.modulus_bits
    exact = np.clip(exact, -plan.half, plan.half)
    slack = 1e-6 * plan.half
    assert np.all(found > exact - 1 - slack)
    assert np.all(found < exact + 1 + slack)


def test_a_long_vector_is_quantised_as_the_reference_does():
    """Longer than the pieces of 2^16 that the core works in: signs, columns and rounding words of
    every piece are the right ones. Float32 may turn one value in a thousand by one unit."""
    plan = Numbers.of(70_000, 5, 1.0, 16)
    update = update_of(70_000, 7, norm=0.9)
    fields = {"dimension": 70_000, "bits": 16, "norm_bound": 1.0, "modulus_bits": 19}
    exact, clipped, _, _ = reference.quantise([float(x) for x in update], fields, SEED, 1, ROUNDING)
    found = quantise(update, plan)
    assert plan.modulus_bits == 19
    assert found.clipped == clipped
    apart = (found.vector.astype(np.int64) - np.array(exact) + (1 << 18)) % (1 << 19) - (1 << 18)
    assert np.abs(apart).max() <= 1
    assert np.count_nonzero(apart) < 70
    mean = back(found.vector, plan)
    known = reference.mean(found.vector.tolist(), fields, SEED, 1)
    assert mean == pytest.approx(np.array(known), rel=1e-9, abs=1e-12)


def test_rounding_is_unbiased():
    """Mean over 4,000 rounding seeds against the exact value: chi-square over the coordinates."""
    plan = Numbers.of(32, 2, 1.0, 8)
    update = update_of(32, 3, norm=0.05)
    fields = {"dimension": 32, "bits": 8, "norm_bound": 1.0}
    exact = np.array(reference.rotate([float(x) for x in update], fields, SEED)) * plan.scale
    runs = 4000
    total = np.zeros(32)
    for k in range(runs):
        found = quantise(update, plan, rounding=k.to_bytes(32, "big")).vector.astype(np.int64)
        found[found >= 1 << (plan.modulus_bits - 1)] -= 1 << plan.modulus_bits
        total += found
    part = exact - np.floor(exact)
    z = (total / runs - exact) / np.sqrt(part * (1 - part) / runs)
    assert float(np.sum(z**2)) < 70  # chi-square, 32 degrees: 62.5 at p = 0.001
    assert abs(float(np.sum(z))) < 4 * math.sqrt(32)


def test_non_finite_elements_become_zero_and_are_counted():
    """Nothing but the local count tells them apart from zeros."""
    plan = Numbers.of(40, 2, 1.0)
    clean = update_of(40, 4, norm=0.5)
    clean[[0, 7, 39]] = 0.0
    dirty = clean.copy()
    dirty[[0, 7, 39]] = [np.nan, np.inf, -np.inf]
    found = quantise(dirty, plan)
    assert found.non_finite == 3
    assert not found.scaled
    assert np.array_equal(found.vector, quantise(clean, plan).vector)


def test_an_update_of_nothing_but_non_finite_elements_is_zero():
    plan = Numbers.of(40, 2, 1.0)
    found = quantise(np.full(40, np.nan, np.float32), plan)
    assert found.non_finite == 40
    assert not found.vector.any()


@pytest.mark.parametrize("bound", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("factor", [1.001, 3.0, 1e6, 1e30])
def test_a_norm_above_the_bound_is_scaled_to_the_bound(factor, bound):
    """The direction stays, the norm becomes the bound; also where float32 squares overflow."""
    plan = Numbers.of(400, 2, bound)
    update = update_of(400, 5, norm=bound)
    found = quantise(update * np.float32(factor), plan)
    assert found.scaled
    mean = back(found.vector, plan)
    assert np.linalg.norm(mean - update) < 1e-4 * bound
    assert np.linalg.norm(mean) == pytest.approx(bound, rel=1e-4)


@pytest.mark.parametrize("norm", [0.5, 0.994, 0.996, 0.99999])
def test_a_norm_within_the_bound_is_not_scaled(norm):
    """Also near the bound, where the norm is taken exactly."""
    found = quantise(update_of(400, 5, norm=norm), Numbers.of(400, 2, 1.0))
    assert not found.scaled
    assert np.linalg.norm(back(found.vector, Numbers.of(400, 2, 1.0))) == pytest.approx(
        norm, abs=1e-4
    )


@pytest.mark.parametrize("place", [0, 69_999])
def test_the_norm_is_that_of_the_whole_vector(place):
    """Longer than the pieces in which it is added up: a large element in the first or the last."""
    plan = Numbers.of(70_000, 2, 1.0)
    update = np.zeros(70_000, np.float32)
    update[place] = 4.0
    found = quantise(update, plan)
    assert found.scaled
    mean = back(found.vector, plan)
    assert mean[place] == pytest.approx(1.0, abs=1e-4)
    assert np.linalg.norm(np.delete(mean, place)) < 1e-4


@pytest.mark.parametrize("sign", [-1, 1])
def test_a_value_at_the_limit_is_not_clipped(sign):
    """One coordinate of 127.3 or -127.7 steps at 8 bits, whose half is 127: by the rounding it
    becomes the limit itself, which is legal, or is one beyond, which is clipped and counted."""
    plan = Numbers.of(64, 8, 1.0, 8)
    peak = [0.0] * 64
    peak[9] = (127.3 if sign > 0 else -127.7) / plan.scale
    turned = np.array(reference.hadamard(peak)) * reference.signs_of(SEED, 64)
    seen = set()
    for k in range(12):
        rounding = k.to_bytes(32, "big")
        u = (reference.PRG(rounding, 64)[9] >> 8) * 2.0**-24
        beyond = math.floor(peak[9] * plan.scale + u) != sign * 127
        found = quantise(turned.astype(np.float32), plan, rounding=rounding)
        assert found.vector[9] == sign * 127 % (1 << plan.modulus_bits)
        assert found.clipped == beyond
        seen.add(beyond)
    assert seen == {False, True}


def test_only_what_is_beyond_the_limit_is_counted():
    """Two coordinates of a vector: one of 140 steps, one of exactly 127, which is the limit."""
    plan = Numbers.of(128, 8, 1.0, 8)
    peaks = [0.0] * 128
    peaks[9], peaks[10] = 140 / plan.scale, 127.01 / plan.scale
    turned = np.array(reference.hadamard(peaks)) * reference.signs_of(SEED, 128)
    counts = set()
    for k in range(6):
        rounding = k.to_bytes(32, "big")
        u = (reference.PRG(rounding, 128)[10] >> 8) * 2.0**-24
        found = quantise(turned.astype(np.float32), plan, rounding=rounding)
        assert found.vector[9] == found.vector[10] == 127
        assert found.clipped == 1 + (127.01 + u >= 128)
        counts.add(found.clipped)
    assert 1 in counts


def test_a_norm_of_exactly_the_bound_is_not_scaled():
    update = np.zeros(40, np.float32)
    update[:4] = 0.5
    assert not quantise(update, Numbers.of(40, 2, 1.0)).scaled


@pytest.mark.parametrize("bits", [8, 20, 24])
@pytest.mark.parametrize("sign", [-1, 1])
def test_a_coordinate_out_of_range_is_clipped_and_counted(bits, sign):
    """All of the norm in one rotated coordinate is 8 sqrt(64) std; 6 are the limit."""
    plan = Numbers.of(64, 8, 1.0, bits)
    fields = {"dimension": 64, "bits": bits, "norm_bound": 1.0}
    peak = [0.0] * 64
    peak[9] = float(sign)
    # the rotation is its own inverse but for the signs
    turned = np.array(reference.hadamard(peak)) * reference.signs_of(SEED, 64)
    found = quantise(turned.astype(np.float32), plan, weight=8)
    assert max(abs(x) for x in reference.rotate(turned, fields, SEED)) == pytest.approx(1.0)
    assert found.clipped == 1
    assert found.vector[9] == (8 * sign * plan.half) % (1 << plan.modulus_bits)
    assert np.all(np.delete(found.vector, 9) == 0)


@given(
    seed=st.integers(0, 1000),
    spread=st.sampled_from([0.1, 1.0, 100.0]),
    weight=st.integers(1, 8),
    bits=st.integers(8, 24),
)
@SLOW
def test_no_quantised_value_leaves_its_range(seed, spread, weight, bits):
    """Whatever the update holds, |q| <= half and v = weight x q."""
    plan = Numbers.of(64, 8, 1.0, bits)
    update = np.random.default_rng(seed).standard_cauchy(64).astype(np.float32) * spread
    found = quantise(update.astype(np.float32), plan, weight).vector.astype(np.int64)
    found[found >= 1 << (plan.modulus_bits - 1)] -= 1 << plan.modulus_bits
    assert np.all(found % weight == 0)
    assert np.abs(found // weight).max() <= plan.half


# ---- the mean


def test_a_sum_of_another_size_or_weight_is_a_mistake():
    plan = Numbers.of(40, 2, 1.0)
    with pytest.raises(OurMistake):
        mean_of(np.zeros(63, np.uint32), plan, SEED, 1)
    with pytest.raises(OurMistake):
        mean_of(np.zeros((64, 1), np.uint32), plan, SEED, 1)
    with pytest.raises(OurMistake):
        mean_of(np.zeros(64, np.uint32), plan, SEED, 0)


@pytest.mark.parametrize("dimension", [40, 5000])
def test_another_rotation_seed_gives_another_vector(dimension):
    """Signs come from the seed: without the right one the mean is noise."""
    plan = Numbers.of(dimension, 2, 1.0)
    update = update_of(dimension, 8, norm=0.5)
    wrong = mean_of(quantise(update, plan).vector, plan, b"s" * 32, 1)
    assert np.linalg.norm(wrong - update) > 0.2


def test_columns_are_transformed_back_a_few_at_a_time(monkeypatch):
    """Five columns, two at a time: every column, and each once."""
    plan = Numbers.of(5 * 4096, 2, 1.0)
    vector = quantise(update_of(5 * 4096, 9, norm=0.5), plan).vector
    before = back(vector, plan)
    monkeypatch.setattr(numbers, "_COLUMNS", 2)
    assert np.array_equal(back(vector, plan), before)


@SLOW
@given(seed=st.integers(0, 1000), dimension=st.sampled_from([1, 33, 100, 4100]))
def test_the_rotation_keeps_norms(seed, dimension):
    """What is dequantised has the norm of the integers over the scale (an orthogonal map)."""
    plan = Numbers.of(plan_dimension := dimension, 2, 1.0)
    words = np.frombuffer(Entropy(f"norm {seed}")(4 * plan.padded), "<u4")
    values = (words >> np.uint32(16)).astype(np.uint32)
    whole = Numbers(plan.padded, plan.bits, 1.0, plan.modulus_bits)
    assert (whole.padded, whole.block) == (plan.padded, plan.block)
    mean = mean_of(values, whole, SEED, 1)
    exact = np.linalg.norm(values.astype(np.float64)) / whole.scale
    assert np.linalg.norm(mean) == pytest.approx(exact, rel=1e-12)
    assert mean_of(values, plan, SEED, 1) == pytest.approx(mean[:plan_dimension], rel=1e-12)


# ---- packing


@settings(max_examples=100, deadline=None)
@given(bits=st.integers(1, 32), groups=st.integers(0, 5), data=st.data())
def test_what_is_packed_is_what_is_unpacked(bits, groups, data):
    """Every number of bits, every number of groups, to exactly m bits a value."""
    count = 32 * groups
    seed = data.draw(st.integers(0, 1000))
    words = np.frombuffer(Entropy(f"pack {seed}")(4 * count), "<u4") & np.uint32((1 << bits) - 1)
    packed = pack(words, bits)
    assert len(packed) * 8 == bits * count
    assert packed == reference.pack(words.tolist(), bits)
    for form in (packed, memoryview(packed)):
        again = unpack(form, bits, count)
        assert again.dtype == np.uint32
        assert np.array_equal(again, words)


@pytest.mark.parametrize("bits", range(1, 33))
def test_the_largest_value_of_every_size_survives_packing(bits):
    """All ones, and a single one among zeros at each place of a group."""
    full = np.full(64, (1 << bits) - 1, dtype=np.uint32)
    assert pack(full, bits) == b"\xff" * (8 * bits)
    again = unpack(pack(full, bits), bits, 64)
    assert again.dtype == np.uint32
    assert np.array_equal(again, full)
    for place in range(32):
        one = np.zeros(32, dtype=np.uint32)
        one[place] = 1 << (bits - 1)
        number = int.from_bytes(pack(one, bits), "little")
        assert number == 1 << (bits * place + bits - 1)


@pytest.mark.parametrize(
    ("count", "bits", "value"),
    [(31, 20, 0), (33, 20, 0), (32, 0, 0), (32, 33, 0), (32, 20, 1 << 20), (32, 31, 1 << 31)],
)
def test_what_does_not_fit_is_not_packed(count, bits, value):
    vector = np.zeros(count, dtype=np.uint32)
    vector[-1] = value
    with pytest.raises(OurMistake):
        pack(vector, bits)


@pytest.mark.parametrize(
    ("size", "bits", "padded"),
    [(79, 20, 32), (81, 20, 32), (0, 20, 32), (20, 20, 8), (160, 20, 32), (124, 31, 33)],
)
def test_bytes_of_another_length_are_not_unpacked(size, bits, padded):
    with pytest.raises(OurMistake):
        unpack(bytes(size), bits, padded)


# ---- parameters by name


def test_parameters_are_flattened_in_the_order_of_their_names():
    update = {
        "b": np.array([[1, 2], [3, 4]], np.float32),
        "a": np.array(0.5, np.float32),
        "c": np.array([7.0], np.float32),
    }
    flat = numbers.flatten(update)
    assert flat.dtype == np.float32
    assert flat.tolist() == [0.5, 1, 2, 3, 4, 7]
    again = numbers.unflatten(flat.astype(np.float64), update)
    assert list(again) == ["a", "b", "c"]
    for name, value in update.items():
        assert again[name].shape == value.shape
        assert np.array_equal(again[name], value)


def test_parameters_of_another_precision_are_flattened_to_float32():
    flat = numbers.flatten({"a": np.array([[0.1], [2.0]], np.float64)})
    assert flat.dtype == np.float32
    assert flat.tolist() == [np.float32(0.1), 2.0]


def test_no_parameters_make_an_empty_vector():
    assert numbers.flatten({}).shape == (0,)
    assert numbers.flatten({}).dtype == np.float32
    assert numbers.unflatten(np.zeros(0), {}) == {}


@pytest.mark.parametrize("size", [0, 4, 6])
def test_a_vector_of_another_size_is_not_unflattened(size):
    with pytest.raises(OurMistake, match="fit"):
        numbers.unflatten(np.zeros(size), {"a": np.zeros((1, 5), np.float32)})
