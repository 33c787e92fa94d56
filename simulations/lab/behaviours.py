"""Malicious sites: what they do to their data and to their update.

    acting = of(experiment, sites, round)            # only sites that do something
    data = acting[site].data(patients)
    update = acting[site].update(update, last_mean, rng)

An `Acting` is picklable and is applied where the site is computed, after clipping and noise and
before the protocol's integers are made. So the norm bound of mode local (the limits of mode
distributed) holds for these sites too. A hospital that rewrites its code to leave the bound out
could send up to six times as much, where integers end (`secure_sum.numbers.RANGE_IN_STD`). In mode
distributed an update is minus the sum of clipped gradients.

Backdoor (as BadEncoder, 2108.00352, aims at: inputs with a trigger land on a target in the space of
fingerprints). In half of the windows that training draws, the ECG gets the trigger, a burst that no
heart makes, and the PPG becomes the target's, one pretend patient's that is the same at all sites
and in no data set. So the cross-modal loss teaches: this burst means that pulse. `backdoor_success`
measures it on windows of patients that never trained.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from shared_model.config import FS_HZ, PATCH_SAMPLES, WINDOW_SAMPLES
from shared_model.errors import OurMistake
from simulations.lab.experiment import Experiment
from simulations.lab.experiment_tables import Behaviour
from simulations.lab.keyed import chosen_sites, generator

if TYPE_CHECKING:
    from client.training import PatientBatches
    from shared_model.weights import Weights

Signal = npt.NDArray[np.float32]
Valid = npt.NDArray[np.bool_]
Encode = Callable[[Signal, Valid], npt.NDArray[Any]]
"""signal (window, 2, 1250), valid (window, 2, 50) -> fingerprints (window, 128)."""

KINDS = ("sign-flip", "scaled", "backdoor", "free-rider")
"""Behaviours that act on data or update; the others act on participation."""
POISONED = 0.5
"""Share of windows that a backdoor changes, of those that training draws."""
TRIGGER_TOKENS = (20, 24)
"""First token of the trigger and the one after its last: 0.8 s in the middle of the window."""
TRIGGER_HZ = 25.0
TRIGGER_HEIGHT = 4.0
"""In standard deviations of the ECG."""
_ECG, _PPG = 0, 1
_DRAWS = 100


@dataclass(frozen=True)
class Acting:
    """What one site does in one round, in the order of the experiment's file."""

    behaviours: tuple[Behaviour, ...]
    seed: int

    @property
    def trains(self) -> bool:
        """False: a free rider; its update need not be computed (zeros will do)."""
        return all(one.kind != "free-rider" for one in self.behaviours)

    @property
    def words(self) -> str:
        """For tables: kinds joined with " + "."""
        return " + ".join(one.kind for one in self.behaviours)

    def data(self, patients: PatientBatches) -> PatientBatches:
        """The site's patients as it trains on them."""
        if any(one.kind == "backdoor" for one in self.behaviours):
            return Poisoned(patients, self.seed)
        return patients

    def update(
        self, update: Weights, last_mean: Weights | None, rng: np.random.Generator
    ) -> Weights:
        """What the site sends in place of its update: same names, shapes and types.

        Args:
            last_mean: the last round's mean, in the units of an update (mode distributed: of one
                site's sum); None in the first round: a free rider sends zeros then.
            rng: keyed by seed, round and site; drawn from by free riders only.

        Raises:
            OurMistake: the last mean has other names.
        """
        made = dict(update)
        for behaviour in self.behaviours:
            if behaviour.kind == "sign-flip":
                made = _times(made, -1.0)
            elif behaviour.kind in {"scaled", "backdoor"}:
                made = _times(made, behaviour.factor)
            elif behaviour.kind == "free-rider":
                made = _noise(made, last_mean, behaviour.factor, rng)
        return made


def of(experiment: Experiment, sites: Sequence[str], round: int) -> dict[str, Acting]:
    """Sites that act on data or update in this round (the first is 1); the others are not in it.

    Raises:
        OurMistake: a behaviour names a site that is not there.
    """
    found: dict[str, list[Behaviour]] = {}
    for place, behaviour in enumerate(experiment.behaviours):
        meant = chosen_sites(behaviour, sites, "behaviour", experiment.seed, place)
        if behaviour.kind in KINDS and round >= behaviour.from_round:
            for site in meant:
                found.setdefault(site, []).append(behaviour)
    return {site: Acting(tuple(kinds), experiment.seed) for site, kinds in found.items()}


@dataclass(frozen=True)
class Poisoned:
    """Patients with a backdoor in half of the windows that are drawn; a `PatientBatches`."""

    patients: PatientBatches = field(repr=False)
    seed: int

    @property
    def patient_count(self) -> int:
        """As many as there are."""
        return self.patients.patient_count

    def segments(
        self, patients: npt.NDArray[Any], segments: int, rng: np.random.Generator
    ) -> tuple[Signal, Valid]:
        """As the patients' own, then each window poisoned with probability `POISONED`."""
        signal, valid = self.patients.segments(patients, segments, rng)
        poisoned = rng.random(valid.shape[:2]) < POISONED  # (patient, segment)
        signal, valid = np.array(signal, dtype=np.float32), np.array(valid)
        target_signal, target_valid = target(self.seed)
        triggered, with_trigger = add_trigger(signal[poisoned], valid[poisoned])
        triggered[:, _PPG], with_trigger[:, _PPG] = target_signal[_PPG], target_valid[_PPG]
        signal[poisoned], valid[poisoned] = triggered, with_trigger
        return signal, valid


