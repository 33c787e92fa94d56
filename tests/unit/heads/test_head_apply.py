"""`fedprint-lab head apply` on what people have: their recordings, and the file that
`fedprint-node fingerprint` makes of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as arrow
import pytest
import typer
from head_stand_ins import asked, made_up
from pyarrow import parquet
from rich.console import Console
from typer.testing import CliRunner

from client import cli_release
from client.home import NodeHome
from client.mapping import Mapping
from client.pseudonyms import load_key, pseudonym_of
from client.records import MAPPING_FILE, Recording
from shared_model import terminal
from shared_model.errors import DataFault, OurMistake, Refused
from shared_model.heads import files
from simulations import cli_head, cli_head_apply
from simulations.heads.apply import name_of
from simulations.heads.beside import tables_beside
from simulations.heads.train import train
from simulations.models import open_model
from simulations.probes import task

SICK, WELL = "stage 1 or 2", "below stage 1"
FIRST, SECOND = "P-1", "P-0"

lab, node = typer.Typer(), typer.Typer()
cli_head.register(lab)
cli_release.register(node)


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """A screen on which no word is broken, whatever the width was when the console was made."""
    monkeypatch.setattr(terminal, "out", Console(width=300))
    monkeypatch.setattr(terminal, "err", Console(stderr=True, width=300))


@lab.callback()
def root() -> None:
    """Keeps `head` a group."""


def beats(seconds: float, seed: int, width_s: float) -> np.ndarray:
    """A plain pulse train with noise."""
    rng = np.random.default_rng(seed)
    phase = np.mod(1.1 * np.arange(int(seconds * 125)) / 125.0, 1.0)
    spike = np.exp(-0.5 * ((phase - 0.3) / width_s) ** 2)
    return np.asarray(spike + 0.2 * np.exp(-0.5 * ((phase - 0.6) / 0.06) ** 2)
                      + 0.01 * rng.standard_normal(len(phase)))  # fmt: skip


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two patients; the first one read has a recording that is flat, and then one with a PPG that
    is flat."""
    place = tmp_path_factory.mktemp("ward")
    flat = np.zeros(31 * 125)
    made = {
        "a/one.csv": (FIRST, flat, flat),
        "a/two.csv": (FIRST, beats(31, 1, 0.02), flat),
        "b/one.csv": (SECOND, beats(31, 2, 0.02), beats(31, 3, 0.08)),
    }
    table = ["recording,patient_id,fs_hz"]
    for name, (patient, ecg, ppg) in made.items():
        path = place / name
        path.parent.mkdir(exist_ok=True)
        lines = ["ecg,ppg", *(f"{a:.5f},{b:.5f}" for a, b in zip(ecg, ppg, strict=True))]
        path.write_text("\n".join(lines) + "\n")
        table.append(f"{name},{patient},125")
    (place / "recordings.csv").write_text("\n".join(table) + "\n")
    return place


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A head for each choice of sensors, on the packaged warm start."""
    model = open_model("warm-start")
    made = {}
    for sensors in ("both", "ecg", "ppg"):
        made[sensors] = tmp_path_factory.mktemp("heads") / sensors
        data = replace(made_up(patients=30, classes=(WELL, SICK)), sensors=sensors)
        files.write(made[sensors], train(data, model, asked()))
    return made


def fingerprints(source: Path, output: Path, *options: str) -> dict[str, Any]:
    """What `fedprint-node fingerprint` says, and writes."""
    home = NodeHome(output.parent / "node")
    home.make()
    words = [*("fingerprint", str(source), "-o", str(output), "--home", str(home.root))]
    done = CliRunner().invoke(
        node, [*words, "--warm-start", "--json", *options], catch_exceptions=False
    )
    return json.loads(done.stdout)


def apply(head: Path, source: Path) -> dict[str, Any]:
    """What `fedprint-lab head apply` says, all of it."""
    words = ["head", "apply", str(head), str(source), "--json"]
    return json.loads(CliRunner().invoke(lab, words, catch_exceptions=False).stdout)


def without_names(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows without pseudonym and recording; a number equals what is as near as float32 is."""
    return [
        {name: pytest.approx(value, rel=1e-4, abs=1e-5) if isinstance(value, float) else value
         for name, value in row.items() if name not in ("pseudonym", "recording")}
        for row in rows
    ]  # fmt: skip


