"""The warm start: its file, its manifest, its command, its recipe."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from typer.testing import CliRunner

from shared_model import mae, warm_start, weights
from shared_model.config import ModelConfig
from shared_model.errors import FedprintError, OurMistake, Refused

if TYPE_CHECKING:
    from torch import Tensor


def _made(config: ModelConfig) -> tuple[bytes, str]:
    held = mae.weights_of(mae.build(config, seed=5))
    manifest = {"model": config.as_dict(), "model_digest": weights.digest(held)}
    return weights.to_bytes(held), json.dumps(manifest)


def test_a_warm_start_is_read_with_its_configuration() -> None:
    data, manifest = _made(mae.PRESETS["tiny"])
    config, found, read = warm_start.read(data, manifest)
    assert config == mae.PRESETS["tiny"]
    assert weights.digest(found) == read["model_digest"]


def test_a_changed_weight_is_refused() -> None:
    data, manifest = _made(mae.PRESETS["tiny"])
    changed = weights.from_bytes(data)
    name = next(iter(changed))
    changed[name] = changed[name] + np.float32(1e-6)
    with pytest.raises(FedprintError):
        warm_start.read(weights.to_bytes(changed), manifest)
    with pytest.raises(FedprintError):
        warm_start.read(data[:-1], manifest)


def test_a_preset_that_is_not_packaged_says_how_to_make_one() -> None:
    with pytest.raises(OurMistake) as caught:
        warm_start.load("giant")
    assert "fedprint-lab warm-start" in caught.value.do


def test_the_command_writes_weights_manifest_and_curve(tmp_path: Path) -> None:
    from simulations.cli import app

    command = [
        "warm-start",
        str(tmp_path),
        "--steps",
        "2",
        "--seed",
        "3",
        "--threads",
        "1",
        "--json",
    ]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    manifest = json.loads(result.stdout)
    data = (tmp_path / "warm_start_tiny.safetensors").read_bytes()
    _, found, read = warm_start.read(data, (tmp_path / "warm_start_tiny.json").read_text())
    assert read == manifest
    assert (tmp_path / "warm_start_tiny.png").stat().st_size > 1000
    begun = mae.weights_of(mae.build(mae.PRESETS["tiny"], seed=3))
    assert weights.digest(found) != weights.digest(begun)
    assert all(np.isfinite(value).all() for value in found.values())


@pytest.mark.parametrize(("points", "batch", "height"), [(1, 16, 0.9), (2, 64, 3.0), (400, 8, 1)])
def test_the_training_curve_is_seen_and_names_its_batch(
    points: int, batch: int, height: float
) -> None:
    """One point makes no line, and a bad start is no reason to leave it out of the picture."""
    from simulations.cli_warm_start import curve_of

    curve = [
        {"step": 25 * (i + 1), "masked": height, "cross_modal": height / 2} for i in range(points)
    ]
    (axes,) = curve_of({"curve": curve, "recipe": {"batch": batch}}).axes
    assert axes.get_xlabel() == f"step ({batch} simulated windows each)"
    for line in axes.get_lines()[:2]:
        assert len(line.get_xydata()) == points  # type: ignore[arg-type]
        assert points > 50 or line.get_marker() == "o"
    assert axes.get_ylim()[1] > height


def test_an_unknown_preset_is_refused(tmp_path: Path) -> None:
    from simulations.cli import app

    result = CliRunner().invoke(app, ["warm-start", str(tmp_path), "--preset", "huge"])
    assert isinstance(result.exception, OurMistake)


def test_auxiliary_heads_learn_from_known_labels_only() -> None:
    import torch

    from simulations.cohort import draw_windows
    from simulations.pretrain import CLASSES, NUMBERS, AuxiliaryHeads

    _, _, labels = draw_windows(np.random.default_rng(0), 32)
    kept = {n: labels[n].astype(np.float64) for n in NUMBERS}
    kept |= {n: labels[n].astype(np.int64) for n in CLASSES}
    torch.manual_seed(0)
    heads = AuxiliaryHeads(kept)
    truth = {name: torch.from_numpy(value) for name, value in kept.items()}
    truth["hr_bpm"][:5] = float("nan")
    seen = torch.randn(32, 128, requires_grad=True)
    use = torch.arange(32) < 20
    loss = heads(0, seen, truth, use)
    loss.backward()
    assert torch.isfinite(loss)
    assert seen.grad is not None
    assert not seen.grad[20:].any()
    assert torch.isfinite(seen.grad).all()


def test_the_learning_rate_warms_up_and_falls_to_zero() -> None:
    from simulations.pretrain import Recipe

    recipe = Recipe(steps=1000, seed=1)
    rates = [recipe.rate(step) for step in range(1001)]
    assert rates[0] < rates[30] < rates[59] == pytest.approx(recipe.learning_rate)
    assert all(a >= b for a, b in pairwise(rates[60:]))
    assert rates[1000] == pytest.approx(0.0, abs=1e-9)


def _unit(rows: list[list[float]]) -> Tensor:
    import torch

    made = torch.zeros(len(rows), 128)
    made[:, :2] = torch.tensor(rows)
    return torch.nn.functional.normalize(made, dim=1)


def test_windows_of_one_person_are_pulled_together_and_others_apart() -> None:
    """By hand, at temperature 0.1: each window has one partner and two strangers."""
    import torch

    from simulations.pretrain_terms import same_person

    seen = _unit([[1, 0], [0.8, 0.6], [0, 1], [-1, 0]]).requires_grad_()
    person, use = torch.tensor([0, 0, 1, 1]), torch.ones(4, dtype=torch.bool)
    loss = same_person(seen, person, use)
    alike = (seen @ seen.T).detach() / 0.1
    by_hand = [
        float(torch.logsumexp(alike[i, [j for j in range(4) if j != i]], 0) - alike[i, partner])
        for i, partner in enumerate((1, 0, 3, 2))
    ]
    assert float(loss.detach()) == pytest.approx(np.mean(by_hand), rel=1e-5)
    loss.backward()  # type: ignore[no-untyped-call]
    assert seen.grad is not None
    closer = (seen.detach() - 0.01 * seen.grad)[:2]
    assert float((closer[0] * closer[1]).sum() / closer.norm(dim=1).prod()) > 0.8


def test_a_window_that_is_not_used_is_neither_asked_nor_an_answer() -> None:
    """Nor has one whose partner is missing a loss; a batch without any pair costs nothing."""
    import torch

    from simulations.pretrain_terms import same_person

    seen = _unit([[1, 0], [0.8, 0.6], [0, 1], [-1, 0]]).requires_grad_()
    person = torch.tensor([0, 0, 1, 1])
    use = torch.tensor([True, True, True, False])
    same_person(seen, person, use).backward()  # type: ignore[no-untyped-call]
    assert seen.grad is not None
    assert not seen.grad[3].any()
    without = same_person(seen[:3], person[:3], use[:3])
    assert torch.allclose(same_person(seen, person, use), without)
    alone = same_person(seen, person, torch.tensor([True, False, True, False]))
    assert float(alone.detach()) == 0.0
    assert torch.isfinite(torch.autograd.grad(alone, seen)[0]).all()


def test_training_with_the_person_term_makes_persons_easier_to_tell_apart() -> None:
    """The same windows and first weights, the packaged ones: only the term differs."""
    import torch

    from shared_model.fingerprint import fingerprints
    from simulations.cohort import draw_windows
    from simulations.pretrain import Recipe, train
    from simulations.pretrain_terms import same_person
    from simulations.torch_threads import torch_threads

    with torch_threads(1):
        signal, valid, labels = draw_windows(np.random.default_rng(9), 24, windows_per_patient=2)
        begun = warm_start.load("tiny")[1]
        lost = {}
        for weight in (0.0, 1.0):
            recipe = Recipe(
                steps=10, seed=1, batch=16, warm_up=2, windows_per_patient=2, person_weight=weight
            )
            trained, _ = train(mae.PRESETS["tiny"], recipe, start_from=begun)
            model = mae.build(mae.PRESETS["tiny"], 0)
            mae.load_weights(model, trained)
            seen = torch.from_numpy(np.asarray(fingerprints(model, signal, valid))).float()
            person = torch.from_numpy(labels["patient"])
            lost[weight] = float(same_person(seen, person, torch.ones(24, dtype=torch.bool)))
    assert lost[1.0] < lost[0.0]


def test_a_person_needs_a_second_window(tmp_path: Path) -> None:
    from simulations.cli import app

    result = CliRunner().invoke(app, ["warm-start", str(tmp_path / "out"), "--person", "0.1"])
    assert isinstance(result.exception, OurMistake)
    assert "windows_per_patient" in result.exception.message
    assert not (tmp_path / "out").exists()


def test_equal_recipes_make_equal_weights_whatever_was_drawn_before() -> None:
    """torch begins every process with another seed, and the heads were drawn with it."""
    import torch

    from shared_model.mae import PRESETS
    from shared_model.weights import digest
    from simulations.pretrain import Recipe, train

    made = []
    for before in (1, 2):
        torch.manual_seed(before)
        weights, _ = train(
            PRESETS["tiny"], Recipe(steps=2, seed=5, batch=4, self_similarity_weight=0.1)
        )
        made.append(digest(weights))
    assert made[0] == made[1]


def test_a_simulating_process_that_ends_is_told_in_words() -> None:
    """It was told as "interrupted", for click takes an EOFError for the user's."""
    from simulations import pretrain

    recipe = pretrain.Recipe(steps=3, seed=5, batch=4)
    with pretrain.simulated_batches(recipe) as batches:
        assert len([next(batches) for _ in range(3)]) == 3
        with pytest.raises(FedprintError, match=r"has ended \(status 0\)"):
            next(batches)


