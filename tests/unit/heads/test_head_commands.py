"""`fedprint-lab head`: what people type, on files that are there, and on those that are not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click.testing
import numpy as np
import pyarrow as arrow
import pytest
from head_command_stand_ins import app, run, write_fingerprints
from head_stand_ins import OTHER_DIGEST, made_head, made_up
from pyarrow import parquet
from typer.testing import CliRunner

from client.fingerprints import MODEL_DIGEST_KEY, SENSORS, SENSORS_KEY
from shared_model import mae, signing, weights
from shared_model.commands import command_of
from shared_model.errors import DataFault, OurMistake, Refused
from shared_model.heads import files
from shared_model.heads.arrays import Head
from simulations import cli_head
from simulations.heads.apply import pooled
from simulations.heads.fingerprint_file import from_parquet
from simulations.heads.makers import rhythm_at
from simulations.heads.tasks import TASKS, Source
from simulations.probes.task import Builder, Task, recordings


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A head on the disk."""
    path = tmp_path_factory.mktemp("heads") / "head"
    files.write(path, made_head(open_data="made up"))
    return path


def test_list_names_all_tasks() -> None:
    """With the folders that are looked for."""
    assert {row["task"] for row in run("list")} == set(TASKS) >= {
        "hypertension", "af", "rhythm", "vt", "age", "sex", "heart-rate", "quality", "identity",
    }  # fmt: skip


def test_show_gives_the_manifest(folder: Path) -> None:
    """As JSON; as a card it is Markdown at the terminal."""
    assert run("show", str(folder))["task"] == "sex"
    done = CliRunner().invoke(app, ["head", "show", str(folder)], catch_exceptions=False)
    assert "NOT PRIVATE" in done.output


def test_head_answers_for_a_file_of_fingerprints(folder: Path, tmp_path: Path) -> None:
    """A row a window; those of other sensors, and those without a fingerprint, are abstained
    from."""
    head = files.read(folder)
    path = write_fingerprints(
        tmp_path / "f.parquet", head, columns={"modality": ["ppg"] + ["ecg"] * 17}
    )
    found = run("apply", str(folder), str(path))
    assert len(found["rows"]) == 18
    assert found["rows"][0]["answer"] == "abstain"
    assert found["signature"].startswith("NOT CHECKED")
    assert {row["answer"] for row in found["rows"]} <= {"no", "yes", "abstain"}
    assert found["answers"] + found["abstained"] == 18
    with pytest.raises(OurMistake, match="--signer verifies nothing"):
        run("apply", str(folder), str(path), "--signer", "ab" * 32)


def test_fingerprints_of_another_model_or_of_none_are_refused(folder: Path, tmp_path: Path) -> None:
    """The file says of which model they are; a file that does not say it is none."""
    head = files.read(folder)
    for number, digest in enumerate((OTHER_DIGEST, "", "x" * 64)):
        path = write_fingerprints(
            tmp_path / f"{number}.parquet", head, **{MODEL_DIGEST_KEY: digest}
        )
        with pytest.raises(Refused):
            from_parquet(head, path)


