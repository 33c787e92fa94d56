"""What a run says that it trains: in which version, bound by what, and the model that it makes."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import ValidationError
from sum_cases import vectors

from shared_model import adapters, canonical, mae, protocol, protocol_open, server_step, signing
from shared_model import weights as weights_io
from shared_model.config import LocalTraining, ServerMoments
from shared_model.errors import OurMistake, PeerFault
from shared_model.protocol import TrainRequest
from shared_model.secure_sum.numbers import Numbers
from shared_model.secure_sum.transcript import of_request

NEW = ("norms", "bottleneck", "adapters")
WEIGHTS = {"alpha": 8, "beta": 3, "gamma": 1}
MOMENTS = ServerMoments()
ADAM = {"server_step": "fedadam", "server_learning_rate": 0.05, "server_moments": MOMENTS}


def request_of_three() -> TrainRequest:
    case = vectors("round_of_three")
    key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(case["run_private_key"]))
    header = bytes.fromhex(case["messages"]["train-request"])
    return protocol_open.open_train_request(header, signing.public_bytes(key))


def plain() -> dict:
    return json.loads(protocol.encode(request_of_three()))


def read(trainable: str, **changes) -> TrainRequest:
    training = {**plain()["training"], "trainable": trainable}
    return TrainRequest.model_validate_json(
        canonical.encode({**plain(), "training": training, **changes})
    )


@pytest.mark.parametrize("trainable", NEW)
def test_what_is_new_is_version_5_and_what_is_old_is_not(trainable):
    """A node that knows 4 alone is told a number; the head stays the bytes of version 3."""
    found = read(trainable, version=5)
    assert TrainRequest.model_validate_json(protocol.encode(found)) == found
    assert found.plan.lowest_version == 5
    for version in (3, 4):
        with pytest.raises(ValidationError, match="lowest version"):
            read(trainable, version=version)
    with pytest.raises(ValidationError, match="lowest version"):
        read("head", version=5)
    assert read("all", version=3).plan.lowest_version == 3


def test_a_server_step_of_version_4_and_adapters_are_version_5():
    """The lowest version that has everything."""
    moments = {**ADAM, "server_moments": MOMENTS.as_dict()}
    assert read("adapters", version=5, **moments).plan.lowest_version == 5
    assert read("head", version=4, **moments).plan.lowest_version == 4


def test_plan_and_transcript_bind_what_is_trained():
    """Each choice has its own digests: no hospital trains another than it approved."""
    requests = [read(which, version=5) for which in NEW] + [request_of_three()]
    assert len({one.plan.digest for one in requests}) == 4
    assert len({of_request(one, WEIGHTS).digest for one in requests}) == 4


def test_what_is_not_known_is_neither_a_message_nor_a_configuration():
    """Not quietly the head."""
    with pytest.raises(ValidationError, match="'head', 'all'"):
        read("tail", version=5)
    with pytest.raises(OurMistake, match="trainable"):
        LocalTraining(trainable="tail")
    data = canonical.encode({**plain(), "training": {**plain()["training"], "trainable": "tail"}})
    key = Ed25519PrivateKey.from_private_bytes(bytes(32))
    signed = signing.sign(key, "train-request", data) + data
    with pytest.raises(PeerFault):
        protocol_open.open_signed(
            signed, signing.public_bytes(key), TrainRequest, site="coordinator"
        )


@pytest.fixture(scope="module")
def start() -> weights_io.Weights:
    return mae.weights_of(mae.build(mae.PRESETS["tiny"], 0))


def of_tiny(names_of: str, start, **changes) -> tuple[TrainRequest, tuple[str, ...]]:
    """The request of three for the real `tiny`, and the names that it trains."""
    config = mae.PRESETS["tiny"]
    asked = request_of_three()
    training = dataclasses.replace(asked.training, trainable=names_of)
    names = mae.trainable_names(mae.build(config, 0), names_of)
    size = sum(value.size for value in adapters.trained_part(start, names).values())
    numbers = Numbers.of(size, sum(WEIGHTS.values()), 1.0, 20)
    sums = asked.sum.model_copy(
        update={
            "dimension": size, "bits": 20,
            "modulus_bits": numbers.modulus_bits, "norm_bound": numbers.norm_bound,
        }
    )  # fmt: skip
    update = {"preset": "tiny", "config_digest": config.digest, "training": training, "sum": sums}
    request = asked.model_copy(update={**update, **changes, "version": 5})
    assert server_step.trained_names(request) == names
    return request, names


@pytest.mark.parametrize("changes", [{}, ADAM], ids=["fedavg", "fedadam"])
def test_every_survivor_and_auditor_makes_the_same_plain_model_of_adapters(start, changes):
    """`model_after` moves B from zero by the step and takes it into the layers; nothing else."""
    request, names = of_tiny("adapters", start, **changes)
    script = of_request(request, WEIGHTS)
    rng = np.random.default_rng(5)
    total = rng.integers(0, 2**16, script.numbers.padded, dtype=np.uint32)
    first = server_step.model_after(request, script, WEIGHTS, total, start, names)
    model, state = weights_io.parts(first)
    assert {name: value.shape for name, value in model.items()} == {
        name: value.shape for name, value in start.items()
    }
    assert bool(state) == bool(changes)
    part = adapters.trained_part(start, names)
    mean = server_step.mean_update(total, script, WEIGHTS, part)
    moved, _ = request.plan.step.apply(dict(part), mean, {})
    assert weights_io.digest(model) == weights_io.digest(adapters.merged(start | moved))
    again = server_step.model_after(request, script, WEIGHTS, total, first, names)
    plain_again, _ = weights_io.parts(again)
    for name, value in plain_again.items():
        changed = not np.array_equal(value, model[name])
        assert changed == (name.removesuffix(".weight") + adapters.ADAPTER in names)
    with pytest.raises(OurMistake):
        server_step.model_after(request, script, WEIGHTS, total, start, ["gone" + adapters.ADAPTER])
