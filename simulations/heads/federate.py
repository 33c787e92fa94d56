"""A head that hospitals train together, with differential privacy, in the lab.

    made = private_head(hospitals, model, space, Ask(mode="distributed", epsilon=3.0), asked, ...)

LAB ONLY: hospitals' steps, clipping, noise, integers and accounting are those of a deployed run;
the masks of the secure sum, the ledger and the signed messages are not there. A deployed round
trains the masked autoencoder's parameters and no other (docs/adr/0034-task-heads.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import ValidationError

from shared_model.accounting import default_delta, epsilon_pld, noise_multiplier_for
from shared_model.config import PrivacyPlan
from shared_model.distributed import Shares, mechanism
from shared_model.errors import OurMistake
from shared_model.secure_sum.numbers import Numbers
from simulations.heads import figures, fit, private_figures, private_manifest
from simulations.heads import private_calibration as histogram
from simulations.heads.private_steps import (
    LinearUnit,
    noise_of,
    outputs_of,
    stable_rate,
    summed,
    tensors,
    trained,
)
from simulations.heads.public import NUMBERS, PublicSpace
from simulations.heads.train import (
    FAR_LEVEL,
    Asked,
    plain_words,
    written,
)
from simulations.lab.beginning import bits_of, norm_bound_of
from simulations.lab.experiment import Experiment
from simulations.lab.experiment_tables import Algorithm
from simulations.lab.experiment_tables import Privacy as AskedPrivacy
from simulations.lab.privacy_of_run import HARDLY_ANY, PrivacyOfRun
from simulations.lab.reading import faults_of
from simulations.lab.terms import Setup, weights_of_sites

if TYPE_CHECKING:
    from shared_model.heads.arrays import Head
    from shared_model.weights import Weights
    from simulations.heads.data import HeadData
    from simulations.heads.hospitals import Hospital
    from simulations.models import NamedModel

CALIBRATION_ROUND = 0
"""Its place among rounds, which count from 1: seeded noise of its own."""
MOST_ITEMS = 60
LEARNING_RATE = 0.5
"""Of plain steps, where nobody says another and neither noise nor data want less."""
FOUND_CLASSES = "rhythm"
"""The task whose classes are not written down but found in the data."""
NO_FIGURE = private_figures.Found(
    (), (), "no figure is given here: without noise they would be of patients as they are"
)
OF_DECLARED = "declared patients are those in the steps: 9 of 16 of a hospital's declared number"
COUNTED = (
    "of these data nobody declares patients: where it says declared, those in the steps are counted"
)
Mode = Literal["local", "distributed", "none"]


@dataclass(frozen=True)
class Ask:
    """What a private training is asked. rounds: of one step in mode distributed, else of `steps`.
    noise: the operating system's, or seeded noise that repeats and protects nobody. learning_rate:
    None: `LEARNING_RATE`, or less; see `private_head`."""

    mode: Mode
    epsilon: float
    rounds: int = 60
    steps: int = 1
    sample_rate: float = 0.1
    clipping_norm: float = 1.0
    learning_rate: float | None = None
    delta: float | None = None
    threshold: int | None = None
    colluding: int = 1
    noise: Literal["system", "NonPrivateForTests"] = "system"

    @property
    def rate(self) -> float:
        """Asked, or the usual one."""
        return LEARNING_RATE if self.learning_rate is None else self.learning_rate

    def experiment(self, seed: int) -> Experiment:
        """As the lab writes a run down.

        Raises:
            OurMistake: a number that no training can have; says which.
        """
        if self.mode == "distributed" and self.steps != 1:
            raise OurMistake("A round of mode distributed is one step.", do="Leave --steps out.")
        try:
            return self._experiment(seed)
        except ValidationError as error:
            raise OurMistake(
                f"The head cannot be trained so: {'; '.join(faults_of(error))}.",
                do="Correct the option of that name.",
            ) from error

    def _experiment(self, seed: int) -> Experiment:
        none = self.mode == "none"
        return Experiment(
            name="head",
            seed=seed,
            rounds=self.rounds,
            algorithm=Algorithm(steps=self.steps, optimiser="sgd", learning_rate=self.rate),
            privacy=AskedPrivacy(
                mode=self.mode,
                epsilon=None if none else self.epsilon,
                delta=self.delta,
                sample_rate=self.sample_rate,
                clipping_norm=self.clipping_norm,
                noise=self.noise,
                threshold=self.threshold,
                colluding=self.colluding,
            ),
        )


@dataclass(frozen=True)
class Settled:
    """Public numbers of a run of a head: the lab's, for both of its mechanisms."""

    setup: Setup
    privacy: PrivacyOfRun
    declared: tuple[int, ...]
    weights: tuple[int, ...]


