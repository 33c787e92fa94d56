"""Drop-outs, lies and restarts in every trip of a round, with real nodes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from ledger_stand_ins import rebooked
from loop_stand_ins import FIVE, FOUR, changes, federation, go, kind_of, loses
from node_stand_ins import FakeRosters, cheap_train, make_node, signed_roster
from round_stand_ins import RUN_KEY, folder_at, handlers, key_of

from server.run_start import closed_round
from shared_model import canonical, protocol, protocol_open, signing
from shared_model.errors import Refused
from shared_model.protocol import SIGNATURE_BYTES, TrainReply
from shared_model.protocol_sum import EpochKey
from shared_model.secure_sum.numbers import flatten, pack, quantise
from shared_model.secure_sum.transcript import of_request


def expected_sum(folder, record, survivors):
    """What the survivors' trainers make, quantised and added without any mask."""
    item = record.rounds[-1]
    request = protocol_open.open_train_request(item.request_bytes, signing.public_bytes(RUN_KEY))
    transcript = of_request(request, record.roster.weights)
    total = np.zeros(transcript.numbers.padded, np.uint32)
    for site in survivors:
        noise = make_node(site, folder.path / "unused").noise(request)
        update = cheap_train(request, folder.weights(record, 0), None, noise, 1)
        total += quantise(
            flatten(update),
            transcript.numbers,
            transcript.rotation_seed,
            transcript.weight(site),
            noise.rounding_seed(),
        ).vector
    total &= np.uint32((1 << transcript.numbers.modulus_bits) - 1)
    return pack(total, transcript.numbers.modulus_bits)


DROP_OUTS = {
    "nobody": ([], FIVE),
    "one before it submits": ([("beta", "train-reply")], ("alpha", "delta", "epsilon", "gamma")),
    "two before they submit": (
        [("beta", "train-reply"), ("gamma", "train-reply")],
        ("alpha", "delta", "epsilon"),
    ),
    "one after it submitted": ([("beta", "agreement"), ("beta", "shares-reply")], FIVE),
    "one that agreed and opens nothing": ([("gamma", "shares-reply")], FIVE),
    "two that open nothing": ([("gamma", "shares-reply"), ("alpha", "shares-reply")], FIVE),
    "one in each trip": (
        [("epsilon", "train-reply"), ("alpha", "agreement"), ("alpha", "shares-reply")],
        ("alpha", "beta", "delta", "gamma"),
    ),
    "one before and one that opens nothing": (
        [("epsilon", "train-reply"), ("delta", "shares-reply")],
        ("alpha", "beta", "delta", "gamma"),
    ),
}


@pytest.mark.parametrize("what", DROP_OUTS)
def test_drop_outs_leave_the_exact_sum_of_the_survivors(tmp_path, what):
    """n = 5, t = 3: whoever submitted is in the sum, to the bit; it is verified by those there."""
    lost, survivors = DROP_OUTS[what]
    folder, transport, _ = federation(tmp_path, tamper=loses(*lost))
    record, _ = go(transport, folder)
    (item,) = record.rounds
    assert item.outcome == "aggregated"
    assert item.survivors == survivors
    assert item.dropped == tuple(site for site in FIVE if site not in survivors)
    assert folder.summed(1) == expected_sum(folder, record, survivors)
    assert folder.closing(1).state == "verified"


@pytest.mark.parametrize(
    ("lost", "reason"),
    [
        (["train-reply"], "too-few-contributors"),
        (["agreement"], "not-agreed"),
        (["shares-reply"], "not-opened"),
    ],
)
def test_fewer_than_the_threshold_in_a_trip_closes_the_round_and_keeps_nothing(
    tmp_path, lost, reason
):
    """n = 5, t = 3, three sites gone in one trip: no sum, no submissions, the next number."""
    pairs = [(site, kind) for site in ("alpha", "beta", "gamma") for kind in lost]
    folder, transport, _ = federation(tmp_path, tamper=loses(*pairs), max_failed_rounds=2)
    record, seen = go(transport, folder)
    assert [(item.outcome, item.reason) for item in record.rounds] == [("closed", reason)] * 2
    assert [item.round for item in record.rounds] == [1, 2]
    assert record.model_digest == record.initial_model
    assert not list((folder.path / "submissions").iterdir())
    assert not (folder.path / "sums").exists()
    assert seen[-1].kind == "paused"


