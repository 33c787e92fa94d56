"""Short warm-start trainings that vary one thing at a time, scored on fresh pretend patients.

    name = "warm-start"
    preset = "tiny"
    seeds = [1, 2]
    steps = 400
    begin_with = "warm-start"     # the packaged weights; without it, a model never trained
    [base]                        # fields of simulations.pretrain.Recipe (or of
                                  # simulations.designs.Design) that differ from their own
    [vary]                        # each value is one run a seed, everything else as in base
    cross_modal_weight = [0.0, 1.0]
    decoder_blocks = [1]

No real patient is looked at, so that nothing is chosen on test patients.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, fields, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shared_model import warm_start
from shared_model import weights as weights_io
from shared_model.config import ModelConfig
from shared_model.errors import OurMistake, Refused
from shared_model.files import read_regular, write_atomic
from shared_model.mae import PRESETS
from shared_model.protocol import PresetName
from simulations.designs import Design, in_force, regrouped
from simulations.fresh_patients import RECONSTRUCTION, draw, draw_pairs, identity, score
from simulations.lab.frontiers import with_ends
from simulations.lab.reading import faults_of, toml_of
from simulations.pretrain import Recipe, check, train
from simulations.torch_threads import torch_threads

BASE = "base"
_LARGEST = 2**20
_BEGUN = {"random": "from random weights", "warm-start": "from the packaged warm start"}
_SCORES = 3
"""Of what a kept run holds: one with other scores is made again."""
Value = float | int | str
_OF_RECIPE = {one.name for one in fields(Recipe)} - {"steps", "seed"}
_OF_DESIGN = {one.name for one in fields(Design)}


class Ablation(BaseModel):
    """What is varied. patients: fresh ones, on whom all are scored with the same seed; begin_with:
    a model never trained, or the preset's packaged warm start, for what a next stage would gain."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str = Field(pattern=r"^[a-z0-9](?:[a-z0-9-]{0,62}[a-z0-9])?$")
    preset: PresetName = "tiny"
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] = (1, 2)
    steps: int = Field(400, ge=1, le=1_000_000)
    patients: int = Field(600, ge=80, le=100_000)
    threads: int = Field(1, ge=1, le=256)
    begin_with: Literal["random", "warm-start"] = "random"
    base: dict[str, Value] = {}
    vary: dict[str, list[Value]] = {}

    @classmethod
    def from_toml(cls, path: Path) -> Ablation:
        """Read a file.

        Raises:
            OurMistake: says what is wrong with it.
        """
        try:
            made = cls.model_validate(toml_of(path, "The ablation"))
        except ValidationError as error:
            raise OurMistake(f"The ablation {path} is wrong at {faults_of(error)[0]}.") from error
        if made.begin_with == "warm-start":
            warm_start.load(made.preset)
        for each in made.variants():
            if made.design(each) != Design() and made.begin_with == "warm-start":
                raise OurMistake(
                    f"The packaged weights are of one design, and {each.words} is another.",
                    do="Vary designs from models never trained: leave begin_with out.",
                )
            made.design(each).config(PRESETS[made.preset])
            made.recipe(each, made.seeds[0])
        return made

    def variants(self) -> list[Variant]:
        """The base, then each value of each field alone."""
        return [Variant(BASE, None)] + [
            Variant(name, value) for name, values in self.vary.items() for value in values
        ]

    def recipe(self, variant: Variant, seed: int) -> Recipe:
        """A variant's recipe.

        Raises:
            OurMistake: no such field, or a value of another type, or one that cannot be trained.
        """
        plain = Recipe(steps=self.steps, seed=seed)
        changed = {k: v for k, v in self._changed(variant).items() if k not in _OF_DESIGN}
        made = replace(plain, **_typed(plain, changed))
        check(made)
        return made

    def design(self, variant: Variant) -> Design:
        """A variant's design of the model.

        Raises:
            OurMistake: as `recipe`.
        """
        changed = {k: v for k, v in self._changed(variant).items() if k in _OF_DESIGN}
        return replace(Design(), **_typed(Design(), changed))

    def _changed(self, variant: Variant) -> dict[str, Value]:
        changed = dict(self.base)
        if variant.value is not None:
            changed[variant.field] = variant.value
        for name in changed:
            if name not in _OF_RECIPE | _OF_DESIGN:
                raise OurMistake(
                    f"A recipe has no field {name!r}.",
                    do=f"It has: {', '.join(sorted(_OF_RECIPE | _OF_DESIGN))}.",
                )
        return changed


