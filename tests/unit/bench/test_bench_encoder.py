"""`bench encoder` runs, prints its figures, and says why where one could not be measured."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from shared_model import mae, taps, warm_start
from shared_model import weights as weights_io
from simulations import bench_encoder as bench
from simulations import measurement, results_page
from simulations.bench import run_bench
from simulations.bench_dp_step import Case
from simulations.bench_encoder_sides import compiling
from simulations.cli import app

TRACED = replace(bench.QUICK, backend="aot_eager")
"""Traced as for the compiler, and run without it: C++ takes a minute."""
CPU = torch.device("cpu")
FINGERPRINT = {
    "fingerprint_windows_per_s",
    "fingerprint_compile_s",
    "fingerprint_compile_speedup",
    "fingerprint_compile_cosine_min",
    "fingerprint_bfloat16_speedup",
    "fingerprint_bfloat16_cosine_min",
}
TRAINING = {
    "training_step_s",
    "training_compile_s",
    "training_compile_speedup",
    "training_compile_gradient_cosine",
    "training_bfloat16_speedup",
    "training_bfloat16_gradient_cosine",
}
PRIVATE = {
    f"private_bfloat16_{name}{ending}"
    for name in ("speedup", "difference", "alone")
    for ending in ("", "_all")
}
ON_CPU_ALONE = {
    "fingerprint_bfloat16_speedup_avx2",
    "path_bfloat16_speedup",
    "path_encoder_share",
}


def parts(sizes: bench.Sizes = TRACED) -> bench._Bench:
    """The benchmark of the packaged `tiny`, silent."""
    config, weights, _ = warm_start.load("tiny")
    return bench._Bench(sizes, config, weights, [], lambda _: None)


def on_cpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "_devices", lambda: {"": CPU})


def test_bench_encoder_prints_the_promised_figures(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As JSON, and as a file that says whose weights and which device; that file has a table."""
    on_cpu_alone(monkeypatch)
    monkeypatch.setattr(bench, "QUICK", TRACED)
    done = CliRunner().invoke(app, ["bench", "encoder", "--quick", "--json", "-o", str(tmp_path)])
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["notes"] == []
    assert found["machine"]["devices"] == "cpu"
    values = found["figures"]
    assert set(values) == FINGERPRINT | TRAINING | PRIVATE | ON_CPU_ALONE
    assert all(value > 0.0 for name, value in values.items() if name != "path_encoder_share")
    assert values["fingerprint_compile_cosine_min"] > 1.0 - 1e-6
    assert values["fingerprint_bfloat16_cosine_min"] > 0.999
    assert values["training_compile_gradient_cosine"] > 1.0 - 1e-6
    assert 0.99 < values["training_bfloat16_gradient_cosine"] < 1.0 - 1e-7  # it was in bfloat16
    assert "compiling, which may take minutes" in done.stderr
    made = measurement.read(tmp_path / "measured-bench-encoder.json")
    digest = weights_io.digest(warm_start.load("tiny")[1])
    assert made.weights == {"warm-start:tiny": digest} == found["weights"]
    assert made.machine.devices == "cpu"
    assert f"weights of warm-start:tiny: {digest}" in results_page.make(tmp_path).text


@pytest.mark.long
def test_bench_encoder_compiles() -> None:
    """With the C++ compiler of this machine, where there is one."""
    found = run_bench("encoder", quick=True)
    if any("torch.compile" in note for note in found["notes"]):
        pytest.skip("; ".join(found["notes"]))
    assert found["figures"]["fingerprint_compile_cosine_min"] > 1.0 - 1e-6
    assert found["figures"]["training_compile_gradient_cosine"] > 1.0 - 1e-6


