"""Rounding by place, planted anywhere in the model or the loss, is found by the kernels' check.

One patient's numbers get a factor of 1 + 2^-20 x its place in the chunk, at one spot; nothing else
is changed. Whatever a request trains or counts, the machine is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from client import kernels
from client.kernels import Kind, check_kernels, independent
from shared_model import losses, mae, taps
from shared_model.config import TRAINABLE, LocalTraining, ModelConfig, Trainable
from shared_model.errors import Refused

CPU = torch.device("cpu")
SMALL_STEP = 2.0**-20
SPOTS = {
    "Linear layers": lambda name, layer: isinstance(layer, nn.Linear),
    "LayerNorms": lambda name, layer: isinstance(layer, nn.LayerNorm),
    "ECG decoder": lambda name, layer: name == "model.decoders.0.memory",
    "PPG decoder": lambda name, layer: name == "model.decoders.1.memory",
}
"""By name and layer; of a decoder, its input: what comes back from there to all below it."""
TERMS = tuple(field.name for field in fields(losses.Terms))


class _ByPlace(torch.autograd.Function):
    """(patient, ...) as it is; forward or backward, each patient's has a factor of its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, plant: Plant) -> Tensor:
        ctx.plant = plant
        return plant.scaled(x) if plant.forward else x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        ctx.plant.reached += 1
        return (gradient if ctx.plant.forward else ctx.plant.scaled(gradient)), None


@dataclass
class Plant:
    """Where it was put, `reached` counts gradients that passed."""

    forward: bool = False
    step: float = SMALL_STEP
    reached: int = 0

    def scaled(self, x: Tensor) -> Tensor:
        place = torch.arange(len(x), dtype=x.dtype).view(-1, *[1] * (x.dim() - 1))
        return x * (1.0 + self.step * place)

    def on(self, x: Tensor) -> Tensor:
        """Inside of vmap, where one patient's tensor is seen."""
        return taps._apply(taps._ForAll, x, x.new_zeros(()), self._of_all)

    def _of_all(self, rows: Tensor) -> Tensor:
        return taps._apply(_ByPlace, rows, self)

    def behind(self, patch: pytest.MonkeyPatch, where: Callable[[str, nn.Module], bool]) -> None:
        """Behind each such layer of what the check looks at; at a decoder's input before it."""
        real = kernels.prepared

        def prepared(*given: Any) -> Any:
            unit, held = real(*given)
            for name, layer in unit.named_modules():
                if where(name, layer) and name.endswith(".memory"):
                    layer.register_forward_pre_hook(lambda _, x: (self.on(x[0]),))
                elif where(name, layer):
                    layer.register_forward_hook(lambda _, x, out: self.on(out))
            return unit, held

        patch.setattr(kernels, "prepared", prepared)

    def in_term(self, patch: pytest.MonkeyPatch, term: str) -> None:
        """On one term of the loss, before it is weighed."""
        real = losses.Terms.total

        def total(terms: losses.Terms, training: LocalTraining) -> Tensor:
            changed = {field: getattr(terms, field) for field in TERMS}
            changed[term] = self.on(changed[term])
            return real(losses.Terms(**changed), training)

        patch.setattr(losses.Terms, "total", total)


@pytest.fixture(autouse=True)
def _anew() -> Any:
    kernels.known.cache_clear()
    yield
    kernels.known.cache_clear()


def asked(which: Trainable) -> LocalTraining:
    """The request of a coordinator that wants nothing to be looked at."""
    return LocalTraining(
        trainable=which, cross_modal_weight=0.0, alignment_weight=0.0, contrast_weight=0.0
    )


def refused(which: Trainable) -> bool:
    """Because of rounding; any other refusal is an error."""
    try:
        check_kernels("tiny", asked(which), 2)
    except Refused as error:
        if "changes with the other patients" not in error.message:
            raise
        return True
    return False


@pytest.mark.parametrize("which", TRAINABLE)
def test_without_a_plant_the_machine_is_as_it_should_be(
    monkeypatch: pytest.MonkeyPatch, which: Trainable
) -> None:
    """Also with plants that do nothing: what refuses below is the rounding."""
    assert not refused(which)
    kernels.known.cache_clear()
    nothing = Plant(step=0.0)
    nothing.behind(monkeypatch, lambda name, layer: isinstance(layer, (nn.Linear, nn.LayerNorm)))
    nothing.in_term(monkeypatch, "masked")
    assert not refused(which)
    assert nothing.reached


@pytest.mark.parametrize("which", TRAINABLE)
@pytest.mark.parametrize("spot", SPOTS)
def test_rounding_in_layers_is_found_whatever_is_trained(
    monkeypatch: pytest.MonkeyPatch, spot: str, which: Trainable
) -> None:
    """In the backward pass, where a new model has no gradients and a request may switch off the
    rest."""
    plant = Plant()
    plant.behind(monkeypatch, SPOTS[spot])
    assert refused(which)
    assert plant.reached


@pytest.mark.parametrize("which", TRAINABLE)
@pytest.mark.parametrize("term", TERMS)
def test_rounding_in_each_term_is_found_whatever_is_counted(
    monkeypatch: pytest.MonkeyPatch, term: str, which: Trainable
) -> None:
    """Also by the last bit of float32: no term drowns in the others."""
    for step in (SMALL_STEP, 2.0**-23):
        kernels.known.cache_clear()
        with monkeypatch.context() as patch:
            plant = Plant(step=step)
            plant.in_term(patch, term)
            assert refused(which)
            assert plant.reached


CASES = [
    pytest.param(which, forward, marks=pytest.mark.long if forward or which != "all" else ())
    for which in TRAINABLE
    for forward in (False, True)
]


@pytest.mark.parametrize(("which", "forward"), CASES)
def test_rounding_behind_any_single_layer_is_found(
    monkeypatch: pytest.MonkeyPatch, which: Trainable, forward: bool
) -> None:
    """One at a time, in a model of one block a part. Backward there is nothing to find in a layer
    before the first that is trained."""
    monkeypatch.setitem(mae.PRESETS, "narrow", ModelConfig("tiny", 32, 4, 1, 1, 32, 1))
    kind = Kind("narrow", kernels.every_term(asked(which)), 2, CPU)
    unit, held = kernels.prepared(mae.build(mae.PRESETS["narrow"], 0), kind.training)
    layers = {n: m for n, m in unit.named_modules() if isinstance(m, (nn.Linear, nn.LayerNorm))}
    silent = set()
    for one in layers:
        with monkeypatch.context() as patch:
            plant = Plant(forward=forward)
            plant.behind(patch, lambda name, layer, one=one: name == one)
            if independent(kind):
                assert plant.reached == 0, one
                silent.add(one)
    assert len(layers) > 30
    trained = {one for one in layers if {f"{one}.weight", f"{one}.bias"} & set(held)}
    assert not silent & trained
    assert not [one for one in silent if one.startswith(("model.bottleneck", "model.fingerprint"))]
    assert not silent or (which != "all" and not forward)
