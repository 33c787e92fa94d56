"""How long private training takes on this machine, from two timed steps. Nothing is written.

    speed = speed_of("tiny", LocalTraining())
    seconds = steps * (speed.step_s + sampled_patients * speed.patient_s)

`client.training.train_round` itself is timed, one thread, on noisy sines: what a gradient takes
does not depend on what is in the window. Answers are kept for this process only.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import lru_cache
from statistics import median

import numpy as np

from shared_model.config import CHANNELS, TOKENS, WINDOW_SAMPLES, LocalTraining
from shared_model.protocol import PresetName

_PATIENTS = 16
"""As many as training holds at once at most."""
_REPEATS = 3


@dataclass(frozen=True)
class Speed:
    """CPU seconds of one thread. step_s: of a step that samples nobody (noise, optimiser);
    patient_s: more for each sampled patient, all segments and patch masks."""

    step_s: float
    patient_s: float

    def training_s(self, steps: int, sampled: float) -> float:
        """Of so many steps, each with so many patients on average."""
        return steps * (self.step_s + sampled * self.patient_s)


@dataclass(frozen=True)
class _Sines:
    """Patients without meaning; implements `client.training.PatientBatches`."""

    patient_count: int

    def segments(
        self, patients: np.ndarray, segments: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        shape = (len(patients), segments, len(CHANNELS))
        wave = np.sin(np.linspace(0.0, 60.0, WINDOW_SAMPLES, dtype=np.float32))
        signal = wave + rng.standard_normal((*shape, WINDOW_SAMPLES), dtype=np.float32)
        return signal, np.ones((*shape, TOKENS), dtype=bool)


@lru_cache(maxsize=64)
def speed_of(preset: PresetName, training: LocalTraining) -> Speed:
    """Time this preset with this training; seconds to a minute for the largest preset."""
    from client.training import train_round
    from shared_model import mae
    from shared_model.config import PrivacyPlan
    from shared_model.noise import SystemNoise
    from simulations.torch_threads import torch_threads

    model = mae.build(mae.PRESETS[preset], 0)
    plan = PrivacyPlan(sample_rate=1.0, noise_multiplier=1.0, clipping_norm=1.0, steps=1)

    def seconds(patients: int) -> float:
        start = time.process_time()  # others may be using the machine
        train_round(model, _Sines(patients), plan, training, _PATIENTS, SystemNoise())
        return time.process_time() - start

    with torch_threads(1):
        seconds(2)  # what torch loads when it takes its first gradients
        empty = median(seconds(0) for _ in range(_REPEATS))
        full = median(seconds(_PATIENTS) for _ in range(_REPEATS))
    return Speed(empty, max(0.0, full - empty) / _PATIENTS)
