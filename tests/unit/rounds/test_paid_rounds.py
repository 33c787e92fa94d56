"""What a release will ask of a round's replies is asked when they come; what a round leaves."""

from __future__ import annotations

import base64

import pytest
from ledger_stand_ins import note_of, opened
from loop_stand_ins import FOUR, changes, federation, go
from round_stand_ins import key_of, signed_roster

from server.desk import terms_of
from server.run_records import AbsentRecord, ClosingRecord, RoundRecord
from server.run_start import closed_round
from shared_model import protocol
from shared_model.protocol import PrivacyStatement, TrainReply
from shared_model.protocol_open import open_answer


def test_submissions_to_a_round_that_is_not_continued_are_listed_and_its_sum_is_removed(tmp_path):
    """They were paid for, and a release counts them; a sum of a closed round would be a lie."""
    folder, transport, _ = federation(tmp_path, FOUR)

    def stop():
        return len(folder.round(1).submitted) == 2

    pull = transport.pull
    transport.pull = lambda ids: pull(ids[:1])
    go(transport, folder, stop=stop)
    transport.waiting.clear()
    newer = signed_roster(FOUR, version=2)
    record = folder.record()
    document = base64.b64encode(newer.to_bytes()).decode()
    folder.save(record.model_copy(update={"rosters": (*record.rosters, document)}))
    closing = ClosingRecord(round=1, survivors=FOUR, needed=3, statement_digest="0" * 64)
    folder.save_sum(1, b"sum", b"statement", closing)
    record, _ = go(transport, folder, stop=lambda: len(folder.record().rounds) == 1)
    (item,) = record.rounds
    assert item.reason == "not-continued"
    assert [(one.site, one.ending) for one in item.absent] == [
        (site, "unused") for site in ("alpha", "beta")
    ]
    reply = open_answer(
        item.absent[0].header_bytes, record.roster.entry("alpha").identity, site="alpha"
    )
    assert reply.request_digest == item.request_digest
    assert not list((folder.path / "sums").iterdir())
    state = closed_round(item)
    assert (state.excused, state.answered) == (True, {"alpha", "beta"})


def test_a_sum_that_no_record_names_is_removed_at_the_next_start(tmp_path):
    """The coordinator died between the record of a closed round and the removal."""
    folder, transport, _ = federation(tmp_path, FOUR)
    record, _ = go(transport, folder)
    closing = folder.closing(1).model_copy(update={"round": 7})
    folder.save_sum(7, b"sum", b"statement", closing)
    folder.stored_open_round(record)
    assert sorted(path.name for path in (folder.path / "sums").iterdir()) == [
        "0001.closing.json",
        "0001.statement",
        "0001.sum",
    ]


def test_masked_replies_that_are_not_private_do_not_count(tmp_path):
    """No release could be made of them, after every hospital's budget was spent."""
    folder, transport, _ = federation(tmp_path, FOUR, max_failed_rounds=1)
    record, seen = go(transport, folder, non_private_for_tests=False)
    assert record.completed == 0
    assert {one.ending for one in record.rounds[0].absent} == {"faulty"}
    assert any("is not private" in item.detail for item in seen if item.kind == "incident")


@pytest.mark.parametrize(
    "terms", [{"noise": "another"}, {"privacy": PrivacyStatement(epsilon=None, delta=1e-7)}]
)
def test_a_reply_with_another_noise_or_delta_than_before_does_not_count(tmp_path, terms):
    """A release states one delta for a site, and one source of noise; a restart remembers both."""
    folder, transport, _ = federation(tmp_path, FOUR, rounds=3)
    go(transport, folder, stop=lambda: folder.record().completed == 1)
    transport.tamper = changes("alpha", "train-reply", **terms)
    transport.waiting.clear()
    record, seen = go(transport, folder)
    assert [len(item.contributors) for item in record.rounds] == [4, 3, 3]
    assert record.rounds[1].dropped == ("alpha",)
    assert any("another noise or delta" in item.detail for item in seen if item.site == "alpha")


def test_the_terms_of_a_reply_to_a_round_that_closed_count_too():
    """The release counts it as paid."""
    header = protocol.seal(a_reply(delta=1e-6), key_of("beta"))
    absent = AbsentRecord(site="beta", ending="unused", header=base64.b64encode(header).decode())
    silent = AbsentRecord(site="alpha", ending="silent")
    item = RoundRecord.model_construct(contributors=(), absent=(silent, absent))
    assert terms_of([item]) == {"beta": ("system entropy, AES-256-CTR", 1e-6)}


def a_reply(delta):
    return TrainReply(
        run="spring",
        round=1,
        site="beta",
        request_digest="0" * 64,
        body_digest="0" * 64,
        declared_patients=260,
        weight=2,
        transcript="0" * 64,
        noise="system entropy, AES-256-CTR",
        private=True,
        privacy=PrivacyStatement(epsilon=1.0, delta=delta),
        ledger=note_of(opened("beta", key_of("beta")), key_of("beta")),
        software="test",
    )
