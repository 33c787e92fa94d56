"""What a federation would cost and give, before anything is trained.

    found = plan(experiment)                                # of a file, or of `asked(...)`
    found.privacy.noise_multiplier, found.noise.mean, found.traffic.up, found.time.hours

Every figure comes from the code that makes the thing itself: the ledger's accountant, the messages
of a round, two timed steps of training (docs/adr/0031-sweeps-and-planner.md). What is not known
before patients are drawn (unequal sizes) is taken as equal, and `words` says so.

Noise-to-signal of a step: L2 norm of the noise over the largest norm that the mean of clipped
gradients can have, C. At one site sigma sqrt(d) / (q N). Above 1 a step is noise even where all
patients' gradients agree; over T steps that agree it is sqrt(T) times smaller.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from shared_model import outputs
from shared_model.accounting import default_delta
from shared_model.distributed import Shares
from shared_model.errors import OurMistake
from simulations.lab import traffic
from simulations.lab.calibrate import Speed
from simulations.lab.experiment import Experiment
from simulations.lab.plan_question import Mode, patients_of, trained_parameters
from simulations.lab.privacy_of_run import PrivacyOfRun
from simulations.lab.terms import weights_of_sites
from simulations.lab.traffic import Line, Time, Traffic

MOST_ROUNDS = 1_000_000
"""No more are looked for: the accountant is coarse beyond a million steps."""


@dataclass(frozen=True)
class Privacy:
    """What each patient loses and what it takes. None: mode none, or it cannot be met.

    epsilon: over all rounds. with_failures: if all rounds that an approval allows for failures are
    booked too. outsider: against those who collude with no hospital (mode distributed).
    steps: of a patient's hospital in all rounds. why_not: empty if it can be met.
    """

    mode: Mode
    noise_multiplier: float | None
    epsilon: float | None
    with_failures: float | None
    outsider: float | None
    delta: float
    steps: int
    threshold: int
    colluding: int
    why_not: str = ""


@dataclass(frozen=True)
class Noise:
    """Patients that a step expects, and noise-to-signal of a step: at one hospital by itself and
    in the mean over all hospitals that are asked. sampled: at one hospital. all_steps: of the whole
    run, if gradients never turned: noise adds up like a random walk, they like a straight line."""

    sampled: float
    parameters: int
    one_site: float | None
    mean: float | None
    all_steps: float | None


@dataclass(frozen=True)
class Budget:
    """What the run leaves of a hospital's budget for life, if nothing else was spent.

    runs: how many runs like it the budget has room for, composed by the accountant.
    """

    epsilon: float
    left: float | None
    runs: int | None


@dataclass(frozen=True)
class Plan:
    """The prediction. traffic, time: None where there is no such deployed round."""

    experiment: Experiment
    hospitals: int
    participants: int
    declared: int
    rounds: int
    privacy: Privacy
    noise: Noise
    traffic: Traffic | None
    time: Time | None
    speed: Speed | None
    simulation_s: float | None
    budget: Budget | None
    words: tuple[str, ...]

    @property
    def possible(self) -> bool:
        """Whether the run can be carried out with this epsilon."""
        return not self.privacy.why_not

    def as_dict(self) -> dict[str, Any]:
        """Plain values; infinite numbers are null."""
        content = asdict(replace(self, experiment=None))  # type: ignore[arg-type]
        content["experiment"] = self.experiment.as_dict()
        if self.traffic is not None:
            content["traffic"]["dominates"] = self.traffic.dominates
        if self.time is not None:
            content["time"]["dominates"] = self.time.dominates
        plain: dict[str, Any] = outputs.finite(content)
        return plain


def plan(
    experiment: Experiment,
    *,
    line: Line | None = None,
    speed: Speed | None = None,
    budget: float | None = None,
    declared: Sequence[int] | None = None,
    messages: bool = True,
) -> Plan:
    """Predict. Epsilon that cannot be met is no error: `Plan.possible` and its `why_not` say it.

    Args:
        speed: of training, from `calibrate.speed_of`; without it nothing is said of time.
        budget: a hospital's epsilon for life; None: nothing is said of it.
        declared: patients of each hospital that train; `patients_of` by default.
        messages: false: neither bytes nor hours are looked for.

    Raises:
        OurMistake: no such preset, or patients that cannot be known.
    """
    sites = list(declared) if declared is not None else patients_of(experiment)
    participants = min(experiment.participation.sites_per_round or len(sites), len(sites))
    parameters = trained_parameters(experiment)
    settled = _settled(experiment, sites[:participants], parameters)
    privacy = _privacy(experiment, settled, max(sites))
    noise = _noise(
        settled, experiment.privacy.sample_rate, sites[:participants], parameters, privacy.steps
    )
    deployed, why_no_round = None, ""
    if messages:
        deployed, why_no_round = _deployed(experiment, privacy, sites, participants)
    config = experiment.algorithm
    time = None
    if speed is not None and deployed is not None:
        sampled = experiment.privacy.sample_rate * max(sites)
        trained = speed.training_s(config.steps, sampled)
        time = traffic.time_of(deployed, trained, line or Line(), participants, experiment.rounds)
    simulated = None
    if speed is not None:
        every = sum(
            speed.training_s(config.steps, experiment.privacy.sample_rate * one)
            for one in sites[:participants]
        )
        simulated = experiment.rounds * every
    return Plan(
        experiment=experiment,
        hospitals=len(sites),
        participants=participants,
        declared=min(sites),
        rounds=experiment.rounds,
        privacy=privacy,
        noise=noise,
        traffic=deployed,
        time=time,
        speed=speed,
        simulation_s=simulated,
        budget=None if budget is None else _left(budget, privacy, settled, experiment.rounds),
        words=_words(experiment, why_no_round),
    )


def most_times(asks: PrivacyOfRun, rounds: int, epsilon: float) -> int:
    """How many times so many rounds fit epsilon; at most a million rounds."""

    def fits(times: int) -> bool:
        spent = asks.epsilon(times * rounds)
        return spent is not None and spent <= epsilon

    low, high = 0, 1
    while high * rounds <= MOST_ROUNDS and fits(high):
        low, high = high, 2 * high
    high = min(high, MOST_ROUNDS // rounds + 1)
    while high - low > max(1, low // 1000):
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


@dataclass(frozen=True)
class _Asked:
    """What follows of an experiment: the run's own privacy, or why there is none."""

    privacy: PrivacyOfRun | None
    why_not: str


