"""The self-test of mode distributed: integers and shares of the noise. See `auditor.selftest`."""

from __future__ import annotations

import numpy as np

from auditor import selftest_statistics as statistics
from auditor.selftest import Check, Seen, level
from shared_model import distributed
from shared_model.config import PrivacyPlan
from shared_model.noise import SystemNoise
from simulations import mechanism

PLAN = PrivacyPlan(0.1, 1.5, 0.5, 1, "distributed")
DECLARED = (500, 300, 200, 100, 80)
THRESHOLD, COLLUDING = 4, 1


def shared_noise(quick: bool) -> Seen:
    """Shares of the fewest survivors on sums of zeros; and sums that one patient changes."""
    dimension = 100_000 if quick else 1_000_000  # both leave places for padding
    numbers = distributed.Shares.of_plan(
        PLAN, dimension=dimension, threshold=THRESHOLD, declared=DECLARED
    )
    delta = distributed.sensitivity(dimension)
    shares = [
        mechanism.integers(np.zeros(dimension), numbers, place, SystemNoise())
        for place in range(THRESHOLD)
    ]
    again = mechanism.integers(np.zeros(dimension), numbers, 0, SystemNoise())
    total = mechanism.centred(np.sum(shares, axis=0), numbers)
    left = mechanism.centred(np.sum(shares[COLLUDING:], axis=0), numbers)
    paid = distributed.mechanism(
        PLAN, dimension=dimension, threshold=THRESHOLD, colluding=COLLUDING
    )
    booked = PLAN.noise_multiplier * delta
    p_values = {
        "sum of all shares": statistics.deviation_p(total, booked),
        "its places for padding": statistics.deviation_p(total[dimension:], booked),
        "without the colluders' shares": statistics.deviation_p(
            left, paid.noise_multiplier * delta
        ),
        "law": statistics.shape_p(total),
        "coordinates": statistics.correlation_p(total),
        "one hospital twice": statistics.correlation_p(shares[0], again),
    }
    for place in range(1, THRESHOLD):
        p_values[f"hospitals 1 and {place + 1}"] = statistics.correlation_p(
            shares[0], shares[place]
        )
    moved = [
        change for size in ((128,) if quick else (64, 70, 128, 1000)) for change in _changes(size)
    ]
    kind, largest = max(moved, key=lambda item: item[1])
    broken = [] if largest <= 1.0 else [f"a patient ({kind}) adds {largest:.6g} Delta"]
    found = statistics.smallest_found(total.size, level(len(p_values)))
    return Seen(
        p_values=p_values,
        broken=broken,
        unreached=[] if largest > 0.99 else ["no patient came near Delta"],
        figures={
            "deviation over sigma Delta": float(np.sqrt(np.mean(total**2))) / booked,
            f"left against {COLLUDING} colluder over booked": float(np.sqrt(np.mean(left**2)))
            / (paid.noise_multiplier * delta),
            "largest change over Delta": largest,
            "values": total.size,
        },
        finds=f"sigma off by {found:.2%}; a share that is missing, known or used again; "
        "a change above Delta on these sums",
    )


def _changes(dimension: int) -> list[tuple[str, float]]:
    """L2 change of the integers over Delta, for each kind of patient."""
    numbers = distributed.Shares.of_plan(
        PLAN, dimension=dimension, threshold=THRESHOLD, declared=DECLARED
    )
    delta = distributed.sensitivity(dimension)
    return [
        (f"{kind}, {dimension} parameters", change / delta)
        for kind, change in mechanism.integer_changes(numbers)
    ]


CHECKS = (
    Check(
        "shared-noise",
        "mode distributed: t hospitals' shares are sigma Delta together, what k colluders leave is "
        "what is booked, and one patient moves the integers by at most Delta",
        "chi-square, Kolmogorov-Smirnov and correlations of shares on zeros; norm of the "
        "difference of rounded sums with and without a clipped patient, noise alike",
        shared_noise,
    ),
)
