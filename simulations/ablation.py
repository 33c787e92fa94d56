"""Short warm-start trainings that vary one thing at a time, scored on fresh pretend patients.

    asked = Ablation.from_toml(path)              # `ablation_asked`: what is varied
    done = run(asked, out, resume=False)          # trains and scores; each run is a small file
    done.figures                                  # means and differences to the base

A run has a process of its own with `workers`, and says what made it (`ablation_runs`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from shared_model import outputs, warm_start
from shared_model import weights as weights_io
from shared_model.config import ModelConfig
from shared_model.errors import Refused
from shared_model.mae import PRESETS
from simulations import ablation_runs as runs
from simulations.ablation_asked import BASE, Ablation, Variant
from simulations.ablation_workers import side_by_side
from simulations.designs import Design, in_force, regrouped
from simulations.fresh_patients import RECONSTRUCTION, draw, draw_pairs, identity, score
from simulations.lab.frontiers import with_ends
from simulations.pretrain import Recipe, train
from simulations.torch_threads import check_threads, torch_threads

__all__ = ["Ablated", "Ablation", "Variant", "answer", "figures_of", "run"]

ENTRY = "simulations.ablation:answer"
_UNTOUCHED = "as begun, no step"
_BEGUN = {"random": "from random weights", "warm-start": "from the packaged warm start"}
_SCORES = 3
"""Of what a kept run holds: one with other scores is made again."""


@dataclass(frozen=True)
class Ablated:
    """What came of it. made: what made the runs (`ablation_runs.made_of`); begun: digest of the
    packaged weights that all began with, by the row that shows them."""

    figures: dict[str, Any]
    made: dict[str, Any]
    begun: dict[str, str]


@dataclass(frozen=True)
class _Asked:
    """One run: what it is, and what a file of it must say to be kept."""

    variant: Variant
    seed: int
    key: dict[str, Any]

    @property
    def words(self) -> str:
        return f"{self.variant.words}, seed {self.seed}"


def run(
    asked: Ablation,
    out: Path,
    *,
    resume: bool,
    workers: int = 1,
    on_step: Callable[[str, int, int], None] | None = None,
    on_kept: Callable[[str], None] = lambda words: None,
) -> Ablated:
    """Train and score all; a run that the same code and versions made already is not made again.

    Args:
        workers: runs at the same time, each in a process of its own; scores do not depend on it.
        on_step: told what is trained, steps of all runs done, and all there are; with several
            workers once a run.
        on_kept: with `resume`, told before the first step how many runs are kept, and why the
            others are not.

    Raises:
        Refused: the folder holds something, and `resume` is not asked for; or the package's files
            have changed since it began.
        OurMistake: no file can be written there, or the machine has not so many threads.
    """
    if out.exists() and any(out.iterdir()) and not resume:
        raise Refused(
            f"{out} is there already, and not empty.",
            reason="exists",
            do="Choose another folder, or go on: --resume",
        )
    check_threads(asked.threads)
    folder, origin = out / "runs", runs.Origin.here()
    outputs.make(folder)
    each = _each(asked)
    looked = [runs.kept(folder, one.key, origin) for one in each]
    found = {one.words: it for one, (it, _) in zip(each, looked, strict=True) if it is not None}
    if resume:
        on_kept(runs.words_of(why for _, why in looked))
    stay, total = len(found), asked.steps * len(each)
    tell = on_step or (lambda words, done, total: None)
    left = [one for one in each if one.words not in found]
    make = _one_by_one if workers == 1 else partial(_side_by_side, workers=workers)

    def told(words: str, done: int) -> None:
        tell(words, stay * asked.steps + done, total)

    with closing(make(asked, left, origin.code, told)) as trained:
        for one, made, seconds in trained:
            it = runs.sealed(one.key, made, origin, seconds=seconds, threads=asked.threads)
            runs.keep(folder, it)
            found[one.words] = it
    by_variant = {
        variant.words: [found[one.words] for one in each if one.variant == variant]
        for variant in asked.variants()
    }
    return Ablated(
        figures_of(asked, by_variant | _as_begun(asked)),
        runs.made_of({one.words: found[one.words] for one in each}, kept=stay),
        {} if asked.begin_with == "random" else {_UNTOUCHED: each[0].key["begun"]},
    )


def _each(asked: Ablation) -> list[_Asked]:
    """All runs, seed by seed of each variant."""
    key = {"preset": asked.preset, "patients": asked.patients, "threads": asked.threads,
           "scores": _SCORES, "begin_with": asked.begin_with}  # fmt: skip
    if asked.begin_with == "warm-start":
        key["begun"] = weights_io.digest(warm_start.load(asked.preset)[1])
    return [
        _Asked(
            variant,
            seed,
            key
            | {"recipe": asked.recipe(variant, seed).as_dict()}
            | {"design": asked.design(variant).as_dict()},
        )
        for variant in asked.variants()
        for seed in asked.seeds
    ]


_Tell = Callable[[str, int], None]
"""(what is done, steps done of the runs that are trained now)."""
_Made = Generator[tuple[_Asked, runs.Run, float]]
"""A run, its scores, and how many seconds it took."""


def _one_by_one(asked: Ablation, left: Sequence[_Asked], code: str, tell: _Tell) -> _Made:
    """In this process."""
    for place, one in enumerate(left):
        done = place * asked.steps

        def told(step: int, words: str = one.words, done: int = done) -> None:
            tell(words, done + step)

        told(0)
        began = time.monotonic()
        made = _made(asked, one.variant, one.seed, code, told)
        yield one, made, time.monotonic() - began
        told(asked.steps)


def _side_by_side(
    asked: Ablation, left: Sequence[_Asked], code: str, tell: _Tell, *, workers: int
) -> _Made:
    """In processes of their own."""
    told = {"asked": asked.model_dump(mode="json"), "code": code}
    orders = [
        told | {"field": one.variant.field, "value": one.variant.value, "seed": one.seed}
        for one in left
    ]
    tell(f"{workers} at a time", 0)
    with closing(side_by_side(ENTRY, orders, workers)) as answers:
        for count, (place, done) in enumerate(answers):
            yield left[place], done["made"], done["seconds"]
            tell(f"{count + 1} of {len(left)} runs", (count + 1) * asked.steps)


def answer(order: dict[str, Any]) -> dict[str, Any]:
    """A worker's: train and score one run."""
    began = time.monotonic()
    asked = Ablation.model_validate(order["asked"])
    variant = Variant(order["field"], order["value"])
    made = _made(asked, variant, order["seed"], order["code"], lambda step: None)
    return {"made": made, "seconds": time.monotonic() - began}


