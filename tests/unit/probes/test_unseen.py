"""Probes of patients that a run has not read: by lot, from the run's own experiment, in words."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.pseudonyms import SPELLING
from client.records import MAPPING_FILE
from shared_model.errors import OurMistake
from simulations.cohort import SiteEffects, draw_cohort, write_site
from simulations.lab.experiment import Experiment
from simulations.lab.run_folder import RunFolder
from simulations.lots import Lots, lot_of, place_of
from simulations.probes.task import People, Task, recordings
from simulations.probes.unseen import Seen, unseen_words, without
from simulations.site_mapping import own_mappings

PATIENTS = 40
FOLDERS = ("clinic", "ward")


def task(kind: str = "auroc", folds: int = 5) -> Task:
    """40 patients in turn of two folders; each has two units of two windows, marked by number."""
    patient = np.arange(PATIENTS)
    unit = np.repeat(np.arange(2 * PATIENTS), 2)
    return Task(
        name="marked",
        kind=kind,
        sensors=("ecg",),
        signal=np.arange(len(unit), dtype=np.float32)[:, None, None] * np.ones((1, 2, 3)),
        valid=np.ones((len(unit), 2, 50), dtype=bool),
        unit=unit,
        truth=np.repeat(patient % 4 == 0, 2).astype(float),
        group=np.repeat(patient, 2),
        session=np.tile([0, 1], PATIENTS),
        folds=folds,
        people=People(
            FOLDERS,
            patient % 2,
            np.full(PATIENTS, ""),
            patient.astype(float),
            np.array([lot_of(f"p{one}", FOLDERS[one % 2]) for one in patient]),
        ),
    )


def seen(first: float, end: float, *folders: str) -> Seen:
    return Seen("run", frozenset(folders), Lots(first, end))


@given(st.sets(st.integers(0, PATIENTS - 1), min_size=1))
def test_a_task_with_fewer_patients_has_their_windows_truths_and_people(kept: set[int]) -> None:
    """Every patient that stays keeps what was the patient's, under a new number."""
    whole = task()
    part = whole.of_patients(np.isin(np.arange(PATIENTS), list(kept)))
    assert part is not None
    assert part.people is not None
    assert part.patients == len(kept) == len(part.people.lot)
    for number, patient in enumerate(sorted(kept)):
        windows = part.signal[np.isin(part.unit, np.flatnonzero(part.group == number)), 0, 0]
        assert windows.tolist() == [4 * patient + place for place in range(4)]
        assert part.people.age[number] == patient
        assert set(part.truth[part.group == number]) == {float(patient % 4 == 0)}


def test_nobody_left_is_no_task() -> None:
    """And not a task of nobody."""
    assert task().of_patients(np.zeros(PATIENTS, dtype=bool)) is None


def test_patients_that_a_run_read_are_left_out_and_only_those() -> None:
    """Of its folders and lots; other folders keep everybody."""
    whole = task()
    part, words = without(whole, [seen(0.0, 0.5, "ward")])
    assert part is not None
    assert part.people is not None
    ward = part.people.folder == 1
    assert (part.people.lot[ward] >= 0.5).all()
    assert 0 < ward.sum() < PATIENTS // 2
    assert (~ward).sum() == PATIENTS // 2
    assert words == f"{PATIENTS - part.patients} of {PATIENTS} patients were read by a run"


def test_what_the_lab_reads_and_what_is_probed_have_nobody_in_common() -> None:
    """The two sides ask one function: every patient is on exactly one of them."""
    for lots in (Lots(0.0, 0.3), Lots(0.25, 0.75), Lots(0.0, 1.0)):
        read = {one for one in range(PATIENTS) if lots.hold(lot_of(f"p{one}", FOLDERS[one % 2]))}
        part, _ = without(task("mae"), [Seen("run", frozenset(FOLDERS), lots)])
        probed = set() if part is None or part.people is None else set(part.people.age.astype(int))
        assert read | probed == set(range(PATIENTS))
        assert not read & probed


def test_folds_become_as_many_as_the_smaller_class_has_patients() -> None:
    """And with fewer than three the task is given up, in words: with two, one would be left to
    train on, and no strength of regularisation could be chosen."""
    whole = task(folds=5)
    people = whole.people
    assert people is not None
    for positives, folds in ((3, 3), (2, None), (1, None), (0, None)):
        keep = np.flatnonzero(np.arange(PATIENTS) % 4 == 0)[:positives]
        lot = np.where(
            np.isin(np.arange(PATIENTS), keep) | (np.arange(PATIENTS) % 4 != 0), 0.9, 0.1
        )
        part, words = without(
            replace(whole, people=replace(people, lot=lot)), [seen(0.0, 0.5, *FOLDERS)]
        )
        if folds is None:
            assert part is None
            assert f"{positives} patients of the smaller class; 3 are needed" in words
        else:
            assert part is not None
            assert part.folds == folds


