"""The deployed node's own parts: what it finds out before it books, and what it goes by."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from node_stand_ins import ROOT_KEY, RUN_KEY, Card, Consortium, key_of

from client import keys, state, withdrawals
from client.books import ENTRIES_OF_A_ROUND, statement
from client.home import NodeHome
from client.node_interfaces import PretendNode
from client.node_parts import node_from_home
from client.node_training import dimension
from client.policy import AdvanceApproval, Policy
from client.pseudonyms import load_or_create_key
from client.rosters import RosterBook, today_utc
from client.round import handle
from client.store_encrypt import encrypt_store
from client.store_write import StoreWriter
from server import tls
from server.home import CoordinatorHome
from shared_model import (
    canonical,
    enrolment,
    mae,
    protocol_open,
    release_files,
    roster,
    signing,
)
from shared_model.config import LocalTraining, PrivacyPlan
from shared_model.errors import Refused
from shared_model.ledger import Chain, Spent
from shared_model.noise import SystemNoise
from shared_model.protocol import MAX_NOTE_ENTRIES, seal
from shared_model.protocol_sum import EpochRequest
from shared_model.secure_sum.transcript import of_request

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
    Policy.write_default(
        node.policy,
        declared_patients=1200,
        approve_runs_in_advance=AdvanceApproval(
            purposes=("pretrain",), modes=("local",), epsilon_per_run=3.0
        ),
    )
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
    plan = Consortium.of(home.root.parent / "plans").request()[0].plan
    message = EpochRequest(
        epoch=epoch,
        roster_digest=roster.open_signed(data, ROOT).roster.digest,
        body_digest=canonical.digest(data),
        plan=plan.model_copy(update={"minimum_contributors": 3}),
        software="test",
    )
    header, _ = handle(home, seal(message, RUN_KEY), data, **options)
    return protocol_open.readable(header)


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
    assert chain_at(home).length == 0


def test_a_node_whose_store_key_is_gone_is_not_ready_and_books_nothing(home):
    """The round would be paid for before it is found out that no window can be read."""
    key_file = home.root.parent / "store.key"
    with StoreWriter(home.store, load_or_create_key(home)) as writer:
        writer.publish([])
    encrypt_store(home, key_file)
    node = node_from_home(home)
    node.ready()
    assert node.data().patient_count == 0
    key_file.rename(key_file.with_name("elsewhere"))
    with pytest.raises(Refused) as caught:
        node.ready()
    assert caught.value.reason == "not-ready"
    assert chain_at(home).length == 0


def test_a_restored_node_is_not_ready_until_the_withdrawals_hold_and_books_nothing(home):
    """Who withdrew after the backup is in the store again, and would be trained on."""
    with StoreWriter(home.store, load_or_create_key(home)) as writer:
        writer.publish([])
    node = node_from_home(home)
    withdrawals.mark_unknown(home)
    with pytest.raises(Refused, match="withdrawn since") as caught:
        node.ready()
    assert caught.value.reason == "not-ready"
    assert "withdrawals-hold" in caught.value.do
    assert chain_at(home).length == 0
    withdrawals.say_they_hold(home, 0)
    node.ready()
    home.nothing_added.touch()  # only withdrawals were ever in it
    with pytest.raises(Refused, match="no store of recordings"):
        node.ready()


def test_a_node_that_names_gpus_it_does_not_have_is_not_ready_and_books_nothing(home, monkeypatch):
    """The CPU does not take their place: the round is refused before it is paid for."""
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with StoreWriter(home.store, load_or_create_key(home)) as writer:
        writer.publish([])
    plan = PrivacyPlan(sample_rate=0.5, noise_multiplier=1.0, clipping_norm=1.0, steps=1)
    asked = SimpleNamespace(privacy=plan, preset="tiny", training=LocalTraining())
    weights = mae.weights_of(mae.build(mae.PRESETS["tiny"], 0))
    node_from_home(home).able(asked, weights)
    content = home.config.read_text()
    home.config.write_text(content.replace("gpus = 0", "gpus = 1"))
    assert home.config.read_text() != content
    with pytest.raises(Refused, match="torch sees 0") as caught:
        node_from_home(home).able(asked, weights)
    assert caught.value.reason == "not-ready"
    assert chain_at(home).length == 0


def test_the_machine_is_looked_at_with_the_weights_of_the_request(home, monkeypatch):
    """Not with some other model's: the coordinator chooses the numbers that kernels see."""
    seen = []
    monkeypatch.setattr("client.kernels.independent_from", lambda kind, sent: seen.append(sent))
    monkeypatch.setattr("client.kernels.known_from", lambda kind, sent: seen.append(sent))
    plan = PrivacyPlan(sample_rate=0.5, noise_multiplier=1.0, clipping_norm=1.0, steps=1)
    asked = SimpleNamespace(privacy=plan, preset="tiny", training=LocalTraining())
    weights = mae.weights_of(mae.build(mae.PRESETS["tiny"], 7))
    with pytest.raises(Refused, match="changes with the other patients"):
        node_from_home(home).able(asked, weights)
    assert [sent.weights for sent in seen] == [weights]


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
    assert not (home.never_back_up / "epoch.json").exists()
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


