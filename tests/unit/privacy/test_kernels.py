"""A node measures, on its own kernels, that a patient's gradient does not depend on the others."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from client import kernels
from client.kernels import Kind, check_kernels, every_term, independent, known, known_from
from shared_model import mae, privacy, warm_start
from shared_model.config import LocalTraining
from shared_model.errors import Refused
from shared_model.weights import Weights

CPU = torch.device("cpu")
TRAINING = LocalTraining(segments=1)


@pytest.fixture(autouse=True)
def _anew() -> Any:
    for kept in (known, known_from):
        kept.cache_clear()
    yield
    for kept in (known, known_from):
        kept.cache_clear()


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one with each chunk whose gradients are taken."""
    calls: list[int] = []
    real = privacy.per_patient_gradients

    def counting(*given: Any) -> Any:
        calls.append(1)
        return real(*given)

    monkeypatch.setattr(privacy, "per_patient_gradients", counting)
    return calls


def moved(weights: Weights) -> Weights:
    """A model beside this one."""
    return {name: value * np.float32(1.01) for name, value in weights.items()}


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
        ("one place", lambda rows: torch.cat([rows[:1], 1.000001 * rows[1:2], rows[2:]])),
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


def later(rows: torch.Tensor, by: int) -> torch.Tensor:
    """Each place's neighbour `by` places on, or back; zeros where there is none."""
    if by < 0:
        return later(rows.flip(0), -by).flip(0)
    return torch.cat([rows[by:], torch.zeros_like(rows[:by])])


def only(rows: torch.Tensor, parity: int) -> torch.Tensor:
    """1 at places of this parity, else 0."""
    here = torch.arange(len(rows)) % 2 == parity
    return here.to(rows.dtype).view(-1, *[1] * (rows.ndim - 1))


@pytest.mark.parametrize(
    ("others", "leak"),
    [
        *(
            (
                f"no number {by} places on, from parity {parity}",
                lambda rows, by=by, parity=parity: torch.where(
                    only(rows, parity) > 0, rows + 0 * later(rows, by), rows
                ),
            )
            for by in (-4, -3, -2, -1, 1, 2, 3, 4)
            for parity in (0, 1)
        ),
        (
            "half of the one two places before",
            lambda rows: torch.cat([rows[:3], 0.5 * rows[3:4] + 0.5 * rows[1:2], rows[4:]]),
        ),
        (
            "much larger ones alone",
            lambda rows: rows * (1 + 1e-6 * (later(rows, 2).abs() > 1e3)),
        ),
        (
            "copies alone",
            lambda rows: rows * (1 + 1e-6 * float(torch.equal(rows, rows[:1].expand_as(rows)))),
        ),
    ],
)
def test_whoever_is_told_of_at_whichever_place_is_found(
    monkeypatch: pytest.MonkeyPatch, others: str, leak: Any
) -> None:
    """A first way of sharing places out put the same patient on every second one, and was blind to
    what those told each other: half of another patient was mixed in, unseen."""
    real = privacy.per_patient_gradients
    monkeypatch.setattr(
        privacy,
        "per_patient_gradients",
        lambda *given: {name: leak(value) for name, value in real(*given).items()},
    )
    assert not independent(Kind("tiny", every_term(TRAINING), 8, CPU)), others


def test_the_received_model_is_looked_at_by_places_that_nobody_knows_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of two halves each is the patient's once; other noise each time."""
    asked: list[tuple[list[bool], float]] = []

    def same(alone: Any, here: torch.Tensor, larger: float = 1.0) -> bool:
        asked.append((here.tolist(), larger))
        return True

    weights = warm_start.load("tiny")[1]
    kind, sent = Kind("tiny", TRAINING, 16, CPU), kernels.Sent("x", weights)
    monkeypatch.setattr(kernels._Alone, "same", same)
    for _ in range(4):
        assert kernels.independent_from(kind, sent)
    assert all(sum(one) == 1 and larger == 1.0 for one, larger in asked[::3])
    for (first, larger), (second, none) in zip(asked[1::3], asked[2::3], strict=True):
        assert [not one for one in first] == second
        assert sum(first) == 8
        assert larger == 1e6
        assert none != none
    assert len({tuple(first) for first, _ in asked[1::3]}) > 1


