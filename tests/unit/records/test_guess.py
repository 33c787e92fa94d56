"""How cells of tables are read as numbers, and what a folder's files say by themselves."""

from __future__ import annotations

import math
from pathlib import Path
from types import ModuleType

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from client.formats.csv_time import time_column
from client.guess import COMMAS, IDENTIFIES, LONG_NAME, MANY, NAMED, Guess
from client.labels import as_number
from client.mapping import Mapping
from client.records import ReadFault, Recording, guess_folder, guess_mapping, read_folder

ROWS = 44


@pytest.mark.parametrize(
    ("cell", "number"),
    [
        ("73,2", 73.2),
        ("-7,25", -7.25),
        ("0,875", 0.875),
        ("73.2", 73.2),
        ("120", 120.0),
        ("1,234", None),
        ("1,2,3", None),
        ("03,1932", None),
        ("03,32", None),
        ("1952,03", None),
        ("about 70", None),
    ],
)
def test_number_has_a_point_or_a_comma(cell: str, number: float | None) -> None:
    """Thousands, months of birth and lists of codes are none."""
    found = as_number(cell)
    assert math.isnan(found) if number is None else found == number


def ward(folder: Path, header: str, cells: list[str]) -> Path:
    """A table of recordings with semicolons, as a spreadsheet in German writes it."""
    folder.mkdir(exist_ok=True)
    rows = [f"r{place};z{place};{cell}" for place, cell in enumerate(cells)]
    table = "\r\n".join([f"recording;patient_id;{header}", *rows, ""])
    (folder / "table.csv").write_text(table, encoding="utf-8-sig", newline="")
    return folder


def test_column_of_decimal_commas_is_a_label(tmp_path: Path) -> None:
    """Above 32 different numbers it was left out, as words."""
    ages = [f"{40 + place / 10:.1f}".replace(".", ",") for place in range(ROWS)]
    assert guess_mapping(ward(tmp_path, "age", ages)).labels == ("age",)


def test_file_of_the_guess_names_columns_left_out_and_why(tmp_path: Path) -> None:
    """They were left out in silence. No cell is told, and the file is read as before."""
    cells = [f"group {n};1957-03-04;Ann;{10 + n},125;{n}" for n in range(ROWS)]
    guess = guess_folder(ward(tmp_path, "group.a;seen;surname;potassium;age", cells))
    text = guess.to_toml()
    for column, why in (
        ("group.a", MANY), ("seen", IDENTIFIES), ("surname", NAMED), ("potassium", COMMAS),
    ):  # fmt: skip
        assert f"# No label, for {why}:\n#   {column!r}\n" in text
    assert not any(told in text for told in ("group 1", "1957", "Ann", ",125", "patient_id:"))
    assert Mapping.from_toml(text) == guess.mapping()
    assert guess.mapping().labels == ("age",)


def test_comments_name_so_many_columns_that_the_file_is_taken(tmp_path: Path) -> None:
    """500 left out made a file of more characters than a mapping may have."""
    names = ["." * 60, "x" * 199, *(f"gene_{place:03d}_{'y' * 120}" for place in range(500))]
    cells = [";".join([f"w{n}x"] * len(names)) for n in range(ROWS)]
    guess = guess_folder(ward(tmp_path, ";".join([*names, "age"]), [f"{c};61" for c in cells]))
    text = guess.to_toml()
    assert Mapping.from_toml(text) == guess.mapping()
    told = [line for line in text.splitlines() if line.startswith("#   ")]
    assert len(told) == 21
    assert told[0] == f"#   {'gene_000_' + 'y' * 120!r}"
    assert told[-1] == f"#   and {len(names) - 20} more"


def test_names_that_no_mapping_takes_are_left_out(tmp_path: Path) -> None:
    """Parquet's may be empty or of any length; the guess ended with Pydantic's own error."""
    wave = [[float(n % 50) for n in range(3000)]] * 2
    scalars = {"patient_id": ["a", "b"], "y" * 201: [1, 2], "": [1.0, 2.0], "age": [61, 62]}
    made = pa.table({**scalars, "ecg": wave, "ecg " + "z" * 200: wave, "x" * 300: wave})
    pq.write_table(made, tmp_path / "two.parquet")
    guess = guess_folder(tmp_path)
    found = guess.mapping()
    assert (found.labels, found.ecg.names, found.series) == (("age",), ("ecg",), ())
    assert f"# No label, for {LONG_NAME}:\n#   ''\n#   and 1 more\n" in guess.to_toml()