def _as_begun(asked: Ablation) -> dict[str, list[dict[str, Any]]]:
    """A row of the weights that every run began with, the same for each seed."""
    if asked.begin_with == "random":
        return {}
    config, begun, _ = warm_start.load(asked.preset)
    with torch_threads(asked.threads):
        return {_UNTOUCHED: [_scored(asked, config, begun, Design())] * len(asked.seeds)}


def _made(
    asked: Ablation, variant: Variant, seed: int, code: str, told: Callable[[int], None]
) -> runs.Run:
    """Train a run and score it, by the code of this digest alone."""
    runs.refuse_other_code(code)
    design = asked.design(variant)
    with torch_threads(asked.threads), in_force(design):
        made = _trained(asked, asked.recipe(variant, seed), design, told)
    runs.refuse_other_code(code)
    return made


def _trained(
    asked: Ablation, recipe: Recipe, design: Design, told: Callable[[int], None]
) -> dict[str, Any]:
    config = design.config(PRESETS[asked.preset])
    begun = warm_start.load(asked.preset)[1] if asked.begin_with == "warm-start" else None
    trained, points = train(
        config, recipe, start_from=begun, on_point=lambda point: told(point.step)
    )
    curve = [[point.step, point.masked, point.cross_modal] for point in points]
    return {"curve": curve, **_scored(asked, config, trained, design)}


def _scored(
    asked: Ablation, config: ModelConfig, trained: weights_io.Weights, design: Design
) -> dict[str, Any]:
    fresh, pairs = draw(asked.patients, 0), draw_pairs(asked.patients // 3, 0)
    fresh = replace(fresh, valid=regrouped(fresh.valid, design.patch_samples))
    pairs = replace(pairs, valid=regrouped(pairs.valid, design.patch_samples))
    scored = score(config, trained, fresh, 0)
    return {
        "model": weights_io.digest(trained),
        "parameters": sum(int(value.size) for value in trained.values()),
        "errors": scored.errors,
        "shifted": scored.shifted,
        "metrics": scored.metrics,
        "skill": scored.skill,
        "identity": identity(config, trained, pairs),
    }


def figures_of(asked: Ablation, found: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Means over seeds with Student's t intervals, and differences to the base, paired by seed."""
    base = [one["skill"] for one in found[BASE]]
    rows = []
    for words, of_it in found.items():
        row: dict[str, Any] = {"variant": words, "seeds": len(of_it)}
        row["mean skill"] = with_ends([one["skill"] for one in of_it])
        row["minus base"] = (
            None
            if words == BASE
            else with_ends([one["skill"] - b for one, b in zip(of_it, base, strict=True)])
        )
        for key, title in RECONSTRUCTION.items():
            row[title] = with_ends([one["errors"][key] for one in of_it])
        for key in of_it[0]["shifted"]:
            row[f"r shifted, {key}"] = with_ends([one["shifted"][key] for one in of_it])
        row["identity"] = with_ends([one["identity"] for one in of_it])
        for task in of_it[0]["metrics"]:
            row[task] = with_ends([one["metrics"][task] for one in of_it])
        rows.append(row)
    return {
        "name": asked.name,
        "asked": asked.model_dump(mode="json"),
        "rows": rows,
        "in_words": [
            f"Preset {asked.preset}, {asked.steps} steps a run {_BEGUN[asked.begin_with]}; scored "
            f"on {asked.patients} fresh SIMULATED patients, the same for all. Intervals: 95 % over "
            "seeds (Student's t).",
            "Tasks: AUROC (sinus rhythm, atrial fibrillation, hypertension) or mean absolute error "
            "(age, systolic pressure, heart rate). Skill: 0 knows nothing, 1 is perfect. Identity: "
            "AUROC of telling whether two windows are one patient's; no part of the skill.",
            "A target of normalised patches makes errors of reconstruction incomparable, and not "
            "skill and identity.",
            "Short trainings: what helps after so few steps may not help after thousands.",
        ],
        "plotted": [{"name": row["variant"], **row["mean skill"]} for row in rows],
        "plotted_words": "mean skill over tasks, 95 % over seeds",
    }
