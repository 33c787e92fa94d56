"""What an experiment's algorithm is made of: the very objects of hospitals and coordinator.

step = algorithms.server_step(experiment.algorithm, experiment.privacy.mode)
state = step.begin(trained)                             # trained: of the names that are sent
names = algorithms.sent_names(model, experiment.algorithm, experiment.model.trainable)
local = algorithms.local_state(experiment.algorithm, kept_by_the_site, state)
outcome = train_round(..., local=local)                 # keep outcome.local for the site
weights, state = step.apply(weights, mean, state, share=survivors_weight / weight_of_all_sites)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from client.local_state import LocalState
from shared_model.config import Trainable
from shared_model.errors import OurMistake
from shared_model.server_optimisers import (
    ControlVariates,
    ServerStep,
    control_of,
    named,
    rate_of,
)
from shared_model.weights import Weights
from simulations.lab.experiment_tables import Algorithm

if TYPE_CHECKING:
    from torch import nn


def server_step(algorithm: Algorithm, mode: Literal["local", "distributed", "none"]) -> ServerStep:
    """The server's step.

    Raises:
        OurMistake: its learning rate is out of bounds, or control variates with Adam at the sites.
    """
    rate = rate_of(mode, algorithm.server_learning_rate, algorithm.learning_rate)
    step: ServerStep = named(algorithm.name, rate, algorithm.moments)
    if not algorithm.control_variates:
        return step
    if algorithm.optimiser != "sgd":
        raise OurMistake(
            "Control variates (SCAFFOLD) are for plain SGD at the sites.",
            do='Say algorithm.optimiser = "sgd".',
        )
    return ControlVariates(step, algorithm.steps, algorithm.learning_rate)


def local_state(algorithm: Algorithm, kept: Weights, state: Weights) -> LocalState | None:
    """What a site brings to its round; None if it keeps nothing.

    Args:
        kept: `TrainingOutcome.local` of its last round, {} before the first.
        state: of the server step, before the round.
    """
    if not (algorithm.local_norms or algorithm.control_variates):
        return None
    control = control_of(state) if algorithm.control_variates else None
    return LocalState(kept, algorithm.local_norms, control)


def sent_names(model: nn.Module, algorithm: Algorithm, trainable: Trainable) -> tuple[str, ...]:
    """Names of the parameters in an update, in the model's order."""
    from shared_model import mae

    return mae.sent_names(model, trainable, local_norms=algorithm.local_norms)
