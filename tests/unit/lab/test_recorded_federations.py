"""Federations of recordings: read as a hospital reads, patients never split, nobody named."""

from __future__ import annotations

import csv
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from client.ingest import prepare_recording
from client.mapping import ChannelMapping
from client.records import MAPPING_FILE, Recording, guess_mapping, read_folder
from shared_model import mae
from shared_model.config import LocalTraining
from shared_model.errors import OurMistake
from shared_model.losses import unit_loss
from shared_model.patches import draw_patch_masks, fold
from simulations.cohort import SiteEffects, draw_cohort, write_site
from simulations.lab import conduct, sources
from simulations.lab.data import FederationData
from simulations.lab.experiment import Experiment
from simulations.lab.run_folder import RunFolder
from simulations.probes.unseen import Seen
from simulations.site_mapping import own_mappings
from simulations.unseen_losses import Unseen, losses, unseen_by

WARD = SiteEffects(name="ward", missing=0.3, rhythms={"sinus": 0.5, "af": 0.5})


def experiment(folders: list[Path], **federation: Any) -> Experiment:
    return Experiment.from_dict(
        {
            "name": "read",
            "privacy": {"mode": "none"},
            "federation": {
                "source": "folders",
                "folders": [str(folder) for folder in folders],
                **federation,
            },
        }
    )


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two hospitals of 6 and 4 pretend patients with two recordings each, as files."""
    root = tmp_path_factory.mktemp("recordings")
    made = []
    for name, patients, seed in (("North_Ward", 6, 1), ("clinic", 4, 2)):
        cohort = draw_cohort(
            np.random.default_rng(seed), patients, 4, WARD, recordings_per_patient=2
        )
        cohort.ecg[0, :1250], cohort.ppg[0, :1250] = 0.0, 0.0  # a window that the gate refuses
        write_site(root / name, cohort, "parquet")
        made.append(root / name)
    return made


@pytest.fixture(scope="module")
def natural(folders: list[Path], tmp_path_factory: pytest.TempPathFactory) -> FederationData:
    return sources.prepare(experiment(folders), tmp_path_factory.mktemp("natural"))


def by_patient(folder: Path) -> Iterator[tuple[list[bytes], dict[str, Any]]]:
    """Usable windows, as float16 bytes, and labels of each patient, by the hospitals' reader."""
    found: dict[str, tuple[list[bytes], dict[str, Any]]] = {}
    for item in read_folder(folder, guess_mapping(folder)):
        assert isinstance(item, Recording)
        windows = prepare_recording(item).windows()
        mine = found.setdefault(item.patient, ([], dict(item.labels)))
        mine[0].extend(one.astype("<f2").tobytes() for one in windows.signal[windows.usable])
    yield from found.values()


def patients_of(data: FederationData, site: int) -> list[list[bytes]]:
    rows = np.flatnonzero(data.table["site"] == site)
    return [
        [
            data.signal[window].tobytes()
            for window in range(
                data.table["first"][row], data.table["first"][row] + data.table["windows"][row]
            )
        ]
        for row in rows
    ]


def test_a_folder_is_a_site_with_the_windows_a_hospital_would_have(
    natural: FederationData, folders: list[Path]
) -> None:
    """Byte by byte, patient by patient, with what its table says of them."""
    assert [site.name for site in natural.sites] == ["clinic", "north-ward"]
    for site, folder in ((0, folders[1]), (1, folders[0])):
        wanted = list(by_patient(folder))
        assert [len(windows) for windows, _ in wanted] == [3] + [4] * (len(wanted) - 1)
        assert patients_of(natural, site) == [windows for windows, _ in wanted]
        rows = natural.table["site"] == site
        assert natural.table["rhythm"][rows].tolist() == [labels["rhythm"] for _, labels in wanted]
        assert natural.table["age"][rows].tolist() == [labels["age"] for _, labels in wanted]


def test_signals_of_people_are_their_owners_alone(folders: list[Path], tmp_path: Path) -> None:
    """Windows and labels of every patient were world-readable; a cache that was so is mended."""
    made = experiment(folders)
    whole = tmp_path / "federation"
    whole.mkdir(mode=0o755)
    for _ in range(2):
        data = sources.prepare(made, whole)
        assert stat.S_IMODE(data.folder.stat().st_mode) == 0o700
        data.folder.chmod(0o755)
    shared = sources.prepare_shared(made, tmp_path / "cache")
    assert stat.S_IMODE(shared.folder.stat().st_mode) == 0o700


