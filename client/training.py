"""One round of private training at a hospital: sample patients, clip, add noise, step.

What `train_round` returns is private and nothing else is: no loss, count or run time of a step is
measured, kept or returned. Where an exception would be an answer about the data (no patients, more
patients than declared, a non-finite gradient) there is none. What `clipped_step` returns, in mode
distributed, is **not** private yet: `shared_model.distributed.share` adds its noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from client.local_state import LocalState, correction, kept_after
from client.replicas import Replicas
from client.steps import StepKeeper, StepState
from shared_model import adapters, losses, mae, patches, privacy
from shared_model.config import LocalTraining, PrivacyPlan
from shared_model.errors import OurMistake
from shared_model.noise import NoiseSource
from shared_model.weights import Weights

_LARGEST_CHUNK = 16
"""Patients whose gradients are held at once, at most."""


class PatientBatches(Protocol):
    """The data of a hospital, as training sees it: patients by number, windows drawn at random."""

    @property
    def patient_count(self) -> int:
        """Patients in the store."""

    def segments(
        self, patients: np.ndarray, segments: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """`segments` windows of each patient.

        Returns:
            signal float32 (patient, segment, channel=2, sample=1250),
            valid bool (patient, segment, channel=2, token=50).
        """


@dataclass(frozen=True)
class TrainingOutcome:
    """`update`: local weights minus received weights, trainable names only; private.

    local: what the site keeps for its next round; private too, and never sent. {} if nothing.
    """

    update: Weights = field(repr=False)
    steps: int
    noise_name: str
    local: Weights = field(default_factory=dict, repr=False)


class _Unit(nn.Module):
    """The loss of one patient as a module, so that its parameters can be swapped by name."""

    def __init__(self, model: mae.MaskedAutoencoder, training: LocalTraining) -> None:
        super().__init__()
        self.model = model
        self.training_config = training

    def forward(self, unit: Tensor, valid: Tensor, hidden: Tensor) -> Tensor:
        return losses.unit_loss(self.model, unit, valid, hidden, self.training_config)


_PREFIX = "model."


class _Optimiser:
    """Plain SGD, or Adam, on gradients that already carry their noise: post-processing.

    SGD keeps an update a weighted sum of noised means. Adam (1412.6980; beta 0.9, 0.99, no decay)
    divides by the running size of the noised gradient, so that one public learning rate fits any
    noise multiplier. Its state lives for one round.
    """

    def __init__(self, training: LocalTraining, size: int) -> None:
        self._rate = training.learning_rate
        self._adam = training.optimiser == "adam"
        self._mean = np.zeros(size)
        self._square = np.zeros(size)
        self._count = 0

    def moments(self) -> Weights:
        """What it carries from step to step, float64 (d,) each."""
        return {"mean": self._mean.copy(), "square": self._square.copy()} if self._adam else {}

    def go_to(self, step: int, moments: Weights) -> None:
        """Go on after this step with what was carried then.

        Raises:
            OurMistake: it does not fit.
        """
        if {name: (value.dtype, value.shape) for name, value in moments.items()} != {
            name: (value.dtype, value.shape) for name, value in self.moments().items()
        }:
            raise OurMistake("The kept state is of another optimiser.")
        if moments:
            self._mean, self._square = moments["mean"].copy(), moments["square"].copy()
            self._count = step

    def step(self, gradient: np.ndarray) -> np.ndarray:
        """What to add to the flat weights, float32 (d,)."""
        if not self._adam:
            return np.asarray(-self._rate * gradient, dtype=np.float32)
        self._count += 1
        self._mean += 0.1 * (gradient - self._mean)
        self._square += 0.01 * (np.square(gradient, dtype=np.float64) - self._square)
        mean = self._mean / (1.0 - 0.9**self._count)
        square = self._square / (1.0 - 0.99**self._count)
        return np.asarray(-self._rate * mean / (np.sqrt(square) + 1e-12), dtype=np.float32)


def train_round(
    model: mae.MaskedAutoencoder,
    data: PatientBatches,
    plan: PrivacyPlan,
    training: LocalTraining,
    declared_patients: int,
    noise: NoiseSource,
    on_step: Callable[[int, int], None] | None = None,
    steps: StepKeeper | None = None,
    local: LocalState | None = None,
    devices: Sequence[torch.device] = (),
) -> TrainingOutcome:
    """`plan.steps` private steps from the model's weights; the model itself is left as it was.

    Guarantee: the update is the composition of `plan.steps` Poisson-subsampled Gaussian mechanisms
    (rate q, noise multiplier sigma) over the patients in `data`; unit one patient with all
    recordings, adjacency add or remove. The caller books that cost *before* calling.

    Edges:
        a patient gives K segments under A patch masks, averaged before clipping: one clip;
        no patient sampled, or none in the store: the step is noise alone, and is taken;
        the number of patients in the store differs from the declared one: nothing changes but the
        size of the mean, which is divided by q x declared; refusing would tell;
        a patient whose gradient is not finite contributes zero;
        with a noise source that is not private there is no guarantee at all.

    Args:
        model: holds the received weights.
        declared_patients: N of the roster, public.
        on_step: told (step, steps) after every step, for a progress bar on this machine.
        steps: keeps the state after every step, before `on_step` hears of it; training goes on
            from the last one kept. What it holds is private: noised weights and functions of them.
        local: what the site has kept, in the lab; see `client.local_state`. What it adds to a
            noised gradient, and `LocalTraining.proximal_weight`, is post-processing.
        devices: where gradients are taken, see `client.replicas`; by default where the model is.

    Raises:
        OurMistake: the model has layers that couple patients, N < 1, the kept state is of
            another model or noise, or what the site has kept does not fit.
    """
    unit, received = prepared(model, training)
    norms = mae.norm_names(model) if local is not None and local.norms else frozenset[str]()
    if local is not None:
        own = local.own_norms(_plain(received), norms)
        for name, value in own.items():
            received[_PREFIX + name].copy_(torch.from_numpy(value))
    start = {name: value.copy() for name, value in _plain(received).items()}
    sent = [name for name in start if name not in norms]
    corrected = correction(training, start, sent, local)
    weights = {name: value.clone() for name, value in received.items()}
    optimiser = _Optimiser(training, sum(value.numel() for value in weights.values()))
    kept = None if steps is None else steps.last
    if kept is not None:
        _fill(weights, kept.weights)
        optimiser.go_to(kept.step, kept.moments)
        noise.go_to(kept.noise)
    rng = noise.public_generator()
    chunk = chunk_of(plan, declared_patients)
    copies = Replicas(unit, weights, devices) if devices else None
    for step in range(0 if kept is None else kept.step, plan.steps):
        sampled = noise.poisson_sample(data.patient_count, plan.sample_rate)
        total = _sum_of_patients(unit, weights, data, sampled, plan, training, rng, chunk, copies)
        mean = privacy.noisy_mean(total, plan, declared_patients, noise)
        change_of = optimiser.step(corrected(mean, _plain(weights)))
        for name, change in privacy.split(change_of, weights).items():
            weights[name] += torch.from_numpy(change).to(weights[name].device)
        if steps is not None:
            now = {name: value.copy() for name, value in _plain(weights).items()}
            moments = optimiser.moments()
            steps.keep(StepState(step + 1, now, moments, noise.place()))
        if on_step is not None:
            on_step(step + 1, plan.steps)
    end = _plain(weights)
    update = {name: end[name] - start[name] for name in sent}
    kept_now = kept_after(training, plan.steps, start, end, sent, local)
    return TrainingOutcome(update, plan.steps, noise.name, kept_now)


def clipped_step(
    model: mae.MaskedAutoencoder,
    data: PatientBatches,
    plan: PrivacyPlan,
    training: LocalTraining,
    declared_patients: int,
    noise: NoiseSource,
    devices: Sequence[torch.device] = (),
) -> Weights:
    """Minus the sum of the clipped gradients of one Poisson sample; float64, by trainable name.

    NOT PRIVATE: no noise is in it yet. L2 sensitivity and edges as of `train_round`.

    Raises:
        OurMistake: as `train_round`.
    """
    unit, received = prepared(model, training)
    rng = noise.public_generator()
    sampled = noise.poisson_sample(data.patient_count, plan.sample_rate)
    chunk = chunk_of(plan, declared_patients)
    copies = Replicas(unit, received, devices) if devices else None
    total = _sum_of_patients(unit, received, data, sampled, plan, training, rng, chunk, copies)
    return {
        name.removeprefix(_PREFIX): value for name, value in privacy.split(-total, received).items()
    }


def prepared(
    model: mae.MaskedAutoencoder, training: LocalTraining
) -> tuple[_Unit, dict[str, Tensor]]:
    """The loss as a module, and copies of the trainable weights by their names in it."""
    names = mae.trainable_names(model, training.trainable)
    if training.trainable == "adapters":
        model = adapters.attached(model)
    unit = _Unit(model, training)
    privacy.refuse_coupling(unit)
    received = {
        _PREFIX + name: value.detach().clone()
        for name, value in model.named_parameters()
        if name in set(names)
    }
    if len(received) != len(names) or not names:
        raise OurMistake("The trainable names are not parameters of this model.")
    return unit, received


def _plain(weights: Mapping[str, Tensor]) -> Weights:
    """As arrays, by the names in the model: the same memory, but for weights on a GPU."""
    return {name.removeprefix(_PREFIX): value.cpu().numpy() for name, value in weights.items()}


def _fill(weights: dict[str, Tensor], kept: Weights) -> None:
    """Put the kept weights in the place of the received ones.

    Raises:
        OurMistake: other names or shapes.
    """
    shapes = {name.removeprefix(_PREFIX): tuple(value.shape) for name, value in weights.items()}
    if shapes != {name: value.shape for name, value in kept.items()}:
        raise OurMistake("The kept weights are of another model.")
    for name, value in weights.items():
        value.copy_(torch.from_numpy(kept[name.removeprefix(_PREFIX)].copy()))


def chunk_of(plan: PrivacyPlan, declared_patients: int) -> int:
    """Patients whose gradients are held at once, from public numbers."""
    return min(_LARGEST_CHUNK, max(1, math.ceil(plan.sample_rate * declared_patients)))


def _sum_of_patients(
    unit: _Unit,
    weights: Mapping[str, Tensor],
    data: PatientBatches,
    sampled: np.ndarray,
    plan: PrivacyPlan,
    training: LocalTraining,
    rng: np.random.Generator,
    chunk: int,
    copies: Replicas | None = None,
) -> np.ndarray:
    """Clipped sum over the sampled patients, float64 (d,); one chunk a device in memory at once."""
    batches = (
        unit_batch(data, sampled[start : start + chunk], training, rng)
        for start in range(0, len(sampled), chunk)
    )
    if copies is not None:
        return copies.clipped_sum(weights, batches, plan.clipping_norm, chunk=chunk)
    total = np.zeros(sum(value.numel() for value in weights.values()), dtype=np.float64)
    device = next(iter(weights.values())).device
    for made in batches:
        batch = [value.to(device) for value in made]
        total += privacy.clipped_sum(unit, weights, batch, plan.clipping_norm, chunk=chunk)
    return total


def unit_batch(
    data: PatientBatches, patients: np.ndarray, training: LocalTraining, rng: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """What the unit loss needs for some patients.

    Returns:
        patches (patient, segment, channel, token, patch_sample),
        valid (patient, segment, channel, token),
        hidden (patient, mask, segment, channel, token), drawn independently of the data.
    """
    signal, valid = data.segments(patients, training.segments, rng)
    shape = (len(patients), training.patch_masks, training.segments)
    hidden = patches.draw_patch_masks(rng, shape)
    return (
        patches.fold(torch.from_numpy(np.ascontiguousarray(signal))),
        torch.from_numpy(np.ascontiguousarray(valid)),
        torch.from_numpy(hidden),
    )
