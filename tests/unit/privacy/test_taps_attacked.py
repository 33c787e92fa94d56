"""The model's gradients under attack: hostile patients, places, chunks, hooks, threads, faults."""

from __future__ import annotations

import gc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import _get_current_function_mode_stack

from client.training import _Unit
from shared_model import adapters, mae, privacy, taps
from shared_model.config import TRAINABLE, LocalTraining, ModelConfig, Trainable
from shared_model.errors import OurMistake
from shared_model.patches import draw_patch_masks, fold

NARROW = ModelConfig("tiny", 32, 4, 1, 1, 32, 1)
PATIENTS, SEGMENTS, MASKS, SIZE = 7, 3, 2, 6
Batch = list[Tensor]
Parameters = dict[str, Tensor]


def unit_of(which: Trainable, weights: float = 1.0) -> tuple[_Unit, Parameters]:
    """Every term of the loss counts; no weight is at its start, where zeros stop gradients."""
    model = mae.build(NARROW, 1)
    names = set(mae.trainable_names(model, which))
    if which == "adapters":
        model = adapters.attached(model)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for value in model.parameters():
            value.add_(torch.randn(value.shape, generator=generator) * 0.1).mul_(weights)
    training = LocalTraining(
        segments=SEGMENTS, patch_masks=MASKS, trainable=which,
        cross_modal_weight=1.0, alignment_weight=0.7, contrast_weight=0.5,
    )  # fmt: skip
    trained = {f"model.{n}": v.detach().clone() for n, v in model.named_parameters() if n in names}
    return _Unit(model, training), trained


def hostile() -> Batch:
    """A sensor missing, in all windows or by window; fewer windows than K; nothing; holes; a mask
    that hides all or nothing; windows alike."""
    rng = np.random.default_rng(4)
    shape = (PATIENTS, SEGMENTS, 2)
    patches = fold(torch.from_numpy(rng.standard_normal((*shape, 1250)).astype(np.float32)))
    valid = torch.ones((*shape, 50), dtype=torch.bool)
    hidden = torch.from_numpy(draw_patch_masks(rng, (PATIENTS, MASKS, SEGMENTS)))
    valid[1, :, 1] = False
    valid[2, :, 0] = valid[2, 1:] = False
    valid[3] = False
    valid[4, :, :, 10:20] = valid[4, 0, 0] = valid[4, 1, 1] = False
    hidden[5, 0, 1], hidden[5, 1, 2] = True, False
    patches[6, 1] = patches[6, 0]
    return [torch.where(valid[..., None], patches, 0.0), valid, hidden]


def alone(unit: nn.Module, parameters: Parameters, tensors: Batch) -> dict[str, Tensor]:
    """Ordinary autograd on one patient; `parameters` are the unit's own."""
    told = torch.autograd.grad(unit(*tensors), list(parameters.values()), allow_unused=True)
    pairs = zip(parameters.items(), told, strict=True)
    return {n: torch.zeros_like(v) if g is None else g for (n, v), g in pairs}


@pytest.mark.parametrize("which", TRAINABLE)
def test_every_form_has_the_gradients_of_one_patient_at_a_time(which: Trainable) -> None:
    """In float64, to 1e-12 of the patient's length, with every term of the loss."""
    unit, parameters = unit_of(which)
    unit.double()
    own = {name: value for name, value in unit.named_parameters() if name in parameters}
    assert taps.tappable(unit, list(own))
    batch = [hostile()[0].double(), *hostile()[1:]]
    found = privacy.per_patient_gradients(unit, own, batch)
    assert all(float(value.abs().max()) > 0.0 for value in found.values())
    for patient in range(PATIENTS):
        wanted = alone(unit, own, [value[patient] for value in batch])
        length = float(sum(value.square().sum() for value in wanted.values())) ** 0.5
        away = sum(float((found[n][patient] - value).square().sum()) for n, value in wanted.items())
        assert away**0.5 <= 1e-12 * length
        assert (length == 0.0) == (patient == 3)


