"""Personal heads: hostile labels, thin ones, files at rest, and that nothing of them can leave."""

from __future__ import annotations

import ast
import errno
import json
import os
import socket
from pathlib import Path

import made_up_site as site
import numpy as np
import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from client import egress, labels, personal, withdrawals
from client.cli import app
from client.personal_labels import read_labels
from client.pseudonyms import load_key, pseudonym_of
from client.sealed_files import read_own, write_own
from client.store_key import CREDENTIAL
from shared_model import outputs, warm_start
from shared_model.commands import command_of
from shared_model.errors import DataFault, OurMistake, Refused
from shared_model.heads.answers import FAR, NO_FINGERPRINT

RUNNER = CliRunner()
KEY = bytes(32)
ROOT = Path(__file__).resolve().parents[3]


def csv_of(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def speeds(path: Path, numbers, more: str = "") -> Path:
    lines = [f"{site.patient_name(n)},{'fast' if n % 2 else 'slow'}" for n in numbers]
    return csv_of(path, "patient,speed\n" + "\n".join(lines) + "\n" + more)


def run(home, *words):
    return RUNNER.invoke(app, [*map(str, words), "--home", str(home.root)])


@pytest.fixture(params=["plain", "encrypted"])
def home(request, tmp_path, monkeypatch):
    """24 patients, half of them fast."""
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    if request.param == "encrypted":
        credentials = tmp_path / "credentials"
        credentials.mkdir()
        (credentials / CREDENTIAL).write_bytes(bytes(range(32)))
        (credentials / CREDENTIAL).chmod(0o400)
        monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(credentials))
    made = site.node(tmp_path / "node")
    site.add(made, range(24))
    return made


def test_no_head_is_made_of_who_may_have_withdrawn_before_a_restore(home, tmp_path):
    """Nor applied; until somebody says that the withdrawals hold."""
    labelled = speeds(tmp_path / "l.csv", range(24))
    withdrawals.mark_unknown(home)
    refused = run(home, "personalise", labelled, "--warm-start").exception
    assert isinstance(refused, Refused)
    assert refused.reason == "not-ready"


def test_a_head_is_made_measured_listed_applied_and_removed(home, tmp_path, monkeypatch):
    """Fast and slow hearts are told apart; unknown and unlabelled rows are counted. No socket."""

    def refuse(*_, **__):
        raise AssertionError("something wanted to talk to somebody")

    monkeypatch.setattr(socket, "socket", refuse)
    labels = speeds(tmp_path / "speed.csv", range(24), "MRN-77777,fast\nMRN-00099,\n")
    report = tmp_path / "report.json"
    done = run(home, "personalise", labels, "--warm-start", "--json", "-o", report)
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told == json.loads(report.read_bytes())
    assert told["counts"] == {"fast": 12, "slow": 12}
    assert told["rows"]["not in the store"] == told["rows"]["without a label"] == 1
    assert told["figures"][0]["name"] == "AUROC"
    assert told["figures"][0]["value"] > 0.9
    assert {one["low"] for one in told["figures"]} == {None}  # 1.000 to 1.000 is no certainty
    sealed = "CREDENTIALS_DIRECTORY" in os.environ
    path = home.personal / "speed.json"
    assert told["sealed"] == sealed
    assert (b"fast" in path.read_bytes()) != sealed
    assert path.stat().st_mode & 0o077 == 0
    names = [load_key(home.pseudonym_key), *map(site.patient_name, range(24))]
    pseudonyms = [pseudonym_of(names[0], name) for name in names[1:]]
    for one in (*names[1:], *pseudonyms):
        assert one not in done.output
        assert one.encode() not in path.read_bytes()
    listed = json.loads(run(home, "personal", "list", "--json").stdout)
    assert [one["name"] for one in listed] == ["speed"]
    answers = tmp_path / "answers.csv"
    assert run(home, "personal", "apply", "speed", "--warm-start", "-o", answers).exit_code == 0
    rows = [line.split(",") for line in answers.read_text().splitlines()[1:]]
    right = [row[1] == ("fast" if pseudonyms.index(row[0]) % 2 else "slow") for row in rows]
    assert len(rows) == 24
    assert {row[3] for row in rows} == {""}  # nobody is far
    assert np.mean(right) > 0.9
    assert answers.stat().st_mode & 0o077 == 0
    assert run(home, "personal", "remove", "speed").exit_code == 0
    assert not path.exists()
    assert isinstance(run(home, "personal", "remove", "speed").exception, OurMistake)


