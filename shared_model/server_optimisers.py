"""Server steps as strategy objects, the same in the lab and in hospitals. Pure.

    step = FedAdam(0.01)
    state = step.begin(trained)                            # {} of FedAvg
    weights, state = step.apply(weights, mean, state)      # once a round

A step's state is a function of public sums alone, so that whoever has the sums has the state. It
is float32 by names that no parameter has, `server-step/KIND/PARAMETER` with KIND "first", "second"
(moments) or "control"; so it travels, is stored and is digested with the model
(`shared_model.weights`). {} stands for what `begin` gives.

Every machine gets the same bits: each element goes through single IEEE 754 operations (product,
sum, difference, quotient, square root: all correctly rounded) in float64, in the order in which
they are written here, one NumPy call each, so that nothing can be fused; state and weights are
rounded to float32 once. The order of the parameters does not show: none looks at another.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from shared_model.config import ServerMoments, StepName
from shared_model.errors import OurMistake
from shared_model.weights import STATE, Weights

FIRST, SECOND, CONTROL = f"{STATE}first/", f"{STATE}second/", f"{STATE}control/"
LARGEST_RATE = 0.1
"""Of FedAdam and FedYogi, which move every trained parameter by up to about their rate in a round,
whatever the size of the mean: the entries of our matrices are about 0.1."""
LARGEST_MOVE = 1.0
"""Of a parameter in a round of FedAdam or FedYogi, whatever the means of all rounds were."""


class ServerStep(Protocol):
    """What is done with the mean update."""

    def begin(self, trained: Mapping[str, np.ndarray]) -> Weights:
        """The state before the first round; `trained` gives names and shapes."""

    def apply(
        self,
        weights: Weights,
        mean: Mapping[str, np.ndarray],
        state: Weights,
        *,
        share: float = 1.0,
    ) -> tuple[Weights, Weights]:
        """New full weights and new state; parameters that `mean` lacks are returned as they were.

        Args:
            mean: of the survivors' updates, float64 by name.
            state: what the round before returned, or `begin`, or {}.
            share: of all sites' weight, what the survivors have; (0, 1]. Looked at by control
                variates only.

        Raises:
            OurMistake: the mean has a parameter that the model lacks, or of another shape; the
                state is of another step or model.
        """


@dataclass(frozen=True)
class FedAvg:
    """`w + learning_rate x mean update` (McMahan et al. 2017 with a server learning rate).

    Computed in float64, rounded to float32 once. No state.
    """

    learning_rate: float = 1.0

    def begin(self, trained: Mapping[str, np.ndarray]) -> Weights:
        """See `ServerStep.begin`."""
        return {}

    def apply(
        self,
        weights: Weights,
        mean: Mapping[str, np.ndarray],
        state: Weights,
        *,
        share: float = 1.0,
    ) -> tuple[Weights, Weights]:
        """See `ServerStep.apply`."""
        check_state(self, mean, state)
        return _moved(weights, mean, mean, self.learning_rate), {}


@dataclass(frozen=True)
class FedAdam:
    """FedAdam of Reddi et al. (2003.00295, Algorithm 2), D the mean update:

        m = beta1 m + (1 - beta1) D;   v = beta2 v + (1 - beta2) D^2
        w = w + learning_rate x m / (sqrt(v) + tau)

    from m = 0 and v = tau^2. No bias correction, as in Algorithm 2: a correction undoes a start of
    v at 0, where the first moves would be as large as any; starting at tau^2 they are small while
    the moments know little. m and v are rounded to float32 before w moves, so that a move follows
    from the new state.

    Raises:
        OurMistake: the rate is not in (0, LARGEST_RATE], or the moments let a parameter move
            further than LARGEST_MOVE.
    """

    learning_rate: float
    moments: ServerMoments = field(default_factory=ServerMoments)

    def __post_init__(self) -> None:
        if not 0.0 < self.learning_rate <= LARGEST_RATE:
            raise OurMistake(
                f"FedAdam and FedYogi move every trained parameter by about the learning rate a "
                f"round: {self.learning_rate:g} is not in (0, {LARGEST_RATE:g}].",
                do="Choose a server_learning_rate between 0.001 and 0.03 to begin with; in mode "
                "distributed it is multiplied by the training's learning rate.",
            )
        if not self.learning_rate * self._reach() <= LARGEST_MOVE:
            raise OurMistake(
                f"With beta1 {self.moments.beta1:g} and beta2 {self.moments.beta2:g} a round could "
                f"move a parameter far beyond the learning rate, by more than {LARGEST_MOVE:g}.",
                do="Choose beta2 well above beta1, such as 0.9 and 0.99, or a lower rate.",
            )

    def _reach(self) -> float:
        """The largest |m| / sqrt(v) that any means can make; infinite if there is no bound.

        m is a sum of (1 - beta1) beta1^k D_k and v at least one of (1 - beta2) beta2^k D_k^2, so
        the bound is Cauchy and Schwarz's: (1 - beta1) / sqrt((1 - beta2) (1 - beta1^2 / beta2)).
        """
        return _reach(self.moments.beta1, 1.0 - self.moments.beta2, self.moments.beta2)

    def begin(self, trained: Mapping[str, np.ndarray]) -> Weights:
        """See `ServerStep.begin`."""
        tau = np.float32(np.multiply(self.moments.tau, self.moments.tau))
        first = {FIRST + name: np.zeros(value.shape, np.float32) for name, value in trained.items()}
        second = {
            SECOND + name: np.full(value.shape, tau, np.float32) for name, value in trained.items()
        }
        return first | second

    def apply(
        self,
        weights: Weights,
        mean: Mapping[str, np.ndarray],
        state: Weights,
        *,
        share: float = 1.0,
    ) -> tuple[Weights, Weights]:
        """See `ServerStep.apply`."""
        check_state(self, mean, state)
        before, after = state or self.begin(mean), Weights()
        moves: dict[str, np.ndarray] = {}
        beta1, tau = self.moments.beta1, self.moments.tau
        for name, value in mean.items():
            change = value.astype(np.float64)
            kept = np.multiply(before[FIRST + name].astype(np.float64), beta1)
            first = np.add(kept, np.multiply(change, 1.0 - beta1)).astype(np.float32)
            square = np.multiply(change, change)
            second = self._second(before[SECOND + name].astype(np.float64), square)
            after[FIRST + name], after[SECOND + name] = first, second.astype(np.float32)
            root = np.add(np.sqrt(after[SECOND + name].astype(np.float64)), tau)
            moves[name] = np.divide(first.astype(np.float64), root)
        return _moved(weights, mean, moves, self.learning_rate), after

    def _second(self, before: np.ndarray, square: np.ndarray) -> np.ndarray:
        """v after a round; float64, never below 0."""
        beta2 = self.moments.beta2
        result: np.ndarray = np.add(np.multiply(before, beta2), np.multiply(square, 1.0 - beta2))
        return result


@dataclass(frozen=True)
class FedYogi(FedAdam):
    """FedYogi of the same algorithm: `v = v - (1 - beta2) D^2 sign(v - D^2)`, else as FedAdam.

    v moves by what D^2 is, however far away it is: it forgets a large D more slowly.
    """

    def _reach(self) -> float:
        """As FedAdam's: v is at least beta2 (beta2 v + (1 - beta2) D^2), whatever the sign."""
        beta2 = self.moments.beta2
        return _reach(self.moments.beta1, beta2 * (1.0 - beta2), beta2 * beta2)

    def _second(self, before: np.ndarray, square: np.ndarray) -> np.ndarray:
        part = np.multiply(square, 1.0 - self.moments.beta2)
        signed = np.multiply(part, np.sign(np.subtract(before, square)))
        result: np.ndarray = np.subtract(before, signed)
        return result