@pytest.mark.parametrize("what", [float("nan"), -float("inf"), 1e20, 1e-42, "hole", "masks"])
def test_no_bit_of_the_models_gradients_is_of_another_patient(what: float | str) -> None:
    """Whatever the first, or the last, of a chunk is; and the sum stays finite."""
    unit, parameters = unit_of("all")
    before = privacy.per_patient_gradients(unit, parameters, hostile())
    for victim in (0, PATIENTS - 1):
        patches, valid, hidden = hostile()
        if what == "hole":
            valid[victim] = False
        elif what == "masks":
            hidden[victim] = ~hidden[victim]
        else:
            patches[victim] = what
        after = privacy.per_patient_gradients(unit, parameters, [patches, valid, hidden])
        others = [patient for patient in range(PATIENTS) if patient != victim]
        assert all(torch.equal(before[name][others], after[name][others]) for name in before)
        assert np.isfinite(privacy.clip_and_sum(after, 0.1)).all()


def test_who_else_is_there_moves_the_sum_by_nothing() -> None:
    """Taking one out, which moves those behind into other places of other chunks, changes the sum
    by that patient's own clipped gradient. With such weights, which a coordinator may send, the
    last bit of a sample turns a clipped gradient around: no margin would cover rounding that
    depends on a place."""
    unit, parameters = unit_of("all", weights=1000.0)
    batch, clip = hostile(), 0.1

    def summed(rows: list[int], chunk: int = 2) -> np.ndarray:
        some = [value[rows] for value in batch]
        return privacy.clipped_sum(unit, parameters, some, clip, chunk=chunk)

    rows = [0, 1, 4, 5, 6]
    whole = summed(rows)
    for patient in (0, 1, 6):
        apart = whole - summed([other for other in rows if other != patient])
        assert np.linalg.norm(apart) <= clip
        assert np.linalg.norm(apart - summed([patient])) <= 1e-4 * clip
    assert np.linalg.norm(whole - summed(rows[::-1])) <= 1e-4 * clip
    nudged = batch[0][:1] * (1.0 + 2.0**-23)
    batch[0] = torch.cat([nudged, batch[0][1:]])
    assert np.linalg.norm(whole - summed(rows)) > 0.1 * clip


def test_any_size_of_chunk_gives_the_same_sum() -> None:
    """To float32's rounding, with weights of ordinary size."""
    unit, parameters = unit_of("head")
    sums = [
        privacy.clipped_sum(unit, parameters, hostile(), 0.1, chunk=chunk)
        for chunk in (1, 2, PATIENTS, 16)
    ]
    for other in sums[1:]:
        assert np.linalg.norm(other - sums[0]) <= 1e-4 * 0.1


