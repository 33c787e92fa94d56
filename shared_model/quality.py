"""The quality gate: why a window of a channel was refused. It must keep the sick.

Rules describe what a broken recording looks like (nothing there, constant, stuck at a rail, no
heart-band energy, one artefact that drowns the rest), never whether beats are even or alike: such
scores find arrhythmia, not noise. Thresholds are fixed and apply to one window of one channel, so
that no patient's window depends on another's. Retention by rhythm is printed by `fedprint-lab
gate`; run it with every change of a number below.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import fft

from shared_model.config import FS_HZ, WINDOW_S, WINDOW_SAMPLES

REASONS = (
    "accepted",
    "absent",
    "too short",
    "missing",
    "flat",
    "saturated",
    "clipped",
    "lead off",
    "noise",
    "no pulse",
    "rates disagree",
)
"""Index is the code in `Windows.refusal`; the order is part of the store's format."""
ACCEPTED, ABSENT, TOO_SHORT, MISSING, FLAT, SATURATED = 0, 1, 2, 3, 4, 5
CLIPPED, LEAD_OFF, NOISE, NO_PULSE, RATES_DISAGREE = 6, 7, 8, 9, 10

MIN_RECORDED_S = 2.0
"""Less than this cannot show one whole beat at 30 bpm (too short; in a long recording: missing)."""
MIN_RECORDED_SHARE = 0.5
"""Of a window that lies inside a longer recording (missing)."""
FLAT_S = 2.0
"""One run of identical samples of this length (flat; at the window's extreme: saturated)."""
FLAT_STEPS = 1.5
"""Filtered spread in steps of the converter: below, there is quantisation noise only (flat)."""
CUT_SHARE = 0.01
"""Share of samples on cut-off tops or bottoms (clipped)."""
RAIL_SHARE = 0.15
"""As above (saturated)."""
CUT_MIN_S = {"ecg": 0.012, "ppg": 0.03}
CUT_MIN_SAMPLES = 3
CUT_JUMP_STEPS = 4.0
"""A cut-off top is entered or left in a jump; a coarsely digitised natural top is not."""
OUTSIDE_SHARE = 0.98
"""Of ECG power below 0.5 or above 40 Hz, with no peaks left inside (lead off)."""
ECG_FLATNESS = 0.45
PPG_FLATNESS = 0.35
"""Spectral flatness in band; white noise has 0.56. Above, and without peaks: noise, no pulse."""
NOISE_KURTOSIS = 5.0
NO_PEAKS_KURTOSIS = 4.0
"""Gaussian noise has 3, a sine 1.5; normal ECG more than 5, ventricular tachycardia from 2."""
ARTEFACT_SHARE = 0.8
"""Of the window's energy inside one stretch of `ARTEFACT_S` (noise)."""
ARTEFACT_S = {"ecg": 0.4, "ppg": 0.8}
PPG_HIGH_SHARE = 0.5
"""Of PPG power above 8 Hz, among what lies above 0.5 Hz (no pulse)."""
PPG_BAND_SHARE = 0.0005
"""Of PPG power inside 0.5-8 Hz, of everything (no pulse)."""
MIN_CROSSINGS = 6
"""Zero crossings in 10 s: fewer are fewer than 18 cycles a minute (no pulse, lead off)."""
SPECTRUM_SHARE = 0.5
"""Spectral rules need this share of the window recorded."""
REGULAR = {"ecg": 0.8, "ppg": 0.6}
"""Height of the autocorrelation from which a rate is plainly regular."""
SAME_RATE = 0.15
WHOLE_RATIO = 0.06
WHOLE_RATIOS = (2.0, 3.0, 4.0)
"""Two regular rates of one heart may stand so: pulse deficit, bigeminy, a high reflected wave."""
TRIGEMINY = 1.5
"""Two pulses to a pattern of three complexes; with one complex a period this cannot be."""
COMPLEXES_IN_PATTERN = 1.25
INVERTED_SKEWNESS = -0.2

_CHUNK = 256
_RATE_RANGE_BPM = (30.0, 250.0)
_FFT = 2560
_EDGE = round(0.5 * FS_HZ)
_HANN = np.hanning(WINDOW_SAMPLES).astype(np.float32)
_FREQUENCY_HZ = np.fft.rfftfreq(WINDOW_SAMPLES, 1.0 / FS_HZ)

Signal = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]
Codes = npt.NDArray[np.uint8]


