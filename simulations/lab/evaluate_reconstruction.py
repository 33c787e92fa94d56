"""Rows of an evaluation that need the decoders: losses, and each sensor drawn from the other."""

from __future__ import annotations

import numpy as np

from simulations.lab.evaluate_network import Fixed, Network
from simulations.lab.evaluate_probes import F64, Measured, samples
from simulations.lab.evaluate_rows import DRAWN, LOSSES, MEDIAN, RANDOM_INIT, Row, row_of
from simulations.lab.evaluate_sample import LEAST_OF_A_SITE
from simulations.lab.evaluate_signals import Pass, correlations, heart_rate_bpm


def rows(fixed: Fixed, network: Network, round: int, model: str) -> list[Row]:
    """Losses over all and by site; correlation and heart rate of drawn sensors over all."""
    if not len(fixed.others):
        return []
    done = network.reconstruct(fixed.seen, fixed.training, fixed.hidden)
    made: list[Row] = []
    for task, name in LOSSES.items():
        values = getattr(done, name)
        made += _means(fixed, values, round, task, "both", model, "loss")
    for task, (seen, channel) in DRAWN.items():
        values = correlations(fixed.seen, done, channel)
        made += _means(fixed, values, round, task, seen, model, "r")
        if fixed.experiment.federation.source != "waves":  # they have no heart
            made += _rates(fixed, done, round, task, model)
    return made


def _means(
    fixed: Fixed, values: F64, round: int, task: str, sensors: str, model: str, kind: str
) -> list[Row]:
    """Mean of a figure a patient, over all measured; losses of a trained model by site too."""
    by_site = kind == "loss" and model != RANDOM_INIT
    made = []
    for site, members in {"all": fixed.chosen.measured, **(fixed.sites if by_site else {})}.items():
        mine = values[np.searchsorted(fixed.others, members)]
        mine = mine[np.isfinite(mine)]
        if len(mine) >= (1 if site == "all" else LEAST_OF_A_SITE):
            found = _mean(fixed, mine, site)
            made.append(row_of(round, task, sensors, site, model, kind, found))
    return made


def _mean(fixed: Fixed, values: F64, purpose: str) -> Measured:
    counts = samples(len(values), fixed.experiment, purpose)
    return Measured(float(values.mean()), counts @ values / len(values), len(values))


def _rates(fixed: Fixed, done: Pass, round: int, task: str, model: str) -> list[Row]:
    """Heart rate in the drawn against the recorded signal, by the same detector."""
    seen, channel = DRAWN[task]
    truth, place, window = fixed.true_rates[channel]
    if not len(truth):
        return []
    found = np.array(
        [
            heart_rate_bpm(done.drawn[i, w, channel], channel)
            for i, w in zip(place, window, strict=True)
        ]
    )
    known = np.isfinite(found)
    missing = _mean(fixed, 1.0 - known, "rates")
    made = [row_of(round, task, seen, "all", model, "share", missing)]
    if known.any():
        error = _mean(fixed, np.abs(found - truth)[known], "rates")
        made.append(row_of(round, task, seen, "all", model, "bpm", error))
    if model == RANDOM_INIT:
        middle = _mean(fixed, np.abs(np.median(truth) - truth), "rates")
        made.append(row_of(round, task, seen, "all", MEDIAN, "bpm", middle))
    return made