@pytest.mark.parametrize("sensors", ["both", "ecg", "ppg"])
def test_recordings_and_the_file_made_of_them_have_the_same_answers(
    recordings: Path, heads: dict[str, Path], tmp_path: Path, sensors: str
) -> None:
    """The real writer, the real reader; patients have the same numbers on both roads."""
    path = tmp_path / "out.parquet"
    made = fingerprints(recordings, path, "--sensors", sensors, "--with-refused")
    assert made["modalities"] == {sensors: made["fingerprints"]}
    assert made["fingerprints"] == {"both": 3, "ecg": 6, "ppg": 3}[sensors]
    assert made["windows_without_these_sensors"] == {"both": 3, "ecg": 0, "ppg": 3}[sensors]
    by_file, by_folder = apply(heads[sensors], path), apply(heads[sensors], recordings)
    kept = [{name: row[name] for name in row if name not in ("pseudonym", "recording")}
            for row in by_file["rows"]]  # fmt: skip
    assert kept == without_names(by_folder["rows"])
    known = sum(row["distance"] is not None for row in by_file["rows"])
    assert known == made["fingerprints"]
    assert {name: by_file[name] for name in ("answers", "abstained")} == {
        name: by_folder[name] for name in ("answers", "abstained")
    }


def test_answers_say_whose_they_are(
    recordings: Path, heads: dict[str, Path], tmp_path: Path
) -> None:
    """A file of fingerprints by the node's pseudonyms, a folder by its files."""
    path = tmp_path / "out.parquet"
    fingerprints(recordings, path, "--sensors", "ecg")
    key = load_key(NodeHome(tmp_path / "node").pseudonym_key)
    found = [(row["patient"], row["pseudonym"], row["recording"], row["start_s"])
             for row in apply(heads["ecg"], path)["rows"]]  # fmt: skip
    assert found == [
        *((1, pseudonym_of(key, FIRST), "0002", start) for start in (0.0, 10.0, 20.0)),
        *((2, pseudonym_of(key, SECOND), "0001", start) for start in (0.0, 10.0, 20.0)),
    ]
    rows = apply(heads["ecg"], recordings)["rows"]
    assert {(row["patient"], row["pseudonym"], row["recording"]) for row in rows} == {
        (1, None, "a/one.csv"), (1, None, "a/two.csv"), (2, None, "b/one.csv"),
    }  # fmt: skip


def test_one_recording_is_read_with_the_table_beside_it(
    recordings: Path, heads: dict[str, Path], tmp_path: Path
) -> None:
    """Patient and rate stand there: the same answers as of the folder. Tables that cannot be read,
    hidden ones and links are passed over; without a table a mapping says who it is."""
    place = tmp_path / "ward"
    place.mkdir()
    for name, source in (("one.csv", "b/one.csv"), ("two.csv", "a/two.csv")):
        (place / name).write_bytes((recordings / source).read_bytes())
    table = "recording,patient_id,fs_hz\none.csv,Bob-2,125\ntwo.csv,Ann-1,125\n"
    (place / "recordings.csv").write_text(table)
    (place / "broken.csv").write_text("recording,recording\n")
    (place / ".hidden.csv").write_text(table.replace("Bob-2", "Eve-3"))
    (place / "linked.csv").symlink_to(place / ".hidden.csv")
    assert tables_beside(place / "one.csv") == (place / "recordings.csv",)
    assert tables_beside(place / "recordings.csv") == tables_beside(place) == ()
    told = apply(heads["ecg"], place / "one.csv")
    assert {(row["patient"], row["recording"]) for row in told["rows"]} == {(1, "one.csv")}
    assert told["unreadable_files"] == 0
    for name in ("broken.csv", ".hidden.csv", "linked.csv"):
        (place / name).unlink()
    whole = [row for row in apply(heads["ecg"], place)["rows"] if row["recording"] == "one.csv"]
    assert without_names(told["rows"]) == without_names([{**row, "patient": 1} for row in whole])
    alone = tmp_path / "alone" / "one.csv"
    alone.parent.mkdir()
    body = (place / "one.csv").read_text().splitlines()
    rows = (f"{n / 125:.4f},{line}" for n, line in enumerate(body[1:]))
    alone.write_text("\n".join([f"time_s,{body[0]}", *rows]) + "\n")
    words = ["head", "apply", str(heads["ecg"]), str(alone), "--json"]
    assert "Nobody says whose" in CliRunner().invoke(lab, words).stdout
    mapping = Mapping(one_file_is_one_patient=True, time_column="time_s", ecg={"names": ("ecg",)})
    (tmp_path / "m.toml").write_text(mapping.to_toml())
    words += ["--mapping", str(tmp_path / "m.toml")]
    told = json.loads(CliRunner().invoke(lab, words, catch_exceptions=False).stdout)
    assert len(told["rows"]) == 3


