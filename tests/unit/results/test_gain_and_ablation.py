"""Shares of a gain, federated against pooled, and ablations: what compares, and what is refused."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from shared_model import warm_start
from shared_model.errors import OurMistake, Refused
from shared_model.patches import draw_patch_masks
from shared_model.weights import digest
from simulations import ablation, gain, gain_answers
from simulations.against_pooled import against_pooled
from simulations.fresh_patients import Scores
from simulations.gain import Run
from simulations.lab.experiment import Experiment
from simulations.pretrain import Recipe

ROOT = Path(__file__).resolve().parents[3]


def scores(skill: float) -> Scores:
    return Scores(
        {"a": "auroc", "b": "mae"}, {"a": 0.5 + skill / 2, "b": 1 - skill},
        {"a": skill, "b": skill}, {}, {}, 1.0 - skill / 2,
    )  # fmt: skip


def a_run(mode: str, seed: int, gained: float, **federation: object) -> Run:
    """A run that begins at skill 0.2 and loss 0.9; its loss falls by half of what it gains."""
    privacy = {"mode": mode} if mode == "none" else {"mode": mode, "epsilon": 3.0}
    algorithm = {"steps": 1, "optimiser": "sgd"} if mode == "distributed" else {}
    experiment = Experiment.from_dict(
        {"name": "x", "seed": seed, "privacy": privacy, "algorithm": algorithm,
         "federation": federation}
    )  # fmt: skip
    return Run(f"{mode}-{seed}", experiment, "s", "d", scores(0.2), scores(0.2 + gained))


def test_the_share_is_of_the_gain_and_not_of_the_figure() -> None:
    """0.7 + 0.06 against 0.7 + 0.1 keeps 60 %, not 95 %."""
    runs = [a_run("none", k, 0.1) for k in (1, 2)] + [a_run("local", k, 0.06) for k in (1, 2)]
    found = gain.shares(runs)
    share = next(row for row in found["rows"] if row["mode"] == "local")
    assert share["share"] == pytest.approx(0.6)
    assert share["reached"]
    assert "REPEATS" in " ".join(found["in_words"])
    distributed = [a_run("distributed", k, 0.06) for k in (1, 2)]
    assert not gain.shares(runs[:2] + distributed)["shares"][0]["reached"]


@pytest.mark.parametrize(("gained", "upper"), [(0.1, False), (0.11, True)])
def test_more_kept_than_there_was_is_said_to_be_an_upper_figure(gained: float, upper: bool) -> None:
    """The reference without privacy was not at its best; its own 100 % is no such share."""
    free = [a_run("none", k, 0.1) for k in (1, 2)]
    kept = [a_run("local", k, gained) for k in (1, 2)]
    found = gain.shares([*free, *kept])
    for row in found["rows"]:
        assert ("upper figure" in row["words"]) == (upper and row["mode"] == "local")
    assert all(("one way of training measured" in one["words"]) == upper for one in found["shares"])
    assert all(one["reached"] for one in found["shares"])
    other = [
        replace(one, experiment=one.experiment.with_values({"algorithm.learning_rate": 0.5}))
        for one in free
    ]
    words = gain.shares([*free, *other, *kept])["shares"][0]["words"]
    assert ("2 ways measured" in words) == upper


def test_a_loss_that_falls_and_probes_that_do_not_move_are_two_answers() -> None:
    """Neither measure speaks for the other, and each finds its own reference."""
    loss_only = replace(scores(0.2), loss=0.8)
    free = [replace(a_run("none", k, 0.0), after=loss_only) for k in (1, 2)]
    kept = [replace(a_run("local", k, 0.0), after=replace(loss_only, loss=0.85)) for k in (1, 2)]
    skilled = [
        replace(run, experiment=run.experiment.with_values({"algorithm.learning_rate": 0.5}))
        for run in (a_run("none", 1, 0.02), a_run("none", 2, 0.02))
    ]
    found = gain.shares([*free, *kept])
    answers = {one["measure"]: one for one in found["shares"]}
    assert answers["unit loss"]["reached"]
    assert "unit loss: 50 % of the gain kept" in answers["unit loss"]["words"]
    assert answers["skill"]["reached"] is False
    assert "do not gain" in answers["skill"]["words"]
    both = {one["measure"]: one for one in gain.shares([*free, *kept, *skilled])["rows"]
            if one["mode"] == "local"}  # fmt: skip
    assert both["unit loss"]["share"] == pytest.approx(0.5)
    assert both["skill"]["share"] == pytest.approx(0.0)


def test_the_loss_on_fresh_patients_is_the_mean_of_their_unit_losses() -> None:
    """Patient by patient by `unit_loss`; who has nothing does not count; chance is in the seed."""
    import torch

    from shared_model import mae, warm_start
    from shared_model.config import LocalTraining
    from shared_model.losses import unit_loss
    from shared_model.patches import fold
    from simulations import fresh_patients
    from simulations.cohort import draw_windows

    signal, valid, _ = draw_windows(np.random.default_rng(0), 12, single_share=0.3)
    valid[3] = False
    fresh = fresh_patients.Fresh(signal, valid, {}, {})
    config, weights, _ = warm_start.load("tiny")
    model = mae.build(config, 0)
    untrained = fresh_patients._loss(model, fresh, np.random.default_rng(5))
    mae.load_weights(model, weights)
    found = fresh_patients._loss(model, fresh, np.random.default_rng(5))
    hidden = torch.from_numpy(draw_patch_masks(np.random.default_rng(5), (12, 1, 1)))
    patches, known = fold(torch.from_numpy(signal)), torch.from_numpy(valid)
    one_by_one = [
        unit_loss(model, patches[i, None], known[i, None], hidden[i], LocalTraining()).item()
        for i in range(12)
        if i != 3
    ]
    assert found == pytest.approx(np.mean(one_by_one), rel=1e-5)
    assert found < untrained


def test_identity_on_fresh_patients_is_chance_where_nothing_tells_them_apart() -> None:
    """A model that answers every window alike is at one half; the packaged one is far above."""
    from shared_model import warm_start
    from simulations import fresh_patients

    again = fresh_patients.draw_pairs(30, 0)
    assert np.array_equal(np.bincount(again.patient), np.full(30, 2))
    config, weights, _ = warm_start.load("tiny")
    assert fresh_patients.identity(config, weights, again) > 0.8
    alike = replace(
        again,
        signal=np.repeat(again.signal[:1], len(again.signal), axis=0),
        valid=np.repeat(again.valid[:1], len(again.valid), axis=0),
    )
    assert fresh_patients.identity(config, weights, alike) == pytest.approx(0.5)


def test_other_sizes_than_the_issue_asks_for_do_not_answer_its_bar() -> None:
    """Two small runs may keep all of a gain: the bar is of 10 x 2,000 patients and five seeds."""
    runs = [a_run(mode, k, 0.1) for mode in ("none", "local") for k in (1, 2)]
    assert not gain.shares(runs)["shares"][0]["as_asked"]
    asked = Experiment.from_toml(ROOT / "docs" / "experiments" / "gain-base.toml")
    values = {"privacy.mode": "local", "privacy.epsilon": 3.0}
    group = {
        k: replace(runs[2], experiment=asked.with_values(values | {"seed": k})) for k in range(5)
    }
    assert gain._as_asked(group)
    group.pop(0)
    assert not gain._as_asked(group)


@pytest.mark.parametrize("name", ["federated-not-private", "pooled", "gain-base", "gain-adam-base"])
def test_the_experiments_of_the_docs_are_read(name: str) -> None:
    assert Experiment.from_toml(ROOT / "docs" / "experiments" / f"{name}.toml").name


@pytest.mark.parametrize(
    "name",
    [f"ablation{one}" for one in ("", "-contrast", "-design", "-person", "-whole")],
)
def test_the_ablations_of_the_docs_are_read(name: str) -> None:
    assert ablation.Ablation.from_toml(ROOT / "docs" / "experiments" / f"{name}.toml").vary


def test_finished_runs_of_a_sweep_are_found_and_nothing_else(tmp_path: Path) -> None:
    """A sweep's own result.json is no run, and a run without one has not ended."""
    for name, files in {
        ".": ["result.json"], "runs/a": ["experiment.toml", "result.json"],
        "runs/b": ["experiment.toml"],
    }.items():  # fmt: skip
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
        for file in files:
            (tmp_path / name / file).write_text("{}")
    assert gain.finished_below(tmp_path) == [tmp_path / "runs" / "a"]
    with pytest.raises(OurMistake, match="No finished run"):
        gain.finished_below(tmp_path / "runs" / "b")


