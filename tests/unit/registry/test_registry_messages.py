"""The registry's messages: one spelling each, whatever is sent."""

from __future__ import annotations

import json

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from shared_model import registry, signing
from shared_model.errors import PeerFault, Refused
from shared_model.registry_reasons import REASONS, refusal

KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
PUBLIC = signing.public_bytes(KEY)
FETCH = registry.Fetch(sha256="ab" * 32, offset=7)
SEND = registry.Send(to="beta", what="ask", file=registry.encoded(b"opaque"))
KINDS = (
    registry.Ask, registry.Health, registry.Enrol, registry.Renew, registry.Certificate,
    registry.Standing, registry.Rotate, registry.Leave, registry.Done, registry.RosterFile,
    registry.Releases, registry.Fetch, registry.Send, registry.Mail, registry.Collect,
    registry.MailContent, registry.Token, registry.Heads, registry.EpochKeys,
)  # fmt: skip


def test_a_message_comes_back_as_it_was_sent() -> None:
    assert registry.Fetch.from_bytes(FETCH.to_bytes()) == FETCH
    assert registry.Send.from_bytes(SEND.to_bytes()).data == b"opaque"


@pytest.mark.parametrize(
    "bent",
    [
        FETCH.to_bytes() + b" ",
        b" " + FETCH.to_bytes(),
        json.dumps(FETCH.content()).encode(),
        FETCH.to_bytes().replace(b'"offset":7', b'"offset":7.0'),
        FETCH.to_bytes().replace(b'"offset":7', b'"offset":"7"'),
        FETCH.to_bytes().replace(b'"offset":7', b'"offset":-1'),
        FETCH.to_bytes().replace(b'"offset":7', b'"offset":7,"offset":7'),
        FETCH.to_bytes().replace(b'"offset":7', b'"more":1,"offset":7'),
        FETCH.to_bytes().replace(b"abab", b"ABAB"),
        b"[" * 100_000,
        b"",
        b"\xff\xfe",
        b"null",
    ],
)
def test_another_spelling_of_a_message_is_refused(bent: bytes) -> None:
    with pytest.raises(PeerFault):
        registry.Fetch.from_bytes(bent)


def test_a_message_over_the_limit_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(PeerFault):
        registry.Ask.from_bytes(b"{" + b" " * registry.MAX_MESSAGE_BYTES)


@given(st.binary(max_size=200), st.sampled_from(KINDS))
def test_bytes_from_anywhere_are_a_message_or_a_peers_fault(
    data: bytes, kind: type[registry.Message]
) -> None:
    with pytest.raises(PeerFault):
        kind.from_bytes(data)


@given(st.integers(0, 10**6), st.integers(0, 255))
def test_a_changed_byte_is_refused_or_another_message(place: int, value: int) -> None:
    """Never the same message from other bytes."""
    data = bytearray(SEND.to_bytes())
    data[place % len(data)] = value
    try:
        assert registry.Send.from_bytes(bytes(data)).to_bytes() == bytes(data)
    except PeerFault:
        assert bytes(data) != SEND.to_bytes()


@pytest.mark.parametrize(
    "text", ["b3BhcXVl\n", "b3BhcXV", "b3BhcXVl====", "b3B!cXVl", "QQ=", "QR=="]
)
def test_base64_has_one_spelling(text: str) -> None:
    with pytest.raises(PeerFault):
        registry.Send.from_bytes(SEND.to_bytes().replace(SEND.file.encode(), text.encode()))


def test_a_signature_for_one_purpose_is_none_for_another() -> None:
    site, digest = "alpha", "ab" * 32
    made = {
        "tls": registry.sign_tls_key(KEY, site, digest),
        "rotation": registry.sign_rotation(KEY, site, digest),
        "leaving": registry.sign_leaving(KEY, site),
    }
    registry.check_tls_key(PUBLIC, site, digest, made["tls"])
    registry.check_rotation(PUBLIC, site, digest, made["rotation"])
    registry.check_leaving(PUBLIC, site, made["leaving"])
    for name, signature in made.items():
        if name != "tls":
            with pytest.raises(Refused):
                registry.check_tls_key(PUBLIC, site, digest, signature)
        if name != "rotation":
            with pytest.raises(Refused):
                registry.check_rotation(PUBLIC, site, digest, signature)
        with pytest.raises(Refused):
            registry.check_leaving(PUBLIC, "beta", signature)


def test_a_tls_key_is_a_point_of_p256() -> None:
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    assert registry.tls_public_key(registry.tls_point(key)) == key
    with pytest.raises(PeerFault):
        registry.tls_public_key("04" + "00" * 64)


def test_an_unknown_reason_is_an_internal_fault_and_every_known_one_says_what_to_do() -> None:
    """A registry that writes sentences into the reason does not get them shown."""
    assert refusal("<script>").reason == "internal"
    for reason in REASONS:
        error = refusal(reason)
        assert error.reason == reason
        assert error.message.endswith(".")
        assert error.do
