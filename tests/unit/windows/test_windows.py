"""Recordings become windows: shapes, rates, gaps, short recordings, polarity."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from shared_model import quality
from shared_model.config import PATCH_SAMPLES, TOKENS, WINDOW_SAMPLES
from shared_model.errors import DataFault
from shared_model.windows import LONGEST_S, _resampling, make_windows, prepare
from simulations.bench_ingest import synthetic_recording


@pytest.fixture(scope="module")
def pair() -> tuple[np.ndarray, np.ndarray]:
    """60 s of ECG at 250 Hz and PPG at 125 Hz."""
    return synthetic_recording(np.random.default_rng(1), 6, 250.0, 125.0)


def test_a_minute_of_both_gives_six_valid_windows(pair: tuple[np.ndarray, np.ndarray]) -> None:
    """Shapes, types and start times of the contract."""
    windows = make_windows(pair[0], 250.0, pair[1], 125.0)
    assert windows.signal.shape == (6, 2, WINDOW_SAMPLES)
    assert windows.signal.dtype == np.float32
    assert windows.valid.shape == (6, 2, TOKENS)
    assert windows.valid.all()
    assert windows.start_s.tolist() == [0, 10, 20, 30, 40, 50]
    assert (windows.refusal == quality.ACCEPTED).all()
    np.testing.assert_allclose(windows.signal.mean(axis=2), 0.0, atol=1e-4)
    np.testing.assert_allclose(windows.signal.std(axis=2), 1.0, atol=1e-3)


@settings(max_examples=40, deadline=None)
@example(fs_hz=1249.5, phase=0.0)
@example(fs_hz=1999.5, phase=0.0)
@given(
    fs_hz=st.one_of(
        st.floats(25.0, 2000.0), st.sampled_from([25.0, 29.41, 30.0, 64.0, 360.0, 2e3])
    ),
    phase=st.floats(0.0, 6.28),
)
def test_a_slow_sine_survives_any_sampling_rate(fs_hz: float, phase: float) -> None:
    """1.2 Hz sampled at 25 to 2000 Hz comes out as the same sine at 125 Hz; above 1000 Hz a rate
    that is no simple ratio is off by up to 0.25 ms a second (1249.5 Hz: 0.1 ms)."""
    up, down, _ = _resampling(fs_hz)
    off = abs(up / down * fs_hz / 125.0 - 1.0)
    assert off <= 2.6e-4
    steepest = np.sqrt(2) * 2 * np.pi * 1.2  # of a second
    time_s = np.arange(int(35 * fs_hz)) / fs_hz
    prepared = prepare(None, 0.0, 900.0 + np.sin(2 * np.pi * 1.2 * time_s + phase), fs_hz)
    assert prepared.signal.shape[0] == 3
    expected = np.sqrt(2) * np.sin(2 * np.pi * 1.2 * (10 + np.arange(1250) / 125) + phase)
    np.testing.assert_allclose(prepared.signal[1, 1], expected, atol=0.02 + 20.0 * off * steepest)


def test_what_no_one_can_hear_is_not_folded_into_the_band() -> None:
    """A 130-Hz tone at 256 Hz (alias: 5 Hz after careless decimation) leaves nothing in band."""
    fs_hz = 512.0
    time_s = np.arange(int(30 * fs_hz)) / fs_hz
    clean = np.sin(2 * np.pi * 1.2 * time_s)
    loud = clean + 5.0 * np.sin(2 * np.pi * 130.0 * time_s)
    one = prepare(clean, fs_hz, None, 0.0).signal[1, 0]
    two = prepare(loud, fs_hz, None, 0.0).signal[1, 0]
    np.testing.assert_allclose(one, two, atol=0.01)


@settings(max_examples=60, deadline=None)
@given(
    samples=hnp.arrays(
        np.float64,
        st.integers(0, 4000),
        elements=st.floats(allow_nan=True, allow_infinity=True, width=64),
        fill=st.sampled_from([0.0, float("nan"), 1.5]),
    ),
    fs_hz=st.sampled_from([25.0, 100.0, 125.0, 250.0, 333.3]),
    both=st.booleans(),
)
def test_no_array_of_numbers_breaks_the_pipeline(
    samples: np.ndarray, fs_hz: float, both: bool
) -> None:
    """Finite output, valid only where accepted, zero where refused; for anything at all."""
    windows = make_windows(samples, fs_hz, samples[::2] if both else None, fs_hz)
    assert np.isfinite(windows.signal).all()
    accepted = windows.refusal == quality.ACCEPTED
    assert not windows.valid[~accepted].any()
    assert not windows.signal[~accepted].any()
    assert (windows.refusal < len(quality.REASONS)).all()
    assert len(windows) == (max(1, int(len(samples) / fs_hz / 10 + 1e-9)) if len(samples) else 0)


def test_a_gap_makes_its_tokens_invalid_and_no_others(pair: tuple[np.ndarray, np.ndarray]) -> None:
    """2.02 to 2.38 s missing at 250 Hz: tokens 10 and 11 (2.0 to 2.4 s) go, the rest stays."""
    ecg = pair[0].copy()
    ecg[505:595] = np.nan
    windows = make_windows(ecg, 250.0, pair[1], 125.0)
    assert np.flatnonzero(~windows.valid[0, 0]).tolist() == [10, 11]
    assert windows.valid[1:].all()
    assert windows.valid[:, 1].all()
    inside = slice(10 * PATCH_SAMPLES + 4, 12 * PATCH_SAMPLES - 4)
    assert not windows.signal[0, 0, inside].any()


def test_samples_beyond_any_sensor_count_as_missing(pair: tuple[np.ndarray, np.ndarray]) -> None:
    """One value of 1e300 must not wipe out the recording."""
    ecg = pair[0].copy()
    ecg[1000] = 1e300
    ecg[1001] = -np.inf
    windows = make_windows(ecg, 250.0, None, 0.0)
    assert windows.valid[0, 0].sum() == TOKENS - 1
    assert windows.valid[1:, 0].all()


def test_a_recording_of_two_seconds_is_padded_with_invalid_tokens() -> None:
    """2.1 s at 250 Hz (as PPG-BP) is one window with ten whole tokens, z-scored over them."""
    _, ppg = synthetic_recording(np.random.default_rng(2), 1, 125.0, 250.0)
    windows = make_windows(None, 0.0, ppg[200:725], 250.0)
    assert windows.valid.shape == (1, 2, TOKENS)
    assert np.flatnonzero(windows.valid[0, 1]).tolist() == list(range(10))
    assert not windows.signal[0, 1, 263:].any()
    assert abs(windows.signal[0, 1, :263].std() - 1.0) < 0.01
    assert quality.REASONS[windows.refusal[0, 0]] == "absent"


def test_less_than_two_seconds_is_too_short() -> None:
    """Half a second is refused as such."""
    _, ppg = synthetic_recording(np.random.default_rng(2), 1, 125.0, 125.0)
    windows = make_windows(None, 0.0, ppg[:62], 125.0)
    assert [quality.REASONS[code] for code in windows.refusal[0]] == ["absent", "too short"]
    assert not windows.usable.any()


def test_either_modality_may_be_absent(pair: tuple[np.ndarray, np.ndarray]) -> None:
    """The other's windows do not change."""
    both = make_windows(pair[0], 250.0, pair[1], 125.0)
    ecg = make_windows(pair[0], 250.0, None, 0.0)
    ppg = make_windows(None, 0.0, pair[1], 125.0)
    np.testing.assert_array_equal(both.signal[:, 0], ecg.signal[:, 0])
    np.testing.assert_array_equal(both.signal[:, 1], ppg.signal[:, 1])
    assert not ecg.valid[:, 1].any()
    assert not ppg.valid[:, 0].any()
    assert len(make_windows(None, 0.0, None, 0.0)) == 0
    assert len(make_windows([], 125.0, None, 0.0)) == 0


