"""Hand-made features: NeuroKit2's simulators give what they were asked for."""

from __future__ import annotations

import neurokit2 as nk
import numpy as np
import pytest

from simulations.probes.features import NAMES, hand_made


@pytest.fixture(scope="module")
def window() -> np.ndarray:
    """One window of ECG and PPG at 72 beats a minute: (1, 2, 1250)."""
    options = {"duration": 11, "sampling_rate": 125, "heart_rate": 72, "random_state": 3}
    pair = np.stack([nk.ecg_simulate(**options)[:1250], nk.ppg_simulate(**options)[:1250]])
    return ((pair - pair.mean(1, keepdims=True)) / pair.std(1, keepdims=True))[None]


def test_heart_rate_is_measured_from_either_sensor(window: np.ndarray) -> None:
    """72 in, about 72 out."""
    row = dict(zip(NAMES, hand_made(window, np.ones((1, 2, 50), dtype=bool))[0], strict=True))
    assert row["ecg_hr_bpm"] == pytest.approx(72, abs=3)
    assert row["ppg_hr_bpm"] == pytest.approx(72, abs=5)


def test_an_absent_sensor_gives_missing_features_only_there(window: np.ndarray) -> None:
    """No silent zeros."""
    valid = np.ones((1, 2, 50), dtype=bool)
    valid[0, 1] = False
    row = dict(zip(NAMES, hand_made(window, valid)[0], strict=True))
    assert all(
        np.isnan(value) for name, value in row.items() if name.startswith(("ppg_", "pulse_"))
    )
    assert np.isfinite(row["ecg_hr_bpm"])


def test_flat_and_noisy_windows_do_not_stop_the_row() -> None:
    """Whatever a peak finder makes of it, there is a row of numbers or NaN."""
    noise = np.random.default_rng(0).normal(size=(2, 2, 1250))
    noise[0] = 0.0
    assert hand_made(noise, np.ones((2, 2, 50), dtype=bool)).shape == (2, len(NAMES))
