"""Rates and gaps by the times of a CSV file."""

from __future__ import annotations

import re

import numpy as np
import pytest

from client.formats.base import Samples
from client.formats.csv_grid import grid
from shared_model.errors import DataFault

SAMPLES = 2000


def times(rate_hz: float, tick_s: float, *, begin_s: float = 0.0) -> Samples:
    """Of a regular recording, rounded."""
    return np.round((np.arange(SAMPLES) / rate_hz + begin_s) / tick_s) * tick_s


@pytest.mark.parametrize("rate_hz", [30.0, 45.0, 60.0, 62.5, 99.0, 125.0, 360.0, 1000.0])
@pytest.mark.parametrize("tick_s", [1e-6, 1e-4, 1e-3])
def test_times_that_are_rounded_finely_give_the_rate(rate_hz: float, tick_s: float) -> None:
    found, place = grid(times(rate_hz, tick_s), None)
    assert found == pytest.approx(rate_hz, rel=2e-3)
    assert place is None


@pytest.mark.parametrize(
    ("rate_hz", "tick_s"), [(80.0, 0.01), (75.0, 0.01), (800.0, 1e-3), (98.0, 0.01), (700.0, 1e-3)]
)
@pytest.mark.parametrize("begin_s", [0.0, 0.0041, 1700000000.0])
def test_times_rounded_to_their_step_want_the_rate(
    rate_hz: float, tick_s: float, begin_s: float
) -> None:
    """80 Hz in hundredths was 100 Hz with a fifth of the samples missing, and 80 was refused."""
    made = times(rate_hz, tick_s, begin_s=begin_s)
    with pytest.raises(DataFault, match="twice as long") as caught:
        grid(made, None)
    told = [float(one) for one in re.findall(r"([0-9.]+) Hz", caught.value.message)]
    assert told == pytest.approx([rate_hz, 1 / tick_s], rel=1e-3)
    assert caught.value.cause == "sampling-rate"
    assert "fs_hz" in caught.value.do
    assert grid(made, rate_hz) == (rate_hz, None)
    other, place = grid(made, 1 / tick_s)
    assert other == 1 / tick_s
    assert place is not None
    assert place[-1] == pytest.approx((SAMPLES - 1) / rate_hz / tick_s, abs=2)


def test_a_third_more_than_a_step_is_no_missing_sample() -> None:
    """Steps of two and three ticks: half a sample cannot be missing."""
    found, place = grid(times(45.0, 0.01), None)
    assert found == pytest.approx(45.0, rel=1e-3)
    assert place is None


@pytest.mark.parametrize("rate_hz", [402.0, 430.0, 450.0, 480.0, 520.0, 550.0, 600.0])
def test_rounded_times_with_lost_samples_keep_their_rate(rate_hz: float) -> None:
    """In ms: one lost sample of 430 Hz made 500 Hz of it, with a quarter of the samples missing."""
    made = np.delete(times(rate_hz, 1e-3), [500, 1100, 1101])
    found, place = grid(made, None)
    assert found == pytest.approx(rate_hz, rel=3e-3)
    assert place is not None
    assert np.array_equal(place, np.delete(np.arange(SAMPLES), [500, 1100, 1101]))
    assert grid(made, rate_hz)[0] == rate_hz


@pytest.mark.parametrize(
    ("rate_hz", "tick_s"),
    [(400.0, 0.001), (500.0, 0.001), (430.0, 0.001), (240.0, 0.002), (96.0, 0.005)],
)
def test_a_clock_that_wanders_by_a_tick_loses_no_sample(rate_hz: float, tick_s: float) -> None:
    """It made gaps of steps of three ticks, and no sample was missing."""
    exact = np.arange(SAMPLES) / rate_hz
    wander = 1.2 * tick_s * np.sin(2 * np.pi * exact / 1.7)
    found, place = grid(np.round((exact + wander) / tick_s) * tick_s, None)
    assert found == pytest.approx(rate_hz, rel=3e-3)
    assert place is None


@pytest.mark.parametrize("rate_hz", [80.0, 90.0, 98.0])
def test_lost_samples_do_not_hide_that_times_are_rounded(rate_hz: float) -> None:
    """One of 90 Hz in hundredths made 100 Hz of it, and 90 was refused."""
    made = np.delete(times(rate_hz, 0.01), [300, 900])
    with pytest.raises(DataFault, match="twice as long"):
        grid(made, None)
    assert grid(made, rate_hz)[0] == rate_hz


def test_samples_missing_at_a_round_rate_want_the_rate() -> None:
    """100 Hz, of which nobody can say whether 98 was meant."""
    kept = np.sort(np.random.default_rng(0).choice(SAMPLES, SAMPLES * 95 // 100, replace=False))
    with pytest.raises(DataFault, match="samples are missing"):
        grid(kept / 100.0, None)
    rate, place = grid(kept / 100.0, 100.0)
    assert rate == 100.0
    assert place is not None
    assert np.array_equal(place, kept - kept[0])


@pytest.mark.parametrize("share", [0.005, 0.02, 0.1, 0.25])
@pytest.mark.parametrize("seed", range(5))
def test_samples_missing_here_and_there_are_gaps(share: float, seed: int) -> None:
    """At places of chance, whatever many: no other rate fits."""
    rng = np.random.default_rng(seed)
    kept = np.sort(rng.choice(SAMPLES, int(SAMPLES * (1 - share)), replace=False))
    found, place = grid(kept / 125.0, None)
    assert found == pytest.approx(125.0)
    assert place is not None
    assert np.array_equal(place, kept - kept[0])


def test_long_gaps_hide_no_rounding() -> None:
    """A recording in parts, 80 Hz in hundredths of a second: each part is of 80 Hz."""
    made = times(80.0, 0.01)
    made[700:] += 30.0
    made[1500:] += 5.0
    with pytest.raises(DataFault, match=r"about 80 Hz.*100 Hz"):
        grid(made, None)
    rate, place = grid(made, 80.0)
    assert rate == 80.0
    assert place is not None
    assert np.array_equal(np.flatnonzero(np.diff(place) > 1), [699, 1499])
    assert place[-1] == pytest.approx(SAMPLES - 1 + 35 * 80, abs=2)


@pytest.mark.parametrize(("own_hz", "given_hz"), [(128.0, 125.0), (250.0, 256.0), (125.0, 131.0)])
def test_another_rate_than_that_of_the_times_is_refused(own_hz: float, given_hz: float) -> None:
    """Up to 5 % the table's was taken, against the times."""
    with pytest.raises(DataFault, match="disagree by more than 1 %"):
        grid(times(own_hz, 1e-6), given_hz)
    assert grid(times(own_hz, 1e-6), own_hz * 1.004)[0] == own_hz * 1.004


def test_times_that_tell_nothing_apart_say_what_to_do() -> None:
    """Whole seconds."""
    with pytest.raises(DataFault, match="do not increase") as caught:
        grid(np.floor(times(125.0, 1e-6)), 125.0)
    assert "time_column that the file does not have" in caught.value.do
