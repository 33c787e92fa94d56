"""What differs between pretend hospitals: devices, leads, noise and the mix of patients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from shared_model.errors import OurMistake

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

RHYTHMS = (
    "sinus",
    "af",
    "pvc",
    "bigeminy",
    "trigeminy",
    "couplets",
    "vt",
    "pac",
    "flutter",
    "svt",
    "paced",
    "junctional",
    "av_block",
    "pause",
)
"""Rhythms of the simulator; the label `rhythm` is one of these words (in windows: the index)."""

LEADS = ("I", "II", "MLII", "V1", "V2", "V5", "aVF")
PULSE_STYLES = ("finger", "wrist", "camera")

_WIDE_MIX = {
    "sinus": 0.40, "af": 0.13, "pvc": 0.08, "bigeminy": 0.05, "trigeminy": 0.04, "couplets": 0.03,
    "vt": 0.06, "pac": 0.06, "flutter": 0.03, "svt": 0.03, "paced": 0.03, "junctional": 0.02,
    "av_block": 0.02, "pause": 0.02,
}  # fmt: skip
_WARD_MIX = {
    "sinus": 0.72, "af": 0.10, "pvc": 0.06, "bigeminy": 0.015, "trigeminy": 0.015,
    "couplets": 0.01, "vt": 0.01, "pac": 0.03, "flutter": 0.01, "paced": 0.02,
}  # fmt: skip


@dataclass(frozen=True)
class SiteEffects:
    """Devices and case mix of one pretend hospital.

    Rates and bands in Hz, gains in units per mV (ECG) and per pulse height (PPG). `delay_s` is the
    devices' own delay of the PPG behind the ECG. `noise_ecg` and `noise_ppg` scale the drawn noise
    (1: as wide as the default). `missing` is the share of recordings that have a lead-off stretch.
    """

    name: str = "pretend"
    fs_ecg_hz: float = 125.0
    fs_ppg_hz: float = 125.0
    leads: Mapping[str, float] = field(default_factory=lambda: {"II": 1.0})
    pulse_style: Literal["finger", "wrist", "camera"] = "finger"
    ecg_gain: float = 1.0
    ppg_gain: float = 1.0
    ecg_band_hz: tuple[float, float] = (0.05, 40.0)
    ppg_band_hz: tuple[float, float] = (0.1, 12.0)
    mains_hz: float = 50.0
    delay_s: float = 0.15
    bits: int = 12
    noise_ecg: float = 1.0
    noise_ppg: float = 1.0
    missing: float = 0.05
    exercise: float = 0.05
    rhythms: Mapping[str, float] = field(default_factory=lambda: dict(_WARD_MIX))
    age_mean: float = 58.0
    age_std: float = 17.0
    hypertensive: float = 0.4

    def __post_init__(self) -> None:
        for fs_hz in (self.fs_ecg_hz, self.fs_ppg_hz):
            if not 25.0 <= fs_hz <= 2000.0:
                raise OurMistake("A site's sampling rate must be in 25 ... 2000 Hz.")
        for name, known in (("rhythms", RHYTHMS), ("leads", LEADS)):
            mix: Mapping[str, float] = getattr(self, name)
            if not mix or any(key not in known for key in mix):
                raise OurMistake(f"Unknown word in {name}.", do=f"Use any of {', '.join(known)}.")
            if any(share < 0 for share in mix.values()) or sum(mix.values()) <= 0:
                raise OurMistake(f"Shares of {name} must be >= 0 with a positive sum.")
        if self.pulse_style not in PULSE_STYLES:
            raise OurMistake("Unknown pulse style.", do=f"Use any of {', '.join(PULSE_STYLES)}.")
        if not 6 <= self.bits <= 16:
            raise OurMistake("Quantisation must be 6 ... 16 bits.")


WIDE = SiteEffects(name="wide", rhythms=_WIDE_MIX, leads=dict.fromkeys(LEADS, 1.0))
"""Case mix of the warm start: sick rhythms far more often than on a ward."""


def pretend_sites(count: int) -> tuple[SiteEffects, ...]:
    """`count` hospitals that differ in devices and patients; five kinds repeat with variations."""
    kinds = (
        SiteEffects(name="icu", leads={"II": 0.8, "V5": 0.1, "V1": 0.1}, hypertensive=0.5,
                    age_mean=65.0, delay_s=0.25, mains_hz=60.0, noise_ecg=1.0),
        SiteEffects(name="holter", fs_ecg_hz=250.0, fs_ppg_hz=125.0, leads={"MLII": 1.0}, bits=11,
                    rhythms=_WIDE_MIX, delay_s=0.1, ecg_gain=0.8, pulse_style="wrist"),
        SiteEffects(name="clinic", fs_ecg_hz=500.0, fs_ppg_hz=250.0, leads={"I": 0.5, "II": 0.5},
                    hypertensive=0.55, ecg_band_hz=(0.5, 100.0), noise_ecg=0.5, noise_ppg=0.5,
                    delay_s=0.12, bits=16, rhythms={"sinus": 0.93, "af": 0.04, "pac": 0.03}),
        SiteEffects(name="wearable", fs_ecg_hz=125.0, fs_ppg_hz=50.0, leads={"I": 1.0},
                    pulse_style="wrist", age_mean=34.0, age_std=10.0, hypertensive=0.12,
                    exercise=0.6, noise_ppg=1.6, noise_ecg=1.2, delay_s=0.2,
                    rhythms={"sinus": 0.95, "pac": 0.03, "pvc": 0.02}),
        SiteEffects(name="phone", fs_ecg_hz=250.0, fs_ppg_hz=30.0, leads={"I": 1.0},
                    pulse_style="camera", ppg_gain=40.0, bits=10, age_mean=42.0, delay_s=0.35,
                    ppg_band_hz=(0.2, 9.0), rhythms={"sinus": 0.85, "af": 0.12, "pac": 0.03}),
    )  # fmt: skip
    return tuple(
        replace(
            kinds[i % len(kinds)],
            name=f"{kinds[i % len(kinds)].name}-{i + 1}",
            ecg_gain=kinds[i % len(kinds)].ecg_gain * 1.15 ** (i // len(kinds)),
            delay_s=kinds[i % len(kinds)].delay_s + 0.02 * (i // len(kinds) % 5),
        )
        for i in range(count)
    )


@dataclass(frozen=True)
class Acquisition:
    """Devices as arrays, one entry a series."""

    lead: I64
    style: I64
    ecg_low_hz: F64
    ecg_high_hz: F64
    ppg_low_hz: F64
    ppg_high_hz: F64
    mains_hz: F64
    delay_s: F64
    ecg_step: F64
    """Quantisation step over the standard deviation of the signal."""
    ppg_step: F64
    noise_ecg: F64
    noise_ppg: F64
    missing: F64
    exercise: F64


def draw_acquisition(
    rng: np.random.Generator, count: int, effects: SiteEffects | None
) -> Acquisition:
    """Devices of one site, or (None) a new device for every series: the wide randomisation."""
    if effects is None:
        lead_shares = np.array([0.2, 0.22, 0.22, 0.08, 0.08, 0.12, 0.08])
        return Acquisition(
            lead=rng.choice(len(LEADS), count, p=lead_shares),
            style=rng.choice(len(PULSE_STYLES), count, p=[0.55, 0.35, 0.10]),
            ecg_low_hz=10 ** rng.uniform(-1.5, 0.0, count),
            ecg_high_hz=10 ** rng.uniform(1.3, 2.1, count),
            ppg_low_hz=10 ** rng.uniform(-1.5, -0.15, count),
            ppg_high_hz=10 ** rng.uniform(0.55, 1.4, count),
            mains_hz=rng.choice([50.0, 60.0], count),
            delay_s=rng.uniform(0.0, 0.4, count),
            ecg_step=10 ** rng.uniform(-4.0, -1.0, count),
            ppg_step=10 ** rng.uniform(-4.0, -1.0, count),
            noise_ecg=10 ** rng.normal(0.0, 0.25, count),
            noise_ppg=10 ** rng.normal(0.0, 0.25, count),
            missing=np.full(count, 0.06),
            exercise=np.full(count, 0.15),
        )
    shares = np.array([float(effects.leads.get(lead, 0.0)) for lead in LEADS])

    def same(value: float) -> F64:
        return np.full(count, float(value))

    return Acquisition(
        lead=rng.choice(len(LEADS), count, p=shares / shares.sum()),
        style=np.full(count, PULSE_STYLES.index(effects.pulse_style)),
        ecg_low_hz=same(effects.ecg_band_hz[0]),
        ecg_high_hz=same(effects.ecg_band_hz[1]),
        ppg_low_hz=same(effects.ppg_band_hz[0]),
        ppg_high_hz=same(effects.ppg_band_hz[1]),
        mains_hz=same(effects.mains_hz),
        delay_s=same(effects.delay_s),
        ecg_step=same(16.0 / 2**effects.bits),
        ppg_step=same(16.0 / 2**effects.bits),
        noise_ecg=same(effects.noise_ecg),
        noise_ppg=same(effects.noise_ppg),
        missing=same(effects.missing),
        exercise=same(effects.exercise),
    )


Arrays = TypeVar("Arrays")


def take(table: Arrays, index: NDArray[Any]) -> Arrays:
    """The same dataclass of arrays with rows `index`."""
    parts = {entry.name: getattr(table, entry.name)[index] for entry in fields(table)}  # type: ignore[arg-type]
    return type(table)(**parts)
