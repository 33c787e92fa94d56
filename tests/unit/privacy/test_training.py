"""A round of training on the real model: its gradients, its sensitivity, its edges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from client import steps
from client import training as private_training
from client.steps import StepState
from client.training import train_round, unit_batch
from shared_model import losses, mae, privacy
from shared_model.config import LocalTraining, PrivacyPlan
from shared_model.errors import OurMistake
from shared_model.noise import NonPrivateForTests, SystemNoise

TRAINING = LocalTraining(segments=2, patch_masks=2)
PLAN = PrivacyPlan(sample_rate=0.5, noise_multiplier=1.0, clipping_norm=0.5, steps=2)
CLIP = 0.05


@dataclass(frozen=True)
class PretendPatients:
    """`windows` windows a patient; patient 1 has no PPG, patient 2 has one window only."""

    patient_count: int
    windows: int = 4
    seed: int = 0
    poison: tuple[int, ...] = ()

    def segments(
        self, patients: np.ndarray, segments: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        signal = np.zeros((len(patients), segments, 2, 1250), dtype=np.float32)
        valid = np.zeros((len(patients), segments, 2, 50), dtype=bool)
        for row, patient in enumerate(patients):
            own = np.random.default_rng([self.seed, int(patient)])
            all_windows = own.standard_normal((self.windows, 2, 1250)).astype(np.float32)
            count = min(segments, 1 if patient == 2 else self.windows)
            chosen = rng.choice(self.windows, size=count, replace=False)
            signal[row, :count], valid[row, :count] = all_windows[chosen], True
            if patient == 1:
                signal[row, :, 1], valid[row, :, 1] = 0.0, False
            if int(patient) in self.poison:
                signal[row, 0, 0, 7] = np.nan
        return signal, valid


@pytest.fixture(scope="module")
def model() -> mae.MaskedAutoencoder:
    return mae.build(mae.PRESETS["tiny"], seed=1)


@pytest.fixture(scope="module")
def unit(model: mae.MaskedAutoencoder) -> nn.Module:
    return private_training._Unit(model, TRAINING)


def named(model: mae.MaskedAutoencoder, which: Literal["head", "all"]) -> dict[str, Tensor]:
    names = set(mae.trainable_names(model, which))
    return {f"model.{name}": value for name, value in model.named_parameters() if name in names}


def loss_of(model: mae.MaskedAutoencoder, batch: Sequence[Tensor], patient: int) -> Tensor:
    patches, valid, hidden = (value[patient] for value in batch)
    return losses.unit_loss(model, patches, valid, hidden, TRAINING)


def batch_of(count: int, training: LocalTraining = TRAINING) -> list[Tensor]:
    rng = np.random.default_rng(0)
    return list(unit_batch(PretendPatients(count), np.arange(count), training, rng))


@pytest.mark.parametrize("which", ["head", "all"])
def test_fast_gradients_of_the_model_equal_one_patient_at_a_time(
    model: mae.MaskedAutoencoder, unit: nn.Module, which: Literal["head", "all"]
) -> None:
    """To 1e-5, with a patient without PPG and one with a single window among them."""
    batch = batch_of(4)
    parameters = named(model, which)
    fast = privacy.per_patient_gradients(unit, parameters, batch)
    for patient in range(4):
        loss = loss_of(model, batch, patient)
        slow = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        for name, gradient in zip(parameters, slow, strict=True):
            wanted = torch.zeros_like(parameters[name]) if gradient is None else gradient
            torch.testing.assert_close(fast[name][patient], wanted, rtol=1e-5, atol=1e-5)


def summed(unit: nn.Module, parameters: dict[str, Tensor], chunk: int = 8) -> Any:
    def run(batch: Sequence[Any]) -> np.ndarray:
        return privacy.clipped_sum(unit, parameters, batch, CLIP, chunk=chunk)

    return run


def test_one_patient_moves_the_sum_by_at_most_c_on_the_adversarial_batch(
    model: mae.MaskedAutoencoder, unit: nn.Module
) -> None:
    """Near-duplicates and one record made to fit them all; every patient is really clipped."""
    patches, valid, hidden = batch_of(1)
    rng = torch.Generator().manual_seed(2)
    many = patches.repeat(8, 1, 1, 1, 1)
    many = many + 1e-4 * torch.randn(many.shape, generator=rng)
    many[-1, :, 1] = patches[0, :, 0]  # the odd one: its PPG is everyone's ECG, much larger
    many[-1] *= 50.0
    valid = valid.repeat(8, 1, 1, 1)
    hidden = hidden.repeat(8, 1, 1, 1, 1)
    parameters = named(model, "head")
    norms = [
        np.linalg.norm(
            privacy.clip_and_sum(privacy.per_patient_gradients(unit, parameters, one), 1e9)
        )
        for one in ([value[[i]] for value in (many, valid, hidden)] for i in (0, 7))
    ]
    assert min(norms) > CLIP
    for chunk in (3, 8):
        found = privacy.measured_sensitivity(
            summed(unit, parameters, chunk), [many, valid, hidden], CLIP
        )
        assert 0.9 < found <= 1.0


def test_segments_of_a_patient_share_one_clip(
    model: mae.MaskedAutoencoder,
) -> None:
    """K = 6 segments move the sum by C, not by 6 C."""
    training = LocalTraining(segments=6, patch_masks=1)
    six = private_training._Unit(model, training)
    parameters = named(model, "head")
    batch = batch_of(3, training)
    assert privacy.measured_sensitivity(summed(six, parameters), batch, CLIP) <= 1.0
    one_window = private_training._Unit(model, LocalTraining(segments=1, patch_masks=1))
    apart = [batch[0].flatten(0, 1)[:, None], batch[1].flatten(0, 1)[:, None]]
    apart.append(batch[2].transpose(1, 2).flatten(0, 1)[:, :, None])
    per_segment = privacy.clipped_sum(one_window, parameters, [value[:6] for value in apart], CLIP)
    assert np.linalg.norm(per_segment) > 2 * CLIP


def test_the_model_has_no_layer_that_couples_patients(unit: nn.Module) -> None:
    """All presets' layers are the same kinds."""
    privacy.refuse_coupling(unit)