def booked_round(home, consortium, number: int):
    """The books of this home with one more round booked, and the request for it."""
    books = node_from_home(home).books
    request, _ = consortium.request(round=number)
    transcript = of_request(request, consortium.roster.weights)
    said = books.reserve(
        request,
        SystemNoise(),
        request_digest="cd" * 32,
        roster=consortium.roster,
        transcript=transcript,
    )
    return books, request, said


def chain_at(home):
    books = node_from_home(home).books
    with books.ledger.open() as store:
        return store.chain


def test_a_booking_says_everything_about_its_round(home, tmp_path):
    """And the reply what was spent for life with it: epsilon, delta, unit, trust model."""
    consortium = Consortium.of(tmp_path / "others")
    _, request, said = booked_round(home, consortium, 1)
    (booked,) = chain_at(home).bookings
    assert booked.plan == request.privacy
    assert (booked.run, booked.round, booked.purpose) == ("spring", 1, "pretrain")
    assert (booked.declared_patients, booked.participants, booked.threshold) == (1200, 3, 3)
    assert (booked.colluding_sites, booked.dimension) == (0, 0)
    assert (booked.limit_lifetime, booked.limit_run) == (8.0, 3.0)
    assert booked.model_in == request.model_digest
    assert booked.request_digest == "cd" * 32
    assert booked.code_digest == release_files.code_digest()
    assert booked.roster_digest == consortium.roster.digest
    assert booked.transcript == of_request(request, consortium.roster.weights).digest.hex()
    assert (said.epsilon, said.delta) == (booked.epsilon_lifetime, 1e-5)
    assert (said.trust_model, said.colluding_sites) == ("local", None)


def test_the_same_booking_again_says_the_same_whatever_was_booked_since(home, tmp_path):
    """A node that goes on with a round after a restart tells what it told, and spends nothing."""
    consortium = Consortium.of(tmp_path / "others")
    _, _, first = booked_round(home, consortium, 1)
    _, _, second = booked_round(home, consortium, 2)
    _, _, again = booked_round(home, consortium, 1)
    assert again == first != second
    books = node_from_home(home).books
    assert books.booked("spring", 1)
    assert not books.booked("spring", 3)
    assert len(chain_at(home).bookings) == 2


def test_a_node_at_rest_gives_no_key_and_books_no_round_that_was_not_begun(home, tmp_path):
    """Outside its hours, or paused; what was booked before is taken up."""
    data = signed_roster(home)
    approve(home, data)
    consortium = Consortium.of(tmp_path / "others")
    _, _, first = booked_round(home, consortium, 1)
    state.pause(home)
    assert asked_for_a_key(home, data)["reason"] == "not-ready"
    assert not (home.never_back_up / "epoch.json").exists()
    with pytest.raises(Refused) as caught:
        booked_round(home, consortium, 2)
    assert caught.value.reason == "not-ready"
    _, _, said = booked_round(home, consortium, 1)
    assert said == first
    assert len(chain_at(home).bookings) == 1
    state.resume(home)
    assert asked_for_a_key(home, data)["kind"] == "epoch-key"
    booked_round(home, consortium, 2)


