"""The node's side of trips 2 and 3 and of the closing exchange."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from node_stand_ins import RUN_KEY, SITES, Consortium, key_of
from pydantic import ValidationError

from client import outbox
from client.round import answer
from client.round_log import log_to
from shared_model import canonical, protocol, protocol_open
from shared_model import weights as weights_io
from shared_model.errors import OurMistake, PeerFault
from shared_model.noise import NonPrivateForTests
from shared_model.protocol import Refusal, TrainReply, seal
from shared_model.protocol_sum import (
    Agreement,
    CloseReply,
    SharesReply,
    SumReceipt,
    agreed_digest,
)
from shared_model.secure_sum.numbers import flatten, mean_of, pack, quantise, unflatten
from shared_model.secure_sum.opening import read_shares, rows_body
from shared_model.verify_body import read_verify_body, verify_body

FOUR = ("alpha", "beta", "delta", "gamma")


@pytest.fixture
def consortium(tmp_path):
    return Consortium.of(tmp_path)


def agreed(consortium: Consortium, message, site="alpha"):
    return consortium.told(site, message, kind=Agreement)


def shares(consortium: Consortium, request_and_body, site="alpha"):
    return consortium.told(site, *request_and_body, kind=SharesReply)


def refused(answer_of_node, reason: str) -> bool:
    return isinstance(answer_of_node, Refusal) and answer_of_node.reason == reason


def exact_sum(played, consortium: Consortium) -> np.ndarray:
    """What the survivors' quantised updates add up to, computed again without masks."""
    from node_stand_ins import cheap_train, start_weights

    transcript = played.transcript
    total = np.zeros(transcript.numbers.padded, dtype=np.uint32)
    for site in played.survivors:
        noise = NonPrivateForTests(transcript.run, site, transcript.round, 7)
        update = cheap_train(played.asked, start_weights(), None, noise, 1)
        total += quantise(
            flatten(update),
            transcript.numbers,
            transcript.rotation_seed,
            transcript.weight(site),
            noise.rounding_seed(),
        ).vector
    return total & np.uint32((1 << transcript.numbers.modulus_bits) - 1)


# ---------------------------------------------------------------- trip 2


def test_an_agreement_names_the_survivors_and_the_heads_of_their_ledgers(consortium):
    """Signed with the identity key, for this transcript; the peers' heads are kept."""
    played = consortium.submit()
    message = played.agree_request()
    found = agreed(consortium, message)
    assert isinstance(found, Agreement)
    assert found.agreed == agreed_digest(message.survivors, message.submissions, message.heads)
    assert found.transcript == played.transcript.digest.hex()
    for site, head in zip(message.survivors, message.heads, strict=True):
        chain = consortium.nodes[site].books.chain
        assert (head.length, head.head) == (chain.length, chain.head)
    held = consortium.nodes["alpha"].witness.heads
    assert held == {"beta": message.heads[1], "gamma": message.heads[2]}


def test_the_same_survivors_get_the_same_bytes_whatever_was_booked_since(consortium):
    """What was signed once is sent again, also after a later round."""
    played = consortium.submit()
    first = consortium.ask("alpha", played.agree_request())
    consortium.submit(round=2)
    assert consortium.ask("alpha", played.agree_request()) == first


def test_only_one_set_of_survivors_is_ever_signed_for_a_round(tmp_path):
    """The attack that trip 2 is there for: another U to the same node."""
    consortium = Consortium.of(tmp_path, FOUR)
    played = consortium.submit()
    assert isinstance(agreed(consortium, played.agree_request(survivors=FOUR)), Agreement)
    for other in (("alpha", "beta", "gamma"), ("alpha", "delta", "gamma")):
        assert refused(agreed(consortium, played.agree_request(survivors=other)), "conflict")
    changed = ("0" * 64, *played.agree_request().submissions[1:])
    assert refused(agreed(consortium, played.agree_request(submissions=changed)), "conflict")


