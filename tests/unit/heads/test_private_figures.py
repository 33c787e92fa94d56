"""Figures of a private head: of the noisy histogram alone, right where it can tell, silent where
its noise is larger than its patients."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from head_stand_ins import MODEL, asked, made_up

from shared_model.errors import Refused
from shared_model.heads import files
from shared_model.heads.arrays import Head
from shared_model.heads.card import card
from shared_model.heads.manifest import HeadManifest
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
    total = total + noise_std * np.random.default_rng(seed).normal(size=total.shape)
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


@pytest.mark.parametrize(
    ("kind", "main"), [("classes", "accuracy"), ("number", "mean absolute error")]
)
def test_without_noise_they_are_the_figures_of_the_patients(
    heads: dict[str, Head], kind: str, main: str
) -> None:
    """By sex and by age too; the area under the curve up to the width of its bins."""
    data = made_up(kind, patients=300, seed=5, strength=2.0)
    found = told(read(heads[kind], data), data)
    measured = _measured(heads[kind], data, asked())
    of_patients = {one.name: one.value for one in figures.figures(measured)}
    assert {one.name: one.value for one in found.figures}[main] == pytest.approx(of_patients[main])
    if kind == "classes":
        by_name = {one.name: one.value for one in found.figures}
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


def test_an_interval_holds_the_patients_figure_as_often_as_it_says(heads: dict[str, Head]) -> None:
    """Noise of the mechanism drawn 200 times; 95 % intervals, which count the patients' chance too,
    hold the figure without noise in nearly all."""
    data = made_up(patients=300, seed=5, strength=2.0)
    exact = {one.name: one.value for one in told(read(heads["classes"], data), data).figures}
    held = dict.fromkeys(exact, 0)
    for seed in range(200):
        for one in told(read(heads["classes"], data, 1.5, seed), data).figures:
            assert one.low is not None
            assert one.high is not None
            held[one.name] += one.low <= exact[one.name] <= one.high
    assert min(held.values()) >= 185, held


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
    assert {one.name for one in manifest.figures} >= {"AUROC", "accuracy"}
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
    files.sign(tmp_path / "head", Ed25519PrivateKey.generate())
    assert HeadManifest.from_bytes(manifest.to_bytes()) == manifest
    few = trained(space, made_up(patients=40, items=1), "local").manifest
    assert few.figures == ()
    assert "hides" in few.figures_of


def test_what_a_manifest_says_of_its_figures_is_checked(heads: dict[str, Head]) -> None:
    manifest = heads["classes"].manifest
    assert manifest.figures_from == "patients"
    assert manifest.tells
    plain = manifest.to_bytes()
    assert b"figures_from" not in plain
    for word in (b"patients", b"noisy histogram"):
        written = plain.replace(b'"figures_of"', b'"figures_from":"' + word + b'","figures_of"')
        with pytest.raises(Refused) as caught:
            HeadManifest.from_bytes(written)
        assert caught.value.reason == "manifest"


def test_a_training_without_noise_does_not_speak_of_noise(heads: dict[str, Head]) -> None:
    text = card(heads["classes"].manifest)
    assert "WITHOUT noise" in text
    assert "noisy" not in text


def test_each_patient_is_in_one_group_of_each_kind() -> None:
    """Whatever a record says of sex and age; the rows of the histogram rely on it."""
    data = made_up(patients=6, items=2)
    people = replace(
        data.people,
        sex=np.array(["F", "M", "", "X", "F", "M"]),
        age=np.array([-3.0, 39.0, np.nan, 300.0, np.inf, 64.5]),
    )
    named = dict(figures.kinds(replace(data, people=people)))
    assert list(named) == [*figures.BY_SEX, *figures.BY_AGE]
    for names in (figures.BY_SEX, figures.BY_AGE):
        assert (sum(named[name] for name in names) == 1.0).all()
