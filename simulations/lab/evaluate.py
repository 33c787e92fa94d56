"""What a model of an experiment is worth, on patients that never trained: rows of probes.parquet.

    rows = evaluate(config, weights, data, experiment, round)
    left_out(data, experiment)       # labels without a figure, and why

Nothing here decides a model. The same patients, windows, patch masks and bootstrap samples at every
round; one thread; so the same weights give the same rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from shared_model.config import ModelConfig
from shared_model.mae import MaskedAutoencoder, build, load_weights
from shared_model.weights import Weights
from simulations.lab import evaluate_probes as probes
from simulations.lab import evaluate_signals as signals_of
from simulations.lab.data import FederationData
from simulations.lab.evaluate_probes import Measured
from simulations.lab.evaluate_sample import LEAST_OF_A_SITE, Index, Signals, choose, generator
from simulations.lab.experiment import Experiment
from simulations.probes.evaluate import interval

FEDERATED = "federated"
RANDOM_INIT = "random-init"
MEDIAN = "always the median"
RANDOM_SEEDS = (1000, 1001, 1002)
"""Networks with random weights, whose figures are averaged."""
UNIT_LOSS = "unit loss"
LOSSES = {
    UNIT_LOSS: "unit_loss",
    "masked reconstruction": "masked",
    "cross-modal reconstruction": "cross_modal",
}
DRAWN = {"ECG from PPG": ("ppg", 0), "PPG from ECG": ("ecg", 1)}
"""Task -> the sensor that is seen, the channel that is drawn."""
MOST_RATES = 100
"""Windows, one a patient, in which a detector looks for beats."""
Row = dict[str, Any]
Own = Mapping[str, Weights]
"""Parameters that sites keep for themselves (local norms): site -> arrays by name."""


def evaluate(
    config: ModelConfig,
    weights: Weights,
    data: FederationData,
    experiment: Experiment,
    round: int,
    *,
    workers: int = 0,
    own: Own | None = None,
    epsilon: float | None = None,
) -> list[Row]:
    """Measure the model of a round; at round 0 the baselines too.

    Args:
        workers: processes that may be used; changes no figure.
        own: what sites keep for themselves: each site's patients are then measured with its own.
        epsilon: the largest site's so far, copied into each row.

    Returns:
        Rows with round, task, sensors, site ("all" or a name), model ("federated", "random-init",
        "always the median"), kind, value, low, high (95 % over patients), gain, gain_low, gain_high
        (over random-init, paired, positive is better; probes over all sites only), patients,
        epsilon. Kinds: "loss", "auroc", "mae", "r", "bpm" (mean absolute difference of heart
        rates), "share" (of windows in which no heart rate was found).

    Raises:
        OurMistake: the experiment asks for a label that the patients do not have.
    """
    known = _evaluation(config, data.folder, data.digest, experiment)
    with one_thread():
        made = known.of(_Network(config, weights, own or {}, known.data), round)
        if round == 0:
            made += known.baselines()
    for row in made:
        row["epsilon"] = epsilon
    return made


def left_out(data: FederationData, experiment: Experiment) -> dict[str, str]:
    """Labels (or classes of them) that have no figure, and why."""
    return probes.labels_of(data, experiment, choose(data, experiment))[1]


def loss_of(rows: list[Row]) -> float | None:
    """The held-out unit loss in an evaluation's rows; None if no patient was held out."""
    for row in rows:
        if (row["task"], row["site"], row["model"]) == (UNIT_LOSS, "all", FEDERATED):
            found: float | None = row["value"]
            return found
    return None


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread for torch and for linear algebra: sums in one order."""
    import torch
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(limits=1):
            yield
    finally:
        torch.set_num_threads(before)


@lru_cache(maxsize=2)
def _evaluation(
    config: ModelConfig, folder: Path, digest: str, experiment: Experiment
) -> _Evaluation:
    return _Evaluation(config, FederationData(folder), experiment)


@dataclass(frozen=True)
class _Network:
    """Weights, and what sites have in their place."""

    config: ModelConfig
    weights: Weights = field(repr=False)
    own: Own = field(repr=False)
    data: FederationData

    def parts(self, rows: Index) -> Iterator[tuple[MaskedAutoencoder, Index]]:
        """A model and the places in `rows` of the patients that it is for."""
        model = build(self.config, seed=0)
        if not self.own:
            load_weights(model, self.weights)
            yield model, np.arange(len(rows))
            return
        site = self.data.table["site"][rows]
        for one in np.unique(site):
            kept = self.own.get(self.data.sites[one].name, {})
            load_weights(model, {**self.weights, **kept})
            yield model, np.flatnonzero(site == one)


@dataclass
class _Evaluation:
    """What stays the same at every round: patients, masks, labels, and the baselines' figures."""

    config: ModelConfig
    data: FederationData
    experiment: Experiment

    def __post_init__(self) -> None:
        self.chosen = choose(self.data, self.experiment)
        self.signals = Signals.read(self.data, self.chosen.rows)
        self.labels, _ = probes.labels_of(self.data, self.experiment, self.chosen)
        self.training = self.experiment.algorithm.training(self.experiment.model.trainable)
        self.hidden = signals_of.public_masks(
            self.signals,
            self.training.patch_masks,
            generator("patch masks", self.experiment.seed),
        )
        site = self.data.table["site"][self.chosen.by_site]
        self.sites = {
            self.data.sites[one].name: self.chosen.by_site[site == one] for one in np.unique(site)
        }
        self.others = np.union1d(self.chosen.measured, self.chosen.by_site)

    def of(self, network: _Network, round: int) -> list[Row]:
        """All rows of one model."""
        return [
            *self._reconstruction(network, round, FEDERATED),
            *self._probes(network, round),
        ]

    def baselines(self) -> list[Row]:
        """Random-init and the median, as rows of round 0."""
        rows = self._reconstruction(self._random[0], 0, RANDOM_INIT)
        for (name, sensors, kind), measured in self._random_probes.items():
            rows.append(_row(0, name, sensors, "all", RANDOM_INIT, kind, measured))
        for label in self.labels:
            if label.kind == "mae":
                rows += self._median(label)
        return rows

    # Reconstruction

    def _reconstruction(self, network: _Network, round: int, model: str) -> list[Row]:
        places = self.signals.places(self.others)
        if not len(places):
            return []
        done = self._pass(network, places)
        rows: list[Row] = []
        for task, name in LOSSES.items():
            values = getattr(done, name)
            rows += self._means(values, round, task, "both", model, "loss", by_site=True)
        for task, (seen, channel) in DRAWN.items():
            values = signals_of.correlations(self.signals, places, done, channel)
            rows += self._means(values, round, task, seen, model, "r", by_site=False)
            if self.experiment.federation.source != "waves":
                rows += self._rates(done, round, task, seen, channel, model)
        return rows

    def _pass(self, network: _Network, places: Index) -> signals_of.Pass:
        parts = list(network.parts(self.others))
        done = [
            signals_of.run(model, self.signals, places[at], self.training, self.hidden)
            for model, at in parts
        ]
        if len(done) == 1:
            return done[0]
        back = np.argsort(np.concatenate([at for _, at in parts]))
        return signals_of.Pass(
            **{name: np.concatenate([vars(one)[name] for one in done])[back] for name in vars(done[0])}
        )

    def _means(
        self,
        values: npt.NDArray[np.float64],
        round: int,
        task: str,
        sensors: str,
        model: str,
        kind: str,
        *,
        by_site: bool,
    ) -> list[Row]:
        """Mean of a figure per patient, over all measured and in each site."""
        groups = {"all": self.chosen.measured, **(self.sites if by_site else {})}
        rows = []
        for site, members in groups.items():
            mine = values[np.searchsorted(self.others, members)]
            mine = mine[np.isfinite(mine)]
            if len(mine) >= (1 if site == "all" else LEAST_OF_A_SITE):
                counts = probes.samples(len(mine), self.experiment, site)
                measured = Measured(float(mine.mean()), counts @ mine / len(mine), len(mine))
                rows.append(_row(round, task, sensors, site, model, kind, measured))
        return rows

    def _rates(
        self, done: signals_of.Pass, round: int, task: str, seen: str, channel: int, model: str
    ) -> list[Row]:
        """Heart rate in the drawn against the recorded signal, by the same detector."""
        truth, place, window = self._true_rates[channel]
        if not len(truth):
            return []
        found = np.array(
            [
                signals_of.heart_rate_bpm(done.drawn[i, w, channel], channel)
                for i, w in zip(place, window, strict=True)
            ]
        )
        known = np.isfinite(found)
        everybody = probes.samples(len(truth), self.experiment, "rates")
        missing = Measured(
            float(1 - known.mean()), everybody @ (1.0 - known) / len(truth), len(truth)
        )
        rows = [_row(round, task, seen, "all", model, "share", missing)]
        if known.any():
            rows.append(self._bpm(np.abs(found - truth)[known], round, task, seen, model))
        if model == RANDOM_INIT:
            middle = np.abs(np.median(truth) - truth)
            rows.append(self._bpm(middle, round, task, seen, MEDIAN))
        return rows

    def _bpm(
        self, errors: npt.NDArray[np.float64], round: int, task: str, seen: str, model: str
    ) -> Row:
        counts = probes.samples(len(errors), self.experiment, "rates")
        measured = Measured(float(errors.mean()), counts @ errors / len(errors), len(errors))
        return _row(round, task, seen, "all", model, "bpm", measured)

    @cached_property
    def _true_rates(self) -> tuple[tuple[npt.NDArray[np.float64], Index, Index], ...]:
        """For each channel: rates in recorded windows, place of the patient in `others`, window.

        Whole windows of both sensors only, one a patient, in which the detector finds a rate.
        """
        places = self.signals.places(self.others)
        whole = self.signals.valid[places].all((2, 3))  # (patient, window)
        measured = np.searchsorted(self.others, self.chosen.measured)
        usable = measured[whole[measured].any(1)][:MOST_RATES]
        window = whole[usable].argmax(1)
        rates = []
        for channel in (0, 1):
            signal = self.signals.signal[places[usable], window, channel].astype(np.float64)
            found = np.array([signals_of.heart_rate_bpm(one, channel) for one in signal])
            known = np.isfinite(found) if len(found) else np.zeros(0, dtype=bool)
            rates.append((found[known], usable[known], window[known]))
        return tuple(rates)

    # Probes

    def _scores(self, network: _Network, sensors: str) -> list[probes.Scores]:
        features = np.full((len(self.signals.rows), 128), np.nan, dtype=np.float32)
        for model, places in network.parts(self.signals.rows):
            features[places] = probes.patient_fingerprints(model, self.signals, places, sensors)
        made = (
            probes.fit(label, features, self.signals, self.chosen, self.experiment.seed)
            for label in self.labels
        )
        return [one for one in made if one is not None]

    def _probes(self, network: _Network, round: int) -> list[Row]:
        rows: list[Row] = []
        if not self.labels or not len(self.chosen.measured):
            return rows
        for sensors in probes.SENSORS:
            for scores in self._scores(network, sensors):
                for kind, measured in self._overall(scores).items():
                    name = scores.label.name
                    base = self._random_probes.get((name, sensors, kind))
                    row = _row(round, name, sensors, "all", FEDERATED, kind, measured)
                    rows.append({**row, **_gain(kind, measured, base)})
                if sensors == "both":
                    rows += self._at_sites(scores, round)
        return rows

    def _overall(self, scores: probes.Scores) -> dict[str, Measured]:
        found = scores.among(self.chosen.measured, probes.LEAST_MEASURED)
        if not found:
            return {}
        counts = probes.samples(len(found[0].truth), self.experiment, "probes")
        kinds = ("mae", "r") if scores.label.kind == "mae" else ("auroc",)
        return {kind: probes.measured(found, counts, kind) for kind in kinds}

    def _at_sites(self, scores: probes.Scores, round: int) -> list[Row]:
        rows = []
        for site, members in self.sites.items():
            found = scores.among(members, probes.LEAST_AT_A_SITE)
            if found:
                counts = probes.samples(len(found[0].truth), self.experiment, site)
                kind = scores.label.kind
                measured = probes.measured(found, counts, kind)
                rows.append(_row(round, scores.label.name, "both", site, FEDERATED, kind, measured))
        return rows

    def _median(self, label: probes.Label) -> list[Row]:
        """The training patients' median, said of everybody."""
        fitted, rows = label.truth[self.chosen.fitted], self.chosen.measured
        truth = label.truth[rows]
        errors = np.abs(truth - np.nanmedian(fitted))
        errors = errors[np.isfinite(errors)]
        counts = probes.samples(len(errors), self.experiment, "probes")
        measured = Measured(float(errors.mean()), counts @ errors / len(errors), len(errors))
        return [_row(0, label.name, "both", "all", MEDIAN, "mae", measured)]

    @cached_property
    def _random(self) -> list[_Network]:
        from shared_model.mae import weights_of

        return [
            _Network(self.config, weights_of(build(self.config, seed=seed)), {}, self.data)
            for seed in RANDOM_SEEDS
        ]

    @cached_property
    def _random_probes(self) -> dict[tuple[str, str, str], Measured]:
        """(label, sensors, kind) -> mean over the random networks."""
        found: dict[tuple[str, str, str], list[Measured]] = {}
        for network in self._random:
            for sensors in probes.SENSORS:
                for scores in self._scores(network, sensors):
                    for kind, measured in self._overall(scores).items():
                        found.setdefault((scores.label.name, sensors, kind), []).append(measured)
        return {
            key: Measured(
                float(np.mean([one.value for one in many])),
                np.mean([one.draws for one in many], axis=0),
                many[0].patients,
            )
            for key, many in found.items()
        }


def _row(
    round: int, task: str, sensors: str, site: str, model: str, kind: str, measured: Measured
) -> Row:
    estimate = interval(measured.value, measured.draws)
    return {
        "round": round,
        "task": task,
        "sensors": sensors,
        "site": site,
        "model": model,
        "kind": kind,
        "value": _finite(estimate.value),
        "low": _finite(estimate.low),
        "high": _finite(estimate.high),
        "gain": None,
        "gain_low": None,
        "gain_high": None,
        "patients": measured.patients,
        "epsilon": None,
    }


def _gain(kind: str, ours: Measured, base: Measured | None) -> Row:
    """Paired difference to random-init; positive is better."""
    if base is None or len(base.draws) != len(ours.draws) or base.patients != ours.patients:
        return {}
    sign = -1.0 if kind == "mae" else 1.0
    found = interval(sign * (ours.value - base.value), sign * (ours.draws - base.draws))
    return {
        "gain": _finite(found.value),
        "gain_low": _finite(found.low),
        "gain_high": _finite(found.high),
    }


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
