"""torch.compile and bfloat16 beside plain float32: fingerprints, warm start, private gradients.

All sides take the same windows with the same weights, by turns in one process. Compiled is each
block of the model by itself, whole or not at all; what cannot be compiled here is not measured, and
a note says why. Names end in `_cuda` where the same functions ran on a GPU.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context

import numpy as np
import torch
from torch import Tensor

from client.training import prepared, unit_batch
from shared_model import mae, taps
from shared_model.config import ModelConfig
from shared_model.fingerprint import fingerprints
from shared_model.weights import Weights
from shared_model.windows import make_windows
from simulations import pretrain
from simulations.bench import Measured
from simulations.bench_dp_step import CHUNK, ENDINGS, PLAN, Case, Patients
from simulations.bench_encoder_sides import (
    InBfloat16,
    WarmStartStep,
    cause,
    compile_blocks,
    compiling,
    cosine,
    graphs,
    model_of,
    smallest_cosine,
    windows,
    with_sensors,
)  # fmt: skip
from simulations.bench_ingest import ECG_FS_HZ, PPG_FS_HZ, synthetic_recording
from simulations.bench_weights import packaged_or_random
from simulations.torch_threads import torch_threads

Tell = Callable[[str], None]
Sides = dict[str, Callable[[], object]]


@dataclass(frozen=True)
class Sizes:
    """batch: windows at once; windows: of which agreement is measured, a multiple of `batch`;
    recording: windows of the recording that goes the whole way; steps: repeats of a training or
    private step. backend: of torch.compile."""

    preset: str = "small"
    batch: int = 32
    windows: int = 96
    recording: int = 64
    repeats: int = 11
    steps: int = 5
    backend: str = "inductor"


FULL = Sizes()
QUICK = Sizes(preset="tiny", batch=8, windows=8, recording=8, repeats=2, steps=1)


def figures(quick: bool, tell: Tell) -> Measured:
    """Figures of `fedprint-lab bench encoder`; docs/benchmarks.md says what each is."""
    return measure(QUICK if quick else FULL, tell)


def measure(sizes: Sizes, tell: Tell) -> Measured:
    """All figures, at these sizes."""
    config, weights, digests = packaged_or_random(sizes.preset, tell)
    found: dict[str, float | None] = {}
    notes: list[str] = []
    devices = _devices()
    with torch_threads(1), compiling():
        bench = _Bench(sizes, config, weights, notes, tell)
        for ending, device in devices.items():
            found |= _named(bench.of_fingerprints(device), ending)
            for trained, which in ENDINGS.items():
                case = Case(sizes.preset, which, CHUNK)
                found |= _named(bench.of_private_gradients(case, device), trained + ending)
        found |= bench.of_an_older_processor()
        found |= bench.of_the_whole_way()
        found |= bench.of_training()
    if len(devices) > 1:
        notes.append("The step of the warm start is measured on the CPU alone.")
    words = ", ".join(_in_words(device) for device in devices.values())
    return Measured(found, digests, tuple(notes), words)


def _devices() -> dict[str, torch.device]:
    """By the ending of its figures' names."""
    found = {"": torch.device("cpu")}
    if torch.cuda.is_available():
        found["_cuda"] = torch.device("cuda")
    return found


def _in_words(device: torch.device) -> str:
    return "cpu" if device.type == "cpu" else f"cuda ({torch.cuda.get_device_name(device)})"


def _named(found: Mapping[str, float | None], ending: str) -> dict[str, float | None]:
    return {f"{name}{ending}": value for name, value in found.items()}