def test_runs_that_differ_in_their_clipping_norm_are_two_ways_of_training() -> None:
    """They were called the same experiment, or, of other seeds, were taken for one group."""
    free = [a_run("none", k, 0.1) for k in (1, 2)]
    short, long = (
        [replace(run, experiment=run.experiment.with_values({"privacy.clipping_norm": norm}))
         for run in (a_run("local", k, gained) for k in (1, 2))]
        for norm, gained in ((0.1, 0.02), (0.7, 0.04))
    )  # fmt: skip
    rows = gain.shares([*free, *short, *long])["rows"]
    told = {row["trained"].rpartition(", ")[2]: row["share"] for row in rows
            if row["mode"] == "local" and row["measure"] == "skill"}  # fmt: skip
    assert told == {
        "clipping norm 0.1": pytest.approx(0.2), "clipping norm 0.7": pytest.approx(0.4)
    }  # fmt: skip
    with pytest.raises(OurMistake, match="seeds"):
        gain.shares([*free, short[0], long[1]])


def test_a_server_step_that_is_not_the_plain_mean_is_told() -> None:
    """It is the same in all runs of a sweep, and was in no row: FedAdam looked like FedAvg."""
    adam = {"algorithm.name": "fedadam", "algorithm.server_learning_rate": 5e-3}
    runs = [a_run(mode, 1, 0.1) for mode in ("none", "local")]
    faster = [replace(run, experiment=run.experiment.with_values(adam)) for run in runs]
    plain = {row["trained"] for row in gain.shares(runs)["rows"]}
    assert {row["trained"] for row in gain.shares(faster)["rows"]} == {
        f"{one}, fedadam at 0.005" for one in plain
    }
    rows = gain.shares([*runs, faster[0]])["rows"]
    assert len({row["trained"] for row in rows if row["mode"] == "none"}) == 2