def test_once_survivors_are_chosen_every_request_of_the_round_names_them(tmp_path):
    """Also after a restart, and although a further site could submit by then."""
    folder, transport, _ = federation(tmp_path, tamper=loses(("beta", "train-reply")))
    go(transport, folder, stop=lambda: folder.round(1).chosen is not None)
    chosen = folder.round(1).chosen
    transport.tamper = None
    record, _ = go(transport, folder)
    assert record.rounds[0].survivors == chosen.survivors == ("alpha", "delta", "epsilon", "gamma")
    named = {
        tuple(protocol_open.readable(sent.header)["survivors"])
        for sent in transport.sent
        if kind_of(sent.header) in ("agree-request", "open-request")
    }
    assert named == {chosen.survivors}


STOPS = {
    "while sites submit": lambda files: len(files.submitted) == 3,
    "when the survivors are chosen": lambda files: files.chosen is not None,
    "while sites agree": lambda files: len(files.agreements) >= 2,
    "when openings are asked": lambda files: files.openings != (),
    "while sites open": lambda files: len(files.shares) >= 1,
}


@pytest.mark.parametrize("what", STOPS)
def test_a_restart_in_any_trip_ends_in_the_same_model(tmp_path, what):
    """The same requests byte for byte, the same sum; nobody is asked again for what is stored."""
    whole, transport, _ = federation(tmp_path / "whole", FOUR)
    expected, _ = go(transport, whole)
    folder, transport, _ = federation(tmp_path / "cut", FOUR)
    pull, reached = transport.pull, []

    def one_by_one(ids):
        return pull(ids[:1])

    def stop():
        if STOPS[what](folder.round(1)):
            reached.append(True)
        return bool(reached)

    transport.pull = one_by_one
    record, _ = go(transport, folder, stop=stop)
    assert record.state == "running"
    files = folder.round(1)
    before = (files.submitted, sorted(files.agreements), [r.site for _, r in files.shares])
    sent_before, transport.sent = transport.sent, []
    transport.waiting.clear()
    record, seen = go(transport, folder)
    assert [item.kind for item in seen].count("continued") == 1
    assert record.model_digest == expected.model_digest
    assert folder.closing(1).state == "verified"
    asked_again = {
        kind: {sent.site for sent in transport.sent if kind_of(sent.header) == kind}
        for kind in ("train-request", "agree-request", "open-request")
    }
    assert not asked_again["train-request"] & set(before[0])
    if before[1] or files.chosen is not None:
        assert not asked_again["train-request"]
    assert not asked_again["agree-request"] & set(before[1])
    assert not asked_again["open-request"] & set(before[2])
    headers = {(m.site, kind_of(m.header)): m.header for m in sent_before}
    for message in transport.sent:
        key = (message.site, kind_of(message.header))
        if key[1] in ("train-request", "agree-request") and key in headers:
            assert message.header == headers[key]


def test_openings_that_were_stored_are_enough_although_their_sites_have_gone(tmp_path):
    """The coordinator stops when two of t = 3 have opened; after the start these two are silent."""
    folder, transport, _ = federation(tmp_path, FOUR)
    pull = transport.pull
    transport.pull = lambda ids: pull(ids[:1])
    go(transport, folder, stop=lambda: len(folder.round(1).shares) >= 2)
    assert folder.record().completed == 0
    transport.waiting.clear()
    opened = [reply.site for _, reply in folder.round(1).shares]
    transport.tamper = loses(
        *[(site, "shares-reply") for site in opened],
        *[(site, "shares-reply") for site in sorted(set(FOUR) - set(opened))[1:]],
    )
    record, _ = go(transport, folder)
    assert record.completed == 1
    assert folder.summed(1) == expected_sum(folder, record, FOUR)


