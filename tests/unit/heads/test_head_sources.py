"""What a head takes of folders that are named: what the probes take, recording by recording."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from head_command_stand_ins import run
from head_folder_stand_ins import PATIENTS, Row, own_words, ward

from client.fingerprints import SENSORS
from client.guess import IDENTIFIES
from shared_model.errors import DataFault, OurMistake
from simulations import measurement, results_page
from simulations.heads import public
from simulations.heads.data import load
from simulations.heads.missing import missing
from simulations.heads.tasks import TASKS, HeadTask, patients_with
from simulations.lots import lot_of
from simulations.models import open_model
from simulations.probes import tasks as probes
from simulations.probes import truths
from simulations.probes.site_tasks import QUESTIONS, site_tasks, unreadable_words
from simulations.probes.task import Builder, Task, recordings
from simulations.site_mapping import HOW_READ

NOWHERE = Path("nowhere")


def unlabelled(_: int, row: Row) -> Row:
    """Who, and how fast it was sampled."""
    return {name: row[name] for name in ("recording", "patient_id", "fs_hz")}


@pytest.fixture(scope="module")
def stated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder without annotations, whose table says it."""
    return ward(tmp_path_factory.mktemp("stated") / "ward-7", "csv", own_words)


@pytest.fixture(scope="module")
def half_annotated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every second recording has beats and rhythms; all have labels."""
    folder = ward(tmp_path_factory.mktemp("half") / "ward-8", "wfdb", own_words)
    for path in sorted(folder.glob("*.atr"))[::2]:
        path.unlink()
    return folder


def by_patient(task: Task, folder: Path) -> dict[float, tuple[list[float], bytes]]:
    """Truths and windows of each patient, who is known by his lot."""
    people, found = task.people, {}
    assert people is not None
    assert people.folders == (folder.name,)
    for place, lot in enumerate(people.lot):
        items = np.flatnonzero(task.group == place)
        windows = task.signal[np.isin(task.unit, items)]
        found[float(lot)] = (task.truth[items].tolist(), windows.tobytes())
    return found


def asks(task: HeadTask, sensors: str) -> tuple[str, ...]:
    """Questions whose truths a task takes of folders that are named."""
    source = (task.own or task.sources).get(sensors)
    return () if source is None else source.questions


def test_a_head_takes_what_the_probes_take() -> None:
    """docs and errors say that it does: each question, with each of its sensors."""
    for name, question in QUESTIONS.items():
        for sensors in question.sensors:
            takes = [task for task in TASKS.values() if name in asks(task, sensors)]
            assert takes, f"{name}, {sensors}"


def test_known_collections_have_the_sources_that_they_had() -> None:
    """Usual sensors, folders, makers and items: figures of before are those of now."""
    usual = {
        "hypertension": ("ppg",), "af": ("ecg",), "rhythm": ("ecg",), "vt": ("both", "ecg", "ppg"),
        "age": ("ppg", "ecg", "both"), "sex": ("ppg", "ecg", "both"),
        "heart-rate": ("ecg", "ppg", "both"), "quality": ("ecg",), "identity": ("ecg",),
    }  # fmt: skip
    assert {name: tuple(task.sources) for name, task in TASKS.items()} == usual
    for name, sensors, of_probes, item in (
        ("hypertension", "ppg", "hypertension", "patient"),
        ("af", "ecg", "atrial fibrillation", "window"),
        ("heart-rate", "ecg", "heart rate (ECG)", "window"),
        ("heart-rate", "ppg", "heart rate (PPG)", "patient"),
        ("heart-rate", "both", "heart rate (ICU)", "recording"),
        ("identity", "ecg", "identity", "recording"),
    ):
        source, (pattern, make) = TASKS[name].sources[sensors], probes.TASKS[of_probes]
        assert (source.pattern, source.make, source.item) == (pattern, make, item)
        assert TASKS[name].sources_of([NOWHERE])[sensors].item == item
    for task in TASKS.values():
        assert task.sensors(None, [NOWHERE]) == task.sensors(None)


@pytest.mark.parametrize("sensors", SENSORS)
def test_af_is_learnt_from_a_column_of_yes_and_no(stated: Path, sensors: str) -> None:
    """ "ecg 0" was said of it, and a page named that lists the column."""
    task = TASKS["af"].load(sensors, NOWHERE, [stated])
    assert task.kind == "auroc"
    assert task.patients == PATIENTS
    assert sorted(set(task.truth.tolist())) == [0.0, 1.0]
    assert "24 recordings without annotations label af or rhythm" in task.note


def test_af_head_is_trained_on_own_labels(stated: Path, tmp_path: Path) -> None:
    """By the command; whose labels they are is in the card."""
    words = ("--sites", str(stated), "--draws", "20")
    told = run("train", "af", "-o", str(tmp_path / "head"), *words)
    assert told["sensors"] == "ecg"
    assert told["patients"] >= 20
    card = (tmp_path / "head" / "MODEL_CARD.md").read_text()
    assert "recordings without annotations label af or rhythm, for each window" in card
    path = tmp_path / "measured-head-head.json"
    assert told["measured"] == str(path)
    assert path.stat().st_mode & 0o777 == 0o600
    measured = measurement.read(path)
    assert measured.kind == "head"
    assert list(measured.weights) == ["warm-start"]
    assert measured.figures["figures"] == told["figures"]
    assert measured.figures["head"] == told["digest"]
    assert measured.figures["public"].startswith("NOT PROTECTED")
    assert "### measured-head-head" in results_page.make(tmp_path).text


@pytest.fixture
def torn(tmp_path: Path) -> Path:
    """A folder without one patient's samples, and with a file that is none."""
    folder = ward(tmp_path / "ward-6", "csv", own_words)
    for path in signals(folder)[:1]:
        path.write_bytes(b"")
    (folder / "zz-Mueller.csv").write_text("nobody;knows\n")
    return folder


