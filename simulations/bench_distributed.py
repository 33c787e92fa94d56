"""`bench distributed-utility`: mode distributed against central DP-SGD on the pooled patients.

Central DP-SGD is what one hospital with all patients would do: `privacy.noisy_mean` on the pooled
clipped sum. The same steps are taken with the noise shared out (`distributed.share` at each of
five hospitals, integers added modulo 2^m, `mean_of` the sum), and in mode local, where every
hospital adds the full noise: same first weights, rate, noise multiplier, clipping norm, learning
rate, steps. In "distributed" all five are needed (t = 5), so that the sum's noise is that of the
noise multiplier; "default" is the default threshold (t = 4), under which five add a quarter more.

The functions are those that nodes and coordinator run; the messages between them are not sent, and
masks, which cancel to the bit, are left out. The model is not the masked autoencoder, whose
gradients would take hours, but the smallest that reconstructs masked signal: a linear map from the
four patches around a hidden one, of both channels, to its 25 samples. What is compared, noise and
integers, does not know the model.

    difference               mean held-out loss, distributed - central, over seeds
    difference_low, _high    its 95 % interval (Student's t over seeds)
    central_low, _high       95 % interval of the central mean
    local_difference         mean held-out loss, local - central: what mode distributed gains
    equal                    1 if 0 is in the interval of the difference and not in mode local's
                             (else there would be no power to tell), else 0
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import t as student
from torch import Tensor, nn

from shared_model import privacy
from shared_model.config import PATCH_SAMPLES, TOKENS, PrivacyPlan
from shared_model.distributed import Shares, share
from shared_model.noise import NoiseSource, NonPrivateForTests
from shared_model.secure_sum.numbers import mean_of
from shared_model.secure_sum.primitives import tagged_hash
from simulations.cohort import draw_windows

DECLARED = (500, 300, 200, 120, 80)
"""Patients of the five hospitals."""
AROUND = (-2, -1, 1, 2)
"""Patches from which the hidden one is predicted."""
_HIDDEN_EACH = 4
"""Hidden patches of each window and channel."""
_WEIGHT = "weight"


@dataclass(frozen=True)
class Trial:
    """One comparison: `DECLARED` / `divide` patients at each hospital."""

    divide: int
    held_out: int
    seeds: int
    steps: int
    sample_rate: float = 0.1
    noise_multiplier: float = 1.0
    clipping_norm: float = 0.5
    learning_rate: float = 0.3

    def plan(self, mode: str) -> PrivacyPlan:
        """One step."""
        return PrivacyPlan(
            self.sample_rate,
            self.noise_multiplier,
            self.clipping_norm,
            1,
            "distributed" if mode == "distributed" else "local",
        )


FULL = Trial(divide=1, held_out=400, seeds=16, steps=80)
QUICK = Trial(divide=10, held_out=40, seeds=3, steps=8)


class MaskedLinear(nn.Module):
    """Mean squared error of a patient's hidden patches, predicted linearly."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(
            torch.zeros(PATCH_SAMPLES, 2 * len(AROUND) * PATCH_SAMPLES, dtype=torch.float32)
        )

    def forward(self, seen: Tensor, target: Tensor) -> Tensor:
        return (seen @ self.weight.T - target).square().mean()


@dataclass(frozen=True)
class Patients:
    """seen (patient, hidden patch, 200), target (patient, hidden patch, 25)."""

    seen: Tensor
    target: Tensor

    @classmethod
    def drawn(cls, rng: np.random.Generator, count: int) -> Patients:
        """Simulated patients with one window each."""
        signal, _, _ = draw_windows(rng, count)
        patches = torch.from_numpy(signal).reshape(count, 2, TOKENS, PATCH_SAMPLES)
        places = np.linspace(2, TOKENS - 3, _HIDDEN_EACH).astype(int)
        seen, target = [], []
        for place in places:
            around = patches[:, :, [place + step for step in AROUND]]
            for channel in (0, 1):
                seen.append(around.reshape(count, -1))
                target.append(patches[:, channel, place])
        return cls(torch.stack(seen, dim=1), torch.stack(target, dim=1))

    def __len__(self) -> int:
        return len(self.seen)

    def part(self, start: int, stop: int) -> Patients:
        return Patients(self.seen[start:stop], self.target[start:stop])