def test_the_shorter_channel_is_missing_at_the_end(pair: tuple[np.ndarray, np.ndarray]) -> None:
    """ECG 60 s, PPG 25 s: PPG is there for two windows, half there for one, missing after."""
    windows = make_windows(pair[0], 250.0, pair[1][: 25 * 125], 125.0)
    assert len(windows) == 6
    assert windows.valid[:, 1].sum(axis=1).tolist() == [50, 50, 25, 0, 0, 0]
    assert [quality.REASONS[code] for code in windows.refusal[3:, 1]] == ["missing"] * 3


def test_an_inverted_pulse_is_turned_back(pair: tuple[np.ndarray, np.ndarray]) -> None:
    """Reflective wrist sensors give light, not blood volume."""
    upright = prepare(None, 0.0, pair[1], 125.0)
    inverted = prepare(None, 0.0, 4000.0 - 3.0 * pair[1], 125.0)
    assert (upright.flipped[1], inverted.flipped[1]) == (False, True)
    np.testing.assert_allclose(upright.signal[:, 1], inverted.signal[:, 1], atol=1e-3)


def test_an_ecg_is_never_turned(pair: tuple[np.ndarray, np.ndarray]) -> None:
    """Its sign is part of the diagnosis."""
    assert prepare(-pair[0], 250.0, None, 0.0).flipped == (False, False)


def test_scale_and_offset_do_not_matter(pair: tuple[np.ndarray, np.ndarray]) -> None:
    """Volts, millivolts or converter counts give the same windows."""
    one = make_windows(pair[0], 250.0, pair[1], 125.0)
    two = make_windows(pair[0] * 1e-3 + 0.5, 250.0, pair[1] * 1e4 - 2e4, 125.0)
    np.testing.assert_allclose(one.signal, two.signal, atol=2e-3)


@pytest.mark.parametrize("fs_hz", [24.9, 2000.1, 0.0, -125.0, float("nan"), float("inf")])
def test_a_sampling_rate_out_of_range_is_refused(fs_hz: float) -> None:
    """25 to 2000 Hz, nothing else."""
    with pytest.raises(DataFault) as caught:
        make_windows(np.zeros(5000), fs_hz, None, 0.0)
    assert caught.value.cause == "sampling-rate"


@pytest.mark.parametrize("samples", [np.zeros((2, 500)), [["a"]], "abc", [1.0, [2.0]]])
def test_samples_that_are_no_row_of_numbers_are_refused(samples: object) -> None:
    """Two-dimensional or not numeric."""
    with pytest.raises(DataFault) as caught:
        make_windows(samples, 125.0, None, 0.0)  # type: ignore[arg-type]
    assert caught.value.cause == "bad-values"


def test_the_input_is_left_as_it_was(pair: tuple[np.ndarray, np.ndarray]) -> None:
    """No filter works in place on the caller's array."""
    ecg, ppg = pair[0].copy(), pair[1].copy()
    make_windows(ecg, 250.0, ppg, 125.0)
    np.testing.assert_array_equal(ecg, pair[0])
    np.testing.assert_array_equal(ppg, pair[1])


def test_a_recording_of_days_is_refused_before_it_fills_the_memory() -> None:
    """A wrong sampling rate can turn an hour into a month; what is prepared must fit."""
    import tracemalloc

    ecg = np.zeros(int(LONGEST_S * 25) + 26)
    tracemalloc.start()
    with pytest.raises(DataFault) as caught:
        make_windows(ecg, 25.0, None, 125.0)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert caught.value.cause == "too-long"
    assert peak_bytes < 10_000_000
