"""A folder whose channels no guess knows says in a file of its own how the lab reads it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from client.mapping import Mapping
from client.records import MAPPING_FILE, ReadFault, count_recordings, guess_mapping, read_folder
from shared_model.errors import OurMistake
from simulations.cli import app
from simulations.cohort import SiteEffects, draw_cohort, write_site
from simulations.cross_modal_windows import read_pairs
from simulations.held_out import held_out_windows
from simulations.lab.patient_pool import PatientPool
from simulations.lab.recorded import listing_digest, read_into
from simulations.lots import Lots
from simulations.probes.site_tasks import site_tasks, sites_words
from simulations.site_mapping import HOW_READ, LARGEST, mapping_of, own_mappings

OURS = """
one_file_is_one_patient = true
time_column = "t"
time_unit = "ms"
labels = ["alter"]
[ecg]
names = ["kanal7"]
unit = "uV"
[ppg]
names = ["kanal8"]
"""


@pytest.fixture
def ward(tmp_path: Path) -> Path:
    """Six pretend patients, a CSV file each, with columns of this ward's own."""
    folder = tmp_path / "station-9"
    folder.mkdir()
    effects = SiteEffects(name="ward", fs_ecg_hz=125.0, fs_ppg_hz=125.0)
    cohort = draw_cohort(np.random.default_rng(3), 6, 1, effects)
    for number, (ecg, ppg) in enumerate(zip(cohort.ecg, cohort.ppg, strict=True)):
        rows = np.column_stack([8.0 * np.arange(len(ecg)), 1000.0 * ecg, ppg])
        np.savetxt(
            folder / f"p{number}.csv", rows, "%.4f", ",", header="t,kanal7,kanal8", comments=""
        )
    return folder


def test_the_folders_own_mapping_is_taken_where_it_lies_and_is_no_recording(ward: Path) -> None:
    faults = [item for item in read_folder(ward, mapping_of(ward)) if isinstance(item, ReadFault)]
    assert len(faults) == 6
    before = listing_digest((str(ward),))
    (ward / MAPPING_FILE).write_text(OURS, encoding="utf-8")
    found = list(read_folder(ward, mapping_of(ward)))
    assert len(found) == count_recordings(ward) == 6
    assert not any(isinstance(item, ReadFault) for item in found)
    assert listing_digest((str(ward),)) != before  # a cached federation is made anew


def test_a_node_does_not_take_a_folder_at_its_word(ward: Path) -> None:
    """A mapping says who is one patient; there somebody has to agree to it."""
    guessed = guess_mapping(ward)
    (ward / MAPPING_FILE).write_text(OURS, encoding="utf-8")
    assert guess_mapping(ward) == guessed != mapping_of(ward)
    inner = ward / "inner"
    inner.mkdir()
    (inner / MAPPING_FILE).write_text("hello", encoding="utf-8")  # of another folder: any file
    assert mapping_of(ward) != guessed


def test_every_reader_of_the_lab_goes_by_it_and_says_so(ward: Path, tmp_path: Path) -> None:
    (ward / MAPPING_FILE).write_text(OURS, encoding="utf-8")
    assert list(read_pairs([ward], 5).unreadable.values()) == [0]
    assert held_out_windows(ward, 12)[2] == 6
    with PatientPool(tmp_path / "pool") as pool:
        read = read_into(pool, ward, "site", Lots(), lambda: None)
    assert read.patients == 6
    assert "read by the folder's own mapping" in read.words
    assert site_tasks([ward], only=["age"])[2].recordings == 6
    lines = sites_words({"sites": site_tasks([ward], only=["age"])[2].words([ward])})
    said = f"station-9: read by its own {MAPPING_FILE}, {own_mappings([ward])['station-9'][:12]}"
    assert said in lines


def test_that_patients_are_simulated_is_not_left_out(tmp_path: Path) -> None:
    """A mapping that did not name the column took the warning away."""
    cohort = draw_cohort(np.random.default_rng(3), 3, 1, SiteEffects(name="ward"))
    write_site(tmp_path / "ward", cohort, "wfdb")
    own = guess_mapping(tmp_path / "ward").model_copy(update={"labels": ("sex",)})
    (tmp_path / "ward" / MAPPING_FILE).write_text(own.to_toml(), encoding="utf-8")
    assert site_tasks([tmp_path / "ward"], only=["age"])[2].simulated == 3


def test_a_link_of_that_name_is_no_mapping_to_a_node(ward: Path, tmp_path: Path) -> None:
    """It was passed over in silence."""
    (ward / MAPPING_FILE).symlink_to(tmp_path)
    faults = [one for one in read_folder(ward, Mapping()) if isinstance(one, ReadFault)]
    assert "outside-folder" in {one.cause for one in faults}


def test_what_to_do_is_said_where_nothing_could_be_read(ward: Path) -> None:
    """A guess that fails was the end of the way."""
    done = CliRunner().invoke(app, ["probe", "warm-start:tiny", "--sites", str(ward)])
    assert isinstance(done.exception, OurMistake)
    assert HOW_READ in str(done.exception.do)
    assert "0 recordings were read" in done.exception.message
    assert "no recording has" not in str(done.exception.do)  # nobody knows which labels there are
    assert "data-formats.md" not in str(done.exception.do)


def test_an_empty_folder_is_told_which_formats_are_read(tmp_path: Path) -> None:
    """The advice was "0 recordings were read"."""
    done = CliRunner().invoke(app, ["probe", "warm-start:tiny", "--sites", str(tmp_path)])
    assert isinstance(done.exception, OurMistake)
    assert done.exception.message.endswith(": 0 recordings were read.")
    assert done.exception.do == "name recordings; formats that are read: docs/data-formats.md"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[ecg", "is no TOML"),
        (b"chanels = 3", "key 'chanels' is wrong"),
        (b"\xff\xfe", "cannot be read"),
        (b"#" * (LARGEST + 1), "cannot be read"),
        (b".".join([b"a"] * 60) + b" = 1", "dots a line"),
    ],
)
def test_a_wrong_mapping_is_refused_and_named(ward: Path, content: bytes, said: str) -> None:
    """Never passed over for a guess."""
    (ward / MAPPING_FILE).write_bytes(content)
    with pytest.raises(OurMistake, match=said) as caught:
        mapping_of(ward)
    assert MAPPING_FILE in str(caught.value)
    assert caught.value.do


def test_a_link_or_a_pipe_is_no_mapping(ward: Path, tmp_path: Path) -> None:
    path = ward / MAPPING_FILE
    (tmp_path / "elsewhere.toml").write_text(OURS, encoding="utf-8")
    path.symlink_to(tmp_path / "elsewhere.toml")
    with pytest.raises(OurMistake, match="cannot be read"):
        mapping_of(ward)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(OurMistake, match="cannot be read"):
        mapping_of(ward)