def test_a_table_beside_is_known_by_the_columns_of_the_mapping(tmp_path: Path) -> None:
    """The folder's reader finds the patient by the mapping's columns; one file must as well."""
    (tmp_path / "one.csv").write_text("ecg\n1\n")
    (tmp_path / "liste.csv").write_text("Aufnahme,Fall\none.csv,p7\n")
    mapping = Mapping(recording_column="Aufnahme", patient_column="Fall")
    assert tables_beside(tmp_path / "one.csv", mapping) == (tmp_path / "liste.csv",)
    assert tables_beside(tmp_path / "one.csv") == ()


def test_patient_in_two_unicode_forms_is_one_on_both_roads(
    recordings: Path, heads: dict[str, Path], tmp_path: Path
) -> None:
    """Two devices spell a name in two ways; numbers of patients and figures must not differ."""
    place = tmp_path / "ward"
    place.mkdir()
    table = ["recording,patient_id,fs_hz"]
    for number, patient in enumerate(("Zo\u00eb-1", "Zoe\u0308-1", "Bob-2")):
        body = (recordings / "b/one.csv").read_text().rstrip("\n")
        (place / f"{number}.csv").write_text(body + "\n0,0" * number + "\n")  # no copies
        table.append(f"{number}.csv,{patient},125")
    (place / "recordings.csv").write_text("\n".join(table) + "\n", encoding="utf-8")
    path = tmp_path / "out.parquet"
    fingerprints(place, path, "--sensors", "ecg")
    for source in (path, place):
        rows = apply(heads["ecg"], source)["rows"]
        assert [row["patient"] for row in rows] == [1] * 6 + [2] * 3
    assert len({one.patient for one in task.recordings([place])}) == 2


def test_file_whose_columns_are_no_text_is_not_of_fingerprints(
    recordings: Path, heads: dict[str, Path], tmp_path: Path
) -> None:
    """It is read as recordings, and refused as such, in words."""
    path = tmp_path / "x.parquet"
    parquet.write_table(arrow.table({"naam": [1.0]}), path)
    path.write_bytes(path.read_bytes().replace(b"naam", b"\xff\xfeam"))
    assert not cli_head_apply.is_fingerprints(path)
    done = CliRunner().invoke(lab, ["head", "apply", str(heads["ecg"]), str(path)])
    assert isinstance(done.exception, DataFault)


def test_pairs_of_recordings_are_named(recordings: Path, tmp_path: Path) -> None:
    """Identity: by pseudonym or patient's number, and recording."""
    data = replace(made_up("identity", patients=30), item="recording")
    files.write(tmp_path / "head", train(data, open_model("warm-start"), asked()))
    rows = apply(tmp_path / "head", recordings)["rows"]
    assert [(row["first"], row["second"]) for row in rows] == [
        ("1/a/one.csv", "1/a/two.csv"), ("1/a/one.csv", "2/b/one.csv"),
        ("1/a/two.csv", "2/b/one.csv"),
    ]  # fmt: skip
    fingerprints(recordings, tmp_path / "out.parquet", "--sensors", "ecg")
    told = apply(tmp_path / "head", tmp_path / "out.parquet")
    row = told["rows"][0]
    assert {one["answer"] for one in told["rows"]} <= {
        "same",
        "not shown to be the same",
        "abstain",
    }
    key = load_key(NodeHome(tmp_path / "node").pseudonym_key)
    assert row["first"] == f"{pseudonym_of(key, FIRST)}/0002"


