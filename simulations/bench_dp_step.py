"""A private step beside a plain one, and beside Opacus' hooks: seconds and memory.

All sides do a whole step on the same patients of the same network: draw windows and patch masks,
forward, backward in the same chunks, Adam. The private ones also clip each patient and add noise;
Opacus' side differs from ours in how per-patient gradients are had and in nothing else. Seconds
are CPU seconds of one thread, by turns in one process; memory is measured in a child process for
each side.
"""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import re
import statistics
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from opacus import GradSampleModule
from torch import Tensor

from client.training import train_round, unit_batch
from shared_model import losses, mae, privacy
from shared_model.config import (
    CHANNELS,
    TOKENS,
    WINDOW_SAMPLES,
    LocalTraining,
    PrivacyPlan,
    Trainable,
)
from shared_model.errors import OurMistake
from shared_model.noise import NoiseSource, NonPrivateForTests, SystemNoise
from simulations.torch_threads import torch_threads

PLAN = PrivacyPlan(sample_rate=1.0, noise_multiplier=1.1, clipping_norm=0.5, steps=1)
CHUNK = 16
"""Patients at once on all sides: what `train_round` takes of 16 declared patients or more."""
AGREEMENT = 1e-5
"""Largest difference of two clipped sums over C that is rounding."""
ENDINGS: dict[str, Trainable] = {"": "head", "_all": "all"}
"""What is trained, by the ending of its figures' names."""
_MEGABYTE = 1 << 20


@dataclass(frozen=True)
class Case:
    """What is trained. A multiple of 16 patients, so that our padding wastes nothing."""

    preset: str
    trainable: Trainable
    patients: int

    @property
    def training(self) -> LocalTraining:
        return LocalTraining(trainable=self.trainable)

    def model(self) -> mae.MaskedAutoencoder:
        """Every weight moved off its start, where the decoders' zeros would stop gradients."""
        model = mae.build(mae.PRESETS[self.preset], seed=1)
        rng = np.random.default_rng(2)
        moved = {
            name: value + rng.normal(0.0, 0.02, value.shape).astype(np.float32)
            for name, value in mae.weights_of(model).items()
        }
        mae.load_weights(model, moved)
        return model


