"""A model's fingerprint path as ONNX, in float32 and int8: to run without torch, or without Python.

    made = export(opened.config, opened.weights)         # float32 and int8, bytes
    found = agreement(opened.config, opened.weights, made.int8)

Input `signal` float32 (window, channel=2, sample=1250), z-scored as `shared_model.windows` does it,
and `valid` bool (window, channel=2, token=50); output `fingerprint` float32 (window, 128), unit
norm; zeros for a window without a valid token, NaN for one that was not z-scored (where valid, a
sample that is NaN, infinite or beyond 1e4). The number of windows is free, from one.

int8: matrices are kept as 8-bit integers with one scale each, and inputs of the products with them
are rounded to 8 bits at run time (dynamic quantisation, 2004.09602 section 3); no window is needed
to calibrate. Products of activations with each other (attention) stay float32, and so does the
patch embedding: one large sample would set the scale of all samples of a batch. What is rounded was
normalised before; still the windows of a call share scales, and an int8 fingerprint differs a
little with its company, where a float32 one does not.

For speed the graph is not the model's own, line by line, but one of the same function (`agreement`
holds them against each other at every export): attention is ONNX's operator of that name (opset
23), and what is the same for all blocks of an encoder is made once.
"""

from __future__ import annotations

import logging
import math
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from shared_model.config import (
    CHANNELS,
    FS_HZ,
    PATCH_SAMPLES,
    TOKENS,
    WINDOW_SAMPLES,
    ModelConfig,
)
from shared_model.errors import OurMistake, Refused
from shared_model.mae import ECG, PPG, Encoder, MaskedAutoencoder, build, load_weights
from shared_model.mae_layers import Attention, Block
from shared_model.patches import fold
from shared_model.weights import Weights

OPSET = 23
"""The first with Attention; onnxruntime has it since 1.23."""
SMALLEST_COSINE = 0.99
"""Of an exported fingerprint and the model's own, for any window: less is not written."""
LARGEST_SAMPLE = 1e4
"""Beyond it nothing is z-scored (35 is the most of 1250 samples): such a window gives NaN."""
AT_ONCE = 8
"""Windows to a call: what lies between two products then stays in a core's own cache."""
WINDOWS = 256
"""Simulated windows on which the two are held against each other."""


class _Scores:
    """What attention adds to its scores; made once for all blocks that ask for the same."""

    def __init__(self) -> None:
        self._last: tuple[Tensor, Tensor, Tensor] | None = None

    def __call__(self, bias: Tensor, far: Tensor, slopes: Tensor) -> Tensor:
        """(batch, head, token, key); `slopes` are the same for all blocks of a model."""
        if self._last is None or self._last[0] is not bias or self._last[1] is not far:
            added = bias.reshape(-1, 1, *bias.shape[-2:])
            added = added - slopes * far.reshape(-1, 1, *far.shape[-2:])
            self._last = (bias, far, added)
        return self._last[2]


