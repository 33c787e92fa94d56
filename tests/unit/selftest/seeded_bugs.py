"""Bugs that private training must not have, put into the real code for the length of a test.

Each replaces one function of the product; nothing in the product knows of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from client import training
from shared_model import accounting, distributed, ledger_cost, privacy, taps
from shared_model.config import PrivacyPlan
from shared_model.ledger import Booked, Spent
from shared_model.noise import NoiseSource, NonPrivateForTests, SystemNoise

Patch = pytest.MonkeyPatch


def noise_off(patch: Patch) -> None:
    patch.setattr(SystemNoise, "normal", lambda self, count, std: np.zeros(count))


def sigma_halved(patch: Patch) -> None:
    real = SystemNoise.normal
    patch.setattr(SystemNoise, "normal", lambda self, count, std: real(self, count, std / 2))


def one_tensor_without_noise(patch: Patch) -> None:
    """The last 64 numbers: a LayerNorm that was forgotten."""
    real = SystemNoise.normal

    def normal(self: SystemNoise, count: int, std: float) -> np.ndarray:
        drawn = real(self, count, std)
        drawn[-64:] = 0.0
        return drawn

    patch.setattr(SystemNoise, "normal", normal)


def uniform_noise(patch: Patch) -> None:
    def normal(self: SystemNoise, count: int, std: float) -> np.ndarray:
        return self.public_generator().uniform(-1.0, 1.0, count) * std * np.sqrt(3.0)

    patch.setattr(SystemNoise, "normal", normal)


def noise_of_the_first_step_again(patch: Patch) -> None:
    real = SystemNoise.normal

    def normal(self: SystemNoise, count: int, std: float) -> np.ndarray:
        if not hasattr(self, "kept"):
            self.kept = real(self, count, 1.0)  # type: ignore[attr-defined]
        kept: np.ndarray = self.kept
        return kept * std

    patch.setattr(SystemNoise, "normal", normal)


def half_of_the_noise_twice(patch: Patch) -> None:
    real = SystemNoise.normal

    def normal(self: SystemNoise, count: int, std: float) -> np.ndarray:
        half = real(self, (count + 1) // 2, std)
        return np.concatenate([half, half])[:count]

    patch.setattr(SystemNoise, "normal", normal)


def fixed_seed(patch: Patch) -> None:
    real = SystemNoise.__init__

    def init(self: SystemNoise) -> None:
        real(self)
        self._seeded = np.random.default_rng(7)  # type: ignore[attr-defined]

    def normal(self: SystemNoise, count: int, std: float) -> np.ndarray:
        drawn: np.ndarray = self._seeded.standard_normal(count)  # type: ignore[attr-defined]
        return drawn * std

    patch.setattr(SystemNoise, "__init__", init)
    patch.setattr(SystemNoise, "normal", normal)


def generator_shared_by_forks(patch: Patch) -> None:
    """One generator in the module: fresh in one process, the same in its children."""
    shared = np.random.default_rng()
    patch.setattr(
        SystemNoise, "normal", lambda self, count, std: shared.standard_normal(count) * std
    )


def stream_carried_into_forks(patch: Patch) -> None:
    """A source forgets in which process it was made."""
    patch.setattr(SystemNoise, "_stream", property(lambda self: self._keystream))


def empty_step_left_out(patch: Patch) -> None:
    _with_sampled(
        patch,
        lambda real, sampled, total, plan, declared, noise: (
            real(total, plan, declared, noise)
            if len(sampled)
            else np.zeros(total.size, dtype=np.float32)
        ),
    )


def divided_by_sampled(patch: Patch) -> None:
    _with_sampled(
        patch,
        lambda real, sampled, total, plan, declared, noise: (
            real(total, plan, declared, noise)
            * np.float32(plan.sample_rate * declared / max(1, len(sampled)))
        ),
    )


def _with_sampled(patch: Patch, mean: Callable[..., np.ndarray]) -> None:
    """Lets the mean see who was sampled, which it must not."""
    real_sum, real_mean = training._sum_of_patients, privacy.noisy_mean
    seen: list[np.ndarray] = []

    def summed(unit: Any, weights: Any, data: Any, sampled: np.ndarray, *rest: Any) -> np.ndarray:
        seen.append(sampled)
        return real_sum(unit, weights, data, sampled, *rest)

    def noisy_mean(
        total: np.ndarray, plan: PrivacyPlan, declared: int, noise: NoiseSource
    ) -> np.ndarray:
        return mean(real_mean, seen[-1], total, plan, declared, noise)

    patch.setattr(training, "_sum_of_patients", summed)
    patch.setattr(privacy, "noisy_mean", noisy_mean)


def clip_off(patch: Patch) -> None:
    real = privacy.clip_and_sum
    patch.setattr(
        privacy, "clip_and_sum", lambda gradients, bound, keep=None: real(gradients, 1e30, keep)
    )


def clip_per_tensor(patch: Patch) -> None:
    """Each tensor of the gradient is clipped to C by itself."""
    real = privacy.clip_and_sum

    def clipped(
        gradients: Mapping[str, Tensor], bound: float, keep: Tensor | None = None
    ) -> np.ndarray:
        parts = [real({name: gradients[name]}, bound, keep) for name in sorted(gradients)]
        return np.concatenate(parts)

    patch.setattr(privacy, "clip_and_sum", clipped)


def clip_per_segment(patch: Patch) -> None:
    """Segments on the axis of patients, each clipped to C."""
    real = privacy.clipped_sum

    def clipped(
        unit: nn.Module,
        weights: Mapping[str, Tensor],
        batch: Sequence[Tensor],
        bound: float,
        *,
        chunk: int,
    ) -> np.ndarray:
        signal, valid, hidden = batch
        apart = [
            signal.flatten(0, 1)[:, None],
            valid.flatten(0, 1)[:, None],
            hidden.transpose(1, 2).flatten(0, 1)[:, :, None],
        ]
        return real(unit, weights, apart, bound, chunk=chunk)

    patch.setattr(privacy, "clipped_sum", clipped)


def batch_contrast(patch: Patch) -> None:
    """InfoNCE over the batch beside the unit loss: each patient's gradient, clipped, summed."""

    def clipped(
        unit: nn.Module,
        weights: Mapping[str, Tensor],
        batch: Sequence[Tensor],
        bound: float,
        *,
        chunk: int,
    ) -> np.ndarray:
        if not len(batch[0]):
            return np.zeros(sum(value.numel() for value in weights.values()))
        signal, valid, hidden = batch
        chosen = {name.removeprefix("model."): value for name, value in weights.items()}
        chosen = {name: value.clone().requires_grad_() for name, value in chosen.items()}
        held = {name: value.detach() for name, value in unit.model.named_parameters()}  # type: ignore[operator, union-attr]
        held |= {name: value.detach() for name, value in unit.model.named_buffers()}  # type: ignore[operator, union-attr]
        views = functional_call(
            unit.model, {**held, **chosen}, (signal, valid, hidden.movedim(1, 2))
        )
        ecg, ppg = views.fingerprint[:, 0, -2], views.fingerprint[:, 0, -1]  # (patient, 128)
        losses = -torch.diagonal(torch.log_softmax(ecg @ ppg.T / 0.02, dim=-1))
        names = sorted(chosen)
        rows: dict[str, list[Tensor]] = {name: [] for name in names}
        for loss in losses:
            told = torch.autograd.grad(
                loss, [chosen[name] for name in names], retain_graph=True, allow_unused=True
            )
            for name, value in zip(names, told, strict=True):
                rows[name].append(torch.zeros_like(chosen[name]) if value is None else value)
        coupled = {f"model.{name}": torch.stack(rows[name]) for name in names}
        own = privacy.per_patient_gradients(unit, weights, batch)
        together = {name: own[name] + coupled[name] for name in own}
        return privacy.clip_and_sum(together, bound)

    patch.setattr(privacy, "clipped_sum", clipped)