def judge(
    name: str,
    raw: npt.NDArray[np.float64],
    fs_hz: float,
    plain: Signal,
    z_scored: Signal,
    spread: Signal,
    recorded: Flags,
) -> Codes:
    """Reason code of every window of one channel that is present.

    Args:
        name: "ecg" or "ppg".
        raw: (window, raw sample) as recorded at `fs_hz`, NaN where missing.
        plain: (window, sample) at 125 Hz before the band-pass.
        z_scored: (window, sample) after it, 0 where nothing was recorded.
        spread: (window,) standard deviation before z-scoring, in raw units.
        recorded: (window, sample).
    """
    codes = np.zeros(len(raw), np.uint8)
    for start in range(0, len(raw), _CHUNK):
        part = slice(start, start + _CHUNK)
        _judge_chunk(
            codes[part], name, raw[part], fs_hz, plain[part], z_scored[part], spread[part],
            recorded[part],
        )  # fmt: skip
    return codes


def _judge_chunk(
    codes: Codes,
    name: str,
    raw: npt.NDArray[np.float64],
    fs_hz: float,
    plain: Signal,
    z_scored: Signal,
    spread: Signal,
    recorded: Flags,
) -> None:
    """Rules from the most to the least certain; the first that holds gives the reason."""

    def refuse(reason: int, which: Flags) -> None:
        codes[which & (codes == ACCEPTED)] = reason

    share = recorded.mean(axis=1)
    too_little = share * WINDOW_S < MIN_RECORDED_S
    # Only a recording shorter than one window is "too short"; a hole in a longer one is "missing".
    ends_early = ~np.isnan(raw).all(axis=1) & recorded[:, 0] & ~recorded[:, -1]
    refuse(TOO_SHORT, too_little & ends_early & (len(raw) == 1))
    refuse(MISSING, too_little | ((share < MIN_RECORDED_SHARE) & (len(raw) > 1)))
    flat, saturated, clipped = _rails(name, raw, fs_hz, spread)
    refuse(FLAT, flat | (spread == 0.0))
    refuse(SATURATED, saturated)
    refuse(CLIPPED, clipped)
    enough = share >= SPECTRUM_SHARE
    if name == "ecg":
        lead_off, noise = _ecg_noise(plain, z_scored, fs_hz)
        refuse(LEAD_OFF, lead_off & enough)
        refuse(NOISE, noise & enough)
    else:
        refuse(NO_PULSE, _no_pulse(plain, z_scored, fs_hz) & enough)
    refuse(NOISE, _one_artefact(name, z_scored) & enough)


def _rails(
    name: str, raw: npt.NDArray[np.float64], fs_hz: float, spread: Signal
) -> tuple[Flags, Flags, Flags]:
    """flat, saturated, clipped (window,): only windows that could be one are looked at closely."""
    with np.errstate(invalid="ignore"):
        high = np.fmax.reduce(raw, axis=1, keepdims=True)
        low = np.fmin.reduce(raw, axis=1, keepdims=True)
        constant = (raw[:, 1:] == raw[:, :-1]).sum(axis=1)
        at_rail = np.maximum((raw == high).sum(axis=1), (raw == low).sum(axis=1))
        coarse = spread < (high - low)[:, 0] * 1e-2
    flat, saturated, clipped = (np.zeros(len(raw), np.bool_) for _ in range(3))
    need = max(CUT_MIN_SAMPLES, CUT_SHARE * raw.shape[1] * 0.5)
    suspects = (constant >= FLAT_S * fs_hz - 1) | (at_rail >= need) | coarse
    for row in np.flatnonzero(suspects):
        flat[row], saturated[row], clipped[row] = _rails_of_one(
            raw[row], fs_hz, CUT_MIN_S[name], float(spread[row])
        )
    return flat, saturated, clipped


def _rails_of_one(
    samples: npt.NDArray[np.float64], fs_hz: float, min_s: float, spread: float
) -> tuple[bool, bool, bool]:
    samples = samples[~np.isnan(samples)]
    if len(samples) < CUT_MIN_SAMPLES:
        return False, False, False
    jumps = np.abs(np.diff(samples))
    moving = jumps[jumps > 0]
    if len(moving) == 0:
        return True, False, False
    step = float(moving.min())
    # Converter steps mean something only where values repeat; floats with noise hardly ever do.
    digitised = len(moving) < 0.98 * len(jumps)
    edges = np.flatnonzero(np.concatenate([[True], jumps > 0, [True]]))
    starts, lengths = edges[:-1], np.diff(edges)  # runs of identical samples
    level = samples[starts]
    at_rail = (level == samples.max()) | (level == samples.min())
    long = lengths >= FLAT_S * fs_hz
    entry = np.concatenate([[0.0], jumps])[starts]
    leave = np.concatenate([jumps, [0.0]])[starts + lengths - 1]
    cut = (
        at_rail
        & (lengths >= max(CUT_MIN_SAMPLES, min_s * fs_hz))
        & (np.maximum(entry, leave) >= CUT_JUMP_STEPS * step)
    )
    cut_share = float(lengths[cut].sum()) / len(samples)
    flat = bool((long & (~at_rail | (level == 0.0))).any()) or (
        digitised and spread < FLAT_STEPS * step
    )
    saturated = bool((long & at_rail).any()) or cut_share >= RAIL_SHARE
    return flat, saturated, cut_share >= CUT_SHARE


