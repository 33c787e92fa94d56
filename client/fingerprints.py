"""Recordings to fingerprints: 128 numbers for each 10-s window, as one Parquet file.

Columns: patient (pseudonym), recording (number within the patient), start_s, modality ("both",
"ecg", "ppg", or "none" for refused windows), ecg_quality and ppg_quality (words), fingerprint
(float32 x 128, unit length; null for refused windows). Neither a patient's identifier nor a
file name is written. One recording and a bounded number of windows are in memory at a time.
A file for chosen sensors has the windows that have them; the model sees nothing else of them.
"""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
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
MODEL_DIGEST_KEY = "fedprint.model_digest"
SENSORS_KEY = "fedprint.sensors"
"""Keys of the file's metadata, for who writes and who reads it. The second is there only where
sensors were chosen."""
SENSORS = ("both", *CHANNELS)
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


def fault_rows(faults: Iterable[Fault]) -> list[dict[str, str]]:
    """As tables and JSON show them."""
    return [
        {"file": one.file, "cause": one.cause, "what": one.message, "do": one.do} for one in faults
    ]


class NothingRead(DataFault):
    """Not one recording could be used; `faults` say why."""

    def __init__(self, message: str, *, faults: Sequence[Fault], do: str = "") -> None:
        super().__init__(message, cause="nothing", do=do)
        self.faults = tuple(faults)


@dataclass
class Summary:
    """What was done; counts only, apart from the faults.

    windows: with a fingerprint. other_sensors: usable ones that lack the chosen sensors.
    """

    recordings: int = 0
    windows: int = 0
    refused_windows: int = 0
    other_sensors: int = 0
    modalities: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    faults: list[Fault] = field(default_factory=list)
    patients: set[str] = field(default_factory=set, repr=False)


def describe_source(
    release: Release | None, model_digest: str, sensors: str | None = None
) -> dict[str, str]:
    """Metadata of the file: which model made it, for which sensors, and in words what it is."""
    from importlib.metadata import version

    told = {
        "fedprint.format": FORMAT,
        "fedprint.version": version("fedprint"),
        MODEL_DIGEST_KEY: model_digest,
        "fedprint.source": FROM_WARM_START if release is None else FROM_RELEASE,
        "fedprint.window_s": f"{WINDOW_S:g}",
        "fedprint.fs_hz": f"{FS_HZ:g}",
        "fedprint.limits": LIMITS,
    }
    if sensors is not None:
        told[SENSORS_KEY] = sensors
    if release is not None:
        told["fedprint.release_number"] = str(release.manifest.number)
        told["fedprint.release_name"] = release.manifest.name
        told["fedprint.release_digest"] = release.manifest.digest
    return told


def fingerprint_file(
    recordings: Iterable[Recording | ReadFault],
    output: Path,
    *,
    fingerprint: Fingerprinter,
    pseudonym_key: bytes,
    metadata: Mapping[str, str],
    sensors: str | None = None,
    with_refused: bool = False,
    on_recording: Callable[[], None] = lambda: None,
) -> Summary:
    """Write the fingerprints of all recordings, whole or not at all.

    Args:
        recordings: from `client.records.read_folder`; a `ReadFault` is counted and passed over.
        fingerprint: the model, see `Fingerprinter`.
        metadata: of the file, see `describe_source`.
        sensors: "both", "ecg" or "ppg", see `seen_by`; None: what each window has.
        with_refused: also write windows that the quality gate refused, and those without the
            chosen sensors, without a fingerprint.

    Raises:
        NothingRead: not one recording could be read, or no window has these sensors; no file is
            written.
        OurMistake: `output` cannot be written.
    """
    summary = Summary()
    with _writer(output, metadata) as write:
        held: list[_Held] = []
        count = 0
        for patient, recording, windows in _windows(recordings, pseudonym_key, sensors, summary):
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
        _refuse_nothing(summary, sensors)
    return summary


def _refuse_nothing(summary: Summary, sensors: str | None) -> None:
    if not summary.recordings:
        raise NothingRead(
            f"No recording could be read; files refused: {len(summary.faults)}.",
            faults=summary.faults,
            do="Read the causes above, or give a mapping with --mapping.",
        )
    if summary.other_sensors and not summary.windows:
        raise NothingRead(
            f"None of {summary.other_sensors} usable windows has these sensors: {sensors}.",
            faults=summary.faults,
            do="Give other --sensors, or none for what each window has.",
        )


@dataclass(frozen=True)
class _Held:
    patient: str
    recording: str
    windows: Windows


def _windows(
    recordings: Iterable[Recording | ReadFault],
    key: bytes,
    sensors: str | None,
    summary: Summary,
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
        before = int(usable(windows).sum())
        windows = windows if sensors is None else seen_by(windows, sensors)
        _count(summary, patient, windows, before)
        yield patient, f"{seen[patient]:04d}", windows


def _count(summary: Summary, patient: str, windows: Windows, before: int) -> None:
    """before: windows that were usable with whatever sensors they have."""
    good = int(usable(windows).sum())
    summary.patients.add(patient)
    summary.recordings += 1
    summary.windows += good
    summary.refused_windows += len(windows) - before
    summary.other_sensors += before - good
    summary.modalities.update(name for name in modalities(windows) if name != "none")
    for index, channel in enumerate(CHANNELS):
        codes, counts = np.unique(windows.refusal[:, index], return_counts=True)
        for code, number in zip(codes, counts, strict=True):
            if code not in (quality.ACCEPTED, quality.ABSENT):
                summary.refusals[f"{channel}: {quality.REASONS[int(code)]}"] += int(number)


def seen_by(windows: Windows, sensors: str) -> Windows:
    """Windows as these sensors alone see them; the quality gate has judged whatever was there.

    Args:
        sensors: "both", "ecg" or "ppg".

    Returns:
        As many windows. The other channel is absent; where one of these is missing, nothing of the
        window is left.
    """
    wanted = _wanted(sensors)
    signal, valid = windows.signal.copy(), windows.valid.copy()
    refusal = windows.refusal.copy()
    lacking = ~having(valid, sensors)
    signal[:, ~wanted], valid[:, ~wanted] = 0.0, False
    refusal[:, ~wanted] = quality.ABSENT
    valid[lacking] = False
    return replace(windows, signal=signal, valid=valid, refusal=refusal)


def having(valid: np.ndarray, sensors: str) -> np.ndarray:
    """bool (window,): which windows have all of these sensors; valid: (window, channel, token)."""
    here = np.asarray(valid.any(axis=2))  # (window, channel)
    return np.asarray(here[:, _wanted(sensors)].all(axis=1))


def _wanted(sensors: str) -> np.ndarray:
    """bool (channel,)"""
    return np.array([sensors in ("both", name) for name in CHANNELS])


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


def _named(name: str, output: Path) -> None:
    try:
        os.replace(name, output)
    except OSError as error:
        raise OurMistake(f"{output} cannot be written.", do="Choose another place.") from error


@contextmanager
def _writer(
    output: Path, metadata: Mapping[str, str]
) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Append row groups beside the output; it takes its name only when it is whole."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if output.is_dir():
        raise OurMistake(f"{output} is a folder.", do="Name a file.")
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
        _named(name, output)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    sync_folder(output.parent)
