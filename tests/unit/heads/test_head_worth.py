"""What a federated head is worth: training without privacy is stable on any data, a head that is
worse than always the same answer is said to be, and what nobody was measured for is named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from head_stand_ins import MODEL, asked, made_up
from hypothesis import given, settings
from hypothesis import strategies as st
from private_head_stand_ins import ask, hospitals_of
from typer.testing import CliRunner

from shared_model.errors import Refused
from shared_model.heads.arrays import Head
from shared_model.heads.card import card
from shared_model.heads.manifest import Figure, HeadManifest
from shared_model.heads.stated import (
    ACCURACY_OF_SAME,
    ERROR_OF_SAME,
    OF_MEDIAN,
    OWN_MEDIAN,
)
from simulations import cli_head, cli_head_federate
from simulations.heads import federate, figures, fit, measured, verify
from simulations.heads.compare import OF_NOISY, Compared, compare
from simulations.heads.data import HeadData
from simulations.heads.federate import private_head
from simulations.heads.hospitals import Hospital
from simulations.heads.private_steps import LinearUnit, PatientTensors, stable_rate
from simulations.heads.public import PublicSpace, of_fingerprints
from simulations.heads.train import train
from simulations.probes.evaluate import metric

AF = "atrial fibrillation"
FREE = "federated, NO PRIVACY: no clipping, no noise"


@pytest.fixture(scope="module")
def space() -> PublicSpace:
    """Of fingerprints that are nobody's."""
    return of_fingerprints(made_up(patients=200, seed=99, strength=0.0).fingerprints, 8)


def far_away(data: HeadData, space: PublicSpace) -> HeadData:
    """The same patients with fingerprints unlike the public ones: 40 deviations away, wider too."""
    moved = 40.0 * np.linalg.pinv(space.directions)[:, :1].T + 3.0 * space.x(data.fingerprints)
    return replace(data, fingerprints=(space.mean + space.scale * moved).astype(np.float32))


def compared(space: PublicSpace, hospitals: list[Hospital], asks: Any, **words: Any) -> Compared:
    """A head with the rows beside it."""
    return compare(hospitals, MODEL, space, asks, asked(**words), borders="made up")


def of_one_class(data: HeadData) -> list[Hospital]:
    """Hospitals whose held-out patients are all of the first class."""
    return [
        replace(one, measure=replace(one.measure, truth=np.zeros_like(one.measure.truth)))
        for one in hospitals_of(data)
    ]


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("rate", [0.5, 9.0])
def test_training_without_privacy_is_stable_on_data_unlike_the_public_ones(
    space: PublicSpace, steps: int, rate: float
) -> None:
    """Whatever rate is asked: it was 458 years on real patients, of whom the median is off by 12;
    that the rate was lowered is said, and by how much."""
    data = far_away(made_up("number", patients=90), space)
    asks = ask(mode="none", steps=steps, rounds=40, sample_rate=0.2, learning_rate=rate)
    found = compared(space, hospitals_of(data), asks, open_data="made up")
    row = found.report["rows"][0]
    assert row["row"] == FREE
    assert row["mean absolute error"]["value"] < 1.02 * row[ERROR_OF_SAME]["value"]
    assert any(f"steps of {rate:g} that nothing clips" in one for one in found.report["words"])


