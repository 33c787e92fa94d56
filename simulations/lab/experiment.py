"""One experiment = one TOML file, read whole; its tables are `simulations.lab.experiment_tables`.

    experiment = Experiment.from_toml(Path("exp.toml"))
    experiment.to_toml()          # every default written out; reads back to an equal experiment
    experiment.identity           # SHA-256 of what decides the model: not engine, tracking, plots

A path in the file is taken from the file's own folder.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, model_validator

from shared_model import canonical
from shared_model.canonical import digest_of
from shared_model.errors import OurMistake
from shared_model.server_optimisers import named, rate_of
from simulations.lab.experiment_tables import (
    Algorithm,
    Behaviour,
    Engine,
    Evaluation,
    Federation,
    Model,
    Part,
    Participation,
    Privacy,
    Seed,
    Tracking,
)
from simulations.lab.reading import faults_of, toml_of


class Experiment(Part):
    """One experiment. `seed` draws patients, participants, behaviours and repeatable noise."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9](?:[a-z0-9-]{0,62}[a-z0-9])?$")]
    seed: Seed = 1
    rounds: Annotated[int, Field(ge=1, le=100_000)] = 20
    model: Model = Model()
    federation: Federation = Federation()
    participation: Participation = Participation()
    behaviours: tuple[Behaviour, ...] = ()
    algorithm: Algorithm = Algorithm()
    privacy: Privacy
    evaluation: Evaluation = Evaluation()
    engine: Engine = Engine()
    tracking: Tracking = Tracking()

    @model_validator(mode="after")
    def _parts_fit(self) -> Experiment:
        algorithm, shared = self.algorithm, self.privacy.mode == "distributed"
        rate = rate_of(self.privacy.mode, algorithm.server_learning_rate, algorithm.learning_rate)
        try:
            named(algorithm.name, rate, algorithm.moments)
        except OurMistake as error:
            raise ValueError(f"{error.message} {error.do}".rstrip(". ")) from error
        if algorithm.control_variates and algorithm.optimiser != "sgd":
            raise ValueError(
                "control variates (SCAFFOLD) correct the steps of plain SGD: say "
                'algorithm.optimiser = "sgd"'
            )
        if shared and (self.algorithm.steps, self.algorithm.optimiser) != (1, "sgd"):
            raise ValueError(
                "a round of mode distributed is one plain step: algorithm.steps = 1 and "
                'algorithm.optimiser = "sgd"'
            )
        if shared and (
            self.algorithm.control_variates
            or self.algorithm.local_norms
            or self.algorithm.proximal_weight
        ):
            raise ValueError(
                "in mode distributed nothing is trained locally: no proximal_weight, local_norms "
                "or control_variates"
            )
        return self

    @classmethod
    def from_dict(cls, value: Any) -> Experiment:
        """Read plain values (of TOML or JSON).

        Raises:
            OurMistake: says which field is wrong, and how.
        """
        try:
            return cls.model_validate_json(canonical.encode(value))
        except ValidationError as error:
            raise OurMistake(
                "The experiment is wrong at " + "; at ".join(faults_of(error)) + ".",
                do="Correct the file and start again. All fields: fedprint-lab new --help",
            ) from error

    @classmethod
    def from_toml(cls, path: Path) -> Experiment:
        """Read an experiment's file. Folders and weights in it are made absolute.

        Raises:
            OurMistake: it cannot be read, is not TOML, or a field is wrong.
        """
        return cls.from_dict(toml_of(path, "The experiment")).placed(path.absolute().parent)

    def placed(self, folder: Path) -> Experiment:
        """The same with paths taken from `folder`."""
        weights = self.model.weights
        changed: dict[str, Any] = {}
        if weights is not None:
            made = str(folder / weights)
            changed["model"] = self.model.model_copy(update={"weights": made})
        if self.federation.folders:
            folders = tuple(str(folder / one) for one in self.federation.folders)
            changed["federation"] = self.federation.model_copy(update={"folders": folders})
        tracked = self.tracking.mlflow
        if tracked is not None and "://" not in tracked and tracked not in {"databricks", "uc"}:
            made = str(folder / tracked)
            changed["tracking"] = self.tracking.model_copy(update={"mlflow": made})
        return self.model_copy(update=changed)

    def with_values(self, values: dict[str, Any]) -> Experiment:
        """The same with some fields changed: `{"privacy.epsilon": 3.0}`; None takes one out.

        Raises:
            OurMistake: there is no such field, or the value does not fit.
        """
        content = self.as_dict()
        for name, value in values.items():
            at, *deeper = name.split(".")
            place = content
            while deeper:
                if not isinstance(place.get(at), dict):
                    raise OurMistake(f"An experiment has no field {name!r}.")
                place = place[at]
                at, *deeper = deeper
            if at not in place:
                raise OurMistake(f"An experiment has no field {name!r}.")
            place[at] = value
        return Experiment.from_dict(content)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, every default included."""
        value: dict[str, Any] = self.model_dump(mode="json")
        return value

    @property
    def identity(self) -> str:
        """SHA-256 of what decides the model, hexadecimal."""
        return digest_of(self.deciding())

    def deciding(self) -> dict[str, Any]:
        """Plain values of what decides the model."""
        content = self.as_dict()
        for name in ("name", "evaluation", "engine", "tracking"):
            del content[name]
        return content

    def to_toml(self) -> str:
        """The file with every default; fields that have no value stand in it as comments."""
        return "\n".join(_toml(self.as_dict(), ())).lstrip("\n") + "\n"


def _toml(table: dict[str, Any], name: tuple[str, ...]) -> list[str]:
    lines, below = [], []
    for key, value in table.items():
        if isinstance(value, dict):
            below += ["", f"[{'.'.join((*name, key))}]", *_toml(value, (*name, key))]
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            for item in value:
                below += ["", f"[[{'.'.join((*name, key))}]]", *_toml(item, (*name, key))]
        elif value is None:
            lines.append(f"# {key} =")
        else:
            lines.append(f"{key} = {json.dumps(value)}")
    return lines + below
