"""What is signed as it should be and is no legal message: is it of another protocol version?"""

from __future__ import annotations

import json
from importlib import metadata
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from shared_model import protocol, protocol_base, protocol_open, signing
from shared_model.errors import PeerFault
from shared_model.protocol import LedgerNote, Refusal
from shared_model.protocol_open import OtherVersion

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = signing.public_bytes(KEY)
PLAIN = Refusal(
    run="spring", round=1, site="north", request_digest="ab" * 32, reason="policy"
).model_dump(mode="json")


def signed(value: Any) -> bytes:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return signing.sign(KEY, protocol.kind_of(Refusal), data) + data


def opened(value: Any) -> PeerFault:
    with pytest.raises(PeerFault) as caught:
        protocol_open.open_signed(signed(value), PUBLIC, Refusal, site="north")
    return caught.value


@pytest.mark.parametrize("version", [1, 2, protocol_base.VERSION + 1])
def test_another_version_is_told_with_its_number(version: int) -> None:
    fault = opened({**PLAIN, "version": version, "field_of_that_version": 1})
    assert isinstance(fault, OtherVersion)
    assert (fault.version, fault.software, fault.site) == (version, "", "north")
    assert f"north speaks protocol version {version}; this" in fault.message


def test_the_software_that_it_names_is_told_if_it_can_be_printed() -> None:
    named = opened({**PLAIN, "version": 2, "software": "fedprint 0.1.0"})
    assert isinstance(named, OtherVersion)
    assert "version 2 (fedprint 0.1.0)" in named.message
    for bad in ("x" * 65, "\x1b[2J", 7):
        unnamed = opened({**PLAIN, "version": 2, "software": bad})
        assert isinstance(unnamed, OtherVersion)
        assert unnamed.software == ""


@pytest.mark.parametrize(
    "value",
    [
        {**PLAIN, "more": 1},
        {**PLAIN, "version": 4},
        {**PLAIN, "version": 0},
        {**PLAIN, "version": True},
        {**PLAIN, "version": "2"},
        {**PLAIN, "version": 10**9},
        {**PLAIN, "version": None},
        [1],
        b"no JSON",
        b"[" * 100_000,
    ],
    ids=range(10),
)
def test_anything_else_is_no_legal_message_and_no_version(value: Any) -> None:
    fault = opened(value)
    assert not isinstance(fault, OtherVersion)
    assert "not a legal message" in fault.message


def test_what_has_no_version_is_of_none() -> None:
    assert protocol_open._other_version(LedgerNote, b'{"version": 2}', "north") is None


def test_an_installation_without_its_metadata_still_says_what_it_speaks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def absent(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", absent)
    told = OtherVersion(2, "", site=protocol.COORDINATOR).message
    assert told.startswith("Coordinator speaks protocol version 2; this installation (fedprint)")
