"""Probes of folders that nobody has named here: what labels allow, in words what they do not."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from client.guess import IDENTIFIES, MANY
from client.records import MAPPING_FILE, guess_mapping
from shared_model.errors import DataFault, OurMistake
from simulations import cli_probe, measurement, results_page
from simulations.cli import app
from simulations.cohort import SiteEffects, draw_cohort, write_site
from simulations.lots import Lots, lot_of
from simulations.probes.site_tasks import (
    QUESTIONS,
    Read,
    by_sensors,
    require_read,
    site_tasks,
    sites_words,
)
from simulations.probes.task import Task
from simulations.probes.tasks import folders_for, load_tasks
from simulations.probes.unseen import Seen, without

PATIENTS = 24


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pretend hospital of 24 patients with both sensors, labels, beats and rhythms."""
    folder = tmp_path_factory.mktemp("sites") / "ward-7"
    cohort = draw_cohort(np.random.default_rng(5), PATIENTS, 1, SiteEffects(name="ward"))
    write_site(folder, cohort, "wfdb")
    return folder


def test_every_label_becomes_a_task_and_every_other_is_named(ward: Path) -> None:
    """Nothing is known of the folder but what its files say."""
    asked: list[str] = []
    tasks, skipped, read = site_tasks([ward], on_task=asked.append)
    names = {task.name for task in tasks}
    assert {"heart rate (annotated beats)", "heart rate (stated)", "age", "sex"} <= names
    assert names.isdisjoint(skipped)
    assert skipped["recording quality"] == "no recording has a label acceptable"
    assert skipped["identity"] == "no recording has another of the same patient beside it"
    assert {name.partition(" (")[0] for name in (*names, *skipped)} == {
        name.partition(" (")[0] for name in QUESTIONS
    }
    assert read.recordings == PATIENTS
    assert asked[0] == "which labels there are"
    assert set(asked[1:]) <= set(QUESTIONS)
    by_name = {task.name: task for task in tasks}
    assert by_name["age"].sensors == ("both", "ecg", "ppg")
    assert by_name["heart rate (annotated beats)"].sensors == ("ecg",)
    for task in tasks:
        if "both" in task.sensors:
            assert task.valid.any(axis=2).all()


def test_tasks_are_chosen_by_name_or_by_its_first_words(ward: Path) -> None:
    """`heart rate` is each of its three."""
    tasks, skipped, _ = site_tasks([ward], only=["heart rate", "heart rate (stated)"])
    assert [task.name for task in tasks] == ["heart rate (annotated beats)", "heart rate (stated)"]
    assert set(skipped) == {"heart rate (reference)"}
    with pytest.raises(OurMistake, match="no task 'diabetes'"):
        site_tasks([ward], only=["diabetes"])


@pytest.mark.parametrize(
    ("ages", "why"),
    [
        ([f"{40 + age},5" for age in range(PATIENTS - 1)] + ["1957-03-04"], IDENTIFIES),
        ([f"about {age}" for age in range(40, 40 + PATIENTS + 12)], MANY),
    ],
)
def test_column_that_was_not_taken_for_a_label_is_told_with_why(
    ward: Path, tmp_path: Path, ages: list[str], why: str
) -> None:
    """It was said that no recording has the label, beside a table that had it. No cell is told."""
    own = copied_with(ward, tmp_path / "own", "Age", ages)
    _, skipped, _ = site_tasks([own], only=["age"])
    assert skipped["age"] == f"no recording has a label age; a column age was left out: {why}"
    mapping = guess_mapping(own)
    mine = mapping.model_copy(update={"labels": (*mapping.labels, "Age")})
    (own / MAPPING_FILE).write_text(mine.to_toml(), encoding="utf-8")
    tasks, skipped, _ = site_tasks([own], only=["age"])
    if why == IDENTIFIES:  # the cell alone is dropped
        ages_read = set(tasks[0].truth.tolist())
        assert ages_read <= {40.5 + age for age in range(PATIENTS - 1)}
        assert len(ages_read) >= 20
    else:
        assert skipped["age"].startswith("what ")


