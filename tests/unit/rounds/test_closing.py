"""The closing exchange: answers, receipts, lies, refusals, restarts."""

from __future__ import annotations

import pytest
from loop_stand_ins import FOUR, changes, federation, go, kind_of, loses
from round_stand_ins import key_of

from shared_model import protocol, protocol_open
from shared_model.protocol import Refusal


def told(seen, kind, site=""):
    return [item.detail for item in seen if item.kind == kind and item.site == site]


def refuses(liar, kind, reason):
    """This site refuses instead of answering so."""

    def tamper(site, header, body):
        if site != liar or kind_of(header) != kind:
            return header, body
        requests = {"close-reply": "close-request", "sum-receipt": "verify-request"}
        asked = [m for m in tamper.transport.sent if m.site == site]
        last = [m for m in asked if kind_of(m.header) == requests[kind]][-1]
        value = protocol_open.readable(header)
        made = Refusal(
            run=value["run"],
            round=value["round"],
            site=site,
            request_digest=protocol.header_digest(last.header),
            reason=reason,
        )
        return protocol.seal(made, key_of(site)), b""

    return tamper


def test_receipts_of_t_survivors_verify_a_sum(tmp_path):
    """n = 4, t = 3: one whose receipt is lost does not hold it up; every answer is needed."""
    folder, transport, _ = federation(tmp_path, FOUR, tamper=loses(("beta", "sum-receipt")))
    _, seen = go(transport, folder)
    closing = folder.closing(1)
    assert (closing.state, closing.needed) == ("verified", 3)
    assert sorted(closing.answers) == list(FOUR)
    assert sorted(closing.receipts) == ["alpha", "delta", "gamma"]
    assert told(seen, "verified") == ["round 1 verified by 3 sites"]


def test_a_survivor_that_answers_with_other_sums_is_named_and_asked_again(tmp_path):
    """Nobody is asked for a receipt of such a sum, and the wrong answer is not kept."""
    tamper = changes("beta", "close-reply", sums=lambda message, body: (1, *message.sums[1:]))
    folder, transport, _ = federation(tmp_path, FOUR, tamper=tamper)
    _, seen = go(transport, folder)
    closing = folder.closing(1)
    assert (closing.state, closing.receipts) == ("unverified", {})
    assert sorted(closing.answers) == ["alpha", "delta", "gamma"]
    assert "its sums are not those of what it submitted" in told(seen, "incident", "beta")[0]
    assert not [m for m in transport.sent if kind_of(m.header) == "verify-request"]
    transport.tamper, transport.sent = None, []
    go(transport, folder)
    asked = [m.site for m in transport.sent if kind_of(m.header) == "close-request"]
    assert asked == ["beta"]
    assert folder.closing(1).state == "verified"


@pytest.mark.parametrize("what", ["forgotten", "changed on the disk"])
def test_nobody_is_named_for_wrong_sums_without_the_submission_as_it_was_signed(tmp_path, what):
    """The coordinator says that it cannot verify, and blames no hospital for its own disk."""
    folder, transport, _ = federation(tmp_path, FOUR)
    lie = changes("beta", "close-reply", sums=lambda message, body: (1, *message.sums[1:]))

    def tamper(site, header, body):
        if kind_of(header) == "close-reply":
            path = folder.round(1).submissions / "beta.body"
            if what == "forgotten":
                path.unlink(missing_ok=True)
            else:
                path.write_bytes(bytes(len(path.read_bytes())))
        return lie(site, header, body)

    transport.tamper = tamper
    _, seen = go(transport, folder)
    assert "round 1 cannot be verified" in told(seen, "incident")[0]
    assert not told(seen, "incident", "beta")
    assert sorted(folder.closing(1).answers) == list(FOUR)


LIES = {
    "another sum": {"statement_digest": "0" * 64},
    "another transcript": {"transcript": "0" * 64},
    "another round": {"round": 7},
    "another run": {"run": "other"},
    "another site": {"site": "alpha"},
}


@pytest.mark.parametrize("kind", ["close-reply", "sum-receipt"])
@pytest.mark.parametrize("what", LIES)
def test_an_answer_about_something_else_does_not_count_and_names_its_site(tmp_path, what, kind):
    """An answer is missing then, so that the sum stays unverified; a receipt can be spared."""
    folder, transport, _ = federation(tmp_path, FOUR, tamper=changes("beta", kind, **LIES[what]))
    _, seen = go(transport, folder)
    closing = folder.closing(1)
    assert told(seen, "incident", "beta")
    if kind == "close-reply":
        assert (closing.state, sorted(closing.answers)) == (
            "unverified",
            ["alpha", "delta", "gamma"],
        )
    else:
        assert (closing.state, sorted(closing.receipts)) == (
            "verified",
            ["alpha", "delta", "gamma"],
        )


def test_a_receipt_for_another_model_is_not_taken_and_names_its_site(tmp_path):
    """One of four is spared; told to the operator with what to do."""
    tamper = changes("beta", "sum-receipt", model_out="0" * 64)
    folder, transport, _ = federation(tmp_path, FOUR, tamper=tamper)
    _, seen = go(transport, folder)
    closing = folder.closing(1)
    assert (closing.state, sorted(closing.receipts)) == ("verified", ["alpha", "delta", "gamma"])
    assert "makes another model than the stored one" in told(seen, "incident", "beta")[0]


