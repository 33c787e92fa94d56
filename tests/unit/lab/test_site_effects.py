"""Site effects: what devices do to windows, and that windows stay windows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared_model.errors import OurMistake
from simulations.lab import effects
from simulations.lab.effects import PlacedEffect, apply, effects_of, standardised
from simulations.lab.experiment_tables import Federation, SiteEffect

KEY = (1, "site-1")
ECG, PPG = 0, 1


def windows(patients: int = 6, each: int = 2, seed: int = 1) -> tuple[np.ndarray, ...]:
    """Noisy sines with some invalid tokens, standardised; and whose they are."""
    rng = np.random.default_rng(seed)
    count = patients * each
    time_s = np.arange(1250) / 125.0
    hz = rng.uniform(1.0, 4.0, (count, 2, 1))
    signal = np.sin(2 * np.pi * hz * time_s) + 0.3 * rng.standard_normal((count, 2, 1250))
    valid = np.ones((count, 2, 50), dtype=bool)
    valid[::3, 0, 10:15] = False
    signal, valid = standardised(signal.astype(np.float32), valid)
    return signal, valid, np.repeat(np.arange(patients), each)


def run(*made: dict[str, Any], **source: Any) -> tuple[np.ndarray, np.ndarray]:
    signal, valid, patient = windows(**source)
    placed = [PlacedEffect(SiteEffect(share=1.0, **one), place) for place, one in enumerate(made)]
    return apply(placed, signal, valid, patient, KEY)


def power(signal: np.ndarray, low_hz: float, high_hz: float) -> np.ndarray:
    """Share of each window's power between two frequencies."""
    spectrum = np.abs(np.fft.rfft(signal, axis=-1)) ** 2
    hz = np.fft.rfftfreq(signal.shape[-1], 1 / 125.0)
    inside = (hz >= low_hz) & (hz < high_hz)
    return np.asarray(spectrum[..., inside].sum(-1) / spectrum.sum(-1))


effect_values = st.fixed_dictionaries(
    {},
    optional={
        "ecg_gain": st.floats(0.01, 100.0),
        "ecg_noise": st.floats(0.0, 10.0),
        "ppg_noise": st.floats(0.0, 10.0),
        "ecg_band_hz": st.sampled_from([(0.5, 10.0), (1.0, 40.0)]),
        "ppg_fs_hz": st.floats(20.0, 125.0),
        "missing_ecg": st.floats(0.0, 0.5),
        "missing_ppg": st.floats(0.0, 0.5),
        "saturation": st.floats(0.05, 5.0),
        "invert_ecg": st.booleans(),
    },
)


@settings(max_examples=15, deadline=None)
@given(made=effect_values)
def test_windows_stay_windows_whatever_the_effect(made: dict[str, Any]) -> None:
    """Mean 0 and variance 1 over valid samples, 0 elsewhere; nothing becomes valid; all finite."""
    signal, valid = run(made)
    _, before, _ = windows()
    assert np.isfinite(signal).all()
    assert not (valid & ~before).any()
    samples = np.repeat(valid, 25, axis=2)
    assert not signal[~samples].any()
    for window, mask in zip(signal.reshape(-1, 1250), samples.reshape(-1, 1250), strict=True):
        if mask.any():
            assert abs(window[mask].mean()) < 1e-3
            assert window[mask].std() == pytest.approx(1.0, abs=1e-3)


def test_an_effect_on_a_patient_does_not_depend_on_the_batch() -> None:
    """All at once, or patient by patient: the same bytes."""
    made = [PlacedEffect(SiteEffect(share=1.0, ecg_noise=1.0, missing_ppg=0.5, ppg_fs_hz=40.0), 0)]
    signal, valid, patient = windows()
    whole = apply(made, signal, valid, patient, KEY)
    for number in range(6):
        rows = patient == number
        alone = apply(made, signal[rows], valid[rows], patient[rows], KEY)
        assert alone[0].tobytes() == whole[0][rows].tobytes()
        assert alone[1].tobytes() == whole[1][rows].tobytes()


def test_gain_shows_through_noise_and_saturation_only() -> None:
    """Alone it is standardised away; against noise it wins; with saturation it flattens."""
    plain, _, _ = windows()
    alone, _ = run({"ecg_gain": 50.0, "ppg_gain": 0.01})
    assert np.allclose(alone, plain, atol=1e-4)
    weak, _ = run({"ecg_gain": 0.1, "ecg_noise": 1.0})
    strong, _ = run({"ecg_gain": 10.0, "ecg_noise": 1.0})
    assert power(weak[:, ECG], 10.0, 62.5).mean() > 0.5
    assert power(strong[:, ECG], 10.0, 62.5).mean() < 0.15
    assert np.allclose(weak[:, PPG], plain[:, PPG], atol=1e-4)
    flat, _ = run({"ecg_gain": 10.0, "saturation": 1.0})
    whole = flat[1::3, ECG]  # without gaps
    top = whole.max(axis=1, keepdims=True)
    assert np.isclose(np.abs(whole), top, rtol=0.05).mean() > 0.6


