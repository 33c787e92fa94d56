"""The node's side of trip 1: what it refuses, what it repeats, what it lets out."""

from __future__ import annotations

import ast
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from node_stand_ins import (
    RUN_KEY,
    SITES,
    Consortium,
    FakeBooks,
    cheap_train,
    key_of,
    make_node,
    no_training,
)

import client.egress
from client.node_interfaces import Node
from client.round import answer
from client.round_log import log_to
from shared_model import protocol, protocol_open, protocol_sum, roster, signing
from shared_model import weights as weights_io
from shared_model.errors import DataFault, OurMistake, Refused
from shared_model.noise import SystemNoise
from shared_model.protocol import Participant, Refusal, TrainReply, seal
from shared_model.protocol_open import open_answer
from shared_model.secure_sum.numbers import pack, unpack
from shared_model.secure_sum.transcript import of_request

ROOT = Path(__file__).resolve().parents[3]
MESSAGES = (
    TrainReply,
    Refusal,
    protocol_sum.EpochKey,
    protocol_sum.Agreement,
    protocol_sum.SharesReply,
    protocol_sum.CloseReply,
    protocol_sum.SumReceipt,
)
"""Everything that may leave a node."""


@pytest.fixture
def consortium(tmp_path):
    return Consortium.of(tmp_path)


def ask(consortium: Consortium, key=RUN_KEY, site="alpha", **changes):
    message, body = consortium.request(**changes)
    return answer(consortium.nodes[site], seal(message, key), body)


def opened(pair, site="alpha"):
    return open_answer(pair[0], signing.public_bytes(key_of(site)), site=site)


def with_node(consortium: Consortium, node: Node, site="alpha") -> Consortium:
    """The same consortium with another node at a site, which holds the same epoch key."""
    made = replace(consortium, nodes={**consortium.nodes})
    made.nodes[site] = replace(node, epochs=consortium.nodes[site].epochs)
    return made


def untouched(node: Node) -> bool:
    """No data opened, nothing booked."""
    probe = node.data.__closure__
    opened_count = [c.cell_contents.opened for c in probe if hasattr(c.cell_contents, "opened")]
    return opened_count == [0] and node.books.reserved == []


def test_a_good_request_gets_a_signed_masked_reply(consortium):
    """Named after the round's transcript; the spend is settled with the digest of what leaves."""
    node = consortium.nodes["alpha"]
    message, _ = consortium.request()
    header, body = ask(consortium)
    reply = opened((header, body))
    assert isinstance(reply, TrainReply)
    assert reply.request_digest == protocol.header_digest(seal(message, RUN_KEY))
    transcript = of_request(message, consortium.roster.weights)
    assert reply.transcript == transcript.digest.hex()
    protocol_open.check_body(reply.body_digest, body, site="alpha")
    assert reply.weight == 8
    assert not reply.private
    assert reply.privacy.epsilon is None
    assert node.books.settled == {("spring", 1): reply.body_digest}


def participants(**declared):
    return tuple(Participant(site=s, declared_patients=n) for s, n in sorted(declared.items()))


