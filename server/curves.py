"""What a curve over rounds can honestly show: how far the model moved, beside noise alone.

Hospitals send no loss: it would be an un-noised answer about their patients. Everything here is
computed from what is published anyway: models, signed requests, declared numbers. Pure.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence

import numpy as np

from shared_model import adapters, distributed
from shared_model.errors import OurMistake
from shared_model.protocol import TrainRequest
from shared_model.weights import Weights

COORDINATES = 4096
"""Adam is followed on so many coordinates: its length is right to about 2 %."""


def moved(before: Weights, after: Weights, trained: Sequence[str]) -> float:
    """L2 distance between two models over the trained parameters; where adapters are trained, over
    the layers that they were merged into.

    Raises:
        OurMistake: a model lacks one.
    """
    changes = adapters.moved_part(before, after, trained)
    return math.sqrt(sum(float(np.square(change).sum()) for change in changes.values()))


def noise_alone(
    request: TrainRequest, survivors: Sequence[str], weights: Mapping[str, int]
) -> float:
    """L2 norm that the model's move of a round would have if no patient had any effect.

    Mode local: every survivor's update is noise of std sigma C / (q N) a step, through the steps of
    its optimiser, no longer than the signed norm bound; the mean is weighted by the roster's
    weights. Mode distributed: the survivors' shares of the noise, over the divisor of the step.
    Expected to within the spread of a norm of d coordinates, about 1 / sqrt(2 d).

    Args:
        weights: of the roster, by site.

    Raises:
        OurMistake: numbers of a request that make no mechanism; or FedProx, FedAdam or FedYogi,
            under which the move depends on the rounds before.
    """
    if not survivors:
        return 0.0
    if request.server_moments is not None or request.training.proximal_weight:
        raise OurMistake("Noise alone has no expected length under this training or server step.")
    if request.privacy.mode == "distributed":
        return _shared(request, survivors)
    dimension = request.sum.dimension
    declared = {one.site: one.declared_patients for one in request.participants}
    longest = request.sum.norm_bound / math.sqrt(dimension)
    stds = {site: min(_local_std(request, declared[site]), longest) for site in survivors}
    total = sum(weights[site] for site in survivors)
    std = math.sqrt(sum((weights[site] * stds[site]) ** 2 for site in survivors)) / total
    return request.server_learning_rate * std * math.sqrt(dimension)


def _local_std(request: TrainRequest, declared: int) -> float:
    """Standard deviation of a coordinate of one hospital's update, of noise alone."""
    plan, training = request.privacy, request.training
    if training.optimiser == "adam":
        return training.learning_rate * adam_walk(plan.steps)
    step = plan.noise_multiplier * plan.clipping_norm / (plan.sample_rate * declared)
    return training.learning_rate * math.sqrt(plan.steps) * step


def _shared(request: TrainRequest, survivors: Sequence[str]) -> float:
    plan, dimension = request.privacy, request.sum.dimension
    variance = distributed.share_variance(
        plan, dimension=dimension, threshold=request.sum.threshold
    )
    step = plan.clipping_norm / (1 << distributed.resolution_bits(dimension))
    declared = {one.site: one.declared_patients for one in request.participants}
    divisor = plan.sample_rate * sum(declared[site] for site in survivors)
    std = math.sqrt(len(survivors) * variance) * step / divisor
    rate = request.training.learning_rate * request.server_learning_rate
    return rate * std * math.sqrt(dimension)


@functools.cache
def adam_walk(steps: int) -> float:
    """How far Adam (0.9, 0.99) walks on independent noise: RMS of a coordinate after so many steps
    over the learning rate. Its steps do not depend on the noise's size."""
    rng = np.random.default_rng(0)
    place, mean, square = np.zeros(COORDINATES), np.zeros(COORDINATES), np.zeros(COORDINATES)
    for count in range(1, steps + 1):
        gradient = rng.standard_normal(COORDINATES)
        mean += 0.1 * (gradient - mean)
        square += 0.01 * (np.square(gradient) - square)
        root = np.sqrt(square / (1.0 - 0.99**count))
        place += mean / (1.0 - 0.9**count) / root
    return float(np.sqrt(np.square(place).mean()))
