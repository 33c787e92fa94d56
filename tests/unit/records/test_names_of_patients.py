"""One person is one patient, however a file stores the identifier; nobody is no patient."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from client.mapping import ChannelMapping, Mapping
from client.personal_labels import read_labels
from client.pseudonyms import pseudonym_of, same_patient
from client.records import ReadFault, Recording, read_folder

KEY = b"k" * 32
MAPPING = Mapping(
    labels=("age",),
    ecg=ChannelMapping(names=("ecg", "ECG II", "Lead II", "II")),
    ppg=ChannelMapping(names=("ppg",)),
)
NOBODY = ["", " ", "nan", "NaN", "NA", "n/a", "N/A", "None", "null", "NIL", "-", "?", ".", "<NA>"]


def patients(folder: Path, mapping: Mapping = MAPPING) -> list[str]:
    """Of each recording its patient, of each fault its cause, in order of the files."""
    return [
        item.patient if isinstance(item, Recording) else item.cause
        for item in read_folder(folder, mapping)
    ]


def parquet_of(path: Path, ids: pa.Array, **columns: list[object]) -> None:
    rows = len(ids)
    ecg = [np.sin(np.arange(1500) / 9 + row).astype(np.float32) for row in range(rows)]
    table = {"patient_id": ids, "fs_hz": [125.0] * rows, "ecg": ecg, **columns}
    pq.write_table(pa.table(table), path)


@pytest.mark.parametrize(
    "cell",
    [101, 101.0, "101", "101.0", "101.00", "101.", " 101.0 ", "101,0", "101,", Decimal("101.00")],
)
def test_whole_number_is_one_patient_however_it_is_stored(cell: object) -> None:
    assert same_patient(cell) == "101"
    assert pseudonym_of(KEY, str(cell)) == pseudonym_of(KEY, "101")


@pytest.mark.parametrize(
    "cell",
    [
        "101\0",
        "\x7f101",
        "1\x1b01",
        "101\ufe0f",
        "1\u034f01",
        "101\u3164",
        "\u2800101",
        "101\U000e0100",
        "101\u200b",
        "\ufeff101",
        "1\u00ad01",
        "１０１",
        "+101",
        "+101.0",
        " 101,00 ",
        "\u2066101\u2069",
    ],
)
def test_what_no_eye_tells_apart_is_one_patient(cell: str) -> None:
    """Each was a patient, and a unit of privacy, of its own."""
    assert same_patient(cell) == "101"


@pytest.mark.parametrize("cell", ["Jose\u034f\u0301", "Jose\u200d\u0301", "Jose\ufe0f\u0301"])
def test_a_name_that_is_spelled_again_stays(cell: str) -> None:
    """`data add` spells twice, `withdraw` once: the patient was not found."""
    assert same_patient(cell) == same_patient(same_patient(cell)) == "Jos\u00e9"


def test_what_tells_patients_apart_stays() -> None:
    """Zero is somebody; leading zeros and texts with a point in them are kept."""
    kept = {
        0: "0",
        -3.0: "-3",
        "007": "007",
        "007.0": "007",
        "1.2": "1.2",
        "1.10": "1.10",
    }
    assert {cell: same_patient(cell) for cell in kept} == kept
    assert same_patient("1e3") == "1e3"
    assert [same_patient(one) for one in ("1,00", "12E-3", "7E+2")] == ["1", "12E-3", "7E+2"]
    assert [same_patient(one) for one in ("1.001", "12,500")] == ["1.001", "12,500"]
    assert (same_patient("1000,000"), same_patient("1.0000")) == ("1000", "1")
    assert (same_patient("-0"), same_patient("-0.0"), same_patient("-7.0")) == ("0", "0", "-7")
    assert same_patient("A+7") == "A+7"
    assert same_patient("H\N{NO-BREAK SPACE}12") == same_patient("H  12") == "H 12"
    assert same_patient(2**60 + 1) == str(2**60 + 1)
    assert same_patient(Decimal(2**60 + 1)) == str(2**60 + 1)
    assert same_patient(float(2**53 - 1)) == str(2**53 - 1)


@pytest.mark.parametrize("cell", [None, True, False, float("nan"), float("inf"), 101.5, *NOBODY])
def test_what_names_nobody_is_no_patient(cell: object) -> None:
    assert same_patient(cell) == ""


@pytest.mark.parametrize(
    "cell",
    [
        2.0**53,
        1e300,
        "9007199254740993.0",
        "9" * 400 + ".0",
        Decimal("101.5"),
        "1,23457E+11",
        "1.2345678901234568e+16",
        "1E+05",
        "9007199254740993,0",
        "1.000",
        "1,000",
        "-12.000",
        "1.2345678E7",
        "1.2345679E14",
        "1,2E-3",
        "+1.23E+11",
    ],
)
def test_number_that_its_float_cannot_hold_is_not_guessed(cell: object) -> None:
    assert same_patient(cell) == ""


@pytest.mark.parametrize("kind", [pa.float16(), pa.float32(), pa.float64(), pa.decimal128(9, 2)])
def test_parquet_column_that_changes_its_type_splits_nobody(tmp_path: Path, kind: object) -> None:
    """pandas writes whole numbers as floats as soon as one cell of the column is empty."""
    parquet_of(tmp_path / "a.parquet", pa.array([101, 102]))
    values = [None, Decimal(101), Decimal(102)]
    if kind != pa.decimal128(9, 2):
        values = [None, np.float64(101.0), np.float64(102.0)]
    parquet_of(tmp_path / "b.parquet", pa.array(values).cast(kind))
    parquet_of(tmp_path / "c.parquet", pa.array(["101.0", "102"]))
    assert patients(tmp_path) == ["101", "102", "no-patient", "101", "102", "101", "102"]


@pytest.mark.parametrize(("kind", "first"), [(pa.float16(), 2**11), (pa.float32(), 2**24)])
def test_short_float_that_stands_for_several_numbers_is_nobody(
    tmp_path: Path, kind: pa.DataType, first: int
) -> None:
    parquet_of(tmp_path / "a.parquet", pa.array([float(first - 1), float(first)]).cast(kind))
    assert patients(tmp_path) == [str(first - 1), "no-patient"]


def test_cells_of_parquet_that_name_nobody_are_faults(tmp_path: Path) -> None:
    parquet_of(tmp_path / "a.parquet", pa.array([0, 1]))
    parquet_of(tmp_path / "b.parquet", pa.array([0.0, float("nan"), None]))
    parquet_of(tmp_path / "c.parquet", pa.array([True, False]))
    parquet_of(tmp_path / "d.parquet", pa.array(NOBODY))
    faults = ["no-patient"] * (2 + 2 + len(NOBODY))
    assert patients(tmp_path) == ["0", "1", "0", *faults]


def test_cell_that_names_nobody_is_told_otherwise_than_none(
    tmp_path: Path, make: ModuleType
) -> None:
    """A long number as a spreadsheet shows it was said to be absent. The cell is not quoted."""
    for name in "ab":
        make.wfdb_record(tmp_path, name)
    rows = [{"recording": "a", "patient_id": "1.23E+11"}, {"recording": "b", "patient_id": ""}]
    make.table_file(tmp_path / "t.csv", rows)
    power, none = (f"{one.message} {one.do}" for one in read_folder(tmp_path, MAPPING))
    assert "names nobody" in power
    assert "power of ten (1.23E+11)" in power
    assert "Nobody says whose recording it is. Add it to the table" in none


def test_tables_and_headers_name_patients_as_parquet_does(tmp_path: Path, make: ModuleType) -> None:
    """A table of recordings, a column of a CSV file, DICOM's PatientID and EDF's patient code."""
    make.wfdb_record(tmp_path, "a")
    make.wfdb_record(tmp_path, "b")
    rows = [{"recording": "a", "patient_id": "101.0"}, {"recording": "b", "patient_id": "nil"}]
    make.table_file(tmp_path / "t.csv", rows)
    for name, cell in (("c", "101.0"), ("d", "NA")):
        path = make.csv_file(tmp_path / f"{name}.csv")
        first, *rest = path.read_text().split()
        path.write_text("\n".join([f"{first},patient_id", *(f"{line},{cell}" for line in rest)]))
    make.dicom_file(tmp_path / "e.dcm", patient_id="101.0")
    make.dicom_file(tmp_path / "f.dcm", patient_id="None")
    make.edf_file(tmp_path / "g.edf", patient={"code": "101.0"})
    make.edf_file(tmp_path / "h.edf", patient={"code": "n/a"})
    assert patients(tmp_path) == ["101", "no-patient"] * 4


def test_labels_are_found_by_the_name_that_recordings_have(tmp_path: Path) -> None:
    """A hospital's file of labels, and a file that is a patient of its own."""
    parquet_of(tmp_path / "101.0.parquet", pa.array(["x"]))
    own = MAPPING.model_copy(update={"one_file_is_one_patient": True})
    path = tmp_path / "labels"
    path.write_text("patient,af\n101.0,1\nNA,0\nnan,1\n")
    found = read_labels(path, KEY)
    assert found.values == {pseudonym_of(KEY, name): 1.0 for name in patients(tmp_path, own)[:1]}
    assert found.unlabelled == 2


