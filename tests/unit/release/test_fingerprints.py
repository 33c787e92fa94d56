"""Recordings become fingerprints without identifiers, all or nothing, the same every time."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pyarrow.parquet as pq
import pytest

from client import fingerprints
from client.fingerprints import describe_source, fingerprint_file, modalities, usable
from client.pseudonyms import pseudonym_of
from client.records import ReadFault, Recording
from shared_model.errors import DataFault, OurMistake

KEY = bytes(range(32))
NAME = "Jane-Doe-1970-01-31"


@dataclass(frozen=True)
class Channel:
    samples: np.ndarray = field(repr=False)
    fs_hz: float = 125.0


def recording(patient: str, name: str, channels: dict[str, Channel]) -> Recording:
    return Recording(patient, name, channels, {}, (), {}, "0" * 64, shown="file-1")  # type: ignore[arg-type]


def pulse(seconds: float, seed: int, fs_hz: float = 125.0) -> np.ndarray:
    """A plain periodic signal with a little noise."""
    rng = np.random.default_rng(seed)
    time = np.arange(int(seconds * fs_hz)) / fs_hz
    beats = np.exp(-0.5 * (((time * 1.2) % 1.0 - 0.3) / 0.05) ** 2)
    return beats + 0.01 * rng.standard_normal(len(time))


def recordings():
    yield recording(
        NAME, f"{NAME}.dat", {"ecg": Channel(pulse(35, 1)), "ppg": Channel(pulse(35, 2))}
    )
    yield ReadFault("broken.dat", "truncated", "The file ends too early.")
    yield recording(NAME, "second", {"ecg": Channel(pulse(20, 3, 250.0), 250.0)})
    yield recording("other", "third", {"ppg": Channel(pulse(12, 4))})


def toy(signal: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """128 numbers that depend on every sample of a window; unit length."""
    mix = np.random.default_rng(0).standard_normal((2 * 1250, 128)).astype(np.float32)
    values = signal.reshape(len(signal), -1) @ mix + 1.0
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


def write(path, items=None, **options):
    return fingerprint_file(
        recordings() if items is None else items,
        path,
        fingerprint=options.pop("fingerprint", toy),
        pseudonym_key=KEY,
        metadata=describe_source(None, "0" * 64),
        **options,
    )


def test_each_usable_window_has_one_row_of_128_unit_numbers(tmp_path):
    summary = write(tmp_path / "out.parquet")
    table = pq.read_table(tmp_path / "out.parquet").to_pydict()
    assert summary.windows == len(table["patient"])
    assert summary.recordings == 3
    assert [fault.cause for fault in summary.faults] == ["truncated"]
    values = np.array(table["fingerprint"])
    assert values.shape == (summary.windows, 128)
    assert np.allclose(np.linalg.norm(values, axis=1), 1.0, atol=1e-5)
    assert set(table["patient"]) <= {pseudonym_of(KEY, NAME), pseudonym_of(KEY, "other")}
    assert set(table["recording"]) <= {"0001", "0002"}
    assert set(table["modality"]) <= {"both", "ecg", "ppg"}
    assert table["start_s"][:3] == [0.0, 10.0, 20.0]


def test_nothing_that_names_a_patient_or_a_file_is_in_the_output(tmp_path):
    write(tmp_path / "out.parquet", with_refused=True)
    data = (tmp_path / "out.parquet").read_bytes()
    columns = pq.read_table(tmp_path / "out.parquet").to_pydict()
    del columns["fingerprint"]  # numbers: their digits may spell a year
    text = repr(columns)
    metadata = repr(pq.read_metadata(tmp_path / "out.parquet").metadata)
    for word in (NAME, "Jane", "Doe", "1970", "other", "second", "third", "broken", ".dat"):
        assert word.encode() not in data
        assert word not in text
        assert word not in metadata


def test_the_same_recordings_give_the_same_bytes(tmp_path):
    write(tmp_path / "a.parquet")
    write(tmp_path / "b.parquet")
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_the_file_says_which_model_made_it(tmp_path):
    write(tmp_path / "out.parquet")
    told = pq.read_schema(tmp_path / "out.parquet").metadata
    assert told[b"fedprint.model_digest"] == b"0" * 64
    assert b"no release" in told[b"fedprint.source"]
    assert b"Not a medical device" in told[b"fedprint.limits"]


def test_one_sensor_gives_what_a_recording_of_it_alone_gives(tmp_path):
    """The model sees no sample of the other; windows that lack it are left out, and counted."""
    every = write(tmp_path / "all.parquet")
    summary = write(tmp_path / "ecg.parquet", sensors="ecg")
    alone = [
        recording(item.patient, item.name, {"ecg": item.channels["ecg"]})
        for item in recordings()
        if not isinstance(item, ReadFault) and "ecg" in item.channels
    ]
    write(tmp_path / "alone.parquet", alone)
    made, wanted = (pq.read_table(tmp_path / f"{name}.parquet") for name in ("ecg", "alone"))
    assert made.equals(wanted)
    assert set(made["modality"].to_pylist()) == {"ecg"}
    assert set(made["ppg_quality"].to_pylist()) == {"absent"}
    assert summary.windows == len(made) > 0
    assert summary.other_sensors == every.windows - summary.windows == every.modalities["ppg"] > 0
    assert summary.refused_windows == every.refused_windows


def test_both_sensors_leaves_out_windows_of_one(tmp_path):
    every = write(tmp_path / "all.parquet")
    summary = write(tmp_path / "both.parquet", sensors="both")
    table = pq.read_table(tmp_path / "both.parquet")
    assert set(table["modality"].to_pylist()) == {"both"}
    assert len(table) == summary.windows == every.modalities["both"] > 0
    listed = write(tmp_path / "listed.parquet", sensors="both", with_refused=True)
    table = pq.read_table(tmp_path / "listed.parquet")
    assert len(table) == every.windows + every.refused_windows
    assert len(table) - table["fingerprint"].null_count == listed.windows == summary.windows


def test_the_file_says_for_which_sensors_it_was_made_and_only_then(tmp_path):
    assert describe_source(None, "0" * 64, "ppg")[fingerprints.SENSORS_KEY] == "ppg"
    write(tmp_path / "out.parquet")
    assert (
        fingerprints.SENSORS_KEY.encode() not in pq.read_schema(tmp_path / "out.parquet").metadata
    )


def test_sensors_that_no_window_has_are_a_fault_and_write_nothing(tmp_path):
    only = recording("other", "third", {"ppg": Channel(pulse(12, 4))})
    with pytest.raises(DataFault, match="1 usable windows has these sensors: ecg"):
        write(tmp_path / "out.parquet", [only], sensors="ecg")
    assert list(tmp_path.iterdir()) == []


def test_refused_windows_are_listed_on_request_without_a_fingerprint(tmp_path):
    flat = recording("other", "flat", {"ecg": Channel(np.zeros(2500))})
    summary = write(tmp_path / "out.parquet", [flat, *recordings()], with_refused=True)
    table = pq.read_table(tmp_path / "out.parquet").to_pydict()
    assert summary.refused_windows >= 2
    assert len(table["patient"]) == summary.windows + summary.refused_windows
    for modality, value, reason in zip(
        table["modality"], table["fingerprint"], table["ecg_quality"], strict=True
    ):
        assert (value is None) == (modality == "none")
        assert reason in fingerprints.quality.REASONS
    write(tmp_path / "few.parquet", [flat, *recordings()])
    assert pq.read_metadata(tmp_path / "few.parquet").num_rows == summary.windows


def test_row_groups_bound_what_is_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(fingerprints, "WINDOWS_AT_ONCE", 2)
    asked: list[int] = []

    def counted(signal: np.ndarray, valid: np.ndarray) -> np.ndarray:
        asked.append(len(signal))
        return toy(signal, valid)

    summary = write(tmp_path / "small.parquet", fingerprint=counted)
    assert max(asked) <= 4
    assert sum(asked) == summary.windows
    monkeypatch.setattr(fingerprints, "WINDOWS_AT_ONCE", 2048)
    write(tmp_path / "large.parquet")
    small, large = (pq.read_table(tmp_path / f"{name}.parquet") for name in ("small", "large"))
    assert small.drop_columns("fingerprint").equals(large.drop_columns("fingerprint"))


def test_a_crash_on_the_way_leaves_the_earlier_file_and_nothing_else(tmp_path):
    write(tmp_path / "out.parquet")
    before = (tmp_path / "out.parquet").read_bytes()

    def broken(signal: np.ndarray, valid: np.ndarray) -> np.ndarray:
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        write(tmp_path / "out.parquet", fingerprint=broken)
    assert [path.name for path in tmp_path.iterdir()] == ["out.parquet"]
    assert (tmp_path / "out.parquet").read_bytes() == before


def test_no_readable_recording_is_a_fault_and_writes_nothing(tmp_path):
    with pytest.raises(DataFault) as caught:
        write(tmp_path / "out.parquet", [ReadFault("a", "empty", "0 bytes.")])
    assert caught.value.exit_code == 4
    assert list(tmp_path.iterdir()) == []


def test_a_sampling_rate_that_cannot_be_is_a_fault_of_that_recording_alone(tmp_path):
    odd = recording("other", "odd", {"ecg": Channel(pulse(20, 9), 3.0)})
    summary = write(tmp_path / "out.parquet", [odd, *recordings()])
    assert len(summary.faults) == 2
    assert summary.recordings == 3


def test_an_output_that_cannot_be_written_is_our_mistake(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OurMistake, match="cannot be written"):
        write(tmp_path / "file" / "out.parquet")


def test_an_output_that_is_a_folder_is_our_mistake_before_a_recording_is_read(tmp_path):
    """It could not take the file's name in the end."""

    def unread():
        raise AssertionError("it was read first")
        yield

    with pytest.raises(OurMistake, match="is a folder"):
        write(tmp_path, unread())
    assert list(tmp_path.iterdir()) == []


def test_a_window_without_a_whole_token_is_not_usable():
    from shared_model.windows import Windows

    windows = Windows(
        np.zeros((3, 2, 1250), np.float32),
        np.zeros((3, 2, 50), bool),
        np.arange(3.0),
        np.zeros((3, 2), np.uint8),
    )
    windows.valid[1, 0, 7] = True
    windows.valid[2, :, 7] = True
    assert usable(windows).tolist() == [False, True, True]
    assert modalities(windows) == ["none", "ecg", "both"]