@settings(max_examples=12, deadline=None)
@given(
    kind=st.sampled_from(["number", "two", "three"]),
    wide=st.floats(0.1, 1e3),
    rate=st.floats(0.05, 1.0),
    seed=st.integers(0, 1000),
)
def test_rate_is_stable_in_the_mean_square_of_any_sample(
    kind: str, wide: float, rate: float, seed: int
) -> None:
    """The second moment of a Poisson sample's curvature, times the rate, is no more than the
    curvature itself: no step takes the weights further from the optimum. All three losses."""
    outputs = {"number": 1, "two": 1, "three": 3}[kind]
    rng = np.random.default_rng(seed)
    z = wide * rng.normal(size=(7, 2, 3)) + wide * 5.0 * rng.normal(size=3)
    truth = torch.zeros((7, 2, {"number": 1, "two": 2, "three": 3}[kind]))
    patients = PatientTensors(torch.from_numpy(z), truth, torch.ones((7, 2)))
    unit = LinearUnit(outputs, 3, "number" if kind == "number" else "classes").double()

    def loss(flat: torch.Tensor, *one: torch.Tensor) -> torch.Tensor:
        weight, bias = flat[: 3 * outputs].reshape(outputs, 3), flat[3 * outputs :]
        return torch.func.functional_call(unit, {"weight": weight, "bias": bias}, one)

    start = torch.zeros(4 * outputs, dtype=torch.float64)
    curvature = torch.func.jacrev(torch.func.jacrev(loss))
    rows = [patients.rows(np.array([place])) for place in range(7)]
    each = [curvature(start, *(part[0].double() for part in row)) for row in rows]
    mean = torch.stack(each).sum(0).numpy() / 7
    squares = sum((one @ one).numpy() for one in each)
    second = mean @ mean + (1.0 - rate) / (rate * 7**2) * squares
    found = stable_rate([patients], [7], rate, outputs, unit.kind)
    gap = np.linalg.eigvalsh(mean - found * second)
    assert gap.min() >= -1e-9 * np.abs(gap).max()


@pytest.mark.parametrize("mode", ["local", "distributed"])
def test_rate_of_private_steps_is_bounded_by_their_noise(space: PublicSpace, mode: str) -> None:
    """Of public numbers alone: patients that are other people, and as many, change nothing. A rate
    that somebody names is taken; it is said where it was lowered."""
    few = hospitals_of(made_up("number", patients=60))
    other = hospitals_of(far_away(made_up("number", patients=60), space))
    many = [replace(one, told=5_000) for one in few]
    asks = ask(mode=mode, rounds=20)
    made = [
        private_head(hospitals, MODEL, space, one, asked(), borders="made up").settled
        for hospitals, one in (
            (few, asks),
            (other, asks),
            (many, asks),
            (few, replace(asks, learning_rate=0.4)),
        )
    ]
    rates = [one.setup.experiment.algorithm.learning_rate for one in made]
    assert rates[0] == rates[1] < 0.4
    assert rates[2:] == [0.5, 0.4]
    assert all(one.privacy.epsilon(20) == made[0].privacy.epsilon(20) for one in made[:2])
    walked = federate.quiet_rate(made[0], space.components)
    assert rates[0] == pytest.approx(walked)
    words = compared(space, few, asks).report["words"]
    assert any(f"With privacy the learning rate is {rates[0]:.3g}" in one for one in words)


def test_lowered_rate_is_said_in_the_report_alone(space: PublicSpace) -> None:
    """It follows from patients, so that no file that may leave has it; a small one is kept."""
    hospitals = hospitals_of(far_away(made_up("number", patients=90), space))
    found = compared(space, hospitals, ask())
    other = compared(space, hospitals_of(made_up("number", patients=90)), ask(learning_rate=0.01))
    assert any("Without privacy the learning rate is" in one for one in found.report["words"])
    assert not any("Without privacy the" in one for one in other.report["words"])
    assert "learning rate" not in found.head.manifest.model_dump_json()


@pytest.mark.parametrize("open_data", ["", "made up"])
def test_head_that_is_worse_than_always_the_same_answer_is_said_to_be(
    space: PublicSpace, open_data: str
) -> None:
    """In the report always; in the card where its figures are, for of closed data no noise would
    hide it."""
    hospitals = hospitals_of(far_away(made_up("number", patients=90), space))
    found = compared(space, hospitals, ask(epsilon=0.2), open_data=open_data)
    row = found.report["rows"][0]
    assert row["mean absolute error"]["value"] > row[ERROR_OF_SAME]["value"]
    told = f"{row['row']}: {figures.WORSE}: not learned, or diverged (mean absolute error "
    assert found.report["words"][0].startswith(told)
    assert not any(one.startswith(FREE) for one in found.report["words"])
    assert (f"\n- {figures.WORSE}: not learned" in card(found.head.manifest)) == bool(open_data)


