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
from functools import lru_cache
from typing import Any, Literal

from shared_model.accounting import default_delta
from shared_model.config import PrivacyPlan
from shared_model.distributed import Shares
from shared_model.errors import OurMistake
from shared_model.roster import default_threshold, weight_of
from simulations.lab import traffic
from simulations.lab.calibrate import Speed
from simulations.lab.experiment import Experiment
from simulations.lab.noise_price import Rule
from simulations.lab.traffic import Line, Time, Traffic

Mode = Literal["local", "distributed", "none"]


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
        plain: dict[str, Any] = _finite(content)
        return plain


def asked(
    hospitals: int,
    patients: int,
    *,
    epsilon: float | None = None,
    mode: Mode = "local",
    base: Experiment | None = None,
    **values: Any,
) -> Experiment:
    """The experiment of a question; all `patients` of each hospital train.

    In mode distributed with the threshold and colluding hospitals of a roster of so many. `values`
    are other fields, with `__` for the dot: `privacy__sample_rate=0.1`.

    Raises:
        OurMistake: as `Experiment.from_dict`.
    """
    changed: dict[str, Any] = {
        "federation.hospitals": hospitals,
        "federation.patients": patients,
        "privacy.mode": mode,
        **{name.replace("__", "."): value for name, value in values.items()},
    }
    if mode == "none":
        changed |= {"privacy.epsilon": None, "privacy.noise_multiplier": None}
    elif epsilon is not None:
        changed |= {"privacy.epsilon": float(epsilon), "privacy.noise_multiplier": None}
    if mode == "distributed":
        changed |= {"algorithm.steps": 1, "algorithm.optimiser": "sgd"}
    if base is None:
        base = Experiment.from_dict(
            {"name": "plan", "federation": {"held_out": 0.0}, "privacy": {"epsilon": 1.0}}
        )
        if mode == "distributed":
            threshold = default_threshold(hospitals)
            changed.setdefault("privacy.threshold", threshold)
            changed.setdefault(
                "privacy.colluding", max(0, min(2 * threshold - hospitals - 1, threshold - 2))
            )
    return base.with_values(changed)


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
        OurMistake: the experiment fits no accountant (a threshold above the participants).
    """
    sites = list(declared) if declared is not None else patients_of(experiment)
    participants = min(experiment.participation.sites_per_round or len(sites), len(sites))
    parameters = trained_parameters(experiment)
    rule = rule_of(experiment, min(sites), participants, parameters)
    privacy = _privacy(experiment, rule, sites[:participants])
    noise = _noise(experiment, privacy, sites[:participants], parameters)
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
        budget=None if budget is None else _left(budget, privacy, rule),
        words=_words(experiment, why_no_round),
    )


def patients_of(experiment: Experiment) -> list[int]:
    """Patients that train at each hospital, as far as the file says: equal hospitals.

    Raises:
        OurMistake: real folders, whose patients are not counted here.
    """
    federation = experiment.federation
    if federation.source == "folders":
        raise OurMistake(
            "How many patients the folders hold is not in the experiment.",
            do="Give --hospitals and --patients.",
        )
    held_out = round(federation.held_out * federation.patients)
    return [max(1, federation.patients - held_out)] * federation.hospitals


@lru_cache(maxsize=64)
def _counted(preset: str) -> dict[str, int]:
    from shared_model import mae

    return mae.parameter_counts(mae.build(mae.PRESETS[preset], 0))


def trained_parameters(experiment: Experiment) -> int:
    """d, of what private training changes.

    Raises:
        OurMistake: there is no such preset.
    """
    from shared_model import mae

    if experiment.model.preset not in mae.PRESETS:
        raise OurMistake(
            f"There is no preset {experiment.model.preset!r}.",
            do=f"Choose from: {', '.join(mae.PRESETS)}.",
        )
    return _counted(experiment.model.preset)[experiment.model.trainable]


def rule_of(experiment: Experiment, smallest: int, participants: int, parameters: int) -> Rule:
    """How the ledger prices a step. smallest: declared patients of the smallest hospital."""
    privacy = experiment.privacy
    threshold = privacy.threshold or participants // 2 + 1
    if privacy.mode == "distributed" and threshold > participants:
        raise OurMistake(
            f"The threshold is {threshold} and a round has {participants} hospitals.",
            do="Lower privacy.threshold or ask more hospitals.",
        )
    return Rule(
        "distributed" if privacy.mode == "distributed" else "local",
        sample_rate=privacy.sample_rate,
        delta=privacy.delta or default_delta(smallest),
        threshold=threshold,
        colluding=privacy.colluding,
        dimension=parameters,
    )


def _privacy(experiment: Experiment, rule: Rule, sites: Sequence[int]) -> Privacy:
    """sites: declared patients of those that are asked."""
    told = experiment.privacy
    steps = experiment.rounds * experiment.algorithm.steps
    failures = traffic.failed_rounds() * experiment.algorithm.steps
    shared = told.mode == "distributed"
    sigma, epsilon, after, outsider, why_not = None, None, None, None, ""
    if told.mode != "none":
        try:
            sigma = told.noise_multiplier or rule.noise_multiplier(told.epsilon or 0.0, steps)
            epsilon = rule.epsilon(sigma, steps)
            after = rule.epsilon(sigma, steps + failures)
            if shared:
                outsider = rule.epsilon(sigma, steps, 0)
                plan = PrivacyPlan(rule.sample_rate, sigma, told.clipping_norm, 1, "distributed")
                Shares.of_plan(
                    plan, dimension=rule.dimension, threshold=rule.threshold, declared=sites
                )
        except OurMistake as error:
            sigma, epsilon, after, outsider, why_not = None, None, None, None, str(error)
    return Privacy(
        mode=told.mode,
        noise_multiplier=sigma,
        epsilon=epsilon,
        with_failures=after,
        outsider=outsider,
        delta=rule.delta,
        steps=steps,
        threshold=rule.threshold,
        colluding=rule.colluding if shared else 0,
        why_not=why_not,
    )


def _noise(
    experiment: Experiment, privacy: Privacy, sites: Sequence[int], parameters: int
) -> Noise:
    """sites: declared patients of those that are asked; the smallest is the noisiest."""
    q, sigma = experiment.privacy.sample_rate, privacy.noise_multiplier
    sampled = q * min(sites)
    if privacy.mode == "none":
        return Noise(sampled, parameters, 0.0, 0.0, 0.0)
    if sigma is None:
        return Noise(sampled, parameters, None, None, None)
    length = sigma * math.sqrt(parameters)
    if privacy.mode == "distributed":
        grown = math.sqrt(len(sites) / privacy.threshold)
        mean = grown * length / (q * sum(sites))
    else:
        weights = [weight_of(one, max(sites)) for one in sites]
        square = sum((w * length / (q * one)) ** 2 for w, one in zip(weights, sites, strict=True))
        mean = math.sqrt(square) / sum(weights)
    return Noise(sampled, parameters, length / sampled, mean, mean / math.sqrt(privacy.steps))


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


def _left(budget: float, privacy: Privacy, rule: Rule) -> Budget:
    if privacy.noise_multiplier is None or privacy.epsilon is None:
        return Budget(budget, None, None)
    runs = rule.times(privacy.noise_multiplier, privacy.steps, budget)
    return Budget(budget, max(0.0, budget - privacy.epsilon), runs)


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


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