def normalised_over_the_batch(patch: Patch) -> None:
    """Signals minus the batch's mean, over its deviation."""
    real = privacy.clipped_sum

    def clipped(
        unit: nn.Module,
        weights: Mapping[str, Tensor],
        batch: Sequence[Tensor],
        bound: float,
        *,
        chunk: int,
    ) -> np.ndarray:
        signal = batch[0]
        scaled = (signal - signal.mean()) / (signal.std() + 1e-6) if len(signal) else signal
        return real(unit, weights, [scaled, *batch[1:]], bound, chunk=chunk)

    patch.setattr(privacy, "clipped_sum", clipped)


def gradient_summed_at_the_layer(patch: Patch) -> None:
    """The backward pass of a layer adds up the patients, as an ordinary one does."""
    real = taps.Recorder.add

    def add(self: taps.Recorder, name: str | None, gradient: Callable[[], Tensor]) -> None:
        def together() -> Tensor:
            each = gradient()
            return each.sum(0, keepdim=True).expand_as(each)

        real(self, name, together)

    patch.setattr(taps.Recorder, "add", add)


def poisoned_patient_not_left_out(patch: Patch) -> None:
    """A gradient that is not finite is clipped to a length of C in every coordinate."""
    real = privacy.clip_and_sum

    def clipped(
        gradients: Mapping[str, Tensor], bound: float, keep: Tensor | None = None
    ) -> np.ndarray:
        finite = {name: torch.nan_to_num(value, nan=bound) for name, value in gradients.items()}
        bad = any(not torch.isfinite(value).all() for value in gradients.values())
        return real(finite, 1e30 if bad else bound, keep)

    patch.setattr(privacy, "clip_and_sum", clipped)


