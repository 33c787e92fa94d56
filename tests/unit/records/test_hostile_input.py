"""Bad input ends as a ReadFault with a cause of the closed set; the rest goes in."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from client.mapping import ChannelMapping, Mapping
from client.records import CAUSES, ReadFault, Recording, guess_mapping, read_folder

MAPPING = Mapping(
    one_file_is_one_patient=True,
    ecg=ChannelMapping(names=("II", "ECG II", "Lead II", "ecg")),
    ppg=ChannelMapping(names=("PLETH", "Pleth", "ppg")),
)


def causes(path: Path, mapping: Mapping | None = MAPPING) -> list[str]:
    """Causes of all faults; every fault names its file and says something."""
    found = []
    for item in read_folder(path, mapping):
        if isinstance(item, ReadFault):
            assert item.cause in CAUSES
            assert item.file
            assert item.message.endswith(".")
            found.append(item.cause)
    return found


def edited(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def patched(path: Path, start: int, field: str, width: int) -> None:
    data = bytearray(path.read_bytes())
    data[start : start + width] = field.ljust(width).encode()
    path.write_bytes(bytes(data))


def wfdb_header(change: Callable[[Path], None]) -> Callable[[Path, ModuleType], None]:
    def act(folder: Path, make: ModuleType) -> None:
        change(make.wfdb_record(folder))

    return act


def cut(path: Path, share: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


def flip_sample(folder: Path, make: ModuleType) -> None:
    make.wfdb_record(folder)
    data = bytearray((folder / "rec1.dat").read_bytes())
    data[100] ^= 4
    (folder / "rec1.dat").write_bytes(bytes(data))


def edf_field(start: int, field: str, width: int) -> Callable[[Path, ModuleType], None]:
    def act(folder: Path, make: ModuleType) -> None:
        patched(make.edf_file(folder / "a.edf"), start, field, width)

    return act


def all_nan_edf(folder: Path, make: ModuleType) -> None:
    make.csv_file(folder / "a.csv", header="time_s,ecg,x")
    lines = (folder / "a.csv").read_text().splitlines()
    body = [f"{line.split(',')[0]},nan,1" for line in lines[1:]]
    (folder / "a.csv").write_text("\n".join([lines[0], *body]))


def bomb_parquet(folder: Path, make: ModuleType) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    values = pa.array(np.zeros(5_000_000, dtype=np.float32))
    column = pa.ListArray.from_arrays([0, len(values)], values)
    pq.write_table(
        pa.table({"recording": ["a"], "patient_id": ["p"], "fs_hz": [125.0], "ecg": column}),
        folder / "a.parquet",
        compression="zstd",
        use_dictionary=False,
    )


def two_gigabytes_declared(folder: Path, make: ModuleType) -> None:
    path = make.dicom_file(folder / "a.dcm")
    data = path.read_bytes()
    at = data.index(b"\x00\x54\x10\x10OW")
    path.write_bytes(data[: at + 8] + (2**31 - 2).to_bytes(4, "little") + data[at + 12 :])


CASES: dict[str, tuple[Callable[[Path, ModuleType], None], set[str]]] = {
    "zero bytes": (lambda folder, make: (folder / "a.edf").write_bytes(b"") and None, {"empty"}),
    "no recording": (
        lambda folder, make: (folder / "a.txt").write_text("Dear colleague,\n") and None,
        {"not-a-recording"},
    ),
    "random bytes": (
        lambda folder, make: (folder / "a.dat").write_bytes(bytes(range(256)) * 9) and None,
        {"not-a-recording"},
    ),
    "wfdb: header cut": (wfdb_header(lambda path: cut(path, 0.4)), {"truncated", "bad-header"}),
    "wfdb: data cut": (
        wfdb_header(lambda path: cut(path.with_suffix(".dat"), 0.5)),
        {"truncated"},
    ),
    "wfdb: data absent": (
        wfdb_header(lambda path: path.with_suffix(".dat").unlink()),
        {"truncated"},
    ),
    "wfdb: wrong checksum": (flip_sample, {"checksum"}),
    "wfdb: 2 GB declared": (
        wfdb_header(lambda path: edited(path, " 1500\n", " 99000000\n")),
        {"truncated"},
    ),
    "wfdb: absurd length": (
        wfdb_header(lambda path: edited(path, " 1500\n", " 9000000000000\n")),
        {"too-large"},
    ),
    "wfdb: parent folder": (
        wfdb_header(lambda path: edited(path, "rec1.dat", "../../etc/passwd")),
        {"outside-folder"},
    ),
    "wfdb: absolute path": (
        wfdb_header(lambda path: edited(path, "rec1.dat", "/etc/passwd")),
        {"outside-folder"},
    ),
    "wfdb: address of a server": (
        wfdb_header(lambda path: edited(path, "rec1.dat", "https://example.org/a")),
        {"outside-folder"},
    ),
    "wfdb: many channels": (
        wfdb_header(lambda path: edited(path, "rec1 2 ", "rec1 100000000 ")),
        {"too-large"},
    ),
    "wfdb: absurd rate": (
        wfdb_header(lambda path: edited(path, " 125 ", " 1e9 ")),
        {"sampling-rate"},
    ),
    "wfdb: rate below 25 Hz": (
        wfdb_header(lambda path: edited(path, " 125 ", " 24.9 ")),
        {"sampling-rate"},
    ),
    "wfdb: no number": (
        wfdb_header(lambda path: edited(path, "1000(0)", "1..0(0)")),
        {"bad-header"},
    ),
    "wfdb: infinite gain": (
        wfdb_header(lambda path: edited(path, "1000(0)", "1e999(0)")),
        {"bad-header"},
    ),
    "wfdb: several segments": (
        wfdb_header(lambda path: edited(path, "rec1 2", "rec1/3 2")),
        {"unsupported"},
    ),
    "wfdb: packed as FLAC": (
        wfdb_header(
            lambda path: path.write_text(path.read_text().replace(" 16 1000", " 516 1000")) and None
        ),
        {"unsupported"},
    ),
    "wfdb: pressure as ECG": (
        lambda folder, make: make.wfdb_record(folder, units=("mmHg", "NU")),
        {"units"},
    ),
    "wfdb: odd annotations": (
        wfdb_header(lambda path: path.with_suffix(".atr").write_bytes(b"\x01\x04\x03") and None),
        {"truncated"},
    ),
    "edf: header cut": (
        lambda folder, make: cut(make.edf_file(folder / "a.edf"), 0.02),
        {"truncated"},
    ),
    "edf: data cut": (
        lambda folder, make: cut(make.edf_file(folder / "a.edf"), 0.7),
        {"truncated"},
    ),
    "edf: 2 GB declared": (edf_field(236, "99999999", 8), {"truncated", "too-large"}),
    "edf: many signals": (edf_field(252, "9999", 4), {"too-large", "truncated"}),
    "edf: negative signals": (edf_field(252, "-3", 4), {"no-channel"}),
    "edf: no number": (edf_field(244, "zero", 8), {"bad-header"}),
    "edf: record of no time": (edf_field(244, "0", 8), {"sampling-rate"}),
    "edf: discontinuous": (edf_field(192, "EDF+D", 5), {"unsupported"}),
    "edf: pressure as ECG": (
        lambda folder, make: make.edf_file(folder / "a.edf", unit="mmHg"),
        {"units"},
    ),
    "dicom: cut": (
        lambda folder, make: cut(make.dicom_file(folder / "a.dcm"), 0.8),
        {"truncated", "bad-header", "not-a-recording", "unreadable"},
    ),
    "dicom: 2 GB declared": (two_gigabytes_declared, {"truncated", "bad-header", "unreadable"}),
    "dicom: pressure as ECG": (
        lambda folder, make: make.dicom_file(folder / "a.dcm", unit="mm[Hg]"),
        {"units"},
    ),
    "csv: text among numbers": (
        lambda folder, make: edited(make.csv_file(folder / "a.csv"), "0.04000,", "0.04000,abc"),
        {"bad-values"},
    ),
    "csv: torn row": (
        lambda folder, make: edited(make.csv_file(folder / "a.csv"), "0.80000,", "0.80000,1,2,"),
        {"bad-header"},
    ),
    "csv: times go back": (
        lambda folder, make: edited(make.csv_file(folder / "a.csv"), "0.80000,", "0.10000,"),
        {"time-column"},
    ),
    "csv: a year's gap": (
        lambda folder, make: edited(make.csv_file(folder / "a.csv"), "11.99200,", "31536000.0,"),
        {"time-column"},
    ),
    "csv: absurd values": (
        lambda folder, make: edited(make.csv_file(folder / "a.csv"), "0.80000,", "0.80000,1e30"),
        {"bad-values", "bad-header"},
    ),
    "csv: pressure as ECG": (
        lambda folder, make: make.csv_file(folder / "a.csv", header="time_s,ecg,x"),
        {"units"},
    ),
    "csv: NaN channel": (all_nan_edf, {"no-samples"}),
    "csv: same name twice": (
        lambda folder, make: make.csv_file(folder / "a.csv", header="time_s,ecg,ecg"),
        {"bad-header"},
    ),
    "parquet: cut": (
        lambda folder, make: cut(make.parquet_file(folder / "a.parquet"), 0.9),
        {"truncated"},
    ),
    "parquet: bomb": (bomb_parquet, {"too-large"}),
    "parquet: absurd rate": (
        lambda folder, make: make.parquet_file(folder / "a.parquet", fs_hz=[1e9] * 3),
        {"sampling-rate"},
    ),
    "parquet: rate is text": (
        lambda folder, make: make.parquet_file(folder / "a.parquet", fs_hz=["fast"] * 3),
        {"sampling-rate"},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_file_is_named_with_its_cause_and_the_rest_goes_in(
    tmp_path: Path, make: ModuleType, case: str
) -> None:
    damage, expected = CASES[case]
    damage(tmp_path, make)
    make.edf_file(tmp_path / "good.edf")
    mapping = MAPPING
    if case == "csv: pressure as ECG":
        mapping = MAPPING.model_copy(update={"ecg": ChannelMapping(names=("ecg",), unit="mmHg")})
        (tmp_path / "good.edf").unlink()
    items = list(read_folder(tmp_path, mapping))
    recordings = [item for item in items if isinstance(item, Recording)]
    assert [item.shown for item in recordings] == (["good.edf"] if mapping is MAPPING else [])
    found = set(causes(tmp_path, mapping))
    assert found
    assert found <= expected | {"not-a-recording"}, found
    assert found & expected


def test_declared_size_is_never_allocated(tmp_path: Path, make: ModuleType) -> None:
    two_gigabytes_declared(tmp_path, make)
    edited(make.wfdb_record(tmp_path), " 1500\n", " 99000000\n")
    patched(make.edf_file(tmp_path / "b.edf"), 236, "99999999", 8)
    list(read_folder(tmp_path, MAPPING))
    tracemalloc.start()
    assert len(causes(tmp_path)) >= 3
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 50 << 20


def test_link_that_leaves_the_folder_is_refused(tmp_path: Path, make: ModuleType) -> None:
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    outside.mkdir()
    inside.mkdir()
    make.edf_file(outside / "a.edf")
    make.wfdb_record(outside, "rec2")
    (inside / "a.edf").symlink_to(outside / "a.edf")
    (inside / "more").symlink_to(outside, target_is_directory=True)
    (inside / "rec2.hea").write_text((outside / "rec2.hea").read_text())
    (inside / "rec2.dat").symlink_to(outside / "rec2.dat")
    found = list(read_folder(inside, MAPPING))
    assert {item.cause for item in found if isinstance(item, ReadFault)} == {"outside-folder"}
    assert not [item for item in found if isinstance(item, Recording)]


def test_pipe_in_the_folder_does_not_block(tmp_path: Path, make: ModuleType) -> None:
    os.mkfifo(tmp_path / "a.edf")
    assert causes(tmp_path) == ["not-a-recording"]


def test_recording_of_nobody_is_refused_unless_one_file_is_one_patient(
    tmp_path: Path, make: ModuleType
) -> None:
    make.wfdb_record(tmp_path)
    make.csv_file(tmp_path / "b.csv")
    make.edf_file(tmp_path / "c.edf")
    make.dicom_file(tmp_path / "d.dcm", patient_id="")
    make.parquet_file(tmp_path / "e.parquet", patient_id=["", None, "p"])
    guessed = guess_mapping(tmp_path)
    assert causes(tmp_path, guessed) == ["no-patient"] * 6
    allowed = guessed.model_copy(update={"one_file_is_one_patient": True})
    patients = [
        item.patient for item in read_folder(tmp_path, allowed) if isinstance(item, Recording)
    ]
    assert patients == ["b", "c", "d", "e", "e", "e", "rec1"]


def test_channel_without_samples_is_a_fault_and_the_other_channel_goes_in(
    tmp_path: Path, make: ModuleType
) -> None:
    make.parquet_file(tmp_path / "a.parquet", ecg=[np.full(1500, np.nan)] * 3)
    items = list(read_folder(tmp_path, MAPPING))
    assert [item.cause for item in items if isinstance(item, ReadFault)] == ["no-samples"] * 3
    assert [set(item.channels) for item in items if isinstance(item, Recording)] == [{"ppg"}] * 3


def test_rows_that_contradict_each_other_are_refused(tmp_path: Path, make: ModuleType) -> None:
    make.wfdb_record(tmp_path)
    make.table_file(
        tmp_path / "t.csv",
        [{"recording": "rec1", "patient_id": "p1"}, {"recording": "rec1", "patient_id": "p2"}],
    )
    assert causes(tmp_path, None) == ["bad-table"]
    (fault,) = (item for item in read_folder(tmp_path, None) if isinstance(item, ReadFault))
    assert "one row for each recording" in fault.do


def ages(folder: Path, make: ModuleType, cells: list[str]) -> list[object]:
    """What is read of records and a table with these cells: labels, or the fault's cause."""
    for number, _ in enumerate(cells):
        make.wfdb_record(folder, f"rec{number}")
    rows = [f"rec{number},p{number},{50 + number},{cell}" for number, cell in enumerate(cells)]
    text = "\n".join(["recording,patient_id,age,note", *rows, ""])
    (folder / "t.csv").write_bytes(text.encode("utf-8"))
    mapping = MAPPING.model_copy(update={"labels": ("age",)})
    return [
        item.labels.get("age") if isinstance(item, Recording) else item.cause
        for item in read_folder(folder, mapping)
    ]


