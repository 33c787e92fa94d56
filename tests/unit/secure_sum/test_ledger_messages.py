"""Ledger heads, notes and plans of runs in the messages: strict, like everything else."""

from __future__ import annotations

import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import ValidationError
from sum_cases import vectors

from shared_model import protocol, protocol_open, protocol_sum, signing
from shared_model.ledger import LedgerHead
from shared_model.protocol import (
    MAX_NOTE_CHARACTERS,
    MAX_NOTE_ENTRIES,
    KnownHead,
    LedgerNote,
    PrivacyStatement,
    RunPlan,
    TrainReply,
    TrainRequest,
)

KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
PUBLIC = signing.public_bytes(KEY)
S, T = "ab" * 32, "cd" * 32
HEAD = {"length": 3, "head": S, "signature": "ab" * 64}
CASE = vectors("round_of_five")


def fields_of(kind):
    """What the known answer of this kind says."""
    return json.loads(bytes.fromhex(CASE["messages"][kind])[64:])


def message(model, kind, **changes):
    return model.model_validate_json(json.dumps({**fields_of(kind), **changes}))


def request(**changes):
    return message(TrainRequest, "train-request", **changes)


SITES = request().sites


def known(site, **changes):
    return {"site": site, **HEAD, **changes}


def test_a_request_shows_the_last_head_of_whom_the_coordinator_knows():
    shown = request(ledger_heads=[known(SITES[0]), known(SITES[2], head=T)])
    assert shown.known_head(SITES[0]) == LedgerHead(**HEAD)
    assert shown.known_head(SITES[2]) == LedgerHead(**{**HEAD, "head": T})
    assert shown.known_head(SITES[1]) is None
    assert KnownHead(**known("a")).plain == LedgerHead(**HEAD)


@pytest.mark.parametrize(
    "heads",
    [
        [known(SITES[1]), known(SITES[0])],
        [known(SITES[0]), known(SITES[0], length=4)],
        [known("zombie")],
    ],
    ids=["unsorted", "a site twice", "of no participant"],
)
def test_ledger_heads_are_of_participants_sorted_and_each_once(heads):
    with pytest.raises(ValidationError, match="ledger heads are of participants"):
        request(ledger_heads=heads)


def test_a_plan_is_of_the_run_and_not_of_a_round():
    """Whatever the operator should know of changes its digest; what is of one round does not."""
    plan = request().plan
    assert plan == message(protocol_sum.EpochRequest, "epoch-request").plan
    assert (plan.rounds, plan.bookings) == (20, 23)
    same = request(round=4, ledger_heads=[known(SITES[0])], model_digest=T, deadline_s=1.0)
    assert same.plan.digest == plan.digest
    fields = fields_of("train-request")
    changed = [
        {"run": "autumn"},
        {"rounds": 19},
        {"bookings": 24},
        {"code_digest": T},
        {"minimum_contributors": 3},
        {"server_learning_rate": 1.0},
        {"preset": "small"},
        {"config_digest": T},
        {"privacy": {**fields["privacy"], "noise_multiplier": 1.25}},
        {"training": {**fields["training"], "learning_rate": 0.5}},
        {"sum": {**fields["sum"], "aggregation": "UnmaskedForSimulation"}},
    ]
    digests = {request(**change).plan.digest for change in changed}
    assert len(digests | {plan.digest}) == len(changed) + 1


def test_no_run_has_more_rounds_than_bookings():
    """Rounds that fail are paid for as well."""
    with pytest.raises(ValidationError, match="every round is booked"):
        request(bookings=19)
    plan = request(bookings=20).plan
    with pytest.raises(ValidationError, match="every round is booked"):
        RunPlan.model_validate_json(json.dumps({**plan.model_dump(mode="json"), "bookings": 19}))


def test_a_note_is_a_head_and_no_more_entries_than_fit_a_header():
    """Each character may be two in JSON."""
    line = '"' * (MAX_NOTE_CHARACTERS // MAX_NOTE_ENTRIES)
    note = LedgerNote(**HEAD, entries=(line,) * MAX_NOTE_ENTRIES)
    assert note.plain == LedgerHead(**HEAD)
    reply = message(TrainReply, "train-reply").model_copy(update={"ledger": note})
    header = protocol.seal(reply, KEY)
    assert protocol_open.open_answer(header, PUBLIC, site=reply.site) == reply
    with pytest.raises(ValidationError, match="too long together"):
        LedgerNote(**HEAD, entries=(line + "x", *(line,) * (MAX_NOTE_ENTRIES - 1)))
    for wrong in (("x",) * (MAX_NOTE_ENTRIES + 1), ("",), ("x\n",), ("\u00e9",), ("x" * 4097,)):
        with pytest.raises(ValidationError):
            LedgerNote(**HEAD, entries=wrong)


def test_only_mode_distributed_names_colluders_and_outsiders():
    """A promise without its conditions is none."""
    common = {"epsilon": 1.0, "delta": 1e-5}
    distributed = {**common, "trust_model": "distributed", "colluding_sites": 1}
    for good in (common, distributed, {**distributed, "outsider_epsilon": 0.5}):
        assert PrivacyStatement(**good).epsilon == 1.0
    for wrong in (
        {**common, "colluding_sites": 1},
        {**common, "outsider_epsilon": 0.5},
        {**common, "trust_model": "distributed"},
    ):
        with pytest.raises(ValidationError, match="only mode distributed"):
            PrivacyStatement(**wrong)


def test_every_survivor_has_one_head():
    fields = fields_of("agree-request")
    for heads in (fields["heads"][1:], [*fields["heads"], HEAD]):
        with pytest.raises(ValidationError, match="one submission and one head"):
            message(protocol_sum.AgreeRequest, "agree-request", heads=heads)
