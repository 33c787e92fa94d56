"""Gradients caught at the layers are those of one patient at a time, and of nobody else."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from client import training as private_training
from client.training import unit_batch
from shared_model import mae, privacy, taps
from shared_model.config import LocalTraining
from shared_model.errors import OurMistake
from simulations.bench_dp_step import Patients

PATIENTS, SIZE = 5, 6


class Odd(nn.Module):
    """Layers in every way they may be used: twice, on a vector, on constants, half frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(SIZE, 8)
        self.norm = nn.LayerNorm(8)
        self.twice = nn.Linear(8, 8)
        self.token = nn.Linear(1, 8, bias=False)
        self.vector = nn.Linear(8, 8)
        self.unused = nn.Linear(3, 3)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for value in self.parameters():
                value.copy_(torch.randn(value.shape, generator=generator) * 0.4)

    def forward(self, segments: Tensor) -> Tensor:
        """(segment, sample) -> scalar."""
        x = self.norm(torch.relu(self.embed(segments))) + self.token(torch.ones(1))
        x = self.twice(torch.tanh(self.twice(x)))
        x = self.norm(x)
        own = F.linear(x, x.mT @ x)  # a matrix made of the patient: not the model's
        return torch.as_tensor((self.vector(own.mean(0)) ** 2).sum())


def of(loss: nn.Module, *left_out: str) -> dict[str, Tensor]:
    return {name: value for name, value in loss.named_parameters() if name not in left_out}


def data() -> Tensor:
    return torch.randn(PATIENTS, 3, SIZE, generator=torch.Generator().manual_seed(2))


def one_at_a_time(
    loss: nn.Module, parameters: dict[str, Tensor], batch: Sequence[Tensor]
) -> dict[str, Tensor]:
    rows = []
    for patient in range(len(batch[0])):
        told = torch.autograd.grad(
            loss(*(value[patient] for value in batch)),
            list(parameters.values()),
            allow_unused=True,
        )
        pairs = zip(parameters.values(), told, strict=True)
        rows.append([torch.zeros_like(v) if g is None else g for v, g in pairs])
    return {name: torch.stack([row[i] for row in rows]) for i, name in enumerate(parameters)}


@pytest.mark.parametrize(
    "left_out", [(), ("twice.weight", "norm.bias"), ("embed.bias", "norm.weight")]
)
def test_every_use_of_a_layer_is_counted(left_out: tuple[str, ...]) -> None:
    """Twice, on a vector, on constants, half of it frozen, or not at all: as autograd has it."""
    loss = Odd()
    parameters = of(loss, *left_out)
    assert taps.tappable(loss, list(parameters))
    found = privacy.per_patient_gradients(loss, parameters, [data()])
    wanted = one_at_a_time(loss, parameters, [data()])
    assert set(found) == set(wanted)
    for name, value in found.items():
        torch.testing.assert_close(value, wanted[name], rtol=1e-4, atol=1e-5)
    assert found["twice.bias"].abs().max() > 0.0
    assert not found["unused.weight"].any()


@pytest.mark.parametrize("which", ["head", "all"])
def test_the_model_is_tapped_and_both_ways_agree(which: str) -> None:
    """Taps and torch.func, on `small`, to 1e-5 of the largest entry of each tensor."""
    model = mae.build(mae.PRESETS["small"], seed=1)
    training = LocalTraining(segments=1)
    unit = private_training._Unit(model, training)
    names = set(mae.trainable_names(model, which))  # type: ignore[arg-type]
    parameters = {f"model.{n}": v for n, v in model.named_parameters() if n in names}
    assert taps.tappable(unit, list(parameters))
    batch = unit_batch(Patients(3), np.arange(3), training, np.random.default_rng(0))
    held = {n: v.detach() for n, v in (*unit.named_parameters(), *unit.named_buffers())}
    found = taps.gradients(unit, held, parameters, batch)
    wanted = privacy._by_transforms(unit, held, parameters, batch)
    for name, value in found.items():
        largest = float(wanted[name].abs().max())
        torch.testing.assert_close(value, wanted[name], rtol=1e-5, atol=1e-5 * max(largest, 1e-3))


def test_what_other_patients_are_does_not_change_a_bit() -> None:
    """Not when they are exchanged, not when one is infinite: rows of a product stand alone."""
    loss = Odd()
    before = privacy.per_patient_gradients(loss, of(loss), [data()])
    for other in (float("nan"), float("inf"), 1e20, 0.0):
        batch = data()
        batch[1:] = other
        after = privacy.per_patient_gradients(loss, of(loss), [batch])
        for name in before:
            assert torch.equal(before[name][0], after[name][0]), name


class Leaking(nn.Module):
    """Uses a layer's matrix beside the layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(SIZE, SIZE)

    def forward(self, segments: Tensor) -> Tensor:
        return torch.as_tensor((self.layer(segments) @ self.layer.weight).square().mean())


def test_a_matrix_used_beside_its_layer_is_refused() -> None:
    """Half of its gradient would be missing."""
    loss = Leaking()
    with pytest.raises(OurMistake, match="outside"):
        privacy.per_patient_gradients(loss, of(loss), [data()])


class Scale(nn.Module):
    """A parameter of no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(SIZE))
        self.layer = nn.Linear(SIZE, SIZE)

    def forward(self, segments: Tensor) -> Tensor:
        return torch.as_tensor(self.layer(segments * self.scale).square().mean())


def test_other_parameters_take_the_general_way() -> None:
    """And get the same gradients."""
    loss = Scale()
    assert not taps.tappable(loss, list(of(loss)))
    assert not taps.tappable(nn.LayerNorm((2, 3)), ["weight"])
    found = privacy.per_patient_gradients(loss, of(loss), [data()])
    for name, value in one_at_a_time(loss, of(loss), [data()]).items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6)


def test_gradients_are_there_where_the_caller_has_switched_them_off() -> None:
    """Zeros would be clipped, noised and sent, and nobody would know."""
    loss = Odd()
    wanted = privacy.per_patient_gradients(loss, of(loss), [data()])
    batch = [data()]
    for off in (torch.no_grad, torch.inference_mode):
        with off():
            found = privacy.per_patient_gradients(loss, of(loss), batch)
        for name in wanted:
            assert torch.equal(found[name], wanted[name])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_gpu_gives_the_same_gradients() -> None:
    """To float32's rounding."""
    loss = Odd()
    wanted = privacy.per_patient_gradients(loss, of(loss), [data()])
    there = Odd().to("cuda")
    found = privacy.per_patient_gradients(there, of(there), [data().to("cuda")])
    for name in wanted:
        torch.testing.assert_close(found[name].cpu(), wanted[name], rtol=1e-3, atol=1e-4)
