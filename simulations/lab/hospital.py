"""One hospital's work of a round: received weights in, integers out.

`contribute` is pure, and calls the functions that hospitals run (`client.training`,
`client.integers`). `Hospitals` are all hospitals of a run in one process.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from shared_model import adapters
from shared_model.errors import OurMistake
from shared_model.noise import NoiseSource, NonPrivateForTests, SystemNoise
from shared_model.secure_sum.numbers import Numbers
from shared_model.secure_sum.primitives import Words
from shared_model.weights import Weights
from simulations.lab import algorithms, behaviours
from simulations.lab.checkpoint import SiteStates
from simulations.lab.data import FederationData
from simulations.lab.keyed import generator
from simulations.lab.terms import RoundInput, Setup, weights_of_sites

if TYPE_CHECKING:
    from client.local_state import LocalState
    from client.training import PatientBatches
    from shared_model.config import LocalTraining, PrivacyPlan
    from shared_model.mae import MaskedAutoencoder

NOISE_RUN = "lab"
"""Seeded noise is keyed by it, the site, the round and the experiment's seed."""


class NoNoiseNotPrivate(NonPrivateForTests):
    """Mode none: samples and patch masks as seeded noise draws them; the noise itself is zero.

    NOT PRIVATE. Of the lab alone.
    """

    def __init__(self, run: str, site: str, round: int, seed: int) -> None:
        super().__init__(run, site, round, seed)
        self.name = "NO NOISE, NOT PRIVATE"

    def normal(self, count: int, std: float) -> npt.NDArray[Any]:
        """Zeros, float64 (count,)."""
        return np.zeros(count)

    def discrete_gaussian(self, count: int, variance: Any) -> npt.NDArray[np.int64]:
        """Zeros, int64 (count,)."""
        return np.zeros(count, dtype=np.int64)


@dataclass(frozen=True)
class Terms:
    """What a round is for one hospital. place, weight, declared: its own. sent: names in the
    update."""

    plan: PrivacyPlan
    training: LocalTraining
    numbers: Numbers
    rotation_seed: bytes
    place: int
    weight: int
    declared: int
    sent: tuple[str, ...]


@dataclass(frozen=True)
class Contribution:
    """What a hospital adds to the sum, uint32 (padded,), and what it keeps.

    norm: L2 of the update that was quantised; None in mode distributed, where it would not be
    private. clipped, scaled: coordinates beyond the quantisation's range; whether the norm bound
    held the update back. local: arrays that the hospital keeps for its next round.
    """

    vector: Words = field(repr=False)
    norm: float | None
    clipped: int
    scaled: bool
    local: Weights = field(repr=False)


Change = Callable[[Weights], Weights]


def contribute(
    model: MaskedAutoencoder,
    data: PatientBatches,
    terms: Terms,
    noise: NoiseSource,
    *,
    local: LocalState | None = None,
    change: Change | None = None,
    trains: bool = True,
) -> Contribution:
    """A hospital's part of a round; the model holds the received weights and is left as it was.

    Args:
        local: what the hospital has kept; None if it keeps nothing.
        change: what a malicious site does to its update before it is quantised.
        trains: False: the update is zero, and `change` makes something of it.

    Raises:
        OurMistake: as the functions of `client` that it calls.
    """
    from client.integers import integers
    from client.training import clipped_step, train_round

    kept: Weights = {}
    shared = terms.plan.mode == "distributed"
    if not trains:
        update = _nothing(model, terms.sent, np.float64 if shared else np.float32)
    elif shared:
        update = clipped_step(model, data, terms.plan, terms.training, terms.declared, noise)
    else:
        done = train_round(
            model, data, terms.plan, terms.training, terms.declared, noise, local=local
        )
        update, kept = done.update, done.local
    if change is not None:
        update = change(update)
    vector, counts = integers(
        update, terms.numbers, terms.rotation_seed, terms.place, terms.weight, noise
    )
    return Contribution(
        vector,
        None if shared else _norm(update),
        int(str(counts["clamped" if shared else "clipped"])),
        bool(counts.get("scaled", False)),
        kept,
    )


