"""What a plan means, in words, and what stands around the point that was asked for.

needed(found)       patients, hospitals or rounds for which noise-to-signal of the mean is 1
advice(found)       sentences, the most important first
around(found)       rows of a table: one thing changed at a time
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from shared_model.errors import OurMistake
from shared_model.roster import default_threshold
from simulations.lab.experiment import Experiment
from simulations.lab.experiment_tables import MAX_HOSPITALS
from simulations.lab.plan_question import patients_of
from simulations.lab.planner import Plan, most_times, plan
from simulations.lab.privacy_of_run import PrivacyOfRun
from simulations.lab.traffic import Line

_MOST_PATIENTS = 1_000_000
_FEW = 5.0
"""Patients of a step below which a mean of them says little."""


@dataclass(frozen=True)
class Needed:
    """Each by itself, all else as asked, brings noise-to-signal of the mean to 1 or below. None:
    nothing that an experiment can say does. They are enough as they are if it is below 1 now."""

    patients: int | None
    hospitals: int | None
    rounds: int | None


def needed(found: Plan) -> Needed:
    """How much of each would be enough.

    Raises:
        OurMistake: the plan has no noise.
    """
    ratio, sigma = found.noise.mean, found.privacy.noise_multiplier
    if ratio is None or sigma is None:
        raise OurMistake("Only a plan with noise has a noise-to-signal.")
    now = found.experiment
    return Needed(
        patients=_grown(found, "federation.patients", now.federation.patients, _MOST_PATIENTS),
        hospitals=_grown(found, "federation.hospitals", found.hospitals, MAX_HOSPITALS),
        rounds=_rounds(found, sigma / ratio),
    )


def _grown(found: Plan, name: str, start: int, most: int) -> int | None:
    """Smallest value, to 4 %, of a field that lowers the noise-to-signal as it grows."""

    def enough(value: int) -> bool:
        ratio = _ratio(changed(found.experiment, {name: value}))
        return ratio is not None and ratio <= 1.0

    low, high = 0, start
    while not enough(high):
        if high >= most:
            return None
        low, high = high, min(2 * high, most)
    if not low:
        return start
    while high - low > max(1, low // 25):
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _ratio(experiment: Experiment) -> float | None:
    return plan(experiment, messages=False).noise.mean


def _rounds(found: Plan, sigma: float) -> int | None:
    """Largest number of rounds whose noise multiplier is at most sigma; as asked, if it is now."""
    now, epsilon = found.experiment, found.privacy.epsilon
    if sigma >= (found.privacy.noise_multiplier or 0.0) or epsilon is None:
        return now.rounds
    less = now.with_values({"privacy.epsilon": None, "privacy.noise_multiplier": sigma})
    sites = patients_of(now)[: found.participants]
    try:
        asks = PrivacyOfRun.of(
            less, declared=sites, dimension=found.noise.parameters, asked=len(sites)
        )
        return most_times(asks, 1, epsilon) or None
    except OurMistake:
        return None  # so little noise does not carry its integers


def changed(experiment: Experiment, values: dict[str, Any]) -> Experiment:
    """The experiment with other values; in mode distributed a threshold that is the default of its
    number of hospitals stays the default of the new one.

    Raises:
        OurMistake: as `Experiment.with_values`.
    """
    hospitals, privacy = values.get("federation.hospitals"), experiment.privacy
    if hospitals is not None and privacy.threshold is not None:
        before = experiment.federation.hospitals
        if privacy.threshold == default_threshold(before):
            threshold = default_threshold(int(hospitals))
            bound = max(0, min(2 * threshold - int(hospitals) - 1, threshold - 2))
            values = {"privacy.threshold": threshold, "privacy.colluding": bound, **values}
    return experiment.with_values(values)


def other_mode(experiment: Experiment) -> Experiment:
    """The same number of steps with the same epsilon in mode distributed, as a roster has it."""
    sites = experiment.participation.sites_per_round or experiment.federation.hospitals
    threshold = default_threshold(sites)
    return experiment.with_values(
        {
            "rounds": min(100_000, experiment.rounds * experiment.algorithm.steps),
            "algorithm.steps": 1,
            "algorithm.optimiser": "sgd",
            "algorithm.proximal_weight": 0.0,
            "algorithm.local_norms": False,
            "algorithm.control_variates": False,
            "privacy.mode": "distributed",
            "privacy.threshold": threshold,
            "privacy.colluding": max(0, min(2 * threshold - sites - 1, threshold - 2)),
        }
    )


_FACTORS = (0.5, 2.0)


def around(found: Plan, line: Line) -> list[dict[str, Any]]:
    """The asked point first, then each of hospitals, patients, rounds, epsilon and sample rate
    halved and doubled. What cannot be is left out; what cannot be met has no noise."""
    rows = [_row("as asked", found)]
    for what, experiment in _neighbours(found.experiment, found.hospitals):
        try:
            rows.append(_row(what, plan(experiment, line=line, speed=found.speed)))
        except OurMistake:
            continue
    return rows


def _neighbours(now: Experiment, hospitals: int) -> Iterator[tuple[str, Experiment]]:
    fields: list[tuple[str, float | None, Callable[[float], float]]] = [
        ("federation.hospitals", hospitals, round),
        ("federation.patients", now.federation.patients, round),
        ("rounds", now.rounds, round),
        ("privacy.epsilon", now.privacy.epsilon, float),
        ("privacy.sample_rate", now.privacy.sample_rate, float),
    ]
    for name, value, made in fields:
        for factor in _FACTORS:
            if value is None:
                continue
            other = made(value * factor)
            try:
                yield f"{name.split('.')[-1]} {other:g}", changed(now, {name: other})
            except OurMistake:
                continue


def _row(what: str, found: Plan) -> dict[str, Any]:
    megabytes = None
    if found.traffic is not None:
        megabytes = (found.traffic.down + found.traffic.up) / 1e6
    return {
        "what": what,
        "hospitals": found.hospitals,
        "patients": found.declared,
        "rounds": found.rounds,
        "epsilon": found.privacy.epsilon,
        "sigma": found.privacy.noise_multiplier,
        "noise-to-signal": found.noise.mean,
        "MB a round": megabytes,
        "hours": None if found.time is None else found.time.hours,
    }


def advice(found: Plan) -> tuple[str, ...]:
    """Sentences."""
    if not found.possible:
        return tuple(_impossible(found))
    said: list[str] = []
    if found.noise.mean is not None and found.privacy.mode != "none":
        said += _about_noise(found)
        said += _about_budget(found)
    if found.noise.sampled < _FEW:
        said.append(
            f"A step expects {found.noise.sampled:.1f} patients a hospital: raise sample_rate, or "
            "steps will often be noise alone."
        )
    if found.time is not None and found.time.dominates == "reply clock":
        said.append(
            "Hospitals wait for their reply clock most of the time (60 s by default, so that no "
            "one sees how long training took): "
            + (
                "more steps and fewer rounds take fewer hours at the same epsilon."
                if found.privacy.mode == "local"
                else "fewer rounds take fewer hours."
            )
        )
    if found.time is not None and found.time.dominates == "transfer":
        said.append(
            "The line is the bottleneck: a smaller preset, or more steps and fewer rounds, since "
            "every round sends the whole model down."
        )
    return tuple(said)


_LESS = (10.0, 100.0, 1000.0)


def _impossible(found: Plan) -> Iterator[str]:
    yield f"This cannot be met: {found.privacy.why_not}"
    now = found.experiment
    fields: list[tuple[str, float | None, Callable[[float, float], float]]] = [
        ("rounds", now.rounds, lambda value, by: max(1, round(value / by))),
        ("privacy.sample_rate", now.privacy.sample_rate, lambda value, by: value / by),
        ("privacy.epsilon", now.privacy.epsilon, lambda value, by: value * by),
    ]
    for name, value, made in fields:
        for by in _LESS if value is not None else ():
            other = made(value or 0.0, by)
            try:
                at = plan(now.with_values({name: other}), messages=False)
            except OurMistake:
                break
            if at.possible:
                yield f"It can be met with {name} = {other:g} (noise multiplier {_short(at)})."
                break


def _short(found: Plan) -> str:
    return f"{found.privacy.noise_multiplier:.3g}"


def _about_noise(found: Plan) -> Iterator[str]:
    ratio, all_steps = found.noise.mean or 0.0, found.noise.all_steps or 0.0
    if ratio <= 1.0:
        alone = found.noise.one_site or 0.0
        yield (
            f"The noise of a step is {ratio:.2g} of the largest signal that patients could give."
        )
        if alone > 1.0:
            yield (
                f"Only together: at one hospital alone it is {alone:.2g} times the largest signal."
            )
        return
    yield (
        f"The noise of a step is {ratio:.2g} times the largest signal that patients could give; "
        f"added up over {found.privacy.steps:,} steps whose gradients all agreed, {all_steps:.2g}"
        + (
            ": there is nothing to be learned so."
            if all_steps > 1.0
            else ". Real gradients agree less: expect little."
        )
    )
    enough = needed(found)
    ways = []
    if enough.patients is not None:
        ways.append(f"{enough.patients:,} patients a hospital")
    if enough.hospitals is not None:
        ways.append(f"{enough.hospitals:,} hospitals")
    if enough.rounds is not None:
        ways.append(f"{enough.rounds:,} rounds")
    if ways:
        yield "A step with no more noise than signal takes " + ", or ".join(ways) + "."
    else:
        yield "No number of patients, hospitals or rounds alone makes the noise as small."
    yield from _other_ways(found, ratio)


def _other_ways(found: Plan, ratio: float) -> Iterator[str]:
    now = found.experiment
    if found.privacy.mode == "local":
        try:
            other = plan(other_mode(now), messages=False)
        except OurMistake:
            other = None
        if other is not None and other.possible and (other.noise.mean or math.inf) < ratio:
            yield (
                f"Mode distributed, as many steps, same epsilon: {other.noise.mean:.2g}. Its "
                "promise holds only while the secure sum does."
            )
    if now.model.trainable == "all":
        other = plan(now.with_values({"model.trainable": "head"}), messages=False)
        yield f"Training the head alone ({other.noise.parameters:,} parameters): " + (
            f"{other.noise.mean:.2g}." if other.noise.mean is not None else "not possible either."
        )


def _about_budget(found: Plan) -> Iterator[str]:
    budget, privacy = found.budget, found.privacy
    if budget is None or privacy.epsilon is None or budget.runs is None:
        return
    if budget.runs == 0:
        yield (
            f"Epsilon {privacy.epsilon:.3g} is above a budget of {budget.epsilon:g}: hospitals "
            "with that budget refuse before the run ends."
        )
    elif privacy.with_failures is not None and privacy.with_failures > budget.epsilon:
        yield (
            f"If rounds fail, epsilon reaches {privacy.with_failures:.3g}, above a budget of "
            f"{budget.epsilon:g}."
        )
