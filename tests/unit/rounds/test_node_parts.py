"""The deployed node's own parts: what it finds out before it books, and what it goes by."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import pytest
from client.spend import Budget
from node_stand_ins import ROOT_KEY, RUN_KEY, Card, Consortium, key_of

from client import keys
from client.home import NodeHome
from client.node_parts import HospitalBooks, dimension, node_from_home
from client.policy import Policy
from client.pseudonyms import load_or_create_key
from client.rosters import RosterBook, today_utc
from client.round import PretendNode, handle
from client.store_write import StoreWriter
from server import tls
from server.home import CoordinatorHome
from shared_model import canonical, enrolment, mae, protocol, roster, signing
from shared_model.errors import Refused
from shared_model.noise import SystemNoise
from shared_model.protocol import seal
from shared_model.protocol_sum import EpochRequest

NOW = datetime.datetime(2026, 11, 21, tzinfo=datetime.UTC)
ROOT = signing.public_bytes(ROOT_KEY)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory) -> str:
    coordinator = CoordinatorHome(tmp_path_factory.mktemp("coordinator"))
    tls.make(coordinator, "127.0.0.1:8443", now=NOW)
    return coordinator.ca_certificate.read_text()


@pytest.fixture
def home(tmp_path: Path, certificate: str) -> NodeHome:
    invitation = enrolment.Invitation(
        address="127.0.0.1:8443",
        ca_certificate=certificate,
        run_key=signing.public_bytes(RUN_KEY).hex(),
        release_key=signing.public_bytes(key_of("release")).hex(),
        root_key=ROOT.hex(),
    )
    node = NodeHome(tmp_path / "node")
    keys.make(node, "north-clinic", 1200)
    keys.join(node, enrolment.seal(invitation, RUN_KEY))
    Policy.write_default(node.policy, declared_patients=1200)
    return node


def signed_roster(home: NodeHome, threshold: int | None = None, version: int = 1) -> bytes:
    """This hospital and two others, valid for years around today."""
    cards = [keys.card(home)] + [
        Card(site, signing.public_bytes(key_of(site)).hex(), 500) for site in ("east", "west")
    ]
    drafted = roster.draft(
        cards, version, threshold, valid_from="2020-01-01", valid_until="2099-01-01"
    )
    return roster.sign(drafted, ROOT_KEY).to_bytes()


def approve(home: NodeHome, data: bytes) -> None:
    RosterBook(home).approve(data, ROOT, Policy.from_file(home.policy), today_utc())


def asked_for_a_key(home: NodeHome, data: bytes, epoch: int = 5, **options):
    """The node's answer to an epoch request that carries this roster."""
    message = EpochRequest(
        epoch=epoch,
        roster_digest=roster.open_signed(data, ROOT).roster.digest,
        body_digest=canonical.digest(data),
        software="test",
    )
    header, _ = handle(home, seal(message, RUN_KEY), data, **options)
    return protocol.readable(header)


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


def test_an_epoch_begins_once_the_operator_approved_the_roster_and_not_before(home):
    """What the coordinator relays waits in the node's folder; no key is made for it."""
    data = signed_roster(home)
    assert asked_for_a_key(home, data)["reason"] == "roster-approval"
    assert not home.never_back_up.exists()
    approve(home, home.pending_roster.read_bytes())
    assert asked_for_a_key(home, data)["kind"] == "epoch-key"
    assert node_from_home(home).epochs.held == 5
    assert (home.never_back_up / "epoch.json").is_file()
    assert json.loads(home.epochs.read_bytes()) == {"last_epoch": 5}


def test_another_roster_waits_although_the_root_signed_it(home):
    """The key of the epoch before stays what it is meanwhile."""
    approve(home, signed_roster(home))
    assert asked_for_a_key(home, signed_roster(home))["kind"] == "epoch-key"
    captured = signed_roster(home, version=2)
    assert asked_for_a_key(home, captured, epoch=6)["reason"] == "roster-approval"
    assert node_from_home(home).epochs.held == 5


def test_an_edited_policy_holds_for_the_next_message(home):
    """Three sites with threshold three hold against one colluder, not against two."""
    approve(home, signed_roster(home))
    text = home.policy.read_text()
    home.policy.write_text(text.replace("colluding_sites = 1", "colluding_sites = 2"))
    assert asked_for_a_key(home, signed_roster(home))["reason"] == "threshold"
    with pytest.raises(Refused) as caught:
        node_from_home(home).rosters.approved()
    assert caught.value.reason == "threshold"
    home.policy.write_text(text)
    assert asked_for_a_key(home, signed_roster(home))["kind"] == "epoch-key"


def test_only_a_pretended_node_can_be_made_to_submit_unmasked(home, tmp_path):
    """No file of a hospital says so."""
    assert not node_from_home(home).allow_unmasked
    assert not node_from_home(home, PretendNode(unlimited_budget=True)).allow_unmasked
    assert node_from_home(home, PretendNode(allow_unmasked=True)).allow_unmasked


def test_the_policy_s_minimum_holds_for_survivors_as_well(home):
    """A coordinator cannot ask for a large round and sum a small one."""
    text = home.policy.read_text()
    home.policy.write_text(text.replace("minimum_contributors = 3", "minimum_contributors = 7"))
    assert node_from_home(home).minimum_contributors == 7


def test_the_head_of_the_ledger_follows_every_booking_and_settlement(home, tmp_path):
    """It says nothing but that two nodes' histories are the same."""
    consortium = Consortium.of(tmp_path / "others")
    books = HospitalBooks(home.spend, Budget(8.0, 3.0, 1e-5), "alpha", 1000)
    heads = [books.ledger_head()]
    for number in (1, 2):
        request, _ = consortium.request(round=number)
        books.reserve(request, SystemNoise())
        heads.append(books.ledger_head())
        books.settle("spring", number, "ab" * 32)
        heads.append(books.ledger_head())
        books.settle("spring", number, "ab" * 32)
        assert books.ledger_head() == heads[-1]
    assert len(set(heads)) == len(heads)
    with pytest.raises(Refused):
        books.settle("spring", 1, "cd" * 32)
    with pytest.raises(Refused):
        books.settle("spring", 3, "cd" * 32)


@pytest.mark.parametrize("trainable", ["head", "all"])
def test_the_dimension_is_the_number_of_parameters_that_are_trained(tmp_path, trainable):
    """Counted by the node itself, not taken from the request."""
    request, _ = Consortium.of(tmp_path).request()
    training = request.training.__class__(trainable=trainable)
    asked = request.model_copy(update={"training": training})
    model = mae.build(mae.PRESETS["tiny"], 0)
    assert dimension(asked, mae.weights_of(model)) == mae.parameter_counts(model)[trainable]
