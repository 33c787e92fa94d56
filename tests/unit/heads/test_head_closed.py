"""Training with DP on data that not everybody has: nothing that all patients decide together."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from head_command_stand_ins import run
from head_folder_stand_ins import PATIENTS, own_words, ward, with_mapping
from head_stand_ins import MODEL, asked, made_up
from private_head_stand_ins import ask, hospitals_of

from client.records import MAPPING_FILE, ReadFault
from shared_model.accounting import default_delta
from shared_model.errors import DataFault, OurMistake
from simulations.heads import closed, federate
from simulations.heads.compare import compare
from simulations.heads.data import HeadData, load
from simulations.heads.federate import private_head, settle
from simulations.heads.hospitals import Hospital, shared_out, steps_of, without_trained
from simulations.heads.public import of_fingerprints
from simulations.heads.tasks import TASKS, task_named
from simulations.probes.task import read, recordings

NOWHERE = Path("nowhere")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a mapping of its own, in order."""
    return with_mapping(ward(tmp_path_factory.mktemp("plain") / "ward-7", "csv", own_words))


@pytest.fixture
def copy(plain: Path, tmp_path: Path) -> Path:
    """That folder, to be changed."""
    shutil.copytree(plain, tmp_path / "ward-7")
    return tmp_path / "ward-7"