def test_another_set_is_refused_by_a_node_that_was_started_again(tmp_path):
    """What was signed is on the disk."""
    consortium = Consortium.of(tmp_path, FOUR)
    played = consortium.submit()
    consortium.ask("alpha", played.agree_request())
    again = Consortium.of(tmp_path, FOUR, keyed=False)
    again.keys = consortium.keys
    other = played.agree_request(survivors=("alpha", "beta", "gamma"))
    assert refused(agreed(again, other), "conflict")
    assert isinstance(agreed(again, played.agree_request()), Agreement)


def test_survivors_are_not_signed_after_a_later_round_was_begun(consortium):
    """A round that nobody agreed on in time is over."""
    played = consortium.submit()
    consortium.submit(round=2)
    assert refused(agreed(consortium, played.agree_request()), "late")


def test_survivors_are_not_signed_that_do_not_fit_what_was_submitted(tmp_path):
    """Not this site, nobody of this round, another submission, another transcript, too few."""
    consortium = Consortium.of(tmp_path, (*FOUR, "epsilon"))
    played = consortium.submit(sites=None, **{"minimum_contributors": 3})
    others = ("beta", "delta", "epsilon", "gamma")
    assert refused(agreed(consortium, played.agree_request(survivors=others)), "secure-sum")
    stranger = played.agree_request().model_copy(
        update={
            "survivors": ("alpha", "beta", "delta", "zombie"),
            "submissions": ("0" * 64,) * 4,
            "heads": (played.head("alpha"),) * 4,
        }
    )
    assert refused(agreed(consortium, stranger), "secure-sum")
    changed = ("0" * 64, *played.agree_request().submissions[1:])
    assert refused(agreed(consortium, played.agree_request(submissions=changed)), "secure-sum")
    assert refused(agreed(consortium, played.agree_request(transcript="0" * 64)), "secure-sum")
    few = played.agree_request(survivors=("alpha", "beta", "gamma"))
    assert refused(agreed(consortium, few), "threshold")
    assert isinstance(agreed(consortium, played.agree_request()), Agreement)


@pytest.mark.parametrize("who", ["request", "policy"])
def test_survivors_are_not_signed_that_are_fewer_than_the_minimum(tmp_path, who):
    """Of the request, and of this hospital's own policy."""
    consortium = Consortium.of(tmp_path, FOUR)
    if who == "policy":
        consortium.nodes["alpha"] = replace(consortium.nodes["alpha"], minimum_contributors=4)
    played = consortium.submit(minimum_contributors=4 if who == "request" else 3)
    few = played.agree_request(survivors=("alpha", "beta", "gamma"))
    assert refused(agreed(consortium, few), "contributors")
    assert isinstance(agreed(consortium, played.agree_request()), Agreement)


def test_nothing_is_signed_without_a_submission_here(consortium):
    """Refused as not ours: no submission at all, one that was not finished, one without masks."""
    played = consortium.submit(sites=("beta", "gamma"))
    message = played.agree_request(survivors=("beta", "gamma"))
    assert refused(agreed(consortium, message), "secure-sum")

    def broken(*_):
        raise OSError

    consortium.nodes["alpha"] = replace(consortium.nodes["alpha"], train=broken)
    consortium.ask("alpha", *consortium.request())
    assert refused(agreed(consortium, message), "interrupted")


def test_a_round_without_masks_has_no_later_trips(tmp_path):
    """There is nothing to open, and no transcript that anybody should sign."""
    consortium = Consortium.of(tmp_path, allow_unmasked=True)
    plan = {"aggregation": "UnmaskedForSimulation"}
    request, body = consortium.request(sum=plan)
    assert isinstance(consortium.told("alpha", request, body), TrainReply)
    played = consortium.submit(sites=("beta", "gamma"))
    message = played.agree_request(survivors=("beta", "gamma"))
    assert refused(agreed(consortium, message), "secure-sum")


