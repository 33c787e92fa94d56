"""A patient's lot: a number in [0, 1) that follows from the patient's name and nothing else.

With it, a run and a probe share the patients of a folder out without a list of names: who is added
or removed does not change the others' lots.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from shared_model.canonical import digest
from shared_model.terminal import plain


@dataclass(frozen=True)
class Lots:
    """Patients whose lot is in [first, end)."""

    first: float = 0.0
    end: float = 1.0

    def hold(self, lot: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        """Whether a lot, or each of several (patient,), is one of these."""
        found = np.asarray(lot)
        return (found >= self.first) & (found < self.end)


def place_of(folder: Path) -> str:
    """What a folder of recordings is called, whatever link leads to it: patients are told apart by
    it, and a run and a probe have to mean the same patient."""
    return folder.resolve().name


def shown(name: str) -> str:
    """A folder's name in one line of text that drives no terminal."""
    return plain(name).replace("\n", " ")


def lot_of(patient: str, folder: str) -> float:
    """Uniform over patients: the first 52 bits of a digest of both names."""
    return int(digest(f"fedprint-lot:{patient}\n{folder}".encode())[:13], 16) / 16.0**13