class Opened(Exception):
    """The model would have been opened."""


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is read: what comes to the model has passed all that is asked before."""

    def opened(*_: object) -> None:
        raise Opened

    monkeypatch.setattr("simulations.models.open_model", opened)
    monkeypatch.setattr("client.records._guess", opened)
    monkeypatch.setattr("client.records._Reader.read", opened)


def test_a_guess_would_let_one_patient_change_the_others(tmp_path: Path) -> None:
    """Why it is refused: one long cell, and nobody has a label; by an own mapping all others keep
    what they had."""
    kept = {}
    for name in ("guessed", "own"):
        folder = ward(tmp_path / name, "csv", own_words)
        if name == "own":
            with_mapping(folder)
        table = folder / "recordings.csv"
        first, second, *rest = table.read_text().splitlines()
        longer = second.rsplit(",", 1)[0] + "," + 70 * "x"
        assert first.endswith(",af")
        table.write_text("\n".join([first, longer, *rest]) + "\n")
        kept[name] = sum("af" in one.labels for one in recordings([folder]))
    assert kept == {"guessed": 0, "own": PATIENTS - 1}


@pytest.mark.usefixtures("unread")
@pytest.mark.parametrize("mode", ["local", "distributed"])
def test_folders_without_a_mapping_are_refused_unread(
    plain: Path, tmp_path: Path, mode: str
) -> None:
    """With what to do. With the file, of open data, and without privacy it goes on."""
    (tmp_path / "ward-8").mkdir()
    words = ["federate", "sex", "-o", str(tmp_path / "x"), "--sites", str(plain)]
    both = [*words, "--sites", str(tmp_path / "ward-8")]
    with pytest.raises(OurMistake, match=f"No {MAPPING_FILE} in: .*ward-8\\. ") as refused:
        run(*both, "--mode", mode)
    assert "fedprint-node data mapping FOLDER -o" in refused.value.do
    for more in (["--mode", mode, "--open-data", "made up"], ["--mode", "none"]):
        with pytest.raises(Opened):
            run(*both, *more)
    with pytest.raises(Opened):
        run(*words, "--hospitals", "2", "--declared", "9", "--declared", "9", "--mode", mode)


def test_a_fault_stops_a_private_training_on_closed_data(copy: Path) -> None:
    """A second row about a recording took it from its patient, and nobody said so. Counts by cause,
    no names. Open data go on with what can be read."""
    closed.read_once([copy], closed=True)
    table = copy / "recordings.csv"
    rows = table.read_text().splitlines()
    name, _, rest = rows[1].split(",", 2)
    table.write_text("\n".join([*rows, f"{name},somebody-else,{rest}"]) + "\n")
    with pytest.raises(DataFault, match="bad-table 1") as refused:
        closed.read_once([copy], closed=True)
    told = refused.value.message + refused.value.do
    assert "somebody-else" not in told
    assert name not in told
    closed.read_once([copy], closed=False)
    table.write_text("\n".join([*rows, f"{rows[1]},one cell more"]) + "\n")
    table.write_text("\n".join(rows) + "\n")
    lines = ["time_s,ecg,ppg", *(f"{n / 125:.3f},{n % 7}," for n in range(2000))]
    (copy / f"{name}.csv").write_text("\n".join(lines))
    faults = [one.cause for one in read(copy) if isinstance(one, ReadFault)]
    assert faults == ["no-samples"]
    closed.read_once([copy], closed=True)  # a sensor that was never there is that recording's own
    table.write_text("\n".join([*rows, f"{rows[1]},one cell more"]) + "\n")
    with pytest.raises(DataFault, match=f"bad-table 1, no-patient {PATIENTS}"):
        load(task_named("sex"), "ecg", MODEL, NOWHERE, sites=[copy], alone=True, closed=True)


def test_a_faulty_file_counts_once_however_many_leads_are_asked(copy: Path) -> None:
    """One file that is none was `not-a-recording 4` for `quality`, and 1 for all other tasks."""
    (copy / "junk.edf").write_bytes(b"nothing")
    for leads in ((None,), ("lead_II", "ECG", None)):
        with pytest.raises(DataFault, match=r"could be read: [a-z-]+ 1\. "):
            closed.read_once([copy], closed=True, leads=leads)
    (copy / "other.edf").write_bytes(b"nothing")
    with pytest.raises(DataFault, match=r"could be read: [a-z-]+ 2\. "):
        closed.read_once([copy], closed=True, leads=("lead_II", None))


def test_one_of_something_is_not_called_several() -> None:
    """Folders, hospitals and declared numbers, in words."""
    with pytest.raises(OurMistake, match="There is 1 hospital and 2 declared numbers"):
        closed.refuse_declared([9, 9], 1, None)
    with pytest.raises(OurMistake, match=r"There are 2 hospitals and 1 declared number\."):
        closed.refuse_declared([9], 2, None)
    hospitals, borders = shared_out(made_up(patients=90), 2, 0)
    assert "the patients of 1 folder dealt out" in borders
    words = " ".join(settle(ask(), hospitals, 9, 0).privacy.words())
    assert "the coordinator and 1 colluding hospital." in words


def test_a_folder_of_nobody_is_no_hospital(plain: Path) -> None:
    """It was left out in silence, so that which hospitals there are followed from one patient."""
    people = TASKS["sex"].load("ecg", NOWHERE, [plain], alone=True).people
    assert people is not None
    closed.refuse_absent([plain], people)
    with pytest.raises(DataFault, match="Hospital empty has no patient"):
        closed.refuse_absent([plain, Path("empty")], people)


def test_sensors_that_patients_decide_are_no_private_heads() -> None:
    """`alone` was ignored there."""
    with pytest.raises(OurMistake, match="the sensors are named"):
        load(task_named("sex"), None, MODEL, NOWHERE, sites=[NOWHERE], alone=True)


def test_declared_numbers_are_those_of_the_order_of_the_folders() -> None:
    """Hospitals are in the order of their names; patients dealt out have none."""
    data = made_up(patients=90, folders=("a", "b", "c"))
    found = [Hospital(name, data, data, data) for name in data.people.folders]
    order = [Path("c"), Path("a"), Path("b")]
    made = closed.declared(found, [30, 10, 1200], order)
    assert [one.everybody for one in made] == [10, 1200, 30]
    assert [one.declared for one in made] == [5, 670, 16]  # 9 of 16, as a node's set-up rounds
    made = closed.declared(hospitals_of(data), [30, 10, 20], order[:1])
    assert [one.everybody for one in made] == [30, 10, 20]


def test_the_default_delta_is_that_of_the_largest_hospitals_policy() -> None:
    """It went by the patients in the steps: 1.8 times as large."""
    three = [*hospitals_of(made_up(patients=90))]
    found = [
        settle(ask(), closed.declared(three, numbers, []), 9, 0).privacy.delta
        for numbers in ([30, 30, 30], [30, 30, 90_000])
    ]
    assert found == [default_delta(30), default_delta(90_000)] == [1e-5, 1 / 900_000]
    counted = Hospital("a", *([made_up(patients=40, items=1)] * 3))
    assert counted.everybody == 120


def test_how_one_row_is_written_does_not_change_how_others_are_read(copy: Path) -> None:
    """One byte of one patient's row read everybody's names another way, and moved everybody to
    other parts of the training."""
    table = copy / "recordings.csv"
    first, *rest = table.read_text().splitlines()
    head = first.split(",")
    at = head.index("patient") if "patient" in head else 1
    changed = []
    for line in rest:
        cells = line.split(",")
        cells[at] = f"KÖ-{cells[at]}"
        changed.append(",".join(cells))
    table.write_text("\n".join([first, *changed]) + "\n", encoding="utf-8")
    before = {one.name: one.patient for one in recordings([copy])}
    assert len(before) == PATIENTS
    assert all(one.startswith("KÖ-") for one in before.values())
    data = table.read_bytes().split(b"\n")
    data[3] = data[3].decode().rsplit(",", 1)[0].encode("latin-1") + b",fr\xfch"
    table.write_bytes(b"\n".join(data))
    assert {one.name: one.patient for one in recordings([copy])} == before


def test_a_parquet_column_that_is_not_read_stops_a_private_training(tmp_path: Path) -> None:
    """It is many patients', who were left out in silence; one sensor alone had no fault at all."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    samples = [[float(n % 9) for n in range(1500)] for _ in range(4)]
    for text, faults in (("", 0), ("ppg", 1), ("ecg ppg", 2)):
        folder = tmp_path / f"ward {text}"
        folder.mkdir()
        columns = {"patient": pa.array(["a", "b", "c", "d"]), "sex": pa.array(list("mfmf"))}
        for name in ("ecg", "ppg"):
            values = [[str(one) for one in row] for row in samples] if name in text else samples
            columns[name] = pa.array(values)
        pq.write_table(pa.table(columns), folder / "all.parquet")
        (folder / MAPPING_FILE).write_text(
            'patient_column = "patient"\nfs_hz = 125.0\nlabels = ["sex"]\n'
            '[ecg]\nnames = ["ecg"]\nunit = "mV"\n[ppg]\nnames = ["ppg"]\nunit = "a.u."\n'
        )
        found = [one for one in read(folder) if isinstance(one, ReadFault)]
        causes = [one.cause for one in found]
        assert causes == ["bad-header"] * faults + ["no-channel"] * (faults == 2)
        assert all(one.of_many for one in found)
        if not faults:  # by which lead a task asks is no file's fault
            closed.read_once([folder], closed=True, leads=("lead_II", None))
        if faults:
            with pytest.raises(DataFault, match=f"bad-header {faults}"):
                closed.read_once([folder], closed=True)
        else:
            closed.read_once([folder], closed=True)


