"""Points of a sweep against its first: what differs is found, what compares, what is refused."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from shared_model.errors import OurMistake
from simulations import cli_gain, private_stage, results_figures, results_tables
from simulations.fresh_patients import Scores
from simulations.gain import Run
from simulations.lab.experiment import Experiment
from simulations.lab.space import Sweep, points_of
from simulations.lab.varied import batch, changed, differing, fields_of, passes, relative_cost
from simulations.private_stage import Stage, compared

ROOT = Path(__file__).resolve().parents[3]
FILE = ROOT / "docs" / "experiments" / "private-stage-one-at-a-time.toml"
BASE = Experiment.from_toml(ROOT / "docs" / "experiments" / "private-stage-base.toml")
FREE = {"privacy.mode": "none", "privacy.epsilon": None, "algorithm.learning_rate": 0.6}


def scores(loss: float) -> Scores:
    return Scores({"a": "auroc"}, {"a": 0.7}, {"a": 0.4}, {}, {}, loss)


def a_stage(values: dict[str, Any], seed: int, fall: float, parameters: int = 1000) -> Stage:
    """A run that begins at a unit loss of 1.3."""
    experiment = BASE.with_values({**values, "seed": seed})
    name = f"{experiment.privacy.mode}, seed {seed}"
    run = Run(name, experiment, "start", f"digest {fall}", scores(1.3), scores(1.3 - fall))
    spent = None if experiment.privacy.mode == "none" else 2.99
    return Stage(run, parameters, 4000.0, spent, 1e-5)


def a_sweep(seeds: tuple[int, ...] = (1, 2, 3)) -> list[Stage]:
    """Base falls by 0.05, adapters by 0.04 (of 300 parameters), the reference by 0.1; the seed
    adds to all alike."""
    points: list[tuple[dict[str, Any], float, int]] = [
        ({}, 0.05, 1000),
        ({"model.trainable": "adapters"}, 0.04, 300),
        (FREE, 0.10, 1000),
    ]
    return [a_stage(values, seed, fall + 0.001 * seed, count)
            for seed in seeds for values, fall, count in points]  # fmt: skip


def test_each_point_is_told_by_what_it_changes_of_the_first() -> None:
    """Nothing is named that no run changes, and the seed makes no point."""
    found = compared(a_sweep())
    assert [row["point"] for row in found["rows"]] == [
        "base", "trainable adapters", "learning rate 0.6, mode none, no epsilon",
    ]  # fmt: skip
    words = " ".join(found["in_words"])
    assert "trainable head, learning rate 1, mode distributed, epsilon 3, expected" in words
    assert "clipping norm" not in words


def test_falls_are_paired_by_seed_and_shares_are_of_the_reference() -> None:
    """What the seed adds to all alike is in the falls' intervals, and not in a difference's."""
    _, adapters, free = compared(a_sweep())["rows"]
    assert adapters["fall"]["value"] == pytest.approx(0.042)
    assert adapters["fall"]["high"] - adapters["fall"]["low"] > 0.002
    more = adapters["more_than_base"]
    assert [more["low"], more["value"], more["high"]] == pytest.approx([-0.01] * 3)
    assert adapters["of_reference_percent"]["value"] == pytest.approx(100 * 0.042 / 0.102)
    assert adapters["loss"]["value"] == pytest.approx(1.3 - 0.042)
    assert (adapters["parameters"], adapters["epsilon"], free["epsilon"]) == (300, 2.99, None)


def test_the_first_run_is_the_base_even_if_it_is_the_reference() -> None:
    """No mode and no value makes a base: the order of the sweep does."""
    stages = a_sweep()
    rows = compared([stages[2], *stages[:2], *stages[3:]])["rows"]
    assert rows[0]["point"] == "base"
    assert rows[0]["mode"] == "none"
    assert "trainable adapters" in rows[2]["point"]


def test_one_seed_has_no_interval_and_that_is_said() -> None:
    found = compared(a_sweep((1,)))
    for row in found["rows"]:
        assert row["fall"]["low"] is None
    assert "One seed: there is no interval" in " ".join(found["in_words"])
    assert "one seed" in found["plotted_words"]
    assert "One seed" not in " ".join(compared(a_sweep((1, 2)))["in_words"])


def test_without_a_reference_or_its_fall_there_is_no_share() -> None:
    """In words, and no line in the figure where nothing was trained without privacy."""
    private = [one for one in a_sweep() if one.run.mode != "none"]
    found = compared(private)
    assert found["rows"][1]["of_reference_percent"] is None
    assert found["plotted_line"] is None
    assert "no share" in " ".join(found["in_words"])
    risen = [a_stage(FREE, seed, -0.01) for seed in (1, 2, 3)]
    found = compared([*private, *risen])
    assert found["rows"][1]["of_reference_percent"] is None
    assert "does not fall" in " ".join(found["in_words"])


def test_of_several_references_the_one_that_falls_most_is_held_against() -> None:
    better = [a_stage(FREE | {"algorithm.learning_rate": 0.3}, seed, 0.2) for seed in (1, 2, 3)]
    found = compared([*a_sweep(), *better])
    assert found["plotted_line"]["value"] == pytest.approx(0.2)
    said = next(line for line in found["in_words"] if line.startswith("Reference"))
    assert "4 learning rate 0.3" in said
    assert "of several" in said
    assert "of several" not in " ".join(compared(a_sweep())["in_words"])


def test_points_that_do_not_compare_are_refused() -> None:
    stages = a_sweep()
    with pytest.raises(OurMistake, match="seeds"):
        compared(stages[:-1])
    with pytest.raises(OurMistake, match="same experiment"):
        compared([*stages, stages[0]])
    with pytest.raises(OurMistake, match="one point"):
        compared([a_stage({}, seed, 0.05) for seed in (1, 2, 3)])
    other = replace(stages[0], run=replace(stages[0].run, start="other"))
    with pytest.raises(OurMistake, match="different models"):
        compared([other, *stages[1:]])


def test_cost_is_the_product_of_what_multiplies_gradient_passes() -> None:
    """Patients, K, A, steps and rounds multiply; what is trained does not."""
    assert batch(BASE) == pytest.approx(64.0, abs=0.1)
    assert passes(BASE) == pytest.approx(10 * 0.1123 * 570 * 2 * 1 * 1 * 6)
    for values, factor in (
        ({"algorithm.segments": 4}, 2.0), ({"algorithm.patch_masks": 3}, 3.0),
        ({"privacy.sample_rate": 0.2246}, 2.0), ({"rounds": 3}, 0.5),
        ({"federation.patients": 1200}, 2.0), ({"participation.sites_per_round": 5}, 0.5),
        ({"model.trainable": "all"}, 1.0), ({"privacy.mode": "local", "algorithm.steps": 7}, 7.0),
    ):  # fmt: skip
        assert relative_cost(BASE.with_values(values), BASE) == pytest.approx(factor), values


def test_cost_on_real_folders_is_told_only_where_the_patients_are_the_same() -> None:
    """How many patients are in a folder is in no experiment."""
    real = BASE.with_values({"federation.source": "folders", "federation.folders": ["/a"]})
    assert batch(real) is None
    assert relative_cost(real.with_values({"algorithm.segments": 1}), real) == pytest.approx(0.5)
    fewer = real.with_values({"federation.lots": [0.0, 0.5]})
    assert relative_cost(fewer, real) is None


def test_fields_whose_own_name_says_little_are_named_with_their_table() -> None:
    adam = BASE.with_values({"algorithm.name": "fedadam", "algorithm.server_learning_rate": 0.01})
    names = differing([BASE, adam])
    assert changed(adam, BASE, names) == "algorithm name fedadam, server learning rate 0.01"
    assert fields_of(BASE.with_values({"seed": 9, "engine.workers": 3})) == fields_of(BASE)
    larger = BASE.with_values({"privacy.sample_rate": 0.2246})
    said = changed(larger, BASE, differing([BASE, larger]))
    assert said == "sample rate 0.2246, expected batch 128"


def test_the_sweep_of_the_docs_changes_one_thing_at_a_time() -> None:
    """Its first point is its base, every other changes one choice (and the rate that it needs), and
    epsilon is the same; a reference without privacy is there."""
    points = points_of(Sweep.from_toml(FILE))
    first = [one for one in points if one.experiment.seed == points[0].experiment.seed]
    base = first[0].experiment
    assert fields_of(base) == fields_of(BASE)
    free = 0
    for one in first[1:]:
        names = differing([base, one.experiment])
        if one.experiment.privacy.mode == "none":
            free += 1
        else:
            assert one.experiment.privacy.epsilon == base.privacy.epsilon
            choices = set(names) - {"algorithm.server_learning_rate", "algorithm.learning_rate"}
            assert len(choices) == 1, names
        assert one.experiment.algorithm.segments <= one.experiment.federation.windows_per_patient
    assert free


def test_the_sweep_over_epsilon_changes_privacy_alone() -> None:
    """So that its points are a frontier; several epsilons in both modes, and one reference."""
    points = points_of(Sweep.from_toml(FILE.with_name("private-stage-epsilon.toml")))
    first = [one.experiment for one in points if one.experiment.seed == points[0].experiment.seed]
    assert fields_of(first[0]) == fields_of(BASE)
    private = [one for one in first if one.privacy.mode != "none"]
    assert len(private) == len(first) - 1
    assert set(differing(private)) == {"privacy.mode", "privacy.epsilon"}
    for mode in ("distributed", "local"):
        assert len({one.privacy.epsilon for one in private if one.privacy.mode == mode}) >= 3


def a_swept_folder(folder: Path, seeds: list[int]) -> list[Path]:
    """A sweep's folder, all of whose runs have an experiment and a result."""
    plan = Sweep.from_dict(
        {"experiment": BASE.as_dict(), "seeds": seeds,
         "points": [{}, {"model.trainable": "norms"}, {"model.trainable": "adapters"}]}
    )  # fmt: skip
    folder.mkdir()
    (folder / "sweep.json").write_text(json.dumps(plan.model_dump(mode="json")))
    runs = []
    for point in points_of(plan):
        runs.append(folder / "runs" / point.name / "run")
        runs[-1].mkdir(parents=True)
        (runs[-1] / "experiment.toml").write_text(point.experiment.to_toml())
        (runs[-1] / "result.json").write_text("{}")
    return runs