def test_without_a_gain_there_is_no_share() -> None:
    """A reference that loses makes no ratio, and the bar is not reached."""
    runs = [a_run("none", k, -0.1) for k in (1, 2)] + [a_run("local", k, -0.2) for k in (1, 2)]
    row = next(row for row in gain.shares(runs)["rows"] if row["mode"] == "local")
    assert row["share"] is None
    assert not row["reached"]
    assert gain.share_of(np.array([0.1, 0.1]), np.array([0.3, -0.25])) == (None, None)


def test_runs_that_do_not_compare_are_refused() -> None:
    free = [a_run("none", 1, 0.1), a_run("none", 2, 0.1)]
    with pytest.raises(OurMistake, match="nothing to keep"):
        gain.shares([a_run("local", 1, 0.1)])
    with pytest.raises(OurMistake, match="seeds"):
        gain.shares([*free, a_run("local", 1, 0.1)])
    with pytest.raises(OurMistake, match="same experiment"):
        gain.shares([*free, a_run("none", 1, 0.2)])
    with pytest.raises(OurMistake, match="different models"):
        gain.shares([free[0], replace(free[1], start="other")])


POOL = {"partition": {"kind": "iid"}}


def of_ten(seed: int, gained: float) -> Run:
    return a_run("none", seed, gained, hospitals=10, patients=20, **POOL)