def test_columns_of_other_kinds_or_none_are_refused(folder: Path, tmp_path: Path) -> None:
    """Each is a refusal in words."""
    head = files.read(folder)
    for number, columns in enumerate(
        ({"start_s": ["noon"] * 18}, {"start_s": [None, {"a": 1}] * 9}, {"start_s": [[1.0]] * 18})
    ):
        path = write_fingerprints(tmp_path / f"{number}.parquet", head, columns=columns)
        with pytest.raises(Refused):
            from_parquet(head, path)
    whole = parquet.read_table(write_fingerprints(tmp_path / "whole.parquet", head))
    for name in ("patient", "recording", "modality", "start_s", "fingerprint"):
        parquet.write_table(whole.drop_columns([name]), tmp_path / "less.parquet")
        with pytest.raises(Refused):
            from_parquet(head, tmp_path / "less.parquet")


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("patient", "Jane Doe"),
        ("patient", "\x1b[2J" + "0" * 28),
        ("patient", "0" * 33),
        ("patient", None),
        ("recording", "../0001"),
        ("recording", "1"),
        ("modality", "eeg"),
        ("modality", None),
        ("start_s", float("nan")),
        ("start_s", None),
    ],
)
def test_words_that_the_writer_never_writes_are_refused(
    folder: Path, tmp_path: Path, column: str, value: Any
) -> None:
    """What is told of a row is of a closed form: no name, no bytes that drive a terminal."""
    head = files.read(folder)
    usual = {
        "patient": "0" * 32, "recording": "0001", "modality": "ecg", "start_s": 0.0,
    }[column]  # fmt: skip
    path = write_fingerprints(
        tmp_path / "f.parquet", head, columns={column: [usual] * 17 + [value]}
    )
    with pytest.raises(Refused) as caught:
        from_parquet(head, path)
    assert caught.value.reason == "fingerprints"
    assert "Jane" not in str(caught.value)


def test_one_long_text_for_many_rows_is_refused_before_it_is_spelled_out(
    folder: Path, tmp_path: Path
) -> None:
    """A megabyte that 100,000 rows name is 100 GB, of a file of a few kB."""
    head = files.read(folder)
    whole = parquet.read_table(write_fingerprints(tmp_path / "f.parquet", head))
    rows = arrow.array(np.zeros(100_000, dtype=np.int32))
    many = whole.take(rows)
    long = arrow.DictionaryArray.from_arrays(rows, arrow.array(["0" * 2**20]))
    many = many.set_column(many.schema.get_field_index("patient"), "patient", long)
    parquet.write_table(many, tmp_path / "g.parquet", compression="zstd")
    with pytest.raises(Refused):
        from_parquet(head, tmp_path / "g.parquet")


def test_patients_are_numbered_in_the_order_of_the_file(folder: Path, tmp_path: Path) -> None:
    """Not by their pseudonyms' spelling; recordings within the patient, also where rows of several
    patients alternate, each under the file's own words."""
    head = files.read(folder)
    who = [f"{n:032x}" for n in (9, 2, 9, 2, 5, 9)] * 3
    which = ["0002", "0001", "0001", "0001", "0007", "0002"] * 3
    path = write_fingerprints(
        tmp_path / "f.parquet", head, columns={"patient": who, "recording": which}
    )
    found = from_parquet(head, path)
    assert found.patient.tolist() == [1, 2, 1, 2, 3, 1] * 3
    assert found.recording.tolist() == [1, 1, 2, 1, 1, 1] * 3
    rows = run("apply", str(folder), str(path))["rows"]
    assert [row["pseudonym"] for row in rows] == who
    assert [row["recording"] for row in rows] == which
    assert [row["patient"] for row in rows] == found.patient.tolist()


def test_fingerprints_of_both_sensors_are_refused_for_a_head_of_one(
    folder: Path, tmp_path: Path
) -> None:
    """Abstaining from them looks as if the head did not know; the message says what to make."""
    head = files.read(folder)
    mixed = {"modality": ["both"] * 17 + ["ecg"]}
    path = write_fingerprints(tmp_path / "f.parquet", head, columns=mixed)
    with pytest.raises(Refused, match="17 of 18 fingerprints are of both sensors") as caught:
        run("apply", str(folder), str(path))
    assert "--sensors ecg" in caught.value.do
    of_both = head.manifest.model_copy(update={"sensors": "both"})
    found = from_parquet(Head(of_both, head.arrays), path)
    assert np.isfinite(found.fingerprints).all(axis=1).tolist() == [True] * 17 + [False]


@pytest.mark.parametrize("made_for", ["ppg", "both", "\x1b[2J", ""])
def test_file_made_for_other_sensors_is_refused(
    folder: Path, tmp_path: Path, made_for: str
) -> None:
    """As its metadata say."""
    head = files.read(folder)
    path = write_fingerprints(tmp_path / "f.parquet", head, **{SENSORS_KEY: made_for})
    with pytest.raises(Refused) as caught:
        from_parquet(head, path)
    assert caught.value.message.isprintable()
    assert ("--sensors ecg" in caught.value.do) == (made_for in ("ppg", "both"))
    assert len(from_parquet(head, write_fingerprints(path, head, **{SENSORS_KEY: "ecg"})).patient)