def test_a_folder_with_other_things_is_not_closed(folders: list[Path], tmp_path: Path) -> None:
    """`-o .` took everybody's rights to a group's share away."""
    (tmp_path / "share").mkdir(mode=0o755)
    (tmp_path / "share" / "notes.txt").write_text("ours", encoding="utf-8")
    with pytest.raises(OurMistake, match="holds other things"):
        sources.prepare(experiment(folders), tmp_path / "share")
    assert stat.S_IMODE((tmp_path / "share").stat().st_mode) == 0o755


def test_a_run_notes_the_mapping_that_its_patients_were_read_by(tmp_path: Path) -> None:
    """Also one that came after a first try had found nobody."""
    ward, run = tmp_path / "ward", tmp_path / "run"
    write_site(ward, draw_cohort(np.random.default_rng(1), 8, 2, WARD), "parquet")
    mapping = guess_mapping(ward)
    nobody = mapping.model_copy(update={"fs_column": "none", "ecg": ChannelMapping(names=("x",)),
                                        "ppg": ChannelMapping(names=("y",))})  # fmt: skip
    (ward / MAPPING_FILE).write_text(nobody.to_toml(), encoding="utf-8")
    asked = experiment([ward], held_out=0.25).with_values({"rounds": 1, "privacy.sample_rate": 0.5})
    with pytest.raises(OurMistake, match="no patient"):
        conduct.run(asked, run)
    (ward / MAPPING_FILE).write_text(mapping.to_toml(), encoding="utf-8")
    folder = RunFolder(run)
    with folder.held(resume=True):
        folder.begin(asked)
        data = sources.prepare(asked, run / "federation")
        folder.settle_data(data.digest, data.mappings)
    assert Seen.by(run).mappings == own_mappings([ward]) != {}


def test_only_patients_of_the_lots_are_read_and_two_halves_are_all(
    natural: FederationData, folders: list[Path], tmp_path: Path
) -> None:
    """A patient is in one half with all recordings; what is left out is said in numbers."""
    whole = {one.tobytes() for one in natural.signal}
    halves = []
    for name, lots in (("low", [0.0, 0.5]), ("high", [0.5, 1.0])):
        made = experiment(folders, lots=lots, held_out=0.0, partition={"kind": "iid"}, hospitals=1)
        data = sources.prepare(made, tmp_path / name)
        halves.append({one.tobytes() for one in data.signal})
    assert halves[0] | halves[1] == whole
    assert not halves[0] & halves[1]
    assert min(map(len, halves)) > 0


def test_the_unseen_are_those_of_the_other_lots_and_each_weighs_alike(
    folders: list[Path], natural: FederationData, tmp_path: Path
) -> None:
    """First and last window of each patient of the other half, none of whom a run of this half
    has; one of many windows is one patient."""
    ends = {
        (windows[0], windows[-1]): natural.sites[site].name
        for site in (0, 1) for windows in patients_of(natural, site)
    }  # fmt: skip
    found, left_out = [], 0
    for number, (lots, other) in enumerate((([0.0, 0.5], (0.5, 1.0)), ([0.5, 1.0], (0.0, 0.5)))):
        run = experiment(folders, lots=lots, held_out=0.0, partition={"kind": "iid"}, hospitals=1)
        read = {one.tobytes() for one in sources.prepare(run, tmp_path / str(number)).signal}
        unseen = unseen_by([run, run])
        assert unseen.lots == other
        left_out += unseen.read_elsewhere  # both folders count their patients alike
        assert len(unseen)
        for signal, site in zip(unseen.signal, unseen.site, strict=True):
            pair = (signal[0].tobytes(), signal[1].tobytes())
            assert not set(pair) & read
            assert ends[pair] == unseen.sites[site]
            found.append(pair)
    assert set(found) < set(ends)
    assert len(found) + left_out == 10