def of_one(seed: int, gained: float) -> Run:
    return a_run("none", seed, gained, hospitals=1, patients=200, **POOL)


def test_pooled_training_must_be_of_the_same_patients_and_steps() -> None:
    federated, pooled = of_ten(1, 0.10), of_one(1, 0.10)
    found = against_pooled([federated], [pooled])
    assert found["worst"]["reached"]
    assert {row["ratio"] for row in found["rows"]} == {1.0}
    assert {row["ratio_interval"] for row in found["rows"]} == {None}
    nothing = [[replace(run, after=run.before)] for run in (federated, pooled)]
    empty = against_pooled(*nothing)["worst"]
    assert (empty["reached"], empty["ratios_reached"]) == (None, True)
    assert "pooled training gained nothing" in empty["words"]
    assert found["worst"]["words"].startswith(found["trained"])
    assert "pooled" not in found["trained"]
    assert any("One seed" in line for line in found["in_words"])
    begun = pooled.experiment.with_values({"model.begin_with": "random-weights"})
    apart = against_pooled([federated], [replace(pooled, experiment=begun)])["trained"]
    assert "from warm start" in apart
    assert "; pooled from random weights" in apart
    assert not against_pooled([of_ten(1, 0.05)], [pooled])["worst"]["reached"]
    for other in (
        a_run("none", 1, 0.1, hospitals=1, patients=100, **POOL),
        a_run("none", 1, 0.1, hospitals=1, patients=200),
        a_run("local", 1, 0.1, hospitals=1, patients=200, **POOL),
    ):
        with pytest.raises(OurMistake, match="do not compare"):
            against_pooled([federated], [other])


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"privacy.sample_rate": 0.5}, "privacy.sample_rate is"),
        ({"algorithm.segments": 3}, "algorithm.segments is"),
        ({"algorithm.alignment_weight": 0.5}, "algorithm.alignment_weight is"),
        ({"federation.held_out": 0.4}, "federation.held_out is"),
        ({"federation.windows_per_patient": 2}, "federation.windows_per_patient is"),
        ({"model.trainable": "all"}, "model.trainable is"),
    ],
)
def test_what_a_step_is_made_of_must_be_the_same(values: dict[str, object], said: str) -> None:
    """A pooled run with a tenth of the patients in a step was taken for the same training."""
    pooled = of_one(1, 0.1)
    other = replace(pooled, experiment=pooled.experiment.with_values(values))
    with pytest.raises(OurMistake, match=said):
        against_pooled([of_ten(1, 0.1)], [other])


def test_how_steps_are_made_of_gradients_may_differ_and_is_told() -> None:
    """Not so who takes part in a round: pooled training has all patients."""
    pooled, federated = of_one(1, 0.1), of_ten(1, 0.1)
    faster = replace(
        pooled, experiment=pooled.experiment.with_values({"algorithm.learning_rate": 0.25})
    )
    told = against_pooled([federated], [faster])["trained"].partition("; pooled ")
    assert "learning rate" in told[0]
    assert told[2].endswith("learning rate 0.25")
    for values, said in (
        ({"participation.sites_per_round": 4}, "sit out"),
        ({"participation.deadline_s": 9.0}, "participation.deadline_s is"),
    ):
        other = replace(federated, experiment=federated.experiment.with_values(values))
        with pytest.raises(OurMistake, match=said):
            against_pooled([other], [pooled])
    every = federated.experiment.with_values({"participation.sites_per_round": 10})
    assert against_pooled([replace(federated, experiment=every)], [pooled])["worst"]["reached"]


