"""A network on many patients: fixed chunks, on some threads, each site with its own if it has."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from shared_model.config import FINGERPRINT_SIZE, LocalTraining, ModelConfig
from shared_model.mae import MaskedAutoencoder, build, load_weights
from shared_model.weights import Weights
from simulations.lab import evaluate_signals
from simulations.lab.data import FederationData
from simulations.lab.evaluate_probes import Label, labels_of, patient_fingerprints
from simulations.lab.evaluate_sample import Chosen, Index, Signals, choose, generator
from simulations.lab.experiment import Experiment

Own = Mapping[str, Weights]
"""Parameters that sites keep for themselves (local norms): site -> arrays by name."""
_CHUNK = 32
"""Patients in the model at once: part of what is computed, so no setting changes it."""
Made = TypeVar("Made")


class Fixed:
    """What stays the same at every round: patients, windows, patch masks and labels."""

    def __init__(self, data: FederationData, experiment: Experiment) -> None:
        self.data = data
        self.experiment = experiment
        self.chosen: Chosen = choose(data, experiment)
        self.signals = Signals.read(data, self.chosen.rows)
        self.labels: tuple[Label, ...] = labels_of(data, experiment, self.chosen)[0]
        self.training: LocalTraining = experiment.algorithm.training(experiment.model.trainable)
        self.others: Index = np.union1d(self.chosen.measured, self.chosen.by_site)
        """Rows of the table of everybody who is measured."""
        self.seen = self.signals.of(self.others)
        rng = generator("patch masks", experiment.seed)
        self.hidden = evaluate_signals.public_masks(self.seen, self.training.patch_masks, rng)
        site = data.table["site"][self.chosen.by_site]
        self.sites: dict[str, Index] = {
            data.sites[one].name: self.chosen.by_site[site == one] for one in np.unique(site)
        }

    @cached_property
    def true_rates(self) -> evaluate_signals.TrueRates:
        """Heart rates in recorded windows."""
        return evaluate_signals.true_rates(self.seen, self.chosen.measured)


@dataclass(frozen=True)
class Network:
    """Weights, what sites have in their place, and on how many threads they are asked."""

    config: ModelConfig
    weights: Weights = field(repr=False)
    data: FederationData
    own: Own = field(default_factory=dict, repr=False)
    threads: int = 1

    def fingerprints(self, signals: Signals, sensors: str) -> npt.NDArray[np.float32]:
        """(patient of `signals`, 128); NaN without that sensor."""
        result = np.full((len(signals.rows), FINGERPRINT_SIZE), np.nan, dtype=np.float32)

        def one(model: MaskedAutoencoder, at: Index) -> npt.NDArray[np.float32]:
            return patient_fingerprints(model, signals, at, sensors)

        for at, made in self._mapped(one, signals.rows):
            result[at] = made
        return result

    def reconstruct(
        self, signals: Signals, training: LocalTraining, hidden: npt.NDArray[np.bool_]
    ) -> evaluate_signals.Pass:
        """One forward pass over everybody in `signals`, in its order; hidden: see `run`."""

        def one(model: MaskedAutoencoder, at: Index) -> evaluate_signals.Pass:
            return evaluate_signals.run(model, signals, at, training, hidden)

        parts = list(self._mapped(one, signals.rows))
        back = np.argsort(np.concatenate([at for at, _ in parts]))
        joined: dict[str, Any] = {
            name: np.concatenate([vars(made)[name] for _, made in parts])[back]
            for name in vars(parts[0][1])
        }
        return evaluate_signals.Pass(**joined)

    def _mapped(
        self, function: Callable[[MaskedAutoencoder, Index], Made], rows: Index
    ) -> Iterator[tuple[Index, Made]]:
        """The function of (model, places in `rows`), chunk by chunk."""
        import torch

        def alone(model: MaskedAutoencoder, at: Index) -> Made:
            torch.set_num_threads(1)  # counted for each thread
            return function(model, at)

        with ThreadPoolExecutor(self.threads) as pool:
            pending = [(at, pool.submit(alone, model, at)) for model, at in self._chunks(rows)]
            for at, future in pending:
                yield at, future.result()

    def _chunks(self, rows: Index) -> Iterator[tuple[MaskedAutoencoder, Index]]:
        for model, at in self._models(rows):
            for start in range(0, len(at), _CHUNK):
                yield model, at[start : start + _CHUNK]

    def _models(self, rows: Index) -> Iterator[tuple[MaskedAutoencoder, Index]]:
        """A model, and the places in `rows` of the patients that it is for."""
        if not self.own:
            yield self._model({}), np.arange(len(rows))
            return
        site = self.data.table["site"][rows]
        for one in np.unique(site):
            yield (
                self._model(self.own.get(self.data.sites[one].name, {})),
                np.flatnonzero(site == one),
            )

    def _model(self, kept: Weights) -> MaskedAutoencoder:
        model = build(self.config, seed=0)
        load_weights(model, {**self.weights, **kept})
        return model
