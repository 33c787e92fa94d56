"""Simulated beside real windows: spectra, heart rate and variability, and windows to look at."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared_model.config import CHANNELS, FS_HZ, WINDOW_SAMPLES
from shared_model.errors import DataFault, OurMistake
from shared_model.files import write_atomic
from simulations.cohort import draw_windows, pretend_sites
from simulations.cohort_sites import F32, F64

_PER_RECORDING = 8
"""Windows taken from one recording at most, so that no patient makes a site's figures alone."""
_BAND_HZ = {"ecg": (0.5, 45.0), "ppg": (0.5, 10.0)}


@dataclass(frozen=True)
class WindowSet:
    """Windows of one real site or of the simulator."""

    name: str
    simulated: bool
    signal: F32 = field(repr=False)
    """(window, 2, 1250), z-scored."""
    valid: NDArray[np.bool_] = field(repr=False)
    drawn: bool = True
    """Whether single windows may be shown: simulated ones, and those of open collections."""

    def whole(self, channel: int) -> F32:
        """Windows of one channel without an invalid token. (window, sample)"""
        return np.asarray(self.signal[self.valid[:, channel].all(axis=1), channel])

    def rates(self) -> tuple[F64, F64]:
        """Heart rate (bpm) and SDNN (ms) of each whole window, ECG where there is one."""
        channel = 0 if len(self.whole(0)) else 1
        found = [measure(window, CHANNELS[channel]) for window in self.whole(channel)]
        table = np.array(found, dtype=np.float64).reshape(-1, 2)
        table = table[np.isfinite(table).all(axis=1)]
        return table[:, 0], table[:, 1]

    def figures(self) -> dict[str, Any]:
        """One row of the table; None where the set has no such channel."""
        rate, sdnn = self.rates()
        row: dict[str, Any] = {"set": self.name, "windows": len(self.signal)}
        for name, values in (("hr_bpm", rate), ("sdnn_ms", sdnn)):
            for percentile in (10, 50, 90):
                value = float(np.percentile(values, percentile)) if len(values) else None
                row[f"{name}_p{percentile}"] = None if value is None else round(value, 1)
        for channel, name in enumerate(CHANNELS):
            whole = self.whole(channel)
            edge = spectral_edge_hz(whole) if len(whole) else None
            row[f"{name}_half_power_hz"] = None if edge is None else round(edge, 2)
        return row


def peaks(window: F32, name: str) -> NDArray[np.int64]:
    """Samples of beats in one z-scored window, by the simplest method that works whichever way
    the QRS points: maxima of the smoothed absolute slope (ECG), or of prominent pulses (PPG)."""
    from scipy.ndimage import uniform_filter1d
    from scipy.signal import find_peaks

    if name == "ppg":
        found, _ = find_peaks(window, distance=int(0.3 * FS_HZ), prominence=0.7)
        return np.asarray(found)
    slope = uniform_filter1d(np.abs(np.gradient(window)), round(0.09 * FS_HZ))
    high = np.percentile(slope, 97)
    found, _ = find_peaks(slope, height=0.45 * high, distance=int(0.24 * FS_HZ))
    return np.asarray(found)


def measure(window: F32, name: str) -> tuple[float, float]:
    """Heart rate (bpm) and SDNN (ms) from `peaks`; NaN with fewer than three."""
    at = peaks(window, name)
    if len(at) < 3:
        return float("nan"), float("nan")
    interval = np.diff(at) / FS_HZ
    return float(60 / interval.mean()), float(1000 * interval.std())


def spectra(whole: F32) -> tuple[F64, F64]:
    """Frequency (Hz) and power density in dB of each z-scored window. (window, frequency)"""
    from scipy.signal import welch

    frequency, power = welch(whole, FS_HZ, nperseg=512, axis=1)
    return frequency, 10 * np.log10(np.maximum(power, 1e-9))


def spectral_edge_hz(whole: F32) -> float:
    """Frequency below which half of the power lies, median over windows."""
    frequency, decibel = spectra(whole)
    power = np.cumsum(10 ** (decibel / 10), axis=1)
    return float(np.median(frequency[(power >= 0.5 * power[:, -1:]).argmax(axis=1)]))