@dataclass(frozen=True)
class _Bench:
    """What all parts share; `notes` grow."""

    sizes: Sizes
    config: ModelConfig
    weights: Weights
    notes: list[str]
    tell: Tell

    def model(self, device: torch.device) -> mae.MaskedAutoencoder:
        return model_of(self.config, self.weights, device)

    def in_bfloat16(self, device: torch.device) -> mae.MaskedAutoencoder:
        return model_of(self.config, self.weights, device, InBfloat16)

    def compiled(self, device: torch.device) -> mae.MaskedAutoencoder:
        return compile_blocks(self.model(device), self.sizes.backend)

    def of_fingerprints(self, device: torch.device) -> dict[str, float | None]:
        """Windows a second in float32; both others against it: seconds, smallest cosine."""
        models = {
            "float32": self.model(device),
            "bfloat16": self.in_bfloat16(device),
            "compile": self.compiled(device),
        }
        signal, valid = windows(self.sizes.windows)
        first = signal[: self.sizes.batch], valid[: self.sizes.batch]
        sides: Sides = {name: partial(fingerprints, one, *first) for name, one in models.items()}
        spent = self._compile(f"fingerprints on {device.type}", sides)
        median = self._by_turns(f"fingerprints on {device.type}", sides, self.sizes.repeats, device)
        found = {
            "fingerprint_windows_per_s": self.sizes.batch / median["float32"],
            "fingerprint_compile_s": spent,
        } | _speedups("fingerprint", median)
        for name in ("compile", "bfloat16"):
            found[f"fingerprint_{name}_cosine_min"] = (
                min(
                    smallest_cosine(models["float32"], models[name], *seen, self.sizes.batch)
                    for seen in with_sensors(signal, valid)
                )
                if name in sides
                else None
            )
        return found

    def of_an_older_processor(self) -> dict[str, float | None]:
        """Fingerprints on the CPU where oneDNN, which makes torch's products in bfloat16, may use
        no instruction beyond AVX2: as on a processor that has none for bfloat16."""
        name = "fingerprint_bfloat16_speedup_avx2"
        if platform.machine() not in {"x86_64", "AMD64"}:
            self.notes.append(f"Not measured, {name}: this processor is not an x86-64.")
            return {name: None}
        self.tell(f"fingerprints with {_OLDER}, in a process of its own")
        context = get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=context, initializer=_be_older) as pool:
            return {name: pool.submit(_bfloat16_speedup, self.sizes).result()}

    def of_the_whole_way(self) -> dict[str, float | None]:
        """From the recording's samples to fingerprints, as a node goes, but for reading the file.

        path_encoder_share: of the seconds in float32, the part that is the model's.
        """
        device = torch.device("cpu")
        rng = np.random.default_rng(5)
        ecg, ppg = synthetic_recording(rng, self.sizes.recording, ECG_FS_HZ, PPG_FS_HZ)

        def whole(model: mae.MaskedAutoencoder | None) -> None:
            made = make_windows(ecg, ECG_FS_HZ, ppg, PPG_FS_HZ)
            made = made.select(made.usable)
            if model is not None:
                fingerprints(model, made.signal, made.valid)

        sides: Sides = {
            "windows": partial(whole, None),
            "float32": partial(whole, self.model(device)),
            "bfloat16": partial(whole, self.in_bfloat16(device)),
        }
        median = self._by_turns("samples to fingerprints", sides, self.sizes.repeats, device)
        return {
            "path_bfloat16_speedup": median["float32"] / median["bfloat16"],
            "path_encoder_share": 1.0 - median["windows"] / median["float32"],
        }

    def of_training(self) -> dict[str, float | None]:
        """A whole step of the warm start; the gradient of its first step against float32."""
        device = torch.device("cpu")
        recipe = pretrain.Recipe(steps=1, seed=0, batch=self.sizes.batch)
        with pretrain.simulated_batches(recipe) as batches:
            batch = next(batches)
        made = {
            "float32": WarmStartStep(self.model(device), recipe, batch),
            "bfloat16": WarmStartStep(
                self.model(device), replace(recipe, precision="bfloat16"), batch
            ),
            "compile": WarmStartStep(self.compiled(device), recipe, batch),
        }
        sides: Sides = {name: one.gradient for name, one in made.items()}
        spent = self._compile("a step of the warm start", sides)
        gradients = {name: made[name].gradient() for name in sides}
        sides = {name: made[name] for name in sides}
        median = self._by_turns("warm start", sides, self.sizes.steps, device)
        found = {"training_step_s": median["float32"], "training_compile_s": spent}
        found |= _speedups("training", median)
        for name in ("compile", "bfloat16"):
            found[f"training_{name}_gradient_cosine"] = (
                cosine(gradients["float32"], gradients[name]) if name in sides else None
            )
        return found

    def of_private_gradients(self, case: Case, device: torch.device) -> dict[str, float | None]:
        """Per-patient gradients in bfloat16, which training never takes, against float32.

        private_bfloat16_difference: largest L2 distance of a patient's two clipped gradients, over
        C. private_bfloat16_alone: 1 if no bit of a patient's changed with the others.
        """
        unit, received = prepared(case.model(), case.training)
        unit, received = unit.to(device), {name: one.to(device) for name, one in received.items()}
        held = {name: one.detach() for name, one in unit.named_parameters()}
        held |= {name: one.detach() for name, one in unit.named_buffers()}
        rng = np.random.default_rng(0)
        drawn = unit_batch(Patients(case.patients), np.arange(case.patients), case.training, rng)
        batch = [one.to(device) for one in drawn]

        def gradients(rows: list[Tensor], enabled: bool) -> Tensor:
            with torch.autocast(device.type, torch.bfloat16, enabled=enabled):
                found = taps.gradients(unit, held, received, rows)
            return torch.cat([found[name].float().flatten(1) for name in sorted(found)], dim=1)

        exact, rounded = gradients(batch, False), gradients(batch, True)
        difference = (_clipped(exact) - _clipped(rounded)).norm(dim=1).max().item()
        others = [1e6 * batch[0], *batch[1:]]
        others[0][0] = batch[0][0]
        alone = torch.equal(gradients(others, True)[0], rounded[0])
        sides: Sides = {
            "float32": partial(gradients, batch, False),
            "bfloat16": partial(gradients, batch, True),
        }
        what = f"private gradients of {case.trainable} on {device.type}"
        median = self._by_turns(what, sides, self.sizes.steps, device)
        return {
            "private_bfloat16_speedup": median["float32"] / median["bfloat16"],
            "private_bfloat16_difference": difference / PLAN.clipping_norm,
            "private_bfloat16_alone": float(alone),
        }

    def _compile(self, what: str, sides: Sides) -> float | None:
        """Seconds of the first call of the compiled side; it is taken out where it cannot be."""
        sides["float32"]()  # a fault of the model itself is no fault of the compiler
        self.tell(f"{what}: compiling, which may take minutes")
        before, began = graphs(), time.perf_counter()
        try:
            with warnings.catch_warnings():  # torch's own, of what it imports to compile
                warnings.simplefilter("ignore")
                sides["compile"]()
        except (RuntimeError, OSError, ImportError) as error:
            why = f"torch.compile does not work here ({cause(error)})"
        else:
            if graphs() > before:
                return time.perf_counter() - began
            why = "torch.compile compiled nothing (is it switched off, TORCH_COMPILE_DISABLE?)"
        del sides["compile"]
        self.notes.append(f"Not measured, {what}, compiled: {why}.")
        self.tell(self.notes[-1])
        return None

    def _by_turns(
        self, what: str, sides: Sides, repeats: int, device: torch.device
    ) -> dict[str, float]:
        self.tell(f"{what}: {repeats} turns of {', '.join(sides)}")
        return by_turns(sides, repeats, device)


