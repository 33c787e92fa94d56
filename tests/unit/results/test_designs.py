"""Other designs of the model, which only ablations train; the warm start's terms beside them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shared_model import losses, mae, mae_layers, patches
from shared_model.config import LocalTraining
from shared_model.errors import OurMistake
from simulations import ablation
from simulations.designs import Design, in_force, parameters_of, regrouped
from simulations.pretrain_terms import LAGS_S, draw_hidden, per_patch, self_similarity

TINY = mae.PRESETS["tiny"]
DESIGNS = [
    Design(),
    Design(positions="sines"),
    Design(positions="slopes"),
    Design(pooling="max"),
    Design(decoder_blocks=1, decoder_width=32),
    Design(patch_samples=125),
]


def some_windows(count: int, seed: int = 0) -> tuple[torch.Tensor, np.ndarray]:
    """Signals and which tokens are valid; the first window has a hole."""
    rng = np.random.default_rng(seed)
    valid = np.ones((count, 2, 50), dtype=bool)
    valid[0, 0, 10:20] = False
    return torch.from_numpy(rng.standard_normal((count, 2, 1250), dtype=np.float32)), valid


@pytest.mark.parametrize("design", DESIGNS, ids=lambda one: str(one)[7:40])
def test_every_design_learns_from_a_window_and_leaves_no_trace(design: Design) -> None:
    """Each gives a finite loss with a gradient; after the block all constants are the product's."""
    before = (mae_layers.SLOPES, mae.TOKENS, mae.pool, patches.TOKENS, losses.VISIBLE_TOKENS)
    signal, valid = some_windows(3)
    with in_force(design):
        model = mae.build(design.config(TINY), 1)
        folded = patches.fold(signal)
        known = torch.from_numpy(regrouped(valid, design.patch_samples))
        hidden = torch.from_numpy(patches.draw_patch_masks(np.random.default_rng(2), (3, 1, 1)))
        found = losses.patient_losses(
            model, folded[:, None], known[:, None], hidden, LocalTraining()
        )
        found.sum().backward()
        fingerprint = model.fingerprint(folded, known)
    assert torch.isfinite(found).all()
    gradients = [value.grad for name, value in model.named_parameters() if "encoders" in name]
    assert any(one is not None and bool(one.abs().sum() > 0) for one in gradients)
    assert torch.allclose(fingerprint.norm(dim=-1), torch.ones(3), atol=1e-5)
    after = (mae_layers.SLOPES, mae.TOKENS, mae.pool, patches.TOKENS, losses.VISIBLE_TOKENS)
    assert before == after


@pytest.mark.parametrize("design", DESIGNS, ids=lambda one: str(one)[7:40])
@pytest.mark.parametrize("preset", ["tiny", "small"])
def test_parameters_are_counted_without_a_model(design: Design, preset: str) -> None:
    """As many as the model has that is made."""
    with in_force(design):
        model = mae.build(design.config(mae.PRESETS[preset]), 0)
    made = sum(value.numel() for value in model.parameters())
    assert parameters_of(design, mae.PRESETS[preset]) == made


def test_the_product_s_own_design_changes_no_bit() -> None:
    signal, valid = some_windows(2)
    known = torch.from_numpy(valid)
    plain = mae.build(TINY, 3).fingerprint(patches.fold(signal), known)
    with in_force(Design()):
        same = mae.build(Design().config(TINY), 3).fingerprint(patches.fold(signal), known)
    assert torch.equal(plain, same)


def test_constants_come_back_after_a_fault() -> None:
    kept = mae_layers.SLOPES

    def fail() -> None:
        with in_force(Design(positions="sines", patch_samples=125)):
            assert mae_layers.SLOPES == (0.0,)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert kept == mae_layers.SLOPES
    assert mae.TOKENS == 50


def test_each_position_code_lacks_the_other() -> None:
    """Sines alone: nothing falls with distance. Slopes alone: encoders know no place."""
    with in_force(Design(positions="sines")):
        model = mae.build(TINY, 1)
    assert not model.encoders[0].blocks[0].attention.slopes.any()
    assert model.encoder_positions.any()
    with in_force(Design(positions="slopes")):
        model = mae.build(TINY, 1)
    assert model.encoders[0].blocks[0].attention.slopes.any()
    assert not model.encoder_positions.any()
    assert model.memory_positions.any()


