"""Small recordings of every accepted format, written without the product's own code."""

from __future__ import annotations

import datetime
import warnings
from pathlib import Path

import numpy as np

FS_HZ = 125.0
SECONDS = 12


def ecg(fs_hz: float = FS_HZ, seconds: float = SECONDS) -> np.ndarray:
    """A train of spikes in mV, float64 (sample,)."""
    time_s = np.arange(int(fs_hz * seconds)) / fs_hz
    return np.exp(-(((time_s % 0.8) - 0.4) ** 2) / 0.0004) + 0.05 * np.sin(2 * np.pi * 0.3 * time_s)


def ppg(fs_hz: float = FS_HZ, seconds: float = SECONDS) -> np.ndarray:
    """A pulse wave without unit, float64 (sample,)."""
    time_s = np.arange(int(fs_hz * seconds)) / fs_hz
    return np.sin(2 * np.pi * 1.25 * time_s) + 0.3 * np.sin(2 * np.pi * 2.5 * time_s)


def wfdb_record(
    folder: Path,
    name: str = "rec1",
    *,
    units: tuple[str, str] = ("mV", "NU"),
    fs_hz: float = FS_HZ,
    comments: tuple[str, ...] = (),
    beats: bool = False,
) -> Path:
    """A record with ECG and PPG interleaved in one file of format 16; returns the header's path."""
    signals = np.stack([ecg(fs_hz), ppg(fs_hz)], axis=1)
    digital = np.rint(signals * 1000).astype("<i2")
    digital.tofile(folder / f"{name}.dat")
    lines = [f"{name} 2 {fs_hz:g} {len(digital)}"]
    for index, (lead, unit) in enumerate(zip(("II", "PLETH"), units, strict=True)):
        checksum = int(digital[:, index].astype(np.int64).sum()) % 65536
        lines.append(f"{name}.dat 16 1000(0)/{unit} 16 0 {digital[0, index]} {checksum} 0 {lead}")
    lines += [f"# {comment}" for comment in comments]
    header = folder / f"{name}.hea"
    header.write_text("\n".join(lines) + "\n")
    if beats:
        import wfdb

        wfdb.wrann(
            name, "atr", np.array([10, 50, 150, 250]), symbol=["+", "N", "V", "N"],
            aux_note=["(AFIB", "", "", ""], write_dir=str(folder),
        )  # fmt: skip
    return header


def edf_file(
    path: Path,
    *,
    unit: str = "mV",
    patient: dict[str, str] | None = None,
    annotations: tuple[str, ...] = (),
    fs_hz: float = FS_HZ,
) -> Path:
    """An EDF+C file with ECG II and Pleth; `patient`: code, name, birthdate, admin, technician."""
    import pyedflib

    given = patient or {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        writer = pyedflib.EdfWriter(str(path), 2, file_type=pyedflib.FILETYPE_EDFPLUS)
        writer.setSignalHeaders(
            [
                {
                    "label": label,
                    "dimension": dimension,
                    "sample_frequency": fs_hz,
                    "physical_max": 2.0,
                    "physical_min": -2.0,
                    "digital_max": 32767,
                    "digital_min": -32768,
                    "transducer": "",
                    "prefilter": "",
                }
                for label, dimension in (("ECG II", unit), ("Pleth", ""))
            ]
        )
        writer.setPatientCode(given.get("code", ""))
        writer.setPatientName(given.get("name", ""))
        if "birthdate" in given:
            writer.setBirthdate(datetime.date.fromisoformat(given["birthdate"]))
        writer.setAdmincode(given.get("admin", ""))
        writer.setTechnician(given.get("technician", ""))
        writer.setStartdatetime(datetime.datetime(2020, 3, 4, 5, 6, 7))
        writer.writeSamples([ecg(fs_hz), ppg(fs_hz)])
        for index, text in enumerate(annotations):
            writer.writeAnnotation(index + 1.0, -1, text)
        writer.close()
    return path


def dicom_file(path: Path, *, unit: str = "mV", patient_id: str = "p1", **tags: str) -> Path:
    """A DICOM waveform with leads I and II; `tags`: further elements by keyword."""
    import pydicom
    from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    def code(value: str, meaning: str) -> Dataset:
        item = Dataset()
        item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "X", meaning
        return item

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.9.1.1"
        meta.MediaStorageSOPInstanceUID = generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
        data.SOPClassUID, data.SOPInstanceUID = (
            meta.MediaStorageSOPClassUID,
            meta.MediaStorageSOPInstanceUID,
        )
        data.Modality, data.PatientID = "ECG", patient_id
        for keyword, value in tags.items():
            if keyword == "private":
                data.private_block(0x0011, "MAKER", create=True).add_new(1, "LO", value)
            else:
                setattr(data, keyword, value)
        signals = np.stack([ecg() * 0.5, ecg()], axis=1)
        group = Dataset()
        group.WaveformOriginality, group.NumberOfWaveformChannels = "ORIGINAL", 2
        group.NumberOfWaveformSamples, group.SamplingFrequency = len(signals), FS_HZ
        group.WaveformBitsAllocated, group.WaveformSampleInterpretation = 16, "SS"
        group.WaveformData = np.rint(signals * 1000).astype("<i2").tobytes()
        definitions = []
        for lead in ("Lead I", "Lead II"):
            definition = Dataset()
            definition.ChannelSourceSequence = pydicom.Sequence([code("2:1", lead)])
            definition.ChannelSensitivity, definition.ChannelBaseline = 0.001, 0.0
            definition.ChannelSensitivityCorrectionFactor = 1.0
            definition.ChannelSensitivityUnitsSequence = pydicom.Sequence([code(unit, "unit")])
            definition.WaveformBitsStored = 16
            definitions.append(definition)
        group.ChannelDefinitionSequence = pydicom.Sequence(definitions)
        data.WaveformSequence = pydicom.Sequence([group])
        data.save_as(str(path), enforce_file_format=True)
    return path


def csv_file(
    path: Path, *, header: str = "time_s,ecg,ppg", comment: str = "", drop: slice | None = None
) -> Path:
    """Rows of time, ECG and PPG; `drop`: rows left out (a gap)."""
    rows = np.stack([np.arange(int(FS_HZ * SECONDS)) / FS_HZ, ecg(), ppg()], axis=1)
    if drop is not None:
        rows = np.delete(rows, drop, axis=0)
    lines = ([comment] if comment else []) + [header]
    lines += [",".join(f"{value:.5f}" for value in row) for row in rows]
    path.write_text("\n".join(lines) + "\n")
    return path


def parquet_file(path: Path, rows: int = 3, **columns: list[object]) -> Path:
    """`rows` recordings of one patient each; `columns`: further columns."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = {
        "recording": [f"r{i}" for i in range(rows)],
        "patient_id": [f"p{i}" for i in range(rows)],
        "fs_hz": [FS_HZ] * rows,
        "ecg": [ecg().astype(np.float32)] * rows,
        "ppg": [ppg().astype(np.float32)] * rows,
        **columns,
    }
    pq.write_table(pa.table(table), path)
    return path


def table_file(path: Path, rows: list[dict[str, str]]) -> Path:
    """A table of recordings, every row with the same keys."""
    lines = [",".join(rows[0])] + [",".join(row.values()) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
