"""A run whose server step has a state: it travels, is bound, is checked, is taken by everybody."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import pytest
from killer import MODES, Killed, Killer
from loop_stand_ins import changes, federation, go, kind_of
from node_stand_ins import RUN_KEY, SITES, TRAINABLE, Consortium, cheap_train, start_weights
from round_stand_ins import handlers

import client.outbox
from client.node_training import check_model
from client.run_cost import in_words
from server.checkpoints import RunFolder
from server.run_config import RunConfig
from shared_model import canonical, mae, protocol_open, signing
from shared_model import weights as weights_io
from shared_model.config import LocalTraining, ServerMoments
from shared_model.errors import OurMistake, Refused
from shared_model.secure_sum.numbers import unpack
from shared_model.secure_sum.transcript import of_request
from shared_model.server_optimisers import FIRST, SECOND, FedAdam
from shared_model.server_step import mean_update
from shared_model.weights import STATE

ADAM = {"server_step": "fedadam", "server_learning_rate": 0.05}
MOMENTS = ServerMoments()


def requests_of(transport):
    """Body and request of every request to train, the first site's."""
    return {
        message["round"]: (message, sent.body)
        for sent in transport.sent
        if kind_of(sent.header) == "train-request"
        for message in [protocol_open.readable(sent.header)]
    }


def three(root, **changes):
    """Three sites, of whom two are enough."""
    return federation(root, SITES, threshold=2, **changes)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Three rounds of FedAdam: folder, record, transport, nodes."""
    folder, transport, nodes = three(tmp_path_factory.mktemp("run"), rounds=3, **ADAM)
    record, _ = go(transport, folder)
    assert record.state == "finished"
    return folder, record, transport, nodes


def test_the_state_travels_with_the_model_and_every_survivor_takes_the_same_step(undisturbed):
    """All sums verified, which they are only if all receipts name the same model and state."""
    folder, record, transport, nodes = undisturbed
    for number in (1, 2, 3):
        closing = folder.closing(number)
        assert closing.state == "verified"
        assert len(closing.receipts) == len(nodes)
    asked = requests_of(transport)
    names = {STATE + kind + name for kind in ("first/", "second/") for name in TRAINABLE}
    assert set(weights_io.from_bytes(asked[1][1])) == set(start_weights())
    for number in (2, 3):
        message, body = asked[number]
        found = weights_io.from_bytes(body)
        assert set(found) == set(start_weights()) | names
        assert message["model_digest"] == weights_io.digest(found)
        assert (message["version"], message["server_step"]) == (4, "fedadam")
    standing = folder.standing(record)
    assert set(standing) == set(start_weights()) | names
    assert set(folder.weights(record)) == set(start_weights())
    assert weights_io.digest(standing) == record.model_digest
    assert weights_io.digest(folder.weights(record)) == record.weights_digest


def test_the_step_of_a_run_is_the_object_of_the_lab(undisturbed):
    """What the coordinator stored after each round is `FedAdam.apply` on the stored sum's mean."""
    folder, record, _, _ = undisturbed
    step, state = FedAdam(0.05, MOMENTS), {}
    for item in record.rounds:
        request = protocol_open.open_train_request(
            item.request_bytes, signing.public_bytes(RUN_KEY)
        )
        script = of_request(request, record.roster.weights)
        before = folder.weights(record, item.round - 1)
        packed, numbers = folder.summed(item.round), script.numbers
        total = unpack(packed, numbers.modulus_bits, numbers.padded)
        like = {name: before[name] for name in TRAINABLE}
        mean = mean_update(total, script, item.survivors, like)
        after, state = step.apply(before, mean, state)
        standing = folder.standing(record, item.round)
        assert weights_io.digest(after | state) == weights_io.digest(standing) == item.model_out