def test_words_go_by_the_main_figure() -> None:
    """Who tells the classes apart has learned, though the largest class alone is right more often;
    noisy figures have their own names."""
    for found, words in (
        ({"mean absolute error": 11.0, ERROR_OF_SAME: 12.0}, ""),
        ({"AUROC": 0.5, "accuracy": 0.8, "share of the largest class": 0.8}, ""),
        ({"AUROC": None, "accuracy": 1.0, "share of the largest class": 1.0}, ""),
        ({"AUROC": 0.8, "accuracy": 0.7, "share of the largest class": 0.8},
         " (accuracy 0.700, share of the largest class 0.800)"),
        ({"AUROC": None, "accuracy": 0.7, "share of the largest class": 0.8},
         ": not learned, or diverged (accuracy 0.700, share of the largest class 0.800)"),
        ({"mean absolute error": 11.0, OWN_MEDIAN: 10.0, "error of the median": 10.0}, ""),
        ({"accuracy": 0.7, ACCURACY_OF_SAME: 0.8},
         f": not learned, or diverged (accuracy 0.700, {ACCURACY_OF_SAME} 0.800)"),
        ({"AUROC (from 20 bins)": 0.4},
         ": not learned, or diverged (AUROC (from 20 bins) 0.400, of chance 0.500)"),
    ):  # fmt: skip
        assert figures.worse_words(found) == (figures.WORSE + words if words else "")


def test_an_interval_that_leaves_it_open_does_not_say_that_nothing_was_learned() -> None:
    """At its end that speaks for the head, the constant's at the other: for a noisy card nothing
    is said then at all; it was said of every second small head that was better."""
    found = {"accuracy": 0.78, "share of the largest class": 0.8}
    open_ends = {"accuracy": (0.7, 0.86), "share of the largest class": (0.72, 0.88)}
    sure_ends = {"accuracy": (0.6, 0.7), "share of the largest class": (0.75, 0.85)}
    assert figures.worse_words(figures.kindest(open_ends)) == ""
    words = " (accuracy 0.780, share of the largest class 0.800)"
    assert figures.worse_words(found, figures.kindest(open_ends)) == figures.WORSE + words
    lost = f"{figures.WORSE}: not learned, or diverged{words}"
    assert figures.worse_words(found, figures.kindest(sure_ends)) == lost
    error = {"mean absolute error": (9.0, 14.0), ERROR_OF_SAME: (9.0, 13.0)}
    assert figures.kindest(error) == {"mean absolute error": 9.0, ERROR_OF_SAME: 13.0}


def test_no_row_has_an_interval_of_an_area_of_few_patients(space: PublicSpace) -> None:
    """The pooled one had, and was called diverged for it."""
    hospitals = []
    for one in hospitals_of(made_up(patients=90)):
        rare = np.isin(one.measure.patient, np.unique(one.measure.patient)[:2])
        measure = replace(one.measure, truth=rare.astype(float))
        hospitals.append(replace(one, measure=measure))
    found = compared(space, hospitals[:2], ask(mode="none"), open_data="made up")
    rows = {row["row"]: row["AUROC"] for row in found.report["rows"]}
    assert any(name.startswith("pooled") for name in rows)
    assert all(one["value"] is not None and one["low"] is None for one in rows.values())


def test_where_a_class_is_absent_its_constant_is_no_measure(one_sided: Compared) -> None:
    """The largest share is 1 there, so that any error would be worse."""
    assert not any(figures.WORSE in one for one in one_sided.report["words"])
    assert not any(figures.WORSE in one for one in one_sided.head.manifest.notes)