LIES_ABOUT_AGREEMENTS = {
    "another transcript": {"transcript": "0" * 64},
    "other survivors": {"agreed": "0" * 64},
    "another round": {"round": 9},
    "another run": {"run": "other"},
    "another site": {"site": "beta"},
}


@pytest.mark.parametrize("what", LIES_ABOUT_AGREEMENTS)
def test_an_agreement_to_something_else_does_not_count_and_names_its_site(tmp_path, what):
    """t others agree, so the round goes on; alpha's submission is in the sum nevertheless."""
    tamper = changes("alpha", "agreement", **LIES_ABOUT_AGREEMENTS[what])
    folder, transport, _ = federation(tmp_path, FOUR, tamper=tamper)
    record, _ = go(transport, folder)
    (item,) = record.rounds
    assert item.outcome == "aggregated"
    assert sorted(item.agreements) == ["beta", "delta", "gamma"]
    assert {incident.site for incident in item.incidents} == {"alpha"}
    assert folder.summed(1) == expected_sum(folder, record, FOUR)


def flipped(message, body):
    return bytes([body[0] ^ 1]) + body[1:]


LIES_ABOUT_SHARES = {
    "another share": {"body": flipped},
    "a longer body": {"body": lambda message, body: body + bytes(32)},
    "no body": {"body": b""},
    "another transcript": {"transcript": "0" * 64},
    "another request": {"request_digest": "0" * 64},
    "another round": {"round": 9},
    "a dealer that is no survivor": {"unreadable": ("stranger",)},
}


@pytest.mark.parametrize("what", LIES_ABOUT_SHARES)
def test_an_opening_that_is_not_the_committed_one_does_not_count_and_names_its_site(tmp_path, what):
    """t others open, so the sum is right."""
    tamper = changes("alpha", "shares-reply", **LIES_ABOUT_SHARES[what])
    folder, transport, _ = federation(tmp_path, FOUR, tamper=tamper)
    record, _ = go(transport, folder)
    (item,) = record.rounds
    assert item.outcome == "aggregated"
    assert {incident.site for incident in item.incidents} == {"alpha"}
    assert folder.summed(1) == expected_sum(folder, record, FOUR)


def test_who_accuses_a_dealer_is_recorded_with_the_dealer_and_counts_against_neither(tmp_path):
    """alpha says that it cannot read beta's row; t others can, so the sum is right."""
    tamper = changes(
        "alpha",
        "shares-reply",
        unreadable=("beta",),
        accused=("gamma",),
        body=lambda message, body: body[:32] + body[64:96],
    )
    folder, transport, _ = federation(tmp_path, FOUR, tamper=tamper)
    record, _ = go(transport, folder)
    (item,) = record.rounds
    assert item.outcome == "aggregated"
    assert {(one.site, one.about) for one in item.incidents} == {
        ("alpha", "beta"),
        ("alpha", "gamma"),
    }
    assert folder.summed(1) == expected_sum(folder, record, FOUR)
    assert closed_round(item).incidents == ()


def cheating_dealer(site):
    """This site commits to another self seed than the one that its shares add up to."""

    def tamper(sender, header, body):
        if sender != site or kind_of(header) != "train-reply":
            return header, body
        message = TrainReply.model_validate_json(header[SIGNATURE_BYTES:])
        at = len(body) - len(FOUR) * (64 * len(FOUR) + 16) - len(FOUR) * 32
        body = body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]
        digest = canonical.digest(body)
        ledger = rebooked(message.ledger, key_of(site), digest)
        made = message.model_copy(update={"body_digest": digest, "ledger": ledger})
        return protocol.seal(made, key_of(site)), body

    return tamper


