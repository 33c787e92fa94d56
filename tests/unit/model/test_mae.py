"""The masked autoencoder: shapes, what it may look at, what absence does."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from shared_model import mae, weights
from shared_model.config import ModelConfig
from shared_model.errors import OurMistake, Refused
from shared_model.fingerprint import fingerprints
from shared_model.patches import unfold

Batch = Callable[..., tuple[torch.Tensor, torch.Tensor, torch.Tensor]]


@pytest.mark.parametrize(
    ("preset", "low", "high", "head_low", "head_high"),
    [
        ("tiny", 0.35e6, 0.5e6, 0.08e6, 0.3e6),
        ("small", 1.8e6, 2.3e6, 0.1e6, 0.3e6),
        ("base", 9e6, 11e6, 0.3e6, 2e6),
    ],
)
def test_presets_have_the_documented_sizes(
    preset: str, low: float, high: float, head_low: float, head_high: float
) -> None:
    counts = mae.parameter_counts(mae.build(mae.PRESETS[preset], seed=0))
    assert low < counts["all"] < high
    assert head_low < counts["head"] < head_high


def test_building_depends_on_configuration_and_seed_alone() -> None:
    config = mae.PRESETS["tiny"]
    before = torch.random.get_rng_state()
    one = weights.digest(mae.weights_of(mae.build(config, seed=1)))
    assert torch.equal(before, torch.random.get_rng_state())
    torch.rand(7)
    assert weights.digest(mae.weights_of(mae.build(config, seed=1))) == one
    assert weights.digest(mae.weights_of(mae.build(config, seed=2))) != one


def test_a_width_that_does_not_fit_its_decoder_is_refused() -> None:
    with pytest.raises(OurMistake):
        mae.build(ModelConfig("odd", 16, 2, 1, 1, decoder_width=20, decoder_blocks=1), seed=0)


def test_weights_go_out_and_in_unchanged(model: mae.MaskedAutoencoder) -> None:
    held = mae.weights_of(model)
    with torch.no_grad():
        for value in model.parameters():
            value.add_(1.0)
    assert weights.digest(mae.weights_of(model)) != weights.digest(held)
    mae.load_weights(model, held)
    assert weights.digest(mae.weights_of(model)) == weights.digest(held)


@pytest.mark.parametrize("fault", ["missing", "extra", "shape", "nan"])
def test_weights_that_do_not_fit_are_refused(model: mae.MaskedAutoencoder, fault: str) -> None:
    held = mae.weights_of(model)
    name = next(iter(held))
    if fault == "missing":
        del held[name]
    elif fault == "extra":
        held["more"] = np.zeros(3, dtype=np.float32)
    elif fault == "shape":
        held[name] = held[name][:-1]
    else:
        held[name] = np.full_like(held[name], np.nan)
    with pytest.raises(Refused):
        mae.load_weights(model, held)


def test_the_head_is_bottleneck_fingerprint_path_and_norms(model: mae.MaskedAutoencoder) -> None:
    head = mae.trainable_names(model, "head")
    everything = mae.trainable_names(model, "all")
    assert set(head) < set(everything) == {name for name, _ in model.named_parameters()}
    assert {"bottleneck.0.up.weight", "fingerprint_head.weight"} < set(head)
    assert "encoders.0.blocks.0.norm_1.weight" in head
    assert "encoders.0.embed.weight" not in head
    with pytest.raises(OurMistake):
        mae.trainable_names(model, "tail")  # type: ignore[arg-type]


def test_a_training_pass_has_the_documented_shapes(
    model: mae.MaskedAutoencoder, batch: Batch
) -> None:
    patches, valid, hidden = batch(masks=3)
    views = model(patches, valid, hidden.movedim(1, 2))
    assert views.fingerprint.shape == (6, 2, 3 + 2, 128)
    for channel in (mae.ECG, mae.PPG):
        assert views.predicted[channel].shape == (6, 2, 25 * 3 + 50, 25)
        assert views.places[channel].shape == views.counted[channel].shape == (6, 2, 125)


def test_queries_are_the_hidden_places_then_the_whole_channel(
    model: mae.MaskedAutoencoder, batch: Batch
) -> None:
    patches, valid, hidden = batch(masks=1)
    views = model(patches, valid, hidden.movedim(1, 2))
    for channel in (mae.ECG, mae.PPG):
        place = views.places[channel]
        assert torch.gather(hidden[:, 0, :, channel], -1, place[..., :25]).all()
        assert torch.equal(place[..., 25:], torch.arange(50).expand(6, 2, 50))


def test_what_is_hidden_cannot_be_seen(model: mae.MaskedAutoencoder, batch: Batch) -> None:
    patches, valid, hidden = batch(patients=1, segments=1, masks=1)
    other = patches.clone()
    other[hidden[:, 0]] += 5.0  # change hidden patches only
    masks = hidden.movedim(1, 2)
    one, two = model(patches, valid, masks), model(other, valid, masks)
    for channel in (mae.ECG, mae.PPG):
        assert torch.equal(one.predicted[channel][..., :25, :], two.predicted[channel][..., :25, :])
    assert torch.equal(one.fingerprint[..., 0, :], two.fingerprint[..., 0, :])
    assert not torch.equal(one.fingerprint[..., 1, :], two.fingerprint[..., 1, :])
    shown = patches.clone()
    shown[~hidden[:, 0]] += 5.0
    three = model(shown, valid, masks)
    assert not torch.allclose(one.predicted[0][..., :25, :], three.predicted[0][..., :25, :])


def test_a_whole_modality_is_answered_from_the_other_alone(
    model: mae.MaskedAutoencoder, batch: Batch
) -> None:
    patches, valid, hidden = batch(patients=1, segments=1, masks=1)
    for channel in (mae.ECG, mae.PPG):
        other = patches.clone()
        other[..., channel, :, :] += 5.0
        masks = hidden.movedim(1, 2)
        one, two = model(patches, valid, masks), model(other, valid, masks)
        assert torch.equal(one.predicted[channel][..., 25:, :], two.predicted[channel][..., 25:, :])
        alone = {mae.ECG: -2, mae.PPG: -1}
        kept = alone[mae.PPG if channel == mae.ECG else mae.ECG]
        assert torch.equal(one.fingerprint[..., kept, :], two.fingerprint[..., kept, :])


def test_a_patch_mask_of_the_wrong_size_shows_nothing_that_is_hidden(
    model: mae.MaskedAutoencoder, batch: Batch
) -> None:
    patches, valid, hidden = batch(patients=1, segments=1, masks=1)
    hidden[:] = True
    hidden[..., :5] = False
    other = patches.clone()
    other[..., 5:, :] += 5.0
    masks = hidden.movedim(1, 2)
    one, two = model(patches, valid, masks), model(other, valid, masks)
    assert torch.equal(one.fingerprint[..., 0, :], two.fingerprint[..., 0, :])


def test_samples_of_absent_tokens_do_not_matter(model: mae.MaskedAutoencoder, batch: Batch) -> None:
    patches, valid, _ = batch()
    other = patches + 3.0 * ~valid[..., None]
    assert torch.equal(model.fingerprint(patches, valid), model.fingerprint(other, valid))


def test_the_single_sensor_view_is_the_fingerprint_of_that_sensor(
    model: mae.MaskedAutoencoder, batch: Batch
) -> None:
    patches, valid, hidden = batch(patients=1)
    views = model(patches, valid, hidden.movedim(1, 2))
    for channel, view in ((mae.ECG, -2), (mae.PPG, -1)):
        only = valid.clone()
        only[..., 1 - channel, :] = False
        alone = model.fingerprint(patches, only)
        assert torch.allclose(alone, views.fingerprint[..., view, :], atol=1e-6)


def test_fingerprints_have_unit_norm_for_either_sensor_or_both(
    model: mae.MaskedAutoencoder, batch: Batch
) -> None:
    patches, valid, _ = batch(patients=3)
    signal = unfold(patches).flatten(0, 1).numpy()
    known = valid.flatten(0, 1).numpy()
    both = fingerprints(model, signal, known, batch_size=4)
    assert both.shape == (6, 128)
    assert both.dtype == np.float32
    assert np.allclose(np.linalg.norm(both, axis=1), 1.0, atol=1e-5)
    whole = known[:2].copy()
    for channel in (0, 1):
        only = whole.copy()
        only[:, 1 - channel] = False
        alone = fingerprints(model, signal[:2], only)
        assert np.allclose(np.linalg.norm(alone, axis=1), 1.0, atol=1e-5)
        assert not np.allclose(alone, both[:2], atol=1e-3)


def test_fingerprints_do_not_depend_on_the_batch(
    model: mae.MaskedAutoencoder, batch: Batch
) -> None:
    patches, valid, _ = batch(patients=3)
    signal, known = unfold(patches).flatten(0, 1).numpy(), valid.flatten(0, 1).numpy()
    one = fingerprints(model, signal, known, batch_size=1)
    assert np.allclose(one, fingerprints(model, signal, known), atol=1e-5)


def test_an_untrained_model_predicts_the_window_mean() -> None:
    made = mae.build(mae.PRESETS["tiny"], seed=0)
    patches = torch.ones(1, 2, 50, 25)
    valid = torch.ones(1, 2, 50, dtype=torch.bool)
    hidden = torch.from_numpy(mae.draw_patch_masks(np.random.default_rng(0), (1, 1)))
    assert all(not value.any() for value in made(patches, valid, hidden).predicted)


def test_a_time_shift_of_what_is_known_changes_the_fingerprint(
    model: mae.MaskedAutoencoder, batch: Batch
) -> None:
    patches, valid, _ = batch(patients=1)
    rolled = patches.roll(7, dims=-2)
    assert not torch.allclose(model.fingerprint(patches, valid), model.fingerprint(rolled, valid))


@pytest.mark.parametrize("fault", ["empty", "shape", "valid", "nan"])
def test_windows_without_a_fingerprint_are_refused(
    model: mae.MaskedAutoencoder, fault: str
) -> None:
    signal = np.zeros((2, 2, 1250), dtype=np.float32)
    valid = np.ones((2, 2, 50), dtype=bool)
    if fault == "empty":
        valid[1] = False
    elif fault == "shape":
        signal = signal[..., :-1]
    elif fault == "valid":
        valid = valid.astype(np.float32)
    else:
        signal[0, 0, 0] = np.nan
    with pytest.raises(OurMistake):
        fingerprints(model, signal, valid)


def test_no_window_gives_no_fingerprint(model: mae.MaskedAutoencoder) -> None:
    none = fingerprints(model, np.zeros((0, 2, 1250), np.float32), np.zeros((0, 2, 50), np.bool_))
    assert none.shape == (0, 128)