def _settled(experiment: Experiment, sites: Sequence[int], parameters: int) -> _Asked:
    """sites: declared patients of those that a round asks."""
    fewest = experiment.participation.minimum_contributors
    try:
        if fewest > len(sites):
            raise OurMistake(
                f"A round asks {len(sites)} hospitals and needs {fewest} survivors.",
                do="Lower participation.minimum_contributors, or ask more hospitals.",
            )
        made = PrivacyOfRun.of(experiment, declared=sites, dimension=parameters, asked=len(sites))
        if made.mode == "distributed":  # whether the sum fits its integers
            Shares.of_plan(
                made.plan, dimension=parameters, threshold=made.threshold, declared=sites
            )
    except OurMistake as error:
        return _Asked(None, str(error))
    return _Asked(made, "")


def _privacy(experiment: Experiment, settled: _Asked, largest: int) -> Privacy:
    told, made = experiment.privacy, settled.privacy
    nothing = Privacy(
        mode=told.mode,
        noise_multiplier=None,
        epsilon=None,
        with_failures=None,
        outsider=None,
        delta=told.delta or default_delta(largest),
        steps=experiment.rounds * experiment.algorithm.steps,
        threshold=0,
        colluding=0,
        why_not=settled.why_not,
    )
    if made is None or made.mode == "none":
        return nothing
    outside = None
    if made.mode == "distributed":
        outside = replace(made, colluding=0, _spent={}).epsilon(experiment.rounds)
    return replace(
        nothing,
        noise_multiplier=made.plan.noise_multiplier,
        epsilon=made.epsilon(experiment.rounds),
        with_failures=made.epsilon(experiment.rounds + traffic.failed_rounds()),
        outsider=outside,
        threshold=made.threshold,
        colluding=made.colluding,
    )


def _noise(settled: _Asked, q: float, sites: Sequence[int], parameters: int, steps: int) -> Noise:
    """sites: declared patients of those that are asked; the smallest is the noisiest."""
    sampled, made = q * min(sites), settled.privacy
    if made is None:
        return Noise(sampled, parameters, None, None, None)
    if made.mode == "none":
        return Noise(sampled, parameters, 0.0, 0.0, 0.0)
    mean = made.noise_to_signal(sites, weights_of_sites(sites))
    alone = made.plan.noise_multiplier * math.sqrt(parameters) / sampled
    return Noise(sampled, parameters, alone, mean, mean / math.sqrt(steps))


def _deployed(
    experiment: Experiment, privacy: Privacy, sites: Sequence[int], participants: int
) -> tuple[Traffic | None, str]:
    """Bytes of a deployed round; or why there is none."""
    if privacy.why_not:
        return None, f"No bytes and hours: {privacy.why_not}"
    try:
        return traffic.traffic_of(
            experiment,
            noise_multiplier=privacy.noise_multiplier or 1.0,
            declared=sites,
            participants=participants,
            threshold=privacy.threshold,
        ), ""
    except OurMistake as error:
        return None, f"No deployed round: {error.message}"


def _left(budget: float, privacy: Privacy, settled: _Asked, rounds: int) -> Budget:
    if settled.privacy is None or privacy.epsilon is None:
        return Budget(budget, None, None)
    left = max(0.0, budget - privacy.epsilon)
    return Budget(budget, left, most_times(settled.privacy, rounds, budget))


def _words(experiment: Experiment, why_no_round: str) -> tuple[str, ...]:
    """What the figures do not hold."""
    said = [why_no_round] if why_no_round else []
    mode = experiment.privacy.mode
    if mode == "none":
        said.append("NO PRIVACY: no noise, no clipping. No hospital of a deployed run trains so.")
    else:
        said.append(
            "Epsilon is for one patient at one hospital, with all recordings, that is in every "
            "round; add or remove one patient."
        )
    if mode == "distributed":
        said.append("The promise holds only while the secure sum does.")
    if experiment.federation.partition.kind not in ("natural", "iid"):
        said.append(
            f"Hospitals of equal size are assumed; partition "
            f"{experiment.federation.partition.kind} makes unequal ones, and the smallest is "
            "noisier and sets delta."
        )
    if experiment.behaviours or experiment.participation.deadline_s is not None:
        said.append("Every hospital is assumed to answer; stragglers and drop-outs are not.")
    said.append(
        "Bytes are those of the messages; TLS and Flower's envelopes, retries and outages come on "
        "top. Times are one thread of this machine's, idle."
    )
    return tuple(said)