def test_a_dealer_whose_shares_do_not_fit_is_named_and_not_asked_again(tmp_path):
    """Round 1 is closed for good; round 2 goes on without it, and a restart remembers."""
    folder, transport, _ = federation(tmp_path, FOUR, tamper=cheating_dealer("beta"), rounds=2)
    record, _ = go(transport, folder, stop=lambda: len(folder.record().rounds) == 1)
    record, _ = go(transport, folder)
    first, *others = record.rounds
    assert (first.outcome, first.reason, first.barred) == ("closed", "not-opened", ("beta",))
    assert [one.site for one in first.incidents] == ["beta"]
    assert [item.participants for item in others] == [("alpha", "delta", "gamma")] * 2
    assert record.state == "finished"


def test_a_node_that_lost_its_key_gets_a_new_epoch_before_the_next_round(tmp_path):
    """As after a restore: it refuses the round, and is keyed again with all others."""
    folder, transport, nodes = federation(tmp_path, FOUR, rounds=3)
    go(transport, folder, stop=lambda: len(folder.record().rounds) == 1)
    first = protocol_open.readable(folder.record().rounds[0].request_bytes)["sum"]["epoch"]
    nodes["beta"].epochs.erase()
    record, seen = go(transport, folder)
    assert record.state == "finished"
    assert [item.reason for item in record.rounds[1].absent] == ["epoch"]
    assert record.rounds[2].survivors == FOUR
    last = protocol_open.readable(record.rounds[-1].request_bytes)["sum"]
    assert last["epoch"] > first
    assert {entry["site"] for entry in last["epoch_keys"]} == set(FOUR)
    assert [item.kind for item in seen].count("keying") == 1


def test_an_epoch_serves_its_rounds_and_no_more_over_restarts_too(tmp_path):
    """epoch_rounds = 2 and five rounds, the coordinator started anew after each."""
    folder, transport, _ = federation(tmp_path, FOUR, rounds=5, epoch_rounds=2)
    for count in range(1, 6):
        transport.waiting.clear()
        record, _ = go(transport, folder, stop=lambda n=count: len(folder.record().rounds) == n)
    assert record.completed == 5
    epochs = [protocol_open.readable(item.request_bytes)["sum"]["epoch"] for item in record.rounds]
    assert [epochs.count(epoch) for epoch in sorted(set(epochs))] == [2, 2, 1]


def test_a_key_that_copies_another_sites_is_not_taken(tmp_path):
    """A colluder that repeats beta's public key would share beta's pair secrets with itself."""
    copied = {}

    def tamper(site, header, body):
        if kind_of(header) != "epoch-key":
            return header, body
        value = protocol_open.readable(header)
        copied.setdefault("key", value["public_key"])
        if site != "gamma":
            return header, body
        message = EpochKey.model_validate_json(header[SIGNATURE_BYTES:])
        made = message.model_copy(update={"public_key": copied["key"]})
        return protocol.seal(made, key_of("gamma")), body

    folder, transport, _ = federation(tmp_path, FOUR, tamper=tamper)
    record, seen = go(transport, folder)
    assert record.rounds[0].participants == ("alpha", "beta", "delta")
    told = [item for item in seen if item.kind == "incident" and item.site == "gamma"]
    assert any("epoch key of another site" in item.detail for item in told)


def test_the_last_round_that_nobody_verifies_is_said_and_stays_unverified(tmp_path):
    """The end of the run waits for the deadline; a later start asks again."""
    lost = [(site, kind) for site in FOUR for kind in ("close-reply", "sum-receipt")]
    folder, transport, _ = federation(tmp_path, FOUR, tamper=loses(*lost))
    record, seen = go(transport, folder)
    assert record.state == "finished"
    assert folder.closing(1).state == "unverified"
    assert [item.kind for item in seen[-2:]] == ["unverified", "finished"]
    assert "0 of 4 sites have answered" in seen[-2].detail
    transport.tamper = None
    again, seen = go(transport, folder)
    assert again.starts == record.starts
    assert folder.closing(1).state == "verified"
    assert [item.kind for item in seen] == ["verified", "verified", "finished"]


