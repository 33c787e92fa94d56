"""Labels in words that nobody here understands: counted, said, and never taken for a class."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import typer
from head_command_stand_ins import run
from typer.testing import CliRunner

from shared_model.errors import DataFault
from shared_model.heads.manifest import BY_SEX
from simulations import cli_head
from simulations.cohort import SiteEffects, draw_cohort, write_site
from simulations.heads.tasks import LABELS
from simulations.probes import truths
from simulations.probes.task import Builder

app = typer.Typer()
cli_head.register(app)
PATIENTS = 24


@app.callback()
def root() -> None:
    """Keeps `head` a group."""


def clinic(folder: Path, understood: int) -> Path:
    """Simulated patients in German words, but for so many of them."""
    cohort = draw_cohort(np.random.default_rng(5), PATIENTS, 1, SiteEffects(name="clinic"))
    write_site(folder, cohort, "csv")
    table = folder / "recordings.csv"
    rows = list(csv.DictReader(table.read_text().splitlines()))
    for place, row in enumerate(rows):
        row["sex"] = ("F", "M")[place % 2] if place < understood else "weibl."
    with table.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder


def train(folder: Path, output: Path, *words: str) -> Any:
    """The command's JSON."""
    asked = ["train", "sex", "--sites", str(folder), "-o", str(output), "--draws", "20", *words]
    done = CliRunner().invoke(app, ["head", *asked, "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_patients_who_are_left_out_for_their_words_are_counted_in_the_card(tmp_path: Path) -> None:
    """13 of 40 went without a word."""
    told = train(clinic(tmp_path / "clinic", 22), tmp_path / "head")
    assert told["patients"] == 21  # one of the 22 has no usable window
    words = "what 2 patients say of sex is not understood"
    assert any(words in note for note in told["notes"])
    assert words in (tmp_path / "head" / "MODEL_CARD.md").read_text()


def test_sex_in_other_words_is_counted_in_the_card_of_another_task(tmp_path: Path) -> None:
    """docs/heads.md said so; the group "sex not known" was all that was seen of it."""
    folder = clinic(tmp_path / "clinic", 22)
    told = run(
        "train", "age", "--sites", str(folder), "-o", str(tmp_path / "head"), "--draws", "20"
    )
    assert told["patients"] > 22
    words = "what 2 patients say of sex is not understood"
    noted = [note for note in told["notes"] if words in note]
    assert len(noted) == 1
    assert noted[0].endswith(f"in the group {BY_SEX[-1]}")
    assert noted[0] in (tmp_path / "head" / "MODEL_CARD.md").read_text()


def test_patients_who_are_left_out_take_their_words_with_them() -> None:
    """Of windows that are chosen, words go on belonging to those who said them."""
    build = Builder()
    for number, sex in enumerate(("F", "weibl.", "", "weibl.")):
        labels = {"sex": sex, "age": "unter 50" if number == 3 else 50}
        build.know(SimpleNamespace(patient=f"{number}\nward", labels=labels))  # type: ignore[arg-type]
        build.signal.append(np.zeros((2, 1250)))
        build.valid.append(np.ones((2, 50), dtype=bool))
        build.unit.append(number)
        build.truth.append(0.0)
        build.patient.append(f"{number}\nward")
        build.session.append(0)
    task = build.task("made up", "mae", ("ecg",))
    assert task is not None
    assert task.people is not None
    assert task.people.unheard == ((), ("sex",), (), ("sex", "age"))
    left = task.of_patients(np.array([True, False, True, True]))
    assert left is not None
    assert left.people is not None
    assert left.people.unheard == ((), (), ("sex", "age"))


@pytest.mark.parametrize("understood", [0, 16])
@pytest.mark.parametrize("sensors", [(), ("--sensors", "ecg")])
def test_refusal_says_how_many_and_where_the_words_are(
    tmp_path: Path, understood: int, sensors: tuple[str, ...]
) -> None:
    """It said "ppg 0, ecg 0, both 0", and named a page without them, and then that no recording has
    the label that all have. The word itself is not said: it may be anything."""
    folder = clinic(tmp_path / "clinic", understood)
    with pytest.raises(DataFault) as refused:
        train(folder, tmp_path / "head", *sensors)
    assert f"What {PATIENTS - understood} patients say of sex is not understood" in refused.value.do
    count = f"{understood} of the {PATIENTS}" if understood else f"None of the {PATIENTS}"
    told = f"{count} recordings there have a label sex, in words or numbers that are understood."
    assert (told in refused.value.do) == (not sensors or not understood)
    assert "understood label" in refused.value.message
    assert "docs/probes.md" in refused.value.do
    assert "weibl" not in f"{refused.value} {refused.value.do}"


def test_page_to_which_refusals_point_lists_the_words() -> None:
    """Every label of which a truth is made."""
    page = (Path(__file__).resolve().parents[3] / "docs" / "probes.md").read_text()
    for labels in truths.SAID_IN.values():
        assert all(f"`{label}`" in page for label in labels)
    assert "male, female" in page
    assert "docs/probes.md" in LABELS
