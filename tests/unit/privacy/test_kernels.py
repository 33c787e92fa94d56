"""A node measures, on its own kernels, that a patient's gradient does not depend on the others."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from client import kernels
from client.kernels import check_kernels, known
from shared_model import privacy
from shared_model.config import LocalTraining
from shared_model.errors import Refused

CPU = torch.device("cpu")
TRAINING = LocalTraining(segments=1)


@pytest.fixture(autouse=True)
def _anew() -> Any:
    known.cache_clear()
    yield
    known.cache_clear()


@pytest.mark.parametrize("which", ["head", "adapters"])
@pytest.mark.parametrize("chunk", [1, 2, 16])
def test_this_machine_keeps_the_bits_of_a_patient(which: Any, chunk: int) -> None:
    """What the guarantee rests on, for chunks of every size that a round may have."""
    check_kernels("tiny", LocalTraining(segments=1, trainable=which), chunk)


@pytest.mark.parametrize(
    ("others", "leak"),
    [
        ("sum", lambda rows: rows + 1e-6 * rows.sum(0, keepdim=True)),
        ("largest", lambda rows: rows + 1e-30 * rows.abs().max().nan_to_num(0.0)),
        (
            "place",
            lambda rows: (
                rows * (1 + 1e-6 * torch.arange(len(rows)).view(-1, *[1] * (rows.ndim - 1)))
            ),
        ),
    ],
)
def test_gradients_that_know_of_the_others_are_refused(
    monkeypatch: pytest.MonkeyPatch, others: str, leak: Any
) -> None:
    """By their sum, by the largest of them, or by the place in the chunk: one bit is enough."""
    real = privacy.per_patient_gradients

    def leaking(*given: Any) -> Any:
        return {name: leak(value) for name, value in real(*given).items()}

    monkeypatch.setattr(privacy, "per_patient_gradients", leaking)
    with pytest.raises(Refused, match="changes with the other patients") as caught:
        check_kernels("tiny", TRAINING, 4)
    assert caught.value.reason == "not-ready"


def test_it_is_measured_once_for_each_kind_of_round_and_device(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[int] = []
    real = privacy.per_patient_gradients

    def counting(*given: Any) -> Any:
        calls.append(1)
        return real(*given)

    monkeypatch.setattr(privacy, "per_patient_gradients", counting)
    check_kernels("tiny", TRAINING, 2)
    once = len(calls)
    check_kernels("tiny", TRAINING, 2, (CPU, CPU))
    assert len(calls) == once > 0
    check_kernels("tiny", TRAINING, 3)
    assert len(calls) == 2 * once


def test_a_card_that_cannot_compute_is_refused_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A full or broken GPU: asked anew before each round, never remembered as good."""

    def full(*_: Any) -> bool:
        raise torch.OutOfMemoryError("what it says stays with it")

    monkeypatch.setattr(kernels, "independent", full)
    for _ in range(2):
        with pytest.raises(Refused, match="cuda:1 cannot compute: OutOfMemoryError") as caught:
            check_kernels("tiny", TRAINING, 2, (torch.device("cuda", 1),))
        assert caught.value.reason == "not-ready"
        assert "stays" not in caught.value.message


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_the_first_gpu_keeps_the_bits_of_a_patient() -> None:
    check_kernels("tiny", TRAINING, 16, (torch.device("cuda", 0),))
