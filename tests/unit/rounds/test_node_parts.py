"""The deployed node's own parts: what it finds out before it books."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest

from client import keys
from client.home import NodeHome
from client.node_parts import node_from_home
from client.policy import Policy
from client.pseudonyms import load_or_create_key
from client.store_write import StoreWriter
from server import tls
from server.home import CoordinatorHome
from shared_model import enrolment, signing
from shared_model.errors import Refused


@pytest.fixture
def home(tmp_path: Path) -> NodeHome:
    coordinator = CoordinatorHome(tmp_path / "coordinator")
    now = datetime.datetime(2026, 11, 21, tzinfo=datetime.UTC)
    tls.make(coordinator, "127.0.0.1:8443", now=now)
    run, release = (
        signing.create_key_file(path) for path in (coordinator.run_key, coordinator.release_key)
    )
    invitation = enrolment.Invitation(
        address="127.0.0.1:8443",
        ca_certificate=coordinator.ca_certificate.read_text(),
        run_key=signing.public_bytes(run).hex(),
        release_key=signing.public_bytes(release).hex(),
    )
    node = NodeHome(tmp_path / "node")
    keys.make(node, "north-clinic", 1200)
    keys.join(node, enrolment.seal(invitation, run))
    Policy.write_default(node.policy, declared_patients=1200)
    return node


def test_a_node_whose_first_add_was_interrupted_is_not_ready_and_books_nothing(home):
    """The add leaves an empty folder; a round begun on it would be paid for and never answered."""
    with (
        pytest.raises(KeyboardInterrupt),
        StoreWriter(home.store, load_or_create_key(home)),
    ):
        raise KeyboardInterrupt
    assert home.store.is_dir()
    with pytest.raises(Refused) as caught:
        node_from_home(home).ready()
    assert caught.value.reason == "not-ready"
    assert not home.spend.exists()


def test_an_emptied_store_is_ready_and_trains_on_noise_alone(home):
    """That there is no patient is for nobody to know."""
    with StoreWriter(home.store, load_or_create_key(home)) as writer:
        writer.publish([])
    node = node_from_home(home)
    node.ready()
    assert node.data().patient_count == 0