def copied_with(ward: Path, folder: Path, column: str, cells: list[str]) -> Path:
    """The ward with another table: patients beside the first 24 have no recording."""
    shutil.copytree(ward, folder)
    (table,) = folder.glob("*.csv")
    rows = list(csv.DictReader(table.read_text(encoding="utf-8").splitlines()))
    kept = [{key: row[key] for key in rows[0] if key in {"patient_id", "recording"}}
            for row in rows]  # fmt: skip
    kept += [{key: f"{key}-{n}" for key in kept[0]} for n in range(len(cells) - len(kept))]
    with table.open("w", encoding="utf-8", newline="") as file:
        out = csv.DictWriter(file, [*kept[0], column])
        out.writeheader()
        out.writerows({**row, column: cell} for row, cell in zip(kept, cells, strict=True))
    return folder


def test_what_cannot_be_read_is_counted_by_its_cause(ward: Path, tmp_path: Path) -> None:
    """And a folder that is none is refused before anything is read."""
    other = tmp_path / "other"
    other.mkdir()
    (other / "torn.edf").write_bytes(b"0       torn")
    _, skipped, read = site_tasks([ward, other], only=["age"])
    assert skipped == {}
    assert sum(read.unreadable.values()) == 1
    lines = sites_words({"sites": read.words([ward, other])})
    assert lines[0] == f"folders: ward-7, other: {PATIENTS} recordings"
    assert lines[1] == f"SIMULATED: {PATIENTS} of them say that they are nobody's"
    assert "pooled" in lines[2]
    assert lines[3].startswith("not readable: 1 file: ")
    assert sites_words({"sites": None}) == []
    with pytest.raises(DataFault, match="is no folder"):
        site_tasks([ward, tmp_path / "absent"])


def test_what_a_known_collection_could_not_give_is_in_the_tasks_note() -> None:
    """Of folders by name it is said once, beside the folders."""
    task = replace(made_of(4, 4, 4), note="by hand", unreadable={"truncated": 2})
    assert cli_probe._note(task, told=False) == "by hand; not readable: 2 files: truncated"
    assert cli_probe._note(task, told=True) == "by hand"
    assert cli_probe._note(replace(task, note="", unreadable={}), told=False) == ""


def made_of(ecg: int, ppg: int, both: int) -> Task:
    """One window a patient: so many with each sensor alone, and with both."""
    patients = ecg + ppg + both
    valid = np.ones((patients, 2, 50), dtype=bool)
    valid[:ecg, 1] = False
    valid[ecg : ecg + ppg, 0] = False
    index = np.arange(patients)
    return Task(
        name="age",
        kind="mae",
        sensors=("both", "ecg", "ppg"),
        signal=np.zeros((patients, 2, 3), dtype=np.float32),
        valid=valid,
        unit=index,
        truth=index.astype(float),
        group=index,
        session=np.zeros(patients, dtype=np.int64),
    )


def test_too_few_patients_with_both_sensors_are_asked_by_sensor() -> None:
    """Each alone, with those who have it; or nothing, and why for each."""
    sensors = ("both", "ecg", "ppg")
    (whole,), why = by_sensors(made_of(8, 3, 9), sensors)
    assert (whole.sensors, whole.patients, why) == (sensors, 9, "")
    some, _ = by_sensors(made_of(20, 3, 9), sensors)
    assert [one.name for one in some] == ["age", "age (ECG)"]
    (alone,), why = by_sensors(made_of(20, 3, 4), sensors)
    assert (alone.name, alone.sensors, alone.patients) == ("age (ECG)", ("ecg",), 24)
    assert why.startswith("both sensors: 4 patients; 8 are needed")  # what is not measured, too
    assert "; PPG: 7 patients; 8 are needed" in why
    assert "ECG:" not in why
    rates = replace(made_of(20, 20, 4), name="heart rate (stated)")
    found, why = by_sensors(rates, sensors)
    assert why.startswith("both sensors: 4 patients")
    assert "PPG:" not in why
    assert [one.name for one in found] == ["heart rate (stated, ECG)", "heart rate (stated, PPG)"]
    none, why = by_sensors(made_of(2, 3, 4), sensors)
    assert none == []
    assert "both sensors: 4 patients" in why
    assert "ECG: 6 patients" in why
    assert "PPG: 7 patients" in why
    assert by_sensors(None, sensors) == ([], "no usable window has a truth")


