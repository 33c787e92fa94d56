"""A sweep's file: a base experiment and what is varied. All is checked before anything runs.

    base = "exp.toml"                # or a table [experiment]
    seeds = [1, 2, 3]                # the experiment's own by default

    [grid]                           # every combination
    "privacy.epsilon" = [1.0, 3.0, 8.0]

    [random]                         # so many draws of all fields at once
    draws = 20
    seed = 1
    "algorithm.learning_rate" = { log_uniform = [1e-4, 1e-2] }
    "algorithm.steps" = { integers = [1, 10] }
    "model.trainable" = { choice = ["head", "adapters"] }

    [[points]]                       # fields that must change together
    "privacy.mode" = "distributed"
    "algorithm.steps" = 1
    "algorithm.optimiser" = "sgd"

What is there is multiplied: points x grid x draws x seeds. `"none"` takes a field out, where the
field is no text. A draw is keyed by (seed, its number, field): more draws leave the earlier ones
as they are, and so does another field.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from shared_model import canonical
from shared_model.canonical import digest_of
from shared_model.errors import OurMistake
from simulations.lab.experiment import Experiment
from simulations.lab.experiment_tables import Seed
from simulations.lab.reading import faults_of, toml_of

MOST_RUNS = 10_000
ABSENT = "none"
_TEXTS = frozenset({"privacy.mode"})
"""Fields for which "none" is a value."""

Value = str | bool | int | float | list[Any]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Drawn(_Table):
    """How one field is drawn; one of the four. Bounds are included."""

    uniform: tuple[float, float] | None = None
    log_uniform: tuple[float, float] | None = None
    integers: tuple[int, int] | None = None
    choice: Annotated[tuple[Value, ...] | None, Field(min_length=1)] = None

    @model_validator(mode="after")
    def _one_of_them(self) -> Drawn:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError("give one of uniform, log_uniform, integers, choice")
        bounds = self.uniform or self.log_uniform or self.integers
        if bounds is not None and not bounds[0] <= bounds[1]:
            raise ValueError("the lower bound comes first")
        if self.log_uniform is not None and not self.log_uniform[0] > 0.0:
            raise ValueError("log_uniform is for numbers above 0")
        return self

    def draw(self, rng: np.random.Generator) -> Value:
        """One value."""
        if self.uniform is not None:
            return float(rng.uniform(*self.uniform))
        if self.log_uniform is not None:
            low, high = self.log_uniform
            found = math.exp(rng.uniform(math.log(low), math.log(high)))
            return min(max(found, low), high)
        if self.integers is not None:
            return int(rng.integers(self.integers[0], self.integers[1], endpoint=True))
        choice = self.choice or ()
        return choice[int(rng.integers(len(choice)))]


class Random(_Table):
    """`[random]`: beside draws and seed, fields of an experiment."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True, allow_inf_nan=False)

    draws: Annotated[int, Field(ge=1, le=MOST_RUNS)]
    seed: Seed = 1
    __pydantic_extra__: dict[str, Drawn]

    @property
    def fields(self) -> dict[str, Drawn]:
        """What is drawn."""
        return dict(self.__pydantic_extra__)