@pytest.mark.parametrize("kind", ["number", "classes"])
def test_words_go_by_the_row_of_that_name(space: PublicSpace, kind: str) -> None:
    """They went by the median of those held out, which nobody has before, and called heads worse
    than a row that they beat."""
    said = beaten = 0
    main = {"number": "mean absolute error", "classes": "accuracy"}[kind]
    name = {"number": ERROR_OF_SAME, "classes": ACCURACY_OF_SAME}[kind]
    for seed in (2, 3, 8, 12, 18):
        hospitals = hospitals_of(made_up(kind, patients=90, seed=seed, strength=0.3))
        found = compared(space, hospitals, ask(mode="local"), open_data="made up", seed=seed)
        *rows, constant = found.report["rows"]
        assert constant["row"] == "always the same answer"
        figure = next(one for one in found.head.manifest.figures if one.name == name)
        ends = ("value", "low", "high")
        assert [getattr(figure, end) for end in ends] == [constant[main][end] for end in ends]
        for row in (one for one in rows if name in one):
            assert {**row[name], "name": main} == constant[main]
            gap = row[main]["value"] - row[name]["value"]
            lost = gap > 0 if kind == "number" else gap < 0 or row["AUROC"]["value"] < 0.5
            words = [one for one in found.report["words"] if one.startswith(f"{row['row']}: ")]
            assert bool(words) == lost
            said, beaten = said + lost, beaten + (not lost)
    assert said
    assert beaten


def test_the_same_answer_is_of_those_trained_on() -> None:
    """Of a head at one place that of the other folds: none is nearer to the truths left out than
    their own median."""
    data = made_up("number", patients=60)
    figure = {one.name: one.value for one in train(data, MODEL, asked()).manifest.figures}
    outside = fit.out_of_fold(data, 3, 0)
    assert outside.always is not None
    for fold in range(3):
        (said,) = set(outside.always[outside.fold == fold])
        assert said == np.median(data.truth[outside.fold != fold])
    error = np.average(np.abs(outside.always - data.truth), weights=data.weight)
    assert figure[ERROR_OF_SAME] == pytest.approx(error)
    assert error > np.average(np.abs(np.median(data.truth) - data.truth), weights=data.weight)


def test_card_of_a_closed_number_says_that_it_is_not_held_against_the_same_answer(
    space: PublicSpace,
) -> None:
    """No noisy figure tells the error of that answer. Declared public are figures of those held
    out alone: the training median has no noise, and is of others."""
    numbers = hospitals_of(far_away(made_up("number", patients=600), space))
    asks = ask(mode="local", learning_rate=9.0, rounds=40)
    closed = compared(space, numbers, asks)
    assert any(figures.WORSE in one for one in closed.report["words"])
    assert f"\n- {figures.NOT_HELD}\n" in card(closed.head.manifest)
    public = compare(
        numbers, MODEL, space, asks, asked(), borders="made up", figures_public="the group"
    ).head.manifest
    assert figures.NOT_HELD in public.notes
    names = {one.name for one in public.figures}
    assert OWN_MEDIAN in names
    assert ERROR_OF_SAME not in names
    opened = compared(space, numbers, asks, open_data="made up").head.manifest
    classes = compared(space, hospitals_of(made_up(patients=90)), ask(mode="local")).head.manifest
    for manifest in (opened, classes):
        assert figures.NOT_HELD not in manifest.notes
    assert opened.notes[0].startswith(figures.WORSE)
    assert not any(one.startswith(figures.WORSE) for one in public.notes)


def test_largest_class_of_those_measured_does_not_decide(space: PublicSpace) -> None:
    """Of closed data with figures declared public: that class is known in hindsight, and what is
    not is the training patients' own."""
    met = 0
    for seed in range(3):
        data = made_up(patients=180, seed=seed, strength=1.0)
        few = data.of(~np.isin(np.arange(180) % 6, (3, 5)))  # of the second class
        asks = ask(mode="local")
        manifest = compare(
            hospitals_of(few),
            MODEL,
            space,
            asks,
            asked(),
            borders="made up",
            figures_public="the group",
        ).head.manifest
        found = {one.name: one.value for one in manifest.figures}
        assert ACCURACY_OF_SAME not in found
        worse = any(
            one.startswith(figures.WORSE) and not one.endswith(OF_NOISY) for one in manifest.notes
        )
        assert worse == (found["AUROC"] < 0.5)
        met += not worse and found["accuracy"] < found["share of the largest class"]
    assert met