def test_two_stray_quotes_do_not_take_rows_of_other_patients(
    tmp_path: Path, make: ModuleType
) -> None:
    """They made one cell of all rows between them, and their truths were gone without a fault."""
    found = ages(tmp_path, make, ["x", '"x', "x", 'x"', "x"])
    assert found == ["bad-table", *[None] * 5]
    assert ages(tmp_path, make, ["x", '"x, y"', 'x "y', 'x"', "x"]) == [50, 51, 52, 53, 54]


@pytest.mark.parametrize("cell", ["a\x85b", "a\u2028b", "a\x0bb", "a\x0cb", "a\x1db"])
def test_cell_with_a_rare_separator_takes_nobodys_row(
    tmp_path: Path, make: ModuleType, cell: str
) -> None:
    assert ages(tmp_path, make, [cell, "x"]) == [50, 51]


def test_comment_with_a_rare_separator_leaves_a_wfdb_header_one(
    tmp_path: Path, make: ModuleType
) -> None:
    header = make.wfdb_record(tmp_path)
    header.write_bytes(b"# Dr\x85 more\n" + header.read_bytes())
    assert causes(tmp_path) == []


@pytest.mark.parametrize(("first", "last"), [('"x', 'x"'), ('"x', "x")])
def test_stray_quotes_do_not_take_samples(
    tmp_path: Path, make: ModuleType, first: str, last: str
) -> None:
    """PyArrow reads a quoted cell over line ends."""
    path = make.csv_file(tmp_path / "a.csv")
    header, *rows = path.read_text().split()
    lines = [f"{header},note", *(f"{row},x" for row in rows)]
    lines[7], lines[10] = f"{rows[6]},{first}", f"{rows[9]},{last}"
    path.write_text("\r\n".join(lines))
    own = MAPPING.model_copy(update={"one_file_is_one_patient": True})
    assert causes(tmp_path, own) == ["bad-header"]
    path.write_text("\r\n".join(["# a\x85b", *lines]).replace('"x', '"x, y"'))
    assert causes(tmp_path, own) == []