def test_runs_of_equal_seeds_are_compared_whatever_their_order() -> None:
    """By the mean of the seeds' ratios (task b: 0.5 over 0.6, 0.7 over 0.6), not by neighbours."""
    federated = [of_ten(1, 0.3), of_ten(2, 0.1)]
    pooled = [of_one(2, 0.2), of_one(1, 0.2)]
    found = against_pooled(federated, pooled)
    row = next(row for row in found["rows"] if row["task"] == "b")
    ratios = np.array([0.5 / 0.6, 0.7 / 0.6])
    half = 12.7062 * ratios.std(ddof=1) / np.sqrt(2)  # Student's t, 95 %, one degree of freedom
    assert row["ratio"] == pytest.approx(1.0)
    assert row["ratio_interval"] == {
        "value": pytest.approx(1.0),
        "low": pytest.approx(1 - half, rel=1e-4),
        "high": pytest.approx(1 + half, rel=1e-4),
    }
    assert [one["seed"] for one in row["by_seed"]] == found["seeds"] == [1, 2]
    assert (row["federated"], row["pooled"]) == (pytest.approx(0.6), pytest.approx(0.6))
    assert row["reached"]
    assert (
        "2 of 2 tasks by the mean of 2 seeds, 0 with all of the interval"
        in (found["worst"]["words"])
    )
    said = "2 seeds of each, of patients and training; no seed changes the first weights"
    assert any(said in line for line in found["in_words"])


def test_a_gain_of_pooled_training_that_may_be_chance_answers_nothing() -> None:
    """Up in one seed and down in another: the ratios stand, the answer does not."""
    gained = (0.3, -0.1)
    pairs = [[of(k, one) for k, one in enumerate(gained, 1)] for of in (of_ten, of_one)]
    found = against_pooled(*pairs)
    assert found["pooled_skill_gain"] == pytest.approx(0.1)
    assert (found["worst"]["ratios_reached"], found["worst"]["reached"]) == (True, None)
    assert "is not shown to have gained, so the comparison says nothing" in found["worst"]["words"]
    steady = [[of(k, 0.1 + k / 100) for k in (1, 2)] for of in (of_ten, of_one)]
    assert against_pooled(*steady)["worst"]["reached"]


def test_seeds_that_do_not_pair_are_refused() -> None:
    pooled = [of_one(1, 0.1), of_one(2, 0.1)]
    with pytest.raises(OurMistake, match=r"seeds \[1\], the pooled ones \[1, 2\]"):
        against_pooled([of_ten(1, 0.1)], pooled)
    with pytest.raises(OurMistake, match="Two federated runs have seed 1"):
        against_pooled([of_ten(1, 0.1), of_ten(1, 0.2)], pooled)
    other = of_ten(2, 0.1)
    longer = replace(other, experiment=other.experiment.with_values({"rounds": 7}))
    with pytest.raises(OurMistake, match="differ in more than their seed"):
        against_pooled([of_ten(1, 0.1), longer], pooled)


