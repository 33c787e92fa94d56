"""Heads trained over hospitals: one patient moves no sum by more than the clipping norm, the noise
is as large as it says, and nothing is written down that has none."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from head_stand_ins import MODEL, asked, made_up
from hypothesis import given, settings
from hypothesis import strategies as st
from private_head_stand_ins import ROUNDS, ask, hospitals_of, made

from shared_model import privacy, signing
from shared_model.accounting import epsilon_pld
from shared_model.config import PrivacyPlan
from shared_model.errors import DataFault, OurMistake, Refused
from shared_model.heads import files
from shared_model.heads.answers import answer
from simulations.heads import private_calibration as histogram
from simulations.heads.compare import compare, with_figures
from simulations.heads.data import HeadData
from simulations.heads.federate import calibration_plan, private_head, settle
from simulations.heads.hospitals import divided, features_of, shared_out, together
from simulations.heads.private_steps import LinearUnit, PatientTensors, noise_of, summed, tensors
from simulations.heads.public import PublicSpace, of_fingerprints
from simulations.models import open_model


@pytest.fixture(scope="module")
def space() -> PublicSpace:
    """Of fingerprints that are nobody's."""
    return of_fingerprints(made_up(patients=200, seed=99, strength=0.0).fingerprints, 8)


@settings(max_examples=10, deadline=None)
@given(scale=st.floats(1e-3, 1e6), seed=st.integers(0, 10_000), kind=st.integers(0, 2))
def test_one_patient_moves_a_step_by_no_more_than_the_clipping_norm(
    scale: float, seed: int, kind: int
) -> None:
    """However large a fingerprint, however many windows: one patient out, and the clipped sum moves
    by at most C. All three losses."""
    rng = torch.Generator().manual_seed(seed)
    outputs, name = ((1, "number"), (1, "classes"), (3, "classes"))[kind]
    targets = 1 if name == "number" else max(2, outputs)
    unit = LinearUnit(outputs, 8, name)
    patients = PatientTensors(
        scale * torch.randn((6, 5, 8), generator=rng),
        torch.rand((6, 5, targets), generator=rng),
        (torch.rand((6, 5), generator=rng) > 0.3).float(),
    )
    parameters = {key: value.detach() for key, value in unit.named_parameters()}

    def total(batch: Any) -> np.ndarray:
        return privacy.clipped_sum(unit, parameters, batch, 0.7, chunk=4)

    assert privacy.measured_sensitivity(total, patients.rows(np.arange(6)), 0.7) <= 1.0


def test_windows_of_a_patient_are_one_term(space: PublicSpace) -> None:
    """The same windows twice are the same patient: the mean loss, not the sum, is clipped."""
    data = made_up(patients=4, items=2)
    twice = np.concatenate([np.arange(8), np.arange(8)])
    more = replace(
        data, fingerprints=data.fingerprints[twice], truth=data.truth[twice],
        patient=data.patient[twice], session=data.session[twice],
    )  # fmt: skip
    unit = LinearUnit(1, 8, "classes")
    parameters = {key: value.detach() for key, value in unit.named_parameters()}
    sums = [
        privacy.clipped_sum(
            unit, parameters, tensors(one, space, 4).rows(np.arange(4)), 10.0, chunk=4
        )
        for one in (data, more)
    ]
    assert np.allclose(sums[0], sums[1], atol=1e-6)


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 1000))
def test_one_patient_moves_the_histogram_by_no_more_than_one(seed: int) -> None:
    """All rows of a patient together have norm at most 1, the clipping norm; the rows of figures,
    with half the height, make the others' noise 6 % larger than it was without them."""
    head = _heads()
    data = made_up(patients=8, items=3, seed=seed, strength=3.0)
    rows = histogram.told(head, data, 1.0)
    assert rows.shape == (8, *histogram.shape_of("classes", 2))
    assert np.linalg.norm(rows.reshape(8, -1), axis=1).max() <= 1.0 + 1e-12
    height, norm = histogram.heights("classes", 2)
    assert np.allclose(rows.sum(axis=2) * norm, height[:, 0])
    assert norm**2 == pytest.approx(6.0 + 3.0 * 0.25)


