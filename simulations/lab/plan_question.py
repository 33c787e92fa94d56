"""What is asked of the planner: an experiment from a few numbers, and its sizes.

experiment = asked(8, 500, epsilon=3.0, mode="distributed")
patients_of(experiment), trained_parameters(experiment)
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal

from client.policy import rounded_patients
from shared_model.errors import OurMistake
from shared_model.roster import default_threshold
from simulations.lab import algorithms
from simulations.lab.experiment import Experiment
from simulations.lab.site_rows import held_out_of

Mode = Literal["local", "distributed", "none"]


def asked(
    hospitals: int,
    patients: int,
    *,
    epsilon: float | None = None,
    mode: Mode = "local",
    base: Experiment | None = None,
    **values: Any,
) -> Experiment:
    """The experiment of a question; without a `base`, all `patients` of each hospital train.

    In mode distributed, without a base, with the threshold and colluding hospitals of a roster of
    so many. `values` are other fields, with `__` for the dot: `privacy__sample_rate=0.1`.

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
            {
                "name": "plan",
                "federation": {"held_out": 0.0},
                "participation": {"minimum_contributors": min(3, hospitals)},
                "privacy": {"epsilon": 1.0},
            }
        )
        if mode == "distributed":
            threshold = default_threshold(hospitals)
            changed.setdefault("privacy.threshold", threshold)
            changed.setdefault(
                "privacy.colluding", max(0, min(2 * threshold - hospitals - 1, threshold - 2))
            )
    elif base.federation.source == "folders":  # whose numbers are the ones that are given
        changed |= {"federation.source": "simulated", "federation.folders": []}
    return base.with_values(changed)


def patients_of(experiment: Experiment) -> list[int]:
    """Patients that each hospital declares, as far as the file says: equal hospitals.

    Raises:
        OurMistake: real folders, whose patients are not counted here, or too few patients.
    """
    federation = experiment.federation
    if federation.source == "folders":
        raise OurMistake(
            "How many patients the folders hold is not in the experiment.",
            do="Give --hospitals and --patients.",
        )
    held_out = held_out_of(federation.patients, federation.held_out, "any", experiment.seed)
    return [rounded_patients(int((~held_out).sum()))] * federation.hospitals


@lru_cache(maxsize=64)
def _network(preset: str) -> Any:
    from shared_model import mae

    if preset not in mae.PRESETS:
        raise OurMistake(
            f"There is no preset {preset!r}.", do=f"Choose from: {', '.join(mae.PRESETS)}."
        )
    return mae.build(mae.PRESETS[preset], 0)


def trained_parameters(experiment: Experiment) -> int:
    """d, of what private training changes and sends.

    Raises:
        OurMistake: there is no such preset.
    """
    from shared_model import adapters, mae

    model = _network(experiment.model.preset)
    sent = algorithms.sent_names(model, experiment.algorithm, experiment.model.trainable)
    part = adapters.trained_part(mae.weights_of(model), sent)
    return sum(int(value.size) for value in part.values())