def numbered(ids: list[object]) -> Callable[[Path], None]:
    return lambda path: parquet_of(path, pa.array(["p"] * len(ids)), recording=ids)


@pytest.mark.parametrize("ids", [[7, 8], [7.0, 8.0], [7.0, None]])
def test_row_of_a_table_is_found_however_numbers_of_recordings_are_stored(
    tmp_path: Path, ids: list[object]
) -> None:
    """One recording without a number took everybody's labels away."""
    numbered(ids)(tmp_path / "a.parquet")
    (tmp_path / "t.csv").write_text("recording,age\n7,61\n8,62\n")
    items = [item for item in read_folder(tmp_path, MAPPING) if isinstance(item, Recording)]
    assert items[0].name == "7"
    assert items[0].labels == {"age": 61.0}
    assert items[1].name == ("8" if ids[1] else "a row 2")
    numbered([7, 8])(tmp_path / "a.parquet")
    assert next(iter(read_folder(tmp_path, MAPPING))).digest == items[0].digest


def test_a_row_names_one_recording_however_its_name_is_spelled(tmp_path: Path) -> None:
    """B's file 1.0.csv and row "1.0" renamed A, whose file 1.csv has no row, without a fault."""
    for name, who in (("1", "A"), ("1.0", "B")):
        rows = [f"{n / 100:.2f},{n % 7},{who}" for n in range(2000)]
        (tmp_path / f"{name}.csv").write_text("\n".join(["time_s,II,patient_id", *rows]))
    (tmp_path / "table.csv").write_text("recording,patient_id,sex\n1.0,B,M\n")
    mapping = Mapping.model_validate({"labels": ["sex"], "ecg": {"names": ["II"]}})
    faults = [one for one in read_folder(tmp_path, mapping) if isinstance(one, ReadFault)]
    assert [one.cause for one in faults] == ["bad-table"]


