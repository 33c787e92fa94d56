"""The loop over a transport in memory: rounds, faults, hostile answers."""

from __future__ import annotations

import base64
import random
from dataclasses import replace

import pytest
from round_stand_ins import (
    RUN_KEY,
    Clock,
    FakeBooks,
    FakeTransport,
    folder_at,
    handlers,
    key_of,
    make_node,
    no_clear_updates,
    roster,
    run_config,
    start_model,
    three_nodes,
)

from server.coordinate import INSECURE_AGGREGATION, begin, run
from server.run_config import RunConfig
from shared_model import protocol, signing
from shared_model import weights as weights_io
from shared_model.errors import OurMistake, Refused
from shared_model.protocol import Refusal, TrainReply, open_answer, open_train_request


def federation(tmp_path, nodes=None, *, config=None, **transport):
    """A begun run and a transport to its nodes."""
    folder = folder_at(tmp_path)
    nodes = nodes or three_nodes(tmp_path)
    begin(folder, config or run_config(), roster(sorted(nodes)), RUN_KEY, start_model())
    return folder, FakeTransport(handlers(nodes), **transport)


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
        **options,
    )
    return record, seen


def test_three_rounds_finish_and_every_header_verifies_again(tmp_path):
    folder, transport = federation(tmp_path)
    go(transport, folder)
    record = folder.record()
    assert record.state == "finished"
    assert [item.outcome for item in record.rounds] == ["aggregated"] * 3
    keys = {item.site: item.key for item in record.roster}
    for item in record.rounds:
        request = open_train_request(item.request_bytes, bytes.fromhex(record.run_key))
        assert request.model_digest == item.model_in
        assert item.model_out != item.model_in
        for contributor in item.contributors:
            reply = open_answer(
                contributor.header_bytes, keys[contributor.site], site=contributor.site
            )
            assert isinstance(reply, TrainReply)
            assert reply.request_digest == item.request_digest
            assert reply.update_digest == contributor.update_digest
    assert weights_io.digest(folder.weights(record)) == record.rounds[-1].model_out
    assert not list((folder.path / "open").iterdir())


def test_weights_follow_the_declared_patients(tmp_path):
    folder, transport = federation(tmp_path)
    record, _ = go(transport, folder)
    weights = {item.site: item.weight for item in record.rounds[0].contributors}
    assert weights == {"alpha": 8, "beta": 2, "gamma": 4}


def test_the_order_of_arrival_does_not_change_one_bit(tmp_path):
    digests = set()
    for seed in range(4):
        shuffle = random.Random(seed)

        def order(ids, shuffle=shuffle):
            return shuffle.sample(ids, len(ids))

        folder, transport = federation(tmp_path / str(seed), order=order)
        record, _ = go(transport, folder)
        digests.add(record.model_digest)
    assert len(digests) == 1


def test_frozen_parameters_stay_as_they_were(tmp_path):
    folder, transport = federation(tmp_path)
    record, _ = go(transport, folder)
    weights = folder.weights(record)
    assert (weights["trunk"] == start_model().weights["trunk"]).all()
    assert (weights["head"] != start_model().weights["head"]).all()


def test_a_start_without_the_words_is_refused(tmp_path):
    with pytest.raises(Refused) as caught:
        begin(
            folder_at(tmp_path),
            run_config(insecure_aggregation=False),
            roster(),
            RUN_KEY,
            start_model(),
        )
    assert caught.value.reason == "insecure-aggregation"
    values = run_config().as_dict()
    del values["insecure_aggregation"]
    with pytest.raises(OurMistake, match="insecure_aggregation"):
        RunConfig.from_dict(values)


def test_every_start_says_that_aggregation_is_insecure(tmp_path):
    folder, transport = federation(tmp_path)
    _, seen = go(transport, folder)
    assert seen[0].kind == "insecure-aggregation"
    assert seen[0].detail == INSECURE_AGGREGATION


