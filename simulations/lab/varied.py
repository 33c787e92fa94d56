"""What differs between experiments, in words, and what their training costs in arithmetic. Pure."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from simulations.lab.experiment import Experiment

_SAYS_LITTLE = frozenset({"name", "kind"})
"""Fields that mean nothing without their table's name."""


def fields_of(experiment: Experiment) -> dict[str, Any]:
    """What decides the model but the seed, by dotted name: {"privacy.epsilon": 3.0, ...}."""
    content = experiment.deciding()
    del content["seed"]
    return dict(_flat(content, ()))


def _flat(table: dict[str, Any], name: tuple[str, ...]) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in table.items():
        if isinstance(value, dict):
            found += _flat(value, (*name, key))
        else:
            found.append((".".join((*name, key)), value))
    return found


def differing(experiments: Sequence[Experiment]) -> tuple[str, ...]:
    """Names of the fields, but the seed, that are not the same in all."""
    every = [fields_of(one) for one in experiments]
    return tuple(name for name in every[0] if any(one[name] != every[0][name] for one in every))


def told(name: str, value: Any, names: Sequence[str]) -> str:
    """A field and its value in words: "clipping norm 0.2", "no epsilon".

    names: all that are spoken of; a field's table is named where its own name is not enough.
    """
    *tables, last = name.split(".")
    short = Counter(one.rsplit(".", 1)[-1] for one in names)
    if tables and (last in _SAYS_LITTLE or short[last] > 1):
        last = f"{tables[-1]} {last}"
    last = last.replace("_", " ")
    if value is None:
        return f"no {last}"
    if isinstance(value, str):
        return f"{last} {value}"
    if isinstance(value, float):
        return f"{last} {value:g}"
    return f"{last} {json.dumps(value)}"


def batch(experiment: Experiment) -> float | None:
    """Expected patients of a step at a hospital; None where only real folders know."""
    of = experiment.federation
    if of.source == "folders":
        return None
    return experiment.privacy.sample_rate * of.patients * (1.0 - of.held_out)


def passes(experiment: Experiment) -> float | None:
    """Expected gradient passes of all hospitals together: patients x K x A x steps x rounds; None
    where only real folders know."""
    patients = batch(experiment)
    if patients is None:
        return None
    hospitals = experiment.federation.hospitals
    asked = min(experiment.participation.sites_per_round or hospitals, hospitals)
    return asked * patients * _of_a_patient(experiment)


def _of_a_patient(experiment: Experiment) -> int:
    """Gradient passes for a patient who is in every step."""
    how = experiment.algorithm
    return how.segments * how.patch_masks * how.steps * experiment.rounds


def relative_cost(experiment: Experiment, base: Experiment) -> float | None:
    """Gradient passes over the base's; of real folders only where both have the same patients."""
    ours, theirs = passes(experiment), passes(base)
    if ours is not None and theirs is not None:
        return ours / theirs
    if (experiment.federation, experiment.participation) != (base.federation, base.participation):
        return None
    rates = experiment.privacy.sample_rate / base.privacy.sample_rate
    return rates * _of_a_patient(experiment) / _of_a_patient(base)


def changed(experiment: Experiment, base: Experiment, names: Sequence[str]) -> str:
    """What a point changes of the base, in words; expected batches where they differ."""
    ours, theirs = fields_of(experiment), fields_of(base)
    said = [told(name, ours[name], names) for name in names if ours[name] != theirs[name]]
    size = batch(experiment)
    if size is not None and size != batch(base):
        said.append(f"expected batch {size:.0f}")
    return ", ".join(said)
