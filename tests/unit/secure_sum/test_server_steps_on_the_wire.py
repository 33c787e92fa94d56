"""What a run says of its server step and of FedProx: in which version, how spelled, what bits."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import secure_sum_reference as reference
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import ValidationError
from sum_cases import vectors

from shared_model import canonical, protocol, protocol_open, server_step, signing
from shared_model import weights as weights_io
from shared_model.config import LocalTraining, PrivacyPlan, ServerMoments
from shared_model.distributed import refuse_unfit
from shared_model.errors import OurMistake, PeerFault
from shared_model.protocol import RunPlan, TrainRequest
from shared_model.protocol_sum import EpochRequest
from shared_model.secure_sum.transcript import configuration_digest, of_request

MOMENTS = ServerMoments(0.9, 0.99, 1e-3)
NEW = {"server_moments": MOMENTS.__dict__, "server_step": "fedadam", "server_learning_rate": 0.05}
WEIGHTS = {"alpha": 8, "beta": 3, "gamma": 1}
KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
PUBLIC = signing.public_bytes(KEY)


def request_of_three() -> TrainRequest:
    case = vectors("round_of_three")
    key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(case["run_private_key"]))
    header = bytes.fromhex(case["messages"]["train-request"])
    return protocol_open.open_train_request(header, signing.public_bytes(key))


def changed(request, **changes):
    return request.model_copy(update=changes)


def plain() -> dict:
    return json.loads(protocol.encode(request_of_three()))


def read(**changes) -> TrainRequest:
    return TrainRequest.model_validate_json(canonical.encode({**plain(), **changes}))


def training(**changes) -> dict:
    return {**plain()["training"], **changes}


def plan(**changes) -> RunPlan:
    return RunPlan.model_validate_json(
        canonical.encode({**request_of_three().plan.model_dump(mode="json"), **changes})
    )


def test_a_run_that_uses_nothing_new_is_written_as_in_version_3():
    """Neither field is there, in the request, the plan or a digest."""
    case = vectors("round_of_three")
    header = bytes.fromhex(case["messages"]["train-request"])
    assert protocol.encode(request_of_three()) == header[protocol.SIGNATURE_BYTES :]
    assert plain()["version"] == 3
    assert "server_moments" not in plain()
    assert "proximal_weight" not in plain()["training"]
    assert set(request_of_three().plan.model_dump(mode="json")) == set(RunPlan.model_fields) - {
        "server_moments"
    }


@pytest.mark.parametrize(
    "new", [NEW, {"training": training(proximal_weight=0.5)}], ids=["moments", "proximal"]
)
def test_what_is_new_is_said_in_version_4_and_only_there(new):
    """A node that knows version 3 alone is told a number, not that the message is illegal."""
    found = read(version=4, **new)
    assert TrainRequest.model_validate_json(protocol.encode(found)) == found
    assert found.plan.lowest_version == 4
    with pytest.raises(ValidationError, match="lowest version"):
        read(version=3, **new)
    with pytest.raises(ValidationError, match="lowest version"):
        read(version=4)
    asked = {"epoch": 7, "roster_digest": "ab" * 32, "body_digest": "ab" * 32, "software": "x"}
    assert EpochRequest(version=4, plan=found.plan, **asked).plan == found.plan
    with pytest.raises(ValidationError, match="lowest version"):
        EpochRequest(plan=found.plan, **asked)
    assert found.plan.digest != request_of_three().plan.digest


@pytest.mark.parametrize(
    "spelled",
    [{"server_moments": None}, {"training": training(proximal_weight=0.0)}],
    ids=["moments", "proximal"],
)
def test_nothing_is_spelled_in_one_way_only(spelled):
    """A field that says "none" is not canonical: two spellings would be two digests."""
    data = canonical.encode({**plain(), **spelled})
    signed = signing.sign(KEY, "train-request", data) + data
    with pytest.raises(PeerFault, match="canonical"):
        protocol_open.open_signed(signed, PUBLIC, TrainRequest, site="coordinator")


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"server_moments": MOMENTS.__dict__}, "FedAvg has none"),
        ({"server_step": "fedadam", "server_learning_rate": 0.05}, "have beta1, beta2 and tau"),
        ({**NEW, "server_learning_rate": 0.2}, r"0\.2 is not in \(0, 0\.1\]"),
        ({**NEW, "server_step": "fedsgd"}, "'fedavg', 'fedadam' or 'fedyogi'"),
        ({"bookings": 1}, "every round is booked"),
    ],
    ids=["fedavg with moments", "no moments", "too fast", "unknown", "bookings"],
)
def test_a_step_that_cannot_be_taken_is_no_legal_request_or_plan(wrong, words):
    """So that no hospital approves, or trains for, a sum that it could not verify."""
    with pytest.raises(ValidationError, match=words):
        read(version=4, **wrong)
    with pytest.raises(ValidationError, match=words):
        plan(**wrong)


def test_the_configuration_is_digested_as_the_wire_page_says():
    """With the moments under their name, and the proximal weight in the training."""
    request = changed(request_of_three(), **(NEW | {"server_moments": MOMENTS}))
    held = dataclasses.replace(request.training, proximal_weight=0.5)
    request = changed(request, training=held)
    names = ("purpose", "preset", "config_digest", "minimum_contributors", "server_step")
    names += ("server_learning_rate", "rounds", "bookings", "code_digest")
    wanted = {name: getattr(request, name) for name in names}
    wanted |= {"aggregation": request.sum.aggregation, "privacy": plain()["privacy"]}
    wanted["training"] = {**plain()["training"], "proximal_weight": 0.5}
    wanted["server_moments"] = {"beta1": 0.9, "beta2": 0.99, "tau": 0.001}
    assert configuration_digest(request) == reference.sha256(canonical.encode(wanted)).hex()


def test_moments_and_proximal_weight_are_in_the_transcript():
    """Each number of them: sites that are told different ones have different seeds."""
    request = request_of_three()
    adam = changed(
        request, server_step="fedadam", server_learning_rate=0.05, server_moments=MOMENTS
    )
    others = [request, adam, changed(adam, server_step="fedyogi")]
    for name in ("beta1", "beta2", "tau"):
        others.append(changed(adam, server_moments=dataclasses.replace(MOMENTS, **{name: 0.5})))
    for weight in (0.5, 0.25):
        held = dataclasses.replace(request.training, proximal_weight=weight)
        others.append(changed(request, training=held))
    assert len({configuration_digest(found) for found in others}) == len(others)
    assert len({of_request(found, WEIGHTS).digest for found in others}) == len(others)


def test_in_mode_distributed_adam_takes_the_one_step_of_the_round():
    """Its rate is the training's times the server's, so that the server's may be 1."""
    shared = PrivacyPlan(0.1, 1.5, 1.0, 1, "distributed").as_dict()
    sgd = LocalTraining(optimiser="sgd", learning_rate=0.01).as_dict()
    found = plan(**{**NEW, "server_learning_rate": 1.0}, privacy=shared, training=sgd)
    assert found.step.learning_rate == 0.01
    with pytest.raises(OurMistake, match="proximal weight"):
        refuse_unfit(LocalTraining(optimiser="sgd", proximal_weight=0.1))


