"""Probes of folders that nobody has named here: what labels allow, in words what they do not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from shared_model.errors import DataFault, OurMistake
from simulations.cli import app
from simulations.cohort import SiteEffects, draw_cohort, write_site
from simulations.probes.site_tasks import QUESTIONS, by_sensors, site_tasks, sites_words
from simulations.probes.task import Task
from simulations.probes.tasks import folders_for, load_tasks

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


def test_what_cannot_be_read_is_counted_by_its_cause(ward: Path, tmp_path: Path) -> None:
    """And a folder that is none is refused before anything is read."""
    other = tmp_path / "other"
    other.mkdir()
    (other / "torn.edf").write_bytes(b"0       torn")
    _, skipped, read = site_tasks([ward, other], only=["age"])
    assert skipped == {}
    assert sum(read.unreadable.values()) == 1
    lines = sites_words({"sites": read.words([ward, other])})
    assert lines[0] == f"folders: ward-7, other, {PATIENTS} recordings"
    assert "pooled" in lines[1]
    assert lines[2].startswith("not readable: 1 files: ")
    assert sites_words({"sites": None}) == []
    with pytest.raises(DataFault, match="is no folder"):
        site_tasks([ward, tmp_path / "absent"])


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
    (whole,), _ = by_sensors(made_of(20, 3, 9), sensors)
    assert (whole.sensors, whole.patients) == (sensors, 9)
    (alone,), why = by_sensors(made_of(20, 3, 4), sensors)
    assert (alone.name, alone.sensors, alone.patients, why) == ("age (ECG)", ("ecg",), 24, "")
    rates = replace(made_of(20, 20, 4), name="heart rate (stated)")
    found, _ = by_sensors(rates, sensors)
    assert [one.name for one in found] == ["heart rate (stated, ECG)", "heart rate (stated, PPG)"]
    none, why = by_sensors(made_of(2, 3, 4), sensors)
    assert none == []
    assert "both sensors: 4 patients" in why
    assert "ECG: 6 patients" in why
    assert "PPG: 7 patients" in why
    assert by_sensors(None, sensors) == ([], "no usable window has a truth")


def test_another_clinic_stands_in_for_the_known_one_and_not_beside_it(tmp_path: Path) -> None:
    """Only where the known collection's folder is absent are others of its kind taken."""
    pattern = "clinic_ppg_bp | clinic_*"
    assert folders_for(pattern, tmp_path) == []
    (tmp_path / "clinic_north").mkdir()
    assert folders_for(pattern, tmp_path) == [tmp_path / "clinic_north"]
    (tmp_path / "clinic_ppg_bp").mkdir()
    assert folders_for(pattern, tmp_path) == [tmp_path / "clinic_ppg_bp"]


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
    assert {cell["sensors"] for cell in document["cells"]} == {"both", "ecg", "ppg"}
    assert (tmp_path / "out" / "measured-probe.json").is_file()
    for other in (["--pretend", "80"], ["--data", str(tmp_path)]):
        refused = CliRunner().invoke(app, [*words, *other])
        assert isinstance(refused.exception, OurMistake)
        assert "--sites says which" in str(refused.exception)