def test_a_band_and_a_sampling_rate_take_away_what_is_beyond() -> None:
    """Power above 15 Hz: white noise has most of it, a band to 10 Hz or a rate of 25 Hz none."""
    noisy = {"ecg_noise": 3.0, "ppg_noise": 3.0}
    before, _ = run(noisy)
    after, _ = run({**noisy, "ecg_band_hz": (0.5, 10.0), "ppg_fs_hz": 25.0})
    assert power(before, 15.0, 62.5).min() > 0.5
    whole = [row for row in range(len(after)) if row % 3]  # gaps in the others spread the spectrum
    assert power(after[whole], 20.0, 62.5).max() < 0.05


def test_sensors_are_missing_for_patients_not_for_windows() -> None:
    """The shares of patients, never both sensors of one; the rest is left alone."""
    signal, valid = run({"missing_ecg": 0.3, "missing_ppg": 0.4}, patients=200, each=2)
    lost = ~valid.any(axis=2).reshape(200, 2, 2)  # (patient, window, channel)
    assert (lost[:, 0] == lost[:, 1]).all()
    assert not lost.all(axis=2).any()
    assert abs(lost[:, 0, ECG].mean() - 0.3) < 0.15
    assert abs(lost[:, 0, PPG].mean() - 0.4) < 0.15
    assert not signal.reshape(200, 2, 2, 1250)[lost].any()


def test_an_inverted_ecg_is_upside_down_and_the_ppg_is_not() -> None:
    """Exactly, but for rounding."""
    plain, _, _ = windows()
    signal, _ = run({"invert_ecg": True})
    assert np.allclose(signal[:, ECG], -plain[:, ECG], atol=1e-5)
    assert np.allclose(signal[:, PPG], plain[:, PPG], atol=1e-5)


def test_a_channel_that_an_effect_flattens_is_no_longer_valid() -> None:
    """As the quality gate would have it."""
    signal, valid = standardised(np.ones((1, 2, 1250), np.float32), np.ones((1, 2, 50), bool))
    assert not signal.any()
    assert not valid.any()


def test_two_effects_of_one_site_draw_apart() -> None:
    """The same table twice is not the same noise twice."""
    one, _ = run({"ecg_noise": 5.0})
    signal, valid, patient = windows()
    moved, _ = apply(
        [PlacedEffect(SiteEffect(share=1.0, ecg_noise=5.0), 1)], signal, valid, patient, KEY
    )
    assert np.abs(one[:, ECG] - moved[:, ECG]).max() > 1.0


@pytest.mark.parametrize(
    ("made", "words"),
    [
        ({"ecg_band_hz": (10.0, 5.0)}, "ecg_band_hz"),
        ({"ppg_band_hz": (0.5, 62.5)}, "ppg_band_hz"),
        ({"missing_ecg": 0.6, "missing_ppg": 0.6}, "missing_ecg and missing_ppg"),
    ],
)
def test_effects_that_cannot_be_are_refused(made: dict[str, Any], words: str) -> None:
    """With the number of the table and the field."""
    federation = Federation(effects=(SiteEffect(share=0.5), SiteEffect(share=0.5, **made)))
    with pytest.raises(OurMistake, match=words) as caught:
        effects_of(federation, ("a", "b"), 1)
    assert "number 2" in str(caught.value)


def test_effects_go_to_the_sites_that_are_named() -> None:
    """In the order of the file, and to nobody else; a wrong name is told with those that exist."""
    federation = Federation(
        effects=(SiteEffect(sites=("b",), ecg_gain=2.0), SiteEffect(share=1.0, invert_ecg=True))
    )
    found = effects_of(federation, ("a", "b"), 1)
    assert [one.place for one in found["b"]] == [0, 1]
    assert [one.place for one in found["a"]] == [1]
    with pytest.raises(OurMistake, match="does not have: b"):
        effects_of(federation, ("a", "c"), 1)


def test_words_name_what_differs() -> None:
    """For tables and federation.json."""
    made = SiteEffect(share=0.2, ecg_noise=0.5, ppg_band_hz=(0.5, 3.0), invert_ecg=True)
    assert effects.words(made) == "ecg_noise 0.5, ppg_band_hz 0.5 to 3, invert_ecg"
    assert effects.words(SiteEffect(share=0.2)) == "none"