@dataclass(frozen=True)
class ControlVariates:
    """The server's part of SCAFFOLD (Karimireddy et al., 1910.06378, option II) round a step.

    A site's variate becomes `c_i - c - update_i / (K lr)`, so the mean of what the survivors'
    variates changed by is `-c - mean update / (K lr)`: the mean update is all that is needed, and
    no second vector is summed. `c = c + share x (-c - mean / (K lr))`. Lab only: see
    docs/adr/0029-server-optimisers.md.

    The identity is exact as far as the sum is: not for an update that was scaled down to the norm
    bound, nor below the quantisation.

    steps, learning_rate: K and lr of the sites' plain SGD.
    """

    step: ServerStep
    steps: int
    learning_rate: float

    def begin(self, trained: Mapping[str, np.ndarray]) -> Weights:
        """See `ServerStep.begin`."""
        control = {
            CONTROL + name: np.zeros(value.shape, np.float32) for name, value in trained.items()
        }
        return self.step.begin(trained) | control

    def apply(
        self,
        weights: Weights,
        mean: Mapping[str, np.ndarray],
        state: Weights,
        *,
        share: float = 1.0,
    ) -> tuple[Weights, Weights]:
        """See `ServerStep.apply`."""
        check_state(self, mean, state)
        if not 0.0 < share <= 1.0:
            raise OurMistake("The survivors' share of all sites is in (0, 1].")
        state = state or self.begin(mean)
        inner = {name: value for name, value in state.items() if not name.startswith(CONTROL)}
        moved, after = self.step.apply(weights, mean, inner, share=share)
        scale = float(self.steps) * self.learning_rate
        for name, value in mean.items():
            before = state[CONTROL + name].astype(np.float64)
            gradient = np.divide(value.astype(np.float64), scale)
            change = np.multiply(np.subtract(np.negative(before), gradient), share)
            after[CONTROL + name] = np.add(before, change).astype(np.float32)
        return moved, after


