"""A head's measured file: beside the folder, without figures that the head itself may not have."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from head_command_stand_ins import run
from head_folder_stand_ins import own_words, ward, with_mapping
from head_stand_ins import MODEL, asked, made_head, made_up
from private_head_stand_ins import ask, hospitals_of

from shared_model.errors import OurMistake
from shared_model.heads import files
from shared_model.heads.stated import ACCURACY_OF_SAME
from simulations import measurement, results_page
from simulations.heads import measured, public
from simulations.heads.compare import Compared, compare
from simulations.heads.public import PublicSpace, of_fingerprints

WHO = "the steering group, 2026"


@pytest.fixture(scope="module")
def space() -> PublicSpace:
    """Of fingerprints that are nobody's."""
    return of_fingerprints(made_up(patients=200, seed=99, strength=0.0).fingerprints, 8)


def compared(
    space: PublicSpace, noise: str = "system", who: str = "", open_data: str = ""
) -> Compared:
    """A private head beside the others, of patients who are many enough for figures."""
    data = made_up(patients=300, items=1, strength=3.0)
    return compare(
        hospitals_of(data), MODEL, space, ask(mode="local", epsilon=50.0, noise=noise),
        asked(open_data=open_data), borders="made up", figures_public=who,
    )  # fmt: skip


def numbers(value: Any) -> set[float]:
    """All numbers in a document that are no round ones."""
    if isinstance(value, dict):
        return set().union(*(numbers(one) for one in value.values()))
    if isinstance(value, list | tuple):
        return set().union(*(numbers(one) for one in value))
    return {value} if isinstance(value, float) and value * 1000 % 1 else set()


def test_private_head_has_nothing_in_it_that_its_manifest_has_not(space: PublicSpace) -> None:
    """The report beside it has rows of held-out patients without noise; none is in the file."""
    made = compared(space)
    told = measured.figures_of(made.head, made.report)
    assert told["figures_from"] == "noisy histogram"
    assert told["figures"]
    assert told["federated"] == {"rows": [], "measured_on": ""}
    assert told["public"] == "no figure of patients without noise"
    manifest = made.head.manifest.model_dump(mode="json")
    assert numbers(told) <= numbers(manifest)
    rows = [row for row in made.report["rows"] if "the noisy histogram" not in row["row"]]
    assert len(rows) == 4
    held_out = numbers(rows)
    assert len(held_out) > 10
    assert not numbers(told) & held_out
    assert made.report["measured_on"].split()[0] not in json.dumps(told["figures_of"]).split()
    assert told["class_counts"] == []
    assert told["items"] == told["windows"] == told["left_out"] == 0


def test_figures_that_somebody_declared_public_are_the_heads_own_alone(space: PublicSpace) -> None:
    """He decided on the head's; what other trainings have on these patients stays, and which class
    is the largest of those trained on."""
    made = compared(space, who=WHO)
    told = measured.figures_of(made.head, made.report)
    own = {name: one for name, one in made.report["rows"][0].items() if name != "row"}
    shown = {one["name"]: one for one in told["figures"]}
    del own[ACCURACY_OF_SAME], shown["share of the largest class"]
    assert shown == own
    assert told["federated"]["rows"] == []
    assert told["public"].endswith(WHO)
    pooled = numbers(made.report["rows"][-2])
    assert pooled
    assert not pooled & numbers(told)


def test_rows_of_open_data_are_all_there(space: PublicSpace) -> None:
    """The private head, what its card says, the same without noise, pooled, and a constant."""
    made = compared(space, open_data="made up for a test")
    told = measured.figures_of(made.head, made.report)
    assert told["federated"]["rows"] == made.report["rows"]
    assert len(told["federated"]["rows"]) == 5
    assert told["public"] == "the data are open: made up for a test"


def test_file_says_whose_figures_nobody_has_said_may_be_seen(space: PublicSpace) -> None:
    """Of a head without noise, and of seeded noise, which protects nobody, whoever decided."""
    assert measured.figures_of(made_head())["public"] == measured.NOT_PROTECTED
    for who in ("", WHO):
        made = compared(space, noise="NonPrivateForTests", who=who)
        assert measured.figures_of(made.head, made.report)["public"] == measured.NOT_PROTECTED
    told = measured.figures_of(made_head(open_data="made up"))
    assert told["public"] == "the data are open: made up"
    assert told["federated"] is None
    assert "curve" not in told["sets"]


def test_file_lies_beside_the_folder_and_never_over_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its owner's alone; said before a model is opened; and the folder stays one to sign."""
    monkeypatch.chdir(tmp_path)
    head = made_head(open_data="made up")
    files.write(Path("heads/sex"), head)
    path = measured.write(Path("heads/sex"), head, MODEL, seconds=1.0)
    assert path == tmp_path / "heads" / "measured-head-sex.json"
    assert path.match(results_page.FILES)
    assert path.stat().st_mode & 0o777 == 0o600
    assert {one.name for one in Path("heads/sex").iterdir()} <= set(files.FILES)
    for output in ("heads/sex/", "heads/../heads/sex"):
        assert measured.file_of(Path(output)) == path
    (tmp_path / "heads" / "sex" / files.MANIFEST).unlink()

    def opened(*_: object) -> None:
        raise AssertionError("a model was opened")

    monkeypatch.setattr("simulations.models.open_model", opened)
    for command in ("train", "federate"):
        with pytest.raises(OurMistake, match=r"measured-head-sex\.json is there already"):
            run(command, "sex", "-o", "heads/sex")


def test_federated_head_of_own_labels_is_measured_by_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closed data: what the report says of held-out patients is not in the file; the usual sensors,
    and no look at the folders for others; numbers of patients that were declared; whole minutes;
    and what the truth is."""
    monkeypatch.setattr(public, "space_of", partial(public.space_of, windows=200))
    folder = with_mapping(ward(tmp_path / "ward-7", "csv", own_words))
    words = ("--sites", str(folder), "--hospitals", "2", "--mode", "local", "--rounds", "2")
    words += ("--declared", "8", "--declared", "120")
    told = run("federate", "af", "-o", str(tmp_path / "heads" / "af"), *words, "--draws", "20")
    found = measurement.read(Path(told["measured"]))
    assert found.kind == "head"
    assert found.figures["task"] == "af"
    assert found.figures["sensors"] == "ecg"
    assert found.figures["federated"]["rows"] == []
    assert found.figures["figures_from"] == told["figures_from"] == "noisy histogram"
    assert not numbers(told["rows"][0]) & numbers(found.figures)
    assert found.figures["head"] == told["digest"]
    assert [one["declared_patients"] for one in told["hospitals"]] == [4, 67]
    assert found.figures["patients"] == 71
    assert found.seconds > 0
    assert found.seconds % 60 == 0
    assert any("label af or rhythm stands for every window" in n for n in found.figures["notes"])
    assert not any("recordings without annotations" in note for note in found.figures["notes"])


def test_a_private_head_of_closed_data_tells_minutes(space: PublicSpace) -> None:
    """Tenths of a second count its windows."""
    closed = compared(space).head.manifest
    assert [measured.told_seconds(closed, one) for one in (0.1, 60.0, 60.1)] == [60.0, 60.0, 120.0]
    for other in (compared(space, open_data="made up").head.manifest, made_head().manifest):
        assert measured.told_seconds(other, 60.1) == 60.1