ALL = {"alpha": 1000, "beta": 260, "gamma": 500}
REFUSED = {
    "another key": ({"key": key_of("impostor")}, "signature"),
    "not asked": ({"participants": participants(beta=260, gamma=500)}, "roster"),
    "one participant": ({"participants": participants(alpha=1000)}, "contributors"),
    "a minimum of one": ({"minimum_contributors": 1}, "contributors"),
    "another own declared number": ({"participants": participants(**ALL | {"alpha": 5})}, "roster"),
    "another's declared number": ({"participants": participants(**ALL | {"beta": 5})}, "roster"),
    "a puppet site": ({"participants": participants(**ALL, zombie=100)}, "roster"),
    "fewer sites than the threshold": (
        {"participants": participants(alpha=1000, beta=260)},
        "threshold",
    ),
    "masks off": ({"sum": {"aggregation": "UnmaskedForSimulation"}}, "secure-sum"),
    "another roster": ({"sum": {"roster_digest": "0" * 64}}, "roster"),
    "a lower threshold": ({"sum": {"threshold": 2}}, "threshold"),
    "another modulus": ({"sum": {"modulus_bits": 30}}, "secure-sum"),
    "another dimension": ({"sum": {"dimension": 9}}, "model"),
    "another epoch": ({"sum": {"epoch": 8}}, "secure-sum"),
    "no epoch keys": ({"sum": {"epoch_keys": ()}}, "epoch"),
    "another body": ({"body_digest": "0" * 64}, "model"),
    "other weights": ({"model_digest": "0" * 64}, "model"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_bad_request_is_refused_before_data_or_budget_is_touched(consortium, what):
    """Each of what the node computes by itself, changed by the coordinator."""
    changes, reason = REFUSED[what]
    node = consortium.nodes["alpha"]
    pair = ask(consortium, **changes)
    refusal = opened(pair)
    assert isinstance(refusal, Refusal)
    assert refusal.reason == reason
    assert pair[1] == b""
    assert untouched(node)


def exchanged(consortium, site, key_entry):
    keys = {**consortium.keys, site: key_entry}
    return tuple(keys[name] for name in sorted(keys))


def test_an_exchanged_epoch_key_is_refused_and_its_site_named(consortium, tmp_path):
    """A key that the coordinator made, one signed by another site, one of another epoch."""
    log = tmp_path / "rounds.log"
    consortium.nodes["alpha"] = replace(consortium.nodes["alpha"], log=log_to(log))
    own = consortium.keys["beta"]
    forged = own.model_copy(update={"public_key": "ab" * 32})
    copied = own.model_copy(update={"signature": consortium.keys["gamma"].signature})
    earlier = consortium.keys["beta"]
    consortium.begin_epoch(consortium.epoch + 1)
    for entry in (forged, copied, earlier):
        keys = exchanged(consortium, "beta", entry)
        refusal = opened(ask(consortium, sum={"epoch_keys": keys}))
        assert refusal.reason == "secure-sum"
    assert untouched(consortium.nodes["alpha"])
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    assert sum("beta" in e.get("message", "") and e.get("alarm") == "secure-sum"
               for e in entries) == 3  # fmt: skip


def low_order_key(consortium, site):
    """A key entry that the site signed itself and that leads to a secret of zeros."""
    statement = protocol_sum.EpochKey(
        site=site, epoch=consortium.epoch, roster_digest=consortium.roster.digest,
        public_key="00" * 32,
    )  # fmt: skip
    header = seal(statement, key_of(site))
    return protocol.EpochKeyEntry(
        site=site, public_key="00" * 32, signature=header[: protocol.SIGNATURE_BYTES].hex()
    )


def test_a_site_with_a_worthless_key_is_named_before_data_is_read(consortium):
    """Else the round would be paid for and could not be masked."""
    keys = exchanged(consortium, "beta", low_order_key(consortium, "beta"))
    assert opened(ask(consortium, sum={"epoch_keys": keys})).reason == "secure-sum"
    assert untouched(consortium.nodes["alpha"])


def test_a_puppet_among_the_epoch_keys_is_refused(consortium):
    """Also where it is not asked to take part."""
    keys = exchanged(consortium, "zombie", low_order_key(consortium, "zombie"))
    assert opened(ask(consortium, sum={"epoch_keys": keys})).reason == "roster"


def test_a_key_of_a_site_that_is_not_asked_is_no_hindrance(tmp_path):
    """The key set may be larger than the participants."""
    consortium = Consortium.of(tmp_path, ("alpha", "beta", "gamma", "delta"))
    message, _ = consortium.request(sites=("alpha", "beta", "gamma"))
    assert len(message.sum.epoch_keys) == 4
    assert isinstance(opened(ask(consortium, sites=("alpha", "beta", "gamma"))), TrainReply)


def test_a_round_without_an_approved_or_valid_roster_is_refused(consortium):
    """None approved, expired, one that holds against too few colluders."""
    node = consortium.nodes["alpha"]
    for changes, reason in (
        ({"signed": None}, "roster-approval"),
        ({"today": "2040-01-01"}, "roster"),
        ({"colluding_sites": 2}, "threshold"),
    ):
        consortium.nodes["alpha"] = replace(node, rosters=replace(node.rosters, **changes))
        assert opened(ask(consortium)).reason == reason
        assert untouched(node)


def test_a_roster_that_silences_the_others_by_its_weights_is_refused(consortium):
    """Also where the root signed it: weights follow from declared numbers."""
    plain = consortium.roster.model_dump()
    plain["sites"] = tuple(
        {**entry, "weight": 1 if entry["site"] != "beta" else 8} for entry in plain["sites"]
    )
    bad = roster.sign(roster.Roster.model_validate(plain), key_of("root"))
    node = consortium.nodes["alpha"]
    consortium.nodes["alpha"] = replace(node, rosters=replace(node.rosters, signed=bad))
    assert opened(ask(consortium, sum={"roster_digest": bad.roster.digest})).reason == "roster"


def test_a_node_that_may_submit_unmasked_submits_the_same_integers(tmp_path):
    """Masks change nothing but who sees what."""
    masked = Consortium.of(tmp_path / "masked")
    played = masked.submit()
    played.agree()
    total = played.open()
    clear = Consortium.of(tmp_path / "clear", keyed=False, allow_unmasked=True)
    plan = {"aggregation": "UnmaskedForSimulation", "epoch": 0}
    expected = np.zeros_like(total)
    numbers = played.transcript.numbers
    for site in SITES:
        pair = ask(clear, site=site, sum=plan)
        assert isinstance(opened(pair, site), TrainReply)
        assert len(pair[1]) == numbers.packed_bytes
        expected += unpack(pair[1], numbers.modulus_bits, numbers.padded)
    assert np.array_equal(expected & np.uint32(2**numbers.modulus_bits - 1), total)
    assert not list((tmp_path / "clear").glob("*never-back-up*"))


@pytest.mark.parametrize("header", [b"", b"x", b"\0" * 64, b"\0" * 5000, b"\0" * 300_000])
def test_garbage_is_answered_by_a_refusal(tmp_path, header):
    """Whatever comes, what leaves is signed and says one word."""
    node = make_node("alpha", tmp_path)
    refusal = opened(answer(node, header, b""))
    assert isinstance(refusal, Refusal)
    assert refusal.reason == "signature"


def test_a_request_of_another_version_is_told_apart_from_a_forged_one(consortium):
    """The operator then knows what to install."""
    message, body = consortium.request()
    text = protocol.encode(message).replace(b'"version":3', b'"version":1')
    header = protocol.signing.sign(RUN_KEY, "train-request", text) + text
    assert opened(answer(consortium.nodes["alpha"], header, body)).reason == "version"


def test_the_policy_is_asked_before_data(consortium):
    """What the hospital forbids does not happen."""
    node = replace(consortium.nodes["alpha"], policy=no_training)
    assert opened(ask(with_node(consortium, node))).reason == "policy"
    assert untouched(node)


def test_a_node_without_a_store_refuses_before_it_books(consortium):
    """A round is not paid for that cannot be trained."""

    def nothing():
        raise DataFault("no store", cause="absent")

    node = replace(consortium.nodes["alpha"], ready=nothing)
    assert opened(ask(with_node(consortium, node))).reason == "not-ready"
    assert node.books.reserved == []


def test_a_machine_that_cannot_train_these_weights_refuses_before_it_books(consortium):
    """It is asked about the very weights that were sent."""
    seen = []

    def unable(request, weights):
        seen.append(weights)
        raise Refused("Its kernels differ.", reason="not-ready")

    node = replace(consortium.nodes["alpha"], able=unable)
    assert opened(ask(with_node(consortium, node))).reason == "not-ready"
    assert untouched(node)
    _, body = consortium.request()
    (weights,) = seen
    assert weights_io.digest(weights) == weights_io.digest(weights_io.from_bytes(body))


def test_the_same_request_gets_the_same_bytes_and_trains_once(consortium):
    """Never masked twice: two vectors under one pairwise mask would show their difference."""
    trained = []

    def train(*args):
        trained.append(1)
        return cheap_train(*args)

    consortium.nodes["alpha"] = replace(consortium.nodes["alpha"], train=train)
    first = ask(consortium)
    assert ask(consortium) == first
    assert len(trained) == 1
    assert len(consortium.nodes["alpha"].books.reserved) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"start": 2},
        {"deadline_s": 61.0},
        {"sites": ("alpha", "beta", "delta")},
        {"sites": ("alpha", "beta", "delta", "gamma")},
        {"sum": {"norm_bound": 3.0}},
    ],
)
def test_another_request_for_an_answered_round_is_refused(tmp_path, changes):
    """Whatever differs: another participant set, another start, other numbers."""
    consortium = Consortium.of(tmp_path, ("alpha", "beta", "gamma", "delta"))
    assert isinstance(opened(ask(consortium, sites=SITES)), TrainReply)
    changes = {"sites": SITES, **changes}
    assert opened(ask(consortium, **changes)).reason == "conflict"
    assert len(consortium.nodes["alpha"].books.reserved) == 1