def test_a_model_that_the_hospitals_did_not_compute_stays_unverified(tmp_path, monkeypatch):
    """A coordinator whose stored model is not made of the sum gets no receipt that counts."""
    from server import round_work

    true_step = round_work.model_after

    def another(*parts):
        after = true_step(*parts)
        return {name: value + value.dtype.type(1.0) for name, value in after.items()}

    monkeypatch.setattr(round_work, "model_after", another)
    folder, transport, _ = federation(tmp_path, FOUR)
    _, seen = go(transport, folder)
    closing = folder.closing(1)
    assert (closing.state, closing.receipts) == ("unverified", {})
    assert all(told(seen, "incident", site) for site in FOUR)


def test_a_site_that_does_not_find_the_sum_right_is_heard(tmp_path):
    """Its refusal is kept as it was signed; the run does not wait for it until the deadline."""
    tamper = refuses("beta", "close-reply", "secure-sum")
    folder, transport, _ = federation(tmp_path, FOUR, tamper=tamper)
    tamper.transport = transport
    record, seen = go(transport, folder)
    closing = folder.closing(1)
    assert (closing.state, sorted(closing.refusals)) == ("unverified", ["beta"])
    assert any("does not find the sum right" in text for text in told(seen, "refused", "beta"))
    assert record.state == "finished"


def test_too_many_refused_receipts_leave_the_sum_unverified_and_end_the_wait(tmp_path):
    """n = 4, t = 3: two refusals are too many."""
    first = refuses("beta", "sum-receipt", "secure-sum")
    second = refuses("gamma", "sum-receipt", "late")

    def tamper(site, header, body):
        return (
            second(site, *first(site, header, body))
            if site == "beta"
            else second(site, header, body)
        )

    folder, transport, _ = federation(tmp_path, FOUR, tamper=tamper)
    first.transport = second.transport = transport
    go(transport, folder)
    closing = folder.closing(1)
    assert closing.state == "unverified"
    assert sorted(closing.receipts) == ["alpha", "delta"]
    assert closing.in_words == "unverified: 2 of 3 receipts"
    transport.tamper = None
    go(transport, folder)
    assert folder.closing(1).state == "verified"
    assert folder.closing(1).refusals == {}


def test_a_restart_asks_only_those_that_have_not_answered(tmp_path):
    """Answers are stored as they come."""
    folder, transport, _ = federation(tmp_path, FOUR)
    transport.tamper = loses(("alpha", "close-reply"), ("beta", "close-reply"))
    go(transport, folder)
    assert sorted(folder.closing(1).answers) == ["delta", "gamma"]
    transport.tamper, transport.sent = None, []
    go(transport, folder)
    asked = [m.site for m in transport.sent if kind_of(m.header) == "close-request"]
    assert sorted(asked) == ["alpha", "beta"]
    assert folder.closing(1).state == "verified"


def test_a_site_that_was_away_is_asked_again_while_the_run_goes_on(tmp_path):
    """Its answers of round 1 are lost at first; by the end of the run all are verified."""
    folder, transport, _ = federation(tmp_path, FOUR, rounds=2)
    inner = loses(("beta", "close-reply"))
    lost = []

    def tamper(site, header, body):
        if inner(site, header, body) is None and len(lost) < 6:
            lost.append(site)
            return None
        return header, body

    transport.tamper = tamper
    go(transport, folder)
    assert len(lost) == 6
    assert {folder.closing(number).state for number in (1, 2)} == {"verified"}


def test_the_sums_of_a_run_that_pauses_are_verified_too(tmp_path):
    """And of one that paused before: the next start verifies, then says that it is paused."""
    from dataclasses import replace

    from round_stand_ins import handlers, no_training

    from shared_model.errors import Refused

    folder, transport, nodes = federation(tmp_path, FOUR, rounds=3)
    transport.tamper = loses(*[(site, "close-reply") for site in FOUR])

    def refuse_after_one():
        if folder.record().completed == 1:
            for site in ("alpha", "beta"):
                nodes[site] = replace(nodes[site], policy=no_training)
            transport.nodes.update(handlers(nodes))
        return False

    record, _ = go(transport, folder, stop=refuse_after_one)
    assert (record.state, record.completed) == ("paused", 1)
    assert folder.closing(1).state == "unverified"
    transport.tamper = None
    with pytest.raises(Refused) as caught:
        go(transport, folder)
    assert caught.value.reason == "paused"
    assert folder.closing(1).state == "verified"


def test_a_question_that_vanishes_without_a_word_is_asked_again(tmp_path):
    """The transport took it and never says more; the run does not wait for the deadline."""
    folder, transport, _ = federation(tmp_path, FOUR)
    pull, swallowed = transport.pull, []

    def swallow(ids):
        for key, message in list(transport.waiting.items()):
            asked = (message.site, kind_of(message.header)) == ("beta", "close-request")
            if asked and not swallowed:
                swallowed.append(transport.waiting.pop(key))
        return pull(ids)

    transport.pull = swallow
    go(transport, folder)
    asked = [m for m in transport.sent if kind_of(m.header) == "close-request"]
    assert [m.site for m in asked].count("beta") == 2
    assert len(swallowed) == 1
    assert folder.closing(1).state == "verified"