def test_a_node_whose_policy_forbids_clear_updates_never_trains(tmp_path):
    nodes = three_nodes(tmp_path)
    nodes["beta"] = replace(nodes["beta"], policy=no_clear_updates)
    folder, transport = federation(tmp_path, nodes)
    record, _ = go(transport, folder)
    assert record.completed == 3
    absent = record.rounds[0].absent
    assert [(item.site, item.ending, item.reason) for item in absent] == [
        ("beta", "refused", "insecure-aggregation")
    ]
    refusal = open_answer(base64.b64decode(absent[0].header), roster()[1].key, site="beta")
    assert isinstance(refusal, Refusal)
    assert nodes["beta"].books.reserved == []


def test_fewer_than_the_minimum_pauses_and_needs_the_operators_word(tmp_path):
    nodes = three_nodes(tmp_path)
    for site in ("alpha", "beta"):
        nodes[site] = replace(nodes[site], policy=no_clear_updates)
    folder, transport = federation(tmp_path, nodes)
    record, seen = go(transport, folder)
    assert record.state == "paused"
    assert record.pause == "failed-rounds"
    assert [item.outcome for item in record.rounds] == ["closed"] * 3
    assert record.model_digest == record.initial_model
    assert record.rounds[0].absent[2].ending == "unused"
    assert seen[-1].kind == "paused"
    with pytest.raises(Refused) as caught:
        go(transport, folder)
    assert caught.value.reason == "paused"
    transport.nodes.update(handlers(three_nodes(tmp_path)))
    record, _ = go(transport, folder, resume_paused=True)
    assert record.state == "finished"
    assert [item.round for item in record.rounds] == [1, 2, 3, 4, 5, 6]


def test_a_site_without_budget_leaves_and_the_run_goes_on(tmp_path):
    nodes = three_nodes(tmp_path)
    for site in nodes:
        nodes[site] = replace(nodes[site], books=FakeBooks(budget=1 if site == "gamma" else 99))
    folder, transport = federation(tmp_path, nodes)
    record, _ = go(transport, folder)
    assert [item.participants for item in record.rounds] == [
        ("alpha", "beta", "gamma"),
        ("alpha", "beta", "gamma"),
        ("alpha", "beta"),
    ]
    assert record.rounds[1].absent[0].reason == "budget"


def test_an_offline_site_is_left_out_after_a_while(tmp_path):
    folder, transport = federation(tmp_path)
    transport.offline = {"gamma"}
    record, _ = go(transport, folder)
    assert record.completed == 3
    assert record.rounds[0].participants == ("alpha", "beta")


def test_a_message_that_the_transport_loses_is_sent_again(tmp_path):
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


def test_a_site_that_always_loses_is_given_up(tmp_path):
    folder, transport = federation(
        tmp_path, tamper=lambda site, *reply: None if site == "alpha" else reply
    )
    record, _ = go(transport, folder)
    assert record.completed == 3
    assert [item.ending for item in record.rounds[0].absent] == ["lost"]


def test_a_transport_that_mixes_up_its_ids_is_not_believed(tmp_path):
    folder, transport = federation(tmp_path)
    pull = transport.pull

    def mixed(ids):
        return [replace(item, id="m999") for item in pull(ids)]

    transport.pull = mixed
    record, _ = go(transport, folder)
    assert record.completed == 0
    assert record.state == "paused"


def hostile(mutate):
    """A tamper function that changes alpha's answers."""
    return lambda site, header, body: mutate(header, body) if site == "alpha" else (header, body)


def resigned(header, body, **changes):
    """alpha signs another reply than an honest node would have made."""
    reply = open_answer(header, roster()[0].key, site="alpha")
    return protocol.seal(reply.model_copy(update=changes), key_of("alpha")), body


def with_update(header, update):
    body = weights_io.to_bytes(update)
    return resigned(
        header,
        body,
        body_digest=protocol.canonical.digest(body),
        update_digest=weights_io.digest(update),
    )


