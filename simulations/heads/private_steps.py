"""Private training of a linear head: the hospitals' own step, clip, noise, integers and sum.

The unit is the patient: the mean loss over all his items is one term, clipped once
(`shared_model.privacy`). Mode local: every hospital takes noisy steps and sends its update. Mode
distributed: a round is one step, whose noise the hospitals share out as integers
(`shared_model.distributed`). Integers are made by `client.integers` and added mod 2^m, as in a
round; what is not here is the masks: LAB ONLY.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from client.integers import integers
from shared_model import privacy
from shared_model.canonical import digest_of
from shared_model.distributed import Shares
from shared_model.noise import NoiseSource, NonPrivateForTests, SystemNoise
from shared_model.secure_sum.numbers import Numbers, mean_of, unflatten
from shared_model.secure_sum.primitives import Words
from shared_model.weights import Weights

if TYPE_CHECKING:
    from simulations.heads.data import Floats, HeadData
    from simulations.heads.public import PublicSpace
    from simulations.lab.terms import Setup

CHUNK = 64
"""Patients whose gradients are held at once."""
NOISE_RUN = "head"


@dataclass(frozen=True)
class PatientTensors:
    """A hospital's patients, float32, patient as axis 0.

    z: (patient, item, component), zero beyond the patient's items. truth: (patient, item, target).
    kept: (patient, item), 1 or 0.
    """

    z: Tensor = field(repr=False)
    truth: Tensor = field(repr=False)
    kept: Tensor = field(repr=False)

    def rows(self, patients: np.ndarray) -> list[Tensor]:
        """Tensors of some patients."""
        chosen = torch.from_numpy(np.asarray(patients, dtype=np.int64))
        return [self.z[chosen], self.truth[chosen], self.kept[chosen]]


class LinearUnit(nn.Module):
    """The loss of one patient: the mean over his items of the log loss, or half the squared error.

    Two classes have one output, the logit of the second.
    """

    def __init__(self, outputs: int, components: int, kind: str) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(outputs, components))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.kind = kind

    def forward(self, z: Tensor, truth: Tensor, kept: Tensor) -> Tensor:
        out = z @ self.weight.T + self.bias  # (item, output)
        if self.kind == "number":
            each = 0.5 * (out[:, 0] - truth[:, 0]) ** 2
        elif out.shape[1] == 1:
            each = nn.functional.softplus(out[:, 0]) - truth[:, 1] * out[:, 0]
        else:
            each = -(truth * torch.log_softmax(out, dim=1)).sum(dim=1)
        return (each * kept).sum() / kept.sum().clamp(min=1.0)


def outputs_of(kind: str, classes: int) -> int:
    """Rows of the trained weight."""
    return 1 if kind == "number" or classes == 2 else classes


def tensors(data: HeadData, space: PublicSpace, most_items: int) -> PatientTensors:
    """The patients' items as a head sees them; of more than `most_items` an even choice."""
    from simulations.heads.public import NUMBERS

    if data.kind == "number":
        centre, scale = NUMBERS[data.task]
        targets = ((data.truth - centre) / scale)[:, None]
    else:
        targets = np.eye(len(data.classes))[data.truth.astype(int)]
    z = space.z(data.fingerprints)
    people = np.unique(data.patient)
    made_z = np.zeros((len(people), most_items, z.shape[1]), dtype=np.float32)
    made_truth = np.zeros((len(people), most_items, targets.shape[1]), dtype=np.float32)
    kept = np.zeros((len(people), most_items), dtype=np.float32)
    for row, person in enumerate(people):
        items = np.flatnonzero(data.patient == person)
        if len(items) > most_items:
            items = items[np.linspace(0, len(items) - 1, most_items).astype(int)]
        made_z[row, : len(items)], made_truth[row, : len(items)] = z[items], targets[items]
        kept[row, : len(items)] = 1.0
    return PatientTensors(*(torch.from_numpy(one) for one in (made_z, made_truth, kept)))


def stable_rate(
    hospitals: Sequence[PatientTensors],
    declared: Sequence[int],
    sample_rate: float,
    outputs: int,
    kind: str,
) -> float:
    """A rate at which plain steps WITHOUT clipping and noise are stable, whatever the data.

    One over the loss's largest curvature, at the hospital where that is largest, and what a Poisson
    sample adds to its mean square. NOT PRIVATE: it follows from the patients, so that it is of mode
    none alone; clipped steps are bounded by the clipping norm.
    """
    most = 1.0 if kind == "number" else 0.25 if outputs == 1 else 0.5  # of the loss by an output
    found = []
    for patients, count in zip(hospitals, declared, strict=True):
        share = patients.kept / patients.kept.sum(dim=1, keepdim=True).clamp(min=1.0)
        inputs = torch.cat([patients.z, torch.ones_like(patients.z[..., :1])], dim=2).double()
        scaled = (inputs * share.double().sqrt()[..., None]).flatten(0, 1)  # (item, component + 1)
        mean = torch.linalg.matrix_norm(scaled, ord=2) ** 2 / count
        longest = scaled.square().sum(dim=1).reshape(share.shape).sum(dim=1).max()
        found.append(mean + (1.0 - sample_rate) / (sample_rate * count) * longest)
    return 1.0 / (most * float(max(found)))