def figures(quick: bool, tell: Callable[[str], None]) -> Mapping[str, float]:
    """See the module."""
    trial = QUICK if quick else FULL
    declared = tuple(number // trial.divide for number in DECLARED)
    tell(f"simulating {sum(declared)} patients of {len(declared)} hospitals")
    pool = Patients.drawn(np.random.default_rng(1), sum(declared))
    unseen = Patients.drawn(np.random.default_rng(2), trial.held_out)
    ends = np.cumsum(declared)
    hospitals = [
        pool.part(int(stop) - number, int(stop))
        for number, stop in zip(declared, ends, strict=True)
    ]
    steps: dict[str, Step] = {
        "central": lambda w, number, seed: central_step([pool], w, trial, number, seed),
        "distributed": lambda w, number, seed: distributed_step(
            hospitals, w, trial, number, seed, threshold=len(declared)
        ),
        "default": lambda w, number, seed: distributed_step(
            hospitals, w, trial, number, seed, threshold=2 * len(declared) // 3 + 1
        ),
        "local": lambda w, number, seed: central_step(hospitals, w, trial, number, seed),
    }
    losses = {name: np.zeros(trial.seeds) for name in steps}
    for seed in range(trial.seeds):
        for name, step in steps.items():
            losses[name][seed] = trained(step, trial, unseen, seed)
        told = ", ".join(f"{name} {losses[name][seed]:.4f}" for name in steps)
        tell(f"seed {seed + 1} of {trial.seeds}: held-out loss {told}")
    return summary(losses) | {
        "loss_before": loss_of(torch.zeros_like(MaskedLinear().weight), unseen),
        "dimension": float(MaskedLinear().weight.numel()),
        "seeds": float(trial.seeds),
        "steps": float(trial.steps),
        "noise_multiplier": trial.noise_multiplier,
    }


Step = Callable[[Tensor, int, int], np.ndarray]
"""(weights, number of the step, seed) -> what to add to the flat weights over the rate."""


def trained(step: Step, trial: Trial, unseen: Patients, seed: int) -> float:
    """Held-out loss after the steps."""
    weights = MaskedLinear().weight.detach().clone()
    for number in range(trial.steps):
        change = trial.learning_rate * step(weights, number, seed)
        weights += torch.from_numpy(change).reshape(weights.shape).float()
    return loss_of(weights, unseen)


def loss_of(weights: Tensor, patients: Patients) -> float:
    """Mean over hidden patches; the trivial predictor's is about 1."""
    error = (patients.seen @ weights.T - patients.target).square()
    return float(error.mean())


def clipped(patients: Patients, weights: Tensor, trial: Trial, noise: NoiseSource) -> np.ndarray:
    """Minus the clipped sum of a Poisson sample, float64 (d,)."""
    sampled = torch.from_numpy(noise.poisson_sample(len(patients), trial.sample_rate))
    if not len(sampled):
        return np.zeros(weights.numel())
    batch = [patients.seen[sampled], patients.target[sampled]]
    return -privacy.clipped_sum(
        MaskedLinear(), {_WEIGHT: weights}, batch, trial.clipping_norm, chunk=32
    )


def central_step(
    sites: list[Patients], weights: Tensor, trial: Trial, number: int, seed: int
) -> np.ndarray:
    """Each site's noisy mean with the full noise, weighted by its patients; one site is central."""
    total = sum(len(site) for site in sites)
    change = np.zeros(weights.numel())
    for index, site in enumerate(sites):
        noise = _noise(f"whole-{len(sites)}", index, number, seed)
        summed = clipped(site, weights, trial, noise)
        mean = privacy.noisy_mean(summed, trial.plan("local"), len(site), noise)
        change += mean.astype(np.float64) * (len(site) / total)
    return change


def distributed_step(
    sites: list[Patients], weights: Tensor, trial: Trial, number: int, seed: int, *, threshold: int
) -> np.ndarray:
    """One round of mode distributed in which every hospital survives."""
    numbers = Shares.of_plan(
        trial.plan("distributed"),
        dimension=weights.numel(),
        threshold=threshold,
        declared=[len(site) for site in sites],
    )
    rotation = tagged_hash("rotation", str(seed), str(number))
    total = np.zeros(numbers.padded, dtype=np.uint32)
    for index, site in enumerate(sites):
        noise = _noise(f"shared-{threshold}", index, number, seed)
        summed = clipped(site, weights, trial, noise)
        total += share(summed, numbers, index, rotation, noise).vector
    total &= np.uint32((1 << numbers.modulus_bits) - 1)
    return mean_of(total, numbers, rotation, numbers.divisor(range(len(sites))))


def _noise(arm: str, site: int, number: int, seed: int) -> NoiseSource:
    """Repeats, so that the figures do; independent for every arm, site, step and seed."""
    return NonPrivateForTests(f"bench-{arm}", str(site), number, seed)


def summary(losses: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The figures of the module's text; "default" is the default threshold, whose noise is more."""
    central = losses["central"]
    middle, half = _interval(central)
    found = {"central_loss": middle, "central_low": middle - half, "central_high": middle + half}
    apart: dict[str, tuple[float, float]] = {}
    for name in ("distributed", "default", "local"):
        found[f"{name}_loss"] = float(losses[name].mean())
        apart[name] = _interval(losses[name] - central)
    difference, width = apart["distributed"]
    beyond, beyond_width = apart["local"]
    found |= {
        "difference": difference,
        "difference_low": difference - width,
        "difference_high": difference + width,
        "default_difference": apart["default"][0],
        "default_difference_low": apart["default"][0] - apart["default"][1],
        "default_difference_high": apart["default"][0] + apart["default"][1],
        "local_difference": beyond,
        "local_difference_low": beyond - beyond_width,
        "local_difference_high": beyond + beyond_width,
    }
    equal = abs(difference) <= width and beyond > beyond_width
    return found | {"equal": float(equal)}


def _interval(values: np.ndarray) -> tuple[float, float]:
    """Mean and half width of its 95 % interval."""
    count = len(values)
    half = float(student.ppf(0.975, count - 1)) * float(values.std(ddof=1)) / math.sqrt(count)
    return float(values.mean()), half