def test_file_name_that_no_screen_can_show_is_withheld() -> None:
    """It could drive the terminal; the safe name stands for it."""
    one = Recording("p", "x", {}, {}, (), {}, "0" * 64, shown="file 3 (name withheld)")
    assert name_of(replace(one, file="x\x1b[2J.csv")) == "file 3 (name withheld)"
    assert name_of(replace(one, file="ward/Jane Doe.csv")) == "ward/Jane Doe.csv"


def test_file_of_both_sensors_tells_a_head_of_one_what_to_make(
    recordings: Path, heads: dict[str, Path], tmp_path: Path
) -> None:
    """As the node writes it without --sensors, and for the other sensor."""
    path = tmp_path / "out.parquet"
    told = fingerprints(recordings, path)
    assert told["sensors"] == "as recorded"
    assert told["modalities"] == {"both": 3, "ecg": 3}
    for sensors in ("ecg", "ppg"):
        with pytest.raises(Refused, match="of both sensors together") as caught:
            apply(heads[sensors], path)
        assert f"--sensors {sensors}" in caught.value.do
    assert len(apply(heads["both"], path)["rows"]) == 6
    fingerprints(recordings, path, "--sensors", "ppg")
    for sensors in ("both", "ecg"):
        with pytest.raises(Refused, match="are of the PPG alone") as caught:
            apply(heads[sensors], path)
        assert f"--sensors {sensors}" in caught.value.do


def test_first_row_without_a_fingerprint_keeps_the_probabilities(
    recordings: Path, heads: dict[str, Path]
) -> None:
    """In the table, and as the same keys in every row of the JSON."""
    rows = apply(heads["ecg"], recordings)["rows"]
    assert rows[0]["distance"] is None
    assert rows[0][WELL] is rows[0][SICK] is rows[0]["possible"] is None
    assert {tuple(row) for row in rows} == {tuple(rows[-1])}
    assert rows[-1][WELL] + rows[-1][SICK] == pytest.approx(1.0)
    words = ["head", "apply", str(heads["ecg"]), str(recordings)]
    shown = CliRunner().invoke(lab, words, catch_exceptions=False).output
    heading = next(line for line in shown.splitlines() if "patient" in line and "start_s" in line)
    assert WELL in heading
    assert SICK in heading
    assert "recording" in heading
    assert "pseudonym" not in heading


def test_of_one_file_the_mapping_of_its_folder_is_taken(
    recordings: Path, heads: dict[str, Path], tmp_path: Path
) -> None:
    """A file was read otherwise than the folder that it lies in."""
    text = (recordings / "b" / "one.csv").read_text().replace("ecg,ppg", "kanal7,kanal8")
    (tmp_path / "one.csv").write_text(text)
    failed = CliRunner().invoke(
        lab, ["head", "apply", str(heads["both"]), str(tmp_path / "one.csv")]
    )
    assert failed.exit_code != 0
    own = Mapping(one_file_is_one_patient=True, fs_hz=125,
                  ecg={"names": ["kanal7"]}, ppg={"names": ["kanal8"]})  # fmt: skip
    (tmp_path / MAPPING_FILE).write_text(own.to_toml())
    of_file, of_folder = (
        apply(heads["both"], source)["rows"] for source in (tmp_path / "one.csv", tmp_path)
    )
    assert [row["answer"] for row in of_file] == [row["answer"] for row in of_folder]
    assert of_file


