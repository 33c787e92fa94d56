"""bench onnx: the exported int8 fingerprint of `small` against the model in torch, one thread.

Figures: size_bytes_int8, size_bytes_float32 (the two files), cosine_min and cosine_median (any
window, any sensor), speedup_vs_torch (the smaller of the two below), speedup_batch_1,
speedup_batch_32, speedup_vs_onnx_float32; SIDE_batch_1_ms and SIDE_batch_32_ms: milliseconds of a
call with so many windows, SIDE being torch, onnx_float32 and onnx_int8.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np

from shared_model import mae
from shared_model.patches import fold
from simulations.bench import Measured
from simulations.bench_weights import packaged_or_random
from simulations.torch_threads import torch_threads

SIDES = ("torch", "onnx_float32", "onnx_int8")
BATCHES = (1, 32)


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

    def in_torch(signal: np.ndarray, valid: np.ndarray) -> None:
        with torch.inference_mode():
            model.fingerprint(fold(torch.from_numpy(signal)), torch.from_numpy(valid))

    runs: list[Callable[[np.ndarray, np.ndarray], object]] = [
        in_torch,
        *(lambda s, v, one=one: onnx_export.run(one, s, v) for one in sessions),
    ]
    ratios, milliseconds, repeats = {}, {}, 5 if quick else 40
    with torch_threads(1):
        for batch in BATCHES:
            tell(f"{repeats} times {batch} windows: torch, ONNX float32, ONNX int8")
            times = _interleaved(runs, batch, repeats)
            ratios[batch] = (times[0] / times[2], times[1] / times[2])
            for side, seconds in zip(SIDES, times, strict=True):
                milliseconds[f"{side}_batch_{batch}_ms"] = 1000.0 * seconds
    made_figures = {
        "size_bytes_int8": len(made.int8),
        "size_bytes_float32": len(made.float32),
        "cosine_min": min(one["min"] for one in found.values()),
        "cosine_median": min(one["median"] for one in found.values()),
        "speedup_vs_torch": min(torch_ratio for torch_ratio, _ in ratios.values()),
        "speedup_batch_1": ratios[1][0],
        "speedup_batch_32": ratios[32][0],
        "speedup_vs_onnx_float32": min(onnx_ratio for _, onnx_ratio in ratios.values()),
        **milliseconds,
    }
    return Measured(made_figures, digests, packages=("onnx", "onnxruntime"))


def _interleaved(
    runs: list[Callable[[np.ndarray, np.ndarray], object]], batch: int, repeats: int
) -> list[float]:
    """Median seconds of each."""
    rng = np.random.default_rng(0)
    signal = rng.standard_normal((batch, 2, 1250)).astype(np.float32)
    valid = np.ones((batch, 2, 50), dtype=np.bool_)
    times: list[list[float]] = [[] for _ in runs]
    for run in runs:
        run(signal, valid)
    for _ in range(repeats):
        for run, taken in zip(runs, times, strict=True):
            began = time.perf_counter()
            run(signal, valid)
            taken.append(time.perf_counter() - began)
    return [statistics.median(one) for one in times]
