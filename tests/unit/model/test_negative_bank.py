"""A bank of pretend strangers as further negatives of the contrast inside a patient."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from shared_model import losses, mae, warm_start
from shared_model.patches import fold
from simulations.cohort import draw_windows
from simulations.pretrain import Recipe, train
from simulations.pretrain_terms import NegativeBank, contrast_with_bank
from simulations.torch_threads import torch_threads


def test_a_bank_of_nobody_is_the_contrast_of_private_training() -> None:
    """And strangers can only make it larger: they are more wrong answers to the same question."""
    generator = torch.Generator().manual_seed(3)
    ecg, ppg, strange = (
        torch.nn.functional.normalize(torch.randn(*shape, 128, generator=generator), dim=-1)
        for shape in ((3, 4), (3, 4), (5,))
    )
    both = torch.tensor([[1.0, 1, 1, 1], [1, 0, 1, 0], [0, 0, 1, 0]])
    nobody = (strange[:0], strange[:0])
    plain = losses.contrast(ecg, ppg, both)
    assert torch.allclose(contrast_with_bank(ecg, ppg, both, nobody), plain, atol=1e-5)
    assert plain[2] == 0.0
    more = contrast_with_bank(ecg, ppg, both, (strange, strange))
    assert (more > plain).all()  # with strangers one window is enough
    logits = torch.cat([ecg[2, 2:3] @ ppg[2, 2:3].T, ecg[2, 2:3] @ strange.T], dim=1) / 0.1
    back = torch.cat([ppg[2, 2:3] @ ecg[2, 2:3].T, ppg[2, 2:3] @ strange.T], dim=1) / 0.1
    by_hand = 0.5 * (logits.logsumexp(1) + back.logsumexp(1)) - logits[:, 0]
    assert float(more[2]) == pytest.approx(float(by_hand), rel=1e-5)


def test_a_stranger_of_the_bank_pulls_nobody_and_is_not_moved() -> None:
    """The bank is drawn from the seed alone, has both sensors, and no gradient goes through it;
    a patient's contrast does not depend on who else is in the batch."""
    model = mae.build(mae.PRESETS["tiny"], 1)
    one, again, other = (NegativeBank(6, seed).fingerprints(model) for seed in (1, 1, 2))
    assert torch.equal(one[0], again[0])
    assert torch.equal(one[1], again[1])
    assert not torch.allclose(one[0], one[1])
    assert not torch.equal(one[0][:4], other[0][:4])
    assert not one[0].requires_grad
    assert torch.allclose(one[0].norm(dim=1), torch.ones(len(one[0])), atol=1e-5)
    seen = torch.nn.functional.normalize(torch.randn(2, 3, 128), dim=-1).requires_grad_()
    contrast_with_bank(seen, seen * 1.0, torch.ones(2, 3), one)[0].backward()
    assert seen.grad is not None
    assert seen.grad[0].any()
    assert not seen.grad[1].any()


def test_training_with_a_bank_tells_a_patients_sensors_from_strangers() -> None:
    """The same windows and first weights, one window a patient: only the bank differs."""
    with torch_threads(1):
        signal, valid, _ = draw_windows(np.random.default_rng(9), 60)
        patches = fold(torch.from_numpy(signal))
        ecg = torch.from_numpy(valid * np.array([True, False])[:, None])
        ppg = torch.from_numpy(valid * np.array([False, True])[:, None])
        both = torch.from_numpy(valid).any(-1).all(-1).float()[:, None]
        begun, lost = warm_start.load("tiny")[1], {}
        for weight in (0.0, 1.0):
            recipe = Recipe(
                steps=20, seed=1, batch=16, warm_up=2, learning_rate=1e-3,
                contrast_weight=weight, bank_size=32 if weight else 0,
            )  # fmt: skip
            trained, _ = train(mae.PRESETS["tiny"], recipe, start_from=begun)
            model = mae.build(mae.PRESETS["tiny"], 0)
            mae.load_weights(model, trained)
            with torch.no_grad():
                alone = [model.fingerprint(patches, one)[:, None] for one in (ecg, ppg)]
            strangers = NegativeBank(40, 7).fingerprints(model)
            lost[weight] = float(contrast_with_bank(*alone, both, strangers).mean())
    assert lost[1.0] < lost[0.0] - 0.05
