"""A patient's lot: a number in [0, 1) that follows from the patient's name and nothing else.

With it, a run and a probe share the patients of a folder out without a list of names: who is added
or removed does not change the others' lots.
"""

from __future__ import annotations

from dataclasses import dataclass

from shared_model.canonical import digest


@dataclass(frozen=True)
class Lots:
    """Patients whose lot is in [first, end)."""

    first: float = 0.0
    end: float = 1.0

    def have(self, patient: str, folder: str) -> bool:
        """Is this patient among them? folder: the name of the folder of recordings."""
        return self.first <= lot_of(patient, folder) < self.end


def lot_of(patient: str, folder: str) -> float:
    """Uniform over patients: the first 52 bits of a digest of both names."""
    return int(digest(f"fedprint-lot:{patient}\n{folder}".encode())[:13], 16) / 16.0**13
