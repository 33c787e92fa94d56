"""`draw_windows`: deterministic, preprocessed like real windows, and truthful about its beats."""

from __future__ import annotations

import numpy as np
import pytest

from shared_model.config import FS_HZ, TOKENS, WINDOW_SAMPLES
from shared_model.errors import OurMistake
from simulations.cohort import RHYTHMS, SiteEffects, draw_windows, pretend_sites
from simulations.cohort_figure import measure, spectra

QUIET = SiteEffects(
    name="quiet",
    leads={"II": 1.0},
    rhythms={"sinus": 1.0},
    noise_ecg=0.05,
    noise_ppg=0.05,
    missing=0.0,
    exercise=0.0,
    bits=16,
)


def rows_of(labels: dict[str, np.ndarray], rhythm: str) -> np.ndarray:
    return np.flatnonzero(labels["rhythm"] == RHYTHMS.index(rhythm))


def only(rhythm: str, **changes: object) -> SiteEffects:
    return SiteEffects(**{**vars(QUIET), "rhythms": {rhythm: 1.0}, **changes})


@pytest.fixture(scope="module")
def wide() -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    return draw_windows(np.random.default_rng(11), 384)


def test_same_seed_gives_the_same_bytes() -> None:
    """Determinism: signal, validity and every label."""
    first, second = (
        draw_windows(np.random.default_rng(5), 130, short_share=0.1, single_share=0.1)
        for _ in range(2)
    )
    assert first[0].tobytes() == second[0].tobytes()
    assert first[1].tobytes() == second[1].tobytes()
    for name, column in first[2].items():
        assert column.tobytes() == second[2][name].tobytes(), name
    other = draw_windows(np.random.default_rng(6), 130)
    assert other[0].tobytes() != first[0].tobytes()


def test_windows_have_the_shape_and_scale_of_real_ones(wide: tuple) -> None:
    """float32 (window, 2, 1250), z-scored per channel, zero where invalid, no NaN."""
    signal, valid, labels = wide
    assert signal.dtype == np.float32
    assert signal.shape == (384, 2, WINDOW_SAMPLES)
    assert valid.shape == (384, 2, TOKENS)
    assert np.isfinite(signal).all()
    whole = valid.all(axis=2)
    assert whole.mean() > 0.85
    np.testing.assert_allclose(signal[whole].mean(axis=1), 0, atol=1e-3)
    np.testing.assert_allclose(signal[whole].std(axis=1), 1, atol=1e-3)
    assert not signal[~valid.any(axis=2)].any()
    assert all(len(column) == 384 for column in labels.values())


def test_the_wide_draw_has_every_rhythm_and_age(wide: tuple) -> None:
    """Rhythm variety is what the warm start lives on."""
    labels = wide[2]
    assert len(np.unique(labels["rhythm"])) >= 11
    assert labels["age"].min() < 30 < 80 < labels["age"].max()
    assert set(np.unique(labels["hypertension"])) == {0, 1, 2, 3}
    assert (labels["sbp"] > labels["dbp"]).all()


def test_power_lies_where_hearts_have_it(wide: tuple) -> None:
    """PSD sanity after the product's own filters."""
    signal, valid, _ = wide
    for channel, (low_hz, high_hz) in enumerate(((0.5, 40.0), (0.5, 8.0))):
        frequency, decibel = spectra(signal[valid[:, channel].all(axis=1), channel])
        power = 10 ** (decibel / 10)
        inside = power[:, (frequency >= low_hz * 0.6) & (frequency <= high_hz)].sum(axis=1)
        assert np.median(inside / power.sum(axis=1)) > 0.95
    # a pulse has most of its power below 4 Hz, an ECG has not
    ecg, ppg = (10 ** (spectra(signal[valid[:, c].all(axis=1), c])[1] / 10) for c in range(2))
    below = np.fft.rfftfreq(512, 1 / FS_HZ) < 4
    assert np.median(ppg[:, below].sum(axis=1) / ppg.sum(axis=1)) > 0.75
    assert np.median(ecg[:, below].sum(axis=1) / ecg.sum(axis=1)) < 0.6