def test_losses_of_the_unseen_are_the_unit_loss_and_an_empty_window_adds_nothing() -> None:
    """The same patients, the same masks; who has nothing has no loss."""
    config, rng = mae.PRESETS["tiny"], np.random.default_rng(3)
    weights = mae.weights_of(mae.build(config, 1))
    signal = rng.standard_normal((3, 2, 2, 1250)).astype(np.float16)
    valid = np.ones((3, 2, 2, 50), dtype=bool)
    valid[1, 1], valid[2] = False, False
    place = np.zeros(3, dtype=np.int64)
    lost = losses(config, weights, Unseen(signal, valid, place, ("a",), (0.5, 1.0)))
    assert np.isfinite(lost).tolist() == [True, True, False]
    other = signal.copy()
    other[1, 1] = 9.0  # valid nowhere
    assert losses(config, weights, Unseen(other, valid, place, ("a",), (0.5, 1.0)))[1] == lost[1]
    model = mae.build(config, 0)
    mae.load_weights(model, weights)
    hidden = torch.from_numpy(draw_patch_masks(np.random.default_rng([0, 81]), (3, 1, 2)))
    patches = fold(torch.from_numpy(signal.astype(np.float32)))
    with torch.inference_mode():
        alone = unit_loss(model, patches[0], torch.from_numpy(valid[0]), hidden[0], LocalTraining())
    assert lost[0] == pytest.approx(float(alone), rel=1e-5)


def test_runs_that_leave_nobody_unread_or_read_different_lots_are_refused(
    folders: list[Path],
) -> None:
    for lots in ([0.0, 1.0], [0.2, 0.6]):
        with pytest.raises(OurMistake, match="leave no patients"):
            unseen_by([experiment(folders, lots=lots)])
    with pytest.raises(OurMistake, match="same patients"):
        unseen_by([experiment(folders, lots=[0.0, one]) for one in (0.4, 0.5)])
    pretend = Experiment.from_dict({"name": "x", "privacy": {"mode": "none"}})
    with pytest.raises(OurMistake, match="leave no patients"):
        unseen_by([pretend])


def test_lots_that_hold_nobody_or_choose_among_pretend_patients_are_refused(
    folders: list[Path],
) -> None:
    """Before anything is read."""
    with pytest.raises(OurMistake, match="first is less than end"):
        experiment(folders, lots=[0.5, 0.5])
    with pytest.raises(OurMistake, match="patients of folders"):
        Experiment.from_dict(
            {"name": "x", "privacy": {"mode": "none"}, "federation": {"lots": [0.0, 0.5]}}
        )


def test_nobody_is_named_in_the_federation(natural: FederationData) -> None:
    """Neither identifiers of patients, nor names of files, nor paths."""
    for path in natural.folder.iterdir():
        content = path.read_bytes()
        assert b"sim-0001" not in content
        assert str(natural.folder.parent).encode() not in content
    assert natural.about["source"]["left_out"] == {}
    assert natural.sites[0].about == "recordings 8, patients 4"


def test_a_pool_of_folders_never_splits_a_patient(
    natural: FederationData, folders: list[Path], tmp_path: Path
) -> None:
    """Shared out again, each patient has all windows, at one site."""
    made = experiment(folders, hospitals=3, partition={"kind": "iid", "smallest": 3})
    data = sources.prepare(made, tmp_path)
    before = sorted(one for site in (0, 1) for one in patients_of(natural, site))
    after = sorted(one for site in (0, 1, 2) for one in patients_of(data, site))
    assert after == before


def test_a_folder_that_changed_is_read_again(folders: list[Path], tmp_path: Path) -> None:
    """By names, sizes and times of its files."""
    import os
    import shutil

    mine = Path(shutil.copytree(folders[0], tmp_path / "copy"))
    before = sources.key_of(experiment([mine]))
    assert sources.key_of(experiment([mine])) == before
    os.utime(next(mine.iterdir()), ns=(1, 1))
    assert sources.key_of(experiment([mine])) != before


def test_a_site_that_cannot_train_is_left_out_in_words(folders: list[Path], tmp_path: Path) -> None:
    """A folder without recordings, or with one patient; with no site at all it is refused."""
    small = draw_cohort(np.random.default_rng(3), 1, 4, WARD)
    write_site(tmp_path / "small", small, "parquet")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("nothing here")
    made = experiment([*folders, tmp_path / "small", tmp_path / "empty"])
    data = sources.prepare(made, tmp_path / "out")
    assert [site.name for site in data.sites] == ["clinic", "north-ward"]
    left_out = data.about["source"]["left_out"]
    assert "needed 3" in left_out["small"]
    assert "not-a-recording 1" in left_out["empty"]
    with pytest.raises(OurMistake, match="no patient with a usable window"):
        sources.prepare(experiment([tmp_path / "empty"]), tmp_path / "none")
    with pytest.raises(OurMistake, match="No site has the 3 patients"):
        sources.prepare(experiment([tmp_path / "small"]), tmp_path / "none")
    assert not (tmp_path / "none" / "federation.json").exists()


