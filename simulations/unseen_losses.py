"""What a model loses on real patients whom certain runs have not read: those of the other lots.

    unseen = unseen_by(experiments)              # reads the recordings of the runs' folders
    lost = losses(config, weights, unseen)       # (patient,), NaN where nothing can be measured

Unseen is meant as in `simulations.probes.unseen`: whom a run held out of training counts as seen.
No label of a patient is looked at, and nothing of a patient is written: two windows of each are
kept in memory.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from shared_model.config import TOKENS, WINDOW_SAMPLES, LocalTraining, ModelConfig
from shared_model.errors import OurMistake
from shared_model.weights import Weights
from simulations.lab.experiment import Experiment
from simulations.lab.patient_pool import Piece
from simulations.probes.task import Copies

F64 = npt.NDArray[np.float64]
WINDOWS = 2
"""Windows of a patient: first and last of those that the gate accepts. A patient with one has a
second that is valid nowhere."""
_BATCH = 32
OnProgress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Unseen:
    """Patients in a row.

    signal: float16 (patient, window=2, channel=2, sample=1250). valid: bool (patient, window,
    channel, token=50). site: (patient,), index into sites. lots: [first, end) of these patients.
    read_elsewhere: how many are left out, because the runs have read somebody of the same
    identifier in another folder, who may be the same person, or a copy of their recording; other
    names that share a recording with them go, too. same_person: how many more names are left out,
    because they share a recording with another of these patients, who is there once.
    """

    signal: npt.NDArray[np.float16] = field(repr=False)
    valid: npt.NDArray[np.bool_] = field(repr=False)
    site: npt.NDArray[np.int64] = field(repr=False)
    sites: tuple[str, ...]
    lots: tuple[float, float]
    read_elsewhere: int = 0
    same_person: int = 0

    def __len__(self) -> int:
        return len(self.signal)

    @property
    def both(self) -> npt.NDArray[np.bool_]:
        """(patient,): a window has both sensors. Of the others, terms of the unit loss are 0."""
        sensors = np.any(self.valid, axis=3)  # (patient, window, channel)
        return np.asarray(np.any(np.all(sensors, axis=2), axis=1))


class _Ends:
    """Where a reader puts patients: first and last window of each piece, in memory alone."""

    def __init__(self) -> None:
        self._pieces: list[tuple[npt.NDArray[np.float16], npt.NDArray[np.bool_]]] = []
        self.signal: list[npt.NDArray[np.float16]] = []
        self.valid: list[npt.NDArray[np.bool_]] = []
        self.site: list[str] = []

    def write(self, signal: npt.NDArray[Any], valid: npt.NDArray[np.bool_]) -> Piece:
        ends = [0, len(signal) - 1]
        self._pieces.append((signal[ends].astype(np.float16), np.array(valid[ends])))
        return len(self._pieces) - 1, len(signal)

    def add_pieces(
        self, pieces: tuple[Piece, ...], labels: dict[str, str | float], natural: str
    ) -> None:
        (first, known_first), (last, known_last) = (
            self._pieces[pieces[k][0]] for k in (0, -1)
        )  # fmt: skip
        valid = np.stack([known_first[0], known_last[1]])
        if sum(count for _, count in pieces) == 1:
            valid[1] = False
        self.signal.append(np.stack([first[0], last[1]]))
        self.valid.append(valid)
        self.site.append(natural)


def unseen_by(experiments: Sequence[Experiment], on_progress: OnProgress | None = None) -> Unseen:
    """Patients of the runs' folders with lots that none of these runs read.

    Raises:
        OurMistake: the runs did not read the same lots of the same folders, or left no lots, or
            some on both sides; or the recordings are not there.
    """
    from simulations.lab import recorded
    from simulations.lots import Lots

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
    total, ends, done = recorded.count(folders), _Ends(), 0

    def on_recording() -> None:
        nonlocal done
        done += 1
        if on_progress is not None:
            on_progress("reading recordings", min(done, total), total)

    added: list[tuple[str, str]] = []  # in order: identifier, folder
    read_in: dict[str, set[str]] = defaultdict(set)  # identifier -> folders where a run read it
    copies = Copies()
    for name, folder in recorded.site_names(folders).items():

        def on_patient(patient: str, is_added: bool, name: str = name) -> None:
            if is_added:
                added.append((patient, name))
            else:
                read_in[patient].add(name)

        recorded.read_into(ends, folder, name, Lots(*left), on_recording, on_patient, copies)
    seen, again = _not_strangers(added, read_in, copies)
    stays = ~seen & ~again
    sites = tuple(sorted(set(ends.site)))
    return Unseen(
        np.array(ends.signal, dtype=np.float16).reshape(-1, WINDOWS, 2, WINDOW_SAMPLES)[stays],
        np.array(ends.valid, dtype=np.bool_).reshape(-1, WINDOWS, 2, TOKENS)[stays],
        np.array([sites.index(one) for one in ends.site], dtype=np.int64)[stays],
        sites,
        left,
        int(seen.sum()),
        int(again.sum()),
    )


def _not_strangers(
    added: Sequence[tuple[str, str]], read_in: Mapping[str, Collection[str]], copies: Copies
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Of identifiers in folders: who may be somebody whom a run read, and who is one of the others
    before; (patient,) each. Names that share a recording, directly or through others, are one."""
    persons = copies.persons()
    people = [persons[f"{patient}\n{folder}"] for patient, folder in added]
    read = {persons[f"{one}\n{folder}"] for one, folders in read_in.items() for folder in folders}
    for (patient, folder), person in zip(added, people, strict=True):
        if set(read_in.get(patient, ())) - {folder}:
            read.add(person)
    seen = np.array([person in read for person in people], dtype=np.bool_)
    before: set[frozenset[str]] = set()
    again = np.zeros(len(people), dtype=np.bool_)
    for place, person in enumerate(people):
        again[place] = not seen[place] and person in before
        before.add(person)
    return seen, again


def _others(read: tuple[float, float]) -> tuple[float, float] | None:
    """The lots besides these, if they are some and in one piece."""
    if read[0] == 0.0 and read[1] < 1.0:
        return read[1], 1.0
    if read[1] == 1.0 and read[0] > 0.0:
        return 0.0, read[0]
    return None


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
