"""Pretend hospitals as folders that a hospital could ingest: WFDB, Parquet or CSV."""

from __future__ import annotations

import csv
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from shared_model.errors import OurMistake
from simulations.cohort_beats import DROPPED, Beats
from simulations.cohort_hospital import Cohort
from simulations.cohort_sites import RHYTHMS

Format = Literal["wfdb", "parquet", "csv"]
FORMATS: tuple[Format, ...] = ("wfdb", "parquet", "csv")

_SYMBOL = ("N", "V", "V", "/", "A", "x")
_RHYTHM_NOTE = {
    "sinus": "(N", "af": "(AFIB", "pvc": "(N", "bigeminy": "(B", "trigeminy": "(T",
    "couplets": "(N", "vt": "(VT", "pac": "(N", "flutter": "(AFL", "svt": "(SVTA", "paced": "(P",
    "junctional": "(NOD", "av_block": "(BII", "pause": "(N",
}  # fmt: skip


def write_site(path: Path, cohort: Cohort, format: Format = "wfdb") -> None:
    """Write `cohort` into the new folder `path`.

    One file a recording and `recordings.csv` (recording, patient_id, fs_hz, labels), or for Parquet
    one `recordings.parquet` with the signals in its rows. WFDB also has beat and rhythm
    annotations (`.atr`). A file has one sampling rate, the higher of the two channels'; the other
    channel is resampled to it. Every row says `source` = simulated.

    Raises:
        OurMistake: the folder exists and is not empty, or the format is none of FORMATS.
    """
    if format not in FORMATS:
        raise OurMistake("Unknown format.", do=f"Use any of {', '.join(FORMATS)}.")
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise OurMistake(
            f"{path} is there already and is not an empty folder.",
            do="Name a new folder, or remove the old one yourself.",
        )
    path.mkdir(parents=True, exist_ok=True)
    fs_hz = max(cohort.effects.fs_ecg_hz, cohort.effects.fs_ppg_hz)
    ecg = _at_rate(cohort.ecg, cohort.effects.fs_ecg_hz, fs_hz)
    ppg = _at_rate(cohort.ppg, cohort.effects.fs_ppg_hz, fs_hz)
    rows = _rows(cohort, fs_hz)
    if format == "parquet":
        _write_parquet(path, rows, ecg, ppg)
        return
    for index, row in enumerate(rows):
        name = str(row["recording"])
        if format == "wfdb":
            _write_wfdb(path, name, fs_hz, ecg[index], ppg[index], cohort.leads[index])
            _write_beats(path, name, fs_hz, cohort.beats, index, ecg.shape[1])
        else:
            _write_csv(path / f"{name}.csv", fs_hz, ecg[index], ppg[index])
    with (path / "recordings.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _rows(cohort: Cohort, fs_hz: float) -> list[dict[str, Any]]:
    """One row a recording."""
    seen: dict[int, int] = {}
    rows: list[dict[str, Any]] = []
    for index, patient in enumerate(cohort.patient.tolist()):
        seen[patient] = seen.get(patient, 0) + 1
        identity = cohort.patient_ids[patient]
        row: dict[str, Any] = {
            "recording": f"{identity.replace('-', '_')}_{seen[patient]}",
            "patient_id": identity,
            "fs_hz": fs_hz,
        }
        row |= {name: column[patient].item() for name, column in cohort.patient_labels.items()}
        row |= {name: column[index].item() for name, column in cohort.recording_labels.items()}
        row["source"] = "simulated"
        rows.append({k: "" if isinstance(v, float) and np.isnan(v) else v for k, v in row.items()})
    return rows


def _at_rate(signal: NDArray[np.float32], from_hz: float, to_hz: float) -> NDArray[np.float64]:
    """(recording, sample) at another rate; samples next to a gap stay missing."""
    from scipy.signal import resample_poly

    if from_hz == to_hz:
        return signal.astype(np.float64)
    ratio = Fraction(to_hz / from_hz).limit_denominator(1000)
    gap = np.isnan(signal)
    filled = np.where(gap, 0.0, signal.astype(np.float64))
    result = resample_poly(filled, ratio.numerator, ratio.denominator, axis=1, padtype="line")
    source = np.arange(result.shape[1]) * (from_hz / to_hz)
    last = signal.shape[1] - 1
    lost = gap[:, np.minimum(np.floor(source).astype(int), last)]
    lost |= gap[:, np.minimum(np.ceil(source).astype(int), last)]
    return np.where(lost, np.nan, result)


def _write_wfdb(
    path: Path,
    name: str,
    fs_hz: float,
    ecg: NDArray[np.float64],
    ppg: NDArray[np.float64],
    lead: str,
) -> None:
    """16 bits a sample; gain and baseline so that the recording fills most of the range."""
    import wfdb

    both = np.stack([ecg, ppg], axis=1)  # (sample, channel)
    low, high = np.nanmin(both, axis=0), np.nanmax(both, axis=0)
    gain = 60_000 / np.maximum(high - low, 1e-6)
    baseline = np.round(-gain * (high + low) / 2).astype(int)
    wfdb.wrsamp(
        name,
        fs=int(fs_hz) if float(fs_hz).is_integer() else fs_hz,
        units=["mV", "NU"],
        sig_name=[lead, "PLETH"],
        p_signal=both,
        fmt=["16", "16"],
        adc_gain=gain.tolist(),
        baseline=baseline.tolist(),
        write_dir=str(path),
    )


def _write_beats(
    path: Path, name: str, fs_hz: float, beats: Beats, index: int, samples: int
) -> None:
    """Annotations `.atr`: every beat, and the rhythm where it changes."""
    import wfdb

    sample = np.round(beats.time_s[index] * fs_hz).astype(np.int64)
    held = (sample >= 0) & (sample < samples) & (beats.kind[index] != DROPPED)
    if not held.any():
        return
    at: list[int] = []
    symbols: list[str] = []
    notes: list[str] = []
    now = -1
    for place in np.flatnonzero(held):
        rhythm = int(beats.rhythm[index, place])
        if rhythm != now:
            now = rhythm
            at.append(max(int(sample[place]) - 1, 0))
            symbols.append("+")
            notes.append(_RHYTHM_NOTE[RHYTHMS[rhythm]])
        at.append(int(sample[place]))
        symbols.append(_SYMBOL[int(beats.kind[index, place])])
        notes.append("")
    wfdb.wrann(
        name, "atr", np.array(at), symbol=symbols, aux_note=notes, fs=fs_hz, write_dir=str(path)
    )


def _write_csv(
    path: Path, fs_hz: float, ecg: NDArray[np.float64], ppg: NDArray[np.float64]
) -> None:
    """Columns time_s, ecg, ppg; an empty cell where a sample is missing."""

    def cell(value: float) -> str:
        return "" if np.isnan(value) else f"{value:.5g}"

    with path.open("w", newline="", encoding="utf-8") as file:
        file.write("time_s,ecg,ppg\n")
        for i, (first, second) in enumerate(zip(ecg, ppg, strict=True)):
            file.write(f"{i / fs_hz:.4f},{cell(first)},{cell(second)}\n")


def _write_parquet(
    path: Path,
    rows: list[dict[str, Any]],
    ecg: NDArray[np.float64],
    ppg: NDArray[np.float64],
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = {name: [row[name] if row[name] != "" else None for row in rows] for name in rows[0]}
    signals = {
        "ecg": pa.array(list(ecg.astype(np.float32)), type=pa.list_(pa.float32())),
        "ppg": pa.array(list(ppg.astype(np.float32)), type=pa.list_(pa.float32())),
    }
    pq.write_table(pa.table({**table, **signals}), path / "recordings.parquet")