def named(
    name: StepName, learning_rate: float, moments: ServerMoments | None = None
) -> FedAvg | FedAdam:
    """The step of this name.

    Raises:
        OurMistake: there is none, moments for FedAvg, none for another, or a rate out of bounds.
    """
    if (moments is None) != (name == "fedavg"):
        raise OurMistake("FedAdam and FedYogi have beta1, beta2 and tau; FedAvg has none.")
    if moments is None:
        return FedAvg(learning_rate)
    kinds: dict[str, type[FedAdam]] = {"fedadam": FedAdam, "fedyogi": FedYogi}
    if name not in kinds:
        raise OurMistake(f"There is no server step {name!r}.")
    return kinds[name](learning_rate, moments)


def rate_of(mode: str, server_learning_rate: float, training_learning_rate: float) -> float:
    """The step's learning rate.

    In mode distributed it is the only step of the round, the mean is minus the noisy gradient, and
    the rate the product of the training's and the server's: FedAvg is then plain SGD, as when one
    hospital takes a step by itself; FedAdam is Adam on the noisy gradients of all patients.
    """
    if mode == "distributed":
        return server_learning_rate * training_learning_rate
    return server_learning_rate


def control_of(state: Mapping[str, np.ndarray]) -> Weights:
    """The server's control variate in a state, by parameter; {} if there is none."""
    return {
        name.removeprefix(CONTROL): value
        for name, value in state.items()
        if name.startswith(CONTROL)
    }


def check_state(step: ServerStep, trained: Mapping[str, np.ndarray], state: Weights) -> None:
    """The state is one of this step for these parameters, or {}.

    Raises:
        OurMistake: other names or shapes, not float32, or a second moment below 0.
    """
    wanted = {name: value.shape for name, value in step.begin(trained).items()}
    found = {name: value.shape for name, value in state.items()}
    if state and (wanted != found or any(value.dtype != np.float32 for value in state.values())):
        raise OurMistake("The state of the server step is of another step or model.")
    if any(name.startswith(SECOND) and (value < 0).any() for name, value in state.items()):
        raise OurMistake("A second moment of the server step is below 0.")


def _reach(beta1: float, part: float, kept: float) -> float:
    """Largest |m| / sqrt(v) if a round keeps `kept` of v at least, and adds `part` of D^2."""
    held = 1.0 if beta1 == 0.0 else (1.0 - beta1 * beta1 / kept if kept > 0.0 else 0.0)
    room = part * held
    return (1.0 - beta1) / math.sqrt(room) if room > 0.0 else math.inf


def _moved(
    weights: Weights,
    mean: Mapping[str, np.ndarray],
    moves: Mapping[str, np.ndarray],
    learning_rate: float,
) -> Weights:
    """`w + learning_rate x move`: one product and one sum in float64, rounded once."""
    after = dict(weights)
    for name, value in mean.items():
        before = weights.get(name)
        if before is None or before.shape != value.shape:
            raise OurMistake("The mean update does not fit the model.")
        stepped = np.multiply(moves[name], learning_rate)
        np.add(before, stepped, out=stepped)  # in float64: float32 is exact there
        after[name] = stepped.astype(np.float32)
    return after
