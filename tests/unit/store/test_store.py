"""The window store: round trip, idempotence, withdrawal, removal, locks."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import numpy as np
import pytest
from at_rest import opened, writing

from client.pseudonyms import keyed_digest, pseudonym_of
from shared_model.errors import OurMistake, Refused
from shared_model.windows import Prepared, prepare
from simulations.bench_ingest import synthetic_recording

pytestmark = pytest.mark.usefixtures("store_key")
KEY = bytes(range(32))
SOURCE = keyed_digest(KEY, "folder", "/a")


def recording(seed: int, windows: int = 3) -> Prepared:
    """Windows of a made-up recording; its last window has a flat PPG."""
    ecg, ppg = synthetic_recording(np.random.default_rng(seed), windows, 125.0, 125.0)
    ppg[-1250:] = 1.0
    return prepare(ecg, 125.0, ppg, 125.0)


def fill(path: Path, patients: int = 4, *, name: str = "set-1", source: str = SOURCE) -> None:
    """One part; patient p has p + 1 recordings of 3 windows."""
    with writing(path, KEY) as writer:
        part = writer.new_part(name, source)
        known = writer.recordings()
        for patient in range(patients):
            for number in range(patient + 1):
                key = keyed_digest(KEY, "recording", f"{name} {patient} {number}")
                if key not in known:
                    labels = {"age": 50.0 + patient, "visit": f"v{number}", "bad": float("nan")}
                    prepared = recording(10 * patient + number)
                    part.add(key, pseudonym_of(KEY, f"patient {patient}"), prepared, labels)
        part.commit()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    fill(tmp_path / "store")
    return tmp_path / "store"


def test_windows_come_back_as_they_went_in(path: Path) -> None:
    """Up to float16; start times and refusals exactly."""
    store = opened(path, full=True)
    assert store.patient_count == 4
    assert store.window_count == 3 * (1 + 2 + 3 + 4)
    index = store.pseudonyms.index(pseudonym_of(KEY, "patient 1"))
    windows = store.windows_of(index)
    expected = [recording(10).windows(), recording(11).windows()]
    np.testing.assert_allclose(
        windows.signal, np.concatenate([one.signal for one in expected]), atol=5e-3
    )
    np.testing.assert_array_equal(windows.valid, np.concatenate([one.valid for one in expected]))
    assert windows.start_s.tolist() == [0, 10, 20, 0, 10, 20]
    np.testing.assert_array_equal(
        windows.refusal, np.concatenate([one.refusal for one in expected])
    )


def test_the_catalogue_has_one_row_a_patient(path: Path) -> None:
    """Counts, refusals by reason, labels; non-finite labels are dropped."""
    rows = {row.pseudonym: row for row in opened(path).catalogue()}
    row = rows[pseudonym_of(KEY, "patient 2")]
    assert (row.recordings, row.windows, row.usable) == (3, 9, 9)
    assert row.refusals == {"ecg": {}, "ppg": {"flat": 3}}
    assert row.labels == {"age": [52.0], "visit": ["v0", "v1", "v2"]}
    assert row.data_sets == ("set-1",)


def test_segments_have_the_contract_shape_and_no_repeats(path: Path) -> None:
    """Without replacement when there are enough, padded with nothing valid otherwise."""
    store = opened(path)
    patients = np.array([3, 0, 3])
    signal, valid = store.segments(patients, 5, np.random.default_rng(0))
    assert signal.shape == (3, 5, 2, 1250)
    assert signal.dtype == np.float32
    assert valid.shape == (3, 5, 2, 50)
    for place, patient in enumerate(patients):
        have = min(5, len(store.windows_of(int(patient))))
        assert valid[place, :have].any(axis=(1, 2)).all()
        assert not valid[place, have:].any()
        assert not signal[place, have:].any()
        assert len({window.tobytes() for window in signal[place, :have]}) == have
    again, _ = store.segments(patients, 5, np.random.default_rng(0))
    np.testing.assert_array_equal(signal, again)
    with pytest.raises(OurMistake):
        store.segments(patients, 0, np.random.default_rng(0))
    empty, _ = store.segments(np.array([], dtype=int), 2, np.random.default_rng(0))
    assert empty.shape == (0, 2, 2, 1250)


def test_every_window_of_a_patient_can_be_drawn(path: Path) -> None:
    """The choice is over all of them, across parts."""
    fill(path, name="set-2", source=keyed_digest(KEY, "folder", "/b"))
    store = opened(path)
    index = store.pseudonyms.index(pseudonym_of(KEY, "patient 1"))
    rng = np.random.default_rng(1)
    seen = {store.segments(np.array([index]), 1, rng)[0].tobytes() for _ in range(200)}
    assert len(store.windows_of(index)) == 12
    assert len(seen) == 6  # the second set repeats the first's signals


def test_adding_again_changes_nothing(path: Path) -> None:
    """Known recordings are skipped; an add without news leaves the manifest as it was."""
    before = (path / "manifest.json").read_bytes()
    fill(path)
    assert (path / "manifest.json").read_bytes() == before
    version = opened(path).version
    fill(path, patients=5)
    store = opened(path)
    assert store.patient_count == 5
    assert store.version != version
    assert [(one.name, one.version) for one in store.data_sets] == [("set-1", 2)]


def test_a_withdrawn_patient_is_erased_and_stays_out(path: Path) -> None:
    """Also when the same data are added again, and the others' windows do not move."""
    gone, kept = pseudonym_of(KEY, "patient 3"), pseudonym_of(KEY, "patient 2")
    before = opened(path)
    old = before.windows_of(before.pseudonyms.index(kept)).signal
    with writing(path, KEY) as writer:
        assert writer.withdraw(gone) == 4
    store = opened(path, full=True)
    assert gone not in store.pseudonyms
    assert gone not in {row.pseudonym for row in store.catalogue()}
    np.testing.assert_array_equal(store.windows_of(store.pseudonyms.index(kept)).signal, old)
    stored = sum(file.stat().st_size for file in path.glob("parts/*/signal.bin"))
    tag = 0 if store.key_source is None else 16
    assert stored == store.window_count * (2 * 1250 * 2 + tag)
    fill(path)  # this writer does not look at withdrawals; the reader still does
    assert gone not in opened(path).pseudonyms
    assert opened(path).withdrawn_count == 1
    with writing(path, KEY) as writer:
        writer.remove(None)
    assert opened(path).withdrawn_count == 1