def test_runs_come_in_the_order_of_the_sweep_and_not_of_their_names(tmp_path: Path) -> None:
    """So that the base is what the sweep's file says; and all of them, or chosen seeds only."""
    runs = a_swept_folder(tmp_path / "swept", [1, 2])
    assert runs != sorted(runs)
    assert private_stage.ordered(tmp_path / "swept") == runs
    assert private_stage.ordered(tmp_path / "swept", [2]) == runs[3:]
    assert private_stage.ordered(runs[4]) == [runs[4]]
    (runs[4] / "result.json").unlink()
    with pytest.raises(OurMistake, match="1 of 6 runs") as refused:
        private_stage.ordered(tmp_path / "swept")
    assert "--seeds" in str(refused.value.do)
    assert private_stage.ordered(tmp_path / "swept", [1]) == runs[:3]
    with pytest.raises(OurMistake, match=r"No run .* seeds \[7\]"):
        private_stage.ordered(tmp_path / "swept", [7])


def test_what_a_run_cost_is_read_from_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parameters of what was trained; bytes of a hospital in a round, of those that were asked."""
    import pyarrow
    from pyarrow import parquet

    run = a_swept_folder(tmp_path / "swept", [1])[2]  # adapters
    about = {"bytes_up": 7000, "epsilon": 2.5, "delta": 1e-6}
    (run / "result.json").write_text(json.dumps(about))
    (run / "metrics").mkdir()
    table = run / "metrics" / "rounds.parquet"
    parquet.write_table(pyarrow.table({"participants": [10, 4]}), table)
    scored = a_stage({"model.trainable": "adapters"}, 1, 0.1).run
    monkeypatch.setattr(private_stage, "read_runs", lambda folders, **_: [scored for _ in folders])
    (found,) = private_stage.read_points([run], patients=80, seed=0)
    assert found == Stage(scored, 24_576, 500.0, 2.5, 1e-6)
    parquet.write_table(pyarrow.table({"participants": [0]}), table)
    with pytest.raises(OurMistake, match="asked a hospital"):
        private_stage.read_points([run], patients=80, seed=0)


def test_the_table_says_no_privacy_where_there_is_none() -> None:
    """And names every point, its falls with intervals, and the words."""
    lines = results_tables.private_stage(compared(a_sweep()))
    row = next(line for line in lines if "trainable adapters" in line)
    assert "| 300 | 4 | 2.99, distributed | 1 |" in row
    assert "0.0420 [0.03" in row
    assert "| 41 [" in row
    assert "NO PRIVACY" in next(line for line in lines if "mode none" in line and "| 3 |" in line)


def test_what_the_table_does_not_say_is_said_below_it() -> None:
    """Shares above 100 %, and that one epsilon is no frontier of privacy."""
    lines = results_tables.private_stage(compared(a_sweep()))
    assert not any("upper figure" in line for line in lines)
    assert any("One epsilon and mode alone (2.99, distributed)" in line for line in lines)
    better = [a_stage({"algorithm.segments": 4}, seed, 0.2) for seed in (1, 2, 3)]
    lines = results_tables.private_stage(compared([*a_sweep(), *better]))
    assert any("upper figure" in line for line in lines)


def test_figures_are_drawn_from_the_numbers_of_the_file_alone() -> None:
    """Both; the reference is a line and no point; the same bytes again."""
    found = json.loads(json.dumps(compared(a_sweep())))
    drawn = results_figures.draw("private-stage", found)
    assert set(drawn) == {"fall", "fall-by-parameters"}
    assert drawn == results_figures.draw("private-stage", found)
    moved = json.loads(json.dumps(found))
    moved["plotted_line"]["value"] = 0.2
    other = results_figures.draw("private-stage", moved)
    assert all(other[name] != drawn[name] for name in drawn)
    free = json.loads(json.dumps(found))
    free["rows"][2]["parameters"] = 9
    assert (
        results_figures.draw("private-stage", free)["fall-by-parameters"]
        == drawn["fall-by-parameters"]
    )


def test_a_frontier_is_of_points_that_differ_in_privacy_alone() -> None:
    """Two epsilons of a mode draw it; a point that differs in more is not on it."""
    found = compared(a_sweep())
    assert [row["only_privacy"] for row in found["rows"]] == [True, False, False]
    assert "fall-by-epsilon" not in results_figures.draw("private-stage", found)
    tighter = [a_stage({"privacy.epsilon": 1.0}, seed, 0.02) for seed in (1, 2, 3)]
    local = [a_stage({"privacy.mode": "local"}, seed, 0.01) for seed in (1, 2, 3)]
    found = compared([*a_sweep(), *tighter, *local])
    assert [row["only_privacy"] for row in found["rows"]][3:] == [True, True]
    found["rows"][3]["epsilon"] = 0.99
    drawn = results_figures.draw("private-stage", found)["fall-by-epsilon"]
    assert {b"distributed", b"local"} <= set(re.findall(rb"<!-- (\w+) -->", drawn))
    below = drawn[: drawn.index(b"epsilon spent by one patient")]
    assert re.findall(rb"<!-- ([0-9.]+) -->", below) == [b"0.99", b"3"]  # and no power of ten
    other = json.loads(json.dumps(found))
    other["rows"][1]["fall"]["value"] = 0.3  # adapters: not on it
    assert results_figures.draw("private-stage", other)["fall-by-epsilon"] == drawn


def test_points_of_like_size_stand_side_by_side_around_their_number() -> None:
    """A point alone stands where it is; none moves past one that is not alike."""
    places = results_figures._side_by_side([1000, 9000, 1010, 1000, 300])
    assert places[1] == 9000
    assert places[4] == 300
    assert places[0] < places[2] < places[3] < 1.2 * 1000
    assert places[2] == 1010


def test_the_command_writes_a_measured_file_and_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores are stand-ins; folders, order and file are the command's own."""
    runs = a_swept_folder(tmp_path / "swept", [1, 2])

    def scored(folders: list[Path], **_: object) -> list[Stage]:
        assert folders == runs
        stages = [one for one in a_sweep((1, 2)) if one.run.mode != "none"]
        return stages

    monkeypatch.setattr(private_stage, "read_points", scored)
    app = typer.Typer()
    cli_gain.register(app)
    words = ["private-stage", str(tmp_path / "swept"), "-o", str(tmp_path / "out")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "no share" in done.output
    from simulations import results_page

    page = results_page.make(tmp_path / "out")
    assert "trainable adapters" in page.text
    assert len(page.figures) == 2