def _typed(plain: Recipe | Design, changed: dict[str, Value]) -> dict[str, Any]:
    """The values in the types that the fields have."""
    made = {}
    for name, value in changed.items():
        kind = type(getattr(plain, name))
        fits = isinstance(value, kind) or (kind is float and isinstance(value, int))
        if not fits or isinstance(value, bool):
            raise OurMistake(f"{name} must be of type {kind.__name__}.")
        made[name] = kind(value)
    return made


@dataclass(frozen=True)
class Variant:
    """One field with one value; the base has none."""

    field: str
    value: Value | None

    @property
    def words(self) -> str:
        return BASE if self.value is None else f"{self.field} = {self.value}"


def run(
    asked: Ablation,
    out: Path,
    *,
    resume: bool,
    workers: int = 1,
    on_step: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    """Train and score all; a run that is there already is not trained again.

    Args:
        workers: runs at the same time, each in a process of its own; scores do not depend on it.
        on_step: told what is trained, steps of all runs done, and all there are; with several
            workers once a run.

    Raises:
        Refused: the folder holds something, and `resume` is not asked for.
    """
    if out.exists() and any(out.iterdir()) and not resume:
        raise Refused(
            f"{out} is there already, and not empty.",
            reason="exists",
            do="Choose another folder, or go on: --resume",
        )
    tell = on_step or (lambda words, done, total: None)
    each = [(variant, seed) for variant in asked.variants() for seed in asked.seeds]
    total = asked.steps * len(each)
    found: dict[str, list[dict[str, Any]]] = {variant.words: [] for variant, _ in each}
    if workers == 1:
        for place, (variant, seed) in enumerate(each):
            words, done = f"{variant.words}, seed {seed}", place * asked.steps

            def told(step: int, words: str = words, done: int = done) -> None:
                tell(words, done + step, total)

            told(0)
            found[variant.words].append(_one(asked, variant, seed, out / "runs", told))
            told(asked.steps)
        return figures_of(asked, found | _as_begun(asked))
    tell(f"{workers} at a time", 0, total)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        waiting = [pool.submit(_one, asked, *one, out / "runs") for one in each]
        try:
            for count, one in enumerate(as_completed(waiting)):
                one.result()
                tell(f"{count + 1} of {len(each)} runs", (count + 1) * asked.steps, total)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    for (variant, _), one in zip(each, waiting, strict=True):
        found[variant.words].append(one.result())
    return figures_of(asked, found | _as_begun(asked))


def _as_begun(asked: Ablation) -> dict[str, list[dict[str, Any]]]:
    """A row of the weights that every run began with, the same for each seed."""
    if asked.begin_with == "random":
        return {}
    config, begun, _ = warm_start.load(asked.preset)
    with torch_threads(asked.threads):
        return {"as begun, no step": [_scored(asked, config, begun, Design())] * len(asked.seeds)}


def _one(
    asked: Ablation,
    variant: Variant,
    seed: int,
    folder: Path,
    told: Callable[[int], None] = lambda step: None,
) -> dict[str, Any]:
    """Read a run's scores, or train it and write them."""
    recipe, design = asked.recipe(variant, seed), asked.design(variant)
    key = {"preset": asked.preset, "recipe": recipe.as_dict(), "design": design.as_dict(),
           "patients": asked.patients, "threads": asked.threads, "scores": _SCORES,
           "begin_with": asked.begin_with}  # fmt: skip
    if asked.begin_with == "warm-start":
        key["begun"] = weights_io.digest(warm_start.load(asked.preset)[1])
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    path = folder / f"{digest[:24]}.json"
    if path.is_file():
        try:
            kept: dict[str, Any] = json.loads(read_regular(path, _LARGEST))
            if kept["key"] == key:
                return kept
        except (ValueError, KeyError, TypeError):
            pass  # not whole or not ours: trained again
    with torch_threads(asked.threads), in_force(design):
        made = _trained(asked, recipe, design, told)
    kept = {"key": key, **made}
    write_atomic(path, (json.dumps(kept, indent=1) + "\n").encode())
    return kept


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
    for words, runs in found.items():
        row: dict[str, Any] = {"variant": words, "seeds": len(runs)}
        row["mean skill"] = with_ends([one["skill"] for one in runs])
        row["minus base"] = (
            None
            if words == BASE
            else with_ends([one["skill"] - b for one, b in zip(runs, base, strict=True)])
        )
        for key, title in RECONSTRUCTION.items():
            row[title] = with_ends([one["errors"][key] for one in runs])
        for key in runs[0]["shifted"]:
            row[f"r shifted, {key}"] = with_ends([one["shifted"][key] for one in runs])
        row["identity"] = with_ends([one["identity"] for one in runs])
        for task in runs[0]["metrics"]:
            row[task] = with_ends([one["metrics"][task] for one in runs])
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
