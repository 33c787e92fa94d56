"""What a private head takes for granted, from simulated windows alone: it costs no privacy.

Scale and directions of fingerprints come from windows that nobody recorded: mean and deviation of
each feature, and the `components` principal directions, whitened. Noise grows with the root of the
number of parameters, so that few directions are worth more than all 128.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from simulations.heads.data import Floats
from simulations.heads.fit import spread
from simulations.heads.hospitals import features_of
from simulations.lab.keyed import generator
from simulations.models import NamedModel

WINDOWS = 2048
NUMBERS = {"age": (50.0, 20.0), "heart-rate": (80.0, 20.0)}
"""Centre and scale of a number, as everybody knows them without looking at a patient."""
LEAST_VARIANCE = 1e-3
"""Of the largest; directions with less are widened no further."""


@dataclass(frozen=True)
class PublicSpace:
    """z = directions @ ((fingerprint - mean) / scale). directions: (component, 128). far: mean and
    factor of the Mahalanobis distance among simulated windows."""

    mean: Floats = field(repr=False)
    scale: Floats = field(repr=False)
    directions: Floats = field(repr=False)
    far: tuple[Floats, Floats] = field(repr=False)

    @property
    def components(self) -> int:
        """Numbers that the head sees of a fingerprint."""
        return len(self.directions)

    def x(self, fingerprints: npt.NDArray[np.float32]) -> Floats:
        """Standardised, (item, 128)."""
        return np.asarray((fingerprints.astype(np.float64) - self.mean) / self.scale)

    def z(self, fingerprints: npt.NDArray[np.float32]) -> Floats:
        """(item, component)."""
        return np.asarray(self.x(fingerprints) @ self.directions.T)


def space_of(
    model: NamedModel, sensors: str, components: int, seed: int, windows: int = WINDOWS
) -> PublicSpace:
    """From `windows` simulated windows of all kinds of patients and devices."""
    from simulations.cohort import draw_windows

    signal, valid, _ = draw_windows(generator("head space", seed), windows)
    found = features_of(model, sensors, signal, valid)
    return of_fingerprints(found[np.isfinite(found).all(axis=1)], components)


def of_fingerprints(found: npt.NDArray[np.float32], components: int) -> PublicSpace:
    """The same of fingerprints (window, 128) that are public."""
    values = found.astype(np.float64)
    mean, deviation = values.mean(axis=0), values.std(axis=0)
    scale = np.where(deviation > 1e-6, deviation, 1.0)
    x = (values - mean) / scale
    sizes, vectors = np.linalg.eigh(np.cov(x, rowvar=False))
    sizes, vectors = sizes[::-1], vectors[:, ::-1]
    kept = min(components, len(sizes))
    widened = np.sqrt(np.maximum(sizes[:kept], LEAST_VARIANCE * sizes[0]))
    return PublicSpace(mean, scale, (vectors[:, :kept] / widened).T, spread(x, np.ones(len(x))))
