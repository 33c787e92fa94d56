"""The server step: from the published sum of a round to the next model. Pure.

The coordinator takes it, every survivor takes it again before it signs a receipt, and so does an
auditor: the digest of the model after the round is in every `SumReceipt`.

Every machine gets the same bits. The sum is made of whole numbers; undoing the rotation adds and
subtracts whole numbers below 2^31 x 4096 = 2^43, which float64 holds exactly, so that neither the
order of the additions nor the number of BLAS threads can show. What remains are single IEEE 754
operations on each element (one product for the mean, those of `shared_model.server_optimisers` for
the step, those of `shared_model.adapters.merged` where adapters are trained), rounded to float64
each, and a rounding to float32 at the end of each. A square root in the
scale is correctly rounded as well. So it is in mode distributed, whose sums are below 2^31 too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from shared_model import adapters
from shared_model import weights as weights_io
from shared_model.errors import Refused
from shared_model.protocol import TrainRequest
from shared_model.secure_sum.numbers import mean_of, unflatten
from shared_model.secure_sum.primitives import Words
from shared_model.secure_sum.transcript import Transcript
from shared_model.server_optimisers import (
    FedAdam,
    FedAvg,
    FedYogi,
    ServerStep,
)
from shared_model.weights import Weights

__all__ = [
    "FedAdam",
    "FedAvg",
    "FedYogi",
    "ServerStep",
    "mean_update",
    "model_after",
    "step_of",
    "trained_names",
]


def step_of(request: TrainRequest) -> ServerStep:
    """The step that a signed request names; its fields are in the transcript."""
    return request.plan.step


def mean_update(
    summed: Words,
    transcript: Transcript,
    survivors: Iterable[str],
    trained: Mapping[str, np.ndarray],
) -> Weights:
    """Mean of the survivors' updates, weighted by their public weights; name -> float64 array.

    In mode distributed: minus the noisy mean gradient of a step over all survivors' patients.

    Args:
        summed: uint32 (padded,), the sum modulo 2^m over the survivors.
        trained: gives names and shapes.

    Raises:
        OurMistake: the sum is not of so many elements.
    """
    divisor = transcript.divisor(survivors)
    flat = mean_of(summed, transcript.numbers, transcript.rotation_seed, divisor)  # (d,)
    return unflatten(flat, trained)


def model_after(
    request: TrainRequest,
    transcript: Transcript,
    survivors: Iterable[str],
    summed: Words,
    before: Weights,
    trained: Iterable[str],
) -> Weights:
    """The model after a round, from what was signed about it, the model before and the sum.

    The server step's state, if it has one, is in both under its reserved names.

    Args:
        transcript: of the request.
        summed: uint32 (padded,), the published sum modulo 2^m over the survivors.
        before: the full model that the request names, with the state.
        trained: names of the parameters that the round trains.

    Raises:
        OurMistake: the model lacks a trained parameter, the sum does not fit them, or the state is
            of another step.
    """
    model, state = weights_io.parts(before)
    like = adapters.trained_part(model, sorted(trained))
    mean = mean_update(summed, transcript, survivors, like)
    moved, after = step_of(request).apply(model | like, mean, state)
    return adapters.merged(moved) | after


def trained_names(request: TrainRequest) -> tuple[str, ...]:
    """Names of the parameters that a signed request trains.

    Raises:
        Refused: this version has no such model (reason "model").
    """
    from shared_model import mae

    config = mae.PRESETS.get(request.preset)
    if config is None or config.digest != request.config_digest:
        raise Refused("The request is of a model that this version does not know.", reason="model")
    return mae.trainable_names(mae.build(config, 0), request.training.trainable)