class _Attention(nn.Module):
    """`mae_layers.Attention` as ONNX's operator: one kernel for what were nine, and no copy that
    parts keys from values."""

    def __init__(self, attention: Attention, scores: _Scores) -> None:
        super().__init__()
        self.heads, self.slopes, self.scores = attention.heads, attention.slopes, scores
        self.query, self.out = attention.query, attention.out
        both = attention.key_value
        self.key, self.value = (
            nn.Linear(both.in_features, both.out_features // 2) for _ in range(2)
        )
        for part, weight, shift in zip(
            (self.key, self.value), both.weight.chunk(2), both.bias.chunk(2), strict=True
        ):
            part.weight, part.bias = nn.Parameter(weight.detach()), nn.Parameter(shift.detach())

    def forward(self, tokens: Tensor, context: Tensor, bias: Tensor, far: Tensor) -> Tensor:
        """As `mae_layers.Attention.forward`, for (batch, token, width) alone."""
        merged = torch.onnx.ops.attention(
            self.query(tokens),
            self.key(context),
            self.value(context),
            self.scores(bias, far, self.slopes),
            q_num_heads=self.heads,
            kv_num_heads=self.heads,
        )[0]
        projected: Tensor = self.out(merged)
        return projected


class _Told(nn.Module):
    """A matrix of one row, asked with ones: its row."""

    def __init__(self, matrix: nn.Linear) -> None:
        super().__init__()
        self.row = nn.Parameter(matrix.weight.detach()[:, 0])

    def forward(self, ones: Tensor) -> Tensor:
        """(..., 1) -> (width,)."""
        return self.row


def for_onnx(model: MaskedAutoencoder) -> MaskedAutoencoder:
    """The model, changed in place: the same fingerprints from operators that ONNX runs fast."""
    scores = _Scores()
    for part in (model.bottleneck, model.encoders):
        for block in part.modules():
            if isinstance(block, Block):
                block.add_module("attention", _Attention(block.attention, scores))
            elif isinstance(block, Encoder):
                block.add_module("modality", _Told(block.modality))
    return model


class FingerprintPath(nn.Module):
    """What is exported: windows in, fingerprints out."""

    def __init__(self, model: MaskedAutoencoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, signal: Tensor, valid: Tensor) -> Tensor:
        """(window, 2, 1250), (window, 2, 50) -> (window, 128)."""
        # int8 has one scale for all windows of a call: what is no number must not reach it.
        patches = fold(signal).where(valid[..., None], 0.0)
        usable = (patches.abs() <= LARGEST_SAMPLE).flatten(1).all(1)  # (window,)
        made = self.model.fingerprint(patches.where(usable[:, None, None, None], 0.0), valid)
        # The exporter takes the 1e-12 under the root for zero and leaves it out: 0 / 0 otherwise.
        made = torch.where(valid.flatten(1).any(1)[:, None], made, torch.zeros_like(made))
        return made.where(usable[:, None], math.nan)


@dataclass(frozen=True)
class Exported:
    """Two ONNX files."""

    float32: bytes = field(repr=False)
    int8: bytes = field(repr=False)


def require() -> None:
    """Look whether the optional libraries are here, before there is work to lose.

    Raises:
        OurMistake: one is not installed.
    """
    for name in ("onnx", "onnxruntime", "onnxscript"):
        try:
            import_module(name)
        except ImportError as error:
            raise OurMistake(
                f"ONNX needs {error.name}, which is not installed.",
                do="pip install 'fedprint[lab,onnx]'",
            ) from error


def export(
    config: ModelConfig, weights: Weights, facts: Mapping[str, str] | None = None
) -> Exported:
    """Both files; `facts` are kept in their metadata, as text by name."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    path = FingerprintPath(for_onnx(_model(config, weights))).eval()
    windows = torch.export.Dim("window", min=1, max=65_536)
    example = torch.zeros(2, len(CHANNELS), WINDOW_SAMPLES)
    known = torch.ones(2, len(CHANNELS), TOKENS, dtype=torch.bool)
    with _quiet():
        program = torch.onnx.export(
            path,
            (example, known),
            dynamo=True,
            dynamic_shapes={"signal": {0: windows}, "valid": {0: windows}},
            input_names=["signal", "valid"],
            output_names=["fingerprint"],
            opset_version=OPSET,
            verbose=False,
        )
    assert program is not None  # with dynamo there is one  # noqa: S101
    made = program.model_proto
    _forget_where_it_was_made(made)
    _keep_sum_and_norm_apart(made)
    for name, value in {"fs_hz": f"{FS_HZ:g}", "preset": config.preset, **(facts or {})}.items():
        entry = made.metadata_props.add()
        entry.key, entry.value = name, value
    with tempfile.TemporaryDirectory() as folder, _quiet():
        plain, whole = Path(folder, "plain.onnx"), Path(folder, "int8.onnx")
        onnx.save_model(made, str(plain))
        ready = Path(folder, "ready.onnx")
        quant_pre_process(str(plain), str(ready), skip_symbolic_shape=True)
        quantize_dynamic(
            str(ready),
            str(whole),
            weight_type=QuantType.QInt8,
            per_channel=False,
            op_types_to_quantize=["MatMul"],  # it takes ONNX's Attention for another of that name
            nodes_to_exclude=embeddings(onnx.load_model(str(ready))),
        )
        return Exported(plain.read_bytes(), whole.read_bytes())


def embeddings(model: Any) -> list[str]:
    """Names of the products whose matrix takes the samples of a patch, one for each sensor."""
    rows = {one.name: one.dims[0] for one in model.graph.initializer if len(one.dims) == 2}
    return [
        node.name
        for node in model.graph.node
        if node.op_type == "MatMul" and rows.get(node.input[1]) == PATCH_SAMPLES
    ]


def session(model: bytes, threads: int = 1) -> Any:
    """An onnxruntime session on the CPU; `threads` 0: as many as cores."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def run(
    made: Any, signal: np.ndarray, valid: np.ndarray, at_once: int | None = AT_ONCE
) -> np.ndarray:
    """Fingerprints (window, 128) by a session, `at_once` windows to a call; None: all of them.
    There has to be one."""
    step = at_once or len(signal)
    found = [
        made.run(None, {"signal": signal[i : i + step], "valid": valid[i : i + step]})[0]
        for i in range(0, len(signal), step)
    ]
    return np.concatenate(found)


