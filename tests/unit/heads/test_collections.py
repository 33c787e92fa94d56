"""Open collections: by their exact name and by what lies in them, never by a name's beginning."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow as arrow
import pytest
from head_stand_ins import MODEL, asked, made_up
from pyarrow import parquet

from simulations.heads.collections import (
    KNOWN,
    NOT_STATED,
    about,
    collection_in,
    known_among,
    may_be_drawn,
)
from simulations.heads.hospitals import shared_out
from simulations.heads.private_manifest import collections_of
from simulations.heads.train import train


def folder(place: Path, *names: str) -> Path:
    """A folder with empty files of these names."""
    place.mkdir(parents=True)
    for name in names:
        (place / name).touch()
    return place


ALARMS = ("cinc15_v101l.dat", "cinc15_v101l.hea", "recordings.csv")


def test_collection_is_known_by_its_name_and_its_files(tmp_path: Path) -> None:
    """A table beside the recordings and hidden files make no difference."""
    found = collection_in(folder(tmp_path / "icu_alarms_e", *ALARMS, ".DS_Store"))
    assert found is KNOWN["icu_alarms_e"]
    assert may_be_drawn(tmp_path / "icu_alarms_e")


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("icu_alarms_ward7", ALARMS),
        ("icu_alarms_f", ALARMS),
        ("icu_alarms_e", ("bed1.dat", "bed1.hea", "recordings.csv")),
        ("icu_alarms_e", (*ALARMS, "bed1.hea")),
        ("icu_alarms_e", ("recordings.csv",)),
        ("icu_alarms_e", ()),
        ("icu_bidmc", ALARMS),
        ("quality_cinc2011", ("recordings.parquet",)),
    ],
)
def test_hospitals_own_folder_is_no_collection_however_it_is_called(
    name: str, files: tuple[str, ...], tmp_path: Path
) -> None:
    """One of its own recordings among the collection's is enough; so is no recording at all."""
    own = folder(tmp_path / name, *files)
    assert collection_in(own) is None
    assert not may_be_drawn(own)
    assert about((name,), known_among([own])) == (NOT_STATED, NOT_STATED)


def test_links_and_folders_inside_are_not_looked_through(tmp_path: Path) -> None:
    """A name that a link has is not the folder's own, nor are files that a link leads to."""
    ward = folder(tmp_path / "ward7", *ALARMS)
    (tmp_path / "icu_alarms_a").symlink_to(ward)
    inside = folder(tmp_path / "icu_alarms_b", *ALARMS)
    (inside / "more").mkdir()
    linked = folder(tmp_path / "icu_alarms_c", "recordings.csv")
    (linked / "cinc15_v101l.hea").symlink_to(ward / "cinc15_v101l.hea")
    assert not known_among([tmp_path / "icu_alarms_a", inside, linked])


def test_recordings_in_one_file_are_named_in_its_column(tmp_path: Path) -> None:
    """Not drawn where the licence is not open to that."""
    place = folder(tmp_path / "wearable_bami1")
    path = place / "recordings.parquet"
    parquet.write_table(arrow.table({"recording": ["bami1_1", "bami1_24"]}), path)
    assert collection_in(place) is KNOWN["wearable_bami1"]
    assert not may_be_drawn(place)
    parquet.write_table(arrow.table({"recording": ["bami1_1", "bed 4"]}), path)
    assert collection_in(place) is None
    parquet.write_table(arrow.table({"other": ["bami1_1"]}), path)
    assert collection_in(place) is None


def test_all_development_data_are_known(data_root: Path) -> None:
    """By the names of the folders' own README."""
    folders = [path for path in data_root.iterdir() if path.is_dir()]
    assert known_among(folders) == {path.name for path in folders} == set(KNOWN)


def test_licence_is_stated_for_a_known_folder_alone() -> None:
    """A head of two folders, of which one only has the collection's name."""
    names = ("icu_alarms_a", "icu_alarms_ward7")
    data = replace(made_up(folders=names), known=frozenset(names[:1]))
    first, second = train(data, MODEL, asked()).manifest.collections
    assert first.licence == "ODC-By 1.0; Clifford 2015"
    assert second.licence == second.what == NOT_STATED


def test_federation_states_the_collection_of_each_hospital() -> None:
    """Each carries the names of all folders; dealt out, they are one collection or not stated."""
    names = ("holter_mitdb", "icu_alarms_a")
    data = replace(made_up(patients=80, folders=names), known=frozenset(names))
    found = collections_of(shared_out(data, None, 0)[0], asked())
    assert [one.what for one in found] == [KNOWN[name].what for name in names]
    found = collections_of(shared_out(data, 3, 0)[0], asked())
    assert {one.what for one in found} == {NOT_STATED}
    parts = ("icu_alarms_a", "icu_alarms_b")
    alarms = replace(made_up(patients=80, folders=parts), known=frozenset(parts))
    found = collections_of(shared_out(alarms, 3, 0)[0], asked())
    assert {one.what for one in found} == {KNOWN["icu_alarms_a"].what}
    unknown = replace(alarms, known=frozenset(parts[:1]))
    one, other = collections_of(shared_out(unknown, None, 0)[0], asked())
    assert (one.what, other.what) == (KNOWN["icu_alarms_a"].what, NOT_STATED)
