"""Figures of a private head: of the noisy histogram alone, right where it can tell, silent where
its noise is larger than its patients."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from head_stand_ins import MODEL, asked, made_head, made_up
from pydantic import ValidationError

from shared_model.errors import OurMistake, Refused
from shared_model.heads import files
from shared_model.heads.arrays import Head
from shared_model.heads.card import card
from shared_model.heads.manifest import BY_AGE, BY_SEX, Figure, Group, HeadManifest
from shared_model.heads.stated import SINCE_FORMAT_4
from simulations.heads import figures, private_figures
from simulations.heads import private_calibration as histogram
from simulations.heads.compare import _measured
from simulations.heads.data import HeadData
from simulations.heads.federate import Ask, private_head
from simulations.heads.hospitals import shared_out
from simulations.heads.private_figures import Found
from simulations.heads.public import NUMBERS, PublicSpace, of_fingerprints

AGE_SCALE = NUMBERS["age"][1]


@pytest.fixture(scope="module")
def space() -> PublicSpace:
    return of_fingerprints(made_up(patients=200, seed=99, strength=0.0).fingerprints, 8)


def trained(space: PublicSpace, data: HeadData, mode: str, **changes: object) -> Head:
    hospitals = shared_out(data, 3, 0)[0]
    usual = {"rounds": 6, "sample_rate": 0.5, "noise": "system"} | changes
    asks = Ask(mode=mode, epsilon=3.0, **usual)  # type: ignore[arg-type]
    return private_head(hospitals, MODEL, space, asks, asked(), borders="made up").head


@pytest.fixture(scope="module")
def heads(space: PublicSpace) -> dict[str, Head]:
    """Trained without noise, so that nothing here depends on luck."""
    return {
        kind: trained(space, made_up(kind, patients=200), "none") for kind in ("classes", "number")
    }


def read(head: Head, data: HeadData, noise_std: float = 0.0, seed: int = 0) -> histogram.ReadOff:
    scale = AGE_SCALE if data.kind == "number" else 1.0
    total = histogram.told(head, data, scale).sum(axis=0)
    total = total + noise_std * np.random.default_rng([seed, 1]).normal(size=total.shape)
    return histogram.read_off(
        total, data.kind, level=0.9, promise="each class", far_level=0.99, scale=scale,
        noise_std=noise_std,
    )  # fmt: skip


def told(seen: histogram.ReadOff, data: HeadData) -> Found:
    number = data.kind == "number"
    return private_figures.figures_of(
        seen, data.kind, classes=len(data.classes), scale=AGE_SCALE if number else 1.0,
        unit=data.unit, draws=200, seed=1,
    )  # fmt: skip


MAIN = [("classes", "accuracy"), ("number", "mean absolute error")]


@pytest.mark.parametrize(("kind", "main"), MAIN)
def test_without_noise_they_are_the_figures_of_the_patients(
    heads: dict[str, Head], kind: str, main: str
) -> None:
    """By sex and age too; the area under the curve up to the width of its bins."""
    data = made_up(kind, patients=300, seed=5, strength=2.0)
    found = told(read(heads[kind], data), data)
    measured = _measured(heads[kind], data, asked())
    of_patients = {one.name: one.value for one in figures.figures(measured)}
    by_name = {one.name.partition(" (")[0]: one.value for one in found.figures}
    assert by_name[main] == pytest.approx(of_patients[main])
    if kind == "classes":
        assert by_name["AUROC"] == pytest.approx(of_patients["AUROC"], abs=0.02)
        assert 0.6 < by_name["AUROC"] < 0.98
        share = of_patients["share of the largest class"]
        assert by_name["share of the largest class"] == pytest.approx(share)
    groups = {group.name: group for group in figures.groups(measured)}
    mine = {group.name: group for group in found.groups}
    assert {name for name, group in mine.items() if group.figures} == set(groups)
    for name, group in groups.items():
        right = {one.name: one.value for one in group.figures}[main]
        assert mine[name].figures[0].value == pytest.approx(right)
    assert "about 300 patients" in found.words


def test_a_figure_is_right_on_the_whole_and_its_interval_holds_what_is_true(
    heads: dict[str, Head],
) -> None:
    """Other patients and other noise a hundred times; true is what 6,000 patients say. A curve from
    the row with the temperature that the noise makes look best lay 0.07 too high."""
    many = made_up(patients=6000, items=1, seed=77, strength=2.0)
    measured = _measured(heads["classes"], many, asked())
    true = {one.name: one.value for one in figures.figures(measured)}
    values: dict[str, list[float]] = {"AUROC": [], "accuracy": []}
    held = dict.fromkeys(values, 0)
    for seed in range(100):
        data = made_up(patients=300, items=1, seed=seed, strength=2.0)
        for one in told(read(heads["classes"], data, 1.5, seed), data).figures:
            name = one.name.partition(" (")[0]
            if name in values:
                assert one.low is not None
                assert one.high is not None
                values[name].append(one.value)
                held[name] += one.low <= true[name] <= one.high
    for name, found in values.items():
        assert len(found) > 80
        assert np.mean(found) == pytest.approx(true[name], abs=0.02), name
        assert held[name] >= 0.9 * len(found), name


def test_a_head_that_gives_everybody_the_same_has_no_area_to_tell(heads: dict[str, Head]) -> None:
    """All pairs are ties: one half, and the interval says that it may be anything."""
    data = made_up(patients=300, items=1, seed=5)
    head = heads["classes"]
    blank = {name: np.zeros_like(head.arrays[name]) for name in ("weight", "bias")}
    same = replace(head, arrays={**head.arrays, **blank})
    area = told(read(same, data), data).figures[0]
    assert area.name == "AUROC (from 20 bins)"
    assert (area.value, area.low, area.high) == (0.5, 0.0, 1.0)


def test_noise_that_hides_the_patients_is_no_figure(heads: dict[str, Head]) -> None:
    """Nobody at all, or too few: hardly a figure in 200 sums, and words in their place."""
    data = made_up(patients=9, seed=5)
    given = 0
    for seed in range(200):
        found = told(read(heads["classes"], data, 6.0, seed), data)
        given += bool(found.figures) or any(group.figures for group in found.groups)
        if not found.figures:
            assert "hides" in found.words
    assert given <= 4, given


def test_noisy_figures_tell_nothing_and_may_be_signed(space: PublicSpace, tmp_path: Path) -> None:
    """Of many patients there is a card with figures by sex and age, at no further cost; of heads
    with figures of patients as they are, no byte has changed."""
    head = trained(space, made_up(patients=1500, items=1), "local")
    manifest = head.manifest
    assert manifest.figures_from == "noisy histogram"
    assert {one.name for one in manifest.figures} >= {"AUROC (from 20 bins)", "accuracy"}
    named = {group.name for group in manifest.groups if group.figures}
    assert {"female", "male", "40 to 64 years"} <= named
    assert not manifest.tells
    text = card(manifest)
    assert "noise of the privacy mechanism" in text
    assert "bootstrap" not in text
    assert "| female | accuracy |" in text
    assert "how many items and windows they have is not stated" in text
    assert " 0 items" not in text
    files.write(tmp_path / "head", head)
    (tmp_path / "head" / "plots").mkdir()  # nothing of it is drawn: pictures are of something else
    with pytest.raises(OurMistake, match=r"is not for: 1\."):
        files.sign(tmp_path / "head", Ed25519PrivateKey.generate())
    (tmp_path / "head" / "plots").rmdir()
    files.sign(tmp_path / "head", Ed25519PrivateKey.generate())
    assert HeadManifest.from_bytes(manifest.to_bytes()) == manifest
    few = trained(space, made_up(patients=40, items=1), "local").manifest
    assert few.figures == ()
    assert "hides" in few.figures_of


def test_what_a_manifest_says_of_its_figures_is_checked(space: PublicSpace) -> None:
    """Nothing passes for noisy that a histogram cannot tell; heads of format 1 keep their bytes."""
    plain = made_head().manifest
    assert plain.figures_from == "patients"
    assert plain.tells
    manifest = trained(space, made_up(patients=600, items=1), "local").manifest
    assert manifest.figures_from == "noisy histogram"
    fields = {name: getattr(manifest, name) for name in type(manifest).model_fields}
    names = ("answered", "accuracy where answered", "mean absolute error", "AUROC")
    for wrong in (
        *({"figures": (Figure(name=name, value=0.5, low=None, high=None),)} for name in names),
        {"groups": (Group(name="nurses", figures=(), why_none=""),)},
        {"figures_public": "the steering group"},
        {"privacy": plain.privacy},
        {"format": 1},
    ):
        with pytest.raises(ValidationError, match="histogram"):
            HeadManifest(**(fields | wrong))
    assert manifest.model_copy(update={"items": 1}).tells
    known = tuple(one for one in plain.figures if one.name not in SINCE_FORMAT_4)
    before = plain.model_copy(update={"format": 1, "figures": known}).to_bytes()
    assert b"figures_from" not in before
    assert HeadManifest.from_bytes(before).to_bytes() == before
    assert "figures are of that rule" in card(HeadManifest.from_bytes(before))
    with pytest.raises(Refused) as caught:
        HeadManifest.from_bytes(
            before.replace(b'"figures_of"', b'"figures_from":"patients","figures_of"')
        )
    assert caught.value.reason == "manifest"


def test_a_training_without_noise_has_no_figure_and_does_not_speak_of_noise(
    heads: dict[str, Head],
) -> None:
    text = card(heads["classes"].manifest)
    assert "WITHOUT noise" in text
    assert "noisy" not in text
    assert heads["classes"].manifest.figures == ()


def test_what_a_task_notes_of_its_patients_is_not_in_a_private_head(space: PublicSpace) -> None:
    """A note may count them: "only 3 patients have AF". Nor may closed data name the classes."""
    data = replace(made_up(patients=90), note="only 3 patients have AF")
    head = trained(space, data, "local")
    assert "only 3" not in card(head.manifest)
    with pytest.raises(OurMistake, match="tells of single patients"):
        trained(space, replace(data, task="rhythm"), "local")


def test_one_patient_more_moves_nobody_to_another_hospital() -> None:
    """Hospitals that patients are dealt out to, as parts, follow from each one's own lot."""
    data = made_up(patients=90)
    without = data.of(np.arange(90) != 17)
    gone = 0
    for whole, less in zip(shared_out(data, 3, 0)[0], shared_out(without, 3, 0)[0], strict=True):
        for part in ("fit", "calibrate", "measure"):
            one, other = getattr(whole, part), getattr(less, part)
            assert set(other.fingerprints[:, 0]) <= set(one.fingerprints[:, 0])
            gone += len(one.truth) - len(other.truth)
    assert gone == 3  # the items of patient 17


def test_a_patient_without_finite_numbers_counts_for_nobody(heads: dict[str, Head]) -> None:
    data = made_up(patients=8, items=2)
    fingerprints = data.fingerprints.copy()
    fingerprints[0:2] = np.nan
    rows = histogram.told(heads["classes"], replace(data, fingerprints=fingerprints), 1.0)
    assert not rows[0].any()
    assert rows[1].any()


def test_each_patient_is_in_one_group_of_each_kind() -> None:
    """Whatever a record says of sex and age; the rows of the histogram rely on it."""
    data = made_up(patients=6, items=2)
    people = replace(
        data.people,
        sex=np.array(["F", "M", "", "X", "F", "M"]),
        age=np.array([-3.0, 39.0, np.nan, 300.0, np.inf, 64.5]),
    )
    named = dict(figures.kinds(replace(data, people=people)))
    assert list(named) == [*BY_SEX, *BY_AGE]
    for names in (BY_SEX, BY_AGE):
        assert (sum(named[name] for name in names) == 1.0).all()
