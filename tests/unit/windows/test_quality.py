"""The gate names what is wrong, and keeps what is only ill."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared_model import quality
from shared_model.windows import make_windows
from simulations.bench_ingest import synthetic_recording

FS_HZ = 125.0
WINDOWS = 3


def reasons(ecg: np.ndarray | None, ppg: np.ndarray | None, fs_hz: float = FS_HZ) -> list[set[str]]:
    """Reasons found over all windows: [of the ECG, of the PPG]."""
    refusal = make_windows(ecg, fs_hz, ppg, fs_hz).refusal
    return [{quality.REASONS[code] for code in refusal[:, channel]} for channel in (0, 1)]


def healthy(seed: int = 0, fs_hz: float = FS_HZ) -> tuple[np.ndarray, np.ndarray]:
    return synthetic_recording(np.random.default_rng(seed), WINDOWS, fs_hz, fs_hz)


def from_beats(
    ecg_beats_s: np.ndarray, pulses_s: np.ndarray, heights: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """30 s of narrow complexes and pulses at given times, with a little noise."""
    rng = np.random.default_rng(5)
    time_s = np.arange(int(30 * FS_HZ)) / FS_HZ
    ecg = 0.02 * rng.standard_normal(len(time_s))
    ppg = 0.02 * rng.standard_normal(len(time_s))
    for beat_s in ecg_beats_s:
        ecg += np.exp(-0.5 * ((time_s - beat_s) / 0.012) ** 2)
        ecg += 0.25 * np.exp(-0.5 * ((time_s - beat_s - 0.25) / 0.04) ** 2)
    for index, pulse_s in enumerate(pulses_s):
        height = 1.0 if heights is None else heights[index]
        ppg += height * np.exp(-0.5 * ((time_s - pulse_s - 0.25) / 0.08) ** 2)
        ppg += 0.3 * height * np.exp(-0.5 * ((time_s - pulse_s - 0.5) / 0.12) ** 2)
    return ecg, ppg


def test_a_healthy_recording_is_accepted() -> None:
    """Both channels, every window."""
    assert reasons(*healthy()) == [{"accepted"}, {"accepted"}]


def test_reasons_are_fixed() -> None:
    """Codes are stored, so their order is part of the format."""
    assert quality.REASONS == (
        "accepted", "absent", "too short", "missing", "flat", "saturated", "clipped", "lead off",
        "noise", "no pulse", "rates disagree",
    )  # fmt: skip


@pytest.mark.parametrize("channel", [0, 1])
@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (np.zeros_like, "flat"),
        (lambda x: np.full_like(x, 2047.0), "flat"),
        (lambda x: np.where(np.arange(len(x)) % 1250 < 500, 0.0, x), "flat"),
        (lambda x: np.full_like(x, np.nan), "missing"),
        (lambda x: np.where(np.arange(len(x)) % 1250 < 800, np.nan, x), "missing"),
        (lambda x: np.clip(x, np.quantile(x, 0.04), np.quantile(x, 0.97)), "clipped"),
        (lambda x: np.clip(x, np.quantile(x, 0.25), np.quantile(x, 0.75)), "saturated"),
        (lambda x: np.where(np.arange(len(x)) % 1250 < 500, x.max(), x), "saturated"),
    ],
)
def test_a_broken_channel_is_named(
    channel: int, damage: Callable[[np.ndarray], np.ndarray], expected: str
) -> None:
    """And the other channel stays."""
    signals = list(healthy())
    signals[channel] = damage(signals[channel])
    found = reasons(*signals)
    assert found[channel] == {expected}
    assert found[1 - channel] == {"accepted"}


def test_quantisation_noise_is_flat() -> None:
    """A channel that flickers by one converter step shows nothing."""
    flicker = (np.random.default_rng(3).random(3750) < 0.3).astype(float)
    assert reasons(flicker, None)[0] == {"flat"}


@pytest.mark.parametrize("seed", range(5))
def test_white_noise_is_no_heart(seed: int) -> None:
    """In either channel."""
    noise = np.random.default_rng(seed).standard_normal(3750)
    assert reasons(noise, noise) == [{"noise"}, {"no pulse"}]


def test_mains_alone_means_the_lead_is_off() -> None:
    """50 Hz at 250 Hz sampling, and nothing else but a trace of noise."""
    time_s = np.arange(7500) / 250.0
    hum = np.sin(2 * np.pi * 50 * time_s) + 0.01 * np.random.default_rng(0).standard_normal(7500)
    assert reasons(hum, None, 250.0)[0] == {"lead off"}


def test_drift_alone_is_neither_heart_nor_pulse() -> None:
    """Slow baseline movement without beats."""
    time_s = np.arange(3750) / FS_HZ
    drift = 50 * np.sin(2 * np.pi * 0.05 * time_s)
    assert reasons(drift, drift) == [{"lead off"}, {"no pulse"}]


def test_one_artefact_that_drowns_the_rest_is_noise() -> None:
    """A spike a thousand times the signal."""
    ecg, ppg = healthy()
    ecg[600:610] += 1000.0
    refusal = make_windows(ecg, FS_HZ, ppg, FS_HZ).refusal
    assert quality.REASONS[refusal[0, 0]] == "noise"
    assert (refusal[1:] == quality.ACCEPTED).all()


@pytest.mark.parametrize(
    ("ecg_bpm", "ppg_bpm"), [(60, 100), (75, 110), (60, 90), (120, 80), (140, 82)]
)
def test_two_regular_rates_that_no_heart_has_disagree(ecg_bpm: float, ppg_bpm: float) -> None:
    """Motion, or two people's files; the PPG is refused, the ECG stays."""
    signals = from_beats(np.arange(0.3, 30, 60 / ecg_bpm), np.arange(0.3, 30, 60 / ppg_bpm))
    assert reasons(*signals) == [{"accepted"}, {"rates disagree"}]