def test_fedavg_has_no_state_and_names_no_parts(tmp_path):
    """As it was: version 3, the plain digest, nothing beside the model."""
    folder, transport, _ = three(tmp_path, rounds=1)
    record, _ = go(transport, folder)
    assert all(item.parts is None for item in record.rounds)
    assert record.model_digest == record.weights_digest
    assert {message["version"] for message, _ in requests_of(transport).values()} == {3}
    assert set(folder.standing(record)) == set(start_weights())


def test_a_coordinator_that_was_stopped_goes_on_with_the_state(tmp_path, undisturbed):
    """Stopped after the first round and in the second: the same bits as undisturbed."""
    wanted = undisturbed[1]
    folder, transport, _ = three(tmp_path, rounds=3, **ADAM)
    go(transport, folder, stop=lambda: folder.record().completed == 1)
    go(transport, folder, stop=lambda: len(folder.round(2).submitted) >= 1)
    record, _ = go(transport, folder)
    assert record.starts == 3
    assert [item.model_out for item in record.rounds] == [item.model_out for item in wanted.rounds]
    assert folder.closing(3).state == "verified"


def test_a_receipt_for_another_state_is_an_incident(tmp_path):
    """The digest joins both: a site that computed other moments signs another model."""
    folder, transport, _ = three(tmp_path, rounds=1, **ADAM)

    def other(message, body):
        return weights_io.digest(folder.weights(folder.record()))  # without the state

    transport.tamper = changes("beta", "sum-receipt", model_out=other)
    record, seen = go(transport, folder)
    told = [one.detail for one in seen if (one.kind, one.site) == ("incident", "beta")]
    assert len(told) == 1
    assert "makes another model" in told[0]
    assert "beta" not in folder.closing(1).receipts
    assert record.rounds[0].outcome == "aggregated"


def test_a_checkpoint_whose_state_is_not_the_records_is_not_taken_up(tmp_path, undisturbed):
    """The coordinator's own disk, too, is held against the digest: dropped or exchanged."""
    kept, record, _, _ = undisturbed
    model, state = weights_io.parts(kept.standing(record))
    name = sorted(state)[0]
    folder = RunFolder(tmp_path)
    folder.save(record)
    for changed in ({}, {**state, name: state[name] + np.float32(1)}):
        folder.save_weights(3, model | changed)
        with pytest.raises(OurMistake, match="not the model that"):
            folder.standing(record)
    folder.save_weights(3, model | state)
    assert folder.standing(record).keys() == model.keys() | state.keys()


def test_a_record_whose_parts_are_not_those_of_its_model_is_damaged(tmp_path, undisturbed):
    """`parts` must join to what the receipts name."""
    record = undisturbed[1]
    item = record.rounds[0]
    lied = item.model_copy(update={"parts": item.parts.model_copy(update={"state": "0" * 64})})
    with pytest.raises(OurMistake, match="parts of another model"):
        RunFolder(tmp_path).save(record.model_copy(update={"rounds": (lied,)}))


# ---------------------------------------------------------------- the node


def test_training_sees_the_model_alone(tmp_path):
    """Whatever trains has no use for moments, and does not get them."""
    seen = []

    def spy(request, weights, *others):
        seen.append(set(weights))
        return cheap_train(request, weights, *others)

    folder, transport, nodes = three(tmp_path, rounds=2, **ADAM)
    for site, node in list(nodes.items()):
        nodes[site] = replace(node, train=spy)
    transport.nodes = handlers(nodes)
    go(transport, folder)
    assert len(seen) == 2 * len(nodes)
    assert all(names == set(start_weights()) for names in seen)


