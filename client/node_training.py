"""What a deployed node does with the model: whether this machine can train it, whether what was
sent fits, and the training of a round."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np

from client.home import NodeHome
from client.progress import step_writer
from shared_model import weights as weights_io
from shared_model.config import Trainable
from shared_model.errors import Refused
from shared_model.noise import NoiseSource
from shared_model.protocol import TrainRequest
from shared_model.weights import Weights

if TYPE_CHECKING:
    from client.steps import StepKeeper
    from client.training import PatientBatches


def able(request: TrainRequest, weights: Weights, *, declared_patients: int, gpus: int) -> None:
    """This machine can train such a round.

    Args:
        weights: the model's own, checked.

    Raises:
        Refused: it cannot ("not-ready").
    """
    from client.kernels import check_kernels
    from client.replicas import devices_of
    from client.training import chunk_of

    chunk = chunk_of(request.privacy, declared_patients)
    devices = devices_of(gpus)
    check_kernels(request.preset, request.training, chunk, devices, weights)


def check_model(request: TrainRequest, body: bytes) -> Weights:
    """The weights in a request's body, if they fit the preset that it names and are no larger than
    training makes them (`shared_model.weight_bounds`).

    Beside the model there may be the state of the server step that the request names, of exactly
    the trained parameters, and nothing else.

    Raises:
        Refused: unknown preset, another configuration, weights or a state that do not fit
            ("model").
    """
    from shared_model import adapters, mae
    from shared_model.server_optimisers import check_state
    from shared_model.weight_bounds import check_bounds

    config = mae.PRESETS.get(request.preset)
    if config is None or config.digest != request.config_digest:
        raise Refused(
            "The request names a model that this version does not have.",
            reason="model",
            do="Install the version of fedprint that the coordinator runs.",
        )
    weights = weights_io.from_bytes(body)
    own, state = weights_io.parts(weights)
    model = mae.build(config, 0)
    wanted = mae.weights_of(model)
    if {name: value.shape for name, value in own.items()} != {
        name: value.shape for name, value in wanted.items()
    }:
        raise Refused("The weights do not fit this model.", reason="model")
    trained = mae.trainable_names(model, request.training.trainable)
    check_state(request.plan.step, adapters.trained_part(wanted, trained), state)
    if not all(bool(np.isfinite(value).all()) for value in state.values()):
        raise Refused("The weights are not finite.", reason="model")
    check_bounds(own)
    return weights


@functools.cache
def trainable_size(preset: str, trainable: Trainable) -> int:
    """Number of parameters that a preset trains."""
    from shared_model import mae

    return mae.parameter_counts(mae.build(mae.PRESETS[preset], 0))[trainable]


def dimension(request: TrainRequest, weights: Weights) -> int:
    """Number of parameters that the request trains; its preset was checked."""
    return trainable_size(request.preset, request.training.trainable)


def train(
    home: NodeHome,
    request: TrainRequest,
    weights: Weights,
    data: PatientBatches,
    noise: NoiseSource,
    declared_patients: int,
    steps: StepKeeper,
    *,
    gpus: int = 0,
) -> Weights:
    """Private training of the round from these weights; the update of the trainable names.

    In mode distributed: minus the clipped sum, float64, to which the noise is added as integers;
    it is one step, and nothing of it is kept: it is not private.
    """
    from client.replicas import devices_of
    from client.training import clipped_step, train_round
    from shared_model import mae

    devices = devices_of(gpus)
    model = mae.build(mae.PRESETS[request.preset], 0)
    mae.load_weights(model, weights)
    plan, training = request.privacy, request.training
    on_step = step_writer(home, request.run, request.round)
    on_step(0, plan.steps)
    if plan.mode == "distributed":
        return clipped_step(model, data, plan, training, declared_patients, noise, devices)
    done = train_round(
        model, data, plan, training, declared_patients, noise, on_step, steps, devices=devices
    )
    return done.update
