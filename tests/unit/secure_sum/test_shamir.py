"""Shamir's shares: t of them give the secret, t - 1 give nothing."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import secure_sum_reference as reference
from hypothesis import given, settings
from hypothesis import strategies as st
from sum_cases import Entropy

from shared_model.errors import OurMistake
from shared_model.secure_sum import shamir
from shared_model.secure_sum.shamir import PRODUCT, rebuild, split

SECRET = bytes(range(100, 132))


def shared(secrets, threshold, receivers, label="shamir"):
    """Shares of these 32-byte secrets, uint8 (receiver, secret, 32)."""
    return split(
        np.frombuffer(b"".join(secrets), np.uint8).reshape(-1, 32),
        threshold,
        receivers,
        Entropy(label)(len(secrets) * (threshold - 1) * 32),
    )


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_threshold_many_shares_give_every_secret(data):
    """Also the reference's Lagrange gives it, from any receivers in any order."""
    receivers = data.draw(st.integers(1, 12))
    threshold = data.draw(st.integers(1, receivers))
    secrets = data.draw(st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=3))
    chosen = data.draw(st.permutations(range(receivers)))[:threshold]
    shares = shared(secrets, threshold, receivers)
    for place, secret in enumerate(secrets):
        held = {r: shares[r, place].tobytes() for r in chosen}
        assert rebuild(held) == secret
        assert reference.rebuild(held) == secret


@pytest.mark.parametrize(("threshold", "receivers"), [(3, 5), (4, 5), (5, 5)])
def test_every_choice_of_threshold_many_shares_gives_the_secret(threshold, receivers):
    shares = shared([SECRET], threshold, receivers)
    for chosen in combinations(range(receivers), threshold):
        assert rebuild({r: shares[r, 0].tobytes() for r in chosen}) == SECRET
    for chosen in combinations(range(receivers), threshold - 1):
        assert rebuild({r: shares[r, 0].tobytes() for r in chosen}) != SECRET


def test_more_shares_than_the_threshold_give_the_same_secret():
    shares = shared([SECRET], 3, 6)
    assert rebuild({r: shares[r, 0].tobytes() for r in range(6)}) == SECRET


def test_the_last_of_255_receivers_has_a_share_like_the_others():
    """x = 255 is the last point of the field."""
    shares = shared([SECRET], 3, 255)
    assert rebuild({r: shares[r, 0].tobytes() for r in (254, 0, 128)}) == SECRET
    assert shares.shape == (255, 1, 32)


@pytest.mark.parametrize("secret", [0, 77, 255])
def test_fewer_shares_than_the_threshold_are_independent_of_the_secret(secret):
    """Exactly, by all 65,536 polynomials of degree 2: every pair of shares comes once."""
    pairs = np.arange(1 << 16)
    coefficients = np.stack([pairs >> 8, pairs & 255]).astype(np.uint8)  # (power, polynomial)
    laid_out = coefficients.reshape(2, -1, 32).transpose(1, 0, 2)  # (secret, power, byte)
    secrets = np.full((len(pairs) // 32, 32), secret, np.uint8)
    shares = split(secrets, 3, 5, laid_out.tobytes())
    for one, other in combinations(range(5), 2):
        joint = shares[one].astype(int) * 256 + shares[other]
        assert len(np.unique(joint)) == 1 << 16


def test_shares_of_one_secret_look_uniform():
    """Chi-square of 32,768 bytes of a share and of the xor of two, fixed seed; 255 degrees."""
    secrets = [SECRET] * 1024
    shares = shared(secrets, 3, 5, "uniform")
    for values in (shares[0], shares[4], shares[0] ^ shares[4]):
        counts = np.bincount(values.reshape(-1), minlength=256)
        expected = values.size / 256
        statistic = float(np.sum((counts - expected) ** 2) / expected)
        assert 180 < statistic < 340  # p = 0.0001 and 0.9999 at 255 degrees


def test_a_threshold_of_one_is_a_copy():
    shares = shared([SECRET], 1, 3)
    assert [shares[r, 0].tobytes() for r in range(3)] == [SECRET] * 3


def test_the_table_is_made_by_shifting_and_xoring():
    """Against the reference; the table in use was made when the module was imported."""
    exact = [[reference.gf_multiply(a, b) for b in range(256)] for a in range(256)]
    assert shamir._table().tolist() == exact
    assert shamir._table().dtype == np.uint8
    assert PRODUCT.tolist() == exact


def test_zero_and_one_multiply_as_they_should():
    """The table is a field's: one is neutral, zero absorbs, all others have an inverse."""
    assert np.array_equal(PRODUCT[1], np.arange(256))
    assert not PRODUCT[0].any()
    assert np.array_equal(PRODUCT, PRODUCT.T)
    assert all(1 in PRODUCT[a] for a in range(1, 256))


@pytest.mark.parametrize(
    ("secret_bytes", "threshold", "receivers", "random_bytes"),
    [
        (31, 2, 3, 32),
        (33, 2, 3, 32),
        (32, 0, 3, 0),
        (32, 4, 3, 96),
        (32, 2, 256, 32),
        (32, 2, 3, 31),
        (32, 2, 3, 33),
        (32, 2, 3, 64),
    ],
)
def test_secrets_that_cannot_be_shared_are_refused(
    secret_bytes, threshold, receivers, random_bytes
):
    """Wrong length, a threshold out of range, too many receivers, wrong number of random bytes."""
    with pytest.raises(OurMistake):
        split(np.zeros((1, secret_bytes), np.uint8), threshold, receivers, bytes(random_bytes))


@pytest.mark.parametrize(
    "shares",
    [{}, {-1: bytes(32)}, {255: bytes(32)}, {0: bytes(31)}, {0: bytes(32), 1: bytes(33)}],
    ids=["none", "index below 0", "index of 255", "short", "one long"],
)
def test_shares_of_no_secret_are_refused(shares):
    with pytest.raises(OurMistake):
        rebuild(shares)