def test_outputs_that_cannot_be_written_are_refused_before_the_work(tmp_path, monkeypatch):
    """A folder, or below a file: no head is kept. A disk that is full at the end: it is told."""
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    node = site.node(tmp_path / "node")
    site.add(node, range(24))
    labels = speeds(tmp_path / "speed.csv", range(24))
    for wrong in (tmp_path, labels / "x.json"):
        done = run(node, "personalise", labels, "--warm-start", "-o", wrong)
        assert isinstance(done.exception, OurMistake)
        assert personal.names(node) == []
        assert isinstance(run(node, "personal", "apply", "x", "-o", wrong).exception, OurMistake)

    def full_disk(*_, **__):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(outputs, "write_atomic", full_disk)
    done = run(node, "personalise", labels, "--warm-start", "--json", "-o", tmp_path / "x.json")
    assert isinstance(done.exception, OurMistake)
    assert json.loads(done.stdout)["name"] == "speed"


def test_labels_that_a_store_of_an_earlier_version_may_miss_are_told(tmp_path, monkeypatch):
    """Beside the head, and where too few are left; never of a store of this version."""
    node = site.node(tmp_path / "node")
    site.add(node, range(24))
    some, few = (
        speeds(tmp_path / f"{name}.csv", numbers)
        for name, numbers in (("some", range(2, 26)), ("few", range(20, 44)))
    )
    words = "spelled some identifiers otherwise"

    def said(labels, *more):
        done = run(node, "personalise", labels, "--warm-start", *more)
        return done.output if done.exception is None else str(done.exception)

    assert words not in said(some)
    assert "--patient-column" in said(few)
    monkeypatch.setattr("client.store.WindowStore.former", True)
    assert words in " ".join(said(some).split())
    assert words in json.loads(said(some, "--json"))["names"]
    told = said(few)
    assert words in told
    assert "data remove --all" in told
    every = speeds(tmp_path / "every.csv", range(24))
    assert words not in said(every)


@pytest.fixture
def features():
    return np.random.default_rng(0).standard_normal((40, 128))


def made(features, values, kind=None, name="x"):
    return personal.make(
        name, "label", features[: len(values)], values, kind=kind, sensors="both",
        model_digest="ab" * 32,
    )  # fmt: skip


def test_thin_labels_are_refused_with_their_reason(features):
    """Nineteen patients; one class; a class of four; one number; words where numbers are asked."""
    with pytest.raises(Refused) as few:
        made(features, ["a", "b"] * 9 + ["a"])
    assert few.value.reason == "few-patients"
    for values in (["a"] * 30, ["a"] * 30 + ["b"] * 4, [1.0] * 30, [f"{n:02d}" for n in range(30)]):
        with pytest.raises(Refused) as caught:
            made(features, values)
        assert caught.value.reason == "classes"
    with pytest.raises(OurMistake, match="words"):
        made(features, ["a", 1.0] * 15, kind="number")
    with pytest.raises(OurMistake, match="name"):
        made(features, ["a", "b"] * 15, name="../x")


def test_numbers_are_a_quantity_or_classes_by_how_many_there_are(features):
    """0 and 1 are classes; forty different ages are not."""
    assert made(features, [0.0, 1.0] * 15).classes == ("0", "1")
    aged = made(features, [float(one) for one in range(40)])
    assert (aged.kind, aged.classes) == ("number", ())
    assert {one.name for one in aged.figures} == {"mean absolute error", "correlation"}