def sample_rate_doubled(patch: Patch) -> None:
    real = SystemNoise.poisson_sample
    patch.setattr(
        SystemNoise,
        "poisson_sample",
        lambda self, count, rate: real(self, count, min(1.0, 2.0 * rate)),
    )


def shuffled_batches(patch: Patch) -> None:
    """Every epoch in a new order, cut into batches of q N."""
    left: dict[int, np.ndarray] = {}

    def sample(self: SystemNoise, count: int, rate: float) -> np.ndarray:
        size = round(count * rate)
        order = left.get(count, np.zeros(0, dtype=np.int64))
        if len(order) < size:
            order = self.public_generator().permutation(count)
        left[count] = order[size:]
        return np.sort(order[:size]).astype(np.int64)

    patch.setattr(SystemNoise, "poisson_sample", sample)


def patients_who_come_in_pairs(patch: Patch) -> None:
    real = SystemNoise.poisson_sample

    def sample(self: SystemNoise, count: int, rate: float) -> np.ndarray:
        pairs = real(self, (count + 1) // 2, rate)
        both = np.stack([2 * pairs, 2 * pairs + 1], axis=1).ravel()
        return both[both < count]

    patch.setattr(SystemNoise, "poisson_sample", sample)


def accountant_reset(patch: Patch) -> None:
    """A new accountant for every round, as PrivacyEngine makes one."""
    real = ledger_cost.epsilon

    def epsilon(spent: Spent, delta: float, further: Sequence[Booked] = (), **rest: Any) -> Any:
        alone = dataclasses.replace(spent, segments=((),)) if further else spent
        return real(alone, delta, further, **rest)

    patch.setattr(ledger_cost, "epsilon", epsilon)


def accountant_reset_every_run(patch: Patch) -> None:
    real = ledger_cost.epsilon

    def epsilon(spent: Spent, delta: float, further: Sequence[Booked] = (), **rest: Any) -> Any:
        return real(spent.of_run(further[0].run) if further else spent, delta, further, **rest)

    patch.setattr(ledger_cost, "epsilon", epsilon)


def accountant_counts_rounds(patch: Patch) -> None:
    """Composes plans and forgets their steps."""
    real = accounting._groups

    def groups(plans: Sequence[PrivacyPlan]) -> accounting.Groups:
        return real([PrivacyPlan(p.sample_rate, p.noise_multiplier, 1.0, 1) for p in plans])

    patch.setattr(accounting, "_groups", groups)


def share_variance_halved(patch: Patch) -> None:
    real = SystemNoise.discrete_gaussian
    patch.setattr(
        SystemNoise,
        "discrete_gaussian",
        lambda self, count, variance: real(self, count, variance / 2),
    )


def padding_without_noise(patch: Patch) -> None:
    """Only as many places as there are parameters get noise."""
    real = distributed.share

    class Short:
        def __init__(self, noise: NoiseSource, dimension: int) -> None:
            self.noise, self.dimension = noise, dimension

        def discrete_gaussian(self, count: int, variance: Any) -> np.ndarray:
            drawn = self.noise.discrete_gaussian(self.dimension, variance)
            return np.concatenate([drawn, np.zeros(count - self.dimension, dtype=np.int64)])

    patch.setattr(
        distributed,
        "share",
        lambda total, numbers, place, seed, noise: real(
            total, numbers, place, seed, Short(noise, numbers.dimension)
        ),
    )


def threshold_doubled(patch: Patch) -> None:
    """Each hospital counts on twice as many others."""
    real = distributed.share_variance
    patch.setattr(
        distributed,
        "share_variance",
        lambda plan, *, dimension, threshold: real(
            plan, dimension=dimension, threshold=2 * threshold
        ),
    )


def colluders_forgotten(patch: Patch) -> None:
    """The accountant prices every round for outsiders."""
    real = distributed.mechanism
    patch.setattr(
        distributed,
        "mechanism",
        lambda plan, *, dimension, threshold, colluding: real(
            plan, dimension=dimension, threshold=threshold, colluding=0
        ),
    )


def shares_of_one_seed(patch: Patch) -> None:
    """Every hospital's integers of noise are the same."""
    patch.setattr(
        SystemNoise,
        "discrete_gaussian",
        lambda self, count, variance: NonPrivateForTests("r", "s", 1, 1).discrete_gaussian(
            count, variance
        ),
    )


def rounded_to_sixteens(patch: Patch) -> None:
    """Integers are coarser than the sensitivity allows for."""
    real = distributed.rounded

    def rounded(*arguments: Any) -> tuple[np.ndarray, int]:
        found, clamped = real(*arguments)
        return (found + 8) // 16 * 16, clamped

    patch.setattr(distributed, "rounded", rounded)


def scaled_twice_as_large(patch: Patch) -> None:
    """C is 2^(r + 1) integer steps, while the noise is for 2^r."""
    real = distributed.Shares.scale.fget  # type: ignore[attr-defined]
    patch.setattr(distributed.Shares, "scale", property(lambda self: 2.0 * real(self)))


@dataclass(frozen=True)
class Bug:
    """found_by: checks that must fail. not_by: checks that must pass: they measure other things.

    A check that the bug makes only likelier to fail is in neither: tests do not depend on chance.
    """

    seed: Callable[[Patch], None]
    found_by: tuple[str, ...]
    not_by: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.seed.__name__.replace("_", " ")


BUGS = (
    Bug(noise_off, ("noise-deviation", "noise-shape"), ("clipping", "sampling-rate")),
    Bug(sigma_halved, ("noise-deviation", "whole-round"), ("noise-shape", "noise-fresh")),
    Bug(one_tensor_without_noise, ("noise-deviation",), ("declared-number",)),
    Bug(uniform_noise, ("noise-shape",), ("noise-deviation",)),
    Bug(noise_of_the_first_step_again, ("noise-deviation",), ("noise-shape", "noise-fresh")),
    Bug(half_of_the_noise_twice, ("noise-shape",), ("clipping",)),
    Bug(fixed_seed, ("noise-fresh", "whole-round"), ("noise-deviation", "noise-shape")),
    Bug(generator_shared_by_forks, ("noise-fresh",), ("noise-shape",)),
    Bug(stream_carried_into_forks, ("noise-fresh",), ("noise-shape",)),
    Bug(empty_step_left_out, ("empty-batch",), ("noise-deviation",)),
    Bug(divided_by_sampled, ("declared-number",), ("noise-deviation",)),
    Bug(clip_off, ("clipping", "clipping-segments", "sensitivity"), ("noise-shape",)),
    Bug(clip_per_tensor, ("clipping",), ("noise-shape",)),
    Bug(clip_per_segment, ("clipping-segments",), ("clipping",)),
    Bug(batch_contrast, ("sensitivity",), ("clipping",)),
    Bug(normalised_over_the_batch, ("sensitivity",), ("noise-shape",)),
    Bug(gradient_summed_at_the_layer, ("sensitivity",), ("clipping",)),
    Bug(poisoned_patient_not_left_out, ("clipping",), ("sensitivity",)),
    Bug(sample_rate_doubled, ("sampling-rate",), ("noise-shape",)),
    Bug(shuffled_batches, ("sampling-coins",), ("sampling-rate",)),
    Bug(patients_who_come_in_pairs, ("sampling-coins",), ("noise-shape",)),
    Bug(share_variance_halved, ("shared-noise",), ("noise-deviation",)),
    Bug(padding_without_noise, ("shared-noise",), ("noise-deviation",)),
    Bug(threshold_doubled, ("shared-noise",), ("noise-deviation",)),
    Bug(colluders_forgotten, ("shared-noise",), ("noise-shape",)),
    Bug(shares_of_one_seed, ("shared-noise",), ("noise-fresh",)),
    Bug(rounded_to_sixteens, ("shared-noise",), ("noise-shape",)),
    Bug(scaled_twice_as_large, ("shared-noise",), ("clipping",)),
    Bug(accountant_reset, ("ledger",), ("accountants",)),
    Bug(accountant_reset_every_run, ("ledger",), ("accountants",)),
    Bug(accountant_counts_rounds, ("accountants", "ledger"), ("noise-shape",)),
)
