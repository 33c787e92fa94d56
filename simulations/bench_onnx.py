"""bench onnx: the exported int8 fingerprint of `small` against the model in torch, one thread.

Figures: size_bytes_int8, size_bytes_float32 (the two files), cosine_min and cosine_median (any
window, any sensor), speedup_vs_torch (the smaller of the two below), speedup_batch_1,
speedup_batch_32, speedup_vs_onnx_float32; SIDE_batch_1_ms and SIDE_batch_32_ms: milliseconds for so
many windows, SIDE being torch, onnx_float32 and onnx_int8. Every side has 32 windows in the calls
that suit it best (SIDE_at_once: 8, 16 or 32 to a call); speedup_one_call_32: 32 to a call for all.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial

import numpy as np

from shared_model import mae
from shared_model.patches import fold
from simulations.bench import Measured
from simulations.bench_weights import packaged_or_random
from simulations.torch_threads import torch_threads

Run = Callable[[np.ndarray, np.ndarray, int], object]
"""Of signal, valid, and how many windows to a call."""
SIDES = ("torch", "onnx_float32", "onnx_int8")
SPLITS = {1: (1,), 32: (8, 16, 32)}
"""Windows -> windows to a call that are tried."""


def figures(quick: bool, tell: Callable[[str], None]) -> Measured:
    """Interleaved; medians. Random weights, said on stderr, if no `small` is packaged.

    Raises:
        OurMistake: the extra `onnx` is not installed.
    """
    import torch

    from simulations import onnx_export

    onnx_export.require()
    preset = "tiny" if quick else "small"
    config, weights, digests = packaged_or_random(preset, tell)
    tell("exporting")
    made = onnx_export.export(config, weights)
    found = onnx_export.agreement(config, weights, made.int8, windows=64 if quick else 256)
    model = mae.build(config, 0)
    mae.load_weights(model, weights)
    model.eval()
    sessions = [onnx_export.session(data) for data in (made.float32, made.int8)]

    def in_torch(signal: np.ndarray, valid: np.ndarray, at_once: int) -> None:
        with torch.inference_mode():
            for i in range(0, len(signal), at_once):
                one = torch.from_numpy(signal[i : i + at_once])
                model.fingerprint(fold(one), torch.from_numpy(valid[i : i + at_once]))

    runs: list[Run] = [in_torch, *(partial(onnx_export.run, one) for one in sessions)]
    best, figures_of_sides, repeats = {}, {}, 5 if quick else 40
    with torch_threads(1):
        for batch, splits in SPLITS.items():
            tell(f"{repeats} times {batch} windows: torch, ONNX float32, ONNX int8")
            times = _interleaved(runs, batch, splits, repeats)
            best[batch] = [min(one.values()) for one in times]
            for side, one, seconds in zip(SIDES, times, best[batch], strict=True):
                figures_of_sides[f"{side}_batch_{batch}_ms"] = 1000.0 * seconds
                if len(splits) > 1:
                    figures_of_sides[f"{side}_at_once"] = float(min(one, key=one.__getitem__))
    one_call = times[0][batch] / times[2][batch]
    made_figures = {
        "size_bytes_int8": len(made.int8),
        "size_bytes_float32": len(made.float32),
        "cosine_min": min(one["min"] for one in found.values()),
        "cosine_median": min(one["median"] for one in found.values()),
        "speedup_vs_torch": min(one[0] / one[2] for one in best.values()),
        "speedup_batch_1": best[1][0] / best[1][2],
        "speedup_batch_32": best[32][0] / best[32][2],
        "speedup_one_call_32": one_call,
        "speedup_vs_onnx_float32": min(one[1] / one[2] for one in best.values()),
        **figures_of_sides,
    }
    return Measured(made_figures, digests, packages=("onnx", "onnxruntime"))


def _interleaved(
    runs: list[Run],
    batch: int,
    splits: tuple[int, ...],
    repeats: int,
) -> list[dict[int, float]]:
    """For each side, windows to a call -> median seconds of all `batch` windows."""
    rng = np.random.default_rng(0)
    signal = rng.standard_normal((batch, 2, 1250)).astype(np.float32)
    valid = np.ones((batch, 2, 50), dtype=np.bool_)
    times: list[dict[int, list[float]]] = [{step: [] for step in splits} for _ in runs]
    for repeat in range(repeats + 1):
        for step in splits:
            for run, taken in zip(runs, times, strict=True):
                began = time.perf_counter()
                run(signal, valid, step)
                if repeat:  # the first warms up
                    taken[step].append(time.perf_counter() - began)
    return [{step: statistics.median(one) for step, one in side.items()} for side in times]
