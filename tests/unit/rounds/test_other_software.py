"""Two versions of fedprint, or a bundle that a hospital does not take: both sides say so."""

from __future__ import annotations

import json

import pytest
from loop_stand_ins import FOUR, go
from round_stand_ins import RUN_KEY, FakeTransport, begun, handlers, key_of, nodes_of, three_nodes

from client.round import answer
from server.progress import turned_away
from server.transport import Incoming
from shared_model import protocol, protocol_base, protocol_open, signing
from shared_model.errors import PeerFault
from shared_model.protocol import Refusal
from shared_model.protocol_open import OtherVersion
from shared_model.protocol_sum import EpochRequest


def of_version(header: bytes, key, version: int) -> bytes:
    """The same message as an installation of another protocol version would sign it."""
    text = header[64:].replace(b'"version":3', b'"version":%d' % version)
    assert text != header[64:]
    return signing.sign(key, protocol_open.readable(header)["kind"], text) + text


class OneIsDifferent(FakeTransport):
    """delta's answers are signed by another version, or come as an error of the transport."""

    version = 6
    word = ""
    fault_for = 10**9

    def pull(self, ids):
        found = []
        for one in super().pull(ids):
            if one.site != "delta" or self.fault_for <= 0:
                found.append(one)
                continue
            self.fault_for -= 1
            if self.word:
                found.append(Incoming(one.id, one.site, error=self.word))
                continue
            refusal = Refusal(
                run="unknown", round=1, site="delta", request_digest="ab" * 32, reason="version"
            )
            header = of_version(
                protocol.seal(refusal, key_of("delta")), key_of("delta"), self.version
            )
            found.append(Incoming(one.id, one.site, header))
        return found


def federation(tmp_path, rounds=1, **changes):
    folder = begun(tmp_path, FOUR, threshold=3, rounds=rounds, epoch_rounds=1)
    transport = OneIsDifferent(handlers(nodes_of(tmp_path, FOUR, threshold=3)))
    for name, value in changes.items():
        setattr(transport, name, value)
    return folder, transport


@pytest.mark.parametrize(
    ("version", "who"), [(2, "Upgrade the hospital"), (6, "Upgrade this coordinator")]
)
def test_a_site_of_another_version_is_told_and_the_run_goes_on(tmp_path, version, who):
    """Told once, with both versions and what to do; kept for `status`; no incident is counted."""
    folder, transport = federation(tmp_path, version=version)
    record, seen = go(transport, folder)
    assert record.state == "finished"
    assert record.rounds[-1].survivors == ("alpha", "beta", "gamma")
    told = [one.detail for one in seen if (one.kind, one.site) == ("refused", "delta")]
    assert len(told) == 1
    assert f"speaks protocol version {version}; this coordinator speaks 3, 4 and 5" in told[0]
    assert who in told[0]
    assert turned_away(record) == [f"after round 0: delta {told[0]}"]
    assert not record.rounds[-1].incidents
    assert not [one for one in seen if one.kind == "incident"]


def test_a_refused_bundle_is_told_and_the_run_goes_on(tmp_path):
    """With the digest of the one bundle that every node takes."""
    folder, transport = federation(tmp_path, word="bundle-refused")
    record, seen = go(transport, folder)
    assert record.state == "finished"
    told = [one.detail for one in seen if (one.kind, one.site) == ("refused", "delta")]
    assert told == ["bundle"]
    assert "does not take the Flower bundle" in turned_away(record)[0]


@pytest.mark.parametrize("word", ["", "bundle-refused"])
def test_a_site_that_was_upgraded_is_not_spoken_of_any_more(tmp_path, word):
    """Its first legal answer clears it."""
    folder, transport = federation(tmp_path, rounds=3, word=word, fault_for=1)
    record, seen = go(transport, folder)
    assert [one.site for one in seen if one.kind == "refused"] == ["delta"]
    assert record.turned_away == ()


