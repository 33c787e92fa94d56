"""The node's side of a round: what it refuses, what it repeats, what it lets out."""

from __future__ import annotations

import ast
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from round_stand_ins import (
    RUN_KEY,
    FakeBooks,
    cheap_train,
    key_of,
    make_node,
    no_clear_updates,
    roster,
    run_config,
    start_model,
)

import client.egress
from client.round import Node, answer, log_to
from shared_model import canonical, protocol
from shared_model import weights as weights_io
from shared_model.errors import DataFault, OurMistake
from shared_model.noise import SystemNoise
from shared_model.protocol import Refusal, TrainReply, TrainRequest, open_answer, seal

ROOT = Path(__file__).resolve().parents[3]


def request(**changes):
    start = start_model()
    body = weights_io.to_bytes(start.weights)
    config = run_config()
    values = {
        "run": "spring",
        "round": 1,
        "start": 1,
        "preset": "tiny",
        "config_digest": start.config.digest,
        "model_digest": weights_io.digest(start.weights),
        "body_digest": canonical.digest(body),
        "privacy": config.privacy,
        "training": config.training,
        "participants": tuple(item.participant for item in roster()),
        "minimum_contributors": 2,
        "insecure_aggregation": True,
        "deadline_s": 60.0,
        "software": "test",
    }
    return TrainRequest(**{**values, **changes}), body


def ask(node: Node, key=RUN_KEY, **changes):
    message, body = request(**changes)
    return answer(node, seal(message, key), body)


def opened(pair, site="alpha"):
    return open_answer(pair[0], roster()[0].key, site=site)


def untouched(node: Node) -> bool:
    """No data opened, nothing booked."""
    probe = node.data.__closure__
    opened_count = [c.cell_contents.opened for c in probe if hasattr(c.cell_contents, "opened")]
    return opened_count == [0] and node.books.reserved == []


def test_a_good_request_gets_a_signed_reply(tmp_path):
    node = make_node("alpha", tmp_path)
    message, _ = request()
    header, body = ask(node)
    reply = opened((header, body))
    assert isinstance(reply, TrainReply)
    assert reply.request_digest == protocol.header_digest(seal(message, RUN_KEY))
    assert reply.update_digest == weights_io.digest(weights_io.from_bytes(body))
    assert reply.weight == 8
    assert not reply.private
    assert reply.privacy.epsilon is None
    assert node.books.settled == {("spring", 1): reply.update_digest}


REFUSED = {
    "another key": ({"key": key_of("impostor")}, "signature"),
    "not asked": (
        {"participants": tuple(item.participant for item in roster()[1:])},
        "roster",
    ),
    "one participant": (
        {"participants": (roster()[0].participant,)},
        "contributors",
    ),
    "a minimum of one": ({"minimum_contributors": 1}, "contributors"),
    "other declared patients": (
        {
            "participants": tuple(
                item.participant.model_copy(update={"declared_patients": 5}) for item in roster()
            )
        },
        "roster",
    ),
    "no secure sum yet": ({"insecure_aggregation": False}, "version"),
    "another body": ({"body_digest": "0" * 64}, "model"),
    "other weights": ({"model_digest": "0" * 64}, "model"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_bad_request_is_refused_before_data_or_budget_is_touched(tmp_path, what):
    changes, reason = REFUSED[what]
    node = make_node("alpha", tmp_path)
    pair = ask(node, **changes)
    refusal = opened(pair)
    assert isinstance(refusal, Refusal)
    assert refusal.reason == reason
    assert pair[1] == b""
    assert untouched(node)


@pytest.mark.parametrize("header", [b"", b"x", b"\0" * 64, b"\0" * 5000, b"\0" * 300_000])
def test_garbage_is_answered_by_a_refusal(tmp_path, header):
    node = make_node("alpha", tmp_path)
    refusal = opened(answer(node, header, b""))
    assert isinstance(refusal, Refusal)
    assert refusal.reason == "signature"


def test_a_request_of_another_version_is_told_apart_from_a_forged_one(tmp_path):
    message, body = request()
    text = protocol.encode(message).replace(b'"version":1', b'"version":2')
    header = protocol.signing.sign(RUN_KEY, "train-request", text) + text
    assert opened(answer(make_node("alpha", tmp_path), header, body)).reason == "version"


def test_the_policy_is_asked_before_data(tmp_path):
    node = make_node("alpha", tmp_path, policy=no_clear_updates)
    assert opened(ask(node)).reason == "insecure-aggregation"
    assert untouched(node)


def test_a_node_without_a_store_refuses_before_it_books(tmp_path):
    def nothing():
        raise DataFault("no store", cause="absent")

    node = make_node("alpha", tmp_path, ready=nothing)
    assert opened(ask(node)).reason == "not-ready"
    assert node.books.reserved == []


def test_the_same_request_gets_the_same_bytes_and_trains_once(tmp_path):
    trained = []

    def train(*args):
        trained.append(1)
        return cheap_train(*args)

    node = make_node("alpha", tmp_path, train=train)
    first = ask(node)
    again = replace(make_node("alpha", tmp_path, train=train), books=node.books)
    assert ask(again) == first
    assert len(trained) == 1
    assert len(node.books.reserved) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"start": 2},
        {"deadline_s": 61.0},
        {"participants": tuple(item.participant for item in roster()[:2])},
    ],
)
def test_another_request_for_an_answered_round_is_refused(tmp_path, changes):
    node = make_node("alpha", tmp_path)
    ask(node)
    assert opened(ask(node, **changes)).reason == "conflict"
    assert len(node.books.reserved) == 1