def test_heart_rate_of_both_channels_equals_the_label() -> None:
    """A simple R-peak and pulse count on quiet sinus windows finds hr_bpm."""
    signal, _, labels = draw_windows(np.random.default_rng(2), 96, effects=QUIET)
    for channel, name in enumerate(("ecg", "ppg")):
        found = np.array([measure(window, name)[0] for window in signal[:, channel]])
        error = np.abs(found - labels["hr_bpm"])
        assert np.nanmedian(error) < 1.5, name
        assert np.nanmean(error < 6) > 0.85, name


def test_fibrillation_is_irregular_and_has_no_pattern() -> None:
    """Irregular RR in AF, even RR in sinus and paced rhythm."""
    af = draw_windows(np.random.default_rng(3), 64, effects=only("af"))[2]
    af = {name: column[rows_of(af, "af")] for name, column in af.items()}
    paced = draw_windows(np.random.default_rng(3), 64, effects=only("paced"))[2]
    sinus = draw_windows(np.random.default_rng(3), 64, effects=QUIET)[2]
    assert np.nanmedian(af["rr_spread"]) > 0.1
    assert np.nanmedian(af["rmssd_ms"]) > 3 * np.nanmedian(sinus["rmssd_ms"])
    assert np.nanmedian(paced["rr_spread"]) < 0.02


def test_pulses_follow_their_beats() -> None:
    """PAT is positive; stiffer arteries and higher pressure conduct faster."""
    labels = draw_windows(np.random.default_rng(4), 256)[2]
    assert (labels["pat_s"] > 0.05).all()
    assert np.corrcoef(labels["pat_s"], labels["sbp"])[0, 1] < -0.3
    assert np.corrcoef(labels["stiffness"], labels["age"])[0, 1] > 0.6
    assert np.corrcoef(labels["reflected"], labels["age"])[0, 1] > 0.2


def test_bigeminy_is_every_second_beat() -> None:
    """Ectopic count is about half the beats, in trigeminy a third."""
    for rhythm, share in (("bigeminy", 0.5), ("trigeminy", 1 / 3)):
        labels = draw_windows(np.random.default_rng(5), 48, effects=only(rhythm))[2]
        part = labels["ectopic_count"] / labels["beat_count"]
        assert abs(np.median(part) - share) < 0.06


def test_tachycardia_runs_are_fast_and_ventricular() -> None:
    """In windows labelled VT three beats or more are ventricular."""
    labels = draw_windows(np.random.default_rng(6), 96, effects=only("vt"))[2]
    vt = rows_of(labels, "vt")
    assert len(vt) > 30
    assert (labels["ectopic_count"][vt] >= 3).all()
    assert np.nanmedian(labels["hr_bpm"][vt]) > 100


def test_channels_can_be_dropped_and_recordings_short() -> None:
    """Single-sensor windows and 2.1-s recordings, as some sites have."""
    rng = np.random.default_rng(7)
    _, valid, _ = draw_windows(rng, 64, effects=QUIET, paired=False)
    assert (valid.any(axis=2).sum(axis=1) <= 1).all()
    assert 10 < valid[:, 0].any(axis=1).sum() < 54
    signal, valid, _ = draw_windows(rng, 32, effects=QUIET, short_share=1.0)
    assert not valid[:, :, 11:].any()
    assert valid[:, :, :10].mean() > 0.8
    assert not signal[:, :, 263:].any()


def test_windows_of_one_patient_share_the_patient() -> None:
    """Same traits, other beats."""
    signal, _, labels = draw_windows(np.random.default_rng(8), 12, windows_per_patient=3)
    assert labels["patient"].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert (labels["age"].reshape(4, 3) == labels["age"].reshape(4, 3)[:, :1]).all()
    assert not np.array_equal(signal[0], signal[1])


