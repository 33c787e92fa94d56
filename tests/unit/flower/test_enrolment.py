"""Cards and invitations: what is pinned is what was signed, and nothing is overwritten."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import pytest
from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st

from client import keys
from client.home import NodeHome
from server import sites, tls
from server.home import CoordinatorHome
from shared_model import canonical, enrolment, signing
from shared_model.errors import OurMistake, PeerFault, Refused

NOW = datetime.datetime(2026, 11, 21, tzinfo=datetime.UTC)
ROOT_KEY = "0b" * 32


@pytest.fixture
def node(tmp_path: Path) -> NodeHome:
    home = NodeHome(tmp_path / "north")
    keys.make(home, "north-clinic", 1200)
    return home


@pytest.fixture
def coordinator(tmp_path: Path) -> CoordinatorHome:
    home = CoordinatorHome(tmp_path / "coordinator")
    tls.make(home, "fedprint.example.org:8443", now=NOW)
    signing.create_key_file(home.run_key)
    signing.create_key_file(home.release_key)
    return home


def invitation_of(home: CoordinatorHome, address: str = "127.0.0.1:8443") -> bytes:
    run = signing.load_key_file(home.run_key)
    card = enrolment.Invitation(
        address=address,
        ca_certificate=home.ca_certificate.read_text(),
        run_key=signing.public_bytes(run).hex(),
        release_key=signing.public_bytes(signing.load_key_file(home.release_key)).hex(),
        root_key=ROOT_KEY,
    )
    return enrolment.seal(card, run)


def test_a_card_opens_to_what_the_node_is(node: NodeHome) -> None:
    card = enrolment.open_site_card((node.root / "site.json").read_bytes())
    assert (card.site, card.declared_patients) == ("north-clinic", 1200)
    assert card == keys.card(node)
    assert len(card.spoken.split()) == 16


def test_init_again_changes_no_key(node: NodeHome) -> None:
    before = (node.identity_key.read_bytes(), node.supernode_key.read_bytes())
    keys.make(node, "north-clinic", 1200)
    assert before == (node.identity_key.read_bytes(), node.supernode_key.read_bytes())


def test_a_node_does_not_become_another_site(node: NodeHome) -> None:
    with pytest.raises(OurMistake, match="another site"):
        keys.make(node, "south-clinic", 1200)


@pytest.mark.parametrize("name", ["", "North", "a_b", "-a", "a" * 33, "../x", "a.b"])
def test_a_name_that_is_no_site_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(OurMistake):
        keys.make(NodeHome(tmp_path / "node"), name, 10)


def test_keys_are_for_their_owner_only(node: NodeHome, coordinator: CoordinatorHome) -> None:
    paths = [node.identity_key, node.supernode_key, coordinator.ca_key, coordinator.server_key]
    assert all(path.stat().st_mode & 0o077 == 0 for path in paths)


@pytest.mark.parametrize(
    ("field", "value"),
    [("declared_patients", 9), ("site", "other"), ("identity_key", "00" * 32), ("more", 1)],
)
def test_a_changed_card_is_refused(node: NodeHome, field: str, value: object) -> None:
    document = json.loads((node.root / "site.json").read_bytes())
    with pytest.raises(PeerFault):
        enrolment.open_site_card(json.dumps({**document, field: value}).encode())


@settings(max_examples=60)
@given(st.binary(max_size=400) | st.text(max_size=200).map(str.encode))
def test_bytes_that_are_no_card_are_refused(data: bytes) -> None:
    with pytest.raises(PeerFault):
        enrolment.open_site_card(data)
    with pytest.raises(PeerFault):
        enrolment.open_invitation(data)


def test_a_long_file_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(PeerFault):
        enrolment.open_site_card(b"[" * (enrolment.MAX_BYTES + 1))


def test_a_card_of_one_kind_is_none_of_the_other(
    node: NodeHome, coordinator: CoordinatorHome
) -> None:
    with pytest.raises(PeerFault):
        enrolment.open_invitation((node.root / "site.json").read_bytes())
    with pytest.raises(PeerFault):
        enrolment.open_site_card(invitation_of(coordinator))


def test_enrolling_twice_changes_nothing_and_another_card_is_refused(
    tmp_path: Path, node: NodeHome, coordinator: CoordinatorHome
) -> None:
    data = (node.root / "site.json").read_bytes()
    sites.enrol(coordinator, data)
    sites.enrol(coordinator, data)
    assert [card.site for card in sites.roster(coordinator)] == ["north-clinic"]
    other = NodeHome(tmp_path / "impostor")
    keys.make(other, "north-clinic", 5)
    with pytest.raises(Refused, match="enrolled"):
        sites.enrol(coordinator, (other.root / "site.json").read_bytes())
    sites.remove(coordinator, "north-clinic")
    assert sites.roster(coordinator) == []


def test_a_node_joins_one_coordinator_only(
    tmp_path: Path, node: NodeHome, coordinator: CoordinatorHome
) -> None:
    data = invitation_of(coordinator)
    keys.join(node, data)
    assert keys.join(node, data) == keys.pinned(node)
    assert keys.pinned(node).root == bytes.fromhex(ROOT_KEY)
    other = CoordinatorHome(tmp_path / "other")
    tls.make(other, "127.0.0.1:1", now=NOW)
    signing.create_key_file(other.run_key)
    signing.create_key_file(other.release_key)
    with pytest.raises(Refused, match="another coordinator"):
        keys.join(node, invitation_of(other))
    assert keys.pinned(node).address == "127.0.0.1:8443"


def test_another_root_key_is_another_coordinator(
    node: NodeHome, coordinator: CoordinatorHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that has pinned a root key takes no second one from the same coordinator."""
    keys.join(node, invitation_of(coordinator))
    monkeypatch.setitem(globals(), "ROOT_KEY", "0c" * 32)
    with pytest.raises(Refused, match="another coordinator"):
        keys.join(node, invitation_of(coordinator))
    assert keys.pinned(node).root == bytes.fromhex("0b" * 32)


def test_an_invitation_without_a_root_key_is_none(coordinator: CoordinatorHome) -> None:
    """Signed rightly, as an earlier version wrote it."""
    run = signing.load_key_file(coordinator.run_key)
    content = enrolment.open_invitation(invitation_of(coordinator)).content()
    del content["root_key"]
    signature = signing.sign(run, "fedprint-coordinator", canonical.encode(content)).hex()
    with pytest.raises(PeerFault, match="not a file"):
        enrolment.open_invitation(json.dumps({**content, "signature": signature}).encode())


@pytest.mark.parametrize(
    "address",
    ["", "host", "host:0", "host:65536", "a b:1", "h:1/x", "h:-1", "h:1\n", "--insecure:1"],
)
def test_an_address_without_host_and_port_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="HOST:PORT"):
        enrolment.check_address(address)


def test_the_server_certificate_names_host_and_loopback(coordinator: CoordinatorHome) -> None:
    certificate = x509.load_pem_x509_certificate(coordinator.server_certificate.read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost", "fedprint.example.org"]
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]
    authority = x509.load_pem_x509_certificate(coordinator.ca_certificate.read_bytes())
    certificate.verify_directly_issued_by(authority)


def test_an_authority_is_never_made_again(coordinator: CoordinatorHome) -> None:
    with pytest.raises(OurMistake, match="never overwritten"):
        tls.make(coordinator, "127.0.0.1:8443", now=NOW)