_made: list[Any] = []


def _heads() -> Any:
    if not _made:
        public = of_fingerprints(made_up(patients=200, seed=99, strength=0.0).fingerprints, 8)
        _made.append(made(public, made_up(patients=90), ask(mode="none")).head)
    return _made[0]


def test_part_of_a_patient_does_not_depend_on_the_others() -> None:
    """One patient less, and everybody else stays with the steps, the histogram or the figures:
    without that a patient would pay for both mechanisms."""
    data = made_up(patients=80, items=1)
    whole = divided("one", data, 3)
    kept = np.arange(80) != 17
    less = divided("one", data.of(kept), 3)
    for part in ("fit", "calibrate", "measure"):
        before, after = (set(getattr(one, part).patient.tolist()) for one in (whole, less))
        assert before - {17} == after
    parts = [set(getattr(whole, part).patient.tolist()) for part in ("fit", "calibrate", "measure")]
    assert sum(len(part) for part in parts) == 80
    assert set().union(*parts) == set(range(80))


@pytest.mark.parametrize("mode", ["local", "distributed"])
def test_noise_in_the_sum_is_as_large_as_stated(space: PublicSpace, mode: str) -> None:
    """No data at all: what comes out of the sum has the standard deviation that the plan says, of a
    step and of the histogram."""
    hospitals = hospitals_of(made_up(patients=90))
    asks = ask(mode=mode)
    settled = settle(asks, hospitals, 4000, 0)
    run, setup = settled.privacy, settled.setup
    like = {"weight": np.zeros(4000, dtype=np.float32)}
    updates = []
    for one, declared in zip(hospitals, settled.declared, strict=True):
        source = noise_of(setup, one.name, 1)
        nothing = np.zeros(4000)
        update = nothing if mode == "distributed" else privacy.noisy_mean(
            nothing, run.plan, declared, source
        )  # fmt: skip
        updates.append(({"weight": update}, source))
    numbers = setup.numbers(settled.declared, settled.weights)
    found = summed(updates, numbers, settled.weights, 1, like)["weight"]
    wanted = run.noise_to_signal(settled.declared, settled.weights) / math.sqrt(4000)
    assert found.std() == pytest.approx(wanted, rel=0.06)
    assert abs(found.mean()) < 4 * wanted / math.sqrt(4000)


def test_epsilon_that_is_stated_is_the_accountants_and_no_more_than_asked(
    space: PublicSpace,
) -> None:
    """Of the steps and of the histogram, each computed again from the stated mechanism."""
    head = made(space, made_up(patients=90), ask(mode="local")).head
    stated = head.manifest.privacy
    assert stated.steps == ROUNDS
    assert stated.sample_rate is not None
    assert stated.noise_multiplier is not None
    plan = PrivacyPlan(stated.sample_rate, stated.noise_multiplier, 1.0, stated.steps)
    spent = stated.spent[0]
    assert epsilon_pld([plan], spent.delta) <= spent.epsilon <= 3.0
    settled = settle(ask(mode="local"), hospitals_of(made_up(patients=90)), 9, 0)
    histogram_plan, epsilon = calibration_plan(settled, ask(mode="local"), 120)
    assert histogram_plan.sample_rate == 1.0
    assert epsilon_pld([histogram_plan], settled.privacy.delta) == epsilon
    assert epsilon <= spent.epsilon


def test_federated_head_learns_what_is_there(space: PublicSpace) -> None:
    """Without noise, and at epsilon 3 of many patients, it separates the classes of others."""
    data = made_up(patients=240, items=2, strength=8.0)
    data = replace(data, fingerprints=_turned(data, space))
    fresh = made_up(patients=100, items=2, strength=8.0, seed=7)
    fresh = replace(fresh, fingerprints=_turned(fresh, space))
    right = {}
    for name, asks in {
        "none": ask(mode="none"),
        "private": ask(),
    }.items():
        head = made(space, data, asks).head
        told = [one.probabilities[1] > 0.5 for one in answer(head, fresh.fingerprints)]
        right[name] = float(np.mean(np.array(told) == fresh.truth.astype(bool)))
    assert right["none"] > 0.8
    assert right["private"] > 0.7