@pytest.mark.parametrize("value", [np.nan, np.inf, 3.0])
def test_fingerprints_that_are_none_are_refused(folder: Path, tmp_path: Path, value: float) -> None:
    """Not finite, or not of unit length."""
    head = files.read(folder)
    flat = made_up(patients=6, items=3).fingerprints.reshape(-1).copy()
    flat[7] = value
    column = arrow.FixedSizeListArray.from_arrays(arrow.array(flat), 128)
    path = write_fingerprints(tmp_path / "f.parquet", head, columns={"fingerprint": column})
    with pytest.raises(Refused):
        from_parquet(head, path)
    for other in (
        arrow.FixedSizeListArray.from_arrays(arrow.array(flat[: 18 * 64]), 64),
        arrow.array(["x"] * 18),
    ):
        path = write_fingerprints(tmp_path / "g.parquet", head, columns={"fingerprint": other})
        with pytest.raises(Refused):
            from_parquet(head, path)
    (tmp_path / "h.parquet").write_bytes(b"PAR1 no parquet")
    with pytest.raises(Refused):
        from_parquet(head, tmp_path / "h.parquet")


def test_head_of_patients_pools_their_windows(folder: Path, tmp_path: Path) -> None:
    """The mean over all windows, of six patients."""
    head = files.read(folder)
    windows = from_parquet(head, write_fingerprints(tmp_path / "f.parquet", head))
    of_patient = head.manifest.model_copy(update={"item": "patient"})
    found = pooled(Head(of_patient, head.arrays), windows)
    assert len(found.fingerprints) == 6
    wanted = windows.fingerprints[windows.patient == 2].mean(axis=0)
    assert np.allclose(found.fingerprints[1], wanted, atol=1e-6)


def test_signed_head_is_verified_by_the_command(folder: Path, tmp_path: Path) -> None:
    """With the key file that signs releases."""
    path = tmp_path / "head"
    files.write(path, files.read(folder))
    key = signing.create_key_file(tmp_path / "release.key")
    told = run("sign", str(path), "--key", str(tmp_path / "release.key"))
    assert told[0]["signer"] == signing.public_bytes(key).hex()
    assert run("verify", str(path), "--signer", told[0]["signer"])[0]["signature"] == "verified"
    with pytest.raises(Refused):
        run("verify", str(path), "--signer", "00" * 32)
    with pytest.raises(OurMistake, match="No such file") as mistake:
        run("sign", str(path), "--key", str(tmp_path / "nokey.pem"))
    assert mistake.value.do


def test_wrong_calls_are_said_in_words(folder: Path, tmp_path: Path) -> None:
    """Before any work is done."""
    with pytest.raises(OurMistake, match="no task"):
        run("train", "horoscope", "-o", str(tmp_path / "x"))
    with pytest.raises(OurMistake, match="holds a head already"):
        run("train", "sex", "-o", str(folder))
    (tmp_path / "drawn" / "plots").mkdir(parents=True)
    for words in (("train", "sex"), ("federate", "sex")):
        with pytest.raises(OurMistake, match="holds plots already"):
            run(*words, "-o", str(tmp_path / "drawn"))
    with pytest.raises(OurMistake, match="no recordings for sensors"):
        run("train", "hypertension", "-o", str(tmp_path / "x"), "--sensors", "ecg")
    with pytest.raises(DataFault):
        run("train", "sex", "-o", str(tmp_path / "x"), "--data", str(tmp_path / "nowhere"))
    with pytest.raises(OurMistake, match="nothing to federate") as refused:
        run("federate", "identity", "-o", str(tmp_path / "x"))
    assert "head train identity" in refused.value.do
    assert not (tmp_path / "x").exists()


