"""The rows that `model.md` wants in every result table; a row that nobody measured says so."""

from __future__ import annotations

from simulations.probes.rows import HAND_MADE, POOLED, RANDOM, WARM_START, WITHOUT_DP

NOT_MEASURED = "not measured"
LOCAL_ONLY = "local-only, DP"
EPSILONS = (1, 3, 8)
REQUIRED = (
    RANDOM,
    HAND_MADE,
    WARM_START,
    LOCAL_ONLY,
    *(f"federated, DP local, epsilon {one}" for one in EPSILONS),
    *(f"federated, DP distributed, epsilon {one}" for one in EPSILONS),
    WITHOUT_DP,
    POOLED,
)
"""Give a file of weights to `fedprint-lab probe` as --row "NAME=FILE" with one of these names."""
