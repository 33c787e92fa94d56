"""Our secure sum beside Flower's SecAgg+: speed, bytes, memory, exactness, and the random bits.

Both sides are run by turns in one process on the same vectors; seconds are CPU seconds of all
threads, so that a busy machine and a thread pool change little. Set OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from shared_model.roster import default_threshold
from shared_model.secure_sum.primitives import SEED_BYTES, keystream
from simulations.bench_bits import p_values
from simulations.bench_flower_sum import ROUND_TRIPS as FLOWER_ROUND_TRIPS
from simulations.bench_flower_sum import FlowerRound
from simulations.bench_our_sum import NORM_BOUND, ROUND_TRIPS, OurRound, Spent, Vector

DROPPED_SHARE = 0.3
TYPICAL_NORM = NORM_BOUND / 3.0
"""`server.run_config.default_norm_bound` leaves room for three to six times an update's norm."""
AT_BOUND = 0.9999 * NORM_BOUND


@dataclass(frozen=True)
class Sizes:
    """How much is measured; the bars of docs/benchmarks.md are for `FULL`."""

    sites: int = 10
    many_sites: int = 100
    dimension: int = 1_000_000
    repeats: int = 7
    bits: int = 100_000_000


Mean = npt.NDArray[np.float64]

FULL = Sizes()
QUICK = Sizes(many_sites=30, dimension=50_000, repeats=3, bits=1_000_000)


def figures(quick: bool, tell: Callable[[str], None]) -> dict[str, float]:
    """Figures of `fedprint-lab bench secure-sum`; docs/benchmarks.md says what each is."""
    return measure(QUICK if quick else FULL, tell)


def measure(sizes: Sizes, tell: Callable[[str], None]) -> dict[str, float]:
    """All figures, at these sizes."""
    found: dict[str, float] = {}
    normal = [update(sizes.dimension, place) for place in range(sizes.sites)]
    dropped = frozenset(range(0, sizes.sites, 3)[: int(DROPPED_SHARE * sizes.sites)])
    found |= _beside_flower(normal, sizes.repeats, tell)
    with_dropped = _compared(normal, dropped, sizes.repeats, tell)
    found["speedup_vs_flower_dropout"] = with_dropped.ratio
    found["relative_error_dropout"] = with_dropped.error
    found["plain_fedavg_s"] = _fedavg_s(normal, sizes.repeats)
    found |= _exactness(sizes, tell)
    found |= _many(sizes, found["client_s"], tell)
    found |= _bits(sizes.bits, tell)
    return found


def update(
    dimension: int, place: int, tails: float | None = None, norm: float = TYPICAL_NORM
) -> Vector:
    """The update of one site: normal, or Student's t with `tails` degrees of freedom.

    Returns:
        float32 (dimension,), with this L2 norm.
    """
    rng = np.random.default_rng([dimension, place])
    drawn = rng.standard_normal(dimension) if tails is None else rng.standard_t(tails, dimension)
    made: Vector = (drawn * (norm / np.linalg.norm(drawn))).astype(np.float32)
    return made


@dataclass(frozen=True)
class Compared:
    """Medians of our rounds and Flower's, by turns. ratio: their total seconds over ours."""

    ours: list[Spent]
    theirs: list[FlowerRound]
    error: float
    flower_error: float

    @property
    def ratio(self) -> float:
        return self.flower_s / statistics.median(s.client_s + s.server_s for s in self.ours)

    @property
    def ratio_with_messages(self) -> float:
        return self.flower_s / statistics.median(
            s.client_s + s.server_s + s.client_messages_s + s.server_messages_s for s in self.ours
        )

    @property
    def flower_s(self) -> float:
        return statistics.median(s.client_s + s.server_s for s in self.theirs)

    def median(self, name: str) -> float:
        values: list[float] = [getattr(spent, name) for spent in self.ours]
        return statistics.median(values)


def _compared(
    updates: list[Vector], dropped: frozenset[int], repeats: int, tell: Callable[[str], None]
) -> Compared:
    """Both sides by turns, after one round of each to warm up."""
    threshold = default_threshold(len(updates))
    exact = np.mean([one.astype(np.float64) for place, one in enumerate(updates)
                     if place not in dropped], axis=0)  # fmt: skip
    ours, theirs = [], []
    for turn in range(repeats + 1):
        tell(f"{len(updates)} sites, {len(dropped)} drop out: turn {turn} of {repeats}")
        with _our_round(len(updates), len(exact)) as mine:
            mine.run(updates.__getitem__, dropped)
        flower = FlowerRound(threshold)
        flower.run(updates, dropped)
        if turn:
            ours.append(mine.spent)
            theirs.append(flower)
    return Compared(
        ours, theirs, _relative_error(mine.mean, exact), _relative_error(flower.mean, exact)
    )