def signals(folder: Path) -> list[Path]:
    """Files of a folder, but for the table."""
    return sorted(path for path in folder.rglob("*.csv") if path.name != "recordings.csv")


def test_files_that_cannot_be_read_are_counted_in_output_and_card(
    torn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They were dropped in silence; of open data by `head federate`, too. No file's name is in a
    card."""
    (_, _, read) = site_tasks([torn], only=["age"])
    causes = dict(read.unreadable)
    lines = unreadable_words(causes)
    assert sum(causes.values()) == 2
    words = ("--sites", str(torn), "--draws", "20", "--sensors", "ecg")
    told = run("train", "af", "-o", str(tmp_path / "head"), *words)
    assert told["unreadable"] == causes
    assert set(lines) <= set(told["notes"])
    assert set(lines) <= set(run("show", str(tmp_path / "head"))["notes"])
    for name in ("head/MODEL_CARD.md", "measured-head-head.json"):
        made = (tmp_path / name).read_text()
        assert "Mueller" not in made
        assert all(line in made for line in lines)
    monkeypatch.setattr(public, "space_of", partial(public.space_of, windows=200))
    words += ("--hospitals", "2", "--rounds", "2", "--open-data", "made up")
    told = run("federate", "af", "-o", str(tmp_path / "both"), *words)
    assert told["unreadable"] == causes
    card = (tmp_path / "both" / "MODEL_CARD.md").read_text()
    for shown in (card, " ".join(told["words"])):
        assert all(line in shown for line in lines)


def test_what_cannot_be_read_is_said_where_too_few_are_left(torn: Path) -> None:
    for path in signals(torn)[:8]:
        path.write_bytes(b"")
    with pytest.raises(DataFault) as refused:
        TASKS["af"].load_first([torn])
    assert "Not readable: 8 files: empty. " in refused.value.do


def test_windows_of_a_head_are_those_that_its_fingerprints_are_of(tmp_path: Path) -> None:
    """Windows of patients without the sensor were counted in "trained on", and so were windows
    without it of those who have it."""
    folder = ward(tmp_path / "ward-6", "csv", own_words)
    for path in signals(folder)[:3]:
        path.write_text("\n".join(line.rpartition(",")[0] for line in path.read_text().split()))
    task = TASKS["age"].load("ppg", NOWHERE, [folder])
    seen = task.valid[:, 1].any(axis=1)
    assert 0 < seen.sum() < len(seen)
    data = load(TASKS["age"], "ppg", open_model("warm-start"), NOWHERE, sites=[folder])
    assert data.windows == seen.sum()
    assert data.left_out >= 3


def test_folder_that_is_not_there_is_refused_with_what_to_do() -> None:
    for refuse in (TASKS["age"].load_first, site_tasks):
        with pytest.raises(DataFault, match="is no folder") as refused:
            refuse([NOWHERE])
        assert refused.value.do


@pytest.mark.parametrize("name", ["hypertension", "age", "sex", "heart-rate"])
@pytest.mark.parametrize("sensors", SENSORS)
def test_tasks_of_labels_have_the_sensors_that_a_folder_has(
    stated: Path, name: str, sensors: str
) -> None:
    """hypertension with both was refused, heart rate with the ECG too."""
    chosen = TASKS[name]
    task = chosen.load(chosen.sensors(sensors, [stated]), NOWHERE, [stated])
    assert patients_with(task, sensors) >= 20


def test_annotations_of_a_recording_hold_and_else_its_label(half_annotated: Path) -> None:
    """The label says yes of every second patient, whatever the rhythm; beats give each window a
    rate of its own."""
    annotated = {one.stem for one in half_annotated.glob("*.atr")}
    assert 0 < len(annotated) < PATIENTS
    for name, said in (("af", truths.atrial_fibrillation), ("heart-rate", truths.heart_rate)):
        task = TASKS[name].load("ecg", NOWHERE, [half_annotated])
        alone = probes.TASKS[{"af": "atrial fibrillation", "heart-rate": "heart rate (ECG)"}[name]]
        by_notes = alone[1](name, [half_annotated], Builder())
        assert by_notes is not None
        found, wanted = (by_patient(one, half_annotated) for one in (task, by_notes))
        assert set(wanted) < set(found)
        assert all(found[lot] == wanted[lot] for lot in wanted)
        labels = {
            lot_of(one.patient.partition("\n")[0], half_annotated.name): said(one)
            for one in recordings([half_annotated])
            if one.name not in annotated
        }
        others = set(found) - set(wanted)
        assert others <= set(labels)
        assert all(set(found[lot][0]) == {labels[lot]} for lot in others)


@pytest.mark.parametrize("name", ["af", "heart-rate"])
def test_source_of_a_truth_does_not_depend_on_other_patients(
    half_annotated: Path, tmp_path: Path, name: str
) -> None:
    """Training with DP: all annotated patients leave, and those with labels alone have what they
    had; so too the other way round."""
    whole = by_patient(load_alone(name, half_annotated), half_annotated)
    annotated = {one.stem for one in half_annotated.glob("*.atr")}
    seen = 0
    for stay in (True, False):
        less = tmp_path / str(stay) / half_annotated.name
        shutil.copytree(half_annotated, less)
        for path in less.iterdir():
            if path.suffix != ".csv" and (path.stem in annotated) != stay:
                path.unlink()
        found = by_patient(load_alone(name, less), less)
        assert found
        assert all(whole[lot] == found[lot] for lot in found)
        seen += len(found)
    assert seen == len(whole)


def load_alone(name: str, folder: Path) -> Task:
    """As `head federate` reads."""
    return TASKS[name].load("ecg", NOWHERE, [folder], alone=True)


def test_rate_of_a_reference_device_stands_in_for_a_label() -> None:
    """Its mean; what no living patient has is not believed. A label that is known comes first."""

    def of(labels: Row, *rates: float) -> float:
        series = {"hr_reference_bpm": np.array(rates)}
        return truths.mean_rate(SimpleNamespace(labels=labels, series=series))  # type: ignore[arg-type]

    assert of({}, 70.0, 74.0, 0.0, np.nan) == 72.0
    assert of({"hr": "90"}, 70.0) == 90.0
    assert of({"hr": "seventy"}, 70.0) == 70.0
    assert np.isnan(of({}, 0.0))
    assert np.isnan(truths.mean_rate(SimpleNamespace(labels={}, series={})))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "needs"),
    [
        ("af", "annotated rhythms, or a label af or rhythm"),
        ("heart-rate", "annotated beats, or a label hr, or a series hr_reference_bpm"),
        ("hypertension", "a label hypertension, or sbp and dbp"),
        ("vt", "labels vt_true and alarm_s"),
        ("rhythm", "annotated rhythms"),
    ],
)
def test_refusal_says_what_recordings_lack(tmp_path: Path, name: str, needs: str) -> None:
    """Not a page alone: which labels, annotations or series would do."""
    folder = ward(tmp_path / "ward-9", "csv", unlabelled)
    with pytest.raises(DataFault) as refused:
        TASKS[name].load_first([folder])
    assert f"None of the {PATIENTS} recordings there have {needs}." in refused.value.do
    sensors = TASKS[name].sensors(None)
    with pytest.raises(DataFault) as refused:
        TASKS[name].load(sensors, NOWHERE, [folder])
    assert f"None of the {PATIENTS} recordings there have" in refused.value.do


def test_refusal_names_columns_that_were_left_out_and_folders_that_cannot_be_read(
    tmp_path: Path,
) -> None:
    """A guess does not take every column for a label, and nothing may be readable."""

    def birthdays(place: int, row: Row) -> Row:
        return unlabelled(place, row) | {"age": "40,5" if place else "1957-03-04"}

    folder = ward(tmp_path / "ward-9", "csv", birthdays)
    told = missing([folder], ("age",), truths.age)
    assert f"A column age was left out: {IDENTIFIES}." in told
    assert f" {HOW_READ}." in told  # a command has no capital
    assert "1957" not in told
    assert "Recordings need another of the same" in missing([folder], ("identity",), None)
    (tmp_path / "empty").mkdir()
    assert "could be read" in missing([tmp_path / "empty"], ("sex",), truths.is_male)


def test_known_folder_with_labels_alone_is_told_to_be_named(tmp_path: Path) -> None:
    """holter_* are asked for annotations; own folders for more."""
    ward(tmp_path / "holter_ours", "csv", own_words)
    with pytest.raises(DataFault) as refused:
        TASKS["af"].load("ecg", tmp_path)
    assert "recordings there have annotated rhythms." in refused.value.do
    assert "--sites are taken: annotated rhythms, or a label af or rhythm" in refused.value.do
    with pytest.raises(OurMistake, match="no recordings for sensors") as mistake:
        TASKS["hypertension"].sensors("both")
    assert "--sites" in mistake.value.do
    assert TASKS["hypertension"].sensors("both", [tmp_path]) == "both"
    with pytest.raises(OurMistake) as mistake:
        TASKS["quality"].sensors("ppg", [tmp_path])
    assert mistake.value.do == "Choose among: ecg."