def _turned(data: HeadData, space: PublicSpace) -> np.ndarray:
    """The truth along the first public direction, so that eight of them are enough."""
    way = np.linalg.pinv(space.directions)[:, 0] * space.scale
    signs = 2.0 * data.truth - 1.0
    found = data.fingerprints + 1.5 * signs[:, None] * way[None]
    return np.asarray(found, dtype=np.float32)


def test_histogram_without_noise_reads_off_what_the_patients_say() -> None:
    """Coverage of the sets on the very patients: at least the level, and not everything."""
    head = _heads()
    data = made_up(patients=300, items=2, seed=3, strength=8.0)
    rows = histogram.told(head, data, 1.0)
    found = histogram.read_off(
        histogram.summed_histogram([rows[:100], rows[100:]]), "classes", level=0.9,
        promise="each class", far_level=0.99, scale=1.0, noise_std=0.0,
    )  # fmt: skip
    assert found.patients == pytest.approx(300.0)
    heat = head.manifest.temperature.model_copy(update={"temperature": found.temperature})
    sets = head.manifest.sets.model_copy(update={"least": found.least})
    manifest = head.manifest.model_copy(update={"temperature": heat, "sets": sets})
    answers = answer(replace(head, manifest=manifest), data.fingerprints)
    names = head.manifest.classes
    for place, name in enumerate(names):
        of_class = [a for a, t in zip(answers, data.truth, strict=True) if int(t) == place]
        inside = np.mean([name in one.possible for one in of_class])
        assert 0.9 <= inside < 1.0


def test_histogram_that_is_all_noise_promises_nothing() -> None:
    """Sets of all classes, no interval, no word on distance."""
    rng = np.random.default_rng(0)
    promised = 0
    for _ in range(200):
        found = histogram.read_off(
            50.0 * rng.normal(size=histogram.shape_of("classes", 2)), "classes", level=0.9,
            promise="each class", far_level=0.99, scale=1.0, noise_std=50.0,
        )  # fmt: skip
        number = histogram.read_off(
            50.0 * rng.normal(size=histogram.shape_of("number", 0)), "number", level=0.9,
            promise="overall", far_level=0.99, scale=20.0, noise_std=50.0,
        )  # fmt: skip
        assert ("interval" in number.hidden) == (number.half_width > 59.9)
        assert ("distance" in number.hidden) == (number.far == histogram.DISTANCES[-1])
        promised += (max(found.least) > 0.0) + ("interval" not in number.hidden)
        promised += "distance" not in number.hidden
    assert promised <= 3  # of 600


def test_private_head_has_no_figure_and_no_count_of_anybody(
    space: PublicSpace, tmp_path: Path
) -> None:
    """With real noise it may be signed as it is; seeded noise may not; nor figures that nobody
    declared public."""
    data = made_up(patients=90)
    key = Ed25519PrivateKey.generate()
    head = made(space, data, ask(noise="system")).head
    assert not head.manifest.tells
    assert head.manifest.class_counts == ()
    files.write(tmp_path / "system", head)
    files.sign(tmp_path / "system", key)
    files.verify(tmp_path / "system", signing.public_bytes(key))
    seeded = made(space, data, ask()).head
    assert "NOT PRIVATE" in seeded.manifest.privacy.noise
    files.write(tmp_path / "seeded", seeded)
    held_out = together([one.measure for one in hospitals_of(data)])
    shown = with_figures(head, held_out, asked(), "")
    assert shown.manifest.tells
    files.write(tmp_path / "shown", shown)
    for name in ("seeded", "shown"):
        with pytest.raises(Refused) as caught:
            files.sign(tmp_path / name, key)
        assert caught.value.reason == "not private"
    decided = with_figures(head, held_out, asked(), "the steering group, 2026")
    files.write(tmp_path / "decided", decided)
    files.sign(tmp_path / "decided", key)
    assert "the steering group" in (tmp_path / "decided" / files.CARD).read_text()