def test_folder_without_columns_left_out_has_no_comments() -> None:
    """Nor has one without a table."""
    assert Guess().to_toml() == Mapping().to_toml()


def rated(folder: Path, make: ModuleType, *rates: str) -> list[Recording | ReadFault]:
    """Recordings without times, whose rates stand in the table."""
    ward(folder, "FS_Hz", list(rates))
    for place in range(len(rates)):
        lines = make.csv_file(folder / f"r{place}.csv").read_text().splitlines()
        without = "\n".join(line.split(",", 1)[1] for line in lines)
        (folder / f"r{place}.csv").write_text(without)
    return list(read_folder(folder))


def test_rate_in_the_table_has_a_decimal_comma(tmp_path: Path, make: ModuleType) -> None:
    """It was passed over, and the fault said that nobody gives a rate."""
    found = rated(tmp_path, make, "62,4", "62.4", "\u00a0125")
    assert all(isinstance(one, Recording) for one in found), found
    rates = [one.channels["ecg"].fs_hz for one in found if isinstance(one, Recording)]
    assert rates == [62.4, 62.4, 125.0]


def test_rate_that_is_none_is_a_fault_of_its_recording_alone(
    tmp_path: Path, make: ModuleType
) -> None:
    """Never an absent one; the cell is not told, and the rows beside it are read."""
    wrong = ["about 125", "0", "-125", "inf", "1,250"]
    found = rated(tmp_path, make, *wrong, "125", "n/a")
    told = [one.message if isinstance(one, ReadFault) else "read" for one in found]
    none = "The table of recordings gives this one a rate that is no number above 0."
    assert told[:6] == [none] * 5 + ["read"]
    assert told[6].endswith("nobody gives its rate.")
    for one in found[:5]:
        assert isinstance(one, ReadFault)
        assert one.cause == "sampling-rate"
        assert "62.5" in one.do


def test_wrong_rate_is_told_beside_a_time_column(tmp_path: Path, make: ModuleType) -> None:
    """It would be compared with the times."""
    make.csv_file(tmp_path / "r0.csv")
    (found,) = read_folder(ward(tmp_path, "fs_hz", ["fast"]))
    assert isinstance(found, ReadFault)
    assert "no number above 0" in found.message


def test_rate_of_a_parquet_row_has_a_decimal_comma(tmp_path: Path, make: ModuleType) -> None:
    """As text; a column of numbers is as it was."""
    make.parquet_file(tmp_path / "a.parquet", fs_hz=["62,4", "fast", "125"])
    one, other, last = read_folder(tmp_path)
    assert isinstance(one, Recording)
    assert isinstance(last, Recording)
    assert (one.channels["ppg"].fs_hz, last.channels["ppg"].fs_hz) == (62.4, 125.0)
    assert isinstance(other, ReadFault)
    assert "no number" in other.message


def test_units_in_square_brackets_are_units(tmp_path: Path, make: ModuleType) -> None:
    """The channel was not known by its name, though its unit was."""
    make.csv_file(tmp_path / "r0.csv", header="time_s,II [uV],PPG [counts]")
    (found,) = read_folder(ward(tmp_path, "age", ["61"]))
    assert isinstance(found, Recording)
    channels = found.channels
    assert {role: (one.lead, one.unit) for role, one in channels.items()} == {
        "ecg": ("II", "mV"),
        "ppg": ("PPG", "NU"),
    }


@pytest.mark.parametrize(
    ("column", "time"),
    [
        ("Zeit_ms", "ms"),
        ("zeit [s]", "s"),
        ("time_sec", "s"),
        ("Time us", "us"),
        ("Temps (ms)", "ms"),
        ("tiempo_s", "s"),
        ("Tempo [µs]", "us"),
        ("elapsed [ms]", "ms"),
        ("time [sec]", "s"),
        ("timestamp_ms", None),
        ("t_ms", None),
        ("elapsed_ms", None),
        ("tempo_s", None),
        ("zeit_s]", None),
        ("Zeit", None),
        ("tempo", None),
        ("start_s", None),
        ("Zeit_h", None),
    ],
)
def test_time_column_is_told_by_its_name_and_its_unit(column: str, time: str | None) -> None:
    """Of a name in another language no unit is guessed; a unit behind a name without brackets makes
    it a time axis only where the name says nothing but time."""
    assert time_column(("ecg", column)) == (None if time is None else (column, time))