def test_only_the_named_field_differs_from_the_base(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text(
        'name = "a"\nsteps = 3\n[base]\nbatch = 8\n[vary]\ncross_modal_weight = [0, 1.0]\n'
    )
    asked = ablation.Ablation.from_toml(path)
    base, first, _ = asked.variants()
    assert asked.recipe(base, 5) == Recipe(steps=3, seed=5, batch=8)
    assert asked.recipe(first, 5) == Recipe(steps=3, seed=5, batch=8, cross_modal_weight=0.0)


@pytest.mark.parametrize(
    ("field", "said"),
    [
        ("no_such = [1]", "no field"),
        ("batch = [0.5]", "type int"),
        ("steps = [5]", "no field"),
        ("contrast_weight = [0.1]", "windows_per_patient"),
        ("bank_size = [8]", "needs contrast_weight"),
        ("[base]\ncontrast_weight = 0.1\nbank_size = 8\n[vary]\nbank_size = [-1]", "bank_size is"),
        ("person_weight = [0.1]", "windows_per_patient"),
        ("person_weight = [-0.1]", "not below 0"),
        ("person_weight = [nan]", "finite number"),
        ("auxiliary_weight = [inf]", "finite number"),
        ("[base]\nwindows_per_patient = 64\n[vary]\nperson_weight = [0.1]", "two patients"),
        ("windows_per_patient = [7]", "multiple"),
        ("span_share = [1.5]", "shares"),
        ('precision = ["float16"]', "float32 or bfloat16"),
    ],
)
def test_a_recipe_that_cannot_be_trained_is_refused_before_anything_runs(
    tmp_path: Path, field: str, said: str
) -> None:
    path = tmp_path / "a.toml"
    head = "" if field.startswith("[") else "[vary]\n"
    path.write_text(f'name = "a"\n{head}{field}\n')
    with pytest.raises(OurMistake, match=said):
        ablation.Ablation.from_toml(path)


def test_a_trained_variant_is_not_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Resume trains what is missing, and what was cut short, and gives the same table."""
    asked = ablation.Ablation(name="a", seeds=(1,), steps=2, patients=80, vary={"batch": [8]})
    from shared_model.mae import build, weights_of

    trained: list[int] = []

    def train(config, recipe, **_):  # type: ignore[no-untyped-def]
        trained.append(recipe.batch)
        return weights_of(build(config, recipe.batch)), []

    monkeypatch.setattr(ablation, "train", train)
    monkeypatch.setattr(ablation, "score", lambda *_: scores(0.3))
    monkeypatch.setattr(ablation, "identity", lambda *_: 0.5)
    monkeypatch.setattr(ablation, "RECONSTRUCTION", {})
    first = ablation.run(asked, tmp_path, resume=False)
    assert trained == [64, 8]
    with pytest.raises(Refused):
        ablation.run(asked, tmp_path, resume=False)
    cut = next(p for p in (tmp_path / "runs").iterdir() if '"batch": 8' in p.read_text())
    cut.write_text(cut.read_text()[:50])
    again = ablation.run(asked, tmp_path, resume=True)
    assert trained == [64, 8, 8]
    assert again.figures == first.figures
    assert again.made["models"] == first.made["models"]


def test_an_ablation_may_go_on_from_the_warm_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a next stage would gain: every run begins with it, and a row says what it was before."""
    begun = warm_start.load("tiny")[1]
    started: list[str] = []

    def train(config, recipe, *, start_from, **_):  # type: ignore[no-untyped-def]
        started.append(digest(start_from))
        return {name: value * np.float32(0.9) for name, value in begun.items()}, []

    def score(config, weights, *_):  # type: ignore[no-untyped-def]
        return scores(0.3 if digest(weights) == digest(begun) else 0.2)

    monkeypatch.setattr(ablation, "train", train)
    monkeypatch.setattr(ablation, "score", score)
    monkeypatch.setattr(ablation, "identity", lambda *_: 0.5)
    monkeypatch.setattr(ablation, "RECONSTRUCTION", {})
    path = tmp_path / "a.toml"
    path.write_text(
        'name = "a"\npatients = 80\nbegin_with = "warm-start"\n[vary]\nlearning_rate = [1e-3]\n'
    )
    done = ablation.run(ablation.Ablation.from_toml(path), tmp_path / "out", resume=False)
    figures = done.figures
    assert started == [digest(begun)] * 4
    assert done.begun == {"as begun, no step": digest(begun)}
    rows = {row["variant"]: row for row in figures["rows"]}
    assert list(rows) == ["base", "learning_rate = 0.001", "as begun, no step"]
    assert rows["as begun, no step"]["minus base"]["value"] == pytest.approx(0.1)
    assert "from the packaged warm start" in figures["in_words"][0]
    path.write_text('name = "a"\nbegin_with = "warm-start"\n[vary]\ndecoder_blocks = [1]\n')
    with pytest.raises(OurMistake, match="decoder_blocks = 1 is another"):
        ablation.Ablation.from_toml(path)


def test_the_screen_shows_every_score_of_every_variant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At 100 columns no name and no interval is left out, broken or on --json only."""
    from rich.console import Console
    from typer import Typer
    from typer.testing import CliRunner

    from shared_model import terminal
    from shared_model.mae import build, weights_of
    from simulations import cli_ablate
    from simulations.results_tables import interval

    tasks = ("sinus rhythm", "atrial fibrillation", "hypertension", "age", "systolic pressure",
             "heart rate")  # fmt: skip
    drawn = np.random.default_rng(4)

    def some(names: tuple[str, ...], size: float) -> dict[str, float]:
        return dict(zip(names, size * (1 + 0.05 * drawn.random(len(names))), strict=True))

    def score(*_: object) -> Scores:
        metrics = some(tasks[:3], 0.8) | some(tasks[3:], 11.0)
        errors = some(("masked", "cross_modal"), 0.7)
        shifted = some(("PPG to ECG", "ECG to PPG"), 0.6)
        return Scores({}, metrics, some(tasks, 0.5), errors, shifted, 0.5)

    monkeypatch.setattr(
        ablation, "train", lambda config, recipe, **_: (weights_of(build(config, recipe.batch)), [])
    )
    monkeypatch.setattr(ablation, "score", score)
    monkeypatch.setattr(ablation, "identity", lambda *_: 0.6 + 0.05 * float(drawn.random()))
    (tmp_path / "a.toml").write_text(
        'name = "a"\npatients = 80\nseeds = [1, 2, 3]\n[vary]\nwindows_per_patient = [4]\n'
    )
    screen = Console(width=100, file=io.StringIO())
    monkeypatch.setattr(terminal, "out", screen)
    app = Typer()
    cli_ablate.register(app)
    called = CliRunner().invoke(app, [str(tmp_path / "a.toml"), "-o", str(tmp_path / "out")])
    assert called.exit_code == 0, called.output
    shown = screen.file.getvalue()  # type: ignore[attr-defined]
    words = set(shown.split())
    measured = json.loads((tmp_path / "out" / "measured-ablation.json").read_text())
    rows = measured["figures"]["rows"]
    assert len(rows) == 2
    assert len(rows[0]) == 2 + 2 + 2 + 2 + 1 + len(tasks)
    for row in rows:
        for name, value in row.items():
            if isinstance(value, dict):  # a cell may have two lines, broken between the numbers
                assert {*name.split(), *interval(value, 3).split()} <= words, name
    assert "3 seeds" in shown


def test_the_share_of_spans_changes_no_mask_of_today() -> None:
    """Half is the default, bit by bit; 0 and 1 are single tokens and spans only."""
    today = draw_patch_masks(np.random.default_rng(3), (40,))
    half = draw_patch_masks(np.random.default_rng(3), (40,), span_share=0.5)
    assert np.array_equal(today, half)

    def runs(share: float) -> float:
        hidden = draw_patch_masks(np.random.default_rng(3), (200,), span_share=share)[:, 0]
        return float((hidden[:, 1:] != hidden[:, :-1]).sum(axis=1).mean())

    assert runs(0.0) > 22 > 15 > runs(1.0)


def test_rounding_closes_no_interval_of_a_share() -> None:
    """101 % [101, 101] stood there; of a file that has no more digits that is said."""
    row = {"measure": "unit loss", "mode": "local", "share": 0.9882, "seeds": 5}
    for more, words in (
        ({"share_interval": (0.9871, 0.9893)}, "98.8 % of the gain kept (5 seeds) [98.7, 98.9]"),
        ({"share_interval": (0.87, 0.99)}, "99 % of the gain kept (5 seeds) [87, 99]"),
        ({"share_interval": None}, "99 % of the gain kept (5 seeds)"),
        ({"words": "99 % [87, 99]"}, "99 % of the gain kept (5 seeds) [87, 99]"),
        (
            {"words": "99 % [99, 99]"},
            "99 % of the gain kept (5 seeds) [99, 99] in whole percent, and the file has no more "
            "digits",
        ),
    ):
        assert gain_answers.gain_rows([{**row, **more}])[0]["words"] == words
