"""Site effects: what the devices of some sites do to windows that are already prepared.

Order, as a signal meets it: gain, noise, saturation, band, sampling rate, inversion; then a sensor
may be missing; then each channel is standardised again over its valid samples. In the field the
preparation of windows (`shared_model.windows`) comes after the device; here it came before. So an
effect is what is left of it after preparation, and an inverted ECG is one that preparation did
not notice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from shared_model.config import CHANNELS, FS_HZ, PATCH_SAMPLES, WINDOW_SAMPLES
from shared_model.errors import OurMistake
from simulations.lab.experiment_tables import Federation, SiteEffect
from simulations.lab.keyed import chosen_sites, generator

Signal = npt.NDArray[np.float32]
Valid = npt.NDArray[np.bool_]
_ECG, _PPG = 0, 1
_FLAT = 1e-6
"""A channel with less spread than this part of what it had is flat, and not valid."""
_MAX_DENOMINATOR = 2000


@dataclass(frozen=True)
class PlacedEffect:
    """An effect of one site and its place in the file, which keys its draws."""

    effect: SiteEffect
    place: int


def effects_of(
    federation: Federation, sites: Sequence[str], seed: int
) -> dict[str, tuple[PlacedEffect, ...]]:
    """Effects of each site, in the order of the file; sites without any are not in it.

    Raises:
        OurMistake: an effect names a site that is not there, or cannot be (its words say why).
    """
    found: dict[str, list[PlacedEffect]] = {}
    for place, effect in enumerate(federation.effects):
        check(effect, place)
        for site in chosen_sites(effect, sites, "effect", seed, place):
            found.setdefault(site, []).append(PlacedEffect(effect, place))
    return {site: tuple(effects) for site, effects in found.items()}


def check(effect: SiteEffect, place: int) -> None:
    """Raises OurMistake: a band outside 0 ... 62.5 Hz, or more missing than everything."""
    for name in ("ecg_band_hz", "ppg_band_hz"):
        band = getattr(effect, name)
        if band is not None and not 0.0 < band[0] < band[1] < FS_HZ / 2:
            raise OurMistake(
                f"federation.effects number {place + 1}: {name} must have "
                f"0 < lower < upper < {FS_HZ / 2:g}."
            )
    if effect.missing_ecg + effect.missing_ppg > 1.0:
        raise OurMistake(
            f"federation.effects number {place + 1}: missing_ecg and missing_ppg are of different "
            "patients and may add up to 1 at most.",
            do="A patient without any sensor is no patient: lower one of them.",
        )


def words(effect: SiteEffect) -> str:
    """What differs from no effect: "ecg_noise 0.5, invert_ecg"."""
    plain = SiteEffect(share=1.0).model_dump(exclude={"sites", "share"})
    said = []
    for name, value in effect.model_dump(exclude={"sites", "share"}).items():
        if value is True:
            said.append(name)
        elif value != plain[name]:
            numbers = value if isinstance(value, tuple) else (value,)
            said.append(f"{name} " + " to ".join(f"{one:g}" for one in numbers))
    return ", ".join(said) or "none"


def apply(
    effects: Sequence[PlacedEffect],
    signal: Signal,
    valid: Valid,
    patient: npt.NDArray[np.int64],
    key: tuple[str | int, ...],
) -> tuple[Signal, Valid]:
    """The windows after all effects of their site. Deterministic by patient, whatever the batch.

    Args:
        signal: (window, 2, 1250). valid: (window, 2, 50).
        patient: (window,), the patient's number at the site; a patient's windows in their order.
        key: seed and site.
    """
    signal, valid = np.array(signal, dtype=np.float32), np.array(valid)
    for one in effects:
        signal, valid = _apply(one, signal, valid, patient, key)
    return signal, valid


def _apply(
    one: PlacedEffect,
    signal: Signal,
    valid: Valid,
    patient: npt.NDArray[np.int64],
    key: tuple[str | int, ...],
) -> tuple[Signal, Valid]:
    effect = one.effect
    samples = np.repeat(valid, PATCH_SAMPLES, axis=2)  # (window, channel, sample)
    channels = (
        (effect.ecg_gain, effect.ecg_noise, effect.ecg_band_hz, effect.ecg_fs_hz),
        (effect.ppg_gain, effect.ppg_noise, effect.ppg_band_hz, effect.ppg_fs_hz),
    )
    gains = np.array([channel[0] for channel in channels], dtype=np.float32)
    noises = np.array([channel[1] for channel in channels], dtype=np.float32)
    signal *= gains[:, None]
    lost = np.zeros((len(signal), len(CHANNELS)), dtype=np.bool_)
    for number in np.unique(patient):
        rows = np.flatnonzero(patient == number)
        rng = generator("effect", *key, one.place, int(number))
        sensor = rng.random()
        lost[rows, _ECG] = sensor < effect.missing_ecg
        lost[rows, _PPG] = sensor >= 1.0 - effect.missing_ppg
        if noises.any():
            drawn = rng.standard_normal((len(rows), *signal.shape[1:]), dtype=np.float32)
            signal[rows] += drawn * noises[:, None]
    if effect.saturation is not None:
        np.clip(signal, -effect.saturation, effect.saturation, out=signal)
    for index, (_, _, band_hz, fs_hz) in enumerate(channels):
        if band_hz is not None:
            signal[:, index] = _band(signal[:, index] * samples[:, index], band_hz)
        if fs_hz is not None:
            signal[:, index] = _resampled(signal[:, index] * samples[:, index], fs_hz)
    if effect.invert_ecg:
        signal[:, _ECG] *= -1.0
    valid = valid & ~lost[:, :, None]
    return standardised(signal, valid, flat=_FLAT * gains)


def standardised(
    signal: Signal, valid: Valid, *, flat: npt.ArrayLike = (_FLAT, _FLAT)
) -> tuple[Signal, Valid]:
    """Zero mean and unit variance over valid samples of each channel of each window, else 0.

    A channel that is flat over them is no longer valid.

    Args:
        signal: (window, 2, 1250). valid: (window, 2, 50). flat: the least spread of each channel.
    """
    least = np.asarray(flat, dtype=np.float32)[:, None]  # (channel, 1)
    weight = np.repeat(valid, PATCH_SAMPLES, axis=2).astype(np.float32)
    count = np.maximum(weight.sum(axis=2, keepdims=True), 1.0)
    made = signal * weight
    made = (made - made.sum(axis=2, keepdims=True) / count) * weight
    spread = np.sqrt(np.square(made).sum(axis=2, keepdims=True) / count)
    rich = spread > least
    made = np.where(rich, made / np.where(rich, spread, 1.0), 0.0).astype(np.float32)
    return made, valid & rich


def _band(signal: npt.NDArray[Any], band_hz: tuple[float, float]) -> npt.NDArray[Any]:
    """Butterworth band-pass of order 2, forwards and backwards (no delay). (window, sample)"""
    from scipy import signal as dsp

    sections = dsp.butter(2, band_hz, "bandpass", fs=FS_HZ, output="sos")
    return np.asarray(dsp.sosfiltfilt(sections, signal, axis=1), dtype=np.float32)


def _resampled(signal: npt.NDArray[Any], fs_hz: float) -> npt.NDArray[Any]:
    """Down to `fs_hz` and back to 125 Hz, by polyphase filters. (window, sample)"""
    from scipy import signal as dsp

    ratio = Fraction(fs_hz / FS_HZ).limit_denominator(_MAX_DENOMINATOR)
    if ratio == 1:
        return signal
    low = dsp.resample_poly(signal, ratio.numerator, ratio.denominator, axis=1, padtype="line")
    back = dsp.resample_poly(low, ratio.denominator, ratio.numerator, axis=1, padtype="line")
    return np.asarray(back[:, :WINDOW_SAMPLES], dtype=np.float32)
