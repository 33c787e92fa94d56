"""Who of a folder's unread patients is a person whom a run has read, or another of them again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from simulations.cohort import Cohort, SiteEffects, draw_cohort, write_site
from simulations.lab.experiment import Experiment
from simulations.lots import lot_of
from simulations.unseen_losses import Unseen, unseen_by


@pytest.fixture(scope="module")
def sensors() -> Cohort:
    """Recordings of twelve pretend patients with both sensors."""
    effects = SiteEffects(name="ward", fs_ecg_hz=125.0, fs_ppg_hz=125.0)
    return draw_cohort(np.random.default_rng(4), 12, 1, effects)


def ward_of(folder: Path, cohort: Cohort, whose: list[tuple[str, int]]) -> Path:
    """CSV files, one of each identifier and number of a recording of the cohort."""
    folder.mkdir()
    lines = ["recording,patient_id"]
    for place, (patient, number) in enumerate(whose):
        ecg, ppg = cohort.ecg[number], cohort.ppg[number]
        rows = np.column_stack([np.arange(len(ecg)) / 125.0, ecg, ppg])
        file = folder / f"r{place:02d}.csv"
        np.savetxt(file, rows, "%.4f", ",", header="time_s,ecg,ppg", comments="")
        lines.append(f"r{place:02d},{patient}")
    (folder / "recordings.csv").write_text("\n".join(lines), encoding="utf-8")
    return folder


def unread_of(*wards: Path) -> Unseen:
    """Of a run that read the lower half of the lots."""
    federation = {"source": "folders", "folders": [str(one) for one in wards],
                  "lots": [0.0, 0.5], "held_out": 0.0}  # fmt: skip
    asked = {"name": "read", "privacy": {"mode": "none"}, "federation": federation}
    return unseen_by([Experiment.from_dict(asked)])


def names_of(folder: str, *, read: bool) -> list[str]:
    """Identifiers with such a lot in the folder."""
    names = (f"n{number}" for number in range(99))
    return [one for one in names if (lot_of(one, folder) < 0.5) is read]


def test_who_was_read_in_another_folder_under_the_same_name_is_not_unseen(tmp_path: Path) -> None:
    """A ward's copy under another name has other lots: its patients were read there."""
    cohort = draw_cohort(np.random.default_rng(4), 12, 1, SiteEffects(name="ward"))
    wards = [tmp_path / "ward", tmp_path / "ward-copy"]
    for one in wards:
        write_site(one, cohort, "wfdb")
    unseen = unread_of(*wards)
    read = [{name for name in cohort.patient_ids if lot_of(name, one.name) < 0.5} for one in wards]
    nowhere = set(cohort.patient_ids) - read[0] - read[1]
    assert len(unseen) == unseen.same_person == len(nowhere) > 0  # there twice, counted once
    assert unseen.read_elsewhere == len(read[0] ^ read[1]) > 0


def test_whose_recording_was_read_under_another_identifier_is_not_unseen(
    sensors: Cohort, tmp_path: Path
) -> None:
    """A second ward has the first one's files and numbers its patients anew; of whom neither was
    read, the first keeps the windows and the second is counted."""
    wards = {letter: tmp_path / name for letter, name in (("p", "ward"), ("q", "annex"))}
    for letter, ward in wards.items():
        ward_of(ward, sensors, [(f"{letter}{number}", number) for number in range(12)])
    unseen = unread_of(*wards.values())
    read = [
        {number for number in range(12) if lot_of(f"{letter}{number}", ward.name) < 0.5}
        for letter, ward in wards.items()
    ]
    nowhere = set(range(12)) - read[0] - read[1]
    assert len(unseen) == unseen.same_person == len(nowhere) > 0
    assert unseen.read_elsewhere == len(read[0] ^ read[1]) > 0
    assert {unseen.sites[k] for k in unseen.site} == {"annex"}  # the first, by the folder's name


def test_names_that_share_a_recording_are_one_unseen_patient(
    sensors: Cohort, tmp_path: Path
) -> None:
    """Also through a third: they were three patients in the mean and its interval. Of a recording
    of its own the second name had a window, which nobody sees."""
    a, b, c, other = names_of("ward", read=False)[:4]
    whose = [(a, 0), (b, 0), (b, 1), (c, 1), (other, 2), (other, 2)]
    unseen = unread_of(ward_of(tmp_path / "ward", sensors, whose))
    assert (len(unseen), unseen.same_person, unseen.read_elsewhere) == (2, 2, 0)
    (tmp_path / "plain").mkdir()
    plain = unread_of(ward_of(tmp_path / "plain" / "ward", sensors, [(a, 0), (other, 2)]))
    assert np.array_equal(unseen.signal[0], plain.signal[0])
    assert (len(plain), plain.same_person) == (2, 0)


def test_what_a_run_read_of_one_name_it_read_of_all_that_share_a_recording(
    sensors: Cohort, tmp_path: Path
) -> None:
    """The first shares a recording with the second, who shares another with one who was read, or
    with one whose identifier was."""
    a, b, stranger = names_of("ward", read=False)[:3]
    (known, *_), annex = names_of("ward", read=True), tmp_path / "annex"
    ward = ward_of(tmp_path / "ward", sensors, [(a, 0), (b, 0), (b, 1), (known, 1), (stranger, 2)])
    unseen = unread_of(ward)
    assert (len(unseen), unseen.read_elsewhere, unseen.same_person) == (1, 2, 0)
    both = [one for one in names_of("ward", read=False) if lot_of(one, "annex") < 0.5]
    named, other = both[0], next(one for one in names_of("ward", read=False) if one not in both)
    (tmp_path / "again").mkdir()
    ward = ward_of(tmp_path / "again" / "ward", sensors, [(named, 0), (other, 0)])
    unseen = unread_of(ward, ward_of(annex, sensors, [(named, 5)]))
    assert (len(unseen), unseen.read_elsewhere, unseen.same_person) == (0, 2, 0)
