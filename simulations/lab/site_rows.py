"""What every source does for a site: who is held out, how many are declared, words about it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from shared_model.errors import OurMistake
from simulations.lab import effects
from simulations.lab.data import PatientRows, SiteInfo
from simulations.lab.drawn import Patients
from simulations.lab.effects import PlacedEffect
from simulations.lab.keyed import generator

OnProgress = Callable[[str, int, int], None]
"""What is done, how much of it is done, of how much."""
LEAST_TRAINING = 2
"""Patients of a site that stay in training, whatever share is held out."""


def least_patients(share: float) -> int:
    """Patients that a site needs if this share is held out."""
    return LEAST_TRAINING + (share > 0)


def held_out_of(patients: int, share: float, site: str, seed: int) -> npt.NDArray[np.bool_]:
    """Who never trains: the share of a site's patients, at least one, and two stay in training.

    Raises:
        OurMistake: the site has too few patients for that.
    """
    least = least_patients(share)
    if patients < least:
        raise OurMistake(
            f"The site {site!r} has {patients} patients and needs {least}: {LEAST_TRAINING} train"
            + (" and one is held out." if share > 0 else "."),
            do="Take more patients, or raise partition.smallest.",
        )
    count = min(max(1, round(share * patients)), patients - LEAST_TRAINING) if share > 0 else 0
    chosen = np.zeros(patients, dtype=np.bool_)
    chosen[generator("held-out", seed, site).permutation(patients)[:count]] = True
    return chosen


def site_info(
    site: str, held_out: npt.NDArray[np.bool_], about: str, acting: Sequence[PlacedEffect]
) -> SiteInfo:
    """The site, with its training patients rounded as a hospital declares them."""
    from client.policy import rounded_patients

    said = [effects.words(one.effect) for one in acting]
    words = f"{about}; effects: {'; '.join(said)}" if said else about
    return SiteInfo(site, rounded_patients(int((~held_out).sum())), words)


def rows_of(patients: Patients, held_out: npt.NDArray[np.bool_]) -> PatientRows:
    """As they are written."""
    return PatientRows(patients.signal, patients.valid, patients.windows, held_out, patients.labels)