def _power(plain: Signal) -> Signal:
    """Hann-windowed power spectrum of each window, mean removed. -> (window, frequency)"""
    spectrum = fft.rfft((plain - plain.mean(axis=1, keepdims=True)) * _HANN, axis=1)
    return np.asarray(spectrum.real**2 + spectrum.imag**2)


def _between(power: Signal, low_hz: float, high_hz: float) -> Signal:
    first, last = np.searchsorted(_FREQUENCY_HZ, (low_hz, high_hz))
    return np.asarray(power[:, first:last].sum(axis=1))


def _flatness(power: Signal, low_hz: float, high_hz: float) -> Signal:
    """Geometric over arithmetic mean of the power between two frequencies; white noise 0.56."""
    first, last = np.searchsorted(_FREQUENCY_HZ, (low_hz, high_hz))
    band = power[:, first:last]
    mean = np.maximum(band.mean(axis=1), 1e-30)
    return np.asarray(np.exp(np.log(band / mean[:, None] + 1e-12).mean(axis=1)))


def _kurtosis(z_scored: Signal) -> Signal:
    """Of recorded samples (those that are 0 elsewhere add nothing to either moment).

    Without the first and last half second, where a filter may ring at the end of a recording.
    """
    inner = z_scored[:, _EDGE:-_EDGE]
    square = inner * inner
    count = np.maximum(np.count_nonzero(inner, axis=1), 1)
    second = square.sum(axis=1) / count
    fourth = np.einsum("ws,ws->w", square, square) / count
    return np.asarray(fourth / np.maximum(second**2, 1e-12))


def _crossings(z_scored: Signal) -> npt.NDArray[np.int64]:
    above = z_scored > 0
    return np.asarray((above[:, 1:] != above[:, :-1]).sum(axis=1))


def _ecg_noise(plain: Signal, z_scored: Signal, fs_hz: float) -> tuple[Flags, Flags]:
    """lead off, noise (window,)."""
    power = _power(plain)
    total = np.maximum(power.sum(axis=1), 1e-30)
    inside = _between(power, 0.5, 40.0)
    kurtosis = _kurtosis(z_scored)
    outside = 1.0 - inside / total > OUTSIDE_SHARE
    lead_off = outside & (kurtosis < NO_PEAKS_KURTOSIS) | (_crossings(z_scored) < MIN_CROSSINGS)
    flatness = _flatness(power, 0.7, min(40.0, 0.45 * fs_hz))
    return lead_off, (flatness > ECG_FLATNESS) & (kurtosis < NOISE_KURTOSIS)


def _no_pulse(plain: Signal, z_scored: Signal, fs_hz: float) -> Flags:
    """(window,): nothing in the PPG that could be a pulse, however irregular."""
    power = _power(plain)
    total = np.maximum(power.sum(axis=1), 1e-30)
    inside = _between(power, 0.5, 8.0)
    above = _between(power, 8.0, min(20.0, 0.45 * fs_hz))
    flatness = _flatness(power, 0.7, 8.0)
    return np.asarray(
        (flatness > PPG_FLATNESS) & (_kurtosis(z_scored) < NOISE_KURTOSIS)
        | (above > PPG_HIGH_SHARE * (above + inside))
        | (inside < PPG_BAND_SHARE * total)
        | (_crossings(z_scored) < MIN_CROSSINGS)
    )


def _one_artefact(name: str, z_scored: Signal) -> Flags:
    """(window,): one short stretch holds nearly all energy, the rest is invisible beside it."""
    length = round(ARTEFACT_S[name] * FS_HZ)
    block = length // 2
    usable = WINDOW_SAMPLES // block * block
    energy = z_scored[:, :usable].reshape(len(z_scored), -1, block)
    blocks = np.einsum("wbs,wbs->wb", energy, energy)  # (window, half stretch)
    most = (blocks[:, 1:] + blocks[:, :-1]).max(axis=1)
    return np.asarray(most > ARTEFACT_SHARE * np.maximum(blocks.sum(axis=1), 1e-12))


