"""`cross-modal` and copies: a recording under two names is read once, and both are one patient."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from simulations import cross_modal, results_tables
from simulations.cli import app
from simulations.cohort import Cohort, SiteEffects, draw_cohort
from simulations.cross_modal_windows import Pairs, read_pairs

PATIENTS = 5


@pytest.fixture(scope="module")
def cohort() -> Cohort:
    """Five recordings of 40 s with both sensors."""
    effects = SiteEffects(name="ward", fs_ecg_hz=125.0, fs_ppg_hz=125.0)
    return draw_cohort(np.random.default_rng(4), PATIENTS, 4, effects)


def ward_of(folder: Path, cohort: Cohort, files: Mapping[str, tuple[str, int]]) -> Path:
    """A folder of CSV; files: name -> identifier, and which of the cohort's recordings it is."""
    folder.mkdir()
    for name, (_, which) in files.items():
        signals = cohort.ecg[which], cohort.ppg[which]
        rows = np.column_stack([np.arange(len(signals[0])) / 125.0, *signals])
        np.savetxt(folder / f"{name}.csv", rows, "%.4f", ",", header="time_s,ecg,ppg", comments="")
    lines = [f"{name},{patient}" for name, (patient, _) in files.items()]
    text = "\n".join(["recording,patient_id", *lines])
    (folder / "recordings.csv").write_text(text, encoding="utf-8")
    return folder


def everybody(letter: str) -> dict[str, tuple[str, int]]:
    return {f"r{number}": (f"{letter}{number}", number) for number in range(PATIENTS)}


def same_windows(one: Pairs, other: Pairs) -> None:
    assert np.array_equal(one.signal, other.signal)
    assert np.array_equal(one.patient, other.patient)


def test_a_ward_that_is_there_twice_counts_once(tmp_path: Path, cohort: Cohort) -> None:
    """The second numbers its patients anew: it doubled them and shortened every interval."""
    ward = ward_of(tmp_path / "ward", cohort, everybody("p"))
    annex = ward_of(tmp_path / "annex", cohort, everybody("q"))
    alone = read_pairs([ward], 3)
    assert (alone.copies, len(np.unique(alone.patient))) == (0, PATIENTS)
    read: list[None] = []
    both = read_pairs([ward, annex], 3, lambda: read.append(None))
    same_windows(both, alone)
    assert both.copies == PATIENTS
    assert both.met == {"ward": alone.met["ward"], "annex": 0}
    assert len(read) == 2 * PATIENTS  # progress reaches its end


def test_a_file_that_is_there_twice_counts_once(tmp_path: Path, cohort: Cohort) -> None:
    """Of one patient: its windows weighed twice."""
    ward = ward_of(tmp_path / "ward", cohort, everybody("p"))
    more = ward_of(tmp_path / "more", cohort, {**everybody("p"), "again": ("p2", 2)})
    found = read_pairs([more], 60)
    same_windows(found, read_pairs([ward], 60))
    assert found.copies == 1


def test_names_that_share_a_recording_are_one_patient_also_through_others(
    tmp_path: Path, cohort: Cohort
) -> None:
    """p0 and q0 share a recording, q0 and q1 another: of the three, one group in the bootstrap, and
    the limit of windows is the person's. p1 is another person in the same ward."""
    ward = ward_of(tmp_path / "ward", cohort, {"a": ("p0", 0), "b": ("p1", 1)})
    files = {"c": ("q0", 0), "d": ("q0", 2), "e": ("q1", 2), "f": ("q1", 3)}
    annex = ward_of(tmp_path / "annex", cohort, files)
    whole = read_pairs([ward, annex], 60)
    assert whole.copies == 2
    parts = [read_pairs([ward_of(tmp_path / f"w{k}", cohort, {"a": ("x", k)})], 60)
             for k in range(4)]  # fmt: skip
    sizes = [len(part) for part in parts]
    person, other = whole.patient == 0, whole.patient == 1
    assert (int(person.sum()), int(other.sum())) == (sizes[0] + sizes[2] + sizes[3], sizes[1])
    assert np.array_equal(whole.signal[other], parts[1].signal)
    assert whole.site[person].tolist() == [0] * sizes[0] + [1] * (sizes[2] + sizes[3])
    assert whole.site[other].tolist() == [0] * sizes[1]
    few = read_pairs([ward, annex], 2)
    assert np.bincount(few.patient).tolist() == [2, 2]
    values = np.where(whole.patient == 0, 1.0, 3.0)
    found = cross_modal.by_patient(values, whole.patient, draws=50, seed=0)
    assert found is not None
    assert found.value == 2.0


def test_one_identifier_in_two_wards_is_two_patients(tmp_path: Path, cohort: Cohort) -> None:
    """Both count from 1; only a recording in common makes them one."""
    ward = ward_of(tmp_path / "ward", cohort, {"a": ("1", 0)})
    annex = ward_of(tmp_path / "annex", cohort, {"a": ("1", 1)})
    found = read_pairs([ward, annex], 60)
    assert (found.copies, len(np.unique(found.patient))) == (0, 2)


def test_the_command_counts_copies_in_words_and_in_json(tmp_path: Path, cohort: Cohort) -> None:
    ward = ward_of(tmp_path / "ward", cohort, everybody("p"))
    annex = ward_of(tmp_path / "annex", cohort, {"x": ("q0", 0), "y": ("q1", 1)})
    words = ["cross-modal", "warm-start", "--windows", "1", "--draws", "20"]
    done = CliRunner().invoke(
        app, [*words, "--site", str(ward), "--site", str(annex), "-o", str(tmp_path / "out")]
    )
    assert done.exit_code == 0, done.output
    shown = " ".join(done.stdout.split())
    said = "left out: 2 copies of other recordings here, under another name"
    assert f"{said}; names that share a recording are one patient" in shown
    path = tmp_path / "out" / "measured-cross-modal.json"
    figures = json.loads(path.read_text(encoding="utf-8"))["figures"]
    assert figures["copies"] == 2
    assert figures["directions"]["ppg_to_ecg"]["all sites"]["patients"] == PATIENTS
    page = results_tables.cross_modal(figures)
    assert f"- {said}; names that share a recording are one patient" in page
    older = {name: one for name, one in figures.items() if name != "copies"}
    none = results_tables.cross_modal({**figures, "copies": 0})
    assert not [line for line in results_tables.cross_modal(older) if "cop" in line]
    assert any(line.startswith("- no recording here is a copy of another") for line in none)
    done = CliRunner().invoke(app, [*words, "--site", str(ward), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["figures"]["copies"] == 0
