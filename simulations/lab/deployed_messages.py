"""The messages of a deployed round at one site, and what they come to in bytes.

made = simulations.lab.deployed_bytes.round_of(config, declared=(500, 500, 500), threshold=3)
made.down, made.up                   # of a round, an epoch's shared among its rounds
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from shared_model.secure_sum.numbers import Numbers

Trip = Literal["epoch", "submit", "agree", "open", "close", "verify"]
IN_THE_ROUND: tuple[Trip, ...] = ("submit", "agree", "open")
"""Trips that a round waits for; the closing exchange goes on beside later rounds."""
MODEL = "the model"


@dataclass(frozen=True)
class Message:
    """One message between the coordinator and one site, and what it is for. Sizes in bytes."""

    trip: Trip
    to_site: bool
    header: int
    body: int
    what: str

    @property
    def bytes(self) -> int:
        return self.header + self.body


@dataclass(frozen=True)
class DeployedRound:
    """The messages of one round at one site, and the parameters of its sum.

    state: bytes of the server step's state in the request's body; a run's first round has none.
    """

    messages: tuple[Message, ...]
    numbers: Numbers
    epoch_rounds: int
    state: int = 0

    def share(self, message: Message) -> float:
        """Bytes of this message that fall to one round: an epoch's are shared by its rounds."""
        return message.bytes / (self.epoch_rounds if message.trip == "epoch" else 1)

    @property
    def down(self) -> float:
        """Bytes to a site in a round."""
        return sum(self.share(one) for one in self.messages if one.to_site)

    @property
    def up(self) -> float:
        """Bytes from a site in a round."""
        return sum(self.share(one) for one in self.messages if not one.to_site)