def test_someone_who_is_not_in_the_store_can_withdraw(path: Path) -> None:
    """It holds for later adds."""
    with writing(path, KEY) as writer:
        assert writer.withdraw(pseudonym_of(KEY, "patient 7")) == 0
    fill(path, patients=8)
    assert opened(path).patient_count == 7


def test_removing_a_data_set_leaves_the_others(path: Path) -> None:
    """By name; everything with None; an unknown name is a mistake."""
    fill(path, 2, name="set-2", source=keyed_digest(KEY, "folder", "/b"))
    with writing(path, KEY) as writer:
        with pytest.raises(OurMistake, match="no data set"):
            writer.remove("set-9")
        assert writer.remove("set-1") == 10
    store = opened(path, full=True)
    assert [one.name for one in store.data_sets] == ["set-2"]
    assert (store.patient_count, store.window_count) == (2, 9)
    with writing(path, KEY) as writer:
        assert writer.remove(None) == 3
    assert opened(path).patient_count == 0
    assert not list((path / "parts").iterdir())


def test_a_reader_keeps_its_view_while_the_store_changes(path: Path) -> None:
    """Its files were mapped; removal of their names does not take them away."""
    store = opened(path)
    before = store.windows_of(0).signal
    with writing(path, KEY) as writer:
        writer.remove(None)
    np.testing.assert_array_equal(store.windows_of(0).signal, before)


def test_a_second_writer_is_refused_and_readers_are_not(path: Path) -> None:
    """One lock, released with the process or the context."""
    with writing(path, KEY):
        with pytest.raises(Refused) as caught, writing(path, KEY):
            pass
        assert caught.value.reason == "locked"
        assert opened(path).patient_count == 4
    with writing(path, KEY):
        pass


def test_a_lock_of_another_process_counts(path: Path) -> None:
    """flock on store/lock."""
    descriptor = os.open(path / "lock", os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(Refused), writing(path, KEY):
        pass
    os.close(descriptor)


def test_another_pseudonym_key_is_refused(path: Path) -> None:
    """With it every known patient would look new."""
    with pytest.raises(Refused) as caught, writing(path, bytes(32)):
        pass
    assert caught.value.reason == "key"


def test_a_data_set_name_belongs_to_one_folder(path: Path) -> None:
    """Else removal would take the wrong recordings."""
    with writing(path, KEY) as writer, pytest.raises(OurMistake, match="another folder"):
        writer.new_part("set-1", keyed_digest(KEY, "folder", "/b"))


def test_an_error_in_the_middle_of_an_add_leaves_nothing(path: Path) -> None:
    """No part, no temporary folder, same manifest."""
    before = sorted(str(file) for file in path.rglob("*"))
    with writing(path, KEY) as writer:
        part = writer.new_part("set-1", SOURCE)
        part.add("0" * 32, "1" * 32, recording(99), {})
        part.abandon()
    assert sorted(str(file) for file in path.rglob("*")) == before


def test_files_are_for_the_owner_only(path: Path) -> None:
    """Windows are health data."""
    for file in [path, *path.rglob("*")]:
        assert file.stat().st_mode & 0o077 == 0, file


def test_no_patient_identifier_is_in_any_file(path: Path) -> None:
    """Only keyed hashes."""
    for file in path.rglob("*"):
        if file.is_file():
            assert b"patient 1" not in file.read_bytes(), file


def test_a_patient_without_a_usable_window_is_listed_but_not_trained_on(tmp_path: Path) -> None:
    """Zero windows would only waste privacy budget."""
    with writing(tmp_path / "store", KEY) as writer:
        part = writer.new_part("set-1", SOURCE)
        part.add("0" * 32, "1" * 32, prepare(np.zeros(5000), 125.0, None, 0.0), {})
        part.commit()
    store = opened(tmp_path / "store")
    assert store.patient_count == 0
    assert [(row.windows, row.usable) for row in store.catalogue()] == [(4, 0)]
    assert [one.refusal for one in store.refused_examples()] == [(4, 1)] * 4


def test_there_is_no_store_before_the_first_add(tmp_path: Path) -> None:
    """And the message says what to do."""
    with pytest.raises(OurMistake) as caught:
        opened(tmp_path / "store")
    assert "data add" in caught.value.do