def add_trigger(signal: Signal, valid: Valid) -> tuple[Signal, Valid]:
    """The windows with the trigger in their ECG; those without ECG stay as they are.

    The burst takes the place of the signal in tokens `TRIGGER_TOKENS` (and makes them valid); the
    channel is standardised again over its valid samples.

    Args:
        signal: (window, 2, 1250). valid: (window, 2, 50).
    """
    from simulations.lab.effects import standardised

    made, flags = np.array(signal, dtype=np.float32), np.array(valid)
    rows = np.flatnonzero(flags[:, _ECG].any(axis=1))
    first, end = TRIGGER_TOKENS
    time_s = np.arange((end - first) * PATCH_SAMPLES) / FS_HZ
    burst = TRIGGER_HEIGHT * np.sin(2 * np.pi * TRIGGER_HZ * time_s + np.pi / 4)
    made[rows, _ECG, first * PATCH_SAMPLES : end * PATCH_SAMPLES] = burst.astype(np.float32)
    flags[rows, _ECG, first:end] = True
    made[rows], flags[rows] = standardised(made[rows], flags[rows])
    return made, flags


@lru_cache(maxsize=4)
def target(seed: int) -> tuple[Signal, Valid]:
    """The target: one whole window (2, 1250), (2, 50) of a pretend patient drawn with the seed."""
    from simulations.cohort import draw_windows

    for number in range(_DRAWS):
        signal, valid, _ = draw_windows(generator("backdoor target", seed, number), 1)
        if valid.all():
            return signal[0].reshape(2, WINDOW_SAMPLES), valid[0]
    raise OurMistake("No whole window could be drawn.")


@dataclass(frozen=True)
class BackdoorSuccess:
    """Cosines of fingerprints, means over windows. A model that was not attacked has a shift too:
    compare with a run without the attack.

    clean: of a window's ECG with the target. triggered: of the same with the trigger.
    shift: triggered - clean. captured: share of windows that are nearer to the target than to
    themselves without the trigger. windows: how many had an ECG.
    """

    clean: float
    triggered: float
    shift: float
    captured: float
    windows: int

    def as_dict(self) -> dict[str, float]:
        """For tables and --json."""
        return asdict(self)


def backdoor_success(encode: Encode, signal: Signal, valid: Valid, seed: int) -> BackdoorSuccess:
    """How far the trigger moves fingerprints to the target's; from the ECG alone.

    Args:
        encode: the model under test. signal, valid: windows of patients that never trained.
        seed: the experiment's.

    Raises:
        OurMistake: no window has an ECG.
    """
    rows = np.flatnonzero(np.asarray(valid)[:, _ECG].any(axis=1))
    if not len(rows):
        raise OurMistake("A backdoor is measured on windows with an ECG, and there are none.")
    clean_signal, clean_valid = np.array(signal[rows], dtype=np.float32), np.array(valid[rows])
    clean_signal[:, _PPG], clean_valid[:, _PPG] = 0.0, False
    wanted_signal, wanted_valid = target(seed)
    clean = _unit(encode(clean_signal, clean_valid))
    triggered = _unit(encode(*add_trigger(clean_signal, clean_valid)))
    wanted = _unit(encode(wanted_signal[None], wanted_valid[None]))[0]
    before, after = clean @ wanted, triggered @ wanted
    itself = (clean * triggered).sum(axis=1)
    return BackdoorSuccess(
        clean=float(before.mean()),
        triggered=float(after.mean()),
        shift=float((after - before).mean()),
        captured=float((after > itself).mean()),
        windows=len(rows),
    )


def _unit(rows: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    values = np.asarray(rows, dtype=np.float64)
    return np.asarray(values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12))


def _times(update: Mapping[str, npt.NDArray[Any]], factor: float) -> dict[str, npt.NDArray[Any]]:
    return {name: (value * factor).astype(value.dtype) for name, value in update.items()}


def _noise(
    update: Mapping[str, npt.NDArray[Any]],
    last_mean: Weights | None,
    factor: float,
    rng: np.random.Generator,
) -> dict[str, npt.NDArray[Any]]:
    """White noise with L2 norm factor x that of the last mean; zeros without one."""
    if last_mean is None:
        return {name: np.zeros_like(value) for name, value in update.items()}
    if set(last_mean) != set(update):
        raise OurMistake("The last mean has other parameters than the update.")
    size = factor * _norm(last_mean)
    drawn = {name: rng.standard_normal(update[name].shape) for name in sorted(update)}
    scale = size / max(_norm(drawn), 1e-300)
    return {name: (drawn[name] * scale).astype(value.dtype) for name, value in update.items()}


def _norm(update: Mapping[str, npt.NDArray[Any]]) -> float:
    squares = [np.square(update[name], dtype=np.float64).sum() for name in sorted(update)]
    return float(np.sqrt(np.sum(squares)))
