"""Rows of an evaluation that are probes of frozen fingerprints, and their baselines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from client.fingerprints import SENSORS
from simulations.lab import evaluate_probes as probes
from simulations.lab.evaluate_network import Fixed, Network
from simulations.lab.evaluate_probes import Label, Measured, Scores, samples
from simulations.lab.evaluate_rows import FEDERATED, MEDIAN, RANDOM_INIT, Row, gain_of, row_of

Baselines = Mapping[tuple[str, str, str], Measured]
"""(label, sensors, kind) -> random-init."""


def rows(fixed: Fixed, network: Network, round: int, base: Baselines) -> list[Row]:
    """All labels with both sensors and each alone; with both, also by site."""
    made: list[Row] = []
    for sensors, scores in _scores(fixed, network):
        name = scores.label.name
        for kind, found in _overall(fixed, scores).items():
            row = row_of(round, name, sensors, "all", FEDERATED, kind, found)
            made.append({**row, **gain_of(kind, found, base.get((name, sensors, kind)))})
        if sensors == "both":
            made += _at_sites(fixed, scores, round)
    return made


def random_init(fixed: Fixed, networks: Sequence[Network]) -> Baselines:
    """Means over networks that were never trained."""
    found: dict[tuple[str, str, str], list[Measured]] = {}
    for network in networks:
        for sensors, scores in _scores(fixed, network):
            for kind, measured in _overall(fixed, scores).items():
                found.setdefault((scores.label.name, sensors, kind), []).append(measured)
    return {
        key: Measured(
            float(np.mean([one.value for one in many])),
            np.mean([one.draws for one in many], axis=0),
            many[0].patients,
        )
        for key, many in found.items()
    }


def baselines(fixed: Fixed, base: Baselines) -> list[Row]:
    """Random-init, and always predicting the training patients' median, as rows of round 0."""
    made = [
        row_of(0, name, sensors, "all", RANDOM_INIT, kind, measured)
        for (name, sensors, kind), measured in base.items()
    ]
    return made + [_median(fixed, label) for label in fixed.labels if label.kind == "mae"]


def _scores(fixed: Fixed, network: Network) -> list[tuple[str, Scores]]:
    if not fixed.labels or not len(fixed.chosen.measured):
        return []
    found = []
    for sensors in SENSORS:
        features = network.fingerprints(fixed.signals, sensors)
        for label in fixed.labels:
            seed = fixed.experiment.seed
            scores = probes.fit(label, features, fixed.signals, fixed.chosen, seed)
            if scores is not None:
                found.append((sensors, scores))
    return found


def _overall(fixed: Fixed, scores: Scores) -> dict[str, Measured]:
    found = scores.among(fixed.chosen.measured, probes.LEAST_MEASURED)
    if not found:
        return {}
    counts = samples(len(found[0].truth), fixed.experiment, "probes")
    kinds = ("mae", "r") if scores.label.kind == "mae" else ("auroc",)
    return {kind: probes.measured(found, counts, kind) for kind in kinds}


def _at_sites(fixed: Fixed, scores: Scores, round: int) -> list[Row]:
    made = []
    name, kind = scores.label.name, scores.label.kind
    for site, members in fixed.sites.items():
        found = scores.among(members, probes.LEAST_AT_A_SITE)
        if found:
            counts = samples(len(found[0].truth), fixed.experiment, site)
            measured = probes.measured(found, counts, kind)
            made.append(row_of(round, name, "both", site, FEDERATED, kind, measured))
    return made


def _median(fixed: Fixed, label: Label) -> Row:
    truth = label.truth[fixed.chosen.measured]
    errors = np.abs(truth - np.nanmedian(label.truth[fixed.chosen.fitted]))
    errors = errors[np.isfinite(errors)]
    counts = samples(len(errors), fixed.experiment, "probes")
    measured = Measured(float(errors.mean()), counts @ errors / len(errors), len(errors))
    return row_of(0, label.name, "both", "all", MEDIAN, "mae", measured)