def _nothing(model: MaskedAutoencoder, names: Sequence[str], kind: type[Any]) -> Weights:
    parameters = {
        name: np.empty(tuple(value.shape), np.float32) for name, value in model.named_parameters()
    }
    like = adapters.trained_part(parameters, names)
    return {name: np.zeros(value.shape, dtype=kind) for name, value in like.items()}


def _norm(update: Mapping[str, npt.NDArray[Any]]) -> float:
    squares = [float(np.square(update[name], dtype=np.float64).sum()) for name in sorted(update)]
    return float(np.sqrt(np.sum(squares)))


class Hospitals:
    """All hospitals of a run in one process: the model and the data are there once."""

    def __init__(self, setup: Setup) -> None:
        from shared_model import mae

        self.setup = setup
        self.experiment = setup.experiment
        self.states = SiteStates(setup.states)
        self.data = FederationData(setup.data)
        self.names = tuple(site.name for site in self.data.sites)
        self.declared = [site.declared for site in self.data.sites]
        self.weights = weights_of_sites(self.declared)
        self.model = mae.build(mae.PRESETS[self.experiment.model.preset], 0)
        self.model.to(_device(self.experiment.engine.gpus_per_client))
        self.training = self.experiment.algorithm.training(self.experiment.model.trainable)

    @property
    def size(self) -> int:
        """See `Workplace`."""
        return self.numbers.padded

    def begin(self, given: RoundInput) -> None:
        """Take in the round's weights."""
        from shared_model import mae

        mae.load_weights(self.model, given.weights)
        self.given = given
        self.places = {site: place for place, site in enumerate(given.asked)}
        self.numbers = self.setup.numbers(
            [self.declared[site] for site in given.asked],
            [self.weights[site] for site in given.asked],
        )
        self.acting = behaviours.of(self.experiment, self.names, given.number)

    def work(self, site: int) -> tuple[Words, dict[str, Any]]:
        """One site's integers, and what is told of them."""
        given, name = self.given, self.names[site]
        terms = Terms(
            self.setup.plan,
            self.training,
            self.numbers,
            given.rotation_seed,
            self.places[site],
            self.weights[site],
            self.declared[site],
            self.setup.sent,
        )
        data: PatientBatches = self.data.patients(site)
        acting = self.acting.get(name)
        change: Change | None = None
        if acting is not None:
            data = acting.data(data)
            rng = generator("behaviour update", self.experiment.seed, given.number, name)
            change = partial(acting.update, last_mean=self._last_mean(site), rng=rng)
        local = algorithms.local_state(self.experiment.algorithm, self._kept(site), given.state)
        made = contribute(
            self.model,
            data,
            terms,
            self.noise(name),
            local=local,
            change=change,
            trains=acting is None or acting.trains,
        )
        if made.local:
            self.states.keep(site, given.number, made.local)
        told = {
            "site": site,
            "norm": made.norm,
            "clipped": made.clipped,
            "scaled": made.scaled,
            "behaviour": "" if acting is None else acting.words,
        }
        return made.vector, told

    def _kept(self, site: int) -> Weights:
        """What the site has kept from its last round."""
        algorithm = self.experiment.algorithm
        if not (algorithm.local_norms or algorithm.control_variates):
            return {}
        return self.states.before(site, self.given.number)

    def _last_mean(self, site: int) -> Weights | None:
        """In the units of this site's update; in mode distributed that is minus a sum."""
        mean = self.given.mean
        if not mean or self.setup.plan.mode == "local":
            return mean or None
        patients = self.setup.plan.sample_rate * self.declared[site]
        return {name: value * patients for name, value in mean.items()}

    def noise(self, site: str) -> NoiseSource:
        """This round's, of a site."""
        if self.setup.noise == "system":
            return SystemNoise()
        kind = NoNoiseNotPrivate if self.setup.noise == "none" else NonPrivateForTests
        return kind(NOISE_RUN, site, self.given.number, self.experiment.seed)


def _device(gpus: float) -> str:
    """Where clients compute.

    Raises:
        OurMistake: a GPU is asked for, and torch finds none here.
    """
    if gpus <= 0.0:
        return "cpu"
    import torch

    if not torch.cuda.is_available():
        raise OurMistake(
            "engine.gpus_per_client asks for a GPU, and torch finds none on this machine.",
            do="Leave it out, or install a torch with CUDA.",
        )
    return "cuda"