def changed(body, name, value):
    update = weights_io.from_bytes(body)
    array = update[name].copy()
    array.flat[0] = value
    return {**update, name: array}


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
    "another site": lambda h, b: resigned(h, b, site="beta"),
    "a larger weight": lambda h, b: resigned(h, b, weight=7),
    "more patients": lambda h, b: resigned(h, b, declared_patients=9999),
    "another update digest": lambda h, b: resigned(h, b, update_digest="0" * 64),
    "NaN": lambda h, b: with_update(h, changed(b, "head", float("nan"))),
    "infinity": lambda h, b: with_update(h, changed(b, "head", float("inf"))),
    "huge": lambda h, b: with_update(h, changed(b, "head", 2.0**17)),
    "a frozen parameter": lambda h, b: with_update(
        h, {**weights_io.from_bytes(b), "trunk": start_model().weights["trunk"]}
    ),
    "a missing parameter": lambda h, b: with_update(h, {"head": weights_io.from_bytes(b)["head"]}),
    "no safetensors": lambda h, b: resigned(
        h, b"pickle", body_digest=protocol.canonical.digest(b"pickle")
    ),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_answer_hurts_only_its_site(tmp_path, what):
    """The round goes on without the site; it is named; the others' aggregate is unchanged."""
    folder, transport = federation(tmp_path, tamper=hostile(HOSTILE[what]))
    record, _ = go(transport, folder)
    assert record.completed == 3
    for item in record.rounds:
        assert [c.site for c in item.contributors] == ["beta", "gamma"]
        assert item.absent[0].site == "alpha"
        assert item.absent[0].ending in ("faulty", "lost")
        assert {incident.site for incident in item.incidents} == {"alpha"}


def test_a_reply_recorded_earlier_cannot_be_used_again(tmp_path):
    """In round 2 alpha's reply of round 1 arrives: an incident, and it is not counted."""
    first = []

    def replay(site, header, body):
        if site != "alpha":
            return header, body
        first.append((header, body))
        return first[0]

    folder, transport = federation(tmp_path, tamper=replay)
    record, _ = go(transport, folder)
    assert [len(item.contributors) for item in record.rounds] == [3, 2, 2]
    assert record.rounds[1].incidents[0].reason == "it names another round"


def test_a_run_key_of_someone_else_cannot_continue_the_run(tmp_path):
    folder, transport = federation(tmp_path)
    with pytest.raises(OurMistake):
        run(transport, folder, key_of("someone"))


def test_nodes_refuse_requests_of_another_coordinator(tmp_path):
    nodes = three_nodes(tmp_path, run_key=signing.public_bytes(key_of("impostor")))
    folder, transport = federation(tmp_path, nodes)
    record, _ = go(transport, folder)
    assert record.completed == 0
    assert all(node.books.reserved == [] for node in nodes.values())


def test_two_coordinators_cannot_hold_one_folder(tmp_path):
    folder, transport = federation(tmp_path)
    with folder.locked(), pytest.raises(Refused) as caught:
        go(transport, folder)
    assert caught.value.reason == "busy"


def test_a_run_cannot_be_begun_twice(tmp_path):
    folder, _ = federation(tmp_path)
    with pytest.raises(Refused) as caught:
        begin(folder, run_config(), roster(), RUN_KEY, start_model())
    assert caught.value.reason == "exists"


def test_a_changed_checkpoint_is_noticed(tmp_path):
    folder, transport = federation(tmp_path)
    record, _ = go(transport, folder)
    other = {**start_model().weights}
    folder.save_weights(record.checkpoint_round, other)
    with pytest.raises(OurMistake, match="not the model"):
        folder.weights(record)


def test_a_stopped_run_goes_on_where_it_was(tmp_path):
    """stop() is true in the middle of round 2; the next start finishes with the same model."""
    whole, transport = federation(tmp_path / "whole")
    expected, _ = go(transport, whole)
    folder, transport = federation(
        tmp_path / "cut",
        {
            site: make_node(site, tmp_path / "cut" / "outboxes")
            for site in ("alpha", "beta", "gamma")
        },
    )
    record, _ = go(transport, folder, stop=lambda: len(transport.sent) >= 6)
    assert record.state == "running"
    assert record.completed == 1
    transport.waiting.clear()
    record, seen = go(transport, folder)
    assert record.starts == 2
    assert any(item.kind == "continued" for item in seen)
    assert record.model_digest == expected.model_digest


def test_a_stored_round_that_cannot_be_continued_is_closed_and_the_next_begins(tmp_path):
    """As after an update of the software: the stored request is no legal message any more."""
    folder, transport = federation(tmp_path)
    go(transport, folder, stop=lambda: len(transport.sent) >= 3)
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
    assert len(looks) <= 102
    assert "too few hospitals" in seen[-1].detail
