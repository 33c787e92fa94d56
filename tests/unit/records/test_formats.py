"""Every format comes out as the same signals, by content and whatever the file is called."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from client.mapping import Mapping
from client.records import Recording, count_recordings, guess_mapping, read_folder
from shared_model.errors import OurMistake


def only(path: Path, mapping: Mapping | None = None) -> Recording:
    items = list(read_folder(path, mapping))
    assert len(items) == 1, items
    assert isinstance(items[0], Recording), items
    return items[0]


def with_one_patient(path: Path) -> Mapping:
    return guess_mapping(path).model_copy(update={"one_file_is_one_patient": True})


def test_wfdb_record_gives_both_channels_labels_and_events(
    tmp_path: Path, make: ModuleType
) -> None:
    make.wfdb_record(tmp_path, beats=True)
    make.table_file(
        tmp_path / "recordings.csv", [{"recording": "rec1", "patient_id": "p7", "age": "61"}]
    )
    found = only(tmp_path)
    assert found.patient == "p7"
    assert found.labels == {"age": 61.0}
    assert {
        role: (channel.unit, channel.lead, channel.fs_hz)
        for role, channel in found.channels.items()
    } == {
        "ecg": ("mV", "II", 125.0),
        "ppg": ("NU", "PLETH", 125.0),
    }
    np.testing.assert_allclose(found.channels["ecg"].samples, make.ecg(), atol=6e-4)
    np.testing.assert_allclose(found.channels["ppg"].samples, make.ppg(), atol=6e-4)
    assert [event.kind for event in found.events] == ["rhythm:AFIB", "beat:N", "beat:V", "beat:N"]
    assert found.events[1].time_s == pytest.approx(50 / 125)


def test_edf_plus_gives_both_channels_and_takes_the_patient_code(
    tmp_path: Path, make: ModuleType
) -> None:
    make.edf_file(tmp_path / "a.edf", patient={"code": "H-12"}, annotations=("start", "stop"))
    found = only(tmp_path)
    assert found.patient == "H-12"
    assert found.channels["ecg"].lead == "II"
    np.testing.assert_allclose(found.channels["ecg"].samples, make.ecg(), atol=1e-3)
    np.testing.assert_allclose(found.channels["ppg"].samples, make.ppg(), atol=1e-3)


def test_dicom_waveform_gives_lead_two_in_millivolts(tmp_path: Path, make: ModuleType) -> None:
    make.dicom_file(tmp_path / "a.dcm", unit="uV")
    found = only(tmp_path)
    assert found.patient == "p1"
    assert (found.channels["ecg"].unit, found.channels["ecg"].lead) == ("mV", "II")
    np.testing.assert_allclose(found.channels["ecg"].samples, make.ecg() * 1e-3, atol=1e-6)


def test_the_real_ecg_of_pydicom_is_read() -> None:
    import pydicom
    from pydicom.waveforms import multiplex_array

    path = Path(pydicom.__file__).parent / "data" / "test_files" / "waveform_ecg.dcm"
    found = only(path)
    data = pydicom.dcmread(path)
    wanted = multiplex_array(data, 0, as_raw=False)[:, 1] / 1000
    np.testing.assert_allclose(found.channels["ecg"].samples, wanted)
    assert found.channels["ecg"].lead == "II"
    assert {finding.kind for finding in found.findings} >= {"name", "birth-date", "record-number"}
    assert not found.labels


def test_csv_gives_its_rate_from_the_time_column(tmp_path: Path, make: ModuleType) -> None:
    make.csv_file(tmp_path / "a.csv")
    found = only(tmp_path, with_one_patient(tmp_path))
    assert found.patient == "a"
    assert found.channels["ppg"].fs_hz == pytest.approx(125.0)
    np.testing.assert_allclose(found.channels["ecg"].samples, make.ecg(), atol=1e-5)


def test_rows_that_are_absent_from_a_csv_become_missing_samples(
    tmp_path: Path, make: ModuleType
) -> None:
    make.csv_file(tmp_path / "a.csv", drop=slice(300, 425))
    samples = only(tmp_path, with_one_patient(tmp_path)).channels["ecg"].samples
    assert samples.size == 1500
    assert np.all(np.isnan(samples[300:425]))
    np.testing.assert_allclose(samples[425:], make.ecg()[425:], atol=1e-5)


def test_csv_with_semicolons_and_decimal_commas_is_read(tmp_path: Path, make: ModuleType) -> None:
    path = make.csv_file(tmp_path / "a.csv", header="time [ms],EKG [mV],PPG")
    lines = path.read_text().splitlines()
    body = [line.split(",") for line in lines[1:]]
    body = [[f"{float(row[0]) * 1000:.3f}", *row[1:]] for row in body]
    text = "\n".join(
        [lines[0].replace(",", ";"), *(";".join(row).replace(".", ",") for row in body)]
    )
    path.write_text(text)
    found = only(tmp_path, with_one_patient(tmp_path))
    assert found.channels["ecg"].fs_hz == pytest.approx(125.0)
    assert found.channels["ecg"].unit == "mV"


def test_empty_cells_of_a_csv_are_missing_samples(tmp_path: Path, make: ModuleType) -> None:
    path = make.csv_file(tmp_path / "a.csv")
    lines = path.read_text().splitlines()
    lines[5] = lines[5].split(",")[0] + ",,NaN"
    path.write_text("\n".join(lines))
    found = only(tmp_path, with_one_patient(tmp_path))
    assert np.isnan(found.channels["ecg"].samples[4])
    assert np.isfinite(found.channels["ecg"].samples[5])


def test_parquet_gives_one_recording_a_row_with_series(tmp_path: Path, make: ModuleType) -> None:
    make.parquet_file(
        tmp_path / "a.parquet",
        hr_reference_bpm=[[70.0, 71.0]] * 3,
        sex=["F", "M", "F"],
        name=["A B"] * 3,
    )
    items = list(read_folder(tmp_path))
    assert [item.patient for item in items if isinstance(item, Recording)] == ["p0", "p1", "p2"]
    first = items[0]
    assert isinstance(first, Recording)
    assert first.labels == {"sex": "F"}
    np.testing.assert_allclose(first.series["hr_reference_bpm"], [70.0, 71.0])
    assert len({item.digest for item in items if isinstance(item, Recording)}) == 3


def test_formats_are_told_apart_by_content_not_by_name(tmp_path: Path, make: ModuleType) -> None:
    make.edf_file(tmp_path / "a.edf").rename(tmp_path / "a.csv")
    make.dicom_file(tmp_path / "b.dcm").rename(tmp_path / "b.hea")
    make.csv_file(tmp_path / "c.csv").rename(tmp_path / "c.parquet")
    make.parquet_file(tmp_path / "d.parquet", rows=1).rename(tmp_path / "d.edf")
    make.wfdb_record(tmp_path, "e").rename(tmp_path / "e.txt")
    items = list(read_folder(tmp_path, with_one_patient(tmp_path)))
    assert [type(item) for item in items] == [Recording] * 5


def test_either_modality_may_be_absent(tmp_path: Path, make: ModuleType) -> None:
    make.csv_file(tmp_path / "a.csv", header="time_s,x,ppg")
    assert set(only(tmp_path, with_one_patient(tmp_path)).channels) == {"ppg"}


@pytest.mark.parametrize("fs_hz", [25.0, 100.0, 360.0, 2000.0])
def test_any_rate_from_25_to_2000_hz_is_read(
    tmp_path: Path, make: ModuleType, fs_hz: float
) -> None:
    make.wfdb_record(tmp_path, fs_hz=fs_hz)
    assert only(tmp_path, with_one_patient(tmp_path)).channels["ecg"].fs_hz == fs_hz


def test_reading_twice_gives_the_same_digests(tmp_path: Path, make: ModuleType) -> None:
    make.wfdb_record(tmp_path)
    make.csv_file(tmp_path / "b.csv")
    make.parquet_file(tmp_path / "c.parquet")
    first, second = (
        [item.digest for item in read_folder(tmp_path) if isinstance(item, Recording)]
        for _ in range(2)
    )
    assert first == second
    assert len(set(first)) == len(first) == 3


def test_recordings_in_subfolders_find_the_table_above(tmp_path: Path, make: ModuleType) -> None:
    (tmp_path / "ward").mkdir()
    make.csv_file(tmp_path / "ward" / "x.csv")
    make.table_file(tmp_path / "all.csv", [{"recording": "x", "patient_id": "p9", "fs_hz": "125"}])
    assert only(tmp_path).patient == "p9"


def test_wfdb_formats_212_and_several_samples_a_frame_are_read(
    tmp_path: Path, make: ModuleType
) -> None:
    import wfdb

    signal = make.ecg(250.0)[:, None]
    wfdb.wrsamp(
        "f212",
        fs=250,
        units=["mV"],
        sig_name=["V5"],
        p_signal=signal,
        fmt=["212"],
        write_dir=str(tmp_path),
    )
    values = np.rint(make.ecg(50.0) * 1000).astype("<i2")
    values.tofile(tmp_path / "frames.dat")
    checksum = int(values.sum(dtype=np.int64)) % 65536
    (tmp_path / "frames.hea").write_text(
        f"frames 1 10 {values.size // 5}\n"
        f"frames.dat 16x5 1000/mV 16 0 {values[0]} {checksum} 0 II\n"
    )
    items = {
        item.name: item
        for item in read_folder(tmp_path, with_one_patient(tmp_path))
        if isinstance(item, Recording)
    }
    assert items["frames"].channels["ecg"].fs_hz == 50.0
    np.testing.assert_allclose(items["frames"].channels["ecg"].samples, make.ecg(50.0), atol=6e-4)
    np.testing.assert_allclose(items["f212"].channels["ecg"].samples, make.ecg(250.0), atol=2e-3)


def test_samples_that_wfdb_marks_as_missing_are_nan(tmp_path: Path) -> None:
    values = np.array([-32768, 1, 2, 3] * 50, dtype="<i2")
    values.tofile(tmp_path / "m.dat")
    checksum = int(values.astype(np.int64).sum()) % 65536
    (tmp_path / "m.hea").write_text(f"m 1 100 200\nm.dat 16 200/mV 16 0 -32768 {checksum} 0 II\n")
    samples = only(tmp_path, with_one_patient(tmp_path)).channels["ecg"].samples
    assert np.isnan(samples).sum() == 50


def test_count_of_recordings_is_known_without_reading_them(
    tmp_path: Path, make: ModuleType
) -> None:
    make.wfdb_record(tmp_path, beats=True)
    make.csv_file(tmp_path / "b.csv")
    make.parquet_file(tmp_path / "c.parquet")
    make.table_file(tmp_path / "recordings.csv", [{"recording": "rec1", "patient_id": "p"}])
    assert count_recordings(tmp_path) == 5


def test_a_path_that_is_nothing_is_our_mistake(tmp_path: Path) -> None:
    with pytest.raises(OurMistake):
        list(read_folder(tmp_path / "absent"))
