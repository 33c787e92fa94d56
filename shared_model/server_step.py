"""The server step: from the published sum of a round to the next model. Pure.

The coordinator takes it, every survivor takes it again before it signs a receipt, and so does an
auditor: the digest of the model after the round is in every `SumReceipt`.

Every machine gets the same bits. The sum is made of whole numbers; undoing the rotation adds and
subtracts whole numbers below 2^31 x 4096 = 2^43, which float64 holds exactly, so that neither the
order of the additions nor the number of BLAS threads can show. What remains are single IEEE 754
operations on each element (one product for the mean, one product and one addition for the step),
rounded to float64 each, and one rounding to float32 at the end. A square root in the scale is
correctly rounded as well. So it is in mode distributed, whose sums are below 2^31 too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from shared_model.errors import OurMistake, Refused
from shared_model.protocol import TrainRequest
from shared_model.secure_sum.numbers import mean_of, unflatten
from shared_model.secure_sum.primitives import Words
from shared_model.secure_sum.transcript import Transcript
from shared_model.weights import Weights


class ServerStep(Protocol):
    """What is done with the mean update."""

    def apply(self, weights: Weights, mean: Mapping[str, np.ndarray]) -> Weights:
        """New full weights; parameters that `mean` lacks are returned as they were."""


@dataclass(frozen=True)
class FedAvg:
    """`w + learning_rate x mean update` (McMahan et al. 2017 with a server learning rate).

    Computed in float64, rounded to float32 once.
    """

    learning_rate: float = 1.0

    def apply(self, weights: Weights, mean: Mapping[str, np.ndarray]) -> Weights:
        """See `ServerStep.apply`.

        Raises:
            OurMistake: the mean has a parameter that the model lacks, or of another shape.
        """
        after = dict(weights)
        for name, value in mean.items():
            before = weights.get(name)
            if before is None or before.shape != value.shape:
                raise OurMistake("The mean update does not fit the model.")
            stepped = before.astype(np.float64) + self.learning_rate * value
            after[name] = stepped.astype(np.float32)
        return after


def step_of(request: TrainRequest) -> ServerStep:
    """The step that a signed request names; its fields are in the transcript.

    In mode distributed it is the only step of the round: plain SGD, its rate the product of the
    training's learning rate and the server's, as when one hospital takes a step by itself.
    """
    rate = request.server_learning_rate
    if request.privacy.mode == "distributed":
        rate *= request.training.learning_rate
    match request.server_step:
        case "fedavg":
            return FedAvg(rate)


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

    Args:
        transcript: of the request.
        summed: uint32 (padded,), the published sum modulo 2^m over the survivors.
        before: the full model that the request names.
        trained: names of the parameters that the round trains.

    Raises:
        OurMistake: the model lacks a trained parameter, or the sum does not fit them.
    """
    names = sorted(trained)
    if not set(names) <= set(before):
        raise OurMistake("A trained parameter is not in the model.")
    like = {name: before[name] for name in names}
    mean = mean_update(summed, transcript, survivors, like)
    return step_of(request).apply(before, mean)


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
