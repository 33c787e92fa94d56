"""Bundles: one is known by its digest, all others are refused before anything opens them."""

from __future__ import annotations

import inspect
import io
import json
import zipfile
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from flwr.common.config import get_fab_config
from flwr.supernode import start_client_internal
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client import bundles
from client.home import NodeHome
from client.policy import Policy
from shared_model import bundle
from shared_model.canonical import digest
from shared_model.errors import Refused


@pytest.fixture
def home(tmp_path: Path) -> NodeHome:
    place = NodeHome(tmp_path)
    Policy.write_default(place.policy, declared_patients=437)
    return place


def logged(home: NodeHome) -> list[dict[str, Any]]:
    lines = (home.logs / "rounds.log").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_the_bundle_is_the_same_bytes_everywhere() -> None:
    """Whoever changes it shuts out the nodes of all other versions: then this test fails."""
    assert digest(bundle.content()) == bundle.DIGEST
    assert bundle.DIGEST == "f4fb5705a1ad9522f5ca1605a8990a2818488a3e74701bb5310b244f855a44a5"


def test_the_bundle_holds_no_code_and_is_one_that_flower_takes() -> None:
    """Two text files; Flower reads the names of the installed apps and one empty word."""
    with zipfile.ZipFile(io.BytesIO(bundle.content())) as archive:
        assert archive.namelist() == ["pyproject.toml", ".info/CONTENT"]
    config = get_fab_config(bundle.content())
    assert config["tool"]["flwr"]["app"]["config"] == {bundle.RUN: ""}


def test_our_bundle_is_taken_and_one_that_the_policy_lists(home: NodeHome) -> None:
    """The list of the hospital adds to the one that is known."""
    other = b"of another time"
    assert bundles.admitted(home, bundle.content())
    assert not bundles.admitted(home, other)
    text = home.policy.read_text()
    assert "allowed_bundle_digests = []" in text
    home.policy.write_text(
        text.replace("allowed_bundle_digests = []", f'allowed_bundle_digests = ["{digest(other)}"]')
    )
    assert bundles.admitted(home, other)
    assert bundles.admitted(home, bundle.content())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200), st.integers(0, 500), st.integers(0, 7))
def test_no_other_bytes_are_taken(home: NodeHome, more: bytes, place: int, bit: int) -> None:
    """Neither anything, nor ours with a bit turned, cut or lengthened."""
    ours = bundle.content()
    turned = bytearray(ours)
    turned[place % len(ours)] ^= 1 << bit
    for found in (more, bytes(turned), ours[:-1], ours + more + b"x"):
        with pytest.raises(Refused, match="bundle that this node does not take"):
            bundles.check(found, bundles.expected(home))


def test_a_refusal_says_why_in_the_nodes_log(home: NodeHome) -> None:
    """With the digest that the operator of the coordinator can look for."""
    assert not bundles.admitted(home, b"hostile")
    entry = logged(home)[-1]
    assert (entry["outcome"], entry["reason"]) == ("refused", "bundle")
    assert digest(b"hostile") in entry["message"]
    assert "allowed_bundle_digests" in entry["message"]


def test_a_word_of_the_coordinator_that_is_no_digest_is_not_repeated() -> None:
    """Terminal escapes in a bundle's name do not reach a log."""
    with pytest.raises(Refused) as caught:
        bundles.check_digest("\x1b[2Jpatient", {bundle.DIGEST})
    assert "patient" not in str(caught.value)


def test_a_node_without_a_policy_takes_nothing(tmp_path: Path) -> None:
    """Not even ours: no limits, no work."""
    assert not bundles.admitted(NodeHome(tmp_path), bundle.content())


class Loop(ModuleType):
    """Flower's module, with its own function that receives a message."""

    def __init__(self) -> None:
        super().__init__("loop")
        vars(self).update(vars(start_client_internal))
        code = start_client_internal._pull_and_store_message.__code__
        self._pull_and_store_message = type(bundles.guard)(code, vars(self))
        self.opened: list[bytes] = []
        self.replies: list[Any] = []
        self.get_fused_config_from_fab = self.open
        self._insert_message = lambda reply, *_: self.replies.append(reply)

    def open(self, content: bytes, _: object) -> dict[str, str]:
        self.opened.append(content)
        raise InterruptedError


def receive(loop: Loop, named: str, sent: bytes) -> list[str]:
    """A message of a run that names this digest and sends these bytes; what was downloaded."""
    from flwr.app import Message, RecordDict
    from flwr.app.metadata import Metadata

    metadata = Metadata(
        run_id=7, message_id="m", src_node_id=1, dst_node_id=2, reply_to_message_id="",
        group_id="", created_at=0.0, ttl=1e9, message_type="train",
    )  # fmt: skip
    asked: list[str] = []

    def get_fab(found: str, run: int) -> SimpleNamespace:
        asked.append(found)
        verifications = {"valid_license": "yes", "fpk_hostile": "{}"}
        return SimpleNamespace(content=sent, hash_str=found, verifications=verifications)

    given: dict[str, Any] = dict.fromkeys(
        inspect.signature(start_client_internal._pull_and_store_message).parameters
    )
    given |= {
        "state": SimpleNamespace(get_run=lambda run: None),
        "receive": lambda: (Message(RecordDict(), metadata=metadata), None),
        "get_run": lambda run: SimpleNamespace(fab_hash=named),
        "get_fab": get_fab,
    }
    loop._pull_and_store_message(**given)
    return asked


def test_flower_opens_nothing_that_the_node_does_not_take(home: NodeHome) -> None:
    """By the name nothing is downloaded, by the bytes nothing opened; the coordinator is told."""
    from flwr.common.constant import ErrorCode

    loop = Loop()
    bundles.guard(loop, home)
    assert receive(loop, digest(b"hostile"), b"hostile") == []
    assert receive(loop, bundle.DIGEST, b"hostile") == [bundle.DIGEST]
    assert loop.opened == []
    assert [reply.error.code for reply in loop.replies] == [ErrorCode.INVALID_FAB] * 2
    assert [entry["reason"] for entry in logged(home)] == ["bundle", "bundle"]


def test_flower_opens_ours(home: NodeHome) -> None:
    """The control: the guard lets through what it should."""
    loop = Loop()
    bundles.guard(loop, home)
    with pytest.raises(InterruptedError):
        receive(loop, bundle.DIGEST, bundle.content())
    assert loop.opened == [bundle.content()]
    assert loop.replies == []


def test_if_flower_renames_the_slot_it_refuses_everything(home: NodeHome) -> None:
    """Flower's own check finds none of its signatures: closed, not open."""
    loop = Loop()
    flowers = loop._verify_fab
    bundles.guard(loop, home)
    loop._verify_fab = flowers
    receive(loop, bundle.DIGEST, bundle.content())
    assert loop.opened == []
    assert len(loop.replies) == 1


def test_a_zip_bomb_in_the_configuration_is_not_unpacked(home: NodeHome) -> None:
    """A quarter of a gigabyte of comment in 250 kB: refused as it is, whatever its name says."""
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("pyproject.toml", "w", force_zip64=True) as stream,
    ):
        for _ in range(256):
            stream.write(b"#" * 2**20)
    bomb = buffer.getvalue()
    loop = Loop()
    bundles.guard(loop, home)
    assert receive(loop, digest(bomb), bomb) == []
    assert receive(loop, bundle.DIGEST, bomb) == [bundle.DIGEST]
    assert loop.opened == []
    assert len(loop.replies) == 2
