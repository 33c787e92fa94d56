"""The loop over a transport in memory, real nodes: rounds, faults, hostile answers to trip 1."""

from __future__ import annotations

import base64
import random
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from round_stand_ins import (
    RUN_KEY,
    Clock,
    FakeBooks,
    FakeTransport,
    begun,
    folder_at,
    handlers,
    key_of,
    make_node,
    no_training,
    nodes_of,
    root_public,
    run_config,
    signed_roster,
    start_model,
    three_nodes,
)

from server.coordinate import UNMASKED, begin, run
from server.run_config import RunConfig
from shared_model import protocol, protocol_open, signing
from shared_model import weights as weights_io
from shared_model.errors import OurMistake, Refused
from shared_model.protocol import Refusal, TrainReply
from shared_model.protocol_open import open_answer, open_train_request
from shared_model.server_step import model_after

FOUR = ("alpha", "beta", "delta", "gamma")


def federation(tmp_path, nodes=None, *, threshold=None, config=None, **transport):
    """A begun run and a transport to its nodes."""
    nodes = nodes or three_nodes(tmp_path)
    folder = begun(tmp_path, sorted(nodes), threshold=threshold, **(config or {}))
    return folder, FakeTransport(handlers(nodes), **transport)


def four(tmp_path, threshold=3, **changes):
    return nodes_of(tmp_path, FOUR, threshold=threshold, **changes)


def go(transport, folder, **options):
    clock = Clock()
    seen = []
    record = run(
        transport,
        folder,
        RUN_KEY,
        clock=clock,
        wall_clock=clock,
        wait=clock.wait,
        on_progress=seen.append,
        **{"non_private_for_tests": True, **options},
    )
    return record, seen


def key_in(record, site):
    return record.roster.entry(site).identity


def test_three_rounds_finish_and_every_header_verifies_again(tmp_path):
    """Requests, submissions and agreements are kept as they were signed; all sums are verified."""
    folder, transport = federation(tmp_path)
    go(transport, folder)
    record = folder.record()
    assert record.state == "finished"
    assert [item.outcome for item in record.rounds] == ["aggregated"] * 3
    for item in record.rounds:
        request = open_train_request(item.request_bytes, bytes.fromhex(record.run_key))
        assert request.model_digest == item.model_in
        assert item.model_out != item.model_in
        assert item.survivors == ("alpha", "beta", "gamma")
        assert sorted(item.agreements) == ["alpha", "beta", "gamma"]
        for contributor in item.contributors:
            reply = open_answer(
                contributor.header_bytes, key_in(record, contributor.site), site=contributor.site
            )
            assert isinstance(reply, TrainReply)
            assert reply.request_digest == item.request_digest
            assert reply.transcript == item.transcript
            assert reply.body_digest == contributor.body_digest
        assert protocol.canonical.digest(folder.summed(item.round)) == item.sum_digest
        closing = folder.closing(item.round)
        assert closing.state == "verified"
        assert sorted(closing.answers) == sorted(closing.receipts) == ["alpha", "beta", "gamma"]
    assert weights_io.digest(folder.weights(record)) == record.rounds[-1].model_out
    assert not list((folder.path / "open").iterdir())


def test_a_model_beyond_what_hospitals_train_from_is_told_when_it_is_made(tmp_path, monkeypatch):
    """Not first by their refusals, a round later."""
    folder, transport = federation(tmp_path, config={"rounds": 2})
    asked = []

    def second_is_large(weights):
        asked.append(set(weights))
        return len(asked) < 3  # the one that the run begins with, the first and the second

    monkeypatch.setattr("server.round_work.within_bounds", second_is_large)
    _, seen = go(transport, folder)
    kinds = [event.kind for event in seen if event.kind in {"aggregated", "diverged"}]
    assert kinds == ["aggregated", "aggregated", "diverged"]
    assert "lower learning rate" in next(e.detail for e in seen if e.kind == "diverged")
    assert asked == [set(start_model().weights)] * 3