def test_the_note_has_the_signed_head_and_the_entries_up_to_it(home, tmp_path):
    """After `booked` and `answered`; whoever has the lines before can verify all."""
    consortium = Consortium.of(tmp_path / "others")
    chain, since = None, 0
    for number in (1, 2):
        books, _, _ = booked_round(home, consortium, number)
        books.settle("spring", number, "ab" * 32)
        note = books.note(since)
        own = keys.card(home).identity
        note.check("north-clinic", own)
        chain = (chain or Chain("north-clinic", own)).extended(
            line.encode() for line in note.entries
        )
        assert (chain.length, chain.head) == (note.length, note.head)
        books.settle("spring", number, "ab" * 32)
        assert books.note(since) == note
        since = note.length
    for number in (1, 3):
        with pytest.raises(Refused):
            books.settle("spring", number, "cd" * 32)


def test_a_head_that_this_node_signed_and_has_no_more_is_refused(home, tmp_path):
    """What an honest coordinator shows a node that was restored as a whole machine."""
    consortium = Consortium.of(tmp_path / "others")
    books, _, _ = booked_round(home, consortium, 1)
    files = (home.ledger, home.ledger_marker, home.ledger_note)
    copies = [file.read_bytes() for file in files]
    seen = books.note(0).plain
    books.check_own(None)
    books.check_own(seen)
    booked_round(home, consortium, 2)
    later = books.note(0).plain
    books.check_own(seen)
    for file, data in zip(files, copies, strict=True):
        file.write_bytes(data)
    books.check_own(seen)
    with pytest.raises(Refused, match="put back from an older copy") as caught:
        books.check_own(later)
    assert caught.value.reason == "ledger"
    with pytest.raises(Refused, match="never signed"):
        books.check_own(later.model_copy(update={"length": 2}))


def test_more_entries_than_a_reply_carries_are_refused_before_anything_is_booked(home):
    """The coordinator lost its archive: the operator is sent the exported ledger."""
    node = node_from_home(home)
    for number in range(1, MAX_NOTE_ENTRIES - ENTRIES_OF_A_ROUND):
        node.books.incident("spring", number, "conflict")
    node.books.check_own(None)
    known = node.books.note(0)
    node.books.incident("spring", 999, "conflict")
    with pytest.raises(Refused, match="more than one answer") as caught:
        node.books.check_own(None)
    assert (caught.value.reason, "ledger export" in caught.value.do) == ("ledger", True)
    node.books.check_own(known.plain)


def test_one_shared_round_makes_the_whole_ledger_s_promise_a_shared_one(home, tmp_path):
    """Never stronger than the weakest booking in it; the fewest colluders count."""
    booked_round(home, Consortium.of(tmp_path / "others"), 1)
    (booked,) = chain_at(home).bookings
    shared = [
        booked.model_copy(update={"mode": "distributed", "colluding_sites": k}) for k in (2, 1)
    ]
    said = statement(Spent.of(0.5, (), (booked, *shared)), booked)
    assert (said.trust_model, said.colluding_sites, said.delta) == ("distributed", 1, 2e-5)
    assert said.outsider_epsilon == booked.outsider_epsilon_lifetime


@pytest.mark.parametrize("trainable", ["head", "all"])
def test_the_dimension_is_the_number_of_parameters_that_are_trained(tmp_path, trainable):
    """Counted by the node itself, not taken from the request."""
    request, _ = Consortium.of(tmp_path).request()
    training = request.training.__class__(trainable=trainable)
    asked = request.model_copy(update={"training": training})
    model = mae.build(mae.PRESETS["tiny"], 0)
    assert dimension(asked, mae.weights_of(model)) == mae.parameter_counts(model)[trainable]