@pytest.mark.parametrize("mode", ["local", "distributed"])
def test_what_is_promised_does_not_follow_from_the_declared_number(mode: str) -> None:
    """Far too few or too many: the same noise, rate and epsilon; the number divides what is noisy
    already, and bounds what is clamped before the noise."""
    hospitals = hospitals_of(made_up(patients=90))
    found = []
    for number in (8, 30, 9000):
        made = closed.declared(hospitals, [number] * 3, [])
        settled = settle(ask(mode=mode), made, 9, 0)
        run = settled.privacy
        found.append((run.plan, run.delta, run.epsilon(12), settled.setup.plan.sample_rate))
        assert settled.declared == (steps_of(number),) * 3
    assert found[0] == found[1] == found[2]


def test_numbers_that_nobody_can_declare_are_refused(
    plain: Path, tmp_path: Path, unread: None
) -> None:
    """Before anything is read; and where patients are counted, the option has no meaning."""
    words = ["federate", "sex", "-o", str(tmp_path / "x"), "--sites", str(plain)]
    two = [*words, "--hospitals", "2"]
    for numbers, more, told in (
        ((9,), (), "There are 2 hospitals and 1 declared"),
        ((), (), "nobody may count them"),
        ((9, 7), (), "declares 8 to"),
        ((9, 200_000_000), (), "declares 8 to"),
        ((9, 200_000), ("--delta", "1e-5"), "would promise nothing"),
        ((), ("--delta", "0.5"), "Delta is at most 1e-05"),
        ((8, 8), ("--delta", "0.1"), "Delta is at most 1e-05"),
        ((9, 347), (), "347 is no rounded number of patients"),
        ((9, 9), ("--mode", "none"), "here patients are counted"),
        ((9, 9), ("--open-data", "made up"), "here patients are counted"),
    ):
        said = [word for one in numbers for word in ("--declared", str(one))]
        with pytest.raises(OurMistake, match=told):
            run(*two, *said, *more)
    with pytest.raises(Opened):
        run(*two, "--declared", "9", "--declared", "9")