def test_a_task_without_people_is_not_probed_beside_a_run() -> None:
    """Who they are is not known, so they may have been read."""
    part, words = without(replace(task(), people=None), [seen(0.0, 0.5, "ward")])
    assert part is None
    assert "not known" in words


def test_a_link_to_a_folder_is_the_folder(tmp_path: Path) -> None:
    """Else a run through a link would have read patients that a probe takes for unseen ones. Both
    at once would be patients twice, and are refused."""
    folder, link = tmp_path / "ward", tmp_path / "another"
    cohort = draw_cohort(np.random.default_rng(1), 3, 2, SiteEffects(name="ward"))
    write_site(folder, cohort, "parquet")
    link.symlink_to(folder)
    named = [[one.patient for one in recordings([path])] for path in (folder, link)]
    assert named[0] == named[1]
    assert place_of(link) == "ward"
    (tmp_path / "run").mkdir()
    federation = {"source": "folders", "folders": [str(link)]}
    made = {"name": "read", "privacy": {"mode": "none"}, "federation": federation}
    (tmp_path / "run" / "experiment.toml").write_text(Experiment.from_dict(made).to_toml())
    (tmp_path / "run" / "provenance.json").write_text("{}")
    assert Seen.by(tmp_path / "run").folders == {"ward"}
    with pytest.raises(OurMistake, match="the same folder"):
        list(recordings([folder, link]))


def test_folders_and_lots_are_those_of_the_run_itself(tmp_path: Path) -> None:
    """Read from the experiment in the run's folder; a folder without one is refused."""
    (tmp_path / "data" / "ward").mkdir(parents=True)
    (tmp_path / "run").mkdir()
    made = Experiment.from_dict(
        {
            "name": "read",
            "privacy": {"mode": "none"},
            "federation": {
                "source": "folders",
                "folders": [str(tmp_path / "data" / "ward")],
                "lots": [0.0, 0.4],
            },
        }
    )
    (tmp_path / "run" / "experiment.toml").write_text(made.to_toml())
    (tmp_path / "run" / "provenance.json").write_text("{}")
    one = Seen.by(tmp_path / "run")
    assert one == Seen("read", frozenset({"ward"}), Lots(0.0, 0.4), spelling=0)
    said = unseen_words({"unseen_by": {"runs": [one.words()], "left_out": {"sex": "3 of 9"}}})
    assert said == [
        "left out: patients with lots 0 to 0.4 of ward: read by the run read",
        "left out: sex: 3 of 9",
    ]
    assert unseen_words({}) == []
    with pytest.raises(OurMistake, match="holds no run"):
        Seen.by(tmp_path / "data")


def test_a_folder_that_is_read_otherwise_now_says_nothing_of_who_was_read(tmp_path: Path) -> None:
    """A mapping names the patients, and a lot follows from the name."""
    ward = tmp_path / "ward"
    ward.mkdir()
    made = Experiment.from_dict(
        {"name": "read", "privacy": {"mode": "none"},
         "federation": {"source": "folders", "folders": [str(ward)]}}
    )  # fmt: skip
    run = RunFolder(tmp_path / "run")
    with run.held(resume=False):
        run.begin(made)
        run.settle_data("d", own_mappings([ward]))
    seen_now = Seen.by(tmp_path / "run")
    seen_now.refuse_read_otherwise([ward])
    (ward / MAPPING_FILE).write_text("one_file_is_one_patient = true", encoding="utf-8")
    with pytest.raises(OurMistake, match="by another mapping"):
        seen_now.refuse_read_otherwise([ward])
    seen_now.refuse_read_otherwise([tmp_path])  # another folder
    told = json.loads((tmp_path / "run" / "provenance.json").read_bytes())
    before = json.dumps({**told, "spelling": SPELLING - 1})
    (tmp_path / "run" / "provenance.json").write_text(before, encoding="utf-8")
    Seen.by(tmp_path / "run").refuse_read_otherwise([tmp_path])
    with pytest.raises(OurMistake, match="gave some patients other names"):
        Seen.by(tmp_path / "run").refuse_read_otherwise([ward])
    mapped = RunFolder(tmp_path / "mapped")
    with mapped.held(resume=False):
        mapped.begin(made)
        mapped.settle_data("d", own_mappings([ward]))
    Seen.by(tmp_path / "mapped").refuse_read_otherwise([ward])
    (ward / MAPPING_FILE).unlink()
    with pytest.raises(OurMistake, match="by another mapping"):
        Seen.by(tmp_path / "mapped").refuse_read_otherwise([ward])