def test_a_state_under_the_digest_of_another_is_refused_before_anything_is_booked(tmp_path):
    """The weights are right, the moments are not those that the request names."""
    consortium = Consortium.of(tmp_path, SITES)
    step = FedAdam(0.05, MOMENTS)
    model = start_weights()
    state = step.begin({name: model[name] for name in TRAINABLE})
    other = {**state, FIRST + "head": state[FIRST + "head"] + np.float32(0.5)}
    told = {}
    for name, found in (("named", state), ("shown", other)):
        body = weights_io.to_bytes(model | found)
        request, _ = consortium.request(
            version=4,
            round=2,
            server_step="fedadam",
            server_learning_rate=0.05,
            server_moments=MOMENTS,
            model_digest=weights_io.digest(model | state),
            body_digest=canonical.digest(body),
        )
        header, _ = consortium.ask("alpha", request, body)
        told[name] = protocol_open.readable(header)
        if name == "named":
            assert told[name]["kind"] == "train-reply"
            consortium = Consortium.of(tmp_path / "again", SITES)
    assert (told["shown"]["kind"], told["shown"]["reason"]) == ("refusal", "model")
    assert not consortium.nodes["alpha"].books.booked("spring", 2)


def test_a_node_refuses_a_state_in_the_first_round_of_a_run(tmp_path):
    """Also in the very digest that the request names: nobody has summed it. Nothing is booked, the
    same again is refused again, and the round without one is answered."""
    consortium = Consortium.of(tmp_path, SITES)
    model = start_weights()
    state = FedAdam(0.05, MOMENTS).begin({name: model[name] for name in TRAINABLE})
    step = {"version": 4, "server_step": "fedadam", "server_learning_rate": 0.05}

    def asked(found, number):
        body = weights_io.to_bytes(found)
        return consortium.request(
            **step,
            round=number,
            server_moments=MOMENTS,
            model_digest=weights_io.digest(found),
            body_digest=canonical.digest(body),
        )[0], body

    node = consortium.nodes["alpha"]
    for _ in range(2):
        header, _ = consortium.ask("alpha", *asked(model | state, 1))
        told = protocol_open.readable(header)
        assert (told["kind"], told["reason"]) == ("refusal", "model")
        assert not node.books.booked("spring", 1)
        assert not node.outbox.begun("spring", 1)
    for found, number in ((model, 1), (model | state, 2)):
        header, _ = consortium.ask("alpha", *asked(found, number))
        assert protocol_open.readable(header)["kind"] == "train-reply"


@pytest.mark.parametrize("what", ["an element of the state", "an element of the model", "cut off"])
def test_a_node_whose_kept_model_is_damaged_signs_no_receipt(tmp_path, what):
    """A receipt is for ever: for a model that nobody was sent it would accuse its own hospital."""
    folder, transport, nodes = three(tmp_path, rounds=2, **ADAM)
    spoilt = []

    def damage(message, body):
        for path in tmp_path.rglob("beta/*/0000002/model.safetensors"):
            data = path.read_bytes()
            if what == "cut off":
                data = data[:-8]
            else:
                found = weights_io.from_bytes(data)
                name = FIRST + "head" if "state" in what else "trunk"
                data = weights_io.to_bytes({**found, name: found[name] + np.float32(1)})
            path.write_bytes(data)
            spoilt.append(path)

    real = transport.nodes["beta"]

    def handle(header, body):
        message = protocol_open.readable(header)
        if (message["kind"], message.get("round")) == ("verify-request", 2):
            damage(message, body)
        return real(header, body)

    transport.nodes = {**transport.nodes, "beta": handle}
    record, seen = go(transport, folder)
    assert spoilt
    assert record.completed == 2
    assert not list(tmp_path.rglob("beta/*/0000002/receipt.header"))
    assert set(folder.closing(2).receipts) == set(nodes) - {"beta"}
    assert folder.closing(2).state == "verified"
    assert not [one for one in seen if "makes another model" in one.detail]


def real_request(**changes):
    """Of the real `tiny`; and its weights."""
    config = mae.PRESETS["tiny"]
    model = mae.build(config, 0)
    weights = mae.weights_of(model)
    trained = {name: weights[name] for name in mae.trainable_names(model, "head")}
    values = {
        "preset": "tiny",
        "config_digest": config.digest,
        "training": LocalTraining(),
        "server_step": "fedadam",
        "server_learning_rate": 0.05,
        "server_moments": MOMENTS,
        **changes,
    }
    return values, weights, trained