def test_one_that_is_killed_in_the_middle_of_a_batch_too() -> None:
    """A batch is larger than a pipe: who makes it mostly waits in the middle of one."""
    import multiprocessing
    from multiprocessing.connection import wait

    from simulations import pretrain

    recipe = pretrain.Recipe(steps=3, seed=5, batch=64)
    with pretrain.simulated_batches(recipe) as batches:
        next(batches)
        (child,) = multiprocessing.active_children()
        pipe = batches.gi_frame.f_locals["ours"]  # type: ignore[attr-defined]
        assert wait([pipe], timeout=120)  # the next batch has begun to arrive
        child.kill()
        with pytest.raises(FedprintError, match=r"has ended \(status -9\)"):
            next(batches)


def test_labels_may_look_at_whole_windows_of_both_sensors() -> None:
    """As a fingerprint is made of them; what is reconstructed is the same."""
    from dataclasses import replace

    import torch

    from shared_model.mae import PRESETS, build
    from simulations import pretrain
    from simulations.pretrain_terms import same_person

    made = {}
    for both_seen in ("masked", "whole"):
        recipe = pretrain.Recipe(
            steps=1, seed=5, batch=8, windows_per_patient=2, person_weight=0.1,
            both_seen=both_seen,  # type: ignore[arg-type]
        )  # fmt: skip
        with pretrain.simulated_batches(recipe) as batches:
            batch = next(batches)
        heads = pretrain.AuxiliaryHeads(batch[2])
        pretrain.draw_heads(heads, torch.Generator().manual_seed(1))
        model = build(PRESETS["tiny"], 0)
        loss, parts = pretrain.step_loss(
            model, heads, None, batch, recipe, np.random.default_rng(1)
        )
        if both_seen == "whole":
            signal, valid, labels = batch
            views = torch.stack(
                [
                    model.fingerprint(pretrain.fold(torch.from_numpy(signal)), seen)
                    for seen in _views(torch.from_numpy(valid))
                ]
            )
            truth = {name: torch.from_numpy(value) for name, value in labels.items()}
            use = [one.any(-1).any(-1) for one in _views(torch.from_numpy(valid))]
            by_hand = sum(float(heads(k, views[k], truth, use[k]).detach()) for k in range(3))
            assert parts[2] == pytest.approx(by_hand, rel=1e-4)
            plain, _ = pretrain.step_loss(
                model, heads, None, batch, replace(recipe, person_weight=0.0),
                np.random.default_rng(1),
            )  # fmt: skip
            person = torch.arange(8) // 2
            told = [float(same_person(views[k], person, use[k]).detach()) for k in range(3)]
            assert float((loss - plain).detach()) == pytest.approx(0.1 * np.mean(told), rel=1e-3)
        made[both_seen] = (float(loss.detach()), *parts)
    assert made["masked"][1:3] == pytest.approx(made["whole"][1:3], rel=1e-6)
    assert made["masked"][3] != pytest.approx(made["whole"][3], rel=1e-5)
    with pytest.raises(OurMistake, match="both_seen"):
        pretrain.check(pretrain.Recipe(steps=1, seed=1, both_seen="some"))  # type: ignore[arg-type]