def test_figures_have_the_names_of_their_format() -> None:
    """Files of format 3 have `error of the median`, and no name that a package of before refuses
    without saying that the head is of a newer version."""
    heads = {kind: train(made_up(kind), MODEL, asked()).manifest for kind in ("number", "classes")}
    for kind, name, version in (
        ("number", OF_MEDIAN, 3),
        ("number", OWN_MEDIAN, 4),
        ("number", ERROR_OF_SAME, 4),
        ("classes", ACCURACY_OF_SAME, 4),
    ):
        fields = {"format": version, "figures": (Figure.of(name, 0.5, 0.4, 0.6),), "groups": ()}
        told = heads[kind].model_copy(update=fields)
        assert HeadManifest.from_bytes(told.to_bytes()) == told
        other = told.model_copy(update={"format": 7 - version})
        with pytest.raises(Refused, match="not one of this version"):
            HeadManifest.from_bytes(other.to_bytes())


def test_figures_that_differ_by_rounding_are_equal() -> None:
    """A head that always gave the same answer was worse by 4e-17 than always the same answer, and
    both were shown as 0.000."""
    for own, constant in (
        (0.1 + 0.2, 0.3),
        (1e-17, 0.0),
        (0.0005 * (1 + 1e-12), 0.0005 * (1 - 1e-12)),  # 0.001 and 0.000
        (11.0004, 11.0001),
    ):
        for found in (
            {"mean absolute error": own, ERROR_OF_SAME: constant},
            {"accuracy": constant, ACCURACY_OF_SAME: own},
            {"AUROC": 0.5 + constant - own},
        ):
            assert figures.worse_words(found) == "", found
    assert figures.worse_words({"mean absolute error": 11.001, ERROR_OF_SAME: 11.0})


def test_public_figures_take_no_word_of_the_noisy_histogram_from_the_card(
    space: PublicSpace,
) -> None:
    """What it says is paid for. With the figures of held-out patients, who are held against no
    constant, "WORSE" was gone."""
    sick = [
        replace(one, calibrate=replace(one.calibrate, truth=1.0 - one.calibrate.truth))
        for one in hospitals_of(made_up(patients=900))
    ]
    asks = ask(mode="local", epsilon=8.0)
    kept, both = (
        compare(
            parts, MODEL, space, asks, asked(), borders="made up", figures_public="the group"
        ).head.manifest
        for parts in (
            sick,
            [
                replace(one, measure=replace(one.measure, truth=1.0 - one.measure.truth))
                for one in sick
            ],
        )
    )
    for manifest, count in ((kept, 1), (both, 2)):
        worse = [one for one in manifest.notes if one.startswith(figures.WORSE)]
        assert len(worse) == count
        assert "AUROC (from 20 bins)" in worse[-1]
        assert [one.endswith(OF_NOISY) for one in worse] == [False, True][-count:]
        assert f"\n- {worse[-1]}\n" in card(manifest)
        assert manifest.figures_from == "patients"
        assert ACCURACY_OF_SAME not in {one.name for one in manifest.figures}


def test_noisy_row_is_worse_where_the_card_says_so(space: PublicSpace) -> None:
    """Whoever is held out: its patients are those who calibrate. The output said more than the
    card of few, and nothing where a class was absent among those held out."""
    hospitals = [
        replace(one, calibrate=replace(one.calibrate, truth=1.0 - one.calibrate.truth))
        for one in hospitals_of(made_up(patients=900))
    ]
    one_sided = [
        replace(one, measure=replace(one.measure, truth=np.zeros_like(one.measure.truth)))
        for one in hospitals
    ]
    few = hospitals_of(made_up(patients=240, strength=0.0))
    for parts, epsilon in ((hospitals, 8.0), (one_sided, 8.0), (few, 3.0)):
        found = compared(space, parts, ask(mode="local", epsilon=epsilon))
        noisy = [
            one["row"] for one in found.report["rows"] if ": from the noisy histogram" in one["row"]
        ]
        notes = [one for one in found.head.manifest.notes if one.startswith(figures.WORSE)]
        assert len(noisy) == 1
        assert bool(notes) == (parts is not few)
        words = [one for one in found.report["words"] if one.startswith(noisy[0])]
        assert words == [f"{noisy[0]}: {note}." for note in notes]