def test_a_round_older_than_the_last_is_refused(consortium):
    """Rounds only go on."""
    ask(consortium, round=5)
    assert opened(ask(consortium, round=4)).reason == "conflict"
    assert isinstance(opened(ask(consortium, round=6)), TrainReply)
    assert opened(ask(consortium, round=4)).reason == "conflict"


def test_a_round_that_the_ledger_knows_and_the_outbox_does_not_is_refused(consortium, tmp_path):
    """A lost outbox does not make a round new."""
    ask(consortium)
    lost = make_node("alpha", tmp_path / "lost", books=consortium.nodes["alpha"].books)
    assert opened(ask(with_node(consortium, lost))).reason == "conflict"


def test_an_exhausted_budget_refuses_before_data_and_does_not_claim_the_round(consortium):
    """Nothing is spent, nothing is begun."""
    node = replace(consortium.nodes["alpha"], books=FakeBooks(budget=0, site="alpha"))
    consortium.nodes["alpha"] = node
    assert opened(ask(consortium)).reason == "budget"
    assert opened(ask(consortium)).reason == "budget"
    assert untouched(node)
    node.books.budget = 1
    assert isinstance(opened(ask(consortium)), TrainReply)


CANARY = "Erika-Mustermann-1964-08-12"


class CanaryData:
    """Data in which every value and every text is a canary."""

    patient_count = 77_777
    name = CANARY
    value = np.float32(1234.5677)

    def segments(self, patients, segments, rng):
        shape = (len(patients), segments, 2, 1250)
        return np.full(shape, self.value), np.ones((*shape[:3], 50), bool)