def test_a_restored_node_signs_and_opens_nothing_of_its_old_epoch(consortium):
    """The key of the epoch is gone: a new epoch has to begin."""
    played = consortium.submit()
    played.agree(("beta", "gamma"))
    consortium.nodes["alpha"].epochs.erase()
    assert refused(agreed(consortium, played.agree_request()), "epoch")
    consortium.nodes["beta"].epochs.erase()
    played.agreements["alpha"] = played.agreements["beta"]
    message = played.open_request("beta")
    assert isinstance(shares(consortium, message, "beta"), Refusal)
    refusal = consortium.told("alpha", *consortium.request(round=2))
    assert refused(refusal, "epoch")


# ---------------------------------------------------------------- trip 3


def test_three_nodes_open_the_exact_sum(consortium):
    """To the last integer."""
    played = consortium.submit()
    played.agree()
    assert np.array_equal(played.open(), exact_sum(played, consortium))


@pytest.mark.parametrize("gone", [(), ("beta",)], ids=["all submit", "one never submits"])
@pytest.mark.parametrize("silent", [(), ("gamma",)], ids=["all open", "one does not open"])
def test_the_sum_is_exact_whoever_drops_out(tmp_path, gone, silent):
    """Five sites, threshold three: one gone before trip 1, another after its agreement."""
    sites = ("alpha", "beta", "delta", "epsilon", "gamma")
    consortium = Consortium.of(tmp_path, sites, keyed=False, threshold=3)
    for node in consortium.nodes.values():
        node.rosters.colluding_sites = 0  # 2t - n - 1
    consortium.begin_epoch(1)
    played = consortium.submit(tuple(site for site in sites if site not in gone))
    played.agree()
    openers = tuple(site for site in played.survivors if site not in silent)
    assert np.array_equal(played.open(openers), exact_sum(played, consortium))


def test_nothing_is_opened_that_this_node_has_not_signed(tmp_path):
    """No agreement of its own, or one to other survivors."""
    consortium = Consortium.of(tmp_path, FOUR)
    played = consortium.submit()
    played.agree(("beta", "delta", "gamma"))
    assert refused(shares(consortium, played.open_request("alpha")), "secure-sum")
    consortium.ask("alpha", played.agree_request(survivors=("alpha", "beta", "gamma")))
    assert refused(shares(consortium, played.open_request("alpha")), "conflict")


def resigned(played, signer, **changes):
    """An agreement as `site` could sign it."""
    message = Agreement.model_validate_json(played.agreements[signer][protocol.SIGNATURE_BYTES :])
    return seal(message.model_copy(update=changes), key_of(signer)).hex()


def test_too_few_or_false_agreements_open_nothing(consortium, tmp_path):
    """t distinct members, on this node's own transcript, to the very same survivors."""
    log = tmp_path / "rounds.log"
    consortium.nodes["alpha"] = replace(consortium.nodes["alpha"], log=log_to(log))
    played = consortium.submit()
    played.agree()
    message, body = played.open_request("alpha")
    two = message.model_copy(update={"signers": SITES[:2], "agreements": message.agreements[:2]})
    assert refused(shares(consortium, (two, body)), "secure-sum")
    own = message.agreements[0]
    forged = seal(
        Agreement.model_validate_json(played.agreements["gamma"][64:]), key_of("impostor")
    ).hex()
    false = {
        "another's": message.agreements[1],
        "this node's": own,
        "an impostor's": forged,
        "of another round": resigned(played, "gamma", round=2),
        "of another run": resigned(played, "gamma", run="autumn"),
        "of another transcript": resigned(played, "gamma", transcript="0" * 64),
        "of other survivors": resigned(played, "gamma", agreed="0" * 64),
        "in another's name": resigned(played, "gamma", site="beta"),
        "garbage": "00" * 70,
    }
    for what, header in false.items():
        bad = message.model_copy(update={"agreements": (*message.agreements[:2], header)})
        assert refused(shares(consortium, (bad, body)), "secure-sum"), what
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    named = [e for e in entries if e.get("alarm") == "secure-sum" and "gamma" in e["message"]]
    assert len(named) == len(false)
    assert isinstance(shares(consortium, (message, body)), SharesReply)