def test_attention_of_longer_tokens_falls_as_fast_with_seconds() -> None:
    """1-s tokens are five times as far apart, one by one."""
    kept = mae_layers.SLOPES
    with in_force(Design(patch_samples=125)):
        assert tuple(slope / 5 for slope in mae_layers.SLOPES) == pytest.approx(kept)
        assert mae.build(TINY, 0).encoder_positions.shape[0] == 10


@given(st.integers(0, 2**31))
@settings(max_examples=20, deadline=None)
def test_what_is_not_valid_is_not_the_largest(seed: int) -> None:
    """Pooling by the largest value looks at valid tokens only; none gives zero."""
    rng = np.random.default_rng(seed)
    outputs = torch.from_numpy(rng.standard_normal((2, 6, 4), dtype=np.float32))
    keys = torch.from_numpy(rng.random((2, 6)) < 0.5)
    keys[1] = False
    with in_force(Design(pooling="max")):
        found = mae.pool(outputs, keys)
        other = mae.pool(torch.where(keys[..., None], outputs, 99.0 + outputs), keys)
    assert torch.equal(found, other)
    assert not found[1].any()
    if keys[0].any():
        largest = outputs[0][keys[0]].max(dim=0).values
        assert torch.allclose(found[0], largest / largest.norm(), atol=1e-5)


@given(st.integers(0, 2**31), st.sampled_from([5, 25, 125, 625]))
@settings(max_examples=30, deadline=None)
def test_a_longer_token_is_valid_if_all_of_it_is(seed: int, patch_samples: int) -> None:
    valid = np.random.default_rng(seed).random((2, 50)) < 0.8
    found = regrouped(valid, patch_samples)
    assert found.shape == (2, 1250 // patch_samples)
    samples = np.repeat(valid, 25, axis=-1)
    for token in range(found.shape[1]):
        part = samples[:, token * patch_samples : (token + 1) * patch_samples]
        assert np.array_equal(found[:, token], part.all(axis=1))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"patch_samples": 50}, "even number"),
        ({"patch_samples": 7}, "even number"),
        ({"patch_samples": 0}, "even number"),
        ({"positions": "rotary"}, "positions is one of"),
        ({"pooling": "sum"}, "pooling is one of"),
        ({"decoder_width": 20}, "multiple of 8"),
        ({"decoder_blocks": -1}, "not below 0"),
    ],
)
def test_a_design_that_cannot_be_trained_is_refused(changed: dict[str, object], said: str) -> None:
    with pytest.raises(OurMistake, match=said):
        replace(Design(), **changed)  # type: ignore[arg-type]


def test_an_ablation_varies_recipe_and_design_alike(tmp_path: Path) -> None:
    """A field of the design leaves the recipe alone, and the other way round."""
    path = tmp_path / "a.toml"
    path.write_text(
        'name = "a"\n[base]\nbatch = 8\n[vary]\npooling = ["max"]\nhidden_share = [0.7]\n'
    )
    asked = ablation.Ablation.from_toml(path)
    base, pooled, hidden = asked.variants()
    assert asked.design(pooled) == Design(pooling="max")
    assert asked.recipe(pooled, 1) == asked.recipe(base, 1)
    assert asked.design(hidden) == asked.design(base) == Design()
    assert asked.recipe(hidden, 1).hidden_share == 0.7


@pytest.mark.parametrize(
    ("vary", "said"),
    [
        ("patch_samples = [50]", "even number"),
        ('masking = ["none"]', "masking is"),
        ("hidden_share = [0.4]", "hidden_share is"),
        ('target = ["beats"]', "target is"),
        ("self_similarity_weight = [-1.0]", "not below 0"),
        ("width = [64]", "no field"),
        ("encoder_blocks = [100000000]", "blocks are at most 64"),
        ("decoder_width = [1000000000]", "decoder_width is at most 4096"),
        ("decoder_width = [4096]", "parameters"),
        ("batch = [1000000]", "batch is at most"),
    ],
)
def test_what_cannot_be_varied_is_refused_before_anything_runs(
    tmp_path: Path, vary: str, said: str
) -> None:
    path = tmp_path / "a.toml"
    path.write_text(f'name = "a"\n[vary]\n{vary}\n')
    with pytest.raises(OurMistake, match=said):
        ablation.Ablation.from_toml(path)