def test_a_round_older_than_the_last_is_refused(tmp_path):
    node = make_node("alpha", tmp_path)
    ask(node, round=5)
    assert opened(ask(node, round=4)).reason == "conflict"
    ask(node, round=6)
    assert opened(ask(node, round=5)).reason == "conflict"
    assert isinstance(opened(ask(node, round=6)), TrainReply)


def test_a_round_that_the_spend_table_knows_and_the_outbox_does_not_is_refused(tmp_path):
    node = make_node("alpha", tmp_path)
    ask(node)
    other = replace(make_node("alpha", tmp_path / "lost"), books=node.books)
    assert opened(ask(other)).reason == "conflict"


def test_an_exhausted_budget_refuses_before_data_and_does_not_claim_the_round(tmp_path):
    node = make_node("alpha", tmp_path, books=FakeBooks(budget=0))
    assert opened(ask(node)).reason == "budget"
    assert opened(ask(node)).reason == "budget"
    assert untouched(node)
    node.books.budget = 1
    assert isinstance(opened(ask(node)), TrainReply)


CANARY = "Erika-Mustermann-1964-08-12"


class CanaryData:
    """Data in which every value and every text is a canary."""

    patient_count = 77_777
    name = CANARY
    value = np.float32(1234.5677)

    def segments(self, patients, segments, rng):
        shape = (len(patients), segments, 2, 1250)
        return np.full(shape, self.value), np.ones((*shape[:3], 50), bool)


def test_faults_leave_as_one_word_and_stay_in_the_log_without_texts_of_others(tmp_path):
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
        node = make_node("alpha", tmp_path, train=explode(fault), data=CanaryData, log=log_to(log))
        header, body = ask(node, round=number)
        refusal = opened((header, body))
        assert refusal.reason == "internal"
        assert set(protocol.readable(header)) == set(client.egress.ALLOWED["refusal"])
        assert no_canary(header + body)
        assert opened(ask(node, round=number)).reason == "interrupted"
    text = log.read_text()
    assert no_canary(text.encode())
    entries = [json.loads(line) for line in text.splitlines()]
    assert {"ValueError", "KeyError", "OSError", "OurMistake"} <= {e.get("error") for e in entries}
    assert any("The store is damaged" in entry.get("message", "") for entry in entries)


def no_canary(data: bytes) -> bool:
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

    def train(message, weights, data, noise, declared):
        signal, _ = data.segments(np.arange(3), 2, noise.public_generator())
        total = float(signal.sum())
        return {
            name: (np.float32(total) + noise.normal(weights[name].size, 1e4))
            .reshape(weights[name].shape)
            .astype(np.float32)
            for name in ("head", "norm")
        }

    books = FakeBooks(budget=1)
    node = make_node(
        "alpha", tmp_path, books=books, data=CanaryData, train=train, noise=lambda _: SystemNoise()
    )
    reply = ask(node)
    refusal = ask(node, round=2)
    kinds = {opened(reply).kind, opened(refusal).kind}
    assert kinds == set(client.egress.ALLOWED)
    assert no_canary(b"".join(reply + refusal))


@pytest.mark.parametrize("model", [TrainReply, Refusal], ids=lambda m: m.__name__)
def test_every_field_that_can_leave_has_a_mark(model):
    """A field that is added to a message has to be thought about here first."""
    names = set()
    for name, info in model.model_fields.items():
        names.add(name)
        inner = getattr(info.annotation, "model_fields", {})
        names |= {f"{name}.{item}" for item in inner}
    kind = model.model_fields["kind"].default
    assert names == set(client.egress.ALLOWED[kind]) - {"(body)"}


def test_a_field_without_a_mark_is_refused(tmp_path, monkeypatch):
    fields = dict(client.egress.ALLOWED["refusal"])
    del fields["reason"]
    monkeypatch.setattr(client.egress, "ALLOWED", {**client.egress.ALLOWED, "refusal": fields})
    with pytest.raises(OurMistake, match="may not carry reason"):
        ask(make_node("alpha", tmp_path, policy=no_clear_updates))


def names_in(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    return (
        {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
        | {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
        | {alias.name for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) for alias in n.names}
    )


def test_only_egress_makes_round_messages_at_the_node():
    """TrainReply, Refusal and protocol.seal are named in client/egress.py alone."""
    for path in sorted((ROOT / "client").rglob("*.py")):
        if path.name == "egress.py":
            continue
        found = names_in(path) & {"TrainReply", "Refusal"}
        assert not found, f"{path.name} names {found}"
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