def test_faults_leave_as_one_word_and_stay_in_the_log_without_texts_of_others(consortium, tmp_path):
    """Whatever breaks, however it words itself: the peer reads "internal", the log the place."""

    def explode(kind):
        def train(*_):
            raise kind

        return train

    log = tmp_path / "rounds.log"
    faults = [
        ValueError(f"cannot parse {CANARY}"),
        KeyError(CANARY),
        OSError(f"/store/{CANARY}"),
        MemoryError(CANARY),
        OurMistake("The store is damaged.", do="Restore it."),
        RuntimeError(f"shape {CanaryData.value}"),
    ]
    for number, fault in enumerate(faults, 1):
        consortium.nodes["alpha"] = replace(
            consortium.nodes["alpha"], train=explode(fault), data=CanaryData, log=log_to(log)
        )
        header, body = ask(consortium, round=number)
        refusal = opened((header, body))
        assert refusal.reason == "internal"
        assert set(protocol_open.readable(header)) == set(client.egress.ALLOWED["refusal"])
        assert no_canary(header + body)
        assert opened(ask(consortium, round=number)).reason == "interrupted"
    text = log.read_text()
    assert no_canary(text.encode())
    entries = [json.loads(line) for line in text.splitlines()]
    assert {"ValueError", "KeyError", "OSError", "OurMistake"} <= {e.get("error") for e in entries}
    assert any("The store is damaged" in entry.get("message", "") for entry in entries)


def no_canary(data: bytes) -> bool:
    """Digests and signatures are left out: five sevens are in one in ten thousand of them."""
    data = re.sub(rb"[0-9a-f]{64,}", b"", data)
    forms = [
        CANARY.encode(),
        b"Mustermann",
        b"77777",
        b"1234.56",
        CanaryData.value.tobytes(),
        np.float64(CanaryData.value).tobytes(),
    ]
    return not any(form in data for form in forms)


