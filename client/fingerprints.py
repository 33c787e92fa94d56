"""Recordings to fingerprints: 128 numbers for each 10-s window, as one Parquet file.

Columns: patient (pseudonym), recording (number within the patient), start_s, modality ("both",
"ecg", "ppg", or "none" for refused windows), ecg_quality and ppg_quality (words), fingerprint
(float32 x 128, unit length; null for refused windows). Neither a patient's identifier nor a
file name is written. One recording and a bounded number of windows are in memory at a time.
"""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from client.ingest import prepare_recording
from client.pseudonyms import pseudonym_of
from client.records import ReadFault, Recording
from shared_model import quality
from shared_model.config import CHANNELS, FINGERPRINT_SIZE, FS_HZ, WINDOW_S
from shared_model.errors import DataFault, OurMistake
from shared_model.files import sync_folder
from shared_model.release import LIMITS
from shared_model.release_signed import Release
from shared_model.windows import Windows

WINDOWS_AT_ONCE = 2048
"""Windows held before they are written (20 MB)."""
FORMAT = "1"
FROM_RELEASE = "release"
FROM_WARM_START = "packaged warm start, no release: trained on simulated signals only"

Fingerprinter = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(signal (window, 2, 1250), valid (window, 2, 50)) -> float32 (window, 128)."""


@dataclass(frozen=True)
class Fault:
    """A recording that could not be used, for the hospital's own screen only."""

    file: str = field(repr=False)
    cause: str
    message: str
    do: str = ""


@dataclass
class Summary:
    """What was done; counts only, apart from the faults."""

    recordings: int = 0
    windows: int = 0
    refused_windows: int = 0
    modalities: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    faults: list[Fault] = field(default_factory=list)
    patients: set[str] = field(default_factory=set, repr=False)


def describe_source(release: Release | None, model_digest: str) -> dict[str, str]:
    """Metadata of the file: which model made it, and in words what it is."""
    from importlib.metadata import version

    told = {
        "format": FORMAT,
        "version": version("fedprint"),
        "model_digest": model_digest,
        "source": FROM_WARM_START if release is None else FROM_RELEASE,
        "window_s": f"{WINDOW_S:g}",
        "fs_hz": f"{FS_HZ:g}",
        "limits": LIMITS,
    }
    if release is not None:
        told["release_number"] = str(release.manifest.number)
        told["release_name"] = release.manifest.name
        told["release_digest"] = release.manifest.digest
    return {f"fedprint.{name}": value for name, value in told.items()}


def fingerprint_file(
    recordings: Iterable[Recording | ReadFault],
    output: Path,
    *,
    fingerprint: Fingerprinter,
    pseudonym_key: bytes,
    metadata: Mapping[str, str],
    with_refused: bool = False,
    on_recording: Callable[[], None] = lambda: None,
) -> Summary:
    """Write the fingerprints of all recordings, whole or not at all.

    Args:
        recordings: from `client.records.read_folder`; a `ReadFault` is counted and passed over.
        fingerprint: the model, see `Fingerprinter`.
        metadata: of the file, see `describe_source`.
        with_refused: also write windows that the quality gate refused, without a fingerprint.

    Raises:
        DataFault: not one recording could be read (cause "nothing"); no file is written.
        OurMistake: `output` cannot be written.
    """
    summary = Summary()
    with _writer(output, metadata) as write:
        held: list[_Held] = []
        count = 0
        for patient, recording, windows in _windows(recordings, pseudonym_key, summary):
            chosen = windows if with_refused else windows.select(usable(windows))
            for start in range(0, len(chosen), WINDOWS_AT_ONCE):
                part = chosen.select(np.arange(start, min(start + WINDOWS_AT_ONCE, len(chosen))))
                held.append(_Held(patient, recording, part))
                count += len(part)
                if count >= WINDOWS_AT_ONCE:
                    write(_table(held, fingerprint))
                    held, count = [], 0
            on_recording()
        if held:
            write(_table(held, fingerprint))
        if not summary.recordings:
            raise DataFault(
                f"No recording could be read; {len(summary.faults)} files were refused.",
                cause="nothing",
                do="Read the causes above, or give a mapping with --mapping.",
            )
    return summary


@dataclass(frozen=True)
class _Held:
    patient: str
    recording: str
    windows: Windows