def test_site_effects_change_the_signal() -> None:
    """A wrist in motion is not a finger at rest."""
    sites = {site.name.split("-")[0]: site for site in pretend_sites(5)}
    clinic = draw_windows(np.random.default_rng(9), 96, effects=sites["clinic"])
    wrist = draw_windows(np.random.default_rng(9), 96, effects=sites["wearable"])
    assert np.nanmedian(wrist[2]["hr_bpm"]) > np.nanmedian(clinic[2]["hr_bpm"]) + 10
    assert np.median(wrist[2]["age"]) < np.median(clinic[2]["age"]) - 10


@pytest.mark.parametrize(
    "wrong",
    [
        {"rhythms": {"waltz": 1.0}},
        {"leads": {}},
        {"fs_ecg_hz": 5.0},
        {"bits": 3},
        {"rhythms": {"sinus": 0.0}},
        {"rhythms": {"sinus": -1.0}},
        {"pulse_style": "toe"},
    ],
)
def test_impossible_sites_are_refused(wrong: dict[str, object]) -> None:
    """A configuration is checked once, when it is made."""
    with pytest.raises(OurMistake):
        SiteEffects(**wrong)  # type: ignore[arg-type]


def test_wrong_calls_are_refused() -> None:
    """count must fit windows_per_patient; shares are shares."""
    rng = np.random.default_rng(0)
    for wrong in (
        {"count": 0},
        {"count": 7, "windows_per_patient": 2},
        {"count": 4, "single_share": 2.0},
    ):
        with pytest.raises(OurMistake):
            draw_windows(rng, **wrong)


def test_a_noise_level_is_that_of_what_was_added() -> None:
    """A device that adds hardly anything against a loud one."""
    from dataclasses import replace

    quiet = replace(QUIET, noise_ecg=1e-3, noise_ppg=1e-3)
    loud = replace(QUIET, noise_ecg=3.0, noise_ppg=3.0)
    levels = {}
    for name, effects in (("quiet", quiet), ("loud", loud)):
        _, _, labels = draw_windows(np.random.default_rng(21), 64, effects=effects)
        for channel in ("noise_ecg", "noise_ppg"):
            assert labels[channel].shape == (64,)
            level = labels[channel][np.isfinite(labels[channel])]  # the gate refuses the loudest
            assert len(level) >= 40
            assert ((level >= -4.0) & (level <= 2.0)).all()
            levels[name, channel] = float(np.median(level))
    for channel in ("noise_ecg", "noise_ppg"):
        assert levels["quiet", channel] < -2.5
        assert levels["loud", channel] > levels["quiet", channel] + 1.0


def test_an_absent_sensor_has_no_noise_level() -> None:
    _, valid, labels = draw_windows(np.random.default_rng(22), 64, single_share=0.5)
    for channel, name in enumerate(("noise_ecg", "noise_ppg")):
        absent = ~valid[:, channel].any(axis=1)
        assert absent.any()
        assert np.array_equal(np.isnan(labels[name]), absent)


def test_noise_level_by_hand() -> None:
    """A sine of amplitude 1 and one of 0.1 in the band: a hundredth of the power; outside: none."""
    from simulations.cohort_render import forward, frequencies, noise_level

    fs_hz, samples = 125.0, 1250
    time_s = np.arange(samples) / fs_hz
    clean = np.sin(2 * np.pi * 5.0 * time_s)[None].astype(np.float32)
    frequency = frequencies(samples, fs_hz)
    for noise_hz, right in ((7.0, -2.0), (50.0, -4.0)):
        noisy = clean + 0.1 * np.sin(2 * np.pi * noise_hz * time_s)[None].astype(np.float32)
        level = noise_level(forward(noisy), forward(clean), frequency, (0.5, 40.0))
        assert level == pytest.approx([right], abs=1e-3)