def test_without_a_compiler_figures_are_null_and_a_note_says_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing stands in for the compiled side; the others are measured all the same."""
    import torch._inductor.config as inductor

    monkeypatch.setattr(inductor.cpp, "cxx", ("no-such-compiler",))
    made = parts(replace(TRACED, backend="inductor"))
    with compiling():
        found = made.of_fingerprints(CPU)
    compiled = {name for name in FINGERPRINT if "_compile_" in name}
    assert {name for name, value in found.items() if value is None} == compiled
    assert len(made.notes) == 1
    assert made.notes[0].startswith("Not measured, fingerprints on cpu, compiled: torch.compile")
    assert "InvalidCxxCompiler" in made.notes[0]


def test_a_compiler_that_is_switched_off_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch would run the plain model, and the ratio would be 1."""
    monkeypatch.setattr("torch._dynamo.config.disable", True)
    made = parts()
    with compiling():
        found = made.of_fingerprints(CPU)
    assert found["fingerprint_compile_speedup"] is None
    assert made.notes[0].startswith("Not measured, fingerprints on cpu, compiled")


def test_a_model_that_was_not_compiled_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As older versions of torch do without a word where compiling is switched off."""
    monkeypatch.setattr(bench._Bench, "compiled", bench._Bench.model)
    made = parts()
    assert made.of_fingerprints(CPU)["fingerprint_compile_speedup"] is None
    assert "compiled nothing" in made.notes[0]


def test_a_fault_of_the_model_is_not_taken_for_the_compilers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(self: mae.MaskedAutoencoder, patches: Tensor, valid: Tensor) -> Tensor:
        raise RuntimeError("broken")

    monkeypatch.setattr(mae.MaskedAutoencoder, "fingerprint", broken)
    with pytest.raises(RuntimeError, match="broken"):
        parts().of_fingerprints(CPU)


def test_coupled_bits_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A last bit that depends on the other patients: `private_bfloat16_alone` is 0."""
    whole: Callable[..., dict[str, Tensor]] = taps.gradients

    def coupled(
        loss: nn.Module, held: Mapping[str, Tensor], chosen: Mapping[str, Tensor],
        batch: Sequence[Tensor],
    ) -> dict[str, Tensor]:  # fmt: skip
        large = float(batch[0].abs().max()) > 1e4
        return {
            name: torch.nextafter(value.float(), torch.full((), torch.inf)) if large else value
            for name, value in whole(loss, held, chosen, batch).items()
        }

    case = Case("tiny", "head", 4)
    assert parts().of_private_gradients(case, CPU)["private_bfloat16_alone"] == 1.0
    monkeypatch.setattr(taps, "gradients", coupled)
    assert parts().of_private_gradients(case, CPU)["private_bfloat16_alone"] == 0.0


def test_the_page_says_not_measured_and_why_and_on_what(tmp_path: Path) -> None:
    figures: dict[str, Any] = {
        "name": "encoder",
        "quick": False,
        "figures": {"fingerprint_compile_s": None, "path_encoder_share": 0.5},
        "notes": ["Not measured: no compiler."],
    }
    made = measurement.made_now(
        "bench", figures, weights={}, seconds=1.0, devices="cpu, cuda (a card)"
    )
    measurement.write(tmp_path / "measured-bench-encoder.json", made)
    text = results_page.make(tmp_path).text
    assert "| fingerprint_compile_s | not measured |" in text
    assert "- Not measured: no compiler." in text
    assert "on cpu, cuda (a card)" in text


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
def test_a_gpu_is_measured_by_the_same_functions() -> None:
    """Figures of the CPU and of the GPU; its fingerprints agree with themselves in bfloat16."""
    made = bench.measure(TRACED, lambda _: None)
    on_gpu = {f"{name}_cuda" for name in FINGERPRINT | PRIVATE}
    assert set(made.figures) == FINGERPRINT | TRAINING | PRIVATE | ON_CPU_ALONE | on_gpu
    assert "cuda" in made.devices
    cosine = made.figures["fingerprint_bfloat16_cosine_min_cuda"]
    assert cosine is not None
    assert cosine > 0.999