def run(
    model: mae.MaskedAutoencoder, data: PretendPatients, seed: int = 1, **changes: Any
) -> dict[str, np.ndarray]:
    arguments: dict[str, Any] = {
        "plan": PLAN,
        "training": TRAINING,
        "declared_patients": 6,
        "noise": NonPrivateForTests("run", "site", 1, seed),
    }
    return train_round(model, data, **(arguments | changes)).update


def test_an_update_has_the_trainable_names_and_leaves_the_model_alone(
    model: mae.MaskedAutoencoder,
) -> None:
    """Differences of the trainable parameters, float32; the received weights stay as they were."""
    before = mae.weights_of(model)
    told: list[tuple[int, int]] = []
    outcome = train_round(
        model, PretendPatients(6), PLAN, TRAINING, 6, SystemNoise(), lambda *step: told.append(step)
    )
    after = mae.weights_of(model)
    assert set(outcome.update) == set(mae.trainable_names(model, "head"))
    for name, change in outcome.update.items():
        assert change.dtype == np.float32
        assert change.shape == before[name].shape
        assert np.isfinite(change).all()
        assert change.any()
    assert all(np.array_equal(before[name], after[name]) for name in before)
    assert told == [(1, 2), (2, 2)]
    assert outcome.steps == 2
    assert outcome.noise_name == SystemNoise.name


def test_what_leaves_a_round_is_the_update_and_nothing_that_was_measured(
    model: mae.MaskedAutoencoder,
) -> None:
    """No loss, no count, no time; and the update is not printed."""
    outcome = train_round(model, PretendPatients(3), PLAN, TRAINING, 6, SystemNoise())
    assert set(vars(outcome)) == {"update", "steps", "noise_name", "local"}
    assert outcome.local == {}
    assert "update" not in repr(outcome)