_OLDER = "ONEDNN_MAX_CPU_ISA=AVX2"


def _be_older() -> None:
    """For a process that has computed nothing yet: oneDNN looks once."""
    name, value = _OLDER.split("=")
    os.environ[name] = value


def _bfloat16_speedup(sizes: Sizes) -> float:
    """Of fingerprints on the CPU; for a process of its own."""
    torch.set_num_threads(1)
    config, weights, _ = packaged_or_random(sizes.preset, lambda _: None)
    cpu = torch.device("cpu")
    first = windows(sizes.batch)
    sides: Sides = {
        "float32": partial(fingerprints, model_of(config, weights, cpu), *first),
        "bfloat16": partial(fingerprints, model_of(config, weights, cpu, InBfloat16), *first),
    }
    median = by_turns(sides, sizes.steps, cpu)
    return median["float32"] / median["bfloat16"]


def by_turns(sides: Sides, repeats: int, device: torch.device) -> dict[str, float]:
    """Median seconds of each side: of CPU time, or of a clock where a GPU works."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    spent: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(repeats + 1):
        for name, call in sides.items():
            began = clock()
            call()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if turn:
                spent[name].append(clock() - began)
    return {name: statistics.median(seconds) for name, seconds in spent.items()}


def _speedups(what: str, median: Mapping[str, float]) -> dict[str, float | None]:
    return {
        f"{what}_{name}_speedup": median["float32"] / median[name] if name in median else None
        for name in ("compile", "bfloat16")
    }


def _clipped(rows: Tensor) -> Tensor:
    """Each row scaled to C where it is longer."""
    norms = rows.norm(dim=1, keepdim=True)
    scales: Tensor = (PLAN.clipping_norm / norms).clamp(max=1.0)
    return rows * scales