def _views(valid: Tensor) -> list[Tensor]:
    """Both sensors, ECG alone, PPG alone."""
    ecg, ppg = valid.clone(), valid.clone()
    ecg[:, 1] = False
    ppg[:, 0] = False
    return [valid, ecg, ppg]


def test_the_command_takes_both_seen_and_refuses_another_word(tmp_path: Path) -> None:
    from simulations.cli import app

    plain = ["warm-start", str(tmp_path), "--steps", "1", "--batch", "4", "--threads", "1"]
    shown = CliRunner().invoke(app, [*plain, "--both-seen", "whole", "--json"])
    assert shown.exit_code == 0, shown.output
    manifest = json.loads(shown.stdout)
    assert manifest["recipe"]["both_seen"] == "whole"
    assert "--both-seen whole" in manifest["made_by"]
    wrong = CliRunner().invoke(app, [*plain, "--both-seen", "some"])
    assert isinstance(wrong.exception, OurMistake)
    assert "--both-seen" in wrong.exception.message


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["/proc/x"], "cannot be written"),
        (["OUT", "--keep", "/proc/x"], "cannot be written"),
        (["TAKEN"], "is a folder"),
        (["OUT", "--threads", "100000"], "more than this machine has cores"),
        (["OUT", "--batch", "1000000"], "batch is at most"),
    ],
)
def test_what_cannot_be_written_or_trained_is_refused_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], said: str
) -> None:
    """Root may write in /proc by its rights, and no file can be made there."""
    from simulations import pretrain
    from simulations.cli import app

    def train(*_: object, **__: object) -> None:
        raise AssertionError("trained")

    monkeypatch.setattr(pretrain, "train", train)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "TAKEN" / "warm_start_tiny.safetensors").mkdir(parents=True)
    refused = CliRunner().invoke(app, ["warm-start", *words]).exception
    assert isinstance(refused, OurMistake)
    assert said in refused.message