def test_seeded_rounds_repeat_and_system_rounds_never_do(model: mae.MaskedAutoencoder) -> None:
    """Bit for bit for simulations; with the operating system's noise no coordinate twice."""
    data = PretendPatients(4)
    one, again, other = run(model, data), run(model, data), run(model, data, seed=2)
    assert all(np.array_equal(one[name], again[name]) for name in one)
    assert not any(np.array_equal(one[name], other[name]) for name in one)
    first = run(model, data, noise=SystemNoise())
    second = run(model, data, noise=SystemNoise())
    assert not any(np.array_equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("patients", [0, 1, 40])
def test_the_number_of_patients_never_makes_a_round_fail(
    model: mae.MaskedAutoencoder, patients: int
) -> None:
    """None, fewer or more than the declared 6: a refusal would tell the number."""
    update = run(model, PretendPatients(patients), plan=PrivacyPlan(0.2, 1.0, 0.5, 1))
    assert all(value.any() for value in update.values())


def test_sgd_divides_by_the_declared_number(model: mae.MaskedAutoencoder) -> None:
    """One SGD step with twice the declared patients is half as long, noise and all."""
    training = LocalTraining(optimiser="sgd", learning_rate=0.1)
    plan = PrivacyPlan(0.5, 1.0, 0.5, 1)
    data = PretendPatients(4)
    six = run(model, data, plan=plan, training=training, declared_patients=6)
    twelve = run(model, data, plan=plan, training=training, declared_patients=12)
    for name in six:
        np.testing.assert_allclose(six[name], 2 * twelve[name], rtol=1e-2, atol=1e-6)


def test_a_poisoned_patient_changes_nothing_and_raises_nothing(
    model: mae.MaskedAutoencoder,
) -> None:
    """NaN in a window of one patient: the round ends, and that patient contributes zero."""
    plan = PrivacyPlan(1.0, 1.0, 0.5, 1)
    training = LocalTraining(segments=4, patch_masks=1, optimiser="sgd", learning_rate=1.0)
    poisoned = run(model, PretendPatients(4, poison=(0, 3)), plan=plan, training=training)
    assert all(np.isfinite(value).all() for value in poisoned.values())


def test_hostile_weights_give_noise_and_no_error() -> None:
    """NaN in the received weights: every patient contributes zero, the update is noise."""
    broken = mae.build(mae.PRESETS["tiny"], seed=1)
    with torch.no_grad():
        next(broken.parameters()).fill_(float("nan"))
    update = run(broken, PretendPatients(4))
    assert all(np.isfinite(value).all() for value in update.values())


def test_coupling_layers_and_no_patients_declared_are_refused() -> None:
    """Before anything is sampled."""
    model = mae.build(mae.PRESETS["tiny"], seed=1)
    with pytest.raises(OurMistake, match="declared"):
        run(model, PretendPatients(3), declared_patients=0)
    model.add_module("batch", nn.BatchNorm1d(3))
    with pytest.raises(OurMistake, match="couple"):
        run(model, PretendPatients(3))


def test_without_noise_to_speak_of_training_learns() -> None:
    """Tiny noise: the unit loss on the same patients goes down, with both optimisers."""
    data = PretendPatients(6, windows=2)
    adam = LocalTraining(optimiser="adam", learning_rate=3e-3, trainable="all")
    sgd = LocalTraining(optimiser="sgd", learning_rate=0.5, trainable="all")
    for training in (adam, sgd):
        model = mae.build(mae.PRESETS["tiny"], seed=1)
        plan = PrivacyPlan(1.0, 1e-3, 1.0, 12)
        update = run(model, data, plan=plan, training=training)
        batch = unit_batch(data, np.arange(6), training, np.random.default_rng(9))

        def loss(model: mae.MaskedAutoencoder = model, batch: Any = batch) -> float:
            with torch.no_grad():
                each = [loss_of(model, batch, patient) for patient in range(6)]
            return float(torch.stack(each).mean())

        before = loss()
        weights = mae.weights_of(model)
        mae.load_weights(model, {name: weights[name] + update[name] for name in update})
        assert loss() < 0.98 * before


@dataclass
class Kept:
    """Keeps states as the outbox does, as bytes; dies after `die_after` of them."""

    die_after: int = 99
    data: bytes | None = None

    @property
    def last(self) -> StepState | None:
        return None if self.data is None else steps.from_bytes(self.data, "ab", 3)

    def keep(self, state: StepState) -> None:
        self.data = steps.to_bytes(state, "ab")
        if state.step == self.die_after:
            raise KeyboardInterrupt


@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
@pytest.mark.parametrize("die_after", [1, 2, 3])
def test_training_that_was_killed_goes_on_to_the_same_update(
    model: mae.MaskedAutoencoder, optimiser: Literal["adam", "sgd"], die_after: int
) -> None:
    """Bit for bit with noise that repeats: weights, moments, sampler, patch masks."""
    plan = PrivacyPlan(sample_rate=0.5, noise_multiplier=1.0, clipping_norm=0.5, steps=3)
    training = LocalTraining(segments=2, patch_masks=2, optimiser=optimiser)
    changes: dict[str, Any] = {"plan": plan, "training": training}
    data = PretendPatients(4)
    undisturbed = run(model, data, **changes)
    kept = Kept(die_after)
    with pytest.raises(KeyboardInterrupt):
        run(model, data, steps=kept, **changes)
    taken: list[tuple[int, int]] = []
    resumed = run(
        model, data, steps=Kept(data=kept.data), on_step=lambda *step: taken.append(step), **changes
    )
    assert all(np.array_equal(undisturbed[name], resumed[name]) for name in undisturbed)
    assert taken == [(step, 3) for step in range(die_after + 1, 4)]


def test_a_resumed_step_has_fresh_noise_and_nothing_of_the_system_is_kept(
    model: mae.MaskedAutoencoder,
) -> None:
    """Two processes that go on from one state differ in every coordinate; the file has no noise."""
    data, kept = PretendPatients(3), Kept(1)
    with pytest.raises(KeyboardInterrupt):
        run(model, data, noise=SystemNoise(), steps=kept)
    assert kept.last is not None
    assert kept.last.noise is None
    first = run(model, data, noise=SystemNoise(), steps=Kept(data=kept.data))
    second = run(model, data, noise=SystemNoise(), steps=Kept(data=kept.data))
    assert not any(np.array_equal(first[name], second[name]) for name in first)


def test_a_state_is_of_one_kind_of_noise_and_of_one_model(model: mae.MaskedAutoencoder) -> None:
    """Private noise never takes up a place of a seeded one, nor the other way round."""
    data, seeded, system = PretendPatients(3), Kept(1), Kept(1)
    with pytest.raises(KeyboardInterrupt):
        run(model, data, steps=seeded)
    with pytest.raises(KeyboardInterrupt):
        run(model, data, noise=SystemNoise(), steps=system)
    for noise, kept in (({"noise": SystemNoise()}, seeded), ({}, system)):
        with pytest.raises(OurMistake, match="place"):
            run(model, data, steps=kept, **noise)
    for changes in ({"trainable": "all"}, {"optimiser": "sgd"}):
        other = LocalTraining(segments=2, patch_masks=2, **changes)  # type: ignore[arg-type]
        with pytest.raises(OurMistake, match="of another"):
            run(model, data, training=other, steps=seeded)
