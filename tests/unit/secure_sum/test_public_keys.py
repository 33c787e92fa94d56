"""Which 32 bytes are a public key: one spelling for each point, and no point of small order."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from shared_model.secure_sum.keys import is_public_key, public_key

FIELD = 2**255 - 19
SMALL_ORDER = [
    0,
    1,
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
    FIELD - 1,
]
"""u coordinates of order 1, 2, 4 and 8 on the curve and its twist (cr.yp.to/ecdh.html)."""


def test_keys_that_are_made_are_public_keys():
    """Twenty of them, from the operating system."""
    for _ in range(20):
        assert is_public_key(public_key(X25519PrivateKey.generate()))


@pytest.mark.parametrize("value", SMALL_ORDER)
def test_points_of_small_order_are_none(value):
    """With them everybody's shared secret is zero."""
    assert not is_public_key(value.to_bytes(32, "little"))


@pytest.mark.parametrize("value", [FIELD + 9, 2**255 - 1, 2**255 + 9, 2**256 - 1])
def test_second_spelling_of_a_point_is_none(value):
    """9 is the base point; FIELD + 9 and 2^255 + 9 stand for it too and are refused."""
    assert is_public_key((9).to_bytes(32, "little"))
    assert not is_public_key(value.to_bytes(32, "little"))


def test_the_largest_value_below_the_field_is_looked_at_as_a_point():
    """The bound itself: FIELD - 2 is a spelling, FIELD is not."""
    assert is_public_key((FIELD - 2).to_bytes(32, "little"))
    assert not is_public_key(FIELD.to_bytes(32, "little"))


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_other_lengths_are_none(length):
    """A key has 32 bytes."""
    assert not is_public_key(b"\x09" * length)
