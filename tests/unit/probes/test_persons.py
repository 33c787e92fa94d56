"""Who is one person: names that share a recording; and what a private head may not ask at all."""

from __future__ import annotations

import csv
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from client.records import Channel, Recording
from shared_model.errors import DataFault
from shared_model.windows import Windows
from simulations import cli_head
from simulations.cohort import SiteEffects, draw_cohort, write_site
from simulations.heads.tasks import TASKS
from simulations.lots import lot_of
from simulations.probes import evaluate as ev
from simulations.probes import tasks as tasks_module
from simulations.probes.task import Builder, Copies, Task

WINDOWS = Windows(
    signal=np.zeros((6, 2, 1250), dtype=np.float32),
    valid=np.ones((6, 2, 50), dtype=bool),
    start_s=np.arange(6) * 10.0,
    refusal=np.zeros((6, 2), dtype=np.uint8),
)


BEATS = Channel(samples=np.array([0.0, 1.0, np.nan]), fs_hz=125.0, unit="mV", lead="II")
FLAT = replace(BEATS, samples=np.array([np.nan, 0.5, 0.5]))


def recording(name: str, patient: str, content: str, **labels: str) -> Recording:
    return Recording(
        patient=patient,
        name=name,
        channels={"ecg": BEATS},
        labels=labels,
        events=(),
        series={},
        digest=content,
    )


def built(*found: tuple[str, str, str]) -> Task:
    """A task of recordings (folder, patient, content), one unit each that is no copy."""
    build = Builder()
    for number, (place, patient, content) in enumerate(found):
        one = recording(f"r{number}", patient, content)
        if not build.copies.holds(one, place):
            one = replace(one, patient=f"{patient}\n{place}")
            build.add(WINDOWS, np.array([0]), 0.0, one, number)
    made = build.task("any", "mae", ("ecg",))
    assert made is not None
    return made


def test_names_that_share_a_recording_are_one_group_also_through_a_third() -> None:
    """In one fold, and no pair of strangers; a's and c's only link is b, who has nothing else."""
    task = built(
        ("w", "a", "1"), ("w", "a", "2"), ("w", "b", "2"), ("v", "c", "3"), ("w", "b", "3"),
        ("v", "c", "4"), ("v", "a", "5"), ("v", "d", "6"),
    )  # fmt: skip
    assert task.group.tolist() == [1, 1, 1, 1, 0, 2]  # w's a and v's c; v's a is another
    assert task.people is not None
    assert task.people.copied == (
        (),
        (("w", lot_of("b", "w")), ("v", lot_of("c", "v"))),
        (),
    )
    assert "2 copies" in task.note


def test_only_the_same_patients_copies_count_where_nobody_may_depend_on_others() -> None:
    """The same file under two names of one patient is one recording; under another's it stays."""
    copies = Copies(within=True)
    met = [("a", "1"), ("b", "1"), ("a", "1"), ("b", "2")]
    held = [copies.holds(recording("r", *one), "w") for one in met]
    assert held == [False, False, True, False]
    assert all(len(names) == 1 for names in copies.persons().values())


def test_a_recording_that_never_changes_makes_nobody_one_person() -> None:
    """Of a lead that nobody put on, two patients' files of one length are the same bytes."""
    copies = Copies()
    flat = replace(recording("r", "a", "1"), channels={"ecg": FLAT})
    empty = replace(flat, channels={"ecg": replace(FLAT, samples=np.full(3, np.nan))})
    for one in (flat, replace(flat, patient="b"), empty, replace(empty, patient="c")):
        copies.holds(one, "w")
    assert copies.persons() == {f"{name}\nw": frozenset({f"{name}\nw"}) for name in "abc"}


def _ward(folder: Path) -> Path:
    cohort = draw_cohort(np.random.default_rng(5), 24, 1, SiteEffects(name="ward"))
    write_site(folder, cohort, "csv")
    return folder


def _without(ward: Path, to: Path, place: int) -> Path:
    """The ward after one patient has left, with the recordings."""
    shutil.copytree(ward, to)
    table = to / "recordings.csv"
    rows = list(csv.DictReader(table.read_text().splitlines()))
    (to / f"{rows.pop(place)['recording']}.csv").unlink()
    with table.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return to


def _by_lot(task: Task, place: str) -> dict[float, bytes]:
    """What the patients of a folder bring, by their lot."""
    people = task.people
    assert people is not None
    found = {}
    for patient in np.flatnonzero(people.folder == people.folders.index(place)):
        windows = np.isin(task.unit, np.flatnonzero(task.group == patient))
        truth = task.truth[task.group == patient]
        found[float(people.lot[patient])] = task.signal[windows].tobytes() + truth.tobytes()
    return found


@pytest.mark.parametrize("alone", [True, False])
def test_who_leaves_one_hospital_changes_nothing_of_anybody_else(
    tmp_path: Path, alone: bool
) -> None:
    """Two hospitals hold the same recordings. Of a private head epsilon is the price of one
    patient; another hospital's patient came and went with the first one's."""
    ward = _ward(tmp_path / "north")
    shutil.copytree(ward, tmp_path / "south")
    left = _without(ward, tmp_path / "less" / "north", 3)
    before = TASKS["sex"].load("ppg", tmp_path, [ward, tmp_path / "south"], alone=alone)
    after = TASKS["sex"].load("ppg", tmp_path, [left, tmp_path / "south"], alone=alone)
    if not alone:  # of a head without DP every recording is there once
        assert before.people is not None
        assert "south" not in before.people.folders
        return
    assert _by_lot(before, "south") == _by_lot(after, "south")
    there, here = _by_lot(before, "north"), _by_lot(after, "north")
    assert len(there) == len(here) + 1
    assert here.items() < there.items()


