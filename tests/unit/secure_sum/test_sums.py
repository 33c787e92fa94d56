"""The sum of the masked vectors is the sum of the clear ones, whoever drops out."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sum_cases import Entropy, round_of

from shared_model.errors import OurMistake
from shared_model.secure_sum import submission, unmask
from shared_model.secure_sum.numbers import Numbers, PackedSum, pack
from shared_model.secure_sum.opening import Seeds

NAMES = ("alpha", "alpha-2", "b", "beta", "delta", "gamma", "h1", "h10", "h2", "zeta")


@functools.cache
def cached_round(count, threshold, bits=12):
    return round_of(NAMES[:count], threshold, bits=bits, label=f"{count} {threshold}")


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_the_masked_sum_is_the_clear_sum_for_any_drop_outs(data):
    """Some never submit, some submit and vanish; t answer: the exact sum of who submitted."""
    count = data.draw(st.integers(2, 10))
    threshold = data.draw(st.integers(2, count))
    made = cached_round(count, threshold)
    sites = made.transcript.participants
    survivors = data.draw(
        st.integers(threshold, count).flatmap(
            lambda size: st.permutations(sites).map(lambda order: tuple(sorted(order[:size])))
        )
    )
    gone = data.draw(
        st.integers(0, len(survivors) - threshold).flatmap(
            lambda size: st.permutations(survivors).map(lambda order: tuple(sorted(order[:size])))
        )
    )
    total = made.sum(survivors, made.seeds(survivors, missing=gone))
    assert total.dtype == np.uint32
    assert np.array_equal(total, made.clear_sum(survivors))


@pytest.mark.parametrize(("bits", "count"), [(9, 2), (20, 4), (24, 3), (24, 5)])
def test_every_modulus_gives_the_exact_sum(bits, count):
    made = cached_round(count, 2, bits)
    sites = made.transcript.participants
    assert np.array_equal(made.sum(sites, made.seeds(sites)), made.clear_sum(sites))


def test_a_modulus_of_32_bits_gives_the_exact_sum():
    made = round_of(
        NAMES[:3], 2, weights=(100, 100, 56), numbers=Numbers(40, 24, 1.0, 32), label="32"
    )
    sites = made.transcript.participants
    assert np.array_equal(made.sum(sites, made.seeds(sites)), made.clear_sum(sites))


def test_a_sum_without_all_masks_off_is_noise():
    """One self seed that is another one: nothing of the sum is right."""
    made = cached_round(3, 2)
    sites = made.transcript.participants
    seeds = made.seeds(sites)
    wrong = Seeds({**seeds.self_seeds, "b": bytes(32)}, seeds.pair_seeds)
    equal = made.sum(sites, wrong) == made.clear_sum(sites)
    assert np.count_nonzero(equal) < 4


def test_masks_off_and_masks_on_give_the_same_sum():
    """To the bit: what a simulation sums without masks is what hospitals sum with them."""
    made = cached_round(4, 3)
    sites = made.transcript.participants
    clear = [
        (site, submission.unmasked_submission(made.clear[site], made.transcript)) for site in sites
    ]
    assert np.array_equal(
        unmask.sum_of(clear, made.transcript, None), made.sum(sites, made.seeds(sites))
    )


def test_vectors_are_read_one_at_a_time():
    """From a generator, each once, in any order."""
    made = cached_round(4, 3)
    sites = made.transcript.participants
    seeds = made.seeds(sites)
    lazy = ((site, made.submissions[site].packed) for site in reversed(sites))
    assert np.array_equal(unmask.sum_of(lazy, made.transcript, seeds), made.clear_sum(sites))


@pytest.mark.parametrize("change", ["one less", "one twice", "another"])
def test_vectors_of_other_survivors_than_those_opened_are_a_mistake(change):
    made = cached_round(4, 3)
    sites = made.transcript.participants
    packed = [(site, made.submissions[site].packed) for site in sites]
    seeds = made.seeds(sites)
    if change == "one less":
        packed = packed[1:]
    elif change == "one twice":
        packed.append(packed[0])
    else:
        packed[0] = ("other", packed[0][1])
    with pytest.raises(OurMistake, match="survivors"):
        unmask.sum_of(packed, made.transcript, seeds)


def test_a_vector_twice_is_a_mistake_also_without_masks():
    made = cached_round(2, 2)
    packed = [("alpha", made.submissions["alpha"].packed)] * 2
    with pytest.raises(OurMistake, match="survivors"):
        unmask.sum_of(packed, made.transcript, None)


def test_a_vector_of_another_length_is_a_mistake():
    made = cached_round(2, 2)
    with pytest.raises(OurMistake, match="size"):
        unmask.sum_of([("alpha", made.submissions["alpha"].packed[:-1])], made.transcript, None)


# ---- sums of packed vectors


@settings(max_examples=60, deadline=None)
@given(bits=st.integers(1, 32), groups=st.integers(1, 4), count=st.integers(0, 5))
def test_packed_vectors_add_up_mod_2_to_the_m(bits, groups, count):
    """What neighbours spill above bit m is cut off, also after many additions."""
    padded = 32 * groups
    total = PackedSum(bits, padded)
    exact = np.zeros(padded, np.uint64)
    for k in range(count):
        words = np.frombuffer(Entropy(f"{bits} {k}")(4 * padded), "<u4") >> np.uint32(32 - bits)
        total.add(pack(words, bits))
        exact += words
    assert np.array_equal(total.vector(), exact & np.uint64((1 << bits) - 1))


def test_many_full_vectors_add_up():
    """300 vectors of ones at 31 bits; asking for the sum does not change it."""
    full = pack(np.full(64, (1 << 31) - 1, np.uint32), 31)
    total = PackedSum(31, 64)
    for _ in range(300):
        total.add(full)
    for _ in range(2):
        assert np.array_equal(total.vector(), np.full(64, (1 << 31) - 300, np.uint32))


def test_a_sum_larger_than_one_piece_is_put_together_right():
    """More than 2^14 groups of 32, the size of a piece."""
    padded = 32 * ((1 << 14) + 129)
    words = np.frombuffer(Entropy("large")(4 * padded), "<u4") & np.uint32((1 << 25) - 1)
    total = PackedSum(25, padded)
    total.add(pack(words, 25))
    assert np.array_equal(total.vector(), words)


@pytest.mark.parametrize(("bits", "padded"), [(0, 32), (33, 32), (20, 31), (20, 48)])
def test_sums_of_vectors_that_cannot_be_packed_are_a_mistake(bits, padded):
    with pytest.raises(OurMistake):
        PackedSum(bits, padded)


@pytest.mark.parametrize("length", [0, 79, 81, 160])
def test_bytes_that_are_no_packed_vector_are_not_added(length):
    with pytest.raises(OurMistake, match="size"):
        PackedSum(20, 32).add(bytes(length))