def noise_of(setup: Setup, site: str, round_number: int) -> NoiseSource:
    """This round's noise of a site, as the setup's kind says."""
    from simulations.lab.hospital import NoNoiseNotPrivate

    if setup.noise == "system":
        return SystemNoise()
    kind = NoNoiseNotPrivate if setup.noise == "none" else NonPrivateForTests
    return kind(NOISE_RUN, site, round_number, setup.experiment.seed)


def trained(
    hospitals: Sequence[tuple[str, PatientTensors]],
    setup: Setup,
    declared: Sequence[int],
    weights: Sequence[int],
    unit: LinearUnit,
    on_round: Callable[[int], None] = lambda _: None,
) -> Weights:
    """All rounds from zero; what is returned is the mean of the second half's models.

    Guarantee: of the setup's plan, composed over all rounds, for one patient at one hospital; the
    mean over rounds, like every step's server side, is computed from noised sums alone.

    Args:
        hospitals: name and patients. weights: of each hospital in mode local.
    """
    experiment = setup.experiment
    rate = experiment.algorithm.learning_rate
    now: Weights = {name: value.detach().numpy().copy() for name, value in unit.named_parameters()}
    kept = {name: np.zeros(value.shape) for name, value in now.items()}
    half = experiment.rounds // 2
    for number in range(1, experiment.rounds + 1):
        shared = setup.plan.mode == "distributed"
        updates = []
        for place, (name, patients) in enumerate(hospitals):
            source = noise_of(setup, name, number)
            if shared:
                update = _clipped(unit, now, patients, setup, source)
            else:
                update = _steps(unit, now, patients, setup, declared[place], rate, source)
            updates.append((update, source))
        mean = summed(updates, setup.numbers(declared, weights), weights, number, now)
        scale = rate if shared else 1.0
        now = {
            name: (now[name].astype(np.float64) + scale * mean[name]).astype(np.float32)
            for name in now
        }
        if number > half:
            for name, value in now.items():
                kept[name] += value / (experiment.rounds - half)
        on_round(number)
    return {name: value.astype(np.float32) for name, value in kept.items()}


def summed(
    updates: Sequence[tuple[Weights, NoiseSource]],
    numbers: Numbers,
    weights: Sequence[int],
    round_number: int,
    like: Mapping[str, np.ndarray],
    divisor: float | None = None,
) -> dict[str, Floats]:
    """Every hospital's integers, added up mod 2^m as the secure sum does, and what they mean.

    Args:
        updates: of each hospital, private already in mode local, and its noise.
        divisor: of the sum; by default that of the mode's mean.
    """
    seed = bytes.fromhex(digest_of(["head rotation", round_number]))
    total: Words = np.zeros(numbers.padded, dtype=np.uint32)
    for place, (update, noise) in enumerate(updates):
        vector, _ = integers(update, numbers, seed, place, weights[place], noise)
        total += vector
    total &= np.uint32((1 << numbers.modulus_bits) - 1)
    if divisor is None:
        if isinstance(numbers, Shares):
            divisor = numbers.divisor(range(len(updates)))
        else:
            divisor = float(sum(weights))
    return unflatten(mean_of(total, numbers, seed, float(divisor)), like)


def _clipped(
    unit: LinearUnit, now: Weights, patients: PatientTensors, setup: Setup, noise: NoiseSource
) -> Weights:
    """Minus the clipped sum of one Poisson sample, float64. NOT PRIVATE yet: `integers` adds the
    noise."""
    parameters = {name: torch.from_numpy(value.copy()) for name, value in now.items()}
    total = _sum_of(unit, parameters, patients, setup, noise)
    return privacy.split(-total, parameters)


def _steps(
    unit: LinearUnit,
    now: Weights,
    patients: PatientTensors,
    setup: Setup,
    declared: int,
    rate: float,
    noise: NoiseSource,
) -> Weights:
    """`plan.steps` noisy steps of plain SGD; local weights minus received ones, float32."""
    parameters = {name: torch.from_numpy(value.copy()) for name, value in now.items()}
    for _ in range(setup.plan.steps):
        total = _sum_of(unit, parameters, patients, setup, noise)
        mean = privacy.noisy_mean(total, setup.plan, declared, noise)
        for name, step in privacy.split(mean, parameters).items():
            parameters[name] -= rate * torch.from_numpy(step)
    return {name: value.numpy() - now[name] for name, value in parameters.items()}


def _sum_of(
    unit: LinearUnit,
    parameters: Mapping[str, Tensor],
    patients: PatientTensors,
    setup: Setup,
    noise: NoiseSource,
) -> Floats:
    """Clipped sum over a Poisson sample of patients, float64 (d,)."""
    plan = setup.plan
    sampled = noise.poisson_sample(len(patients.z), plan.sample_rate)
    batch = patients.rows(sampled)
    return privacy.clipped_sum(unit, parameters, batch, plan.clipping_norm, chunk=CHUNK)