def _beside_flower(
    updates: list[Vector], repeats: int, tell: Callable[[str], None]
) -> dict[str, float]:
    """Speed and bytes without drop-out."""
    count = len(updates)
    compared = _compared(updates, frozenset(), repeats, tell)
    spent = compared.ours[0]
    return {
        "speedup_vs_flower": compared.ratio,
        "speedup_vs_flower_with_messages": compared.ratio_with_messages,
        "client_s": compared.median("client_s") / count,
        "server_s": compared.median("server_s"),
        "client_messages_s": compared.median("client_messages_s") / count,
        "server_messages_s": compared.median("server_messages_s"),
        "flower_client_s": statistics.median(s.client_s for s in compared.theirs) / count,
        "flower_server_s": statistics.median(s.server_s for s in compared.theirs),
        "round_trips": float(ROUND_TRIPS),
        "flower_round_trips": float(FLOWER_ROUND_TRIPS),
        "bytes_per_parameter": spent.packed_bytes / len(updates[0]),
        "share_bytes_per_n2": spent.sent_bytes / count**3,
        "relative_error": compared.error,
        "flower_relative_error": compared.flower_error,
    }


def _exactness(sizes: Sizes, tell: Callable[[str], None]) -> dict[str, float]:
    """Clipping and error by kind of vector at the norm bound; memory; the closing exchange."""
    dimension, sites = sizes.dimension, range(sizes.sites)
    found: dict[str, float] = {}
    clipped, values = 0, 0
    for name, tails in (("normal", None), ("heavy_tailed", 5.0), ("extreme", 3.0)):
        tell(f"exactness of {name} vectors")
        updates = [update(dimension, place, tails, AT_BOUND) for place in sites]
        exact = np.mean([one.astype(np.float64) for one in updates], axis=0)
        with _our_round(len(updates), dimension) as mine:
            mine.run(updates.__getitem__)
            if name == "extreme":
                found["clipped_share_extreme"] = mine.spent.clipped / mine.spent.values
            else:
                clipped += mine.spent.clipped
                values += mine.spent.values
            found[f"relative_error_{name}_at_bound"] = _relative_error(mine.mean, exact)
            if name != "normal":
                continue
            tell("memory of the sum, closing exchange")
            vector_bytes = 4 * mine.numbers.padded
            found["server_vectors"] = _peak_bytes(mine.sum_again) / vector_bytes
            found["verification_s"] = mine.verify()
    return {"clipped_share": clipped / values} | found


def _many(sizes: Sizes, client_s_of_few: float, tell: Callable[[str], None]) -> dict[str, float]:
    """One round of many sites, whose vectors are made one by one."""
    many = sizes.many_sites
    exact = np.zeros(sizes.dimension)

    def next_update(place: int) -> Vector:
        if place % 10 == 0:
            tell(f"{many} sites: site {place + 1}")
        made = update(sizes.dimension, place)
        np.add(exact, made, out=exact)
        return made

    with _our_round(many, sizes.dimension) as mine:
        mine.run(next_update)
        vector_bytes = 4 * mine.numbers.padded
        vectors = _peak_bytes(mine.sum_again) / vector_bytes
    error = _relative_error(mine.mean, exact / many)
    client_s = mine.spent.client_s / many
    return {
        f"completes_{many}_sites": float(error < 1e-3),
        f"relative_error_{many}_sites": error,
        f"client_s_{many}_sites": client_s,
        f"server_s_{many}_sites": mine.spent.server_s,
        f"client_growth_{many}_vs_{sizes.sites}": client_s / client_s_of_few,
        f"server_vectors_{many}_sites": vectors,
        f"share_bytes_per_n2_{many}_sites": mine.spent.sent_bytes / many**3,
    }


def _bits(bits: int, tell: Callable[[str], None]) -> dict[str, float]:
    """p-values of one long keystream and of seeds as a site takes them."""
    tell(f"{bits} bits of keystream and of seeds")
    size = -(-bits // 256) * SEED_BYTES
    stream = p_values(keystream(os.urandom(SEED_BYTES), size // 4))
    seeds = p_values(b"".join(os.urandom(SEED_BYTES) for _ in range(size // SEED_BYTES)))
    return stream | {f"seeds_{name}": value for name, value in seeds.items()}


def _fedavg_s(updates: list[Vector], repeats: int) -> float:
    """The floor: float32 mean of the vectors as they are, nothing hidden."""
    spent = []
    for _ in range(repeats):
        start = time.process_time()
        total = np.zeros_like(updates[0])
        for one in updates:
            total += one
        total /= len(updates)
        spent.append(time.process_time() - start)
    return statistics.median(spent)


def _peak_bytes(work: Callable[[], object]) -> int:
    """Most memory that the work took at once, as numpy and Python report it."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def _relative_error(found: Mean, exact: Mean) -> float:
    return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))


@contextmanager
def _our_round(sites: int, dimension: int) -> Iterator[OurRound]:
    with tempfile.TemporaryDirectory(prefix="fedprint-bench-") as folder:
        yield OurRound(sites, dimension, default_threshold(sites), Path(folder))