def compare(
    data: Path | None,
    *,
    windows: int,
    real_windows: int,
    seed: int,
    on_site: Callable[[str], None] | None = None,
) -> tuple[list[WindowSet], dict[str, str]]:
    """The simulator's windows (wide, and of the pretend sites) and those of real sites in `data`.

    Returns:
        the sets, and for every set that could not be made the reason.
    """
    rng = np.random.default_rng(seed)
    signal, valid, _ = draw_windows(rng, windows)
    sets = [WindowSet("simulated: wide", True, signal, valid)]
    for effects in pretend_sites(5):
        if on_site:
            on_site(effects.name)
        signal, valid, _ = draw_windows(rng, max(windows // 5, 20), effects=effects)
        sets.append(WindowSet(f"simulated: {effects.name}", True, signal, valid))
    skipped: dict[str, str] = {}
    if data is None:
        skipped["real sites"] = "no folder given with --data"
        return sets, skipped
    if not data.is_dir():
        raise OurMistake(f"{data} is no folder.", do="Give the folder that holds the sites.")
    for folder in sorted(path for path in data.iterdir() if path.is_dir()):
        if on_site:
            on_site(folder.name)
        made = read_site(folder, real_windows)
        if isinstance(made, str):
            skipped[folder.name] = made
        else:
            sets.append(made)
    return sets, skipped


def read_site(folder: Path, most: int) -> WindowSet | str:
    """At most about `most` windows of one real site, or why there are none."""
    signals, valids = [], []
    count = 0
    try:
        for signal, valid in _real_windows(folder):
            signals.append(signal)
            valids.append(valid)
            count += len(signal)
            if count >= most:
                break
    except (DataFault, OurMistake) as fault:
        return fault.message
    if not count:
        return "no usable window"
    from simulations.heads.collections import may_be_drawn

    drawn = may_be_drawn(folder)
    return WindowSet(folder.name, False, np.concatenate(signals), np.concatenate(valids), drawn)


def _real_windows(folder: Path) -> Iterator[tuple[F32, NDArray[np.bool_]]]:
    """Usable windows of recordings, evenly over each recording."""
    from client.ingest import prepare_recording
    from client.records import ReadFault, read_folder
    from simulations.site_mapping import mapping_of

    for recording in read_folder(folder, mapping_of(folder)):
        if isinstance(recording, ReadFault):
            continue
        made = prepare_recording(recording).windows()
        rows = np.flatnonzero(made.usable)
        if len(rows):
            rows = rows[np.linspace(0, len(rows) - 1, min(_PER_RECORDING, len(rows))).astype(int)]
            yield made.signal[rows], made.valid[rows]


def draw_figure(out: Path, sets: list[WindowSet]) -> None:
    """PNG: spectra of both channels (simulated median and 10-90 %, real medians), HR and SDNN."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 10), layout="constrained")
    axes = figure.subplots(2, 2)
    wide = sets[0]
    for channel, name in enumerate(CHANNELS):
        axis = axes[0, channel]
        for item in sets:
            whole = item.whole(channel)
            if not len(whole) or (item.simulated and item is not wide):
                continue
            frequency, decibel = spectra(whole)
            low, middle, high = np.percentile(decibel, (10, 50, 90), axis=0)
            if item is wide:
                axis.fill_between(frequency, low, high, color="0.85", label="simulated, 10-90 %")
                axis.plot(frequency, middle, color="black", lw=2.5, label="simulated, median")
            else:
                (line,) = axis.plot(frequency, middle, lw=1.2, label=f"{item.name}, median")
                axis.plot(frequency, low, lw=0.5, ls=":", color=line.get_color())
                axis.plot(frequency, high, lw=0.5, ls=":", color=line.get_color())
        axis.set_xlim(*_BAND_HZ[name])
        axis.set_ylim(-55, 5)
        axis.set_xlabel("Hz")
        axis.set_ylabel("dB of the z-scored window per Hz")
        axis.set_title(f"{name.upper()} spectrum (dotted: 10 and 90 % of each real site)")
        if axis.lines:
            axis.legend(fontsize=7)
    rates = [item.rates() for item in sets]
    for place, (title, unit) in enumerate((("Heart rate", "bpm"), ("SDNN of a window", "ms"))):
        axis = axes[1, place]
        values = [rate[place] if len(rate[place]) else np.array([np.nan]) for rate in rates]
        boxes = axis.boxplot(
            values, whis=(5, 95), showfliers=False, orientation="horizontal", patch_artist=True
        )
        for item, box in zip(sets, boxes["boxes"], strict=True):
            box.set_facecolor("0.8" if item.simulated else "tab:orange")
        axis.set_yticks(range(1, len(sets) + 1), [item.name for item in sets], fontsize=8)
        axis.set_xlabel(unit)
        axis.set_title(f"{title}: quartiles, 5-95 % (grey simulated, orange real)")
        if place:
            axis.set_xlim(0, 500)
    _save(figure, out, 110)


def draw_sheet(
    out: Path,
    sets: list[WindowSet],
    *,
    rows: int = 3,
    simulated: int = 24,
    show_signals: bool = False,
) -> None:
    """PNG, its owner's alone: example windows, simulated ones and `rows` of every real site that is
    an open collection; of every real site if `show_signals`."""
    from matplotlib.figure import Figure

    examples: list[tuple[str, F32, NDArray[np.bool_]]] = []
    for item in sets:
        if item.simulated and item is not sets[0]:
            continue
        if not (item.drawn or show_signals):
            continue
        count = min(simulated if item.simulated else rows, len(item.signal))
        for row in np.linspace(0, len(item.signal) - 1, count).astype(int):
            examples.append((item.name, item.signal[row], item.valid[row]))
    figure = Figure(figsize=(22, 1.25 * len(examples)))
    axes = np.atleast_2d(figure.subplots(len(examples), 2))
    figure.subplots_adjust(0.01, 0.01, 0.99, 0.99, wspace=0.02, hspace=0.45)
    time = np.arange(WINDOW_SAMPLES) / FS_HZ
    for line, (name, signal, valid) in zip(axes, examples, strict=True):
        for channel in range(2):
            line[channel].plot(time, signal[channel], lw=0.8, color=("black", "tab:red")[channel])
            line[channel].set_yticks([])
            line[channel].margins(x=0)
            if not valid[channel].any():
                line[channel].text(0.3, 0, "absent or refused", fontsize=7)
        line[0].set_title(name, fontsize=7, loc="left", pad=1)
    _save(figure, out, 60, mode=0o600)


def _save(figure: Any, out: Path, dpi: int, mode: int = 0o644) -> None:
    stream = io.BytesIO()
    figure.savefig(stream, dpi=dpi, format="png")
    try:
        if not out.parent.is_dir():
            raise FileNotFoundError(out.parent)
        write_atomic(out, stream.getvalue(), mode=mode)
    except OSError as error:
        raise OurMistake(
            f"{out} cannot be written.", do="Name a file in a folder that exists."
        ) from error
