"""Where the warm start is trained: what is not there is refused, and nothing is left behind."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from shared_model.errors import OurMistake
from shared_model.mae import PRESETS
from shared_model.weights import digest, from_bytes
from simulations import pretrain
from simulations.cli import app
from simulations.torch_devices import device_of, in_words
from simulations.torch_threads import torch_threads

WHOLE = pretrain.Recipe(
    steps=2, seed=5, batch=8, windows_per_patient=2, person_weight=0.1, contrast_weight=0.1,
    bank_size=16, self_similarity_weight=0.1, both_seen="whole", target="per-patch",
)  # fmt: skip
"""Every term there is."""


def test_the_cpu_said_is_the_cpu_unsaid(tmp_path: Path) -> None:
    """To the bit; and the manifest says where it was."""
    words = ["--steps", "2", "--seed", "3", "--batch", "8", "--threads", "1", "--device", "cpu"]
    done = CliRunner().invoke(app, ["warm-start", str(tmp_path), *words, "--json"])
    assert done.exit_code == 0, done.output
    manifest = json.loads(done.stdout)
    assert manifest["device"] == "cpu"
    assert "--device cpu" in manifest["made_by"]
    made = from_bytes((tmp_path / "warm_start_tiny.safetensors").read_bytes())
    with torch_threads(1):
        plain, _ = pretrain.train(PRESETS["tiny"], pretrain.Recipe(steps=2, seed=3, batch=8))
    assert digest(plain) == digest(made) == manifest["model_digest"]


@pytest.mark.parametrize(
    ("gpus", "name", "said"),
    [
        (0, "cuda", "torch sees no GPU"),
        (0, "cuda:1", "torch sees no GPU"),
        (1, "cuda:1", "torch sees one GPU"),
        (2, "cuda:2", "torch sees 2 GPUs"),
        (2, "mps", "No device 'mps'"),
        (2, "cuda:", "No device"),
        (2, "cuda:-1", "No device"),
        (2, "cuda:0\n", "No device"),
        (2, "", "No device"),
    ],
)
def test_a_device_that_is_not_there_is_refused_before_anything_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpus: int, name: str, said: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(pretrain, "train", lambda *_, **__: pytest.fail("trained"))
    words = ["warm-start", str(tmp_path / "out"), "--keep", str(tmp_path / "kept")]
    refused = CliRunner().invoke(app, [*words, "--device", name]).exception
    assert isinstance(refused, OurMistake)
    assert said in refused.message
    assert refused.do
    assert not list(tmp_path.iterdir())


def test_a_card_that_cannot_compute_is_refused_and_the_cpu_does_not_take_its_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Full, broken, too new for torch's build, or without bfloat16 where it is asked for."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "device", lambda _: nullcontext())
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: False)
    with pytest.raises(OurMistake, match="cuda:1 has no bfloat16"):
        device_of("cuda:1", bfloat16=True)

    def full(*_: int, **__: object) -> Tensor:
        raise torch.OutOfMemoryError

    ones = torch.ones
    monkeypatch.setattr(torch, "ones", full)
    with pytest.raises(OurMistake, match="cuda:0 cannot compute: OutOfMemoryError"):
        device_of("cuda")
    monkeypatch.setattr(torch, "ones", lambda *size, **_: ones(*size) * 2)
    with pytest.raises(OurMistake, match="a wrong product"):
        device_of("cuda")
    monkeypatch.setattr(torch, "ones", lambda *size, **_: ones(*size))
    assert device_of("cuda") == torch.device("cuda", 0)
    assert device_of("cuda:1") == torch.device("cuda", 1)


def test_every_tensor_of_a_step_is_where_the_model_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """`meta` stands in for a GPU: torch refuses to mix it with the CPU, and has no values. Model,
    heads with their centres, bank, windows, labels, masks: each that stayed behind ended this."""
    asked: list[tuple[str, torch.dtype, bool]] = []

    def autocast(kind: str, dtype: torch.dtype, *, enabled: bool) -> Any:
        asked.append((kind, dtype, enabled))
        return nullcontext()

    monkeypatch.setattr(torch, "autocast", autocast)
    monkeypatch.setattr(Tensor, "item", lambda _: 1.0)
    monkeypatch.setattr(
        pretrain, "weights_of", lambda model: {n: p.device for n, p in model.named_parameters()}
    )
    where, points = pretrain.train(PRESETS["tiny"], WHOLE, device="meta")
    assert {str(device) for device in where.values()} == {"meta"}
    assert points[-1].step == 2
    assert asked == [("meta", torch.bfloat16, False)] * 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_gpu_trains_alike_and_gives_weights_of_the_cpu() -> None:
    device = device_of("cuda")
    assert in_words(device).startswith("cuda:0 (")
    here, on_cpu = pretrain.train(PRESETS["tiny"], WHOLE)
    there, on_gpu = pretrain.train(PRESETS["tiny"], WHOLE, device=device)
    assert on_gpu[-1].masked == pytest.approx(on_cpu[-1].masked, rel=1e-3)
    assert on_gpu[-1].auxiliary == pytest.approx(on_cpu[-1].auxiliary, rel=1e-3)
    for name, value in there.items():
        assert value.dtype == np.float32
        np.testing.assert_allclose(value, here[name], atol=3e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("more", [[], ["--bfloat16"]])
def test_the_command_trains_base_on_a_gpu(tmp_path: Path, more: list[str]) -> None:
    if more and not torch.cuda.is_bf16_supported(including_emulation=False):
        pytest.skip("this GPU has no bfloat16")
    words = ["--preset", "base", "--steps", "2", "--batch", "8", "--threads", "1", "--json", *more]
    done = CliRunner().invoke(app, ["warm-start", str(tmp_path), "--device", "cuda", *words])
    assert done.exit_code == 0, done.output
    manifest = json.loads(done.stdout)
    assert manifest["device"].startswith("cuda:0 (")
    made = from_bytes((tmp_path / "warm_start_base.safetensors").read_bytes())
    assert all(np.isfinite(value).all() for value in made.values())