def test_class_named_like_a_column_does_not_take_its_place(
    recordings: Path, tmp_path: Path
) -> None:
    """A head's maker names its classes: nor do two classes share one."""
    data = made_up(patients=30, classes=("answer", "class answer"))
    files.write(tmp_path / "head", train(data, open_model("warm-start"), asked()))
    row = apply(tmp_path / "head", recordings)["rows"][-1]
    assert row["patient"] == 2
    assert row["answer"] in ("answer", "class answer", "abstain")
    assert row["class answer"] + row["class class answer"] == pytest.approx(1.0)


def test_unreadable_files_are_listed_the_rest_is_answered_and_the_status_is_4(
    recordings: Path, heads: dict[str, Path], tmp_path: Path
) -> None:
    """With name and cause, as the node's commands list them; a name that may be a patient's is
    withheld."""
    place = tmp_path / "ward"
    for path in recordings.rglob("*.csv"):
        (place / path.relative_to(recordings)).parent.mkdir(parents=True, exist_ok=True)
        (place / path.relative_to(recordings)).write_bytes(path.read_bytes())
    (place / "broken.edf").write_bytes(b"0       " + b"x" * 100)
    (place / "jane-doe-1970-01-31.edf").write_bytes(b"0       " + b"x" * 100)
    words = ["head", "apply", str(heads["ecg"]), str(place)]
    done = CliRunner().invoke(lab, [*words, "--json"])
    assert isinstance(done.exception, DataFault)
    assert done.exception.exit_code == 4
    told = json.loads(done.stdout)
    assert told["unreadable_files"] == 2
    assert told["faults"][0]["file"] == "broken.edf"
    assert all(one["cause"] and one["what"] for one in told["faults"])
    assert len(told["rows"]) == 9
    assert "jane" not in done.stdout
    shown = CliRunner().invoke(lab, words)
    assert isinstance(shown.exception, DataFault)
    assert "broken.edf" in shown.output
    assert told["faults"][0]["cause"] in shown.output


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_where_nothing_can_be_read_the_causes_are_shown(
    heads: dict[str, Path], tmp_path: Path, options: list[str]
) -> None:
    """By `head apply`, and by `fingerprint`, whose message speaks of them."""
    (tmp_path / "README.md").write_text("no recording\n")
    NodeHome(tmp_path / "node").make()
    place = ["--home", str(tmp_path / "node"), "--warm-start"]
    for app, words in (
        (lab, ["head", "apply", str(heads["ecg"]), str(tmp_path / "README.md")]),
        (node, ["fingerprint", str(tmp_path / "README.md"), "-o", str(tmp_path / "f"), *place]),
    ):
        done = CliRunner().invoke(app, [*words, *options])
        assert isinstance(done.exception, DataFault)
        assert "not-a-recording" in done.stdout
        assert "README.md" in done.stdout
        if options:
            assert json.loads(done.stdout)["faults"]


def test_a_head_on_another_preset_says_which_and_answers_with_it(
    recordings: Path, tmp_path: Path
) -> None:
    """The command that makes what the head can use; there was none."""
    head = tmp_path / "head"
    data = replace(made_up(patients=30, classes=(WELL, SICK)), sensors="ppg")
    files.write(head, train(data, open_model("warm-start:small"), asked()))
    made = tmp_path / "tiny.parquet"
    fingerprints(recordings, made, "--sensors", "ppg")
    for source, wanted in (
        (made, "-o FILE.parquet --sensors ppg --warm-start --preset small"),
        (recordings, "fedprint-lab head apply HEAD RECORDINGS --on warm-start:small"),
    ):
        with pytest.raises(Refused) as refused:
            apply(head, source)
        assert refused.value.do.endswith(wanted)
    fingerprints(recordings, tmp_path / "small.parquet", "--sensors", "ppg", "--preset", "small")
    assert apply(head, tmp_path / "small.parquet")["rows"]


def test_sensors_are_one_of_three(recordings: Path, tmp_path: Path) -> None:
    """Said before anything is read."""
    with pytest.raises(OurMistake, match="both, ecg, ppg"):
        fingerprints(recordings, tmp_path / "out.parquet", "--sensors", "eeg")