def test_patients_far_from_those_it_was_made_of_are_abstained_from(features):
    """Neither age nor class of somebody unlike, nor of one without a window, and why; those alike
    are answered, and of a number with an interval that holds nine in ten of further patients."""
    rng = np.random.default_rng(1)
    further = rng.standard_normal((200, 128))
    truth = 50.0 + 10.0 * further[:, 0] + rng.standard_normal(200)
    aged = personal.make(
        "age", "age", further[:120], [float(one) for one in truth[:120]], kind="number",
        sensors="ppg", model_digest="ab" * 32,
    )  # fmt: skip
    alike = personal.answers(aged, further[120:])
    assert np.mean([one["why"] != "" for one in alike]) < 0.1
    inside = [
        one["low"] <= value <= one["high"]
        for one, value in zip(alike, truth[120:], strict=True)
        if not one["why"]
    ]
    assert 0.8 < np.mean(inside) < 1.0
    classed = made(features, ["a", "b"] * 15)
    for head in (aged, classed):
        rows = personal.answers(head, np.stack([np.full(128, 9.0), np.full(128, np.nan)]))
        assert [row["why"] for row in rows] == [FAR, NO_FINGERPRINT]
        for row in rows:
            said = [row[name] for name in row if name not in ("why", "distance")]
            assert set(said) == {None}
    assert "too few to promise" in classed.far_words
    assert "up to 1.7% (120 patients are too few to promise 1%)" in aged.far_words
    promised = {n: classed.model_copy(update={"patients": n}).far_words for n in (99, 100)}
    assert "up to 1.0%" in promised[99]
    assert "too few" not in promised[99]  # its largest distance is that of one in a hundred
    assert "up to 2.0% (100 patients are too few" in promised[100]
    assert aged.band is not None
    assert classed.band is None


def test_a_label_called_as_another_column_of_the_answers_is_a_mistake(features):
    """Its answers would be lost behind that column's."""
    for name in personal.COLUMNS:
        with pytest.raises(OurMistake, match="another column"):
            personal.make(
                "x", name, features[:30], ["a", "b"] * 15, kind=None, sensors="both",
                model_digest="ab" * 32,
            )  # fmt: skip
    with pytest.raises(OurMistake, match="too large"):
        made(features, [1e12 * one for one in range(30)])


def test_a_head_of_an_earlier_version_is_listed_and_removed_but_answers_nothing(home, features):
    """It cannot abstain: a hospital would take its answer about anybody for one."""
    body = json.loads(made(features, ["a", "b"] * 15, name="old").model_dump_json())
    for name in ("far_mean", "far_factor", "distance", "band"):
        del body[name]
    with pytest.raises(ValidationError):
        personal.PersonalHead.model_validate_json(json.dumps(body))
    warm = warm_start_digest()
    old = json.dumps({**body, "format": "personal-1", "model_digest": warm})
    write_own(home, home.personal / "old.json", personal.KIND, old.encode())
    listed = json.loads(run(home, "personal", "list", "--json").stdout)
    assert "cannot abstain" in listed[0]["abstains"]
    done = run(home, "personal", "apply", "old", "--warm-start")
    assert isinstance(done.exception, Refused)
    assert done.exception.reason == "cannot-abstain"
    assert "personalise" in done.exception.do
    unknown = run(home, "drift", "--head", "personal:old", "--warm-start")
    assert unknown.exception.exit_code == 6
    assert run(home, "personal", "remove", "old").exit_code == 0


def test_a_kept_interval_without_width_is_none(home, features):
    """Heads of earlier versions hold 1.0 [1.0, 1.0]; the screen shows none."""
    body = json.loads(made(features, ["a", "b"] * 15, name="sure").model_dump_json())
    sure = {"name": "AUROC", "value": 1.0, "low": 1.0, "high": 1.0, "reference": 0.5}
    kept = json.dumps({**body, "figures": [sure, {**sure, "name": "accuracy", "low": 0.9}]})
    write_own(home, home.personal / "sure.json", personal.KIND, kept.encode())
    first, second = personal.load(home, "sure").figures
    assert (first.value, first.low, first.high) == (1.0, None, None)
    assert (second.low, second.high) == (0.9, 1.0)
    shown = " ".join(run(home, "personal", "list").stdout.split())
    assert "no interval" in shown
    assert "1.000 to 1.000" not in shown


@pytest.mark.parametrize(
    "ends",
    [{"low": "x", "high": "x"}, {"low": [1], "high": [1]}, {"low": True, "high": True}, {},
     {"low": None}, {"high": None}, {"low": 1e99, "high": 1e99}],
)  # fmt: skip
def test_equal_ends_that_are_no_numbers_or_absent_are_refused(home, features, ends):
    """They were taken for an interval without width before anything looked at them."""
    body = json.loads(made(features, ["a", "b"] * 15, name="bent").model_dump_json())
    kept = {**body, "figures": [{"name": "AUROC", "value": 1.0, "reference": 0.5, **ends}]}
    write_own(home, home.personal / "bent.json", personal.KIND, json.dumps(kept).encode())
    with pytest.raises(Refused, match="is no personal head"):
        personal.load(home, "bent")