def settle(ask: Ask, hospitals: Sequence[Hospital], dimension: int, seed: int) -> Settled:
    """Noise multiplier, integers and weights.

    Raises:
        OurMistake: one hospital, no noise is enough, or the integers do not fit.
    """
    if len(hospitals) < 2:
        raise OurMistake("A federation has at least two hospitals.")
    delta = ask.delta or default_delta(max(one.everybody for one in hospitals))
    experiment = replace(ask, delta=delta).experiment(seed)
    declared = tuple(one.declared for one in hospitals)
    privacy = PrivacyOfRun.of(
        experiment, declared=declared, dimension=dimension, asked=len(hospitals)
    )
    weights = tuple(weights_of_sites(declared))
    setup = Setup(
        experiment=experiment,
        data=Path(),
        states=Path(),
        plan=privacy.plan,
        noise=privacy.noise,
        threshold=privacy.threshold,
        norm_bound=norm_bound_of(experiment, privacy, min(declared), dimension),
        bits=bits_of(None, sum(weights)),
        dimension=dimension,
        sent=("bias", "weight"),
    )
    return Settled(setup, privacy, declared, weights)


def quiet_rate(settled: Settled, components: int) -> float:
    """A rate at which the noise of all steps by itself moves an answer by half its unit.

    A weight walks rate x deviation of the noise in a step's mean x sqrt(steps) far, at most; an
    answer adds up components, of unit size among simulated windows, and the bias. Of public numbers
    alone: noise, threshold, declared patients and their weights, steps.
    """
    plan, rounds = settled.setup.plan, settled.setup.experiment.rounds
    norm = settled.privacy.noise_to_signal(settled.declared, settled.weights) * plan.clipping_norm
    deviation = norm / math.sqrt(settled.setup.dimension)
    return 0.5 / (deviation * math.sqrt(rounds * plan.steps * (components + 1)))


def calibration_plan(settled: Settled, ask: Ask, size: int) -> tuple[PrivacyPlan, float]:
    """The histogram's plan: one step of everybody, as dear as all rounds; and what it costs.

    size: its entries.
    A patient is in the steps or in the histogram: the dearer of the two is what he pays
    (parallel composition under adding or removing one patient)."""
    run = settled.privacy
    if ask.mode == "none":
        return PrivacyPlan(1.0, HARDLY_ANY, 1.0, 1), 0.0
    sigma = noise_multiplier_for(ask.epsilon, run.delta, 1.0, 1)
    if ask.mode == "local":
        plan = PrivacyPlan(1.0, sigma, 1.0, 1, "local")
        return plan, epsilon_pld([plan], run.delta)
    sigma *= math.sqrt(run.threshold / (run.threshold - run.colluding)) * (1.0 + 1e-6)
    plan = PrivacyPlan(1.0, sigma, 1.0, 1, "distributed")
    priced = mechanism(plan, dimension=size, threshold=run.threshold, colluding=run.colluding)
    return plan, epsilon_pld([priced], run.delta)


def refuse_found_classes(task: str, mode: str, open_data: str) -> None:
    """Raises OurMistake for a private head whose classes are found by looking at the patients,
    where these are not open."""
    if task == FOUND_CLASSES and mode != "none" and not open_data:
        raise OurMistake(
            "The classes of rhythm are those that two patients have at least: which there are "
            "tells of single patients, at no epsilon.",
            do="Federate another task, or say why everybody has these data: --open-data",
        )


@dataclass(frozen=True)
class PrivateHead:
    """A head as its mechanisms made it; its figures are of the noisy histogram, as are
    patients and spread."""

    head: Head
    settled: Settled
    patients: float
    spread: float