def test_a_private_head_is_read_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command asks for it; a head without DP does not."""
    asked = []

    def load(*_words: object, alone: bool = False, **_more: object) -> None:
        asked.append(alone)
        raise DataFault("Read.", cause="few", do="Nothing.")

    app = typer.Typer()
    app.callback()(lambda: None)
    cli_head.register(app)
    monkeypatch.setattr("simulations.heads.data.load", load)
    for words in (["federate", "sex", "--open-data", "made up"], ["train", "sex"]):
        more = ["--sites", str(tmp_path), "-o", str(tmp_path / words[0])]
        done = CliRunner().invoke(app, ["head", *words, *more])
        assert isinstance(done.exception, DataFault)
    assert asked == [True, False]


@pytest.mark.parametrize("within", [True, False])
def test_which_leads_of_a_recording_are_taken_follows_from_it_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, within: bool
) -> None:
    """One patient with a lead called lead_II took away all those whose ECG has another name. And a
    folder's copy has nothing new, by whichever lead it is read."""
    leads = {"a": {"lead_II", "lead_V2"}, "b": {"ecg"}, "c": {"ecg", "lead_I"}, "d": set()}
    for folder in ("ward", "copy"):
        (tmp_path / folder).mkdir()
    there = sorted(leads)

    def readable(_folder: Path, lead: str | None, _copies: Copies) -> list[Recording]:
        made = [recording(f"r{name}", name, name) for name in there]
        return [
            one if (lead in leads[one.patient] if lead else leads[one.patient])
            else replace(one, channels={})
            for one in made
        ]  # fmt: skip

    def taken(*folders: str) -> list[str]:
        paths = [tmp_path / one for one in folders]
        found = tasks_module.leads_of(paths, Copies(within=within))
        return sorted(one.patient.partition("\n")[0] for one in found)

    monkeypatch.setattr(tasks_module, "readable", readable)
    assert taken("ward") == ["a", "a", "b", "c"]
    assert len(taken("ward", "copy")) == 4 * (1 + within)
    there.remove("a")
    assert taken("ward") == ["b", "c"]


def test_no_window_of_true_vt_ends_after_the_alarm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows begin at 0, 10, ... 50 s. Of an alarm at 36 s the one from 20 to 30 s counts."""
    found = {}
    for alarm_s, start_s in ((36.0, 20.0), (39.9, 20.0), (40.0, 30.0), (39.98, 30.0), (72.0, None)):
        one = recording("r", "p\nward", "1", alarm="true vt", alarm_s=str(alarm_s))
        monkeypatch.setattr(tasks_module, "recordings", lambda *_, one=one, **__: iter([one]))
        monkeypatch.setattr(tasks_module, "windows_of", lambda _: WINDOWS)
        monkeypatch.setattr(tasks_module.truths, "true_alarm", lambda _: 1.0)
        chosen = Chosen()
        tasks_module.true_vt("vt", [], chosen)
        found[alarm_s] = (chosen.start_s, start_s)
    assert all(told == asked for told, asked in found.values()), found


class Chosen(Builder):
    """Notes where the window begins."""

    start_s: float | None = None

    def add(self, windows: Windows, chosen: np.ndarray, *_: object) -> None:
        self.start_s = float(windows.start_s[chosen[0]])


def test_a_persons_own_pairs_count_once_for_each_draw_and_strangers_for_each_pair() -> None:
    """As in identity heads: who is drawn twice is there as two people, who are no pair."""
    group = np.array([[0, 0], [0, 1], [1, 1], [1, 2]])
    truth, score = np.array([1.0, 0.0, 1.0, 0.0]), np.array([0.4, 0.5, 0.9, 0.1])
    prediction = ev.Prediction("verification", truth, score, group)
    counts = np.array([[2.0, 1.0, 0.0], [1.0, 1.0, 1.0], [0.0, 2.0, 1.0]])
    weights = np.array([[2.0, 2.0, 1.0, 0.0], [1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 2.0, 2.0]])
    expected = [ev.metric("verification", truth, score, weight) for weight in weights]
    assert ev.bootstrap(prediction, counts) == pytest.approx(expected, abs=1e-12)


def test_a_person_of_two_names_has_one_truth_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """a and b share a recording and are 25 and 46 years old; c and d are one person of 30."""
    said = [("a", "1", 25.0), ("b", "1", 46.0), ("b", "2", 46.0),
            ("c", "3", 30.0), ("d", "3", 30.0), ("d", "4", 30.0)]  # fmt: skip
    found = [
        replace(recording(f"r{number}", patient, content), labels={"age": age})
        for number, (patient, content, age) in enumerate(said)
    ]
    monkeypatch.setattr("simulations.probes.task.read_folder", lambda *_: iter(found))
    monkeypatch.setattr(tasks_module, "windows_of", lambda _: WINDOWS)
    make = tasks_module.patient_label("mae", ("ppg",), tasks_module.truths.age, "years", 1.0)
    task = make("age", [tmp_path], Builder())
    assert task is not None
    assert task.truth.tolist() == [30.0]
    assert task.patients == 1
    assert f"1 {tasks_module.CONTRADICTS}" in task.note
    assert "left out: 2 copies" in task.note
