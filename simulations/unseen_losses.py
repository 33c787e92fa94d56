"""What a model loses on real patients whom no run has read: those of the other lots.

    unseen = unseen_by(experiments)              # reads the recordings of the runs' folders
    lost = losses(config, weights, unseen)       # (patient,), NaN where nothing can be measured

Unseen is meant as in `simulations.probes.unseen`: whom a run held out of training counts as seen.
No label of a patient is looked at.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from shared_model.config import LocalTraining, ModelConfig
from shared_model.errors import OurMistake
from shared_model.weights import Weights
from simulations.lab.data import FederationData
from simulations.lab.experiment import Experiment

F64 = npt.NDArray[np.float64]
WINDOWS = 2
"""Windows of a patient: first and last of those that the gate accepts. A patient with one has a
second that is valid nowhere."""
_BATCH = 32
OnProgress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Unseen:
    """signal: float16 (patient, window=2, channel=2, sample=1250). valid: bool (patient, window,
    channel, token=50). folders: that were read. lots: [first, end) of these patients."""

    signal: npt.NDArray[np.float16] = field(repr=False)
    valid: npt.NDArray[np.bool_] = field(repr=False)
    folders: int
    lots: tuple[float, float]

    def __len__(self) -> int:
        return len(self.signal)


def unseen_by(experiments: Sequence[Experiment], on_progress: OnProgress | None = None) -> Unseen:
    """Patients of the runs' folders with lots that none of them read.

    Raises:
        OurMistake: the runs did not read the same lots of the same folders, or left no lots, or
            some on both sides; or the recordings are not there.
    """
    from simulations.lab import sources

    asked = {(one.federation.folders, one.federation.lots) for one in experiments}
    if len(asked) != 1:
        raise OurMistake(
            "The runs did not read the same patients: folders or lots differ.",
            do="Name the folder of one sweep.",
        )
    ((folders, read),) = asked
    left = _others(read)
    if not folders or left is None:
        raise OurMistake(
            "These runs leave no patients of their folders unread: their lots are "
            f"{read[0]:g} to {read[1]:g} of {len(folders)} folders.",
            do="--unseen is for runs on folders with federation.lots from 0 to less than 1, or "
            "from more than 0 to 1. Without it, models are measured on pretend patients.",
        )
    first = experiments[0]
    of = {
        "source": "folders", "folders": folders, "lots": left, "held_out": 0.0, "hospitals": 1,
        "partition": {"kind": "iid"},  # one pool: a folder may have a single patient
    }  # fmt: skip
    others = first.model_copy(update={"federation": type(first.federation).model_validate(of)})
    with tempfile.TemporaryDirectory(prefix="fedprint-unseen-") as temporary:
        data = sources.prepare(others, Path(temporary), on_progress)
        return _taken(data, len(folders), left)


def _others(read: tuple[float, float]) -> tuple[float, float] | None:
    """The lots besides these, if they are some and in one piece."""
    if read[0] == 0.0 and read[1] < 1.0:
        return read[1], 1.0
    if read[1] == 1.0 and read[0] > 0.0:
        return 0.0, read[0]
    return None


def _taken(data: FederationData, folders: int, lots: tuple[float, float]) -> Unseen:
    """First and last window of each patient."""
    first, windows = data.table["first"], data.table["windows"]
    rows = np.stack([first, first + windows - 1], axis=1)  # (patient, window)
    valid = np.array(data.valid[rows])
    valid[windows == 1, 1] = False
    return Unseen(np.array(data.signal[rows]), valid, folders, lots)


def losses(config: ModelConfig, weights: Weights, unseen: Unseen) -> F64:
    """Unit loss of each patient (usual weights, one patch mask); the same masks for every model.

    Returns:
        (patient,), NaN for a patient without a valid token.

    Raises:
        Refused: the weights are not the configuration's.
    """
    import torch

    from shared_model.losses import patient_losses
    from shared_model.mae import build, load_weights
    from shared_model.patches import draw_patch_masks, fold

    model = build(config, 0)
    load_weights(model, weights)
    hidden = draw_patch_masks(np.random.default_rng([0, 81]), (len(unseen), 1, WINDOWS))
    found = np.full(len(unseen), np.nan)
    with torch.inference_mode():
        for start in range(0, len(unseen), _BATCH):
            part = slice(start, start + _BATCH)
            patches = fold(torch.from_numpy(unseen.signal[part].astype(np.float32)))
            known = torch.from_numpy(unseen.valid[part])
            masks = torch.from_numpy(hidden[part])
            lost = patient_losses(model, patches, known, masks, LocalTraining()).double().numpy()
            there = unseen.valid[part].any(axis=(1, 2, 3))
            found[part] = np.where(there, lost, np.nan)
    return found