def test_rate_that_was_lowered_stands_beside_the_rows_of_open_data(space: PublicSpace) -> None:
    """The measured file had the rows alone; closed data have neither there."""
    data = far_away(made_up("number", patients=90), space)
    for open_data in ("made up", ""):
        found = compared(space, hospitals_of(data), ask(), open_data=open_data)
        told = measured.figures_of(found.head, found.report)["federated"]
        assert ("Without privacy the learning rate is" in told["measured_on"]) == bool(open_data)


@pytest.fixture(scope="module")
def one_sided(space: PublicSpace) -> Compared:
    """A head of whose held-out patients none has atrial fibrillation."""
    data = made_up(patients=90, classes=("none", AF))
    return compared(space, of_one_class(data), ask(mode="none"), open_data="made up")


def test_rows_stay_where_a_class_was_not_measured(one_sided: Compared, tmp_path: Path) -> None:
    """With why there is no AUROC: in JSON, at the terminal and in the card."""
    why = f"not measured: no patient of class {AF}"
    assert [row["AUROC"]["why"] for row in one_sided.report["rows"]] == [why] * 3
    assert [row["AUROC"]["value"] for row in one_sided.report["rows"]] == [None] * 3
    said = f"AUROC {why}; the other figures say nothing of it"
    assert said in one_sided.report["words"]
    assert f"are not protected; {said}." in card(one_sided.head.manifest)
    assert one_sided.report["rows"][0]["accuracy"]["value"] is not None
    shown = printed(one_sided, tmp_path)
    assert "always the same" in shown
    assert shown.count("not measured: no") >= 4


def printed(found: Compared, tmp_path: Path) -> str:
    """What the command prints."""
    import typer

    lab = typer.Typer()
    lab.command()(
        lambda: cli_head_federate._print(
            found.report, tmp_path, found.head, [], tmp_path / "figures", False
        )
    )
    return CliRunner().invoke(lab, [], catch_exceptions=False).output


def test_caption_names_those_measured_and_those_trained_on(
    one_sided: Compared, tmp_path: Path
) -> None:
    """Of a federated head these are others; it said that those trained on were left out."""
    head: Head = one_sided.head
    patients = one_sided.report["measured_on"].split()[0]
    drawn = cli_head.plots(tmp_path, head)
    assert len(drawn) == 2
    for plot in drawn:
        assert f" Of {patients} patients who took part in neither steps nor " in plot.caption
        assert plot.caption.endswith(f"is trained on {head.manifest.patients} patients.")
        assert "each left out" not in plot.caption
    assert str(head.manifest.patients) != patients


def test_no_figure_is_larger_than_it_can_be() -> None:
    """Sums of the same weights in two orders differ in the last place."""
    for seed in range(300):
        rng = np.random.default_rng(seed)
        count = int(rng.integers(3, 40))
        truth = (np.arange(count) % 2).astype(float)
        weight = 1.0 / rng.integers(1, 12, size=count)
        assert metric("auroc", truth, truth + rng.random(count), weight) <= 1.0
        assert figures._largest(np.zeros(count, dtype=int), weight) <= 1.0
        line = rng.random(count)
        assert abs(figures._correlation(line, 3.0 * line, weight)) <= 1.0
        first, second = np.arange(count), np.arange(count) + count
        wrong = verify.Pairs(truth, 1.0 - truth, first, second)
        assert verify.equal_error(wrong, weight) <= 1.0
        assert max(verify.rates(wrong, 0.5, weight)) <= 1.0


def test_constant_of_two_equal_classes_is_right_of_every_second() -> None:
    """Each fold's larger class is the smaller one of those left out: 0.42 of 13 and 13 patients."""
    data = made_up(patients=26, items=1)
    data = replace(data, truth=(np.arange(26) % 2).astype(data.truth.dtype))
    outside = fit.out_of_fold(data, 5, 0)
    assert np.mean(outside.always == data.truth) == 0.5
