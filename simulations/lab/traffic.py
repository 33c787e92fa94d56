"""Bytes and seconds of a deployed round: what goes over a hospital's line, and what it waits for.

Where the numbers come from: `deployed_bytes` (the messages), `shared_model.pieces` (how many are on
their way at once), the defaults of `server.run_config.RunConfig` (how often the coordinator looks,
rounds of an epoch, rounds that may fail) and of `client.policy` (the reply clock).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from shared_model.errors import OurMistake
from shared_model.pieces import AT_ONCE, SMALLEST_BYTES, SMALLEST_DOWN_BYTES, piece_bytes
from simulations.lab.experiment import Experiment


@dataclass(frozen=True)
class Line:
    """A hospital's line, the same both ways, and the coordinator's, which all share.

    delay_ms: from here to there; a question and its answer take two.
    """

    bandwidth_mbit: float = 20.0
    delay_ms: float = 50.0
    coordinator_mbit: float = 1000.0

    def __post_init__(self) -> None:
        good = self.bandwidth_mbit > 0.0 and self.coordinator_mbit > 0.0 and self.delay_ms >= 0.0
        if not good or not all(
            math.isfinite(one)
            for one in (self.bandwidth_mbit, self.coordinator_mbit, self.delay_ms)
        ):
            raise OurMistake("A line has a bandwidth above 0 and a delay of at least 0.")

    def seconds(self, size_bytes: float, sites: int, smallest_piece: int) -> float:
        """One body to (or from) each of `sites` at once: the narrower of the two lines, and a round
        trip for every few pieces."""
        megabits = 8e-6 * size_bytes
        wire = max(megabits / self.bandwidth_mbit, sites * megabits / self.coordinator_mbit)
        pieces = math.ceil(size_bytes / piece_bytes(max(1, int(size_bytes)), smallest_piece))
        return wire + math.ceil(pieces / AT_ONCE) * 2e-3 * self.delay_ms


@dataclass(frozen=True)
class Traffic:
    """Bytes at one site in one round; `total`: of all asked sites in all rounds, both ways.

    parts: what they are, largest first. in_round: (down, up) of each trip that the round waits for.
    packed_vector: the masked update alone; model: the request's body alone, after the first round;
    state: what of it is the server step's state, which the first round has not.
    """

    down: float
    up: float
    total: float
    packed_vector: int
    model: int
    state: int
    parts: dict[str, float]
    in_round: tuple[tuple[int, int], ...]

    @property
    def dominates(self) -> str:
        """What most bytes are."""
        return next(iter(self.parts))


@dataclass(frozen=True)
class Time:
    """Seconds of one round, and hours of all. training_s: of the largest hospital.

    reply_clock_s: waited until the submission may leave. trips_s: delays, coordinator's looks.
    """

    training_s: float
    transfer_s: float
    reply_clock_s: float
    trips_s: float
    round_s: float
    hours: float

    @property
    def dominates(self) -> str:
        """What takes longest."""
        parts = {
            "training": self.training_s,
            "transfer": self.transfer_s,
            "reply clock": self.reply_clock_s,
            "trips": self.trips_s,
        }
        return max(parts, key=lambda name: parts[name])


def traffic_of(
    experiment: Experiment,
    *,
    noise_multiplier: float,
    declared: Sequence[int],
    participants: int,
    threshold: int,
) -> Traffic:
    """Bytes of a round of this experiment as it would be deployed.

    Raises:
        OurMistake: there is no such round (number of hospitals, or a sum beyond 32 bits).
    """
    from client.policy import rounded_patients
    from shared_model.roster import default_threshold
    from simulations.lab.deployed_bytes import round_of
    from simulations.lab.deployed_messages import IN_THE_ROUND, MODEL

    shared = experiment.privacy.mode == "distributed"
    found = round_of(
        run_config(experiment, noise_multiplier, len(declared)),
        declared=[rounded_patients(one) for one in declared],
        threshold=threshold if shared else min(default_threshold(len(declared)), participants),
        participants=participants,
    )
    parts: dict[str, float] = {}
    for one in found.messages:
        parts[one.what] = parts.get(one.what, 0.0) + found.share(one)

    def size(trip: str, to_site: bool) -> int:
        wanted = (trip, to_site)
        return sum(one.bytes for one in found.messages if (one.trip, one.to_site) == wanted)

    return Traffic(
        down=found.down,
        up=found.up,
        total=participants * ((found.down + found.up) * experiment.rounds - found.state),
        packed_vector=found.numbers.packed_bytes,
        model=next(one.body for one in found.messages if one.what == MODEL),
        state=found.state,
        parts=dict(sorted(parts.items(), key=lambda item: -item[1])),
        in_round=tuple((size(trip, True), size(trip, False)) for trip in IN_THE_ROUND),
    )


def time_of(found: Traffic, training_s: float, line: Line, sites: int, rounds: int) -> Time:
    """Seconds of a round in which all answer at once.

    Args:
        training_s: of the slowest site. sites: asked in a round.
    """
    from client.policy import DEFAULT_REPLY_CLOCK_S as TICK_S

    look = _default("poll_s")
    transfer = sum(
        line.seconds(down, sites, SMALLEST_DOWN_BYTES) + line.seconds(up, sites, SMALLEST_BYTES)
        for down, up in found.in_round
    )
    ticks = max(1, math.ceil(training_s / TICK_S))
    waited = ticks * TICK_S - training_s
    trips = len(found.in_round) * (2e-3 * line.delay_ms + look)
    total = training_s + transfer + waited + trips
    return Time(training_s, transfer, waited, trips, total, rounds * total / 3600.0)


def run_config(experiment: Experiment, noise_multiplier: float, hospitals: int) -> Any:
    """The coordinator's `RunConfig` of this experiment, as an operator would write it.

    Mode none has none: its messages are taken to be those of mode local.
    """
    from server.run_config import RunConfig

    told, privacy = experiment.algorithm, experiment.privacy
    shared = privacy.mode == "distributed"
    content: dict[str, Any] = {
        "run": experiment.name,
        "preset": experiment.model.preset,
        "rounds": experiment.rounds,
        "privacy": {
            "sample_rate": privacy.sample_rate,
            "noise_multiplier": noise_multiplier,
            "clipping_norm": privacy.clipping_norm,
            "steps": told.steps,
            "mode": "distributed" if shared else "local",
        },
        "training": told.training(experiment.model.trainable).as_dict(),
        "minimum_contributors": max(
            2, min(experiment.participation.minimum_contributors, hospitals, 255)
        ),
        "server_step": told.name,
        "server_learning_rate": told.server_learning_rate,
    }
    if told.moments is not None:
        content["server_moments"] = told.moments.as_dict()
    if told.bits is not None:
        content["bits"] = told.bits
    if told.norm_bound is not None:
        content["update_norm_bound"] = told.norm_bound
    return RunConfig.from_dict(content)


def failed_rounds() -> int:
    """Rounds that a hospital may have to pay for beyond those that count, by default."""
    return int(_default("max_failed_rounds"))


def _default(name: str) -> float:
    from server.run_config import RunConfig

    return float(RunConfig.model_fields[name].default)