def agreement(
    config: ModelConfig,
    weights: Weights,
    model: bytes,
    *,
    windows: int = WINDOWS,
    seed: int = 0,
    source: str = "the model",
) -> dict[str, dict[str, float]]:
    """Cosine of the exported fingerprints with the model's own, on SIMULATED windows.

    Args:
        source: what the weights are of, in words.

    Returns:
        "both", "ecg", "ppg" (the other sensor taken away) and "short" (2.1 s) -> "min", "median".

    Raises:
        Refused: the model's own fingerprint of a window is no number, or zero ("weights").
    """
    from simulations.cohort import draw_windows

    path, made = FingerprintPath(_model(config, weights)).eval(), session(model)
    rng = np.random.default_rng([seed, 0x0E])
    signal, valid, _ = draw_windows(rng, windows)
    short, short_valid, _ = draw_windows(rng, windows // 4, short_share=1.0)
    cases = {
        "both": (signal, valid),
        "ecg": _without(signal, valid, PPG),
        "ppg": _without(signal, valid, ECG),
        "short": (short, short_valid),
    }
    found = {}
    for name, (values, known) in cases.items():
        with torch.inference_mode():
            wanted = path(torch.from_numpy(values), torch.from_numpy(known)).numpy()
        usable = known.any(axis=(1, 2))
        norms = np.linalg.norm(wanted[usable], axis=1)  # 1, else zero or no number
        lost = int((~(norms > 0.5)).sum())
        if lost:
            raise Refused(
                f"Not the export, but the model itself fails: for {lost} of {len(norms)} simulated "
                f"windows ({name}) the fingerprint by the weights of {source} is no number, or "
                "zero.",
                reason="weights",
                do="Export other weights: these are damaged, or their training has diverged.",
            )
        all_at_once = run(made, values, known, at_once=None)  # int8: the most shared scales
        cosine = (wanted * all_at_once).sum(axis=1)[usable]
        found[name] = {"min": float(cosine.min()), "median": float(np.median(cosine))}
    return found


def check_agreement(
    found: Mapping[str, Mapping[str, float]], *, float32_agrees: bool = False
) -> None:
    """Look whether a file is the model.

    Args:
        float32_agrees: of an int8 file, that the other one was looked at before.

    Raises:
        Refused: a window's exported fingerprint is not the model's ("agreement").
    """
    leave_out = "Leave the int8 file out (--no-int8), or report" if float32_agrees else "Report"
    for name, values in found.items():
        if not values["min"] >= SMALLEST_COSINE:
            raise Refused(
                f"The exported fingerprint differs from the model's: cosine {values['min']:.4f} "
                f"({name}), at least {SMALLEST_COSINE:g} is wanted.",
                reason="agreement",
                do=f"{leave_out} this with the model's digest.",
            )


def _model(config: ModelConfig, weights: Weights) -> MaskedAutoencoder:
    model = build(config, seed=0)
    load_weights(model, weights)
    return model


def _without(signal: np.ndarray, valid: np.ndarray, channel: int) -> tuple[np.ndarray, np.ndarray]:
    signal, valid = signal.copy(), valid.copy()
    signal[:, channel], valid[:, channel] = 0.0, False
    return signal, valid


def _keep_sum_and_norm_apart(model: Any) -> None:
    """onnxruntime joins an Add and the LayerNormalization that alone takes it to one kernel, which
    takes eight times as long as the two (1.32, one thread); a Sum of two it leaves alone."""
    takers: dict[str, list[str]] = {one.name: [""] for one in model.graph.output}
    for node in model.graph.node:
        for name in node.input:
            takers.setdefault(name, []).append(node.op_type)
    for node in model.graph.node:
        if node.op_type == "Add" and takers.get(node.output[0]) == ["LayerNormalization"]:
            node.op_type = "Sum"


def _forget_where_it_was_made(model: Any) -> None:
    """Names of source files on this machine are nobody's business."""
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output):
        del value.metadata_props[:]
    del model.graph.metadata_props[:]
    del model.metadata_props[:]


@contextmanager
def _quiet() -> Iterator[None]:
    """Exporter and quantiser talk on the root logger and warn of their own future."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