def test_a_run_that_is_taken_up_says_again_that_its_model_has_diverged(tmp_path, monkeypatch):
    """From the model that is there: who starts the coordinator anew has not read the last log."""
    folder, transport = federation(tmp_path)

    def diverging(*given):
        return {name: value * 1e4 for name, value in model_after(*given).items()}

    def kinds(**options):
        _, seen = go(transport, folder, **options)
        return [event.kind for event in seen]

    with monkeypatch.context() as patch:
        patch.setattr("server.round_work.model_after", diverging)
        kinds(stop=lambda: folder.record().completed == 1)
    assert folder.record().completed == 1
    transport.waiting.clear()
    for _ in range(2):  # each start, not only the first
        again = kinds(stop=lambda: True)
        assert again[0] == "diverged"
        assert again.count("diverged") == 1


def test_a_run_that_is_taken_up_with_a_sound_model_says_nothing_of_it(tmp_path):
    """At its first start and later."""
    folder, transport = federation(tmp_path)
    _, first = go(transport, folder, stop=lambda: folder.record().completed == 1)
    transport.waiting.clear()
    _, second = go(transport, folder)
    assert folder.record().completed == 3
    assert "diverged" not in {event.kind for event in [*first, *second]}


def test_weights_follow_the_declared_patients(tmp_path):
    """Public integers of the signed roster; what a site claims counts for nothing."""
    folder, transport = federation(tmp_path)
    record, _ = go(transport, folder)
    weights = {item.site: item.weight for item in record.rounds[0].contributors}
    assert weights == {"alpha": 8, "beta": 2, "gamma": 4}


def test_the_order_of_arrival_does_not_change_one_bit(tmp_path):
    """Integers commute."""
    digests = set()
    for seed in range(3):
        shuffle = random.Random(seed)

        def order(ids, shuffle=shuffle):
            return shuffle.sample(ids, len(ids))

        folder, transport = federation(tmp_path / str(seed), order=order)
        record, _ = go(transport, folder)
        digests.add(record.model_digest)
    assert len(digests) == 1


def test_masks_change_nothing_but_what_the_coordinator_sees(tmp_path):
    """The same integers are summed with and without masks: the model is the same to the bit."""
    folder, transport = federation(tmp_path / "masked")
    masked, _ = go(transport, folder)
    nodes = three_nodes(tmp_path / "clear", allow_unmasked=True)
    clear_folder, transport = federation(
        tmp_path / "clear", nodes, config={"aggregation": "UnmaskedForSimulation"}
    )
    clear, seen = go(transport, clear_folder)
    assert clear.model_digest == masked.model_digest
    assert [clear_folder.summed(n) for n in (1, 2, 3)] == [folder.summed(n) for n in (1, 2, 3)]
    assert (seen[0].kind, seen[0].detail) == ("unmasked", UNMASKED)
    for site in nodes:
        assert folder.round(1).submission(site).body != clear_folder.round(1).submission(site).body
    assert clear_folder.closing(1).state == "unverified"
    assert clear_folder.closing(1).in_words == "unverified: masks were off"
    assert clear.rounds[0].agreements == {}


def test_hospitals_refuse_to_submit_without_masks(tmp_path):
    """A deployed node is not asked by its operator: it has no such option."""
    folder, transport = federation(tmp_path, config={"aggregation": "UnmaskedForSimulation"})
    record, _ = go(transport, folder)
    assert record.completed == 0
    assert {item.reason for item in record.rounds[0].absent} == {"secure-sum"}


def test_frozen_parameters_stay_as_they_were(tmp_path):
    """What is not trained is not touched."""
    folder, transport = federation(tmp_path)
    record, _ = go(transport, folder)
    weights = folder.weights(record)
    assert (weights["trunk"] == start_model().weights["trunk"]).all()
    assert (weights["head"] != start_model().weights["head"]).all()


def test_the_model_moves_by_the_weighted_mean_of_the_updates(tmp_path):
    """Against the plain float64 mean of what the nodes' trainer makes."""
    from node_stand_ins import cheap_train

    from shared_model.noise import NonPrivateForTests

    folder, transport = federation(tmp_path, config={"rounds": 1})
    record, _ = go(transport, folder)
    before, after = folder.weights(record, 0), folder.weights(record, 1)
    weights = record.roster.weights
    asked = SimpleNamespace(privacy=record.config.privacy)
    for name in record.trainable:
        exact = sum(
            weights[site]
            * cheap_train(asked, before, None, NonPrivateForTests("spring", site, 1, 7), 1)[
                name
            ].astype(np.float64)
            for site in weights
        ) / sum(weights.values())
        moved = after[name].astype(np.float64) - before[name]
        assert np.abs(moved - exact).max() < 1e-4 * np.abs(exact).max() + 1e-7