def test_folders_that_are_absent_or_called_alike_are_refused(
    folders: list[Path], tmp_path: Path
) -> None:
    """Before anything is read."""
    with pytest.raises(OurMistake, match="not there"):
        sources.prepare(experiment([tmp_path / "absent"]), tmp_path / "out")
    twin = tmp_path / "north ward"
    twin.mkdir()
    with pytest.raises(OurMistake, match="north-ward"):
        sources.prepare(experiment([folders[0], twin]), tmp_path / "out")


def test_labels_that_only_some_sites_have_are_unknown_elsewhere(tmp_path: Path) -> None:
    """NaN for numbers, "" for words; a label that is both becomes words."""
    from simulations.lab.drawn import Patients
    from simulations.lab.patient_pool import PatientPool

    def one(labels: dict[str, Any]) -> Patients:
        signal = np.zeros((1, 2, 1250), np.float16)
        made = {name: np.array([value]) for name, value in labels.items()}
        return Patients(signal, np.ones((1, 2, 50), bool), np.array([1]), made)

    with PatientPool(tmp_path / "pool") as pool:
        pool.add(one({"age": 50.0, "stage": "II", "code": 3.0}), "a")
        pool.add(one({"stage": "I", "code": "x"}), "b")
        pool.add(one({"age": 60.0}), "c")
        labels = pool.labels()
        assert pool.natural == ["a", "b", "c"]
    assert labels["age"].tolist()[::2] == [50.0, 60.0]
    assert np.isnan(labels["age"][1])
    assert labels["stage"].tolist() == ["II", "I", ""]
    assert labels["code"].tolist() == ["3", "x", ""]
    assert not (tmp_path / "pool").exists()


def test_one_word_among_ages_makes_no_classes_of_them(tmp_path: Path) -> None:
    """ "ca. 80" in one cell, of one site: the ages of both were words, each a class of its own."""
    for name, seed in (("east", 1), ("west", 2)):
        cohort = draw_cohort(np.random.default_rng(seed), 4, 1, SiteEffects(name="ward"))
        write_site(tmp_path / name, cohort, "wfdb")
    (table,) = (tmp_path / "east").glob("*.csv")
    rows = list(csv.DictReader(table.read_text(encoding="utf-8").splitlines()))
    ages = [float(row["age"]) for row in rows]
    rows[1]["age"], rows[1]["sex"] = "ca. 80", "not said"
    rows[2]["age"], ages[2] = "63,5", 63.5
    with table.open("w", encoding="utf-8", newline="") as file:
        out = csv.DictWriter(file, list(rows[0]))
        out.writeheader()
        out.writerows(rows)
    data = sources.prepare(experiment([tmp_path / "east", tmp_path / "west"]), tmp_path / "out")
    east = data.table["site"] == 0
    assert data.table["age"].dtype.kind == "f"
    np.testing.assert_allclose(data.table["age"][east], [ages[0], np.nan, *ages[2:]])
    assert np.isfinite(data.table["age"][~east]).all()
    assert "not said" in data.table["sex"]  # another label keeps its words
    said = "recordings with words in place of a number, left out of it: age 1"
    assert data.sites[0].about == f"recordings 4, patients 4; {said}"
    assert data.sites[1].about == "recordings 4, patients 4"


def test_real_recordings_become_a_federation(data_root: Path, tmp_path: Path) -> None:
    """Three small collections: PPG alone, ECG and PPG, a phone's camera."""
    names = ["phone_welltory", "wearable_troika", "wearable_bami1"]
    data = sources.prepare(experiment([data_root / name for name in names]), tmp_path)
    assert [site.name for site in data.sites] == [
        "phone-welltory", "wearable-bami1", "wearable-troika",
    ]  # fmt: skip
    sensors = [data.valid[data.patients(site).first].any(axis=(0, 2)) for site in range(3)]
    assert [one.tolist() for one in sensors] == [[False, True], [False, True], [True, True]]
    assert "hr" in data.labels
    for site in range(3):
        assert data.patients(site).patient_count >= 5