def test_another_clinic_stands_in_for_the_known_one_and_not_beside_it(tmp_path: Path) -> None:
    """Only where the known collection's folder is absent are others of its kind taken."""
    pattern = "clinic_ppg_bp|clinic_* holter_*"
    assert folders_for(pattern, tmp_path) == []
    (tmp_path / "holter_x").mkdir()
    assert folders_for(pattern, tmp_path) == [tmp_path / "holter_x"]
    (tmp_path / "clinic_north").mkdir()
    assert folders_for(pattern, tmp_path) == [tmp_path / "clinic_north", tmp_path / "holter_x"]
    (tmp_path / "clinic_ppg_bp").mkdir()
    assert folders_for(pattern, tmp_path) == [tmp_path / "clinic_ppg_bp", tmp_path / "holter_x"]


def test_other_names_below_the_data_folder_are_read(ward: Path, tmp_path: Path) -> None:
    """`probe --data` of another collection, whose folder is of a known kind."""
    (tmp_path / "icu_elsewhere").symlink_to(ward)
    tasks, skipped = load_tasks(tmp_path, only=["heart rate (ICU)", "age"])
    assert [task.name for task in tasks] == ["heart rate (ICU)"]
    assert skipped["age"] == "no clinic_ppg_bp, nor clinic_* with labels below the data folder"


def test_the_command_probes_a_folder_and_says_which(ward: Path, tmp_path: Path) -> None:
    """In the JSON too; with folders named, nothing else says which recordings."""
    few = ["--random-seeds", "1", "--draws", "20", "--repeats", "1", "--task", "age"]
    words = ["probe", "warm-start:tiny", "--sites", str(ward), *few, "-o", str(tmp_path / "out")]
    shown = CliRunner().invoke(app, [*words, "--json"])
    assert shown.exit_code == 0, shown.output
    document = json.loads(shown.stdout)
    assert document["release"]["sites"]["folders"] == ["ward-7"]
    assert document["bars"] == {}
    kept = measurement.read(tmp_path / "out" / "measured-probe.json")
    assert kept.kind == "probe-sites"
    page = results_page.make(tmp_path / "out").text
    assert "Probes of frozen fingerprints on other folders" in page
    assert "- SIMULATED: 24 of them" in page
    assert {cell["sensors"] for cell in document["cells"]} == {"both", "ecg", "ppg"}
    for other in (["--pretend", "80"], ["--data", str(tmp_path)]):
        refused = CliRunner().invoke(app, [*words, *other])
        assert isinstance(refused.exception, OurMistake)
        assert "--sites says which" in str(refused.exception)