def with_copies(data: HeadData) -> HeadData:
    """Patients 2 n and 2 n + 1 share a recording."""
    people = data.people
    each = zip(people.folder, people.lot, strict=True)
    names = [(people.folders[place], float(lot)) for place, lot in each]
    others = tuple((names[place ^ 1],) for place in range(len(names)))
    return replace(data, people=replace(people, copied=others))


def test_who_trained_under_another_name_is_not_measured() -> None:
    """The same recording was fitted at one hospital and measured at another. Who fits and who
    calibrates stays; the report alone says how many."""
    data = with_copies(made_up(patients=200, items=1))
    hospitals = hospitals_of(data)
    made, left_out = without_trained(hospitals)
    trained = {
        person for one in hospitals for part in (one.fit, one.calibrate) for person in part.patient
    }
    before = {person for one in hospitals for person in one.measure.patient}
    after = {person for one in made for person in one.measure.patient}
    assert after == {person for person in before if person ^ 1 not in trained}
    assert left_out == len(before) - len(after) > 0
    assert after
    for one, other in zip(hospitals, made, strict=True):
        assert other.fit is one.fit
        assert other.calibrate is one.calibrate
    space = of_fingerprints(made_up(patients=200, seed=99, strength=0.0).fingerprints, 8)
    found = compare(hospitals, MODEL, space, ask(mode="local"), asked(), borders="made up")
    assert found.report["words"][-1].startswith(f"{left_out} patients were left out")
    assert found.report["measured_on"].startswith(f"{len(after)} ")
    assert "left out of those measured" not in found.head.manifest.model_dump_json()
    assert without_trained(hospitals_of(made_up()))[1] == 0
    public = {"figures_public": "the board", "borders": "made up"}
    with pytest.raises(DataFault, match="took part in the training under another name"):
        compare(hospitals, MODEL, space, ask(mode="local"), asked(), **public)
    compare(hospitals, MODEL, space, ask(mode="local"), asked(open_data="made up"), **public)


def test_names_that_share_a_recording_are_found_by_one_pass(plain: Path, tmp_path: Path) -> None:
    """`alone` keeps another's copy, so that the data themselves do not know."""
    south = tmp_path / "south"
    shutil.copytree(plain, south)
    found = TASKS["sex"].load("ecg", NOWHERE, [plain, south], alone=True).people
    assert found is not None
    assert not any(found.copied or ())
    persons = closed.read_once([plain, south], closed=True).of(found).copied
    assert persons is not None
    assert {len(others) for others in persons} == {1}
    for place, others in zip(found.folder, persons, strict=True):
        assert others[0][0] != found.folders[place]
    alone = TASKS["sex"].load("ecg", NOWHERE, [plain], alone=True).people
    assert alone is not None
    assert not any(closed.read_once([plain], closed=True).of(alone).copied or ())


def test_every_source_says_what_its_truth_is_and_a_private_head_too() -> None:
    """Its own note counts patients and is dropped; with it went that a label of a whole recording
    is each window's truth."""
    for task in TASKS.values():
        for sources in (task.sources, task.own):
            for source in sources.values():
                assert source.truth.startswith("truth: ") or task.kind == "identity"
    for name, label in (("af", "label af or rhythm"), ("heart-rate", "label hr")):
        own = TASKS[name].sources_of([NOWHERE])["ecg"].truth
        assert f"where a recording is not annotated, its {label} stands for every window" in own
        assert "stands" not in TASKS[name].sources["ecg"].truth
    data = replace(made_up(patients=90), truths="truth: made up", note="of 3 recordings")
    space = of_fingerprints(made_up(patients=200, seed=99, strength=0.0).fingerprints, 8)
    counted = hospitals_of(data)
    for hospitals, whose in (
        (counted, federate.COUNTED),
        (closed.declared(counted, [30] * 3, []), federate.OF_DECLARED),
    ):
        made = private_head(hospitals, MODEL, space, ask(), asked(), borders="made up")
        assert made.head.manifest.notes == ("made up", "truth: made up", whose)