def test_a_name_as_the_table_spells_it_goes_first(tmp_path: Path) -> None:
    """1.0.csv, which is read first, had the row of 1.csv, and this one none."""
    for name in ("1", "1.0"):
        rows = [f"{n / 100:.2f},{n % 7}" for n in range(2000)]
        (tmp_path / f"{name}.csv").write_text("\n".join(["time_s,II", *rows]))
    (tmp_path / "table.csv").write_text("recording,patient_id,age\n1,p7,30\n")
    assert patients(tmp_path) == ["no-patient", "p7"]
    (tmp_path / "table.csv").write_text("recording,patient_id,age\n1,p7,30\n1.0,p8,40\n")
    assert patients(tmp_path) == ["p8", "p7"]
    (tmp_path / "table.csv").write_text("recording,patient_id,age\n1.0,p8,40\n")
    (tmp_path / "1.0.csv").unlink()
    assert patients(tmp_path) == ["p8"]


def test_rows_of_parquet_are_named_as_they_spell_themselves(tmp_path: Path) -> None:
    """ "1.0" had the row of "1", and fractions had none."""
    for names, table, expected in (
        (["1", "1.0"], "1,A\n1.0,B\n", ["A", "B"]),
        (["1.0", "1"], "1,A\n1.0,B\n", ["B", "A"]),
        (["999", "1.000", "1"], "999,A\n1.000,B\n1,C\n", ["A", "B", "C"]),
        (["1.23E+11", "1.24E+11"], "1.23E+11,A\n1.24E+11,B\n", ["A", "B"]),
        ([1.1, 2.1], "1.1,A\n2.1,B\n", ["A", "B"]),
        ([1.0, 2.0], "1,A\n2,B\n", ["A", "B"]),
        (["1", "1.0"], "1,A\n", ["A", "no-patient"]),
        (["1.0", "1"], "1,A\n", ["no-patient", "A"]),
    ):
        parquet_of(tmp_path / "a.parquet", pa.nulls(len(names), pa.string()), recording=names)
        (tmp_path / "t.csv").write_text(f"recording,patient_id\n{table}")
        assert patients(tmp_path) == expected