def test_a_configuration_that_asks_for_updates_in_clear_is_refused():
    """The option of the first version is gone; the message says what to do."""
    with pytest.raises(OurMistake, match="insecure_aggregation") as caught:
        RunConfig.from_dict({**run_config().as_dict(), "insecure_aggregation": True})
    assert "always masked" in caught.value.do


def test_a_node_whose_policy_refuses_never_trains(tmp_path):
    """Its refusal is kept as it was signed; the others go on without it."""
    nodes = four(tmp_path)
    nodes["beta"] = replace(nodes["beta"], policy=no_training)
    folder, transport = federation(tmp_path, nodes, threshold=3)
    record, _ = go(transport, folder)
    assert record.completed == 3
    absent = record.rounds[0].absent
    assert [(item.site, item.ending, item.reason) for item in absent] == [
        ("beta", "refused", "policy")
    ]
    refusal = open_answer(base64.b64decode(absent[0].header), key_in(record, "beta"), site="beta")
    assert isinstance(refusal, Refusal)
    assert nodes["beta"].books.reserved == []


def test_fewer_than_the_threshold_pauses_and_needs_the_operators_word(tmp_path):
    """Three rounds in a row fail; the next start refuses, with resume it goes on."""
    nodes = three_nodes(tmp_path)
    nodes["alpha"] = replace(nodes["alpha"], policy=no_training)
    folder, transport = federation(tmp_path, nodes)
    record, seen = go(transport, folder)
    assert record.state == "paused"
    assert record.pause == "failed-rounds"
    assert [item.outcome for item in record.rounds] == ["closed"] * 3
    assert record.model_digest == record.initial_model
    assert record.rounds[0].absent[2].ending == "unused"
    assert not list((folder.path / "submissions").iterdir())
    assert seen[-1].kind == "paused"
    with pytest.raises(Refused) as caught:
        go(transport, folder)
    assert caught.value.reason == "paused"
    nodes["alpha"] = replace(nodes["alpha"], policy=nodes["beta"].policy)
    transport.nodes.update(handlers(nodes))
    record, _ = go(transport, folder, resume_paused=True)
    assert record.state == "finished"
    assert [item.round for item in record.rounds] == [1, 2, 3, 4, 5, 6]


def test_a_site_without_budget_leaves_and_the_run_goes_on(tmp_path):
    """It is asked once more than it can pay, and not again."""
    nodes = four(tmp_path)
    for site in nodes:
        nodes[site] = replace(nodes[site], books=FakeBooks(1 if site == "gamma" else 99, site))
    folder, transport = federation(tmp_path, nodes, threshold=3)
    record, _ = go(transport, folder)
    assert [item.participants for item in record.rounds] == [
        FOUR,
        FOUR,
        ("alpha", "beta", "delta"),
    ]
    assert record.rounds[1].absent[0].reason == "budget"


def test_an_offline_site_is_left_out_after_a_while(tmp_path):
    """From four sites on, one that is away stops nothing."""
    nodes = four(tmp_path)
    folder, transport = federation(tmp_path, nodes, threshold=3)
    transport.offline = {"gamma"}
    record, _ = go(transport, folder)
    assert record.completed == 3
    assert record.rounds[0].participants == ("alpha", "beta", "delta")


def test_with_three_sites_one_that_is_away_pauses_the_run_and_this_is_said(tmp_path):
    """n = 3 and t = 3: the status says so while it waits."""
    folder, transport = federation(tmp_path)
    transport.offline = {"gamma"}
    record, seen = go(transport, folder)
    assert (record.state, record.pause) == ("paused", "too-few-sites")
    assert seen[0].kind == "waiting"
    assert "all 3 sites are needed: the run pauses while one is away" in seen[0].detail


def test_a_message_that_the_transport_loses_is_sent_again(tmp_path):
    """The same bytes: the node answers them once."""
    lost = []

    def tamper(site, header, body):
        if site == "alpha" and len(lost) < 2:
            lost.append(site)
            return None
        return header, body

    folder, transport = federation(tmp_path, tamper=tamper)
    record, _ = go(transport, folder)
    assert record.rounds[0].absent == ()
    first = [item.header for item in transport.sent if item.site == "alpha"][:3]
    assert len(set(first)) == 1


