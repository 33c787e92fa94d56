"""Speed of reading windows for training from an encrypted store beside a plain one."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from client.pseudonyms import keyed_digest, pseudonym_of
from client.store import WindowStore
from client.store_key import StoreKey
from client.store_write import StoreWriter
from shared_model.config import CHANNELS, WINDOW_SAMPLES
from shared_model.windows import Prepared

PSEUDONYM_KEY = bytes(32)
KEYS = (None, StoreKey(bytes(range(32)), "the benchmark"))
WRITTEN = 3
"""Turns of writing."""


@dataclass(frozen=True)
class Sizes:
    """patients x windows in the store; `drawn` patients x `segments` windows a step."""

    patients: int
    windows: int
    drawn: int
    segments: int
    steps: int
    repeats: int


FULL = Sizes(patients=500, windows=40, drawn=64, segments=4, steps=20, repeats=15)
QUICK = Sizes(patients=20, windows=10, drawn=8, segments=2, steps=2, repeats=3)


def figures(quick: bool, tell: Callable[[str], None]) -> dict[str, float]:
    """Figures of `fedprint-lab bench store`.

    read_ratio_encrypted: CPU seconds to draw windows as training does, encrypted over plain; ratio
    of the medians, both sides on the same windows, by turns; both stores are in the operating
    system's cache, so that no disk is counted. write_ratio_encrypted, open_ratio_encrypted:
    likewise, of writing the store and of opening it. size_ratio_encrypted: bytes on the disk.
    """
    return measure(QUICK if quick else FULL, tell)


def measure(sizes: Sizes, tell: Callable[[str], None]) -> dict[str, float]:
    """See `figures`."""
    written: list[list[float]] = [[], []]
    opened: list[list[float]] = [[], []]
    read: list[list[float]] = [[], []]
    with tempfile.TemporaryDirectory(prefix="fedprint-bench-") as folder:
        paths: list[Path] = []
        for turn in range(min(WRITTEN, sizes.repeats)):
            tell(f"writing both stores: turn {turn + 1}")
            paths = [Path(folder) / f"{name}-{turn}" for name in ("plain", "encrypted")]
            for side in _order(turn):
                written[side].append(_cpu_s(partial(_fill, paths[side], KEYS[side], sizes)))
        for turn in range(sizes.repeats):
            for side in _order(turn):
                opened[side].append(_cpu_s(partial(WindowStore.open, paths[side], KEYS[side])))
        stores = [WindowStore.open(path, key) for path, key in zip(paths, KEYS, strict=True)]
        for store in stores:  # into the operating system's cache
            _draw(store, sizes, 0)
        for turn in range(sizes.repeats):
            tell(f"reading from both: turn {turn + 1} of {sizes.repeats}")
            for side in _order(turn):
                read[side].append(_cpu_s(partial(_draw, stores[side], sizes, turn)))
        plain_bytes, sealed_bytes = (_size_bytes(path) for path in paths)
    drawn = sizes.steps * sizes.drawn * min(sizes.segments, sizes.windows)
    return {
        "read_ratio_encrypted": _ratio(read),
        "write_ratio_encrypted": _ratio(written),
        "open_ratio_encrypted": _ratio(opened),
        "size_ratio_encrypted": sealed_bytes / plain_bytes,
        "windows_per_s_plain": drawn / statistics.median(read[0]),
        "windows_per_s_encrypted": drawn / statistics.median(read[1]),
        "windows_in_store": float(sizes.patients * sizes.windows),
    }


def _order(turn: int) -> tuple[int, int]:
    """Which side begins changes with every turn."""
    return (0, 1) if turn % 2 == 0 else (1, 0)


def _fill(path: Path, key: StoreKey | None, sizes: Sizes) -> None:
    """One part of pretend patients: noise, which costs as much to read."""
    rng = np.random.default_rng(0)
    shape = (sizes.windows, len(CHANNELS), WINDOW_SAMPLES)
    signal = rng.standard_normal(shape).astype(np.float32)
    prepared = Prepared(
        signal=signal,
        recorded=np.ones(shape, dtype=bool),
        start_s=10.0 * np.arange(sizes.windows, dtype=np.float64),
        refusal=np.zeros(shape[:2], dtype=np.uint8),
    )
    with StoreWriter(path, PSEUDONYM_KEY, key) as writer:
        part = writer.new_part("bench", keyed_digest(PSEUDONYM_KEY, "folder", "bench"))
        for patient in range(sizes.patients):
            name = keyed_digest(PSEUDONYM_KEY, "recording", str(patient))
            part.add(name, pseudonym_of(PSEUDONYM_KEY, f"patient-{patient}"), prepared, {})
        part.commit()


def _draw(store: WindowStore, sizes: Sizes, turn: int) -> None:
    """What training asks for in so many steps; the same of both sides."""
    rng = np.random.default_rng(turn)
    for _ in range(sizes.steps):
        patients = rng.choice(store.patient_count, size=sizes.drawn, replace=False)
        store.segments(patients, sizes.segments, rng)


def _ratio(sides: list[list[float]]) -> float:
    return statistics.median(sides[1]) / statistics.median(sides[0])


def _size_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _cpu_s(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start