def study(folder: Path, rows: list[dict[str, object]], seed: int = 0) -> Path:
    """A Parquet study: a row a recording of 20 s of ECG and PPG, with its labels."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(len(rows) + seed)
    time = np.arange(20 * 125) / 125
    beat = np.exp(-(((time % 0.8) - 0.3) ** 2) / 0.0005)
    pulse = np.sin(2 * np.pi * time / 0.8) + 0.3 * np.sin(4 * np.pi * time / 0.8)
    signals = {
        "ecg": [beat + 0.01 * rng.standard_normal(len(time)) for _ in rows],
        "ppg": [pulse + 0.01 * rng.standard_normal(len(time)) for _ in rows],
    }
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    table = pa.table({"fs_hz": [125.0] * len(rows), **columns, **signals})
    pq.write_table(table, folder / "recordings.parquet")
    return folder


def rows_of(patients: int, each: int = 1, **labels: Callable[[int, int], object]) -> list[dict]:
    return [
        {
            "recording": f"r{patient}-{number}",
            "patient_id": f"p{patient}",
            **{name: say(patient, number) for name, say in labels.items()},
        }
        for patient in range(patients)
        for number in range(each)
    ]


def task_of(folder: Path, name: str) -> Task:
    tasks, skipped, _ = site_tasks([folder], only=[name])
    assert tasks, skipped
    return tasks[0]


def test_facts_of_a_recording_have_a_truth_each(tmp_path: Path) -> None:
    """A patient with an AF recording and one in sinus rhythm is both, by recording."""
    made = rows_of(
        8,
        2,
        rhythm=lambda patient, number: "AFIB" if (patient + number) % 2 else "sinus",
        acceptable=lambda patient, number: number,
        hr=lambda patient, number: 60 + 10 * number,
    )
    folder = study(tmp_path / "study", made)
    for name, truth in (
        ("atrial fibrillation (stated)", [float((p + n) % 2) for p in range(8) for n in range(2)]),
        ("recording quality", [0.0, 1.0] * 8),
        ("heart rate (stated)", [60.0, 70.0] * 8),
    ):
        found = task_of(folder, name)
        assert found.truth.tolist() == truth
        assert found.group.tolist() == [patient for patient in range(8) for _ in range(2)]
    assert task_of(folder, "identity").patients == 8


def test_patients_of_whom_recordings_say_different_things_are_left_out(tmp_path: Path) -> None:
    """Sex, hypertension and age are of the patient; ages of some years apart are the same one."""
    made = rows_of(
        12,
        2,
        sex=lambda patient, number: "M" if (patient + (number if patient == 3 else 0)) % 2 else "F",
        sbp=lambda patient, number: 160 if patient < 5 or (patient == 7 and number) else 120,
        dbp=lambda *_: 80,
        Age=lambda patient, number: 40 + patient + (30 if patient == 2 else 2) * number,
    )
    folder = study(tmp_path / "study", made)
    sex, pressure, years = (task_of(folder, name) for name in ("sex", "hypertension", "age"))
    assert sex.truth.tolist() == [float(one % 2) for one in range(12) if one != 3]
    assert pressure.truth.tolist() == [1.0] * 5 + [0.0] * 6
    assert years.truth.tolist() == [41.0 + one for one in range(12) if one != 2]
    for found in (sex, pressure, years):
        assert "1 patients of whom recordings say different things are left out" in found.note


def test_labels_that_are_not_understood_are_counted(tmp_path: Path) -> None:
    """Beside those that are; and where none is, that is the reason."""
    made = rows_of(
        20, sex=lambda p, _: ("F", "M", "F", "M", "x")[p % 5], acceptable=lambda *_: "perhaps"
    )
    tasks, skipped, _ = site_tasks(
        [study(tmp_path / "study", made)], only=["sex", "recording quality"]
    )
    assert [task.name for task in tasks] == ["sex"]
    assert tasks[0].patients == 16
    assert "what 4 recordings say of sex is not known here" in tasks[0].note
    assert skipped["recording quality"] == "what 20 recordings say of acceptable is not known here"


def test_pooled_folders_keep_patients_apart_and_say_who_may_be_the_same(tmp_path: Path) -> None:
    """Equal identifiers of two folders are two patients, and the output says how many there are."""
    made = rows_of(6, age=lambda patient, _: 40 + patient)
    folders = [study(tmp_path / name, made, seed) for seed, name in enumerate(("north", "south"))]
    (found,), _, read = site_tasks(folders, only=["age (ECG)"])
    assert found.patients == 12
    assert read.shared == 6
    assert any("6 identifiers are in several folders" in one for one in sites_words(
        {"sites": read.words(folders)}))  # fmt: skip


def test_a_copy_under_another_name_is_no_other_recording_and_no_other_patient(
    tmp_path: Path,
) -> None:
    """Of identity it was a pair of cosine 1; under another patient's id, in training and test."""
    ward, other = tmp_path / "ward", tmp_path / "other"
    ward.mkdir()
    effects = SiteEffects(name="ward", fs_ecg_hz=125.0, fs_ppg_hz=125.0)
    cohort = draw_cohort(np.random.default_rng(3), 18, 1, effects)
    names = {f"m{number}": f"p{number // 2}" for number in range(18)}
    for name, ecg, ppg in zip(names, cohort.ecg, cohort.ppg, strict=True):
        rows = np.column_stack([np.arange(len(ecg)) / 125.0, ecg, ppg])
        np.savetxt(ward / f"{name}.csv", rows, "%.4f", ",", header="time_s,ecg,ppg", comments="")
    for original, copy, patient in (("m0", "z0", "p0"), ("m2", "z1", "p77"), ("m5", "z2", "p2")):
        shutil.copy(ward / f"{original}.csv", ward / f"{copy}.csv")
        names[copy] = patient
    lines = [f"{name},{patient},{40 + int(patient[1:])}" for name, patient in names.items()]
    (ward / "recordings.csv").write_text(
        "\n".join(["recording,patient_id,age", *lines]), encoding="utf-8"
    )
    shutil.copytree(ward, other)
    for sites, copies in (([ward], 3), ([ward, other], 24)):
        tasks, _, read = site_tasks(sites, only=["identity", "age"])
        found = {task.name: task for task in tasks}
        assert len(found["identity"].truth) == read.recordings == 18
        assert found["identity"].patients == found["age"].patients == 9
        assert read.copies.count == copies
        said = f"left out: {copies} copies of other recordings here, under another name"
        assert said in sites_words({"sites": read.words(sites)})
        assert all(said in task.note for task in tasks)
    lot = lot_of("p77", "ward")  # p1's recording under another name, in no task itself
    read = Seen("run", frozenset({"ward"}), Lots(lot, np.nextafter(lot, 1.0)))
    for task in tasks:
        left, words = without(task, [read])
        assert left is not None
        assert left.patients == 8
        assert words == "1 of 9 patients were read by a run"
        assert without(left, [read])[1] == "0 of 8 patients were read by a run"


