"""Recordings to model inputs: 125 Hz, filtered, cut into 10-s windows, z-scored, gated.

Everything is a function of one recording, with fixed constants: no window depends on another
patient, so nothing here couples privacy units.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache

import numpy as np
import numpy.typing as npt
from scipy import signal as dsp

from shared_model import quality
from shared_model.config import CHANNELS, FS_HZ, PATCH_SAMPLES, TOKENS, WINDOW_S, WINDOW_SAMPLES
from shared_model.errors import DataFault

MIN_FS_HZ = 25.0
MAX_FS_HZ = 2000.0
BAND_HZ = {"ecg": (0.5, 40.0), "ppg": (0.5, 8.0)}
"""Pass band of each channel: zero-phase Butterworth, order 2 below and 4 above, run both ways."""
LONGEST_S = 48 * 3600.0
"""A recording is prepared in memory, about 180 bytes a sample at 125 Hz: 4 GB for this length."""
LARGEST_VALUE = 1e12
"""Samples beyond this in magnitude are not measurements; they count as missing."""

_PAD_SAMPLES = 4 * int(FS_HZ)
_MAX_DENOMINATOR = 2000

FloatArray = npt.NDArray[np.float64]
SignalArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Windows:
    """Windows of one recording or one patient.

    signal: float32 (window, channel=2, sample=1250), z-scored, 0 where invalid.
    valid: bool (window, channel=2, token=50), all samples recorded and channel accepted.
    start_s: float64 (window,), seconds from the start of the recording.
    refusal: uint8 (window, channel=2), index into `quality.REASONS`; 0 is accepted.
    """

    signal: SignalArray = field(repr=False)
    valid: BoolArray = field(repr=False)
    start_s: FloatArray = field(repr=False)
    refusal: npt.NDArray[np.uint8] = field(repr=False)

    def __len__(self) -> int:
        return len(self.signal)

    @property
    def usable(self) -> BoolArray:
        """bool (window,): at least one channel passed the gate."""
        return np.asarray((self.refusal == quality.ACCEPTED).any(axis=1))

    def select(self, rows: npt.NDArray[np.bool_] | npt.NDArray[np.integer]) -> Windows:
        """The windows at `rows` (boolean or integer index)."""
        return Windows(self.signal[rows], self.valid[rows], self.start_s[rows], self.refusal[rows])


@dataclass(frozen=True)
class Prepared:
    """Windows before refused channels are blanked: what a contact sheet shows.

    signal: float32 (window, 2, 1250), z-scored over recorded samples, 0 where nothing was recorded.
    recorded: bool (window, 2, 1250).
    flipped: whether each channel's polarity was turned.
    """

    signal: SignalArray = field(repr=False)
    recorded: BoolArray = field(repr=False)
    start_s: FloatArray = field(repr=False)
    refusal: npt.NDArray[np.uint8] = field(repr=False)
    flipped: tuple[bool, bool] = (False, False)

    def windows(self) -> Windows:
        """Blank refused channels and fold recorded samples into tokens."""
        accepted = self.refusal == quality.ACCEPTED
        tokens = self.recorded.reshape(len(accepted), len(CHANNELS), TOKENS, PATCH_SAMPLES)
        valid = tokens.all(axis=3) & accepted[:, :, None]
        signal = np.where(accepted[:, :, None], self.signal, np.float32(0.0))
        return Windows(signal, valid, self.start_s, self.refusal)


def make_windows(
    ecg: npt.ArrayLike | None,
    ecg_fs_hz: float,
    ppg: npt.ArrayLike | None,
    ppg_fs_hz: float,
) -> Windows:
    """All 10-s windows of one recording, refused ones included.

    Args:
        ecg, ppg: (sample,) in any unit, NaN where missing, both starting at the same instant;
            None where the recording has no such channel.
        ecg_fs_hz, ppg_fs_hz: sampling rates, 25 to 2000 Hz; of an absent channel ignored.

    Returns:
        Windows; a recording shorter than 10 s gives one window padded with invalid samples, the
        unfilled last stretch of a longer one is dropped. No samples at all: no windows.

    Raises:
        DataFault: sampling rate outside 25 to 2000 Hz (cause "sampling-rate") or samples that are
            not one row of numbers (cause "bad-values").
    """
    return prepare(ecg, ecg_fs_hz, ppg, ppg_fs_hz).windows()


def prepare(
    ecg: npt.ArrayLike | None,
    ecg_fs_hz: float,
    ppg: npt.ArrayLike | None,
    ppg_fs_hz: float,
) -> Prepared:
    """As `make_windows`, before refused channels are blanked."""
    channels = [
        None if samples is None else _checked(samples, fs_hz)
        for samples, fs_hz in ((ecg, ecg_fs_hz), (ppg, ppg_fs_hz))
    ]
    count = max((_window_count(*channel) for channel in channels if channel), default=0)
    shape = (count, len(CHANNELS), WINDOW_SAMPLES)
    signal = np.zeros(shape, np.float32)
    recorded = np.zeros(shape, np.bool_)
    refusal = np.full(shape[:2], quality.ABSENT, np.uint8)
    flipped = [False, False]
    for index, (name, channel) in enumerate(zip(CHANNELS, channels, strict=True)):
        if count and channel and len(channel[0]):
            signal[:, index], recorded[:, index], refusal[:, index], flipped[index] = (
                _prepare_channel(name, *channel, count)
            )
    quality.compare_rates(signal, recorded, refusal)
    start_s = np.arange(count, dtype=np.float64) * WINDOW_S
    return Prepared(signal, recorded, start_s, refusal, (flipped[0], flipped[1]))


def _checked(samples: npt.ArrayLike, fs_hz: float) -> tuple[FloatArray, float]:
    """Samples as float64 with NaN for everything that is no measurement."""
    try:
        array = np.asarray(samples, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataFault("The samples are not numbers.", cause="bad-values") from error
    if array.ndim != 1:
        raise DataFault("A channel must be one row of samples.", cause="bad-values")
    if not MIN_FS_HZ <= fs_hz <= MAX_FS_HZ:
        raise DataFault(
            f"The sampling rate is outside {MIN_FS_HZ:g} to {MAX_FS_HZ:g} Hz.",
            cause="sampling-rate",
            do="Give the true sampling rate in the mapping (fs_hz).",
        )
    if len(array) > LONGEST_S * fs_hz:
        raise DataFault(
            f"The recording is longer than {LONGEST_S / 3600:g} hours.",
            cause="too-long",
            do="Check the sampling rate, or split the recording.",
        )
    with np.errstate(invalid="ignore"):
        measured = np.abs(array) <= LARGEST_VALUE
    return (array if measured.all() else np.where(measured, array, np.nan)), float(fs_hz)


def _window_count(samples: FloatArray, fs_hz: float) -> int:
    """Full windows in a recording; one if there is anything at all."""
    if len(samples) == 0:
        return 0
    return max(1, int(len(samples) / (fs_hz * WINDOW_S) + 1e-9))


def _prepare_channel(
    name: str, samples: FloatArray, fs_hz: float, count: int
) -> tuple[SignalArray, BoolArray, npt.NDArray[np.uint8], bool]:
    """signal (window, sample), recorded (window, sample), refusal (window,), flipped."""
    present = ~np.isnan(samples)
    if not present.any():
        shape = (count, WINDOW_SAMPLES)
        refusal = np.full(count, quality.MISSING, np.uint8)
        return np.zeros(shape, np.float32), np.zeros(shape, np.bool_), refusal, False
    whole = bool(present.all())
    filled = samples if whole else _fill_gaps(samples, present)
    offset = float(filled.mean())
    plain = resample(filled - offset, fs_hz)
    filtered = _cut(band_pass(plain, name), count)
    recorded = _cut_flags(present, whole, fs_hz, len(plain), count)
    signal, spread = _z_score(filtered, recorded, float(np.abs(filled).max()))
    raw = _cut_raw(samples, fs_hz, count)
    refusal = quality.judge(name, raw, fs_hz, _cut(plain, count), signal, spread, recorded)
    flipped = quality.upside_down(name, signal, recorded, refusal)
    return (np.negative(signal, out=signal) if flipped else signal), recorded, refusal, flipped


def _fill_gaps(samples: FloatArray, present: BoolArray) -> FloatArray:
    """Straight lines over missing samples, so that filters have something to run on."""
    index = np.arange(len(samples))
    return np.interp(index, index[present], samples[present])


@cache
def _resampling(fs_hz: float) -> tuple[int, int, FloatArray]:
    """Up factor, down factor and anti-alias filter (Kaiser-windowed sinc) to `FS_HZ`."""
    ratio = Fraction(FS_HZ / fs_hz).limit_denominator(_MAX_DENOMINATOR)
    up, down = ratio.numerator, ratio.denominator
    widest = max(up, down)
    taps = dsp.firwin(20 * widest + 1, 1.0 / widest, window=("kaiser", 5.0))
    return up, down, taps


def resample(samples: FloatArray, fs_hz: float) -> FloatArray:
    """Samples at `FS_HZ` by polyphase filtering; ends are mirrored. (sample,) -> (sample',)."""
    if fs_hz == FS_HZ:
        return samples
    up, down, taps = _resampling(fs_hz)
    return np.asarray(dsp.resample_poly(samples, up, down, window=taps, padtype="symmetric"))


@cache
def _sections(name: str) -> FloatArray:
    low_hz, high_hz = BAND_HZ[name]
    below = dsp.butter(2, low_hz, "highpass", fs=FS_HZ, output="sos")
    above = dsp.butter(4, high_hz, "lowpass", fs=FS_HZ, output="sos")
    return np.concatenate([below, above])


def band_pass(samples: FloatArray, name: str) -> FloatArray:
    """Zero-phase band-pass of channel `name` at `FS_HZ`; 4 s of mirrored signal at both ends."""
    mode = "reflect" if len(samples) > 1 else "edge"
    padded = np.pad(samples, _PAD_SAMPLES, mode=mode)  # type: ignore[call-overload]
    filtered = dsp.sosfiltfilt(_sections(name), padded, padlen=0)
    return np.asarray(filtered[_PAD_SAMPLES : _PAD_SAMPLES + len(samples)])


def _cut(samples: FloatArray, count: int) -> SignalArray:
    """(sample,) -> (window, sample), zeros after the end."""
    flat = np.zeros(count * WINDOW_SAMPLES, np.float32)
    stop = min(len(samples), len(flat))
    flat[:stop] = samples[:stop]
    return flat.reshape(count, WINDOW_SAMPLES)


def _cut_flags(present: BoolArray, whole: bool, fs_hz: float, length: int, count: int) -> BoolArray:
    """Which resampled samples lie between two recorded ones. -> (window, sample)."""
    flat = np.zeros(count * WINDOW_SAMPLES, np.bool_)
    stop = min(length, len(flat))
    if whole:
        flat[:stop] = True
    else:
        position = np.arange(stop) * (fs_hz / FS_HZ)
        before = np.minimum(np.floor(position + 1e-9).astype(np.int64), len(present) - 1)
        after = np.minimum(np.ceil(position - 1e-9).astype(np.int64), len(present) - 1)
        flat[:stop] = present[before] & present[after]
    return flat.reshape(count, WINDOW_SAMPLES)


def _cut_raw(samples: FloatArray, fs_hz: float, count: int) -> FloatArray:
    """Samples as recorded, (window, raw sample), NaN after the end."""
    length = round(fs_hz * WINDOW_S)
    starts = np.round(np.arange(count) * fs_hz * WINDOW_S).astype(np.int64)
    need = int(starts[-1]) + length
    if need > len(samples):
        samples = np.concatenate([samples, np.full(need - len(samples), np.nan)])
    if starts[-1] == (count - 1) * length:
        return samples[:need].reshape(count, length)
    return np.asarray(samples[starts[:, None] + np.arange(length)])


def _z_score(
    filtered: SignalArray, recorded: BoolArray, largest: float
) -> tuple[SignalArray, SignalArray]:
    """Zero mean, unit variance over recorded samples of each window, 0 elsewhere; and the spread.

    A window whose spread is below rounding (1e-7 of the largest raw value) becomes zero and has
    spread 0.
    """
    weight = recorded.astype(np.float32)
    samples = np.maximum(weight.sum(axis=1, keepdims=True), 1.0)
    signal = filtered * weight
    signal -= signal.sum(axis=1, keepdims=True) / samples
    signal *= weight
    spread = np.sqrt(np.einsum("ws,ws->w", signal, signal)[:, None] / samples)
    spread = np.where(spread > 1e-7 * largest, spread, np.float32(0.0))
    signal *= np.where(spread > 0, 1.0 / np.maximum(spread, 1e-30), 0.0).astype(np.float32)
    return signal, spread[:, 0]
