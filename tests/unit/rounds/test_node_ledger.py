"""What a node asks of ledgers before it books, agrees and opens."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ledger_stand_ins import FakeBooks, head_of, opened
from node_stand_ins import RUN_KEY, SITES, Consortium, key_of

from shared_model import ledger
from shared_model.ledger_links import links_body, read_links_body
from shared_model.protocol import KnownHead, Refusal, TrainReply, canonical, seal
from shared_model.protocol_sum import Agreement, EpochKey, SharesReply


@pytest.fixture
def consortium(tmp_path):
    return Consortium.of(tmp_path)


def books(consortium, site="alpha") -> FakeBooks:
    return consortium.nodes[site].books


def refused(answer, reason):
    return isinstance(answer, Refusal) and answer.reason == reason


def known(chain, site="alpha", key=None):
    head = head_of(chain, key or key_of(site))
    return KnownHead(site=site, **head.model_dump())


def agreed(consortium, message, site="alpha"):
    return consortium.told(site, message, kind=Agreement)


def test_a_reply_carries_the_head_after_it_was_booked_and_answered(consortium):
    """Signed, with the entries that the coordinator has not seen."""
    request, body = consortium.request()
    reply = consortium.told("alpha", request, body)
    chain = books(consortium).chain
    assert (reply.ledger.length, reply.ledger.head) == (3, chain.head)
    assert reply.ledger.entries == tuple(link.line.decode() for link in chain.links)
    booked, answered = (link.entry for link in chain.links[1:])
    assert answered.update_digest == reply.body_digest
    assert (booked.request_digest, booked.transcript) == (reply.request_digest, reply.transcript)
    second, body = consortium.request(round=2, ledger_heads=(known(chain),))
    later = consortium.told("alpha", second, body)
    assert (later.ledger.length, len(later.ledger.entries)) == (5, 2)


def test_a_ledger_without_its_own_signed_head_books_nothing(consortium):
    """A restored backup is told by an honest coordinator; nothing is appended to it."""
    before = books(consortium).chain
    request, body = consortium.request()
    assert isinstance(consortium.told("alpha", request, body), TrainReply)
    shown = known(books(consortium).chain)
    books(consortium).chain = before
    second, body = consortium.request(round=2, ledger_heads=(shown,))
    assert refused(consortium.told("alpha", second, body), "ledger")
    assert books(consortium).chain == before
    books(consortium).chain = opened("alpha", key_of("alpha"), ledger_id="cd" * 16)
    assert refused(consortium.told("alpha", second, body), "ledger")


def test_a_plan_that_is_not_approved_is_refused_before_anything_is_booked(consortium):
    """In the epoch's request and in the round's; a stored reply is sent again all the same."""
    node = consortium.nodes["alpha"]
    request, body = consortium.request()
    first = consortium.ask("alpha", request, body)
    node.approvals.approved = False
    assert consortium.ask("alpha", request, body) == first
    second, body = consortium.request(round=2)
    assert refused(consortium.told("alpha", second, body), "run-approval")
    assert node.books.reserved == [("spring", 1)]
    epoch = consortium.epoch_request(9)
    assert refused(consortium.told("alpha", *epoch, kind=EpochKey), "run-approval")
    assert node.approvals.asked[-1] == epoch[0].plan == second.plan


def test_a_site_agrees_only_to_the_head_that_it_sent(consortium):
    """Another of its own heads, even one that it signed, is not this round's."""
    played = consortium.submit()
    chain = books(consortium).chain
    older = head_of(opened("alpha", key_of("alpha")), key_of("alpha"))
    message = played.agree_request()
    for head in (older, head_of(chain, key_of("impostor"))):
        other = message.model_copy(update={"heads": (head, *message.heads[1:])})
        assert refused(agreed(consortium, other), "ledger")
    assert isinstance(agreed(consortium, message), Agreement)


def forked(site):
    """Another ledger of this site, as long as the one that it shows."""
    chain = opened(site, key_of(site), ledger_id="cd" * 16)
    for number in (1, 2):
        entry = ledger.Incident(
            site=site, sequence=chain.length + 1, run="x", round=number, reason="conflict"
        )
        chain = chain.extended([ledger.seal(entry, key_of(site))])
    return chain