def warm_start_digest() -> str:
    from shared_model import warm_start, weights

    return weights.digest(warm_start.load()[1])


def test_a_refusal_says_what_became_of_the_labels_and_which_sensors_would_do(tmp_path, monkeypatch):
    """A store of PPG alone; identifiers that are none; too few whatever the sensors."""
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    node = site.node(tmp_path / "node")
    items = []
    for number in range(24):
        one = site.prepared(number)
        one.signal[:, 0], one.recorded[:, 0] = 0.0, False
        items.append((site.patient_name(number), one))
    site.write(node, items, "ppg")
    labels = speeds(tmp_path / "speed.csv", range(26))
    lacking = run(node, "personalise", labels, "--warm-start").exception
    assert isinstance(lacking, Refused)
    assert "2 are not in the store and 24 have no usable window of both sensors" in lacking.message
    assert lacking.do == "Say --sensors ppg: 24 labelled patients have a usable window of ppg."
    assert run(node, "personalise", labels, "--warm-start", "--sensors", "ppg").exit_code == 0
    strangers = speeds(tmp_path / "others.csv", range(500, 530))
    unknown = run(node, "personalise", strangers, "--warm-start", "--sensors", "ppg").exception
    assert "30 are not in the store and 0 have no usable window of ppg" in unknown.message
    assert "--patient-column" in unknown.do
    few = run(node, "personalise", speeds(tmp_path / "few.csv", range(9)), "--warm-start").exception
    assert "Label more patients" in few.do


