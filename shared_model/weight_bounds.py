"""How large the weights may be that a hospital trains from."""

from __future__ import annotations

import numpy as np

from shared_model.errors import Refused
from shared_model.weights import Weights

LARGEST_ELEMENT = 16.0
LARGEST_SPECTRAL_NORM = 32.0
"""Of any matrix. Trained models stay below 2 and 12; see docs/adr/0038 for what is beyond."""


def check_bounds(weights: Weights) -> None:
    """Refuse weights under which rounding alone turns a clipped gradient.

    The guarantee says that one patient changes a sum by at most the clipping norm C. It holds for
    the numbers that a machine computes only where the bits of one patient's gradient do not depend
    on the others; that is so for the kernels that were measured, and not proven for every BLAS and
    GPU. With usual weights a last bit of the input moves a clipped gradient by 1e-6 C; with
    matrices ten times as large by up to 0.1 C, with a hundred times by C and more.

    Args:
        weights: a model's own parameters.

    Raises:
        Refused: not finite, or larger than the bounds ("model").
    """
    for value in weights.values():
        exact = value.astype(np.float64)
        largest = float(np.abs(exact).max(initial=0.0))
        if not np.isfinite(exact).all():
            raise Refused("The weights are not finite.", reason="model")
        if largest > LARGEST_ELEMENT or (
            exact.ndim > 1 and _spectral_norm(exact) > LARGEST_SPECTRAL_NORM
        ):
            raise Refused(
                "The weights are far larger than training makes them: rounding could reveal more "
                "than the noise hides.",
                reason="model",
                do="Ask the coordinator's operator whether the run has diverged. An honest one "
                "goes on from an earlier release, with a lower learning rate.",
            )


def _spectral_norm(value: np.ndarray) -> float:
    """Largest singular value, all axes but the first taken as one."""
    return float(np.linalg.norm(value.reshape(len(value), -1), 2))