def test_it_is_measured_once_for_each_kind_of_round_and_device(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What a coordinator names and no kernel depends on does not make it begin anew."""
    calls = counted(monkeypatch)
    check_kernels("tiny", TRAINING, 2)
    once = len(calls)
    check_kernels("tiny", TRAINING, 2, (CPU, CPU))
    other = replace(TRAINING, learning_rate=0.5, alignment_weight=0.0, contrast_weight=7.0)
    check_kernels("tiny", other, 2)
    assert len(calls) == once > 0
    check_kernels("tiny", TRAINING, 3)  # another bit of a place's number
    assert len(calls) > 2 * once
    before = len(calls)
    for change in ({"segments": 2}, {"patch_masks": 2}, {"trainable": "norms"}):
        check_kernels("tiny", replace(TRAINING, **change), 2)  # type: ignore[arg-type]
    assert len(calls) == before + 3 * once


def test_how_many_threads_and_how_exact_products_make_another_kind_of_round() -> None:
    """As torch has them when it is asked, not when the module was loaded."""
    threads, products = torch.get_num_threads(), torch.get_float32_matmul_precision()
    before = Kind("tiny", TRAINING, 2, CPU)
    assert before == Kind("tiny", TRAINING, 2, CPU)
    try:
        torch.set_num_threads(threads + 1)
        assert Kind("tiny", TRAINING, 2, CPU) != before
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision("medium")
        assert Kind("tiny", TRAINING, 2, CPU) != before
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(products)


def test_each_received_model_is_looked_at_and_each_only_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A coordinator chooses its numbers anew in each round, and what the loss counts."""
    calls = counted(monkeypatch)
    weights = warm_start.load("tiny")[1]
    check_kernels("tiny", TRAINING, 2, weights=weights)
    seen = [len(calls)]
    for each in (dict(weights), moved(weights), moved(weights)):
        check_kernels("tiny", TRAINING, 2, weights=each)
        seen.append(len(calls))
    check_kernels("tiny", replace(TRAINING, alignment_weight=0.0), 2, weights=weights)
    seen.append(len(calls))
    first, again, other, other_again, loss = seen
    assert first == again < other == other_again < loss


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


@pytest.mark.parametrize("number", [0.0, float("inf"), float("nan")])
def test_a_trained_tensor_without_a_gradient_is_refused(
    monkeypatch: pytest.MonkeyPatch, number: float
) -> None:
    """Zeros are alike at every place: nothing would have been looked at."""
    real = privacy.per_patient_gradients

    def dead(*given: Any) -> Any:
        found = real(*given)
        found["model.fingerprint_norm.bias"].fill_(number)
        return found

    check_kernels("tiny", TRAINING, 2)
    known.cache_clear()
    monkeypatch.setattr(privacy, "per_patient_gradients", dead)
    with pytest.raises(Refused, match="could not be looked at") as caught:
        check_kernels("tiny", TRAINING, 2)
    assert caught.value.reason == "not-ready"


def test_a_new_model_is_trained_and_would_not_do_for_the_measurement(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its decoders end in zeros: no gradient of reconstruction gets below them."""
    check_kernels("tiny", TRAINING, 2, weights=mae.weights_of(mae.build(mae.PRESETS["tiny"], 3)))
    known.cache_clear()
    monkeypatch.setattr(kernels, "_APART", 0.0)
    with pytest.raises(Refused, match="could not be looked at"):
        check_kernels("tiny", TRAINING, 2)


def test_a_number_that_is_computed_another_way_is_found_in_the_model_that_has_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As denormal numbers may be, by threads that disagree about them: a coordinator sends them."""
    real = privacy.per_patient_gradients

    def leaking(loss: Any, held: Any, batch: Any) -> Any:
        found = real(loss, held, batch)
        if any(
            bool((value.abs() < 1e-38).logical_and(value != 0.0).any()) for value in held.values()
        ):
            found = {name: value + 1e-6 * place(value) for name, value in found.items()}
        return found

    def place(rows: torch.Tensor) -> torch.Tensor:
        return torch.arange(len(rows)).view(-1, *[1] * (rows.ndim - 1))

    monkeypatch.setattr(privacy, "per_patient_gradients", leaking)
    weights = warm_start.load("tiny")[1]
    check_kernels("tiny", TRAINING, 2, weights=weights)
    weights["fingerprint_norm.bias"] = weights["fingerprint_norm.bias"].copy()
    weights["fingerprint_norm.bias"][5] = 1e-40
    with pytest.raises(Refused, match="changes with the other patients"):
        check_kernels("tiny", TRAINING, 2, weights=weights)


def test_threads_that_disagree_about_denormal_numbers_are_found() -> None:
    """Which only a model of the coordinator's choice shows: gradients of reconstruction reach the
    bottleneck as denormal numbers, and one thread flushes them to zero."""
    weights = warm_start.load("tiny")[1]
    for name in ("decoders.0.memory.weight", "decoders.1.memory.weight"):
        weights[name] = weights[name] * np.float32(1e-36)
    asked = LocalTraining(alignment_weight=0.0, trainable="bottleneck")
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        torch.ones(1 << 20).exp()  # the second thread is there, and keeps what it began with
        check_kernels("tiny", asked, 8, weights=weights)
        known_from.cache_clear()
        if not torch.set_flush_denormal(True):  # of this thread alone
            pytest.skip("this processor does not flush denormal numbers")
        with pytest.raises(Refused, match="changes with the other patients"):
            check_kernels("tiny", asked, 8, weights=weights)
    finally:
        torch.set_flush_denormal(False)
        torch.set_num_threads(threads)


def test_weights_whose_gradients_are_no_numbers_are_alike_at_every_place() -> None:
    """Such a patient contributes zero; that is not for this check to refuse."""
    weights = {
        name: np.full_like(value, 3e38) for name, value in warm_start.load("tiny")[1].items()
    }
    check_kernels("tiny", TRAINING, 2, weights=weights)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_the_first_gpu_keeps_the_bits_of_a_patient() -> None:
    check_kernels("tiny", TRAINING, 16, (torch.device("cuda", 0),))
