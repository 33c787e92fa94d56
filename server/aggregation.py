"""How many numbers a round sums. What is made of the sum is in `shared_model.server_step`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np


def dimension_of(trainable: Mapping[str, np.ndarray]) -> int:
    """Number of the trainable parameters."""
    return sum(int(value.size) for value in trainable.values())