def test_no_canary_of_the_data_is_in_any_message(tmp_path):
    """Every message kind, driven with data made of canaries, and noise of the system."""

    def train(message, weights, data, noise, declared, steps):
        signal, _ = data.segments(np.arange(3), 2, noise.public_generator())
        total = float(signal.sum())
        return {
            name: (np.float32(total) + noise.normal(weights[name].size, 1e4))
            .reshape(weights[name].shape)
            .astype(np.float32)
            for name in ("head", "norm")
        }

    consortium = Consortium.of(
        tmp_path, data=CanaryData, train=train, noise=lambda _: SystemNoise(), allow_unmasked=True
    )
    sent = []

    def told(site, message, body=b""):
        pair = answer(consortium.nodes[site], seal(message, RUN_KEY), body)
        sent.append(pair)
        return pair[0]

    told("alpha", *consortium.epoch_request(consortium.epoch))
    played = consortium.submit()
    played.agree()
    played.open()
    told("alpha", *consortium.request())
    told("alpha", played.agree_request())
    told("alpha", *played.open_request("alpha"))
    answers = {site: told(site, *played.close_request()) for site in SITES}
    packed = pack(played.total, played.transcript.numbers.modulus_bits)
    told("alpha", *played.verify_request(played.statement, packed, answers))
    told("alpha", *consortium.request(start=2))
    told("beta", *consortium.request(round=2, sum={"aggregation": "UnmaskedForSimulation"}))
    kinds = {protocol_open.readable(header)["kind"] for header, _ in sent}
    assert kinds == set(client.egress.ALLOWED)
    assert no_canary(b"".join(header + body for header, body in sent))


@pytest.mark.parametrize("model", MESSAGES, ids=lambda m: m.__name__)
def test_every_field_that_can_leave_has_a_mark(model):
    """A field that is added to a message has to be thought about here first."""
    names = set()
    for name, info in model.model_fields.items():
        names.add(name)
        inner = getattr(info.annotation, "model_fields", {})
        names |= {f"{name}.{item}" for item in inner}
    kind = model.model_fields["kind"].default
    assert names == set(client.egress.ALLOWED[kind]) - {"(body)"}


def test_every_kind_of_message_that_can_leave_is_known():
    """A new message has to be thought about here first."""
    assert {protocol.kind_of(model) for model in MESSAGES} == set(client.egress.ALLOWED)


def test_a_field_without_a_mark_is_refused(consortium, monkeypatch):
    """The allow-list is the door, not a comment."""
    fields = dict(client.egress.ALLOWED["refusal"])
    del fields["reason"]
    monkeypatch.setattr(client.egress, "ALLOWED", {**client.egress.ALLOWED, "refusal": fields})
    with pytest.raises(OurMistake, match="may not carry reason"):
        ask(consortium, start=2, minimum_contributors=1)


def calls_in(path: Path) -> set[str]:
    return {
        getattr(node.func, "id", getattr(node.func, "attr", ""))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
    }


def test_only_egress_makes_messages_at_the_node():
    """No other file of the node makes or seals one."""
    made = {model.__name__ for model in MESSAGES}
    for path in sorted((ROOT / "client").rglob("*.py")):
        if path.name == "egress.py":
            assert made <= calls_in(path)
            continue
        found = calls_in(path) & made
        assert not found, f"{path.name} makes {found}"
        assert "protocol.seal" not in path.read_text()


def test_pretend_nodes_are_made_by_simulations_and_tests_only():
    for package in ("client", "server", "shared_model", "auditor"):
        for path in sorted((ROOT / package).rglob("*.py")):
            made = [
                node
                for node in ast.walk(ast.parse(path.read_text()))
                if isinstance(node, ast.Call)
                and getattr(node.func, "id", getattr(node.func, "attr", "")) == "PretendNode"
                and (node.args or node.keywords)
            ]
            assert not made, path


def test_an_own_epoch_key_that_is_not_the_one_here_means_a_new_epoch(consortium):
    """Signed by this very site, as a node that was put back from a copy may have: not used."""
    statement = protocol_sum.EpochKey(
        site="alpha",
        epoch=consortium.epoch,
        roster_digest=consortium.roster.digest,
        public_key="ab" * 32,
    )
    signature = seal(statement, key_of("alpha"))[: protocol.SIGNATURE_BYTES].hex()
    entry = protocol.EpochKeyEntry(site="alpha", public_key="ab" * 32, signature=signature)
    refusal = opened(ask(consortium, sum={"epoch_keys": exchanged(consortium, "alpha", entry)}))
    assert refusal.reason == "epoch"
    assert untouched(consortium.nodes["alpha"])


def test_of_rounds_without_masks_only_the_last_submission_is_kept(tmp_path):
    """They have no closing exchange that would need it."""
    consortium = Consortium.of(tmp_path, allow_unmasked=True)
    for number in (1, 2):
        plan = {"aggregation": "UnmaskedForSimulation"}
        assert isinstance(opened(ask(consortium, round=number, sum=plan)), TrainReply)
    kept = list((tmp_path / "alpha").glob("spring/*/reply.body"))
    assert [path.parent.name for path in kept] == ["0000002"]