def private_head(
    hospitals: Sequence[Hospital],
    model: NamedModel,
    space: PublicSpace,
    ask: Ask,
    asked: Asked,
    *,
    borders: str,
    on_round: Callable[[int], None] = lambda _: None,
) -> PrivateHead:
    """Both mechanisms: the steps on the patients that fit, the histogram on those that calibrate.

    Nothing that the head holds was computed from a patient in another way: scale, directions and
    the distance's centre are of simulated windows, counts are declared ones.

    Raises:
        OurMistake: the task's classes are found by looking at the patients, which are not open.
    """
    data = hospitals[0].fit
    refuse_found_classes(data.task, ask.mode, asked.open_data)
    outputs = outputs_of(data.kind, len(data.classes))
    unit = LinearUnit(outputs, space.components, data.kind)
    most = max(int(np.bincount(one.fit.patient).max()) for one in hospitals)
    parts = [(one.name, tensors(one.fit, space, min(most, MOST_ITEMS))) for one in hospitals]
    if ask.mode == "none":
        counts, items = [one.declared for one in hospitals], [part for _, part in parts]
        stable = stable_rate(items, counts, ask.sample_rate, outputs, data.kind)
        ask = replace(ask, learning_rate=min(ask.rate, stable))
    settled = settle(ask, hospitals, outputs * (space.components + 1), asked.seed)
    if ask.learning_rate is None:
        ask = replace(ask, learning_rate=min(ask.rate, quiet_rate(settled, space.components)))
        settled = settle(ask, hospitals, outputs * (space.components + 1), asked.seed)
    found = trained(parts, settled.setup, settled.declared, settled.weights, unit, on_round)
    fitted = _folded(found, space, data)
    draft = written(
        data, model, asked, fitted, private_manifest.calibrated(data, space, None, asked)
    )
    shape = histogram.shape_of(data.kind, len(data.classes))
    plan, epsilon = calibration_plan(settled, ask, int(np.prod(shape)))
    seen = _histogram(hospitals, draft, plan, settled, asked)
    fields = private_manifest.calibrated(data, space, seen, asked, noisy=ask.mode != "none")
    private = ask.mode != "none"
    told = NO_FIGURE
    if private:
        told = private_figures.figures_of(
            seen, data.kind, classes=len(data.classes), scale=_scale_of(data), unit=data.unit,
            draws=asked.draws, seed=asked.seed,
        )  # fmt: skip
    worse = figures.NOT_HELD if private and data.kind == "number" else ""
    if figures.worse_words(figures.kindest_of(told.figures)):  # noise alone says it of every second
        worse = figures.worse_of(told.figures)
    whose = OF_DECLARED if hospitals[0].told is not None else COUNTED
    fields |= {
        "figures": told.figures,
        "groups": told.groups,
        "figures_of": plain_words(told.words),
        "figures_from": "noisy histogram" if private else "patients",
        "privacy": private_manifest.privacy_of(hospitals, settled, ask, epsilon),
        "class_counts": (),
        "patients": sum(settled.declared),
        "items": 0,
        "windows": 0,
        "left_out": 0,
        "regularisation": 1.0,
        # a task's own note may count its patients
        "notes": tuple(plain_words(one) for one in (worse, borders, data.truths, whose) if one),
        "collections": private_manifest.collections_of(hospitals, asked),
    }
    return PrivateHead(
        written(data, model, asked, fitted, fields), settled, seen.patients, seen.spread
    )


def _folded(found: Weights, space: PublicSpace, data: HeadData) -> fit.Fitted:
    """The trained weight on z as a weight on standardised fingerprints; classes get a row each."""
    weight = found["weight"].astype(np.float64) @ space.directions
    bias = found["bias"].astype(np.float64)
    if data.kind == "number":
        centre, scale = NUMBERS[data.task]
        weight, bias = weight * scale, bias * scale + centre
    elif len(data.classes) == 2:
        weight = np.concatenate([-0.5 * weight, 0.5 * weight])
        bias = np.concatenate([-0.5 * bias, 0.5 * bias])
    return fit.Fitted(space.mean, space.scale, weight, bias, 1.0)


def _scale_of(data: HeadData) -> float:
    return NUMBERS[data.task][1] if data.kind == "number" else 1.0


def _histogram(
    hospitals: Sequence[Hospital], draft: Head, plan: PrivacyPlan, settled: Settled, asked: Asked
) -> histogram.ReadOff:
    """The noisy histogram of all hospitals, read off."""
    run, setup = settled.privacy, settled.setup
    kind = draft.manifest.kind
    shape = histogram.shape_of(kind, len(draft.manifest.classes))
    scale = _scale_of(hospitals[0].fit)
    updates = []
    for one in hospitals:
        source = noise_of(setup, one.name, CALIBRATION_ROUND)
        rows = histogram.told(draft, one.calibrate, scale)
        updates.append((histogram.contribution(rows, plan, source), source))
    size, count = int(np.prod(shape)), len(hospitals)
    like = {histogram.NAME: np.zeros(shape, dtype=np.float32)}
    if plan.mode == "distributed":
        numbers: Numbers = Shares.of_plan(
            plan,
            dimension=size,
            threshold=run.threshold,
            declared=settled.declared,
        )
        std = plan.noise_multiplier * math.sqrt(count / run.threshold)
    else:
        sigma = 0.0 if run.mode == "none" else plan.noise_multiplier
        bound = max(settled.declared) + 4.0 * sigma * math.sqrt(size)
        numbers = Numbers.of(size, count, bound, bits_of(None, count))
        std = sigma * math.sqrt(count)
    total = summed(updates, numbers, [1] * count, CALIBRATION_ROUND, like, divisor=1.0)
    return histogram.read_off(
        total[histogram.NAME],
        kind,
        level=asked.level,
        promise=asked.promise,
        far_level=FAR_LEVEL,
        scale=scale,
        noise_std=std,
    )