def test_rhythm_of_a_window_is_one_or_none() -> None:
    """A rhythm holds until the next; a window with two of them, or before any, is left out."""
    said = [(5.0, "N"), (40.0, "AFIB"), (45.0, "AFIB"), (60.0, "N")]
    assert rhythm_at(said, 0.0) == ""
    assert rhythm_at(said, 10.0) == "N"
    assert rhythm_at(said, 35.0) == ""
    assert rhythm_at(said, 40.0) == "AFIB"
    assert rhythm_at(said, 55.0) == ""
    assert rhythm_at(said, 70.0) == "N"


def test_head_of_real_recordings_is_trained_and_applied(data_root: Path, tmp_path: Path) -> None:
    """PPG-BP: hypertension by the warm start; plots, card, and answers for the same folder. A head
    of a patient answers once for each name."""
    path = tmp_path / "head"
    told = run("train", "hypertension", "-o", str(path), "--data", str(data_root), "--draws", "20")
    assert told["patients"] > 100
    auroc = next(one for one in told["figures"] if one["name"] == "AUROC")
    assert auroc["value"] > 0.55
    assert {plot["name"] for plot in told["plots"]} == {"reliability", "coverage"}
    assert (path / "plots" / "reliability.pdf").read_bytes()[:4] == b"%PDF"
    assert "CC0" in (path / "MODEL_CARD.md").read_text()
    found = run("apply", str(path), str(data_root / "clinic_ppg_bp"))
    names = {one.patient for one in recordings([data_root / "clinic_ppg_bp"])}
    told_of = found["answers"] + found["abstained"]  # a name each; names of one person are one item
    assert told["items"] <= told_of <= len(names)
    other = tmp_path / "other.safetensors"
    other.write_bytes(weights.to_bytes(mae.weights_of(mae.build(mae.PRESETS["tiny"], 1))))
    with pytest.raises(Refused, match="stands on"):
        run("apply", str(path), str(data_root / "clinic_ppg_bp"), "--on", str(other))


def test_tasks_that_the_help_lists_are_all_tasks() -> None:
    """The help is made without reading what the tasks are made of."""
    assert set(cli_head.TASK_NAMES) == set(TASKS)
    shown = click.testing.CliRunner().invoke(command_of(app), ["head", "federate", "--help"])
    assert "hypertension" in shown.output