class Sweep(_Table):
    """A whole sweep. `experiment`: the base, as plain values."""

    experiment: dict[str, Any]
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] | None = None
    grid: dict[str, Annotated[tuple[Value, ...], Field(min_length=1)]] = {}
    random: Random | None = None
    points: tuple[dict[str, Value], ...] = ()

    @model_validator(mode="after")
    def _each_once(self) -> Sweep:
        if self.seeds is not None and len(set(self.seeds)) != len(self.seeds):
            raise ValueError("a seed is given twice")
        named = [*self.grid, *(self.random.fields if self.random else ())]
        twice = {name for name in named if named.count(name) > 1}
        if twice:
            raise ValueError(f"{min(twice)} is both in grid and in random")
        if "seed" in named and self.seeds is not None:
            raise ValueError("seed is varied by seeds")
        return self

    @classmethod
    def from_dict(cls, value: Any) -> Sweep:
        """Read plain values.

        Raises:
            OurMistake: says which field is wrong, and how.
        """
        try:
            return cls.model_validate_json(canonical.encode(value))
        except ValidationError as error:
            raise OurMistake(
                "The sweep is wrong at " + "; at ".join(dict.fromkeys(faults_of(error))) + ".",
                do="Correct the file and start again.",
            ) from error

    @classmethod
    def from_toml(cls, path: Path) -> Sweep:
        """Read a sweep's file; `base` is taken from the file's own folder.

        Raises:
            OurMistake: it or its base cannot be read, or a field is wrong.
        """
        value = toml_of(path, "The sweep")
        base = value.pop("base", None)
        if (base is None) == ("experiment" not in value):
            raise OurMistake(
                "A sweep has a base experiment.",
                do='Say base = "exp.toml", or give a table [experiment]; one of the two.',
            )
        folder = path.absolute().parent
        if base is None:
            placed = Experiment.from_dict(value["experiment"]).placed(folder)
        else:
            placed = Experiment.from_toml(folder / str(base))
        return cls.from_dict({**value, "experiment": placed.as_dict()})

    @property
    def base(self) -> Experiment:
        """The base experiment."""
        return Experiment.from_dict(self.experiment)

    @property
    def varied(self) -> tuple[str, ...]:
        """Fields that may differ between runs; seed last."""
        names = [name for point in self.points for name in point]
        names += [*self.grid, *(self.random.fields if self.random else ())]
        if len(self.seeds or ()) > 1 and "seed" not in names:
            names.append("seed")
        return tuple(dict.fromkeys(names))

    def values(self) -> Iterator[dict[str, Any]]:
        """What each run changes; all combinations with the first seed, then with the next."""
        seeds: tuple[int | None, ...] = self.seeds or (None,)
        draws = range(self.random.draws if self.random else 1)
        grid = [[(name, value) for value in found] for name, found in self.grid.items()]
        for seed in seeds:
            for point in self.points or ({},):
                for chosen in itertools.product(*grid):
                    for number in draws:
                        drawn = self._draw(number)
                        made = {**point, **dict(chosen), **drawn}
                        yield made if seed is None else {**made, "seed": seed}

    def _draw(self, number: int) -> dict[str, Any]:
        if self.random is None:
            return {}
        found = {}
        for name, how in self.random.fields.items():
            key = digest_of(["lab sweep draw", self.random.seed, number, name])
            found[name] = how.draw(np.random.Generator(np.random.PCG64(int(key, 16))))
        return found

    @property
    def count(self) -> int:
        """Runs."""
        grid = math.prod(len(values) for values in self.grid.values())
        draws = self.random.draws if self.random else 1
        return len(self.seeds or (0,)) * max(1, len(self.points)) * grid * draws


@dataclass(frozen=True)
class Point:
    """One run of a sweep. values: what it changes. key: of everything that its table row depends
    on; 12 hexadecimal digits."""

    number: int
    values: dict[str, Any]
    experiment: Experiment

    @property
    def key(self) -> str:
        content = self.experiment.as_dict()
        for name in ("name", "engine", "tracking"):
            del content[name]
        return digest_of(content)[:12]

    @property
    def name(self) -> str:
        """Of the run's folder."""
        return f"{self.experiment.name}-{self.key}"


def points_of(sweep: Sweep) -> list[Point]:
    """All runs, each checked. Two combinations that are the same experiment are one run.

    Raises:
        OurMistake: too many, or values that make no experiment; says which.
    """
    if sweep.count > MOST_RUNS:
        raise OurMistake(
            f"The sweep has {sweep.count:,} runs; at most {MOST_RUNS:,} are carried out.",
            do="Take fewer values, or draws.",
        )
    base = sweep.base
    found: dict[str, Point] = {}
    for values in sweep.values():
        plain = {
            name: None if value == ABSENT and name not in _TEXTS else value
            for name, value in values.items()
        }
        try:
            experiment = base.with_values(plain)
        except OurMistake as error:
            said = ", ".join(f"{name} = {value!r}" for name, value in values.items())
            raise OurMistake(f"With {said}: {error.message}", do=error.do) from error
        point = Point(len(found) + 1, plain, experiment)
        found.setdefault(point.key, point)
    return list(found.values())