@pytest.mark.parametrize("end", [".safetensors", ".json", ".png"])
def test_an_earlier_warm_start_is_not_written_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """Hours of training were lost without a word; of another preset there is nothing to lose."""
    from simulations import pretrain
    from simulations.cli import app

    def train(*_: object, **__: object) -> None:
        raise AssertionError("trained")

    monkeypatch.setattr(pretrain, "train", train)
    (tmp_path / f"warm_start_tiny{end}").write_bytes(b"earlier")
    refused = CliRunner().invoke(app, ["warm-start", str(tmp_path)]).exception
    assert isinstance(refused, Refused)
    assert f"holds warm_start_tiny{end} already" in refused.message
    assert "move" in refused.do
    assert (tmp_path / f"warm_start_tiny{end}").read_bytes() == b"earlier"
    other = CliRunner().invoke(app, ["warm-start", str(tmp_path), "--preset", "small"]).exception
    assert isinstance(other, AssertionError)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_says_what_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, status: int
) -> None:
    """And that without --keep nothing is."""
    from simulations import pretrain
    from simulations.cli import app

    def train(*_: object, on_keep: Callable[..., None], **__: object) -> None:
        on_keep(250, {})
        on_keep(500, {})
        signal.raise_signal(number)

    monkeypatch.setattr(pretrain, "train", train)
    done = CliRunner().invoke(app, ["warm-start", str(tmp_path / "out")])
    assert done.exit_code == status
    assert f"Ended by {number.name}. Nothing is kept: with --keep FOLDER" in done.stderr
    keep = tmp_path / "kept"
    done = CliRunner().invoke(app, ["warm-start", str(tmp_path / "out"), "--keep", str(keep)])
    assert done.exit_code == status
    assert f"--start-from {keep / 'tiny-00500.safetensors'}" in done.stderr


def test_the_manifest_names_every_option_that_the_weights_depend_on() -> None:
    """Its command, typed again, asks for the same recipe with as many threads."""
    from shared_model.commands import command_of as program
    from simulations import pretrain
    from simulations.cli import app
    from simulations.cli_warm_start import command_of

    recipe = pretrain.Recipe(
        steps=7, seed=3, batch=6, learning_rate=0.00123456789, cross_modal_weight=0.3,
        auxiliary_weight=0.7, person_weight=0.05, windows_per_patient=2, both_seen="whole",
        precision="bfloat16",
    )  # fmt: skip
    words = command_of("small", recipe, 1, "cuda:1").split()
    asked = program(app).commands["warm-start"]  # type: ignore[attr-defined]
    options = {one for param in asked.params for one in param.opts if one.startswith("--")}
    assert options - set(words) == {"--keep", "--start-from", "--json"}
    given = asked.make_context("warm-start", words[2:]).params
    assert (given["preset"], given["threads"], given["bfloat16"]) == ("small", 1, True)
    assert given["device"] == "cuda:1"
    assert given["learning_rate"] == recipe.learning_rate
    assert given["steps"] == 7
    assert given["seed"] == 3
    assert (given["batch"], given["windows_per_patient"]) == (6, 2)
    assert (given["cross_modal"], given["auxiliary"], given["person"]) == (0.3, 0.7, 0.05)
    assert given["both_seen"] == "whole"
