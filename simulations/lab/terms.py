"""What every process must know of a run and of a round, as plain values and one block of bytes.

A `Setup` is told once, a `RoundInput` once a round and process. Both say what is computed, neither
how many processes there are, so that the answer cannot depend on it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from shared_model.canonical import digest_of
from shared_model.config import PrivacyPlan
from shared_model.distributed import Shares
from shared_model.roster import weight_of
from shared_model.secure_sum.numbers import Numbers
from shared_model.weights import Weights
from simulations.lab import packet
from simulations.lab.experiment import Experiment
from simulations.lab.privacy_of_run import NoiseKind


@dataclass(frozen=True)
class Setup:
    """A run, for the processes that compute its hospitals.

    data: the federation's folder. states: where sites keep what they keep from round to round.
    plan, noise: see `PrivacyOfRun`. threshold: of mode distributed. norm_bound, bits: of the
    integers of mode local. sent: names of the parameters in an update, sorted.
    """

    experiment: Experiment
    data: Path
    states: Path
    plan: PrivacyPlan
    noise: NoiseKind
    threshold: int
    norm_bound: float
    bits: int
    dimension: int
    sent: tuple[str, ...]

    def to_bytes(self) -> bytes:
        """For another process."""
        return json.dumps(
            {
                **{name: getattr(self, name) for name in _PLAIN},
                "experiment": self.experiment.as_dict(),
                "data": str(self.data),
                "states": str(self.states),
                "plan": asdict(self.plan),
            }
        ).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Setup:
        """The reverse of `to_bytes`."""
        value: dict[str, Any] = json.loads(data)
        return cls(
            **{name: value[name] for name in _PLAIN if name != "sent"},
            sent=tuple(value["sent"]),
            experiment=Experiment.from_dict(value["experiment"]),
            data=Path(value["data"]),
            states=Path(value["states"]),
            plan=PrivacyPlan(**value["plan"]),
        )

    def numbers(self, declared: Sequence[int], weights: Sequence[int]) -> Numbers:
        """Parameters of a round's integers, as the coordinator and every hospital compute them.

        Args:
            declared, weights: of the sites that are asked, in their order.

        Raises:
            OurMistake: the sum does not fit 32 bits.
        """
        if self.plan.mode == "distributed":
            return Shares.of_plan(
                self.plan, dimension=self.dimension, threshold=self.threshold, declared=declared
            )
        return Numbers.of(self.dimension, sum(weights), self.norm_bound, self.bits)


_PLAIN = ("noise", "threshold", "norm_bound", "bits", "dimension", "sent")


def weights_of_sites(declared: Sequence[int]) -> list[int]:
    """Aggregation weight of each site, as a roster gives it."""
    largest = max(declared)
    return [weight_of(count, largest) for count in declared]


def rotation_seed(experiment: Experiment, round: int) -> bytes:
    """Of the public rotation of a round."""
    return bytes.fromhex(digest_of(["lab rotation", experiment.identity, round]))


@dataclass(frozen=True)
class RoundInput:
    """What a round begins with.

    asked: places of the participants among the federation's sites, ascending. weights: the full
    model. mean: the last round's, by name (float64), {} before there is one. state: of the server
    step.
    """

    number: int
    asked: tuple[int, ...]
    rotation_seed: bytes
    weights: Weights = field(repr=False)
    mean: Weights = field(repr=False)
    state: Weights = field(repr=False)

    def to_bytes(self) -> bytes:
        """For another process: about 4 bytes a parameter."""
        meta = {
            "round": self.number,
            "asked": list(self.asked),
            "rotation_seed": self.rotation_seed.hex(),
        }
        arrays = packet.named("weights", self.weights) | packet.named("mean", self.mean)
        return packet.pack(meta, arrays | packet.named("state", self.state))

    @classmethod
    def from_bytes(cls, data: bytes) -> RoundInput:
        """The reverse of `to_bytes`."""
        meta, arrays = packet.unpack(data)
        return cls(
            meta["round"],
            tuple(meta["asked"]),
            bytes.fromhex(meta["rotation_seed"]),
            *(packet.part(arrays, name) for name in ("weights", "mean", "state")),
        )
