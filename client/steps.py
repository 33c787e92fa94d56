"""The state of a round's training after a private step: kept on disk, taken up by the same request.

    step    32 bytes SHA-256 of the rest, then safetensors:
            weights.<name>   float32, the trainable ones
            moments.<name>   float64 (d,), what the optimiser carries
            state            uint8: canonical JSON: version, request, step, noise

All of it is a function of noised means, of which the booking pays for every one: post-processing.
Nothing of the operating system's noise is in it, and no sample of patients. The digest finds
damage; it is no secret's: who can write here can read the hospital's keys.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from safetensors.numpy import load, save

from shared_model import canonical
from shared_model.errors import FedprintError, OurMistake, Refused
from shared_model.noise import Place
from shared_model.weights import Weights

if TYPE_CHECKING:
    from client.outbox import Outbox

VERSION = 1
_DIGEST_BYTES = 32
_WEIGHTS, _MOMENTS, _STATE = "weights.", "moments.", "state"


@dataclass(frozen=True)
class StepState:
    """Where training stands.

    step: steps taken, 1 ... . weights: float32, the trainable ones, by their names in the model.
    moments: of the optimiser, float64. noise: place of noise that repeats; None of any other.
    """

    step: int
    weights: Weights = field(repr=False)
    moments: Weights = field(repr=False)
    noise: Place | None = field(repr=False)


class StepKeeper(Protocol):
    """Where a round's training keeps its state."""

    @property
    def last(self) -> StepState | None:
        """The state to go on from; None: from the beginning."""

    def keep(self, state: StepState) -> None:
        """Keep this state, durably, in the place of the one before."""


@dataclass(frozen=True)
class OutboxSteps:
    """In the outbox's folder of the round. last: as it was when the request came."""

    outbox: Outbox
    run: str
    round: int
    request_digest: str
    last: StepState | None = field(repr=False)

    @classmethod
    def of(
        cls, outbox: Outbox, run: str, round: int, request_digest: str, steps: int
    ) -> OutboxSteps:
        """Take up what is kept, if there is anything.

        Raises:
            Refused: it cannot be used ("interrupted").
        """
        try:
            data = outbox.step(run, round)
            last = None if data is None else from_bytes(data, request_digest, steps)
        except FedprintError as error:
            raise Refused(
                f"The state of this round's training cannot be used. {error.message}",
                reason="interrupted",
            ) from error
        return cls(outbox, run, round, request_digest, last)

    def keep(self, state: StepState) -> None:
        """See `StepKeeper`."""
        self.outbox.keep_step(self.run, self.round, to_bytes(state, self.request_digest))


def to_bytes(state: StepState, request_digest: str) -> bytes:
    """The file's content.

    Raises:
        OurMistake: arrays of another type.
    """
    about = canonical.encode(
        {
            "version": VERSION,
            "request": request_digest,
            "step": state.step,
            "noise": state.noise,
        }
    )
    arrays = {_STATE: np.frombuffer(about, dtype=np.uint8)}
    for prefix, group, kind in (
        (_WEIGHTS, state.weights, np.float32),
        (_MOMENTS, state.moments, np.float64),
    ):
        for name, value in group.items():
            if value.dtype != kind:
                raise OurMistake("The state of training has an array of another type.")
            arrays[prefix + name] = np.ascontiguousarray(value)
    content = bytes(save({name: arrays[name] for name in sorted(arrays)}))
    return hashlib.sha256(content).digest() + content


def from_bytes(data: bytes, request_digest: str, steps: int) -> StepState:
    """The reverse.

    Args:
        steps: of the round.

    Raises:
        Refused: damaged, of another version or request, or no step of the round ("files").
    """
    content = data[_DIGEST_BYTES:]
    if hashlib.sha256(content).digest() != data[:_DIGEST_BYTES]:
        raise Refused("The state of training is damaged.", reason="files")
    try:
        arrays = load(content)
        about: dict[str, Any] = json.loads(arrays.pop(_STATE).tobytes())
        version, request, step = about["version"], about["request"], about["step"]
        groups = {
            prefix: {
                name.removeprefix(prefix): value
                for name, value in arrays.items()
                if name.startswith(prefix)
            }
            for prefix in (_WEIGHTS, _MOMENTS)
        }
        noise = about["noise"]
    except Exception as error:  # whatever safetensors and json make of foreign bytes
        raise Refused("The state of training cannot be read.", reason="files") from error
    if (version, request) != (VERSION, request_digest):
        raise Refused("The state of training is of another request.", reason="files")
    if type(step) is not int or not 1 <= step <= steps:
        raise Refused("The state of training is of no step of this round.", reason="files")
    if any(value.dtype != np.float32 for value in groups[_WEIGHTS].values()):
        raise Refused("The state of training has weights of another type.", reason="files")
    return StepState(step, groups[_WEIGHTS], groups[_MOMENTS], noise)