def test_every_chunk_has_the_same_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also the last one: how many patients there are must not choose how products are rounded."""
    unit, parameters = unit_of("norms")
    seen, real = [], privacy.per_patient_gradients

    def watched(loss: nn.Module, some: Parameters, batch: Batch) -> dict[str, Tensor]:
        seen.append(len(batch[0]))
        return real(loss, some, batch)

    monkeypatch.setattr(privacy, "per_patient_gradients", watched)
    privacy.clipped_sum(unit, parameters, hostile(), 0.1, chunk=4)
    assert seen == [4, 4]


class Written(nn.Module):
    """Two layers and a norm, used as the test says."""

    def __init__(self, use: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            self.first, self.second = nn.Linear(SIZE, SIZE), nn.Linear(SIZE, SIZE)
        self.norm = nn.LayerNorm(SIZE)
        self.use = use

    def forward(self, segments: Tensor) -> Tensor:
        return self.use(self, segments)

    def found(self, batch: Tensor | None = None) -> dict[str, Tensor]:
        segments = rows() if batch is None else batch
        return privacy.per_patient_gradients(self, dict(self.named_parameters()), [segments])


def rows() -> Tensor:
    return torch.randn(5, 3, SIZE, generator=torch.Generator().manual_seed(2))


def deep(own: Written, x: Tensor) -> Tensor:
    return own.norm(own.second(torch.tanh(own.first(x)))).exp().sum()


def by_name(own: Written, x: Tensor) -> Tensor:
    y = F.linear(input=x, weight=own.first.weight, bias=own.first.bias)
    shape, weight, bias = (SIZE,), own.norm.weight, own.norm.bias
    normed = F.layer_norm(input=y, normalized_shape=shape, weight=weight, bias=bias, eps=0.1)
    return normed.exp().sum()


@pytest.mark.parametrize("use", [lambda own, x: deep(own, x.mean(0)), by_name])
def test_a_vector_and_arguments_by_name_are_served(use: Callable[[Any, Tensor], Tensor]) -> None:
    """One row a patient, through Linear and LayerNorm; and torch's own names of arguments."""
    loss = Written(use)
    found = loss.found()
    for patient, segments in enumerate(rows()):
        for name, value in alone(loss, dict(loss.named_parameters()), [segments]).items():
            torch.testing.assert_close(found[name][patient], value, rtol=1e-5, atol=1e-5)


def test_a_loss_of_several_numbers_is_refused() -> None:
    """Their sum would be trained on in silence, where a mean was meant."""
    with pytest.raises(OurMistake, match="one number"):
        Written(lambda own, x: own.norm(own.second(own.first(x))).square().sum(-1)).found()


def test_autocast_of_the_caller_changes_no_bit() -> None:
    """In bfloat16 a gradient has three digits."""
    loss = Written(deep)
    wanted = loss.found()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = loss.found()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_no_sum_over_patients_is_left_behind() -> None:
    """Not in a tensor that wants a gradient and is no parameter, nor in the batch."""
    scale, batch = torch.ones(SIZE, requires_grad=True), rows().requires_grad_()
    Written(lambda own, x: deep(own, x * scale)).found(batch)
    assert scale.grad is None
    assert batch.grad is None


def test_hooks_on_saved_tensors_are_refused() -> None:
    """They would be given all patients' tensors at once, and what they return is used."""
    loss = Written(deep)
    hooks = torch.autograd.graph.saved_tensors_hooks(lambda x: x, lambda x: x / x.norm())
    with hooks, pytest.raises(RuntimeError, match="all patients"):
        loss.found()


class Broken(Exception):
    """In mid-forward."""


def test_a_fault_in_mid_forward_leaves_nothing_behind() -> None:
    """No mode, no foreign tensor in the module, no record; the next call is as ever."""

    def break_off(own: Written, x: Tensor) -> Tensor:
        deep(own, x)
        raise Broken

    loss = Written(break_off)
    before = {name: (id(value), value.clone()) for name, value in loss.named_parameters()}
    with pytest.raises(Broken):
        loss.found()
    assert not _get_current_function_mode_stack()
    for name, value in loss.named_parameters():
        assert id(value) == before[name][0]
        assert torch.equal(value, before[name][1])
    gc.collect()
    assert not [thing for thing in gc.get_objects() if type(thing) is taps.Recorder]
    loss.use = deep
    wanted = Written(deep).found()
    assert all(torch.equal(value, wanted[name]) for name, value in loss.found().items())


def test_threads_with_modules_of_their_own_do_not_meet() -> None:
    """Four at once, each with its own patients: the bits of one after the other."""

    losses = [Written(deep) for _ in range(4)]

    def job(number: int) -> list[dict[str, Tensor]]:
        return [losses[number].found(rows() + number) for _ in range(5)]

    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(job, range(4)))
    for number, many in enumerate(together):
        wanted = Written(deep).found(rows() + number)
        assert all(torch.equal(found[name], wanted[name]) for found in many for name in wanted)
