"""How large the weights may be that a hospital trains from."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from shared_model.errors import Refused

LARGEST_VECTOR_ELEMENT = 4.0
"""Of LayerNorm gains and of biases. Packaged models stay below 2."""
LARGEST_SPECTRAL_NORM = 24.0
"""Of a matrix. Packaged models stay below 13."""


def within_bounds(weights: Mapping[str, np.ndarray]) -> bool:
    """Whether all are finite and no larger than the bounds; see `check_bounds`."""
    return all(_fits(value.astype(np.float64)) for value in weights.values())


def check_bounds(weights: Mapping[str, np.ndarray]) -> None:
    """Refuse weights under which rounding alone turns a clipped gradient.

    The guarantee says that one patient changes a sum by at most the clipping norm C. It holds for
    the numbers that a machine computes only where the bits of one patient's gradient do not depend
    on the others. That is so for the kernels that were measured (`tests/unit/privacy/test_taps.py`)
    and not proven for every BLAS and GPU. The bounds keep small what such a kernel could do: they
    narrow the gap and do not close it (figures: `tests/unit/privacy/test_weight_bounds.py`).

    Args:
        weights: a model's own parameters.

    Raises:
        Refused: not finite, or larger than the bounds ("model").
    """
    if within_bounds(weights):
        return
    if not all(bool(np.isfinite(value).all()) for value in weights.values()):
        raise Refused("The weights are not finite.", reason="model")
    raise Refused(
        "The weights are far larger than training makes them: rounding could reveal more than the "
        "noise hides.",
        reason="model",
        do="Ask the coordinator's operator whether the run has diverged. An honest one goes on "
        "from an earlier release, with a lower learning rate.",
    )


def _fits(value: np.ndarray) -> bool:
    if not value.size:
        return True
    if not np.isfinite(value).all():
        return False
    if value.ndim < 2:
        return float(np.abs(value).max()) <= LARGEST_VECTOR_ELEMENT
    rows = value.reshape(len(value), -1)
    with np.errstate(over="ignore"):
        if np.linalg.norm(rows) <= LARGEST_SPECTRAL_NORM:  # Frobenius: never below the spectral one
            return True
    if float(np.abs(rows).max()) > LARGEST_SPECTRAL_NORM:
        return False
    return float(np.linalg.norm(rows, 2)) <= LARGEST_SPECTRAL_NORM