@pytest.mark.parametrize("name", ["fedadam", "fedyogi"])
def test_the_model_and_its_digest_are_those_of_the_second_implementation(name):
    """Two rounds, the second from the state of the first, to the bit."""
    request = changed(
        request_of_three(), server_step=name, server_learning_rate=0.05, server_moments=MOMENTS
    )
    script = of_request(request, WEIGHTS)
    numbers, survivors = script.numbers, script.participants
    rng = np.random.default_rng(8)
    start = rng.standard_normal(numbers.dimension).astype(np.float32)
    after = {"frozen": np.array([1.0, 2.0], np.float32), "trained": start}
    first = weights_io.digest(after)
    told, moments = start.tolist(), None
    for _ in range(2):
        total = rng.integers(0, 2**numbers.modulus_bits, numbers.padded, dtype=np.uint32)
        after = server_step.model_after(request, script, survivors, total, after, ["trained"])
        mean = reference.mean_update(
            total.tolist(), numbers.as_dict(), script.rotation_seed, script.divisor(survivors)
        )
        told, moments = reference.adaptive_step(
            name, told, moments, mean, 0.05, MOMENTS.beta1, MOMENTS.beta2, MOMENTS.tau
        )
        assert after["trained"].tolist() == told
        assert after["server-step/first/trained"].tolist() == moments[0]
        assert after["server-step/second/trained"].tolist() == moments[1]
    shape = (numbers.dimension,)
    model = reference.weights_digest({"frozen": ((2,), [1.0, 2.0]), "trained": (shape, told)})
    state = reference.weights_digest(
        {
            "server-step/first/trained": (shape, moments[0]),
            "server-step/second/trained": (shape, moments[1]),
        }
    )
    assert weights_io.digest(after) == reference.joined_digest(model, state)
    assert weights_io.digest(weights_io.parts(after)[0]) == model
    assert first != model


def test_a_state_of_another_step_makes_no_model():
    """FedAvg has none; what a coordinator puts beside the model is not passed over."""
    request = request_of_three()
    script = of_request(request, WEIGHTS)
    size = script.numbers.dimension
    before = {
        "trained": np.zeros(size, np.float32),
        "server-step/first/trained": np.zeros(size, np.float32),
    }
    total = np.zeros(script.numbers.padded, np.uint32)
    with pytest.raises(OurMistake, match="another step"):
        server_step.model_after(request, script, script.participants, total, before, ["trained"])