def test_folders_that_hold_a_patient_twice_are_refused_before_reading(tmp_path: Path) -> None:
    """One inside another, or the same through a link."""
    inner = study(tmp_path / "all" / "part", rows_of(8, age=lambda patient, _: 40 + patient))
    (tmp_path / "link").symlink_to(inner)
    for other in (tmp_path / "all", tmp_path / "link"):
        with pytest.raises(OurMistake, match="one lies in the other"):
            site_tasks([other, inner], on_task=pytest.fail)


def test_a_run_that_read_none_of_the_folders_leaves_nobody_out(tmp_path: Path) -> None:
    """So that it is refused: the figures would say that somebody was left out."""
    require_read([tmp_path / "ward"], [("mine", frozenset({"ward", "other"}))])
    with pytest.raises(OurMistake, match="mine has read none of these folders"):
        require_read([tmp_path / "copy"], [("mine", frozenset({"ward"}))])


def test_reference_times_that_do_not_fit_the_rates_are_no_truth(tmp_path: Path) -> None:
    """One short in a row: that recording has none, and the others are read."""
    made = rows_of(
        9,
        hr_reference_bpm=lambda *_: [70.0, 72.0, 74.0, 0.0],
        hr_reference_time_s=lambda patient, _: [2.0, 8.0, 14.0, 18.0][: 4 - (patient == 4)],
    )
    found = task_of(study(tmp_path / "study", made), "heart rate (reference)")
    assert found.patients == 8
    assert set(found.truth.tolist()) == {71.0, 74.0}


def test_a_folders_name_is_shown_as_words(tmp_path: Path) -> None:
    """Neither the terminal nor the page obeys it."""
    folder = tmp_path / "ward\n\x1b[31m<b>"
    words = {"sites": Read(recordings=1).words([folder])}
    (line,) = sites_words(words)
    assert line == "folders: ward ?[31m<b>: 1 recordings"