def test_complementary_halves_are_those_of_private_training() -> None:
    mine = draw_hidden(
        np.random.default_rng(4), 9, span_share=0.5, masking="complementary", hidden_share=0.5
    )
    theirs = patches.draw_patch_masks(np.random.default_rng(4), (9, 1))
    assert np.array_equal(mine, theirs)


@given(st.integers(0, 2**31), st.sampled_from([0.5, 0.62, 0.7, 0.9]))
@settings(max_examples=20, deadline=None)
def test_independent_masks_hide_the_share_asked_for(seed: int, share: float) -> None:
    """Exactly, in each channel; and the channels' masks are not each other's complement."""
    hidden = draw_hidden(
        np.random.default_rng(seed), 8, span_share=0.5, masking="independent", hidden_share=share
    )
    assert hidden.shape == (8, 1, 2, 50)
    assert (hidden.sum(-1) == round(50 * share)).all()
    assert (hidden[:, :, 0] & hidden[:, :, 1]).any()


def test_tokens_hidden_beyond_one_half_are_looked_at_by_nobody() -> None:
    """What a mask hides may be anything: the fingerprint of its view is the same."""
    hidden = torch.from_numpy(
        draw_hidden(
            np.random.default_rng(1), 2, span_share=0.5, masking="independent", hidden_share=0.7
        )
    )
    signal, _ = some_windows(2)
    folded, known = patches.fold(signal), torch.ones(2, 2, 50, dtype=torch.bool)
    model = mae.build(TINY, 1)
    first = model(folded, known, hidden).fingerprint[:, 0]
    other = torch.where(hidden[:, 0, :, :, None], folded + 50.0, folded)
    assert torch.allclose(first, model(other, known, hidden).fingerprint[:, 0], atol=1e-5)
    seen = torch.where(hidden[:, 0, :, :, None], folded, folded + 50.0)
    assert not torch.allclose(first, model(seen, known, hidden).fingerprint[:, 0], atol=1e-3)


def test_normalised_patches_have_no_level_and_no_size() -> None:
    signal, _ = some_windows(2)
    folded = patches.fold(signal * 7.0 + 3.0)
    made = per_patch(folded)
    assert torch.allclose(made.mean(-1), torch.zeros(2, 2, 50), atol=1e-5)
    assert torch.allclose(made.std(-1, unbiased=False), torch.ones(2, 2, 50), atol=1e-3)
    assert torch.isfinite(per_patch(torch.zeros(1, 2, 50, 25))).all()


def test_a_window_is_most_like_itself_one_beat_later() -> None:
    """Beats of one second: the largest lag beyond half a beat is 1.0 s; an empty channel is 0."""
    time_s = np.arange(1250) / 125.0
    signal = np.zeros((1, 2, 1250), dtype=np.float32)
    signal[0, 0] = np.cos(2 * np.pi * time_s) ** 15
    found = self_similarity(signal)
    assert found.shape == (1, 2, len(LAGS_S))
    late = [k for k, lag in enumerate(LAGS_S) if 0.6 <= lag <= 1.6]
    assert LAGS_S[max(late, key=lambda k: float(found[0, 0, k]))] == 1.0
    assert np.abs(found).max() <= 1.0
    assert not found[0, 1].any()


@pytest.mark.long
def test_runs_side_by_side_give_the_table_of_runs_one_by_one(tmp_path: Path) -> None:
    """Two processes, a changed design among the runs, the same figures."""
    asked = ablation.Ablation(
        name="a", seeds=(1,), steps=2, patients=120, base={"batch": 8}, vary={"pooling": ["max"]}
    )
    told: list[tuple[int, int]] = []
    side = ablation.run(
        asked, tmp_path / "two", resume=False, workers=2, on_step=lambda _, *n: told.append(n)
    )
    one = ablation.run(asked, tmp_path / "one", resume=False)
    assert one.figures == side.figures
    assert one.made["models"] == side.made["models"]
    assert told[-1] == (4, 4)
    rows = side.figures["rows"]
    assert rows[0]["mean skill"] != rows[1]["mean skill"]
