"""How far a fingerprint lies from those that a head was trained on: Mahalanobis, by NumPy alone.

    mean, factor = spread(x, weight)     # of the standardised items trained on
    away(x, mean, factor)                # about 1 where x is as in training

A node has no scikit-learn; the lab and the node compute this here.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]
_SMALLEST = 1e-6
"""Of the largest variance: a direction with less is not widened further."""


def spread(x: Numbers, weight: Numbers) -> tuple[Numbers, Numbers]:
    """Mean (feature,) and the factor that whitens (feature, feature): the inverse root of the
    covariance, shrunk as Ledoit and Wolf (2004, J. Multivar. Anal. 88) do.

    Args:
        x: (item, feature), standardised. weight: (item,), above zero.
    """
    mean = np.average(x, axis=0, weights=weight)
    root = np.sqrt(weight / weight.mean())[:, None]
    values, vectors = np.linalg.eigh(_shrunk((x - mean) * root))
    values = np.maximum(values, _SMALLEST * values.max())
    return mean, np.asarray((vectors / np.sqrt(values)) @ vectors.T)


def away(x: Numbers, mean: npt.ArrayLike, factor: npt.ArrayLike) -> Numbers:
    """Root of the squared Mahalanobis distance per feature, (item,)."""
    turned = (x - np.asarray(mean, dtype=np.float64)) @ np.asarray(factor, dtype=np.float64).T
    return np.asarray(np.sqrt((turned**2).mean(axis=1)))


def _shrunk(x: Numbers) -> Numbers:
    """Covariance of centred rows (item, feature), drawn towards a multiple of the identity by as
    much as Ledoit and Wolf's estimate of its error says."""
    items, features = x.shape
    covariance = x.T @ x / items
    even = float(np.trace(covariance)) / features
    apart = float(np.square(covariance).sum()) / features - even**2
    squares = np.square(x)
    fourth = float((squares.T @ squares).sum()) / items - float(np.square(covariance).sum())
    error = min(fourth / (features * items), apart)
    share = error / apart if error > 0.0 else 0.0
    return np.asarray((1.0 - share) * covariance + share * even * np.eye(features))