HOSTILE = {
    "no text": b"\xff\xfe\x00",
    "zero bytes": b"patient,af\nMRN-00001,1\x00\n",
    "ragged": b"patient,af\nMRN-00001,1,2\n",
    "open quote": b'patient,af\n"MRN-00001,1\n',
    "two labels": b"patient,af\nMRN-00001,1\nMRN-00001,0\n",
    "twice a column": b"patient,af,af\nMRN-00001,1,1\n",
    "long label": b"patient,af\nMRN-00001," + b"x" * 65 + b"\n",
    "no pseudonym": b"pseudonym,af\nMRN-00001,1\n",
    "label that drives a terminal": b"patient,af\nMRN-00001,\x1b[2Jxx\n",
    "column that drives a terminal": b"patient,\x1b]0;xx\x07\nMRN-00001,1\n",
    "zero-width space": "patient,af\nMRN-00001,x\u200bx\n".encode(),
    "tab inside": b"patient,af\nMRN-00001,xx\txx\n",
    "line separator": "patient,af\nMRN-00001,xx\u2028xx\n".encode(),
    "long cell": b"patient,af\n" + b"x" * 200_000 + b",1\n",
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_labels_are_refused_without_a_patients_name(tmp_path, case):
    """The line's number, never what stands in it."""
    with pytest.raises(DataFault) as caught:
        read_labels(csv_of(tmp_path / "x.csv", HOSTILE[case]), KEY)
    assert caught.value.cause == "labels"
    assert "MRN" not in str(caught.value)
    assert "xx" not in str(caught.value)


def test_two_stray_quotes_take_no_labels_of_the_patients_between(tmp_path):
    """The rows between them were one cell, and those patients had no label."""
    text = 'patient,af,note\nMRN-00001,1,"x\nMRN-00002,1,x\nMRN-00003,1,x"\n'
    with pytest.raises(DataFault, match="in line 2"):
        read_labels(csv_of(tmp_path / "x.csv", text), KEY, "af")
    mended = csv_of(tmp_path / "y.csv", text.replace('"', ""))
    assert len(read_labels(mended, KEY, "af").values) == 3


def rows_of(*counts: tuple[str, int], header: str = "patient,af") -> str:
    """CSV: of each cell so many patients."""
    cells = [cell for cell, count in counts for _ in range(count)]
    lines = [f"{site.patient_name(at)},{cell}" for at, cell in enumerate(cells)]
    return "\n".join([header, *lines, ""])


@pytest.mark.parametrize("word", ["none", "None", "no", "normal"])
def test_any_word_is_a_class_and_an_empty_cell_alone_is_no_label(tmp_path, word):
    """A head of mild, severe and "none" called all healthy patients mild or severe."""
    text = rows_of(("mild", 2), (word, 3), ("", 1), ("\u00a0", 1))
    path = csv_of(tmp_path / "x.csv", text)
    read = read_labels(path, KEY)
    assert sorted(read.values.values()) == sorted(["mild", "mild", word, word, word])
    assert read.unlabelled == 2
    other = read_labels(path, KEY, missing=[f" {word.upper()} "])
    assert set(other.values.values()) == {"mild"}


@pytest.mark.parametrize(
    "word",
    [*sorted(labels.MISSING - {"", "none"}), "NA", "Unknown", "<NA>", ".", "missing", "inf"],
)
def test_a_word_that_may_mean_no_value_is_refused_until_it_is_said(tmp_path, word):
    """Neither a class NA of patients of whom nothing is known, nor a class left out in silence."""
    path = csv_of(tmp_path / "x.csv", rows_of(("mild", 2), (word, 3), ("", 1), ("\u00a0", 1)))
    with pytest.raises(DataFault) as caught:
        read_labels(path, KEY)
    assert f"--missing '{word}'" in caught.value.do
    assert read_labels(path, KEY, missing=[word]).unlabelled == 5
    for said in (word, f" {word.upper()} ", word.casefold()):
        other = read_labels(path, KEY, missing=["absent", said])
        assert set(other.values.values()) == {"mild"}
        assert other.unlabelled == 5


def test_a_number_that_means_missing_is_a_number(tmp_path):
    """999 and 999.0 are one; 99 is another."""
    path = csv_of(tmp_path / "x.csv", rows_of(("999", 2), ("999.0", 1), ("99", 1), ("1e1", 1)))
    read = read_labels(path, KEY, missing=["999"])
    assert sorted(read.values.values()) == [10.0, 99.0]
    assert read.unlabelled == 3
    dated = csv_of(tmp_path / "y.csv", rows_of(("01.01.1900", 2), ("7", 1)))
    assert read_labels(dated, KEY, missing=["01.01.1900"]).unlabelled == 2


def test_a_head_knows_its_class_called_none(tmp_path, monkeypatch):
    """Through the command: counted and among the answers; with --missing it is left out."""
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    node = site.node(tmp_path / "node")
    site.add(node, range(24))
    lines = [f"{site.patient_name(n)},{'none' if n % 2 else 'mild'}" for n in range(24)]
    labels = csv_of(tmp_path / "x.csv", "\n".join(["patient,degree", *lines, ""]))
    done = run(node, "personalise", labels, "--warm-start", "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["counts"] == {"mild": 12, "none": 12}
    assert told["rows"]["without a label"] == 0
    rows = json.loads(run(node, "personal", "apply", "degree", "--warm-start", "--json").stdout)
    assert {row["degree"] for row in rows} == {"mild", "none"}
    few = run(node, "personalise", labels, "--warm-start", "--missing", "NONE").exception
    assert isinstance(few, Refused)
    assert "12 rows have no label" in few.message


def test_classes_that_differ_only_in_capitals_are_refused_and_named(tmp_path):
    """By name where five patients share one; a rarer spelling could name a patient."""
    text = rows_of(("yes", 6), ("Yes", 5), ("YES ", 2), ("no", 9), ("no ", 3))
    with pytest.raises(DataFault) as caught:
        read_labels(csv_of(tmp_path / "x.csv", text), KEY)
    assert "A class is spelled in 3 ways" in caught.value.message
    assert "Yes (5 patients), yes (6 patients), 1 of fewer than 5 patients" in caught.value.message
    assert "YES" not in str(caught.value)
    accents = rows_of(("caf\u00e9", 5), ("cafe\u0301", 5))
    with pytest.raises(DataFault, match="spelled in 2 ways"):
        read_labels(csv_of(tmp_path / "y.csv", accents), KEY)
    many = rows_of(*((word, 5) for n in range(4) for word in (f"a{n}", f"A{n}")))
    with pytest.raises(DataFault, match=r"4 classes are spelled in 8 ways.*, 3 more"):
        read_labels(csv_of(tmp_path / "z.csv", many), KEY)


@pytest.mark.parametrize("cell", ['"69,41"', '"-0,5"', '"1.234,5"', '"1,234.5"'])
def test_numbers_with_a_decimal_comma_are_told(tmp_path, cell):
    """They were words, and each a class; asked for as classes they are."""
    path = csv_of(tmp_path / "x.csv", rows_of((cell, 3), ("7", 2)))
    for kind in (None, "number"):
        with pytest.raises(DataFault, match="decimal comma, of 3 patients") as caught:
            read_labels(path, KEY, kind=kind)
        assert "3.5" in caught.value.do
        assert cell.strip('"') not in str(caught.value)
    assert cell.strip('"') in read_labels(path, KEY, kind="class").values.values()


@pytest.mark.parametrize(("mark", "words"), [(";", "semicolons"), ("\t", "tabs"), ("|", "bars")])
def test_other_separators_than_commas_are_told(tmp_path, mark, words):
    """A table saved by a spreadsheet in German; it asked for --patient-column."""
    text = rows_of(("3,5", 4)).replace(",", mark)
    with pytest.raises(DataFault, match=f"separated by {words}"):
        read_labels(csv_of(tmp_path / "x.csv", text), KEY)


def test_words_among_many_numbers_and_thin_classes_are_told(features):
    """Which word means missing the hospital knows; which classes there are is said."""
    mixed = [float(one) for one in range(30)] + ["NA"] * 3
    for kind in (None, "number"):
        with pytest.raises(OurMistake, match="30 labels are numbers, 3 are words") as caught:
            made(features, mixed, kind=kind)
        assert "--missing" in caught.value.do
    with pytest.raises(Refused) as thin:
        made(features, ["mild"] * 20 + ["Dr. Rare"] * 4)
    assert "mild (20 patients), 1 of fewer than 5 patients" in thin.value.message
    assert "Rare" not in str(thin.value)


SPACES = [" ", "\u00a0", "\u202f", "\u2007", "\u3000", "  ", " \u00a0 "]


@pytest.mark.parametrize("space", SPACES)
def test_a_label_is_the_same_with_whatever_spaces(tmp_path, space):
    """Hospital spreadsheets write no-break spaces; no eye tells "stage 1" from "stage 1"."""
    text = f"{space}patient,the{space}stage\nMRN-00001,{space}stage{space}1{space}\n"
    path = csv_of(tmp_path / "x.csv", text + f"MRN-00001,stage 1\nMRN-00002,{space}\n")
    for column in (None, "the stage", f"the{space}stage"):
        read = read_labels(path, KEY, column)
        assert read.column == "the stage"
        assert read.values == {pseudonym_of(KEY, "MRN-00001"): "stage 1"}
        assert read.unlabelled == 1


def test_an_identifier_behind_another_space_is_one(tmp_path):
    """A name or a date is found whatever its spaces."""
    for cell in ("03\u00a0Feb\u00a01950", "1950-02-03\u00a0"):
        dates = csv_of(tmp_path / "z.csv", f"patient,af\nMRN-00001,{cell}\n")
        with pytest.raises(OurMistake, match="identifies"):
            read_labels(dates, KEY)


def test_columns_that_are_none_or_that_identify_are_mistakes(tmp_path):
    """And a link, a folder or a file that is too large is not read at all."""
    path = csv_of(tmp_path / "x.csv", "who,af\nMRN-00001,1\n")
    with pytest.raises(OurMistake, match="no column"):
        read_labels(path, KEY)
    assert len(read_labels(path, KEY, patient_column="who").values) == 1
    two = csv_of(tmp_path / "y.csv", "patient,af,age\nMRN-00001,1,50\n")
    with pytest.raises(OurMistake, match="2 columns"):
        read_labels(two, KEY)
    assert read_labels(two, KEY, "age").values == {pseudonym_of(KEY, "MRN-00001"): 50.0}
    dates = csv_of(tmp_path / "z.csv", "patient,birth_date\nMRN-00001,1950-02-03\n")
    with pytest.raises(OurMistake, match="identifies"):
        read_labels(dates, KEY)
    (tmp_path / "link").symlink_to(path)
    for wrong in (tmp_path / "link", tmp_path, tmp_path / "absent"):
        with pytest.raises(Refused):
            read_labels(wrong, KEY)


def test_head_and_reference_on_another_preset_are_used_with_it(tmp_path):
    """--warm-start was tiny alone; what was refused said to do what could not be done."""
    node = site.node(tmp_path / "node")
    site.add(node, range(24))
    small = ("--warm-start", "--preset", "small")
    made = run(node, "personalise", speeds(tmp_path / "speed.csv", range(24)), *small)
    assert made.exit_code == 0, made.output
    for words, command in (
        (("personal", "apply", "speed"), "fedprint-node personal apply speed"),
        (("drift", "--head", "personal:speed"), "fedprint-node drift --head personal:speed"),
    ):
        other = run(node, *words, "--warm-start").exception
        assert f"{command} --home {node.root} --warm-start --preset small" in other.do
        assert run(node, *words, *small).exit_code == 0
    assert run(node, "drift", "--baseline", *small).exit_code == 0
    other = run(node, "drift", "--warm-start").exception
    here = f"--home {node.root}"
    assert f"drift --baseline --warm-start --preset tiny {here}." in other.do
    assert other.do.endswith(f"fedprint-node drift {here} --warm-start --preset small")
    assert run(node, "drift", *small).exception.reason == "few-patients"


@pytest.mark.parametrize(
    "words",
    [
        ("fingerprint", "recordings", "-o", "out.parquet"),
        ("personalise", "labels.csv"),
        ("personal", "apply", "speed"),
        ("drift",),
        ("drift", "--head", "heads/x"),
    ],
)
def test_preset_is_of_the_packaged_warm_start_and_one_of_those_there_are(tmp_path, words):
    """Before anything is read."""
    node = site.node(tmp_path / "node")
    alone = run(node, *words, "--preset", "small").exception
    assert isinstance(alone, OurMistake)
    assert "--warm-start" in alone.do
    unknown = run(node, *words, "--warm-start", "--preset", "../tiny").exception
    assert isinstance(unknown, OurMistake)
    assert all(one in unknown.do for one in warm_start.packaged())
    command = command_of(app)
    for name in words[: 2 if words[0] == "personal" else 1]:
        command = command.commands[name]
    (option,) = (one for one in command.params if one.name == "preset")
    assert set(option.metavar.split("|")) == set(warm_start.packaged())


def test_a_head_of_another_model_or_a_damaged_file_is_refused(home, features):
    """Never applied to fingerprints that mean something else."""
    head = made(features, ["a", "b"] * 15)
    personal.save(home, head)
    assert personal.load(home, "x") == head
    with pytest.raises(Refused) as caught:
        personal.refuse_other_model(head, "cd" * 32, "fedprint-node x ")
    assert caught.value.reason == "model"
    assert "fedprint-node x" not in caught.value.do
    path = home.personal / "x.json"
    good = path.read_bytes()
    (home.personal / "y.json").write_bytes(good)
    with pytest.raises(Refused):
        personal.load(home, "y")  # a file under another name
    for bad in (b"", b"{", b"[1]", good[:-9], b'{"format":"sealed-1","salt":"","sealed":""}'):
        path.write_bytes(bad)
        with pytest.raises(Refused):
            personal.load(home, "x")
    with pytest.raises(OurMistake):
        personal.load(home, "../../keys/identity")


HUGE = {
    "patients without end": {"patients": 10**400},
    "more patients than people": {"patients": 10**30},
    "huge weights": {"weights": [[1e308] * 128] * 2},
    "a huge factor": {"far_factor": [[1e308] * 128] * 128},
    "no scale to speak of": {"scale": [1e-320] * 128},
    "a huge penalty": {"penalty": 1e300},
    "huge counts": {"counts": {"a": 10**30}},
    "a huge figure": {"figures": [{"name": "x", "value": 1e300, "low": 0.0, "high": 0.0,
                                   "reference": 0.0}]},
}  # fmt: skip


@pytest.mark.parametrize("case", HUGE)
def test_numbers_beyond_any_heads_are_refused_and_hide_no_other_head(
    tmp_path, features, case, monkeypatch
):
    """They would overflow into answers that are no numbers, and a verdict of no drift."""
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    node = site.node(tmp_path / "node")
    good = made(features, ["a", "b"] * 15)
    personal.save(node, good)
    body = {**json.loads(good.model_dump_json()), "name": "bad", **HUGE[case]}
    write_own(node, node.personal / "bad.json", personal.KIND, json.dumps(body).encode())
    with pytest.raises(Refused) as caught:
        personal.load(node, "bad")
    assert caught.value.reason == "files"
    (node.personal / "No Name.json").write_text("{}")
    done = run(node, "personal", "list", "--json")
    assert done.exit_code == 0
    listed = {one["name"]: one.get("refused", "") for one in json.loads(done.stdout)}
    assert listed.pop("x") == ""
    assert set(listed) == {"bad", "No Name"}
    assert all(listed.values())
    assert "bad" in run(node, "personal", "list").stdout


@pytest.mark.parametrize("field", ["label", "classes", "counts"])
def test_a_head_whose_words_drive_a_terminal_is_none(features, field):
    """A file that somebody passed on; its words stand in tables and answers."""
    head = made(features, ["a", "b"] * 15)
    fields = head.model_dump()
    assert personal.PersonalHead.model_validate(fields) == head
    words = {"label": "\x1b[2J", "classes": ("a", "\x1b[2J"), "counts": {"a": 15, "\x07": 15}}
    with pytest.raises(ValueError, match="no screen can show this"):
        personal.PersonalHead.model_validate({**fields, field: words[field]})


def test_a_plain_file_beside_a_key_and_a_sealed_one_without_are_refused(tmp_path, monkeypatch):
    """As the window store does it; and no two writings have one ciphertext."""
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    node, path = site.node(tmp_path / "node"), tmp_path / "node" / "own.json"
    assert write_own(node, path, "a kind", b'{"a":1}') is False
    (tmp_path / CREDENTIAL).write_bytes(bytes(range(32)))
    (tmp_path / CREDENTIAL).chmod(0o400)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    with pytest.raises(Refused, match="not encrypted"):
        read_own(node, path, "a kind", 100)
    assert write_own(node, path, "a kind", b'{"a":1}') is True
    first = path.read_bytes()
    assert read_own(node, path, "a kind", 100) == b'{"a":1}'
    with pytest.raises(Refused, match="not what was written"):
        read_own(node, path, "another kind", 100)
    write_own(node, path, "a kind", b'{"a":1}')
    assert path.read_bytes() != first
    monkeypatch.delenv("CREDENTIALS_DIRECTORY")
    with pytest.raises(Refused, match="encrypted, but no"):
        read_own(node, path, "a kind", 100)


LOCAL = {
    "client.personal", "client.personal_labels", "client.site_fingerprints", "client.drift",
    "client.drift_files", "client.drift_plot", "client.sealed_files", "client.cli_personal",
    "client.cli_drift", "client.drift_head", "client.personal_limits", "client.personal_rows",
    "client.personal_words",
    "shared_model.linear_heads", "shared_model.two_samples",
}  # fmt: skip


def imported(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {str(node.module)} | {f"{node.module}.{one.name}" for one in node.names}
    return found


def test_nothing_that_sends_knows_of_heads_or_drift_and_they_know_nothing_that_sends():
    """Only the command line imports them; they import no network, no egress, no outbox."""
    sends = {"egress", "app", "outbox", "submit", "registry_client", "supernode", "round", "mail"}
    sends |= {"supernode_delivery"}
    network = {"socket", "ssl", "http", "urllib", "grpc", "flwr", "asyncio", "smtplib", "requests"}
    for package in ("client", "shared_model"):
        for path in (ROOT / package).rglob("*.py"):
            name, found = f"{package}.{path.stem}", imported(path)
            if name in LOCAL:
                assert not {one.split(".")[0] for one in found} & network, name
                assert not found & {f"client.{one}" for one in sends}, name
            elif name != "client.cli":
                assert not found & LOCAL, name


def test_the_allow_list_of_what_leaves_has_no_field_for_them():
    """No message, field or mark of the only builder of what leaves."""
    words = {field for fields in egress.ALLOWED.values() for field in fields} | set(egress.ALLOWED)
    for word in ("personal", "head", "drift", "label", "fingerprint", "baseline"):
        held = {one for one in words if word in one}
        assert held <= {"ledger.head"}, word