@pytest.mark.parametrize("word", ["crashed", "unreachable", "failed"])
def test_other_faults_of_the_transport_are_no_refusals(tmp_path, word):
    """They pass."""
    folder, transport = federation(tmp_path, word=word)
    record, _ = go(transport, folder)
    assert record.turned_away == ()


def epoch_request(tmp_path) -> tuple[dict, bytes, bytes]:
    """What the coordinator sends first; header and body."""
    folder = begun(tmp_path, ("alpha", "beta", "gamma"))
    transport = FakeTransport(handlers(three_nodes(tmp_path)))
    go(transport, folder)
    first = transport.sent[0]
    return protocol_open.readable(first.header), first.header, first.body


def test_a_node_says_which_version_the_coordinator_speaks(tmp_path):
    """In its own log; the answer carries a word, and nothing is booked or made."""
    _, header, body = epoch_request(tmp_path / "run")
    node = three_nodes(tmp_path / "fresh")["alpha"]
    told: list[dict[str, object]] = []
    vars(node)["log"] = told.append
    reply, _ = answer(node, of_version(header, RUN_KEY, 6), body)
    refusal = protocol_open.open_answer(reply, signing.public_bytes(key_of("alpha")), site="alpha")
    assert isinstance(refusal, Refusal)
    assert refusal.reason == "version"
    said = str(told[0]["message"])
    assert "Coordinator speaks protocol version 6 (fedprint 0.1.0)" in said
    assert "speaks 3, 4 and 5" in said
    assert "Upgrade the older" in said
    assert node.epochs.held is None or node.epochs.held == 0


@pytest.mark.parametrize("software", ["fedprint 0.1.0", None, 7, "x" * 65, "\x1b[2J", ["a"]])
@pytest.mark.parametrize("version", [6, 1, 10**6])
def test_any_signed_message_of_another_version_is_told_apart(tmp_path, version, software):
    """Whatever else is in it; of its words only a printable name is repeated."""
    text = json.dumps({"version": version, "software": software, "new": [1]}).encode()
    header = signing.sign(RUN_KEY, "epoch-request", text) + text
    with pytest.raises(OtherVersion) as caught:
        protocol_open.open_signed(
            header, signing.public_bytes(RUN_KEY), EpochRequest, site="coordinator"
        )
    assert caught.value.version == version
    assert caught.value.software == (software if software == "fedprint 0.1.0" else "")
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [b'{"version":3}', b'{"version":5}', b'{"version":true}', b'{"version":"5"}', b"[5]", b"5",
     b'{"version":0}',
     b'{"version":1000001}', b'{"version":5.0}', b"{" * 9000, b"\xff", b""],
)  # fmt: skip
def test_what_names_no_other_version_is_a_plain_fault(text):
    """A peer cannot have us say what it did not sign."""
    header = signing.sign(RUN_KEY, "epoch-request", text) + text
    with pytest.raises(PeerFault) as caught:
        protocol_open.open_signed(
            header, signing.public_bytes(RUN_KEY), EpochRequest, site="coordinator"
        )
    assert not isinstance(caught.value, OtherVersion)


def test_a_message_without_a_valid_signature_names_no_version():
    """Strangers do not have a hospital upgrade."""
    with pytest.raises(PeerFault) as caught:
        protocol_open.open_signed(
            bytes(64) + b'{"version":6}', signing.public_bytes(RUN_KEY), EpochRequest, site="x"
        )
    assert not isinstance(caught.value, OtherVersion)


def test_every_message_of_a_round_carries_the_version():
    """The envelope that all versions share (docs/adr/0023)."""
    from shared_model import protocol_sum

    for module in (protocol, protocol_sum):
        for model in vars(module).values():
            if not (isinstance(model, type) and issubclass(model, protocol_base.SignedMessage)):
                continue
            kind = model.model_fields["kind"].default
            if isinstance(kind, str):
                assert model.model_fields["version"].default == protocol_base.OLDEST, model