def test_a_signer_counts_once(consortium):
    """The message itself cannot name one twice."""
    played = consortium.submit()
    played.agree(("alpha", "beta"))
    agreements = [played.agreements[s].hex() for s in ("alpha", "beta", "beta")]
    with pytest.raises(ValidationError):
        played.open_request("alpha", signers=("alpha", "beta", "beta"), agreements=agreements)


def test_rows_of_another_length_or_body_open_nothing(consortium):
    """A coordinator's garbage has no effect but a refusal."""
    played = consortium.submit()
    played.agree()
    short = played.open_request("alpha", body=b"\0" * 40)
    assert refused(shares(consortium, short), "secure-sum")
    message, body = played.open_request("alpha")
    assert refused(shares(consortium, (message, body + b"\0")), "secure-sum")


def turned(body, rows):
    changed = bytearray(body)
    changed[2 * len(body) // 3 + 40] ^= 1  # a commitment: the seal covers it
    return bytes(changed), ("gamma",)


def of_another_receiver(body, rows):
    size = len(body) // 3
    return body[:size] + rows["gamma"][size : 2 * size] + body[2 * size :], ("beta",)


def of_another_dealer(body, rows):
    size = len(body) // 3
    return body[:size] + body[2 * size :] + body[size : 2 * size], ("beta", "gamma")


@pytest.mark.parametrize("change", [turned, of_another_receiver, of_another_dealer])
def test_rows_that_were_exchanged_or_changed_are_named_and_logged(consortium, tmp_path, change):
    """What does not open is not guessed at; the other shares are of use all the same."""
    log = tmp_path / "rounds.log"
    consortium.nodes["alpha"] = replace(consortium.nodes["alpha"], log=log_to(log))
    played = consortium.submit()
    played.agree()
    rows = {site: rows_body(played.submissions, site) for site in SITES}
    body, named = change(rows["alpha"], rows)
    message, _ = played.open_request("alpha", body=body)
    header, found = consortium.ask("alpha", message, body)
    reply = protocol_open.open_answer_of(
        header, key_of("alpha").public_key().public_bytes_raw(), SharesReply, site="alpha"
    )
    assert reply.unreadable == named
    assert reply.accused == ()
    read_shares(found, played.transcript, SITES, (), "alpha", reply.unreadable, ())
    lines = [line for line in log.read_text().splitlines() if "unreadable" in line]
    assert len(lines) == 1
    assert '"alarm": "secure-sum"' in lines[0]


def test_only_one_set_of_rows_is_ever_opened_for_a_round(consortium):
    """A dealer that was rolled back may have dealt twice; both would show the difference."""
    played = consortium.submit()
    played.agree()
    assert isinstance(shares(consortium, played.open_request("alpha")), SharesReply)
    body, _ = turned(rows_body(played.submissions, "alpha"), {})
    assert refused(shares(consortium, played.open_request("alpha", body=body)), "conflict")


def test_what_is_opened_is_opened_again_to_the_same_bytes(consortium):
    """From the epoch's key and the request; nothing else needs to survive a restart."""
    played = consortium.submit()
    played.agree()
    first = consortium.ask("alpha", *played.open_request("alpha"))
    assert consortium.ask("alpha", *played.open_request("alpha")) == first
    consortium.submit(round=2)
    assert consortium.ask("alpha", *played.open_request("alpha")) == first


# ---------------------------------------------------------------- closing exchange


@pytest.fixture
def opened(consortium):
    """A round whose sum is known."""
    played = consortium.submit()
    played.agree()
    played.open()
    return played


def answers_of(consortium, played, statement=None):
    message, body = played.close_request(statement)
    return {site: consortium.ask(site, message, body)[0] for site in played.survivors}


def packed(played, total=None):
    return pack(played.total if total is None else total, played.transcript.numbers.modulus_bits)


def verified(consortium, message_and_body, site="alpha"):
    return consortium.told(site, *message_and_body, kind=SumReceipt)


def test_a_right_sum_gets_a_receipt_of_every_survivor(consortium, opened):
    """And the same again the same bytes."""
    answers = answers_of(consortium, opened)
    message = opened.verify_request(opened.statement, packed(opened), answers)
    for site in SITES:
        assert isinstance(verified(consortium, message, site), SumReceipt)
    assert consortium.ask("alpha", *message) == consortium.ask("alpha", *message)


def receipt_of(consortium, played, site="alpha"):
    answers = answers_of(consortium, played)
    message = played.verify_request(played.statement, packed(played), answers)
    return verified(consortium, message, site)


@pytest.mark.parametrize("rate", [1.0, 0.25])
def test_a_receipt_names_the_model_that_the_site_computed_itself(tmp_path, rate):
    """From the model of trip 1, the published sum and the signed learning rate; all sites agree."""
    from node_stand_ins import cheap_train, start_weights

    consortium = Consortium.of(tmp_path)
    played = consortium.submit(server_learning_rate=rate)
    played.agree()
    played.open()
    before = start_weights()
    total, numbers = exact_sum(played, consortium), played.transcript.numbers
    weight = sum(played.transcript.weight(site) for site in SITES)
    mean = mean_of(total, numbers, played.transcript.rotation_seed, weight)
    names = cheap_train(played.asked, before, None, NonPrivateForTests("r", "s", 1, 7), 1)
    update = unflatten(mean, {name: before[name] for name in names})
    stepped = {
        name: (before[name].astype(np.float64) + rate * value).astype(np.float32)
        for name, value in update.items()
    }
    after = {**before, **stepped}
    assert {receipt_of(consortium, played, site).model_out for site in SITES} == {
        weights_io.digest(after)
    }


def test_the_model_of_a_round_goes_with_its_submission_and_a_receipt_needs_both(consortium, opened):
    """Kept until the receipt is there; without the model there is none ("late")."""
    folder = consortium.nodes["alpha"].outbox.root / "spring" / "0000001"
    assert (folder / "model.safetensors").read_bytes() == consortium.request()[1]
    (folder / "model.safetensors").rename(folder / "elsewhere")
    assert refused(receipt_of(consortium, opened), "late")
    (folder / "elsewhere").rename(folder / "model.safetensors")
    assert isinstance(receipt_of(consortium, opened), SumReceipt)
    consortium.submit(round=2)
    assert not (folder / "model.safetensors").exists()
    assert not (folder / "reply.body").exists()
    assert (folder.parent / "0000002" / "model.safetensors").exists()


def test_a_survivor_that_did_not_hear_of_trip_2_can_close_the_round(tmp_path):
    """A release needs the answers of all survivors, also of one that was away for a while."""
    consortium = Consortium.of(tmp_path, FOUR)
    played = consortium.submit()
    present = ("alpha", "beta", "gamma")
    played.agree(present)
    played.open(present)
    answers = answers_of(consortium, played)
    message = played.verify_request(played.statement, packed(played), answers)
    assert isinstance(verified(consortium, message, "delta"), SumReceipt)


def lies(statement):
    return {
        "another own seed": {"self_seeds": ("0" * 64, *statement.self_seeds[1:])},
        "another own submission": {"submissions": ("0" * 64, *statement.submissions[1:])},
        "another's submission": {"submissions": (*statement.submissions[:2], "0" * 64)},
        "another round": {"round": 2},
        "another transcript": {"transcript": "0" * 64},
        "another modulus": {"modulus_bits": 32},
        "fewer survivors": {
            "survivors": SITES[:2],
            "submissions": statement.submissions[:2],
            "self_seeds": statement.self_seeds[:2],
            "pair_seeds": (("0" * 64,), ("0" * 64,)),
        },
        "without this site": {
            "survivors": SITES[1:],
            "submissions": statement.submissions[1:],
            "self_seeds": statement.self_seeds[1:],
            "pair_seeds": (("0" * 64,), ("0" * 64,)),
        },
    }


def test_a_statement_that_lies_about_this_site_is_refused_aloud(consortium, opened, tmp_path):
    """Closing and verifying refuse alike; the node's own log says so."""
    log = tmp_path / "rounds.log"
    consortium.nodes["alpha"] = replace(consortium.nodes["alpha"], log=log_to(log))
    answers = answers_of(consortium, opened)
    for what, changes in lies(opened.statement).items():
        false = opened.statement.model_copy(update=changes)
        answer_ = consortium.told("alpha", *opened.close_request(false), kind=CloseReply)
        assert refused(answer_, "secure-sum"), what
        message = opened.verify_request(false, packed(opened), answers)
        assert refused(verified(consortium, message), "secure-sum"), what
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    alarms = [e for e in entries if e.get("alarm") == "secure-sum"]
    assert len(alarms) == 2 * len(lies(opened.statement))
    assert {e["kind"] for e in alarms} == {"close-request", "verify-request"}


def test_a_wrong_pair_seed_with_a_dropped_site_is_refused(tmp_path):
    """A seed that was opened in this site's name has to be its own."""
    consortium = Consortium.of(tmp_path, FOUR)
    played = consortium.submit(("alpha", "beta", "gamma"))
    played.agree()
    played.open()
    rows = played.statement.pair_seeds
    false = played.statement.model_copy(update={"pair_seeds": (("0" * 64,), *rows[1:])})
    answer_ = consortium.told("alpha", *played.close_request(false), kind=CloseReply)
    assert refused(answer_, "secure-sum")
    answer_ = consortium.told("alpha", *played.close_request(), kind=CloseReply)
    assert isinstance(answer_, CloseReply)


def test_a_wrong_sum_gets_no_receipt(consortium, opened):
    """One coordinate off by one, with a statement and answers that fit it otherwise."""
    wrong = opened.total.copy()
    wrong[5] = (wrong[5] + 1) % 2**opened.transcript.numbers.modulus_bits
    false = opened.statement.model_copy(
        update={"sum_digest": canonical.digest(packed(opened, wrong))}
    )
    answers = answers_of(consortium, opened, false)
    message = opened.verify_request(false, packed(opened, wrong), answers)
    assert refused(verified(consortium, message), "secure-sum")
    message = opened.verify_request(opened.statement, packed(opened, wrong), answers)
    assert refused(verified(consortium, message), "secure-sum")


def test_answers_that_are_missing_forged_or_to_another_challenge_get_no_receipt(consortium, opened):
    """Every survivor, signed with its identity key, about this very statement."""
    good = answers_of(consortium, opened)
    reply = CloseReply.model_validate_json(good["gamma"][protocol.SIGNATURE_BYTES :])
    others = {
        "forged": seal(reply, key_of("impostor")),
        "another's": good["beta"],
        "of another statement": seal(
            reply.model_copy(update={"statement_digest": "0" * 64}), key_of("gamma")
        ),
        "dishonest": seal(
            reply.model_copy(update={"sums": (reply.sums[0] ^ 1, *reply.sums[1:])}),
            key_of("gamma"),
        ),
        "garbage": b"\0" * 80,
    }
    for what, header in others.items():
        message = opened.verify_request(opened.statement, packed(opened), {**good, "gamma": header})
        assert refused(verified(consortium, message), "secure-sum"), what
    few = {site: good[site] for site in ("alpha", "beta")}
    message = opened.verify_request(opened.statement, packed(opened), few)
    assert refused(verified(consortium, message), "secure-sum")
    message = opened.verify_request(opened.statement, packed(opened)[:-4], good)
    assert refused(verified(consortium, message), "secure-sum")


def test_bodies_that_are_no_statement_or_not_the_signed_one_are_refused(consortium, opened):
    """Whatever comes as a body."""
    request, body = opened.close_request()
    for changed in (b"", body + b" ", body[:-1]):
        assert refused(consortium.told("alpha", request, changed, kind=CloseReply), "secure-sum")
        signed = request.model_copy(update={"statement_digest": canonical.digest(changed)})
        assert refused(consortium.told("alpha", signed, changed, kind=CloseReply), "secure-sum")
    answers = answers_of(consortium, opened)
    request, body = opened.verify_request(opened.statement, packed(opened), answers)
    assert refused(verified(consortium, (request, body[:-1])), "secure-sum")
    for changed in (b"", body[:-1], body[:5], body + b"\0"):
        signed = request.model_copy(update={"body_digest": canonical.digest(changed)})
        assert refused(verified(consortium, (signed, changed)), "secure-sum")


def test_one_sum_of_a_round_gets_a_receipt_and_no_other(consortium, opened):
    """A second statement of a round that was found right is an attempt at something."""
    answers = answers_of(consortium, opened)
    message, body = opened.verify_request(opened.statement, packed(opened), answers)
    assert isinstance(verified(consortium, (message, body)), SumReceipt)
    other = message.model_copy(update={"statement_digest": "0" * 64})
    assert refused(verified(consortium, (other, body)), "conflict")


def bodies(consortium, site="alpha"):
    root = consortium.nodes[site].outbox.root
    return sorted(int(path.parent.name) for path in root.glob("spring/*/reply.body"))


def test_a_submission_is_kept_until_its_receipt_and_removed_with_the_next_round(consortium, opened):
    """The closing exchange of a round runs while later rounds run."""
    consortium.submit(round=2)
    assert bodies(consortium) == [1, 2]
    answers = answers_of(consortium, opened)
    message = opened.verify_request(opened.statement, packed(opened), answers)
    assert isinstance(verified(consortium, message), SumReceipt)
    assert bodies(consortium) == [1, 2]
    consortium.submit(round=3)
    assert bodies(consortium) == [2, 3]
    assert isinstance(verified(consortium, message), SumReceipt)
    late = consortium.told("alpha", *opened.close_request(), kind=CloseReply)
    assert refused(late, "late")
    assert refused(consortium.told("alpha", *consortium.request()), "conflict")
    assert refused(agreed(consortium, opened.agree_request(survivors=SITES[:2])), "conflict")


def test_submissions_without_a_receipt_are_not_kept_for_ever(consortium, monkeypatch):
    """The oldest go first."""
    monkeypatch.setattr(outbox, "BODIES_KEPT", 2)
    for number in range(1, 6):
        consortium.submit(round=number)
    assert bodies(consortium) == [3, 4, 5]


def test_a_body_of_a_verify_request_is_read_as_it_was_made():
    """And nothing else is read at all."""
    parts = (b"statement", b"", (b"one", b"two"))
    body = verify_body(*parts)
    assert read_verify_body(body) == parts
    for broken in (b"", body[:-1], body + b"\0", b"\0" * 7, (1).to_bytes(8, "big")):
        with pytest.raises(PeerFault):
            read_verify_body(broken)


def test_later_trips_of_unsigned_or_unknown_messages_are_refused(consortium):
    """The run key alone speaks for the coordinator."""
    played = consortium.submit()
    header = seal(played.agree_request(), key_of("impostor"))
    reply, _ = answer(consortium.nodes["alpha"], header, b"")
    assert protocol_open.readable(reply)["reason"] == "signature"
    text = protocol.encode(played.agree_request()).replace(b'"version":3', b'"version":2')
    header = protocol.signing.sign(RUN_KEY, "agree-request", text) + text
    reply, _ = answer(consortium.nodes["alpha"], header, b"")
    assert protocol_open.readable(reply)["reason"] == "version"
    with pytest.raises(OurMistake):
        played.transcript.dropped(("zombie",))
