"""`bench onnx` writes a file that says whose weights it measured, how long both sides took, and
with which versions."""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from typer.testing import CliRunner

from shared_model import warm_start, weights
from shared_model.errors import OurMistake
from simulations import measurement
from simulations.cli import app


def test_bench_onnx_says_which_weights_it_measured(tmp_path: Path) -> None:
    """By their digest (ADR 35); it had none. Milliseconds stand beside the ratios, that are of
    them; so do both sizes, and the versions of what exported and ran the files."""
    done = CliRunner().invoke(app, ["bench", "onnx", "--quick", "-o", str(tmp_path)])
    assert done.exit_code == 0, done.stderr
    made = measurement.read(tmp_path / "measured-bench-onnx.json")
    assert made.weights == {"warm-start:tiny": weights.digest(warm_start.load("tiny")[1])}
    assert made.figures["figures"]["cosine_min"] > 0.9
    figures = made.figures["figures"]
    assert figures["size_bytes_float32"] > figures["size_bytes_int8"] > 0
    for batch in (1, 32):
        torch_ms, float32_ms, int8_ms = (
            figures[f"{side}_batch_{batch}_ms"] for side in ("torch", "onnx_float32", "onnx_int8")
        )
        assert float32_ms > 0
        assert figures[f"speedup_batch_{batch}"] == pytest.approx(torch_ms / int8_ms)
    for side in ("torch", "onnx_float32", "onnx_int8"):
        assert figures[f"{side}_at_once"] in (8, 16, 32)
    assert figures["speedup_one_call_32"] > 0
    for package in ("onnx", "onnxruntime"):
        assert made.versions[package] == version(package)


@pytest.mark.parametrize("library", ["onnx", "onnxruntime", "onnxscript"])
@pytest.mark.parametrize("asked", [["bench", "onnx", "--quick"], ["export", "warm-start:tiny"]])
def test_what_is_not_installed_is_said_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str, asked: list[str]
) -> None:
    """`bench onnx` ended in a traceback."""
    monkeypatch.setitem(sys.modules, library, None)  # an import of it fails
    done = CliRunner().invoke(app, [*asked, "-o", str(tmp_path / "out")])
    assert isinstance(done.exception, OurMistake)
    assert f"needs {library}, which is not installed" in str(done.exception)
    assert "fedprint[lab,onnx]" in str(done.exception.do)
    assert not (tmp_path / "out").exists()