def test_verification_never_holds_up_the_next_round(tmp_path):
    """Nobody answers the closing of round 1; rounds 2 and 3 take no longer than without it."""
    folder, transport, _ = federation(
        tmp_path, FOUR, tamper=loses(*[(site, "close-reply") for site in FOUR]), rounds=3
    )
    record, _ = go(transport, folder)
    assert [item.outcome for item in record.rounds] == ["aggregated"] * 3
    assert record.rounds[-1].ended_at - record.rounds[0].opened_at < 3.0


def test_one_survivor_that_is_gone_for_good_leaves_the_sum_unverified(tmp_path):
    """All survivors' answers are needed: without them a wrong sum could be told from no other."""
    folder, transport, _ = federation(tmp_path, FOUR, tamper=loses(("beta", "close-reply")))
    go(transport, folder)
    closing = folder.closing(1)
    assert closing.state == "unverified"
    assert sorted(closing.answers) == ["alpha", "delta", "gamma"]
    assert closing.in_words == "unverified: 3 of 4 sites have answered"


def test_a_sum_that_was_changed_after_it_was_published_is_not_verified(tmp_path):
    """The coordinator holds the sum against the answers itself, and asks nobody to confirm it."""
    folder, transport, _ = federation(tmp_path, FOUR)

    def spoil(site, header, body):
        path = folder.path / "sums" / "0001.sum"
        if (site, kind_of(header)) == ("beta", "close-reply"):
            data = bytearray(path.read_bytes())
            data[3] ^= 4
            path.write_bytes(data)
        return header, body

    transport.tamper = spoil
    _, seen = go(transport, folder)
    assert folder.closing(1).state == "unverified"
    assert folder.closing(1).receipts == {}
    assert any("cannot be verified" in item.detail for item in seen if item.kind == "incident")


def test_a_newer_roster_is_taken_up_between_rounds_and_an_older_one_never(tmp_path):
    """Round 1 over version 1, the next over version 2 with another threshold and epoch."""
    folder, transport, nodes = federation(tmp_path, FOUR, rounds=2)
    old = signed_roster(FOUR, threshold=3)
    new = signed_roster(FOUR, version=2, threshold=4)
    imported = [old.to_bytes()]

    def newest():
        if folder.record().completed == 1 and len(imported) == 1:
            imported.append(new.to_bytes())
            for site in FOUR:
                nodes[site] = replace(nodes[site], rosters=FakeRosters(site, new))
            transport.nodes.update(handlers(nodes))
        return imported[-1]

    record, seen = go(transport, folder, roster=newest)
    assert record.state == "finished"
    plans = [protocol_open.readable(item.request_bytes)["sum"] for item in record.rounds]
    assert [plan["threshold"] for plan in plans] == [3, 4]
    assert plans[0]["epoch"] < plans[1]["epoch"]
    assert [signed.roster.version for signed in record.signed_rosters] == [1, 2]
    assert [item.detail for item in seen if item.kind == "roster"] == ["version 2, 4 sites"]
    record, _ = go(transport, folder, roster=old.to_bytes)
    assert record.roster.version == 2


def test_two_rosters_of_one_version_stop_the_run(tmp_path):
    """The root key signed both: a person has to find out why."""
    folder, transport, _ = federation(tmp_path, FOUR, threshold=3)
    other = signed_roster(FOUR, threshold=4).to_bytes()
    with pytest.raises(Refused, match="both version 1") as caught:
        go(transport, folder, roster=lambda: other)
    assert caught.value.reason == "roster"


def test_submissions_are_kept_until_the_operator_forgets_them(tmp_path):
    """What is left verifies as before; only adding them again is no longer possible."""
    folder, transport, _ = federation(tmp_path, FOUR, rounds=2)
    record, _ = go(transport, folder)
    assert folder_at(tmp_path).round(2).submitted == FOUR
    assert folder.forget_submissions(record) == 8
    assert folder.round(1).submitted == ()
    assert folder.closing(1).state == "verified"
    assert canonical.digest(folder.statement(1)) == folder.closing(1).statement_digest
