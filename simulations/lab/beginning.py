"""What follows from an experiment and its federation before the first round: pure, checked once.

settled = settle(experiment, data, states)
settled.setup, settled.start, settled.privacy, settled.words
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from shared_model import adapters
from shared_model import weights as weights_io
from shared_model.config import ModelConfig
from shared_model.errors import OurMistake
from shared_model.secure_sum.numbers import MAX_MODULUS_BITS
from shared_model.weights import Weights
from simulations.lab import algorithms
from simulations.lab.data import FederationData
from simulations.lab.experiment import Experiment
from simulations.lab.privacy_of_run import PrivacyOfRun
from simulations.lab.terms import Setup, weights_of_sites

DEFAULT_BITS = 20
FEWEST_BITS = 8
FREE_NORM = 100.0
"""Mode none with SGD, where no gradient is clipped: the norm bound has room for gradients so long
on average over the steps."""


@dataclass(frozen=True)
class Settled:
    """A run before its first round. config, start: the model. needed: fewest survivors."""

    setup: Setup
    config: ModelConfig
    start: Weights = field(repr=False)
    privacy: PrivacyOfRun
    declared: tuple[int, ...]
    weights: tuple[int, ...]
    needed: int
    words: tuple[str, ...]


def settle(experiment: Experiment, data: FederationData, states: Path) -> Settled:
    """Settle privacy, integers and names.

    Raises:
        OurMistake: rounds that could never be summed, integers that do not fit, or no such model.
    """
    from shared_model import mae

    config, start = starting_model(experiment)
    declared = tuple(site.declared for site in data.sites)
    asked = min(experiment.participation.sites_per_round or len(declared), len(declared))
    model = mae.build(config, 0)
    sent = algorithms.sent_names(model, experiment.algorithm, experiment.model.trainable)
    dimension = sum(int(value.size) for value in adapters.trained_part(start, sent).values())
    privacy = PrivacyOfRun.of(experiment, declared=declared, dimension=dimension, asked=asked)
    needed = max(experiment.participation.minimum_contributors, privacy.threshold)
    if needed > asked:
        raise OurMistake(
            f"A round asks {asked} hospitals and is closed without a sum below {needed} survivors: "
            "no round could ever be summed.",
            do="Lower participation.minimum_contributors, or ask more hospitals.",
        )
    weights = weights_of_sites(declared)
    most = sum(sorted(weights, reverse=True)[:asked])
    bits = bits_of(experiment.algorithm.bits, most)
    setup = Setup(
        experiment=experiment,
        data=data.folder,
        states=states,
        plan=privacy.plan,
        noise=privacy.noise,
        threshold=privacy.threshold,
        norm_bound=norm_bound_of(experiment, privacy, min(declared), dimension),
        bits=bits,
        dimension=dimension,
        sent=tuple(sorted(sent)),
    )
    largest = sorted(range(len(declared)), key=lambda place: -declared[place])[:asked]
    setup.numbers([declared[one] for one in largest], [weights[one] for one in largest])
    words = [*privacy.words(), *_words(experiment, setup)]
    return Settled(setup, config, start, privacy, declared, tuple(weights), needed, tuple(words))


def starting_model(experiment: Experiment) -> tuple[ModelConfig, Weights]:
    """What the first round begins with.

    Raises:
        OurMistake: there is no such warm start or file.
        Refused: the file's weights are of another model.
    """
    from shared_model import mae, warm_start

    asked = experiment.model
    config = mae.PRESETS[asked.preset]
    if asked.weights is not None:
        like = mae.weights_of(mae.build(config, 0))
        try:
            data = Path(asked.weights).read_bytes()
        except OSError as error:
            raise OurMistake(f"{asked.weights} cannot be read: {error.strerror}.") from error
        return config, weights_io.from_bytes(data, like=like)
    if asked.begin_with == "random-weights":
        return config, mae.weights_of(mae.build(config, 0))
    config, found, _ = warm_start.load(asked.preset)
    return config, found


def bits_of(asked: int | None, most: int) -> int:
    """Bits of a quantised value, so that a sum of weights `most` fits 32.

    Raises:
        OurMistake: it does not.
    """
    room = MAX_MODULUS_BITS - (most - 1).bit_length()
    if asked is not None:
        if asked > room:
            raise OurMistake(
                f"Integers of {asked} bits do not fit: with weights of {most} in all there is room "
                f"for {room}.",
                do="Lower algorithm.bits, or leave it out.",
            )
        return asked
    if room < FEWEST_BITS:
        raise OurMistake("So many hospitals cannot be summed in 32 bits.", do="Ask fewer a round.")
    return min(DEFAULT_BITS, room)


def norm_bound_of(
    experiment: Experiment, privacy: PrivacyOfRun, smallest: int, dimension: int
) -> float:
    """That of a deployed run, if the experiment names none."""
    from server.run_config import RunConfig, default_norm_bound

    algorithm = experiment.algorithm
    if algorithm.norm_bound is not None:
        return algorithm.norm_bound
    if privacy.mode == "none" and algorithm.optimiser == "sgd":
        return FREE_NORM * algorithm.learning_rate * algorithm.steps
    config = RunConfig(
        run="lab",
        preset=experiment.model.preset,
        rounds=experiment.rounds,
        privacy=privacy.plan,
        training=algorithm.training(experiment.model.trainable),
    )
    return default_norm_bound(config, smallest, dimension)


def _words(experiment: Experiment, setup: Setup) -> Sequence[str]:
    said = []
    if setup.plan.mode == "local":
        fewer = (
            " (fewer than 20, so that the sum fits 32 bits)" if setup.bits < DEFAULT_BITS else ""
        )
        said.append(
            f"Updates are quantised to {setup.bits} bits{fewer}, within an L2 bound of "
            f"{setup.norm_bound:.4g}."
        )
    if experiment.engine.gpus_per_client > 0.0:
        said.append(
            "Clients compute on GPUs, whose rounding is their own: another machine, or a CPU, may "
            "make another model."
        )
    if experiment.federation.source == "waves":
        said.append(
            "The patients are noisy sines without any meaning: good for timing, for nothing else."
        )
    elif experiment.federation.source == "simulated":
        said.append("The patients are simulated; no figure here is of a real patient.")
    return said