def test_simulated_patients_and_folders_are_not_asked_for_together(tmp_path: Path) -> None:
    """Nothing is read, nothing is written: the folder that is named need not even be there."""
    for option in ("--sites", "--data"):
        with pytest.raises(OurMistake, match="reads no recordings"):
            run(
                "federate", "hypertension", "-o", str(tmp_path / "x"), "--simulated", "30",
                option, str(tmp_path / "nowhere"),
            )  # fmt: skip
    with pytest.raises(OurMistake, match="no sensors"):
        run("federate", "age", "-o", str(tmp_path / "x"), "--simulated", "30", "--sensors", "eeg")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--sample-rate", "0"), ("--sample-rate", "3"), ("--clipping-norm", "-1"),
        ("--clipping-norm", "0"), ("--learning-rate", "0"), ("--learning-rate", "10"),
        ("--delta", "1"), ("--epsilon", "inf"), ("--seed", "-1"), ("--steps", "3"),
    ],
)  # fmt: skip
def test_number_that_no_training_can_have_is_refused_in_words(
    option: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Status 2, before a model is opened or a patient drawn."""

    def opened(*_: object) -> None:
        raise AssertionError("a model was opened")

    monkeypatch.setattr("simulations.models.open_model", opened)
    words = ["head", "federate", "age", "-o", str(tmp_path / "x"), "--simulated", "30"]
    done = CliRunner().invoke(app, [*words, option, value])
    assert done.exit_code == 2 or isinstance(done.exception, OurMistake), done.output
    if option == "--seed":
        assert (
            CliRunner().invoke(app, ["head", "train", "sex", "-o", "x", "--seed", "-1"]).exit_code
            == 2
        )


def test_classes_found_in_closed_data_are_refused_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It took minutes of reading to say so. Open data, and no privacy, go on to the reading."""

    class Opened(Exception):
        pass

    def opened(*_: object) -> None:
        raise Opened

    monkeypatch.setattr("simulations.models.open_model", opened)
    words = ["federate", "rhythm", "-o", str(tmp_path / "x"), "--hospitals", "3"]
    for mode in ("local", "distributed"):
        with pytest.raises(OurMistake, match="tells of single patients"):
            run(*words, "--mode", mode)
        with pytest.raises(Opened):
            run(*words, "--mode", mode, "--open-data", "PhysioNet, CC BY 4.0")
    with pytest.raises(Opened):
        run(*words, "--mode", "none")


def test_files_of_a_head_are_its_owners(folder: Path) -> None:
    """Most heads must not leave the site; whoever publishes one opens it himself."""
    for name in (files.MANIFEST, files.ARRAYS, files.CARD):
        assert (folder / name).stat().st_mode & 0o777 == 0o600


def windows_with(**patients: int) -> Task:
    """A window of each of so many patients; by the sensors that it has."""
    sensors = [name for name, count in patients.items() for _ in range(count)]
    valid = np.zeros((len(sensors), 2, 50), dtype=bool)
    for place, name in enumerate(sensors):
        valid[place, 0], valid[place, 1] = name != "ppg", name != "ecg"
    each = np.arange(len(sensors))
    signal = np.zeros((len(sensors), 2, 1250), dtype=np.float32)
    return Task("x", "mae", SENSORS, signal, valid, each, each + 20.0, each, 0 * each)


@pytest.mark.parametrize(
    ("patients", "taken"),
    [
        ({"ecg": 21}, "ecg"), ({"ppg": 21}, "ppg"), ({"both": 21}, "ppg"),
        ({"ppg": 5, "ecg": 20}, "ecg"), ({"ppg": 19, "ecg": 19}, ""),
    ],
)  # fmt: skip
def test_sensors_are_the_first_that_the_folders_have_enough_patients_with(
    patients: dict[str, int], taken: str, tmp_path: Path
) -> None:
    """PPG is the task's usual; folders are read once; a refusal has the counts."""
    asked = []

    def make(name: str, folders: list[Path], _: Builder) -> Task:
        asked.append(folders)
        return windows_with(**patients)

    task = replace(
        TASKS["age"], sources={one: Source("x", make, "patient") for one in ("ppg", "ecg", "both")}
    )
    if taken:
        assert task.load_first([tmp_path])[0] == taken
        other = "ecg" if taken == "ppg" else "ppg"
        assert f"--sensors {taken} (" in task.advice(other, [tmp_path])
    else:
        with pytest.raises(DataFault, match="ppg 19, ecg 19, both 0"):
            task.load_first([tmp_path])
        assert not task.advice("ppg", [tmp_path])
    assert len(asked) == 2
    with pytest.raises(DataFault, match="no folder"):
        task.load_first([tmp_path / "nowhere"])


def test_head_is_trained_on_the_sensors_that_a_folder_has(data_root: Path, tmp_path: Path) -> None:
    """A phone's PPG with heart rates, though the task's usual sensor is an ECG: said in the card;
    asked for the ECG by name, it is refused with what would do."""
    phone = ["--sites", str(data_root / "phone_welltory"), "--draws", "20"]
    told = run("train", "heart-rate", "-o", str(tmp_path / "head"), *phone)
    assert told["sensors"] == "ppg"
    assert "sensors ppg: the first" in (tmp_path / "head" / "MODEL_CARD.md").read_text()
    assert (tmp_path / "head" / "plots").stat().st_mode & 0o777 == 0o700
    with pytest.raises(DataFault) as refused:
        run("train", "heart-rate", "-o", str(tmp_path / "x"), *phone, "--sensors", "ecg")
    assert "--sensors ppg" in refused.value.do