def test_fault_without_a_time_column_says_how_to_name_it(tmp_path: Path, make: ModuleType) -> None:
    """It said to give fs_hz, beside a column of times."""
    make.csv_file(tmp_path / "r0.csv", header="Zeit,ecg,ppg")
    (found,) = read_folder(ward(tmp_path, "age", ["61"]))
    assert isinstance(found, ReadFault)
    assert "time_column, time_unit" in found.do


@pytest.mark.parametrize(
    ("header", "cell"),
    [
        ("V [V],ECG [mV]", "3.7,{ecg}"),
        ("V1 [V],ECG [mV]", "3.3,{ecg}"),
        ("V_counts,ECG [mV]", "7,{ecg}"),
        ("I [mA],ECG [mV]", "0.2,{ecg}"),
        ("ECG (bpm),ECG (mV)", "61,{ecg}"),
        ("II [resp],ECG [mV]", "14,{ecg}"),
    ],
)
def test_battery_counter_and_current_are_no_lead(tmp_path: Path, header: str, cell: str) -> None:
    """They were preferred to the ECG beside them, or all files refused for their unit."""
    waves = [math.sin(place / 9) for place in range(600)]
    rows = [f"{n / 100},{cell.format(ecg=one)}" for n, one in enumerate(waves)]
    (tmp_path / "r0.csv").write_text("\n".join([f"time_s,{header}", *rows]))
    (found,) = read_folder(ward(tmp_path, "age", ["61"]))
    assert isinstance(found, Recording)
    assert found.channels["ecg"].lead == "ECG"
    assert list(found.channels["ecg"].samples) == pytest.approx(waves)


@pytest.mark.parametrize(
    "name",
    ["PPG [IR]", "PPG [green]", "PPG (green)", "PLETH [-]", "PPG [LSB]", "PPG [940nm]"],
)
def test_words_in_brackets_that_are_no_unit_cost_no_recording(tmp_path: Path, name: str) -> None:
    """They were a unit that the PPG cannot have, and the ECG beside it was lost, too."""
    rows = [f"{n / 100},{n % 9},{n % 7}" for n in range(600)]
    (tmp_path / "r0.csv").write_text("\n".join([f"time_s,ECG [mV],{name}", *rows]))
    (found,) = read_folder(ward(tmp_path, "age", ["61"]))
    assert isinstance(found, Recording)
    units = {role: one.unit for role, one in found.channels.items()}
    assert units == {"ecg": "mV", "ppg": "NU"}


@pytest.mark.parametrize("table", ["aa.csv", "table.csv"])
@pytest.mark.parametrize("column", ["time", "timestamp", "Time [s]"])
def test_time_of_day_in_the_table_decides_nothing(
    tmp_path: Path, make: ModuleType, table: str, column: str
) -> None:
    """A table with it, if the first by name, made all recordings beside it unreadable."""
    make.csv_file(tmp_path / "r0.csv")
    (tmp_path / table).write_text(f"recording,patient_id,{column},sex\nr0,z,08:30,F\n")
    (found,) = read_folder(tmp_path)
    assert isinstance(found, Recording)
    assert found.labels["sex"] == "F"
    own = make.csv_file(tmp_path / "r0.csv", header=f"{column},ecg,ppg")
    (found,) = read_folder(tmp_path)
    assert isinstance(found, Recording)
    own.unlink()
    make.wfdb_record(tmp_path, "r0")
    (found,) = read_folder(tmp_path)
    assert isinstance(found, Recording)