@pytest.mark.parametrize("what", ["forged", "another site's", "shorter", "forked"])
def test_a_peers_head_that_does_not_continue_its_ledger_is_not_agreed_to(tmp_path, what):
    """Nothing of it is kept, and nothing is signed; other peers' heads of that message neither."""
    consortium = Consortium.of(tmp_path)
    played = consortium.submit()
    agreed(consortium, played.agree_request())
    second = consortium.submit(round=2)
    message = second.agree_request()
    held = dict(consortium.nodes["alpha"].witness.heads)
    head = {
        "forged": head_of(books(consortium, "gamma").chain, key_of("impostor")),
        "another site's": message.heads[1],
        "shorter": head_of(opened("gamma", key_of("gamma")), key_of("gamma")),
        "forked": head_of(forked("gamma"), key_of("gamma")),
    }[what]
    bad = message.model_copy(update={"heads": (*message.heads[:2], head)})
    assert refused(agreed(consortium, bad), "ledger")
    assert consortium.nodes["alpha"].witness.heads == held
    assert isinstance(agreed(consortium, message), Agreement)


def test_links_that_are_missing_or_wrong_lead_nowhere(consortium):
    """A longer ledger alone proves nothing: it must continue the one that is held here."""
    agreed(consortium, consortium.submit().agree_request())
    second = consortium.submit(round=2)
    message = second.agree_request()
    links = {site: list(found) for site, found in read_links_body(second.links).items()}
    bodies = {
        "none": {},
        "too few": {**links, "gamma": links["gamma"][-1:]},
        "swapped": {**links, "gamma": [*links["gamma"][:-2], *links["gamma"][:-3:-1]]},
        "another's": {**links, "gamma": links["beta"]},
    }
    for what, found in bodies.items():
        body = links_body(found)
        bad = message.model_copy(update={"body_digest": canonical.digest(body)})
        answer = consortium.told("alpha", bad, body, kind=Agreement)
        assert refused(answer, "ledger"), what
    for body in (b"", b"[]", b'{"gamma":[]}', b'{"gamma":["00"]}', b'{"gamma": []}'):
        bad = message.model_copy(update={"body_digest": canonical.digest(body)})
        assert refused(consortium.told("alpha", bad, body, kind=Agreement), "ledger"), body
    assert refused(consortium.told("alpha", message, b"{}", kind=Agreement), "ledger")
    assert isinstance(agreed(consortium, message), Agreement)


def test_no_other_heads_are_signed_for_a_round(consortium):
    """One set of survivors, and one set of ledgers: agreements to others do not fit together."""
    played = consortium.submit()
    message = played.agree_request()
    assert isinstance(agreed(consortium, message), Agreement)
    other = head_of(forked("gamma"), key_of("gamma"))
    bad = message.model_copy(update={"heads": (*message.heads[:2], other)})
    assert refused(agreed(consortium, bad), "conflict")
    assert books(consortium).incidents == [("spring", 1, "conflict")]


def test_nothing_is_opened_where_peers_were_shown_other_heads(consortium):
    """The coordinator shows beta and gamma a fork of alpha's ledger: they sign something else."""
    played = consortium.submit()
    message = played.agree_request()
    other = head_of(forked("gamma"), key_of("gamma"))
    bad = message.model_copy(update={"heads": (*message.heads[:2], other)})
    for site, request in (("alpha", message), ("gamma", message), ("beta", bad)):
        played.agreements[site], _ = consortium.ask(site, request)
    told = consortium.told("alpha", *played.open_request("alpha"), kind=SharesReply)
    assert refused(told, "secure-sum")
    assert consortium.nodes["alpha"].witness.kept == {}


def test_the_agreements_are_kept_before_anything_is_opened(consortium):
    """They are the countersignatures of this hospital's head."""
    played = consortium.submit()
    played.agree()
    node = consortium.nodes["alpha"]
    consortium.nodes["alpha"] = replace(node, entropy=None)
    message, _ = played.open_request("alpha", body=b"short")
    assert refused(consortium.told("alpha", message, b"short", kind=SharesReply), "secure-sum")
    asked, agreements = node.witness.kept["spring", 1]
    assert asked == seal(played.agree_request(), RUN_KEY)
    assert agreements == played.agreements
    assert sorted(agreements) == list(SITES)


def test_a_conflict_is_an_incident_in_the_ledger_and_a_rollback_is_not(consortium):
    """Once, however often it is tried; a ledger that is in doubt gets no further entry."""
    request, body = consortium.request()
    consortium.told("alpha", request, body)
    for deadline in (1.0, 2.0, 3.0):
        other = request.model_copy(update={"deadline_s": deadline})
        assert refused(consortium.told("alpha", other, body), "conflict")
    assert books(consortium).incidents == [("spring", 1, "conflict")]
