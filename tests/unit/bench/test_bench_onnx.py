"""`bench onnx` writes a file that says whose weights it measured."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from shared_model import warm_start, weights
from simulations import measurement
from simulations.cli import app


def test_bench_onnx_says_which_weights_it_measured(tmp_path: Path) -> None:
    """By their digest (ADR 35); it had none."""
    done = CliRunner().invoke(app, ["bench", "onnx", "--quick", "-o", str(tmp_path)])
    assert done.exit_code == 0, done.stderr
    made = measurement.read(tmp_path / "measured-bench-onnx.json")
    assert made.weights == {"warm-start:tiny": weights.digest(warm_start.load("tiny")[1])}
    assert made.figures["figures"]["cosine_min"] > 0.9