def test_signals_with_their_own_name_in_a_column_do_not_vanish(
    tmp_path: Path, make: ModuleType
) -> None:
    """Beside times in a word they were taken for a table, without a fault; also if the mapping
    names other times."""
    lines = make.csv_file(tmp_path / "r0.csv", header="Zeit_ms,ecg,ppg").read_text().splitlines()
    cells = [f"{lines[0]},file", *(f"{line},r0" for line in lines[1:])]
    (tmp_path / "r0.csv").write_text("\n".join(cells))
    mapping = Mapping.from_toml('[ecg]\nnames = ["ecg"]')
    for folder in (tmp_path, ward(tmp_path, "age", ["61"])):
        (found,) = read_folder(folder, mapping)
        assert isinstance(found, ReadFault)
        assert found.cause == "sampling-rate"


@pytest.mark.parametrize(
    "column",
    ["timestamp_ms", "time_sec", "t_s", "elapsed_ms", "tempo_s", "Zeit [s]", "zeit_ms", "time_µs"],
)
def test_table_of_recordings_may_say_when_they_were(
    tmp_path: Path, make: ModuleType, column: str
) -> None:
    """It was no table any more: patients and labels vanished. Also if the recordings have a column
    of the same name."""
    make.csv_file(tmp_path / "r0.csv")
    ward(tmp_path, f"{column};sex", ["33;F"])
    assert guess_mapping(tmp_path).labels == (column, "sex")
    make.csv_file(tmp_path / "r1.csv", header=f"{column},ecg,ppg")
    ward(tmp_path, f"{column};sex;fs_hz", ["33;F;", "34;M;125"])
    found = list(read_folder(tmp_path))
    assert [one.labels if isinstance(one, Recording) else one for one in found] == [
        {column: 33.0, "sex": "F"},
        {column: 34.0, "sex": "M"},
    ]


def test_recording_with_its_own_name_in_a_column_is_no_table(
    tmp_path: Path, make: ModuleType
) -> None:
    """Where its time axis is a sure one."""
    lines = make.csv_file(tmp_path / "r0.csv").read_text().splitlines()
    cells = [f"{lines[0]},file", *(f"{line},r0" for line in lines[1:])]
    (tmp_path / "r0.csv").write_text("\n".join(cells))
    (found,) = read_folder(ward(tmp_path, "age", ["61"]))
    assert isinstance(found, Recording)


def test_timestamps_beside_a_rate_in_the_table_are_no_time_axis(
    tmp_path: Path, make: ModuleType
) -> None:
    """Whole milliseconds, or the times of packets, were compared with the rate."""
    lines = make.csv_file(tmp_path / "r0.csv", header="timestamp_ms,ecg,ppg").read_text()
    header, *rows = lines.splitlines()
    packets = [f"{n // 10 * 100},{row.split(',', 1)[1]}" for n, row in enumerate(rows)]
    (tmp_path / "r0.csv").write_text("\n".join([header, *packets]))
    (found,) = read_folder(ward(tmp_path, "fs_hz", ["125"]))
    assert isinstance(found, Recording)
    assert found.channels["ecg"].fs_hz == 125.0


def test_torn_table_is_a_fault_though_it_is_called_like_a_record(
    tmp_path: Path, make: ModuleType
) -> None:
    """Its labels vanished in silence."""
    make.wfdb_record(tmp_path, "ward")
    mapping = Mapping(one_file_is_one_patient=True, labels=("af",), ecg=guess_mapping(tmp_path).ecg)
    for rows, causes in (("", []), ("x,0,\n", ["not-a-recording"])):
        (tmp_path / "ward.csv").write_text(f"recording,af\nward,1\n{rows}")
        found = list(read_folder(tmp_path, mapping))
        assert [one.cause for one in found if isinstance(one, ReadFault)] == causes
        assert len(found) == 1 + len(causes)


@pytest.mark.parametrize(
    ("ending", "text"),
    [("csv", "Dear colleague\n"), ("csv", "1,2\n3,4\n"), ("txt", "AF, seen twice\nby night\n"),
     ("qrs", "\0,1\n")],
)  # fmt: skip
def test_companions_of_a_record_are_passed_over(
    tmp_path: Path, make: ModuleType, ending: str, text: str
) -> None:
    """Notes, annotations and numbers without names are no torn table."""
    make.wfdb_record(tmp_path, "ward")
    (tmp_path / f"ward.{ending}").write_text(text)
    mapping = Mapping(one_file_is_one_patient=True, ecg=guess_mapping(tmp_path).ecg)
    (found,) = read_folder(tmp_path, mapping)
    assert isinstance(found, Recording)


