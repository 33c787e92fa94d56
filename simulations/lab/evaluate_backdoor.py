"""Rows of an evaluation that say whether a backdoor works; only where an experiment has one."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from shared_model.fingerprint import fingerprints
from shared_model.mae import build, load_weights
from simulations.lab.behaviours import backdoor_success
from simulations.lab.evaluate_network import Fixed, Network
from simulations.lab.evaluate_probes import Measured
from simulations.lab.evaluate_rows import BACKDOOR, Row, row_of

MOST_WINDOWS = 100
"""One a patient."""


def rows(fixed: Fixed, network: Network, round: int, model: str) -> list[Row]:
    """ "shift" of cosine towards the target, and the share that is "captured"; no intervals.

    Measured with the weights that all sites share. Compare with random-init and with a run without
    the attack: a model that was not attacked has a shift too.
    """
    wanted = any(one.kind == "backdoor" for one in fixed.experiment.behaviours)
    places = fixed.signals.places(fixed.chosen.measured)
    able = np.flatnonzero(np.any(fixed.signals.valid[places, 0, 0], axis=-1))[:MOST_WINDOWS]
    if not wanted or not len(able):
        return []
    shared = build(network.config, seed=0)
    load_weights(shared, network.weights)

    def encode(
        signal: npt.NDArray[np.float32], valid: npt.NDArray[np.bool_]
    ) -> npt.NDArray[np.float32]:
        return fingerprints(shared, signal, valid)

    found = backdoor_success(
        encode,
        fixed.signals.signal[places[able], 0].astype(np.float32),
        fixed.signals.valid[places[able], 0],
        fixed.experiment.seed,
    )
    return [
        row_of(round, BACKDOOR, "ecg", "all", model, kind, Measured(value, np.empty(0), len(able)))
        for kind, value in (("shift", found.shift), ("captured", found.captured))
    ]