def _windows(
    recordings: Iterable[Recording | ReadFault], key: bytes, summary: Summary
) -> Iterator[tuple[str, str, Windows]]:
    """(patient pseudonym, recording number, all windows) of each readable recording."""
    seen: Counter[str] = Counter()
    for item in recordings:
        if isinstance(item, ReadFault):
            summary.faults.append(Fault(item.file, item.cause, item.message, item.do))
            continue
        try:
            windows = prepare_recording(item).windows()
        except DataFault as error:
            summary.faults.append(Fault(item.shown, error.cause, error.message, error.do))
            continue
        patient = pseudonym_of(key, item.patient)
        seen[patient] += 1
        _count(summary, patient, windows)
        yield patient, f"{seen[patient]:04d}", windows


def _count(summary: Summary, patient: str, windows: Windows) -> None:
    good = usable(windows)
    summary.patients.add(patient)
    summary.recordings += 1
    summary.windows += int(good.sum())
    summary.refused_windows += int((~good).sum())
    summary.modalities.update(name for name in modalities(windows) if name != "none")
    for index, channel in enumerate(CHANNELS):
        codes, counts = np.unique(windows.refusal[:, index], return_counts=True)
        for code, number in zip(codes, counts, strict=True):
            if code not in (quality.ACCEPTED, quality.ABSENT):
                summary.refusals[f"{channel}: {quality.REASONS[int(code)]}"] += int(number)


def usable(windows: Windows) -> np.ndarray:
    """bool (window,): at least one whole token of an accepted channel was recorded."""
    return np.asarray(windows.valid.any(axis=(1, 2)))


def modalities(windows: Windows) -> list[str]:
    """What each window's fingerprint is made of: "both", "ecg", "ppg" or "none"."""
    used = np.asarray(windows.valid.any(axis=2))  # (window, channel=2)
    names = {(True, True): "both", (True, False): "ecg", (False, True): "ppg"}
    return [names.get((bool(row[0]), bool(row[1])), "none") for row in used]


def _schema(metadata: Mapping[str, str]) -> Any:
    import pyarrow as pa

    return pa.schema(
        [
            ("patient", pa.string()),
            ("recording", pa.string()),
            ("start_s", pa.float64()),
            ("modality", pa.string()),
            ("ecg_quality", pa.string()),
            ("ppg_quality", pa.string()),
            ("fingerprint", pa.list_(pa.float32(), FINGERPRINT_SIZE)),
        ],
        metadata=dict(metadata),
    )


def _table(held: list[_Held], fingerprint: Fingerprinter) -> dict[str, Any]:
    """Column name -> Arrow array, for some recordings' windows."""
    import pyarrow as pa

    signal = np.concatenate([item.windows.signal for item in held])
    valid = np.concatenate([item.windows.valid for item in held])
    refusal = np.concatenate([item.windows.refusal for item in held])
    good = np.concatenate([usable(item.windows) for item in held])
    values = np.zeros((len(good), FINGERPRINT_SIZE), dtype=np.float32)
    if good.any():
        values[good] = fingerprint(signal[good], valid[good])
    return {
        "patient": pa.array([item.patient for item in held for _ in range(len(item.windows))]),
        "recording": pa.array([item.recording for item in held for _ in range(len(item.windows))]),
        "start_s": pa.array(np.concatenate([item.windows.start_s for item in held])),
        "modality": pa.array([name for item in held for name in modalities(item.windows)]),
        "ecg_quality": pa.array([quality.REASONS[int(code)] for code in refusal[:, 0]]),
        "ppg_quality": pa.array([quality.REASONS[int(code)] for code in refusal[:, 1]]),
        "fingerprint": pa.FixedSizeListArray.from_arrays(
            pa.array(values.reshape(-1)), FINGERPRINT_SIZE, mask=pa.array(~good)
        ),
    }


@contextmanager
def _writer(
    output: Path, metadata: Mapping[str, str]
) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Append row groups beside the output; it takes its name only when it is whole."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(
            dir=output.parent, prefix=f".{output.name}.", suffix=".new"
        )
    except OSError as error:
        raise OurMistake(f"{output} cannot be written.", do="Choose another place.") from error
    schema = _schema(metadata)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            os.fchmod(stream.fileno(), 0o600)
            with pq.ParquetWriter(stream, schema, compression="zstd") as writer:
                yield lambda columns: writer.write_table(pa.table(columns, schema=schema))
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(name, output)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    sync_folder(output.parent)