def test_report_says_lab_only_and_compares_on_the_same_patients(space: PublicSpace) -> None:
    """Private, without noise, pooled, and a constant; the words name what is not in force."""
    data = replace(
        made_up("number", patients=90),
        unknown="what 3 patients say is lost: left out", mappings=("ward: read by its own",),
    )  # fmt: skip
    hospitals = hospitals_of(data)
    found = compare(hospitals, MODEL, space, ask(), asked(), borders="PRETEND HOSPITALS")
    rows = [row["row"] for row in found.report["rows"]]
    assert len(rows) == 4
    assert "NO PRIVACY" in rows[0]  # seeded noise
    assert "NO PRIVACY" in rows[1]
    assert "NO PRIVACY" in rows[2]
    words = " ".join(found.report["words"])
    assert "LAB ONLY: no secure sum of a deployed run was in force" in words
    assert "PRETEND HOSPITALS" in words
    assert found.report["words"][-2:] == [
        "ward: read by its own", "What 3 patients say is lost: left out."
    ]  # fmt: skip
    assert "3 patients say" not in found.head.manifest.model_dump_json()  # no noise hides how many
    assert not found.report["figures_in_manifest"]
    assert json.dumps(found.report)


def test_hospital_without_anybody_for_the_histogram_adds_noise_alone(space: PublicSpace) -> None:
    """Whom the lots leave without such a patient still takes part; else that would be told."""
    hospitals = hospitals_of(made_up(patients=90))
    nobody = hospitals[0].calibrate.of(np.zeros(90, dtype=np.bool_))
    hospitals[0] = replace(hospitals[0], calibrate=nobody, measure=nobody)
    found = private_head(hospitals, MODEL, space, ask(), asked(), borders="made up")
    assert found.head.manifest.privacy.spent[0].hospital == hospitals[0].name
    assert together([one.measure for one in hospitals]).patients > 0


def test_distributed_round_is_one_step_and_a_federation_has_two_hospitals(
    space: PublicSpace,
) -> None:
    """Refused before anything is trained."""
    hospitals = hospitals_of(made_up(patients=90))
    with pytest.raises(OurMistake, match="one step"):
        settle(ask(steps=2), hospitals, 9, 0)
    with pytest.raises(OurMistake, match="two hospitals"):
        settle(ask(), hospitals[:1], 9, 0)
    with pytest.raises(OurMistake, match="one folder"):
        shared_out(made_up(), None, 0)
    named = shared_out(made_up(patients=90, folders=("a", "b", "c")), None, 0)[0]
    assert [one.name for one in named] == ["a", "b", "c"]


def test_a_named_hospital_without_a_label_does_not_vanish() -> None:
    """It did, and where one was left that was called one folder."""
    data = made_up(patients=90, folders=("a", "b", "c"))
    read = [Path(one) for one in "abcd"]
    with pytest.raises(DataFault, match="Hospital d has no patient with a label"):
        shared_out(data, None, 0, read, named=True)
    with pytest.raises(DataFault, match="Hospital b has no patient with a label"):
        shared_out(made_up(folders=("a",)), None, 0, read[:2], named=True)
    without = "; no patient with a label in d"
    assert shared_out(data, None, 0, read)[1].endswith(without)
    assert shared_out(data, 5, 0, read, named=True)[1].endswith(without)
    assert "no patient" not in shared_out(data, None, 0, read[:3], named=True)[1]


def test_fingerprints_of_one_sensor_do_not_see_the_other() -> None:
    """Windows without a sensor have no fingerprint of it; NaN where one of both is missing."""
    signal = np.random.default_rng(0).standard_normal((4, 2, 1250)).astype(np.float32)
    valid = np.ones((4, 2, 50), dtype=bool)
    valid[1, 0], valid[2, 1], valid[3] = False, False, False
    model = open_model("warm-start")
    for sensors, known in (("both", [0]), ("ecg", [0, 2]), ("ppg", [0, 1])):
        found = features_of(model, sensors, signal, valid)
        assert list(np.flatnonzero(np.isfinite(found).all(axis=1))) == known
        other = signal.copy()
        if sensors != "both":
            other[:, 1 if sensors == "ecg" else 0] += 1.0
        assert np.array_equal(features_of(model, sensors, other, valid), found, equal_nan=True)