def request_of(consortium, **values):
    return consortium.request(version=4 if values["server_moments"] else 3, **values)[0]


def test_a_node_takes_a_state_that_fits_and_none_at_all(tmp_path):
    """The first round has none; later ones have exactly the step's."""
    consortium = Consortium.of(tmp_path, SITES, keyed=False)
    values, weights, trained = real_request()
    request = request_of(consortium, **values)
    state = FedAdam(0.05, MOMENTS).begin(trained)
    for found in (weights, weights | state):
        assert set(check_model(request, weights_io.to_bytes(found))) == set(found)


def test_a_node_refuses_weights_that_no_training_makes(tmp_path):
    """Finite, of the right shapes, and so large that rounding would decide."""
    consortium = Consortium.of(tmp_path, SITES, keyed=False)
    values, weights, _ = real_request()
    request = request_of(consortium, **values)
    with pytest.raises(Refused, match="far larger") as caught:
        check_model(
            request, weights_io.to_bytes({n: v * np.float32(1e3) for n, v in weights.items()})
        )
    assert caught.value.reason == "model"


HOSTILE = {
    "another name": lambda s: {**s, STATE + "third/" + next(iter(s)): np.zeros(2, np.float32)},
    "a frozen parameter's": lambda s: {**s, FIRST + "frozen": np.zeros(2, np.float32)},
    "one missing": lambda s: {n: v for n, v in s.items() if n != sorted(s)[0]},
    "another shape": lambda s: {n: v.reshape(-1, 1) for n, v in s.items()},
    "not finite": lambda s: {n: v * np.float32(np.nan) for n, v in s.items()},
    "a second moment below 0": lambda s: {
        n: -v if n.startswith(SECOND) else v for n, v in s.items()
    },
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_state_is_refused(tmp_path, what):
    """Names, shapes and values, before a digest is looked at or data is read."""
    consortium = Consortium.of(tmp_path, SITES, keyed=False)
    values, weights, trained = real_request()
    request = request_of(consortium, **values)
    state = HOSTILE[what](FedAdam(0.05, MOMENTS).begin(trained))
    with pytest.raises((Refused, OurMistake)):
        check_model(request, weights_io.to_bytes(weights | state))


def test_a_state_beside_fedavg_is_refused_and_so_is_a_parameter_that_hides_as_one(tmp_path):
    """FedAvg has none; and a model without a parameter is no model, wherever that is put."""
    consortium = Consortium.of(tmp_path, SITES, keyed=False)
    plain = {"server_step": "fedavg", "server_moments": None}
    values, weights, trained = real_request(**plain)
    state = FedAdam(0.05, MOMENTS).begin(trained)
    with pytest.raises(OurMistake, match="another step"):
        check_model(request_of(consortium, **values), weights_io.to_bytes(weights | state))
    name = next(iter(weights))
    hidden = {STATE + name if n == name else n: value for n, value in weights.items()}
    with pytest.raises(Refused, match="do not fit"):
        check_model(request_of(consortium, **values), weights_io.to_bytes(hidden))


# ---------------------------------------------------------------- the plan, in words


def config(**values):
    base = {"run": "spring", "preset": "tiny", "rounds": 2}
    privacy = {"sample_rate": 0.1, "noise_multiplier": 2.0, "clipping_norm": 1.0, "steps": 3}
    return RunConfig.from_dict({**base, "privacy": privacy, **values})


@pytest.mark.parametrize("mode", MODES)
def test_a_node_killed_at_any_write_of_a_round_takes_the_step_with_the_state(
    tmp_path, monkeypatch, undisturbed, mode
):
    """Killed once in each message of the round, at the message's first, second ... write: what the
    node kept of model and state is what it was sent, and its receipt names the next ones."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    folder, transport, nodes = three(tmp_path, rounds=3, **ADAM)
    real, fired = transport.nodes["beta"], []

    def handle(header, body):
        message = protocol_open.readable(header)
        for count in range(14):
            if message.get("round") != 2:
                break
            killer = Killer(count, mode)
            with monkeypatch.context() as patch:
                patch.setattr(client.outbox, "write_atomic", killer.write)
                try:
                    return real(header, body)
                except Killed:
                    fired.append(message["kind"])
        return real(header, body)

    transport.nodes["beta"] = handle
    record, _ = go(transport, folder)
    assert set(fired) >= {"train-request", "agree-request", "open-request", "verify-request"}
    wanted = [item.model_out for item in undisturbed[1].rounds]
    assert [item.model_out for item in record.rounds] == wanted
    assert set(folder.closing(2).receipts) == set(nodes)


def test_the_dashboards_words_name_the_moments():
    """beta1, beta2 and tau decide the model as the rate does."""
    words = config(**ADAM, server_moments={"beta1": 0.8, "beta2": 0.95, "tau": 0.01}).step_words
    assert words == "; server step fedadam, rate 0.05, beta1 0.8, beta2 0.95, tau 0.01"
    assert config().step_words == ""
    assert config(training={"trainable": "adapters"}).step_words == ", trains adapters"


def test_an_operators_run_names_a_step_and_may_leave_its_moments_to_the_paper():
    """beta1 0.9, beta2 0.99, tau 0.001; stored and read back the same."""
    found = config(**ADAM)
    assert found.moments == ServerMoments(0.9, 0.99, 1e-3)
    assert config(**ADAM, server_moments={"tau": 0.01}).moments.tau == 0.01
    assert RunConfig.from_dict(found.as_dict()) == found
    assert config().moments is None


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"server_step": "fedadam"}, "every trained parameter by about the learning rate"),
        ({"server_step": "fedyogi", "server_learning_rate": 0.5}, "between 0.001 and 0.03"),
        ({"server_moments": {"tau": 0.1}}, "fedavg has no server_moments"),
        ({**ADAM, "server_moments": {"tau": 2.0}}, "tau must be in"),
        ({"training": {"proximal_weight": -1.0}}, "proximal_weight must be in"),
        (
            {"training": {"optimiser": "sgd", "learning_rate": 0.1, "proximal_weight": 21.0}},
            "proximal_weight x learning_rate must be at most 1",
        ),
    ],
)
def test_a_run_that_would_ruin_the_model_is_refused_when_it_is_written(values, words):
    """Before hospitals are asked for anything."""
    with pytest.raises(OurMistake, match=words):
        config(**values)


@pytest.mark.parametrize("name", ["local_norms", "control_variates"])
def test_what_is_in_the_lab_only_is_refused_in_words(name):
    """Wherever an operator writes it."""
    for values in ({name: True}, {"training": {name: True}}):
        with pytest.raises(OurMistake) as caught:
            config(**values)
        assert "in the lab only" in caught.value.do


def test_the_approver_reads_what_the_server_and_the_steps_do(tmp_path):
    """FedAdam with its numbers, FedProx with its weight; FedAvg reads as before."""
    consortium = Consortium.of(tmp_path, SITES, keyed=False)

    class NoCost:
        after = float("inf")

    def words(**values):
        plan = consortium.request(**values)[0].plan
        return "\n".join(in_words(plan, NoCost(), code="c", weights={"alpha": 8}, booked=0))

    plain = words()
    assert "the model then moves by 1 x the mean (fedavg)." in plain
    assert "FedProx" not in plain
    new = words(
        version=4,
        server_step="fedyogi",
        server_learning_rate=0.02,
        server_moments=MOMENTS,
        training=LocalTraining(proximal_weight=0.25),
    )
    assert "moves by fedyogi, each trained parameter by about 0.02 a round" in new
    assert "beta1 0.9, beta2 0.99, tau 0.001" in new
    assert "FedProx, mu 0.25" in new
