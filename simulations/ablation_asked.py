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

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shared_model import warm_start
from shared_model.errors import OurMistake
from shared_model.mae import PRESETS
from shared_model.protocol import PresetName
from simulations.designs import SIZES, Design, parameters_of
from simulations.lab.reading import faults_of, toml_of
from simulations.pretrain import Recipe, check

BASE = "base"
Value = float | int | str
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
_OF_RECIPE = {one.name for one in fields(Recipe)} - {"steps", "seed"}
_OF_DESIGN = {one.name for one in fields(Design)}


class Ablation(BaseModel):
    """What is varied. patients: fresh ones, on whom all are scored with the same seed; begin_with:
    a model never trained, or the preset's packaged warm start, for what a next stage would gain."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str = Field(pattern=r"^[a-z0-9](?:[a-z0-9-]{0,62}[a-z0-9])?$")
    preset: PresetName = "tiny"
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1, max_length=100)] = (1, 2)
    steps: int = Field(400, ge=1, le=1_000_000)
    patients: int = Field(600, ge=80, le=100_000)
    threads: int = Field(1, ge=1, le=256)
    begin_with: Literal["random", "warm-start"] = "random"
    base: dict[str, Value] = {}
    vary: dict[str, Annotated[list[Value], Field(min_length=1, max_length=100)]] = {}

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
            parameters_of(made.design(each), PRESETS[made.preset])
            made.recipe(each, made.seeds[0])
        made._refuse_equal()
        return made

    def _refuse_equal(self) -> None:
        """Two names of one training: its interval would be of nothing, its column of itself."""
        if len(set(self.seeds)) < len(self.seeds):
            raise OurMistake(
                "A seed is named twice: the same run again makes no interval.",
                do="Name different seeds.",
            )
        seen: dict[Any, str] = {}
        for each in self.variants():
            design = self.design(each)
            others = [value for name, value in design.as_dict().items() if name not in SIZES]
            same = (self.recipe(each, 0), design.config(PRESETS[self.preset]), *others)
            if same in seen:
                raise OurMistake(
                    f"{each.words} is the same training as {seen[same]}.",
                    do="Vary it by values that differ from each other and from the base.",
                )
            seen[same] = each.words

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