def test_messages_never_quote_the_file(tmp_path: Path, make: ModuleType) -> None:
    make.csv_file(tmp_path / "a.csv")
    edited(tmp_path / "a.csv", "0.04000,", "0.04000,Hans-Mueller")
    edited(make.wfdb_record(tmp_path), "1000(0)", "Petra.Meier")
    for item in read_folder(tmp_path, MAPPING):
        assert isinstance(item, ReadFault)
        assert "Mueller" not in f"{item}"
        assert "Meier" not in f"{item}"


def test_parquet_page_that_declares_more_than_its_footer_is_refused(
    tmp_path: Path, make: ModuleType
) -> None:
    path = make.parquet_file(tmp_path / "a.parquet")
    data = bytearray(path.read_bytes())
    assert data[4:7] == b"\x15\x04\x15"  # first page header: type, then the unpacked size
    end = 7
    while data[end] & 0x80:
        end += 1
    data[7 : end + 1] = b"\xfe\xff\xff\xff\x0f"[-(end + 1 - 7) :]
    path.write_bytes(bytes(data))
    assert causes(tmp_path) == ["bad-header"]


def test_parquet_column_in_another_file_is_refused(tmp_path: Path, make: ModuleType) -> None:
    import pyarrow.parquet as pq

    path = make.parquet_file(tmp_path / "a.parquet")
    metadata = pq.ParquetFile(path).metadata
    metadata.set_file_path("../other.parquet")
    metadata.write_metadata_file(tmp_path / "a.parquet")
    assert causes(tmp_path) == ["outside-folder"]


def test_damaged_parquet_metadata_does_not_abort_the_process(
    tmp_path: Path, make: ModuleType
) -> None:
    path = make.parquet_file(tmp_path / "a.parquet", rows=1)
    data = path.read_bytes()
    for place in range(len(data) - 700, len(data) - 8):
        path.write_bytes(data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :])
        assert set(causes(tmp_path)) <= set(CAUSES)


def test_a_text_that_a_dictionary_repeats_for_every_row_is_too_large(tmp_path: Path) -> None:
    """A file of a kilobyte can name one long text for every row: gigabytes once spelled out."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = 20_000
    texts = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), ["x" * 1_000_000])
    signal = pa.array([[0.0, 1.0]] * rows, pa.list_(pa.float64()))
    table = pa.table({"patient_id": texts, "fs_hz": pa.array([125.0] * rows), "ecg": signal})
    path = tmp_path / "bomb.parquet"
    pq.write_table(table, path, compression="zstd", store_schema=False)
    assert path.stat().st_size < 10_000
    found = list(read_folder(tmp_path, Mapping(ecg=ChannelMapping(names=("ecg",)))))
    assert [item.cause for item in found if isinstance(item, ReadFault)] == ["too-large"]
    assert not [item for item in found if isinstance(item, Recording)]
