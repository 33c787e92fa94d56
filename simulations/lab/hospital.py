"""One hospital's work of a round, and the ClientApp that does it in whatever process it is in.

`contribute` is pure: received weights in, integers out, by the functions that hospitals run
(`client.training`, `client.integers`). `client_app` is what both engines call, through
`client.app.carry` as a deployed node does. A message's header says which sites are meant and where
things are:

    {"round": 7, "sites": [places], "input": [path, bytes], "sum": path}    in-process
    {"round": 7, "sites": [places]}, body: the round's input                Flower

In-process, weights and windows are mapped, and the integers are added to this process' own block of
shared memory; nothing but a few numbers travels back. With Flower, the reply's body is the sum over
the message's sites. Sums are of whole numbers mod 2^32: no order of additions shows.
"""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from shared_model.errors import FedprintError, OurMistake
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
    from flwr.app import Context, Message
    from flwr.clientapp import ClientApp

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
    parameters = dict(model.named_parameters())
    return {name: np.zeros(tuple(parameters[name].shape), dtype=kind) for name in names}


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


class Workplace(Protocol):
    """What a process computes with; `Hospitals` in a run."""

    @property
    def size(self) -> int:
        """Number of integers in this round's vectors."""

    def begin(self, given: RoundInput) -> None:
        """Take in what a round begins with."""

    def work(self, site: int) -> tuple[Words, dict[str, Any]]:
        """One site's integers, uint32 (size,), and what is told of them (JSON)."""


@dataclass(frozen=True)
class Job:
    """How a process gets its workplace: `maker`, "module:function", is called with `setup`.

    key: tells two runs in one process apart.
    """

    maker: str
    setup: bytes = field(repr=False)
    key: str

    @classmethod
    def of(cls, setup: Setup) -> Job:
        """The hospitals of a run."""
        return cls(f"{__name__}:hospitals", setup.to_bytes(), os.urandom(8).hex())

    def workplace(self) -> Workplace:
        """Made anew."""
        module, name = self.maker.split(":")
        made: Workplace = getattr(importlib.import_module(module), name)(self.setup)
        return made


def hospitals(setup: bytes) -> Hospitals:
    """The maker of a run's workplace."""
    return Hospitals(Setup.from_bytes(setup))


def client_app(job: Job) -> ClientApp:
    """The ClientApp of both engines."""
    from flwr.clientapp import ClientApp

    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        from client.app import carry
        from simulations.in_process_grid import without_pieces

        return without_pieces(carry(message, partial(_answer, job)))

    return app


@dataclass
class _Desk:
    """What this process keeps of a run from message to message."""

    workplace: Workplace
    round: int = -1
    summing: bool = False
    maps: dict[str, npt.NDArray[np.uint8]] = field(default_factory=dict)

    def mapped(self, path: str) -> npt.NDArray[np.uint8]:
        """A shared block, mapped once."""
        if path not in self.maps:
            self.maps[path] = np.memmap(path, dtype=np.uint8, mode="r+")
        return self.maps[path]

    def answer(self, asked: Mapping[str, Any], body: bytes) -> tuple[list[dict[str, Any]], bytes]:
        """Compute the message's sites; see the module."""
        if asked["round"] != self.round:
            if "input" in asked:
                path, size = asked["input"]
                body = self.mapped(path)[:size].tobytes()
            self.workplace.begin(RoundInput.from_bytes(body))
            self.round, self.summing = asked["round"], False
        size = self.workplace.size
        if "sum" in asked:
            total = self.mapped(asked["sum"])[: 4 * size].view(np.uint32)
            told = self._add(asked["sites"], total, goes_on=self.summing)
            self.summing = True
            return told, b""
        total = np.empty(size, dtype=np.uint32)
        return self._add(asked["sites"], total, goes_on=False), total.tobytes()

    def _add(self, sites: list[int], total: Words, *, goes_on: bool) -> list[dict[str, Any]]:
        told = []
        for site in sites:
            vector, one = self.workplace.work(site)
            if goes_on:
                total += vector
            else:
                total[:] = vector
            goes_on = True
            told.append(one)
        return told


_desks: dict[str, _Desk] = {}
"""In this process, by the job's key."""
_alone = ExitStack()
"""Keeps this process at one thread; `forget` lets go."""


def _answer(job: Job, header: bytes, body: bytes) -> tuple[bytes, bytes]:
    """Faults that explain themselves travel as words; others are `carry`'s to tell."""
    from simulations.lab.evaluate import one_thread

    try:
        if job.key not in _desks:
            _alone.enter_context(one_thread())
            _desks[job.key] = _Desk(job.workplace())
        told, total = _desks[job.key].answer(json.loads(header), body)
    except FedprintError as error:
        return json.dumps({"error": error.message, "do": error.do}).encode(), b""
    return json.dumps({"told": told}).encode(), total


def forget(job: Job) -> None:
    """The run is over in this process."""
    _desks.pop(job.key, None)
    _alone.close()