@dataclass(frozen=True)
class Patients:
    """Windows of Gaussian noise, which cost as much to train on as hearts."""

    patient_count: int

    def segments(
        self, patients: np.ndarray, segments: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """The same windows of a patient at every call."""
        own = np.random.default_rng([3, len(patients), int(patients[0])])
        shape = (len(patients), segments, len(CHANNELS))
        signal = own.standard_normal((*shape, WINDOW_SAMPLES), dtype=np.float32)
        return signal, np.ones((*shape, TOKENS), dtype=bool)


Step = Callable[[], object]


def ours(case: Case) -> Step:
    """A round of one step as a node trains it."""
    model, data, noise = case.model(), Patients(case.patients), SystemNoise()
    return lambda: train_round(model, data, PLAN, case.training, case.patients, noise)


class PlainStep:
    """Backward of the mean loss, Adam; nothing private."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.model = case.model()
        self.trained = _freeze_the_rest(self.model, case)
        self.data = Patients(case.patients)
        self.rng = np.random.default_rng(4)
        self.optimiser = torch.optim.Adam(self.trained.values(), case.training.learning_rate)

    def __call__(self) -> None:
        self.optimiser.zero_grad()
        for batch in _batches(self.data, self.case, self.rng):
            each = losses.patient_losses(self.model, *batch, self.case.training)
            (each.sum() / self.case.patients).backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()


class OpacusStep:
    """Per-patient gradients by Opacus' hooks; clip, noise and division are ours."""

    def __init__(self, case: Case, noise: NoiseSource) -> None:
        self.case, self.noise = case, noise
        model = case.model()
        self.trained = _freeze_the_rest(model, case)
        self.hooked = GradSampleModule(model, loss_reduction="sum", strict=True)
        self.data = Patients(case.patients)
        self.rng = noise.public_generator()
        self.optimiser = torch.optim.Adam(self.trained.values(), case.training.learning_rate)

    def gradients(self, batch: tuple[Tensor, Tensor, Tensor]) -> dict[str, Tensor]:
        """By name, each (patient, ...)."""
        with warnings.catch_warnings():  # torch's, of hooks where no input needs a gradient
            warnings.filterwarnings("ignore", message="Full backward hook is firing")
            each = losses.patient_losses(self.hooked, *batch, self.case.training)
            each.sum().backward()  # type: ignore[no-untyped-call]
        found = {name: value.grad_sample for name, value in self.trained.items()}  # type: ignore[attr-defined]
        self.hooked.zero_grad(set_to_none=True)
        return found

    def mean(self, plan: PrivacyPlan = PLAN) -> np.ndarray:
        """What `privacy.noisy_mean` gives, float32 (d,)."""
        total = np.zeros(sum(value.numel() for value in self.trained.values()))
        for batch in _batches(self.data, self.case, self.rng):
            total += privacy.clip_and_sum(self.gradients(batch), plan.clipping_norm)
        return privacy.noisy_mean(total, plan, self.case.patients, self.noise)

    def __call__(self) -> None:
        for name, gradient in privacy.split(self.mean(), self.trained).items():
            self.trained[name].grad = torch.from_numpy(gradient)
        self.optimiser.step()


def _freeze_the_rest(model: mae.MaskedAutoencoder, case: Case) -> dict[str, Tensor]:
    names = set(mae.trainable_names(model, case.trainable))
    for name, value in model.named_parameters():
        value.requires_grad_(name in names)
    return {name: value for name, value in model.named_parameters() if name in names}


def _batches(
    data: Patients, case: Case, rng: np.random.Generator
) -> list[tuple[Tensor, Tensor, Tensor]]:
    places = np.arange(case.patients)
    return [
        unit_batch(data, places[start : start + CHUNK], case.training, rng)
        for start in range(0, case.patients, CHUNK)
    ]


SIDES: dict[str, Callable[[Case], Step]] = {
    "private": ours,
    "plain": PlainStep,
    "opacus_hooks": lambda case: OpacusStep(case, SystemNoise()),
}


@dataclass(frozen=True)
class Sizes:
    """How much is measured; the bars of docs/benchmarks.md are for `FULL`."""

    preset: str = "small"
    patients: int = 32
    repeats: int = 9


FULL = Sizes()
QUICK = Sizes(preset="tiny", patients=16, repeats=1)


def figures(quick: bool, tell: Callable[[str], None]) -> dict[str, float]:
    """Figures of `fedprint-lab bench dp-step`; docs/benchmarks.md says what each is."""
    return measure(QUICK if quick else FULL, tell)


def measure(sizes: Sizes, tell: Callable[[str], None]) -> dict[str, float]:
    """All figures, at these sizes: of the default training, and `..._all` of all parameters."""
    cases = {
        ending: Case(sizes.preset, trainable, sizes.patients)
        for ending, trainable in ENDINGS.items()
    }
    found: dict[str, float] = {}
    with torch_threads(1):
        peaks = {side: _in_a_child(side, list(cases.values()), tell) for side in SIDES}
        for place, (ending, case) in enumerate(cases.items()):
            tell(f"{case.preset}, {case.trainable}: do ours and Opacus' hooks agree?")
            found[f"disagreement{ending}"] = disagreement(case)
            seconds = _seconds(case, sizes.repeats, tell)
            memory = {side: peaks[side][place] for side in SIDES}
            found |= {f"{side}_step_s{ending}": value for side, value in seconds.items()}
            found |= {f"{side}_step_mb{ending}": value for side, value in memory.items()}
            found |= {
                f"time_ratio{ending}": seconds["private"] / seconds["plain"],
                f"memory_ratio{ending}": memory["private"] / memory["plain"],
                f"speedup_vs_opacus_hooks{ending}": seconds["opacus_hooks"] / seconds["private"],
            }
    return found


def disagreement(case: Case) -> float:
    """Largest difference of a coordinate of our clipped sum and Opacus', over C.

    Both sides draw the same masks and the same next-to-no noise.

    Raises:
        OurMistake: it is more than rounding, so the two do not do the same work.
    """
    plan = replace(PLAN, noise_multiplier=1e-3)
    sgd = replace(case.training, optimiser="sgd", learning_rate=1.0)
    first, second = (NonPrivateForTests("bench", "dp-step", 1, 1) for _ in range(2))
    update = train_round(
        case.model(), Patients(case.patients), plan, sgd, case.patients, first
    ).update
    mine = np.concatenate([update[name].ravel() for name in sorted(update)])
    step = OpacusStep(case, second)
    second.poisson_sample(case.patients, plan.sample_rate)
    worst = float(np.abs(mine + step.mean(plan)).max()) * case.patients / plan.clipping_norm
    if worst > AGREEMENT:
        raise OurMistake(
            f"Our private step and Opacus' hooks differ by {worst:.1e} C.",
            do="Find out which is wrong before comparing their speed.",
        )
    return worst


def _seconds(case: Case, repeats: int, tell: Callable[[str], None]) -> dict[str, float]:
    steps = {side: make(case) for side, make in SIDES.items()}
    spent: dict[str, list[float]] = {side: [] for side in steps}
    for turn in range(repeats + 1):
        tell(f"{case.preset}, {case.trainable}: turn {turn} of {repeats}")
        for side, step in steps.items():
            start = time.process_time()
            step()
            if turn:
                spent[side].append(time.process_time() - start)
    return {side: statistics.median(seconds) for side, seconds in spent.items()}


def _in_a_child(side: str, cases: list[Case], tell: Callable[[str], None]) -> list[float]:
    tell(f"memory of {side}, in a process of its own")
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return [pool.submit(peak_mb, side, case).result() for case in cases]


def peak_mb(side: str, case: Case) -> float:
    """Most resident memory during two steps, above what the process held before, in MB.

    Libraries are warmed up on a small network before. For a process of its own.

    Raises:
        OurMistake: not on Linux with glibc.
    """
    torch.set_num_threads(1)
    SIDES[side](Case("tiny", case.trainable, CHUNK))()
    step = SIDES[side](case)
    try:
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # what the warm-up freed goes back, so that it counts
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts anew
    except (AttributeError, OSError) as error:
        raise OurMistake("Memory is measured on Linux with glibc.", do="Run it there.") from error
    before = _status("VmRSS")
    step()
    step()
    return (_status("VmHWM") - before) / _MEGABYTE


def _status(name: str) -> int:
    """A size of /proc/self/status in bytes."""
    found = re.search(rf"^{name}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.M)
    if found is None:
        raise OurMistake(f"/proc/self/status has no {name}.")
    return int(found[1]) << 10
