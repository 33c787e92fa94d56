"""One patient moves the clipped sum by at most C; a batch contrast does not keep that promise.

The adversarial batch has near-duplicates and one record that flips every softmax. On random data
a batch contrast looks innocent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from opacus import GradSampleModule
from torch import Tensor, nn
from torch.nn import functional

from shared_model import privacy

SIZE, EMBEDDING, CLIP, TEMPERATURE = 16, 8, 0.1, 0.02


class TwoTowers(nn.Module):
    """An ECG tower and a PPG tower; unit-norm embeddings."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.ecg = nn.Linear(SIZE, EMBEDDING, bias=False)
        self.ppg = nn.Linear(SIZE, EMBEDDING, bias=False)
        with torch.no_grad():
            for value in self.parameters():
                value.copy_(torch.randn(value.shape, generator=generator))
            self.ppg.weight.copy_(self.ecg.weight)

    def forward(self, ecg: Tensor, ppg: Tensor) -> tuple[Tensor, Tensor]:
        return (
            functional.normalize(self.ecg(ecg), dim=-1),
            functional.normalize(self.ppg(ppg), dim=-1),
        )


def contrast(ecg: Tensor, ppg: Tensor) -> Tensor:
    """InfoNCE over axis -2, per row."""
    logits = ecg @ ppg.transpose(-1, -2) / TEMPERATURE
    return -torch.diagonal(torch.log_softmax(logits, dim=-1), dim1=-2, dim2=-1)


def batch_infonce(batch: Sequence[Any]) -> np.ndarray:
    """Batch InfoNCE under Opacus: per-row gradients, clipped, summed. No error is raised."""
    ecg, ppg = (value.clone().requires_grad_() for value in batch)
    hooked = GradSampleModule(TwoTowers(), batch_first=True, loss_reduction="sum")
    contrast(*hooked(ecg[:, 0], ppg[:, 0])).sum().backward()  # type: ignore[no-untyped-call]
    rows = {name: value.grad_sample for name, value in hooked._module.named_parameters()}
    return privacy.clip_and_sum(rows, CLIP)


class WithinPatient(nn.Module):
    """In-patient InfoNCE over the K segments: sound, the unit is the patient."""

    def __init__(self) -> None:
        super().__init__()
        self.towers = TwoTowers()

    def forward(self, ecg: Tensor, ppg: Tensor) -> Tensor:
        return contrast(*self.towers(ecg, ppg)).mean()


def within_patient(batch: Sequence[Any]) -> np.ndarray:
    unit = WithinPatient()
    return privacy.clipped_sum(unit, dict(unit.named_parameters()), batch, CLIP)


def per_segment(batch: Sequence[Any]) -> np.ndarray:
    """The K-segments bug: segments on the batch axis, each clipped by itself."""
    ecg, ppg = (value.flatten(0, 1)[:, None] for value in batch)
    unit = Alignment()
    return privacy.clipped_sum(unit, dict(unit.named_parameters()), [ecg, ppg], CLIP)


def per_patient(batch: Sequence[Any]) -> np.ndarray:
    unit = Alignment()
    return privacy.clipped_sum(unit, dict(unit.named_parameters()), batch, CLIP)


class Alignment(nn.Module):
    """A separable term: 1 - cosine, mean over the patient's segments."""

    def __init__(self) -> None:
        super().__init__()
        self.towers = TwoTowers()

    def forward(self, ecg: Tensor, ppg: Tensor) -> Tensor:
        first, second = self.towers(ecg, ppg)
        return torch.as_tensor(1.0 - (first * second).sum(dim=-1).mean())


def random_batch(patients: int, segments: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(5)
    ecg = torch.randn(patients, segments, SIZE, generator=generator)
    return [ecg, ecg + 0.1 * torch.randn(ecg.shape, generator=generator)]


def adversarial_batch(patients: int, segments: int) -> list[Tensor]:
    """Near-duplicates whose PPG is a little off; the last record's PPG fits every ECG better."""
    generator = torch.Generator().manual_seed(6)
    base = torch.randn(SIZE, generator=generator)
    off = torch.randn(SIZE, generator=generator)
    ecg = base + 1e-3 * torch.randn(patients, segments, SIZE, generator=generator)
    ppg = base + off + 1e-3 * torch.randn(patients, segments, SIZE, generator=generator)
    ppg[-1] = base
    return [ecg, ppg]


@pytest.mark.parametrize("patients", [32, 128])
def test_the_check_detects_batch_infonce(patients: int) -> None:
    """Innocent on random data, dozens of times the bound on the adversarial batch."""
    found = privacy.measured_sensitivity(batch_infonce, adversarial_batch(patients, 1), CLIP)
    assert found > patients / 4


def test_random_data_would_not_have_detected_it() -> None:
    """Why the adversarial batch is in this suite: near 1 on random data."""
    assert privacy.measured_sensitivity(batch_infonce, random_batch(32, 1), CLIP) < 1.5


@pytest.mark.parametrize("make", [adversarial_batch, random_batch])
def test_contrast_inside_one_patient_is_sound(make: Any) -> None:
    """The same contrast over a patient's own segments keeps the bound."""
    assert privacy.measured_sensitivity(within_patient, make(32, 4), CLIP) <= 1.0


def test_a_patient_is_clipped_once_however_many_segments() -> None:
    """K = 8 segments: at most C together; clipped one by one they reach several C."""
    batch = adversarial_batch(6, 8)
    assert privacy.measured_sensitivity(per_patient, batch, CLIP) <= 1.0
    assert privacy.measured_sensitivity(per_segment, batch, CLIP) > 4.0