@pytest.mark.parametrize("ratio", [1, 2, 3])
def test_a_pulse_deficit_is_kept(ratio: int) -> None:
    """Every second or third beat without a pulse, as in bigeminy or fast VT."""
    beats_s = np.arange(0.3, 30, 60 / 150)
    assert reasons(*from_beats(beats_s, beats_s[::ratio])) == [{"accepted"}, {"accepted"}]


def test_trigeminy_with_a_weak_third_pulse_is_kept() -> None:
    """Two sinus beats and an early one whose pulse is gone, over and over."""
    start_s = np.arange(0.3, 28.5, 2.4)
    beats_s = np.sort(np.concatenate([start_s, start_s + 0.8, start_s + 1.3]))
    pulses_s = np.sort(np.concatenate([start_s, start_s + 1.2]))
    assert reasons(*from_beats(beats_s, pulses_s)) == [{"accepted"}, {"accepted"}]


def test_bigeminy_is_kept_with_and_without_its_second_pulse() -> None:
    """A beat, an early beat, a pause."""
    start_s = np.arange(0.3, 29, 1.6)
    beats_s = np.sort(np.concatenate([start_s, start_s + 0.5]))
    assert reasons(*from_beats(beats_s, start_s)) == [{"accepted"}, {"accepted"}]
    heights = np.tile([1.0, 0.4], len(start_s))[: len(beats_s)]
    assert reasons(*from_beats(beats_s, beats_s, heights)) == [{"accepted"}, {"accepted"}]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), rate_bpm=st.floats(45, 170))
def test_atrial_fibrillation_is_kept(seed: int, rate_bpm: float) -> None:
    """Wholly irregular intervals, pulses of every height, weak ones missing."""
    rng = np.random.default_rng(seed)
    beats_s = np.cumsum(60 / rate_bpm * rng.gamma(16.0, 1 / 16.0, 200)) + 0.3
    beats_s = beats_s[beats_s < 29.5]
    heights = rng.uniform(0.0, 1.0, len(beats_s))
    assert reasons(*from_beats(beats_s, beats_s, heights)) == [{"accepted"}, {"accepted"}]


@settings(max_examples=25, deadline=None)
@given(rate_hz=st.floats(2.0, 4.5), seed=st.integers(0, 2**32 - 1))
def test_ventricular_tachycardia_is_kept(rate_hz: float, seed: int) -> None:
    """A wide, sine-like ECG of 120 to 270 a minute, PPG nearly gone."""
    rng = np.random.default_rng(seed)
    time_s = np.arange(3750) / FS_HZ
    ecg = np.sin(2 * np.pi * rate_hz * time_s) + 0.3 * np.sin(4 * np.pi * rate_hz * time_s + 1.0)
    ecg += 0.03 * rng.standard_normal(len(time_s))
    assert reasons(ecg, None)[0] == {"accepted"}


def test_a_long_pause_is_kept() -> None:
    """Four seconds without a beat: the baseline still shows that electrodes are on."""
    beats_s = np.array([0.5, 1.4, 5.5, 6.4, 7.3, 8.2, 9.1, 10.5, 12, 16, 17, 18, 21, 25, 26, 27])
    assert reasons(*from_beats(beats_s, beats_s)) == [{"accepted"}, {"accepted"}]


def test_a_coarse_converter_is_not_clipping() -> None:
    """A pulse digitised in 60 steps has flat tops that nobody cut."""
    _, ppg = healthy()
    coarse = np.round((ppg - ppg.min()) / (ppg.max() - ppg.min()) * 60)
    assert reasons(None, coarse)[1] == {"accepted"}


def test_a_window_is_judged_by_itself() -> None:
    """What stands in other windows of the recording changes no reason."""
    ecg, ppg = healthy()
    alone = make_windows(ecg[:1250], FS_HZ, ppg[:1250], FS_HZ).refusal
    ecg[1250:] = 0.0
    ppg[2500:] = np.nan
    among = make_windows(ecg, FS_HZ, ppg, FS_HZ).refusal
    np.testing.assert_array_equal(alone[0], among[0])