def test_a_sure_time_column_goes_before_a_word_and_files_without_channel_have_no_vote(
    tmp_path: Path,
) -> None:
    """One file with time_sec made all those with time_s unreadable."""
    rows = [f"{n / 100:.2f},{n % 7}" for n in range(2000)]
    (tmp_path / "a.csv").write_text("\n".join(["time_sec,ECG", *rows]))
    (tmp_path / "b.csv").write_text("\n".join(["time_s,ECG", *rows]))
    assert guess_mapping(tmp_path).time_column == "time_s"
    (tmp_path / "a.csv").write_text("\n".join(["zeit_ms,beat", *rows]))
    (tmp_path / "b.csv").write_text("\n".join(["zeit_s,ECG", *rows]))
    assert guess_mapping(tmp_path).time_column == "zeit_s"


@pytest.mark.parametrize("header", ["recording,time_s,event", "file,time_s,acc_x", "file,t,signal"])
def test_events_and_samples_with_a_recordings_name_are_no_table(
    tmp_path: Path, make: ModuleType, header: str
) -> None:
    """They made the recordings beside them unreadable, or vanished."""
    make.csv_file(tmp_path / "r0.csv")
    rows = [f"r0,{n / 10},{n % 3}" for n in range(50)]
    (tmp_path / "events.csv").write_text("\n".join([header, *rows]))
    fault, found = read_folder(ward(tmp_path, "age", ["61"]))
    assert isinstance(fault, ReadFault)
    assert (fault.file, fault.cause) == ("events.csv", "no-channel")
    assert isinstance(found, Recording)
    assert found.labels == {"age": 61.0}


@pytest.mark.parametrize("header", ["time_ms,ECG", "Zeit_ms,ppg", "time,II", "t,pleth"])
@pytest.mark.parametrize("cells", [("good", "bad"), ("1", "0"), ("", "")])
def test_a_table_with_times_may_have_labels_called_like_sensors(
    tmp_path: Path, make: ModuleType, header: str, cells: tuple[str, str]
) -> None:
    """Its patients were nobody's, and a cell of it was no number."""
    for name in ("r0", "r1"):
        make.csv_file(tmp_path / f"{name}.csv")
    rows = f"r0,a,33,{cells[0]}\nr1,b,34,{cells[1]}\n"
    (tmp_path / "table.csv").write_text(f"recording,patient_id,{header}\n{rows}")
    found = list(read_folder(tmp_path))
    assert [one.patient for one in found if isinstance(one, Recording)] == ["a", "b"]
    assert len(found) == 2


@pytest.mark.parametrize("flags", ["01", "1"])
def test_a_table_of_a_whole_study_with_flags_of_sensors_is_a_table(
    tmp_path: Path, make: ModuleType, flags: str
) -> None:
    """Most of its files are elsewhere: it was taken for samples, and its patients for nobody."""
    for name in ("r0", "r1"):
        make.csv_file(tmp_path / f"{name}.csv")
    rows = [f"r{n},p{n},{9 + n}:00,{flags[n % len(flags)]}" for n in range(12)]
    (tmp_path / "table.csv").write_text("\n".join(["recording,patient_id,time,ppg", *rows]))
    found = list(read_folder(tmp_path))
    assert [one.patient for one in found if isinstance(one, Recording)] == ["p0", "p1"]


@pytest.mark.parametrize("flat", [0, 300])
def test_samples_with_a_counter_called_record_are_no_table(
    tmp_path: Path, make: ModuleType, flat: int
) -> None:
    """They vanished: every row named another recording. Also where sensors are off at first."""
    lines = make.csv_file(tmp_path / "r0.csv").read_text().splitlines()
    lines[1:flat] = [f"{one.split(',')[0]},0.0,0.0" for one in lines[1:flat]]
    rows = [f"{lines[0]},record", *(f"{line},{n}" for n, line in enumerate(lines[1:]))]
    (tmp_path / "r0.csv").write_text("\n".join(rows))
    (found,) = read_folder(ward(tmp_path, "age", ["61"]))
    assert isinstance(found, Recording)