def test_a_transport_that_mixes_up_its_ids_is_not_believed(tmp_path):
    """An answer under an id that nobody sent is no answer."""
    folder, transport = federation(tmp_path)
    pull = transport.pull

    def mixed(ids):
        return [replace(item, id="m999") for item in pull(ids)]

    transport.pull = mixed
    record, _ = go(transport, folder)
    assert record.completed == 0
    assert record.state == "paused"


def of_kind(kind, mutate):
    """A tamper function that changes alpha's answers of one kind."""

    def tamper(site, header, body):
        ours = site == "alpha" and protocol_open.readable(header)["kind"] == kind
        return mutate(header, body) if ours else (header, body)

    return tamper


def resigned(header, body, **changes):
    """alpha signs another reply than an honest node would have made."""
    reply = open_answer(header, signing.public_bytes(key_of("alpha")), site="alpha")
    return protocol.seal(reply.model_copy(update=changes), key_of("alpha")), body


def with_body(header, body):
    return resigned(header, body, body_digest=protocol.canonical.digest(body))


HOSTILE = {
    "nothing": lambda h, b: (b"", b""),
    "noise": lambda h, b: (b"\xff" * 500, b),
    "another site's signature": lambda h, b: (
        signing.sign(key_of("beta"), "train-reply", h[64:]) + h[64:],
        b,
    ),
    "a refusal's tag": lambda h, b: (signing.sign(key_of("alpha"), "refusal", h[64:]) + h[64:], b),
    "another body": lambda h, b: (h, b + b" "),
    "no body": lambda h, b: (h, b""),
    "another round": lambda h, b: resigned(h, b, round=77),
    "another run": lambda h, b: resigned(h, b, run="other"),
    "another request": lambda h, b: resigned(h, b, request_digest="0" * 64),
    "another transcript": lambda h, b: resigned(h, b, transcript="0" * 64),
    "another site": lambda h, b: resigned(h, b, site="beta"),
    "a larger weight": lambda h, b: resigned(h, b, weight=7),
    "more patients": lambda h, b: resigned(h, b, declared_patients=9999),
    "a longer body": lambda h, b: with_body(h, b + b"\0"),
    "a shorter body": lambda h, b: with_body(h, b[:-1]),
    "no shares": lambda h, b: with_body(h, b"pickle"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_answer_hurts_only_its_site(tmp_path, what):
    """The round goes on without the site; it is named; the others' sum is verified."""
    folder, transport = federation(
        tmp_path,
        four(tmp_path),
        threshold=3,
        config={"rounds": 1},
        tamper=of_kind("train-reply", HOSTILE[what]),
    )
    record, _ = go(transport, folder)
    assert record.completed == 1
    (item,) = record.rounds
    assert [c.site for c in item.contributors] == ["beta", "delta", "gamma"]
    assert item.dropped == ("alpha",)
    assert item.absent[0].site == "alpha"
    assert item.absent[0].ending in ("faulty", "lost")
    assert {incident.site for incident in item.incidents} == {"alpha"}
    assert folder.closing(1).state == "verified"


def test_a_reply_recorded_earlier_cannot_be_used_again(tmp_path):
    """In round 2 alpha's reply of round 1 arrives: an incident, and it is not counted."""
    first = []

    def replay(header, body):
        first.append((header, body))
        return first[0]

    folder, transport = federation(
        tmp_path, four(tmp_path), threshold=3, tamper=of_kind("train-reply", replay)
    )
    record, _ = go(transport, folder)
    assert [len(item.contributors) for item in record.rounds] == [4, 3, 3]
    assert record.rounds[1].incidents[0].reason == "it names another round"


def test_a_run_key_of_someone_else_cannot_continue_the_run(tmp_path):
    """Nodes would refuse it anyway."""
    folder, transport = federation(tmp_path)
    with pytest.raises(OurMistake):
        run(transport, folder, key_of("someone"))


def test_nodes_refuse_requests_of_another_coordinator(tmp_path):
    """No key is made and nothing is booked."""
    nodes = three_nodes(tmp_path, run_key=signing.public_bytes(key_of("impostor")))
    folder, transport = federation(tmp_path, nodes)
    record, _ = go(transport, folder)
    assert (record.completed, record.pause) == (0, "too-few-keys")
    assert all(node.books.reserved == [] for node in nodes.values())


def test_two_coordinators_cannot_hold_one_folder(tmp_path):
    """The kernel's lock decides."""
    folder, transport = federation(tmp_path)
    with folder.locked(), pytest.raises(Refused) as caught:
        go(transport, folder)
    assert caught.value.reason == "busy"


def test_a_run_cannot_be_begun_twice(tmp_path):
    """Its folder is not overwritten."""
    begun(tmp_path)
    with pytest.raises(Refused) as caught:
        begun(tmp_path)
    assert caught.value.reason == "exists"


def test_a_run_begins_only_over_a_roster_that_the_root_signed(tmp_path):
    """Else whoever holds the coordinator could invent hospitals."""
    from shared_model.errors import PeerFault

    folder, signed = folder_at(tmp_path), signed_roster()
    forged = signed.model_copy(update={"root_signature": "0" * 128}).to_bytes()
    with pytest.raises(PeerFault, match="root key"):
        begin(folder, run_config(), forged, root_public(), RUN_KEY, start_model())
    assert not folder.exists


def test_a_changed_checkpoint_is_noticed(tmp_path):
    """Its digest is in the record."""
    folder, transport = federation(tmp_path)
    record, _ = go(transport, folder)
    other = {**start_model().weights}
    folder.save_weights(record.checkpoint_round, other)
    with pytest.raises(OurMistake, match="not the model"):
        folder.weights(record)


def test_a_changed_submission_is_noticed_before_it_is_summed(tmp_path):
    """A disk that forgets a bit must not make a wrong sum."""
    folder, transport = federation(tmp_path)
    path = folder.round(1).submissions / "beta.body"

    def spoil(site, header, body):
        if protocol_open.readable(header)["kind"] == "shares-reply" and path.is_file():
            data = bytearray(path.read_bytes())
            data[0] ^= 1
            path.write_bytes(data)
        return header, body

    transport.tamper = spoil
    with pytest.raises(OurMistake, match="submission of beta has changed"):
        go(transport, folder)


def test_a_stopped_run_goes_on_where_it_was(tmp_path):
    """stop() is true in the middle of round 2; the next start finishes with the same model."""
    whole, transport = federation(tmp_path / "whole")
    expected, _ = go(transport, whole)
    folder, transport = federation(
        tmp_path / "cut",
        {site: make_node(site, tmp_path / "cut" / "outboxes") for site in expected.roster.names},
    )
    record, _ = go(transport, folder, stop=lambda: folder.record().completed == 1)
    assert (record.state, record.completed) == ("running", 1)
    transport.waiting.clear()
    record, _ = go(transport, folder)
    assert record.starts == 2
    assert record.model_digest == expected.model_digest
    assert {folder.closing(number).state for number in (1, 2, 3)} == {"verified"}


def test_a_stored_round_that_cannot_be_continued_is_closed_and_the_next_begins(tmp_path):
    """As after an update of the software: the stored request is no legal message any more."""
    folder, transport = federation(tmp_path)
    go(transport, folder, stop=lambda: folder.round(1).request is not None)
    (folder.path / "open" / "0001" / "request.header").write_bytes(b"of another version" * 9)
    record, _ = go(transport, folder)
    assert record.state == "finished"
    assert [(item.round, item.outcome) for item in record.rounds] == [
        (1, "closed"),
        (2, "aggregated"),
        (3, "aggregated"),
        (4, "aggregated"),
    ]
    assert record.rounds[0].reason == "not-continued"


def test_a_waiting_coordinator_waits_instead_of_spinning(tmp_path):
    """Each look at too few sites is followed by a wait; patience ends in a pause that says so."""
    folder, transport = federation(tmp_path)
    transport.offline = {"beta", "gamma"}
    looks = []
    sites = transport.sites
    transport.sites = lambda: looks.append(1) or sites()
    record, seen = go(transport, folder)
    assert record.pause == "too-few-sites"
    assert len(looks) <= 106
    assert "too few hospitals" in seen[-1].detail