def compare_rates(signal: Signal, recorded: Flags, refusal: Codes) -> None:
    """Refuse, in place, the PPG of windows in which two regular rates cannot be one heart's.

    Only where both rhythms are plainly regular and their ratio is none that a heart makes: an
    irregular rhythm (atrial fibrillation), a pulse deficit (every second or third beat without a
    pulse) or bigeminy is never refused. The ECG is never refused.

    Args:
        signal: (window, 2, sample), z-scored. recorded: same shape. refusal: (window, 2).
    """
    both = (refusal == ACCEPTED).all(axis=1) & recorded.all(axis=(1, 2))
    rows = np.flatnonzero(both)
    for start in range(0, len(rows), _CHUNK):
        part = rows[start : start + _CHUNK]
        activity = _activity(signal[part, 0])
        ecg_bpm, ecg_height = _rate(activity)
        ppg_bpm, ppg_height = _rate(signal[part, 1])
        ratio = np.maximum(ecg_bpm, ppg_bpm) / np.minimum(ecg_bpm, ppg_bpm)
        plausible = ratio < 1.0 + SAME_RATE
        for known in WHOLE_RATIOS:
            plausible |= np.abs(ratio / known - 1.0) < WHOLE_RATIO
        pattern = _complexes(activity) > COMPLEXES_IN_PATTERN * ecg_bpm * WINDOW_S / 60.0
        trigeminy = np.abs(ppg_bpm / ecg_bpm / TRIGEMINY - 1.0) < WHOLE_RATIO
        plausible |= pattern & trigeminy
        regular = (ecg_height > REGULAR["ecg"]) & (ppg_height > REGULAR["ppg"])
        refusal[part[regular & ~plausible], 1] = RATES_DISAGREE


def _activity(ecg: Signal) -> Signal:
    """Sum of absolute slopes over 120 ms: high at QRS complexes of either polarity."""
    slope = np.abs(np.diff(ecg, axis=1, prepend=ecg[:, :1]))
    total = np.cumsum(np.pad(slope, ((0, 0), (15, 0))), axis=1, dtype=np.float32)
    return np.asarray(total[:, 15:] - total[:, :-15])


def _complexes(activity: Signal) -> npt.NDArray[np.int64]:
    """Number of QRS complexes: separate stretches above 0.35 of the window's highest activity."""
    above = activity > 0.35 * activity.max(axis=1, keepdims=True)
    return np.asarray((above[:, 1:] & ~above[:, :-1]).sum(axis=1) + above[:, 0])


def _rate(signal: Signal) -> tuple[Signal, Signal]:
    """Rate (bpm) of the autocorrelation's first high peak, and its height (about 1 at most)."""
    longest = int(60.0 * FS_HZ / _RATE_RANGE_BPM[0]) + 1
    shortest = int(60.0 * FS_HZ / _RATE_RANGE_BPM[1])
    centred = signal - signal.mean(axis=1, keepdims=True)
    spectrum = fft.rfft(centred, _FFT, axis=1)
    power = spectrum.real**2 + spectrum.imag**2
    auto = fft.irfft(power, _FFT, axis=1)[:, : longest + 2]
    overlap = WINDOW_SAMPLES / (WINDOW_SAMPLES - np.arange(longest + 2, dtype=np.float32))
    auto = auto / np.maximum(auto[:, :1], 1e-9) * overlap
    inner = auto[:, shortest:longest]
    peak = (inner > auto[:, shortest - 1 : longest - 1]) & (
        inner >= auto[:, shortest + 1 : longest + 1]
    )
    height = np.where(peak, inner, np.float32(-1.0))
    first = (height >= 0.85 * height.max(axis=1, keepdims=True)).argmax(axis=1)
    rows = np.arange(len(auto))
    lag = first + shortest
    return (60.0 * FS_HZ / lag).astype(np.float32), np.asarray(height[rows, first])


def upside_down(name: str, signal: Signal, recorded: Flags, refusal: Codes) -> bool:
    """Whether a whole recording's channel has the wrong sign; says yes only when it is plain.

    A pulse rises faster than it falls, so the slope's skewness is positive and less than half of
    the time is spent rising; both must say the opposite, in the median over accepted windows.
    An ECG is never turned: most real recordings that a sign rule would turn looked genuine (pacing,
    left axis, bundle branch block; docs/adr/0003), and its sign is part of the diagnosis.
    """
    if name != "ppg":
        return False
    rows = np.flatnonzero(refusal == ACCEPTED)
    if len(rows) == 0:
        return False
    rows = rows[:: max(1, len(rows) // 256)]  # enough for a median
    slope = np.diff(signal[rows], axis=1)
    inside = recorded[rows, 1:] & recorded[rows, :-1]
    slope = np.where(inside, slope, np.float32(0.0))
    count = np.maximum(inside.sum(axis=1), 1)
    square = slope * slope
    second = square.sum(axis=1) / count
    third = np.einsum("ws,ws->w", square, slope) / count
    skewness = third / np.maximum(second, 1e-12) ** 1.5
    rising = (slope > 0).sum(axis=1) / count
    return bool(np.median(skewness) < INVERTED_SKEWNESS and np.median(rising) > 0.5)
